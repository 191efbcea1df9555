//! The monitor's one task: takes in what followers bring, asks the board and the open commands, and writes what they
//! decide while it leads.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use backends::Backends;
use backends::bus::{BusError, NewRecord};
use backends::follow::Followed;
use backends::registry::{Compare, Operation, RegistryError, Txn};
use model::command::{CommandState, Unanswered};
use model::id::AgentId;
use model::presence::Presence;
use proto::key;
use proto::record::{self, ResponseRecord, StatusRecord};
use runtime::ops::Ops;
use runtime::{Clock, Scope, ScopeError};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::election::Candidate;
use crate::history;
use crate::intake::{self, Healths, Input, Known, Prefix, Topic};
use crate::metrics::Metrics;

/// A write that failed, and a look at topics that are not read to their end yet, are tried again this much later.
const RETRY: Duration = Duration::from_millis(250);
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// How one monitor is run.
pub struct Settings {
    /// Unique among monitors.
    pub monitor_id: String,
    /// Called with every agent's presence at start, then with each transition on `agent-status`, whoever published it.
    pub on_status: Option<OnStatus>,
}

/// Told of each presence record.
pub type OnStatus = Box<dyn Fn(&StatusRecord) + Send + Sync>;

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("monitor_id", &self.monitor_id).finish_non_exhaustive()
    }
}

/// Why a monitor ended though nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the bus and the registry have closed")]
    BackendsClosed,
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

/// Why a decision could not be written. It is tried again.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// One monitor.
#[derive(Debug)]
pub struct Monitor {
    settings: Settings,
    backends: Backends,
    clock: Clock,
    metrics: Metrics,
    health: Healths,
    known: Known,
    /// Presence as last seen on the topic, to show at start; emptied once shown.
    initial: Option<BTreeMap<AgentId, StatusRecord>>,
    /// Whether this run of leading has read the topics up to where its predecessor may have written.
    settled: bool,
}

impl Monitor {
    pub fn new(settings: Settings, backends: Backends, ops: &Ops) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(&ops.metrics)?;
        let clock = Clock::start();
        let health = Healths {
            bus: ops.health.component("monitor-bus"),
            registry: ops.health.component("monitor-registry"),
        };
        let known = Known::new(clock, metrics.clone());
        Ok(Self {
            settings,
            backends,
            clock,
            metrics,
            health,
            known,
            initial: Some(Default::default()),
            settled: false,
        })
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let scope = Scope::new("monitor");
        let mut inputs = intake::follow(&scope, &self.backends, self.clock, &self.health);
        let (leading_tx, mut leading) = watch::channel(false);
        let candidate = Candidate {
            registry: self.backends.registry.clone(),
            role: "monitor",
            id: self.settings.monitor_id.clone(),
            clock: self.clock,
        };
        scope.spawn("election", candidate.run(leading_tx, scope.stopping()));
        let mut led = false;
        let ended = loop {
            let leads = *leading.borrow_and_update();
            if std::mem::replace(&mut led, leads) != leads {
                self.leadership(leads).await;
            }
            let wake = self.act(leads).await;
            let wake =
                self.clock.instant(wake.unwrap_or(Duration::MAX / 2).min(self.clock.monotonic() + HOUR));
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = scope.broken() => break Ok(()), // `stop` below says which and why.
                _ = leading.changed() => {}
                input = inputs.recv() => match input {
                    Some(input) => {
                        self.take(input, leads).await;
                        while let Ok(more) = inputs.try_recv() {
                            self.take(more, leads).await;
                        }
                    }
                    None => break Err(RunError::BackendsClosed),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        };
        drop(inputs);
        scope.stop(STOP_WITHIN).await?;
        ended
    }

    async fn leadership(&mut self, leads: bool) {
        self.metrics.leading.set(i64::from(leads));
        self.settled = false;
        if !leads {
            return;
        }
        // Versions that nobody recorded while nobody led.
        for prefix in [Prefix::Config, Prefix::Groups] {
            let recorded = async {
                let snapshot = self.backends.registry.list(prefix.key()).await?;
                let resync = backends::registry::Event::Resync(snapshot);
                history::record(&self.backends.registry, &resync, self.clock.wall()).await
            };
            if let Err(error) = recorded.await {
                tracing::warn!(%error, "config history is not complete");
            }
        }
    }

    async fn take(&mut self, input: Input, leads: bool) {
        match input {
            Input::Registry(prefix, event) => {
                if leads
                    && matches!(prefix, Prefix::Config | Prefix::Groups)
                    && let Err(error) =
                        history::record(&self.backends.registry, &event, self.clock.wall()).await
                {
                    tracing::warn!(%error, "a config version is missing from the history");
                }
                self.known.registry(prefix, event);
            }
            Input::Bus(topic, Followed::Record(record)) => {
                if let Some(status) = self.known.record(topic, &record) {
                    self.show(status, leads);
                }
            }
            Input::Bus(topic, Followed::CaughtUp(_)) => {
                self.known.caught_up();
                if topic == Topic::Status
                    && let Some(initial) = self.initial.take()
                    && let Some(on_status) = &self.settings.on_status
                {
                    initial.values().for_each(on_status);
                }
            }
        }
    }

