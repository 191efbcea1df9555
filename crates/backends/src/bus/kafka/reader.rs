//! One subscription: a consumer and the thread that polls it.
//!
//! The consumer is closed on its own thread, because closing may wait for brokers. No list from `assignment()` may
//! outlive the statement that asked for it: closing waits for ever for one that is alive (rust-rdkafka issue 611).

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::sample::Timestamp;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::Scope;
use tokio::sync::mpsc::Permit;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::questions::in_thread;
use super::settings::Settings;
use super::telemetry::{Telemetry, Voice};
use super::{failure, refused};
use crate::bus::{Burst, BusError, Commit, Headers, Position, Record, Subscription};

/// Between the thread and the subscription's owner.
const SUBSCRIPTION_BURSTS: usize = 4;
/// A burst takes no further record past so many, or past so many bytes of values.
const BURST_RECORDS: usize = 128;
const BURST_BYTES: usize = 1024 * 1024;
/// How long the thread waits for a record before it looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(200);
/// A member whose owner takes nothing for so long stops fetching, and goes on answering its group.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two errors handed to the owner; librdkafka repeats them with every try.
const ERROR_EVERY: Duration = Duration::from_secs(5);

/// Reads every partition from `begins` on, for itself.
pub(super) fn alone(
    settings: &Settings,
    telemetry: Arc<Telemetry>,
    scope: &Scope,
    topic: &str,
    begins: BTreeMap<u32, u64>,
) -> Result<Subscription, BusError> {
    let consumer: BaseConsumer<Voice> = settings
        .reading()
        .create_with_context(Voice::new(Arc::clone(&telemetry)))
        .map_err(|error| refused(&error))?;
    let mut assignment = TopicPartitionList::with_capacity(begins.len());
    for (partition, offset) in &begins {
        let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
        assignment
            .add_partition_offset(topic, *partition as i32, offset)
            .map_err(|error| failure(topic, &error))?;
    }
    consumer.assign(&assignment).map_err(|error| failure(topic, &error))?;
    let (records, receiver) = mpsc::channel(SUBSCRIPTION_BURSTS);
    let reader = Reader::new(Arc::new(consumer), telemetry, scope, topic, records, Kind::Alone);
    in_thread("kafka-reader", scope, move || reader.run())?;
    Ok(Subscription::new(receiver, None).beginning_at(begins))
}

/// Joins `group`, and waits a bounded time until it has given this member its share.
pub(super) async fn member(
    settings: &Settings,
    telemetry: Arc<Telemetry>,
    scope: &Scope,
    topic: &str,
    group: &str,
) -> Result<Subscription, BusError> {
    let voice = Voice::new(Arc::clone(&telemetry));
    let assigned = Arc::clone(&voice.assigned);
    let consumer: BaseConsumer<Voice> =
        settings.member(group).create_with_context(voice).map_err(|error| refused(&error))?;
    consumer.subscribe(&[topic]).map_err(|error| failure(topic, &error))?;
    let consumer = Arc::new(consumer);
    let commits = GroupCommits {
        consumer: Arc::downgrade(&consumer),
        topic: topic.to_owned(),
        one_at_a_time: Arc::new(Semaphore::new(1)),
        within: settings.answer_within,
    };
    let (records, receiver) = mpsc::channel(SUBSCRIPTION_BURSTS);
    let reader = Reader::new(consumer, telemetry, scope, topic, records, Kind::Member);
    in_thread("kafka-member", scope, move || reader.run())?;
    // A group that waits for a member which died may take longer than a caller can; the share comes later then.
    if tokio::time::timeout(settings.answer_within, assigned.notified()).await.is_err() {
        tracing::warn!(topic, group, "the group has not given this member its share yet");
    }
    Ok(Subscription::new(receiver, Some(Arc::new(commits))))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Alone,
    /// Must go on polling while its owner is slow, or the group takes it for dead.
    Member,
}

/// Why the thread ends.
#[derive(Debug)]
struct Unwanted;

struct Reader {
    consumer: Arc<BaseConsumer<Voice>>,
    telemetry: Arc<Telemetry>,
    topic: String,
    records: mpsc::Sender<Result<Burst, BusError>>,
    stopping: CancellationToken,
    kind: Kind,
    told: Option<Instant>,
    /// Of the record before: the next one's are the same, as a rule.
    headers: Headers,
}

