//! Questions about topics and offsets, asked by a client that neither reads nor publishes.
//!
//! librdkafka answers them blocking, so each takes a blocking thread, for a bounded time and a bounded number at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::sample::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::Scope;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::settings::Settings;
use super::telemetry::{Telemetry, Voice};
use super::{failure, refused};
use crate::bus::{BusError, Extent, StartAt};

/// Questions asked at once. More wait; while brokers are away each waits for its whole time.
const AT_ONCE: usize = 16;
/// Between two looks at what the client has to tell.
const LISTEN: Duration = Duration::from_millis(250);
/// Between two tries to reach a broker that nobody else asks.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Between two tries at a question whose answer is on its way.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Why a question has no answer.
enum Unanswered {
    /// A partition is moving, or has just been made: the same question has an answer in a moment.
    Soon(BusError),
    Not(BusError),
}

impl Unanswered {
    /// For questions about a topic that was there a moment ago.
    fn new(topic: &str, error: &KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(
                Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch,
            ) => Self::Soon(failure(topic, error)),
            _ => Self::Not(failure(topic, error)),
        }
    }
}

/// The asking client.
pub(super) struct Questions {
    consumer: Arc<BaseConsumer<Voice>>,
    telemetry: Arc<Telemetry>,
    at_once: Semaphore,
    within: Duration,
    stopping: CancellationToken,
}

impl Questions {
    pub(super) fn open(
        settings: &Settings,
        telemetry: Arc<Telemetry>,
        scope: &Scope,
    ) -> Result<Arc<Self>, BusError> {
        let voice = Voice::new(Arc::clone(&telemetry));
        let consumer: BaseConsumer<Voice> =
            settings.asking().create_with_context(voice).map_err(|error| refused(&error))?;
        let questions = Arc::new(Self {
            consumer: Arc::new(consumer),
            telemetry,
            at_once: Semaphore::new(AT_ONCE),
            within: settings.answer_within,
            stopping: scope.stopping(),
        });
        let listener = Arc::clone(&questions);
        in_thread("kafka-listener", scope, move || listener.listen())?;
        Ok(questions)
    }

    /// How many partitions `topic` has.
    pub(super) async fn width(&self, topic: &str) -> Result<u32, BusError> {
        let topic = topic.to_owned();
        self.ask(move |consumer, deadline| width(consumer, &topic, deadline)).await
    }

    /// What each partition holds.
    pub(super) async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError> {
        let topic = topic.to_owned();
        self.ask(move |consumer, deadline| extents(consumer, &topic, deadline)).await
    }

    /// The first offset of each partition that a reader from `from` on gets.
    pub(super) async fn begins(&self, topic: &str, from: StartAt) -> Result<BTreeMap<u32, u64>, BusError> {
        let topic = topic.to_owned();
        let begins = move |consumer: &BaseConsumer<Voice>, deadline| {
            let extents = extents(consumer, &topic, deadline)?;
            let times = match &from {
                StartAt::Time(at) => offsets_at(consumer, &topic, &extents, *at, deadline)?,
                StartAt::Earliest | StartAt::Latest | StartAt::Offsets(_) => BTreeMap::new(),
            };
            Ok(extents.iter().map(|extent| (extent.partition, begin(extent, &from, &times))).collect())
        };
        self.ask(begins).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&BaseConsumer<Voice>, Instant) -> Result<T, Unanswered> + Send + Sync + 'static,
    ) -> Result<T, BusError> {
        let deadline = Instant::now() + self.within;
        let question = Arc::new(question);
        // The semaphore is never closed.
        let permit = self.at_once.acquire().await.map_err(|_| BusError::Closed)?;
        let answer = loop {
            let (consumer, question) = (Arc::clone(&self.consumer), Arc::clone(&question));
            let answer = tokio::task::spawn_blocking(move || question(&consumer, deadline)).await;
            match answer {
                Ok(Err(Unanswered::Soon(_))) if Instant::now() + AGAIN_AFTER < deadline => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Ok(Ok(answer)) => break Ok(answer),
                Ok(Err(Unanswered::Soon(error) | Unanswered::Not(error))) => break Err(error),
                Err(error) => {
                    break Err(BusError::Store { reason: format!("a question broke off: {error}") });
                }
            }
        };
        drop(permit);
        if self.stopping.is_cancelled() {
            return Err(BusError::Closed);
        }
        if answer.is_ok() {
            self.telemetry.answered();
        }
        answer
    }

    /// Takes in what the client tells of itself; otherwise it would pile up. While no broker can be reached, it tries to,
    /// so that health does not wait for somebody to need one.
    fn listen(&self) {
        let mut probed = Instant::now();
        while !self.stopping.is_cancelled() {
            // Nothing is assigned to this client, so there are no records.
            drop(self.consumer.poll(LISTEN));
            if self.telemetry.is_away() && probed.elapsed() >= PROBE_EVERY {
                // An answer is an answer, even that there is no such topic.
                if self.consumer.fetch_metadata(Some("watchfloor-probe"), PROBE_EVERY).is_ok() {
                    self.telemetry.answered();
                }
                probed = Instant::now();
            }
        }
    }
}

