//! The bus inside this process: a durable log in one redb file.
//!
//! One writer commits whatever is queued as one transaction ([`writer`]); every subscription reads the
//! log by itself ([`reader`]); groups live in memory, their commits in the file ([`group`]). It never leaves the
//! process: a second process that opens the file is refused.

mod group;
mod log;
mod reader;
mod retention;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::limit::BUS_VALUE_BYTES_MAX;
use model::sample::Timestamp;
use redb::ReadTransaction;
use runtime::Scope;
use tokio::sync::{mpsc, watch};

use self::group::{Groups, Membership};
use self::log::{Topic, Topics, Writing, record_bytes};
use self::reader::Reader;
use self::writer::{Answer, Operation};
use super::{Bus, BusError, Commit, Extent, NewRecord, Position, StartAt, Subscription, TopicSpec};
use crate::group_commit::{Entrance, Unanswered, queue};
use crate::store::{Source, Store, StoreError};

/// A whole record: a value of full size and some 48 kB of key and headers, as in Kafka.
const RECORD_BYTES_MAX: usize = BUS_VALUE_BYTES_MAX + 48_000;
/// Between a reader's task and its owner; a burst has [`reader::BURST_RECORDS`] at most.
const SUBSCRIPTION_BURSTS: usize = 4;
/// For the last commit and the readers' tasks.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// Tells the time that records get.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How an [`EmbeddedBus`] runs.
#[derive(Clone)]
pub struct Options {
    pub clock: Clock,
    /// Between two runs of retention and compaction.
    pub retain_every: Duration,
    /// Memory for pages of the file.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(|| Timestamp::from_unix_ms(jiff::Timestamp::now().as_millisecond())),
            retain_every: Duration::from_secs(60),
            cache_bytes: 64 * 1024 * 1024,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clock: _, retain_every, cache_bytes } = self;
        f.debug_struct("Options")
            .field("retain_every", retain_every)
            .field("cache_bytes", cache_bytes)
            .finish_non_exhaustive()
    }
}

/// The embedded bus. Dropping it stops its tasks soon; [`EmbeddedBus::close`] waits for them.
#[derive(Debug)]
pub struct EmbeddedBus {
    shared: Arc<Shared>,
}

/// What the bus and its tasks have in common.
struct Shared {
    store: Store,
    clock: Clock,
    scope: Scope,
    /// The durable state; readers wait on it.
    topics: watch::Sender<Arc<Topics>>,
    groups: Arc<Groups>,
    writer: Entrance<Operation, Answer>,
}

impl EmbeddedBus {
    /// Opens or creates `bus.redb` in `directory`, which must exist. Blocks while a file left by a crash is checked.
    ///
    /// Call it inside a tokio runtime: the bus's tasks run there.
    pub fn open(directory: &Path, options: Options) -> Result<Self, BusError> {
        Self::start(Source::File(directory.join("bus.redb")), options)
    }

    /// For tests: obeys every law but durability; what it held is gone when it closes.
    pub fn in_memory(options: Options) -> Result<Self, BusError> {
        Self::start(Source::Memory, options)
    }

    pub(crate) fn start(source: Source, options: Options) -> Result<Self, BusError> {
        let store = Store::open(source, options.cache_bytes)?;
        let topics = store.write(|transaction| Writing::open(transaction)?.finish())?;
        let (entrance, queue) = queue();
        let shared = Arc::new(Shared {
            store,
            clock: options.clock,
            scope: Scope::new("bus"),
            topics: watch::Sender::new(Arc::new(topics)),
            groups: Arc::default(),
            writer: entrance,
        });
        shared.scope.spawn("bus-writer", {
            let shared = Arc::clone(&shared);
            queue.run(shared.scope.stopping(), move |operations| writer::commit(&shared, operations))
        });
        shared.scope.spawn("bus-retention", retain_regularly(Arc::clone(&shared), options.retain_every));
        Ok(Self { shared })
    }

    /// Commits what is queued, ends every subscription and closes the file. Later calls give [`BusError::Closed`].
    pub async fn close(&self) -> Result<(), BusError> {
        let stopped = self.shared.scope.stop(CLOSE_WITHIN).await;
        let shared = Arc::clone(&self.shared);
        let closed = tokio::task::spawn_blocking(move || shared.store.close()).await;
        stopped.map_err(|error| BusError::Store { reason: error.to_string() })?;
        closed.map_err(|error| BusError::Store { reason: error.to_string() })
    }

    /// Removes what no topic's retention keeps, now. Runs regularly by itself.
    pub async fn retain(&self) -> Result<(), BusError> {
        self.shared.retain().await
    }
}

impl Drop for EmbeddedBus {
    fn drop(&mut self) {
        self.shared.scope.cancel();
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), BusError> {
        self.shared.submit(Operation::EnsureTopics(topics.to_vec()), 0).await?;
        Ok(())
    }

