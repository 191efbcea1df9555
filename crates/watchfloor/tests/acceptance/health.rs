//! `watchfloor health`, which the probes of containers run.

use crate::sandbox::{Process, Sandbox, command, run};

#[test]
fn a_process_is_ready_when_its_parts_have_started() {
    let (sandbox, _up) = Sandbox::up(&["--no-agent"]);
    sandbox.wait_until("readiness", || sandbox.cli(&["health"]).code == 0);
    let report = sandbox.json(&["health"]);
    assert_eq!(report["status"], "OK", "{report}");
    assert!(sandbox.cli(&["health"]).out.contains("monitor-bus"), "{report}");
}

#[test]
fn an_agent_that_finds_no_server_says_so_and_one_that_is_gone_is_not_healthy() {
    let (sandbox, _up) = Sandbox::up(&["--no-agent"]);
    let data = sandbox.data();
    let agent = ["agent", "--agent-id", "a", "--server", "127.0.0.1:1", "--http-listen", "127.0.0.1:0"];
    let agent = Process::spawn(command(agent.iter().chain(&["--data-dir", &data])));
    let line = agent.wait_for_error("health and metrics at");
    let health = ["health", "--api", line.split_whitespace().last().unwrap()];
    // It has a buffer and works: that it waits for a server is no reason to start it anew.
    let is_told =
        || run(health).out.lines().any(|line| line.contains("uplink") && line.contains("127.0.0.1:1"));
    sandbox.wait_until("the word about its server", is_told);
    assert_eq!(run(health).code, 0);
    agent.kill();
    let gone = run(health);
    assert_eq!((gone.code, gone.out.as_str()), (1, ""), "{gone:?}");
}