/// Runs `work` on a thread of its own that `scope` knows and waits for.
pub(super) fn in_thread(
    name: &'static str,
    scope: &Scope,
    work: impl FnOnce() + Send + 'static,
) -> Result<(), BusError> {
    let (ended, end) = oneshot::channel();
    let run = move || {
        work();
        // Nobody waits once the runtime is gone.
        ended.send(()).ok();
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| BusError::Unavailable { reason: format!("no thread for {name}: {error}") })?;
    scope.spawn(name, async move {
        end.await.expect("the thread ends by itself: it panicked");
    });
    Ok(())
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn width(consumer: &BaseConsumer<Voice>, topic: &str, deadline: Instant) -> Result<u32, Unanswered> {
    let metadata = consumer
        .fetch_metadata(Some(topic), left(deadline))
        .map_err(|error| Unanswered::Not(failure(topic, &error)))?;
    let known = metadata.topics().first().filter(|known| known.name() == topic);
    let error = known.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
    match (known, error) {
        (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) | (None, _) => {
            Err(Unanswered::Not(BusError::NoSuchTopic { topic: topic.to_owned() }))
        }
        (_, Some(error)) => {
            Err(Unanswered::Soon(BusError::Unavailable { reason: format!("{topic}: {error}") }))
        }
        (Some(known), None) => {
            if known.partitions().iter().any(|partition| partition.leader() < 0) {
                let reason = format!("{topic}: a partition has no leader");
                return Err(Unanswered::Soon(BusError::Unavailable { reason }));
            }
            Ok(u32::try_from(known.partitions().len()).unwrap_or(u32::MAX))
        }
    }
}

fn extents(
    consumer: &BaseConsumer<Voice>,
    topic: &str,
    deadline: Instant,
) -> Result<Vec<Extent>, Unanswered> {
    let width = width(consumer, topic, deadline)?;
    (0..width)
        .map(|partition| {
            let (low, high) = consumer
                .fetch_watermarks(topic, partition as i32, left(deadline))
                .map_err(|error| Unanswered::new(topic, &error))?;
            let offset = |offset: i64| u64::try_from(offset).unwrap_or_default();
            Ok(Extent { partition, low: offset(low), high: offset(high) })
        })
        .collect()
}

/// The first offset at or after `at`, of the partitions that have one.
fn offsets_at(
    consumer: &BaseConsumer<Voice>,
    topic: &str,
    extents: &[Extent],
    at: Timestamp,
    deadline: Instant,
) -> Result<BTreeMap<u32, u64>, Unanswered> {
    let mut wanted = TopicPartitionList::with_capacity(extents.len());
    for extent in extents {
        // Before 1970 there are no records, and negative times mean other things to Kafka.
        let time = Offset::Offset(at.unix_ms().max(0));
        wanted
            .add_partition_offset(topic, extent.partition as i32, time)
            .map_err(|error| Unanswered::new(topic, &error))?;
    }
    let found =
        consumer.offsets_for_times(wanted, left(deadline)).map_err(|error| Unanswered::new(topic, &error))?;
    let mut offsets = BTreeMap::new();
    for element in found.elements() {
        element.error().map_err(|error| Unanswered::new(topic, &error))?;
        if let (Ok(partition), Offset::Offset(offset)) =
            (u32::try_from(element.partition()), element.offset())
        {
            offsets.insert(partition, u64::try_from(offset).unwrap_or_default());
        }
    }
    Ok(offsets)
}

fn begin(extent: &Extent, from: &StartAt, times: &BTreeMap<u32, u64>) -> u64 {
    match from {
        StartAt::Earliest => extent.low,
        StartAt::Latest => extent.high,
        // None is as late: what comes next is.
        StartAt::Time(_) => times.get(&extent.partition).copied().unwrap_or(extent.high),
        StartAt::Offsets(offsets) => {
            let wanted = offsets.get(&extent.partition).copied().unwrap_or(extent.low);
            // Past the end: the offsets are those of another log.
            if (extent.low..=extent.high).contains(&wanted) { wanted } else { extent.low }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { partition: 1, low: 10, high: 20 };

    #[test]
    fn offsets_outside_the_extent_begin_at_the_earliest() {
        for (wanted, expected) in [(9, 10), (10, 10), (20, 20), (21, 10)] {
            let from = StartAt::Offsets(BTreeMap::from([(1, wanted)]));
            assert_eq!(begin(&EXTENT, &from, &BTreeMap::new()), expected, "{wanted}");
        }
        assert_eq!(begin(&EXTENT, &StartAt::Offsets(BTreeMap::new()), &BTreeMap::new()), 10);
    }

    #[test]
    fn a_time_that_no_record_has_reached_begins_at_the_end() {
        let from = StartAt::Time(Timestamp::from_unix_ms(1));
        assert_eq!(begin(&EXTENT, &from, &BTreeMap::new()), 20);
        assert_eq!(begin(&EXTENT, &from, &BTreeMap::from([(1, 15)])), 15);
    }
}
