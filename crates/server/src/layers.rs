//! What the registry says about config, and what it comes to for one agent.
//!
//! A pure fold of the changes under `/monitor/config/` and `/monitor/groups/`. A text that cannot be merged does not stop
//! anything here: it becomes a fault for the agents it concerns.

use std::collections::{BTreeMap, BTreeSet};

use backends::registry::Event;
use bytes::Bytes;
use model::config::{ConfigError, GroupConfig, digest, effective, read_object};
use model::id::{AgentId, GroupName, Revision};
use model::limit;
use model::sample::Timestamp;
use model::selector::Selector;
use model::truth::{Failure, Mark, Stage};
use proto::key::{CONFIG, GROUPS, Target};
use proto::{convert, wire};
use serde_json::Value;

/// What an agent should run: the merged config as JSON text, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desired {
    pub mark: Mark,
    pub outcome: Result<String, ConfigError>,
}

impl Desired {
    pub(crate) fn failure(&self, at: Timestamp) -> Option<Failure> {
        self.outcome.as_ref().err().map(|error| error.failure(self.mark.clone(), at))
    }

    pub(crate) fn to_wire(&self, registry: String, at: Timestamp) -> wire::ConfigRevision {
        wire::ConfigRevision {
            mark: Some(convert::mark_to_wire(&self.mark)),
            effective_json: self.outcome.clone().unwrap_or_default(),
            fault: self.failure(at).as_ref().map(convert::failure_to_wire),
            registry,
        }
    }
}

/// Whom a change concerns.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Concern {
    agents: BTreeSet<AgentId>,
    selectors: Vec<Selector>,
    everybody: bool,
}

impl Concern {
    pub(crate) fn includes(&self, agent: &AgentId, labels: &BTreeMap<String, String>) -> bool {
        self.everybody
            || self.agents.contains(agent)
            || self.selectors.iter().any(|selector| selector.matches(labels))
    }
}

/// The layers above the built-in defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    agents: BTreeMap<AgentId, Bytes>,
    groups: BTreeMap<GroupName, Group>,
    revision: Revision,
}

#[derive(Clone, Debug)]
struct Group {
    text: Bytes,
    /// Known also of a group that is otherwise at fault; without one it concerns nobody.
    selector: Option<Selector>,
    parsed: Result<GroupConfig, ConfigError>,
}

impl Layers {
    /// Takes one change in and says whom it concerns.
    pub(crate) fn take(&mut self, prefix: &str, event: Event) -> Concern {
        let mut concern = Concern::default();
        match event {
            Event::Put(entry) => {
                self.revision = self.revision.max(entry.modified);
                self.put(&entry.key, entry.value, &mut concern);
            }
            Event::Delete { key, revision } => {
                self.revision = self.revision.max(revision);
                self.delete(&key, &mut concern);
            }
            Event::Resync(snapshot) => {
                self.revision = self.revision.max(snapshot.revision);
                concern.everybody = true;
                match prefix {
                    CONFIG => self.agents.clear(),
                    GROUPS => self.groups.clear(),
                    _ => {}
                }
                for entry in snapshot.entries {
                    self.put(&entry.key, entry.value, &mut concern);
                }
            }
        }
        concern
    }

    /// What these layers come to for one agent, at the newest revision seen.
    pub(crate) fn desired(&self, agent: &AgentId, labels: &BTreeMap<String, String>) -> Desired {
        let own = self.agents.get(agent);
        let chosen = self
            .groups
            .iter()
            .filter(|(_, group)| group.selector.as_ref().is_some_and(|selector| selector.matches(labels)));
        let chosen: Vec<(&GroupName, &Group)> = chosen.collect();
        match merge(own, &chosen) {
            Ok((digest, json)) => {
                Desired { mark: Mark { revision: self.revision, digest }, outcome: Ok(json) }
            }
            Err(error) => {
                // There is no config to digest; the texts it would have come from tell two faults apart.
                let texts = chosen.iter().map(|(_, group)| &group.text).chain(own);
                let texts = texts.map(|text| Value::String(String::from_utf8_lossy(text).into_owned()));
                let digest = digest(&Value::Array(texts.collect()));
                Desired { mark: Mark { revision: self.revision, digest }, outcome: Err(error) }
            }
        }
    }

    fn put(&mut self, key: &str, value: Bytes, concern: &mut Concern) {
        match Target::of_key(key) {
            Some(Target::Agent(agent)) => {
                self.agents.insert(agent.clone(), value);
                concern.agents.insert(agent);
            }
            Some(Target::Group(name)) => {
                let group = Group::read(value);
                if let Err(error) = &group.parsed {
                    tracing::warn!(group = %name, %error, "a group's config is at fault");
                }
                concern.selectors.extend(group.selector.clone());
                let old = self.groups.insert(name, group);
                concern.selectors.extend(old.and_then(|old| old.selector));
            }
            None => tracing::warn!(key, "a config key does not name an agent or group; it is ignored"),
        }
    }

    fn delete(&mut self, key: &str, concern: &mut Concern) {
        match Target::of_key(key) {
            Some(Target::Agent(agent)) => {
                self.agents.remove(&agent);
                concern.agents.insert(agent);
            }
            Some(Target::Group(name)) => {
                let old = self.groups.remove(&name);
                concern.selectors.extend(old.and_then(|old| old.selector));
            }
            None => {}
        }
    }
}

impl Group {
    fn read(text: Bytes) -> Self {
        let parsed = utf8(&text).and_then(GroupConfig::parse);
        let selector = match &parsed {
            Ok(group) => Some(group.selector.clone()),
            Err(_) => selector_alone(&text),
        };
        Self { text, selector, parsed }
    }
}

