//! Publishing: one idempotent producer for the whole process, made anew after a fatal error.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::settings::Settings;
use super::telemetry::{Telemetry, Voice};
use super::{RECORD_BYTES_MAX, failure, refused};
use crate::bus::{BusError, NewRecord, Position};

/// librdkafka reports every record by its own deadline; this much later something else is wrong.
const REPORT_GRACE: Duration = Duration::from_secs(5);

/// Publishes, and waits for delivery reports.
pub(super) struct Publisher {
    config: ClientConfig,
    telemetry: Arc<Telemetry>,
    within: Duration,
    /// A report has made room in the queue.
    room: Arc<Notify>,
    /// `None` once closed.
    producer: Mutex<Option<Arc<ThreadedProducer<Reports>>>>,
}

impl Publisher {
    pub(super) fn new(settings: &Settings, telemetry: Arc<Telemetry>) -> Result<Self, BusError> {
        let publisher = Self {
            config: settings.publishing(),
            telemetry,
            within: settings.publish_within,
            room: Arc::default(),
            producer: Mutex::default(),
        };
        *publisher.lock() = Some(Arc::new(publisher.create()?));
        Ok(publisher)
    }

    /// Returns when every record is acknowledged by all replicas that are in sync, or one has failed.
    pub(super) async fn publish(
        &self,
        topic: &str,
        records: Vec<NewRecord>,
    ) -> Result<Vec<Position>, BusError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let producer = self.lock().clone().ok_or(BusError::Closed)?;
        let result = self.deliver(&producer, topic, records).await;
        if producer.client().fatal_error().is_some() {
            self.replace(&producer);
        }
        result
    }

    async fn deliver(
        &self,
        producer: &ThreadedProducer<Reports>,
        topic: &str,
        records: Vec<NewRecord>,
    ) -> Result<Vec<Position>, BusError> {
        let deadline = Instant::now() + self.within;
        let late = || BusError::Unavailable { reason: format!("{topic}: not acknowledged in time") };
        let (call, reported) = Call::new(records.len());
        // librdkafka has copied a record that it took: what is here of it goes at once, and its memory is used again.
        for (index, record) in records.into_iter().enumerate() {
            let mut place = Box::new(Place { call: Arc::clone(&call), index });
            // A full queue is backpressure: the caller waits for room, and its records keep their order.
            while let Err((error, back)) = enqueue(producer, topic, &record, place) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(rejected(topic, record.value.len(), &error));
                }
                place = back;
                tokio::time::timeout_at(deadline, self.room.notified()).await.map_err(|_| late())?;
            }
        }
        match tokio::time::timeout_at(deadline + REPORT_GRACE, reported).await {
            Ok(Ok(Ok(positions))) => Ok(positions),
            Ok(Ok(Err(Unproven::NoOffset))) => {
                let reason = format!("{topic}: an acknowledgement without an offset proves nothing");
                Err(BusError::Unavailable { reason })
            }
            Ok(Ok(Err(Unproven::Failed { error, bytes }))) => Err(rejected(topic, bytes, &error)),
            // No report, or a producer that was dropped under it.
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }

    /// Waits for the reports of what is queued, at most `within`.
    pub(super) async fn close(&self, within: Duration) -> Result<(), BusError> {
        let Some(producer) = self.lock().take() else { return Ok(()) };
        let flushed = tokio::task::spawn_blocking(move || producer.flush(within)).await;
        match flushed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(BusError::Unavailable { reason: format!("not all records were acknowledged: {error}") })
            }
            Err(error) => Err(BusError::Store { reason: format!("the producer broke off: {error}") }),
        }
    }

    fn create(&self) -> Result<ThreadedProducer<Reports>, BusError> {
        let reports = Reports {
            voice: Voice::new(Arc::clone(&self.telemetry)),
            telemetry: Arc::clone(&self.telemetry),
            room: Arc::clone(&self.room),
        };
        self.config.create_with_context(reports).map_err(|error| refused(&error))
    }

    /// A producer that met a fatal error answers every record with it, for ever.
    fn replace(&self, failed: &Arc<ThreadedProducer<Reports>>) {
        let mut current = self.lock();
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, failed)) {
            return; // Another call was first, or the bus is closed.
        }
        let reason = failed.client().fatal_error().map(|(_, reason)| reason).unwrap_or_default();
        match self.create() {
            Ok(new) => {
                tracing::warn!(reason, "the kafka producer failed for good and was made anew");
                let old = current.replace(Arc::new(new));
                // It waits for its thread and for what it gives up.
                drop(tokio::task::spawn_blocking(move || drop(old)));
            }
            Err(error) => tracing::warn!(%error, reason, "the kafka producer could not be made anew"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<ThreadedProducer<Reports>>>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives `record` to librdkafka, which copies it; on failure the place comes back.
fn enqueue(
    producer: &ThreadedProducer<Reports>,
    topic: &str,
    record: &NewRecord,
    place: Box<Place>,
) -> Result<(), (KafkaError, Box<Place>)> {
    let mut new = BaseRecord::<str, [u8], _>::with_opaque_to(topic, place).payload(&record.value[..]);
    // An empty key is none: such records go anywhere, as on the embedded bus.
    if !record.key.is_empty() {
        new = new.key(&record.key);
    }
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        new = new.headers(record.headers.iter().fold(headers, |headers, (name, value)| {
            headers.insert(Header { key: name, value: Some(value) })
        }));
    }
    producer.send(new).map_err(|(error, back)| (error, back.delivery_opaque))
}

fn rejected(topic: &str, bytes: usize, error: &KafkaError) -> BusError {
    match error.rdkafka_error_code() {
        // The topic's own limit may be below the bus's; the broker does not tell it.
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
            BusError::TooLarge { topic: topic.to_owned(), bytes, max: RECORD_BYTES_MAX }
        }
        _ => failure(topic, error),
    }
}

