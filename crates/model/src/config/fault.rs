//! Why a config is refused: every fault with its stage, its path and what to write instead.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

use crate::limit::CONFIG_FAULTS_MAX;
use crate::sample::Timestamp;
use crate::truth::{Failure, Mark, Stage};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub stage: Stage,
    /// `plugins[1].config.tolerance`; empty when the whole text is at fault.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// A config that is refused as a whole. Never empty; at most [`CONFIG_FAULTS_MAX`] faults, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError {
    faults: Vec<Fault>,
}

impl ConfigError {
    pub fn new(stage: Stage, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { faults: vec![Fault { stage, path: path.into(), message: message.into() }] }
    }

    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub fn stage(&self) -> Stage {
        self.faults[0].stage
    }

    /// Where the first fault is.
    pub fn path(&self) -> &str {
        &self.faults[0].path
    }

    /// What the first fault is, and where the others are.
    pub fn message(&self) -> String {
        let first = &self.faults[0].message;
        match &self.faults[1..] {
            [] => first.clone(),
            others => {
                let paths: Vec<&str> = others.iter().map(|fault| fault.path.as_str()).collect();
                format!("{first} (also at fault: {})", paths.join(", "))
            }
        }
    }

    /// As the five-field truth keeps it.
    pub fn failure(&self, mark: Mark, at: Timestamp) -> Failure {
        Failure { mark, stage: self.stage(), path: self.path().to_owned(), message: self.message(), at }
    }

    /// Says in every message whose text is at fault, e.g. `group "db"`.
    #[must_use]
    pub fn within(mut self, origin: &impl fmt::Display) -> Self {
        for fault in &mut self.faults {
            fault.message = format!("in {origin}: {}", fault.message);
        }
        self
    }
}

/// Collects faults while a config is read, so that one look shows them all.
#[derive(Debug, Default)]
pub(super) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    pub(super) fn add(&self, stage: Stage, path: &Path<'_>, message: impl Into<String>) {
        let mut faults = self.0.borrow_mut();
        if faults.len() < CONFIG_FAULTS_MAX {
            faults.push(Fault { stage, path: path.to_string(), message: message.into() });
        }
    }

    pub(super) fn invalid(&self, path: &Path<'_>, message: impl Into<String>) {
        self.add(Stage::Validate, path, message);
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, ConfigError> {
        match self.0.into_inner() {
            faults if faults.is_empty() => Ok(value),
            faults => Err(ConfigError { faults }),
        }
    }
}

/// Where one value stands in a config, as a chain up to the root.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::Root => 0,
            Self::Key(parent, _) | Self::Index(parent, _) => 1 + parent.depth(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => {
                let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                match (plain && !key.is_empty(), matches!(parent, Path::Root)) {
                    (true, true) => f.write_str(key),
                    (true, false) => write!(f, "{parent}.{key}"),
                    (false, _) => write!(f, "{parent}[{}]", quoted(key)),
                }
            }
        }
    }
}

/// A foreign text, safe to print: quoted, control characters escaped, cut to a length that fits a message.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(CHARS_MAX).collect();
    let cut = if chars.next().is_some() { "..." } else { "" };
    format!("{head:?}{cut}")
}

/// `unknown plugin "dedup": did you mean "deduplication"? known: ...`, for every list of names a person may mistype.
pub fn unknown(kind: &str, given: &str, known: &[&str]) -> String {
    let hint = nearest(given, known).map(|name| format!(": did you mean {name:?}?")).unwrap_or_default();
    let separator = if hint.is_empty() { ";" } else { "" };
    format!("unknown {kind} {}{hint}{separator} known: {}", quoted(given), known.join(", "))
}

/// The known name someone who wrote `given` most likely meant: one that begins like it, or is few letters away.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    const LETTERS_MAX: usize = 64;
    if given.len() < 2 || given.len() > LETTERS_MAX {
        return None;
    }
    let given = given.to_ascii_lowercase().replace([' ', '-'], "_");
    let begins = |name: &&&str| given.len() >= 3 && (name.starts_with(&given) || given.starts_with(**name));
    let close = || {
        let away = |name: &str| distance(&given, name);
        known.iter().min_by_key(|name| away(name)).filter(|name| away(name) <= 1 + given.len() / 4)
    };
    known.iter().find(begins).or_else(close).copied()
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_a_person_would_write_it() {
        let plugins = Path::Key(&Path::Root, "plugins");
        let second = Path::Index(&plugins, 1);
        let config = Path::Key(&second, "config");
        assert_eq!(Path::Key(&config, "tolerance").to_string(), "plugins[1].config.tolerance");
        assert_eq!(Path::Key(&config, "a.b\u{1b}").to_string(), r#"plugins[1].config["a.b\u{1b}"]"#);
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let known = ["deduplication", "threshold_alert", "aggregation", "filter"];
        for (given, name) in [
            ("dedup", Some("deduplication")),
            ("Threshold-Alert", Some("threshold_alert")),
            ("agregation", Some("aggregation")),
            ("filters", Some("filter")),
            ("kalman", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, &known), name, "{given:?}");
        }
    }

    #[test]
    fn an_error_names_every_fault_and_keeps_the_first_apart() {
        let faults = Faults::default();
        faults.invalid(&Path::Key(&Path::Root, "interval"), "too small");
        faults.invalid(&Path::Key(&Path::Root, "colour"), "unknown");
        let error = faults.into_result(()).unwrap_err().within(&"group \"db\"");
        assert_eq!(
            error.to_string(),
            r#"interval: in group "db": too small; colour: in group "db": unknown"#
        );
        assert_eq!(error.path(), "interval");
        assert_eq!(error.message(), r#"in group "db": too small (also at fault: colour)"#);
    }
}
