//! A server with its surroundings, and an agent's end of a stream. Everything waits for events, bounded by [`PATIENCE`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backends::Backends;
use backends::bus::embedded::EmbeddedBus;
use backends::bus::{
    Bus, BusError, Extent, NewRecord, Position, Retention, StartAt, Subscription, TopicSpec,
};
use backends::registry::embedded::EmbeddedRegistry;
use backends::registry::{Event, Registry};
use bytes::Bytes;
use model::id::{AgentId, Revision, ServerId};
use model::presence::{Presence, Reason, Timing};
use proto::key::{self, AgentEntry};
use proto::record::{AGENT_STATUS, COMMAND_RESPONSES, COMMANDS, MONITORING_DATA, ResponseRecord};
use proto::wire;
use proto::wire::agent_message::Body as Up;
use proto::wire::monitoring_service_client::MonitoringServiceClient;
use proto::wire::server_message::Body as Down;
use runtime::Scope;
use runtime::ops::Ops;
use server::{RunError, Server, Settings};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longer than anything here takes on a busy machine; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `event`, at most [`PATIENCE`].
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// One server's way to a bus that it may share: `monitoring-data` and `command-responses` open on demand, or fail first.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: Arc<EmbeddedBus>,
    state: watch::Sender<Gated>,
    responses: watch::Sender<Gated>,
    /// Whether what others put on `command-responses` is delivered.
    hears: watch::Sender<bool>,
    /// Looks at how much there is on `command-responses`.
    looked: watch::Sender<usize>,
    scope: Scope,
    /// Calls that found the gate not open.
    pub tried: watch::Sender<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gated {
    Open,
    Waiting,
    Failing,
    /// The record gets there, the answer does not come back.
    AnswerLost,
}

impl Gate {
    fn over(inner: Arc<EmbeddedBus>) -> Arc<Self> {
        let (state, responses) = (watch::Sender::new(Gated::Open), watch::Sender::new(Gated::Open));
        let (hears, tried, scope) = (watch::Sender::new(true), watch::Sender::new(0), Scope::new("gate"));
        Arc::new(Self { inner, state, responses, hears, looked: watch::Sender::new(0), scope, tried })
    }

    pub(crate) fn set(&self, state: Gated) {
        self.state.send_replace(state);
    }

    pub(crate) fn set_responses(&self, state: Gated) {
        self.responses.send_replace(state);
    }

    pub(crate) fn set_hears(&self, hears: bool) {
        self.hears.send_replace(hears);
    }

    /// Begins to wait for the next look at how much there is on `command-responses`.
    pub(crate) fn next_look(&self) -> impl Future<Output = ()> {
        let mut looked = self.looked.subscribe();
        looked.mark_unchanged();
        async move { soon("a look at the responses", looked.changed()).await.unwrap() }
    }

    pub(crate) async fn close(&self) {
        self.inner.close().await.unwrap();
    }

    /// Waits until `times` calls found a gate not open.
    pub(crate) async fn tried(&self, times: usize) {
        let mut tried = self.tried.subscribe();
        soon("a try to publish", tried.wait_for(|tried| *tried >= times)).await.unwrap();
    }
}

