//! What is kept of records read from Kafka until they are printed. Pure, and bounded in bytes: values stay as they came,
//! and are made into records one by one when they are wanted.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::id::{AgentId, Incarnation, Sequence};
use model::limit;
use model::sample::Timestamp;
use proto::record::DataRecord;

use super::Received;

/// The newest measurement of each agent.
#[derive(Debug, Default)]
pub(super) struct Newest {
    agents: BTreeMap<AgentId, Measured>,
    bytes: usize,
}

#[derive(Debug)]
struct Measured {
    incarnation: Incarnation,
    sequence: Sequence,
    /// When the bus got it: an agent's own clock may be wrong by years.
    at: Timestamp,
    value: Bytes,
}

/// Every record of a window, each once.
#[derive(Debug)]
pub(super) struct Past {
    since: Timestamp,
    records: BTreeMap<(Timestamp, AgentId, Incarnation, Sequence), Bytes>,
    bytes: usize,
    left_out: u64,
}

impl Newest {
    /// Takes a record in; `at` is the bus's time. `false` when there is no room for another agent.
    pub(super) fn take(&mut self, record: &DataRecord, at: Timestamp, value: Bytes) -> bool {
        if !record.has_values() {
            return true;
        }
        let known = self.agents.get(&record.agent_id);
        if known.is_some_and(|known| {
            let same_run = known.incarnation == record.incarnation;
            if same_run { known.sequence >= record.sequence } else { known.at > at }
        }) {
            return true;
        }
        let bytes = self.bytes - known.map_or(0, |known| known.value.len()) + value.len();
        if bytes > limit::KAFKA_ANSWER_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        let DataRecord { incarnation, sequence, .. } = record;
        let measured = Measured { incarnation: incarnation.clone(), sequence: *sequence, at, value };
        self.agents.insert(record.agent_id.clone(), measured);
        true
    }

    pub(super) fn has(&self, agent: &AgentId) -> bool {
        self.agents.contains_key(agent)
    }

    pub(super) fn width(&self) -> usize {
        self.agents.keys().map(|id| id.as_str().len()).max().unwrap_or(0)
    }

    /// By agent.
    pub(super) fn into_records(self) -> impl Iterator<Item = Received> {
        self.agents.into_values().filter_map(|measured| read(&measured.value).ok())
    }
}

impl Past {
    pub(super) fn new(since: Timestamp) -> Self {
        Self { since, records: BTreeMap::new(), bytes: 0, left_out: 0 }
    }

    /// Takes a record in. Past the limits the oldest go.
    pub(super) fn take(&mut self, record: &DataRecord, value: Bytes) {
        if record.timestamp < self.since {
            return;
        }
        let DataRecord { timestamp, agent_id, incarnation, sequence, .. } = record;
        self.bytes += value.len();
        let key = (*timestamp, agent_id.clone(), incarnation.clone(), *sequence);
        if let Some(double) = self.records.insert(key, value) {
            self.bytes -= double.len();
        }
        while self.bytes > limit::KAFKA_ANSWER_BYTES_MAX || self.records.len() > limit::ANSWER_RECORDS_MAX {
            let Some((_, oldest)) = self.records.pop_first() else { return };
            self.bytes -= oldest.len();
            self.left_out += 1;
        }
    }

    /// Older records than there was room for.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn has(&self, agent: &AgentId) -> bool {
        self.records.keys().any(|(_, id, _, _)| id == agent)
    }

    pub(super) fn width(&self) -> usize {
        self.records.keys().map(|(_, id, _, _)| id.as_str().len()).max().unwrap_or(0)
    }

    /// Oldest first.
    pub(super) fn into_records(self) -> impl Iterator<Item = Received> {
        self.records.into_values().filter_map(|value| read(&value).ok())
    }
}

/// A value of `monitoring-data`, as it came and as we understand it.
pub(super) fn read(value: &[u8]) -> Result<Received, serde_json::Error> {
    serde_json::from_slice(value).and_then(Received::new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(agent: &str, run: &str, sequence: u64, second: i64) -> Bytes {
        let timestamp = Timestamp::from_unix_seconds(1_767_225_600 + second);
        let value = json!({
            "agent_id": agent, "timestamp": timestamp, "incarnation": run, "sequence": sequence,
            "metrics": {"cpu_percent": sequence}
        });
        value.to_string().into()
    }

    fn shown(records: impl Iterator<Item = Received>) -> Vec<(String, u64)> {
        let shown = |received: Received| (received.record.agent_id.to_string(), received.record.sequence.0);
        records.map(shown).collect()
    }

    #[test]
    fn the_newest_of_a_run_is_its_last_tick_whatever_the_agents_clock_says() {
        let mut newest = Newest::default();
        let at = Timestamp::from_unix_seconds;
        for (agent, run, sequence, second, received) in
            [("a", "r1", 2, 90, 1), ("a", "r1", 1, 99, 2), ("b", "r1", 9, 0, 1), ("b", "r2", 1, -50, 2)]
        {
            let value = value(agent, run, sequence, second);
            assert!(newest.take(&read(&value).unwrap().record, at(received), value.clone()));
        }
        assert_eq!(shown(newest.into_records()), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }

    #[test]
    fn a_record_that_only_accounts_for_ticks_is_no_measurement() {
        let mut newest = Newest::default();
        let account = json!({
            "agent_id": "a", "timestamp": Timestamp::default(), "incarnation": "r", "sequence": 1,
            "not_sent": [{"first": 1, "last": 1, "action": "dropped", "plugin": "deduplication"}]
        });
        let account = Bytes::from(account.to_string());
        newest.take(&read(&account).unwrap().record, Timestamp::default(), account.clone());
        assert_eq!(shown(newest.into_records()), []);
    }

    #[test]
    fn the_past_is_in_order_each_record_once_and_none_from_before() {
        let mut past = Past::new(Timestamp::from_unix_seconds(1_767_225_600));
        for (agent, sequence, second) in [("b", 2, 2), ("a", 1, 1), ("b", 2, 2), ("a", 0, -1), ("b", 1, 1)] {
            let value = value(agent, "r", sequence, second);
            past.take(&read(&value).unwrap().record, value.clone());
        }
        let expected = [("a", 1), ("b", 1), ("b", 2)].map(|(agent, sequence)| (agent.to_owned(), sequence));
        assert_eq!(shown(past.into_records()), expected);
    }

    #[test]
    fn past_its_limit_the_oldest_go_and_are_counted() {
        let mut past = Past::new(Timestamp::default());
        let large = "x".repeat(limit::BUS_VALUE_BYTES_MAX);
        let room = limit::KAFKA_ANSWER_BYTES_MAX / limit::BUS_VALUE_BYTES_MAX;
        // One allocation, counted as often as it is kept.
        let large = Bytes::from(large);
        for sequence in 0..room as u64 + 3 {
            let small = value("a", "r", sequence, i64::try_from(sequence).unwrap());
            past.take(&read(&small).unwrap().record, large.clone());
        }
        assert_eq!((past.records.len(), past.left_out()), (room, 3));
        assert_eq!(past.records.keys().next().unwrap().3, Sequence(3));
    }
}
