//! One stream to one server, from hello to goodbye.
//!
//! What is sent when: heartbeats by their own timer, then reports and config truth, then data as far as credits go.
//! Control messages have a channel of their own into the stream, and of data at most one message waits there, so
//! nothing urgent stands behind more than one batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::command::CommandState;
use model::id::{AgentId, CommandId, Incarnation};
use model::limit;
use model::truth::ConfigTruth;
use proto::convert::{collection_to_wire, command_state_from_wire, command_state_to_wire, truth_to_wire};
use proto::wire::agent_message::Body;
use proto::wire::leave::Reason;
use proto::wire::monitoring_service_client::MonitoringServiceClient;
use proto::wire::{self, AgentMessage, ServerMessage, Welcome, server_message};
use runtime::clock::wall;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tonic::Streaming;

use crate::collection::View;
use crate::flow::Flow;
use crate::lanes::Lanes;
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::outgoing::Outgoing;
use crate::settings::{CONNECT_WITHIN, Server};

/// Control messages in the stream's channel. When they are not taken, heartbeats are left out and reports wait.
const CONTROL_DEPTH: usize = 16;
/// What is buffered when the agent stops may take this long to be acknowledged.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// The server may take this long to end the stream after a goodbye.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What is the same in every session of one agent.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) agent_id: AgentId,
    pub(crate) incarnation: Incarnation,
    pub(crate) boot_id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) machine: Machine,
    pub(crate) started: Instant,
    /// Of the process, which may be older than this agent.
    pub(crate) cpu_at_start: Duration,
}

/// A command with its deadline on our own clock.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) command: wire::Command,
    pub(crate) expires: Instant,
}

/// Where what the server says goes. Nothing here waits: the stream is read whatever happens.
#[derive(Clone, Debug)]
pub(crate) struct Downlink {
    pub(crate) commands: mpsc::Sender<Delivery>,
    /// A lost acknowledgement costs a repeated report.
    pub(crate) acknowledgements: mpsc::Sender<(CommandId, CommandState)>,
    /// The newest one counts.
    pub(crate) config: watch::Sender<Option<wire::ConfigRevision>>,
}

/// What a session tells of, and whom it tells.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) identity: Arc<Identity>,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) truth: watch::Receiver<ConfigTruth>,
    /// Set when the agent ends: everything collected is in the buffer.
    pub(crate) farewell: watch::Receiver<Option<wire::goodbye::Reason>>,
    pub(crate) downlink: Downlink,
    pub(crate) metrics: Metrics,
}

/// Why there is no session, or no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("connected, but got no answer: {0}")]
    NoAnswer(String),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the server ended the stream")]
    Ended,
    #[error("the server sent us away ({}): {message}", reason.as_str_name())]
    Left { reason: Reason, message: String, retry_after: Option<Duration> },
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

impl SessionError {
    /// Whether it would be the same at every server.
    pub(crate) fn is_about_us(&self) -> bool {
        matches!(self, Self::Left { reason: Reason::Superseded, .. })
    }
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// A session that was welcomed.
#[derive(Debug)]
pub(crate) struct Session {
    inbound: Streaming<ServerMessage>,
    control: mpsc::Sender<AgentMessage>,
    data: mpsc::Sender<AgentMessage>,
    talk: Talk,
}

/// How far the two sides have come.
#[derive(Debug)]
struct Talk {
    context: Surroundings,
    welcome: Welcome,
    flow: Flow,
    heartbeats: u64,
    truth_is_due: bool,
}

impl Session {
    /// Connects, says hello and waits to be welcomed. `connection` is the number of this try, over all servers.
    pub(crate) async fn open(
        server: &Server,
        mut context: Surroundings,
        connection: u64,
    ) -> Result<Self, SessionError> {
        let channel = timeout(CONNECT_WITHIN, server.endpoint.connect());
        let channel = channel
            .await
            .map_err(|_| SessionError::Silent(CONNECT_WITHIN))?
            .map_err(|error| SessionError::Connect(server.protection.no_connection(&error)))?;
        let mut client = MonitoringServiceClient::new(channel)
            .max_decoding_message_size(limit::SERVER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limit::AGENT_MESSAGE_BYTES_MAX);
        let (control, control_lane) = mpsc::channel(CONTROL_DEPTH);
        let (data, data_lane) = mpsc::channel(1);
        let hello = context.hello(connection);
        control.try_send(message(Body::Hello(hello))).expect("a new channel has room");
        let outgoing = Outgoing { control: control_lane, data: data_lane };
        let welcomed = async {
            // A status with a cause is not from the server: the connection broke.
            let no_answer = |status: tonic::Status| match std::error::Error::source(&status) {
                Some(cause) => SessionError::NoAnswer(server.protection.no_answer(cause)),
                None => status.into(),
            };
            let mut inbound = client.session(outgoing).await.map_err(no_answer)?.into_inner();
            match inbound.message().await.map_err(no_answer)?.and_then(|message| message.body) {
                Some(server_message::Body::Welcome(welcome)) => Ok((inbound, welcome)),
                Some(server_message::Body::Leave(leave)) => Err(left(leave)),
                Some(_) => Err(SessionError::Protocol("its first message was no welcome".to_owned())),
                None => Err(SessionError::Ended),
            }
        };
        let (inbound, welcome) = timeout(limit::HELLO_WITHIN, welcomed)
            .await
            .map_err(|_| SessionError::Silent(limit::HELLO_WITHIN))??;
        context.lanes.outbox().restart();
        let flow = Flow::new(context.identity.incarnation.clone(), &welcome, &context.lanes.buffer());
        let talk = Talk { context, welcome, flow, heartbeats: 0, truth_is_due: false };
        Ok(Self { inbound, control, data, talk })
    }

