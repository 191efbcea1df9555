//! Who is there: the registry's inventory, processes and config keys, followed into a view that never waits.
//!
//! Agents of other programs, which only keep a heartbeat key, are not in the inventory; the leading monitor says of them on
//! `agent-status` what is so. While the registry is away the view shows what was last known; health says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use backends::bus::Record;
use backends::registry::{Entry, Event};
use model::id::{AgentId, Incarnation, Revision, ServerId};
use model::presence::{Collection, Presence, Reason};
use model::sample::Timestamp;
use model::selector::Selector;
use model::truth::ConfigTruth;
use prometheus::IntCounter;
use proto::key::{self, AgentEntry, AnalysisEntry, Client, LeaderEntry, ServerEntry, Target};
use proto::record::StatusRecord;
use tokio::sync::{mpsc, watch};

use crate::consume::{Bad, Read};

/// What the view is made of.
pub(crate) const PREFIXES: [&str; 6] =
    [key::AGENTS, key::SERVERS, key::ANALYSES, key::LEADERS, key::CONFIG, key::GROUPS];

/// Stands where an agent that never connected has no incarnation and no server yet.
const NOBODY: &str = "none";

/// The fleet as last known. Clones share one view.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    view: Arc<RwLock<View>>,
    changes: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct View {
    agents: BTreeMap<AgentId, AgentEntry>,
    servers: BTreeMap<ServerId, ServerEntry>,
    /// By what follows the prefix in the key.
    analyses: BTreeMap<String, AnalysisEntry>,
    leaders: BTreeMap<String, LeaderEntry>,
    /// The last word on agents that another program's heartbeat key is all there is of.
    foreign: BTreeMap<AgentId, StatusRecord>,
    configs: BTreeMap<Target, Revision>,
    /// The prefixes that have been read once.
    read: BTreeSet<&'static str>,
}

impl Fleet {
    /// Whether all there was has been read. Before, an unknown agent may only be not read yet.
    pub fn is_complete(&self) -> bool {
        self.view().read.len() == PREFIXES.len()
    }

