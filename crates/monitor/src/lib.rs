//! The heartbeat monitor: says who is alive and why not, and ends the commands that nobody answered.
//!
//! Every monitor follows the registry and the bus; one leads. The leader alone publishes `agent-status`, judges agents
//! whose server is gone, writes the final state of unanswered commands and records config history. It never speaks to
//! an agent. Decisions are pure and live in [`board`]; `monitor` is the task that asks it, `intake` reads what comes,
//! `election` finds the leader, `history` records config versions.

pub mod board;
mod election;
mod history;
mod intake;
mod metrics;
mod monitor;

pub use metrics::Metrics;
pub use monitor::{Monitor, OnStatus, RunError, Settings};