    pub(crate) fn server_id(&self) -> &str {
        &self.talk.welcome.server_id
    }

    /// Serves the stream until it ends. `Ok` after a goodbye of ours.
    pub(crate) async fn run(self) -> Result<(), SessionError> {
        let Self { mut inbound, control, data, mut talk } = self;
        let mut heartbeat = talk.heartbeat();
        let (mut truth, mut farewell) = (talk.context.truth.clone(), talk.context.farewell.clone());
        let mut drained_by: Option<Instant> = None;
        loop {
            let lanes = Arc::clone(&talk.context.lanes);
            let ending = *farewell.borrow();
            if let Some(reason) = ending {
                let deadline = *drained_by.get_or_insert_with(|| Instant::now() + DRAIN_WITHIN);
                if talk.is_drained() || Instant::now() >= deadline {
                    say_goodbye(reason, inbound, control, data).await;
                    return Ok(());
                }
            }
            let has_control = talk.truth_is_due || lanes.outbox().has_next();
            let has_data = talk.flow.has_next(&lanes.buffer());
            tokio::select! {
                biased;
                received = inbound.message() => match received?.map(|message| message.body) {
                    Some(Some(body)) => talk.take(body)?,
                    Some(None) => {} // Something a newer server says.
                    None => return Err(SessionError::Ended),
                },
                _ = heartbeat.tick() => talk.beat(&control),
                Ok(permit) = control.reserve(), if has_control => give(permit, talk.next_control()),
                Ok(()) = truth.changed() => talk.truth_is_due = true,
                Ok(permit) = data.reserve(), if has_data => give(permit, talk.next_data()),
                () = lanes.changed() => {}
                Ok(()) = farewell.changed(), if ending.is_none() => {}
                () = sleep_until(drained_by) => {}
            }
        }
    }
}

impl Talk {
    fn heartbeat(&self) -> tokio::time::Interval {
        let interval = Duration::from_millis(self.welcome.heartbeat_interval_ms);
        let mut heartbeat = tokio::time::interval(interval.clamp(limit::HEARTBEAT_MIN, limit::HEARTBEAT_MAX));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        heartbeat
    }

    fn next_control(&mut self) -> Option<Body> {
        if std::mem::take(&mut self.truth_is_due) {
            return Some(Body::ConfigTruth(truth_to_wire(&self.context.truth.borrow())));
        }
        self.context.lanes.outbox().next().map(Body::CommandReport)
    }

    fn next_data(&mut self) -> Option<Body> {
        let body = self.flow.next(&self.context.lanes.buffer())?;
        self.context.metrics.batches_sent.inc_by(u64::from(matches!(body, Body::Batch(_))));
        Some(body)
    }

