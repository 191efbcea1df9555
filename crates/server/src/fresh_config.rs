//! What UPDATE_CONFIG brings along: the config of one agent as the registry has it now, past every watch.

use std::time::Duration;

use backends::registry::{Event, RegistryError};
use model::id::AgentId;
use proto::key::{self, CONFIG, GROUPS};
use tokio::time::timeout;

use crate::layers::{Desired, Layers};
use crate::session_stream::Context;

/// Time for the registry to answer what UPDATE_CONFIG asks.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why UPDATE_CONFIG cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConfig {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the registry did not answer within {ANSWER_WITHIN:?}")]
    Silence,
}

/// Reads config and groups and merges them for `agent`.
pub(crate) async fn read(context: &Context, agent: &AgentId) -> Result<Desired, NoConfig> {
    let answer = timeout(ANSWER_WITHIN, ask(context, agent)).await.map_err(|_| NoConfig::Silence)?;
    Ok(answer?)
}

async fn ask(context: &Context, agent: &AgentId) -> Result<Desired, RegistryError> {
    let own_key = key::config(agent);
    let mut own = context.registry.list(&own_key).await?;
    own.entries.retain(|entry| entry.key == own_key);
    let groups = context.registry.list(GROUPS).await?;
    let revision = own.revision;
    let mut layers = Layers::default();
    layers.take(CONFIG, Event::Resync(own));
    layers.take(GROUPS, Event::Resync(groups));
    let labels = context.hub.labels(agent).unwrap_or_default();
    let mut desired = layers.desired(agent, &labels);
    // Of two looks the first: a change between them is still to come as one of its own.
    desired.mark.revision = revision;
    Ok(desired)
}
