//! A broker for tests, and a view on it that is each test's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use backends::bus::kafka::{KafkaBus, KafkaOptions};
use backends::bus::{Bus, BusError, Extent, NewRecord, Position, StartAt, Subscription, TopicSpec};

/// The bus with names of topics and groups that no other test has.
#[derive(Debug)]
pub(crate) struct Apart {
    pub(crate) bus: KafkaBus,
    prefix: String,
}

/// A prefix that neither another test nor an earlier run on the same broker has.
pub(crate) fn fresh_prefix() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{}-{}-", since.as_micros(), std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn options(bootstrap: &str) -> KafkaOptions {
    KafkaOptions::new(vec![bootstrap.to_owned()])
}

impl Apart {
    pub(crate) fn connect(options: KafkaOptions, prefix: &str) -> Arc<Self> {
        let bus = KafkaBus::connect(options).expect("the properties are valid");
        Arc::new(Self { bus, prefix: prefix.to_owned() })
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Errors name topics as the test does.
    fn shorten(&self, error: BusError) -> BusError {
        let short = |topic: String| topic.strip_prefix(&self.prefix).map(str::to_owned).unwrap_or(topic);
        match error {
            BusError::NoSuchTopic { topic } => BusError::NoSuchTopic { topic: short(topic) },
            BusError::Unfit { topic, found, wanted } => {
                BusError::Unfit { topic: short(topic), found, wanted }
            }
            BusError::TooLarge { topic, bytes, max } => {
                BusError::TooLarge { topic: short(topic), bytes, max }
            }
            other => other,
        }
    }
}

#[async_trait]
impl Bus for Apart {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), BusError> {
        let topics: Vec<TopicSpec> =
            topics.iter().map(|topic| TopicSpec { name: self.full(&topic.name), ..topic.clone() }).collect();
        self.bus.ensure_topics(&topics).await.map_err(|error| self.shorten(error))
    }

    async fn publish(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, BusError> {
        self.bus.publish(&self.full(topic), records).await.map_err(|error| self.shorten(error))
    }

    async fn subscribe(&self, topic: &str, from: StartAt) -> Result<Subscription, BusError> {
        self.bus.subscribe(&self.full(topic), from).await.map_err(|error| self.shorten(error))
    }

    async fn join(&self, topic: &str, group: &str) -> Result<Subscription, BusError> {
        let joined = self.bus.join(&self.full(topic), &self.full(group)).await;
        joined.map_err(|error| self.shorten(error))
    }

    async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError> {
        self.bus.extents(&self.full(topic)).await.map_err(|error| self.shorten(error))
    }
}

/// What is open, so that a fixture can close what it is handed as `dyn Bus`.
#[derive(Debug, Default)]
pub(crate) struct Open(std::sync::Mutex<BTreeMap<usize, Arc<Apart>>>);

impl Open {
    pub(crate) fn add(&self, bus: Arc<Apart>) -> Arc<dyn Bus> {
        self.0.lock().expect("no test panics here").insert(Arc::as_ptr(&bus).addr(), Arc::clone(&bus));
        bus
    }

    pub(crate) fn take(&self, bus: &Arc<dyn Bus>) -> Option<Arc<Apart>> {
        self.0.lock().expect("no test panics here").remove(&Arc::as_ptr(bus).addr())
    }
}
