//! How far a watch has come, so that a new stream goes on exactly where the last one broke off.
//!
//! One revision may hold several changes, and a stream may break off between two of them. A new stream is asked for from
//! the last complete revision on, and what was delivered already is passed over.
//!
//! That revision itself is asked for again, although all of it was seen. Up to 3.4.33 and 3.5.14 etcd loses a delete at
//! exactly the revision of the compaction; asked for one revision earlier, it says instead that it has forgotten.

use model::id::Revision;

/// A place between two changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Every change up to here was delivered, this revision's included.
    complete: Revision,
    /// The revision that was begun, and how many of its changes were delivered.
    begun: Option<(Revision, u64)>,
    /// Changes of the begun revision that the present stream has repeated.
    repeated: u64,
}

impl Cursor {
    pub(super) fn after(complete: Revision) -> Self {
        Self { complete, begun: None, repeated: 0 }
    }

    pub(super) fn complete(&self) -> Revision {
        self.complete
    }

    /// Where a new stream must begin. The first revision of an etcd is 1; 0 would mean "from now on".
    pub(super) fn begin_stream(&mut self) -> Revision {
        self.repeated = 0;
        Revision(self.complete.0.max(1))
    }

    /// Whether a change that arrived is new, and so to be delivered.
    pub(super) fn take(&mut self, revision: Revision) -> bool {
        if revision <= self.complete {
            return false;
        }
        let taken = match self.begun {
            Some((begun, taken)) if begun == revision => taken,
            Some((begun, _)) => {
                // A later revision has begun, so no more of this one will come.
                self.complete = begun;
                0
            }
            None => 0,
        };
        if self.repeated < taken {
            self.repeated += 1;
            return false;
        }
        self.begun = Some((revision, taken + 1));
        self.repeated = taken + 1;
        true
    }

    /// The stream has told everything up to `revision`.
    pub(super) fn reach(&mut self, revision: Revision) {
        self.complete = self.complete.max(revision);
        if self.begun.is_some_and(|(begun, _)| begun <= revision) {
            self.begun = None;
            self.repeated = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A log of revisions with one to three changes each, read in streams that break off after any number of changes.
        #[test]
        fn every_change_is_taken_once_wherever_streams_break_off(
            sizes in prop::collection::vec(1_u64..4, 1..8),
            breaks in prop::collection::vec((0_usize..6, any::<bool>()), 0..12),
            after in 0_u64..4,
        ) {
            let log: Vec<(Revision, u64)> = (2..).zip(&sizes)
                .flat_map(|(revision, size)| (0..*size).map(move |change| (Revision(revision), change)))
                .collect();
            let mut cursor = Cursor::after(Revision(after));
            let mut seen = Vec::new();
            for (length, finishes) in breaks.into_iter().chain([(usize::MAX, true)]) {
                let from = cursor.begin_stream();
                let stream: Vec<_> = log.iter().filter(|(revision, _)| *revision >= from).take(length).collect();
                seen.extend(stream.iter().filter(|(revision, _)| cursor.take(*revision)).map(|change| **change));
                // A response that is whole ends with its last revision.
                let whole = stream.last().is_some_and(|(last, change)| *change + 1 == sizes[last.0 as usize - 2]);
                if finishes && whole {
                    cursor.reach(stream.last().unwrap().0);
                }
            }
            let expected: Vec<_> = log.into_iter().filter(|(revision, _)| revision.0 > after).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn progress_moves_on_without_changes() {
        let mut cursor = Cursor::after(Revision(0));
        assert_eq!(cursor.begin_stream(), Revision(1));
        cursor.reach(Revision(9));
        assert_eq!((cursor.begin_stream(), cursor.complete()), (Revision(9), Revision(9)));
        assert!(!cursor.take(Revision(9)) && cursor.take(Revision(10)));
    }
}
