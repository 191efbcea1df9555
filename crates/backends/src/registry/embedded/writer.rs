//! What the registry does in one commit.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::table::Writing;
use crate::registry::{Committed, LeaseId, Operation, RegistryError, Txn};

#[derive(Debug)]
pub(super) enum Work {
    Commit(Txn),
    Grant {
        lease: LeaseId,
        ttl: Duration,
    },
    Revoke(LeaseId),
    /// Revokes each lease that is still due.
    Expire(Vec<LeaseId>),
}

pub(super) type Answer = Result<Committed, RegistryError>;

/// Performs `works` in one transaction. When it fails, every one of them failed.
pub(super) fn commit(shared: &Shared, works: &[Work]) -> Vec<Answer> {
    let now = Instant::now();
    let result = shared.store.write(|transaction| {
        let mut writing = Writing::open(transaction)?;
        let mut ended = Vec::new();
        let mut answers = Vec::with_capacity(works.len());
        for work in works {
            answers.push(perform(shared, &mut writing, work, now, &mut ended)?);
        }
        Ok((writing.finish()?, ended, answers))
    });
    match result {
        Ok(((revision, changes), ended, answers)) => {
            for work in works {
                if let Work::Grant { lease, ttl } = work {
                    shared.leases.add(*lease, *ttl, Instant::now());
                }
            }
            for lease in ended {
                shared.leases.forget(lease);
            }
            // Watches may see the changes from here on: they are durable.
            shared.history().extend(changes);
            shared.head.send_replace(revision);
            answers
        }
        Err(error) => works.iter().map(|_| Err(error.clone().into())).collect(),
    }
}

fn perform(
    shared: &Shared,
    writing: &mut Writing<'_>,
    work: &Work,
    now: Instant,
    ended: &mut Vec<LeaseId>,
) -> Result<Answer, redb::Error> {
    Ok(match work {
        Work::Commit(txn) => {
            let mut leases = txn.operations.iter().filter_map(Operation::lease);
            match leases.find(|lease| !shared.leases.is_alive(*lease, now)) {
                Some(dead) => Err(RegistryError::NoSuchLease(dead)),
                None => writing.apply(txn)?,
            }
        }
        Work::Grant { lease, ttl } => Ok(writing.grant(*lease, *ttl)?),
        Work::Revoke(lease) if !shared.leases.is_alive(*lease, now) => {
            Err(RegistryError::NoSuchLease(*lease))
        }
        Work::Revoke(lease) => {
            // Should the commit fail, it stays ended, and expiry deletes its keys later.
            shared.leases.end(*lease);
            ended.push(*lease);
            Ok(writing.revoke(*lease)?)
        }
        Work::Expire(leases) => {
            for lease in leases.iter().filter(|lease| shared.leases.end_if_due(**lease, now)) {
                writing.revoke(*lease)?;
                ended.push(*lease);
            }
            Ok(writing.done())
        }
    })
}
