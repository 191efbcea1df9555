//! The registry inside this process: a durable key-value store in one redb file.
//!
//! One writer commits whatever is queued as one transaction ([`writer`]); reads go to the file; watches follow the newest
//! changes in memory ([`history`], [`watcher`]); leases end by monotonic time ([`lease`]).

mod history;
mod lease;
mod table;
mod watcher;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::id::Revision;
use redb::ReadTransaction;
use runtime::Scope;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::history::History;
use self::lease::Leases;
use self::table::Writing;
use self::watcher::Watcher;
use self::writer::{Answer, Work};
use super::{
    Committed, Entry, LeaseId, Operation, Registry, RegistryError, Snapshot, Txn, VALUE_BYTES_MAX, Watch,
};
use crate::group_commit::{Entrance, Unanswered, queue};
use crate::store::{Source, Store, StoreError};

/// Events between a watch's task and its owner.
const WATCH_EVENTS: usize = 128;
/// For the last commit and the watches' tasks.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);
/// Between two attempts to delete the keys of ended leases.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How an [`EmbeddedRegistry`] runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Changes kept for watches; one that is further behind gets a resync.
    pub history_events: usize,
    /// Bytes of keys and values of those changes.
    pub history_bytes: usize,
    /// Memory for pages of the file.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_events: 20_000, history_bytes: 32 * 1024 * 1024, cache_bytes: 32 * 1024 * 1024 }
    }
}

/// The embedded registry. Dropping it stops its tasks soon; [`EmbeddedRegistry::close`] waits for them.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    shared: Arc<Shared>,
}

/// What the registry and its tasks have in common.
#[derive(Debug)]
struct Shared {
    store: Store,
    scope: Scope,
    writer: Entrance<Work, Answer>,
    history: Mutex<History>,
    /// The newest durable revision; watches wait on it.
    head: watch::Sender<Revision>,
    leases: Leases,
    newest_lease: AtomicI64,
}

impl EmbeddedRegistry {
    /// Opens or creates `registry.redb` in `directory`, which must exist. Blocks while a file left by a crash is checked.
    ///
    /// Call it inside a tokio runtime: the registry's tasks run there.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, RegistryError> {
        Self::start(Source::File(directory.join("registry.redb")), options)
    }

    /// For tests: obeys every law but durability; what it held is gone when it closes.
    pub fn in_memory(options: &Options) -> Result<Self, RegistryError> {
        Self::start(Source::Memory, options)
    }

    pub(crate) fn start(source: Source, options: &Options) -> Result<Self, RegistryError> {
        let store = Store::open(source, options.cache_bytes)?;
        let found = store.write(|transaction| {
            let writing = Writing::open(transaction)?;
            let found = writing.find()?;
            writing.finish()?;
            Ok(found)
        })?;
        let leases = Leases::default();
        for (lease, ttl) in found.leases {
            leases.add(lease, ttl, Instant::now());
        }
        let (entrance, queue) = queue();
        let history = History::new(found.revision, options.history_events, options.history_bytes);
        let shared = Arc::new(Shared {
            store,
            scope: Scope::new("registry"),
            writer: entrance,
            history: Mutex::new(history),
            head: watch::Sender::new(found.revision),
            leases,
            newest_lease: AtomicI64::new(found.newest_lease.0),
        });
        shared.scope.spawn("registry-writer", {
            let shared = Arc::clone(&shared);
            queue.run(shared.scope.stopping(), move |works| writer::commit(&shared, works))
        });
        shared.scope.spawn("registry-leases", expire(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// Commits what is queued, ends every watch and closes the file. Later calls give [`RegistryError::Closed`].
    pub async fn close(&self) -> Result<(), RegistryError> {
        let stopped = self.shared.scope.stop(CLOSE_WITHIN).await;
        let shared = Arc::clone(&self.shared);
        let closed = tokio::task::spawn_blocking(move || shared.store.close()).await;
        stopped.map_err(|error| RegistryError::Store { reason: error.to_string() })?;
        closed.map_err(|error| RegistryError::Store { reason: error.to_string() })
    }
}

impl Drop for EmbeddedRegistry {
    fn drop(&mut self) {
        self.shared.scope.cancel();
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        let key = key.to_owned();
        self.shared.read(move |transaction| table::get(transaction, &key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, RegistryError> {
        let prefix = prefix.to_owned();
        self.shared.read(move |transaction| table::list(transaction, &prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, RegistryError> {
        let mut bytes = 0;
        for operation in &txn.operations {
            bytes += check_size(operation)?;
        }
        self.shared.submit(Work::Commit(txn), bytes).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        let current = self.shared.read(table::revision).await?;
        // A revision still to come is another store's: what its owner knows is not what is here.
        let seen = (after <= current).then_some(after);
        let (events, receiver) = mpsc::channel(WATCH_EVENTS);
        let watcher = Watcher { shared: Arc::clone(&self.shared), prefix: prefix.to_owned(), seen, events };
        self.shared.scope.spawn("registry-watch", watcher.run());
        Ok(Watch::new(receiver))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        let lease = LeaseId(self.shared.newest_lease.fetch_add(1, Ordering::Relaxed) + 1);
        self.shared.submit(Work::Grant { lease, ttl }, 0).await?;
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.shared.check_open()?;
        if self.shared.leases.keep_alive(lease, Instant::now()) {
            Ok(())
        } else {
            Err(RegistryError::NoSuchLease(lease))
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        self.shared.submit(Work::Revoke(lease), 0).await?;
        Ok(())
    }
}

impl Shared {
    async fn submit(&self, work: Work, bytes: usize) -> Answer {
        self.check_open()?;
        self.writer.submit(work, bytes).await.unwrap_or_else(|unanswered| {
            Err(match unanswered {
                Unanswered::Closed => RegistryError::Closed,
                Unanswered::BrokeOff => RegistryError::Store { reason: "the commit broke off".to_owned() },
            })
        })
    }

    /// Reads the file on a blocking thread.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.check_open()?;
        let shared = Arc::clone(self);
        match tokio::task::spawn_blocking(move || shared.store.read(read)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(RegistryError::Store { reason: format!("a read broke off: {error}") }),
        }
    }

    fn check_open(&self) -> Result<(), RegistryError> {
        if self.scope.stopping().is_cancelled() { Err(RegistryError::Closed) } else { Ok(()) }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { reason } => Self::Unavailable { reason },
            StoreError::Failed { reason } => Self::Store { reason },
            StoreError::Closed => Self::Closed,
        }
    }
}

fn check_size(operation: &Operation) -> Result<usize, RegistryError> {
    match operation {
        Operation::Put { key, value, .. } if value.len() > VALUE_BYTES_MAX => {
            Err(RegistryError::TooLarge { key: key.clone(), bytes: value.len(), max: VALUE_BYTES_MAX })
        }
        Operation::Put { key, value, .. } => Ok(key.len() + value.len()),
        Operation::Delete { key } => Ok(key.len()),
    }
}

async fn expire(shared: Arc<Shared>) {
    let stopping = shared.scope.stopping();
    let work = async {
        loop {
            let due = shared.leases.due().await;
            match shared.submit(Work::Expire(due), 0).await {
                Ok(_) => {}
                Err(RegistryError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "keys of ended leases could not be deleted");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = work => {}
    }
}
