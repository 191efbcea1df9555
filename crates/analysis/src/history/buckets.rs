//! Many records in one per step: means of what goes up and down, the last of what only grows.

use std::collections::HashMap;
use std::time::Duration;

use model::sample::{Sample, SeriesKey, SystemMetrics, Timestamp};
use model::series::SeriesKind;
use proto::record::DataRecord;

use super::SeriesFilter;
use super::point::Stored;

/// The begin of the step `at` is in.
pub(super) fn begin(at: Timestamp, step: Duration) -> Timestamp {
    let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_unix_ms(at.unix_ms().div_euclid(step).saturating_mul(step))
}

/// One record for `run`: measurements of one agent and incarnation within the step that begins at `at`, in order.
/// `None` when it is empty.
pub(super) fn combine(run: &[Stored], at: Timestamp, filter: &SeriesFilter) -> Option<DataRecord> {
    let (first, last) = (run.first()?, run.last()?);
    Some(DataRecord {
        agent_id: (*last.agent).clone(),
        timestamp: at,
        metrics: metrics(run),
        metadata: last.point.metadata(),
        incarnation: (*last.point.incarnation).clone(),
        sequence: last.point.sequence,
        first_sequence: Some(first.point.first_sequence.unwrap_or(first.point.sequence)),
        series: series(run, filter),
        not_sent: Vec::new(),
    })
}

/// What no record had stays absent.
fn metrics(run: &[Stored]) -> SystemMetrics {
    let mut means = [Mean::default(); 8];
    for stored in run {
        for (mean, value) in means.iter_mut().zip(stored.point.metrics.values()) {
            value.into_iter().for_each(|value| mean.add(value));
        }
    }
    SystemMetrics::from_values(means.map(Mean::value))
}

fn series(run: &[Stored], filter: &SeriesFilter) -> Vec<Sample> {
    let mut order: Vec<(&SeriesKey, Mean, f64)> = Vec::new();
    let mut places: HashMap<&SeriesKey, usize> = HashMap::new();
    for (key, value) in run.iter().flat_map(|stored| stored.point.samples()) {
        if !filter.passes(&key.name) {
            continue;
        }
        let place = *places.entry(key).or_insert_with(|| {
            order.push((key, Mean::default(), value));
            order.len() - 1
        });
        order[place].1.add(value);
        order[place].2 = value;
    }
    let value = |kind, mean: Mean, last| match kind {
        SeriesKind::Counter => last,
        SeriesKind::Ratio | SeriesKind::Percent | SeriesKind::Gauge => mean.value().unwrap_or(last),
    };
    let sample = |(key, mean, last): (&SeriesKey, Mean, f64)| Sample {
        key: key.clone(),
        value: value(SeriesKind::of(&key.name), mean, last),
    };
    order.into_iter().map(sample).collect()
}

/// A running mean: sums of large values would lose digits.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    count: u32,
    mean: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.mean += (value - self.mean) / f64::from(self.count);
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }
}
