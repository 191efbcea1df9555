//! What a monitor follows, and how each input changes what it knows. Nothing here writes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::pin::Pin;
use std::time::Duration;

use backends::Backends;
use backends::bus::{Extent, Record, StartAt};
use backends::follow::{self, Followed, Reached};
use backends::registry::{Entry, Event};
use model::command::OpenCommands;
use model::id::{AgentId, CommandId, ServerId};
use model::limit::{COMMAND_TIMEOUT_DEFAULT, COMMAND_TIMEOUT_MAX};
use proto::key::{self, AgentEntry, HeartbeatEntry, ServerEntry};
use proto::record::{self, CommandRecord, ResponseRecord, StatusRecord};
use runtime::{Clock, Component, Scope, Sparing};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::board::Board;
use crate::metrics::Metrics;

/// What the followers may have ahead of the monitor's task.
const INPUTS_MAX: usize = 256;
/// Bad records are logged at most this often; all are counted.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What followers bring.
pub(crate) enum Input {
    Registry(Prefix, Event),
    Bus(Topic, Followed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefix {
    Agents,
    Heartbeats,
    Servers,
}

impl Prefix {
    const ALL: [Self; 3] = [Self::Agents, Self::Heartbeats, Self::Servers];

    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Agents => key::AGENTS,
            Self::Heartbeats => key::HEARTBEATS,
            Self::Servers => key::SERVERS,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Commands,
    Responses,
    Status,
}

impl Topic {
    const ALL: [Self; 3] = [Self::Commands, Self::Responses, Self::Status];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Commands => record::COMMANDS,
            Self::Responses => record::COMMAND_RESPONSES,
            Self::Status => record::AGENT_STATUS,
        }
    }

    /// A command lives a day at most; presence is compacted, so all of it is little.
    fn start(self, clock: Clock) -> StartAt {
        match self {
            Self::Commands | Self::Responses => {
                let day = i64::try_from(COMMAND_TIMEOUT_MAX.as_millis()).unwrap_or(i64::MAX);
                StartAt::Time(model::sample::Timestamp::from_unix_ms(clock.wall().unix_ms() - day))
            }
            Self::Status => StartAt::Earliest,
        }
    }
}

/// Starts a follower for everything a monitor needs to know. One that ends by itself is told to `deaf`.
pub(crate) fn follow(
    scope: &Scope,
    backends: &Backends,
    clock: Clock,
    health: &Healths,
    deaf: &mpsc::Sender<&'static str>,
) -> mpsc::Receiver<Input> {
    let (out, inputs) = mpsc::channel(INPUTS_MAX);
    let spawn = |subject: &'static str, followed: Pin<Box<dyn Future<Output = ()> + Send>>| {
        let (stopping, deaf) = (scope.stopping(), deaf.clone());
        scope.spawn(subject, async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                // Only the first is read.
                () = followed => drop(deaf.try_send(subject)),
            }
        });
    };
    for prefix in Prefix::ALL {
        let registry = backends.registry.clone();
        let wrap = move |event| Input::Registry(prefix, event);
        let followed = follow::prefix(registry, prefix.key(), health.registry.clone(), out.clone(), wrap);
        spawn(prefix.key(), Box::pin(followed));
    }
    for topic in Topic::ALL {
        let (bus, start) = (backends.bus.clone(), topic.start(clock));
        let wrap = move |followed| Input::Bus(topic, followed);
        let followed = follow::topic(bus, topic.name(), start, health.bus.clone(), out.clone(), wrap);
        spawn(topic.name(), Box::pin(followed));
    }
    inputs
}

#[derive(Clone, Debug)]
pub(crate) struct Healths {
    pub(crate) bus: Component,
    pub(crate) registry: Component,
}

/// Everything a monitor knows.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) board: Board,
    pub(crate) open: OpenCommands,
    clock: Clock,
    metrics: Metrics,
    complaints: Sparing,
    /// The keys each prefix held at its last resync or change: a resync tells what is gone only by leaving it out.
    keys: BTreeMap<Prefix, follow::Mirror>,
    reached: BTreeMap<Topic, Reached>,
    catching_up: usize,
}

impl Known {
    pub(crate) fn new(clock: Clock, metrics: Metrics) -> Self {
        Self {
            board: Board::default(),
            open: OpenCommands::default(),
            clock,
            metrics,
            complaints: Sparing::new(LOG_EVERY),
            keys: BTreeMap::new(),
            reached: BTreeMap::new(),
            catching_up: Topic::ALL.len(),
        }
    }

    /// Whether everything that was there before this monitor has been taken in: nothing is decided before.
    pub(crate) fn is_complete(&self) -> bool {
        self.catching_up == 0 && self.keys.len() == Prefix::ALL.len()
    }

