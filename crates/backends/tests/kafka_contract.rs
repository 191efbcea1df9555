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

use async_trait::async_trait;
use backends::bus::Bus;
use backends::bus::contract::Fixture;
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
