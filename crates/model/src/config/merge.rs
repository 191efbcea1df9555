//! One config from many layers: defaults, then groups by priority and name, then the agent's own.
//!
//! The rule is RFC 7396, JSON Merge Patch: objects merge, lists and single values replace, `null` removes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::fault::{ConfigError, Faults, Path};
use super::json::read_object;
use super::reader::Object;
use super::{AgentConfig, check};
use crate::id::GroupName;
use crate::selector::Selector;
use crate::truth::Stage;

/// Where a value of the effective config came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Defaults,
    Group(GroupName),
    Agent,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("defaults"),
            Self::Group(name) => write!(f, "group {name}"),
            Self::Agent => f.write_str("agent"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The value of `/monitor/groups/<name>`.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupConfig {
    /// The agents of the group.
    pub selector: Selector,
    /// Of two groups the one with the higher priority has the last word.
    pub priority: i64,
    pub config: Value,
}

impl GroupConfig {
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value = read_object(text)?;
        let faults = Faults::default();
        let root = Path::Root;
        let group = Object::of(&root, &value, &faults).map(Self::read);
        faults
            .into_result(group)?
            .ok_or_else(|| ConfigError::new(Stage::Parse, "", "the group is not an object"))
    }

    fn read(group: Object<'_>) -> Self {
        group.only("key of a group", &["selector", "priority", "config"]);
        let refuse = |key: &str, message: String| group.faults.invalid(&group.at(key), message);
        let selector = match group.get("selector") {
            Some(Value::String(text)) => {
                text.parse().map_err(|error: crate::selector::SelectorError| error.to_string())
            }
            // A group without selector would mean every agent: too much for a forgotten key.
            _ => Err("expected a selector, a text such as \"role=db\"".to_owned()),
        };
        let selector = selector.map_err(|message| refuse("selector", message)).unwrap_or_default();
        let priority = group.get("priority").map_or(Some(0), Value::as_i64);
        if priority.is_none() {
            refuse("priority", "expected a whole number".to_owned());
        }
        let config = group.get("config").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        if !config.is_object() {
            refuse("config", "expected an object".to_owned());
        }
        Self { selector, priority: priority.unwrap_or(0), config }
    }
}

/// All layers in one.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// Keys sorted, nothing `null`.
    pub json: Value,
    /// The layer that spoke last about each top-level key.
    pub origins: BTreeMap<String, Origin>,
    /// `json`, checked.
    pub config: AgentConfig,
}

impl Effective {
    pub fn digest(&self) -> String {
        digest(&self.json)
    }
}

/// Merges the layers of one agent. `groups` are those whose selector matches, in any order. The error says which layer
/// is at fault.
pub fn effective(
    defaults: Option<&Value>,
    groups: &[(GroupName, GroupConfig)],
    agent: Option<&Value>,
) -> Result<Effective, ConfigError> {
    let mut groups: Vec<_> = groups.iter().collect();
    groups.sort_by_key(|(name, group)| (group.priority, name));
    let layers = (defaults.into_iter().map(|config| (Origin::Defaults, config)))
        .chain(groups.into_iter().map(|(name, group)| (Origin::Group(name.clone()), &group.config)))
        .chain(agent.into_iter().map(|config| (Origin::Agent, config)));

    let mut json = Value::Object(Map::new());
    let mut origins = BTreeMap::new();
    for (origin, layer) in layers {
        check(layer).map_err(|error| error.within(&origin))?;
        merge(&mut json, layer);
        for (key, value) in layer.as_object().into_iter().flatten() {
            if value.is_null() {
                origins.remove(key)
            } else {
                origins.insert(key.clone(), origin.clone())
            };
        }
    }
    json.sort_all_objects();
    // Layers that are right one by one can be wrong together, e.g. too many thresholds.
    let config = check(&json).map_err(|error| error.within(&"all layers together"))?;
    Ok(Effective { json, origins, config })
}

/// The first 16 hex digits of the SHA-256 of the JSON with sorted keys and no blanks.
pub fn digest(json: &Value) -> String {
    let mut canonical = json.clone();
    canonical.sort_all_objects();
    let hash = Sha256::digest(canonical.to_string());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::tests::any_json;
    use super::*;

    fn group(name: &str, priority: i64, config: Value) -> (GroupName, GroupConfig) {
        (GroupName::new(name).unwrap(), GroupConfig { selector: Selector::default(), priority, config })
    }

    #[test]
    fn a_later_layer_replaces_merges_and_removes() {
        let defaults = json!({"interval": 10, "window_size": 5, "thresholds": {"cpu_percent": 70, "memory_percent": 90}});
        let groups = [
            group("b", 10, json!({"interval": 3, "min_cpu": 1})),
            group("a", 10, json!({"interval": 2, "window_size": null})),
            group("z", 5, json!({"interval": 4})),
        ];
        let agent = json!({"thresholds": {"cpu_percent": 95, "memory_percent": null}});
        let effective = effective(Some(&defaults), &groups, Some(&agent)).unwrap();
        assert_eq!(
            effective.json.to_string(),
            r#"{"interval":3,"min_cpu":1,"thresholds":{"cpu_percent":95}}"#
        );
        let origins: Vec<String> =
            effective.origins.iter().map(|(key, origin)| format!("{key}: {origin}")).collect();
        assert_eq!(origins, ["interval: group b", "min_cpu: group b", "thresholds: agent"]);
    }

    #[test]
    fn the_error_names_the_layer_at_fault() {
        let groups = [group("db", 0, json!({"interval": 0}))];
        let error = effective(Some(&json!({})), &groups, Some(&json!({"interval": 5}))).unwrap_err();
        assert_eq!(error.path(), "interval");
        assert!(error.message().starts_with("in group db: expected seconds, 0.1 to 3600"), "{error}");
    }

    #[test]
    fn a_group_needs_a_selector_it_spells_out() {
        let group =
            GroupConfig::parse(r#"{"selector":"role=db","priority":10,"config":{"interval":1}}"#).unwrap();
        assert_eq!((group.selector.to_string().as_str(), group.priority), ("role=db", 10));
        for (text, path) in [
            (r#"{"config":{}}"#, "selector"),
            (r#"{"selector":"role","config":{}}"#, "selector"),
            (r#"{"selector":"","priority":1.5}"#, "priority"),
            (r#"{"selector":"","config":[]}"#, "config"),
            (r#"{"selector":"","prority":1}"#, "prority"),
        ] {
            assert_eq!(GroupConfig::parse(text).unwrap_err().path(), path, "{text}");
        }
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_keys() {
        let one = digest(&json!({"a": {"x": 1, "y": 2}, "b": 3}));
        assert_eq!(one, digest(&json!({"b": 3, "a": {"y": 2, "x": 1}})));
        assert_ne!(one, digest(&json!({"b": 3, "a": {"y": 2, "x": 2}})));
        assert_eq!(one.len(), 16);
    }

    proptest! {
        #[test]
        fn merging_a_patch_twice_is_merging_it_once(mut target in any_json(), patch in any_json()) {
            merge(&mut target, &patch);
            let once = target.clone();
            merge(&mut target, &patch);
            prop_assert_eq!(target, once);
        }

        #[test]
        fn an_empty_object_changes_no_object_and_a_list_replaces_all(target in any_json(), patch in any_json()) {
            if target.is_object() {
                let mut merged = target.clone();
                merge(&mut merged, &json!({}));
                prop_assert_eq!(&merged, &target);
            }
            if !patch.is_object() {
                let mut merged = target;
                merge(&mut merged, &patch);
                prop_assert_eq!(merged, patch);
            }
        }
    }
}
