//! Every key a config may have: its type, default, range and meaning, once.
//!
//! The reader takes its ranges from here and docs/config.md is checked against it, so neither can drift.

use std::fmt;

use crate::limit::{
    INTERVAL_MAX, INTERVAL_MIN, PLUGINS_PER_AGENT_MAX, RULES_PER_PLUGIN_MAX, WINDOW_MAX, WINDOW_TICKS_MAX,
};

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub takes: Takes,
    /// As JSON where a constant says it, in words where not.
    pub default: &'static str,
    pub meaning: &'static str,
}

/// The type and range of a key.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    Number { min: f64, max: f64 },
    Seconds { min: f64, max: f64 },
    Count { min: u64, max: u64 },
    Flag,
    Metrics,
    Plugins,
    Thresholds,
    Conditions,
}

/// A built-in plugin: its names and its settings.
#[derive(Clone, Copy, Debug)]
pub struct PluginKeys {
    pub name: &'static str,
    /// The seeds' spelling, understood too.
    pub class: &'static str,
    pub summary: &'static str,
    pub keys: &'static [&'static Key],
}

impl Takes {
    /// The smallest and largest value, for types that have them.
    pub const fn range(self) -> (f64, f64) {
        match self {
            Self::Number { min, max } | Self::Seconds { min, max } => (min, max),
            Self::Count { min, max } => (min as f64, max as f64),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max } => write!(f, "a number, {min} to {max}"),
            Self::Seconds { min, max } => write!(f, "seconds, {min} to {max}"),
            Self::Count { min, max } => write!(f, "a whole number, {min} to {max}"),
            Self::Flag => f.write_str("true or false"),
            Self::Metrics => f.write_str("a list of metric names"),
            Self::Plugins => write!(f, "a list of plugins, at most {PLUGINS_PER_AGENT_MAX}"),
            Self::Thresholds => write!(f, "an object of field: number, at most {RULES_PER_PLUGIN_MAX}"),
            Self::Conditions => {
                write!(f, "a list of {{\"field\", \"op\", \"value\"}}, at most {RULES_PER_PLUGIN_MAX}")
            }
        }
    }
}

const PERCENT: Takes = Takes::Number { min: 0.0, max: 100.0 };
const DAY: f64 = WINDOW_MAX.as_secs_f64();

