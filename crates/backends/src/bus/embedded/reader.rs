//! One subscription: a task that follows the log at its reader's pace.
//!
//! Nobody hands records to a reader; each reader fetches its own from the log, in bounded chunks, when its channel has
//! room. So a slow one holds back nobody. The newest ends arrive over a watch channel, which remembers that it changed:
//! no wake-up is lost between looking and waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Shared;
use super::group::{Membership, Share};
use super::log::{self, Most, Topics};
use crate::bus::{Burst, BusError, Record};

/// What one read of one partition takes from the log.
const CHUNK: Most = Most { records: 512, bytes: 1_024 * 1_024 };
/// What is handed on together, at most.
pub(super) const BURST_RECORDS: usize = 32;
/// Between two attempts to read a store that fails.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The reading side of one subscription.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    topic: String,
    /// The next offset of each partition this reader has.
    next: BTreeMap<u32, u64>,
    group: Option<Group>,
    ends: watch::Receiver<Arc<Topics>>,
    records: mpsc::Sender<Result<Burst, BusError>>,
}

#[derive(Debug)]
struct Group {
    name: String,
    membership: Membership,
}

impl Reader {
    /// Reads every partition, from `next`.
    pub(super) fn alone(
        shared: Arc<Shared>,
        topic: &str,
        next: BTreeMap<u32, u64>,
        records: mpsc::Sender<Result<Burst, BusError>>,
    ) -> Self {
        let ends = shared.topics.subscribe();
        Self { shared, topic: topic.to_owned(), next, group: None, ends, records }
    }

    /// Reads the member's share, each partition from the group's commit.
    pub(super) fn member(
        shared: Arc<Shared>,
        topic: &str,
        group: &str,
        membership: Membership,
        records: mpsc::Sender<Result<Burst, BusError>>,
    ) -> Self {
        let mut reader = Self::alone(shared, topic, BTreeMap::new(), records);
        reader.group = Some(Group { name: group.to_owned(), membership });
        reader
    }

    /// Runs until the subscription is dropped or the bus closes.
    pub(super) async fn run(mut self) {
        let stopping = self.shared.scope.stopping();
        let gone = self.records.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = gone.closed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            match self.round().await {
                Ok(true) => {}
                Ok(false) => self.something_new().await,
                Err(BusError::Closed) => return,
                Err(error) => {
                    if self.records.send(Err(error)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Reads each partition once and hands on what is there. `false` when there was nothing.
    async fn round(&mut self) -> Result<bool, BusError> {
        self.take_share().await?;
        let topics = Arc::clone(&self.ends.borrow_and_update());
        let Some(topic) = topics.get(&self.topic) else { return Ok(false) };
        let mut found = false;
        for number in self.next.keys().copied().collect::<Vec<u32>>() {
            let Some(partition) = topic.partitions.get(number as usize) else { continue };
            let from = self.next.get(&number).copied().unwrap_or(0);
            if from >= partition.high {
                continue;
            }
            let (id, high) = (topic.id, partition.high);
            let read = move |transaction: &_| log::read(transaction, id, number, from, high, CHUNK);
            let (records, next) = self.shared.read(read).await?;
            found = true;
            if self.hand_on(number, records).await {
                self.next.insert(number, next);
            }
        }
        Ok(found)
    }

    /// Sends `records`; stops with `false` as soon as the share changes or nobody listens.
    async fn hand_on(&mut self, partition: u32, records: Vec<Record>) -> bool {
        let mut records = records.into_iter();
        loop {
            let burst: Burst = records.by_ref().take(BURST_RECORDS).collect();
            let Some(last) = burst.last().map(|record| record.position.offset) else { return true };
            let Ok(place) = self.records.reserve().await else { return false };
            if self.group.as_ref().is_some_and(|group| group.membership.share.has_changed().unwrap_or(true)) {
                return false;
            }
            place.send(Ok(burst));
            self.next.insert(partition, last + 1);
        }
    }

    /// Lets go of what went to another member and begins what came from one.
    async fn take_share(&mut self) -> Result<(), BusError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        let share: Share = group.membership.share.borrow_and_update().clone();
        self.next.retain(|partition, _| share.contains(partition));
        if share.len() == self.next.len() {
            return Ok(());
        }
        let id = self.ends.borrow().get(&self.topic).map_or(0, |topic| topic.id);
        let name = group.name.clone();
        let committed = self.shared.read(move |transaction| log::committed(transaction, &name, id)).await?;
        for partition in share {
            let start = committed.get(&partition).copied().unwrap_or(0);
            self.next.entry(partition).or_insert(start);
        }
        Ok(())
    }

    async fn something_new(&mut self) {
        let Self { ends, group, .. } = self;
        let share_changed = async {
            match group {
                Some(group) => group.membership.share.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        // The senders live as long as `shared` and `membership`, so neither side can be gone.
        tokio::select! {
            _ = ends.changed() => {}
            _ = share_changed => {}
        }
    }
}