impl Reader {
    fn new(
        consumer: Arc<BaseConsumer<Voice>>,
        telemetry: Arc<Telemetry>,
        scope: &Scope,
        topic: &str,
        records: mpsc::Sender<Result<Burst, BusError>>,
        kind: Kind,
    ) -> Self {
        let (topic, stopping) = (topic.to_owned(), scope.stopping());
        Self { consumer, telemetry, topic, records, stopping, kind, told: None, headers: Headers::default() }
    }

    /// Until the subscription is dropped or the bus closes; then closes the consumer.
    fn run(mut self) {
        while !self.records.is_closed() && !self.stopping.is_cancelled() {
            let (burst, error) = self.burst();
            if !burst.is_empty() {
                self.telemetry.answered();
                if self.hand_on(burst).is_err() {
                    break;
                }
            }
            if error.is_some_and(|error| self.tell(&error).is_err()) {
                break;
            }
        }
        // The owner sees the end at once; closing the consumer may take longer.
        drop(self.records);
        drop(self.consumer);
    }

    /// Waits for a record and takes what else is there already, up to the first error.
    fn burst(&mut self) -> (Burst, Option<KafkaError>) {
        let (mut burst, mut bytes) = (Burst::new(), 0);
        let mut patience = POLL;
        while burst.len() < BURST_RECORDS && bytes < BURST_BYTES {
            match self.consumer.poll(patience) {
                None => break,
                Some(Err(error)) => return (burst, Some(error)),
                Some(Ok(message)) => {
                    bytes += message.payload_len();
                    burst.push(record(&message, &mut self.headers));
                }
            }
            patience = Duration::ZERO;
        }
        (burst, None)
    }

    /// A member whose owner takes nothing fetches no more, but goes on answering its group.
    fn hand_on(&mut self, mut burst: Burst) -> Result<(), Unwanted> {
        let mut paused = false;
        let place = loop {
            let patience = match self.kind {
                Kind::Alone => None,
                Kind::Member if paused => Some(Duration::ZERO),
                Kind::Member => Some(PATIENCE),
            };
            if let Some(place) = self.room(patience)? {
                break place;
            }
            self.pause();
            paused = true;
            // Only what was on its way when fetching stopped still comes.
            if let Some(Ok(message)) = self.consumer.poll(POLL) {
                burst.push(record(&message, &mut self.headers));
            }
        };
        place.send(Ok(burst));
        if paused {
            self.resume();
        }
        Ok(())
    }

    /// A place in the channel to the owner; `None` when there is none within `patience`.
    fn room(
        &self,
        patience: Option<Duration>,
    ) -> Result<Option<Permit<'_, Result<Burst, BusError>>>, Unwanted> {
        let room = async {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => Err(Unwanted),
                room = self.records.reserve() => room.map_err(|_| Unwanted),
            }
        };
        wait(room, patience).transpose()
    }

    fn pause(&self) {
        if let Err(error) = self.consumer.assignment().and_then(|share| self.consumer.pause(&share)) {
            tracing::debug!(topic = %self.topic, %error, "a member could not stop fetching");
        }
    }

    fn resume(&self) {
        if let Err(error) = self.consumer.assignment().and_then(|share| self.consumer.resume(&share)) {
            tracing::warn!(topic = %self.topic, %error, "a member could not go on fetching");
        }
    }

    /// Hands on what the owner should know. That brokers are away is for health: reading goes on by itself.
    fn tell(&mut self, error: &KafkaError) -> Result<(), Unwanted> {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            let reason = format!("{}: the consumer failed for good: {code}", self.topic);
            self.send(BusError::Store { reason })?;
            return Err(Unwanted);
        }
        if is_passing(error) || self.told.is_some_and(|told| told.elapsed() < ERROR_EVERY) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        self.send(failure(&self.topic, error))
    }

    fn send(&self, error: BusError) -> Result<(), Unwanted> {
        if let Some(place) = self.room(None)? {
            place.send(Err(error));
        }
        Ok(())
    }
}

/// Whether librdkafka mends `error` by itself.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::AutoOffsetReset
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
        )
    )
}

