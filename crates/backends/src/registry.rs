//! The registry: a small ordered key-value store with revisions, transactions, watches and leases (etcd's notions).
//!
//! # Laws, checked for every implementation by the contract suite
//!
//! 1. `commit` returns `Ok` only when it is durable. All its operations happen at one new revision, or none happens.
//! 2. Revisions rise by at least one with every commit that changes something; `Entry::modified` is the revision of the
//!    commit that wrote it, `Entry::version` counts writes since the key was created.
//! 3. A commit whose compares do not all hold changes nothing and says so with `Committed { succeeded: false, .. }`.
//! 4. A watch delivers every change under its prefix after the given revision, in revision order, each once. When those
//!    revisions are no longer kept, and when it is restored after an error, it delivers one `Resync` with everything under
//!    the prefix, then goes on.
//! 5. A key attached to a lease is deleted when the lease expires or is revoked; watchers see the delete. A lease expires
//!    when it was not kept alive for its whole time to live, by monotonic time: a step of the wall clock expires nothing.
//!    A restart of the store gives each lease one full time to live.
//! 6. A slow watcher holds back nobody.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::id::Revision;
use tokio::sync::mpsc;

/// One value. etcd's own limit on a request is 1.5 MiB.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// One key as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    pub created: Revision,
    pub modified: Revision,
    pub version: u64,
    pub lease: Option<LeaseId>,
}

/// Everything under a prefix at one revision, by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// Operations that happen together if every compare holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub operations: Vec<Operation>,
}

/// What must hold for a [`Txn`] to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    Absent {
        key: String,
    },
    Present {
        key: String,
    },
    /// The key exists and was last written at this revision.
    Modified {
        key: String,
        revision: Revision,
    },
    /// The key exists with exactly this value.
    Value {
        key: String,
        value: Bytes,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Put { key: String, value: Bytes, lease: Option<LeaseId> },
    Delete { key: String },
}

impl Operation {
    /// The lease a put attaches its key to.
    pub fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::Put { lease, .. } => *lease,
            Self::Delete { .. } => None,
        }
    }
}

/// What became of a [`Txn`]; `revision` is the store's after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub succeeded: bool,
    pub revision: Revision,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(Entry),
    Delete {
        key: String,
        revision: Revision,
    },
    /// Forget what you knew under the prefix; this is all there is.
    Resync(Snapshot),
}

/// See the module for the laws.
#[async_trait]
pub trait Registry: fmt::Debug + Send + Sync + 'static {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError>;

    async fn list(&self, prefix: &str) -> Result<Snapshot, RegistryError>;

    /// Cancel safe: a cancelled call may still commit.
    async fn commit(&self, txn: Txn) -> Result<Committed, RegistryError>;

    /// Changes under `prefix` after revision `after`. Take `after` from the [`Snapshot`] you began with.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError>;

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError>;

    /// Restarts the lease's time to live. [`RegistryError::NoSuchLease`] when it has expired.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError>;

    /// Ends the lease and deletes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError>;
}

/// The everyday forms of [`Registry::commit`].
impl dyn Registry {
    pub async fn put(&self, key: &str, value: impl Into<Bytes> + Send) -> Result<Revision, RegistryError> {
        let put = Operation::Put { key: key.to_owned(), value: value.into(), lease: None };
        Ok(self.commit(Txn { compares: Vec::new(), operations: vec![put] }).await?.revision)
    }

    /// Whether there was nothing to delete is not told; see [`Compare::Present`] where it matters.
    pub async fn delete(&self, key: &str) -> Result<Revision, RegistryError> {
        let delete = Operation::Delete { key: key.to_owned() };
        Ok(self.commit(Txn { compares: Vec::new(), operations: vec![delete] }).await?.revision)
    }
}

/// A stream of changes; dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Result<Event, RegistryError>>,
}

impl Watch {
    /// For implementations: a task of theirs fills `events` and ends when the receiver is gone.
    pub fn new(events: mpsc::Receiver<Result<Event, RegistryError>>) -> Self {
        Self { events }
    }

    /// The next change; `None` when the registry has closed. An error is passed on and the watch goes on after it.
    ///
    /// Cancel safe: yes, it only receives from a channel.
    pub async fn next(&mut self) -> Option<Result<Event, RegistryError>> {
        self.events.recv().await
    }
}

/// What can go wrong on a registry.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("lease {0:?} has expired or never existed")]
    NoSuchLease(LeaseId),
    #[error("value of {key} has {bytes} bytes, at most {max} are allowed")]
    TooLarge { key: String, bytes: usize, max: usize },
    /// Not now: worth trying again.
    #[error("the registry is not available: {reason}")]
    Unavailable { reason: String },
    #[error("the registry is closed")]
    Closed,
    /// Trying again will not help: the store itself is damaged or gone.
    #[error("the registry's store failed: {reason}")]
    Store { reason: String },
}

impl RegistryError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
