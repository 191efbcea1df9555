//! Reading a topic that knows when it has delivered what was there when it began.
//!
//! As `backends::follow`, for somebody who waits at a terminal: nothing is tried again for ever, and it can be given up.

use std::collections::BTreeMap;

use backends::bus::{Bus, BusError, Record, StartAt, Subscription};

/// A subscription and how much is left of the past.
#[derive(Debug)]
pub(in crate::cli) struct CatchUp {
    subscription: Subscription,
    /// The end of each partition that has something left of the past.
    missing: BTreeMap<u32, u64>,
    past: u64,
    read: u64,
}

impl CatchUp {
    pub(in crate::cli) async fn begin(bus: &dyn Bus, topic: &str, start: StartAt) -> Result<Self, BusError> {
        let subscription = bus.subscribe(topic, start).await?;
        let extents = bus.extents(topic).await?;
        let begin = |partition: u32, low| subscription.begins().get(&partition).copied().unwrap_or(low);
        let lengths = extents
            .iter()
            .map(|extent| (extent, extent.high.saturating_sub(begin(extent.partition, extent.low))));
        let left: Vec<_> = lengths.filter(|(_, length)| *length > 0).collect();
        let missing = left.iter().map(|(extent, _)| (extent.partition, extent.high)).collect();
        let past = left.iter().map(|(_, length)| length).sum();
        Ok(Self { subscription, missing, past, read: 0 })
    }

    /// Whether all that was there has been given.
    pub(in crate::cli) fn is_done(&self) -> bool {
        self.missing.is_empty()
    }

    /// Records given, and records and gaps there were.
    pub(in crate::cli) fn progress(&self) -> (u64, u64) {
        (self.read, self.past.max(self.read))
    }

    /// The next record, of the past or later. `None` when the bus has closed.
    ///
    /// Cancel safe: yes.
    pub(in crate::cli) async fn next(&mut self) -> Option<Result<Record, BusError>> {
        let next = self.subscription.next().await?;
        if let Ok(record) = &next {
            self.read += 1;
            let position = record.position;
            if self.missing.get(&position.partition).is_some_and(|end| position.offset + 1 >= *end) {
                self.missing.remove(&position.partition);
            }
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backends::bus::embedded::{EmbeddedBus, Options};
    use backends::bus::{NewRecord, Retention, TopicSpec};

    use super::*;

    #[tokio::test]
    async fn the_past_ends_where_the_topic_ended_when_reading_began() {
        let directory = tempfile::tempdir().unwrap();
        let bus = EmbeddedBus::open(directory.path(), Options::default()).unwrap();
        let retention = Retention { age: Duration::from_secs(3600), bytes: u64::MAX, compacted: false };
        let spec = TopicSpec { name: "t".to_owned(), partitions: 3, retention };
        bus.ensure_topics(&[spec]).await.unwrap();
        let record = |key: usize| NewRecord { key: key.to_string(), ..NewRecord::default() };
        assert!(CatchUp::begin(&bus, "t", StartAt::Earliest).await.unwrap().is_done());

        bus.publish("t", (0..5).map(record).collect()).await.unwrap();
        let mut reading = CatchUp::begin(&bus, "t", StartAt::Earliest).await.unwrap();
        assert!(CatchUp::begin(&bus, "t", StartAt::Latest).await.unwrap().is_done());
        for read in 0..5 {
            assert!(!reading.is_done(), "after {read} of 5");
            reading.next().await.unwrap().unwrap();
        }
        assert!(reading.is_done());
        assert_eq!(reading.progress(), (5, 5));
        bus.publish("t", vec![record(5)]).await.unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().key, "5");
    }
}
