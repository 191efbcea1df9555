//! Labels that choose agents: `role=db,zone!=eu-1,tier in (gold,silver)`.
//!
//! A comma is AND. `agent_id` and `host` can be used like labels. An agent without the label satisfies `!=` and nothing
//! else, as in Kubernetes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A conjunction of requirements; with none it matches every agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    label: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Is(String),
    IsNot(String),
    OneOf(Vec<String>),
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector {term:?}: {problem}; write k=v, k!=v or k in (a,b), joined by commas")]
pub struct SelectorError {
    term: String,
    problem: &'static str,
}

impl Selector {
    /// Whether an agent with these labels is chosen.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.label);
            match &requirement.operator {
                Operator::Is(wanted) => value == Some(wanted),
                Operator::IsNot(unwanted) => value != Some(unwanted),
                Operator::OneOf(wanted) => value.is_some_and(|value| wanted.contains(value)),
            }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let requirements = terms(text).map(requirement).collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }
}

/// Splits at commas that stand outside parentheses.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0u32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn requirement(term: &str) -> Result<Requirement, SelectorError> {
    let fault = |problem| SelectorError { term: term.trim().to_owned(), problem };
    let word = |text: &str| {
        let text = text.trim();
        let plain = !text.is_empty()
            && !text.contains(['=', '!', '(', ')', ','])
            && !text.contains(char::is_whitespace);
        plain
            .then(|| text.to_owned())
            .ok_or_else(|| fault("a label or value is empty or has a character of the syntax"))
    };
    if let Some((label, value)) = term.split_once("!=") {
        return Ok(Requirement { label: word(label)?, operator: Operator::IsNot(word(value)?) });
    }
    if let Some((label, value)) = term.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return Ok(Requirement { label: word(label)?, operator: Operator::Is(word(value)?) });
    }
    let (label, set) =
        term.split_once(" in ").or_else(|| term.split_once(" in(")).ok_or_else(|| fault("no operator"))?;
    let set = set.trim().trim_start_matches('(');
    let set = set.strip_suffix(')').ok_or_else(|| fault("the set does not end with a parenthesis"))?;
    let values = set.split(',').map(word).collect::<Result<_, _>>()?;
    Ok(Requirement { label: word(label)?, operator: Operator::OneOf(values) })
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { label, operator }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::Is(value) => write!(f, "{label}={value}")?,
                Operator::IsNot(value) => write!(f, "{label}!={value}")?,
                Operator::OneOf(values) => write!(f, "{label} in ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;
    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str) -> bool {
        let labels = [("role", "db"), ("zone", "eu-1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        selector.parse::<Selector>().unwrap().matches(&labels.into())
    }

    #[test]
    fn every_requirement_must_hold() {
        for selector in
            ["", "role=db", "role == db", "role=db,zone!=us", "zone in (eu-1, eu-2),role=db", "absent!=x"]
        {
            assert!(matches(selector), "{selector} should match");
        }
        for selector in ["role=web", "role=db,zone=us", "zone in (us)", "absent=x", "role!=db"] {
            assert!(!matches(selector), "{selector} should not match");
        }
    }

    #[test]
    fn what_is_not_a_selector_is_named() {
        for selector in ["role", "=db", "role=", "role in (a", "role in ()", "a=b=c", "role=db,", "a b=c"] {
            assert!(selector.parse::<Selector>().is_err(), "{selector} was accepted");
        }
        let error = "role=db,zone".parse::<Selector>().unwrap_err();
        assert!(error.to_string().starts_with(r#"selector "zone": no operator"#), "{error}");
    }

    #[test]
    fn a_selector_prints_as_it_reads() {
        let text = "role=db,zone!=us,tier in (gold,silver)";
        assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
    }
}
