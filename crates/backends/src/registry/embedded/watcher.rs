//! One watch: a task that follows the history at its watcher's pace.
//!
//! As on the bus, nobody hands changes to a watch; it fetches its own. One that falls behind what is kept gets
//! everything anew. The revision it has come to is its only state, so nothing can be missed or seen twice.

use std::sync::Arc;
use std::time::Duration;

use model::id::Revision;
use tokio::sync::mpsc;

use super::{Shared, table};
use crate::registry::{Event, RegistryError};

/// Between two attempts to read a store that fails.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The delivering side of one watch.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) shared: Arc<Shared>,
    pub(super) prefix: String,
    /// The revision up to which everything was delivered; `None` to begin with everything.
    pub(super) seen: Option<Revision>,
    pub(super) events: mpsc::Sender<Result<Event, RegistryError>>,
}

impl Watcher {
    /// Runs until the watch is dropped or the registry closes.
    pub(super) async fn run(mut self) {
        let stopping = self.shared.scope.stopping();
        let gone = self.events.clone();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = gone.closed() => {}
            _ = self.follow() => {}
        }
    }

    /// Ends with an error when nobody listens any more.
    async fn follow(&mut self) -> Result<(), mpsc::error::SendError<Result<Event, RegistryError>>> {
        let mut head = self.shared.head.subscribe();
        loop {
            let kept = self.seen.and_then(|seen| self.shared.history().after(seen, &self.prefix));
            match kept {
                Some((events, seen)) => {
                    for event in events {
                        self.events.send(Ok(event)).await?;
                    }
                    if self.seen.replace(seen) == Some(seen) && head.changed().await.is_err() {
                        return Ok(());
                    }
                }
                None => match self.everything().await {
                    Ok(event) => self.events.send(Ok(event)).await?,
                    Err(RegistryError::Closed) => return Ok(()),
                    Err(error) => {
                        self.events.send(Err(error)).await?;
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                },
            }
        }
    }

    async fn everything(&mut self) -> Result<Event, RegistryError> {
        let prefix = self.prefix.clone();
        let snapshot = self.shared.read(move |transaction| table::list(transaction, &prefix)).await?;
        self.seen = Some(snapshot.revision);
        Ok(Event::Resync(snapshot))
    }
}
