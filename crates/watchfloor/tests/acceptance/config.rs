//! Config changes apply live; what is wrong is refused, visibly, and changes nothing.

use std::time::Duration;

use model::sample::Timestamp;
use runtime::clock;
use serde_json::Value;

use crate::sandbox::Sandbox;

#[test]
fn a_new_interval_is_kept_within_a_second_and_status_tells_it() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    let follow = sandbox.follow(&["get-metrics", "--follow", "-o", "jsonl"]);
    follow.wait_for("agent-001");
    let config = r#"{"interval": 0.2, "metrics": ["memory"]}"#;
    assert_eq!(sandbox.cli(&["config", "set", "agent-001", config]).code, 0);
    let stored = clock::wall();
    // Until then ticks are 5 s apart: two that are not show that the new interval is kept.
    let mut before: Option<Timestamp> = None;
    let kept = loop {
        let record: Value = serde_json::from_str(&follow.line()).unwrap();
        let at = Timestamp::parse(record["timestamp"].as_str().unwrap()).unwrap();
        if before.is_some_and(|before| at.since(before) < Duration::from_millis(400)) {
            break at;
        }
        before = Some(at);
    };
    assert!(kept.since(stored) < Duration::from_secs(1), "{:?}", kept.since(stored));

    sandbox
        .wait_until("config truth in the inventory", || sandbox.known("agent-001")["standing"] == "in_sync");
    let status = sandbox.json(&["status", "agent-001"]);
    let truth = &status["agent"]["config"];
    assert_eq!(truth["received"], truth["running"]);
    assert_eq!(status["live"]["result"]["interval"], 0.2);
}

#[test]
fn an_invalid_config_is_refused_with_the_path_of_the_fault() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    for (config, path) in [
        (r#"{"plugins": ["deduplication", "nope"]}"#, "plugins[1]"),
        (r#"{"interval": 0}"#, "interval"),
        (r#"{"interval": "fast"}"#, "interval"),
        (r#"{"colour": 1}"#, "colour"),
        ("interval: 5", "JSON"),
    ] {
        let run = sandbox.cli(&["config", "set", "agent-001", config]);
        assert_eq!(run.code, 1, "{config}: {run:?}");
        assert!(run.err.contains(path), "{config}: {run:?}");
        let check = sandbox.cli(&["config", "validate", config]);
        assert_eq!(check.code, 1);
        assert!(check.out.contains(path), "{config}: {check:?}");
    }
    assert_eq!(sandbox.cli(&["config", "get", "agent-001"]).code, 1, "something was stored");
}

#[test]
fn what_came_past_the_check_is_refused_by_the_agent_and_the_old_config_runs_on() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    assert_eq!(sandbox.cli(&["config", "set", "agent-001", r#"{"interval": 0.5}"#]).code, 0);
    assert_eq!(sandbox.cli(&["send-command", "agent-001", "UPDATE_CONFIG"]).code, 0);
    let bad = r#"{"interval": 0.5, "plugins": ["nope"]}"#;
    assert_eq!(sandbox.cli(&["config", "set", "agent-001", bad, "--unchecked"]).code, 0);

    let update = sandbox.cli(&["send-command", "agent-001", "UPDATE_CONFIG"]);
    assert_eq!(update.code, 1, "{update:?}");
    assert!(update.out.contains("FAILED") && update.out.contains("plugins[0]"), "{update:?}");
    sandbox
        .wait_until("the refusal in the inventory", || sandbox.known("agent-001")["standing"] == "refused");
    let status = sandbox.json(&["status", "agent-001"]);
    assert_eq!(status["agent"]["config"]["last_failed"]["path"], "plugins[0]");
    assert_eq!(status["live"]["result"]["interval"], 0.5);
    let text = sandbox.cli(&["status", "agent-001"]).out;
    assert!(text.contains("REFUSED") && text.contains("plugins[0]"), "{text}");

    assert_eq!(sandbox.cli(&["config", "rollback", "agent-001"]).code, 0);
    assert_eq!(sandbox.cli(&["send-command", "agent-001", "UPDATE_CONFIG"]).code, 0);
    sandbox.wait_until("peace", || sandbox.known("agent-001")["standing"] == "in_sync");
}

#[test]
fn a_group_configures_the_agents_its_selector_chooses() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001", "--label", "role=db"]);
    up.wait_for("ONLINE agent-001");
    let group = r#"{"selector": "role=db", "priority": 10, "config": {"interval": 2}}"#;
    assert_eq!(sandbox.cli(&["config", "set", "--group", "db", group]).code, 0);
    let effective = sandbox.json(&["config", "effective", "agent-001"]);
    assert_eq!(
        (&effective["config"]["interval"], &effective["origin"]["interval"]),
        (&2.into(), &"group db".into())
    );
    assert_eq!(sandbox.cli(&["send-command", "-l", "role=db", "UPDATE_CONFIG"]).code, 0);
    assert_eq!(sandbox.json(&["status", "agent-001"])["live"]["result"]["interval"], 2.0);
}

#[test]
fn a_write_that_was_based_on_an_older_revision_is_refused() {
    let (sandbox, _up) = Sandbox::up(&["--no-agent"]);
    let set = |text: &str, expect: &str| {
        sandbox.cli(&["config", "set", "agent-001", text, "--expect-revision", expect]).code
    };
    assert_eq!(set(r#"{"interval": 1}"#, "0"), 0);
    assert_eq!(set(r#"{"interval": 2}"#, "0"), 1);
    let revision = sandbox.json(&["config", "get", "agent-001"])["revision"].to_string();
    assert_eq!(set(r#"{"interval": 3}"#, &revision), 0);
    assert_eq!(sandbox.cli(&["config", "get", "agent-001"]).out.trim(), r#"{"interval": 3}"#);
    let versions = || sandbox.json(&["config", "history", "agent-001"]).as_array().unwrap().len();
    sandbox.wait_until("two observed versions", || versions() == 2);
    let diff = sandbox.cli(&["config", "diff", "agent-001"]);
    assert!(diff.out.contains("~ interval 1 → 3"), "{diff:?}");
}

#[test]
fn an_editor_changes_the_stored_config() {
    let (sandbox, _up) = Sandbox::up(&["--no-agent"]);
    assert_eq!(sandbox.cli(&["config", "set", "agent-001", r#"{"interval": 1}"#]).code, 0);
    let edit = |editor: &str| {
        let mut command = crate::sandbox::command(["config", "edit", "agent-001"]);
        command.env("WATCHFLOOR_API", format!("http://{}", sandbox.http)).env("EDITOR", editor);
        command.env("TMPDIR", sandbox.path());
        command.output().unwrap()
    };
    assert!(edit("sed -i s/1/4/").status.success());
    assert_eq!(sandbox.cli(&["config", "get", "agent-001"]).out.trim(), r#"{"interval": 4}"#);
    let refused = edit("sed -i s/4/-4/");
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("what you wrote is kept in") && error.contains("interval"), "{error}");
    assert!(String::from_utf8(edit("true").stdout).unwrap().contains("nothing was changed"));
}
