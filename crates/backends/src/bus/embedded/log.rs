//! The bus's tables and what is done to them inside one transaction. Plain functions: no thread, no clock, no file.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use model::sample::Timestamp;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::bus::partitioner::partition_of;
use crate::bus::{BusError, NewRecord, Position, Record, Retention, TopicSpec};

/// Name → id, partitions, retention (age in ms, bytes, compacted).
const TOPICS: TableDefinition<&str, (u32, u32, u64, u64, bool)> = TableDefinition::new("topics");
/// Topic id, partition → low, high, time of the newest record, bytes kept.
const PARTITIONS: TableDefinition<(u32, u32), (u64, u64, i64, u64)> = TableDefinition::new("partitions");
/// Topic id, partition, offset → time, key, headers, value.
const RECORDS: TableDefinition<RecordKey, StoredRecord> = TableDefinition::new("records");
/// Group, topic id, partition → the offset to continue at.
const COMMITS: TableDefinition<(&str, u32, u32), u64> = TableDefinition::new("commits");

type RecordKey = (u32, u32, u64);
type StoredRecord = (i64, &'static str, Vec<(&'static str, &'static str)>, &'static [u8]);

/// Every topic by name: what the tables say, kept in memory beside them.
pub(super) type Topics = BTreeMap<String, Topic>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) id: u32,
    pub(super) retention: Retention,
    pub(super) partitions: Vec<Partition>,
}

/// `low..high` are the offsets kept; in a compacted topic there are holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) low: u64,
    pub(super) high: u64,
    /// Of the newest record ever appended; times never go back, whatever the wall clock does.
    last_at: Timestamp,
    pub(super) bytes: u64,
}

/// The tables, open for writing, and the topics as they will be after the commit.
pub(super) struct Writing<'txn> {
    topics_table: Table<'txn, &'static str, (u32, u32, u64, u64, bool)>,
    partitions: Table<'txn, (u32, u32), (u64, u64, i64, u64)>,
    records: Table<'txn, RecordKey, StoredRecord>,
    commits: Table<'txn, (&'static str, u32, u32), u64>,
    before: Topics,
    topics: Topics,
}

