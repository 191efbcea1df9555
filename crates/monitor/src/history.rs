//! Config history: every observed version of an agent's or group's config, whoever wrote it and with whatever tool.
//!
//! Recorded by the leader from the registry itself, so a write that came past our API is there too. The last
//! [`CONFIG_HISTORY_MAX`] versions of each target are kept.

use std::sync::Arc;

use backends::registry::{Compare, Entry, Event, Operation, Registry, RegistryError, Txn};
use model::id::Revision;
use model::limit::CONFIG_HISTORY_MAX;
use model::sample::Timestamp;
use proto::key::{self, AuthorEntry, HistoryEntry, Target};

/// Who is named when a write did not come through the API.
const UNKNOWN_AUTHOR: &str = "registry";

/// Writes down what `event` shows. Safe to repeat: a version that is recorded stays as it is.
pub(crate) async fn record(
    registry: &Arc<dyn Registry>,
    event: &Event,
    wall: Timestamp,
) -> Result<(), RegistryError> {
    match event {
        Event::Put(entry) => version(registry, entry, wall).await,
        Event::Delete { key, revision } => {
            let Some(target) = Target::of_key(key) else { return Ok(()) };
            let by = author(registry, &target, *revision).await?;
            let entry = HistoryEntry { revision: *revision, at: wall, by, value: None };
            write(registry, &target, entry).await
        }
        Event::Resync(snapshot) => {
            for entry in &snapshot.entries {
                version(registry, entry, wall).await?;
            }
            Ok(())
        }
    }
}

async fn version(registry: &Arc<dyn Registry>, entry: &Entry, wall: Timestamp) -> Result<(), RegistryError> {
    let Some(target) = Target::of_key(&entry.key) else { return Ok(()) };
    let by = author(registry, &target, entry.modified).await?;
    let value = Some(String::from_utf8_lossy(&entry.value).into_owned());
    write(registry, &target, HistoryEntry { revision: entry.modified, at: wall, by, value }).await
}

/// The API's note beside the config, if it was written in the same transaction.
async fn author(
    registry: &Arc<dyn Registry>,
    target: &Target,
    revision: Revision,
) -> Result<String, RegistryError> {
    let note = registry.get(&key::author(target)).await?.filter(|note| note.modified == revision);
    let author = note.and_then(|note| serde_json::from_slice::<AuthorEntry>(&note.value).ok());
    Ok(author.map_or_else(|| UNKNOWN_AUTHOR.to_owned(), |author| author.by))
}

async fn write(
    registry: &Arc<dyn Registry>,
    target: &Target,
    entry: HistoryEntry,
) -> Result<(), RegistryError> {
    let key = key::history(target, entry.revision);
    let kept = registry.list(&key::history_prefix(target)).await?.entries;
    if kept.iter().any(|known| known.key == key) {
        return Ok(());
    }
    let surplus = (kept.len() + 1).saturating_sub(CONFIG_HISTORY_MAX);
    let value = serde_json::to_vec(&entry).unwrap_or_default().into();
    let mut operations = vec![Operation::Put { key: key.clone(), value, lease: None }];
    operations.extend(kept.into_iter().take(surplus).map(|oldest| Operation::Delete { key: oldest.key }));
    registry.commit(Txn { compares: vec![Compare::Absent { key }], operations }).await?;
    Ok(())
}
