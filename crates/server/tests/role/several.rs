//! Two servers over one bus and one registry, and agents that move between them.

use std::time::Duration;

use backends::bus::Bus;
use backends::registry::{Operation, Txn};
use model::command::CommandState;
use model::presence::{Presence, Reason, Timing};
use proto::record::COMMAND_RESPONSES;
use proto::wire;
use proto::wire::agent_message::Body as Up;
use proto::wire::server_message::Body as Down;
use server::RunError;

use crate::harness::{Agent, Gated, Surroundings, World, hello, response, settings, soon};

/// Two servers, and what they share.
async fn pair() -> (Surroundings, World, World) {
    let around = Surroundings::new().await;
    let (first, second) = (World::named(&around, "s1").await, World::named(&around, "s2").await);
    (around, first, second)
}

/// The stream number `connection` of one run of an agent.
fn stream(connection: u64) -> wire::Hello {
    wire::Hello { connection, ..hello("agent-001", "i1") }
}

/// Reports, and waits until that is durable. Commands may come meanwhile, again too: agents know what they had.
async fn reported(agent: &mut Agent, id: &str, state: wire::CommandState) {
    agent.report(id, state).await;
    loop {
        match agent.next().await {
            Down::ReportAck(ack) => break assert_eq!(ack.command_id, id),
            Down::Command(_) => {}
            other => panic!("a report's ack was due, {other:?} came"),
        }
    }
}

/// The final responses so far of every command but `marker`, which goes through `through` after all it has to say.
async fn finals(around: &Surroundings, through: &World, marker: &str) -> Vec<(String, CommandState)> {
    let mut other = through.agent("marker", "m1").await;
    reported(&mut other, marker, wire::CommandState::Succeeded).await;
    let extents = around.bus.extents(COMMAND_RESPONSES).await.unwrap();
    let mut responses = around.read(COMMAND_RESPONSES).await;
    let mut finals = Vec::new();
    for _ in 0..extents.iter().map(|extent| extent.high - extent.low).sum() {
        let told = response(&mut responses).await;
        if told.is_final {
            finals.push((told.command_id.to_string(), told.state));
        }
    }
    finals.sort();
    finals
}

/// Nothing of this process runs for a while, as under SIGSTOP.
#[expect(clippy::disallowed_methods, reason = "that nothing can happen meanwhile is what is tested")]
fn stall(time: Duration) {
    std::thread::sleep(time);
}

#[tokio::test]
async fn a_command_reaches_its_agent_whichever_server_has_it() {
    let (around, first, second) = pair().await;
    let (mut one, mut two) = (first.agent("agent-001", "i1").await, second.agent("agent-002", "i2").await);
    around.command("agent-002", "c-2", "STATUS").await;
    around.command("agent-001", "c-1", "STATUS").await;
    assert_eq!(one.command().await.command_id, "c-1");
    assert_eq!(two.command().await.command_id, "c-2");
}

#[tokio::test]
async fn a_command_that_waits_is_given_out_by_a_server_that_starts_later_and_once() {
    let (around, first, _second) = pair().await;
    let mut agent = first.agent("agent-001", "i1").await;
    around.command("agent-001", "c-1", "STOP").await;
    agent.command().await;
    reported(&mut agent, "c-1", wire::CommandState::Delivered).await;
    agent.vanish();
    around.command("agent-001", "c-2", "STATUS").await;

    let third = World::named(&around, "s3").await;
    let mut agent = third.agent("agent-001", "i1").await;
    assert_eq!(agent.command().await.command_id, "c-2", "c-1 is with the agent");
    reported(&mut agent, "c-1", wire::CommandState::Succeeded).await;
    reported(&mut agent, "c-2", wire::CommandState::Succeeded).await;
    let succeeded = |id: &str| (id.to_owned(), CommandState::Succeeded);
    assert_eq!(finals(&around, &first, "marker").await, [succeeded("c-1"), succeeded("c-2")]);
}

