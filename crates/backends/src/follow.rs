//! Keeping up with a topic or a prefix for as long as a role runs: retries, and says when it has caught up.
//!
//! `wrap` makes what is followed the reader's own type, so that one channel can serve several followers. Both functions
//! end when the receiver of `out` is gone or the backend has closed. Trouble is told to `health`, logged
//! where it begins and ends, and does not reach the reader.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use model::id::Revision;
use runtime::{Backoff, Component};
use tokio::sync::mpsc;

use crate::bus::{Bus, BusError, Extent, Record, StartAt, Subscription};
use crate::registry::{Event, Registry, RegistryError, Watch};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CEILING: Duration = Duration::from_secs(5);

/// What following a topic yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    Record(Record),
    /// Everything that was there when following began has been delivered: all below these offsets, by partition. Comes
    /// once.
    CaughtUp(BTreeMap<u32, u64>),
}

/// How far a reader has come in one topic, to be compared with what the topic holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The next offset of each partition.
    next: BTreeMap<u32, u64>,
}

impl Reached {
    pub fn take(&mut self, followed: &Followed) {
        match followed {
            Followed::Record(record) => self.advance(record.position.partition, record.position.offset + 1),
            Followed::CaughtUp(ends) => {
                ends.iter().for_each(|(partition, end)| self.advance(*partition, *end));
            }
        }
    }

    /// Whether everything that `extents` hold has been taken in.
    pub fn covers(&self, extents: &[Extent]) -> bool {
        extents.iter().all(|extent| {
            let next = self.next.get(&extent.partition).copied().unwrap_or(0);
            extent.high == extent.low || next >= extent.high
        })
    }

    fn advance(&mut self, partition: u32, next: u64) {
        let known = self.next.entry(partition).or_default();
        *known = (*known).max(next);
    }
}

/// Delivers every record of `topic` from `start` on, in order per partition, each once. `health` is OK, and the process
/// ready, once what was there has been delivered.
pub async fn topic<T: Send>(
    bus: Arc<dyn Bus>,
    topic: &'static str,
    start: StartAt,
    health: Component,
    out: mpsc::Sender<T>,
    wrap: impl Fn(Followed) -> T + Send,
) {
    tokio::select! {
        () = out.closed() => {}
        () = follow_topic(bus, topic, start, health, &out, wrap) => {}
    }
}

