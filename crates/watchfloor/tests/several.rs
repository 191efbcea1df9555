//! Several of every role in one process, each with a runtime of its own that can be ended at once, as a process is
//! killed; they share one bus and one registry and meet real agents over loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::Agent;
use agent::collect::Host;
use backends::Backends;
use backends::bus::embedded::EmbeddedBus;
use backends::bus::{Bus, NewRecord, Retention, StartAt, Subscription, TopicSpec};
use backends::registry::embedded::EmbeddedRegistry;
use backends::registry::{Event, Registry};
use model::command::CommandState;
use model::id::{AgentId, Revision, ServerId};
use model::presence::{Presence, Reason, Timing};
use monitor::Monitor;
use proto::key::{self, AgentEntry, LeaderEntry};
use proto::record::{
    AGENT_STATUS, COMMAND_RESPONSES, COMMANDS, MONITORING_DATA, ResponseRecord, StatusRecord,
};
use runtime::Health;
use runtime::ops::Ops;
use server::Server;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// A role with a runtime of its own.
struct Process {
    runtime: Option<tokio::runtime::Runtime>,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Process {
    fn start<F: Future<Output = ()> + Send + 'static>(role: impl FnOnce(CancellationToken) -> F) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stop = CancellationToken::new();
        let (told, ended) = oneshot::channel();
        let running = role(stop.clone());
        drop(runtime.spawn(async move {
            running.await;
            told.send(()).ok();
        }));
        Self { runtime: Some(runtime), stop, ended }
    }

    /// Asks it to end, and waits until it has.
    async fn stop(mut self) {
        self.stop.cancel();
        soon("the end of a role", &mut self.ended).await.unwrap();
    }
}

/// Whatever it was doing, it does no more; its sockets close.
impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What all roles share, and what is said of the agents.
struct Fleet {
    backends: Backends,
    folder: tempfile::TempDir,
    status: Subscription,
    said: Vec<StatusRecord>,
}

