//! The seeds' plugin tests, as scenarios anyone can run on any machine: `watchfloor selftest plugins`.
//!
//! They go through config text and the whole pipeline, as an agent does, with made-up ticks and a made-up clock.

use std::time::Duration;

use super::{Counters, NoSandbox, Pipeline};
use crate::config::{self, ConfigError};
use crate::id::Sequence;
use crate::sample::{SystemMetrics, Tick, Timestamp};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    pub name: &'static str,
    pub passed: bool,
    /// What was seen, or what was not as it should be.
    pub detail: String,
}

type Scenario = fn() -> Result<String, Untrue>;

/// What did not hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Untrue(String);

impl From<ConfigError> for Untrue {
    fn from(error: ConfigError) -> Self {
        Self(error.to_string())
    }
}

/// Runs every scenario.
pub fn run() -> Vec<Check> {
    let scenarios: [(&str, Scenario); 5] = [
        ("Deduplication", deduplication),
        ("Threshold Alert", threshold_alert),
        ("Aggregation", aggregation),
        ("Filter", filter),
        ("Plugin Chain", chain),
    ];
    let check = |(name, scenario): (&'static str, Scenario)| match scenario() {
        Ok(detail) => Check { name, passed: true, detail },
        Err(Untrue(detail)) => Check { name, passed: false, detail },
    };
    scenarios.into_iter().map(check).collect()
}

/// A machine with this cpu, memory and incoming traffic, and nothing else going on.
fn machine(cpu: f64, memory: f64, net_in: f64) -> SystemMetrics {
    SystemMetrics {
        cpu_percent: Some(cpu),
        memory_percent: Some(memory),
        memory_used_mb: Some(memory * 80.0),
        memory_total_mb: Some(8_000.0),
        disk_read_mb: Some(0.0),
        disk_write_mb: Some(0.0),
        net_in_mb: Some(net_in),
        net_out_mb: Some(0.0),
    }
}

struct Outcome {
    rows: Vec<Tick>,
    counters: Vec<Counters>,
}

/// Runs the ticks, five seconds apart, through the plugins of `config`.
fn play(config: &str, ticks: impl IntoIterator<Item = SystemMetrics>) -> Result<Outcome, Untrue> {
    let config = config::parse(config)?;
    let mut pipeline = Pipeline::build(&config, &NoSandbox)?;
    let (mut rows, mut now, mut sequence) = (Vec::new(), Duration::ZERO, Sequence(0));
    for metrics in ticks {
        sequence = sequence.next();
        now += config.interval();
        let at = Timestamp::default().plus(now);
        rows.extend(pipeline.process(Tick { sequence, at, metrics, ..Tick::default() }, now).passed);
    }
    rows.extend(pipeline.flush(now).passed);
    Ok(Outcome { rows, counters: pipeline.counters().map(|(_, counters)| counters).collect() })
}

fn expect(claim: &str, holds: bool) -> Result<(), Untrue> {
    if holds { Ok(()) } else { Err(Untrue(format!("not so: {claim}"))) }
}

fn deduplication() -> Result<String, Untrue> {
    let config = r#"{"plugins": ["agent.plugins.deduplication.DeduplicationPlugin"]}"#;
    let levels = [20.0, 20.0, 20.1, 20.0, 45.0, 45.0, 45.2, 20.0, 20.0, 20.0];
    let outcome = play(config, levels.map(|cpu| machine(cpu, 50.0, 0.0)))?;
    let sent: Vec<u64> = outcome.rows.iter().map(|row| row.sequence.0).collect();
    expect("the first record and each change are sent, the rest is not", sent == [1, 5, 8])?;
    let quiet = play(config, std::iter::repeat_n(machine(20.0, 50.0, 0.0), 25))?;
    expect("an unchanged machine is heard once a minute", quiet.rows.len() == 3)?;
    Ok(format!(
        "10 records in, {} out: the first and each change; silent machines are heard once a minute",
        sent.len()
    ))
}

