//! Ends: the first signal drains and exits 0, whatever is connected; the second leaves at once.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::sandbox::Sandbox;

#[test]
fn an_interrupt_ends_everything_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
        up.wait_for("ONLINE agent-001");
        up.signal(signal);
        assert_eq!(up.exit_code(), Some(0), "{signal:?}");
        let left = sandbox.path().join("data/server").read_dir().unwrap();
        let addresses = left.map(|entry| entry.unwrap().path().join("addresses.json"));
        assert!(addresses.into_iter().all(|path| !path.exists()), "the addresses of no process are left");
    }
}

#[test]
fn open_live_tails_do_not_hold_the_end_back() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    let follow = sandbox.follow(&["get-metrics", "--follow"]);
    follow.wait_for("agent-001");
    let asked = Instant::now();
    assert_eq!(up.interrupt(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn a_remote_agent_survives_the_end_of_its_server_and_ends_in_order_itself() {
    let (sandbox, up) = Sandbox::up(&["--no-agent"]);
    let agent = sandbox.agent("agent-001", &[]);
    up.wait_for("ONLINE agent-001");
    assert_eq!(up.interrupt(), Some(0));
    assert_eq!(agent.interrupt(), Some(0));
}

#[test]
fn what_was_said_last_is_there_after_a_restart() {
    let (mut sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    assert_eq!(sandbox.cli(&["send-command", "agent-001", "STOP"]).code, 0);
    assert_eq!(up.interrupt(), Some(0));
    let up = sandbox.start(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    assert_eq!(sandbox.json(&["status", "agent-001"])["live"]["result"]["state"], "PAUSED");
}