#[tokio::test]
async fn an_outcome_that_one_server_could_not_publish_is_final_once_through_the_other() {
    let (around, first, second) = pair().await;
    let mut agent = first.arrival(stream(1)).await;
    around.command("agent-001", "c-1", "STATUS").await;
    agent.command().await;
    first.around.bus.set_responses(Gated::Failing);
    agent.report("c-1", wire::CommandState::Succeeded).await;
    first.around.bus.tried(1).await;
    agent.vanish();

    let mut moved = second.arrival(stream(2)).await;
    reported(&mut moved, "c-1", wire::CommandState::Succeeded).await;
    first.around.bus.set_responses(Gated::Open);
    assert_eq!(
        finals(&around, &first, "marker").await,
        [("c-1".to_owned(), CommandState::Succeeded)],
        "the first server had it, too"
    );
}

#[tokio::test]
async fn an_outcome_is_not_told_again_when_only_the_answer_of_the_bus_was_lost() {
    let (around, first, second) = pair().await;
    let mut agent = first.arrival(stream(1)).await;
    around.command("agent-001", "c-1", "STATUS").await;
    agent.command().await;
    first.around.bus.set_responses(Gated::AnswerLost);
    agent.report("c-1", wire::CommandState::Succeeded).await;
    first.around.bus.tried(1).await;
    // Moved, the agent repeats itself; the other server has read what the first one published.
    let mut moved = second.arrival(stream(2)).await;
    reported(&mut moved, "c-1", wire::CommandState::Succeeded).await;
    first.around.bus.set_responses(Gated::Open);
    assert_eq!(finals(&around, &first, "marker").await, [("c-1".to_owned(), CommandState::Succeeded)]);
}

#[tokio::test]
async fn a_server_that_lags_behind_reads_on_before_it_makes_anything_final() {
    let (around, first, second) = pair().await;
    let mut agent = first.arrival(stream(1)).await;
    around.command("agent-001", "c-1", "STATUS").await;
    agent.command().await;
    second.around.bus.set_hears(false);
    reported(&mut agent, "c-1", wire::CommandState::Succeeded).await;
    agent.vanish();
    let mut moved = second.arrival(stream(2)).await;
    let look = second.around.bus.next_look();
    moved.report("c-1", wire::CommandState::Succeeded).await;
    look.await;
    second.around.bus.set_hears(true);
    assert_eq!(finals(&around, &second, "marker").await, [("c-1".to_owned(), CommandState::Succeeded)]);
}

#[tokio::test]
async fn what_was_not_published_when_its_stream_ended_is_left_to_the_agent() {
    let (around, first, _second) = pair().await;
    let mut agent = first.arrival(stream(1)).await;
    around.command("agent-001", "c-1", "STATUS").await;
    agent.command().await;
    first.around.bus.set_responses(Gated::Failing);
    agent.report("c-1", wire::CommandState::Succeeded).await;
    first.around.bus.tried(1).await;
    agent.vanish();
    around.is("agent-001", Presence::Late, Reason::ConnectionLost).await;
    first.around.bus.set_responses(Gated::Open);
    assert_eq!(finals(&around, &first, "marker").await, []);
    let mut back = first.arrival(stream(2)).await;
    reported(&mut back, "c-1", wire::CommandState::Succeeded).await;
}

#[tokio::test]
async fn one_servers_own_second_try_repeats_nothing_that_got_through() {
    let (around, first, _second) = pair().await;
    let mut agent = first.arrival(stream(1)).await;
    around.command("agent-001", "c-1", "STATUS").await;
    agent.command().await;
    first.around.bus.set_responses(Gated::AnswerLost);
    agent.report("c-1", wire::CommandState::Succeeded).await;
    first.around.bus.tried(1).await;
    first.around.bus.set_responses(Gated::Open);
    assert_eq!(agent.report_acked().await.command_id, "c-1");
    assert_eq!(finals(&around, &first, "marker").await, [("c-1".to_owned(), CommandState::Succeeded)]);
}

