//! The one writer: takes everything that is queued, commits it as one transaction, then answers everybody.
//!
//! Many callers share one fsync that way. The commit runs on a blocking thread, never on a runtime worker.

use std::sync::Arc;

use runtime::Scope;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Shared;
use super::log::Writing;
use crate::bus::{BusError, NewRecord, Position, TopicSpec};
use crate::store::StoreError;

/// Requests in the queue; past it callers wait.
pub(super) const REQUESTS_MAX: usize = 1_024;
/// Records in the queue and in the running commit together; past it callers wait.
pub(super) const QUEUE_KIB_MAX: u32 = 64 * 1_024;
/// One commit: large enough to share an fsync among all who wait, small enough to keep it short.
const COMMIT_KIB_MAX: usize = 8 * 1_024;

#[derive(Debug)]
pub(super) enum Operation {
    EnsureTopics(Vec<TopicSpec>),
    Publish { topic: String, records: Vec<NewRecord> },
    Commit { group: String, topic: u32, partition: u32, next: u64 },
    Remove { topic: String, positions: Vec<Position> },
}

/// One operation and who waits for it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) operation: Operation,
    /// The positions of what was published; empty for other operations.
    pub(super) reply: oneshot::Sender<Result<Vec<Position>, BusError>>,
    pub(super) room: OwnedSemaphorePermit,
}

/// Serves `requests` until the scope stops, then what is still queued.
pub(super) fn spawn(scope: &Scope, shared: Arc<Shared>, mut requests: mpsc::Receiver<Request>) {
    let stopping = scope.stopping();
    scope.spawn("bus-writer", async move {
        loop {
            let first = tokio::select! {
                request = requests.recv() => request,
                () = stopping.cancelled(), if !requests.is_closed() => {
                    requests.close();
                    continue;
                }
            };
            let Some(first) = first else { break };
            let batch = gather(first, &mut requests);
            let shared = Arc::clone(&shared);
            // A panic drops the replies, so the callers hear of it; the next batch begins afresh.
            if let Err(error) = tokio::task::spawn_blocking(move || serve(&shared, batch)).await {
                tracing::error!(%error, "a commit of the bus broke off");
            }
        }
    });
}

fn gather(first: Request, requests: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let mut kib = first.room.num_permits();
    let mut batch = vec![first];
    while kib < COMMIT_KIB_MAX
        && let Ok(request) = requests.try_recv()
    {
        kib += request.room.num_permits();
        batch.push(request);
    }
    batch
}

fn serve(shared: &Shared, batch: Vec<Request>) {
    let now = (shared.clock)();
    let result = shared.store.write(|transaction| {
        let mut writing = Writing::open(transaction)?;
        let mut answers = Vec::with_capacity(batch.len());
        for request in &batch {
            answers.push(perform(&mut writing, &request.operation, now)?);
        }
        Ok((writing.finish()?, answers))
    });
    match result {
        Ok((topics, answers)) => {
            // Readers may see the records from here on: they are durable.
            shared.topics.send_replace(Arc::new(topics));
            for (request, answer) in batch.into_iter().zip(answers) {
                answer_to(request, answer);
            }
        }
        Err(error) => {
            if error != StoreError::Closed {
                tracing::warn!(%error, requests = batch.len(), "the bus could not commit");
            }
            for request in batch {
                answer_to(request, Err(error.clone().into()));
            }
        }
    }
}

type Answer = Result<Vec<Position>, BusError>;

fn perform(
    writing: &mut Writing<'_>,
    operation: &Operation,
    now: model::sample::Timestamp,
) -> Result<Answer, redb::Error> {
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

fn answer_to(request: Request, answer: Answer) {
    drop(request.room);
    // A caller that was cancelled does not listen any more.
    drop(request.reply.send(answer));
}
