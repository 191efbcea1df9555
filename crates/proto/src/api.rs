//! The JSON of the HTTP API under `/api/v1`, shared by the console that serves it and the CLI that asks.
//!
//! Records of the topics ([`crate::record`]) and entries of the registry ([`crate::key`]) appear in it as they are.

use std::collections::BTreeMap;

use model::command::CommandType;
use model::id::{AgentId, CommandId, Revision};
use model::sample::Timestamp;
use model::truth::Standing;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::key::AgentEntry;
use crate::record::ResponseRecord;

/// `GET /api/v1/agents` is a list of these, `GET /api/v1/agents/{id}` one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// The inventory's entry: identity, presence, collection, config truth.
    #[serde(flatten)]
    pub entry: AgentEntry,
    /// The config truth in one word.
    pub standing: Standing,
    /// When the newest record of this agent was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_data: Option<Timestamp>,
}

/// `POST /api/v1/commands`: one order for one or many agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    pub target: CommandTarget,
    #[serde(rename = "type")]
    pub kind: CommandType,
    #[serde(default)]
    pub params: Map<String, Value>,
    /// 30 when absent; at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Give one to make the request repeatable: the same id acts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<CommandId>,
    /// Who asks, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_by: Option<String>,
}

/// Whom an order is for: `{"agents":["a","b"]}`, `{"selector":"role=db"}` or `"all"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandTarget {
    Agents(Vec<AgentId>),
    /// Resolved when the order is given; agents that join later are not meant.
    Selector(String),
    /// Every agent of the inventory that is not SHUTDOWN, offline ones included.
    All,
}

/// The answer to `POST /api/v1/commands`, status 202: durable on the bus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandAccepted {
    pub command_id: CommandId,
    pub agents: Vec<AgentId>,
    pub expires_at: Timestamp,
}

/// `GET /api/v1/commands` is a list of these, newest first; `GET /api/v1/commands/{id}` one.
/// `GET /api/v1/commands/{id}/live` streams the [`ResponseRecord`]s (SSE event `response`) and ends with event `done` when
/// each agent has its final one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub command_id: CommandId,
    #[serde(rename = "type")]
    pub kind: CommandType,
    pub params: Map<String, Value>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_by: Option<String>,
    /// The newest response of each agent it was for; an agent without any is PENDING and absent here.
    pub responses: Vec<ResponseRecord>,
    /// Agents without a final response yet.
    pub open: Vec<AgentId>,
}

/// `GET /api/v1/config/agents/{id}` and `/api/v1/config/groups/{name}`: what the registry holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredConfig {
    /// The text as written, JSON or not.
    pub text: String,
    /// The revision to give back as `expect_revision`.
    pub revision: Revision,
}

/// `PUT` on the same paths. Validated first (422 names the faults) unless `unchecked`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigWrite {
    /// An agent's config object, or a group's `{"selector","priority","config"}`.
    pub text: String,
    /// Write only if the stored revision is this one; 0 means "only if there is none". 409 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_revision: Option<Revision>,
    /// Store it as it is, as `etcdctl put` would; agents judge it.
    #[serde(default)]
    pub unchecked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The answer to a write, a delete or a rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigWritten {
    pub revision: Revision,
}

/// `GET /api/v1/config/effective/{agent}`: defaults, groups and the agent's own, merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EffectiveConfig {
    pub config: Value,
    pub digest: String,
    pub revision: Revision,
    /// Which layer each top-level key came from: `defaults`, `group web`, `agent`.
    pub origin: BTreeMap<String, String>,
}

/// `POST .../rollback`: write an observed version again, as a new revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The version to return to; the one before the current when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Revision>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Every error answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable word: `not_found`, `invalid`, `conflict`, `too_large`, `unavailable`, `internal`.
    pub error: String,
    /// What was wrong, where, and what to do.
    pub message: String,
    /// For a refused config: each fault with its path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// One fault of a refused config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub stage: model::truth::Stage,
    pub path: String,
    pub message: String,
}
