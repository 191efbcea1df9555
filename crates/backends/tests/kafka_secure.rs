//! The bus on a Kafka that wants TLS and a password, as `deploy/dev/kafka start` makes one:
//!
//!     WATCHFLOOR_TEST_KAFKA_SECURE=127.0.0.1:9094 WATCHFLOOR_TEST_KAFKA_CA=DIRECTORY/ca.pem \
//!         cargo test -p backends --features kafka-broker --test kafka_secure

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::Duration;

use backends::bus::kafka::{KafkaBus, KafkaOptions};
use backends::bus::{Bus, BusError, NewRecord, Retention, StartAt, TopicSpec};

/// User and password of the broker that the script starts.
const SECRET: &str = "watchfloor";
const TOPIC: &str = "secure";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see the head of this file"))
}

fn bus(mechanism: &str, password: &str, own: &[(&str, &str)]) -> KafkaBus {
    let mut options = KafkaOptions::new(vec![variable("WATCHFLOOR_TEST_KAFKA_SECURE")]);
    options.answer_within = Duration::from_secs(5);
    let authority = variable("WATCHFLOOR_TEST_KAFKA_CA");
    let properties = [
        ("security.protocol", "sasl_ssl"),
        ("ssl.ca.location", authority.as_str()),
        ("sasl.mechanism", mechanism),
        ("sasl.username", SECRET),
        ("sasl.password", password),
    ];
    for (name, value) in properties.iter().chain(own) {
        options.properties.insert((*name).to_owned(), (*value).to_owned());
    }
    KafkaBus::connect(options).unwrap()
}

async fn ensure(bus: &KafkaBus) -> Result<(), BusError> {
    let retention = Retention { age: Duration::from_secs(3_600), bytes: u64::MAX, compacted: false };
    bus.ensure_topics(&[TopicSpec { name: TOPIC.to_owned(), partitions: 1, retention }]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_pass_with_either_mechanism_and_either_compression() {
    for (mechanism, compression) in [("PLAIN", "lz4"), ("SCRAM-SHA-512", "zstd")] {
        let bus = bus(mechanism, SECRET, &[("compression.type", compression)]);
        ensure(&bus).await.unwrap();
        let mut read = bus.subscribe(TOPIC, StartAt::Latest).await.unwrap();
        let record =
            NewRecord { key: mechanism.to_owned(), value: "x".repeat(9_000).into(), ..NewRecord::default() };
        bus.publish(TOPIC, vec![record.clone()]).await.unwrap();
        let found = read.next().await.unwrap().unwrap();
        assert_eq!((found.key, found.value), (record.key, record.value));
        drop(read);
        bus.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_no_answer_and_one_that_may_pass() {
    let bus = bus("SCRAM-SHA-512", "guessed", &[]);
    let error = ensure(&bus).await.unwrap_err();
    assert!(error.is_transient(), "an operator may mend it while we run: {error}");
    assert!(!format!("{error:?} {bus:?}").contains("guessed"));
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_certificate_nobody_signed_is_not_spoken_to() {
    // The machine's own authorities do not know it.
    let bus = bus("PLAIN", SECRET, &[("ssl.ca.location", "probe")]);
    assert!(ensure(&bus).await.unwrap_err().is_transient());
    bus.close().await.unwrap();
}
