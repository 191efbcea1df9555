//! Which config really runs: desired, received, running, last good, last failed, told apart.
//!
//! One hash cannot say "revision 7 was refused because of `plugins[1]`, revision 6 runs on". Five fields can.

use serde::{Deserialize, Serialize};

use crate::id::Revision;
use crate::sample::Timestamp;

/// One version of an agent's effective config: the registry's revision it was computed at, and a digest of what came
/// out. Two revisions with one digest are the same config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub revision: Revision,
    pub digest: String,
}

/// How far a refused revision came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Stage {
    /// It is not JSON, or not an object.
    Parse,
    /// A key, type or range is wrong.
    Validate,
    /// It is valid, and what it asks for cannot be made here.
    Build,
}

impl Stage {
    pub const ALL: [Self; 3] = [Self::Parse, Self::Validate, Self::Build];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Parse => "PARSE",
            Self::Validate => "VALIDATE",
            Self::Build => "BUILD",
        }
    }
}

/// A revision that was refused, where and why. The running config went on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    #[serde(flatten)]
    pub mark: Mark,
    pub stage: Stage,
    /// `plugins[1].config.tolerance`; empty when the whole text is at fault.
    pub path: String,
    pub message: String,
    pub at: Timestamp,
}

/// The five-field truth. `desired` is the registry's side, the rest is the agent's own word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigTruth {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failed: Option<Failure>,
}

/// The truth in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// What is desired runs.
    InSync,
    /// What is desired was refused; something older runs.
    Refused,
    /// What is desired has not arrived, or not been judged.
    Pending,
}

impl ConfigTruth {
    /// The agent received a revision. Whether it runs comes next.
    pub fn received(&mut self, mark: Mark) {
        self.received = Some(mark);
    }

    /// The revision runs, and is what to return to.
    pub fn runs(&mut self, mark: Mark) {
        self.last_good = Some(mark.clone());
        self.running = Some(mark);
    }

    /// The revision was refused; what ran before runs on.
    pub fn failed(&mut self, failure: Failure) {
        self.last_failed = Some(failure);
    }

    pub fn standing(&self) -> Standing {
        let Some(desired) = &self.desired else { return Standing::Pending };
        let same = |mark: &Mark| mark.digest == desired.digest && mark.revision >= desired.revision;
        // A later success beats an older failure, and the other way round.
        if self.last_failed.as_ref().is_some_and(|failed| {
            same(&failed.mark) && self.running.as_ref().is_none_or(|r| r.revision < failed.mark.revision)
        }) {
            return Standing::Refused;
        }
        if self.running.as_ref().is_some_and(same) { Standing::InSync } else { Standing::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(revision: u64, digest: &str) -> Mark {
        Mark { revision: Revision(revision), digest: digest.to_owned() }
    }

    fn failure(revision: u64, digest: &str) -> Failure {
        Failure {
            mark: mark(revision, digest),
            stage: Stage::Validate,
            path: "interval".to_owned(),
            message: "too small".to_owned(),
            at: Timestamp::default(),
        }
    }

    #[test]
    fn a_refused_revision_is_seen_beside_the_one_that_runs() {
        let mut truth = ConfigTruth { desired: Some(mark(7, "b")), ..ConfigTruth::default() };
        truth.received(mark(6, "a"));
        truth.runs(mark(6, "a"));
        assert_eq!(truth.standing(), Standing::Pending);
        truth.received(mark(7, "b"));
        truth.failed(failure(7, "b"));
        assert_eq!(truth.standing(), Standing::Refused);
        assert_eq!(truth.running, Some(mark(6, "a")));
    }

    #[test]
    fn a_good_revision_after_a_bad_one_is_in_sync_and_the_failure_stays_readable() {
        let mut truth = ConfigTruth { desired: Some(mark(8, "c")), ..ConfigTruth::default() };
        truth.failed(failure(7, "b"));
        truth.runs(mark(8, "c"));
        assert_eq!(truth.standing(), Standing::InSync);
        assert!(truth.last_failed.is_some());
    }

    #[test]
    fn a_newer_revision_with_the_same_content_still_has_to_be_received() {
        let mut truth = ConfigTruth { desired: Some(mark(9, "c")), ..ConfigTruth::default() };
        truth.runs(mark(8, "c"));
        assert_eq!(truth.standing(), Standing::Pending);
    }
}
