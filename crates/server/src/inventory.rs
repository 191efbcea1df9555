//! Presence and facts of this server's agents, written to the registry: one write per agent at a time, the latest wins.
//!
//! Every write is fenced: it compares the heartbeat key with what this run of this server wrote there. Whoever lost an
//! agent to another server finds out here and writes nothing.

use std::sync::Arc;
use std::time::Duration;

use backends::registry::{Compare, Entry, LeaseId, Operation, Registry, RegistryError, Txn};
use bytes::Bytes;
use model::id::{Incarnation, ServerId};
use proto::key::{self, AgentEntry, HeartbeatEntry};
use runtime::{Backoff, Component};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::roster::{Known, Write, Written};

/// Writers side by side: commits of different agents share a sync.
pub(crate) const WRITERS: usize = 8;

/// One write, with the looks it may need. One that is broken off may still happen; the next one finds it.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CEILING: Duration = Duration::from_secs(5);

/// Writes what changes, until `stop`.
pub(crate) async fn write(
    hub: Arc<Hub>,
    registry: Arc<dyn Registry>,
    lease: watch::Receiver<Option<LeaseId>>,
    health: Component,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CEILING);
    let mut troubled = false;
    loop {
        let current = *lease.borrow();
        let Some((write, current)) = current.and_then(|lease| Some((hub.next_write()?, lease))) else {
            let mut lease = lease.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                () = hub.unwritten.notified(), if current.is_some() => continue,
                changed = lease.changed(), if current.is_none() => {
                    if changed.is_err() { return }
                    continue;
                }
            }
        };
        let attempt = tokio::time::timeout(ATTEMPT_WITHIN, attempt(&*registry, &write, current)).await;
        let attempt = attempt.unwrap_or_else(|_| {
            Err(RegistryError::Unavailable { reason: format!("no answer within {ATTEMPT_WITHIN:?}") })
        });
        match attempt {
            Ok(written) => {
                let outcome = if matches!(written, Written::Done { .. }) { "done" } else { "lost" };
                hub.measure.registry_writes.with_label_values(&[outcome]).inc();
                hub.written(&write, written);
                backoff.reset();
                if std::mem::take(&mut troubled) {
                    health.ok();
                }
            }
            Err(error) => {
                hub.measure.registry_writes.with_label_values(&["failed"]).inc();
                hub.written(&write, Written::Postponed);
                if !std::mem::replace(&mut troubled, true) {
                    tracing::warn!(%error, agent = %write.entry.agent_id, "the inventory cannot be written");
                }
                health.degraded(error.to_string());
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
    }
}

/// One write, fenced. A compare that fails leads to a fresh look, a few times.
async fn attempt(registry: &dyn Registry, write: &Write, lease: LeaseId) -> Result<Written, RegistryError> {
    const LOOKS: usize = 3;
    let heartbeat_key = key::heartbeat(&write.entry.agent_id);
    let heartbeat = json(&write.heartbeat());
    let held = write.known.heartbeat.as_ref().is_some_and(|(value, on)| *value == heartbeat && *on == lease);
    if held {
        // The everyday case: the key stands as we wrote it, nothing needs to be read.
        let fence = Compare::Value { key: heartbeat_key.clone(), value: heartbeat.clone() };
        let key = if write.hold { HeartbeatKey::Leave } else { HeartbeatKey::Delete };
        if let Some(done) = commit(registry, write, &write.entry, fence, lease, key).await? {
            return Ok(done);
        }
    }
    for _ in 0..LOOKS {
        let standing = registry.get(&heartbeat_key).await?;
        let stored = registry.get(&key::agent(&write.entry.agent_id)).await?;
        let stored = stored.and_then(|stored| serde_json::from_slice::<AgentEntry>(&stored.value).ok());
        let holder = standing.as_ref().and_then(holder);
        if !ours_to_write(write, holder.as_ref(), stored.as_ref()) {
            return Ok(Written::Usurped { by: holder.map(|holder| holder.incarnation) });
        }
        let entry = continued(&write.entry, stored.as_ref());
        let fence = match &standing {
            Some(standing) => Compare::Modified { key: heartbeat_key.clone(), revision: standing.modified },
            None => Compare::Absent { key: heartbeat_key.clone() },
        };
        // A key that another program wrote is not ours to take away.
        let key = match (write.hold, standing.is_some() && holder.is_none()) {
            (true, _) => HeartbeatKey::Put,
            (false, true) => HeartbeatKey::Leave,
            (false, false) => HeartbeatKey::Delete,
        };
        if let Some(done) = commit(registry, write, &entry, fence, lease, key).await? {
            return Ok(done);
        }
    }
    Ok(Written::Postponed)
}

/// What becomes of the heartbeat key in a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeartbeatKey {
    Put,
    Delete,
    Leave,
}

/// The server that says it has the agent. Another program's key says nothing: a session here is better evidence.
fn holder(heartbeat: &Entry) -> Option<HeartbeatEntry> {
    serde_json::from_slice(&heartbeat.value).ok()
}

/// Whether heartbeat key and entry, as they stand, leave the agent to us. An agent that came here anew may be taken over;
/// of two streams of one run the agent's own count says which is newer, whoever was faster to write.
fn ours_to_write(write: &Write, holder: Option<&HeartbeatEntry>, stored: Option<&AgentEntry>) -> bool {
    let own_run = |server: &ServerId, run: &Incarnation| {
        (server, run) == (&write.entry.server, &write.entry.server_incarnation)
    };
    match holder {
        Some(holder) if own_run(&holder.server, &holder.server_incarnation) => true,
        Some(holder) if holder.incarnation == write.entry.incarnation && write.connection > 0 => {
            write.connection > holder.connection
        }
        Some(_) => write.fresh && write.hold,
        None => write.fresh || stored.is_none_or(|entry| own_run(&entry.server, &entry.server_incarnation)),
    }
}

/// The entry with what an earlier write knows better: when the agent was first seen, when this incarnation connected.
fn continued(entry: &AgentEntry, stored: Option<&AgentEntry>) -> AgentEntry {
    let mut entry = entry.clone();
    if let Some(stored) = stored {
        entry.first_seen = entry.first_seen.min(stored.first_seen);
        if stored.incarnation == entry.incarnation {
            entry.connected_at = entry.connected_at.min(stored.connected_at);
        }
    }
    entry
}

/// Writes entry and heartbeat key together if `fence` holds; `None` if it does not.
async fn commit(
    registry: &dyn Registry,
    write: &Write,
    entry: &AgentEntry,
    fence: Compare,
    lease: LeaseId,
    key: HeartbeatKey,
) -> Result<Option<Written>, RegistryError> {
    let heartbeat_key = key::heartbeat(&entry.agent_id);
    let heartbeat = json(&Write { entry: entry.clone(), ..write.clone() }.heartbeat());
    let mut operations =
        vec![Operation::Put { key: key::agent(&entry.agent_id), value: json(entry), lease: None }];
    match key {
        HeartbeatKey::Leave => {}
        HeartbeatKey::Delete => operations.push(Operation::Delete { key: heartbeat_key }),
        HeartbeatKey::Put => {
            operations.push(Operation::Put {
                key: heartbeat_key,
                value: heartbeat.clone(),
                lease: Some(lease),
            });
        }
    }
    let committed = registry.commit(Txn { compares: vec![fence], operations }).await?;
    Ok(committed.succeeded.then(|| Written::Done {
        known: Known { heartbeat: write.hold.then_some((heartbeat, lease)) },
        first_seen: entry.first_seen,
        connected_at: entry.connected_at,
    }))
}

pub(crate) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("registry values have string keys only and write to memory").into()
}
