//! `deduplication`: leaves out what did not change since it was last sent.
//!
//! Compared is with what was *sent*, not with the tick before: a drift of a tenth a tick shows as soon as it adds up to
//! the tolerance. What a later plugin drops was not sent, so a tick becomes the one to compare with only when the next
//! one arrives and nobody objected.

use std::collections::HashMap;
use std::time::Duration;

use super::{Plugin, Verdict, alerts};
use crate::config::DeduplicationConfig;
use crate::limit::SERIES_PER_AGENT_MAX;
use crate::sample::{Sample, SeriesKey, SystemMetrics, Tick};
use crate::series::SeriesKind;

#[derive(Debug)]
pub(super) struct Deduplication {
    config: DeduplicationConfig,
    /// `None` until a record was sent.
    sent: Option<Sent>,
    series: HashMap<SeriesKey, Last>,
    /// The record just passed, which a later plugin may still drop.
    passing: Option<Passing>,
    ticks: u64,
}

#[derive(Clone, Debug)]
struct Sent {
    metrics: SystemMetrics,
    alerted: bool,
    full_at: Duration,
}

#[derive(Debug)]
struct Last {
    value: f64,
    /// The last tick that had the series, sent or not.
    seen: u64,
}

#[derive(Debug)]
struct Passing {
    sent: Sent,
    series: Vec<Sample>,
}

impl Deduplication {
    pub(super) fn new(config: DeduplicationConfig) -> Self {
        Self { config, sent: None, series: HashMap::new(), passing: None, ticks: 0 }
    }

    /// Nobody objected to the last record: it is what the next one is compared with.
    fn settle(&mut self) {
        let Some(passing) = self.passing.take() else { return };
        self.sent = Some(passing.sent);
        let new =
            |series: &HashMap<_, _>| passing.series.iter().filter(|s| !series.contains_key(&s.key)).count();
        if self.series.len() + new(&self.series) > SERIES_PER_AGENT_MAX {
            let ticks = self.ticks;
            self.series.retain(|_, last| last.seen == ticks);
        }
        for Sample { key, value } in passing.series {
            // A series there is no room for is never compared, so it is always sent.
            if self.series.len() < SERIES_PER_AGENT_MAX || self.series.contains_key(&key) {
                self.series.insert(key, Last { value, seen: self.ticks });
            }
        }
    }

    fn series_changed(&mut self, sample: &Sample) -> bool {
        let Some(last) = self.series.get_mut(&sample.key) else { return true };
        last.seen = self.ticks;
        let allowed = match SeriesKind::of(&sample.key.name) {
            SeriesKind::Ratio => self.config.points / 100.0,
            SeriesKind::Percent => self.config.points,
            SeriesKind::Counter | SeriesKind::Gauge => self.config.percent / 100.0 * last.value.abs(),
        };
        differs(last.value, sample.value, allowed)
    }

    fn metrics_changed(&self, sent: &SystemMetrics, tick: &SystemMetrics) -> bool {
        let changed = |((name, old), new): ((&str, Option<f64>), Option<f64>)| match (old, new) {
            (Some(old), Some(new)) => differs(old, new, self.allowed(name, old)),
            (old, new) => old.is_some() != new.is_some(),
        };
        sent.named().zip(tick.values()).any(changed)
    }

    /// How far one of the eight may be from `last`.
    fn allowed(&self, name: &str, last: f64) -> f64 {
        let relative = self.config.percent / 100.0 * last.abs();
        match name {
            "cpu_percent" | "memory_percent" => self.config.points,
            "memory_used_mb" | "memory_total_mb" => relative,
            _ => relative.max(self.config.rate_mb),
        }
    }
}

/// A value that is no number differs from everything.
fn differs(last: f64, value: f64, allowed: f64) -> bool {
    let distance = (value - last).abs();
    distance > allowed || distance.is_nan()
}

impl Plugin for Deduplication {
    fn process(&mut self, tick: &mut Tick, now: Duration) -> Verdict {
        self.settle();
        self.ticks += 1;
        let alerted = alerts::any(tick);
        let recent =
            self.sent.clone().filter(|sent| now.saturating_sub(sent.full_at) < self.config.keep_alive);
        let full_at = recent.as_ref().map_or(now, |sent| sent.full_at);
        if let Some(sent) = recent {
            let noteworthy = self.metrics_changed(&sent.metrics, &tick.metrics)
                || alerted != sent.alerted
                || (alerted && !self.config.drop_alerts);
            tick.series.retain(|sample| self.series_changed(sample));
            if !noteworthy && tick.series.is_empty() {
                return Verdict::Drop;
            }
        }
        let sent = Sent { metrics: tick.metrics, alerted, full_at };
        self.passing = Some(Passing { sent, series: tick.series.clone() });
        Verdict::Pass
    }

