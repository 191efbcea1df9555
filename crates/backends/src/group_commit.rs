//! Group commit: whatever is queued becomes one transaction with one fsync, then everybody gets an answer.
//!
//! The commit runs on a blocking thread that exists only while there is work, so a runtime with a paused clock does not
//! run ahead of the disk.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Operations in the queue; past it callers wait.
const OPERATIONS_MAX: usize = 1_024;
/// Bytes in the queue and in the running commit together, in KiB; past it callers wait.
const QUEUE_KIB_MAX: u32 = 64 * 1_024;
/// One commit: large enough to share an fsync among all who wait, small enough to keep it short.
const COMMIT_KIB_MAX: usize = 8 * 1_024;

/// Where operations go in.
#[derive(Debug)]
pub(crate) struct Entrance<O, A> {
    requests: mpsc::Sender<Request<O, A>>,
    room: Arc<Semaphore>,
}

/// Where they wait for the next commit.
#[derive(Debug)]
pub(crate) struct Queue<O, A> {
    requests: mpsc::Receiver<Request<O, A>>,
}

/// Why an operation has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    Closed,
    /// The commit panicked.
    BrokeOff,
}

#[derive(Debug)]
struct Request<O, A> {
    operation: O,
    reply: oneshot::Sender<A>,
    room: OwnedSemaphorePermit,
}

pub(crate) fn queue<O, A>() -> (Entrance<O, A>, Queue<O, A>) {
    let (sender, receiver) = mpsc::channel(OPERATIONS_MAX);
    let room = Arc::new(Semaphore::new(QUEUE_KIB_MAX as usize));
    (Entrance { requests: sender, room }, Queue { requests: receiver })
}

impl<O, A> Entrance<O, A> {
    /// Queues `operation` of about `bytes` when there is room, and waits for what became of it.
    ///
    /// Cancel safe: once it is queued it happens whether or not anybody waits.
    pub(crate) async fn submit(&self, operation: O, bytes: usize) -> Result<A, Unanswered> {
        // One operation larger than the whole queue passes alone.
        let kib = u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX).min(QUEUE_KIB_MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| Unanswered::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { operation, reply, room };
        self.requests.send(request).await.map_err(|_| Unanswered::Closed)?;
        answer.await.map_err(|_| Unanswered::BrokeOff)
    }
}

impl<O: Send + 'static, A: Send + 'static> Queue<O, A> {
    /// Commits until `stopping`, then what is still queued. `commit` gives one answer for each operation, in order.
    pub(crate) async fn run<C>(mut self, stopping: CancellationToken, commit: C)
    where
        C: Fn(&[O]) -> Vec<A> + Send + Sync + 'static,
    {
        let commit = Arc::new(commit);
        loop {
            let first = tokio::select! {
                request = self.requests.recv() => request,
                () = stopping.cancelled(), if !self.requests.is_closed() => {
                    self.requests.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let batch = self.gather(first);
            let commit = Arc::clone(&commit);
            // A panic drops the replies, so the callers hear of it; the next batch begins afresh.
            if let Err(error) = tokio::task::spawn_blocking(move || serve(batch, &*commit)).await {
                tracing::error!(%error, "a commit broke off");
            }
        }
    }

    fn gather(&mut self, first: Request<O, A>) -> Vec<Request<O, A>> {
        let mut kib = first.room.num_permits();
        let mut batch = vec![first];
        while kib < COMMIT_KIB_MAX
            && let Ok(request) = self.requests.try_recv()
        {
            kib += request.room.num_permits();
            batch.push(request);
        }
        batch
    }
}

fn serve<O, A>(batch: Vec<Request<O, A>>, commit: &impl Fn(&[O]) -> Vec<A>) {
    let mut operations = Vec::with_capacity(batch.len());
    let mut waiting = Vec::with_capacity(batch.len());
    for Request { operation, reply, room } in batch {
        operations.push(operation);
        waiting.push((reply, room));
    }
    let answers = commit(&operations);
    for ((reply, room), answer) in waiting.into_iter().zip(answers) {
        drop(room);
        // A caller that was cancelled does not listen any more.
        drop(reply.send(answer));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use futures_util::future::join_all;
    use runtime::Scope;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_share_one_commit() {
        let (entrance, queue) = queue::<u32, u32>();
        let batches = Arc::new(Mutex::new(Vec::new()));
        let scope = Scope::new("test");
        scope.spawn("queue", {
            let batches = Arc::clone(&batches);
            let commit = move |operations: &[u32]| {
                batches.lock().unwrap().push(operations.len());
                operations.iter().map(|operation| operation * 2).collect()
            };
            queue.run(scope.stopping(), commit)
        });
        let answers = join_all((0..20).map(|operation| entrance.submit(operation, 10))).await;
        assert_eq!(answers, (0..20).map(|operation| Ok(operation * 2)).collect::<Vec<_>>());
        assert_eq!(*batches.lock().unwrap(), [20]);
        scope.stop(Duration::from_secs(10)).await.unwrap();
        assert_eq!(entrance.submit(1, 10).await, Err(Unanswered::Closed));
    }

    #[tokio::test]
    async fn callers_wait_while_the_queue_is_full_of_bytes() {
        let (entrance, _queue) = queue::<(), ()>();
        let full = entrance.submit((), QUEUE_KIB_MAX as usize * 1_024);
        tokio::pin!(full);
        assert!(futures_util::poll!(&mut full).is_pending());
        assert_eq!(entrance.room.available_permits(), 0);
    }

    #[tokio::test]
    async fn a_commit_that_panics_is_told_and_the_next_one_runs() {
        let (entrance, queue) = queue::<bool, ()>();
        let scope = Scope::new("test");
        let commit = |operations: &[bool]| {
            assert!(!operations[0], "on purpose");
            vec![()]
        };
        scope.spawn("queue", queue.run(scope.stopping(), commit));
        assert_eq!(entrance.submit(true, 1).await, Err(Unanswered::BrokeOff));
        assert_eq!(entrance.submit(false, 1).await, Ok(()));
    }
}
