//! Recent history in memory: what the fleet measured, each record exactly once, within a window and a number of bytes.
//!
//! Clones share one history. Reading it takes handles out under a short lock; records are made of them afterwards, one
//! by one, so that a large answer costs little memory. What an agent's clock says orders answers and judges nothing.

mod buckets;
mod point;
mod store;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::id::{AgentId, Incarnation};
use model::limit::LIVE_TAIL_RECORDS_MAX;
use model::sample::Timestamp;
use proto::record::DataRecord;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::archive::Block;
use crate::counters::Counters;
pub(crate) use point::Point;
pub use point::Stored;
use store::Store;
pub(crate) use store::Taken;

/// See the module.
#[derive(Clone, Debug)]
pub struct History {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    tail: broadcast::Sender<Stored>,
    /// True once the past is read: it is not news to readers of the tail.
    live: watch::Sender<bool>,
    closed: CancellationToken,
    counters: Counters,
}

/// Which records of the past are wanted.
#[derive(Clone, Debug)]
pub struct Query {
    /// All when `None`.
    pub agents: Option<BTreeSet<AgentId>>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// One record per agent, run and step, instead of each.
    pub step: Option<Duration>,
    pub series: SeriesFilter,
    /// The newest so many.
    pub limit: usize,
}

/// Chooses series by the beginning of their names, up to a dot. Empty, it passes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesFilter {
    names: Vec<String>,
}

/// The records that answer a [`Query`], oldest first.
#[derive(Debug)]
pub struct Answer {
    stored: Vec<Stored>,
    next: usize,
    step: Option<Duration>,
    series: SeriesFilter,
    left_out: usize,
}

/// Records as they come.
#[derive(Debug)]
pub struct Live {
    records: broadcast::Receiver<Stored>,
    closed: CancellationToken,
    counters: Counters,
}

/// What the live tail yields.
#[derive(Clone, Debug)]
pub enum Tail {
    Record(Stored),
    /// The reader was too slow for this many.
    Lost(u64),
}

