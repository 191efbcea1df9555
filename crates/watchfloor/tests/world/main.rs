//! The system as it is run in earnest: every role a process of its own, on a real Apache Kafka and a real etcd, with faults.
//!
//! `deploy/dev/` brings both; they and everything else listen on loopback, in a folder that goes with the test. What was
//! kept is counted by Kafka's own consumer. Built with the feature `world` only: `cargo test -p watchfloor --features world
//! --test world -- --nocapture` shows each step with its time.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod absence;
mod fleet;
mod ledger;
mod linked;
mod outside;
#[path = "../acceptance/sandbox.rs"]
#[allow(dead_code, reason = "the acceptance tests use all of it")]
mod sandbox;
mod seeds;
mod survival;
