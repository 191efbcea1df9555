//! What is on `monitoring-data` and in histories, counted by agent, run and tick.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// One run of one agent.
pub(crate) type Run = (String, String);

/// The ticks each run has accounted for.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ticks: BTreeMap<Run, BTreeSet<u64>>,
    /// Ticks that were there more than once.
    pub(crate) repeated: usize,
}

impl Ledger {
    /// Of `monitoring-data` values.
    pub(crate) fn of(records: &[Value]) -> Self {
        let mut ledger = Self::default();
        for record in records {
            let word = |name: &str| record[name].as_str().unwrap().to_owned();
            let run = (word("agent_id"), word("incarnation"));
            let last = record["sequence"].as_u64().unwrap();
            let first = record["first_sequence"].as_u64().unwrap_or(last);
            ledger.add(&run, first..=last);
            for range in record["not_sent"].as_array().into_iter().flatten() {
                ledger.add(&run, range["first"].as_u64().unwrap()..=range["last"].as_u64().unwrap());
            }
        }
        ledger
    }

    fn add(&mut self, run: &Run, ticks: impl Iterator<Item = u64>) {
        let known = self.ticks.entry(run.clone()).or_default();
        for tick in ticks {
            self.repeated += usize::from(!known.insert(tick));
        }
    }

    /// The ticks up to `end` that nobody accounts for.
    pub(crate) fn missing(&self, run: &Run, end: u64) -> Vec<u64> {
        let known = self.ticks.get(run);
        (1..=end).filter(|tick| !known.is_some_and(|known| known.contains(tick))).collect()
    }

    /// What this one has and the other has not.
    pub(crate) fn beyond(&self, other: &Self) -> BTreeMap<Run, Vec<u64>> {
        let none = BTreeSet::new();
        let beyond = |(run, ticks): (&Run, &BTreeSet<u64>)| {
            let extra: Vec<u64> = ticks.difference(other.ticks.get(run).unwrap_or(&none)).copied().collect();
            (!extra.is_empty()).then(|| (run.clone(), extra))
        };
        self.ticks.iter().filter_map(beyond).collect()
    }

    pub(crate) fn ticks(&self) -> &BTreeMap<Run, BTreeSet<u64>> {
        &self.ticks
    }

    pub(crate) fn len(&self) -> usize {
        self.ticks.values().map(BTreeSet::len).sum()
    }
}