impl Fleet {
    async fn new() -> Self {
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::in_memory(Default::default()).unwrap());
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::in_memory(&Default::default()).unwrap());
        let retention = Retention { age: Duration::from_secs(86_400), bytes: 1 << 30, compacted: false };
        let topics = [MONITORING_DATA, COMMANDS, COMMAND_RESPONSES, AGENT_STATUS];
        let topics = topics.map(|name| TopicSpec { name: name.to_owned(), partitions: 3, retention });
        bus.ensure_topics(&topics).await.unwrap();
        let status = bus.subscribe(AGENT_STATUS, StartAt::Earliest).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { backends: Backends { bus, registry }, folder, status, said: Vec::new() }
    }

    async fn server(&self, id: &str) -> (Process, SocketAddr) {
        let settings = server::Settings {
            server_id: ServerId::new(id).unwrap(),
            grpc_listen: ([127, 0, 0, 1], 0).into(),
            timing: Timing::default(),
            tls: None,
            insecure: false,
        };
        let (backends, (told, address)) = (self.backends.clone(), oneshot::channel());
        let process = Process::start(|stop| async move {
            let server = Server::bind(settings, backends, ops()).await.unwrap();
            told.send(server.local_addr()).unwrap();
            server.run(stop).await.unwrap();
        });
        (process, soon("a port", address).await.unwrap())
    }

    fn monitor(&self, id: &str) -> Process {
        let (id, backends) = (id.to_owned(), self.backends.clone());
        Process::start(|stop| async move {
            let settings = monitor::Settings { monitor_id: id, on_status: None };
            Monitor::new(settings, backends, &ops()).unwrap().run(stop).await.unwrap();
        })
    }

    fn agent(&self, id: &str, servers: &[SocketAddr]) -> Process {
        let state_directory = self.folder.path().join(id);
        std::fs::create_dir(&state_directory).unwrap();
        let settings = agent::Settings {
            agent_id: AgentId::new(id).unwrap(),
            labels: BTreeMap::new(),
            servers: servers.iter().map(ToString::to_string).collect(),
            state_directory,
            roots: Host::local(),
            tls: None,
            insecure: false,
        };
        Process::start(|stop| async move {
            let Ops { health, metrics } = ops();
            let metrics = agent::Metrics::register(&metrics).unwrap();
            Agent::bind(settings, metrics, health).unwrap().run(stop).await;
        })
    }

    /// Waits until the inventory says of every one of `agents` what `wanted` does.
    async fn until(&self, agents: &[String], wanted: impl Fn(&AgentEntry) -> bool) {
        let mut missing: BTreeSet<&str> = agents.iter().map(String::as_str).collect();
        let mut watch = self.backends.registry.watch(key::AGENTS, Revision(0)).await.unwrap();
        let entry = |value: &[u8]| serde_json::from_slice::<AgentEntry>(value).unwrap();
        let all = async {
            while !missing.is_empty() {
                let entries = match watch.next().await.unwrap().unwrap() {
                    Event::Put(entry) => vec![entry],
                    Event::Resync(snapshot) => snapshot.entries,
                    Event::Delete { .. } => Vec::new(),
                };
                for entry in entries.iter().map(|stored| entry(&stored.value)) {
                    // The last word counts.
                    let id = agents.iter().find(|id| *id == entry.agent_id.as_str());
                    match (id, wanted(&entry)) {
                        (Some(id), true) => drop(missing.remove(id.as_str())),
                        (Some(id), false) => drop(missing.insert(id.as_str())),
                        (None, _) => {}
                    }
                }
            }
        };
        soon("what was wanted of the agents", all).await;
    }

    /// The entries of agents at one server.
    async fn at(&self, server: &str) -> Vec<String> {
        let inventory = self.backends.registry.list(key::AGENTS).await.unwrap().entries;
        let entries =
            inventory.iter().map(|stored| serde_json::from_slice::<AgentEntry>(&stored.value).unwrap());
        entries
            .filter(|entry| entry.server.as_str() == server)
            .map(|entry| entry.agent_id.to_string())
            .collect()
    }

    /// Reads `agent-status` until it says this; all that was said before it is kept.
    async fn said(&mut self, agent: &str, status: Presence, reason: Reason) {
        loop {
            let what = format!("{agent} {status} ({reason}) after {:?}", self.said);
            let record = soon(&what, self.status.next()).await.unwrap().unwrap();
            let said: StatusRecord = serde_json::from_slice(&record.value).unwrap();
            let found = said.agent_id.as_str() == agent && (said.status, said.reason) == (status, reason);
            self.said.push(said);
            if found {
                return;
            }
        }
    }

    async fn order(&self, id: &str, agents: &[String]) {
        let record = |agent: &String| NewRecord {
            key: agent.clone(),
            value: format!(r#"{{"command_id":"{id}","agent_id":"{agent}","type":"STATUS"}}"#).into(),
            ..NewRecord::default()
        };
        self.backends.bus.publish(COMMANDS, agents.iter().map(record).collect()).await.unwrap();
    }

    /// How one order ended at each of `agents`. Panics when one ended twice.
    async fn ends(&self, id: &str, agents: &[String]) -> BTreeMap<String, CommandState> {
        let mut responses = self.backends.bus.subscribe(COMMAND_RESPONSES, StartAt::Earliest).await.unwrap();
        let mut ends = BTreeMap::new();
        while ends.len() < agents.len() {
            let record = soon("an outcome", responses.next()).await.unwrap().unwrap();
            let told: ResponseRecord = serde_json::from_slice(&record.value).unwrap();
            if told.is_final && told.command_id.as_str() == id {
                let before = ends.insert(told.agent_id.to_string(), told.state);
                assert_eq!(before, None, "{told:?} is a second end");
            }
        }
        ends
    }
}

fn ops() -> Ops {
    Ops { health: Health::default(), metrics: prometheus::Registry::new() }
}

fn names(agents: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    agents.into_iter().map(str::to_owned).collect()
}

fn online(entry: &AgentEntry) -> bool {
    entry.status == Presence::Online
}

