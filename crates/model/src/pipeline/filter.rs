//! `filter`: drops records nobody needs. Which, docs/config.md says.

use std::time::Duration;

use super::{Plugin, Verdict, alerts};
use crate::config::{Condition, FilterConfig};
use crate::sample::Tick;

/// A machine below these is idle: percent of cpu, and MB/s of each rate.
const IDLE_CPU_PERCENT: f64 = 10.0;
const IDLE_RATE_MB: f64 = 1.0;

#[derive(Debug)]
pub(super) struct Filter {
    config: FilterConfig,
}

impl Filter {
    pub(super) fn new(config: FilterConfig) -> Self {
        Self { config }
    }

    fn wants(&self, tick: &Tick) -> bool {
        let FilterConfig { min_cpu, min_memory, send_idle, conditions, .. } = &self.config;
        tick.metrics.cpu_percent.is_none_or(|cpu| cpu >= *min_cpu)
            && tick.metrics.memory_percent.is_none_or(|memory| memory >= *min_memory)
            && conditions.iter().all(|condition| holds(condition, tick))
            && (*send_idle || !is_idle(tick))
    }
}

impl Plugin for Filter {
    fn process(&mut self, tick: &mut Tick, _now: Duration) -> Verdict {
        let guarded = alerts::any(tick) && !self.config.drop_alerts;
        if guarded || self.wants(tick) { Verdict::Pass } else { Verdict::Drop }
    }
}

/// What is absent fails nothing; of several series one is enough.
fn holds(condition: &Condition, tick: &Tick) -> bool {
    let mut values = condition.field.values(tick).map(|(_, value)| value).peekable();
    values.peek().is_none() || values.any(|value| condition.op.holds(value, condition.value))
}

/// Judged by what is there; a record that has none of the five says nothing about idleness.
fn is_idle(tick: &Tick) -> bool {
    let m = &tick.metrics;
    let rates = [m.disk_read_mb, m.disk_write_mb, m.net_in_mb, m.net_out_mb];
    let known = m.cpu_percent.is_some() || rates.iter().any(Option::is_some);
    known
        && m.cpu_percent.is_none_or(|cpu| cpu < IDLE_CPU_PERCENT)
        && rates.iter().flatten().all(|rate| *rate < IDLE_RATE_MB)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{pipeline, tick};
    use super::*;
    use crate::sample::{Sample, SeriesKey, SystemMetrics};

    fn passes(config: &str, metrics: SystemMetrics, alert: bool) -> bool {
        let mut pipeline = pipeline(config);
        let mut tick = Tick { metrics, ..tick(1) };
        let disk = SeriesKey::new("system.filesystem.utilization");
        tick.series = vec![
            Sample { key: disk.clone().with("mountpoint", "/"), value: 0.95 },
            Sample { key: disk.with("mountpoint", "/boot"), value: 0.1 },
        ];
        if alert {
            alerts::add(&mut tick.metadata, &["by hand".to_owned()]);
        }
        !pipeline.process(tick, Duration::ZERO).passed.is_empty()
    }

    fn metrics(cpu: f64, memory: f64, net_in: f64) -> SystemMetrics {
        SystemMetrics {
            cpu_percent: Some(cpu),
            memory_percent: Some(memory),
            net_in_mb: Some(net_in),
            ..SystemMetrics::default()
        }
    }

    #[test]
    fn both_minima_must_be_reached() {
        let config = r#"{"plugins":["filter"],"min_cpu":50,"min_memory":60}"#;
        for (cpu, memory, expected) in
            [(50.0, 60.0, true), (49.9, 60.0, false), (50.0, 59.9, false), (99.0, 99.0, true)]
        {
            assert_eq!(passes(config, metrics(cpu, memory, 0.0), false), expected, "{cpu} {memory}");
        }
        assert!(passes(config, SystemMetrics::default(), false), "an absent field fails no rule");
    }

    #[test]
    fn idle_means_cpu_and_every_rate_are_low() {
        let config = r#"{"plugins":["filter"]}"#;
        for (cpu, net, expected) in [(2.0, 0.1, false), (10.0, 0.1, true), (2.0, 1.0, true)] {
            assert_eq!(passes(config, metrics(cpu, 50.0, net), false), expected, "{cpu} {net}");
        }
        assert!(
            passes(config, SystemMetrics::default(), false),
            "a record without cpu and rates is not idle"
        );
        assert!(passes(r#"{"plugins":["filter"],"send_idle":true}"#, metrics(1.0, 1.0, 0.0), false));
    }

    #[test]
    fn an_alert_guards_a_record_unless_told() {
        let config = |setting: &str| {
            format!(r#"{{"plugins":[{{"name":"filter","config":{{"min_cpu":99{setting}}}}}]}}"#)
        };
        assert!(passes(&config(""), metrics(1.0, 1.0, 0.0), true));
        assert!(!passes(&config(r#","drop_alerts":true"#), metrics(1.0, 1.0, 0.0), true));
    }

    #[test]
    fn one_series_of_the_name_is_enough_for_a_condition_and_all_conditions_must_hold() {
        let config = |first: &str, second: &str| {
            format!(
                r#"{{"plugins":[{{"name":"filter","config":{{"conditions":[
                {{"field":"system.filesystem.utilization","op":"{first}","value":0.9}},
                {{"field":"cpu_percent","op":"{second}","value":50}}]}}}}]}}"#
            )
        };
        let busy = metrics(60.0, 1.0, 0.0);
        for (first, second, expected) in
            [(">", ">", true), ("<", ">=", true), ("==", ">", false), (">", "<=", false), ("!=", "!=", true)]
        {
            assert_eq!(passes(&config(first, second), busy, false), expected, "{first} {second}");
        }
    }
}
