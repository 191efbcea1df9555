//! Whether a config would be taken: by itself, and merged with the groups an agent is in.

use std::collections::BTreeMap;

use model::config::{self, ConfigError, Effective, GroupConfig, read_object};
use model::id::{AgentId, GroupName, Revision};
use model::selector::Selector;
use proto::api::EffectiveConfig;
use proto::key::{GROUPS, Target};
use serde_json::Value;

use super::named;
use crate::problem::Refusal;
use crate::{Desk, agents};

/// How often groups and config are read until both are of one revision.
const READS_MAX: usize = 5;

/// Refuses what an agent would refuse.
pub(super) async fn check(desk: &Desk, target: &Target, text: &str) -> Result<(), Refusal> {
    let verdict = match target {
        Target::Group(_) => group(text),
        Target::Agent(id) => agent(desk, id, text).await?,
    };
    verdict.map_err(|error| Refusal::bad_config(&format!("the config of {}", named(target)), &error))
}

/// A group's text: its own shape, and its config by itself.
pub(super) fn group(text: &str) -> Result<(), ConfigError> {
    let group = GroupConfig::parse(text)?;
    config::check(&group.config).map(drop).map_err(|error| error.within(&"config"))
}

/// An agent's text by itself, and together with its groups. A group that is at fault itself is not the writer's.
pub(super) async fn agent(desk: &Desk, id: &AgentId, text: &str) -> Result<Result<(), ConfigError>, Refusal> {
    let own = match config::parse(text).and_then(|_| read_object(text)) {
        Ok(own) => own,
        Err(error) => return Ok(Err(error)),
    };
    let layers = Layers::read(desk, id).await?;
    let sound = layers.groups.into_iter().filter_map(|(name, group)| Some((name, group.ok()?)));
    let sound: Vec<_> = sound.filter(|(_, group)| config::check(&group.config).is_ok()).collect();
    Ok(config::effective(None, &sound, Some(&own)).map(drop))
}

/// What an agent should run.
pub(super) async fn effective_config(desk: &Desk, id: &AgentId) -> Result<EffectiveConfig, Refusal> {
    desk.fleet.agent(id).ok_or_else(|| agents::unknown(desk, id))?;
    let layers = Layers::read(desk, id).await?;
    let revision = layers.revision;
    let effective =
        layers.merge().map_err(|e| Refusal::bad_config(&format!("what agent {id} should run"), &e))?;
    let digest = effective.digest();
    let origin = effective.origins.into_iter().map(|(key, origin)| (key, origin.to_string())).collect();
    Ok(EffectiveConfig { config: effective.json, digest, revision, origin })
}

/// What the registry says about one agent, all of one revision.
#[derive(Debug)]
struct Layers {
    revision: Revision,
    /// The groups whose selector chooses it, whatever else is wrong with them.
    groups: Vec<(GroupName, Result<GroupConfig, ConfigError>)>,
    own: Option<String>,
}

impl Layers {
    async fn read(desk: &Desk, id: &AgentId) -> Result<Self, Refusal> {
        let labels = match desk.fleet.agent(id) {
            Some(entry) => entry.selectable(),
            // It has not been there yet: only its id can be known.
            None => BTreeMap::from([("agent_id".to_owned(), id.to_string())]),
        };
        let (registry, key) = (&desk.backends.registry, Target::Agent(id.clone()).key());
        for _ in 0..READS_MAX {
            let groups = registry.list(GROUPS).await?;
            let own = registry.get(&key).await?;
            // Written between the two reads: the groups are older than the agent's own.
            if own.as_ref().is_some_and(|own| own.modified > groups.revision) {
                continue;
            }
            let group = |entry: &backends::registry::Entry| {
                let Some(Target::Group(name)) = Target::of_key(&entry.key) else { return None };
                let text = String::from_utf8_lossy(&entry.value);
                selector(&text)?.matches(&labels).then(|| (name, GroupConfig::parse(&text)))
            };
            return Ok(Self {
                revision: groups.revision,
                groups: groups.entries.iter().filter_map(group).collect(),
                own: own.map(|own| String::from_utf8_lossy(&own.value).into_owned()),
            });
        }
        Err(Refusal::unavailable(format!(
            "the config of agent {id} changes faster than it can be read: try again"
        )))
    }

    fn merge(self) -> Result<Effective, ConfigError> {
        let own = self.own.as_deref().map(read_object).transpose();
        let own = own.map_err(|error| error.within(&"agent"))?;
        let group = |(name, group): (GroupName, Result<GroupConfig, ConfigError>)| {
            let within = format!("group {name}");
            group.map(|group| (name, group)).map_err(|error| error.within(&within))
        };
        let groups = self.groups.into_iter().map(group).collect::<Result<Vec<_>, _>>()?;
        config::effective(None, &groups, own.as_ref())
    }
}

/// The selector of a group's text, even if the rest of it is at fault. A group without one concerns nobody.
fn selector(text: &str) -> Option<Selector> {
    let group: Value = serde_json::from_str(text).ok()?;
    group.get("selector")?.as_str()?.parse().ok()
}