impl<'txn> Writing<'txn> {
    /// Opens the tables, creating them in a new file, and reads the topics.
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        let topics_table = transaction.open_table(TOPICS)?;
        let partitions = transaction.open_table(PARTITIONS)?;
        let topics = load(&topics_table, &partitions)?;
        let records = transaction.open_table(RECORDS)?;
        let commits = transaction.open_table(COMMITS)?;
        Ok(Self { topics_table, partitions, records, commits, before: topics.clone(), topics })
    }

    /// Creates what is missing and takes on changed retention. Nothing happens when one does not fit.
    pub(super) fn ensure_topics(&mut self, specs: &[TopicSpec]) -> Result<Result<(), BusError>, redb::Error> {
        if let Some(error) = specs.iter().find_map(|spec| self.misfit(spec)) {
            return Ok(Err(error));
        }
        for spec in specs {
            self.ensure_topic(spec)?;
        }
        Ok(Ok(()))
    }

    fn misfit(&self, spec: &TopicSpec) -> Option<BusError> {
        let wanted = spec.partitions;
        if wanted == 0 {
            let reason = format!("topic {} needs at least one partition", spec.name);
            return Some(BusError::Store { reason });
        }
        let found = self.topics.get(&spec.name)?.partitions.len() as u32;
        (found != wanted).then(|| BusError::Unfit { topic: spec.name.clone(), found, wanted })
    }

    fn ensure_topic(&mut self, spec: &TopicSpec) -> Result<(), redb::Error> {
        let next_id = self.topics.values().map(|topic| topic.id + 1).max().unwrap_or(0);
        let topic = self.topics.entry(spec.name.clone()).or_insert_with(|| Topic {
            id: next_id,
            retention: spec.retention,
            partitions: vec![Partition::default(); spec.partitions as usize],
        });
        topic.retention = spec.retention;
        let Retention { age, bytes, compacted } = spec.retention;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.topics_table
            .insert(spec.name.as_str(), (topic.id, spec.partitions, age_ms, bytes, compacted))?;
        Ok(())
    }

    /// Appends `records`. Those without a key go to the partition that holds the fewest bytes.
    pub(super) fn publish(
        &mut self,
        name: &str,
        records: &[NewRecord],
        now: Timestamp,
    ) -> Result<Result<Vec<Position>, BusError>, redb::Error> {
        let Some(topic) = self.topics.get_mut(name) else {
            return Ok(Err(BusError::NoSuchTopic { topic: name.to_owned() }));
        };
        let mut positions = Vec::with_capacity(records.len());
        for record in records {
            let number = topic.partition_for(&record.key);
            let partition = &mut topic.partitions[number as usize];
            let position = Position { partition: number, offset: partition.high };
            partition.last_at = partition.last_at.max(now);
            partition.high += 1;
            partition.bytes += record_bytes(record) as u64;
            let headers: Vec<(&str, &str)> =
                record.headers.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            self.records.insert(
                (topic.id, number, position.offset),
                (partition.last_at.unix_ms(), record.key.as_str(), headers, record.value.as_ref()),
            )?;
            positions.push(position);
        }
        Ok(Ok(positions))
    }

    /// Remembers where `group` continues; it never goes back.
    pub(super) fn commit(
        &mut self,
        group: &str,
        topic: u32,
        partition: u32,
        next: u64,
    ) -> Result<(), redb::Error> {
        let key = (group, topic, partition);
        let known = self.commits.get(key)?.map_or(0, |guard| guard.value());
        self.commits.insert(key, known.max(next))?;
        Ok(())
    }

    /// Removes single records, and moves the low end past what is gone.
    pub(super) fn remove(&mut self, name: &str, positions: &[Position]) -> Result<(), redb::Error> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        for position in positions {
            let removed = self.records.remove((topic.id, position.partition, position.offset))?;
            if let Some(guard) = removed {
                let bytes = &mut topic.partitions[position.partition as usize].bytes;
                *bytes = bytes.saturating_sub(stored_bytes(&guard.value()));
            }
        }
        for (number, partition) in topic.partitions.iter_mut().enumerate() {
            let number = number as u32;
            let kept = (topic.id, number, partition.low)..(topic.id, number, partition.high);
            let first = self.records.range(kept)?.next().transpose()?;
            partition.low = first.map_or(partition.high, |(key, _)| key.value().2);
        }
        Ok(())
    }

    /// Writes the ends that moved and hands out the topics for use after the commit.
    pub(super) fn finish(mut self) -> Result<Topics, redb::Error> {
        for (name, topic) in &self.topics {
            let before = self.before.get(name).map_or(&[][..], |topic| &topic.partitions);
            for (number, partition) in topic.partitions.iter().enumerate() {
                if before.get(number) == Some(partition) {
                    continue;
                }
                let Partition { low, high, last_at, bytes } = *partition;
                self.partitions.insert((topic.id, number as u32), (low, high, last_at.unix_ms(), bytes))?;
            }
        }
        Ok(self.topics)
    }
}

impl Topic {
    pub(super) fn bytes(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.bytes).sum()
    }

    fn partition_for(&self, key: &str) -> u32 {
        if !key.is_empty() {
            return partition_of(key, self.partitions.len() as u32);
        }
        let emptiest = self.partitions.iter().enumerate().min_by_key(|(_, partition)| partition.bytes);
        emptiest.map_or(0, |(number, _)| number as u32)
    }
}

fn load(
    topics: &impl ReadableTable<&'static str, (u32, u32, u64, u64, bool)>,
    partitions: &impl ReadableTable<(u32, u32), (u64, u64, i64, u64)>,
) -> Result<Topics, redb::Error> {
    let mut loaded = Topics::new();
    for row in topics.iter()? {
        let (name, row) = row?;
        let (id, width, age_ms, bytes, compacted) = row.value();
        let retention = Retention { age: Duration::from_millis(age_ms), bytes, compacted };
        let mut ends = vec![Partition::default(); width as usize];
        for (number, partition) in ends.iter_mut().enumerate() {
            if let Some(row) = partitions.get((id, number as u32))? {
                let (low, high, last_at, bytes) = row.value();
                *partition = Partition { low, high, last_at: Timestamp::from_unix_ms(last_at), bytes };
            }
        }
        loaded.insert(name.value().to_owned(), Topic { id, retention, partitions: ends });
    }
    Ok(loaded)
}

