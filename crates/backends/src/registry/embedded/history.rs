//! The newest changes, in memory, for watches to follow at their own pace.
//!
//! They are not on disk: after a restart nobody watches yet, and who comes with an older revision gets a resync, which
//! the law allows. That halves what every commit writes.

use std::collections::VecDeque;

use model::id::Revision;

use crate::registry::Event;

/// Changes of past revisions, oldest first; bounded in number and bytes.
#[derive(Debug)]
pub(super) struct History {
    events_max: usize,
    bytes_max: usize,
    events: VecDeque<Event>,
    bytes: usize,
    /// Every change after this revision is here.
    floor: Revision,
}

/// Events handed to a watch at once.
const CHUNK: usize = 256;

impl History {
    /// Empty, beginning after `floor`.
    pub(super) fn new(floor: Revision, events_max: usize, bytes_max: usize) -> Self {
        Self { events_max, bytes_max, events: VecDeque::new(), bytes: 0, floor }
    }

    pub(super) fn extend(&mut self, events: Vec<Event>) {
        self.bytes += events.iter().map(size).sum::<usize>();
        self.events.extend(events);
        while self.events.len() > self.events_max || self.bytes > self.bytes_max {
            let Some(forgotten) = self.events.pop_front() else { break };
            self.bytes -= size(&forgotten);
            self.floor = revision(&forgotten);
        }
    }

    /// The next changes under `prefix` after `after`, whole revisions only, and the revision to go on after. `None` when
    /// some are forgotten.
    pub(super) fn after(&self, after: Revision, prefix: &str) -> Option<(Vec<Event>, Revision)> {
        if after < self.floor {
            return None;
        }
        let start = self.events.partition_point(|event| revision(event) <= after);
        let mut chunk: Vec<Event> = Vec::new();
        let mut seen = after;
        for event in self.events.range(start..) {
            if chunk.len() >= CHUNK && revision(event) != seen {
                break;
            }
            seen = revision(event);
            if key(event).starts_with(prefix) {
                chunk.push(event.clone());
            }
        }
        Some((chunk, seen))
    }
}

fn revision(event: &Event) -> Revision {
    match event {
        Event::Put(entry) => entry.modified,
        Event::Delete { revision, .. } => *revision,
        Event::Resync(snapshot) => snapshot.revision,
    }
}

/// Resyncs are made for one watch and never kept.
fn key(event: &Event) -> &str {
    match event {
        Event::Put(entry) => &entry.key,
        Event::Delete { key, .. } => key,
        Event::Resync(_) => "",
    }
}

fn size(event: &Event) -> usize {
    let value = if let Event::Put(entry) = event { entry.value.len() } else { 0 };
    size_of::<Event>() + key(event).len() + value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(key: &str, revision: u64) -> Event {
        Event::Delete { key: key.to_owned(), revision: Revision(revision) }
    }

    #[test]
    fn a_chunk_never_splits_a_revision() {
        let mut history = History::new(Revision(0), 10_000, usize::MAX);
        history.extend((0..CHUNK as u64 - 1).map(|at| deleted("a", at + 1)).collect());
        let large = CHUNK as u64;
        history.extend(vec![deleted("a", large); 3]);
        history.extend(vec![deleted("a", large + 1)]);
        let (chunk, seen) = history.after(Revision(0), "").unwrap();
        assert_eq!((chunk.len(), seen), (CHUNK + 2, Revision(large)));
        assert_eq!(history.after(seen, ""), Some((vec![deleted("a", large + 1)], Revision(large + 1))));
    }

    #[test]
    fn what_is_forgotten_is_told() {
        for (events_max, bytes_max) in [(2, usize::MAX), (100, 2 * size(&deleted("a", 1)))] {
            let mut history = History::new(Revision(0), events_max, bytes_max);
            history.extend(vec![deleted("a", 1), deleted("a", 2), deleted("a", 3)]);
            assert_eq!(history.after(Revision(0), ""), None);
            assert_eq!(history.after(Revision(1), "").map(|(events, _)| events.len()), Some(2));
        }
    }
}
