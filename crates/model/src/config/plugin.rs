//! The plugins of a config, read and checked: one typed variant for each.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fault::{Faults, Path, quoted, unknown};
use super::field::Field;
use super::json::kind;
use super::keys::{self, BUILT_IN};
use super::reader::Object;
use crate::limit::{ID_BYTES_MAX, RULES_PER_PLUGIN_MAX};

/// One entry of `plugins`, with everything it needs.
#[derive(Clone, Debug, PartialEq)]
pub enum PluginConfig {
    Deduplication(DeduplicationConfig),
    ThresholdAlert(ThresholdAlertConfig),
    Aggregation(AggregationConfig),
    Filter(FilterConfig),
    Sandboxed(SandboxedConfig),
}

impl PluginConfig {
    /// The short name, as counters and dispositions show it.
    pub fn name(&self) -> &str {
        match self {
            Self::Deduplication(_) => keys::DEDUPLICATION.name,
            Self::ThresholdAlert(_) => keys::THRESHOLD_ALERT.name,
            Self::Aggregation(_) => keys::AGGREGATION.name,
            Self::Filter(_) => keys::FILTER.name,
            Self::Sandboxed(config) => &config.name,
        }
    }
}

/// See [`keys::DEDUPLICATION`].
#[derive(Clone, Debug, PartialEq)]
pub struct DeduplicationConfig {
    pub points: f64,
    pub percent: f64,
    pub rate_mb: f64,
    pub keep_alive: Duration,
    pub drop_alerts: bool,
}

/// See [`keys::THRESHOLD_ALERT`].
#[derive(Clone, Debug, PartialEq)]
pub struct ThresholdAlertConfig {
    pub thresholds: BTreeMap<Field, f64>,
    pub hysteresis_percent: f64,
    pub hold: Duration,
}

/// See [`keys::AGGREGATION`].
#[derive(Clone, Debug, PartialEq)]
pub struct AggregationConfig {
    pub window: Window,
    pub series_extremes: bool,
}

/// When a window is full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    Ticks(u64),
    Time(Duration),
}

/// See [`keys::FILTER`].
#[derive(Clone, Debug, PartialEq)]
pub struct FilterConfig {
    pub min_cpu: f64,
    pub min_memory: f64,
    pub send_idle: bool,
    pub conditions: Vec<Condition>,
    pub drop_alerts: bool,
}

/// `field op value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub field: Field,
    pub op: Op,
    pub value: f64,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    NotEqual,
}

/// A plugin of somebody else, to run in a sandbox: `wasm:<name>[@version]`, or a class path nobody built in.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxedConfig {
    pub name: String,
    pub version: Option<String>,
    pub config: Map<String, Value>,
}

impl Op {
    pub const ALL: [(&'static str, Self); 6] = [
        ("<", Self::Less),
        ("<=", Self::AtMost),
        (">", Self::More),
        (">=", Self::AtLeast),
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
    ];

    pub fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::AtMost => left <= right,
            Self::More => left > right,
            Self::AtLeast => left >= right,
            Self::Equal => left == right,
            Self::NotEqual => left != right,
        }
    }
}

/// The top-level keys that configure plugins, so that the seeds' flat configs work.
#[derive(Debug, Default)]
pub(super) struct Shorthand {
    thresholds: Option<BTreeMap<Field, f64>>,
    window: Option<Window>,
    min_cpu: Option<f64>,
    min_memory: Option<f64>,
    send_idle: Option<bool>,
}

impl Shorthand {
    pub(super) fn read(config: Object<'_>) -> Self {
        Self {
            thresholds: thresholds(config),
            window: window(config),
            min_cpu: config.number(&keys::MIN_CPU),
            min_memory: config.number(&keys::MIN_MEMORY),
            send_idle: config.flag(&keys::SEND_IDLE),
        }
    }
}

