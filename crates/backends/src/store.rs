//! One redb file with what redb leaves to its user: a clear word for each failure, and a second life after one.
//!
//! After a failed write redb refuses everything until the file is opened anew. A full disk is worth that: the next
//! write opens the file again, and redb rolls back to the last commit. Any other failure is final until the process
//! restarts: after a failed fsync the kernel's cache may show pages that the disk does not have, and going on would
//! build acknowledged records upon them.
//!
//! All of this blocks. Callers come from blocking threads, never from a runtime worker.

use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::directory::sync_directory;

/// Where the bytes lie.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    /// Gone when closed.
    Memory,
    #[cfg(test)]
    Disk(crate::power_loss::Disk),
}

/// Why a read or a write failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The same may succeed later.
    #[error("{reason}")]
    Unavailable { reason: String },
    /// Final until the process restarts.
    #[error("{reason}")]
    Failed { reason: String },
    #[error("closed")]
    Closed,
}

/// An open redb file.
#[derive(Debug)]
pub(crate) struct Store {
    source: Source,
    cache_bytes: usize,
    /// Reads and writes share it; opening anew and closing wait for them.
    state: RwLock<State>,
}

#[derive(Debug)]
enum State {
    Open(Database),
    Broken(StoreError),
    Closed,
}

impl Store {
    /// Opens or creates the file. After a crash redb repairs it here, which reads all of it once.
    pub(crate) fn open(source: Source, cache_bytes: usize) -> Result<Self, StoreError> {
        let state = RwLock::new(State::Open(open(&source, cache_bytes)?));
        Ok(Self { source, cache_bytes, state })
    }

    /// Runs `read` on what is committed now.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.with_open(|database| read(&database.begin_read()?))
    }

    /// Runs `write` and commits what it wrote: on `Ok` it is durable, on `Err` it may or may not be there.
    pub(crate) fn write<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.mend()?;
        let result = self.with_open(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            let answer = write(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        });
        if let Err(error) = &result
            && *error != StoreError::Closed
        {
            *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Broken(error.clone());
            // At once, so that reading goes on; should it fail now, the next write tries again.
            drop(self.mend());
        }
        result
    }

    /// Waits for reads and writes under way, then closes the file.
    pub(crate) fn close(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Closed;
    }

    fn with_open<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(database) => work(database).map_err(|error| explain(&self.source, &error)),
            State::Broken(cause) => Err(cause.clone()),
            State::Closed => Err(StoreError::Closed),
        }
    }

    /// Opens the file anew where that may help.
    fn mend(&self) -> Result<(), StoreError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(_) => return Ok(()),
            State::Closed => return Err(StoreError::Closed),
            State::Broken(StoreError::Unavailable { .. }) => {}
            State::Broken(cause) => return Err(cause.clone()),
        }
        let opened = open(&self.source, self.cache_bytes);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match opened {
            _ if matches!(*state, State::Closed) => Err(StoreError::Closed),
            Ok(database) => {
                *state = State::Open(database);
                Ok(())
            }
            Err(error) => {
                *state = State::Broken(error.clone());
                Err(error)
            }
        }
    }
}

fn open(source: &Source, cache_bytes: usize) -> Result<Database, StoreError> {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    builder.set_repair_callback({
        let source = source.clone();
        move |session| {
            if session.progress() == 0.0 {
                tracing::info!(store = %source, "checking the store after an unclean end");
            }
        }
    });
    let create = || -> Result<Database, redb::Error> {
        Ok(match source {
            Source::File(path) => open_file(&builder, path)?,
            Source::Memory => builder.create_with_backend(InMemoryBackend::new())?,
            #[cfg(test)]
            Source::Disk(disk) => {
                disk.begin_with(|fresh| {
                    builder.create_with_backend(fresh).map(drop).map_err(redb::Error::from)
                })?;
                builder.create_with_backend(disk.clone())?
            }
        })
    };
    // redb documents that it may panic on a file that something else has altered.
    match catch_unwind(AssertUnwindSafe(create)) {
        Ok(result) => result.map_err(|error| explain(source, &error)),
        Err(_) => Err(damaged(source, "its structure makes no sense")),
    }
}

/// A new file gets its name only when it is whole: a crash while redb lays it out would leave one that redb refuses.
fn open_file(builder: &Builder, path: &Path) -> Result<Database, redb::Error> {
    if !path.exists() {
        let unfinished = path.with_extension("redb.new");
        if unfinished.exists() {
            fs::remove_file(&unfinished)?;
        }
        drop(builder.create(&unfinished)?);
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, path)?;
        if let Some(directory) = path.parent() {
            sync_directory(directory)?;
        }
    }
    Ok(builder.open(path)?)
}

fn explain(source: &Source, error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Io(cause) => match cause.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                let reason = format!("no space for {source} ({cause}): free some");
                StoreError::Unavailable { reason }
            }
            // redb's words for a file without its magic number.
            ErrorKind::InvalidData => damaged(source, cause),
            _ => StoreError::Failed { reason: format!("{source}: {cause}") },
        },
        redb::Error::PreviousIo => {
            StoreError::Unavailable { reason: format!("{source} is being opened anew after a failure") }
        }
        redb::Error::Corrupted(cause) => damaged(source, cause),
        redb::Error::UpgradeRequired(version) => damaged(source, format!("unknown format {version}")),
        redb::Error::DatabaseAlreadyOpen => StoreError::Failed {
            reason: format!("{source} is open in another process: stop it, or give another --data-dir"),
        },
        redb::Error::DatabaseClosed => StoreError::Closed,
        error => StoreError::Failed { reason: format!("{source}: {error}") },
    }
}

fn damaged(source: &Source, cause: impl fmt::Display) -> StoreError {
    let reason = format!("{source} is damaged ({cause}): move it aside and start again, or restore a copy");
    StoreError::Failed { reason }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory => f.write_str("the store in memory"),
            #[cfg(test)]
            Self::Disk(_) => f.write_str("the test's disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE_BYTES: usize = 1024 * 1024;

    #[test]
    fn a_creation_that_was_cut_off_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.redb");
        fs::write(directory.path().join("x.redb.new"), [0; 10_000]).unwrap();
        Store::open(Source::File(path.clone()), CACHE_BYTES).unwrap().close();
        let left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [path]);
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let path = PathBuf::from("/proc/nowhere/x.redb");
        let error = Store::open(Source::File(path), CACHE_BYTES).unwrap_err();
        assert!(error.to_string().starts_with("/proc/nowhere/x.redb"), "{error}");
    }

    #[test]
    fn nothing_is_read_or_written_after_closing() {
        let store = Store::open(Source::Memory, CACHE_BYTES).unwrap();
        store.close();
        assert_eq!(store.read(|_| Ok(())), Err(StoreError::Closed));
        assert_eq!(store.write(|_| Ok(())), Err(StoreError::Closed));
    }
}