fn threshold_alert() -> Result<String, Untrue> {
    let config = r#"{"plugins": ["agent.plugins.threshold_alert.ThresholdAlertPlugin"],
                     "thresholds": {"cpu_percent": 80.0, "memory_percent": 85.0}}"#;
    let ticks = [(50.0, 50.0), (92.5, 50.0), (92.5, 90.0), (79.0, 50.0), (50.0, 50.0)];
    let outcome = play(config, ticks.map(|(cpu, memory)| machine(cpu, memory, 0.0)))?;
    expect("no record is dropped", outcome.rows.len() == ticks.len())?;
    let count = |row: &Tick| row.metadata.get("alert_count").map_or(0, |count| count.parse().unwrap_or(99));
    let counts: Vec<u64> = outcome.rows.iter().map(count).collect();
    expect("alerts begin at the threshold, add up, and end below the margin", counts == [0, 1, 2, 1, 0])?;
    let text = outcome.rows[1].metadata.get("alerts").cloned().unwrap_or_default();
    expect("the alert says what is too high", text == "cpu_percent 92.5 (threshold 80)")?;
    Ok(format!("5 records in, 5 out, 3 with alerts: {text}"))
}

fn aggregation() -> Result<String, Untrue> {
    let config = r#"{"plugins": ["agent.plugins.aggregation.AggregationPlugin"], "window_size": 10}"#;
    let outcome = play(config, (1..=25).map(|n| machine(f64::from(n), 50.0, 0.0)))?;
    let means: Vec<_> = outcome.rows.iter().map(|row| row.metrics.cpu_percent).collect();
    expect("each window of ten is one mean, and what is left is sent at the end", {
        means == [Some(5.5), Some(15.5), Some(23.0)]
    })?;
    let note = |key: &str| outcome.rows[0].metadata.get(key).cloned().unwrap_or_default();
    expect("extremes stay visible", note("cpu_percent_min") == "1" && note("cpu_percent_max") == "10")?;
    Ok("25 records in, 3 out: means of 10, 10 and 5, with extremes and quantiles".to_owned())
}

fn filter() -> Result<String, Untrue> {
    let minima = r#"{"plugins": ["agent.plugins.filter.FilterPlugin"], "min_cpu": 50.0, "min_memory": 40.0}"#;
    let ticks = [(60.0, 50.0), (60.0, 30.0), (40.0, 50.0), (50.0, 40.0)];
    let outcome = play(minima, ticks.map(|(cpu, memory)| machine(cpu, memory, 0.0)))?;
    let passed: Vec<u64> = outcome.rows.iter().map(|row| row.sequence.0).collect();
    expect("a record passes when cpu and memory both reach their minimum", passed == [1, 4])?;
    let idle = r#"{"plugins": ["agent.plugins.filter.FilterPlugin"], "send_idle": false}"#;
    let ticks = [(3.0, 0.2), (30.0, 0.2), (3.0, 5.0), (3.0, 0.2)];
    let outcome = play(idle, ticks.map(|(cpu, net_in)| machine(cpu, 50.0, net_in)))?;
    let passed: Vec<u64> = outcome.rows.iter().map(|row| row.sequence.0).collect();
    expect("an idle record is dropped, a busy processor or network is not idle", passed == [2, 3])?;
    Ok("8 records in, 4 out: below a minimum or idle is dropped".to_owned())
}

fn chain() -> Result<String, Untrue> {
    let config = r#"{"plugins": ["agent.plugins.threshold_alert.ThresholdAlertPlugin",
                                 "agent.plugins.deduplication.DeduplicationPlugin",
                                 "agent.plugins.filter.FilterPlugin"],
                     "thresholds": {"memory_percent": 85.0}}"#;
    // Idle, busy, busy and unchanged, idle, idle with memory too full, the same again.
    let ticks = [(3.0, 50.0), (40.0, 50.0), (40.0, 50.0), (3.0, 50.0), (3.0, 95.0), (3.0, 95.0)];
    let outcome = play(config, ticks.map(|(cpu, memory)| machine(cpu, memory, 0.0)))?;
    let passed: Vec<u64> = outcome.rows.iter().map(|row| row.sequence.0).collect();
    expect("repeats and idle records go, a record with an alert stays", passed == [2, 5, 6])?;
    let counters: Vec<[u64; 3]> =
        outcome.counters.iter().map(|c| [c.processed, c.passed, c.dropped]).collect();
    expect("each plugin sees what the one before it passed", counters == [[6, 6, 0], [6, 5, 1], [5, 3, 2]])?;
    Ok("6 records in, 3 out: in the order given, alerts are never dropped".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_passes() {
        for check in run() {
            assert!(check.passed, "{}: {}", check.name, check.detail);
        }
    }
}
