//! A client generated from the seeds' own definition, which knows nothing of ours.

use model::command::CommandState;
use model::presence::{Presence, Reason, Timing};
use proto::key::Client;
use proto::record::{COMMAND_RESPONSES, MONITORING_DATA};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::harness::{Agent, Gated, Surroundings, World, response, soon};

#[expect(clippy::all, unreachable_pub, reason = "generated code")]
mod seed {
    tonic::include_proto!("monitoring");
}

use seed::monitoring_service_client::MonitoringServiceClient;

struct SeedClient {
    up: mpsc::Sender<seed::MetricsRequest>,
    down: Streaming<seed::Command>,
}

async fn connect(world: &World, id: &str) -> SeedClient {
    let (up, requests) = mpsc::channel(8);
    up.send(request(id)).await.unwrap();
    let mut client = MonitoringServiceClient::new(world.channel().await);
    let down =
        soon("the stream", client.stream_metrics(ReceiverStream::new(requests))).await.unwrap().into_inner();
    SeedClient { up, down }
}

fn request(id: &str) -> seed::MetricsRequest {
    let metrics = seed::SystemMetrics {
        cpu_percent: 12.5,
        memory_percent: 40.0,
        memory_used_mb: 1_024.0,
        memory_total_mb: 2_560.0,
        disk_read_mb: 0.25,
        disk_write_mb: 0.5,
        net_in_mb: 1.5,
        net_out_mb: 2.5,
    };
    let metadata = [("hostname".to_owned(), "lab".to_owned())].into();
    seed::MetricsRequest {
        agent_id: id.to_owned(),
        timestamp: 1_767_225_600,
        metrics: Some(metrics),
        metadata,
    }
}

#[tokio::test]
async fn its_metrics_reach_the_topic_as_they_came() {
    let world = World::start().await;
    let client = connect(&world, "worker1").await;
    client.up.send(request("worker1")).await.unwrap();
    let mut data = world.around.read(MONITORING_DATA).await;
    for sequence in 1..=2 {
        let record = soon("a record", data.next()).await.unwrap().unwrap();
        assert_eq!(record.key, "worker1");
        let value: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(value["agent_id"], "worker1");
        assert_eq!(value["timestamp"], "2026-01-01T00:00:00.000Z");
        assert_eq!(value["sequence"], sequence);
        assert_eq!(value["metadata"]["hostname"], "lab");
        let metrics = [
            ("cpu_percent", 12.5),
            ("memory_percent", 40.0),
            ("memory_used_mb", 1_024.0),
            ("memory_total_mb", 2_560.0),
            ("disk_read_mb", 0.25),
            ("disk_write_mb", 0.5),
            ("net_in_mb", 1.5),
            ("net_out_mb", 2.5),
        ];
        for (name, number) in metrics {
            assert_eq!(value["metrics"][name], number, "{name}");
        }
    }
}

#[tokio::test]
async fn it_is_listed_gets_commands_and_its_silence_about_outcomes_is_told() {
    let world = World::start().await;
    let mut client = connect(&world, "worker1").await;
    let entry = world.around.is("worker1", Presence::Online, Reason::Connected).await;
    assert_eq!(entry.client, Client::StreamMetrics);

    let typed = r#"{"agent_id":"worker1","command_id":"c-1","type":"RESTART","timestamp":1767225600}"#;
    world.around.publish(proto::record::COMMANDS, "worker1", typed).await;
    let command = soon("the command", client.down.message()).await.unwrap().unwrap();
    assert_eq!((command.command_id.as_str(), command.agent_id.as_str()), ("c-1", "worker1"));
    assert_eq!((command.r#type(), command.timestamp), (seed::command::CommandType::Restart, 1_767_225_600));

    let mut responses = world.around.read(COMMAND_RESPONSES).await;
    let delivered = response(&mut responses).await;
    assert_eq!((delivered.state, delivered.is_final), (CommandState::Delivered, false));
    let end = response(&mut responses).await;
    assert_eq!((end.state, end.is_final, end.success), (CommandState::Unknown, true, false));
    assert!(end.message.contains("no outcome is reported by this client"), "{}", end.message);
}

#[tokio::test]
async fn closing_its_side_in_order_is_its_goodbye() {
    let world = World::start().await;
    let mut client = connect(&world, "worker1").await;
    world.around.is("worker1", Presence::Online, Reason::Connected).await;
    drop(client.up);
    assert!(soon("the end", client.down.message()).await.unwrap().is_none());
    world.around.is("worker1", Presence::Shutdown, Reason::Goodbye).await;
}

#[tokio::test]
async fn one_stream_speaks_for_one_agent() {
    let world = World::start().await;
    let mut client = connect(&world, "worker1").await;
    client.up.send(request("worker2")).await.unwrap();
    let status = soon("the end", client.down.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("worker1"), "{}", status.message());
}

#[tokio::test]
async fn an_id_that_could_break_a_key_or_a_line_is_refused_with_the_reason() {
    let world = World::start().await;
    for (id, reason) in
        [("a\nb".to_owned(), "position 1"), ("x".repeat(10_000), "10000 bytes"), (String::new(), "empty")]
    {
        let mut client = connect(&world, &id).await;
        let status = soon("the refusal", client.down.message()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(reason), "{}", status.message());
    }
}

#[tokio::test]
async fn a_stopping_server_makes_what_it_read_durable_and_keeps_nobody_waiting() {
    let around = Surroundings::new().await;
    let world = World::start_in(around.clone(), Timing::default()).await;
    let _never_greets = Agent::open(world.channel().await).await;
    around.bus.set(Gated::Waiting);
    let mut client = connect(&world, "worker1").await;
    let mut tried = around.bus.tried.subscribe();
    soon("a publish", tried.wait_for(|tried| *tried > 0)).await.unwrap();
    world.begin_to_stop();
    around.bus.set(Gated::Open);
    let status = soon("the end", client.down.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    world.stop().await.unwrap();
    assert!(around.read(MONITORING_DATA).await.next().await.unwrap().is_ok());
}
