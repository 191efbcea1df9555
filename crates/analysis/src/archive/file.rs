//! The file: blocks of records, and the offsets they reach to, in redb. All of this blocks.
//!
//! Blocks have rising numbers, so that they are appended at one end and removed at the other. An index has one small row
//! per block, by agent: who asks for a time of one agent reads these rows, then the blocks he needs. The checksums of
//! the whole file are checked when it is opened, since a flipped bit in an offset would be a hole that nobody sees.
//!
//! After a failed write redb refuses everything until the file is opened anew; the next call does. Even after a failed
//! sync: unlike the bus, the archive holds nothing that is nowhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::id::{AgentId, Incarnation};
use model::limit::ARCHIVE_BLOCK_BYTES_MAX;
use model::sample::Timestamp;
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};

use super::block::{self, Block, BlockError};
use super::keeper::{Batch, Stored};
use super::progress::{Progress, Reached, Witness};
use crate::history::Point;

/// Of the tables and of what is in them.
const FORMAT: i64 = 1;
/// Rows of [`FACTS`].
const FORMAT_FACT: &str = "format";
const COMMITS_FACT: &str = "commits";
const COMMITTED_AT_FACT: &str = "committed_at_ms";
const BYTES_FACT: &str = "bytes";

const FACTS: TableDefinition<&str, i64> = TableDefinition::new("facts");
/// Partition to the next offset, and time and size of the record before it.
const OFFSETS: TableDefinition<u32, (u64, Option<(i64, u32)>)> = TableDefinition::new("offsets");
/// Number to agent, incarnation, when the bus got the last record, and the block.
const BLOCKS: TableDefinition<u64, (&str, &str, i64, &[u8])> = TableDefinition::new("blocks");
/// Agent and number to incarnation, first and last time, first and last sequence, records.
const INDEX: TableDefinition<(&str, u64), Entry<'static>> = TableDefinition::new("index");
type Entry<'a> = (&'a str, i64, i64, u64, u64, u64);

/// Pages in memory: written once and read at the start, they are of little use twice.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Where the bytes lie.
#[derive(Clone, Debug)]
pub(super) enum Source {
    File(PathBuf),
    #[cfg(test)]
    Disk(super::disk::Disk),
}

#[derive(Debug)]
pub(super) struct File {
    source: Source,
    window: Duration,
    bytes_max: u64,
    open: Option<Database>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It may go better later.
    #[error("{reason}")]
    Failed { reason: String },
    /// What is in it cannot be trusted.
    #[error("{reason}")]
    Damaged { reason: String },
}

/// What can go wrong inside a transaction.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Redb(#[from] redb::Error),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("format {found} where {FORMAT} is read")]
    Format { found: i64 },
    #[error("block {number} is of nobody")]
    Nameless { number: u64 },
}

impl File {
    pub(super) fn new(source: Source, window: Duration, bytes_max: u64) -> Self {
        Self { source, window, bytes_max, open: None }
    }

    /// What the last commit left.
    pub(super) fn stored(&mut self) -> Result<Stored, FileError> {
        self.with_open(|database| Ok(stored(database)?))
    }

    /// Hands out every block, the oldest commit first.
    pub(super) fn read(
        &mut self,
        mut each: impl FnMut(AgentId, Incarnation, Block),
    ) -> Result<(), FileError> {
        self.with_open(|database| {
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            let blocks = transaction.open_table(BLOCKS).map_err(redb::Error::from)?;
            for row in blocks.iter().map_err(redb::Error::from)? {
                let (number, row) = row.map_err(redb::Error::from)?;
                let (agent, incarnation, _, bytes) = row.value();
                let nameless = |_| Fault::Nameless { number: number.value() };
                let agent = AgentId::new(agent).map_err(nameless)?;
                let incarnation = Incarnation::new(incarnation).map_err(nameless)?;
                each(agent, incarnation, block::decode(bytes)?);
            }
            Ok(())
        })
    }

    /// Commits `batch`, and with it removes what is out of the window or over the limit. When the file has another number
    /// of commits than `batch` follows upon, nothing is written. Returns what the file now holds.
    pub(super) fn commit(&mut self, batch: &Batch, now: Timestamp) -> Result<Stored, FileError> {
        let (begin, bytes_max) = (now.minus(self.window), self.bytes_max);
        let unencoded = |error: BlockError| FileError::Failed { reason: format!("{}: {error}", self.source) };
        let blocks = encode(batch).map_err(unencoded)?;
        self.with_open(|database| {
            let found = stored(database)?;
            if found.commits != batch.after {
                return Ok(found);
            }
            let mut transaction = database.begin_write().map_err(redb::Error::from)?;
            transaction.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
            write(&transaction, batch, &blocks, now, begin, bytes_max)?;
            transaction.commit().map_err(redb::Error::from)?;
            Ok(stored(database)?)
        })
    }

