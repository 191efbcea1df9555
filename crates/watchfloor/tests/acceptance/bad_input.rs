//! Hostile and broken clients: each gets a clear error, and the system stays up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use proto::wire::monitoring_service_client::MonitoringServiceClient;
use proto::wire::{MetricsRequest, SystemMetrics};
use tonic::{Code, Status};

use crate::sandbox::{PATIENCE, Sandbox};

/// What a StreamMetrics client hears when it sends these messages and then waits.
fn stream(sandbox: &Sandbox, messages: Vec<MetricsRequest>) -> Result<(), Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = MonitoringServiceClient::connect(format!("http://{}", sandbox.grpc)).await.unwrap();
        let requests = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
        let heard = async {
            let mut commands = client.stream_metrics(requests).await?.into_inner();
            while commands.message().await?.is_some() {}
            Ok(())
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("an answer in time")
    })
}

fn request(agent_id: &str) -> MetricsRequest {
    let metrics = SystemMetrics { cpu_percent: Some(1.0), ..SystemMetrics::default() };
    MetricsRequest {
        agent_id: agent_id.to_owned(),
        timestamp: 1,
        metrics: Some(metrics),
        ..Default::default()
    }
}

fn assert_alive(sandbox: &Sandbox) {
    assert_eq!(sandbox.cli(&["send-command", "agent-001", "STATUS"]).code, 0);
}

#[test]
fn garbage_on_the_grpc_port_harms_nobody() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 65_536], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff"]
    {
        let mut socket = TcpStream::connect(&sandbox.grpc).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may be closed while we still write: that is an answer, too.
        drop(socket.write_all(garbage));
        drop(socket.read_to_end(&mut Vec::new()));
        assert_alive(&sandbox);
    }
}

#[test]
fn a_message_of_five_megabytes_is_refused() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    let mut huge = request("huge");
    huge.metadata.insert("k".to_owned(), "x".repeat(5_000_000));
    let status = stream(&sandbox, vec![huge]).unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    assert_alive(&sandbox);
}

#[test]
fn an_agent_id_that_is_none_is_refused_with_the_reason() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    for id in ["", "a\nb", "a/b", &"x".repeat(10_000)] {
        let status = stream(&sandbox, vec![request(id)]).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("agent id") && status.message().len() < 1_000, "{status:?}");
    }
    let agents = sandbox.json(&["agents"]);
    assert_eq!(agents.as_array().unwrap().len(), 1, "{agents}");
    assert_alive(&sandbox);
}

#[test]
fn what_is_no_order_is_refused_by_the_api() {
    let (sandbox, up) = Sandbox::up(&["--agent-id", "agent-001"]);
    up.wait_for("ONLINE agent-001");
    for body in ["", "not json", "[]", r#"{"target":"all","type":"EXPLODE"}"#, r#"{"type":"STOP"}"#] {
        let answer = post(&sandbox.http, "/api/v1/commands", body);
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!((400..500).contains(&status), "{body}: {answer}");
        assert!(answer.contains(r#""error":"#), "{body}: {answer}");
    }
    assert_alive(&sandbox);
}

/// One HTTP request, by hand, as a broken client would send it.
fn post(host: &str, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(host).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    );
    write!(socket, "{head}connection: close\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_client_of_the_seeds_is_listed_and_its_silence_about_outcomes_is_told() {
    let (sandbox, up) = Sandbox::up(&["--no-agent"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut commands = runtime.block_on(async {
        let mut client = MonitoringServiceClient::connect(format!("http://{}", sandbox.grpc)).await.unwrap();
        let requests =
            tokio_stream::StreamExt::chain(tokio_stream::iter([request("seed-1")]), tokio_stream::pending());
        client.stream_metrics(requests).await.unwrap().into_inner()
    });
    up.wait_for("ONLINE seed-1");
    sandbox.wait_until("its metrics", || sandbox.json(&["get-metrics"])[0]["metrics"]["cpu_percent"] == 1.0);
    let order = sandbox.cli(&["send-command", "seed-1", "STOP", "--command-id", "c-7", "--timeout", "1s"]);
    let command = runtime.block_on(commands.message()).unwrap().unwrap();
    assert_eq!((command.command_id.as_str(), command.agent_id.as_str()), ("c-7", "seed-1"));
    assert!(command.timestamp > 0);
    assert_eq!(order.code, 1);
    assert!(order.out.contains("UNKNOWN"), "{order:?}");
}
