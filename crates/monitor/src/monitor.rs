//! The monitor's one task: takes in what followers bring, asks the board and the open commands, and writes what they
//! decide while it leads.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use backends::Backends;
use backends::bus::{BusError, NewRecord, Record};
use backends::follow::Followed;
use backends::registry::{Compare, Operation, RegistryError, Txn};
use model::command::{CommandState, Unanswered};
use model::id::{AgentId, Revision};
use model::presence::Presence;
use proto::key;
use proto::record::{self, ResponseRecord, StatusRecord};
use runtime::ops::Ops;
use runtime::{Backoff, Clock, Scope, ScopeError};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::election::{Candidate, Leadership, Term};
use crate::history;
use crate::intake::{self, Healths, Input, Known, Topic};
use crate::metrics::Metrics;

/// A write that failed, and a look at topics that are not read to their end yet, are tried again this much later.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_CEILING: Duration = Duration::from_secs(5);
/// Records published in one call, so that the question who leads is never long ago.
const AT_ONCE_MAX: usize = 512;
/// The header of a record on `agent-status` that says in which term of leading it was written.
const TERM: &str = "term";
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
    #[error("the monitor can follow {subject} no longer: its backend has closed")]
    Deaf { subject: &'static str },
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

/// How far a look at what is to be written has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    All,
    /// A topic is still being read, or another monitor may lead by now: to be looked at again soon.
    NotYet,
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
    /// The term in which the topics have been read up to where its predecessor may have written.
    settled: Option<Term>,
    retry: Backoff,
    /// After a failure nothing is written before.
    not_before: Duration,
    troubled: bool,
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
            settled: None,
            retry: Backoff::new(RETRY, RETRY_CEILING),
            not_before: Duration::ZERO,
            troubled: false,
        })
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let scope = Scope::new("monitor");
        let (deaf, mut first_deaf) = mpsc::channel(1);
        let mut inputs = intake::follow(&scope, &self.backends, self.clock, &self.health, &deaf);
        let candidate = Candidate {
            registry: self.backends.registry.clone(),
            role: "monitor",
            id: self.settings.monitor_id.clone(),
            clock: self.clock,
        };
        let (tell, mut leadership) = candidate.leadership();
        scope.spawn("election", candidate.run(tell, scope.stopping()));
        history::start(&scope, &self.backends.registry, leadership.clone(), &self.health.registry);
        let ended = loop {
            let wake = tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                wake = self.act(&leadership) => wake,
            };
            let wake =
                self.clock.instant(wake.unwrap_or(Duration::MAX / 2).min(self.clock.monotonic() + HOUR));
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = scope.broken() => break Ok(()), // `stop` below says which and why.
                () = leadership.changed() => {}
                input = inputs.recv() => match input {
                    Some(input) => {
                        self.take(input);
                        while let Ok(more) = inputs.try_recv() {
                            self.take(more);
                        }
                    }
                    None => break Err(RunError::Deaf { subject: "bus and registry" }),
                },
                Some(subject) = first_deaf.recv() => break Err(RunError::Deaf { subject }),
                () = tokio::time::sleep_until(wake) => {}
            }
        };
        drop(inputs);
        scope.stop(STOP_WITHIN).await?;
        ended
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Registry(prefix, event) => self.known.registry(prefix, event),
            Input::Bus(topic, followed) => {
                let status = self.known.followed(topic, &followed);
                if let (Some(status), Followed::Record(record)) = (status, &followed) {
                    self.show(status, term_of(record));
                }
                if topic == Topic::Status
                    && matches!(followed, Followed::CaughtUp(_))
                    && let Some(initial) = self.initial.take()
                    && let Some(on_status) = &self.settings.on_status
                {
                    initial.values().for_each(on_status);
                }
            }
        }
    }

    fn show(&mut self, status: StatusRecord, term: Option<Term>) {
        match (&mut self.initial, &self.settings.on_status) {
            (Some(initial), _) => drop(initial.insert(status.agent_id.clone(), status.clone())),
            (None, Some(on_status)) => on_status(&status),
            (None, None) => {}
        }
        // A settled leader knows what it published; its own records coming back would set it back. One of anybody else is the
        // topic's last word now: if that is wrong, it is told right again.
        if self.settled.is_none() || self.settled != term {
            self.known.board.published(status);
        }
    }

    /// Writes what is to be written now. Returns when to look again, if nothing happens before.
    async fn act(&mut self, leadership: &Leadership) -> Option<Duration> {
        self.show_counts();
        let term = leadership.term();
        self.metrics.leading.set(i64::from(term.is_some()));
        if self.settled.is_some_and(|settled| Some(settled) != term) {
            self.settled = None;
        }
        let now = self.clock.monotonic();
        self.known.board.look(now);
        let term = term.filter(|_| self.known.is_complete())?;
        if now < self.not_before {
            return Some(self.not_before);
        }
        match self.write(leadership, term, now).await {
            Ok(Written::All) => {
                self.retry.reset();
                if std::mem::take(&mut self.troubled) {
                    tracing::info!("decisions are written again");
                    self.health.bus.ok();
                    self.health.registry.ok();
                }
                let deadlines = [self.known.board.next_change(now), self.known.open.next_deadline()];
                deadlines.into_iter().flatten().min()
            }
            Ok(Written::NotYet) => Some(now + RETRY),
            Err(error) => {
                if !std::mem::replace(&mut self.troubled, true) {
                    tracing::warn!(%error, "decisions wait to be written");
                }
                match &error {
                    WriteError::Bus(error) => self.health.bus.degraded(error.to_string()),
                    WriteError::Registry(error) => self.health.registry.degraded(error.to_string()),
                }
                self.not_before = self.clock.monotonic() + RETRY / 2 + self.retry.next_delay();
                Some(self.not_before)
            }
        }
    }

    async fn write(
        &mut self,
        leadership: &Leadership,
        term: Term,
        now: Duration,
    ) -> Result<Written, WriteError> {
        if self.settled != Some(term) {
            if !self.has_read_all(Topic::Status).await? {
                return Ok(Written::NotYet);
            }
            self.settled = Some(term);
        }
        self.judge(leadership, term, now).await?;
        let told = self.publish_status(leadership, term).await;
        if told.is_err() {
            // Some of it may be there: read again before anything is said twice.
            self.settled = None;
        }
        match told? {
            Written::All => self.end_unanswered(leadership, term, now).await,
            Written::NotYet => Ok(Written::NotYet),
        }
    }

    async fn has_read_all(&self, topic: Topic) -> Result<bool, WriteError> {
        let extents = self.backends.bus.extents(topic.name()).await?;
        Ok(self.known.has_reached(topic, &extents))
    }

    async fn judge(&mut self, leadership: &Leadership, term: Term, now: Duration) -> Result<(), WriteError> {
        for judgement in self.known.board.judge(now, self.clock.wall()) {
            let key = key::agent(&judgement.entry.agent_id);
            let put = Operation::Put { key: key.clone(), value: json(&judgement.entry), lease: None };
            let compares =
                vec![Compare::Modified { key, revision: judgement.judged }, leadership.fence(term)];
            let committed = self.backends.registry.commit(Txn { compares, operations: vec![put] }).await?;
            if committed.succeeded {
                self.known.board.agent(judgement.entry, committed.revision);
            }
        }
        Ok(())
    }

    async fn publish_status(&mut self, leadership: &Leadership, term: Term) -> Result<Written, WriteError> {
        let news = self.known.board.unpublished(self.clock.wall());
        for part in news.chunks(AT_ONCE_MAX) {
            if !leadership.confirms(term).await? {
                return Ok(Written::NotYet);
            }
            let records = part.iter().map(|status| {
                let mut record = new_record(status.agent_id.as_str(), status);
                record.headers.insert(TERM.to_owned(), term.0.to_string());
                record
            });
            self.backends.bus.publish(record::AGENT_STATUS, records.collect()).await?;
            for status in part {
                self.metrics.transitions.with_label_values(&[status.status.label()]).inc();
                self.known.board.published(status.clone());
            }
        }
        Ok(Written::All)
    }

    async fn end_unanswered(
        &mut self,
        leadership: &Leadership,
        term: Term,
        now: Duration,
    ) -> Result<Written, WriteError> {
        let due = self.known.open.unanswered(now);
        if due.is_empty() {
            return Ok(Written::All);
        }
        // An answer may be on the topic that has not been taken in yet.
        if !self.has_read_all(Topic::Responses).await? {
            return Ok(Written::NotYet);
        }
        for part in due.chunks(AT_ONCE_MAX) {
            if !leadership.confirms(term).await? {
                return Ok(Written::NotYet);
            }
            let responses: Vec<ResponseRecord> =
                part.iter().map(|unanswered| self.verdict(unanswered.clone())).collect();
            let records =
                responses.iter().map(|response| new_record(response.agent_id.as_str(), response)).collect();
            self.backends.bus.publish(record::COMMAND_RESPONSES, records).await?;
            for response in responses {
                self.metrics.unanswered.with_label_values(&[response.state.label()]).inc();
                self.known.open.reported(&response.command_id, &response.agent_id, response.state);
            }
        }
        Ok(Written::All)
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

fn term_of(record: &Record) -> Option<Term> {
    record.headers.get(TERM)?.parse().ok().map(|revision| Term(Revision(revision)))
}

fn new_record(key: &str, value: &impl Serialize) -> NewRecord {
    let headers = [(record::CONTENT_TYPE.to_owned(), record::JSON.to_owned())].into();
    NewRecord { key: key.to_owned(), value: json(value), headers }
}

fn json(value: &impl Serialize) -> bytes::Bytes {
    // Our own records have string keys and finite numbers; serialising them cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}