    /// Gives the file another name, so that the next call begins a new one. An older one of that name goes. Returns the
    /// name.
    pub(super) fn set_aside(&mut self) -> Result<PathBuf, FileError> {
        self.open = None;
        match &self.source {
            Source::File(path) => {
                let aside = path.with_extension("redb.damaged");
                let failed = |cause| explain(&self.source, &Fault::Redb(redb::Error::Io(cause)));
                fs::rename(path, &aside).map_err(failed)?;
                Ok(aside)
            }
            #[cfg(test)]
            Source::Disk(disk) => {
                disk.replace();
                Ok(PathBuf::from("nowhere"))
            }
        }
    }

    fn with_open<T>(&mut self, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, FileError> {
        // redb documents that it may panic on a file that something else has altered.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let database = match self.open.take() {
                Some(database) => database,
                None => open(&self.source)?,
            };
            // On an error it is closed here.
            let answer = work(&database)?;
            self.open = Some(database);
            Ok(answer)
        }));
        match result {
            Ok(result) => result.map_err(|fault| explain(&self.source, &fault)),
            Err(_) => Err(damaged(&self.source, "its structure makes no sense")),
        }
    }
}

fn open(source: &Source) -> Result<Database, Fault> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let database = match source {
        Source::File(path) => open_file(&builder, path)?,
        #[cfg(test)]
        Source::Disk(disk) => builder.create_with_backend(disk.clone()).map_err(redb::Error::from)?,
    };
    lay_out(&database).map(|()| database)
}

/// A new file gets its name only when it is whole: a crash while redb lays it out would leave one that redb refuses.
fn open_file(builder: &Builder, path: &Path) -> Result<Database, redb::Error> {
    if !path.exists() {
        let unfinished = path.with_extension("redb.new");
        if unfinished.exists() {
            fs::remove_file(&unfinished)?;
        }
        drop(builder.create(&unfinished)?);
        fs::rename(&unfinished, path)?;
        if let Some(directory) = path.parent() {
            fs::File::open(directory)?.sync_all()?;
        }
    }
    Ok(builder.open(path)?)
}

/// Creates what a new file lacks. An old one has to have our format.
fn lay_out(database: &Database) -> Result<(), Fault> {
    let facts = |transaction: &WriteTransaction| -> Result<Option<i64>, redb::Error> {
        let facts = transaction.open_table(FACTS)?;
        let format = facts.get(FORMAT_FACT)?.map(|format| format.value());
        Ok(format)
    };
    let create = |transaction: &WriteTransaction| -> Result<(), redb::Error> {
        transaction.open_table(FACTS)?.insert(FORMAT_FACT, FORMAT)?;
        transaction.open_table(OFFSETS)?;
        transaction.open_table(BLOCKS)?;
        transaction.open_table(INDEX)?;
        Ok(())
    };
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    match facts(&transaction)? {
        Some(found) if found == FORMAT => transaction.abort().map_err(redb::Error::from)?,
        Some(found) => return Err(Fault::Format { found }),
        None => {
            create(&transaction)?;
            transaction.commit().map_err(redb::Error::from)?;
        }
    }
    Ok(())
}

fn stored(database: &Database) -> Result<Stored, redb::Error> {
    let transaction = database.begin_read()?;
    let facts = transaction.open_table(FACTS)?;
    let fact = |name| Ok::<_, redb::Error>(facts.get(name)?.map_or(0, |fact| fact.value()));
    let blocks = transaction.open_table(BLOCKS)?;
    let mut progress = BTreeMap::new();
    for row in transaction.open_table(OFFSETS)?.iter()? {
        let (partition, row) = row?;
        let (next, witness) = row.value();
        let witness = witness.map(|(at, bytes)| Witness { at: Timestamp::from_unix_ms(at), bytes });
        progress.insert(partition.value(), Reached { next, witness });
    }
    let received = |row: redb::AccessGuard<'_, _>| Timestamp::from_unix_ms(block_received(&row));
    Ok(Stored {
        commits: fact(COMMITS_FACT)? as u64,
        progress: Progress(progress),
        at: Timestamp::from_unix_ms(fact(COMMITTED_AT_FACT)?),
        blocks: redb::ReadableTableMetadata::len(&blocks)?,
        bytes: fact(BYTES_FACT)? as u64,
        oldest: blocks.first()?.map(|(_, row)| received(row)),
    })
}

fn block_received(row: &redb::AccessGuard<'_, (&'static str, &'static str, i64, &'static [u8])>) -> i64 {
    row.value().2
}

/// A block, and what the index says of it.
struct Encoded<'a> {
    agent: &'a str,
    entry: Entry<'a>,
    received: i64,
    bytes: Vec<u8>,
}

/// The blocks of a batch: one for each run, or several where it would be too large.
fn encode(batch: &Batch) -> Result<Vec<Encoded<'_>>, BlockError> {
    let mut runs: BTreeMap<(&AgentId, &Incarnation), BTreeMap<u64, &Point>> = BTreeMap::new();
    for kept in &batch.records {
        let run = runs.entry((&kept.agent, &kept.point.incarnation)).or_default();
        run.insert(kept.point.sequence.0, &kept.point);
    }
    let mut blocks = Vec::with_capacity(runs.len());
    for ((agent, incarnation), points) in runs {
        let points: Vec<&Point> = points.into_values().collect();
        encode_run(agent.as_str(), incarnation.as_str(), &points, &mut blocks)?;
    }
    Ok(blocks)
}

