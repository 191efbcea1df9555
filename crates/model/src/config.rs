//! What an agent is told to do: its config as JSON, layer by layer, and as a checked value.
//!
//! A config is taken or refused whole. [`parse`] reads a text strictly and names every fault with its path;
//! [`effective`] makes one config of the defaults, the groups' and the agent's own; [`keys`] lists what may be written.
//! Whether what a config names can be built here is the pipeline's answer, not this module's.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::limit::{INTERVAL_DEFAULT, PLUGINS_PER_AGENT_MAX};
use crate::metric::MetricName;

mod diff;
mod fault;
mod field;
mod json;
pub mod keys;
mod merge;
mod plugin;
mod reader;

pub use diff::{Change, diff};
pub use fault::{ConfigError, Fault, unknown};
pub use field::{Field, UnknownField};
pub use json::read_object;
pub use merge::{Effective, GroupConfig, Origin, digest, effective};
pub use plugin::{
    AggregationConfig, Condition, DeduplicationConfig, FilterConfig, Op, PluginConfig, SandboxedConfig,
    ThresholdAlertConfig, Window,
};

use fault::{Faults, Path};
use plugin::Shorthand;
use reader::Object;

/// A config that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    interval: Duration,
    metrics: BTreeSet<MetricName>,
    plugins: Vec<PluginConfig>,
}

impl AgentConfig {
    /// Time between two collections.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// What to collect; never more than was asked for.
    pub fn metrics(&self) -> &BTreeSet<MetricName> {
        &self.metrics
    }

    /// The plugins, in the order in which they run.
    pub fn plugins(&self) -> &[PluginConfig] {
        &self.plugins
    }
}

/// What `{}` means.
impl Default for AgentConfig {
    fn default() -> Self {
        Self { interval: INTERVAL_DEFAULT, metrics: MetricName::default_set().collect(), plugins: Vec::new() }
    }
}

/// Reads a config text.
pub fn parse(text: &str) -> Result<AgentConfig, ConfigError> {
    check(&read_object(text)?)
}

/// Checks a config that is JSON already, such as the effective one.
pub fn check(config: &Value) -> Result<AgentConfig, ConfigError> {
    let faults = Faults::default();
    let config = Object::of(&Path::Root, config, &faults).map(read).unwrap_or_default();
    faults.into_result(config)
}

fn read(config: Object<'_>) -> AgentConfig {
    config.only_keys("key", &keys::AGENT);
    let default = AgentConfig::default();
    AgentConfig {
        interval: config.seconds(&keys::INTERVAL).unwrap_or(default.interval),
        metrics: metrics(config).unwrap_or(default.metrics),
        plugins: plugins(config, &Shorthand::read(config)),
    }
}

fn metrics(config: Object<'_>) -> Option<BTreeSet<MetricName>> {
    let path = config.at(keys::METRICS.name);
    let name = |(index, value): (usize, &Value)| {
        let path = Path::Index(&path, index);
        let Some(text) = value.as_str() else {
            config
                .faults
                .invalid(&path, format!("expected the name of a metric, found {}", json::kind(value)));
            return None;
        };
        let known = || unknown("metric", text, &MetricName::ALL.map(MetricName::as_str));
        text.parse().map_err(|_| config.faults.invalid(&path, known())).ok()
    };
    Some(config.list(&keys::METRICS)?.iter().enumerate().filter_map(name).collect())
}

fn plugins(config: Object<'_>, top: &Shorthand) -> Vec<PluginConfig> {
    let path = config.at(keys::PLUGINS.name);
    let list = config.list(&keys::PLUGINS).unwrap_or_default();
    if list.len() > PLUGINS_PER_AGENT_MAX {
        let given = list.len();
        config
            .faults
            .invalid(&path, format!("{given} plugins given: at most {PLUGINS_PER_AGENT_MAX} may run"));
    }
    let read = |(index, entry)| plugin::read(&Path::Index(&path, index), entry, top, config.faults);
    list.iter().enumerate().filter_map(read).collect()
}

#[cfg(test)]
mod tests;