pub const INTERVAL: Key = Key {
    name: "interval",
    takes: Takes::Seconds { min: INTERVAL_MIN.as_secs_f64(), max: INTERVAL_MAX.as_secs_f64() },
    default: "5",
    meaning: "Time between two collections; fractions are allowed.",
};
pub const METRICS: Key = Key {
    name: "metrics",
    takes: Takes::Metrics,
    default: "every cheap one",
    meaning: "What to collect. Names with a space or an underscore.",
};
pub const PLUGINS: Key = Key {
    name: "plugins",
    takes: Takes::Plugins,
    default: "[]",
    meaning: "The steps between collecting and sending, run in this order.",
};
pub const THRESHOLDS: Key = Key {
    name: "thresholds",
    takes: Takes::Thresholds,
    default: r#"{"cpu_percent": 80.0, "memory_percent": 85.0}"#,
    meaning: "At or above its threshold a field or series has an alert.",
};
pub const WINDOW_SIZE: Key = Key {
    name: "window_size",
    takes: Takes::Count { min: 1, max: WINDOW_TICKS_MAX as u64 },
    default: "10",
    meaning: "Ticks in one window.",
};
pub const WINDOW_SECONDS: Key = Key {
    name: "window_seconds",
    takes: Takes::Seconds { min: INTERVAL_MIN.as_secs_f64(), max: DAY },
    default: "none",
    meaning: "Length of one window in time; takes the place of `window_size`.",
};
pub const MIN_CPU: Key = Key {
    name: "min_cpu",
    takes: PERCENT,
    default: "0",
    meaning: "A record below this cpu_percent is dropped.",
};
pub const MIN_MEMORY: Key = Key {
    name: "min_memory",
    takes: PERCENT,
    default: "0",
    meaning: "A record below this memory_percent is dropped.",
};
pub const SEND_IDLE: Key = Key {
    name: "send_idle",
    takes: Takes::Flag,
    default: "true; false when the filter has no other rule",
    meaning: "Whether records of an idle machine are sent: cpu below 10 %, every disk and network rate below 1 MB/s.",
};
pub const TOLERANCE: Key = Key {
    name: "tolerance",
    takes: PERCENT,
    default: "none",
    meaning: "Sets `tolerance_points` and `tolerance_percent` at once; 0 means exact.",
};
pub const TOLERANCE_POINTS: Key = Key {
    name: "tolerance_points",
    takes: PERCENT,
    default: "0.5",
    meaning: "How many points a percentage may move unseen (a ratio: a hundredth of it).",
};
pub const TOLERANCE_PERCENT: Key = Key {
    name: "tolerance_percent",
    takes: PERCENT,
    default: "1",
    meaning: "How far any other value may move unseen, in percent of the value last sent.",
};
pub const TOLERANCE_RATE_MB: Key = Key {
    name: "tolerance_rate_mb",
    takes: Takes::Number { min: 0.0, max: 1_000.0 },
    default: "a tenth of `tolerance_points`",
    meaning: "How many MB/s a disk or network rate may move unseen, if that is more than its percentage.",
};
pub const KEEP_ALIVE: Key = Key {
    name: "keep_alive",
    takes: Takes::Seconds { min: 1.0, max: DAY },
    default: "60",
    meaning: "A full record passes this often, changed or not.",
};
pub const DROP_ALERTS: Key = Key {
    name: "drop_alerts",
    takes: Takes::Flag,
    default: "false",
    meaning: "Whether a record with an alert may be dropped here.",
};
pub const HYSTERESIS: Key = Key {
    name: "hysteresis",
    takes: PERCENT,
    default: "5",
    meaning: "An alert ends when the value is this many percent of the threshold below it.",
};
pub const FOR: Key = Key {
    name: "for",
    takes: Takes::Seconds { min: 0.0, max: DAY },
    default: "0",
    meaning: "How long a value must stay at or above its threshold before the alert begins.",
};
pub const SERIES_EXTREMES: Key = Key {
    name: "series_extremes",
    takes: Takes::Flag,
    default: "false",
    meaning: "Adds `<name>.min` and `<name>.max` for each series that is averaged.",
};
pub const CONDITIONS: Key = Key {
    name: "conditions",
    takes: Takes::Conditions,
    default: "[]",
    meaning: "A record passes when all hold. `op` is one of < <= > >= == !=.",
};

/// The keys of an agent's config.
pub const AGENT: [&Key; 9] = [
    &INTERVAL,
    &METRICS,
    &PLUGINS,
    &THRESHOLDS,
    &WINDOW_SIZE,
    &WINDOW_SECONDS,
    &MIN_CPU,
    &MIN_MEMORY,
    &SEND_IDLE,
];

pub const DEDUPLICATION: PluginKeys = PluginKeys {
    name: "deduplication",
    class: "agent.plugins.deduplication.DeduplicationPlugin",
    summary: "Leaves out what did not change since it was last sent.",
    keys: &[&TOLERANCE, &TOLERANCE_POINTS, &TOLERANCE_PERCENT, &TOLERANCE_RATE_MB, &KEEP_ALIVE, &DROP_ALERTS],
};
pub const THRESHOLD_ALERT: PluginKeys = PluginKeys {
    name: "threshold_alert",
    class: "agent.plugins.threshold_alert.ThresholdAlertPlugin",
    summary: "Marks records whose values are too high. Never drops one.",
    keys: &[&THRESHOLDS, &HYSTERESIS, &FOR],
};
pub const AGGREGATION: PluginKeys = PluginKeys {
    name: "aggregation",
    class: "agent.plugins.aggregation.AggregationPlugin",
    summary: "Makes one record of a window of ticks.",
    keys: &[&WINDOW_SIZE, &WINDOW_SECONDS, &SERIES_EXTREMES],
};
pub const FILTER: PluginKeys = PluginKeys {
    name: "filter",
    class: "agent.plugins.filter.FilterPlugin",
    summary: "Drops records nobody needs.",
    keys: &[&MIN_CPU, &MIN_MEMORY, &SEND_IDLE, &CONDITIONS, &DROP_ALERTS],
};

/// The built-in plugins.
pub const BUILT_IN: [PluginKeys; 4] = [DEDUPLICATION, THRESHOLD_ALERT, AGGREGATION, FILTER];