fn encode_run<'a>(
    agent: &'a str,
    incarnation: &'a str,
    points: &[&Point],
    blocks: &mut Vec<Encoded<'a>>,
) -> Result<(), BlockError> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
    let raw = block::columns(points)?;
    if raw.len() > ARCHIVE_BLOCK_BYTES_MAX && points.len() > 1 {
        let (early, late) = points.split_at(points.len() / 2);
        encode_run(agent, incarnation, early, blocks)?;
        return encode_run(agent, incarnation, late, blocks);
    }
    let times = || points.iter().map(|point| point.at.unix_ms());
    let (begin, end) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let received = points.iter().map(|point| point.received.unix_ms()).max().unwrap_or(0);
    let entry = (incarnation, begin, end, first.sequence.0, last.sequence.0, points.len() as u64);
    blocks.push(Encoded { agent, entry, received, bytes: block::compress(&raw)? });
    Ok(())
}

fn write(
    transaction: &WriteTransaction,
    batch: &Batch,
    new: &[Encoded<'_>],
    now: Timestamp,
    begin: Timestamp,
    bytes_max: u64,
) -> Result<(), redb::Error> {
    let mut facts = transaction.open_table(FACTS)?;
    let mut blocks = transaction.open_table(BLOCKS)?;
    let mut index = transaction.open_table(INDEX)?;
    let mut bytes = facts.get(BYTES_FACT)?.map_or(0, |bytes| bytes.value() as u64);
    let next = blocks.last()?.map_or(0, |(number, _)| number.value() + 1);
    for (number, block) in (next..).zip(new) {
        blocks.insert(number, (block.agent, block.entry.0, block.received, &*block.bytes))?;
        index.insert((block.agent, number), block.entry)?;
        bytes += block.bytes.len() as u64;
    }
    while let Some(removed) =
        remove_oldest(&mut blocks, &mut index, |received| received < begin.unix_ms() || bytes > bytes_max)?
    {
        bytes = bytes.saturating_sub(removed);
    }
    let mut offsets = transaction.open_table(OFFSETS)?;
    offsets.retain(|partition, _| batch.progress.0.contains_key(&partition))?;
    for (partition, reached) in &batch.progress.0 {
        let witness = reached.witness.map(|witness| (witness.at.unix_ms(), witness.bytes));
        offsets.insert(partition, (reached.next, witness))?;
    }
    facts.insert(BYTES_FACT, bytes as i64)?;
    facts.insert(COMMITS_FACT, batch.after as i64 + 1)?;
    facts.insert(COMMITTED_AT_FACT, now.unix_ms())?;
    Ok(())
}

/// Removes the block with the lowest number if it `should` go. Returns its bytes.
fn remove_oldest(
    blocks: &mut Table<'_, u64, (&'static str, &'static str, i64, &'static [u8])>,
    index: &mut Table<'_, (&'static str, u64), Entry<'static>>,
    should: impl Fn(i64) -> bool,
) -> Result<Option<u64>, redb::Error> {
    let Some((number, bytes)) = ({
        let oldest = blocks.first()?;
        match oldest {
            Some((number, row)) if should(row.value().2) => {
                let (agent, _, _, bytes) = row.value();
                index.remove((agent, number.value()))?;
                Some((number.value(), bytes.len() as u64))
            }
            _ => None,
        }
    }) else {
        return Ok(None);
    };
    blocks.remove(number)?;
    Ok(Some(bytes))
}

fn explain(source: &Source, fault: &Fault) -> FileError {
    match fault {
        Fault::Redb(redb::Error::Io(cause)) => match cause.kind() {
            // redb's words for a file without its magic number, and for one that is cut off.
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => damaged(source, cause),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                FileError::Failed { reason: format!("no space for {source} ({cause}): free some") }
            }
            _ => FileError::Failed { reason: format!("{source}: {cause}") },
        },
        Fault::Redb(redb::Error::DatabaseAlreadyOpen) => {
            FileError::Failed { reason: format!("{source} is open elsewhere: stop who has it") }
        }
        Fault::Redb(
            cause @ (redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TypeDefinitionChanged { .. }),
        ) => damaged(source, cause),
        Fault::Redb(cause) => FileError::Failed { reason: format!("{source}: {cause}") },
        Fault::Block(_) | Fault::Format { .. } | Fault::Nameless { .. } => damaged(source, fault),
    }
}

fn damaged(source: &Source, cause: impl fmt::Display) -> FileError {
    FileError::Damaged { reason: format!("{source} is damaged ({cause})") }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            #[cfg(test)]
            Self::Disk(_) => f.write_str("the test's disk"),
        }
    }
}
