//! What travels together: at most one record that left the plugins, and what became of the ticks before it.
//!
//! Most ticks of a quiet machine are dropped by plugins. Saying so in a message of its own for each would cost as much as
//! sending them, so a [`Ledger`] joins neighbours into ranges and lets them wait for the next record, at most
//! [`ALONE_AFTER`].

use std::time::Duration;

use model::id::Sequence;
use model::limit;
use model::pipeline::{Action, Disposition, Output};
use model::sample::Tick;
use proto::record::{NotSent, NotSentAction};

/// Ranges travel alone after this, so that a server sees that an agent which sends nothing has nothing to send.
pub(crate) const ALONE_AFTER: Duration = Duration::from_secs(60);
/// Ranges that wait for a record; with more, they travel alone. Only plugins that take turns in dropping get here.
const RANGES_MAX: usize = limit::BATCH_TICKS_MAX;
/// Metadata of one record, so that a row always fits a message.
const METADATA_TOTAL_BYTES_MAX: usize = 32 * 1024;

/// One or more ticks accounted for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parcel {
    /// The range of ticks accounted for, both ends included.
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) tick: Option<Tick>,
    pub(crate) not_sent: Vec<NotSent>,
}

impl Parcel {
    /// `None` when there is nothing to tell.
    fn new(mut tick: Option<Tick>, not_sent: Vec<NotSent>) -> Option<Self> {
        if let Some(tick) = &mut tick {
            bound_metadata(tick);
        }
        let of_tick = tick.iter().map(|tick| (tick.first_sequence, tick.sequence));
        let spans = of_tick.chain(not_sent.iter().map(|range| (range.first, range.last)));
        let (first, last) = spans.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))?;
        Some(Self { first, last, tick, not_sent })
    }

    pub(crate) fn ticks(&self) -> u64 {
        self.last.0.saturating_sub(self.first.0) + 1
    }

    /// About what it occupies in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        // A map of few entries is one node of eleven slots; measured, not exact.
        const NODE: usize = 560;
        let series = self.tick.iter().flat_map(|tick| &tick.series).map(|sample| {
            let attributes = sample.key.attributes.iter().map(|(key, value)| key.len() + value.len());
            let node = if sample.key.attributes.is_empty() { 0 } else { NODE };
            size_of_val(sample) + sample.key.name.len() + node + attributes.sum::<usize>()
        });
        size_of::<Self>() + series.sum::<usize>() + self.metadata_bytes() + size_of_val(&*self.not_sent)
    }

    /// No less than what its row and dispositions take in a batch: nine bytes a value, one bit a column.
    pub(crate) fn wire_bytes_max(&self) -> usize {
        let values = self.tick.as_ref().map_or(0, |tick| tick.series.len()) * 8;
        let columns = 2 * limit::SERIES_PER_AGENT_MAX / 8;
        let ranges = self.not_sent.iter().map(|range| 40 + range.plugin.len()).sum::<usize>();
        256 + values + columns + self.metadata_bytes() + ranges
    }

    fn metadata_bytes(&self) -> usize {
        self.tick.as_ref().map_or(0, |tick| metadata_bytes(tick.metadata.iter()))
    }
}

fn metadata_bytes<'m>(pairs: impl Iterator<Item = (&'m String, &'m String)>) -> usize {
    pairs.map(|(key, value)| key.len() + value.len() + 16).sum()
}

/// Drops the last pairs until the rest fits, and says so.
fn bound_metadata(tick: &mut Tick) {
    let mut left_out = 0;
    while metadata_bytes(tick.metadata.iter()) > METADATA_TOTAL_BYTES_MAX {
        tick.metadata.pop_last();
        left_out += 1;
    }
    if left_out > 0 {
        tick.metadata.insert("metadata_left_out".to_owned(), left_out.to_string());
    }
}

/// Ticks that were not sent and whose story was not told yet.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ranges: Vec<NotSent>,
    /// When the first of `ranges` came.
    since: Option<Duration>,
}

impl Ledger {
    /// Packs what left the plugins, in the order of sequences. What is left over waits.
    pub(crate) fn pack(&mut self, output: Output, now: Duration) -> Vec<Parcel> {
        let mut dispositions = output.dispositions.into_iter().peekable();
        let mut parcels = Vec::new();
        for tick in output.passed {
            while let Some(stretch) = dispositions.next_if(|stretch| stretch.last < tick.sequence) {
                parcels.extend(self.note(stretch, now));
            }
            parcels.push(self.send(tick));
        }
        parcels.extend(dispositions.filter_map(|stretch| self.note(stretch, now)));
        parcels
    }

