//! `monitoring-data`: into the history, and into the archive where there is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backends::bus::{Bus, BusError, Record, StartAt};
use backends::follow::{self, Followed};
use prometheus::IntCounter;
use proto::record::{DataRecord, MONITORING_DATA};
use runtime::{Backoff, Component, clock};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::FOLLOWED;
use crate::archive::{Archive, Look, Next};
use crate::consume::{Bad, EXPIRE_EVERY};
use crate::history::History;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CEILING: Duration = Duration::from_secs(5);

/// The reader of the topic.
#[derive(Debug)]
pub(crate) struct Data {
    bus: Arc<dyn Bus>,
    health: Component,
    window: Duration,
    history: History,
    bad: Bad,
    archive: Option<Archive>,
}

/// Why following ended.
enum Ended {
    /// The bus has closed.
    Closed,
    StartOver,
}

impl Data {
    pub(crate) fn new(
        bus: Arc<dyn Bus>,
        health: Component,
        window: Duration,
        history: History,
        bad: IntCounter,
        archive: Option<Archive>,
    ) -> Self {
        Self { bus, health, window, history, bad: Bad::new(bad), archive }
    }

    /// Reads until the bus closes.
    pub(crate) async fn run(&mut self) {
        if let Some(archive) = &mut self.archive {
            archive.open(&self.history).await;
        }
        while let Some(start) = self.start().await {
            match self.follow(start).await {
                Ended::Closed => return,
                Ended::StartOver => {}
            }
        }
    }

    /// To be called when it does not run any more.
    pub(crate) async fn close(self) {
        if let Some(archive) = self.archive {
            archive.close().await;
        }
    }

    /// From where to follow. `None` when the bus has closed.
    async fn start(&mut self) -> Option<StartAt> {
        let Some(archive) = &mut self.archive else {
            return Some(StartAt::Time(clock::wall().minus(self.window)));
        };
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CEILING);
        loop {
            match self.bus.extents(MONITORING_DATA).await {
                Ok(extents) => return Some(archive.begin(&extents)),
                Err(BusError::Closed) => return None,
                Err(error) => {
                    self.health.degraded(format!("{MONITORING_DATA}: {error}"));
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn follow(&mut self, start: StartAt) -> Ended {
        let (out, records) = mpsc::channel(FOLLOWED);
        let (bus, health) = (Arc::clone(&self.bus), self.health.clone());
        let following = follow::topic(bus, MONITORING_DATA, start, health, out, std::convert::identity);
        // Either ends soon after the other.
        let ((), ended) = tokio::join!(following, self.read(records));
        ended
    }

    async fn read(&mut self, mut records: mpsc::Receiver<Followed>) -> Ended {
        let mut expiry = tokio::time::interval(EXPIRE_EVERY);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                followed = records.recv() => match followed {
                    Some(Followed::Record(record)) => self.take(&record),
                    Some(Followed::CaughtUp(ends)) => {
                        self.caught_up(&ends);
                        Next::GoOn
                    }
                    None => return Ended::Closed,
                },
                next = turn(&mut self.archive) => next,
                _ = expiry.tick() => {
                    self.history.expire(clock::wall());
                    Next::GoOn
                }
            };
            match next {
                Next::GoOn => {}
                Next::StartOver => return Ended::StartOver,
            }
        }
    }

    fn take(&mut self, record: &Record) -> Next {
        match self.archive.as_mut().map_or(Look::Read, |archive| archive.look(record)) {
            Look::Read => {}
            Look::Skip => return Next::GoOn,
            Look::StartOver => return Next::StartOver,
        }
        if let Some(data) = self.bad.decode::<DataRecord>(record) {
            let taken = self.history.take(data, record.at);
            if let Some(archive) = &mut self.archive {
                archive.take(taken, record.position);
            }
        }
        Next::GoOn
    }

    fn caught_up(&mut self, ends: &BTreeMap<u32, u64>) {
        self.history.go_live();
        if let Some(archive) = &mut self.archive {
            archive.caught_up(ends);
        }
    }
}

/// Never completes where there is no archive.
async fn turn(archive: &mut Option<Archive>) -> Next {
    match archive {
        Some(archive) => archive.turn().await,
        None => std::future::pending().await,
    }
}
