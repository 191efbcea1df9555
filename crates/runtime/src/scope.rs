//! Task groups: the only place that may spawn.
//!
//! Every task has a name, an owner (its scope) and an end. A task that panics, or a main task that ends early, breaks
//! the scope, and whoever waits on [`Scope::broken`] hears it: a panic is never swallowed. Stopping is staged by using
//! one scope per stage.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A named group of tasks with one stop signal.
#[derive(Clone, Debug)]
pub struct Scope {
    name: &'static str,
    stopping: CancellationToken,
    broken: CancellationToken,
    tasks: TaskTracker,
    running: Arc<Mutex<BTreeMap<u64, &'static str>>>,
}

/// Tasks that did not end in time, or one that panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("{scope}: still running after {grace:?}: {}", tasks.join(", "))]
    Stragglers { scope: &'static str, grace: Duration, tasks: Vec<&'static str> },
    #[error("{scope}: a task panicked")]
    Broken { scope: &'static str },
}

impl Scope {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            stopping: CancellationToken::new(),
            broken: CancellationToken::new(),
            tasks: TaskTracker::new(),
            running: Arc::default(),
        }
    }

    /// Starts `work`. It should end soon after [`Scope::stopping`] is cancelled.
    pub fn spawn(&self, task: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let entry = Entry::new(self, task);
        let alarm = self.broken.clone().drop_guard();
        // No parent: the scopes around this one say nothing that its own name does not, on every line.
        let span = tracing::info_span!(parent: None, "task", scope = self.name, task);
        let watched = async move {
            let _entry = entry;
            work.await;
            alarm.disarm(); // Reached only without a panic.
        };
        // The tracker owns the task; its handle is not needed.
        drop(self.tasks.spawn(watched.instrument(span)));
    }

    /// Cancelled when this scope should end. Tasks select on it.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Completes when a task of this scope has panicked.
    ///
    /// Cancel safe: yes.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// Asks every task to end without waiting for it.
    pub fn cancel(&self) {
        self.stopping.cancel();
    }

    /// Asks every task to end and waits for them, at most `grace`.
    pub async fn stop(&self, grace: Duration) -> Result<(), ScopeError> {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            return Err(ScopeError::Stragglers { scope: self.name, grace, tasks: self.running() });
        }
        if self.broken.is_cancelled() {
            return Err(ScopeError::Broken { scope: self.name });
        }
        Ok(())
    }

    /// The names of the tasks that run now.
    pub fn running(&self) -> Vec<&'static str> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

/// A task's line in the list of running ones; leaves it however the task ends.
struct Entry {
    id: u64,
    running: Arc<Mutex<BTreeMap<u64, &'static str>>>,
}

impl Entry {
    fn new(scope: &Scope, task: &'static str) -> Self {
        let mut running = scope.running.lock().unwrap_or_else(PoisonError::into_inner);
        let id = running.last_key_value().map_or(0, |(last, _)| last + 1);
        running.insert(id, task);
        Self { id, running: Arc::clone(&scope.running) }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_heard() {
        let scope = Scope::new("test");
        scope.spawn("faulty", async { panic!("on purpose") });
        scope.broken().await;
        assert_eq!(scope.stop(Duration::from_secs(1)).await, Err(ScopeError::Broken { scope: "test" }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_straggler_is_named() {
        let scope = Scope::new("test");
        scope.spawn("deaf", std::future::pending());
        let stopping = scope.stopping();
        scope.spawn("obedient", async move { stopping.cancelled().await });
        let error = scope.stop(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "test: still running after 1s: deaf");
    }

    #[tokio::test]
    async fn a_scope_that_did_its_work_stops_clean() {
        let scope = Scope::new("test");
        scope.spawn("brief", async {});
        assert_eq!(scope.stop(Duration::from_secs(1)).await, Ok(()));
        assert_eq!(scope.running(), Vec::<&str>::new());
    }
}
