//! Config in the registry: read it, write it with its author in one transaction, find its former versions.

use backends::registry::{Compare, Operation, Txn};
use model::id::Revision;
use proto::api::{ConfigWritten, StoredConfig};
use proto::key::{self, AuthorEntry, HistoryEntry, Target};

use super::{named, none};
use crate::Desk;
use crate::problem::Refusal;

/// Who wrote a config through the API without giving a name.
const NAMELESS: &str = "api";

/// A config to write, or with no text to remove.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) target: &'a Target,
    pub(super) text: Option<&'a str>,
    /// Only over this revision; 0 stands for "there is none".
    pub(super) expect: Option<Revision>,
    pub(super) by: Option<String>,
}

impl Change<'_> {
    /// Writes config and author in one transaction, or neither.
    pub(super) async fn commit(self, desk: &Desk) -> Result<ConfigWritten, Refusal> {
        let key = self.target.key();
        let compare = match (self.expect, self.text) {
            (Some(Revision(0)), _) => Some(Compare::Absent { key: key.clone() }),
            (Some(revision), _) => Some(Compare::Modified { key: key.clone(), revision }),
            // There must be something to remove.
            (None, None) => Some(Compare::Present { key: key.clone() }),
            (None, Some(_)) => None,
        };
        if self.text.is_none() && self.expect == Some(Revision(0)) {
            return Err(Refusal::malformed("expect_revision is 0: there is nothing to remove then"));
        }
        let by = self.by.clone().unwrap_or_else(|| NAMELESS.to_owned());
        let author = serde_json::to_vec(&AuthorEntry { by }).map_err(|e| Refusal::internal(e.to_string()))?;
        let operation = match self.text {
            Some(text) => Operation::Put { key, value: text.to_owned().into(), lease: None },
            None => Operation::Delete { key },
        };
        let author = Operation::Put { key: key::author(self.target), value: author.into(), lease: None };
        let txn = Txn { compares: compare.into_iter().collect(), operations: vec![operation, author] };
        let committed = desk.backends.registry.commit(txn).await?;
        if committed.succeeded {
            return Ok(ConfigWritten { revision: committed.revision });
        }
        Err(self.refused(current(desk, self.target).await?.map(|stored| stored.revision)))
    }

    fn refused(&self, found: Option<Revision>) -> Refusal {
        let (what, expected) = (named(self.target), self.expect.unwrap_or_default());
        match found {
            None if self.text.is_none() => none(self.target),
            None => Refusal::conflict(format!(
                "{what} has no config now, revision {expected} was expected: read it again, or expect 0"
            )),
            Some(found) if expected == Revision(0) => Refusal::conflict(format!(
                "{what} has a config already, at revision {found}: read it and expect that revision"
            )),
            Some(found) => Refusal::conflict(format!(
                "{what} is at revision {found}, revision {expected} was expected: somebody wrote meanwhile, read it again"
            )),
        }
    }
}

/// What the registry holds now.
pub(super) async fn current(desk: &Desk, target: &Target) -> Result<Option<StoredConfig>, Refusal> {
    let entry = desk.backends.registry.get(&target.key()).await?;
    Ok(entry.map(|entry| StoredConfig {
        text: String::from_utf8_lossy(&entry.value).into_owned(),
        revision: entry.modified,
    }))
}

/// The observed versions, newest first.
pub(super) async fn history(desk: &Desk, target: &Target) -> Result<Vec<HistoryEntry>, Refusal> {
    let snapshot = desk.backends.registry.list(&key::history_prefix(target)).await?;
    let mut versions = Vec::with_capacity(snapshot.entries.len());
    for entry in &snapshot.entries {
        match serde_json::from_slice::<HistoryEntry>(&entry.value) {
            Ok(version) => versions.push(version),
            Err(error) => tracing::warn!(key = entry.key, %error, "skipped a bad version of a config"),
        }
    }
    versions.sort_by_key(|version| std::cmp::Reverse(version.revision));
    Ok(versions)
}

/// The text of the version `to`, or of the newest before `now`; when there is no config now, of the newest.
pub(super) async fn version(
    desk: &Desk,
    target: &Target,
    to: Option<Revision>,
    now: Revision,
) -> Result<String, Refusal> {
    let earlier = |version: &HistoryEntry| match to {
        Some(to) => version.revision == to,
        None => version.value.is_some() && (now == Revision(0) || version.revision < now),
    };
    let what = named(target);
    match (history(desk, target).await?.into_iter().find(earlier), to) {
        (Some(HistoryEntry { value: Some(text), .. }), _) => Ok(text),
        (Some(HistoryEntry { revision, .. }), _) => Err(Refusal::not_found(format!(
            "{what} had no config at revision {revision}: remove it, or choose another from its history"
        ))),
        (None, Some(to)) => Err(Refusal::not_found(format!(
            "revision {to} of {what} is not in its history: GET the history for those that are"
        ))),
        (None, None) => Err(Refusal::not_found(format!("{what} has no earlier version in its history"))),
    }
}
