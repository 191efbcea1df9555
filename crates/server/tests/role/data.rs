//! Batches, acknowledgement, and what happens when the bus is slow or the server stops.

use model::presence::{Presence, Reason, Timing};
use proto::record::{DataRecord, MONITORING_DATA};
use proto::wire;
use proto::wire::server_message::Body as Down;

use crate::harness::{Gated, Surroundings, World, announce, batch, hello, soon};

#[tokio::test]
async fn a_batch_becomes_records_and_is_acknowledged() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    agent.send(announce()).await;
    agent.send(batch(1, 12.5)).await;
    assert_eq!(agent.next().await, Down::Ack(wire::Ack { batch_id: 1 }));

    let mut data = world.around.read(MONITORING_DATA).await;
    let record = soon("the record", data.next()).await.unwrap().unwrap();
    assert_eq!(record.key, "agent-001");
    assert_eq!(record.headers["content-type"], "application/json");
    let value: DataRecord = serde_json::from_slice(&record.value).unwrap();
    assert_eq!((value.sequence.0, value.incarnation.as_str()), (1, "i1"));
    assert_eq!((value.metrics.cpu_percent, value.series[0].value), (Some(12.5), 0.5));
    assert_eq!(world.metric("watchfloor_server_records_published_total"), 1.0);
    assert_eq!(world.metric("watchfloor_server_sessions"), 1.0);
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_durable_and_commands_pass_by() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    world.around.bus.set(Gated::Waiting);
    agent.send(announce()).await;
    for id in 1..=3 {
        agent.send(batch(id, 1.0)).await;
    }
    let mut tried = world.around.bus.tried.subscribe();
    soon("a publish", tried.wait_for(|tried| *tried > 0)).await.unwrap();
    // The bus holds the data back; the command comes first, and no ack before it.
    world.around.command("agent-001", "c-1", "STATUS").await;
    assert_eq!(agent.command().await.command_id, "c-1");
    world.around.bus.set(Gated::Open);
    let mut acknowledged = 0;
    while acknowledged < 3 {
        let Down::Ack(ack) = agent.next().await else { panic!("an ack was due") };
        assert!(ack.batch_id > acknowledged);
        acknowledged = ack.batch_id;
    }
}

#[tokio::test]
async fn a_bus_that_fails_for_a_while_is_waited_for_and_shown() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    world.around.bus.set(Gated::Failing);
    agent.send(announce()).await;
    agent.send(batch(1, 1.0)).await;
    let mut tried = world.around.bus.tried.subscribe();
    soon("a second try", tried.wait_for(|tried| *tried > 1)).await.unwrap();
    assert_eq!(world.ops.health.report().status, "DEGRADED");
    world.around.bus.set(Gated::Open);
    assert_eq!(agent.next().await, Down::Ack(wire::Ack { batch_id: 1 }));
    assert_eq!(world.ops.health.report().status, "OK");
}

#[tokio::test]
async fn a_goodbye_waits_for_what_is_under_way() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    world.around.bus.set(Gated::Waiting);
    agent.send(announce()).await;
    agent.send(batch(1, 1.0)).await;
    agent.goodbye().await;
    world.around.is("agent-001", Presence::Shutdown, Reason::Goodbye).await;
    world.around.bus.set(Gated::Open);
    assert_eq!(agent.next().await, Down::Ack(wire::Ack { batch_id: 1 }));
    assert_eq!(agent.try_next().await.unwrap(), None);
}

#[tokio::test]
async fn a_stopping_server_acknowledges_what_it_took_then_sends_agents_away() {
    let around = Surroundings::new().await;
    let world = World::start_in(around.clone(), Timing::default()).await;
    let mut agent = world.agent("agent-001", "i1").await;
    around.is("agent-001", Presence::Online, Reason::Connected).await;
    around.bus.set(Gated::Waiting);
    agent.send(announce()).await;
    agent.send(batch(1, 1.0)).await;
    let mut tried = around.bus.tried.subscribe();
    soon("a publish", tried.wait_for(|tried| *tried > 0)).await.unwrap();
    world.begin_to_stop();
    around.bus.set(Gated::Open);
    assert_eq!(agent.next().await, Down::Ack(wire::Ack { batch_id: 1 }));
    let leave = agent.leave().await;
    assert_eq!(leave.reason(), wire::leave::Reason::Draining);
    assert!(leave.retry_after_ms <= 1_000);
    world.stop().await.unwrap();
    // The agent is alive and on its way to another server: nothing says otherwise.
    around.is("agent-001", Presence::Online, Reason::Connected).await;
    assert!(!around.holds("/monitor/servers/s1").await);
    assert!(!around.holds("/monitor/heartbeat/agent-001").await);
}

#[tokio::test]
async fn more_batches_than_credits_end_the_stream_with_the_reason() {
    let world = World::start().await;
    let mut agent = world.greet(hello("agent-001", "i1")).await;
    let Down::Welcome(welcome) = agent.next().await else { panic!("a welcome was due") };
    agent.config().await;
    world.around.bus.set(Gated::Waiting);
    agent.send(announce()).await;
    for id in 1..=u64::from(welcome.credits) + 1 {
        agent.send(batch(id, 1.0)).await;
    }
    let leave = agent.leave().await;
    assert!(leave.message.contains("unacknowledged"), "{}", leave.message);
    world.around.is("agent-001", Presence::Late, Reason::ConnectionLost).await;
}

#[tokio::test]
async fn while_the_bus_is_away_what_waits_is_bounded_and_agents_stay() {
    let around = Surroundings::new().await;
    let one_batch = {
        let world = World::start_in(around.clone(), Timing::default()).await;
        let mut agent = world.agent("agent-000", "i1").await;
        agent.send(announce()).await;
        agent.send(batch(1, 1.5)).await;
        let mut data = around.read(MONITORING_DATA).await;
        let record = soon("a record", data.next()).await.unwrap().unwrap();
        agent.vanish();
        world.stop().await.unwrap();
        record.value.len()
    };
    around.bus.set(Gated::Failing);
    let world = World::tight(around.clone(), 4 * one_batch).await;
    let mut first = world.agent("agent-001", "i1").await;
    first.send(announce()).await;
    for id in 1..=3 {
        first.send(batch(id, 1.5)).await;
    }
    // Read in order: what came before this is waiting.
    first.report("c-0", wire::CommandState::Succeeded).await;
    first.report_acked().await;
    let mut second = world.agent("agent-002", "i1").await;
    second.send(announce()).await;
    for id in 1..=2 {
        second.send(batch(id, 1.5)).await;
    }
    let leave = second.leave().await;
    assert_eq!(leave.reason(), wire::leave::Reason::Overloaded);
    assert!((1..=1_000).contains(&leave.retry_after_ms), "{leave:?}");

    let mut back = world.greet(hello("agent-002", "i1")).await;
    let Down::Welcome(welcome) = back.next().await else { panic!("no welcome") };
    assert_eq!(welcome.credits, 0, "it keeps what it measures");
    back.config().await;
    around.command("agent-002", "c-1", "STATUS").await;
    assert_eq!(back.command().await.command_id, "c-1");

    around.bus.set(Gated::Open);
    assert_eq!(back.leave().await.reason(), wire::leave::Reason::Overloaded, "there are credits now");
    let mut back = world.greet(hello("agent-002", "i1")).await;
    let Down::Welcome(welcome) = back.next().await else { panic!("no welcome") };
    assert_eq!(welcome.credits, model::limit::BATCH_CREDITS);
}
