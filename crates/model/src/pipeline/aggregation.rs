//! `aggregation`: makes one record of a window of ticks.
//!
//! What some ticks of the window do not have is averaged over those that do. Cumulative series keep their last value: the
//! mean of a counter is a number nobody can use.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Plugin, Verdict, alerts};
use crate::config::{AggregationConfig, Window};
use crate::id::Sequence;
use crate::limit::{METADATA_PAIRS_MAX, SERIES_PER_AGENT_MAX, WINDOW_TICKS_MAX};
use crate::sample::{Sample, SeriesKey, SystemMetrics, Tick, Timestamp};
use crate::series::SeriesKind;

/// Quantiles written for each of the eight.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.50), ("p95", 0.95), ("p99", 0.99)];

#[derive(Debug)]
pub(super) struct Aggregation {
    config: AggregationConfig,
    open: Option<OpenWindow>,
}

#[derive(Debug)]
struct OpenWindow {
    opened: Duration,
    first_sequence: Sequence,
    sequence: Sequence,
    first_at: Timestamp,
    at: Timestamp,
    ticks: u64,
    /// Every value of the eight, for the quantiles.
    metrics: [Vec<f64>; 8],
    series: BTreeMap<SeriesKey, Summary>,
    metadata: BTreeMap<String, String>,
    /// The latest text for each thing that alerts.
    alerts: BTreeMap<String, String>,
    alert_ticks: u64,
}

/// The values of one series, without keeping them.
#[derive(Clone, Copy, Debug)]
struct Summary {
    count: u64,
    mean: f64,
    min: f64,
    max: f64,
    last: f64,
}

impl Aggregation {
    pub(super) fn new(config: AggregationConfig) -> Self {
        Self { config, open: None }
    }

    fn is_full(&self, window: &OpenWindow) -> bool {
        let ticks = match self.config.window {
            Window::Ticks(ticks) => ticks,
            Window::Time(_) => WINDOW_TICKS_MAX as u64,
        };
        // Series that change names all the time close a window early; nothing is lost by that.
        window.ticks >= ticks || window.series.len() > 2 * SERIES_PER_AGENT_MAX
    }
}

impl Plugin for Aggregation {
    fn process(&mut self, tick: &mut Tick, now: Duration) -> Verdict {
        let mut window = self.open.take().unwrap_or_else(|| OpenWindow::new(tick, now));
        window.add(tick);
        if self.is_full(&window) {
            *tick = window.close(self.config.series_extremes);
            return Verdict::Pass;
        }
        self.open = Some(window);
        Verdict::Hold
    }

    fn due(&mut self, now: Duration) -> Option<Tick> {
        let Window::Time(length) = self.config.window else { return None };
        let window = self.open.take_if(|window| now.saturating_sub(window.opened) >= length)?;
        Some(window.close(self.config.series_extremes))
    }

    fn flush(&mut self) -> Option<Tick> {
        self.open.take().map(|window| window.close(self.config.series_extremes))
    }
}

impl OpenWindow {
    fn new(first: &Tick, now: Duration) -> Self {
        Self {
            opened: now,
            first_sequence: first.first_sequence,
            sequence: first.sequence,
            first_at: first.at,
            at: first.at,
            ticks: 0,
            metrics: Default::default(),
            series: BTreeMap::new(),
            metadata: BTreeMap::new(),
            alerts: BTreeMap::new(),
            alert_ticks: 0,
        }
    }

    fn add(&mut self, tick: &mut Tick) {
        self.ticks += 1;
        self.sequence = tick.sequence;
        self.at = tick.at;
        for (values, value) in self.metrics.iter_mut().zip(tick.metrics.values()) {
            values.extend(value.filter(|value| value.is_finite()));
        }
        for Sample { key, value } in tick.series.drain(..).filter(|sample| sample.value.is_finite()) {
            self.series.entry(key).or_insert(Summary::new(value)).add(value);
        }
        if alerts::any(tick) {
            self.alert_ticks += 1;
            let texts = alerts::texts(&tick.metadata);
            self.alerts.extend(texts.map(|text| (alerts::subject(text).to_owned(), text.to_owned())));
        }
        let kept = tick
            .metadata
            .iter()
            .filter(|(key, _)| ![alerts::ALERTS, alerts::ALERT_COUNT].contains(&key.as_str()));
        self.metadata.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
    }

