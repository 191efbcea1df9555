//! A broker that dies and comes back, under a bus that stays: a real Apache Kafka, killed with SIGKILL.
//!
//!     cargo test -p backends --features kafka-broker --test kafka_outage
//!
//! Starts its own broker with deploy/dev/kafka, in a directory and on ports of its own.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use backends::bus::kafka::{KafkaBus, KafkaOptions};
use backends::bus::{Bus, BusError, NewRecord, Position, Retention, StartAt, Subscription, TopicSpec};
use runtime::Health;
use runtime::health::State;

const WITHIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker of this test's own. It ends with the test, however that ends.
struct Broker {
    directory: tempfile::TempDir,
    ports: [u16; 2],
}

impl Broker {
    fn start() -> Self {
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports =
            held.each_ref().map(|port| port.local_addr().expect("a bound port has an address").port());
        drop(held);
        let broker = Self { directory: tempfile::tempdir().expect("a directory"), ports };
        broker.restart();
        broker
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    fn restart(&self) {
        let [port, controller] = self.ports.map(|port| port.to_string());
        run(&["start", self.path(), &port, &controller]);
    }

    fn kill(&self) {
        run(&["stop", self.path(), "KILL"]);
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().expect("temporary directories have plain names")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(arguments: &[&str]) {
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev/kafka");
    let status = Command::new(script).args(arguments).status().expect("the script can be run");
    assert!(status.success(), "deploy/dev/kafka {arguments:?}: {status}");
}

fn record(value: &str) -> NewRecord {
    NewRecord { key: value.to_owned(), value: value.to_owned().into(), ..NewRecord::default() }
}

async fn publish(bus: &KafkaBus, value: &str) -> Result<Position, BusError> {
    let positions = bus.publish("t", vec![record(value)]).await?;
    Ok(*positions.first().expect("each record has a position"))
}

async fn next(subscription: &mut Subscription) -> Position {
    let next = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a record comes in time");
    next.expect("the subscription goes on").expect("an outage is not told to readers").position
}

fn assert_soon(begun: Instant, what: &str) {
    assert!(begun.elapsed() < WITHIN * 5, "{what} took {:?}", begun.elapsed());
}

/// Every call of the bus says within its time that nobody is there.
async fn assert_away(bus: &KafkaBus, spec: &TopicSpec) {
    let is_away = |error: &BusError| matches!(error, BusError::Unavailable { .. });
    let begun = Instant::now();
    assert!(publish(bus, "lost").await.is_err_and(|error| is_away(&error)));
    assert!(bus.subscribe("t", StartAt::Latest).await.is_err_and(|error| is_away(&error)));
    assert!(bus.join("t", "g").await.is_err_and(|error| is_away(&error)));
    assert!(bus.extents("t").await.is_err_and(|error| is_away(&error)));
    assert!(bus.ensure_topics(std::slice::from_ref(spec)).await.is_err_and(|error| is_away(&error)));
    assert!(begun.elapsed() < WITHIN * 10, "five calls took {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_is_survived_by_every_subscription_and_loses_no_acknowledged_record() {
    let broker = Broker::start();
    let health = Health::default();
    let mut options = KafkaOptions::new(vec![broker.address()]);
    (options.answer_within, options.publish_within) = (WITHIN, WITHIN);
    options.health = Some(health.component("bus"));
    let bus = KafkaBus::connect(options).expect("the options are valid");
    let retention = Retention { age: Duration::from_secs(86_400), bytes: u64::MAX, compacted: false };
    let spec = TopicSpec { name: "t".to_owned(), partitions: 3, retention };
    bus.ensure_topics(std::slice::from_ref(&spec)).await.expect("the topic can be created");

    let mut reader = bus.subscribe("t", StartAt::Earliest).await.expect("the topic can be read");
    let mut member = bus.join("t", "g").await.expect("the group can be joined");
    let mut acknowledged = BTreeSet::new();
    for number in 0..50 {
        acknowledged.insert(publish(&bus, &format!("before-{number}")).await.expect("the broker is there"));
    }
    let mut read = BTreeSet::new();
    let mut shared = BTreeSet::new();
    while read.len() < 50 || shared.len() < 50 {
        tokio::select! {
            position = next(&mut reader), if read.len() < 50 => read.insert(position),
            position = next(&mut member), if shared.len() < 50 => shared.insert(position),
        };
    }

    broker.kill();
    assert_away(&bus, &spec).await;
    assert!(matches!(health.report().components.get("bus"), Some(State::Degraded { .. })));

    broker.restart();
    let begun = Instant::now();
    let after = loop {
        match publish(&bus, "after").await {
            Ok(position) => break position,
            Err(error) => assert!(error.is_transient() && begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    acknowledged.insert(after);
    // The same subscriptions go on; a record given up while the broker was away may be there or not.
    while !read.contains(&after) {
        assert!(read.insert(next(&mut reader).await), "a record came twice");
    }
    while !shared.contains(&after) {
        shared.insert(next(&mut member).await);
    }
    assert!(acknowledged.is_subset(&read) && acknowledged.is_subset(&shared));
    member.commit(after).await.expect("a member can commit again");
    assert!(matches!(health.report().components.get("bus"), Some(State::Ok)));
    bus.close().await.expect("the bus closes in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_from_the_start_every_call_says_so_in_time_and_closing_is_quick() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port");
    let mut options = KafkaOptions::new(vec![nobody.to_string()]);
    (options.answer_within, options.publish_within) = (WITHIN, WITHIN);
    let bus = KafkaBus::connect(options).expect("the options are valid");
    let begun = Instant::now();
    assert!(publish(&bus, "lost").await.is_err_and(|error| error.is_transient()));
    assert!(bus.subscribe("t", StartAt::Latest).await.is_err_and(|error| error.is_transient()));
    assert_soon(begun, "two calls");
    let begun = Instant::now();
    bus.close().await.expect("nothing is queued");
    assert_soon(begun, "closing");
}