/// Reads one entry of `plugins`.
pub(super) fn read(path: &Path<'_>, entry: &Value, top: &Shorthand, faults: &Faults) -> Option<PluginConfig> {
    if let Value::String(name) = entry {
        return named(path, name, Object { path, map: &Map::new(), faults }, top);
    }
    if !entry.is_object() {
        let found = kind(entry);
        faults.invalid(path, format!("expected a plugin's name or {{\"name\", \"config\"}}, found {found}"));
        return None;
    }
    let entry = Object::of(path, entry, faults)?;
    entry.only("key of a plugin", &["name", "config"]);
    let name_path = entry.at("name");
    let Some(Value::String(name)) = entry.get("name") else {
        faults.invalid(&name_path, "expected the plugin's name, a text");
        return None;
    };
    let (config_path, none) = (entry.at("config"), Map::new());
    let config = match entry.get("config") {
        Some(value) => Object::of(&config_path, value, faults)?,
        None => Object { path: &config_path, map: &none, faults },
    };
    named(&name_path, name, config, top)
}

fn named(path: &Path<'_>, name: &str, config: Object<'_>, top: &Shorthand) -> Option<PluginConfig> {
    let built_in = BUILT_IN.iter().find(|plugin| name == plugin.name || module(name) == Some(plugin.name));
    let Some(plugin) = built_in else {
        return sandboxed(path, name, config).map(PluginConfig::Sandboxed);
    };
    config.only_keys(&format!("setting of {}", plugin.name), plugin.keys);
    Some(match plugin.name {
        "deduplication" => PluginConfig::Deduplication(deduplication(config)),
        "threshold_alert" => PluginConfig::ThresholdAlert(threshold_alert(config, top)),
        "aggregation" => PluginConfig::Aggregation(aggregation(config, top)),
        _ => PluginConfig::Filter(filter(config, top)),
    })
}

/// `my_plugin` of `agent.plugins.my_plugin.MyPlugin`: in a class path the module names the plugin.
fn module(class_path: &str) -> Option<&str> {
    let (modules, _class) = class_path.rsplit_once('.')?;
    Some(modules.rsplit_once('.').map_or(modules, |(_, module)| module))
}

fn sandboxed(path: &Path<'_>, given: &str, config: Object<'_>) -> Option<SandboxedConfig> {
    let word = |text: &str, more: &str| {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || more.contains(c);
        (1..=ID_BYTES_MAX).contains(&text.len()) && text.chars().all(inside)
    };
    let (name, version) = match (given.strip_prefix("wasm:"), module(given)) {
        (Some(rest), _) => match rest.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (rest, None),
        },
        (None, Some(module)) => (module, None),
        (None, None) => {
            let mut known: Vec<&str> = BUILT_IN.iter().map(|plugin| plugin.name).collect();
            known.push("wasm:<name>[@version]");
            config.faults.invalid(path, unknown("plugin", given, &known));
            return None;
        }
    };
    if !word(name, "") || !version.is_none_or(|version| word(version, ".+")) {
        let message =
            format!("{} names no plugin: write wasm:<name> or wasm:<name>@<version>", quoted(given));
        config.faults.invalid(path, message);
        return None;
    }
    Some(SandboxedConfig {
        name: format!("wasm:{name}"),
        version: version.map(str::to_owned),
        config: config.map.clone(),
    })
}

fn deduplication(config: Object<'_>) -> DeduplicationConfig {
    let both = config.number(&keys::TOLERANCE);
    let points = config.number(&keys::TOLERANCE_POINTS).or(both).unwrap_or(0.5);
    DeduplicationConfig {
        points,
        percent: config.number(&keys::TOLERANCE_PERCENT).or(both).unwrap_or(1.0),
        rate_mb: config.number(&keys::TOLERANCE_RATE_MB).unwrap_or(points / 10.0),
        keep_alive: config.seconds(&keys::KEEP_ALIVE).unwrap_or(Duration::from_secs(60)),
        drop_alerts: config.flag(&keys::DROP_ALERTS).unwrap_or(false),
    }
}

fn threshold_alert(config: Object<'_>, top: &Shorthand) -> ThresholdAlertConfig {
    let seeds = || BTreeMap::from([(Field::Metric(0), 80.0), (Field::Metric(1), 85.0)]);
    ThresholdAlertConfig {
        thresholds: thresholds(config).or_else(|| top.thresholds.clone()).unwrap_or_else(seeds),
        hysteresis_percent: config.number(&keys::HYSTERESIS).unwrap_or(5.0),
        hold: config.seconds(&keys::FOR).unwrap_or(Duration::ZERO),
    }
}

