//! The monitor on embedded backends, under a paused clock: what it publishes, when, and that only one of several does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backends::Backends;
use backends::bus::embedded::EmbeddedBus;
use backends::bus::{
    Bus, BusError, Extent, NewRecord, Position, Retention, StartAt, Subscription, TopicSpec,
};
use backends::registry::embedded::EmbeddedRegistry;
use backends::registry::{
    Committed, Entry, Event, LeaseId, Operation, Registry, RegistryError, Snapshot, Txn, Watch,
};
use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId, Incarnation, Revision, ServerId};
use model::limit::CONFIG_HISTORY_MAX;
use model::presence::{Collection, Presence, Reason};
use model::sample::Timestamp;
use model::truth::ConfigTruth;
use monitor::{Monitor, Settings};
use proto::key::{self, AgentEntry, AuthorEntry, Client, HistoryEntry, ServerEntry, Target};
use proto::record::{self, CommandRecord, ResponseRecord, StatusRecord};
use runtime::ops::Ops;
use runtime::{Health, Scope};
use tokio::sync::watch;
use tokio::time::Instant;

struct Fleet {
    backends: Backends,
    status: Subscription,
    responses: Subscription,
}

impl Fleet {
    async fn new() -> Self {
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::in_memory(Default::default()).unwrap());
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::in_memory(&Default::default()).unwrap());
        let retention = Retention { age: Duration::from_secs(86_400), bytes: 1 << 30, compacted: false };
        let topics = [record::COMMANDS, record::COMMAND_RESPONSES, record::AGENT_STATUS];
        let topics = topics.map(|name| TopicSpec { name: name.to_owned(), partitions: 2, retention });
        bus.ensure_topics(&topics).await.unwrap();
        let status = bus.subscribe(record::AGENT_STATUS, StartAt::Earliest).await.unwrap();
        let responses = bus.subscribe(record::COMMAND_RESPONSES, StartAt::Earliest).await.unwrap();
        Self { backends: Backends { bus, registry }, status, responses }
    }

    fn monitor(&self, id: &str) -> Scope {
        let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
        Self::monitor_over(self.backends.clone(), id, &ops)
    }

    fn monitor_over(backends: Backends, id: &str, ops: &Ops) -> Scope {
        let settings = Settings { monitor_id: id.to_owned(), on_status: None };
        let monitor = Monitor::new(settings, backends, ops).unwrap();
        let scope = Scope::new("test");
        let stop = scope.stopping();
        scope.spawn("monitor", async move { monitor.run(stop).await.unwrap() });
        scope
    }

    async fn put(&self, key: &str, value: &impl serde::Serialize) -> Revision {
        self.backends.registry.put(key, serde_json::to_vec(value).unwrap()).await.unwrap()
    }

    async fn agent(&self, id: &str, status: Presence, reason: Reason) {
        let entry = entry(id, status, reason);
        self.put(&key::agent(&entry.agent_id), &entry).await;
    }

    async fn server(&self) {
        let server = ServerEntry {
            server_id: server_id(),
            server_incarnation: incarnation("r1"),
            grpc: String::new(),
            version: String::new(),
            started: Timestamp::default(),
        };
        self.put(&key::server(&server_id()), &server).await;
    }

    async fn publish(&self, topic: &str, key: &str, value: &impl serde::Serialize) {
        let value = serde_json::to_vec(value).unwrap().into();
        let record = NewRecord { key: key.to_owned(), value, headers: Default::default() };
        self.backends.bus.publish(topic, vec![record]).await.unwrap();
    }

    async fn next_status(&mut self) -> (String, Presence, Reason) {
        let record = self.status.next().await.unwrap().unwrap();
        let status: StatusRecord = serde_json::from_slice(&record.value).unwrap();
        (status.agent_id.to_string(), status.status, status.reason)
    }

    /// Records on `command-responses` so far.
    async fn responses(&self) -> u64 {
        let extents = self.backends.bus.extents(record::COMMAND_RESPONSES).await.unwrap();
        extents.iter().map(|extent| extent.high).sum()
    }

    /// A heartbeat key as the first seed's agents write it.
    async fn foreign_heartbeat(&self, name: &str) -> LeaseId {
        let registry = &self.backends.registry;
        let lease = registry.grant(Duration::from_secs(5)).await.unwrap();
        let key = format!("{}{name}", key::HEARTBEATS);
        let put = Operation::Put { key, value: "alive".into(), lease: Some(lease) };
        registry.commit(Txn { compares: vec![], operations: vec![put] }).await.unwrap();
        lease
    }

    async fn next_response(&mut self) -> ResponseRecord {
        let record = self.responses.next().await.unwrap().unwrap();
        serde_json::from_slice(&record.value).unwrap()
    }
}