    /// A record leaves; what waited goes with it.
    pub(crate) fn send(&mut self, tick: Tick) -> Parcel {
        self.since = None;
        let not_sent = std::mem::take(&mut self.ranges);
        Parcel::new(Some(tick), not_sent).expect("a tick is something to tell")
    }

    /// A stretch of ticks that will not be sent. Answers with what must go now because too much waits.
    fn note(&mut self, stretch: Disposition, now: Duration) -> Option<Parcel> {
        let Disposition { first, last, action, plugin } = stretch;
        let action = match action {
            Action::Dropped => NotSentAction::Dropped,
            Action::Merged => NotSentAction::Merged,
            Action::NotCollected => NotSentAction::NotCollected,
        };
        self.since.get_or_insert(now);
        if let Some(before) = self.ranges.last_mut()
            && before.last.next() == first
            && (before.action, &before.plugin) == (action, &plugin)
        {
            before.last = last;
            return None;
        }
        self.ranges.push(NotSent { first, last, action, plugin });
        if self.ranges.len() >= RANGES_MAX { self.flush() } else { None }
    }

    /// When what waits must go alone.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.since.map(|since| since + ALONE_AFTER)
    }

    /// What waits, alone.
    pub(crate) fn flush(&mut self) -> Option<Parcel> {
        self.since = None;
        Parcel::new(None, std::mem::take(&mut self.ranges))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tick(sequence: u64) -> Tick {
        Tick { first_sequence: Sequence(sequence), sequence: Sequence(sequence), ..Tick::default() }
    }

    fn dropped(sequence: u64, plugin: &str) -> Disposition {
        let sequence = Sequence(sequence);
        Disposition { first: sequence, last: sequence, action: Action::Dropped, plugin: plugin.to_owned() }
    }

    #[test]
    fn dropped_neighbours_become_one_range_and_go_with_the_next_record() {
        let mut ledger = Ledger::default();
        for sequence in 1..=3 {
            assert_eq!(ledger.note(dropped(sequence, "filter"), Duration::from_secs(sequence)), None);
        }
        let parcel = ledger.send(tick(4));
        assert_eq!((parcel.first, parcel.last, parcel.not_sent.len()), (Sequence(1), Sequence(4), 1));
        assert_eq!(ledger.flush(), None);
    }

    #[test]
    fn what_waits_is_due_a_minute_after_the_first() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.due(), None);
        for second in [5, 50] {
            assert_eq!(ledger.note(dropped(second, "filter"), Duration::from_secs(second)), None);
        }
        assert_eq!(ledger.due(), Some(Duration::from_secs(65)));
        assert!(ledger.flush().is_some());
        assert_eq!(ledger.due(), None);
    }

    #[test]
    fn metadata_that_would_not_fit_a_message_is_left_out_and_counted() {
        let mut huge = tick(1);
        for key in 0..100 {
            huge.metadata.insert(format!("k{key:03}"), "x".repeat(4_096));
        }
        let parcel = Ledger::default().send(huge);
        assert!(parcel.wire_bytes_max() < limit::BATCH_BYTES_MAX);
        let left_out = &parcel.tick.unwrap().metadata["metadata_left_out"];
        assert_eq!(left_out, "93");
    }

    proptest! {
        #[test]
        fn every_tick_is_told_of_once(fates in proptest::collection::vec(0u8..4, 0..600)) {
            let mut ledger = Ledger::default();
            let mut told = Vec::new();
            let total = fates.len() as u64;
            for (fate, sequence) in fates.into_iter().zip(1..) {
                let output = match fate {
                    0 => Output { passed: vec![tick(sequence)], ..Output::default() },
                    _ => Output {
                        dispositions: vec![dropped(sequence, &fate.to_string())],
                        ..Output::default()
                    },
                };
                told.extend(ledger.pack(output, Duration::ZERO));
            }
            told.extend(ledger.flush());
            let mut next = 1;
            for parcel in told {
                prop_assert_eq!(parcel.first.0, next);
                let ticks: u64 = parcel.not_sent.iter().map(NotSent::ticks).sum::<u64>() + u64::from(parcel.tick.is_some());
                prop_assert_eq!(ticks, parcel.ticks());
                next = parcel.last.0 + 1;
            }
            prop_assert_eq!(next, total + 1);
        }
    }
}
