//! From what agents send to records of `monitoring-data`: one per row, with the account of what was not sent.

use std::sync::LazyLock;

use backends::bus::{Headers, NewRecord};
use bytes::Bytes;
use model::id::{AgentId, Incarnation, Sequence};
use model::limit::{self, BUS_VALUE_BYTES_MAX};
use model::sample::{Tick, Timestamp};
use proto::record::{CONTENT_TYPE, DataRecord, JSON, NotSent, ResponseRecord};
use serde::Serialize;

/// Metadata that says how many series of a record did not fit into it.
const SERIES_REFUSED: &str = "series_refused";
/// Metadata that says how many pairs of metadata did not fit.
const METADATA_REFUSED: &str = "metadata_refused";

/// Records ready to publish, and what had to be left out of them.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub records: Vec<NewRecord>,
    pub series_refused: usize,
    pub metadata_refused: usize,
}

/// The records of one batch. `last` is the end of its range; `now` dates a record that only accounts for ticks.
pub(crate) fn of_batch(
    agent: &AgentId,
    incarnation: &Incarnation,
    last: Sequence,
    ticks: Vec<Tick>,
    mut not_sent: Vec<NotSent>,
    now: Timestamp,
) -> Encoded {
    not_sent.sort_by_key(|range| range.first);
    let mut encoded = Encoded::default();
    for tick in ticks {
        let after = not_sent.partition_point(|range| range.first < tick.sequence);
        let before = not_sent.drain(..after).collect();
        encoded.push(of_tick(agent, incarnation, tick, before));
    }
    if !not_sent.is_empty() {
        let rest = Tick { first_sequence: last, sequence: last, at: now, ..Tick::default() };
        encoded.push(of_tick(agent, incarnation, rest, not_sent));
    }
    encoded
}

/// The record of one tick.
pub(crate) fn of_tick(
    agent: &AgentId,
    incarnation: &Incarnation,
    tick: Tick,
    not_sent: Vec<NotSent>,
) -> DataRecord {
    DataRecord {
        agent_id: agent.clone(),
        timestamp: tick.at,
        metrics: tick.metrics,
        metadata: tick.metadata,
        incarnation: incarnation.clone(),
        sequence: tick.sequence,
        first_sequence: (tick.first_sequence != tick.sequence).then_some(tick.first_sequence),
        series: tick.series,
        not_sent,
    }
}

/// A response, keyed by its agent.
pub(crate) fn of_response(response: &ResponseRecord) -> NewRecord {
    keyed(&response.agent_id, json(response))
}

impl Encoded {
    /// Of values: keys and headers are small beside them.
    pub(crate) fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.value.len()).sum()
    }

    /// Adds a record, made small enough for the bus: series go first, then metadata. What went is said in the record.
    pub(crate) fn push(&mut self, mut record: DataRecord) {
        let before = record.series.len();
        // JSON has no NaN and no infinity: such a sample is no measurement.
        record.series.retain(|sample| sample.value.is_finite());
        record.series.truncate(limit::SERIES_PER_AGENT_MAX);
        let mut refused = before - record.series.len();
        let mut value = json(&record);
        while value.len() > BUS_VALUE_BYTES_MAX && !record.series.is_empty() {
            // In proportion, and a little more: sizes of series differ.
            let keep = record.series.len() * (BUS_VALUE_BYTES_MAX / 2) / value.len();
            refused += record.series.len() - keep;
            record.series.truncate(keep);
            value = json(&record);
        }
        if value.len() > BUS_VALUE_BYTES_MAX {
            self.metadata_refused += record.metadata.len();
            let pairs = std::mem::take(&mut record.metadata).len();
            record.metadata.insert(METADATA_REFUSED.to_owned(), pairs.to_string());
        }
        if refused > 0 {
            record.metadata.insert(SERIES_REFUSED.to_owned(), refused.to_string());
        }
        if refused > 0 || value.len() > BUS_VALUE_BYTES_MAX {
            value = json(&record);
        }
        self.series_refused += refused;
        self.records.push(keyed(&record.agent_id, value));
    }
}

