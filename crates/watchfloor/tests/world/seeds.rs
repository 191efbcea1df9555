//! The commands of the seed documents, as they stand there, by the tools they name.
//!
//! `WATCHFLOOR_TEST_PYTHON` is a Python that has `etcd3`; `scripts/test` makes one.

use std::process::Command;

use crate::fleet::{Fleet, wait_until};
use crate::outside::{Outside, succeeded};
use crate::sandbox::Process;

/// The first seed's etcd.
const ETCD: u16 = 32379;
const WORKER_1: &str = r"import etcd3, json; etcd3.client(host='localhost', port=32379).put('/monitor/config/worker1', json.dumps({'interval': 1}))";
const WORKER_2: &str = r"import etcd3, json; etcd3.client(host='localhost', port=32379).put('/monitor/config/worker2', json.dumps({'interval': 0.5}))";
/// An agent of the first seed: a key under a lease of its own, renewed once and then no more.
const FOREIGN_AGENT: &str = r"import etcd3; c = etcd3.client(host='localhost', port=32379); l = c.lease(3); c.put('/monitor/heartbeat/worker9', 'alive', lease=l); l.refresh()";
/// The second seed's config format.
const CONFIG: &str = r#"{
    "interval": 2,
    "metrics": ["cpu", "memory", "disk read", "disk write", "net in", "net out"],
    "plugins": [
        "agent.plugins.deduplication.DeduplicationPlugin",
        "agent.plugins.threshold_alert.ThresholdAlertPlugin"
    ]
}"#;

#[test]
fn the_commands_of_the_seeds_work_as_they_stand() {
    let directory = tempfile::tempdir().unwrap();
    let outside = Outside::with_etcd_at(directory.path(), ETCD);
    let mut fleet = Fleet::new(directory.path(), outside.flags());
    fleet.server("s1");
    fleet.monitor("m1");
    for agent in ["worker1", "worker2", "agent-001"] {
        fleet.agent(agent);
        fleet.process("m1").wait_for(&format!("ONLINE {agent}"));
    }

    python(WORKER_1);
    python(WORKER_2);
    for (worker, seconds) in [("worker1", 1.0), ("worker2", 0.5)] {
        wait_until("the cadence", || fleet.metric(worker, "watchfloor_agent_interval_seconds") == seconds);
    }

    let watch = Process::spawn(outside.etcdctl_command(&["watch", "/monitor/config/agent-001"]));
    wait_until("the watch", || {
        outside.etcdctl(&["put", "/monitor/config/agent-001", CONFIG]);
        watch.rest().iter().any(|line| line.contains("/monitor/config/agent-001"))
    });
    wait_until("the config", || fleet.metric("agent-001", "watchfloor_agent_interval_seconds") == 2.0);
    let stored = outside.etcdctl(&["get", "/monitor/config/agent-001"]);
    assert!(stored.contains("DeduplicationPlugin"), "{stored}");

    python(FOREIGN_AGENT);
    let (line, _) = fleet.process("m1").wait_within("ONLINE worker9", crate::fleet::PATIENCE);
    assert!(line.contains("another agent program"), "{line}");
    fleet.process("m1").wait_within("OFFLINE worker9", crate::fleet::PATIENCE);
}

fn python(program: &str) {
    let python = std::env::var("WATCHFLOOR_TEST_PYTHON")
        .expect("WATCHFLOOR_TEST_PYTHON names a Python that has etcd3: scripts/test makes one");
    let mut command = Command::new(python);
    // As the seeds say for etcd3.
    command.env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python").args(["-c", program]);
    succeeded(&mut command);
}