async fn follow_topic<T: Send>(
    bus: Arc<dyn Bus>,
    topic: &'static str,
    start: StartAt,
    health: Component,
    out: &mpsc::Sender<T>,
    wrap: impl Fn(Followed) -> T + Send,
) {
    let mut trouble = Trouble::new(topic, health);
    let (mut subscription, mut missing, ends) = loop {
        match begin(&*bus, topic, start.clone()).await {
            Ok(begun) => break begun,
            Err(BusError::Closed) => return,
            Err(error) => trouble.wait(&error).await,
        }
    };
    if missing.is_empty() {
        trouble.over();
        if out.send(wrap(Followed::CaughtUp(ends.clone()))).await.is_err() {
            return;
        }
    }
    while let Some(next) = subscription.next().await {
        let record = match next {
            Ok(record) => record,
            Err(BusError::Closed) => return,
            Err(error) => {
                trouble.wait(&error).await;
                continue;
            }
        };
        trouble.over_again();
        let position = record.position;
        if out.send(wrap(Followed::Record(record))).await.is_err() {
            return;
        }
        let was_last = missing.get(&position.partition).is_some_and(|end| position.offset + 1 >= *end);
        if was_last {
            missing.remove(&position.partition);
            if missing.is_empty() {
                trouble.over();
                if out.send(wrap(Followed::CaughtUp(ends.clone()))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A subscription, the end of each partition that has something to catch up with, and the ends of all.
async fn begin(
    bus: &dyn Bus,
    topic: &str,
    start: StartAt,
) -> Result<(Subscription, BTreeMap<u32, u64>, BTreeMap<u32, u64>), BusError> {
    let subscription = bus.subscribe(topic, start).await?;
    let extents = bus.extents(topic).await?;
    let begins = subscription.begins();
    let missing = extents
        .iter()
        .filter(|extent| begins.get(&extent.partition).copied().unwrap_or(extent.low) < extent.high)
        .map(|extent| (extent.partition, extent.high))
        .collect();
    let ends = extents.iter().map(|extent| (extent.partition, extent.high)).collect();
    Ok((subscription, missing, ends))
}

/// Delivers everything under `prefix` as one [`Event::Resync`], then every change.
pub async fn prefix<T: Send>(
    registry: Arc<dyn Registry>,
    prefix: &'static str,
    health: Component,
    out: mpsc::Sender<T>,
    wrap: impl Fn(Event) -> T + Send + Sync,
) {
    tokio::select! {
        () = out.closed() => {}
        () = follow_prefix(registry, prefix, health, &out, wrap) => {}
    }
}

async fn follow_prefix<T: Send>(
    registry: Arc<dyn Registry>,
    prefix: &'static str,
    health: Component,
    out: &mpsc::Sender<T>,
    wrap: impl Fn(Event) -> T + Send + Sync,
) {
    let mut trouble = Trouble::new(prefix, health);
    loop {
        let begun = async {
            let snapshot = registry.list(prefix).await?;
            let watch = registry.watch(prefix, snapshot.revision).await?;
            Ok((snapshot, watch))
        };
        match begun.await {
            Ok((snapshot, watch)) => {
                trouble.over();
                if out.send(wrap(Event::Resync(snapshot))).await.is_err() {
                    return;
                }
                deliver(watch, &mut trouble, out, &wrap).await;
                // The watch ended: the registry closed, which the next look tells, or it has to be made anew.
            }
            Err(RegistryError::Closed) => return,
            Err(error) => trouble.wait(&error).await,
        }
    }
}

async fn deliver<T: Send>(
    mut watch: Watch,
    trouble: &mut Trouble,
    out: &mpsc::Sender<T>,
    wrap: &(impl Fn(Event) -> T + Sync),
) {
    while let Some(event) = watch.next().await {
        match event {
            Ok(event) => {
                trouble.over();
                if out.send(wrap(event)).await.is_err() {
                    return;
                }
            }
            Err(RegistryError::Closed) => return,
            Err(error) => trouble.wait(&error).await,
        }
    }
}

/// A fold of [`Event`]s under one prefix: the newest value of each key.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    pub entries: BTreeMap<String, crate::registry::Entry>,
    /// The revision this view has reached.
    pub revision: Revision,
}

impl Mirror {
    /// Takes one change in. Returns the keys it concerned.
    pub fn take(&mut self, event: Event) -> Vec<String> {
        match event {
            Event::Put(entry) => {
                self.revision = self.revision.max(entry.modified);
                let key = entry.key.clone();
                self.entries.insert(key.clone(), entry);
                vec![key]
            }
            Event::Delete { key, revision } => {
                self.revision = self.revision.max(revision);
                self.entries.remove(&key);
                vec![key]
            }
            Event::Resync(snapshot) => {
                let new = snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                let old = std::mem::replace(&mut self.entries, new);
                self.revision = snapshot.revision;
                let gone = old.into_keys().filter(|key| !self.entries.contains_key(key));
                gone.chain(self.entries.keys().cloned()).collect()
            }
        }
    }
}

/// One spell of trouble: told once when it begins and once when it is over.
struct Trouble {
    subject: &'static str,
    health: Component,
    backoff: Backoff,
    /// `None` before the first answer.
    on: Option<bool>,
}

impl Trouble {
    fn new(subject: &'static str, health: Component) -> Self {
        Self { subject, health, backoff: Backoff::new(RETRY_FIRST, RETRY_CEILING), on: None }
    }

    async fn wait(&mut self, error: &(impl Display + Sync)) {
        if self.on != Some(true) {
            tracing::warn!(subject = self.subject, %error, "following is interrupted");
        }
        self.on = Some(true);
        self.health.degraded(format!("{}: {error}", self.subject));
        tokio::time::sleep(self.backoff.next_delay()).await;
    }

    /// What was in trouble goes on; what has not started yet still has not.
    fn over_again(&mut self) {
        if self.on == Some(true) {
            self.over();
        }
    }

    fn over(&mut self) {
        if self.on != Some(false) {
            self.on = Some(false);
            self.backoff.reset();
            self.health.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_with_nothing_new_in_it_is_reached_once_all_was_caught_up_with() {
        let old = [Extent { partition: 0, low: 3, high: 9 }, Extent { partition: 1, low: 0, high: 0 }];
        let mut reached = Reached::default();
        assert!(!reached.covers(&old));
        reached.take(&Followed::CaughtUp([(0, 9), (1, 0)].into()));
        assert!(reached.covers(&old));
        assert!(!reached.covers(&[Extent { partition: 1, low: 0, high: 1 }]));
    }
}