/// One monitor's way to bus and registry, which stops and goes on as the process would under SIGSTOP and SIGCONT.
#[derive(Clone, Debug)]
struct Stoppable {
    inner: Backends,
    stopped: watch::Sender<bool>,
}

impl Stoppable {
    fn over(inner: &Backends) -> Self {
        Self { inner: inner.clone(), stopped: watch::Sender::new(false) }
    }

    fn backends(&self) -> Backends {
        Backends { bus: Arc::new(self.clone()), registry: Arc::new(self.clone()) }
    }

    fn set(&self, stopped: bool) {
        self.stopped.send_replace(stopped);
    }

    async fn runs(&self) {
        self.stopped.subscribe().wait_for(|stopped| !stopped).await.unwrap();
    }
}

#[async_trait::async_trait]
impl Bus for Stoppable {
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), BusError> {
        self.inner.bus.ensure_topics(topics).await
    }

    async fn publish(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<Position>, BusError> {
        self.runs().await;
        self.inner.bus.publish(topic, records).await
    }

    async fn subscribe(&self, topic: &str, from: StartAt) -> Result<Subscription, BusError> {
        self.inner.bus.subscribe(topic, from).await
    }

    async fn join(&self, topic: &str, group: &str) -> Result<Subscription, BusError> {
        self.inner.bus.join(topic, group).await
    }

    /// The look before a publish: who is stopped here has already made up its mind.
    async fn extents(&self, topic: &str) -> Result<Vec<Extent>, BusError> {
        let extents = self.inner.bus.extents(topic).await;
        self.runs().await;
        extents
    }
}

