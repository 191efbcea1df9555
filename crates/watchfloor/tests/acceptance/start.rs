//! What cannot start says why, in one line, with an exit code of its own, and harms nothing that runs.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::sandbox::{Run, Sandbox, command, run};

const UNAVAILABLE: i32 = 4;
const CONFIG: i32 = 3;
const USAGE: i32 = 2;

fn up_in(data: &str) -> Run {
    run([
        "up",
        "--no-agent",
        "--data-dir",
        data,
        "--grpc-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    ])
}

#[test]
fn a_second_process_on_the_same_data_is_refused_and_the_first_lives_on() {
    let (sandbox, _up) = Sandbox::up(&["--no-agent"]);
    let second = up_in(&sandbox.data());
    assert_eq!(second.code, UNAVAILABLE, "{second:?}");
    assert!(second.err.contains("is in use by process") && second.err.contains("--data-dir"), "{second:?}");
    assert_eq!(sandbox.cli(&["agents"]).code, 0);
}

#[test]
fn a_second_agent_of_the_same_name_in_the_same_data_is_refused() {
    let (sandbox, up) = Sandbox::up(&["--no-agent"]);
    let _agent = sandbox.agent("agent-001", &[]);
    up.wait_for("ONLINE agent-001");
    let second = sandbox.agent("agent-001", &[]);
    second.wait_for_error("is in use by process");
    assert_eq!(second.exit_code(), Some(UNAVAILABLE));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, other) in [("--grpc-listen", "--http-listen"), ("--http-listen", "--grpc-listen")] {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().display().to_string();
        let run = run(["up", "--no-agent", "--data-dir", &data, flag, &address, other, "127.0.0.1:0"]);
        assert_eq!(run.code, UNAVAILABLE, "{run:?}");
        assert!(run.err.contains(&address) && run.err.contains(flag), "{run:?}");
    }
}

#[test]
fn a_damaged_store_is_named_and_left_alone() {
    let data = tempfile::tempdir().unwrap();
    let store = data.path().join("store/embedded");
    std::fs::create_dir_all(&store).unwrap();
    let file = store.join("bus.redb");
    std::fs::write(&file, "not a store".repeat(1_000)).unwrap();
    let run = up_in(&data.path().display().to_string());
    assert_eq!(run.code, UNAVAILABLE, "{run:?}");
    assert!(run.err.contains(&store.display().to_string()), "{run:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a store".repeat(1_000));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let blocked = tempfile::NamedTempFile::new().unwrap();
    for data in ["/proc/nothing".to_owned(), blocked.path().display().to_string()] {
        let run = up_in(&data);
        assert_eq!(run.code, UNAVAILABLE, "{run:?}");
        assert!(run.err.contains(&data) && run.err.contains("--data-dir"), "{run:?}");
    }
}

#[test]
fn plain_text_beyond_loopback_needs_the_operators_word() {
    for flag in ["--grpc-listen", "--http-listen"] {
        let data = tempfile::tempdir().unwrap();
        let other = if flag == "--grpc-listen" { "--http-listen" } else { "--grpc-listen" };
        let data = data.path().display().to_string();
        let run = run(["up", "--no-agent", "--data-dir", &data, flag, "0.0.0.0:0", other, "127.0.0.1:0"]);
        assert_eq!(run.code, CONFIG, "{run:?}");
        assert!(run.err.contains("--insecure"), "{run:?}");
    }
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let agent = run(["agent", "--agent-id", "a", "--server", "far.example:50051", "--data-dir", &data]);
    assert_eq!(agent.code, CONFIG, "{agent:?}");
    assert!(agent.err.contains("far.example:50051") && agent.err.contains("--insecure"), "{agent:?}");
}

#[test]
fn roles_that_could_not_meet_the_others_are_refused_with_both_choices() {
    let mut half = command(["up", "--data-dir", "/proc/nothing"]);
    half.env("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092");
    let output = half.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(CONFIG));
    assert!(error.contains("kafka://localhost:9092") && error.contains("registry is embedded"), "{error}");
    for role in ["monitor", "analysis"] {
        let alone = run([role]);
        assert_eq!(alone.code, CONFIG);
        assert!(alone.err.contains("watchfloor up") && alone.err.contains("kafka://"), "{alone:?}");
    }
}

#[test]
fn plain_text_to_backends_on_other_machines_needs_the_operators_word() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    for (bus, registry) in
        [("kafka://far.example:9092", "etcd://localhost"), ("kafka://localhost:9092", "etcd://far.example")]
    {
        let run = run([
            "monitor",
            "--http-listen",
            "127.0.0.1:0",
            "--data-dir",
            &data,
            "--bus",
            bus,
            "--registry",
            registry,
        ]);
        assert_eq!(run.code, CONFIG, "{run:?}");
        assert!(run.err.contains("far.example") && run.err.contains("--insecure"), "{run:?}");
    }
}

#[test]
fn names_that_could_break_a_key_or_a_terminal_are_usage_errors() {
    let long = "x".repeat(10_000);
    for id in ["a\nb", "a/b", "\u{1b}[2J", long.as_str()] {
        for arguments in [&["agent", "--agent-id", id][..], &["up", "--agent-id", id], &["status", id]] {
            let run = run(arguments);
            assert_eq!(run.code, USAGE, "{run:?}");
            assert!(!run.err.contains('\u{1b}'), "{run:?}");
        }
    }
}

#[test]
fn without_a_system_operators_learn_how_to_start_one() {
    let agents = run(["agents", "--api", "http://127.0.0.1:1"]);
    assert_eq!(agents.code, 1);
    assert!(agents.err.contains("http://127.0.0.1:1") && agents.err.contains("watchfloor up"), "{agents:?}");
}

#[test]
fn a_kafka_that_is_away_is_named_soon_in_one_line() {
    for arguments in [&["get-metrics"][..], &["get-metrics", "--follow"], &["send-command", "a", "STATUS"]] {
        let asked = Instant::now();
        let run = run([arguments, &["--kafka", "127.0.0.1:1"]].concat());
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
        assert_eq!(run.code, 1, "{run:?}");
        assert_eq!(run.err.lines().count(), 1, "{run:?}");
        assert!(run.err.contains("127.0.0.1:1") && run.err.contains("KAFKA_BOOTSTRAP_SERVERS"), "{run:?}");
    }
    // In the place of an API that is not there, which is said first.
    let mut instead = command(["get-metrics", "--api", "http://127.0.0.1:1"]);
    let output = instead.env("KAFKA_BOOTSTRAP_SERVERS", "localhost:2").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines.len(), output.status.code()), (2, Some(1)), "{said}");
    assert!(lines[0].contains("http://127.0.0.1:1") && lines[1].contains("localhost:2"), "{said}");
}
