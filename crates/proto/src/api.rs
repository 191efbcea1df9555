//! The JSON of the HTTP API under `/api/v1`, shared by the console that serves it and the CLI that asks.
//!
//! Records of the topics ([`crate::record`]) and entries of the registry ([`crate::key`]) appear in it as they are.
//!
//! | path under `/api/v1` | answer |
//! | --- | --- |
//! | `GET /agents?selector=` | [`Agent`]s by id |
//! | `GET /agents/{id}` | [`Agent`] |
//! | `GET /metrics?agent=&selector=&since=&until=&step=&series=&limit=` | [`DataRecord`]s, oldest first |
//! | `GET /metrics?latest=true&...` | the newest measuring [`DataRecord`] of each agent |
//! | `GET /metrics/live?agent=&selector=&series=` | SSE: `data` with a [`DataRecord`], `lost` with [`Lost`] |
//! | `GET /commands?limit=`, `GET /commands/{id}` | [`Command`]s newest first, [`Command`] |
//! | `POST /commands` | [`CommandRequest`] to [`CommandAccepted`] |
//! | `GET /commands/{id}/live` | SSE: `response` with a [`ResponseRecord`], at the end `done` |
//! | `GET /config` | [`ConfigTarget`]s |
//! | `GET PUT DELETE /config/{agents\|groups}/{id}` | [`StoredConfig`]; [`ConfigWrite`] to [`ConfigWritten`] |
//! | `GET /config/{agents\|groups}/{id}/history` | [`HistoryEntry`](crate::key::HistoryEntry)s, newest first |
//! | `POST /config/{agents\|groups}/{id}/rollback` | [`Rollback`] to [`ConfigWritten`] |
//! | `GET /config/effective/{id}` | [`EffectiveConfig`] |
//! | `POST /config/validate` | [`ConfigCheck`] to [`ConfigVerdict`] |
//! | `GET /topology` | [`Topology`] |
//! | `GET /health`, `GET /openapi.json` | |
//!
//! `agent` and `series` may be given more than once. `since` and `until` take an RFC 3339 time, Unix seconds, or how long
//! ago it was (`90s`, `15m`, `1h`, `2d`); `step` takes such a duration or seconds. Writes carry `application/json`.
//! Every error answer is a [`Problem`].

use std::collections::BTreeMap;

use model::command::CommandType;
use model::id::{AgentId, CommandId, Revision};
use model::sample::Timestamp;
use model::truth::Standing;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::key::{AgentEntry, AnalysisEntry, LeaderEntry, ServerEntry};
#[cfg(doc)]
use crate::record::DataRecord;
use crate::record::ResponseRecord;
use crate::schema;

/// `GET /api/v1/agents` is a list of these, `GET /api/v1/agents/{id}` one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// The inventory's entry: identity, presence, collection, config truth.
    #[serde(flatten)]
    pub entry: AgentEntry,
    /// The config truth in one word.
    #[schema(schema_with = schema::words::<Standing>)]
    pub standing: Standing,
    /// When the newest record of this agent was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_data: Option<Timestamp>,
}

/// `GET /api/v1/topology`: the processes that are alive, as their keys in the registry say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Topology {
    pub servers: Vec<RunningServer>,
    pub analysis: Vec<AnalysisEntry>,
    /// By role.
    pub leaders: BTreeMap<String, LeaderEntry>,
}

/// One server and what it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunningServer {
    #[serde(flatten)]
    pub entry: ServerEntry,
    /// Agents connected to it, or lost so lately that it still waits for them.
    pub agents: usize,
}

/// `POST /api/v1/commands`: one order for one or many agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    #[schema(value_type = schema::CommandTarget)]
    pub target: CommandTarget,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::words::<CommandType>)]
    pub kind: CommandType,
    #[serde(default)]
    #[schema(value_type = Object)]
    pub params: Map<String, Value>,
    /// 30 when absent; at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Give one to make the request repeatable: the same id acts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CommandAccepted {
    #[schema(value_type = String)]
    pub command_id: CommandId,
    #[schema(value_type = Vec<String>)]
    pub agents: Vec<AgentId>,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// `GET /api/v1/commands` is a list of these, newest first; `GET /api/v1/commands/{id}` one.
/// `GET /api/v1/commands/{id}/live` streams the [`ResponseRecord`]s (SSE event `response`) and ends with event `done` when
/// each agent has its final one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Command {
    #[schema(value_type = String)]
    pub command_id: CommandId,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::words::<CommandType>)]
    pub kind: CommandType,
    #[schema(value_type = Object)]
    pub params: Map<String, Value>,
    #[schema(value_type = String, format = DateTime)]
    pub issued_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_by: Option<String>,
    /// The newest response of each agent it was for; an agent without any is PENDING and absent here.
    pub responses: Vec<ResponseRecord>,
    /// Agents without a final response yet.
    #[schema(value_type = Vec<String>)]
    pub open: Vec<AgentId>,
}

/// `GET /api/v1/config/agents/{id}` and `/api/v1/config/groups/{name}`: what the registry holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredConfig {
    /// The text as written, JSON or not.
    pub text: String,
    /// The revision to give back as `expect_revision`.
    #[schema(value_type = u64)]
    pub revision: Revision,
}

/// `PUT` on the same paths. Validated first (422 names the faults) unless `unchecked`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigWrite {
    /// An agent's config object, or a group's `{"selector","priority","config"}`.
    pub text: String,
    /// Write only if the stored revision is this one; 0 means "only if there is none". 409 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub expect_revision: Option<Revision>,
    /// Store it as it is, as `etcdctl put` would; agents judge it.
    #[serde(default)]
    pub unchecked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The answer to a write, a delete or a rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigWritten {
    #[schema(value_type = u64)]
    pub revision: Revision,
}

/// `GET /api/v1/config/effective/{agent}`: defaults, groups and the agent's own, merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EffectiveConfig {
    #[schema(value_type = Object)]
    pub config: Value,
    pub digest: String,
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// Which layer each top-level key came from: `defaults`, `group web`, `agent`.
    pub origin: BTreeMap<String, String>,
}

/// `POST .../rollback`: write an observed version again, as a new revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The version to return to; the one before the current when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub to: Option<Revision>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// `GET /api/v1/config` is a list of these: what has config in the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigTarget {
    pub kind: ConfigKind,
    /// An agent id or a group's name.
    pub name: String,
    #[schema(value_type = u64)]
    pub revision: Revision,
}

/// What a config is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigKind {
    #[default]
    Agent,
    Group,
}

/// `POST /api/v1/config/validate`: would this text be taken? Nothing is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigCheck {
    pub text: String,
    #[serde(default)]
    pub kind: ConfigKind,
    /// Also merge it with the groups of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
}

/// The answer to a [`ConfigCheck`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigVerdict {
    pub ok: bool,
    pub faults: Vec<Fault>,
}

/// The event `lost` of the live tail: the reader was too slow, or the service too busy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lost {
    /// Records that this reader did not get.
    pub records: u64,
}

/// Every error answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    #[schema(schema_with = schema::words::<model::truth::Stage>)]
    pub stage: model::truth::Stage,
    pub path: String,
    pub message: String,
}
