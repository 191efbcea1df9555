//! What the bus does in one commit.

use std::sync::Arc;

use model::sample::Timestamp;

use super::Shared;
use super::log::Writing;
use crate::bus::{BusError, NewRecord, Position, TopicSpec};

#[derive(Debug)]
pub(super) enum Operation {
    EnsureTopics(Vec<TopicSpec>),
    Publish { topic: String, records: Vec<NewRecord> },
    Commit { group: String, topic: u32, partition: u32, next: u64 },
    Remove { topic: String, positions: Vec<Position> },
}

/// The positions of what was published; empty for other operations.
pub(super) type Answer = Result<Vec<Position>, BusError>;

/// Performs `operations` in one transaction. When it fails, every one of them failed.
pub(super) fn commit(shared: &Shared, operations: &[Operation]) -> Vec<Answer> {
    let now = (shared.clock)();
    let result = shared.store.write(|transaction| {
        let mut writing = Writing::open(transaction)?;
        let mut answers = Vec::with_capacity(operations.len());
        for operation in operations {
            answers.push(perform(&mut writing, operation, now)?);
        }
        Ok((writing.finish()?, answers))
    });
    match result {
        Ok((topics, answers)) => {
            // Readers may see the records from here on: they are durable.
            shared.topics.send_replace(Arc::new(topics));
            answers
        }
        Err(error) => operations.iter().map(|_| Err(error.clone().into())).collect(),
    }
}

fn perform(writing: &mut Writing<'_>, operation: &Operation, now: Timestamp) -> Result<Answer, redb::Error> {
    Ok(match operation {
        Operation::EnsureTopics(specs) => writing.ensure_topics(specs)?.map(|()| Vec::new()),
        Operation::Publish { topic, records } => writing.publish(topic, records, now)?,
        Operation::Commit { group, topic, partition, next } => {
            writing.commit(group, *topic, *partition, *next)?;
            Ok(Vec::new())
        }
        Operation::Remove { topic, positions } => {
            writing.remove(topic, positions)?;
            Ok(Vec::new())
        }
    })
}
