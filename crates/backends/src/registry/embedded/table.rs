//! The registry's tables and what is done to them inside one transaction. Plain functions: no thread, no clock, no file.

use std::time::Duration;

use bytes::Bytes;
use model::id::Revision;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::registry::{Committed, Compare, Entry, Event, LeaseId, Operation, RegistryError, Snapshot, Txn};

type StoredEntry = (u64, u64, u64, Option<i64>, &'static [u8]);

/// Key → created, modified, version, lease, value.
const ENTRIES: TableDefinition<&str, StoredEntry> = TableDefinition::new("entries");
/// Lease → time to live in ms.
const LEASES: TableDefinition<i64, u64> = TableDefinition::new("leases");
/// Lease, key attached to it.
const ATTACHED: TableDefinition<(i64, &str), ()> = TableDefinition::new("attached");
/// The two counters below.
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";
/// The newest lease ever granted: no id is given twice, not even after a restart.
const LEASE: &str = "lease";

/// The tables, open for writing, and what the transaction has done so far.
pub(super) struct Writing<'txn> {
    entries: Table<'txn, &'static str, StoredEntry>,
    leases: Table<'txn, i64, u64>,
    attached: Table<'txn, (i64, &'static str), ()>,
    counters: Table<'txn, &'static str, u64>,
    revision: Revision,
    changes: Vec<Event>,
}

/// What is known at the start.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) revision: Revision,
    pub(super) leases: Vec<(LeaseId, Duration)>,
    pub(super) newest_lease: LeaseId,
}

