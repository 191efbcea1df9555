//! Who is alive, and why not: deaths, returns, and deaths of the server.

use std::time::{Duration, Instant};

use crate::sandbox::Sandbox;

/// `--timeout` of these tests, and what the promise adds to it.
const TIMEOUT: Duration = Duration::from_secs(1);
const PROMISE: Duration = Duration::from_secs(2);

#[test]
fn a_killed_agent_is_offline_in_time_with_the_cause_and_comes_back_as_a_new_incarnation() {
    let (sandbox, up) = Sandbox::up(&["--no-agent", "--timeout", "1s"]);
    let agent = sandbox.agent("agent-001", &[]);
    up.wait_for("ONLINE agent-001");
    let incarnation = sandbox.known("agent-001")["incarnation"].clone();

    let killed = Instant::now();
    agent.kill();
    let (line, _) = up.wait_within("OFFLINE agent-001", TIMEOUT + PROMISE);
    assert!(line.contains("connection lost"), "{line}");
    // Silence began with the last heartbeat, a tenth of the timeout before the end at most.
    assert!(killed.elapsed() > TIMEOUT * 8 / 10, "called OFFLINE before the timeout: {:?}", killed.elapsed());
    sandbox.wait_until("OFFLINE in the list", || sandbox.known("agent-001")["status"] == "OFFLINE");
    assert_eq!(sandbox.known("agent-001")["reason"], "connection_lost");
    let status = sandbox.cli(&["status", "agent-001"]);
    assert_eq!(status.code, 0);
    assert!(status.out.contains("no live answer: it is not connected"), "{status:?}");

    let _agent = sandbox.agent("agent-001", &[]);
    up.wait_for("ONLINE agent-001");
    sandbox.wait_until("ONLINE in the list", || sandbox.known("agent-001")["status"] == "ONLINE");
    assert_ne!(sandbox.known("agent-001")["incarnation"], incarnation);
}

#[test]
fn an_agent_that_leaves_in_order_is_shut_down_not_offline() {
    let (sandbox, up) = Sandbox::up(&["--no-agent", "--timeout", "1s"]);
    let agent = sandbox.agent("agent-001", &[]);
    up.wait_for("ONLINE agent-001");
    assert_eq!(agent.interrupt(), Some(0));
    let (_, others) = up.wait_within("SHUTDOWN agent-001", PROMISE);
    assert!(others.iter().all(|line| !line.contains("OFFLINE")), "{others:?}");
}

#[test]
fn a_killed_server_comes_back_to_its_agents_config_and_history_and_calls_nobody_offline() {
    let flags = ["--no-agent", "--timeout", "1s"];
    let (mut sandbox, up) = Sandbox::up(&flags);
    let _agents = ["a-1", "a-2"].map(|id| {
        let agent = sandbox.agent(id, &[]);
        up.wait_for(&format!("ONLINE {id}"));
        agent
    });
    assert_eq!(sandbox.cli(&["config", "set", "a-1", r#"{"interval": 0.3}"#]).code, 0);
    let follow = sandbox.follow(&["get-metrics", "a-1", "--follow", "-o", "jsonl"]);
    let seen: serde_json::Value = serde_json::from_str(&follow.line()).unwrap();
    drop(follow);
    let incarnation = sandbox.known("a-1")["incarnation"].clone();

    up.kill();
    let up = sandbox.start(&flags);
    // Commands wait for agents: that both answer says that both are back.
    let run = sandbox.cli(&["send-command", "--all", "STATUS"]);
    assert_eq!((run.code, run.out.contains("2 of 2 succeeded")), (0, true), "{run:?}");
    sandbox.wait_until("both ONLINE", || {
        ["a-1", "a-2"].iter().all(|id| sandbox.known(id)["status"] == "ONLINE")
    });
    let lines = up.rest();
    assert!(lines.iter().all(|line| !line.contains("OFFLINE")), "{lines:#?}");
    assert_eq!(sandbox.known("a-1")["incarnation"], incarnation, "the agents lived on");

    assert_eq!(sandbox.cli(&["config", "get", "a-1"]).out.trim(), r#"{"interval": 0.3}"#);
    sandbox.wait_until("the history", || {
        let past = sandbox.json(&["get-metrics", "a-1", "--since", "1h"]);
        past.as_array().unwrap().iter().any(|record| record["sequence"] == seen["sequence"])
    });
}

#[test]
fn two_live_agents_with_one_id_are_told_apart() {
    let (sandbox, up) = Sandbox::up(&["--no-agent", "--timeout", "2s"]);
    let _first = sandbox.agent("agent-001", &[]);
    up.wait_for("ONLINE agent-001");
    let elsewhere = sandbox.path().join("elsewhere").display().to_string();
    let server = sandbox.grpc.clone();
    let second = ["agent", "--agent-id", "agent-001", "--server", &server, "--data-dir", &elsewhere];
    let _second = crate::sandbox::Process::spawn(crate::sandbox::command(second));
    let line = up.wait_for("DUPLICATE agent-001");
    assert!(line.contains("two live agents use this id"), "{line}");
}
