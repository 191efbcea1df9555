//! Obeys the server: commands one at a time in the order they came, config revisions as they come.
//!
//! A command is in the journal, synced, before anything is done about it: it is acted on at most once, whenever the
//! agent is killed. Its outcome is kept until the server says that it is durable.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use model::command::{CommandState, CommandType};
use model::id::CommandId;
use model::presence::Collection;
use model::truth::{ConfigTruth, Failure, Mark};
use proto::wire;
use runtime::Component;
use runtime::clock::wall;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::buffer::Fill;
use crate::collection::{Order, View};
use crate::config;
use crate::dispatch::{acceptable, report};
use crate::journal::{Arrival, Journal, Number, Progress};
use crate::lanes::Lanes;
use crate::machine::Usage;
use crate::metrics::Metrics;
use crate::session::{Delivery, Identity, rejected};
use crate::state::{Change, LastGood, State, StateError};
use crate::status;

/// The other ends of a session's [`Downlink`](crate::session::Downlink).
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) commands: mpsc::Receiver<Delivery>,
    pub(crate) acknowledgements: mpsc::Receiver<(CommandId, CommandState)>,
    pub(crate) config: watch::Receiver<Option<wire::ConfigRevision>>,
}

/// What obeying needs.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) identity: Arc<Identity>,
    pub(crate) state: Arc<State>,
    pub(crate) state_notice: Option<String>,
    pub(crate) journal: Journal,
    pub(crate) last_good: Option<LastGood>,
    /// Which registry numbered the newest revision received.
    pub(crate) registry: String,
    pub(crate) truth: watch::Sender<ConfigTruth>,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) connected: watch::Receiver<Option<String>>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Component,
    /// Cancelled by RESTART.
    pub(crate) restart: CancellationToken,
}

/// A command that waits for its turn.
#[derive(Debug)]
struct Waiting {
    number: Number,
    delivery: Delivery,
}

/// What is true together with an outcome: written with it, in one transaction.
type Outcome = (Progress, Vec<Change>);

