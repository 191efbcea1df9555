//! An order on its way to the bus: whom it means, and one record for each of them.
//!
//! The API publishes with it, and so does the command line where it works without an API: both put the same on the topic.

use std::collections::BTreeSet;

use backends::bus::{Bus, BusError, NewRecord};
use model::command::CommandType;
use model::id::{AgentId, CommandId};
use model::limit;
use model::presence::Presence;
use model::sample::Timestamp;
use model::selector::{Selector, SelectorError};
use proto::api::CommandTarget;
use proto::key::{AgentEntry, Client};
use proto::record::{self, CommandRecord};
use serde_json::{Map, Value};
use ulid::Ulid;

/// What the records of one order have in common.
#[derive(Clone, Debug)]
pub struct Order {
    pub command_id: CommandId,
    pub kind: CommandType,
    pub params: Map<String, Value>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub issued_by: Option<String>,
}

/// Whom an order is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Never empty.
    Agents(BTreeSet<AgentId>),
    Selector(Selector),
    All,
}

/// Why an order cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("target.agents is empty: name at least one agent")]
    NobodyNamed,
    #[error("target.selector: {0}")]
    Selector(#[from] SelectorError),
    #[error("params has {bytes} bytes: at most {} are allowed", limit::COMMAND_JSON_BYTES_MAX)]
    ParamsTooLarge { bytes: usize },
    #[error("no agent has the labels {0}")]
    NobodySelected(Selector),
    #[error("no agent is in the inventory that is not shut down")]
    NobodyThere,
}

impl Order {
    /// An id that no other order has.
    pub fn fresh_id() -> CommandId {
        CommandId::new(Ulid::generate().to_string()).expect("a ULID is 26 letters and digits")
    }

    /// The order as one agent gets it.
    pub fn command(&self, agent: &AgentId) -> CommandRecord {
        CommandRecord {
            command_id: Some(self.command_id.clone()),
            agent_id: agent.clone(),
            kind: self.kind,
            params: self.params.clone(),
            timestamp: Some(self.issued_at),
            expires_at: Some(self.expires_at),
            issued_by: self.issued_by.clone(),
        }
    }

    /// Puts one record per agent on the bus. After an error some of them may be there: the same id can be given again.
    pub async fn publish(&self, bus: &dyn Bus, agents: &[AgentId]) -> Result<(), BusError> {
        for part in agents.chunks(limit::COMMANDS_PER_PUBLISH_MAX) {
            let records = part.iter().map(|agent| self.new_record(agent)).collect();
            bus.publish(record::COMMANDS, records).await?;
        }
        Ok(())
    }

    fn new_record(&self, agent: &AgentId) -> NewRecord {
        let value = serde_json::to_vec(&self.command(agent));
        let value = value.expect("a command has string keys only and is written to memory");
        let headers = [(record::CONTENT_TYPE.to_owned(), record::JSON.to_owned())].into();
        NewRecord { key: agent.to_string(), value: value.into(), headers }
    }
}

impl Target {
    pub fn read(target: &CommandTarget) -> Result<Self, OrderError> {
        match target {
            CommandTarget::Agents(agents) if agents.is_empty() => Err(OrderError::NobodyNamed),
            CommandTarget::Agents(agents) => Ok(Self::Agents(agents.iter().cloned().collect())),
            CommandTarget::Selector(text) => Ok(Self::Selector(text.parse()?)),
            CommandTarget::All => Ok(Self::All),
        }
    }

    /// Whom it means in this inventory, which those that are named need not be in. Never empty.
    pub fn resolve(
        &self,
        inventory: impl IntoIterator<Item = AgentEntry>,
    ) -> Result<Vec<AgentId>, OrderError> {
        let meant = |is_meant: &dyn Fn(&AgentEntry) -> bool| {
            // Nobody can carry a command to an agent of another program.
            let ours = inventory.into_iter().filter(|entry| entry.client != Client::Foreign);
            let entries = ours.filter(is_meant);
            entries.map(|entry| entry.agent_id).collect::<Vec<_>>()
        };
        let (agents, nobody) = match self {
            Self::Agents(agents) => return Ok(agents.iter().cloned().collect()),
            Self::Selector(selector) => {
                let is_meant = |entry: &AgentEntry| {
                    entry.status != Presence::NeverSeen && selector.matches(&entry.selectable())
                };
                (meant(&is_meant), OrderError::NobodySelected(selector.clone()))
            }
            Self::All => {
                let is_meant =
                    |entry: &AgentEntry| !matches!(entry.status, Presence::NeverSeen | Presence::Shutdown);
                (meant(&is_meant), OrderError::NobodyThere)
            }
        };
        if agents.is_empty() { Err(nobody) } else { Ok(agents) }
    }
}

/// Agents and servers take no more than this.
pub fn check_params(params: &Map<String, Value>) -> Result<(), OrderError> {
    let bytes = serde_json::to_vec(params).map_or(usize::MAX, |json| json.len());
    if bytes > limit::COMMAND_JSON_BYTES_MAX { Err(OrderError::ParamsTooLarge { bytes }) } else { Ok(()) }
}
