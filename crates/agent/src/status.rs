//! The answer to STATUS.

use std::time::Duration;

use model::pipeline::Counters;
use model::presence::Collection;
use model::truth::ConfigTruth;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::buffer::Fill;
use crate::collection::View;
use crate::machine::{Machine, Usage};
use crate::session::Identity;

/// Everything an agent knows of itself.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) view: &'a View,
    pub(crate) truth: &'a ConfigTruth,
    pub(crate) fill: Fill,
    pub(crate) identity: &'a Identity,
    pub(crate) server: Option<String>,
    pub(crate) usage: Option<Usage>,
    /// What the operator should know of the state directory.
    pub(crate) state_notice: Option<&'a str>,
}

#[derive(Serialize)]
struct Status<'a> {
    state: Collection,
    interval: f64,
    metrics: Vec<&'static str>,
    plugins: Vec<Plugin<'a>>,
    config: &'a ConfigTruth,
    collectors: Vec<Collector<'a>>,
    buffered_ticks: u64,
    buffered_bytes: u64,
    lost_ticks: u64,
    last_sequence: u64,
    version: &'static str,
    incarnation: &'a str,
    boot_id: &'a str,
    uptime_seconds: f64,
    agent: Option<Cost>,
    server: Option<String>,
    host: &'a str,
    os: &'a str,
    kernel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<&'a str>,
}

#[derive(Serialize)]
struct Plugin<'a> {
    name: &'a str,
    #[serde(flatten)]
    counters: Counters,
}

#[derive(Serialize)]
struct Collector<'a> {
    name: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'a str>,
}

/// The percentage is the mean since the agent started.
#[derive(Serialize)]
struct Cost {
    cpu_seconds: f64,
    cpu_percent: f64,
    rss_bytes: u64,
}

/// As the result of a command.
pub(crate) fn report(parts: &Parts<'_>) -> Map<String, Value> {
    let Parts { view, truth, fill, identity, server, usage, state_notice } = parts;
    let uptime = identity.started.elapsed();
    let Machine { host, os, kernel } = &identity.machine;
    let status = Status {
        state: view.collection,
        interval: view.interval.as_secs_f64(),
        metrics: view.metrics.iter().map(|name| name.as_str()).collect(),
        plugins: view.plugins.iter().map(|(name, counters)| Plugin { name, counters: *counters }).collect(),
        config: truth,
        collectors: view
            .collectors
            .iter()
            .map(|(name, fault)| Collector { name, ok: fault.is_none(), fault: fault.as_deref() })
            .collect(),
        buffered_ticks: fill.ticks,
        buffered_bytes: fill.bytes,
        lost_ticks: fill.lost_ticks,
        last_sequence: view.sequence.0,
        version: env!("CARGO_PKG_VERSION"),
        incarnation: identity.incarnation.as_str(),
        boot_id: &identity.boot_id,
        uptime_seconds: thousandths(uptime.as_secs_f64()),
        agent: usage.map(|usage| cost(usage, identity.cpu_at_start, uptime)),
        server: server.clone(),
        host,
        os,
        kernel,
        notice: *state_notice,
    };
    match serde_json::to_value(status) {
        Ok(Value::Object(status)) => status,
        other => unreachable!("a struct with text keys is an object, not {other:?}"),
    }
}

fn cost(usage: Usage, cpu_at_start: Duration, uptime: Duration) -> Cost {
    let used = usage.cpu.saturating_sub(cpu_at_start);
    let cpu_percent = 100.0 * used.as_secs_f64() / uptime.as_secs_f64().max(1.0);
    Cost {
        cpu_seconds: thousandths(usage.cpu.as_secs_f64()),
        cpu_percent: thousandths(cpu_percent),
        rss_bytes: usage.resident_bytes,
    }
}

fn thousandths(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
