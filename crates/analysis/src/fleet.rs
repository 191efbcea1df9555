//! Who is there: the registry's inventory, servers and config keys, followed into a view that never waits.
//!
//! While the registry is away the view shows what was last known; health says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use backends::registry::{Entry, Event};
use model::id::{AgentId, Incarnation, Revision, ServerId};
use model::presence::{Collection, Presence, Reason};
use model::sample::Timestamp;
use model::selector::Selector;
use model::truth::ConfigTruth;
use proto::key::{self, AgentEntry, Client, ServerEntry, Target};
use tokio::sync::{mpsc, watch};

/// What the view is made of.
pub(crate) const PREFIXES: [&str; 4] = [key::AGENTS, key::SERVERS, key::CONFIG, key::GROUPS];

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

    /// The agents that `selector` chooses, by id: those of the inventory, and as NEVER_SEEN those that only have config.
    pub fn agents(&self, selector: &Selector) -> Vec<AgentEntry> {
        let view = self.view();
        let mut agents: Vec<AgentEntry> = view.agents.values().cloned().collect();
        let expected = view.configs.keys().filter_map(|target| match target {
            Target::Agent(id) if !view.agents.contains_key(id) => Some(id),
            _ => None,
        });
        agents.extend(expected.filter_map(never_seen));
        agents.retain(|agent| selector.matches(&agent.selectable()));
        agents.sort_by(|a, b| a.agent_id.cmp(&b.agent_id));
        agents
    }

    pub fn agent(&self, id: &AgentId) -> Option<AgentEntry> {
        let view = self.view();
        let expected =
            || view.configs.contains_key(&Target::Agent(id.clone())).then(|| never_seen(id)).flatten();
        view.agents.get(id).cloned().or_else(expected)
    }

    /// Whether an agent of the inventory is chosen.
    pub fn matches(&self, id: &AgentId, selector: &Selector) -> bool {
        self.view().agents.get(id).is_some_and(|entry| selector.matches(&entry.selectable()))
    }

    pub fn servers(&self) -> Vec<ServerEntry> {
        self.view().servers.values().cloned().collect()
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
        } else if let Some(target) = Target::of_key(key) {
            self.configs.remove(&target);
        }
    }

    fn clear(&mut self, prefix: &'static str) {
        match prefix {
            key::AGENTS => self.agents.clear(),
            key::SERVERS => self.servers.clear(),
            _ => self.configs.retain(|target, _| !target.key().starts_with(prefix)),
        }
    }
}

/// An agent that has config and no entry. What nobody knows of it is `none` and 1970.
fn never_seen(id: &AgentId) -> Option<AgentEntry> {
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
