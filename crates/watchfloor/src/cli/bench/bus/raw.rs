//! librdkafka without us: one thread that produces as fast as the queue takes records, one that counts delivery reports,
//! and a consumer that looks at nothing. As librdkafka's own `rdkafka_performance`, by the crate that we use it through.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backends::bus::NewRecord;
use backends::bus::kafka::KafkaOptions;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Load;
use super::ours::{silent, unavailable};
use super::stopwatch::{Stopwatch, Took};
use crate::cli::pause;
use crate::exit::{Exit, Failure};

/// Between two looks at a queue that is full, or not empty yet. It holds far more than is delivered meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// librdkafka gives a record up by itself; this is longer.
const SILENCE: Duration = Duration::from_secs(60);

/// A producer that lasts, as ours does, and what a consumer is made of.
pub(super) struct Raw {
    producer: ThreadedProducer<Reports>,
    reading: ClientConfig,
}

/// Counts delivery reports.
#[derive(Debug, Default)]
struct Reports {
    delivered: AtomicU64,
    /// Without an offset: a later batch of the partition vouches for them, which ours does not accept.
    without_offset: AtomicU64,
    failed: AtomicU64,
    failure: Mutex<Option<KafkaError>>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = match result {
            Ok(message) if message.offset() >= 0 => &self.delivered,
            Ok(_) => &self.without_offset,
            Err((error, _)) => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                &self.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Reports {
    fn all(&self) -> u64 {
        [&self.delivered, &self.without_offset, &self.failed]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

impl Raw {
    /// With the properties that our bus gives librdkafka.
    pub(super) fn new(options: &KafkaOptions) -> Result<Self, Failure> {
        let config = |error: anyhow::Error| Failure::new(Exit::Config, error);
        let publishing = options.publishing_properties().map_err(|error| config(error.into()))?;
        let reading = options.reading_properties().map_err(|error| config(error.into()))?;
        let client = |properties: BTreeMap<String, String>| properties.into_iter().collect::<ClientConfig>();
        let producer = client(publishing).create_with_context(Reports::default());
        Ok(Self { producer: producer.map_err(|error| config(error.into()))?, reading: client(reading) })
    }

    pub(super) fn publish(&self, topic: &str, load: &Load) -> Result<Took, Failure> {
        let reports = self.producer.client().context();
        let (before, unproven) = (reports.all(), reports.without_offset.load(Ordering::Relaxed));
        let watch = Stopwatch::start();
        let (mut records, mut bytes) = (0, 0);
        for number in 0..load.batches {
            for record in load.payload.batch(number) {
                self.send(topic, record)?;
                records += 1;
                bytes += record.value.len() as u64;
            }
        }
        let deadline = Instant::now() + SILENCE;
        while reports.all() - before < records {
            if Instant::now() > deadline {
                return Err(unavailable(silent(topic, reports.all() - before, records)));
            }
            pause(LOOK_EVERY);
        }
        let took = watch.stop(records, bytes);
        match reports.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(Failure::new(Exit::Unavailable, error)),
            None => {
                Ok(Took { without_offset: reports.without_offset.load(Ordering::Relaxed) - unproven, ..took })
            }
        }
    }

    fn send(&self, topic: &str, record: &NewRecord) -> Result<(), Failure> {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let headers = record
            .headers
            .iter()
            .fold(headers, |headers, (name, value)| headers.insert(Header { key: name, value: Some(value) }));
        let mut new = BaseRecord::to(topic).key(&record.key).payload(&record.value[..]).headers(headers);
        while let Err((error, back)) = self.producer.send(new) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(Failure::new(Exit::Unavailable, error));
            }
            new = back;
            pause(LOOK_EVERY);
        }
        Ok(())
    }

    /// Reads `records` records from `begins` on, measured from the first to the last.
    pub(super) fn read(
        &self,
        topic: &str,
        begins: &BTreeMap<u32, u64>,
        records: u64,
    ) -> Result<Took, Failure> {
        let fail = |error: KafkaError| Failure::new(Exit::Unavailable, error);
        let consumer: BaseConsumer = self.reading.create().map_err(fail)?;
        let mut assignment = TopicPartitionList::with_capacity(begins.len());
        for (partition, offset) in begins {
            let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
            assignment.add_partition_offset(topic, *partition as i32, offset).map_err(fail)?;
        }
        consumer.assign(&assignment).map_err(fail)?;
        let mut watch = None;
        let (mut seen, mut bytes) = (0, 0);
        while seen < records {
            let message = match consumer.poll(SILENCE) {
                Some(message) => message.map_err(fail)?,
                None => return Err(unavailable(silent(topic, seen, records))),
            };
            watch.get_or_insert_with(Stopwatch::start);
            seen += 1;
            bytes += message.payload_len() as u64;
        }
        Ok(watch.unwrap_or_else(Stopwatch::start).stop(seen, bytes))
    }
}