    async fn publish(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, BusError> {
        let mut bytes = 0;
        for record in &records {
            check_size(topic, record)?;
            bytes += record_bytes(record);
        }
        self.shared.submit(Operation::Publish { topic: topic.to_owned(), records }, bytes).await
    }

    async fn subscribe(&self, topic: &str, from: StartAt) -> Result<Subscription, BusError> {
        let known = self.shared.topic(topic)?;
        let next = self.shared.start(known, from).await?;
        let (sender, records) = mpsc::channel(SUBSCRIPTION_BURSTS);
        let reader = Reader::alone(Arc::clone(&self.shared), topic, next.clone(), sender);
        self.shared.scope.spawn("bus-reader", reader.run());
        Ok(Subscription::new(records, None).beginning_at(next))
    }

    async fn join(&self, topic: &str, group: &str) -> Result<Subscription, BusError> {
        let known = self.shared.topic(topic)?;
        let width = known.partitions.len() as u32;
        let membership = Membership::new(&self.shared.groups, topic, group, width);
        let (sender, records) = mpsc::channel(SUBSCRIPTION_BURSTS);
        let reader = Reader::member(Arc::clone(&self.shared), topic, group, membership, sender);
        self.shared.scope.spawn("bus-member", reader.run());
        let commits =
            GroupCommits { shared: Arc::clone(&self.shared), group: group.to_owned(), topic: known.id };
        Ok(Subscription::new(records, Some(Arc::new(commits))))
    }

    async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError> {
        let extents = (0..).zip(self.shared.topic(topic)?.partitions);
        Ok(extents.map(|(partition, kept)| Extent { partition, low: kept.low, high: kept.high }).collect())
    }
}

/// Commits of one group on one topic.
#[derive(Debug)]
struct GroupCommits {
    shared: Arc<Shared>,
    group: String,
    topic: u32,
}

#[async_trait]
impl Commit for GroupCommits {
    async fn commit(&self, partition: u32, next: u64) -> Result<(), BusError> {
        let group = self.group.clone();
        self.shared.submit(Operation::Commit { group, topic: self.topic, partition, next }, 0).await?;
        Ok(())
    }
}

impl Shared {
    /// Queues `operation` when there is room and waits until it is durable.
    async fn submit(&self, operation: Operation, bytes: usize) -> Answer {
        if self.scope.stopping().is_cancelled() {
            return Err(BusError::Closed);
        }
        self.writer.submit(operation, bytes).await.unwrap_or_else(|unanswered| {
            Err(match unanswered {
                Unanswered::Closed => BusError::Closed,
                Unanswered::BrokeOff => BusError::Store { reason: "the commit broke off".to_owned() },
            })
        })
    }

    /// Reads the file on a blocking thread.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, BusError> {
        let shared = Arc::clone(self);
        match tokio::task::spawn_blocking(move || shared.store.read(read)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(BusError::Store { reason: format!("a read broke off: {error}") }),
        }
    }

    fn topic(&self, name: &str) -> Result<Topic, BusError> {
        if self.scope.stopping().is_cancelled() {
            return Err(BusError::Closed);
        }
        let topics = self.topics.borrow();
        topics.get(name).cloned().ok_or_else(|| BusError::NoSuchTopic { topic: name.to_owned() })
    }

    /// The first offset to read of each partition.
    async fn start(self: &Arc<Self>, topic: Topic, from: StartAt) -> Result<BTreeMap<u32, u64>, BusError> {
        let kept = (0..).zip(topic.partitions);
        Ok(match from {
            StartAt::Earliest => kept.map(|(number, kept)| (number, kept.low)).collect(),
            StartAt::Latest => kept.map(|(number, kept)| (number, kept.high)).collect(),
            StartAt::Offsets(offsets) => kept
                .map(|(number, kept)| {
                    let wanted = offsets.get(&number).copied().unwrap_or(kept.low);
                    // Past the end: the offsets are those of another log.
                    (number, if (kept.low..=kept.high).contains(&wanted) { wanted } else { kept.low })
                })
                .collect(),
            StartAt::Time(at) => {
                let seek = move |transaction: &_| {
                    kept.map(|(number, kept)| {
                        Ok((number, log::seek(transaction, topic.id, number, kept, at)?))
                    })
                    .collect()
                };
                self.read(seek).await?
            }
        })
    }

    async fn retain(self: &Arc<Self>) -> Result<(), BusError> {
        let topics = Arc::clone(&self.topics.borrow());
        for name in topics.keys() {
            loop {
                // Read anew each time: records come and go meanwhile.
                let topic = self.topic(name)?;
                let now = (self.clock)();
                let positions =
                    self.read(move |transaction| retention::expired(transaction, &topic, now)).await?;
                if positions.is_empty() {
                    break;
                }
                let records = positions.len();
                self.submit(Operation::Remove { topic: name.clone(), positions }, 0).await?;
                tracing::debug!(topic = %name, records, "removed records that were kept long enough");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}

impl From<StoreError> for BusError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { reason } => Self::Unavailable { reason },
            StoreError::Failed { reason } => Self::Store { reason },
            StoreError::Closed => Self::Closed,
        }
    }
}

fn check_size(topic: &str, record: &NewRecord) -> Result<(), BusError> {
    for (bytes, max) in [(record.value.len(), BUS_VALUE_BYTES_MAX), (record_bytes(record), RECORD_BYTES_MAX)]
    {
        if bytes > max {
            return Err(BusError::TooLarge { topic: topic.to_owned(), bytes, max });
        }
    }
    Ok(())
}

async fn retain_regularly(shared: Arc<Shared>, every: Duration) {
    let stopping = shared.scope.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        match shared.retain().await {
            Ok(()) | Err(BusError::Closed) => {}
            Err(error) => tracing::warn!(%error, "the bus could not remove old records"),
        }
    }
}
