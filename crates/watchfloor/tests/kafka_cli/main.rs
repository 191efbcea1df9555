//! `get-metrics` and `send-command` straight against a real Kafka, with no analysis service anywhere, and Kafka's own
//! console tools beside them.
//!
//!     WATCHFLOOR_TEST_KAFKA=127.0.0.1:29092 WATCHFLOOR_TEST_ETCD=127.0.0.1:22379 \
//!         cargo test -p watchfloor --features kafka-broker --test kafka_cli
//!
//! `deploy/dev/kafka` and `deploy/dev/etcd` start both. Every test has topics of its own; the registry they share, so
//! that agents have names of their own and one monitor leads at a time.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod absence;
mod by_hand;
mod commands;
mod fleet;
mod metrics;
#[expect(dead_code, reason = "shared with the acceptance tests, which use all of it")]
#[path = "../acceptance/sandbox.rs"]
mod sandbox;
