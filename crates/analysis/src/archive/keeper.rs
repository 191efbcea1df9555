//! What is to go into the file next, and from where the bus is to be read again when something was let go. Pure.
//!
//! The rule it keeps: the offsets of a batch never name a record that is neither in this batch nor in one before it. So
//! whatever is let go, because the disk takes nothing or the process dies, comes again from the bus.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use backends::bus::{Extent, Position, Record, StartAt};
use model::limit::ARCHIVE_WAITING_BYTES_MAX;
use model::sample::Timestamp;

use super::progress::{Change, Progress, Reading, Sight};
use crate::history::{Stored as Kept, Taken};

/// Records and the offsets that they lead to, for one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The commits before it. A file with another number is not the one it belongs to, or has it already.
    pub(super) after: u64,
    pub(super) progress: Progress,
    pub(super) records: Vec<Kept>,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) commits: u64,
    pub(super) progress: Progress,
    /// When the newest commit was made.
    pub(super) at: Timestamp,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// When the bus got the last record of the oldest block.
    pub(super) oldest: Option<Timestamp>,
}

/// What follows from a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// The file is not where this reader is: the topic has to be followed again, from [`Keeper::begin`].
    StartOver,
}

#[derive(Debug)]
pub(super) struct Keeper {
    window: Duration,
    reading: Reading,
    stored: Stored,
    waiting: Waiting,
    /// Something was let go: only the bus has it.
    behind: bool,
    /// Up to here the bus delivers a second time for the archive's sake, not because somebody published twice.
    again: BTreeMap<u32, u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Kept>,
    bytes: usize,
    /// The layouts of these records, by address: each brings its names once.
    layouts: HashSet<usize>,
}

impl Keeper {
    /// Nothing is known of the file: until it is, nothing is kept for it.
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            reading: Reading::default(),
            stored: Stored::default(),
            waiting: Waiting::default(),
            behind: true,
            again: BTreeMap::new(),
        }
    }

    /// The file was opened before anything was read.
    pub(super) fn opened(&mut self, stored: Stored, now: Timestamp) {
        self.return_to(stored, now);
        self.again.clear();
    }

    /// From where the topic is to be followed, and what is not as it was left.
    pub(super) fn begin(&mut self, extents: &[Extent], now: Timestamp) -> (StartAt, Vec<Change>) {
        let (reading, changes) = Reading::begin(std::mem::take(&mut self.reading.progress), extents);
        for change in &changes {
            if let Change::OtherLog { partition } = change {
                self.again.remove(partition);
            }
        }
        self.reading = reading;
        let offsets = self.reading.offsets();
        if offsets.is_empty() {
            return (StartAt::Time(now.minus(self.window)), changes);
        }
        (StartAt::Offsets(offsets), changes)
    }

    /// To be told of every record that the bus delivers, before it is decoded.
    pub(super) fn see(&mut self, record: &Record) -> Sight {
        let sight = self.reading.see(record);
        if sight == Sight::OtherLog {
            self.again.remove(&record.position.partition);
        }
        sight
    }

    /// To be told what the history made of a record.
    pub(super) fn take(&mut self, taken: Taken, position: Position) {
        let came_before = || self.again.get(&position.partition).is_some_and(|end| position.offset < *end);
        match taken {
            _ if self.behind => {}
            Taken::New(record) => self.waiting.push(record),
            // The history has it, the archive may not.
            Taken::Repeated(record) | Taken::Late(record) if came_before() => self.waiting.push(record),
            Taken::Repeated(_) | Taken::Late(_) => {}
        }
        if self.waiting.bytes > ARCHIVE_WAITING_BYTES_MAX {
            self.fall_behind();
        }
    }

    /// Everything below `ends` has been read.
    pub(super) fn caught_up(&mut self, ends: &BTreeMap<u32, u64>) {
        self.reading.caught_up(ends);
    }

    /// Whether the file lacks what nobody holds any more: it is to be visited, batch or not.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.bytes
    }

    /// Records that are read and not stored yet, those without use among them.
    pub(super) fn uncommitted(&self) -> u64 {
        self.reading.progress.total().saturating_sub(self.stored.progress.total())
    }

    /// What to commit now, if there is anything to change. Whoever takes it tries until [`Self::committed`].
    pub(super) fn batch(&mut self, now: Timestamp) -> Option<Batch> {
        let is_old = |oldest| oldest < now.minus(self.window);
        let changes = self.reading.progress != self.stored.progress || self.stored.oldest.is_some_and(is_old);
        (changes && !self.behind).then(|| Batch {
            after: self.stored.commits,
            progress: self.reading.progress.clone(),
            records: std::mem::take(&mut self.waiting).records,
        })
    }

    /// An attempt succeeded: `wanted` is the progress of its batch, if it had one, `stored` what the file now holds.
    pub(super) fn committed(&mut self, wanted: Option<&Progress>, stored: Stored, now: Timestamp) -> Next {
        if wanted == Some(&stored.progress) && !self.behind {
            self.stored = stored;
            return Next::GoOn;
        }
        for (partition, reached) in &self.reading.progress.0 {
            let end = self.again.entry(*partition).or_default();
            *end = reached.next.max(*end);
        }
        self.return_to(stored, now);
        Next::StartOver
    }

    /// Lets go of what waits; the bus has it.
    pub(super) fn fall_behind(&mut self) {
        self.waiting = Waiting::default();
        self.behind = true;
    }

    /// Goes on where the file is. When that is longer ago than the window, nothing in it counts any more, and the window
    /// is on the bus.
    fn return_to(&mut self, stored: Stored, now: Timestamp) {
        self.waiting = Waiting::default();
        self.behind = false;
        let counts = stored.at >= now.minus(self.window);
        let progress = if counts { stored.progress.clone() } else { Progress::default() };
        self.reading = Reading::at(progress);
        self.stored = stored;
    }
}

impl Waiting {
    fn push(&mut self, record: Kept) {
        let point = &record.point;
        let is_new = self.layouts.insert(point.layout.as_ptr().addr());
        self.bytes += if is_new { point.bytes_with_names() } else { point.bytes() };
        self.records.push(record);
    }
}
