//! One watch: a stream from etcd that is begun anew, where it broke off, for as long as somebody listens.
//!
//! Each watch has a stream of its own. All streams of a connection share its flow control, so one that nobody reads
//! could stop every call beside it. A watch whose owner is slow therefore gives up its stream and asks etcd again later:
//! what is waiting is kept by etcd, not here.
//!
//! Only etcd's own progress messages count. Those that a client asks for may overtake changes (etcd-io/etcd#15220).

use std::sync::Arc;
use std::time::Duration;

use model::id::Revision;
use runtime::Backoff;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::Instant;
use tonic::Streaming;

use super::cursor::Cursor;
use super::wire::pb;
use super::{Shared, WATCH_EVENTS, error_of, wire};
use crate::registry::{Event, RegistryError};

/// What a reader may take for one change before its watch gives up the stream.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_CEILING: Duration = Duration::from_secs(2);
/// A stream that lived for so long was a good one: the next try need not wait.
const STEADY: Duration = Duration::from_secs(5);

/// The delivering side of one watch.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) shared: Arc<Shared>,
    pub(super) prefix: String,
    /// `None` to begin with everything.
    pub(super) cursor: Option<Cursor>,
    pub(super) events: mpsc::Sender<Result<Event, RegistryError>>,
}

/// Why there is no stream now.
#[derive(Debug)]
enum Broken {
    /// The owner was slow and has caught up.
    Behind,
    /// etcd no longer keeps, or never had, what would come next.
    Forgotten,
    Lost(RegistryError),
}

/// Nobody listens any more.
#[derive(Debug)]
struct Gone;

impl Watcher {
    /// Runs until the watch is dropped or the registry closes.
    pub(super) async fn run(mut self) {
        let stopping = self.shared.scope.stopping();
        let gone = self.events.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = gone.closed() => {}
            Gone = self.follow() => {}
        }
    }

    async fn follow(&mut self) -> Gone {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CEILING);
        let mut broken_since = None;
        let mut is_told = false;
        loop {
            let mut opened = None;
            let broken = match self.stream(&mut opened).await {
                Ok(broken) => broken,
                Err(gone) => return gone,
            };
            if let Some(opened) = opened {
                (broken_since, is_told) = (None, false);
                if Instant::now() >= opened + STEADY {
                    backoff.reset();
                }
            }
            match broken {
                Broken::Behind => continue,
                Broken::Forgotten => self.cursor = None,
                Broken::Lost(error) => {
                    let since = *broken_since.get_or_insert_with(Instant::now);
                    if !is_told && since.elapsed() >= self.shared.interruption {
                        is_told = true;
                        // Who was told of trouble hears of its end by a resync, even where nothing has changed.
                        self.cursor = None;
                        if self.events.send(Err(error)).await.is_err() {
                            return Gone;
                        }
                    }
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Opens one stream and reads it to its end. `opened` is when etcd agreed to it.
    async fn stream(&mut self, opened: &mut Option<Instant>) -> Result<Broken, Gone> {
        let mut cursor = match self.cursor {
            Some(cursor) => cursor,
            None => match self.shared.list(&self.prefix).await {
                Ok(snapshot) => {
                    let cursor = Cursor::after(snapshot.revision);
                    self.cursor = Some(cursor);
                    self.events.send(Ok(Event::Resync(snapshot))).await.map_err(|_| Gone)?;
                    cursor
                }
                Err(error) => return Ok(Broken::Lost(error)),
            },
        };
        let stream = match self.shared.open_watch(&self.prefix, cursor.begin_stream()).await {
            Ok((created, _)) if created.canceled => return Ok(self.cancelled(&created).await),
            Ok((created, stream)) => {
                if wire::revision(created.header.as_ref()) < cursor.complete() {
                    // This member lags behind, which passes, or this etcd is not the one that gave the revision.
                    match self.shared.revision().await {
                        Ok(current) if current < cursor.complete() => return Ok(Broken::Forgotten),
                        Ok(_) => {}
                        Err(error) => return Ok(Broken::Lost(error)),
                    }
                }
                stream
            }
            Err(status) => return Ok(Broken::Lost(error_of(&status))),
        };
        *opened = Some(Instant::now());
        let broken = self.read(stream, &mut cursor).await;
        self.cursor = Some(cursor);
        broken
    }

    async fn read(
        &mut self,
        mut stream: Streaming<pb::WatchResponse>,
        cursor: &mut Cursor,
    ) -> Result<Broken, Gone> {
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Ok(lost("etcd ended the watch")),
                Err(status) => return Ok(Broken::Lost(error_of(&status))),
            };
            if response.canceled {
                return Ok(self.cancelled(&response).await);
            }
            let reached = reached(&response);
            let mut events = response.events.into_iter();
            for event in events.by_ref() {
                if let Some(late) = self.deliver(event, cursor).await? {
                    // What has arrived is in memory already; only the stream must not wait for its reader.
                    drop(stream);
                    self.events.send(Ok(late)).await.map_err(|_| Gone)?;
                    return self.catch_up(events, reached, cursor).await;
                }
            }
            cursor.reach(reached);
        }
    }

    /// Gives back what the reader would not take in time.
    async fn deliver(&self, event: pb::Event, cursor: &mut Cursor) -> Result<Option<Event>, Gone> {
        let Some(event) = new(event, cursor) else { return Ok(None) };
        match self.events.send_timeout(Ok(event), PATIENCE).await {
            Ok(()) | Err(SendTimeoutError::Timeout(Err(_))) => Ok(None),
            Err(SendTimeoutError::Timeout(Ok(event))) => Ok(Some(event)),
            Err(SendTimeoutError::Closed(_)) => Err(Gone),
        }
    }

    /// Delivers the rest of a response at the reader's pace, then waits until it is worth asking for more.
    async fn catch_up(
        &self,
        rest: impl Iterator<Item = pb::Event>,
        reached: Revision,
        cursor: &mut Cursor,
    ) -> Result<Broken, Gone> {
        for event in rest {
            if let Some(event) = new(event, cursor) {
                self.events.send(Ok(event)).await.map_err(|_| Gone)?;
            }
        }
        cursor.reach(reached);
        let room = self.events.reserve_many(WATCH_EVENTS / 2).await.map_err(|_| Gone)?;
        drop(room);
        Ok(Broken::Behind)
    }

    async fn cancelled(&self, response: &pb::WatchResponse) -> Broken {
        if response.compact_revision > 0 {
            return Broken::Forgotten;
        }
        // The reason is a text that differs between versions; one of them is a token that has ended.
        self.shared.members.sign_out().await;
        lost(&format!("etcd cancelled the watch: {}", response.cancel_reason))
    }
}

/// The revision up to which everything has been told once this response is read.
fn reached(response: &pb::WatchResponse) -> Revision {
    match response.events.last() {
        // More of this revision may come.
        _ if response.fragment || response.created => Revision(0),
        // The header may be ahead of a watch that is catching up.
        Some(last) => revision(last),
        None => wire::revision(response.header.as_ref()),
    }
}

fn revision(event: &pb::Event) -> Revision {
    Revision(event.kv.as_ref().map_or(0, |kv| wire::unsigned(kv.mod_revision)))
}

/// `None` for a change that was delivered already.
fn new(event: pb::Event, cursor: &mut Cursor) -> Option<Event> {
    if cursor.take(revision(&event)) { wire::event(event) } else { None }
}

fn lost(reason: &str) -> Broken {
    Broken::Lost(RegistryError::Unavailable { reason: reason.to_owned() })
}
