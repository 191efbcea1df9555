//! The laws of the bus on a real Apache Kafka.
//!
//!     deploy/dev/kafka start /tmp/kafka 9092
//!     WATCHFLOOR_TEST_KAFKA=127.0.0.1:9092 cargo test -p backends --features kafka-broker --test kafka_contract
//!
//! Without the feature none of this is built, and so none is counted; with it and without a broker every test fails and
//! says why. Nothing passes that did not run. The laws about retention and compaction are left out: a broker's clock
//! cannot be moved.

mod kafka;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backends::bus::contract::Fixture;
use backends::bus::embedded::{EmbeddedBus, Options};
use backends::bus::kafka::KafkaBus;
use backends::bus::{Bus, BusError, NewRecord, Position, Retention, TopicSpec};
use kafka::{Apart, Open, fresh_prefix, options};

struct Broker {
    address: String,
    prefix: String,
    open: Open,
}

impl Broker {
    fn new() -> Self {
        let address = std::env::var("WATCHFLOOR_TEST_KAFKA").expect(
            "WATCHFLOOR_TEST_KAFKA=host:port names no broker: start one with deploy/dev/kafka start DIRECTORY",
        );
        Self { address, prefix: fresh_prefix(), open: Open::default() }
    }
}

#[async_trait]
impl Fixture for Broker {
    async fn open(&self) -> Arc<dyn Bus> {
        self.open.add(Apart::connect(options(&self.address), &self.prefix))
    }

    async fn close(&self, bus: Arc<dyn Bus>) {
        let bus = self.open.take(&bus).expect("it was opened here");
        bus.bus.close().await.expect("the bus closes in time");
    }
}

backends::bus_contract!(Broker::new());

/// So that a fleet's agents are found in the same partitions whichever bus it moves to.
#[tokio::test]
async fn a_key_lands_where_it_does_on_the_embedded_bus() {
    let retention = Retention { age: Duration::from_secs(86_400), bytes: u64::MAX, compacted: false };
    let topics = [TopicSpec { name: "t".to_owned(), partitions: 12, retention }];
    let keys = ["agent-001", "worker1", "ключ", "a-longer-name.example.org"];
    let records = keys.map(|key| NewRecord { key: key.to_owned(), ..NewRecord::default() });
    let embedded = EmbeddedBus::in_memory(Options::default()).expect("memory needs no file");
    let kafka = Broker::new().open().await;
    let mut landed = Vec::new();
    for bus in [&embedded as &dyn Bus, &*kafka] {
        bus.ensure_topics(&topics).await.expect("the topic can be created");
        let positions = bus.publish("t", records.to_vec()).await.expect("the records can be published");
        landed.push(positions.iter().map(|Position { partition, .. }| *partition).collect::<Vec<u32>>());
    }
    assert_eq!(landed[0], landed[1]);
}

#[tokio::test]
async fn a_removed_topic_is_gone_and_can_be_made_anew() {
    let retention = Retention { age: Duration::from_secs(86_400), bytes: u64::MAX, compacted: false };
    let broker = Broker::new();
    let topic = TopicSpec { name: format!("{}removed", broker.prefix), partitions: 2, retention };
    let bus = KafkaBus::connect(options(&broker.address)).expect("the properties are valid");
    for _ in 0..2 {
        bus.ensure_topics(std::slice::from_ref(&topic)).await.expect("the topic can be created");
        bus.publish(&topic.name, vec![NewRecord::default()]).await.expect("the record can be published");
        let extents = bus.extents(&topic.name).await.expect("the topic is there");
        assert_eq!(extents.iter().map(|extent| extent.high - extent.low).sum::<u64>(), 1);
        bus.remove_topic(&topic.name).await.expect("the topic can be removed");
        let error = bus.extents(&topic.name).await.expect_err("it is removed");
        assert!(matches!(error, BusError::NoSuchTopic { .. }), "{error}");
    }
    let error = bus.remove_topic(&topic.name).await.expect_err("it is removed");
    assert!(matches!(error, BusError::NoSuchTopic { .. }), "{error}");
    bus.close().await.expect("the bus closes in time");
}
