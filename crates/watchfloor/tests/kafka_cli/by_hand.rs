//! Kafka's own console tools: a person types a command, and reads JSON on all four topics.

use serde_json::Value;

use crate::fleet::{Fleet, World};

/// What the console consumer prints, each line as JSON.
fn consume(world: &World, topic: &str, until: &[&str]) -> Vec<Value> {
    let run = world.tool("kafka-console-consumer", topic, &[&["--from-beginning"], until].concat(), "");
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    run.out.lines().map(line).collect()
}

#[test]
fn a_command_typed_with_two_fields_acts_and_all_four_topics_are_json() {
    let fleet = Fleet::start(1);
    let world = &fleet.world;
    let agent = world.agent(1);
    let typed = format!("{{\"agent_id\":\"{agent}\",\"type\":\"STOP\"}}\n");
    let run = world.tool("kafka-console-producer", "commands", &[], &typed);
    assert_eq!(run.code, 0, "{run:?}");

    // It ends once nothing came for a while; the answer may take longer.
    let answer = loop {
        let responses = consume(world, "command-responses", &["--timeout-ms", "3000"]);
        if let Some(answer) = responses.into_iter().find(|response| response["final"] == true) {
            break answer;
        }
    };
    assert_eq!((&answer["agent_id"], &answer["state"]), (&agent.as_str().into(), &"SUCCEEDED".into()));
    assert!(answer["command_id"].as_str().unwrap().starts_with("c-"), "{answer}");

    for (topic, field, until) in [
        ("monitoring-data", "metrics", &["--max-messages", "1"][..]),
        ("commands", "type", &["--max-messages", "1"]),
        // Every agent of the registry is on it.
        ("agent-status", "status", &["--timeout-ms", "3000"]),
    ] {
        let records = consume(world, topic, until);
        let ours = records.iter().find(|record| record["agent_id"] == agent.as_str());
        assert!(ours.is_some_and(|record| !record[field].is_null()), "{topic}: {records:?}");
    }
    let state = world.json(&["send-command", &agent, "STATUS"]);
    assert_eq!(state[0]["result"]["state"], "PAUSED", "the typed command has acted");
}

#[test]
fn what_others_write_stops_no_reader() {
    let fleet = Fleet::start(1);
    let world = &fleet.world;
    let strange = "no JSON\n{\"agent_id\":\"other\"}\n";
    for topic in ["monitoring-data", "command-responses"] {
        assert_eq!(world.tool("kafka-console-producer", topic, &[], strange).code, 0);
    }
    let follow = ["get-metrics", "--follow", &world.flag()];
    crate::sandbox::Process::spawn(world.command(&follow)).wait_for(&world.agent(1));
    let newest = world.cli(&["get-metrics", &world.flag()]);
    assert!(newest.code == 0 && newest.err.contains("2 records could not be read"), "{newest:?}");
    assert_eq!(world.cli(&["send-command", &world.agent(1), "STATUS", &world.flag()]).code, 0);
}