impl Control {
    /// Runs until `stop`, or until a RESTART has begun.
    pub(crate) async fn run(mut self, mut inbox: Inbox, stop: CancellationToken) {
        self.health.ok();
        for entry in self.journal.unacknowledged() {
            self.lanes.report(report(entry));
        }
        let mut waiting = VecDeque::new();
        loop {
            while let Ok(delivery) = inbox.commands.try_recv() {
                waiting.extend(self.deliver(delivery).await);
            }
            if let Some(next) = waiting.pop_front() {
                self.run_command(next).await;
                if self.restart.is_cancelled() {
                    return;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((id, state)) = inbox.acknowledgements.recv() => {
                    self.acknowledge(id, state, &mut inbox.acknowledgements).await;
                }
                Ok(()) = inbox.config.changed() => {
                    let revision = inbox.config.borrow_and_update().clone();
                    if let Some(revision) = revision {
                        self.take_config(&revision).await;
                    }
                }
                Some(delivery) = inbox.commands.recv() => waiting.extend(self.deliver(delivery).await),
            }
        }
    }

    /// Takes a command into the journal. `None` when there is nothing to do about it.
    async fn deliver(&mut self, delivery: Delivery) -> Option<Waiting> {
        let (id, kind) = match acceptable(&delivery.command, &self.identity.agent_id) {
            Ok(accepted) => accepted,
            Err(why) => {
                self.lanes.report(rejected(&delivery.command, &why.to_string()));
                return None;
            }
        };
        match self.journal.arrive(&id, kind, &self.identity.incarnation, wall()) {
            Arrival::Acknowledged => None,
            Arrival::Unacknowledged(entry) => {
                self.lanes.report(report(&entry));
                None
            }
            Arrival::New { number, forgotten } => {
                let changes = forgotten.map(Change::Forget).into_iter().collect();
                match self.persist(number, changes).await {
                    Ok(()) => {
                        self.tell(number);
                        Some(Waiting { number, delivery })
                    }
                    Err(error) => {
                        let why = format!("the agent cannot remember it and so does not act: {error}");
                        self.journal.advance(number, Progress::new(CommandState::Rejected, why), wall());
                        self.tell(number);
                        None
                    }
                }
            }
        }
    }

    /// Runs one command to its end.
    async fn run_command(&mut self, waiting: Waiting) {
        let Waiting { number, delivery: Delivery { command, expires } } = waiting;
        let Some(kind) = self.journal.get(number).map(|entry| entry.kind) else { return };
        if Instant::now() >= expires {
            let progress = Progress::new(CommandState::Expired, "its time was over before it was its turn");
            return self.end(number, (progress, Vec::new())).await;
        }
        self.journal.advance(number, Progress::new(CommandState::Running, ""), wall());
        if let Err(error) = self.persist(number, Vec::new()).await {
            let why = format!("the agent cannot remember that it acts and so does not: {error}");
            return self.end(number, (Progress::new(CommandState::Failed, why), Vec::new())).await;
        }
        self.tell(number);
        match kind {
            CommandType::Status => {
                let progress = Progress::succeeded(self.status());
                self.end(number, (progress, Vec::new())).await;
            }
            CommandType::Stop => self.collect(number, false).await,
            CommandType::Start => self.collect(number, true).await,
            CommandType::UpdateConfig => {
                let outcome = self.update_config(command.config.as_ref()).await;
                self.end(number, outcome).await;
            }
            // The next incarnation reports that this has succeeded.
            CommandType::Restart => self.restart.cancel(),
        }
    }

    /// STOP and START. The pause and the outcome become durable together, then hold.
    async fn collect(&mut self, number: Number, on: bool) {
        let was = self.view.borrow().collection;
        let result = json!({ "was": was }).as_object().cloned().unwrap_or_default();
        self.journal.advance(number, Progress::succeeded(result), wall());
        if let Err(error) = self.persist(number, vec![Change::Paused(!on)]).await {
            let why = format!("it would not outlive a restart: {error}");
            return self.end(number, (Progress::new(CommandState::Failed, why), Vec::new())).await;
        }
        let (done, answer) = oneshot::channel();
        // A loop that has ended collects nothing either way.
        if self.orders.send(Order::Collect { on, done }).await.is_ok() {
            answer.await.ok();
        }
        tracing::info!(was = %was, now = %self.view.borrow().collection, "told whether to collect");
        self.ended(number);
    }

    async fn update_config(&mut self, revision: Option<&wire::ConfigRevision>) -> Outcome {
        let marked = revision.and_then(|revision| Some((revision, config::mark_of(revision)?)));
        let Some((revision, mark)) = marked else {
            return (Progress::new(CommandState::Rejected, "the server sent no config with it"), Vec::new());
        };
        match self.apply(revision, &mark).await {
            Ok(changes) => {
                let result = json!({ "revision": mark.revision, "digest": mark.digest });
                (Progress::succeeded(result.as_object().cloned().unwrap_or_default()), changes)
            }
            Err(failure) => {
                let Failure { stage, path, message, .. } = failure;
                let at = if path.is_empty() { String::new() } else { format!("{path}: ") };
                let mut progress = Progress::new(CommandState::Failed, format!("{at}{message}"));
                let result = json!({ "stage": stage, "path": path, "message": message, "running": self.truth.borrow().running });
                progress.result = result.as_object().cloned().unwrap_or_default();
                (progress, Vec::new())
            }
        }
    }

    /// A revision the server pushed. An older one than the newest received comes from a server that lags behind, unless
    /// another registry counts now.
    async fn take_config(&mut self, revision: &wire::ConfigRevision) {
        let Some(mark) = config::mark_of(revision) else { return };
        let newest = self.truth.borrow().received.clone();
        let newest = newest.filter(|_| revision.registry == self.registry);
        if let Some(newest) = newest.filter(|newest| mark.revision < newest.revision) {
            if mark.digest != newest.digest {
                tracing::warn!(revision = %mark.revision, newest = %newest.revision, "an older config was not applied: UPDATE_CONFIG does it all the same");
            }
            return;
        }
        if let Ok(changes) = self.apply(revision, &mark).await
            && !changes.is_empty()
            && let Err(error) = self.write(changes).await
        {
            tracing::error!(%error, "the config runs and would not outlive a restart");
            self.health.degraded(error.to_string());
        }
    }

    /// Makes a revision run and keeps the truth. Answers with what to write so that it outlives the agent.
    async fn apply(&mut self, revision: &wire::ConfigRevision, mark: &Mark) -> Result<Vec<Change>, Failure> {
        self.registry.clone_from(&revision.registry);
        let applied = config::apply(revision, mark, &self.orders, wall()).await;
        self.truth.send_modify(|truth| {
            truth.received(mark.clone());
            match &applied {
                Ok(()) => truth.runs(mark.clone()),
                Err(failure) => truth.failed(failure.clone()),
            }
        });
        match applied {
            Err(failure) => {
                tracing::warn!(revision = %mark.revision, path = failure.path, message = failure.message, "config refused");
                Err(failure)
            }
            Ok(()) => {
                tracing::info!(revision = %mark.revision, "config applied");
                let good = LastGood {
                    mark: mark.clone(),
                    json: revision.effective_json.clone(),
                    registry: revision.registry.clone(),
                };
                if self.last_good.as_ref() == Some(&good) {
                    return Ok(Vec::new());
                }
                self.last_good = Some(good.clone());
                Ok(vec![Change::Config(good)])
            }
        }
    }

    fn status(&self) -> Map<String, Value> {
        let fill: Fill = self.lanes.buffer().fill();
        status::report(&status::Parts {
            view: &self.view.borrow(),
            truth: &self.truth.borrow(),
            fill,
            identity: &self.identity,
            server: self.connected.borrow().clone(),
            usage: Usage::read(),
            state_notice: self.state_notice.as_deref(),
        })
    }

    /// Gives a command its end.
    async fn end(&mut self, number: Number, (progress, changes): Outcome) {
        self.journal.advance(number, progress, wall());
        if let Err(error) = self.persist(number, changes).await {
            // Told all the same; after a crash it would be told as interrupted.
            tracing::error!(%error, "the outcome of a command was not made durable");
        }
        self.ended(number);
    }

    fn ended(&self, number: Number) {
        self.tell(number);
        if let Some(entry) = self.journal.get(number) {
            self.metrics.command_ended(entry.kind, entry.state);
            tracing::info!(command = %entry.id, kind = %entry.kind, state = %entry.state, "command ended");
        }
    }

    fn tell(&self, number: Number) {
        if let Some(entry) = self.journal.get(number) {
            self.lanes.report(report(entry));
        }
    }

    /// The server has outcomes. Those that wait already go into the same transaction.
    async fn acknowledge(
        &mut self,
        id: CommandId,
        state: CommandState,
        more: &mut mpsc::Receiver<(CommandId, CommandState)>,
    ) {
        let mut changes = Vec::new();
        let mut next = Some((id, state));
        while let Some((id, state)) = next {
            let number = self.journal.acknowledge(&id, state);
            changes.extend(number.and_then(|number| self.change(number)));
            next = more.try_recv().ok();
        }
        if !changes.is_empty()
            && let Err(error) = self.write(changes).await
        {
            tracing::warn!(%error, "acknowledged outcomes will be told again after a restart");
        }
    }

    /// Makes an entry durable, with `changes`.
    async fn persist(&self, number: Number, mut changes: Vec<Change>) -> Result<(), StateError> {
        changes.extend(self.change(number));
        let result = self.write(changes).await;
        match &result {
            Ok(()) => self.health.ok(),
            Err(error) => self.health.degraded(error.to_string()),
        }
        result
    }

    fn change(&self, number: Number) -> Option<Change> {
        self.journal.get(number).map(|entry| Change::Command(number, Box::new(entry.clone())))
    }

    async fn write(&self, changes: Vec<Change>) -> Result<(), StateError> {
        let state = Arc::clone(&self.state);
        match tokio::task::spawn_blocking(move || state.write(&changes)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and we with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Whether a collection was paused, for the first [`View`].
pub(crate) fn collection(paused: bool) -> Collection {
    if paused { Collection::Paused } else { Collection::Collecting }
}

/// What an operator should know after the state was damaged.
pub(crate) fn damage_notice(moved_aside: &Path) -> String {
    format!(
        "the agent's state was damaged: a pause and remembered commands may be forgotten; the file is kept as {}",
        moved_aside.display()
    )
}