    fn close(self, series_extremes: bool) -> Tick {
        let mut metadata = BTreeMap::new();
        let mut note = |key: String, value: String| metadata.insert(key, value);
        note("window_ticks".to_owned(), self.ticks.to_string());
        note("window_start".to_owned(), self.first_at.to_string());
        if self.alert_ticks > 0 {
            note("alert_ticks".to_owned(), self.alert_ticks.to_string());
        }
        let mut means = [None; 8];
        for ((name, mean), mut values) in SystemMetrics::NAMES.into_iter().zip(&mut means).zip(self.metrics) {
            let Some(summary) = Summary::of(&values) else { continue };
            *mean = Some(summary.mean);
            values.sort_by(f64::total_cmp);
            note(format!("{name}_count"), summary.count.to_string());
            note(format!("{name}_min"), summary.min.to_string());
            note(format!("{name}_max"), summary.max.to_string());
            for (suffix, share) in QUANTILES {
                note(format!("{name}_{suffix}"), quantile(&values, share).to_string());
            }
        }
        alerts::add(&mut metadata, &self.alerts.into_values().collect::<Vec<_>>());
        for (key, value) in self.metadata {
            if metadata.len() < METADATA_PAIRS_MAX {
                metadata.entry(key).or_insert(value);
            }
        }
        Tick {
            first_sequence: self.first_sequence,
            sequence: self.sequence,
            at: self.at,
            metrics: SystemMetrics::from_values(means),
            series: self.series.into_iter().flat_map(|(key, s)| s.samples(key, series_extremes)).collect(),
            metadata,
        }
    }
}

impl Summary {
    /// Of nothing yet; the first `add` makes it a summary of one value.
    fn new(value: f64) -> Self {
        Self { count: 0, mean: value, min: value, max: value, last: value }
    }

    fn of(values: &[f64]) -> Option<Self> {
        let mut summary = Self::new(*values.first()?);
        values.iter().for_each(|value| summary.add(*value));
        Some(summary)
    }

    /// A running mean, kept between the extremes: rounding, or two values at the far ends of f64, would leave them.
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.mean = (self.mean + (value - self.mean) / self.count as f64).clamp(self.min, self.max);
        self.last = value;
    }

    fn samples(self, key: SeriesKey, extremes: bool) -> Vec<Sample> {
        if SeriesKind::of(&key.name) == SeriesKind::Counter {
            return vec![Sample { key, value: self.last }];
        }
        let beside = |ending: &str, value| {
            let name = format!("{}.{ending}", key.name);
            Sample { key: SeriesKey { name, attributes: key.attributes.clone() }, value }
        };
        let extremes = extremes.then(|| [beside("min", self.min), beside("max", self.max)]);
        let mut samples: Vec<Sample> = extremes.into_iter().flatten().collect();
        samples.push(Sample { key, value: self.mean });
        samples
    }
}