    /// Waits until [`Self::is_complete`]; for ever if the fleet is no longer read.
    pub async fn complete(&self) {
        let mut changes = self.changes();
        while !self.is_complete() {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The agents that `selector` chooses, by id: those of the inventory, those of other programs, and as NEVER_SEEN those
    /// that only have config.
    pub fn agents(&self, selector: &Selector) -> Vec<AgentEntry> {
        let view = self.view();
        let configured = view.configs.keys().filter_map(|target| match target {
            Target::Agent(id) => Some(id),
            Target::Group(_) => None,
        });
        let ids: BTreeSet<&AgentId> =
            view.agents.keys().chain(view.foreign.keys()).chain(configured).collect();
        let mut agents: Vec<AgentEntry> = ids.into_iter().filter_map(|id| view.agent(id)).collect();
        agents.retain(|agent| selector.matches(&agent.selectable()));
        agents
    }

    pub fn agent(&self, id: &AgentId) -> Option<AgentEntry> {
        self.view().agent(id)
    }

    /// Whether an agent of the inventory is chosen.
    pub fn matches(&self, id: &AgentId, selector: &Selector) -> bool {
        self.view().agents.get(id).is_some_and(|entry| selector.matches(&entry.selectable()))
    }

    /// The servers that are alive, each with how many agents it holds.
    pub fn servers(&self) -> Vec<(ServerEntry, usize)> {
        let view = self.view();
        let mut held: BTreeMap<(&ServerId, &Incarnation), usize> = BTreeMap::new();
        for agent in view.agents.values() {
            if matches!(agent.status, Presence::Online | Presence::Late | Presence::Duplicate) {
                *held.entry((&agent.server, &agent.server_incarnation)).or_default() += 1;
            }
        }
        let agents = |server: &ServerEntry| {
            held.get(&(&server.server_id, &server.server_incarnation)).copied().unwrap_or(0)
        };
        view.servers.values().map(|server| (server.clone(), agents(server))).collect()
    }

    /// The instances of this role that are alive.
    pub fn analyses(&self) -> Vec<AnalysisEntry> {
        self.view().analyses.values().cloned().collect()
    }

    /// Who leads, by role.
    pub fn leaders(&self) -> BTreeMap<String, LeaderEntry> {
        self.view().leaders.clone()
    }

    /// What has config, and since which revision.
    pub fn configs(&self) -> Vec<(Target, Revision)> {
        self.view().configs.iter().map(|(target, revision)| (target.clone(), *revision)).collect()
    }

    /// Tells of every change of the view.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Keeps the view of `prefix` until its follower ends.
    pub(crate) async fn read(self, prefix: &'static str, mut changes: mpsc::Receiver<Event>) {
        while let Some(event) = changes.recv().await {
            self.view_mut().take(prefix, event);
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn agent(&self, id: &AgentId) -> Option<AgentEntry> {
        let foreign = self.foreign.get(id);
        if let Some(entry) = self.agents.get(id) {
            // Another program keeps a key in the name of an agent that we no longer hear.
            let speaks = |status: &&StatusRecord| {
                status.status == Presence::Online
                    && matches!(entry.status, Presence::Offline | Presence::Shutdown)
            };
            return Some(match foreign.filter(speaks) {
                Some(StatusRecord { status, reason, timestamp, .. }) => {
                    AgentEntry { status: *status, reason: *reason, since: *timestamp, ..entry.clone() }
                }
                None => entry.clone(),
            });
        }
        if let Some(StatusRecord { status, reason, timestamp, .. }) = foreign {
            let (status, reason, since) = (*status, *reason, *timestamp);
            return bare(id).map(|entry| AgentEntry {
                client: Client::Foreign,
                status,
                reason,
                since,
                ..entry
            });
        }
        self.configs.contains_key(&Target::Agent(id.clone())).then(|| bare(id)).flatten()
    }

    fn take(&mut self, prefix: &'static str, event: Event) {
        match event {
            Event::Put(entry) => self.put(&entry),
            Event::Delete { key, .. } => self.delete(&key),
            Event::Resync(snapshot) => {
                self.clear(prefix);
                snapshot.entries.iter().for_each(|entry| self.put(entry));
                self.read.insert(prefix);
            }
        }
    }

    fn put(&mut self, entry: &Entry) {
        let put = if entry.key.starts_with(key::AGENTS) {
            serde_json::from_slice::<AgentEntry>(&entry.value).map(|agent| {
                self.agents.insert(agent.agent_id.clone(), agent);
            })
        } else if entry.key.starts_with(key::SERVERS) {
            serde_json::from_slice::<ServerEntry>(&entry.value).map(|server| {
                self.servers.insert(server.server_id.clone(), server);
            })
        } else if let Some(id) = entry.key.strip_prefix(key::ANALYSES) {
            serde_json::from_slice(&entry.value).map(|analysis| {
                self.analyses.insert(id.to_owned(), analysis);
            })
        } else if let Some(role) = entry.key.strip_prefix(key::LEADERS) {
            serde_json::from_slice(&entry.value).map(|leader| {
                self.leaders.insert(role.to_owned(), leader);
            })
        } else {
            // Whoever wrote it may have written anything; who it is for is in the key.
            if let Some(target) = Target::of_key(&entry.key) {
                self.configs.insert(target, entry.modified);
            }
            Ok(())
        };
        if let Err(error) = put {
            tracing::warn!(key = entry.key, %error, "skipped a bad registry entry");
        }
    }

    fn delete(&mut self, key: &str) {
        if let Some(id) = key.strip_prefix(key::AGENTS).and_then(|id| AgentId::new(id).ok()) {
            self.agents.remove(&id);
        } else if let Some(id) = key.strip_prefix(key::SERVERS).and_then(|id| ServerId::new(id).ok()) {
            self.servers.remove(&id);
        } else if let Some(id) = key.strip_prefix(key::ANALYSES) {
            self.analyses.remove(id);
        } else if let Some(role) = key.strip_prefix(key::LEADERS) {
            self.leaders.remove(role);
        } else if let Some(target) = Target::of_key(key) {
            self.configs.remove(&target);
        }
    }

    fn clear(&mut self, prefix: &'static str) {
        match prefix {
            key::AGENTS => self.agents.clear(),
            key::SERVERS => self.servers.clear(),
            key::ANALYSES => self.analyses.clear(),
            key::LEADERS => self.leaders.clear(),
            _ => self.configs.retain(|target, _| !target.key().starts_with(prefix)),
        }
    }
}

/// Reads of `agent-status` what the inventory does not have.
pub(crate) struct Statuses {
    fleet: Fleet,
    bad: Bad,
}

impl Statuses {
    pub(crate) fn new(fleet: Fleet, bad: IntCounter) -> Self {
        Self { fleet, bad: Bad::new(bad) }
    }
}

impl Read for Statuses {
    fn read(&mut self, record: &Record) {
        let Some(status) = self.bad.decode::<StatusRecord>(record) else { return };
        let mut view = self.fleet.view_mut();
        match status.reason {
            Reason::ForeignKey | Reason::ForeignKeyGone => {
                drop(view.foreign.insert(status.agent_id.clone(), status));
            }
            _ => drop(view.foreign.remove(&status.agent_id)),
        }
        drop(view);
        self.fleet.changes.send_modify(|changes| *changes += 1);
    }

    /// There is one word per agent, as in the topic.
    fn expire(&mut self, _: Timestamp) {}
}

/// An agent that has no entry, NEVER_SEEN. What nobody knows of it is `none` and 1970.
fn bare(id: &AgentId) -> Option<AgentEntry> {
    let nobody = || Incarnation::new(NOBODY).ok();
    Some(AgentEntry {
        agent_id: id.clone(),
        client: Client::Session,
        host: String::new(),
        os: String::new(),
        version: String::new(),
        labels: BTreeMap::new(),
        boot_id: String::new(),
        incarnation: nobody()?,
        first_seen: Timestamp::default(),
        connected_at: Timestamp::default(),
        status: Presence::NeverSeen,
        reason: Reason::NeverConnected,
        since: Timestamp::default(),
        server: ServerId::new(NOBODY).ok()?,
        server_incarnation: nobody()?,
        collection: Collection::default(),
        interval_ms: 0,
        config: ConfigTruth::default(),
        rivals: Vec::new(),
    })
}
