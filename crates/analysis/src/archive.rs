//! What analysis took from the bus, on disk: blocks of records and, in the same transaction, the offsets they reach to.
//!
//! The bus keeps every record until its retention ends, so the archive needs no log of its own and never hurries: it
//! commits in large pieces, on a blocking thread, and what was not committed is read from the bus again. Nothing here is
//! fatal. A disk that takes nothing makes the role DEGRADED and the history in memory goes on; once it takes again, the
//! topic is followed again from where the file is. A file that cannot be trusted is set aside by name and rebuilt.
//!
//! Blocks of one run may overlap after such a spell, when a record was published twice: who reads them goes by sequence.

mod block;
#[cfg(test)]
mod disk;
mod file;
mod keeper;
mod progress;

use std::collections::BTreeMap;
use std::time::Duration;

use backends::bus::{Extent, Position, Record, StartAt};
use backends::directory::DataDirectory;
use model::limit::{ARCHIVE_BATCH_BYTES, ARCHIVE_COMMIT_EVERY};
use model::sample::Timestamp;
use runtime::{Backoff, Component, clock};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::counters::ArchiveCounters;
use crate::history::{History, Taken};
pub(crate) use block::{Block, Extra, Row};
use file::{File, FileError, Source};
pub(crate) use keeper::Next;
use keeper::{Batch, Keeper, Stored};
use progress::{Change, Sight};

/// Below the data directory of analysis.
const FILE: &str = "archive.redb";
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_CEILING: Duration = Duration::from_secs(30);
/// For the last commit when the role stops; less than the role is given.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Read,
    /// It was read before, or the window has passed it.
    Skip,
    /// Follow the topic anew, from [`Archive::begin`].
    StartOver,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Archive {
    window: Duration,
    keeper: Keeper,
    /// `None` while an attempt has it.
    file: Option<File>,
    attempt: Option<JoinHandle<Attempt>>,
    /// What the last attempt could not write.
    unwritten: Option<Batch>,
    due: Instant,
    trouble: Option<Backoff>,
    health: Component,
    counters: ArchiveCounters,
    /// The lock; nobody else has the file.
    _directory: Option<DataDirectory>,
}

/// One visit to the file, on a blocking thread.
#[derive(Debug)]
struct Attempt {
    file: File,
    batch: Option<Batch>,
    result: Result<Stored, FileError>,
}

impl Archive {
    pub(crate) fn new(
        directory: DataDirectory,
        window: Duration,
        bytes_max: u64,
        health: Component,
        counters: ArchiveCounters,
    ) -> Self {
        let source = Source::File(directory.path().join(FILE));
        let archive = Self::of(File::new(source, window, bytes_max), window, health, counters);
        Self { _directory: Some(directory), ..archive }
    }

    fn of(file: File, window: Duration, health: Component, counters: ArchiveCounters) -> Self {
        Self {
            window,
            keeper: Keeper::new(window),
            file: Some(file),
            attempt: None,
            unwritten: None,
            due: Instant::now(),
            trouble: None,
            health,
            counters,
            _directory: None,
        }
    }

    /// Reads what lies in the window into `history`. To be called once, before anything else.
    pub(crate) async fn open(&mut self, history: &History) {
        let Some(mut file) = self.file.take() else { return };
        let (history, since) = (history.clone(), clock::wall().minus(self.window));
        let opened = tokio::task::spawn_blocking(move || {
            let (result, restored) = open(&mut file, &history, since);
            (Attempt { file, batch: None, result }, restored)
        });
        let Attempt { file, result, .. } = match opened.await {
            Ok((attempt, restored)) => {
                self.counters.restored.inc_by(restored);
                attempt
            }
            Err(error) => return self.broke_off(&error),
        };
        self.file = Some(file);
        match result {
            Ok(stored) => {
                self.went_well(&stored);
                self.keeper.opened(stored, clock::wall());
            }
            Err(error) => self.went_wrong(&error),
        }
    }

    /// From where the topic is to be followed now that it has `extents`.
    pub(crate) fn begin(&mut self, extents: &[Extent]) -> StartAt {
        let (start, changes) = self.keeper.begin(extents, clock::wall());
        changes.into_iter().for_each(|change| self.tell(change));
        start
    }

    /// To be asked about every record, before it is decoded.
    pub(crate) fn look(&mut self, record: &Record) -> Look {
        match self.keeper.see(record) {
            Sight::New if record.at < clock::wall().minus(self.window) => Look::Skip,
            Sight::New => Look::Read,
            Sight::Witness => Look::Skip,
            Sight::OtherLog => {
                self.tell(Change::OtherLog { partition: record.position.partition });
                Look::StartOver
            }
        }
    }

    /// To be told what the history made of a record.
    pub(crate) fn take(&mut self, taken: Taken, position: Position) {
        self.keeper.take(taken, position);
        if self.keeper.waiting_bytes() >= ARCHIVE_BATCH_BYTES && self.trouble.is_none() {
            self.visit();
        }
    }

    /// Everything below `ends` has been read.
    pub(crate) fn caught_up(&mut self, ends: &BTreeMap<u32, u64>) {
        self.keeper.caught_up(ends);
    }

