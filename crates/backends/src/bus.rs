//! The bus: topics of partitioned, append-only, durable records.
//!
//! # Laws, checked for every implementation by the contract suite
//!
//! 1. `publish` returns `Ok` only when every record of the call is durable: it survives `kill -9` and loss of power
//!    (embedded: after fsync; Kafka: after the delivery report with acks=all). On `Err` each record may or may not be
//!    there; none of them was promised.
//! 2. Records with the same key land in one partition, in the order in which they were published.
//! 3. Offsets of one partition only grow. A reader sees them in order, each durable record once, none invented.
//! 4. `subscribe` reads every partition: from the earliest kept record, from the first one at or after a time, from
//!    given offsets, or only what is published after the call returned. An offset that retention has passed continues
//!    at the earliest kept record, and so does one past the end: it is another log's.
//! 5. Members of one group share the partitions: each record goes to one member. A new member of a group with commits
//!    continues at the committed offsets; what was delivered but not committed is delivered again.
//! 6. A slow reader holds back nobody: not publishers, not other readers.
//! 7. Retention removes the oldest records first, whole, and never one younger than both limits of its topic allow. In a
//!    compacted topic the newest record of each key stays.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
mod headers;
#[cfg(feature = "kafka")]
pub mod kafka;
mod partitioner;
pub mod renamed;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::sample::Timestamp;
use tokio::sync::mpsc;

pub use self::headers::Headers;

/// Name, width and retention of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: u32,
    pub retention: Retention,
}

/// How long records stay. Both limits hold; whichever is reached first removes the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub age: Duration,
    /// Bytes of keys, values and headers, over all partitions of the topic.
    pub bytes: u64,
    /// Keep the newest record of each key whatever its age, and only that one once it is older than a minute.
    pub compacted: bool,
}

/// A record to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub key: String,
    pub value: Bytes,
    pub headers: Headers,
}

/// Where a record lies in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub partition: u32,
    pub offset: u64,
}

/// A record as read. Its time is the bus's, given when it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub position: Position,
    pub at: Timestamp,
    pub key: String,
    pub value: Bytes,
    pub headers: Headers,
}

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAt {
    Earliest,
    /// Only what is published after `subscribe` returned.
    Latest,
    /// The first record of each partition whose time is at or after this.
    Time(Timestamp),
    /// The next offset to read, per partition; a partition that is not named begins at its earliest.
    Offsets(BTreeMap<u32, u64>),
}

/// The offsets one partition holds: `low..high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub partition: u32,
    pub low: u64,
    pub high: u64,
}

/// See the module for the laws.
#[async_trait]
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Creates what is missing; an existing topic that differs in partitions is an error naming both numbers.
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), BusError>;

    /// Cancel safe: a cancelled call may still publish.
    async fn publish(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, BusError>;

    /// Every partition, for this reader alone.
    async fn subscribe(&self, topic: &str, from: StartAt) -> Result<Subscription, BusError>;

    /// A share of the partitions, as one member of `group`; begins at the group's commits, else at the earliest.
    async fn join(&self, topic: &str, group: &str) -> Result<Subscription, BusError>;

    /// What each partition holds now.
    async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError>;
}

/// Records that were there together, in order. Handed over one by one, reader and bus would wake each other for each.
pub type Burst = Vec<Record>;

/// A stream of records; dropping it ends the subscription (and leaves the group).
#[derive(Debug)]
pub struct Subscription {
    bursts: mpsc::Receiver<Result<Burst, BusError>>,
    /// What is left of the last one.
    here: std::vec::IntoIter<Record>,
    commits: Option<Arc<dyn Commit>>,
    begins: BTreeMap<u32, u64>,
}

/// Remembers how far a group has come. Implementations live beside their bus.
#[async_trait]
pub trait Commit: fmt::Debug + Send + Sync {
    /// Durable when it returns. `next` is the offset to continue at.
    async fn commit(&self, partition: u32, next: u64) -> Result<(), BusError>;
}

impl Subscription {
    /// For implementations: a task of theirs fills `bursts` and ends when the receiver is gone.
    pub fn new(bursts: mpsc::Receiver<Result<Burst, BusError>>, commits: Option<Arc<dyn Commit>>) -> Self {
        Self { bursts, here: Vec::new().into_iter(), commits, begins: BTreeMap::new() }
    }

    /// For implementations: the first offset that each partition will deliver.
    #[must_use]
    pub fn beginning_at(mut self, begins: BTreeMap<u32, u64>) -> Self {
        self.begins = begins;
        self
    }

    /// The first offset that each partition will deliver; with the extents it says how much there is to catch up with.
    /// Empty for members of a group, whose share changes.
    pub fn begins(&self) -> &BTreeMap<u32, u64> {
        &self.begins
    }

    /// The next record; `None` when the bus has closed. An error is passed on and reading goes on after it.
    ///
    /// Cancel safe: yes, it only receives from a channel, and keeps what it received.
    pub async fn next(&mut self) -> Option<Result<Record, BusError>> {
        loop {
            if let Some(record) = self.here.next() {
                return Some(Ok(record));
            }
            match self.bursts.recv().await? {
                Ok(burst) => self.here = burst.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next record if it is already here. Never waits.
    pub fn try_next(&mut self) -> Option<Result<Record, BusError>> {
        loop {
            if let Some(record) = self.here.next() {
                return Some(Ok(record));
            }
            match self.bursts.try_recv().ok()? {
                Ok(burst) => self.here = burst.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Says that everything up to and including `position` is done. Only for members of a group.
    pub async fn commit(&self, position: Position) -> Result<(), BusError> {
        match &self.commits {
            Some(commits) => commits.commit(position.partition, position.offset + 1).await,
            None => Ok(()),
        }
    }
}

/// What can go wrong on a bus.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    #[error("topic {topic} does not exist")]
    NoSuchTopic { topic: String },
    #[error(
        "topic {topic} has {found} partitions and {wanted} are configured: keep {found}, or create the topic anew"
    )]
    Unfit { topic: String, found: u32, wanted: u32 },
    #[error("record for {topic} has {bytes} bytes, at most {max} are allowed")]
    TooLarge { topic: String, bytes: usize, max: usize },
    /// Not now: worth trying again.
    #[error("the bus is not available: {reason}")]
    Unavailable { reason: String },
    #[error("the bus is closed")]
    Closed,
    /// Trying again will not help: the store itself is damaged or gone.
    #[error("the bus's store failed: {reason}")]
    Store { reason: String },
}

impl BusError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(offsets: std::ops::Range<u64>) -> Burst {
        let record = |offset| Record {
            position: Position { partition: 0, offset },
            at: Timestamp::default(),
            key: String::new(),
            value: Bytes::new(),
            headers: Headers::default(),
        };
        offsets.map(record).collect()
    }

    #[tokio::test]
    async fn what_came_together_is_given_one_by_one_and_an_error_between_takes_nothing_away() {
        let (bursts, receiver) = mpsc::channel(4);
        let mut subscription = Subscription::new(receiver, None);
        assert!(subscription.try_next().is_none());
        for given in [Ok(burst(0..2)), Err(BusError::Closed), Ok(Burst::new()), Ok(burst(2..4))] {
            bursts.send(given).await.unwrap();
        }
        drop(bursts);
        let mut seen = vec![subscription.next().await, subscription.try_next()];
        while let Some(next) = subscription.next().await {
            seen.push(Some(next));
        }
        let seen: Vec<_> =
            seen.into_iter().flatten().map(|next| next.map(|record| record.position.offset).ok()).collect();
        assert_eq!(seen, [Some(0), Some(1), None, Some(2), Some(3)]);
    }
}
