//! The five commands, on real processes: one agent, those with a label, all of them.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sandbox::{Process, Sandbox};

fn fleet() -> (Sandbox, Process, [Process; 3]) {
    let (sandbox, up) = Sandbox::up(&["--no-agent", "--timeout", "2s"]);
    let agents = [("a-1", "role=db"), ("a-2", "role=db"), ("a-3", "role=web")];
    let agents = agents.map(|(id, label)| {
        let agent = sandbox.agent(id, &["--label", label]);
        up.wait_for(&format!("ONLINE {id}"));
        agent
    });
    (sandbox, up, agents)
}

#[test]
fn each_command_reaches_one_agent_a_selector_and_all() {
    let (sandbox, _up, _agents) = fleet();
    for kind in ["STATUS", "STOP", "START", "UPDATE_CONFIG", "RESTART"] {
        for (target, expected) in [
            (&["a-1"][..], &["a-1"][..]),
            (&["-l", "role=db"], &["a-1", "a-2"]),
            (&["--all"], &["a-1", "a-2", "a-3"]),
        ] {
            let responses = sandbox.json(&[&["send-command"], target, &[kind]].concat());
            let mut agents: Vec<&str> = responses
                .as_array()
                .unwrap()
                .iter()
                .map(|response| response["agent_id"].as_str().unwrap())
                .collect();
            agents.sort_unstable();
            assert_eq!(agents, expected, "{kind} {target:?}");
            for response in responses.as_array().unwrap() {
                let state = (&response["state"], &response["final"], &response["type"]);
                assert_eq!(state, (&"SUCCEEDED".into(), &true.into(), &kind.into()));
            }
        }
    }
}

#[test]
fn stop_pauses_across_a_restart_until_start() {
    let (sandbox, _up, _agents) = fleet();
    let state = || sandbox.json(&["send-command", "a-1", "STATUS"])[0]["result"]["state"].clone();
    assert_eq!(state(), "COLLECTING");
    assert_eq!(sandbox.cli(&["send-command", "a-1", "STOP"]).code, 0);
    assert_eq!(sandbox.cli(&["send-command", "a-1", "RESTART"]).code, 0);
    assert_eq!(state(), "PAUSED");
    assert_eq!(sandbox.cli(&["send-command", "a-1", "START"]).code, 0);
    assert_eq!(state(), "COLLECTING");
}

#[test]
fn a_restarted_process_has_a_new_incarnation_and_the_same_pid() {
    let (sandbox, _up, [agent, _, _]) = fleet();
    let before = sandbox.known("a-1")["incarnation"].clone();
    let responses = sandbox.json(&["send-command", "a-1", "RESTART"]);
    let after = &responses[0]["result"]["new_incarnation"];
    assert!(after.is_string() && *after != before, "{responses}");
    assert_eq!(sandbox.known("a-1")["incarnation"], *after);
    assert_eq!(agent.interrupt(), Some(0), "the process we started is still the agent");
}

#[test]
fn an_offline_target_says_so_at_the_deadline() {
    let (sandbox, up, [agent, _second, _third]) = fleet();
    agent.kill();
    up.wait_for("OFFLINE a-1");
    let asked = Instant::now();
    let run = sandbox.cli(&["send-command", "--all", "STATUS", "--timeout", "2s"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    let line = run.out.lines().find(|line| line.starts_with("a-1")).unwrap();
    assert!(line.contains("EXPIRED"), "{run:?}");
    assert!(run.out.contains("2 of 3 succeeded, 1 EXPIRED"), "{run:?}");
}

#[test]
fn the_same_command_id_acts_once() {
    let (sandbox, _up, _agents) = fleet();
    let order = || sandbox.json(&["send-command", "a-1", "RESTART", "--command-id", "once"]);
    let first: Value = order();
    let incarnation = sandbox.known("a-1")["incarnation"].clone();
    assert_eq!(order(), first, "the same order has the same outcome");
    assert_eq!(sandbox.known("a-1")["incarnation"], incarnation, "it was not restarted again");
    let other = sandbox.cli(&["send-command", "a-2", "RESTART", "--command-id", "once"]);
    assert_eq!(other.code, 1, "another order under the same id: {other:?}");
}

#[test]
fn not_waiting_returns_with_the_order_durable() {
    let (sandbox, _up, _agents) = fleet();
    let run = sandbox.cli(&["send-command", "a-1", "STOP", "--no-wait", "--command-id", "later"]);
    assert_eq!(run.code, 0);
    assert!(run.out.starts_with("later for 1 agent"), "{run:?}");
    sandbox.wait_until("a-1 paused", || sandbox.known("a-1")["collection"] == "PAUSED");
}

#[test]
fn a_target_that_is_none_is_refused() {
    let (sandbox, _up) = Sandbox::up(&["--no-agent"]);
    for target in [&["nobody"][..], &["-l", "role=none"], &["--all"]] {
        let run = sandbox.cli(&[&["send-command"], target, &["STOP"]].concat());
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.err.starts_with("error: "), "{run:?}");
    }
}
