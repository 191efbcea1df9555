//! Config from the registry to the agent, and its truth back.

use model::truth::{Stage, Standing};
use proto::wire;
use proto::wire::agent_message::Body as Up;
use proto::wire::server_message::Body as Down;

use crate::harness::{World, hello};

fn revision(config: &wire::ConfigRevision) -> u64 {
    config.mark.as_ref().unwrap().revision
}

#[tokio::test]
async fn a_config_comes_with_the_welcome_and_with_every_change_that_concerns_the_agent() {
    let world = World::start().await;
    world.around.put("/monitor/config/agent-001", r#"{"interval":0.5}"#).await;
    let mut agent = world.greet(hello("agent-001", "i1")).await;
    assert!(matches!(agent.next().await, Down::Welcome(_)));
    let mut first = agent.config().await;
    // The watch may be a moment behind the put; then the change follows the first config.
    if first.effective_json != r#"{"interval":0.5}"# {
        first = agent.config().await;
    }
    assert_eq!(first.effective_json, r#"{"interval":0.5}"#);

    world.around.put("/monitor/config/agent-002", r#"{"interval":9}"#).await;
    world.around.put("/monitor/groups/web", r#"{"selector":"role=web","config":{"interval":9}}"#).await;
    let put =
        world.around.put("/monitor/groups/db", r#"{"selector":"role=db","config":{"window_size":7}}"#).await;
    let changed = agent.config().await;
    assert_eq!(changed.effective_json, r#"{"interval":0.5,"window_size":7}"#);
    assert_eq!(revision(&changed), put.0);
    assert!(revision(&changed) > revision(&first));
    let entry = world
        .around
        .entry("agent-001", |entry| entry.config.desired.as_ref().is_some_and(|mark| mark.revision == put));
    assert_eq!(entry.await.config.standing(), Standing::Pending);
    agent
        .send(Up::ConfigTruth(wire::ConfigTruth { running: changed.mark.clone(), ..Default::default() }))
        .await;
    world.around.entry("agent-001", |entry| entry.config.standing() == Standing::InSync).await;
}

#[tokio::test]
async fn a_text_that_is_no_config_reaches_the_agent_and_the_inventory_as_a_fault() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let put = world.around.put("/monitor/config/agent-001", "{\"interval\": ").await;
    let fault = agent.config().await;
    assert_eq!((revision(&fault), fault.effective_json.as_str()), (put.0, ""));
    assert_eq!(fault.fault.as_ref().unwrap().stage, "PARSE");
    let entry = world.around.entry("agent-001", |entry| entry.config.last_failed.is_some()).await;
    assert_eq!(entry.config.standing(), Standing::Refused);
    assert_eq!(entry.config.last_failed.unwrap().stage, Stage::Parse);

    world.around.put("/monitor/config/agent-001", r#"{"interval":0.0001}"#).await;
    let fault = agent.config().await.fault.unwrap();
    assert_eq!((fault.stage.as_str(), fault.path.as_str()), ("VALIDATE", "interval"));

    world.around.put("/monitor/config/agent-001", r#"{"interval":1}"#).await;
    let mended = agent.config().await;
    assert_eq!((mended.fault, mended.effective_json.as_str()), (None, r#"{"interval":1}"#));
}

#[tokio::test]
async fn update_config_brings_the_config_as_the_registry_has_it_now() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let put = world.around.put("/monitor/config/agent-001", r#"{"interval":2}"#).await;
    let pushed = agent.config().await;
    world.around.command("agent-001", "c-1", "UPDATE_CONFIG").await;
    world.around.command("agent-001", "c-2", "STATUS").await;
    let command = agent.command().await;
    let config = command.config.unwrap();
    assert_eq!((command.command_id.as_str(), config.effective_json.as_str()), ("c-1", r#"{"interval":2}"#));
    assert!(revision(&config) >= put.0);
    assert_eq!(config.mark.unwrap().digest, pushed.mark.unwrap().digest);
    assert_eq!(agent.command().await.command_id, "c-2", "the order of commands is kept");
}