    /// Takes what the server says.
    fn take(&mut self, body: server_message::Body) -> Result<(), SessionError> {
        let Surroundings { lanes, downlink, metrics, .. } = &self.context;
        match body {
            server_message::Body::Welcome(_) => {
                return Err(SessionError::Protocol("it welcomed twice".to_owned()));
            }
            server_message::Body::Ack(ack) => {
                let end = self.flow.acknowledged(ack.batch_id);
                if let Some(end) = end.map_err(|error| SessionError::Protocol(error.to_string()))? {
                    lanes.release(end);
                    metrics.batches_acknowledged.inc();
                }
            }
            server_message::Body::Command(command) => {
                let expires = Instant::now()
                    + Duration::from_millis(command.remaining_ms).min(limit::COMMAND_TIMEOUT_MAX);
                let delivery = Delivery { command, expires };
                if let Err(mpsc::error::TrySendError::Full(delivery)) = downlink.commands.try_send(delivery) {
                    lanes.report(rejected(
                        &delivery.command,
                        "too many commands wait at this agent: try again",
                    ));
                }
            }
            server_message::Body::Config(config) => drop(downlink.config.send_replace(Some(config))),
            server_message::Body::ReportAck(ack) => {
                let state = command_state_from_wire(ack.state);
                if let (Some(state), Ok(id)) = (state, CommandId::new(ack.command_id)) {
                    lanes.outbox().acknowledged(id.as_str(), state);
                    // Full or closed: the report is sent again some day.
                    downlink.acknowledgements.try_send((id, state)).ok();
                }
            }
            server_message::Body::Leave(leave) => return Err(left(leave)),
        }
        Ok(())
    }

    /// Sends a heartbeat, or leaves it out where the stream takes nothing.
    fn beat(&mut self, control: &mpsc::Sender<AgentMessage>) {
        let Ok(permit) = control.try_reserve() else { return };
        self.heartbeats += 1;
        let fill = self.context.lanes.buffer().fill();
        let view = self.context.view.borrow();
        let plugins = view.plugins.iter().map(|(name, counters)| wire::PluginCounters {
            name: name.clone(),
            processed: counters.processed,
            passed: counters.passed,
            dropped: counters.dropped,
        });
        permit.send(message(Body::Heartbeat(wire::Heartbeat {
            number: self.heartbeats,
            monotonic_ms: milliseconds(self.context.identity.started.elapsed()),
            wall_ms: wall().unix_ms(),
            collection: collection_to_wire(view.collection).into(),
            buffered_ticks: fill.ticks,
            buffered_bytes: fill.bytes,
            lost_ticks: fill.lost_ticks,
            plugins: plugins.collect(),
            interval_ms: milliseconds(view.interval),
        })));
    }

    fn is_drained(&self) -> bool {
        let lanes = &self.context.lanes;
        !self.truth_is_due && !lanes.outbox().has_next() && lanes.buffer().fill().ticks == 0
    }
}

/// The last message, and time for it to arrive. A server that does not close in time has it or never will.
async fn say_goodbye(
    reason: wire::goodbye::Reason,
    mut inbound: Streaming<ServerMessage>,
    control: mpsc::Sender<AgentMessage>,
    data: mpsc::Sender<AgentMessage>,
) {
    let close = async move {
        let goodbye = message(Body::Goodbye(wire::Goodbye { reason: reason.into() }));
        control.send(goodbye).await.ok();
        drop((control, data));
        while let Ok(Some(_)) = inbound.message().await {}
    };
    timeout(CLOSE_WITHIN, close).await.ok();
}

impl Surroundings {
    fn hello(&mut self, connection: u64) -> wire::Hello {
        let Identity { agent_id, incarnation, boot_id, labels, machine, .. } = &*self.identity;
        let view = self.view.borrow();
        wire::Hello {
            protocol: proto::PROTOCOL,
            agent_id: agent_id.to_string(),
            incarnation: incarnation.to_string(),
            boot_id: boot_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: machine.host.clone(),
            os: format!("{} ({})", machine.os, machine.kernel),
            labels: labels.clone().into_iter().collect(),
            capabilities: Vec::new(),
            config_truth: Some(truth_to_wire(&self.truth.borrow_and_update())),
            collection: collection_to_wire(view.collection).into(),
            interval_ms: milliseconds(view.interval),
            connection,
        }
    }
}

/// The report on a command that was not looked at.
pub(crate) fn rejected(command: &wire::Command, why: &str) -> wire::CommandReport {
    wire::CommandReport {
        command_id: command.command_id.clone(),
        r#type: command.r#type,
        state: command_state_to_wire(CommandState::Rejected).into(),
        message: why.to_owned(),
        result_json: String::new(),
        timestamp_ms: wall().unix_ms(),
    }
}

fn left(leave: wire::Leave) -> SessionError {
    SessionError::Left {
        reason: leave.reason(),
        message: leave.message,
        retry_after: (leave.retry_after_ms > 0).then(|| Duration::from_millis(leave.retry_after_ms)),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn give(permit: mpsc::Permit<'_, AgentMessage>, body: Option<Body>) {
    if let Some(body) = body {
        permit.send(message(body));
    }
}

fn message(body: Body) -> AgentMessage {
    AgentMessage { body: Some(body) }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
