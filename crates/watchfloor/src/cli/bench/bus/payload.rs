//! The records that are published: `monitoring-data` values that differ from one another as real ones do, so that
//! compression finds in them what it would find in a fleet's.

use std::collections::BTreeMap;

use backends::bus::{Headers, NewRecord};
use model::id::{AgentId, Incarnation, Sequence};
use model::sample::{Sample, SeriesKey, SystemMetrics, Timestamp};
use proto::record::{CONTENT_TYPE, DataRecord, JSON};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// Values kept in memory; a longer run publishes them again. Far more than compression looks back (64 KiB for LZ4).
const POOL_BYTES: usize = 16 * 1024 * 1024;
/// Every run publishes the same.
const SEED: u64 = 1;
/// Names of series, and an attribute with as many values as are needed.
const SERIES: [(&str, &str); 6] = [
    ("system.cpu.utilization", "cpu"),
    ("system.network.io", "device"),
    ("system.disk.io", "device"),
    ("system.filesystem.utilization", "mountpoint"),
    ("system.network.packets", "device"),
    ("system.disk.operations", "device"),
];

/// Batches of records, each of one agent, as sessions publish them.
#[derive(Debug)]
pub(super) struct Payload {
    batches: Vec<Vec<NewRecord>>,
    /// Of the values.
    pub(super) bytes_mean: f64,
}

impl Payload {
    /// At most `batches` batches of `batch` values with about `bytes` bytes each; no value is smaller than the eight metrics.
    pub(super) fn new(batches: u64, batch: usize, bytes: usize) -> Self {
        let mut random = StdRng::seed_from_u64(SEED);
        let fit = u64::try_from(POOL_BYTES / (batch * bytes)).unwrap_or(u64::MAX);
        let batches: Vec<Vec<NewRecord>> = (0..batches.min(fit).max(1))
            .map(|number| {
                let agent = Agent::new(number, &mut random);
                (0..batch as u64).map(|tick| agent.record(tick, bytes, &mut random)).collect()
            })
            .collect();
        let values = || batches.iter().flatten().map(|record| record.value.len());
        let bytes_mean = values().sum::<usize>() as f64 / values().count() as f64;
        Self { batches, bytes_mean }
    }

    /// The batch with this number; they come again after the last.
    pub(super) fn batch(&self, number: u64) -> &[NewRecord] {
        let index = number % self.batches.len() as u64;
        &self.batches[usize::try_from(index).unwrap_or_default()]
    }
}

/// What stays the same in the records of one agent.
struct Agent {
    id: AgentId,
    incarnation: Incarnation,
    memory_total_mb: f64,
    headers: Headers,
}

impl Agent {
    fn new(number: u64, random: &mut StdRng) -> Self {
        let incarnation = ulid::Ulid::from_parts(1_767_225_600_000 + number, random.random());
        Self {
            id: AgentId::new(format!("node-{number:05}")).expect("letters and digits are an id"),
            incarnation: Incarnation::new(incarnation.to_string()).expect("a ULID is an id"),
            memory_total_mb: f64::from(1_u32 << random.random_range(12..19)),
            headers: [(CONTENT_TYPE.to_owned(), JSON.to_owned())].into(),
        }
    }

    fn record(&self, tick: u64, bytes: usize, random: &mut StdRng) -> NewRecord {
        let mut record = DataRecord {
            agent_id: self.id.clone(),
            timestamp: Timestamp::from_unix_ms(
                1_767_225_600_000 + 5_000 * tick as i64 + random.random_range(0..50),
            ),
            metrics: self.metrics(random),
            metadata: BTreeMap::new(),
            incarnation: self.incarnation.clone(),
            sequence: Sequence(tick + 1),
            first_sequence: None,
            series: Vec::new(),
            not_sent: Vec::new(),
        };
        let mut length = json(&record).len() + r#","series":[]"#.len();
        for number in 0.. {
            let sample = sample(number, random);
            let longer = length + json(&sample).len() + ",".len();
            // Whichever comes nearer.
            if longer.abs_diff(bytes) > length.abs_diff(bytes) {
                break;
            }
            record.series.push(sample);
            length = longer;
        }
        NewRecord {
            key: self.id.as_str().to_owned(),
            value: json(&record).into(),
            headers: self.headers.clone(),
        }
    }

    fn metrics(&self, random: &mut StdRng) -> SystemMetrics {
        let percent = |random: &mut StdRng| (random.random_range(0.0..100.0_f64) * 10.0).round() / 10.0;
        let rate = |random: &mut StdRng| random.random_range(0.0..200.0_f64);
        let memory = percent(random);
        SystemMetrics {
            cpu_percent: Some(percent(random)),
            memory_percent: Some(memory),
            memory_used_mb: Some(self.memory_total_mb * memory / 100.0),
            memory_total_mb: Some(self.memory_total_mb),
            disk_read_mb: Some(rate(random)),
            disk_write_mb: Some(rate(random)),
            net_in_mb: Some(rate(random)),
            net_out_mb: Some(rate(random)),
        }
    }
}

fn sample(number: usize, random: &mut StdRng) -> Sample {
    let (name, attribute) = SERIES[number % SERIES.len()];
    let key = SeriesKey::new(name).with(attribute, (number / SERIES.len()).to_string());
    Sample { key, value: random.random() }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("every value is finite and every key a string")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_records_of_the_size_asked_for_and_no_two_are_equal() {
        for bytes in [512, 2_048] {
            let payload = Payload::new(8, 4, bytes);
            let off = payload.bytes_mean - bytes as f64;
            assert!(off.abs() < 60.0, "{bytes}: {}", payload.bytes_mean);
            let mut values: Vec<_> =
                (0..8).flat_map(|number| payload.batch(number)).map(|record| record.value.clone()).collect();
            for value in &values {
                assert!(serde_json::from_slice::<DataRecord>(value).unwrap().has_values());
            }
            values.sort();
            values.dedup();
            assert_eq!(values.len(), 32);
        }
    }

    #[test]
    fn a_batch_is_of_one_agent_and_the_pool_is_bounded() {
        let payload = Payload::new(u64::MAX, 1_000, 16_000);
        assert_eq!(payload.batches.len(), 1);
        assert_eq!(payload.batch(u64::MAX).len(), 1_000);
        let one = Payload::new(2, 3, 300);
        assert!(one.batch(0).iter().all(|record| record.key == "node-00000"));
        assert_ne!(one.batch(0)[0].key, one.batch(1)[0].key);
    }
}
