//! A bus whose topics are called otherwise where they really are: several fleets can share one Kafka.
//!
//! Only names change, in both directions; what is not named keeps its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Bus, BusError, Extent, NewRecord, Position, StartAt, Subscription, TopicSpec};

/// See the module.
#[derive(Debug)]
pub struct Renamed {
    inner: Arc<dyn Bus>,
    names: BTreeMap<&'static str, String>,
}

impl Renamed {
    /// `names` are ours, and those of the bus beneath.
    pub fn new(inner: Arc<dyn Bus>, names: BTreeMap<&'static str, String>) -> Self {
        Self { inner, names }
    }

    fn real<'a>(&'a self, topic: &'a str) -> &'a str {
        self.names.get(topic).map_or(topic, String::as_str)
    }
}

#[async_trait]
impl Bus for Renamed {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), BusError> {
        let real = |topic: &TopicSpec| TopicSpec { name: self.real(&topic.name).to_owned(), ..topic.clone() };
        self.inner.ensure_topics(&topics.iter().map(real).collect::<Vec<_>>()).await
    }

    async fn publish(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, BusError> {
        self.inner.publish(self.real(topic), records).await
    }

    async fn subscribe(&self, topic: &str, from: StartAt) -> Result<Subscription, BusError> {
        self.inner.subscribe(self.real(topic), from).await
    }

    async fn join(&self, topic: &str, group: &str) -> Result<Subscription, BusError> {
        self.inner.join(self.real(topic), group).await
    }

    async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError> {
        self.inner.extents(self.real(topic)).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bus::Retention;
    use crate::bus::embedded::{EmbeddedBus, Options};

    #[tokio::test]
    async fn what_is_published_under_our_name_lies_under_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let real = Arc::new(EmbeddedBus::open(directory.path(), Options::default()).unwrap());
        let ours = Renamed::new(real.clone(), BTreeMap::from([("commands", "prod.commands".to_owned())]));
        let retention = Retention { age: Duration::from_secs(3600), bytes: u64::MAX, compacted: false };
        let spec = |name: &str| TopicSpec { name: name.to_owned(), partitions: 1, retention };
        ours.ensure_topics(&[spec("commands"), spec("other")]).await.unwrap();
        let record = NewRecord { key: "a".to_owned(), ..NewRecord::default() };
        ours.publish("commands", vec![record.clone()]).await.unwrap();
        ours.publish("other", vec![record]).await.unwrap();
        let high = async |topic: &str| real.extents(topic).await.map(|extents| extents[0].high);
        assert_eq!(high("prod.commands").await.unwrap(), 1);
        assert_eq!(high("other").await.unwrap(), 1);
        assert!(matches!(high("commands").await, Err(BusError::NoSuchTopic { .. })));
        let mut read = ours.subscribe("commands", StartAt::Earliest).await.unwrap();
        assert_eq!(read.next().await.unwrap().unwrap().key, "a");
    }
}