fn aggregation(config: Object<'_>, top: &Shorthand) -> AggregationConfig {
    AggregationConfig {
        window: window(config).or(top.window).unwrap_or(Window::Ticks(10)),
        series_extremes: config.flag(&keys::SERIES_EXTREMES).unwrap_or(false),
    }
}

fn filter(config: Object<'_>, top: &Shorthand) -> FilterConfig {
    let min_cpu = config.number(&keys::MIN_CPU).or(top.min_cpu);
    let min_memory = config.number(&keys::MIN_MEMORY).or(top.min_memory);
    let conditions = conditions(config);
    // A filter that nobody told anything drops idle records, so that naming it alone has an effect.
    let untold = min_cpu.is_none() && min_memory.is_none() && conditions.is_none();
    FilterConfig {
        min_cpu: min_cpu.unwrap_or(0.0),
        min_memory: min_memory.unwrap_or(0.0),
        send_idle: config.flag(&keys::SEND_IDLE).or(top.send_idle).unwrap_or(!untold),
        conditions: conditions.unwrap_or_default(),
        drop_alerts: config.flag(&keys::DROP_ALERTS).unwrap_or(false),
    }
}

/// `window_seconds` if given, else `window_size`.
fn window(config: Object<'_>) -> Option<Window> {
    let ticks = config.count(&keys::WINDOW_SIZE).map(Window::Ticks);
    config.seconds(&keys::WINDOW_SECONDS).map(Window::Time).or(ticks)
}

fn thresholds(config: Object<'_>) -> Option<BTreeMap<Field, f64>> {
    let map = config.object(&keys::THRESHOLDS)?;
    let path = config.at(keys::THRESHOLDS.name);
    within_rules(config, &path, map.len());
    let mut thresholds = BTreeMap::new();
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let path = Path::Key(&path, name);
        match Field::parse(name) {
            Ok(field) => {
                thresholds.extend(bound(config, &path, &field, value).map(|limit| (field, limit)));
            }
            Err(unknown) => config.faults.invalid(&path, unknown.to_string()),
        }
    }
    Some(thresholds)
}

fn conditions(config: Object<'_>) -> Option<Vec<Condition>> {
    let list = config.list(&keys::CONDITIONS)?;
    let path = config.at(keys::CONDITIONS.name);
    within_rules(config, &path, list.len());
    let read = |(index, value)| condition(Object::of(&Path::Index(&path, index), value, config.faults)?);
    Some(list.iter().enumerate().filter_map(read).collect())
}

fn condition(entry: Object<'_>) -> Option<Condition> {
    entry.only("key of a condition", &["field", "op", "value"]);
    let refuse = |key: &str, message: String| entry.faults.invalid(&entry.at(key), message);
    let text = |key: &str| {
        let text = entry.get(key).and_then(Value::as_str);
        if text.is_none() {
            refuse(key, "expected a text".to_owned());
        }
        text
    };
    let (field, op) = (text("field"), text("op"));
    let field = field
        .and_then(|name| Field::parse(name).map_err(|unknown| refuse("field", unknown.to_string())).ok());
    let op = op.and_then(|given| {
        let op = Op::ALL.iter().find(|(sign, _)| *sign == given).map(|(_, op)| *op);
        if op.is_none() {
            refuse("op", unknown("comparison", given, &Op::ALL.map(|(sign, _)| sign)));
        }
        op
    });
    let field = field?;
    let value = bound(entry, &entry.at("value"), &field, entry.get("value").unwrap_or(&Value::Null))?;
    Some(Condition { field, op: op?, value })
}

/// A number to compare `field` with. Outside 0 to 100 a percentage would be always or never.
fn bound(at: Object<'_>, path: &Path<'_>, field: &Field, value: &Value) -> Option<f64> {
    let number = value.as_f64().filter(|n| !field.is_percent() || (0.0..=100.0).contains(n));
    if number.is_none() {
        let wanted = if field.is_percent() { "a number, 0 to 100" } else { "a number" };
        let found = if value.is_number() { value.to_string() } else { kind(value).to_owned() };
        at.faults.invalid(path, format!("expected {wanted}, found {found}"));
    }
    number
}

fn within_rules(at: Object<'_>, path: &Path<'_>, given: usize) {
    if given > RULES_PER_PLUGIN_MAX {
        at.faults.invalid(path, format!("{given} rules given: at most {RULES_PER_PLUGIN_MAX} are allowed"));
    }
}
