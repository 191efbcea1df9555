//! Peers that are broken or mean no good.

use proto::wire;
use proto::wire::agent_message::Body as Up;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::{Agent, World, announce, hello, soon};

/// The server still takes agents.
async fn lives(world: &World) {
    world.agent("honest", "i1").await;
}

#[tokio::test]
async fn bytes_that_are_no_protocol_close_the_connection_and_nothing_else() {
    let world = World::start().await;
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
    ] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        // The server may hang up before everything is written.
        drop(stream.write_all(&garbage).await);
        let mut answer = Vec::new();
        drop(soon("the hang-up", stream.read_to_end(&mut answer)).await);
    }
    lives(&world).await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_a_status() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    let huge = wire::Row { present: vec![0; 5_000_000], ..Default::default() };
    agent.send(Up::Batch(wire::Batch { rows: vec![huge], ..Default::default() })).await;
    let status = agent.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    lives(&world).await;
}

#[tokio::test]
async fn a_hello_that_is_not_acceptable_is_told_why() {
    let world = World::start().await;
    let refusals = [
        (wire::Hello { protocol: 9, ..hello("a", "i1") }, "protocol 1"),
        (hello("a\nb", "i1"), "position 1"),
        (hello(&"x".repeat(10_000), "i1"), "10000 bytes"),
        (hello("a", ""), "incarnation is empty"),
        (wire::Hello { host: "x".repeat(10_000), ..hello("a", "i1") }, "host"),
    ];
    for (hello, reason) in refusals {
        let mut agent = world.greet(hello).await;
        let leave = agent.leave().await;
        assert_eq!(leave.reason(), wire::leave::Reason::Refused);
        assert!(leave.message.contains(reason), "{}", leave.message);
        assert_eq!(agent.try_next().await.unwrap(), None);
    }
    lives(&world).await;
}

#[tokio::test]
async fn a_stream_without_a_hello_ends_within_its_time() {
    let world = World::start().await;
    let mut silent = Agent::open(world.channel().await).await;
    let leave = silent.leave().await;
    assert!(leave.message.contains("no hello"), "{}", leave.message);
    let mut rude = Agent::open(world.channel().await).await;
    rude.send(announce()).await;
    assert!(rude.leave().await.message.contains("must be a hello"));
}

#[tokio::test]
async fn rows_that_do_not_fit_their_schema_end_the_stream() {
    let world = World::start().await;
    let mut agent = world.agent("agent-001", "i1").await;
    agent.send(crate::harness::batch(1, 1.0)).await;
    let leave = agent.leave().await;
    assert!(leave.message.contains("schema 1"), "{}", leave.message);
    lives(&world).await;
}
