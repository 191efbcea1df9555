//! Commands down, outcomes up, one final response.

use model::command::CommandState;
use model::presence::Timing;
use proto::record::{COMMAND_RESPONSES, COMMANDS};
use proto::wire;
use proto::wire::server_message::Body as Down;

use crate::harness::{Surroundings, World, response};

#[tokio::test]
async fn a_command_goes_down_and_its_outcome_becomes_the_one_final_response() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    world.around.command("agent-001", "c-1", "STOP").await;
    let command = agent.command().await;
    assert_eq!(
        (command.agent_id.as_str(), command.r#type()),
        ("agent-001", wire::command::CommandType::Stop)
    );
    assert!((1..=30_000).contains(&command.remaining_ms));
    let mut responses = world.around.read(COMMAND_RESPONSES).await;
    for state in [wire::CommandState::Delivered, wire::CommandState::Running, wire::CommandState::Succeeded] {
        agent.report("c-1", state).await;
        let ack = agent.report_acked().await;
        assert_eq!((ack.command_id.as_str(), ack.state()), ("c-1", state));
    }
    // A repeat, as after a reconnect, is acknowledged and not published again.
    agent.report("c-1", wire::CommandState::Succeeded).await;
    agent.report_acked().await;
    agent.report("c-1", wire::CommandState::Failed).await;
    agent.report_acked().await;
    let told = [
        response(&mut responses).await,
        response(&mut responses).await,
        response(&mut responses).await,
        response(&mut responses).await,
    ];
    let told = told.map(|response| (response.state, response.is_final, response.message));
    assert_eq!(
        told,
        [
            (CommandState::Delivered, false, String::new()),
            (CommandState::Running, false, String::new()),
            (CommandState::Succeeded, true, String::new()),
            (CommandState::Failed, false, "late: ".to_owned()),
        ]
    );
}

#[tokio::test]
async fn an_outcome_after_the_monitors_verdict_is_told_as_late() {
    let around = Surroundings::new().await;
    around.command("agent-001", "c-1", "STATUS").await;
    let verdict = r#"{"command_id":"c-1","agent_id":"agent-001","type":"STATUS","state":"UNKNOWN","final":true,"success":false,"timestamp":1767225600}"#;
    around.publish(COMMAND_RESPONSES, "agent-001", verdict).await;
    let world = World::start_in(around, Timing::default()).await;
    let mut agent = world.agent("agent-001", "i1").await;
    for id in ["c-1", "c-of-yesterday"] {
        agent.report(id, wire::CommandState::Succeeded).await;
        assert_eq!(agent.report_acked().await.command_id, id);
    }
    let mut responses = world.around.read(COMMAND_RESPONSES).await;
    assert!(response(&mut responses).await.is_final);
    for _ in 0..2 {
        let late = response(&mut responses).await;
        assert_eq!((late.state, late.is_final), (CommandState::Succeeded, false));
        assert_eq!(late.message, "late: ");
    }
}

#[tokio::test]
async fn what_a_person_types_is_a_command_and_what_nobody_can_read_stops_nothing() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    for nonsense in [
        "{nonsense",
        "{}",
        r#"{"agent_id":"a/b","type":"STOP"}"#,
        r#"{"agent_id":"agent-001","type":"DANCE"}"#,
    ] {
        world.around.publish(COMMANDS, "agent-001", nonsense).await;
    }
    let typed = r#"{"agent_id":"agent-001","type":"STATUS"}"#;
    let position = world.around.publish(COMMANDS, "agent-001", typed).await;
    let command = agent.command().await;
    assert_eq!(command.command_id, format!("c-{}-{}", position.partition, position.offset));
    assert!((1..=30_000).contains(&command.remaining_ms));
    assert_eq!(world.metric("watchfloor_server_malformed_records_total"), 4.0);
}

#[tokio::test]
async fn a_command_waits_for_its_agent_and_one_that_has_ended_does_not() {
    let around = Surroundings::new().await;
    around.command("agent-001", "c-ended", "STATUS").await;
    around.command("agent-001", "c-open", "STATUS").await;
    let ended = r#"{"command_id":"c-ended","agent_id":"agent-001","type":"STATUS","state":"SUCCEEDED","final":true,"success":true,"timestamp":1767225600}"#;
    around.publish(COMMAND_RESPONSES, "agent-001", ended).await;
    let expired = r#"{"agent_id":"agent-001","type":"STOP","expires_at":1767225600}"#;
    around.publish(COMMANDS, "agent-001", expired).await;
    let world = World::start_in(around, Timing::default()).await;
    let mut agent = world.agent("agent-001", "i1").await;
    assert_eq!(agent.command().await.command_id, "c-open");
    world.around.command("agent-001", "c-next", "STATUS").await;
    assert_eq!(agent.command().await.command_id, "c-next");
}

#[tokio::test]
async fn a_command_the_agent_never_confirmed_is_sent_again_after_a_reconnect() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    world.around.command("agent-001", "c-1", "STATUS").await;
    world.around.command("agent-001", "c-2", "RESTART").await;
    agent.command().await;
    agent.command().await;
    agent.report("c-2", wire::CommandState::Delivered).await;
    agent.report_acked().await;
    let mut again = world.agent("agent-001", "i1").await;
    assert_eq!(again.command().await.command_id, "c-1");
    world.around.command("agent-001", "c-3", "STATUS").await;
    assert_eq!(again.command().await.command_id, "c-3");
}

#[tokio::test]
async fn one_command_too_many_is_rejected_for_an_agent_that_is_here() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let most = model::limit::COMMANDS_WAITING_PER_AGENT_MAX;
    for number in 0..=most {
        world.around.command("agent-001", &format!("c-{number}"), "STATUS").await;
    }
    let mut responses = world.around.read(COMMAND_RESPONSES).await;
    let rejected = response(&mut responses).await;
    assert_eq!(rejected.command_id.as_str(), format!("c-{most}"));
    assert_eq!((rejected.state, rejected.is_final), (CommandState::Rejected, true));
    for _ in 0..most {
        assert!(matches!(agent.next().await, Down::Command(_)));
    }
}

#[tokio::test]
async fn a_command_that_was_sent_to_a_silent_agent_is_not_called_undelivered() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let expires_at = runtime::clock::wall().plus(std::time::Duration::from_millis(500));
    let stop =
        format!(r#"{{"agent_id":"agent-001","command_id":"c-1","type":"STOP","expires_at":"{expires_at}"}}"#);
    world.around.publish(COMMANDS, "agent-001", &stop).await;
    assert_eq!(agent.command().await.command_id, "c-1");
    let mut responses = world.around.read(COMMAND_RESPONSES).await;
    let told = response(&mut responses).await;
    assert_eq!((told.state, told.is_final), (CommandState::Delivered, false));
    assert_eq!(told.message, "sent; the agent has not confirmed that it arrived");
    assert!(told.timestamp >= expires_at, "not before it had its time");
}