#[tokio::test]
async fn an_agent_that_moves_is_the_new_servers_and_what_is_left_at_the_old_one_ends_without_a_ban() {
    let (around, first, second) = pair().await;
    let mut old = first.arrival(stream(1)).await;
    around.entry("agent-001", |entry| entry.server.as_str() == "s1").await;
    // The old stream stays open: its server has not noticed anything.
    let _new = second.arrival(stream(2)).await;
    let leave = old.leave().await;
    assert_eq!((leave.reason(), leave.retry_after_ms), (wire::leave::Reason::Superseded, 0));
    let entry = around.entry("agent-001", |entry| entry.server.as_str() == "s2").await;
    assert_eq!((entry.status, entry.reason), (Presence::Online, Reason::Connected));

    // The end of the old server's lease takes nothing of the new one's along.
    let lease = around.registry.get("/monitor/servers/s1").await.unwrap().unwrap().lease.unwrap();
    around.registry.revoke(lease).await.unwrap();
    assert!(around.holds("/monitor/heartbeat/agent-001").await);
    let held = around.registry.get("/monitor/heartbeat/agent-001").await.unwrap().unwrap();
    assert_eq!(held.lease, around.registry.get("/monitor/servers/s2").await.unwrap().unwrap().lease);
}

#[tokio::test]
async fn of_two_streams_of_one_run_the_later_stays_though_the_earlier_is_written_last() {
    let (around, first, second) = pair().await;
    let mut later = first.arrival(stream(2)).await;
    around.entry("agent-001", |entry| entry.server.as_str() == "s1").await;
    let mut earlier = second.greet(stream(1)).await;
    let leave = loop {
        match earlier.next().await {
            Down::Leave(leave) => break leave,
            Down::Welcome(_) | Down::Config(_) => {}
            other => panic!("{other:?} came"),
        }
    };
    assert_eq!((leave.reason(), leave.retry_after_ms), (wire::leave::Reason::Superseded, 0));
    around.command("agent-001", "c-1", "STATUS").await;
    assert_eq!(later.command().await.command_id, "c-1");
    let entry = around.entry("agent-001", |_| true).await;
    assert_eq!((entry.server.as_str(), entry.status), ("s1", Presence::Online));
}

#[tokio::test]
async fn of_two_agents_with_one_id_at_two_servers_the_older_is_sent_away() {
    let (_around, first, second) = pair().await;
    let mut older = first.agent("agent-001", "i1").await;
    first.around.entry("agent-001", |entry| entry.server.as_str() == "s1").await;
    let _newer = second.agent("agent-001", "i2").await;
    let leave = older.leave().await;
    assert_eq!((leave.reason(), leave.retry_after_ms), (wire::leave::Reason::Superseded, 60_000));
    assert!(leave.message.contains("--agent-id"), "{}", leave.message);
}

#[tokio::test]
async fn a_server_that_stops_sends_its_agents_on_and_leaves_what_the_other_wrote() {
    let (around, first, second) = pair().await;
    let mut agent = first.arrival(stream(1)).await;
    around.entry("agent-001", |entry| entry.server.as_str() == "s1").await;
    first.begin_to_stop();
    assert_eq!(agent.leave().await.reason(), wire::leave::Reason::Draining);
    let _moved = second.arrival(stream(2)).await;
    around.entry("agent-001", |entry| entry.server.as_str() == "s2").await;
    agent.vanish();
    first.stop().await.unwrap();
    assert!(!around.holds("/monitor/servers/s1").await);
    assert!(around.holds("/monitor/heartbeat/agent-001").await);
    let entry = around.entry("agent-001", |_| true).await;
    assert_eq!((entry.server.as_str(), entry.status), ("s2", Presence::Online));
}

