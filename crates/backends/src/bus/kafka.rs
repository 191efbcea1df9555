//! The bus on Apache Kafka, by librdkafka.
//!
//! One idempotent producer publishes ([`publisher`]); its delivery report is the acknowledgement. Every subscription has
//! a consumer and a thread of its own ([`reader`]). One more client answers questions about topics ([`questions`]).
//! librdkafka reconnects by itself: while the brokers are away, calls end in [`BusError::Unavailable`] within the bounds
//! of [`KafkaOptions`], and subscriptions stay open and go on where they were.
//!
//! It never commits for a reader, never creates a topic that was not asked for, and uses no transactions.

mod publisher;
mod questions;
mod reader;
mod settings;
mod telemetry;
mod topics;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::limit::BUS_VALUE_BYTES_MAX;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use runtime::{Component, Scope};

use self::publisher::Publisher;
use self::questions::Questions;
use self::settings::Settings;
use self::telemetry::Telemetry;
use super::{Bus, BusError, Extent, NewRecord, Position, StartAt, Subscription, TopicSpec};

/// For what is queued, and for the threads of subscriptions; a member's goodbye to its group may need the brokers.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// Key and headers beside a value of full size, as in the embedded bus; Kafka's own limit leaves 48 588 bytes.
const RECORD_BYTES_MAX: usize = BUS_VALUE_BYTES_MAX + 48_000;

/// Which cluster, and how to speak to it.
#[derive(Clone)]
pub struct KafkaOptions {
    /// `host:port` of brokers to begin with.
    pub bootstrap: Vec<String>,
    /// Any property of librdkafka, for every client, except those that the laws of the bus rest on.
    pub properties: BTreeMap<String, String>,
    /// Copies of each partition of topics that are created; the brokers' default when not given.
    pub replication: Option<u16>,
    /// A question about topics or offsets, or a commit, is given up after this.
    pub answer_within: Duration,
    /// Records not acknowledged by then are given up; they may be there all the same.
    pub publish_within: Duration,
    /// Told when no broker can be reached, and when one answers again.
    pub health: Option<Component>,
    /// Gets `watchfloor_kafka_*`.
    pub metrics: Option<prometheus::Registry>,
}

impl KafkaOptions {
    pub fn new(bootstrap: Vec<String>) -> Self {
        Self {
            bootstrap,
            properties: BTreeMap::new(),
            replication: None,
            answer_within: Duration::from_secs(10),
            publish_within: Duration::from_secs(30),
            health: None,
            metrics: None,
        }
    }

    /// All that librdkafka is told about publishing, passwords included: to measure it without us, as we use it.
    pub fn publishing_properties(&self) -> Result<BTreeMap<String, String>, BusError> {
        Ok(properties(&self.settings()?.publishing()))
    }

    /// The same about reading alone.
    pub fn reading_properties(&self) -> Result<BTreeMap<String, String>, BusError> {
        Ok(properties(&self.settings()?.reading()))
    }

    fn settings(&self) -> Result<Settings, BusError> {
        Settings::new(
            &self.bootstrap,
            self.properties.clone(),
            self.replication,
            self.answer_within,
            self.publish_within,
        )
    }
}

fn properties(config: &ClientConfig) -> BTreeMap<String, String> {
    config.config_map().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl fmt::Debug for KafkaOptions {
    /// Without the values of properties: passwords are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("bootstrap", &self.bootstrap)
            .field("properties", &self.properties.keys())
            .field("replication", &self.replication)
            .finish_non_exhaustive()
    }
}

/// The bus on Kafka. Dropping it stops its threads soon; [`KafkaBus::close`] waits for them.
pub struct KafkaBus {
    settings: Settings,
    telemetry: Arc<Telemetry>,
    publisher: Publisher,
    questions: Arc<Questions>,
    /// Topics that were seen, and their partitions.
    known: Mutex<BTreeMap<String, u32>>,
    scope: Scope,
}

