//! Config history: every observed version of an agent's or group's config, whoever wrote it and with whatever tool.
//!
//! Recorded by the leader from the registry itself, so a write that came past our API is there too. The last
//! [`CONFIG_HISTORY_MAX`] versions of each target are kept. It has a task of its own: reading every target's history, as
//! a new leader does, must not hold up presence.

use std::collections::VecDeque;
use std::convert::identity;
use std::sync::Arc;
use std::time::Duration;

use backends::follow;
use backends::registry::{Compare, Entry, Event, Operation, Registry, RegistryError, Txn};
use model::id::Revision;
use model::limit::CONFIG_HISTORY_MAX;
use model::sample::Timestamp;
use proto::key::{self, AuthorEntry, HistoryEntry, Target};
use runtime::{Backoff, Component, Scope, clock};
use tokio::sync::mpsc;

use crate::election::Leadership;

/// Who is named when a write did not come through the API.
const UNKNOWN_AUTHOR: &str = "registry";
/// Between the followers and the one who records.
const CHANGES: usize = 256;
/// Changes that a monitor that stands by remembers: should the leader have died over one, the next has it.
const REMEMBERED_MAX: usize = 256;
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Starts to follow configs and to record what changes while this monitor leads.
pub(crate) fn start(scope: &Scope, registry: &Arc<dyn Registry>, leadership: Leadership, health: &Component) {
    let (out, changes) = mpsc::channel(CHANGES);
    for prefix in [key::CONFIG, key::GROUPS] {
        let follow =
            follow::prefix(Arc::clone(registry), prefix, health.clone(), out.clone(), identity::<Event>);
        let stopping = scope.stopping();
        scope.spawn("follow-config", async move { stopping.run_until_cancelled(follow).await.unwrap_or(()) });
    }
    let recorder =
        Recorder { registry: Arc::clone(registry), leadership, pending: VecDeque::new(), leads: false };
    let stopping = scope.stopping();
    scope.spawn("history", async move {
        stopping.run_until_cancelled(recorder.run(changes)).await.unwrap_or(());
    });
}

#[derive(Debug)]
struct Recorder {
    registry: Arc<dyn Registry>,
    leadership: Leadership,
    /// To be recorded, or, while another leads, what it may have had no time for.
    pending: VecDeque<Event>,
    leads: bool,
}

impl Recorder {
    async fn run(mut self, mut changes: mpsc::Receiver<Event>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut troubled = false;
        loop {
            let recorded = self.record().await;
            let wait = match &recorded {
                Ok(()) => {
                    troubled = false;
                    backoff.reset();
                    None
                }
                Err(error) => {
                    if !std::mem::replace(&mut troubled, true) {
                        tracing::warn!(%error, "config history waits to be written");
                    }
                    Some(backoff.next_delay())
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = self.leadership.changed() => {}
                change = changes.recv(), if self.has_room() => match change {
                    Some(change) => self.pending.push_back(change),
                    None => return,
                },
            }
        }
    }

    /// A leader that cannot write reads on later; one that stands by forgets the oldest.
    fn has_room(&self) -> bool {
        !self.leads || self.pending.len() < REMEMBERED_MAX
    }

    async fn record(&mut self) -> Result<(), RegistryError> {
        let leads = self.leadership.term().is_some();
        if leads && !self.leads {
            // Versions that nobody recorded while nobody led.
            for prefix in [key::CONFIG, key::GROUPS] {
                self.pending.push_back(Event::Resync(self.registry.list(prefix).await?));
            }
        }
        self.leads = leads;
        if !leads {
            let surplus = self.pending.len().saturating_sub(REMEMBERED_MAX);
            self.pending.drain(..surplus);
            return Ok(());
        }
        while let Some(next) = self.pending.front() {
            match record(&self.registry, next, clock::wall()).await {
                Err(error) if error.is_transient() => return Err(error),
                // Such as a version that is larger than a value may be.
                Err(error) => tracing::warn!(%error, "a config version is missing from the history"),
                Ok(()) => {}
            }
            self.pending.pop_front();
        }
        Ok(())
    }
}

/// Writes down what `event` shows. Safe to repeat: a version that is recorded stays as it is.
async fn record(registry: &Arc<dyn Registry>, event: &Event, wall: Timestamp) -> Result<(), RegistryError> {
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
    let forgotten = kept.len() >= CONFIG_HISTORY_MAX && kept.first().is_some_and(|oldest| key < oldest.key);
    if forgotten || kept.iter().any(|known| known.key == key) {
        return Ok(());
    }
    let surplus = (kept.len() + 1).saturating_sub(CONFIG_HISTORY_MAX);
    let value = serde_json::to_vec(&entry).unwrap_or_default().into();
    let mut operations = vec![Operation::Put { key: key.clone(), value, lease: None }];
    operations.extend(kept.into_iter().take(surplus).map(|oldest| Operation::Delete { key: oldest.key }));
    registry.commit(Txn { compares: vec![Compare::Absent { key }], operations }).await?;
    Ok(())
}