/// Digest and text of the merged config.
fn merge(own: Option<&Bytes>, groups: &[(&GroupName, &Group)]) -> Result<(String, String), ConfigError> {
    let own = own
        .map(|text| utf8(text).and_then(read_object).map_err(|error| error.within(&"agent")))
        .transpose()?;
    let groups = groups.iter().map(|(name, group)| {
        let parsed = group.parsed.clone().map_err(|error| error.within(&format!("group {name}")))?;
        Ok(((*name).clone(), parsed))
    });
    let groups = groups.collect::<Result<Vec<_>, ConfigError>>()?;
    let merged = effective(None, &groups, own.as_ref())?;
    let json = merged.json.to_string();
    // Many groups, each within its limit, can be too much together for one message.
    if json.len() > limit::SERVER_MESSAGE_BYTES_MAX / 2 {
        let problem = format!("the merged config has {} bytes: write less into its groups", json.len());
        return Err(ConfigError::new(Stage::Validate, "", problem));
    }
    Ok((merged.digest(), json))
}

/// The selector of a group whose other parts are at fault.
fn selector_alone(text: &Bytes) -> Option<Selector> {
    let group = read_object(utf8(text).ok()?).ok()?;
    group.get("selector")?.as_str()?.parse().ok()
}

fn utf8(text: &Bytes) -> Result<&str, ConfigError> {
    std::str::from_utf8(text)
        .map_err(|error| ConfigError::new(Stage::Parse, "", format!("not UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backends::registry::{Entry, Snapshot};

    fn entry(key: &str, value: &str, revision: u64) -> Entry {
        let revision = Revision(revision);
        let value = Bytes::copy_from_slice(value.as_bytes());
        Entry { key: key.to_owned(), value, created: revision, modified: revision, version: 1, lease: None }
    }

    fn put(layers: &mut Layers, key: &str, value: &str, revision: u64) -> Concern {
        let prefix = if key.starts_with(CONFIG) { CONFIG } else { GROUPS };
        layers.take(prefix, Event::Put(entry(key, value, revision)))
    }

    fn agent(id: &str) -> (AgentId, BTreeMap<String, String>) {
        (AgentId::new(id).unwrap(), BTreeMap::from([("role".to_owned(), "db".to_owned())]))
    }

    #[test]
    fn the_agents_own_config_wins_over_its_groups_and_the_mark_is_the_newest_revision() {
        let mut layers = Layers::default();
        let (db, labels) = agent("db-1");
        put(&mut layers, "/monitor/config/db-1", r#"{"interval":1}"#, 3);
        let concern = put(
            &mut layers,
            "/monitor/groups/dbs",
            r#"{"selector":"role=db","config":{"interval":9,"window_size":7}}"#,
            4,
        );
        assert!(concern.includes(&db, &labels));
        assert!(!concern.includes(&db, &BTreeMap::new()));
        let desired = layers.desired(&db, &labels);
        assert_eq!(desired.mark.revision, Revision(4));
        assert_eq!(desired.outcome.unwrap(), r#"{"interval":1,"window_size":7}"#);
    }

    #[test]
    fn a_text_that_is_no_config_is_a_fault_that_says_where() {
        let mut layers = Layers::default();
        let (db, labels) = agent("db-1");
        put(&mut layers, "/monitor/config/db-1", "{nonsense", 3);
        let failure = layers.desired(&db, &labels).failure(Timestamp::default()).unwrap();
        assert_eq!((failure.stage, failure.mark.revision), (Stage::Parse, Revision(3)));
        assert!(failure.message.contains("in agent"), "{}", failure.message);
        let (other, _) = agent("web-1");
        assert!(layers.desired(&other, &labels).outcome.is_ok());
    }

    #[test]
    fn a_faulty_group_is_a_fault_of_those_it_selects_and_of_nobody_else() {
        let mut layers = Layers::default();
        let (db, labels) = agent("db-1");
        put(&mut layers, "/monitor/groups/dbs", r#"{"selector":"role=db","config":[]}"#, 3);
        assert!(layers.desired(&db, &labels).outcome.is_err());
        assert!(layers.desired(&db, &BTreeMap::new()).outcome.is_ok());
        put(&mut layers, "/monitor/groups/dbs", "not even json", 4);
        assert!(layers.desired(&db, &labels).outcome.is_ok());
    }

    #[test]
    fn a_deleted_layer_concerns_those_it_held_and_a_resync_everybody() {
        let mut layers = Layers::default();
        let (db, labels) = agent("db-1");
        put(&mut layers, "/monitor/groups/dbs", r#"{"selector":"role=db","config":{"interval":9}}"#, 3);
        let key = "/monitor/groups/dbs".to_owned();
        let concern = layers.take(GROUPS, Event::Delete { key, revision: Revision(5) });
        assert!(concern.includes(&db, &labels));
        assert_eq!(layers.desired(&db, &labels).outcome.unwrap(), "{}");
        let entries = vec![entry("/monitor/config/db-1", r#"{"interval":2}"#, 2)];
        let resync = Event::Resync(Snapshot { revision: Revision(6), entries });
        assert!(layers.take(CONFIG, resync).includes(&db, &BTreeMap::new()));
        let desired = layers.desired(&db, &labels);
        assert_eq!(
            (desired.mark.revision, desired.outcome.unwrap().as_str()),
            (Revision(6), r#"{"interval":2}"#)
        );
    }
}