    /// Whether every record below these ends has been taken in.
    pub(crate) fn has_reached(&self, topic: Topic, extents: &[Extent]) -> bool {
        self.reached.get(&topic).is_some_and(|reached| reached.covers(extents))
    }

    pub(crate) fn registry(&mut self, prefix: Prefix, event: Event) {
        let mirror = self.keys.entry(prefix).or_default();
        let touched = mirror.take(event);
        let touched: Vec<(String, Option<Entry>)> =
            touched.into_iter().map(|key| (key.clone(), mirror.entries.get(&key).cloned())).collect();
        for (key, entry) in touched {
            match prefix {
                Prefix::Agents => self.agent(&key, entry),
                Prefix::Servers => self.server(&key, entry),
                Prefix::Heartbeats => self.heartbeat(&key, entry),
            }
        }
    }

    /// Takes in what a topic brought. A presence record is given back: people want to see it.
    pub(crate) fn followed(&mut self, topic: Topic, followed: &Followed) -> Option<StatusRecord> {
        self.reached.entry(topic).or_default().take(followed);
        match followed {
            Followed::Record(record) => self.record(topic, record),
            Followed::CaughtUp(_) => {
                self.catching_up = self.catching_up.saturating_sub(1);
                None
            }
        }
    }

    fn record(&mut self, topic: Topic, record: &Record) -> Option<StatusRecord> {
        match topic {
            Topic::Commands => {
                self.command(record);
                None
            }
            Topic::Responses => {
                let response: ResponseRecord = self.read(topic.name(), record)?;
                let state = response.state;
                // A correction that came after the end is not final and changes nothing.
                if response.is_final || !state.is_final() {
                    self.open.reported(&response.command_id, &response.agent_id, state);
                }
                None
            }
            Topic::Status => self.read(topic.name(), record),
        }
    }

    fn agent(&mut self, key: &str, entry: Option<Entry>) {
        match entry {
            Some(entry) => {
                if let Some(agent) = self.value::<AgentEntry>(&entry) {
                    self.board.agent(agent, entry.modified);
                }
            }
            None => {
                if let Some(agent) = key.strip_prefix(key::AGENTS).and_then(|id| AgentId::new(id).ok()) {
                    self.board.agent_removed(&agent);
                }
            }
        }
    }

    fn server(&mut self, key: &str, entry: Option<Entry>) {
        match entry {
            Some(entry) => {
                if let Some(server) = self.value::<ServerEntry>(&entry) {
                    self.board.server(server.server_id, server.server_incarnation);
                }
            }
            None => {
                if let Some(server) = key.strip_prefix(key::SERVERS).and_then(|id| ServerId::new(id).ok()) {
                    self.board.server_gone(&server);
                }
            }
        }
    }

    /// Our servers' own keys say nothing that the inventory does not; any other value is a foreign agent's.
    fn heartbeat(&mut self, key: &str, entry: Option<Entry>) {
        let Some(name) = key.strip_prefix(key::HEARTBEATS) else { return };
        match AgentId::new(name) {
            Ok(agent) => {
                let foreign = |entry: &Entry| serde_json::from_slice::<HeartbeatEntry>(&entry.value).is_err();
                self.board.foreign(agent, entry.filter(foreign).map(|entry| entry.modified));
            }
            Err(error) if entry.is_some() => self.complain(key, &error),
            Err(_) => {}
        }
    }

    fn command(&mut self, record: &Record) {
        let Some(command) = self.read::<CommandRecord>(record::COMMANDS, record) else { return };
        let default_id = format!("c-{}-{}", record.position.partition, record.position.offset);
        let Some(id) = command.command_id.or_else(|| CommandId::new(default_id).ok()) else { return };
        let expires_at = command.expires_at.unwrap_or_else(|| record.at.plus(COMMAND_TIMEOUT_DEFAULT));
        let remaining = expires_at.since(self.clock.wall());
        self.open.issued(id, command.agent_id, command.kind, self.clock.monotonic(), remaining);
    }

    fn read<T: DeserializeOwned>(&mut self, topic: &'static str, record: &Record) -> Option<T> {
        let position = record.position;
        let place = format!("{topic} {}/{}", position.partition, position.offset);
        serde_json::from_slice(&record.value).map_err(|error| self.complain(&place, &error)).ok()
    }

    fn value<T: DeserializeOwned>(&mut self, entry: &Entry) -> Option<T> {
        serde_json::from_slice(&entry.value).map_err(|error| self.complain(&entry.key, &error)).ok()
    }

    fn complain(&mut self, place: &str, error: &dyn Display) {
        self.metrics.bad_records.inc();
        if self.complaints.may_tell() {
            tracing::warn!(place, %error, "skipped a value that cannot be read; more within a minute are only counted");
        }
    }
}
