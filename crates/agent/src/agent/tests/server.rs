//! A server whose every word the test speaks.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use model::command::{CommandState, CommandType};
use proto::convert::{command_state_from_wire, command_type_to_wire};
use proto::wire::agent_message::Body;
use proto::wire::monitoring_service_server::{MonitoringService, MonitoringServiceServer};
use proto::wire::server_message::Body as Down;
use proto::wire::{self, AgentMessage, ServerMessage};
use runtime::Scope;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here takes on a busy machine: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct FakeServer {
    pub(super) address: SocketAddr,
    sessions: mpsc::Receiver<Peer>,
    _scope: Scope,
}

/// The server's end of one session.
pub(super) struct Peer {
    inbound: Streaming<AgentMessage>,
    outbound: mpsc::Sender<Result<ServerMessage, Status>>,
}

struct Service(mpsc::Sender<Peer>);

#[tonic::async_trait]
impl MonitoringService for Service {
    type StreamMetricsStream = Answer<wire::Command>;
    type SessionStream = Answer<ServerMessage>;

    async fn stream_metrics(
        &self,
        _: Request<Streaming<wire::MetricsRequest>>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        Err(Status::unimplemented("not what an agent of ours speaks"))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, answers) = mpsc::channel(64);
        let peer = Peer { inbound: request.into_inner(), outbound };
        self.0.send(peer).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl FakeServer {
    pub(super) async fn start() -> Self {
        Self::start_with(Server::builder()).await
    }

    pub(super) async fn start_with(mut builder: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peers, sessions) = mpsc::channel(8);
        let scope = Scope::new("fake server");
        scope.spawn("serve", async move {
            let service = MonitoringServiceServer::new(Service(peers));
            let incoming = TcpListenerStream::new(listener);
            builder.add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, sessions, _scope: scope }
    }

    /// The next session, its hello read.
    pub(super) async fn hello(&mut self) -> (Peer, wire::Hello) {
        let peer = tokio::time::timeout(PATIENCE, self.sessions.recv()).await;
        let mut peer = peer.expect("no session was opened in time").unwrap();
        let Body::Hello(hello) = peer.next().await else { panic!("the first message was no hello") };
        (peer, hello)
    }

    /// Whether somebody waits to be greeted.
    pub(super) fn is_asked(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// The next session, its hello read and answered.
    pub(super) async fn session(&mut self, credits: u32) -> (Peer, wire::Hello) {
        let (peer, hello) = self.hello().await;
        let welcome = wire::Welcome {
            server_id: "fake".to_owned(),
            heartbeat_interval_ms: 100,
            timeout_ms: 1_000,
            credits,
            batch_bytes_max: 0,
        };
        peer.say(Down::Welcome(welcome)).await;
        (peer, hello)
    }
}

impl Peer {
    pub(super) async fn say(&self, body: Down) {
        self.outbound.send(Ok(ServerMessage { body: Some(body) })).await.unwrap();
    }

    pub(super) async fn order(&self, id: &str, kind: CommandType) {
        self.command(wire::Command {
            command_id: id.to_owned(),
            r#type: command_type_to_wire(kind).into(),
            remaining_ms: 30_000,
            ..wire::Command::default()
        })
        .await;
    }

    pub(super) async fn command(&self, command: wire::Command) {
        self.say(Down::Command(command)).await;
    }

    pub(super) async fn acknowledge(&self, batch_id: u64) {
        self.say(Down::Ack(wire::Ack { batch_id })).await;
    }

    pub(super) async fn acknowledge_report(&self, report: &wire::CommandReport) {
        let (command_id, state) = (report.command_id.clone(), report.state);
        self.say(Down::ReportAck(wire::ReportAck { command_id, state })).await;
    }

    /// The next message; `None` after the agent ended the stream.
    pub(super) async fn hear(&mut self) -> Option<Body> {
        let message = tokio::time::timeout(PATIENCE, self.inbound.next()).await.expect("the agent is silent");
        message.map(|message| message.unwrap().body.expect("a message of this version"))
    }

    pub(super) async fn next(&mut self) -> Body {
        self.hear().await.expect("the agent ended the stream")
    }

    /// The first message that `wanted` takes; what comes before is dropped.
    pub(super) async fn until<T>(&mut self, mut wanted: impl FnMut(Body) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(self.next().await) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("what the test waits for did not come")
    }

    pub(super) async fn batch(&mut self) -> wire::Batch {
        self.until(|body| if let Body::Batch(batch) = body { Some(batch) } else { None }).await
    }

    pub(super) async fn heartbeat(&mut self) -> wire::Heartbeat {
        self.until(|body| if let Body::Heartbeat(heartbeat) = body { Some(heartbeat) } else { None }).await
    }

    pub(super) async fn truth(&mut self) -> wire::ConfigTruth {
        self.until(|body| if let Body::ConfigTruth(truth) = body { Some(truth) } else { None }).await
    }

    pub(super) async fn report(&mut self) -> wire::CommandReport {
        self.until(|body| if let Body::CommandReport(report) = body { Some(report) } else { None }).await
    }

    /// The final report on a command.
    pub(super) async fn outcome(&mut self, id: &str) -> (CommandState, wire::CommandReport) {
        loop {
            let report = self.report().await;
            let state = command_state_from_wire(report.state).unwrap();
            if report.command_id == id && state.is_final() {
                return (state, report);
            }
        }
    }
}