fn keyed(agent: &AgentId, value: Bytes) -> NewRecord {
    static HEADERS: LazyLock<Headers> = LazyLock::new(|| [(CONTENT_TYPE.to_owned(), JSON.to_owned())].into());
    NewRecord { key: agent.to_string(), value, headers: HEADERS.clone() }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("records have string keys only and write to memory").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::sample::{Sample, SeriesKey};
    use proto::record::NotSentAction;

    fn ids() -> (AgentId, Incarnation) {
        (AgentId::new("a").unwrap(), Incarnation::new("i").unwrap())
    }

    fn tick(sequence: u64) -> Tick {
        Tick { first_sequence: Sequence(sequence), sequence: Sequence(sequence), ..Tick::default() }
    }

    fn range(first: u64, last: u64) -> NotSent {
        let plugin = "deduplication".to_owned();
        NotSent { first: Sequence(first), last: Sequence(last), action: NotSentAction::Dropped, plugin }
    }

    fn batch(last: u64, ticks: Vec<Tick>, not_sent: Vec<NotSent>) -> Vec<DataRecord> {
        let (agent, incarnation) = ids();
        let encoded = of_batch(&agent, &incarnation, Sequence(last), ticks, not_sent, Timestamp::default());
        encoded.records.iter().map(|record| serde_json::from_slice(&record.value).unwrap()).collect()
    }

    #[test]
    fn what_was_not_sent_travels_with_the_next_row_or_alone() {
        let records = batch(9, vec![tick(3), tick(6)], vec![range(7, 9), range(1, 2), range(4, 5)]);
        let told: Vec<_> =
            records.iter().map(|record| (record.sequence.0, record.not_sent.clone())).collect();
        assert_eq!(told, [(3, vec![range(1, 2)]), (6, vec![range(4, 5)]), (9, vec![range(7, 9)])]);
        assert!(!records[2].has_values());
        assert_eq!(batch(2, Vec::new(), vec![range(1, 2)]).len(), 1);
        assert!(batch(2, Vec::new(), Vec::new()).is_empty());
    }

    #[test]
    fn a_record_too_large_for_the_bus_keeps_what_fits_and_says_what_does_not() {
        let (agent, incarnation) = ids();
        let long = "x".repeat(250);
        let series = (0..2_000).map(|i| {
            let key = SeriesKey::new("m")
                .with("i", i.to_string())
                .with("a", &*long)
                .with("b", &*long)
                .with("c", &*long);
            Sample { key, value: 1.0 }
        });
        let metadata = [("alerts".to_owned(), "cpu".to_owned())].into();
        let mut encoded = Encoded::default();
        encoded.push(of_tick(
            &agent,
            &incarnation,
            Tick { series: series.collect(), metadata, ..tick(1) },
            vec![range(1, 1)],
        ));
        assert!(encoded.records[0].value.len() <= BUS_VALUE_BYTES_MAX);
        let record: DataRecord = serde_json::from_slice(&encoded.records[0].value).unwrap();
        assert_eq!(record.series.len() + encoded.series_refused, 2_000);
        assert!(record.series.len() > 100);
        assert_eq!(record.metadata[SERIES_REFUSED], encoded.series_refused.to_string());
        assert_eq!((record.metadata["alerts"].as_str(), record.not_sent.len()), ("cpu", 1));
    }

    #[test]
    fn metadata_goes_only_when_nothing_else_helps() {
        let (agent, incarnation) = ids();
        let metadata = (0..128).map(|i| (format!("k{i}"), "\u{1}".repeat(4_096))).collect();
        let mut encoded = Encoded::default();
        encoded.push(of_tick(&agent, &incarnation, Tick { metadata, ..tick(1) }, Vec::new()));
        let record: DataRecord = serde_json::from_slice(&encoded.records[0].value).unwrap();
        assert_eq!((record.metadata[METADATA_REFUSED].as_str(), encoded.metadata_refused), ("128", 128));
    }

    #[test]
    fn a_sample_that_is_not_a_number_leaves_a_readable_record() {
        let (agent, incarnation) = ids();
        let sample = |value| Sample { key: SeriesKey::new("m"), value };
        let mut encoded = Encoded::default();
        let series = vec![sample(f64::NAN), sample(1.0), sample(f64::INFINITY)];
        encoded.push(of_tick(&agent, &incarnation, Tick { series, ..tick(1) }, Vec::new()));
        let record: DataRecord = serde_json::from_slice(&encoded.records[0].value).unwrap();
        assert_eq!(record.series, [sample(1.0)]);
    }
}