/// Every position, or why the first record that failed did.
type Outcome = Result<Vec<Position>, Unproven>;

/// Why a record does not count as published.
#[derive(Debug)]
enum Unproven {
    Failed {
        error: KafkaError,
        bytes: usize,
    },
    /// librdkafka reports success without an offset when a later batch of the partition succeeded, or when the broker
    /// says that it has the record already. The first is no proof: where a partition knows nothing of a producer yet, its
    /// broker takes the second batch after refusing the first ("not leader"), and the first is nowhere.
    NoOffset,
}

/// One call of `publish`: filled in by the reports of its records.
struct Call {
    state: Mutex<Pending>,
}

struct Pending {
    positions: Vec<Position>,
    missing: usize,
    done: Option<oneshot::Sender<Outcome>>,
}

/// Which record of which call a report is about.
struct Place {
    call: Arc<Call>,
    index: usize,
}

impl Call {
    fn new(records: usize) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (done, reported) = oneshot::channel();
        let positions = vec![Position { partition: 0, offset: 0 }; records];
        let state = Mutex::new(Pending { positions, missing: records, done: Some(done) });
        (Arc::new(Self { state }), reported)
    }

    fn report(&self, index: usize, result: Result<Position, Unproven>) {
        let mut pending = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        pending.missing = pending.missing.saturating_sub(1);
        let answer = match result {
            Ok(position) => {
                if let Some(place) = pending.positions.get_mut(index) {
                    *place = position;
                }
                if pending.missing > 0 {
                    return;
                }
                Ok(std::mem::take(&mut pending.positions))
            }
            // The first failure is the answer; what else becomes of the call was not promised.
            Err(error) => Err(error),
        };
        if let Some(done) = pending.done.take() {
            // A caller that is gone wanted no answer.
            drop(done.send(answer));
        }
    }
}

/// Takes the producer's delivery reports.
struct Reports {
    voice: Voice,
    telemetry: Arc<Telemetry>,
    room: Arc<Notify>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.voice.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        self.voice.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Place>;

    fn delivery(&self, result: &DeliveryResult<'_>, place: Box<Place>) {
        let result = match result {
            Ok(message) => {
                self.telemetry.answered();
                match (u32::try_from(message.partition()), u64::try_from(message.offset())) {
                    (Ok(partition), Ok(offset)) => Ok(Position { partition, offset }),
                    _ => Err(Unproven::NoOffset),
                }
            }
            Err((error, message)) => {
                Err(Unproven::Failed { error: error.clone(), bytes: message.payload_len() })
            }
        };
        place.call.report(place.index, result);
        self.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use crate::bus::kafka::{KafkaBus, KafkaOptions};
    use crate::bus::{Bus, NewRecord};

    /// librdkafka's own mock of a broker: only it can be told to fail a producer for good.
    #[tokio::test]
    async fn a_producer_that_failed_for_good_is_made_anew() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        // Fatal for an idempotent producer.
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
        let bus = KafkaBus::connect(KafkaOptions::new(vec![cluster.bootstrap_servers()])).unwrap();
        let record = NewRecord { key: "k".to_owned(), ..NewRecord::default() };
        let error = bus.publish("t", vec![record.clone()]).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(bus.publish("t", vec![record]).await.unwrap().len(), 1);
        bus.close().await.unwrap();
    }

    /// Found on a broker that had just started: the second batch of a partition was taken and the first refused.
    #[tokio::test]
    async fn a_record_that_only_a_later_batch_vouches_for_is_not_acknowledged() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut options = KafkaOptions::new(vec![cluster.bootstrap_servers()]);
        // Both records are on their way, each by itself, before either is answered.
        options.properties.insert("batch.num.messages".to_owned(), "1".to_owned());
        let bus = KafkaBus::connect(options).unwrap();
        let record = NewRecord { key: "k".to_owned(), ..NewRecord::default() };
        bus.extents("t").await.unwrap();
        cluster.broker_round_trip_time(1, std::time::Duration::from_millis(200)).unwrap();
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
        cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
        let error = bus.publish("t", vec![record.clone(), record]).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(bus.extents("t").await.unwrap()[0].high, 1, "the first record is nowhere");
        bus.close().await.unwrap();
    }
}
