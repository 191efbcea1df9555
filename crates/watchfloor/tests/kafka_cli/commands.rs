//! Orders on the topic, and their outcomes from it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::{Fleet, World};

fn states(responses: &Value) -> Vec<(&str, &str)> {
    let responses = responses.as_array().unwrap().iter();
    responses.map(|r| (r["agent_id"].as_str().unwrap(), r["state"].as_str().unwrap())).collect()
}

#[test]
fn an_order_is_obeyed_and_answered_with_no_api() {
    let fleet = Fleet::start(2);
    let world = &fleet.world;
    let (first, second, kafka) = (world.agent(1), world.agent(2), world.flag());

    let status = world.json(&["send-command", &first, "STATUS"]);
    assert_eq!(states(&status), [(first.as_str(), "SUCCEEDED")]);
    assert_eq!(status[0]["final"], true);
    assert_eq!(status[0]["result"]["state"], "COLLECTING");
    for (kind, state) in [("STOP", "PAUSED"), ("START", "COLLECTING")] {
        let table = world.cli(&["send-command", &kafka, &first, kind]);
        assert!(table.code == 0 && table.out.contains("SUCCEEDED"), "{table:?}");
        assert_eq!(world.json(&["send-command", &first, "STATUS"])[0]["result"]["state"], state);
    }

    let selector = format!("fleet={}", world.name);
    let registry = format!("etcd://{}", world.etcd);
    let selected = world.json(&["send-command", "-l", &selector, "STATUS", "--registry", &registry]);
    assert_eq!(states(&selected), [(first.as_str(), "SUCCEEDED"), (second.as_str(), "SUCCEEDED")]);
    // The registry knows agents of other tests too; they do not hear this one.
    let all = ["send-command", "--all", "STATUS", "--timeout", "2s", "-o", "json", &kafka];
    let all = world.cli(&[&all[..], &["--registry", &registry]].concat());
    let all: Value = serde_json::from_str(&all.out).unwrap();
    for agent in [&first, &second] {
        assert!(states(&all).contains(&(agent.as_str(), "SUCCEEDED")), "{all}");
    }
    let without = world.cli(&["send-command", "--all", "STATUS", &kafka]);
    assert!(without.code == 3 && without.err.contains("--all needs the inventory"), "{without:?}");
}

#[test]
fn the_same_id_acts_once_and_another_order_under_it_is_refused() {
    let fleet = Fleet::start(1);
    let world = &fleet.world;
    let agent = world.agent(1);
    let order = || world.json(&["send-command", &agent, "RESTART", "--command-id", "once"]);
    let first = order();
    assert!(first[0]["result"]["new_incarnation"].is_string(), "{first}");
    assert_eq!(order(), first, "the same order has the same outcome");
    let other = world.cli(&["send-command", &agent, "STOP", "--command-id", "once", &world.flag()]);
    assert!(other.code == 1 && other.err.contains("once"), "{other:?}");
    let later =
        world.cli(&["send-command", &agent, "STATUS", "--no-wait", "--command-id", "c", &world.flag()]);
    assert!(later.code == 0 && later.out.starts_with("c for 1 agent until"), "{later:?}");
}

#[test]
fn the_monitor_answers_for_an_agent_that_is_not_there() {
    let fleet = Fleet::start(1);
    let run = fleet.world.cli(&["send-command", "nobody", "STATUS", "--timeout", "1s", &fleet.world.flag()]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.out.contains("EXPIRED") && run.out.contains("no agent nobody has ever connected"), "{run:?}");
}

#[test]
fn where_neither_agent_nor_monitor_answers_the_outcome_is_unknown_in_time() {
    let world = World::new();
    let (_server, _) = world.server();
    let order = ["send-command", "nobody", "STATUS", "--timeout", "1s", &world.flag()];
    let asked = Instant::now();
    let run = world.cli(&order);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.out.contains("UNKNOWN") && run.out.contains("nobody answered"), "{run:?}");
    assert!(run.err.contains("is a monitor running") && run.err.contains(&world.kafka), "{run:?}");

    let json = world.cli(&[&order[..], &["-o", "json"]].concat());
    let responses: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(states(&responses), [("nobody", "UNKNOWN")]);
    assert_eq!((&responses[0]["final"], &responses[0]["success"]), (&false.into(), &false.into()));
}
