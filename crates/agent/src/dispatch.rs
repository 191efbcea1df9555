//! Commands as they travel: read when they come down, reported as the journal has them.

use model::command::CommandType;
use model::id::{AgentId, CommandId, IdError};
use model::limit;
use proto::convert::{command_state_to_wire, command_type_from_wire, command_type_to_wire};
use proto::wire;
use serde_json::{Map, Value};

use crate::journal::Entry;

/// Why a command is not even looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unacceptable {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("it is for {target}, and this is {us}")]
    NotOurs { target: String, us: AgentId },
    #[error("its parameters have more than {} bytes", limit::COMMAND_JSON_BYTES_MAX)]
    TooLong,
    #[error("its parameters are not a JSON object")]
    Malformed,
    #[error("{kind} takes no parameters, and it was given {names}")]
    Parameters { kind: CommandType, names: String },
    #[error("this agent knows no command type {number}: update it")]
    Unknown { number: i32 },
}

/// Reads a command as far as the journal needs.
pub(crate) fn acceptable(
    command: &wire::Command,
    us: &AgentId,
) -> Result<(CommandId, CommandType), Unacceptable> {
    let id = CommandId::new(command.command_id.as_str())?;
    if !command.agent_id.is_empty() && command.agent_id != us.as_str() {
        return Err(Unacceptable::NotOurs { target: command.agent_id.clone(), us: us.clone() });
    }
    if command.params_json.len() > limit::COMMAND_JSON_BYTES_MAX {
        return Err(Unacceptable::TooLong);
    }
    let number = command.r#type;
    let kind = command_type_from_wire(number).ok_or(Unacceptable::Unknown { number })?;
    // None of today's commands takes any: what an operator says and nobody does would look done.
    let names = parameters(&command.params_json)?;
    if !names.is_empty() {
        return Err(Unacceptable::Parameters { kind, names });
    }
    Ok((id, kind))
}

/// The names of the parameters, for a person.
fn parameters(json: &str) -> Result<String, Unacceptable> {
    if json.is_empty() {
        return Ok(String::new());
    }
    let parameters: Map<String, Value> = serde_json::from_str(json).map_err(|_| Unacceptable::Malformed)?;
    Ok(parameters.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// What the journal says of a command, for the server.
pub(crate) fn report(entry: &Entry) -> wire::CommandReport {
    let mut result_json = match entry.result.is_empty() {
        true => String::new(),
        false => Value::Object(entry.result.clone()).to_string(),
    };
    let mut message = entry.message.clone();
    if result_json.len() > limit::COMMAND_JSON_BYTES_MAX {
        message = format!("its result had {} bytes, too many to send", result_json.len());
        result_json = String::new();
    }
    wire::CommandReport {
        command_id: entry.id.to_string(),
        r#type: command_type_to_wire(entry.kind).into(),
        state: command_state_to_wire(entry.state).into(),
        message,
        result_json,
        timestamp_ms: entry.at.unix_ms(),
    }
}