    fn show(&mut self, status: StatusRecord, leads: bool) {
        match (&mut self.initial, &self.settings.on_status) {
            (Some(initial), _) => drop(initial.insert(status.agent_id.clone(), status.clone())),
            (None, Some(on_status)) => on_status(&status),
            (None, None) => {}
        }
        // A settled leader knows what it published; its own records coming back would set it back.
        if !(leads && self.settled) {
            self.known.board.published(status);
        }
    }

    /// Writes what is to be written now. Returns when to look again, if nothing happens before.
    async fn act(&mut self, leads: bool) -> Option<Duration> {
        self.show_counts();
        if !leads || !self.known.is_complete() {
            return None;
        }
        let now = self.clock.monotonic();
        let written = async {
            if !self.settled {
                self.settled = self.has_read_all(Topic::Status).await?;
            }
            if !self.settled {
                return Ok(false);
            }
            self.judge(now).await?;
            self.publish_status().await?;
            self.end_unanswered(now).await
        };
        match written.await {
            Ok(true) => {
                let deadlines = [self.known.board.next_change(now), self.known.open.next_deadline()];
                deadlines.into_iter().flatten().min()
            }
            Ok(false) => Some(now + RETRY),
            Err::<bool, WriteError>(error) => {
                tracing::warn!(%error, "a decision waits to be written");
                Some(now + RETRY)
            }
        }
    }

    async fn has_read_all(&self, topic: Topic) -> Result<bool, WriteError> {
        let extents = self.backends.bus.extents(topic.name()).await?;
        Ok(self.known.has_reached(topic, &extents))
    }

    async fn judge(&mut self, now: Duration) -> Result<(), WriteError> {
        for judgement in self.known.board.judge(now, self.clock.wall()) {
            let key = key::agent(&judgement.entry.agent_id);
            let put = Operation::Put { key: key.clone(), value: json(&judgement.entry), lease: None };
            let compares = vec![Compare::Modified { key, revision: judgement.judged }];
            let committed = self.backends.registry.commit(Txn { compares, operations: vec![put] }).await?;
            if committed.succeeded {
                self.known.board.agent(judgement.entry, committed.revision);
            }
        }
        Ok(())
    }

    async fn publish_status(&mut self) -> Result<(), WriteError> {
        let news = self.known.board.unpublished(self.clock.wall());
        if news.is_empty() {
            return Ok(());
        }
        let records = news.iter().map(|status| new_record(status.agent_id.as_str(), status)).collect();
        self.backends.bus.publish(record::AGENT_STATUS, records).await?;
        for status in news {
            self.metrics.transitions.with_label_values(&[status.status.label()]).inc();
            self.known.board.published(status);
        }
        Ok(())
    }

    /// `Ok(false)` when an answer may be on the topic that has not been read yet.
    async fn end_unanswered(&mut self, now: Duration) -> Result<bool, WriteError> {
        let due = self.known.open.unanswered(now);
        if due.is_empty() {
            return Ok(true);
        }
        if !self.has_read_all(Topic::Responses).await? {
            return Ok(false);
        }
        let responses: Vec<ResponseRecord> =
            due.into_iter().map(|unanswered| self.verdict(unanswered)).collect();
        let records =
            responses.iter().map(|response| new_record(response.agent_id.as_str(), response)).collect();
        self.backends.bus.publish(record::COMMAND_RESPONSES, records).await?;
        for response in responses {
            self.metrics.unanswered.with_label_values(&[response.state.label()]).inc();
            self.known.open.reported(&response.command_id, &response.agent_id, response.state);
        }
        Ok(true)
    }

    fn verdict(&self, unanswered: Unanswered) -> ResponseRecord {
        let Unanswered { command_id, agent_id, kind, state } = unanswered;
        let standing = match self.known.board.entry(&agent_id) {
            None => format!("no agent {agent_id} has ever connected"),
            Some(entry) if entry.status == Presence::Online => {
                format!("{agent_id} is ONLINE at {}", entry.server)
            }
            Some(entry) => format!("{agent_id} is {} ({}) since {}", entry.status, entry.reason, entry.since),
        };
        let message = match state {
            CommandState::Expired => format!("not delivered before its deadline: {standing}"),
            _ => format!("sent to the agent, which told no outcome before its deadline: {standing}"),
        };
        ResponseRecord::new(command_id, agent_id, kind, state, message, self.clock.wall())
    }

    fn show_counts(&self) {
        self.metrics.agents.reset();
        for (status, count) in self.known.board.counts() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.agents.with_label_values(&[status.label()]).set(count);
        }
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn new_record(key: &str, value: &impl Serialize) -> NewRecord {
    let headers = [(record::CONTENT_TYPE.to_owned(), record::JSON.to_owned())].into();
    NewRecord { key: key.to_owned(), value: json(value), headers }
}

fn json(value: &impl Serialize) -> bytes::Bytes {
    // Our own records have string keys and finite numbers; serialising them cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}
