//! One newtype per kind of identity, checked once, where it enters.
//!
//! Ids reach registry keys, file names, log lines, HTTP paths and terminals, so the alphabet is small: ASCII letters
//! and digits, and `. _ : @ -` after the first character. A slash, a blank or a control character never gets in.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limit::ID_BYTES_MAX;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("{kind} is empty: give 1 to {ID_BYTES_MAX} characters")]
    Empty { kind: &'static str },
    /// Longer than [`ID_BYTES_MAX`]; the text itself is not repeated, it may be huge.
    #[error("{kind} has {bytes} bytes: at most {ID_BYTES_MAX} are allowed")]
    TooLong { kind: &'static str, bytes: usize },
    /// A character outside the alphabet.
    #[error(
        "{kind} has the character {found:?} at position {position}: use letters, digits and . _ : @ -, beginning with \
         a letter or digit"
    )]
    Character { kind: &'static str, found: char, position: usize },
}

fn check(kind: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong { kind, bytes: text.len() });
    }
    let stranger = text.chars().enumerate().find(|(position, c)| {
        let inside = matches!(c, '.' | '_' | ':' | '@' | '-') && *position > 0;
        !(c.is_ascii_alphanumeric() || inside)
    });
    match stranger {
        Some((position, found)) => Err(IdError::Character { kind, found, position }),
        None => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`; see the module's rules.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check($kind, &text)?;
                Ok(Self(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// Names one agent, chosen by its operator; by default the host's name.
    AgentId,
    "agent id"
);
id!(
    /// Names one server of the fleet.
    ServerId,
    "server id"
);
id!(
    /// Names one group of agents that share config.
    GroupName,
    "group name"
);
id!(
    /// One run of one agent: new after every restart. A ULID where we make it.
    Incarnation,
    "incarnation"
);
id!(
    /// One order of an operator; the same id on every agent it targets.
    CommandId,
    "command id"
);

/// The number of one collection tick, given before the plugins run; from 1, +1 each, per incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A revision of the registry: rises by one with every committed transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_an_agent_id() {
        assert_eq!(AgentId::new("db-01.rack_2:eu@x").map(String::from), Ok("db-01.rack_2:eu@x".to_owned()));
    }

    #[test]
    fn what_could_break_a_key_a_line_or_a_terminal_is_refused() {
        for text in ["", "a\nb", "a/b", "a b", "\u{1b}[31m", "-x", ".", "ä", &"x".repeat(10_000)] {
            assert!(AgentId::new(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_error_names_the_character_and_its_place() {
        let error = AgentId::new("web\n1").unwrap_err();
        assert!(error.to_string().contains(r"'\n' at position 3"), "{error}");
    }
}
