//! What analysis would have answered, read from the topic.

use serde_json::Value;

use crate::fleet::Fleet;
use crate::sandbox::{PATIENCE, Process};

fn agents(records: &Value) -> Vec<&str> {
    records.as_array().unwrap().iter().map(|record| record["agent_id"].as_str().unwrap()).collect()
}

#[test]
fn the_newest_the_past_and_the_live_tail_come_from_the_topic_in_every_shape() {
    let fleet = Fleet::start(2);
    let world = &fleet.world;
    let (first, second, kafka) = (world.agent(1), world.agent(2), world.flag());

    // From here on each agent has measured at least once.
    let follow = Process::spawn(world.command(&["get-metrics", "--follow", "-o", "jsonl", &kafka]));
    for agent in [&first, &second] {
        let record: Value = serde_json::from_str(&follow.wait_for(agent)).unwrap();
        assert!(record["metrics"]["memory_total_mb"].is_number(), "{record}");
    }

    assert_eq!(agents(&world.json(&["get-metrics"])), [&first, &second]);
    assert_eq!(agents(&world.json(&["get-metrics", &second])), [&second]);
    let table = world.cli(&["get-metrics", &kafka]);
    assert!(table.out.starts_with("AGENT") && table.out.lines().count() == 3, "{table:?}");
    assert_eq!((table.code, table.err.as_str()), (0, ""));

    let past = world.json(&["get-metrics", "--since", "1h"]);
    let ticks: Vec<_> = past.as_array().unwrap().iter().map(|r| (&r["agent_id"], &r["sequence"])).collect();
    assert!(ticks.iter().all(|tick| ticks.iter().filter(|other| *other == tick).count() == 1));
    let times: Vec<&str> =
        past.as_array().unwrap().iter().map(|record| record["timestamp"].as_str().unwrap()).collect();
    assert!(times.len() >= 2 && times.is_sorted(), "{times:?}");
    let csv = world.cli(&["get-metrics", "--since", "1h", "-o", "csv", &first, &kafka]);
    assert!(csv.out.starts_with("agent_id,timestamp,"), "{csv:?}");
    assert!(csv.out.lines().skip(1).all(|line| line.starts_with(&first)), "{csv:?}");

    let follow = ["get-metrics", "--follow", "--since", "1h", "-o", "jsonl", &first, &kafka];
    let follow = Process::spawn(world.command(&follow));
    let sequence = |line: &str| serde_json::from_str::<Value>(line).unwrap()["sequence"].as_u64().unwrap();
    let oldest = sequence(&follow.line());
    // The past, and then what comes.
    while sequence(&follow.line()) <= oldest + 1 {}
}

#[test]
fn labels_are_read_in_the_registry_and_what_only_the_api_can_do_is_refused_by_name() {
    let fleet = Fleet::start(1);
    let world = &fleet.world;
    let (agent, kafka) = (world.agent(1), world.flag());
    Process::spawn(world.command(&["get-metrics", "--follow", &kafka])).wait_for(&agent);

    let selector = format!("fleet={}", world.name);
    let without = world.cli(&["get-metrics", "-l", &selector, &kafka]);
    assert_eq!(without.code, 3, "{without:?}");
    assert!(without.err.contains("-l") && without.err.contains("ETCD_HOST"), "{without:?}");
    let registry = format!("etcd://{}", world.etcd);
    let chosen = world.json(&["get-metrics", "-l", &selector, "--registry", &registry]);
    assert_eq!(agents(&chosen), [&agent]);
    let nobody = world.cli(&["get-metrics", "-l", "fleet=none", "--registry", &registry, &kafka]);
    assert!(nobody.code == 1 && nobody.err.contains("no agent has the labels"), "{nobody:?}");

    let step = world.cli(&["get-metrics", "--since", "1h", "--step", "10s", &kafka]);
    assert!(step.code == 2 && step.err.contains("--step"), "{step:?}");
    let stranger = world.cli(&["get-metrics", "nobody", &kafka]);
    assert!(stranger.code == 1 && stranger.err.contains("nobody"), "{stranger:?}");
}

#[test]
fn the_environment_names_kafka_where_no_api_is_and_that_is_said() {
    let fleet = Fleet::start(1);
    let world = &fleet.world;
    Process::spawn(world.command(&["get-metrics", "--follow", &world.flag()])).wait_for(&world.agent(1));
    let mut command = world.command(&["get-metrics", "-o", "json"]);
    let output = command.env("KAFKA_BOOTSTRAP_SERVERS", &world.kafka).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("http://127.0.0.1:1") && said.contains(&world.kafka), "{said}");
    let records: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(agents(&records), [&world.agent(1)]);

    // An interrupt ends it, as anything that follows.
    let follow = Process::spawn(world.command(&["get-metrics", "--follow", &world.flag()]));
    follow.wait_for(&world.agent(1));
    let asked = std::time::Instant::now();
    assert_eq!(follow.interrupt(), None, "it has no exit code of its own");
    assert!(asked.elapsed() < PATIENCE / 10);
}
