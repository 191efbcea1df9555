//! What differs between two stored texts, for people: by path where both are JSON, whole where one is not.

use std::io::Write;

use model::config::{self, Change};
use model::id::Revision;
use proto::key::HistoryEntry;
use serde_json::{Map, Value};

use crate::cli::render::{self, Cell};

/// Why two versions cannot be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VersionError {
    #[error("no version was observed yet: see `watchfloor config history`")]
    None,
    #[error("revision {0} is not among the observed versions: see `watchfloor config history`")]
    Unknown(Revision),
}

/// The older (if any) and the newer of the versions asked for.
pub(super) fn between(
    versions: &[HistoryEntry],
    from: Option<Revision>,
    to: Option<Revision>,
) -> Result<(Option<&HistoryEntry>, &HistoryEntry), VersionError> {
    let find = |revision| {
        versions.iter().find(|entry| entry.revision == revision).ok_or(VersionError::Unknown(revision))
    };
    let newer = match to {
        Some(revision) => find(revision)?,
        None => versions.iter().max_by_key(|entry| entry.revision).ok_or(VersionError::None)?,
    };
    let older = match from {
        Some(revision) => Some(find(revision)?),
        None => {
            versions.iter().filter(|entry| entry.revision < newer.revision).max_by_key(|entry| entry.revision)
        }
    };
    Ok((older, newer))
}

/// One line per difference: `~ interval  5 → 0.5`.
pub(super) fn print(old: &str, new: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(changes) = changes(old, new) else {
        for (sign, style, text) in [("-", render::RED, old), ("+", render::GREEN, new)] {
            for line in text.lines() {
                writeln!(out, "{}", Cell::styled(format!("{sign} {line}"), style))?;
            }
        }
        return Ok(());
    };
    if changes.is_empty() {
        return writeln!(out, "no difference");
    }
    for change in &changes {
        let (line, style) = describe(change);
        writeln!(out, "{}", Cell::styled(line, style))?;
    }
    Ok(())
}

/// All of it on one line, for a table.
pub(super) fn summary(old: &str, new: Option<&str>) -> String {
    let Some(new) = new else { return "removed".to_owned() };
    match changes(old, new) {
        None => "not valid JSON".to_owned(),
        Some(changes) if changes.is_empty() => "no difference".to_owned(),
        Some(changes) => changes.iter().map(|change| describe(change).0).collect::<Vec<_>>().join(", "),
    }
}

fn describe(Change { path, old, new }: &Change) -> (String, anstyle::Style) {
    let text = |value: &Option<Value>| value.as_ref().map(Value::to_string).unwrap_or_default();
    match (old, new) {
        (None, _) => (format!("+ {path} {}", text(new)), render::GREEN),
        (_, None) => (format!("- {path} {}", text(old)), render::RED),
        _ => (format!("~ {path} {} → {}", text(old), text(new)), render::YELLOW),
    }
}

/// `None` when one of them is not JSON. No text is an empty config.
fn changes(old: &str, new: &str) -> Option<Vec<Change>> {
    let read = |text: &str| match text.trim() {
        "" => Some(Value::Object(Map::new())),
        text => serde_json::from_str(text).ok(),
    };
    Some(config::diff(&read(old)?, &read(new)?))
}

#[cfg(test)]
mod tests {
    use model::sample::Timestamp;

    use super::*;

    fn version(revision: u64) -> HistoryEntry {
        let at = Timestamp::default();
        HistoryEntry { revision: Revision(revision), at, by: "me".to_owned(), value: None }
    }

    #[test]
    fn without_revisions_the_newest_is_compared_with_the_one_before_it() {
        let versions = [version(9), version(4), version(7)];
        let revisions = |from, to| {
            between(&versions, from, to).map(|(old, new)| (old.map(|old| old.revision.0), new.revision.0))
        };
        assert_eq!(revisions(None, None), Ok((Some(7), 9)));
        assert_eq!(revisions(Some(Revision(4)), Some(Revision(7))), Ok((Some(4), 7)));
        assert_eq!(revisions(None, Some(Revision(4))), Ok((None, 4)));
        assert_eq!(revisions(Some(Revision(5)), None), Err(VersionError::Unknown(Revision(5))));
        assert_eq!(between(&[], None, None), Err(VersionError::None));
    }

    #[test]
    fn a_change_reads_in_one_line() {
        let old = r#"{"interval": 5, "min_cpu": 1}"#;
        assert_eq!(
            summary(old, Some(r#"{"interval": 0.5, "window_size": 3}"#)),
            "~ interval 5 → 0.5, - min_cpu 1, + window_size 3"
        );
        assert_eq!(summary("", Some("not json")), "not valid JSON");
        assert_eq!(summary(old, None), "removed");
    }
}
