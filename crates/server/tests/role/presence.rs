//! What the registry says of agents, and who may say it.

use std::time::Duration;

use model::presence::{Collection, Presence, Reason, Timing};
use proto::wire;
use proto::wire::agent_message::Body as Up;

use crate::harness::{Surroundings, World, hello};

async fn quick_world() -> World {
    World::start_in(Surroundings::new().await, Timing::new(Duration::from_secs(1)).unwrap()).await
}

#[tokio::test]
async fn an_agent_is_listed_with_what_it_said_and_held_on_the_servers_lease() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let entry = world.around.is("agent-001", Presence::Online, Reason::Connected).await;
    assert_eq!((entry.host.as_str(), entry.labels["role"].as_str()), ("host-of-i1", "db"));
    assert_eq!((entry.server.as_str(), entry.incarnation.as_str()), ("s1", "i1"));
    let held = world.around.registry.get("/monitor/heartbeat/agent-001").await.unwrap().unwrap();
    let server = world.around.registry.get("/monitor/servers/s1").await.unwrap().unwrap();
    assert!(held.lease.is_some());
    assert_eq!(held.lease, server.lease);
    let paused = wire::Heartbeat {
        collection: wire::Collection::Paused.into(),
        interval_ms: 250,
        ..Default::default()
    };
    agent.send(Up::Heartbeat(paused)).await;
    world
        .around
        .entry("agent-001", |entry| (entry.collection, entry.interval_ms) == (Collection::Paused, 250))
        .await;
}

#[tokio::test]
async fn a_silent_agent_is_late_then_offline_and_online_again_when_heard() {
    let world = quick_world().await;
    let mut agent = world.agent("agent-001", "i1").await;
    world.around.is("agent-001", Presence::Late, Reason::Silence).await;
    world.around.is("agent-001", Presence::Offline, Reason::Silence).await;
    assert!(!world.around.holds("/monitor/heartbeat/agent-001").await);
    agent.send(Up::Heartbeat(wire::Heartbeat::default())).await;
    world.around.is("agent-001", Presence::Online, Reason::Connected).await;
    assert!(world.around.holds("/monitor/heartbeat/agent-001").await);
}

#[tokio::test]
async fn a_lost_connection_shows_at_once_and_becomes_offline_with_its_cause() {
    let world = quick_world().await;
    let agent = world.agent("agent-001", "i1").await;
    world.around.is("agent-001", Presence::Online, Reason::Connected).await;
    agent.vanish();
    world.around.is("agent-001", Presence::Late, Reason::ConnectionLost).await;
    world.around.is("agent-001", Presence::Offline, Reason::ConnectionLost).await;
}

#[tokio::test]
async fn first_seen_outlives_restarts_of_the_agent() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let first = world.around.is("agent-001", Presence::Online, Reason::Connected).await;
    agent.goodbye().await;
    world.around.is("agent-001", Presence::Shutdown, Reason::Goodbye).await;
    assert!(!world.around.holds("/monitor/heartbeat/agent-001").await);
    let _again = world.agent("agent-001", "i2").await;
    let again = world.around.entry("agent-001", |entry| entry.incarnation.as_str() == "i2").await;
    assert_eq!(again.first_seen, first.first_seen);
}

#[tokio::test]
async fn of_two_live_agents_with_one_id_the_newer_stays_and_both_show() {
    let world = World::start().await;
    let mut first = world.agent("agent-001", "i1").await;
    let _second = world.agent("agent-001", "i2").await;
    let leave = first.leave().await;
    assert_eq!((leave.reason(), leave.retry_after_ms), (wire::leave::Reason::Superseded, 60_000));
    assert!(leave.message.contains("--agent-id"), "{}", leave.message);
    let entry = world.around.is("agent-001", Presence::Duplicate, Reason::TwoSessions).await;
    assert_eq!(
        (entry.host.as_str(), entry.rivals.as_slice()),
        ("host-of-i2", &["host-of-i1".to_owned()][..])
    );

    let mut early = world.greet(hello("agent-001", "i1")).await;
    let leave = early.leave().await;
    assert_eq!(leave.reason(), wire::leave::Reason::Superseded);
    assert!((1..=60_000).contains(&leave.retry_after_ms));
}

#[tokio::test]
async fn a_reconnect_of_the_same_run_replaces_the_old_stream_without_ado() {
    let world = World::start().await;
    let mut first = world.agent("agent-001", "i1").await;
    let mut second = world.agent("agent-001", "i1").await;
    assert_eq!(first.leave().await.retry_after_ms, 0);
    world.around.command("agent-001", "c-1", "STATUS").await;
    second.command().await;
    world.around.is("agent-001", Presence::Online, Reason::Connected).await;
}

#[tokio::test]
async fn a_server_whose_agent_another_one_took_writes_nothing_over_it() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let mut entry = world.around.is("agent-001", Presence::Online, Reason::Connected).await;
    let theirs =
        r#"{"server":"s2","server_incarnation":"r9","incarnation":"i1","since":"2026-01-01T00:00:00Z"}"#;
    world.around.put("/monitor/heartbeat/agent-001", theirs).await;
    entry.server = model::id::ServerId::new("s2").unwrap();
    world.around.put("/monitor/agents/agent-001", &serde_json::to_string(&entry).unwrap()).await;
    assert_eq!(agent.leave().await.reason(), wire::leave::Reason::Superseded);
    agent.vanish();
    // The server writes on: what it says of others comes after what it could have said of this one.
    world.agent("agent-002", "i2").await;
    world.around.is("agent-002", Presence::Online, Reason::Connected).await;
    let kept = world.around.entry("agent-001", |_| true).await;
    assert_eq!((kept.server.as_str(), kept.status), ("s2", Presence::Online));
}