impl History {
    pub(crate) fn new(settings: &Settings, counters: Counters) -> Self {
        let shared = Shared {
            store: Mutex::new(Store::new(settings.window, settings.history_bytes_max)),
            tail: broadcast::Sender::new(LIVE_TAIL_RECORDS_MAX),
            live: watch::Sender::new(false),
            closed: CancellationToken::new(),
            counters,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The records that `query` wants.
    pub fn query(&self, query: Query) -> Answer {
        let from = query.since.unwrap_or(Timestamp::from_unix_ms(i64::MIN));
        let until = query.until.unwrap_or(Timestamp::from_unix_ms(i64::MAX));
        let stored = {
            let store = self.store();
            let agents = wanted(&store, query.agents.as_ref());
            agents.iter().flat_map(|agent| store.select(agent, from, until)).collect()
        };
        Answer::new(stored, query.step, query.series, query.limit)
    }

    /// The newest measurement of each agent, by agent.
    pub fn latest(&self, agents: Option<&BTreeSet<AgentId>>) -> Vec<Stored> {
        let store = self.store();
        wanted(&store, agents).iter().filter_map(|agent| store.latest(agent)).collect()
    }

    /// Completes when all that was on the bus at the start has been read.
    ///
    /// Cancel safe: yes.
    pub async fn caught_up(&self) {
        // The sender lives as long as this history.
        drop(self.shared.live.subscribe().wait_for(|live| *live).await);
    }

    /// What is measured from now on.
    pub fn live(&self) -> Live {
        Live {
            records: self.shared.tail.subscribe(),
            closed: self.shared.closed.clone(),
            counters: self.shared.counters.clone(),
        }
    }

    pub(crate) fn take(&self, record: DataRecord, received: Timestamp) -> Taken {
        let counters = &self.shared.counters;
        let mut store = self.store();
        let taken = store.take(record, received);
        counters.evicted.inc_by(count(store.shrink()));
        self.show_size(&store);
        drop(store);
        match &taken {
            Taken::New(stored) => {
                counters.stored.inc();
                if *self.shared.live.borrow() {
                    // Without a reader there is nobody to tell.
                    drop(self.shared.tail.send(stored.clone()));
                }
            }
            Taken::Repeated(_) => counters.repeated.inc(),
            Taken::Late(_) => counters.late.inc(),
        }
        taken
    }

    /// Takes a block of the archive in, as far as the bus got its records since `since`. Returns how many came.
    pub(crate) fn restore(
        &self,
        agent: &AgentId,
        incarnation: &Incarnation,
        block: Block,
        since: Timestamp,
    ) -> usize {
        let mut store = self.store();
        let restored = store.restore(agent, incarnation, block, since);
        self.shared.counters.evicted.inc_by(count(store.shrink()));
        self.show_size(&store);
        restored
    }

    pub(crate) fn expire(&self, now: Timestamp) {
        let mut store = self.store();
        self.shared.counters.expired.inc_by(count(store.expire(now)));
        self.show_size(&store);
    }

    /// From here on, what comes is news.
    pub(crate) fn go_live(&self) {
        self.shared.live.send_replace(true);
    }

    /// Ends the live tails.
    pub(crate) fn close(&self) {
        self.shared.closed.cancel();
    }

    fn show_size(&self, store: &Store) {
        self.shared.counters.records.set(i64::try_from(store.records()).unwrap_or(i64::MAX));
        self.shared.counters.bytes.set(i64::try_from(store.bytes()).unwrap_or(i64::MAX));
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic while it was held breaks the scope; what is in it is still readable.
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeriesFilter {
    pub fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    /// `system.cpu` passes `system.cpu` and `system.cpu.time`, and not `system.cpus`.
    pub fn passes(&self, name: &str) -> bool {
        let chosen = |wanted: &String| {
            name.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.names.is_empty() || self.names.iter().any(chosen)
    }
}

impl Answer {
    fn new(mut stored: Vec<Stored>, step: Option<Duration>, series: SeriesFilter, limit: usize) -> Self {
        if step.is_some() {
            stored.retain(|stored| stored.point.has_values());
        }
        stored.sort_by(|a, b| place(a, step).cmp(&place(b, step)));
        let (cut, left_out) = newest(&stored, step, limit);
        stored.drain(..cut);
        Self { stored, next: 0, step, series, left_out }
    }

    /// Older records that the limit left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

impl Iterator for Answer {
    type Item = DataRecord;

    fn next(&mut self) -> Option<DataRecord> {
        let first = self.stored.get(self.next)?;
        let Some(step) = self.step else {
            self.next += 1;
            return Some(first.record(&self.series));
        };
        let rest = &self.stored[self.next..];
        let run = &rest[..rest.iter().take_while(|other| same_bucket(first, other, step)).count()];
        let record = buckets::combine(run, buckets::begin(first.at(), step), &self.series);
        self.next += run.len();
        record
    }
}

impl Live {
    /// The next record, or how many were missed; `None` when analysis has ended.
    ///
    /// Cancel safe: yes.
    pub async fn next(&mut self) -> Option<Tail> {
        let next = tokio::select! {
            () = self.closed.cancelled() => return None,
            next = self.records.recv() => next,
        };
        match next {
            Ok(stored) => Some(Tail::Record(stored)),
            Err(RecvError::Lagged(missed)) => {
                self.counters.tail_lost.inc_by(missed);
                Some(Tail::Lost(missed))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

fn wanted(store: &Store, agents: Option<&BTreeSet<AgentId>>) -> Vec<AgentId> {
    match agents {
        Some(agents) => agents.iter().cloned().collect(),
        None => store.agents().cloned().collect(),
    }
}

/// Where a record stands in an answer.
fn place(stored: &Stored, step: Option<Duration>) -> impl Ord {
    let point = &stored.point;
    let at = step.map_or(point.at, |step| buckets::begin(point.at, step));
    (at, Arc::clone(&stored.agent), Arc::clone(&point.incarnation), point.sequence)
}

fn same_bucket(a: &Stored, b: &Stored, step: Duration) -> bool {
    buckets::begin(a.at(), step) == buckets::begin(b.at(), step)
        && a.agent == b.agent
        && a.point.incarnation == b.point.incarnation
}

/// Where the newest `limit` records of the answer begin, and how many come before them.
fn newest(stored: &[Stored], step: Option<Duration>, limit: usize) -> (usize, usize) {
    let Some(step) = step else {
        let cut = stored.len().saturating_sub(limit);
        return (cut, cut);
    };
    let begins = |index: &usize| *index == 0 || !same_bucket(&stored[index - 1], &stored[*index], step);
    let begins: Vec<usize> = (0..stored.len()).filter(begins).collect();
    let left_out = begins.len().saturating_sub(limit);
    let cut = begins.get(left_out).copied().unwrap_or(stored.len());
    (cut, left_out)
}

fn count(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
