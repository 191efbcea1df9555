//! What survives the agent's end, in one redb file: the last good config, whether collection is paused, the journal of
//! commands.
//!
//! Every write is synced before it answers. A file that cannot be read is moved aside and a fresh one begun, because an
//! agent must come up: what is lost then (a pause, remembered commands) is told, in the log and in STATUS. All of this
//! blocks; callers come from blocking threads.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use model::truth::Mark;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::journal::{Entry, Number};

const FILE: &str = "state.redb";
/// JSON by name: [`CONFIG`] and [`PAUSED`].
const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");
const CONFIG: &str = "config";
const PAUSED: &str = "paused";
/// Journal entries as JSON.
const COMMANDS: TableDefinition<'_, Number, &[u8]> = TableDefinition::new("commands");
/// The file holds kilobytes.
const CACHE_BYTES: usize = 1024 * 1024;

/// Why the state cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{} is open already: is another agent running with this --data-dir?", path.display())]
    Held { path: PathBuf },
    #[error("cannot use {}: check the folder's permissions and space", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        cause: redb::Error,
    },
    #[error("{} is damaged and cannot be moved aside: move it yourself", path.display())]
    Stuck {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{} failed before: restart the agent once its disk is well", path.display())]
    Broken { path: PathBuf },
}

/// A config that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastGood {
    pub(crate) mark: Mark,
    pub(crate) json: String,
    /// Which registry numbered it.
    #[serde(default)]
    pub(crate) registry: String,
}

/// What the last run left behind.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) last_good: Option<LastGood>,
    pub(crate) paused: bool,
    pub(crate) commands: BTreeMap<Number, Entry>,
    /// Where a damaged file went.
    pub(crate) moved_aside: Option<PathBuf>,
}

/// One thing to make durable.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Config(LastGood),
    Paused(bool),
    Command(Number, Box<Entry>),
    Forget(Number),
}

/// The open file.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    /// `None` after a failure: opened anew by the next write if space was all that lacked.
    database: Mutex<Option<Database>>,
}

impl State {
    /// Opens or creates the file below `directory`.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Stored), StateError> {
        let path = directory.join(FILE);
        let (database, stored) = match open(&path) {
            Ok(opened) => opened,
            Err(Opening::Damaged(reason)) => {
                let aside =
                    move_aside(&path).map_err(|cause| StateError::Stuck { path: path.clone(), cause })?;
                tracing::warn!(reason, moved_to = %aside.display(), "the agent's state was damaged and begins anew");
                let (database, stored) = open(&path).map_err(|error| error.explain(&path))?;
                (database, Stored { moved_aside: Some(aside), ..stored })
            }
            Err(error) => return Err(error.explain(&path)),
        };
        Ok((Self { path, database: Mutex::new(Some(database)) }, stored))
    }

    /// Makes all of `changes` durable, or none.
    pub(crate) fn write(&self, changes: &[Change]) -> Result<(), StateError> {
        let mut open_file = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = open_file.as_ref() else {
            return Err(StateError::Broken { path: self.path.clone() });
        };
        let Err(cause) = write(database, changes) else { return Ok(()) };
        // After a failed write redb wants the file opened anew; it then stands at the last commit. After anything but a
        // lack of space the disk is not to be trusted: what it says it has may be in memory only.
        *open_file = None;
        if is_lack_of_space(&cause) {
            *open_file = open(&self.path).ok().map(|(database, _)| database);
        }
        Err(StateError::Unusable { path: self.path.clone(), cause })
    }
}

enum Opening {
    Held,
    Damaged(String),
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Opening {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::Held,
            redb::Error::Io(cause)
                if cause.kind() != ErrorKind::InvalidData && cause.kind() != ErrorKind::UnexpectedEof =>
            {
                Self::Failed(redb::Error::Io(cause))
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl Opening {
    fn explain(self, path: &Path) -> StateError {
        let path = path.to_owned();
        match self {
            Self::Held => StateError::Held { path },
            Self::Damaged(reason) => StateError::Unusable { path, cause: redb::Error::Corrupted(reason) },
            Self::Failed(cause) => StateError::Unusable { path, cause },
        }
    }
}

fn open(path: &Path) -> Result<(Database, Stored), Opening> {
    // redb documents that it may panic on a file that something else has altered.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        write(&database, &[])?; // Makes the tables.
        let stored = read(&database)?;
        Ok((database, stored))
    }));
    opened.unwrap_or_else(|_| Err(Opening::Damaged("its structure makes no sense".to_owned())))
}

