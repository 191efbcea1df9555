//! From records of the bus to what is kept: lenient reading that no bad record stops. `monitoring-data` has its own
//! reader, [`crate::data`].

use std::time::Duration;

use backends::bus::Record;
use backends::follow::Followed;
use model::sample::Timestamp;
use prometheus::IntCounter;
use proto::record::{CONTENT_TYPE, CommandRecord, JSON, ResponseRecord};
use runtime::{Sparing, clock};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::commands::CommandBook;

/// How often what is too old is let go.
pub(crate) const EXPIRE_EVERY: Duration = Duration::from_secs(10);
const LOG_BAD_EVERY: Duration = Duration::from_secs(60);

/// What becomes of one topic's records.
pub(crate) trait Read: Send + 'static {
    fn read(&mut self, record: &Record);

    /// Time passes, records or not.
    fn expire(&mut self, now: Timestamp);
}

/// Reads until the follower ends.
pub(crate) async fn run(mut records: mpsc::Receiver<Followed>, mut reader: impl Read) {
    let mut expiry = tokio::time::interval(EXPIRE_EVERY);
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            followed = records.recv() => match followed {
                Some(Followed::Record(record)) => reader.read(&record),
                Some(Followed::CaughtUp(_)) => {}
                None => return,
            },
            _ = expiry.tick() => reader.expire(clock::wall()),
        }
    }
}

/// Reads `commands` into the book.
pub(crate) struct Commands {
    book: CommandBook,
    bad: Bad,
}

impl Commands {
    pub(crate) fn new(book: CommandBook, bad: IntCounter) -> Self {
        Self { book, bad: Bad::new(bad) }
    }
}

impl Read for Commands {
    fn read(&mut self, record: &Record) {
        if let Some(command) = self.bad.decode::<CommandRecord>(record) {
            self.book.take_command(&command, record);
        }
    }

    fn expire(&mut self, now: Timestamp) {
        self.book.expire(now);
    }
}

/// Reads `command-responses` into the book.
pub(crate) struct Responses {
    book: CommandBook,
    bad: Bad,
}

impl Responses {
    pub(crate) fn new(book: CommandBook, bad: IntCounter) -> Self {
        Self { book, bad: Bad::new(bad) }
    }
}

impl Read for Responses {
    fn read(&mut self, record: &Record) {
        if let Some(response) = self.bad.decode::<ResponseRecord>(record) {
            self.book.take_response(response, record.at, record.value.len());
        }
    }

    fn expire(&mut self, now: Timestamp) {
        self.book.expire(now);
    }
}

/// Records that cannot be read: each counted, one a minute told.
#[derive(Debug)]
pub(crate) struct Bad {
    count: IntCounter,
    told: Sparing,
}

impl Bad {
    pub(crate) fn new(count: IntCounter) -> Self {
        Self { count, told: Sparing::new(LOG_BAD_EVERY) }
    }

    pub(crate) fn decode<T: DeserializeOwned>(&mut self, record: &Record) -> Option<T> {
        // Foreign producers may leave the header out; what they write is JSON or nothing we know.
        let stranger = record.headers.get(CONTENT_TYPE).filter(|found| found.as_str() != JSON);
        let decoded = match stranger {
            Some(content_type) => Err(format!("its content type is {content_type:?}, {JSON} is read")),
            None => serde_json::from_slice(&record.value).map_err(|error| error.to_string()),
        };
        decoded.map_err(|reason| self.tell(record, &reason)).ok()
    }

    fn tell(&mut self, record: &Record, reason: &str) {
        self.count.inc();
        if !self.told.may_tell() {
            return;
        }
        let (partition, offset) = (record.position.partition, record.position.offset);
        tracing::warn!(
            partition,
            offset,
            key = record.key,
            reason,
            bad = self.count.get(),
            "skipped a bad record"
        );
    }
}
