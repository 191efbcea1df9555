//! The frame of one process: stages of tasks, signals, and an end in order.
//!
//! Stages stop in the order in which they were made, each within its own grace; what does not end is named. The first
//! signal begins that, the second leaves at once.

use std::task::Poll;
use std::time::Duration;

use anyhow::anyhow;
use runtime::signal::Signals;
use runtime::{Scope, ScopeError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// The tasks of one process.
#[derive(Debug)]
pub(super) struct Process {
    signals: Signals,
    stages: Vec<Stage>,
    faults: (mpsc::Sender<anyhow::Error>, mpsc::Receiver<anyhow::Error>),
    done: CancellationToken,
}

#[derive(Debug)]
struct Stage {
    name: &'static str,
    scope: Scope,
    grace: Duration,
}

impl Process {
    /// Signals are heard from here on.
    pub(super) fn new() -> std::io::Result<Self> {
        let faults = mpsc::channel(8);
        let (signals, done) = (Signals::listen()?, CancellationToken::new());
        Ok(Self { signals, stages: Vec::new(), faults, done })
    }

    /// Adds a stage, which will stop after those made before it.
    pub(super) fn stage(&mut self, name: &'static str, grace: Duration) -> Scope {
        let scope = Scope::new(name);
        self.stages.push(Stage { name, scope: scope.clone(), grace });
        scope
    }

    /// Starts `work`, which ends when its stage is stopped. An error, or an end before that, ends the process.
    pub(super) fn spawn<E: Into<anyhow::Error>>(
        &self,
        scope: &Scope,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (faults, stopping) = (self.faults.0.clone(), scope.stopping());
        scope.spawn(task, async move {
            let fault = match work.await {
                Ok(()) if stopping.is_cancelled() => return,
                Ok(()) => anyhow!("{task} ended by itself"),
                Err(error) => error.into().context(task),
            };
            // When the queue is full, the process is ending for eight reasons already.
            drop(faults.try_send(fault));
        });
    }

    /// Cancel it to end the process in order.
    pub(super) fn done(&self) -> CancellationToken {
        self.done.clone()
    }

    /// Waits for a signal, a fault or [`Self::done`], then stops every stage. `closing` comes last.
    pub(super) async fn run(mut self, closing: impl Future<Output = anyhow::Result<()>>) -> Exit {
        let clean = tokio::select! {
            signal = self.signals.next() => {
                anstream::eprintln!("{signal}: stopping in order; once more to leave at once");
                true
            }
            () = self.done.cancelled() => true,
            fault = self.faults.1.recv() => {
                if let Some(fault) = fault {
                    anstream::eprintln!("error: {fault:#}; stopping");
                }
                false
            }
            stage = broken(&self.stages) => {
                anstream::eprintln!("error: {}; stopping", ScopeError::Broken { scope: stage });
                false
            }
        };
        let stages = std::mem::take(&mut self.stages);
        let stopped = async {
            let in_order = stop(&stages).await;
            drop(stages);
            let closed = closing.await;
            if let Err(error) = &closed {
                anstream::eprintln!("error: {error:#}");
            }
            in_order && closed.is_ok()
        };
        let in_order = tokio::select! {
            in_order = stopped => in_order,
            signal = self.signals.next() => {
                anstream::eprintln!("{signal}: left at once");
                false
            }
        };
        if clean && in_order { Exit::Ok } else { Exit::Dirty }
    }
}

/// The name of a stage with a task that panicked.
async fn broken(stages: &[Stage]) -> &'static str {
    let mut waits: Vec<_> = stages.iter().map(|stage| (stage.name, Box::pin(stage.scope.broken()))).collect();
    std::future::poll_fn(|context| {
        for (name, wait) in &mut waits {
            if wait.as_mut().poll(context).is_ready() {
                return Poll::Ready(*name);
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether every stage ended within its grace and unbroken.
async fn stop(stages: &[Stage]) -> bool {
    let mut in_order = true;
    for Stage { scope, grace, .. } in stages {
        if let Err(error) = scope.stop(*grace).await {
            anstream::eprintln!("error: {error}");
            in_order = false;
        }
    }
    in_order
}
