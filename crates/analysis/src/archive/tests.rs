//! The archive by what it is for: whatever is cut off and whenever, no record is missing afterwards and none is double.

mod simulation;
mod trouble;

use model::id::{AgentId, Incarnation, Sequence};
use model::sample::{Sample, SeriesKey, SystemMetrics};
use proto::record::DataRecord;

use super::*;
use crate::Settings;
use crate::counters::Counters;
use crate::history::{Query, SeriesFilter};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn history() -> History {
    History::new(&Settings::default(), Counters::register(&prometheus::Registry::new()).unwrap())
}

pub(super) fn query_all(history: &History) -> Vec<DataRecord> {
    let series = SeriesFilter::default();
    history
        .query(Query { agents: None, since: None, until: None, step: None, series, limit: usize::MAX })
        .collect()
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

/// A tick that was measured and received at `at`.
pub(super) fn tick(agent: &str, incarnation: &str, sequence: u64, at: Timestamp) -> DataRecord {
    DataRecord {
        agent_id: AgentId::new(agent).unwrap(),
        timestamp: at,
        metrics: SystemMetrics { cpu_percent: Some(sequence as f64), ..SystemMetrics::default() },
        metadata: Default::default(),
        incarnation: Incarnation::new(incarnation).unwrap(),
        sequence: Sequence(sequence),
        first_sequence: None,
        series: vec![Sample { key: SeriesKey::new("load"), value: 0.5 }],
        not_sent: Vec::new(),
    }
}

/// Agent, run and sequence.
pub(super) type Key = (String, String, u64);

pub(super) fn key(record: &DataRecord) -> Key {
    (record.agent_id.to_string(), record.incarnation.to_string(), record.sequence.0)
}

/// The keys in a file, doubles included.
pub(super) fn keys_in(file: &mut File) -> Vec<Key> {
    let mut keys = Vec::new();
    let each = |agent: AgentId, incarnation: Incarnation, block: Block| {
        let key = |row: &Row| (agent.to_string(), incarnation.to_string(), row.sequence.0);
        keys.extend(block.rows.iter().map(key));
    };
    file.read(each).unwrap();
    keys.sort();
    keys
}
