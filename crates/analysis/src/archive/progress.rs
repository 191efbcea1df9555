//! How far a topic has been read, and whether what is there now is still the same log. Pure.
//!
//! The bus has no name for a log that outlives its files, and offsets of one log mean nothing in another. So the last
//! record read is remembered as a witness: reading begins with it, and only its equal proves that the log goes on. An
//! offset past the end, or before the beginning, shows without one.

use std::collections::{BTreeMap, BTreeSet};

use backends::bus::{Extent, Record};
use model::sample::Timestamp;

/// The next offset to read of each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress(pub(super) BTreeMap<u32, Reached>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) next: u64,
    /// What lies at the offset before; `None` when it was never read.
    pub(super) witness: Option<Witness>,
}

/// What tells one record from another at the same offset. No two logs got records of one size in one millisecond there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) at: Timestamp,
    pub(super) bytes: u32,
}

/// What is not as it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The partition's log is not the one that was read: it begins anew.
    OtherLog { partition: u32 },
    /// Retention removed this many records before they were read.
    Missed { partition: u32, records: u64 },
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    New,
    /// The witness: it was read before.
    Witness,
    /// The log is another one. The partition has no progress any more and is to be read from its beginning.
    OtherLog,
}

/// A [`Progress`] while the topic is followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) progress: Progress,
    /// Partitions whose first record has yet to show that the log goes on.
    unproven: BTreeSet<u32>,
}

impl Witness {
    pub(super) fn of(record: &Record) -> Self {
        Self { at: record.at, bytes: u32::try_from(record.value.len()).unwrap_or(u32::MAX) }
    }
}

impl Progress {
    /// Records up to here, as a count over all partitions.
    pub(super) fn total(&self) -> u64 {
        self.0.values().map(|reached| reached.next).sum()
    }
}

impl Reading {
    /// Before it is known what the topic holds.
    pub(super) fn at(progress: Progress) -> Self {
        Self { progress, unproven: BTreeSet::new() }
    }

    /// Goes on from `progress`, in a topic that now has `extents`. What does not fit is forgotten and returned.
    pub(super) fn begin(progress: Progress, extents: &[Extent]) -> (Self, Vec<Change>) {
        let mut changes = Vec::new();
        let kept = progress.0.into_iter().filter_map(|(partition, mut reached)| {
            let extent = extents.iter().find(|extent| extent.partition == partition);
            match extent {
                Some(extent) if reached.next < extent.low => {
                    changes.push(Change::Missed { partition, records: extent.low - reached.next });
                    reached = Reached { next: extent.low, witness: None };
                }
                Some(extent) if reached.next <= extent.high => {}
                // Past the end, or the topic is narrower than it was.
                _ => {
                    changes.push(Change::OtherLog { partition });
                    return None;
                }
            }
            Some((partition, reached))
        });
        let progress = Progress(kept.collect());
        let unproven = progress.0.keys().copied().collect();
        (Self { progress, unproven }, changes)
    }

    /// Where to read from: each partition's witness, where there is one.
    pub(super) fn offsets(&self) -> BTreeMap<u32, u64> {
        let begin = |reached: &Reached| reached.next - u64::from(reached.witness.is_some());
        self.progress.0.iter().map(|(partition, reached)| (*partition, begin(reached))).collect()
    }

    /// Takes note of a record that the bus delivered.
    pub(super) fn see(&mut self, record: &Record) -> Sight {
        let partition = record.position.partition;
        let is_first = self.unproven.remove(&partition);
        if is_first && let Some(Reached { next, witness }) = self.progress.0.get(&partition).copied() {
            if record.position.offset + 1 == next && witness == Some(Witness::of(record)) {
                return Sight::Witness;
            }
            if record.position.offset < next {
                self.progress.0.remove(&partition);
                return Sight::OtherLog;
            }
        }
        let reached = Reached { next: record.position.offset + 1, witness: Some(Witness::of(record)) };
        self.progress.0.insert(partition, reached);
        Sight::New
    }

    /// Everything below `ends` has been read: where nothing came, there was nothing to read. Without it, a partition that
    /// is old and silent would be read from its beginning at every start.
    pub(super) fn caught_up(&mut self, ends: &BTreeMap<u32, u64>) {
        for (partition, end) in ends {
            self.progress.0.entry(*partition).or_insert(Reached { next: *end, witness: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use backends::bus::Position;

    use super::*;

    fn record(offset: u64, at_ms: i64) -> Record {
        Record {
            position: Position { partition: 0, offset },
            at: Timestamp::from_unix_ms(at_ms),
            key: "a".to_owned(),
            value: Default::default(),
            headers: Default::default(),
        }
    }

    fn extent(low: u64, high: u64) -> [Extent; 1] {
        [Extent { partition: 0, low, high }]
    }

    /// A reader that has seen offsets 0 to 4, at 100 ms each.
    fn five_read() -> Progress {
        let mut reading = Reading::default();
        for offset in 0..5 {
            assert_eq!(reading.see(&record(offset, 100 * offset as i64)), Sight::New);
        }
        reading.progress
    }

    #[test]
    fn reading_goes_on_behind_its_witness() {
        let (mut reading, changes) = Reading::begin(five_read(), &extent(0, 7));
        assert_eq!((reading.offsets(), changes), (BTreeMap::from([(0, 4)]), vec![]));
        assert_eq!(reading.see(&record(4, 400)), Sight::Witness);
        assert_eq!(reading.see(&record(5, 500)), Sight::New);
        assert_eq!(reading.progress.total(), 6);
    }

    #[test]
    fn another_record_in_the_place_of_the_witness_is_another_log() {
        let (mut reading, _) = Reading::begin(five_read(), &extent(0, 7));
        assert_eq!(reading.see(&record(4, 401)), Sight::OtherLog);
        assert_eq!(reading.offsets(), BTreeMap::new());
    }

    #[test]
    fn an_offset_past_the_end_is_another_log() {
        let (reading, changes) = Reading::begin(five_read(), &extent(0, 4));
        assert_eq!((reading.offsets(), changes), (BTreeMap::new(), vec![Change::OtherLog { partition: 0 }]));
    }

    #[test]
    fn what_retention_took_unread_is_counted() {
        let (reading, changes) = Reading::begin(five_read(), &extent(8, 9));
        let missed = vec![Change::Missed { partition: 0, records: 3 }];
        assert_eq!((reading.offsets(), changes), (BTreeMap::from([(0, 8)]), missed));
    }

    #[test]
    fn retention_may_take_the_witness() {
        let (mut reading, changes) = Reading::begin(five_read(), &extent(5, 7));
        assert_eq!(changes, []);
        assert_eq!(reading.see(&record(5, 500)), Sight::New);
    }

    #[test]
    fn a_partition_where_nothing_came_is_read_to_its_end() {
        let (mut reading, _) = Reading::begin(Progress::default(), &extent(0, 9));
        reading.caught_up(&BTreeMap::from([(0, 9)]));
        assert_eq!(reading.offsets(), BTreeMap::from([(0, 9)]));
    }
}