#[async_trait::async_trait]
impl Bus for Gate {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), BusError> {
        self.inner.ensure_topics(topics).await
    }

    async fn publish(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, BusError> {
        let mut state = match topic {
            MONITORING_DATA => self.state.subscribe(),
            COMMAND_RESPONSES => self.responses.subscribe(),
            _ => return self.inner.publish(topic, records).await,
        };
        let gated = *state.borrow();
        if gated == Gated::AnswerLost {
            self.inner.publish(topic, records.clone()).await?;
        }
        if gated != Gated::Open {
            self.tried.send_modify(|tried| *tried += 1);
        }
        match gated {
            Gated::Open => {}
            Gated::Waiting => {
                state.wait_for(|state| *state == Gated::Open).await.map_err(|_| BusError::Closed)?;
            }
            Gated::Failing => return Err(BusError::Unavailable { reason: "on purpose".to_owned() }),
            Gated::AnswerLost => {
                return Err(BusError::Unavailable { reason: "the answer was lost on purpose".to_owned() });
            }
        }
        self.inner.publish(topic, records).await
    }

    async fn subscribe(&self, topic: &str, from: StartAt) -> Result<Subscription, BusError> {
        let mut records = self.inner.subscribe(topic, from).await?;
        if topic != COMMAND_RESPONSES {
            return Ok(records);
        }
        let (out, delivered) = mpsc::channel(1);
        let begins = records.begins().clone();
        let mut hears = self.hears.subscribe();
        self.scope.spawn("delayed", async move {
            while let Some(record) = records.next().await {
                let record = record.map(|record| vec![record]);
                if hears.wait_for(|hears| *hears).await.is_err() || out.send(record).await.is_err() {
                    return;
                }
            }
        });
        Ok(Subscription::new(delivered, None).beginning_at(begins))
    }

    async fn join(&self, topic: &str, group: &str) -> Result<Subscription, BusError> {
        self.inner.join(topic, group).await
    }

    async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError> {
        if topic == COMMAND_RESPONSES {
            self.looked.send_modify(|looked| *looked += 1);
        }
        self.inner.extents(topic).await
    }
}

/// What outlives a server.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub bus: Arc<Gate>,
    pub registry: Arc<dyn Registry>,
}

impl Surroundings {
    pub(crate) async fn new() -> Self {
        let bus = EmbeddedBus::in_memory(Default::default()).unwrap();
        let retention = Retention { age: Duration::from_secs(86_400), bytes: 1 << 30, compacted: false };
        let topics = [MONITORING_DATA, COMMANDS, COMMAND_RESPONSES, AGENT_STATUS];
        let topics = topics.map(|name| TopicSpec { name: name.to_owned(), partitions: 3, retention });
        bus.ensure_topics(&topics).await.unwrap();
        let registry = EmbeddedRegistry::in_memory(&Default::default()).unwrap();
        Self { bus: Gate::over(Arc::new(bus)), registry: Arc::new(registry) }
    }

    /// The same bus and registry, for another server with its own way to them.
    pub(crate) fn beside(&self) -> Self {
        Self { bus: Gate::over(Arc::clone(&self.bus.inner)), registry: Arc::clone(&self.registry) }
    }

    /// Publishes `value` as JSON on `topic`, as any tool would.
    pub(crate) async fn publish(&self, topic: &str, agent: &str, value: &str) -> Position {
        let value = Bytes::copy_from_slice(value.as_bytes());
        let record = NewRecord { key: agent.to_owned(), value, ..NewRecord::default() };
        self.bus.publish(topic, vec![record]).await.unwrap()[0]
    }

    pub(crate) async fn command(&self, agent: &str, id: &str, kind: &str) {
        let value = format!(r#"{{"agent_id":"{agent}","command_id":"{id}","type":"{kind}"}}"#);
        self.publish(COMMANDS, agent, &value).await;
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Revision {
        self.registry.put(key, value.to_owned()).await.unwrap()
    }

    pub(crate) async fn read(&self, topic: &str) -> Subscription {
        self.bus.subscribe(topic, StartAt::Earliest).await.unwrap()
    }

    /// Waits for the inventory's entry of `agent` to be as `wanted` says.
    pub(crate) async fn entry(&self, agent: &str, wanted: impl Fn(&AgentEntry) -> bool) -> AgentEntry {
        let key = key::agent(&AgentId::new(agent).unwrap());
        let snapshot = self.registry.list(&key).await.unwrap();
        let mut watch = self.registry.watch(&key, snapshot.revision).await.unwrap();
        let mut values: Vec<Bytes> = snapshot.entries.into_iter().map(|entry| entry.value).collect();
        let mut last = String::new();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                for value in values.drain(..) {
                    last = String::from_utf8_lossy(&value).into_owned();
                    let entry: AgentEntry = serde_json::from_slice(&value).unwrap();
                    if wanted(&entry) {
                        return entry;
                    }
                }
                match watch.next().await {
                    Some(Ok(Event::Put(entry))) => values.push(entry.value),
                    Some(Ok(Event::Delete { .. } | Event::Resync(_))) => {}
                    other => panic!("the watch ended: {other:?}"),
                }
            }
        });
        match found.await {
            Ok(entry) => entry,
            Err(_) => panic!("the entry never was as wanted; last: {last}"),
        }
    }

    pub(crate) async fn is(&self, agent: &str, status: Presence, reason: Reason) -> AgentEntry {
        self.entry(agent, |entry| (entry.status, entry.reason) == (status, reason)).await
    }

    pub(crate) async fn holds(&self, key: &str) -> bool {
        self.registry.get(key).await.unwrap().is_some()
    }
}