fn read(database: &Database) -> Result<Stored, Opening> {
    let transaction = database.begin_read()?;
    let settings = transaction.open_table(SETTINGS)?;
    let mut stored = Stored::default();
    if let Some(config) = settings.get(CONFIG)? {
        stored.last_good = Some(parse(config.value())?);
    }
    if let Some(paused) = settings.get(PAUSED)? {
        stored.paused = parse(paused.value())?;
    }
    for row in transaction.open_table(COMMANDS)?.iter()? {
        let (number, entry) = row?;
        stored.commands.insert(number.value(), parse(entry.value())?);
    }
    Ok(stored)
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Opening> {
    serde_json::from_slice(json).map_err(|error| Opening::Damaged(error.to_string()))
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut settings = transaction.open_table(SETTINGS)?;
        let mut commands = transaction.open_table(COMMANDS)?;
        for change in changes {
            match change {
                Change::Config(config) => drop(settings.insert(CONFIG, json(config).as_slice())?),
                Change::Paused(paused) => drop(settings.insert(PAUSED, json(paused).as_slice())?),
                Change::Command(number, entry) => drop(commands.insert(number, json(entry).as_slice())?),
                Change::Forget(number) => drop(commands.remove(number)?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types have text keys and no failing parts")
}

fn is_lack_of_space(error: &redb::Error) -> bool {
    let redb::Error::Io(cause) = error else { return false };
    matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Renames to the first free `state.redb.damaged-<n>`; past ten the last is replaced, so that a disk that keeps damaging
/// files does not fill up with them.
fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let name = |n: u32| path.with_file_name(format!("{FILE}.damaged-{n}"));
    let aside = (1..10).map(name).find(|aside| !aside.exists()).unwrap_or_else(|| name(10));
    std::fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use model::command::{CommandState, CommandType};
    use model::id::{CommandId, Incarnation, Revision};
    use model::sample::Timestamp;

    use super::*;

    fn entry() -> Entry {
        Entry {
            id: CommandId::new("c-1").unwrap(),
            kind: CommandType::Stop,
            state: CommandState::Running,
            message: String::new(),
            result: serde_json::Map::new(),
            at: Timestamp::default(),
            incarnation: Incarnation::new("i1").unwrap(),
            acknowledged: false,
        }
    }

    #[test]
    fn what_was_written_is_there_after_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mark = Mark { revision: Revision(7), digest: "d".to_owned() };
        let config = LastGood { mark, json: r#"{"interval":1}"#.to_owned(), registry: "r".to_owned() };
        let (state, stored) = State::open(folder.path()).unwrap();
        assert!(!stored.paused && stored.last_good.is_none() && stored.commands.is_empty());
        let gone = Change::Command(1, Box::new(entry()));
        let changes = [
            Change::Config(config.clone()),
            Change::Paused(true),
            Change::Command(0, Box::new(entry())),
            gone,
        ];
        state.write(&changes).unwrap();
        state.write(&[Change::Forget(1)]).unwrap();
        drop(state);
        let (_, stored) = State::open(folder.path()).unwrap();
        assert_eq!((stored.last_good, stored.paused, stored.moved_aside), (Some(config), true, None));
        assert_eq!(stored.commands, BTreeMap::from([(0, entry())]));
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_a_fresh_one_works() {
        let folder = tempfile::tempdir().unwrap();
        for damage in
            [b"this is no database".to_vec(), vec![0; 100_000], b"redb\x1a\x0a\xa9\x0d\x0a".repeat(5_000)]
        {
            std::fs::write(folder.path().join(FILE), &damage).unwrap();
            let (state, stored) = State::open(folder.path()).unwrap();
            state.write(&[Change::Paused(true)]).unwrap();
            assert_eq!(std::fs::read(stored.moved_aside.unwrap()).unwrap(), damage);
        }
    }

    #[test]
    fn a_file_that_is_held_is_not_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (_state, _) = State::open(folder.path()).unwrap();
        assert!(matches!(State::open(folder.path()), Err(StateError::Held { .. })));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = State::open(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
