//! Roles that start before Kafka and etcd do: they say what they wait for, and begin by themselves.

use serde_json::Value;

use crate::fleet::{Fleet, wait_until};
use crate::outside::Outside;

#[test]
fn roles_that_start_first_wait_say_why_and_begin_by_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let outside = Outside::start(directory.path());
    outside.kill_kafka();
    outside.stop_etcd();
    let mut fleet = Fleet::new(directory.path(), outside.flags());
    fleet.server("s1");
    fleet.monitor("m1");
    fleet.analysis("a1");
    fleet.agent("agent-001");

    for id in ["s1", "m1", "a1"] {
        wait_until("word of both", || {
            let health = fleet.health(id);
            let reasons =
                health["components"].as_object().unwrap().values().filter_map(|part| part["reason"].as_str());
            let reasons: Vec<&str> = reasons.collect();
            let tells = |word: &str| reasons.iter().any(|reason| reason.contains(word));
            health["status"] == "DEGRADED" && tells("Kafka") && tells("etcd") && tells("Connection refused")
        });
    }
    outside.start_etcd();
    outside.start_kafka();
    for id in ["s1", "m1", "a1"] {
        wait_until("health", || fleet.health(id)["status"] == "OK");
    }
    wait_until("an agent ONLINE", || {
        let agents = fleet.cli("a1", &["agents", "-o", "json"]);
        serde_json::from_str::<Value>(&agents.out).is_ok_and(|agents| agents[0]["status"] == "ONLINE")
    });
    let status = fleet.cli("a1", &["send-command", "agent-001", "STATUS"]);
    assert_eq!(status.code, 0, "{status:?}");
}