#[async_trait::async_trait]
impl Registry for Stoppable {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        self.runs().await;
        self.inner.registry.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, RegistryError> {
        self.inner.registry.list(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, RegistryError> {
        self.runs().await;
        self.inner.registry.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        self.inner.registry.watch(prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        self.runs().await;
        self.inner.registry.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.runs().await;
        self.inner.registry.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.runs().await;
        self.inner.registry.revoke(lease).await
    }
}

fn server_id() -> ServerId {
    ServerId::new("s1").unwrap()
}

fn incarnation(text: &str) -> Incarnation {
    Incarnation::new(text).unwrap()
}

fn agent_id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn entry(id: &str, status: Presence, reason: Reason) -> AgentEntry {
    AgentEntry {
        agent_id: agent_id(id),
        client: Client::Session,
        host: "host".to_owned(),
        os: "linux".to_owned(),
        version: "0".to_owned(),
        labels: BTreeMap::new(),
        boot_id: String::new(),
        incarnation: incarnation("a1"),
        first_seen: Timestamp::default(),
        connected_at: Timestamp::default(),
        status,
        reason,
        since: Timestamp::default(),
        server: server_id(),
        server_incarnation: incarnation("r1"),
        collection: Collection::Collecting,
        interval_ms: 5_000,
        config: ConfigTruth::default(),
        rivals: Vec::new(),
    }
}

fn command(id: &str, agent: &str, seconds: u64) -> CommandRecord {
    CommandRecord {
        command_id: Some(CommandId::new(id).unwrap()),
        agent_id: agent_id(agent),
        kind: CommandType::Stop,
        params: Default::default(),
        timestamp: None,
        expires_at: Some(runtime::clock::wall().plus(Duration::from_secs(seconds))),
        issued_by: None,
    }
}

#[tokio::test(start_paused = true)]
async fn every_transition_is_published_once_in_order() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    let monitor = fleet.monitor("m1");
    fleet.agent("agent-001", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await, ("agent-001".to_owned(), Presence::Online, Reason::Connected));
    fleet.agent("agent-001", Presence::Late, Reason::ConnectionLost).await;
    assert_eq!(fleet.next_status().await.1, Presence::Late);
    fleet.agent("agent-001", Presence::Offline, Reason::ConnectionLost).await;
    assert_eq!(
        fleet.next_status().await,
        ("agent-001".to_owned(), Presence::Offline, Reason::ConnectionLost)
    );
    fleet.agent("agent-002", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.0, "agent-002", "nothing was said twice");
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_monitor_takes_over_and_repeats_nothing() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    let first = fleet.monitor("m1");
    fleet.agent("agent-001", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.0, "agent-001");
    let second = fleet.monitor("m2");
    first.stop(Duration::from_secs(5)).await.unwrap();
    fleet.agent("agent-002", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.0, "agent-002");
    second.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_work_of_a_leader_that_stops_without_a_word_is_taken_over_within_its_lease() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    let dying = Stoppable::over(&fleet.backends);
    let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
    let _first = Fleet::monitor_over(dying.backends(), "m1", &ops);
    fleet.agent("agent-001", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.0, "agent-001");
    let _second = fleet.monitor("m2");
    dying.set(true);
    let stopped = Instant::now();
    fleet.agent("agent-002", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.0, "agent-002");
    assert!(stopped.elapsed() <= Duration::from_secs(9), "after {:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_stopped_and_goes_on_writes_nothing_that_its_successor_has_written() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    let stopping = Stoppable::over(&fleet.backends);
    let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
    let _first = Fleet::monitor_over(stopping.backends(), "m1", &ops);
    fleet.agent("agent-001", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.0, "agent-001");
    let _second = fleet.monitor("m2");
    // Stopped before the deadline: when that comes, the first has looked at the answers and is about to end the command.
    fleet.publish(record::COMMANDS, "agent-001", &command("c1", "agent-001", 1)).await;
    stopping.set(true);
    let response = fleet.next_response().await;
    assert_eq!((response.command_id.as_str(), response.is_final), ("c1", true));
    fleet.agent("agent-001", Presence::Late, Reason::ConnectionLost).await;
    assert_eq!(fleet.next_status().await.1, Presence::Late);

    stopping.set(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.responses().await, 1, "the first ended the command again");
    fleet.agent("agent-002", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.0, "agent-002", "the first said something again");
}

#[tokio::test(start_paused = true)]
async fn a_last_word_on_the_topic_that_is_not_the_leaders_is_set_right() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    let monitor = fleet.monitor("m1");
    fleet.agent("agent-001", Presence::Online, Reason::Connected).await;
    assert_eq!(fleet.next_status().await.1, Presence::Online);
    let stale = StatusRecord {
        agent_id: agent_id("agent-001"),
        status: Presence::Offline,
        reason: Reason::Silence,
        incarnation: None,
        server: None,
        timestamp: Timestamp::default(),
    };
    fleet.publish(record::AGENT_STATUS, "agent-001", &stale).await;
    assert_eq!(fleet.next_status().await.1, Presence::Offline);
    assert_eq!(fleet.next_status().await.1, Presence::Online);
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_key_of_another_program_is_an_agent_until_its_lease_ends() {
    let mut fleet = Fleet::new().await;
    let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
    let monitor = Fleet::monitor_over(fleet.backends.clone(), "m1", &ops);
    for unfit in ["a b", "a/b", ""] {
        fleet.foreign_heartbeat(unfit).await;
    }
    fleet.foreign_heartbeat("worker1").await;
    assert_eq!(fleet.next_status().await, ("worker1".to_owned(), Presence::Online, Reason::ForeignKey));
    let there = Instant::now();
    assert_eq!(fleet.next_status().await, ("worker1".to_owned(), Presence::Offline, Reason::ForeignKeyGone));
    assert!(there.elapsed() <= Duration::from_secs(6), "after {:?}", there.elapsed());
    let bad = ops
        .metrics
        .gather()
        .into_iter()
        .find(|family| family.name() == "watchfloor_monitor_bad_records_total");
    assert_eq!(bad.unwrap().get_metric()[0].get_counter().get_value(), 3.0);
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_foreign_agent_that_went_while_no_monitor_ran_is_offline_for_the_next_one() {
    let mut fleet = Fleet::new().await;
    let lease = fleet.foreign_heartbeat("worker1").await;
    let first = fleet.monitor("m1");
    assert_eq!(fleet.next_status().await.1, Presence::Online);
    first.stop(Duration::from_secs(5)).await.unwrap();
    fleet.backends.registry.revoke(lease).await.unwrap();
    let second = fleet.monitor("m2");
    assert_eq!(fleet.next_status().await, ("worker1".to_owned(), Presence::Offline, Reason::ForeignKeyGone));
    second.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn agents_of_a_lost_server_are_late_then_offline_after_the_grace() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    fleet.agent("agent-001", Presence::Online, Reason::Connected).await;
    let monitor = fleet.monitor("m1");
    assert_eq!(fleet.next_status().await.1, Presence::Online);
    fleet.backends.registry.delete(&key::server(&server_id())).await.unwrap();
    assert_eq!(fleet.next_status().await, ("agent-001".to_owned(), Presence::Late, Reason::ServerLost));
    let late = Instant::now();
    assert_eq!(fleet.next_status().await, ("agent-001".to_owned(), Presence::Offline, Reason::ServerLost));
    assert!((56..=59).contains(&late.elapsed().as_secs()), "after {:?}", late.elapsed());
    let key = key::agent(&agent_id("agent-001"));
    let stored = fleet.backends.registry.get(&key).await.unwrap().unwrap();
    let stored: AgentEntry = serde_json::from_slice(&stored.value).unwrap();
    assert_eq!(stored.status, Presence::Offline, "the verdict persists in the inventory");
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_command_nobody_answers_ends_at_its_deadline_and_says_why() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    fleet.agent("agent-001", Presence::Offline, Reason::Silence).await;
    let monitor = fleet.monitor("m1");
    fleet.next_status().await;
    let start = Instant::now();
    fleet.publish(record::COMMANDS, "agent-001", &command("c1", "agent-001", 30)).await;
    let response = fleet.next_response().await;
    assert_eq!((response.state, response.is_final), (CommandState::Expired, true));
    assert!(
        response.message.contains("agent-001 is OFFLINE (connected, but silent)"),
        "{}",
        response.message
    );
    assert!((30..=35).contains(&start.elapsed().as_secs()), "after {:?}", start.elapsed());

    fleet.publish(record::COMMANDS, "nobody", &command("c2", "nobody", 1)).await;
    let message = fleet.next_response().await.message;
    assert!(message.contains("no agent nobody has ever connected"), "{message}");
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answered_command_is_left_alone_and_a_delivered_one_without_answer_is_unknown() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    let answer = |id: &str, state| {
        let (id, agent) = (CommandId::new(id).unwrap(), agent_id("agent-001"));
        ResponseRecord::new(id, agent, CommandType::Stop, state, "", Timestamp::default())
    };
    fleet.publish(record::COMMANDS, "agent-001", &command("answered", "agent-001", 5)).await;
    fleet.publish(record::COMMANDS, "agent-001", &command("delivered", "agent-001", 10)).await;
    fleet.publish(record::COMMAND_RESPONSES, "agent-001", &answer("answered", CommandState::Succeeded)).await;
    fleet
        .publish(record::COMMAND_RESPONSES, "agent-001", &answer("delivered", CommandState::Delivered))
        .await;
    let monitor = fleet.monitor("m1");
    fleet.next_response().await;
    fleet.next_response().await;
    let response = fleet.next_response().await;
    assert_eq!((response.command_id.as_str(), response.state), ("delivered", CommandState::Unknown));
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_stops_nothing() {
    let mut fleet = Fleet::new().await;
    fleet.server().await;
    let monitor = fleet.monitor("m1");
    fleet.publish(record::COMMANDS, "x", &"not a command").await;
    fleet.put("/monitor/agents/agent-009", &"not an entry").await;
    fleet.publish(record::COMMANDS, "agent-001", &command("c1", "agent-001", 1)).await;
    assert_eq!(fleet.next_response().await.command_id.as_str(), "c1");
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_fifty_versions_of_a_config_are_kept() {
    let fleet = Fleet::new().await;
    fleet.server().await;
    let monitor = fleet.monitor("m1");
    let target = Target::Agent(agent_id("agent-001"));
    let prefix = key::history_prefix(&target);
    let mut written = fleet.backends.registry.watch(&prefix, Revision(0)).await.unwrap();
    for version in 0..CONFIG_HISTORY_MAX + 5 {
        fleet.put(&target.key(), &serde_json::json!({ "interval": version + 1 })).await;
        loop {
            if let Event::Put(entry) = written.next().await.unwrap().unwrap() {
                let entry: HistoryEntry = serde_json::from_slice(&entry.value).unwrap();
                assert_eq!(entry.value, Some(format!(r#"{{"interval":{}}}"#, version + 1)));
                assert_eq!(entry.by, "registry");
                break;
            }
        }
    }
    let kept = fleet.backends.registry.list(&prefix).await.unwrap().entries;
    assert_eq!(kept.len(), CONFIG_HISTORY_MAX);
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn history_names_who_removed_a_config() {
    let fleet = Fleet::new().await;
    fleet.server().await;
    let monitor = fleet.monitor("m1");
    let target = Target::Agent(agent_id("agent-001"));
    let registry = &fleet.backends.registry;
    let mut written = registry.watch(&key::history_prefix(&target), Revision(0)).await.unwrap();
    let mut next = async || loop {
        if let Event::Put(entry) = written.next().await.unwrap().unwrap() {
            break serde_json::from_slice::<HistoryEntry>(&entry.value).unwrap();
        }
    };
    fleet.put(&target.key(), &serde_json::json!({})).await;
    assert_eq!(next().await.by, "registry");
    let by = serde_json::to_vec(&AuthorEntry { by: "alice".to_owned() }).unwrap().into();
    let author = Operation::Put { key: key::author(&target), value: by, lease: None };
    let operations = vec![Operation::Delete { key: target.key() }, author];
    registry.commit(Txn { compares: vec![], operations }).await.unwrap();
    let removal = next().await;
    assert_eq!((removal.by.as_str(), removal.value), ("alice", None));
    monitor.stop(Duration::from_secs(5)).await.unwrap();
}