    /// Commits when it is time. Completes with each attempt.
    ///
    /// Cancel safe: yes, an attempt goes on and is waited for by the next call.
    pub(crate) async fn turn(&mut self) -> Next {
        loop {
            if let Some(attempt) = &mut self.attempt {
                let ended = attempt.await;
                self.attempt = None;
                return self.ended(ended);
            }
            tokio::time::sleep_until(self.due).await;
            self.visit();
        }
    }

    /// Commits what is left, as far as there is time, and closes the file.
    pub(crate) async fn close(mut self) {
        let last = async {
            if self.attempt.is_some() {
                self.turn().await;
            }
            self.visit();
            if self.attempt.is_some() {
                self.turn().await;
            }
            // Closing writes.
            let file = self.file.take();
            drop(tokio::task::spawn_blocking(move || drop(file)).await);
        };
        if tokio::time::timeout(CLOSE_WITHIN, last).await.is_err() {
            tracing::warn!(
                "the archive's last commit takes too long, what it lacks is read from the bus again"
            );
        }
    }

    /// Begins an attempt if there is anything to do and none under way.
    fn visit(&mut self) {
        self.due = Instant::now() + ARCHIVE_COMMIT_EVERY;
        let Some(mut file) = self.file.take() else { return };
        let batch = self.unwritten.take().or_else(|| self.keeper.batch(clock::wall()));
        if batch.is_none() && !self.keeper.is_behind() {
            self.file = Some(file);
            return;
        }
        let now = clock::wall();
        self.attempt = Some(tokio::task::spawn_blocking(move || {
            let result = attempt(&mut file, batch.as_ref(), now);
            Attempt { file, batch, result }
        }));
    }

    fn ended(&mut self, ended: Result<Attempt, JoinError>) -> Next {
        let Attempt { file, batch, result } = match ended {
            Ok(attempt) => attempt,
            Err(error) => {
                self.broke_off(&error);
                return Next::GoOn;
            }
        };
        self.file = Some(file);
        match result {
            Ok(stored) => {
                self.went_well(&stored);
                self.counters.commits.inc_by(u64::from(batch.is_some()));
                let wanted = batch.as_ref().map(|batch| &batch.progress);
                let next = self.keeper.committed(wanted, stored, clock::wall());
                self.counters.uncommitted.set(i64::try_from(self.keeper.uncommitted()).unwrap_or(i64::MAX));
                if next == Next::StartOver {
                    self.counters.read_again.inc();
                    tracing::info!("the archive lacks records, they are read from the bus again");
                }
                next
            }
            Err(error) => {
                self.unwritten = batch;
                self.went_wrong(&error);
                Next::GoOn
            }
        }
    }

    fn went_well(&mut self, stored: &Stored) {
        if self.trouble.take().is_some() {
            tracing::info!("the archive can be written again");
        }
        self.health.ok();
        self.counters.blocks.set(i64::try_from(stored.blocks).unwrap_or(i64::MAX));
        self.counters.bytes.set(i64::try_from(stored.bytes).unwrap_or(i64::MAX));
    }

    fn went_wrong(&mut self, error: &FileError) {
        self.counters.failures.inc();
        if self.trouble.is_none() {
            tracing::warn!(%error, "the archive cannot be written, history goes on in memory");
        }
        self.health.degraded(error.to_string());
        let backoff = self.trouble.get_or_insert_with(|| Backoff::new(RETRY_FIRST, RETRY_CEILING));
        self.due = Instant::now() + backoff.next_delay();
    }

    /// The file is gone with the thread: for the rest of this process there is memory only.
    fn broke_off(&mut self, error: &JoinError) {
        self.counters.failures.inc();
        tracing::error!(%error, "the archive's thread broke off, history goes on in memory");
        self.health.degraded(format!("a commit broke off ({error}): restart analysis"));
    }

    fn tell(&self, change: Change) {
        match change {
            Change::OtherLog { partition } => {
                self.counters.other_logs.inc();
                tracing::warn!(
                    partition,
                    "the topic is not the one the archive was made from, reading what is there"
                );
            }
            Change::Missed { partition, records } => {
                self.counters.missed.inc_by(records);
                tracing::warn!(partition, records, "retention removed records before analysis read them");
            }
        }
    }
}

/// What is in the file, in `history`. Returns also how many records came.
fn open(file: &mut File, history: &History, since: Timestamp) -> (Result<Stored, FileError>, u64) {
    let mut restored = 0;
    let read = file.stored().and_then(|stored| {
        file.read(|agent, incarnation, block| {
            restored += history.restore(&agent, &incarnation, block, since) as u64;
        })?;
        Ok(stored)
    });
    (or_anew(file, read), restored)
}

fn attempt(file: &mut File, batch: Option<&Batch>, now: Timestamp) -> Result<Stored, FileError> {
    let result = match batch {
        Some(batch) => file.commit(batch, now),
        None => file.stored(),
    };
    or_anew(file, result)
}

/// In the place of a damaged file there is a new one.
fn or_anew(file: &mut File, result: Result<Stored, FileError>) -> Result<Stored, FileError> {
    let Err(FileError::Damaged { reason }) = &result else { return result };
    let aside = file.set_aside()?;
    tracing::error!(reason, aside = %aside.display(), "the archive is set aside and begun anew from the bus");
    file.stored()
}

#[cfg(test)]
mod tests;