#[tokio::test]
async fn an_agent_that_moves_and_says_goodbye_at_once_has_shut_down() {
    let (around, first, second) = pair().await;
    let _old = first.arrival(stream(1)).await;
    around.entry("agent-001", |entry| entry.server.as_str() == "s1").await;
    let mut moved = second.arrival(stream(2)).await;
    moved.goodbye().await;
    around.is("agent-001", Presence::Shutdown, Reason::Goodbye).await;
}

#[tokio::test]
async fn a_server_whose_id_another_one_takes_leaves_and_says_why() {
    let around = Surroundings::new().await;
    let first = World::named(&around, "s1").await;
    let mut agent = first.agent("agent-001", "i1").await;
    around.entry("agent-001", |entry| entry.server.as_str() == "s1").await;
    let second = World::named(&around, "s1").await;
    let _ready = second.agent("agent-002", "i2").await;
    assert_eq!(agent.leave().await.reason(), wire::leave::Reason::Draining);
    agent.vanish();
    let error = first.ended().await.unwrap_err();
    assert!(matches!(&error, RunError::Replaced { server_id } if server_id.as_str() == "s1"));
    assert!(error.to_string().contains("--server-id"), "{error}");
    let registered = around.registry.get("/monitor/servers/s1").await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&registered.value).contains(&second.address.to_string()));
}

#[tokio::test]
async fn a_server_that_can_hear_no_more_ends_and_says_what_it_is_deaf_to() {
    let around = Surroundings::new().await;
    let world = World::start_in(around.clone(), Timing::default()).await;
    world.agent("agent-001", "i1").await.vanish();
    around.bus.close().await;
    let error = world.ended().await.unwrap_err();
    assert!(matches!(&error, RunError::Deaf { subject } if subject.starts_with("command")), "{error}");
}

#[tokio::test]
async fn a_heartbeat_key_of_another_program_is_not_taken_away_with_the_session() {
    let around = Surroundings::new().await;
    let world = World::start_in(around.clone(), Timing::default()).await;
    let mut agent = world.agent("agent-001", "i1").await;
    around.is("agent-001", Presence::Online, Reason::Connected).await;
    let theirs = around.registry.grant(Duration::from_secs(60)).await.unwrap();
    let key = "/monitor/heartbeat/agent-001".to_owned();
    let put = Operation::Put { key, value: "alive".into(), lease: Some(theirs) };
    around.registry.commit(Txn { compares: vec![], operations: vec![put] }).await.unwrap();
    agent.goodbye().await;
    around.is("agent-001", Presence::Shutdown, Reason::Goodbye).await;
    let kept = around.registry.get("/monitor/heartbeat/agent-001").await.unwrap().unwrap();
    assert_eq!((kept.value.as_ref(), kept.lease), (&b"alive"[..], Some(theirs)));
}

#[tokio::test]
async fn a_server_that_was_stopped_for_longer_than_the_timeout_calls_no_agent_offline_for_it() {
    let around = Surroundings::new().await;
    let timing = Timing::new(Duration::from_secs(1)).unwrap();
    let world = World::start_with(around.clone(), settings(timing)).await;
    let mut agent = world.agent("agent-001", "i1").await;
    around.is("agent-001", Presence::Online, Reason::Connected).await;
    let mut changes = around.registry.watch("/monitor/agents/agent-001", Default::default()).await.unwrap();
    stall(Duration::from_secs(3));
    for _ in 0..10 {
        agent.send(Up::Heartbeat(wire::Heartbeat::default())).await;
    }
    let paused = wire::Heartbeat { collection: wire::Collection::Paused.into(), ..Default::default() };
    agent.send(Up::Heartbeat(paused)).await;
    loop {
        let event = soon("the agent's word", changes.next()).await.unwrap().unwrap();
        let backends::registry::Event::Put(entry) = event else { continue };
        let entry: proto::key::AgentEntry = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!(entry.status, Presence::Online, "{entry:?}");
        if entry.collection == model::presence::Collection::Paused {
            break;
        }
    }
}
