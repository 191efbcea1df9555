//! `threshold_alert`: marks records whose values are too high. It never drops one.
//!
//! An alert begins at the threshold, after `for`, and ends a margin below it, so a value that trembles around the
//! threshold makes one alert and not a hundred.

use std::collections::HashMap;
use std::time::Duration;

use super::{Plugin, Verdict, alerts};
use crate::config::{Field, ThresholdAlertConfig};
use crate::limit::SERIES_PER_AGENT_MAX;
use crate::sample::{SeriesKey, Tick};

#[derive(Debug)]
pub(super) struct ThresholdAlert {
    thresholds: Vec<(Field, f64)>,
    /// The share of the threshold an alert outlives.
    margin: f64,
    hold: Duration,
    /// Only what is at or above its threshold, or was and has not come down yet.
    raised: HashMap<(usize, Option<SeriesKey>), Raised>,
}

#[derive(Debug)]
struct Raised {
    since: Duration,
    alerting: bool,
    seen: Duration,
}

impl ThresholdAlert {
    pub(super) fn new(config: ThresholdAlertConfig) -> Self {
        Self {
            thresholds: config.thresholds.into_iter().collect(),
            margin: config.hysteresis_percent / 100.0,
            hold: config.hold,
            raised: HashMap::new(),
        }
    }

    /// Whether the value alerts now.
    fn judge(&mut self, rule: usize, series: Option<&SeriesKey>, value: f64, now: Duration) -> bool {
        let threshold = self.thresholds[rule].1;
        let clear = threshold - threshold.abs() * self.margin;
        let key = (rule, series.cloned());
        match self.raised.get_mut(&key) {
            Some(raised) if raised.alerting && value < clear || !raised.alerting && value < threshold => {
                self.raised.remove(&key);
                false
            }
            Some(raised) => {
                raised.seen = now;
                raised.alerting |= now.saturating_sub(raised.since) >= self.hold;
                raised.alerting
            }
            None if value >= threshold => {
                let alerting = self.hold.is_zero();
                self.make_room();
                self.raised.insert(key, Raised { since: now, alerting, seen: now });
                alerting
            }
            None => false,
        }
    }

    /// Series come and go. At the limit those not seen for longest are forgotten: their alert begins anew if they return.
    fn make_room(&mut self) {
        if self.raised.len() < SERIES_PER_AGENT_MAX {
            return;
        }
        let oldest = self.raised.values().map(|raised| raised.seen).min();
        self.raised.retain(|_, raised| Some(raised.seen) != oldest);
    }
}

impl Plugin for ThresholdAlert {
    fn process(&mut self, tick: &mut Tick, now: Duration) -> Verdict {
        let mut found = Vec::new();
        for rule in 0..self.thresholds.len() {
            let (field, threshold) = self.thresholds[rule].clone();
            for (series, value) in field.values(tick) {
                if self.judge(rule, series, value, now) {
                    let subject = series.map_or_else(|| field.name().to_owned(), SeriesKey::to_string);
                    found.push(alerts::text(&subject, value, threshold));
                }
            }
        }
        alerts::add(&mut tick.metadata, &found);
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{pipeline, tick};
    use super::*;
    use crate::sample::{Sample, SystemMetrics};

    /// The alerts of each tick when cpu takes these values, one a second.
    fn alerts_of(config: &str, cpu: &[Option<f64>]) -> Vec<Option<String>> {
        let mut pipeline = pipeline(config);
        let second = |(index, cpu_percent): (usize, &Option<f64>)| {
            let metrics = SystemMetrics { cpu_percent: *cpu_percent, ..SystemMetrics::default() };
            let tick = Tick { metrics, ..tick(index as u64 + 1) };
            let output = pipeline.process(tick, Duration::from_secs(index as u64));
            output.passed[0].metadata.get("alerts").cloned()
        };
        cpu.iter().enumerate().map(second).collect()
    }

    fn begins(alerts: &[Option<String>]) -> Vec<bool> {
        alerts.iter().map(Option::is_some).collect()
    }

    #[test]
    fn an_alert_begins_at_the_threshold_and_ends_a_margin_below_it() {
        let values = [79.9, 80.0, 78.0, 76.0, 75.9, 79.9, 80.0].map(Some);
        let found = alerts_of(r#"{"plugins":["threshold_alert"]}"#, &values);
        assert_eq!(begins(&found), [false, true, true, true, false, false, true]);
        assert_eq!(found[2].as_deref(), Some("cpu_percent 78 (threshold 80)"));
    }

    #[test]
    fn with_for_a_short_peak_is_no_alert() {
        let config = r#"{"plugins":[{"name":"threshold_alert","config":{"for":2}}]}"#;
        let values = [90.0, 90.0, 10.0, 90.0, 90.0, 90.0].map(Some);
        assert_eq!(begins(&alerts_of(config, &values)), [false, false, false, false, false, true]);
    }

    #[test]
    fn a_value_that_is_missing_neither_ends_an_alert_nor_is_reported() {
        let found = alerts_of(r#"{"plugins":["threshold_alert"]}"#, &[Some(90.0), None, Some(78.0)]);
        assert_eq!(begins(&found), [true, false, true]);
    }

    #[test]
    fn every_series_of_the_name_has_its_own_alert() {
        let mut pipeline =
            pipeline(r#"{"plugins":["threshold_alert"],"thresholds":{"system.filesystem.utilization":0.9}}"#);
        let key = |mount: &str| SeriesKey::new("system.filesystem.utilization").with("mountpoint", mount);
        let series = ["/", "/var", "/boot"].iter().zip([0.95, 0.99, 0.2]);
        let mut tick = tick(1);
        tick.series = series.map(|(mount, value)| Sample { key: key(mount), value }).collect();
        let output = pipeline.process(tick, Duration::ZERO);
        assert_eq!(output.passed[0].metadata["alert_count"], "2");
        assert_eq!(
            output.passed[0].metadata["alerts"],
            r#"system.filesystem.utilization{mountpoint="/"} 0.95 (threshold 0.9); system.filesystem.utilization{mountpoint="/var"} 0.99 (threshold 0.9)"#
        );
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let config = ThresholdAlertConfig {
            thresholds: [(Field::Series("a.b".to_owned()), 1.0)].into(),
            hysteresis_percent: 5.0,
            hold: Duration::ZERO,
        };
        let mut plugin = ThresholdAlert::new(config);
        for second in 0..30 {
            let mut tick = tick(second + 1);
            let key = |n: u64| SeriesKey::new("a.b").with("n", (second * 300 + n).to_string());
            tick.series = (0..300).map(|n| Sample { key: key(n), value: 2.0 }).collect();
            plugin.process(&mut tick, Duration::from_secs(second));
            assert!(plugin.raised.len() <= SERIES_PER_AGENT_MAX);
        }
    }
}