/// The next responses on `command-responses`, as JSON types.
pub(crate) async fn response(responses: &mut Subscription) -> ResponseRecord {
    let record = soon("a response", responses.next()).await.unwrap().unwrap();
    serde_json::from_slice(&record.value).unwrap()
}

/// A server that runs.
pub(crate) struct World {
    pub around: Surroundings,
    pub address: SocketAddr,
    pub ops: Ops,
    stop: CancellationToken,
    ended: oneshot::Receiver<Result<(), RunError>>,
    _scope: Scope,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_in(Surroundings::new().await, Timing::default()).await
    }

    pub(crate) async fn start_in(around: Surroundings, timing: Timing) -> Self {
        Self::start_with(around, settings(timing)).await
    }

    /// A server of this name beside others.
    pub(crate) async fn named(around: &Surroundings, id: &str) -> Self {
        let settings = Settings { server_id: ServerId::new(id).unwrap(), ..settings(Timing::default()) };
        Self::start_with(around.beside(), settings).await
    }

    /// With room for so many bytes of data that wait for the bus.
    pub(crate) async fn tight(around: Surroundings, bytes: usize) -> Self {
        Self::start_as(around, settings(Timing::default()), |server| server.waiting_at_most(bytes)).await
    }

    pub(crate) async fn start_with(around: Surroundings, settings: Settings) -> Self {
        Self::start_as(around, settings, |server| server).await
    }

    async fn start_as(
        around: Surroundings,
        settings: Settings,
        limits: impl FnOnce(Server) -> Server,
    ) -> Self {
        let backends = Backends { bus: around.bus.clone(), registry: around.registry.clone() };
        let ops = Ops { health: Default::default(), metrics: Default::default() };
        let server = limits(Server::bind(settings, backends, ops.clone()).await.unwrap());
        let address = server.local_addr();
        let stop = CancellationToken::new();
        let (told, ended) = oneshot::channel();
        let scope = Scope::new("test");
        let running = server.run(stop.clone());
        scope.spawn("server", async move { drop(told.send(running.await)) });
        Self { around, address, ops, stop, ended, _scope: scope }
    }

    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits for an end that the server comes to by itself.
    pub(crate) async fn ended(self) -> Result<(), RunError> {
        soon("the end of the server", self.ended).await.unwrap()
    }

    pub(crate) fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        soon("a connection", endpoint.connect()).await.unwrap()
    }

    /// Connects and greets; what comes back is for the caller to read.
    pub(crate) async fn greet(&self, hello: wire::Hello) -> Agent {
        let mut agent = Agent::open(self.channel().await).await;
        agent.send(Up::Hello(hello)).await;
        agent
    }

    /// An agent that was let in and has its first config.
    pub(crate) async fn agent(&self, id: &str, incarnation: &str) -> Agent {
        self.arrival(hello(id, incarnation)).await
    }

    pub(crate) async fn arrival(&self, hello: wire::Hello) -> Agent {
        let mut agent = self.greet(hello).await;
        assert!(matches!(agent.next().await, Down::Welcome(_)));
        assert!(matches!(agent.next().await, Down::Config(_)));
        agent
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.ops.metrics.gather();
        let metrics = families
            .iter()
            .filter(|family| family.name() == name)
            .flat_map(prometheus::proto::MetricFamily::get_metric);
        metrics.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

pub(crate) fn settings(timing: Timing) -> Settings {
    Settings {
        server_id: ServerId::new("s1").unwrap(),
        grpc_listen: ([127, 0, 0, 1], 0).into(),
        timing,
        tls: None,
        insecure: false,
    }
}

pub(crate) fn hello(id: &str, incarnation: &str) -> wire::Hello {
    wire::Hello {
        protocol: proto::PROTOCOL,
        agent_id: id.to_owned(),
        incarnation: incarnation.to_owned(),
        host: format!("host-of-{incarnation}"),
        labels: [("role".to_owned(), "db".to_owned())].into(),
        ..wire::Hello::default()
    }
}

/// An agent's end of a `Session` stream.
pub(crate) struct Agent {
    up: Option<mpsc::Sender<wire::AgentMessage>>,
    down: Streaming<wire::ServerMessage>,
    /// Dropping it closes the connection.
    client: Option<MonitoringServiceClient<Channel>>,
}

impl Agent {
    pub(crate) async fn open(channel: Channel) -> Self {
        Self::try_open(channel).await.unwrap()
    }

    pub(crate) async fn try_open(channel: Channel) -> Result<Self, Status> {
        let (up, frames) = mpsc::channel(64);
        let mut client = MonitoringServiceClient::new(channel);
        let down = soon("the stream", client.session(ReceiverStream::new(frames))).await?.into_inner();
        Ok(Self { up: Some(up), down, client: Some(client) })
    }

    pub(crate) async fn send(&mut self, body: Up) {
        let up = self.up.as_ref().expect("the agent has not closed its side");
        up.send(wire::AgentMessage { body: Some(body) }).await.unwrap();
    }

    pub(crate) async fn try_next(&mut self) -> Result<Option<Down>, Status> {
        let message = soon("a message from the server", self.down.message()).await?;
        Ok(message.map(|message| message.body.unwrap()))
    }

    pub(crate) async fn next(&mut self) -> Down {
        self.try_next().await.unwrap().expect("the stream is open")
    }

    pub(crate) async fn command(&mut self) -> wire::Command {
        match self.next().await {
            Down::Command(command) => command,
            other => panic!("a command was due, {other:?} came"),
        }
    }

    pub(crate) async fn config(&mut self) -> wire::ConfigRevision {
        match self.next().await {
            Down::Config(config) => config,
            other => panic!("a config was due, {other:?} came"),
        }
    }

    pub(crate) async fn leave(&mut self) -> wire::Leave {
        match self.next().await {
            Down::Leave(leave) => leave,
            other => panic!("a leave was due, {other:?} came"),
        }
    }

    pub(crate) async fn report(&mut self, id: &str, state: wire::CommandState) {
        let report =
            wire::CommandReport { command_id: id.to_owned(), state: state.into(), ..Default::default() };
        self.send(Up::CommandReport(report)).await;
    }

    pub(crate) async fn report_acked(&mut self) -> wire::ReportAck {
        match self.next().await {
            Down::ReportAck(ack) => ack,
            other => panic!("a report's ack was due, {other:?} came"),
        }
    }

    pub(crate) async fn goodbye(&mut self) {
        self.send(Up::Goodbye(wire::Goodbye { reason: wire::goodbye::Reason::Shutdown.into() })).await;
    }

    /// The connection goes without a word.
    pub(crate) fn vanish(mut self) {
        self.client = None;
    }
}

/// A batch of one tick, of the schema that [`announce`] sends.
pub(crate) fn batch(id: u64, cpu: f64) -> Up {
    let metrics = wire::SystemMetrics { cpu_percent: Some(cpu), ..Default::default() };
    let row = wire::Row {
        sequence: id,
        timestamp_ms: 1_767_225_600_000,
        metrics: Some(metrics),
        present: vec![1],
        values: vec![0.5],
        ..Default::default()
    };
    Up::Batch(wire::Batch {
        batch_id: id,
        incarnation: "i1".to_owned(),
        first_sequence: id,
        last_sequence: id,
        schema_id: 1,
        rows: vec![row],
        dispositions: Vec::new(),
    })
}

pub(crate) fn announce() -> Up {
    let key = wire::SeriesKey { name: "system.cpu.utilization".to_owned(), ..Default::default() };
    Up::Schema(wire::Schema { id: 1, first: 0, series: vec![key] })
}