/// `before` are the headers of the record before, and then of this one.
fn record(message: &BorrowedMessage<'_>, before: &mut Headers) -> Record {
    match message.headers() {
        None => *before = Headers::default(),
        Some(headers) if are_equal(headers, before) => {}
        Some(headers) => {
            let pair =
                |header: Header<'_, &[u8]>| (header.key.to_owned(), text(header.value.unwrap_or_default()));
            *before = headers.iter().map(pair).collect();
        }
    }
    Record {
        position: Position {
            // Never negative in a message.
            partition: u32::try_from(message.partition()).unwrap_or_default(),
            offset: u64::try_from(message.offset()).unwrap_or_default(),
        },
        at: Timestamp::from_unix_ms(message.timestamp().to_millis().unwrap_or_default()),
        key: text(message.key().unwrap_or_default()),
        value: message.payload().unwrap_or_default().to_vec().into(),
        headers: before.clone(),
    }
}

/// Whether they are the same in the same order, which is that of the names where it is we who published.
fn are_equal(found: &BorrowedHeaders, headers: &Headers) -> bool {
    let equal = |(header, (name, value)): (Header<'_, &[u8]>, (&String, &String))| {
        header.key == name && header.value.unwrap_or_default() == value.as_bytes()
    };
    found.count() == headers.len() && found.iter().zip(headers.iter()).all(equal)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Commits of one member.
struct GroupCommits {
    /// The thread owns the consumer: who drops it last closes it, and that may wait for brokers.
    consumer: Weak<BaseConsumer<Voice>>,
    topic: String,
    /// While brokers are away a commit holds its thread; the next one waits without.
    one_at_a_time: Arc<Semaphore>,
    within: Duration,
}

impl fmt::Debug for GroupCommits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommits").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[async_trait]
impl Commit for GroupCommits {
    async fn commit(&self, partition: u32, next: u64) -> Result<(), BusError> {
        let late = || BusError::Unavailable { reason: format!("{}: not committed in time", self.topic) };
        let turn = Arc::clone(&self.one_at_a_time).acquire_owned();
        let committed = async {
            let turn = turn.await.map_err(|_| BusError::Closed)?;
            let (consumer, topic) = (Weak::clone(&self.consumer), self.topic.clone());
            let blocking = tokio::task::spawn_blocking(move || {
                let result = commit(&consumer, &topic, partition, next);
                drop(turn);
                result
            });
            blocking
                .await
                .map_err(|error| BusError::Store { reason: format!("a commit broke off: {error}") })?
        };
        tokio::time::timeout(self.within, committed).await.map_err(|_| late())?
    }
}

fn commit(
    consumer: &Weak<BaseConsumer<Voice>>,
    topic: &str,
    partition: u32,
    next: u64,
) -> Result<(), BusError> {
    let consumer = consumer.upgrade().ok_or(BusError::Closed)?;
    let share = consumer.assignment().map_err(|error| failure(topic, &error))?;
    let is_ours = share.find_partition(topic, partition as i32).is_some();
    drop(share);
    if !is_ours {
        // Whoever has it now may have committed more.
        let reason = format!("{topic}: partition {partition} went to another member of the group");
        return Err(BusError::Unavailable { reason });
    }
    let mut offsets = TopicPartitionList::with_capacity(1);
    offsets
        .add_partition_offset(
            topic,
            partition as i32,
            Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX)),
        )
        .and_then(|()| consumer.commit(&offsets, CommitMode::Sync))
        .map_err(|error| failure(topic, &error))
}

/// Waits for `future` on this thread, at most `patience`. Needs no runtime, which may be gone before the thread is.
fn wait<T>(future: impl Future<Output = T>, patience: Option<Duration>) -> Option<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let begun = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match patience.map(|patience| patience.checked_sub(begun.elapsed())) {
            None => std::thread::park(),
            Some(Some(left)) if !left.is_zero() => std::thread::park_timeout(left),
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_future_or_with_patience() {
        assert_eq!(wait(async { 1 }, None), Some(1));
        assert_eq!(wait(std::future::pending::<()>(), Some(Duration::from_millis(1))), None);
        let (sender, mut receiver) = mpsc::channel(1);
        let thread = std::thread::spawn(move || sender.blocking_send(2));
        assert_eq!(wait(receiver.recv(), None), Some(Some(2)));
        thread.join().unwrap().unwrap();
    }
}