/// Linear between the two nearest values (Hyndman and Fan's type 7, what numpy and R do). `sorted` is not empty.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    (low + (high - low) * place.fract()).clamp(low, high)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{pipeline, tick};
    use super::*;

    fn cpu(sequence: u64, value: Option<f64>) -> Tick {
        let metrics = SystemMetrics { cpu_percent: value, ..SystemMetrics::default() };
        Tick { metrics, at: Timestamp::from_unix_seconds(sequence as i64), ..tick(sequence) }
    }

    #[test]
    fn a_window_becomes_one_record_with_mean_extremes_and_quantiles() {
        let mut pipeline = pipeline(r#"{"plugins":["aggregation"],"window_size":4}"#);
        let mut last = None;
        for (sequence, value) in [(1, Some(10.0)), (2, Some(20.0)), (3, None), (4, Some(60.0))] {
            assert!(last.is_none());
            last = pipeline.process(cpu(sequence, value), Duration::from_secs(sequence)).passed.pop();
        }
        let row = last.unwrap();
        assert_eq!((row.first_sequence, row.sequence), (Sequence(1), Sequence(4)));
        assert_eq!(row.at, Timestamp::from_unix_seconds(4));
        assert_eq!(row.metrics, SystemMetrics { cpu_percent: Some(30.0), ..SystemMetrics::default() });
        let note = |key: &str| row.metadata[key].clone();
        assert_eq!(
            ["cpu_percent_min", "cpu_percent_max", "cpu_percent_p50", "cpu_percent_count", "window_ticks"]
                .map(note),
            ["10", "60", "20", "3", "4"]
        );
        assert_eq!(note("window_start"), "1970-01-01T00:00:01.000Z");
        assert!(!row.metadata.contains_key("memory_percent_count"));
    }

    #[test]
    fn a_window_in_time_closes_even_if_nothing_reaches_it_any_more() {
        let mut pipeline =
            pipeline(r#"{"plugins":["filter","aggregation"],"min_cpu":50,"window_seconds":10}"#);
        let mut rows = |sequence, value, second| {
            pipeline.process(cpu(sequence, Some(value)), Duration::from_secs(second)).passed
        };
        assert!(rows(1, 60.0, 0).is_empty());
        assert!(rows(2, 80.0, 5).is_empty());
        assert!(rows(3, 1.0, 9).is_empty());
        let row = rows(4, 1.0, 10).pop().unwrap();
        assert_eq!((row.sequence, row.metrics.cpu_percent), (Sequence(2), Some(70.0)));
    }

    #[test]
    fn counters_keep_their_last_value_and_gauges_their_mean_with_extremes_if_asked() {
        let config =
            r#"{"plugins":[{"name":"aggregation","config":{"window_size":2,"series_extremes":true}}]}"#;
        let mut pipeline = pipeline(config);
        let sample = |name: &str, value| Sample { key: SeriesKey::new(name), value };
        for (sequence, io, size) in [(1, 100.0, 2.0), (2, 300.0, 4.0)] {
            let series = vec![sample("system.disk.io", io), sample("x.size", size)];
            let output = pipeline.process(Tick { series, ..tick(sequence) }, Duration::ZERO);
            if let [row] = &output.passed[..] {
                let expected =
                    [("system.disk.io", 300.0), ("x.size.min", 2.0), ("x.size.max", 4.0), ("x.size", 3.0)];
                assert_eq!(row.series, expected.map(|(name, value)| sample(name, value)));
            }
        }
    }

    #[test]
    fn the_alerts_of_merged_ticks_are_kept_once_for_each_thing() {
        let mut pipeline = pipeline(r#"{"plugins":["threshold_alert","aggregation"],"window_size":3}"#);
        let mut rows = (1..=3).zip([90.0, 99.0, 10.0]).map(|(sequence, value)| {
            pipeline.process(cpu(sequence, Some(value)), Duration::ZERO).passed.pop()
        });
        let row = rows.by_ref().flatten().next().unwrap();
        assert_eq!(row.metadata["alerts"], "cpu_percent 99 (threshold 80)");
        assert_eq!((row.metadata["alert_count"].as_str(), row.metadata["alert_ticks"].as_str()), ("1", "2"));
    }

    #[test]
    fn the_far_ends_of_numbers_have_a_finite_mean() {
        let summary = Summary::of(&[f64::MAX, f64::MIN, f64::MAX, f64::MIN]).unwrap();
        assert!(summary.mean.is_finite());
        assert!(quantile(&[f64::MIN, f64::MAX], 0.5).is_finite());
    }
}
