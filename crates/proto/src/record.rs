//! The JSON values on the four topics. The key of every record is the agent id.
//!
//! Readers are lenient: unknown fields are ignored, and kept where a record is passed on. Writers are strict: times are
//! RFC 3339 UTC with milliseconds.

use std::collections::BTreeMap;

use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId, Incarnation, Sequence, ServerId};
use model::presence::{Presence, Reason};
use model::sample::{Sample, SystemMetrics, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::schema;

/// What agents measured.
pub const MONITORING_DATA: &str = "monitoring-data";
/// Orders to agents.
pub const COMMANDS: &str = "commands";
/// What became of the orders.
pub const COMMAND_RESPONSES: &str = "command-responses";
/// Every change of an agent's presence; compacted by agent.
pub const AGENT_STATUS: &str = "agent-status";

/// The header that says how a value is encoded.
pub const CONTENT_TYPE: &str = "content-type";
pub const JSON: &str = "application/json";

/// A value of [`MONITORING_DATA`]: one tick, as it left the plugins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DataRecord {
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    #[serde(default)]
    #[schema(schema_with = schema::system_metrics)]
    pub metrics: SystemMetrics,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[schema(value_type = String)]
    pub incarnation: Incarnation,
    #[schema(value_type = u64)]
    pub sequence: Sequence,
    /// The first tick this record speaks for, when plugins merged several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub first_sequence: Option<Sequence>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::Sample>)]
    pub series: Vec<Sample>,
    /// Ticks before this one that were not sent as records, and why. A record may carry nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_sent: Vec<NotSent>,
}

impl DataRecord {
    /// Whether it holds a measurement, not only an account of what was not sent.
    pub fn has_values(&self) -> bool {
        self.metrics != SystemMetrics::default() || !self.series.is_empty()
    }
}

/// A range of ticks that did not become records of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotSent {
    #[schema(value_type = u64)]
    pub first: Sequence,
    #[schema(value_type = u64)]
    pub last: Sequence,
    pub action: NotSentAction,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plugin: String,
}

impl NotSent {
    pub fn ticks(&self) -> u64 {
        self.last.0.saturating_sub(self.first.0) + 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotSentAction {
    /// A plugin chose not to send it.
    Dropped,
    /// It is inside an aggregate.
    Merged,
    /// The tick came, its data did not.
    NotCollected,
}

/// A value of [`COMMANDS`]. A person may type just `{"agent_id":"a","type":"STATUS"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Without one it is `c-<partition>-<offset>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<CommandId>,
    pub agent_id: AgentId,
    #[serde(rename = "type")]
    pub kind: CommandType,
    #[serde(default)]
    pub params: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// Without one it is 30 s after the record's own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who asked: a person, a script, an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_by: Option<String>,
}

/// A value of [`COMMAND_RESPONSES`]. Exactly one per command and agent has `final: true`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponseRecord {
    #[schema(value_type = String)]
    pub command_id: CommandId,
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    #[serde(rename = "type")]
    #[schema(schema_with = schema::words::<CommandType>)]
    pub kind: CommandType,
    #[schema(schema_with = schema::words::<CommandState>)]
    pub state: CommandState,
    #[serde(rename = "final")]
    pub is_final: bool,
    pub success: bool,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    pub result: Map<String, Value>,
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}

impl ResponseRecord {
    /// `final` and `success` follow from `state`.
    pub fn new(
        command_id: CommandId,
        agent_id: AgentId,
        kind: CommandType,
        state: CommandState,
        message: impl Into<String>,
        timestamp: Timestamp,
    ) -> Self {
        Self {
            command_id,
            agent_id,
            kind,
            state,
            is_final: state.is_final(),
            success: state == CommandState::Succeeded,
            message: message.into(),
            result: Map::new(),
            timestamp,
        }
    }
}

/// A value of [`AGENT_STATUS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusRecord {
    pub agent_id: AgentId,
    pub status: Presence,
    pub reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    pub timestamp: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_types_into_a_console_is_a_command() {
        let typed: CommandRecord =
            serde_json::from_str(r#"{"agent_id":"agent-001","type":"STATUS"}"#).unwrap();
        assert_eq!((typed.kind, typed.command_id, typed.expires_at), (CommandType::Status, None, None));
    }

    #[test]
    fn commands_take_unix_seconds_and_ignore_what_they_do_not_know() {
        let json =
            r#"{"agent_id":"a","type":"STOP","timestamp":1767225600,"expires_at":1767225630.5,"new":1}"#;
        let record: CommandRecord = serde_json::from_str(json).unwrap();
        assert_eq!(record.timestamp.map(|t| t.to_string()).as_deref(), Some("2026-01-01T00:00:00.000Z"));
        assert_eq!(record.expires_at.map(|t| t.to_string()).as_deref(), Some("2026-01-01T00:00:30.500Z"));
    }

    #[test]
    fn a_data_record_has_the_seeds_fields_and_leaves_out_what_was_not_measured() {
        let record = DataRecord {
            agent_id: AgentId::new("agent-001").unwrap(),
            timestamp: Timestamp::from_unix_seconds(1_767_225_600),
            metrics: SystemMetrics { cpu_percent: Some(12.5), ..SystemMetrics::default() },
            metadata: BTreeMap::new(),
            incarnation: Incarnation::new("i1").unwrap(),
            sequence: Sequence(7),
            first_sequence: None,
            series: Vec::new(),
            not_sent: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"agent_id":"agent-001","timestamp":"2026-01-01T00:00:00.000Z","metrics":{"cpu_percent":12.5},"metadata":{},"incarnation":"i1","sequence":7}"#
        );
    }

    #[test]
    fn a_response_says_final_and_success_as_its_state_does() {
        let response = |state| {
            let (command, agent) = (CommandId::new("c").unwrap(), AgentId::new("a").unwrap());
            let at = Timestamp::default();
            let record = ResponseRecord::new(command, agent, CommandType::Stop, state, "", at);
            (record.is_final, record.success)
        };
        assert_eq!(response(CommandState::Running), (false, false));
        assert_eq!(response(CommandState::Succeeded), (true, true));
        assert_eq!(response(CommandState::Unknown), (true, false));
    }
}