impl KafkaBus {
    /// Makes the clients. Needs no broker: one that is away is waited for by each call. Fails on properties that
    /// librdkafka does not take.
    ///
    /// Call it inside a tokio runtime: waiting for the threads' ends runs there.
    pub fn connect(options: KafkaOptions) -> Result<Self, BusError> {
        let settings = options.settings()?;
        let telemetry = Arc::new(Telemetry::new(options.health, options.metrics.as_ref())?);
        let publisher = Publisher::new(&settings, Arc::clone(&telemetry))?;
        let scope = Scope::new("kafka-bus");
        let questions = Questions::open(&settings, Arc::clone(&telemetry), &scope)?;
        Ok(Self { settings, telemetry, publisher, questions, known: Mutex::default(), scope })
    }

    /// Waits for the reports of what is queued and ends every subscription. Later calls give [`BusError::Closed`].
    pub async fn close(&self) -> Result<(), BusError> {
        self.scope.cancel();
        let published = self.publisher.close(CLOSE_WITHIN).await;
        let stopped = self.scope.stop(CLOSE_WITHIN).await;
        published?;
        stopped.map_err(|error| BusError::Unavailable { reason: error.to_string() })
    }

    /// Removes a topic and all its records. Whoever still publishes to it may make brokers create it anew.
    pub async fn remove_topic(&self, topic: &str) -> Result<(), BusError> {
        self.check_open()?;
        self.forget(topic);
        topics::remove(&self.settings, topic).await
    }

    fn check_open(&self) -> Result<(), BusError> {
        if self.scope.stopping().is_cancelled() { Err(BusError::Closed) } else { Ok(()) }
    }

    /// The partitions of a topic; asks the brokers only about topics not seen before.
    async fn width(&self, topic: &str) -> Result<u32, BusError> {
        self.check_open()?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        if let Some(width) = known {
            return Ok(width);
        }
        let width = self.questions.width(topic).await?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), width);
        Ok(width)
    }

    /// The next call asks again: the topic may be gone, or wider than before.
    fn forget(&self, topic: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }
}

impl Drop for KafkaBus {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBus").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), BusError> {
        self.check_open()?;
        topics::ensure(&self.settings, &self.questions, topics).await
    }

    async fn publish(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, BusError> {
        for record in &records {
            check_size(topic, record)?;
        }
        // Asked first, because publishing makes brokers create topics.
        self.width(topic).await?;
        let published = self.publisher.publish(topic, records).await;
        if matches!(published, Err(BusError::NoSuchTopic { .. })) {
            self.forget(topic);
        }
        published
    }

    async fn subscribe(&self, topic: &str, from: StartAt) -> Result<Subscription, BusError> {
        self.check_open()?;
        let begins = self.questions.begins(topic, from).await?;
        reader::alone(&self.settings, Arc::clone(&self.telemetry), &self.scope, topic, begins)
    }

    async fn join(&self, topic: &str, group: &str) -> Result<Subscription, BusError> {
        self.check_open()?;
        self.questions.width(topic).await?;
        reader::member(&self.settings, Arc::clone(&self.telemetry), &self.scope, topic, group).await
    }

    async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError> {
        self.check_open()?;
        self.questions.extents(topic).await
    }
}

fn check_size(topic: &str, record: &NewRecord) -> Result<(), BusError> {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let whole = record.key.len() + record.value.len() + headers;
    for (bytes, max) in [(record.value.len(), BUS_VALUE_BYTES_MAX), (whole, RECORD_BYTES_MAX)] {
        if bytes > max {
            return Err(BusError::TooLarge { topic: topic.to_owned(), bytes, max });
        }
    }
    Ok(())
}

/// What a failure of librdkafka means for a caller who works with `topic`.
///
/// All but a missing topic may pass: brokers come back, and an operator can mend rights and passwords while we run.
fn failure(topic: &str, error: &KafkaError) -> BusError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            BusError::NoSuchTopic { topic: topic.to_owned() }
        }
        _ => BusError::Unavailable { reason: format!("{topic}: {error}") },
    }
}

/// What librdkafka would not take: no later try can succeed.
fn refused(error: &KafkaError) -> BusError {
    BusError::Store {
        reason: format!("the Kafka client was not created, check the Kafka properties: {error}"),
    }
}
