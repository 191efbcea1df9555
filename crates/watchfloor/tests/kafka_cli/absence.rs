//! What is not there is named, soon, in one line, and nothing is created in its place.

use std::time::{Duration, Instant};

use crate::fleet::World;

#[test]
fn topics_that_are_not_there_are_named_and_not_created() {
    let world = World::new();
    for (command, topic) in [
        (&["get-metrics"][..], "monitoring-data"),
        (&["get-metrics", "--follow"], "monitoring-data"),
        (&["send-command", "agent-001", "STATUS"], "command-responses"),
    ] {
        // Twice: a look must not make them.
        for _ in 0..2 {
            let run = world.cli(&[command, &[&world.flag()]].concat());
            assert_eq!(run.code, 1, "{run:?}");
            assert_eq!(run.err.lines().count(), 1, "{run:?}");
            assert!(
                run.err.contains(&world.topic(topic)) && run.err.contains("watchfloor server"),
                "{run:?}"
            );
        }
    }
}

#[test]
fn a_registry_that_is_away_is_named_soon() {
    let world = World::new();
    let (_server, _) = world.server();
    let order = ["send-command", "--all", "STATUS", "--registry", "etcd://127.0.0.1:1", &world.flag()];
    let asked = Instant::now();
    let run = world.cli(&order);
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    assert!(run.code == 1 && run.err.contains("etcd://127.0.0.1:1"), "{run:?}");
}