/// What one record counts towards limits and retention.
pub(super) fn record_bytes(record: &NewRecord) -> usize {
    let headers = record.headers.iter().map(|(key, value)| key.len() + value.len());
    record.key.len() + record.value.len() + headers.sum::<usize>()
}

fn stored_bytes((_, key, headers, value): &(i64, &str, Vec<(&str, &str)>, &[u8])) -> u64 {
    let headers = headers.iter().map(|(key, value)| key.len() + value.len());
    (key.len() + value.len() + headers.sum::<usize>()) as u64
}

/// Bounds of one read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// Records of one partition with offsets in `from..high`, at least one if there is any. The second value is the
/// offset to go on at.
pub(super) fn read(
    transaction: &ReadTransaction,
    topic: u32,
    partition: u32,
    from: u64,
    high: u64,
    most: Most,
) -> Result<(Vec<Record>, u64), redb::Error> {
    let table = transaction.open_table(RECORDS)?;
    let mut records = Vec::new();
    let mut bytes = 0;
    for row in table.range((topic, partition, from)..(topic, partition, high))? {
        let (key, row) = row?;
        let offset = key.value().2;
        if records.len() == most.records || bytes >= most.bytes {
            return Ok((records, offset));
        }
        let (at, key, headers, value) = row.value();
        bytes += value.len();
        records.push(Record {
            position: Position { partition, offset },
            at: Timestamp::from_unix_ms(at),
            key: key.to_owned(),
            value: Bytes::copy_from_slice(value),
            headers: headers.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        });
    }
    Ok((records, high))
}

/// The offset from which on every record's time is `at` or later. Times rise with offsets, so this is a bisection.
pub(super) fn seek(
    transaction: &ReadTransaction,
    topic: u32,
    partition: u32,
    kept: Partition,
    at: Timestamp,
) -> Result<u64, redb::Error> {
    let table = transaction.open_table(RECORDS)?;
    let (mut low, mut high) = (kept.low, kept.high);
    while low < high {
        let middle = low + (high - low) / 2;
        match table.range((topic, partition, middle)..(topic, partition, high))?.next().transpose()? {
            Some((key, row)) if row.value().0 < at.unix_ms() => low = key.value().2 + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Where `group` continues, for each partition with a commit.
pub(super) fn committed(
    transaction: &ReadTransaction,
    group: &str,
    topic: u32,
) -> Result<BTreeMap<u32, u64>, redb::Error> {
    let table = transaction.open_table(COMMITS)?;
    let mut next = BTreeMap::new();
    for row in table.range((group, topic, 0)..=(group, topic, u32::MAX))? {
        let (key, row) = row?;
        next.insert(key.value().2, row.value());
    }
    Ok(next)
}

/// Time, partition, offset and size of the records of one partition, oldest first.
pub(super) fn sizes(
    transaction: &ReadTransaction,
    topic: u32,
    partition: u32,
) -> Result<impl Iterator<Item = Result<(Timestamp, Position, u64), redb::Error>>, redb::Error> {
    let table = transaction.open_table(RECORDS)?;
    let rows = table.range_owned((topic, partition, 0)..=(topic, partition, u64::MAX))?;
    Ok(rows.map(move |row| {
        let (key, row) = row?;
        let row = row.value();
        let position = Position { partition, offset: key.value().2 };
        Ok((Timestamp::from_unix_ms(row.0), position, stored_bytes(&row)))
    }))
}

/// Time, position and key of the records of one partition, newest first.
pub(super) fn keys_backwards(
    transaction: &ReadTransaction,
    topic: u32,
    partition: u32,
) -> Result<impl Iterator<Item = Result<(Timestamp, Position, String), redb::Error>>, redb::Error> {
    let table = transaction.open_table(RECORDS)?;
    let rows = table.range_owned((topic, partition, 0)..=(topic, partition, u64::MAX))?;
    Ok(rows.rev().map(move |row| {
        let (key, row) = row?;
        let (at, text, _, _) = row.value();
        let position = Position { partition, offset: key.value().2 };
        Ok((Timestamp::from_unix_ms(at), position, text.to_owned()))
    }))
}