#[tokio::test]
async fn agents_of_a_killed_server_are_at_the_other_before_anybody_misses_them() {
    let mut fleet = Fleet::new().await;
    let ((one, here), (_two, there)) = (fleet.server("s1").await, fleet.server("s2").await);
    let _monitors = [fleet.monitor("m1"), fleet.monitor("m2")];
    let mobile = names(["a1", "a2", "a3", "a4", "a5", "a6"]);
    let _agents: Vec<Process> = mobile.iter().map(|id| fleet.agent(id, &[here, there])).collect();
    // It shows what becomes of one that cannot move, and when the monitors have seen the loss.
    let _stuck = fleet.agent("stuck", &[here]);
    let everybody: Vec<String> = mobile.iter().cloned().chain(["stuck".to_owned()]).collect();
    fleet.until(&everybody, online).await;
    for id in &everybody {
        if !fleet.said.iter().any(|said| said.agent_id.as_str() == id) {
            fleet.said(id, Presence::Online, Reason::Connected).await;
        }
    }
    fleet.said.clear();

    fleet.order("before", &mobile).await;
    drop(one);
    let killed = Instant::now();
    fleet.until(&mobile, |entry| online(entry) && entry.server.as_str() == "s2").await;
    let away = killed.elapsed();
    assert!(away < Duration::from_secs(10), "the last one moved after {away:?}");
    fleet.order("after", &mobile).await;
    let ended = fleet.ends("after", &mobile).await;
    assert!(ended.values().all(|state| *state == CommandState::Succeeded), "{ended:?}");

    fleet.said("stuck", Presence::Late, Reason::ServerLost).await;
    let others: Vec<_> = fleet.said.iter().filter(|said| said.agent_id.as_str() != "stuck").collect();
    assert!(others.is_empty(), "{others:?}");
    // What the killed server may have had in hand has ended once, too, whichever way.
    fleet.ends("before", &mobile).await;
}

#[tokio::test]
async fn agents_of_a_server_that_stops_in_order_move_without_a_word_on_agent_status() {
    let mut fleet = Fleet::new().await;
    let ((one, here), (_two, there)) = (fleet.server("s1").await, fleet.server("s2").await);
    let _monitors = [fleet.monitor("m1"), fleet.monitor("m2")];
    let mobile = names(["a1", "a2", "a3", "a4"]);
    let _agents: Vec<Process> = mobile.iter().map(|id| fleet.agent(id, &[here, there])).collect();
    let _stuck = fleet.agent("stuck", &[here]);
    let everybody: Vec<String> = mobile.iter().cloned().chain(["stuck".to_owned()]).collect();
    fleet.until(&everybody, online).await;
    for id in &everybody {
        if !fleet.said.iter().any(|said| said.agent_id.as_str() == id) {
            fleet.said(id, Presence::Online, Reason::Connected).await;
        }
    }
    fleet.said.clear();

    one.stop().await;
    fleet.until(&mobile, |entry| online(entry) && entry.server.as_str() == "s2").await;
    fleet.said("stuck", Presence::Late, Reason::ServerLost).await;
    let others: Vec<_> = fleet.said.iter().filter(|said| said.agent_id.as_str() != "stuck").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(fleet.at("s1").await, ["stuck"]);
}

#[tokio::test]
async fn a_killed_leaders_work_goes_on_and_nothing_is_said_twice() {
    let mut fleet = Fleet::new().await;
    let (_one, here) = fleet.server("s1").await;
    let mut monitors = BTreeMap::from([("m1", fleet.monitor("m1")), ("m2", fleet.monitor("m2"))]);
    let first = fleet.agent("a1", &[here]);
    fleet.said("a1", Presence::Online, Reason::Connected).await;
    let leader = fleet.backends.registry.get(&key::leader("monitor")).await.unwrap().unwrap();
    let leader: LeaderEntry = serde_json::from_slice(&leader.value).unwrap();
    drop(monitors.remove(leader.id.as_str()));

    // For an agent that never was: only a leader can end it.
    let expires_at = runtime::clock::wall().plus(Duration::from_secs(1));
    let orphaned =
        format!(r#"{{"command_id":"c","agent_id":"nobody","type":"STATUS","expires_at":"{expires_at}"}}"#);
    let record = NewRecord { key: "nobody".to_owned(), value: orphaned.into(), ..NewRecord::default() };
    fleet.backends.bus.publish(COMMANDS, vec![record]).await.unwrap();
    first.stop().await;
    fleet.said("a1", Presence::Shutdown, Reason::Goodbye).await;
    let said: Vec<Presence> = fleet.said.iter().map(|said| said.status).collect();
    assert_eq!(said, [Presence::Online, Presence::Shutdown]);
    let ended = fleet.ends("c", &names(["nobody"])).await;
    assert_eq!(ended["nobody"], CommandState::Expired);
}
