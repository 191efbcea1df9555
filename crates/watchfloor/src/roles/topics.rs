//! The four topics as the embedded bus keeps them: how wide, and for how long.

use std::time::Duration;

use ::backends::bus::{Retention, TopicSpec};
use proto::record;

const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1024 * 1024;
/// Order is kept per agent; more partitions would let more readers share a group.
const PARTITIONS: u32 = 8;

/// What must exist before any role starts.
pub(super) fn all() -> [TopicSpec; 4] {
    // A week of 20 agents at 5 s with every collector on is some 10 GiB; without asking we take less.
    let data = Retention { age: DAY * 7, bytes: 4096 * MIB, compacted: false };
    let orders = Retention { age: DAY * 7, bytes: 128 * MIB, compacted: false };
    let status = Retention { age: DAY * 7, bytes: 64 * MIB, compacted: true };
    [
        topic(record::MONITORING_DATA, data),
        topic(record::COMMANDS, orders),
        topic(record::COMMAND_RESPONSES, orders),
        topic(record::AGENT_STATUS, status),
    ]
}

fn topic(name: &str, retention: Retention) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions: PARTITIONS, retention }
}