impl<'txn> Writing<'txn> {
    /// Opens the tables, creating them in a new file.
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        let counters = transaction.open_table(COUNTERS)?;
        let revision = Revision(counters.get(REVISION)?.map_or(0, |guard| guard.value()));
        Ok(Self {
            entries: transaction.open_table(ENTRIES)?,
            leases: transaction.open_table(LEASES)?,
            attached: transaction.open_table(ATTACHED)?,
            counters,
            revision,
            changes: Vec::new(),
        })
    }

    pub(super) fn find(&self) -> Result<Found, redb::Error> {
        let mut leases = Vec::new();
        for row in self.leases.iter()? {
            let (id, ttl_ms) = row?;
            leases.push((LeaseId(id.value()), Duration::from_millis(ttl_ms.value())));
        }
        let newest = self.counters.get(LEASE)?.map_or(0, |guard| guard.value());
        let newest_lease = LeaseId(i64::try_from(newest).unwrap_or(i64::MAX));
        Ok(Found { revision: self.revision, leases, newest_lease })
    }

    /// Performs `txn` at one new revision if its compares hold, else not at all.
    pub(super) fn apply(&mut self, txn: &Txn) -> Result<Result<Committed, RegistryError>, redb::Error> {
        // Before the first write: others share this transaction, so half a txn could not be taken back.
        for lease in txn.operations.iter().filter_map(Operation::lease) {
            if self.leases.get(lease.0)?.is_none() {
                return Ok(Err(RegistryError::NoSuchLease(lease)));
            }
        }
        for compare in &txn.compares {
            if !self.holds(compare)? {
                return Ok(Ok(Committed { succeeded: false, revision: self.revision }));
            }
        }
        let at = Revision(self.revision.0 + 1);
        for operation in &txn.operations {
            match operation {
                Operation::Put { key, value, lease } => self.put(at, key, value, *lease)?,
                Operation::Delete { key } => self.delete(at, key)?,
            }
        }
        Ok(Ok(self.done()))
    }

    pub(super) fn grant(&mut self, lease: LeaseId, ttl: Duration) -> Result<Committed, redb::Error> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.leases.insert(lease.0, ttl_ms)?;
        let newest = self.counters.get(LEASE)?.map_or(0, |guard| guard.value());
        self.counters.insert(LEASE, newest.max(lease.0.unsigned_abs()))?;
        Ok(self.done())
    }

    /// Ends `lease` and deletes its keys at one revision.
    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<Committed, redb::Error> {
        self.leases.remove(lease.0)?;
        let mut keys = Vec::new();
        for row in self.attached.range((lease.0, "")..)? {
            let (row, _) = row?;
            let (holder, key) = row.value();
            if holder != lease.0 {
                break;
            }
            keys.push(key.to_owned());
        }
        let at = Revision(self.revision.0 + 1);
        for key in keys {
            self.delete(at, &key)?;
        }
        Ok(self.done())
    }

    /// The answer once everything so far is done.
    pub(super) fn done(&self) -> Committed {
        Committed { succeeded: true, revision: self.revision }
    }

    /// Writes the revision and hands out what changed, in order.
    pub(super) fn finish(mut self) -> Result<(Revision, Vec<Event>), redb::Error> {
        if !self.changes.is_empty() {
            self.counters.insert(REVISION, self.revision.0)?;
        }
        Ok((self.revision, self.changes))
    }

    fn holds(&self, compare: &Compare) -> Result<bool, redb::Error> {
        let (Compare::Absent { key }
        | Compare::Present { key }
        | Compare::Modified { key, .. }
        | Compare::Value { key, .. }) = compare;
        let entry = self.entries.get(key.as_str())?;
        Ok(match (compare, entry.as_ref().map(redb::AccessGuard::value)) {
            (Compare::Absent { .. }, entry) => entry.is_none(),
            (Compare::Present { .. }, entry) => entry.is_some(),
            (Compare::Modified { revision, .. }, entry) => {
                entry.is_some_and(|(_, modified, ..)| modified == revision.0)
            }
            (Compare::Value { value, .. }, entry) => entry.is_some_and(|(.., found)| *found == **value),
        })
    }

    fn put(
        &mut self,
        at: Revision,
        key: &str,
        value: &Bytes,
        lease: Option<LeaseId>,
    ) -> Result<(), redb::Error> {
        let before = self.entries.get(key)?.map(|guard| {
            let (created, _, version, lease, _) = guard.value();
            (created, version, lease)
        });
        let (created, version, held_by) = before.unwrap_or((at.0, 0, None));
        if let Some(holder) = held_by {
            self.attached.remove((holder, key))?;
        }
        if let Some(lease) = lease {
            self.attached.insert((lease.0, key), ())?;
        }
        let version = version + 1;
        self.entries.insert(key, (created, at.0, version, lease.map(|lease| lease.0), value.as_ref()))?;
        self.revision = at;
        self.changes.push(Event::Put(Entry {
            key: key.to_owned(),
            value: value.clone(),
            created: Revision(created),
            modified: at,
            version,
            lease,
        }));
        Ok(())
    }

    fn delete(&mut self, at: Revision, key: &str) -> Result<(), redb::Error> {
        let Some(lease) = self.entries.remove(key)?.map(|guard| guard.value().3) else { return Ok(()) };
        if let Some(lease) = lease {
            self.attached.remove((lease, key))?;
        }
        self.revision = at;
        self.changes.push(Event::Delete { key: key.to_owned(), revision: at });
        Ok(())
    }
}

pub(super) fn revision(transaction: &ReadTransaction) -> Result<Revision, redb::Error> {
    let counters = transaction.open_table(COUNTERS)?;
    Ok(Revision(counters.get(REVISION)?.map_or(0, |guard| guard.value())))
}

pub(super) fn get(transaction: &ReadTransaction, key: &str) -> Result<Option<Entry>, redb::Error> {
    let entries = transaction.open_table(ENTRIES)?;
    Ok(entries.get(key)?.map(|guard| entry(key, guard.value())))
}

pub(super) fn list(transaction: &ReadTransaction, prefix: &str) -> Result<Snapshot, redb::Error> {
    let table = transaction.open_table(ENTRIES)?;
    let mut entries = Vec::new();
    for row in table.range(prefix..)? {
        let (key, row) = row?;
        if !key.value().starts_with(prefix) {
            break;
        }
        entries.push(entry(key.value(), row.value()));
    }
    Ok(Snapshot { revision: revision(transaction)?, entries })
}

fn entry(
    key: &str,
    (created, modified, version, lease, value): (u64, u64, u64, Option<i64>, &[u8]),
) -> Entry {
    Entry {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        created: Revision(created),
        modified: Revision(modified),
        version,
        lease: lease.map(LeaseId),
    }
}
