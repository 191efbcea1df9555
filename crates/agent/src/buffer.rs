//! What was collected and is not acknowledged: in memory, bounded, the oldest lost first and counted.
//!
//! Positions number parcels for the agent's lifetime. A session reads from a position on and releases up to one; that
//! is all it knows of what lies behind, so that a store on disk can take this place.

use std::collections::VecDeque;
use std::sync::Arc;

use model::id::Sequence;
use model::limit::AGENT_BUFFER_BYTES_MAX;

use crate::parcel::Parcel;

/// The number of one parcel, from 0, in the order they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position(u64);

impl Position {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What [`Heartbeat`](proto::wire::Heartbeat)s tell of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) ticks: u64,
    pub(crate) bytes: u64,
    /// Ticks evicted, since the agent started.
    pub(crate) lost_ticks: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Buffer {
    parcels: VecDeque<(Arc<Parcel>, usize)>,
    /// The position of the front of `parcels`.
    front: Position,
    bytes_max: usize,
    fill: Fill,
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new(AGENT_BUFFER_BYTES_MAX)
    }
}

impl Buffer {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { parcels: VecDeque::new(), front: Position::default(), bytes_max, fill: Fill::default() }
    }

    /// Keeps a parcel. Answers with the ticks that were lost to make room.
    pub(crate) fn push(&mut self, parcel: Parcel) -> u64 {
        let bytes = parcel.memory_bytes();
        self.fill.ticks += parcel.ticks();
        self.fill.bytes += bytes as u64;
        self.parcels.push_back((Arc::new(parcel), bytes));
        let lost_before = self.fill.lost_ticks;
        while self.fill.bytes > self.bytes_max as u64
            && let Some(ticks) = self.pop()
        {
            self.fill.lost_ticks += ticks;
        }
        self.fill.lost_ticks - lost_before
    }

    /// The first parcel at or after `from`, and its position: evicted ones are passed over.
    pub(crate) fn get(&self, from: Position) -> Option<(Position, Arc<Parcel>)> {
        let at = from.max(self.front);
        let index = usize::try_from(at.0 - self.front.0).ok()?;
        self.parcels.get(index).map(|(parcel, _)| (at, Arc::clone(parcel)))
    }

    /// Forgets everything before `end`. Answers with the last sequence number of what it forgot.
    pub(crate) fn release(&mut self, end: Position) -> Option<Sequence> {
        let mut last = None;
        while self.front < end
            && let Some((parcel, _)) = self.parcels.front()
        {
            last = Some(parcel.last);
            self.pop();
        }
        last
    }

    /// Where everything not acknowledged begins.
    pub(crate) fn front(&self) -> Position {
        self.front
    }

    pub(crate) fn fill(&self) -> Fill {
        self.fill
    }

    fn pop(&mut self) -> Option<u64> {
        let (parcel, bytes) = self.parcels.pop_front()?;
        self.front = self.front.next();
        self.fill.bytes -= bytes as u64;
        self.fill.ticks -= parcel.ticks();
        Some(parcel.ticks())
    }
}

#[cfg(test)]
mod tests {
    use model::sample::Tick;

    use super::*;
    use crate::parcel::Ledger;

    fn parcel(sequence: u64) -> Parcel {
        let (first_sequence, sequence) = (Sequence(sequence), Sequence(sequence));
        Ledger::default().send(Tick { first_sequence, sequence, ..Tick::default() })
    }

    #[test]
    fn a_full_buffer_loses_its_oldest_and_counts_them() {
        let mut buffer = Buffer::new(parcel(1).memory_bytes() * 3);
        let lost: Vec<u64> = (1..=5).map(|sequence| buffer.push(parcel(sequence))).collect();
        assert_eq!(lost, [0, 0, 0, 1, 1]);
        assert_eq!((buffer.fill().ticks, buffer.fill().lost_ticks), (3, 2));
        let (at, oldest) = buffer.get(Position::default()).unwrap();
        assert_eq!((at, oldest.first), (Position(2), Sequence(3)));
    }

    #[test]
    fn what_is_released_is_gone_and_what_is_not_stays() {
        let mut buffer = Buffer::default();
        for sequence in 1..=4 {
            buffer.push(parcel(sequence));
        }
        let (second, _) = buffer.get(Position(1)).unwrap();
        assert_eq!(buffer.release(second.next()), Some(Sequence(2)));
        assert_eq!(buffer.release(Position(1)), None, "released already");
        assert_eq!((buffer.front(), buffer.fill().ticks), (Position(2), 2));
        buffer.release(Position(4));
        assert_eq!(buffer.fill(), Fill::default());
    }
}
