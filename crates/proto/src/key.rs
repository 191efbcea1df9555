//! The keys of the registry and their JSON values.
//!
//! `/monitor/config/<agent-id>` is the seeds' own and anybody may write it, `etcdctl put` included; the rest is ours.

use std::collections::BTreeMap;

use model::id::{AgentId, GroupName, Incarnation, Revision, ServerId};
use model::presence::{Collection, Presence, Reason, Verdict};
use model::sample::Timestamp;
use model::selector::Selector;
use model::truth::ConfigTruth;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::schema;

pub const CONFIG: &str = "/monitor/config/";
pub const GROUPS: &str = "/monitor/groups/";
pub const HEARTBEATS: &str = "/monitor/heartbeat/";
pub const AGENTS: &str = "/monitor/agents/";
pub const SERVERS: &str = "/monitor/servers/";
pub const ANALYSES: &str = "/monitor/analysis/";
pub const LEADERS: &str = "/monitor/leader/";
pub const HISTORY: &str = "/monitor/history/";
pub const AUTHORS: &str = "/monitor/authors/";
/// A ULID made by the first server: tells a registry from one that was created or restored in its place.
pub const REGISTRY: &str = "/monitor/registry";

pub fn config(agent: &AgentId) -> String {
    format!("{CONFIG}{agent}")
}

pub fn group(name: &GroupName) -> String {
    format!("{GROUPS}{name}")
}

pub fn heartbeat(agent: &AgentId) -> String {
    format!("{HEARTBEATS}{agent}")
}

pub fn agent(agent: &AgentId) -> String {
    format!("{AGENTS}{agent}")
}

pub fn server(server: &ServerId) -> String {
    format!("{SERVERS}{server}")
}

pub fn analysis(id: &str) -> String {
    format!("{ANALYSES}{id}")
}

pub fn leader(role: &str) -> String {
    format!("{LEADERS}{role}")
}

/// Observed versions of one agent's or group's config; the revision is zero-padded so that keys sort by it.
pub fn history(of: &Target, revision: Revision) -> String {
    format!("{}{:020}", history_prefix(of), revision.0)
}

pub fn history_prefix(of: &Target) -> String {
    match of {
        Target::Agent(agent) => format!("{HISTORY}{agent}/"),
        Target::Group(group) => format!("{HISTORY}group:{group}/"),
    }
}

/// Who wrote a config through the API, put in the same transaction as the config: equal modified revisions tie the two.
pub fn author(of: &Target) -> String {
    match of {
        Target::Agent(agent) => format!("{AUTHORS}{agent}"),
        Target::Group(group) => format!("{AUTHORS}group:{group}"),
    }
}

/// What config can be written for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Agent(AgentId),
    Group(GroupName),
}

impl Target {
    /// The registry key that holds this target's config.
    pub fn key(&self) -> String {
        match self {
            Self::Agent(id) => config(id),
            Self::Group(name) => group(name),
        }
    }

    /// The inverse of [`Self::key`]; `None` for other keys and for names that are not ids.
    pub fn of_key(key: &str) -> Option<Self> {
        if let Some(id) = key.strip_prefix(CONFIG) {
            return AgentId::new(id).ok().map(Self::Agent);
        }
        GroupName::new(key.strip_prefix(GROUPS)?).ok().map(Self::Group)
    }
}

/// Under [`GROUPS`]: config for every agent the selector chooses. Higher priority wins; equal ones by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupEntry {
    pub selector: Selector,
    #[serde(default)]
    pub priority: i64,
    pub config: Value,
}

/// Under [`HEARTBEATS`], on the server's lease: which server holds the agent's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatEntry {
    pub server: ServerId,
    /// The run of that server; the session belongs to this run alone.
    pub server_incarnation: Incarnation,
    pub incarnation: Incarnation,
    /// Which stream of that incarnation this is, by the agent's own count: the later of two claims is the one with more.
    /// 0 for clients that do not count.
    #[serde(default)]
    pub connection: u64,
    pub since: Timestamp,
}

/// How an agent speaks to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Client {
    /// Our own agent.
    Session,
    /// A client of the seeds' protocol: it reports no outcomes and no config truth.
    StreamMetrics,
    /// Not at all: another program that keeps a heartbeat key of its own. Such an agent has no entry in the inventory.
    Foreign,
}

/// Under [`AGENTS`]: the inventory. Written on transitions, not per heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentEntry {
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    pub client: Client,
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub boot_id: String,
    #[schema(value_type = String)]
    pub incarnation: Incarnation,
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// When this incarnation first connected.
    #[schema(value_type = String, format = DateTime)]
    pub connected_at: Timestamp,
    #[schema(schema_with = schema::words::<Presence>)]
    pub status: Presence,
    #[schema(schema_with = schema::words::<Reason>)]
    pub reason: Reason,
    /// When the verdict last changed.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The server that holds, or last held, the session, and which run of it.
    #[schema(value_type = String)]
    pub server: ServerId,
    #[schema(value_type = String)]
    pub server_incarnation: Incarnation,
    #[serde(default)]
    #[schema(schema_with = schema::words::<Collection>)]
    pub collection: Collection,
    #[serde(default)]
    pub interval_ms: u64,
    #[serde(default)]
    #[schema(value_type = schema::ConfigTruth)]
    pub config: ConfigTruth,
    /// Hosts of sessions that claimed the same id while this one lived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rivals: Vec<String>,
}

impl AgentEntry {
    pub fn verdict(&self) -> Verdict {
        Verdict::new(self.status, self.reason)
    }

    /// The labels selectors see: the agent's own, and `agent_id` and `host`, which it cannot fake.
    pub fn selectable(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.insert("agent_id".to_owned(), self.agent_id.to_string());
        labels.insert("host".to_owned(), self.host.clone());
        labels
    }
}

/// Under [`SERVERS`], on the server's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerEntry {
    #[schema(value_type = String)]
    pub server_id: ServerId,
    #[schema(value_type = String)]
    pub server_incarnation: Incarnation,
    pub grpc: String,
    pub version: String,
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
}

/// Under [`ANALYSES`], on the lease of that analysis: where its HTTP API is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnalysisEntry {
    pub analysis_id: String,
    pub http: String,
    pub version: String,
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
}

/// Under [`LEADERS`], on the leader's own lease: whoever created the key leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaderEntry {
    pub id: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Under [`AUTHORS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorEntry {
    pub by: String,
}

/// Under [`HISTORY`]: one observed version of a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEntry {
    #[schema(value_type = u64)]
    pub revision: Revision,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who wrote it, as far as we know: an API caller, or `registry` for a write that came past us.
    pub by: String,
    /// The text as it was written; `None` when the key was deleted.
    pub value: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_key_is_the_seeds_own_and_reads_back() {
        let target = Target::Agent(AgentId::new("agent-001").unwrap());
        assert_eq!(target.key(), "/monitor/config/agent-001");
        assert_eq!(Target::of_key(&target.key()), Some(target));
        assert_eq!(Target::of_key("/monitor/config/a/b"), None);
        assert_eq!(Target::of_key("/monitor/agents/a"), None);
    }

    #[test]
    fn history_keys_sort_by_revision() {
        let target = Target::Agent(AgentId::new("a").unwrap());
        assert!(history(&target, Revision(9)) < history(&target, Revision(10)));
    }
}
