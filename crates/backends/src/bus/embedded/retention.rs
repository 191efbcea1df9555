//! What has lived long enough: found by reading, removed through the writer in small commits between others' records.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::Duration;

use model::sample::Timestamp;
use redb::ReadTransaction;

use super::log::{self, Topic};
use crate::bus::{Position, Retention};

/// Removed in one commit.
const REMOVED_PER_COMMIT_MAX: usize = 4_096;
/// How old a superseded record of a compacted topic gets, at least.
const SUPERSEDED_FOR: Duration = Duration::from_secs(60);

/// The next records of `topic` to remove, oldest first; none when all that is left may stay.
pub(super) fn expired(
    transaction: &ReadTransaction,
    topic: &Topic,
    now: Timestamp,
) -> Result<Vec<Position>, redb::Error> {
    if topic.retention.compacted {
        superseded(transaction, topic, now)
    } else {
        oldest(transaction, topic, now)
    }
}

/// Merges the partitions by time and takes records until the oldest is young enough and the rest small enough.
fn oldest(
    transaction: &ReadTransaction,
    topic: &Topic,
    now: Timestamp,
) -> Result<Vec<Position>, redb::Error> {
    let Retention { age, bytes: most, .. } = topic.retention;
    let mut partitions = Vec::new();
    let mut heads = BinaryHeap::new();
    for number in 0..topic.partitions.len() {
        let mut records = log::sizes(transaction, topic.id, number as u32)?;
        heads.extend(records.next().transpose()?.map(Reverse));
        partitions.push(records);
    }
    let mut left = topic.bytes();
    let mut removed = Vec::new();
    while let Some(Reverse((at, position, bytes))) = heads.pop() {
        if (now.since(at) <= age && left <= most) || removed.len() == REMOVED_PER_COMMIT_MAX {
            break;
        }
        left = left.saturating_sub(bytes);
        removed.push(position);
        heads.extend(partitions[position.partition as usize].next().transpose()?.map(Reverse));
    }
    Ok(removed)
}

/// Records with a newer one of the same key. Keys are remembered per partition: a key never changes its partition.
fn superseded(
    transaction: &ReadTransaction,
    topic: &Topic,
    now: Timestamp,
) -> Result<Vec<Position>, redb::Error> {
    let mut removed = Vec::new();
    for number in 0..topic.partitions.len() {
        let mut seen = HashSet::new();
        for row in log::keys_backwards(transaction, topic.id, number as u32)? {
            let (at, position, key) = row?;
            if !seen.insert(key) && now.since(at) > SUPERSEDED_FOR {
                removed.push(position);
            }
        }
    }
    removed.sort_unstable_by_key(|position| (position.offset, position.partition));
    removed.truncate(REMOVED_PER_COMMIT_MAX);
    Ok(removed)
}