    fn passed_in_vain(&mut self) {
        self.passing = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{pipeline, tick};
    use super::*;
    use crate::config::PluginConfig;

    const PLAIN: &str = r#"{"plugins":["deduplication"]}"#;

    /// Which of these ticks, one a second, are sent.
    fn sent(config: &str, ticks: impl IntoIterator<Item = Tick>) -> Vec<bool> {
        let mut pipeline = pipeline(config);
        let send = |(index, tick)| {
            let tick = Tick { sequence: crate::id::Sequence(index + 1), ..tick };
            !pipeline.process(tick, Duration::from_secs(index)).passed.is_empty()
        };
        (0..).zip(ticks).map(send).collect()
    }

    fn cpu(value: f64) -> Tick {
        Tick { metrics: SystemMetrics { cpu_percent: Some(value), ..SystemMetrics::default() }, ..tick(1) }
    }

    fn net(value: f64) -> Tick {
        Tick { metrics: SystemMetrics { net_in_mb: Some(value), ..SystemMetrics::default() }, ..tick(1) }
    }

    fn series(name: &str, value: f64) -> Tick {
        Tick { series: vec![Sample { key: SeriesKey::new(name), value }], ..tick(1) }
    }

    #[test]
    fn a_slow_drift_shows_once_it_exceeds_the_tolerance() {
        let drift = [10.0, 10.25, 10.5, 10.75, 11.0, 11.25, 11.5].map(cpu);
        assert_eq!(sent(PLAIN, drift), [true, false, false, true, false, false, true]);
    }

    #[test]
    fn each_kind_of_value_has_its_tolerance() {
        for (name, ticks, second) in [
            ("cpu, points", [cpu(50.0), cpu(50.6)], true),
            ("rate, one percent", [net(100.0), net(100.9)], false),
            ("rate, one percent", [net(100.0), net(101.1)], true),
            ("rate, floor", [net(0.001), net(0.05)], false),
            ("gauge", [series("x.size", 200.0), series("x.size", 202.0)], false),
            ("gauge", [series("x.size", 200.0), series("x.size", 203.0)], true),
            ("ratio", [series("x.utilization", 0.5), series("x.utilization", 0.504)], false),
            ("ratio", [series("x.utilization", 0.5), series("x.utilization", 0.506)], true),
            ("a field that is gone", [cpu(5.0), tick(1)], true),
            ("not a number", [series("x.size", f64::NAN), series("x.size", f64::NAN)], true),
        ] {
            assert_eq!(sent(PLAIN, ticks), [true, second], "{name}");
        }
        let exact = r#"{"plugins":[{"name":"deduplication","config":{"tolerance":0}}]}"#;
        assert_eq!(sent(exact, [50.0, 50.0, 50.000_001].map(cpu)), [true, false, true]);
    }

    #[test]
    fn a_full_record_passes_every_keep_alive() {
        let config = r#"{"plugins":[{"name":"deduplication","config":{"keep_alive":3}}]}"#;
        let same = std::iter::repeat_with(|| cpu(5.0)).take(7);
        assert_eq!(sent(config, same), [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_series_that_did_not_change_is_left_out_of_a_record_that_passes() {
        let mut pipeline = pipeline(PLAIN);
        let sample = |name: &str, value| Sample { key: SeriesKey::new(name), value };
        for (sequence, values, expected) in
            [(1, [1.0, 10.0], 2), (2, [1.0, 20.0], 1), (3, [1.0, 20.0], 0), (4, [5.0, 20.0], 1)]
        {
            let series = vec![sample("a.a", values[0]), sample("b.b", values[1])];
            let output = pipeline.process(Tick { series, ..tick(sequence) }, Duration::from_secs(1));
            assert_eq!(output.passed.first().map_or(0, |row| row.series.len()), expected, "tick {sequence}");
        }
    }

    #[test]
    fn the_begin_and_the_end_of_an_alert_are_changes_and_an_alert_is_not_dropped() {
        let chain = |config: &str| format!(r#"{{"plugins":["threshold_alert",{config}]}}"#);
        let values = || [84.0, 84.0, 84.0, 75.9, 75.9].map(cpu);
        assert_eq!(sent(&chain(r#""deduplication""#), values()), [true, true, true, true, false]);
        let told = r#"{"name":"deduplication","config":{"drop_alerts":true,"tolerance":50}}"#;
        assert_eq!(sent(&chain(told), values()), [true, false, false, true, false]);
    }

    #[test]
    fn what_a_later_plugin_dropped_does_not_count_as_sent() {
        let mut pipeline = pipeline(r#"{"plugins":["deduplication","filter"],"min_cpu":50}"#);
        let mut row = |sequence, busy: f64, size: f64| {
            let mut tick = Tick { sequence: crate::id::Sequence(sequence), ..cpu(busy) };
            tick.series = vec![Sample { key: SeriesKey::new("x.size"), value: size }];
            pipeline.process(tick, Duration::from_secs(1)).passed.pop().map(|row| row.series.len())
        };
        assert_eq!(row(1, 90.0, 1.0), Some(1));
        assert_eq!(row(2, 10.0, 7.0), None);
        assert_eq!(row(3, 95.0, 7.0), Some(1), "the new size was never sent");
    }

    #[test]
    fn what_it_remembers_is_bounded_and_nothing_is_hidden_for_lack_of_room() {
        let PluginConfig::Deduplication(config) = crate::config::parse(PLAIN).unwrap().plugins()[0].clone()
        else {
            panic!()
        };
        let mut plugin = Deduplication::new(config);
        let many = SERIES_PER_AGENT_MAX as u64 + 500;
        for round in 0..3 {
            let mut tick = tick(round + 1);
            let key = |n: u64| SeriesKey::new("x.size").with("n", (round / 2 * many + n).to_string());
            tick.series = (0..many).map(|n| Sample { key: key(n), value: 1.0 }).collect();
            plugin.process(&mut tick, Duration::ZERO);
            let expected = if round == 1 { 500 } else { many as usize };
            assert_eq!(tick.series.len(), expected, "round {round}");
            assert!(plugin.series.len() <= SERIES_PER_AGENT_MAX);
        }
    }
}
