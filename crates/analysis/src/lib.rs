//! The analysis role: it reads what the fleet measured, keeps recent history and answers questions about it.
//!
//! Every instance reads every partition, so each answers alone for the whole fleet. The history is in memory; given a
//! directory, it is also in an archive there, from which the next start goes on. Commands are read back from the bus at
//! every start. It writes nowhere else: commands and config go out through the console.

mod archive;
mod commands;
mod consume;
mod counters;
mod data;
mod fleet;
mod history;
mod presence_key;

use std::convert::identity;
use std::path::PathBuf;
use std::time::Duration;

use backends::directory::{DataDirectory, DirectoryError};
use backends::{Backends, follow};
use model::limit;
use model::sample::Timestamp;
use proto::record;
use runtime::ops::Ops;
use runtime::{Scope, ScopeError, clock};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use commands::{CommandBook, Progress, Responses};
pub use fleet::Fleet;
pub use history::{Answer, History, Live, Query, SeriesFilter, Stored, Tail};
pub use presence_key::announce;

use archive::Archive;
use counters::{ArchiveCounters, Counters};
use data::Data;

/// Records or changes between a follower and its reader.
const FOLLOWED: usize = 256;
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How much is kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How far back samples are kept.
    pub window: Duration,
    /// Memory for them; past it the agents that use most lose their oldest.
    pub history_bytes_max: usize,
    /// The data directory of this instance alone, for the archive; created where it is missing. Without one there is no
    /// archive, and every start reads the window from the bus.
    pub directory: Option<PathBuf>,
    /// Disk for the archive's blocks; past it the oldest go.
    pub archive_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: limit::HISTORY_WINDOW_DEFAULT,
            history_bytes_max: limit::HISTORY_BYTES_DEFAULT,
            directory: None,
            archive_bytes_max: limit::ARCHIVE_BYTES_DEFAULT,
        }
    }
}

/// Why the role cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("metrics of analysis cannot be registered ({0}): start it once per process")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// Why the role ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("analysis can follow {subject} no longer: its backend has closed")]
    Ended { subject: &'static str },
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

/// The role before it runs. Its views can be handed out already; they fill up once it runs.
#[derive(Debug)]
pub struct Analysis {
    backends: Backends,
    ops: Ops,
    counters: Counters,
    history: History,
    data: Data,
    commands: CommandBook,
    fleet: Fleet,
}

impl Analysis {
    /// Takes the lock of the directory; the archive itself is opened when the role runs.
    pub fn new(settings: Settings, backends: Backends, ops: Ops) -> Result<Self, StartError> {
        let counters = Counters::register(&ops.metrics)?;
        let history = History::new(&settings, counters.clone());
        let archive = settings.directory.map(|path| {
            let directory = DataDirectory::lock(&path)?;
            let health = ops.health.component("analysis archive");
            let counters = ArchiveCounters::register(&ops.metrics)?;
            let (window, bytes_max) = (settings.window, settings.archive_bytes_max);
            Ok::<_, StartError>(Archive::new(directory, window, bytes_max, health, counters))
        });
        let data = Data::new(
            backends.bus.clone(),
            ops.health.component(format!("analysis {}", record::MONITORING_DATA)),
            settings.window,
            history.clone(),
            counters.bad(record::MONITORING_DATA),
            archive.transpose()?,
        );
        let (commands, fleet) = (CommandBook::default(), Fleet::default());
        Ok(Self { backends, ops, counters, history, data, commands, fleet })
    }

    pub fn history(&self) -> History {
        self.history.clone()
    }

    pub fn commands(&self) -> CommandBook {
        self.commands.clone()
    }

    pub fn fleet(&self) -> Fleet {
        self.fleet.clone()
    }

    /// Runs until `stop`. Live streams end with it.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let scope = Scope::new("analysis");
        // A reader that ends by itself names what it read.
        let (ended, mut first_ended) = mpsc::channel(1);
        self.spawn_commands(&scope, &ended);
        self.spawn_prefixes(&scope, &ended);
        spawn_data(&scope, &ended, self.data);
        let early = tokio::select! {
            () = stop.cancelled() => None,
            () = scope.broken() => None,
            subject = first_ended.recv() => subject,
        };
        self.history.close();
        self.commands.close();
        scope.stop(STOP_WITHIN).await?;
        early.map_or(Ok(()), |subject| Err(RunError::Ended { subject }))
    }

    fn spawn_commands(&self, scope: &Scope, ended: &mpsc::Sender<&'static str>) {
        let since = clock::wall().minus(limit::COMMAND_BOOK_WINDOW);
        let commands = consume::Commands::new(self.commands.clone(), self.counters.bad(record::COMMANDS));
        self.spawn_topic(scope, ended, record::COMMANDS, since, commands);
        let responses =
            consume::Responses::new(self.commands.clone(), self.counters.bad(record::COMMAND_RESPONSES));
        self.spawn_topic(scope, ended, record::COMMAND_RESPONSES, since, responses);
        // Compacted: all of it is one word per agent.
        let statuses = fleet::Statuses::new(self.fleet.clone(), self.counters.bad(record::AGENT_STATUS));
        self.spawn_topic(scope, ended, record::AGENT_STATUS, Timestamp::default(), statuses);
    }

    fn spawn_prefixes(&self, scope: &Scope, ended: &mpsc::Sender<&'static str>) {
        for prefix in fleet::PREFIXES {
            let (out, changes) = mpsc::channel(FOLLOWED);
            let health = self.ops.health.component(format!("analysis {prefix}"));
            let registry = self.backends.registry.clone();
            spawn(scope, prefix, ended, follow::prefix(registry, prefix, health, out, identity));
            spawn(scope, prefix, ended, self.fleet.clone().read(prefix, changes));
        }
    }

    fn spawn_topic(
        &self,
        scope: &Scope,
        ended: &mpsc::Sender<&'static str>,
        topic: &'static str,
        since: Timestamp,
        reader: impl consume::Read,
    ) {
        let (out, records) = mpsc::channel(FOLLOWED);
        let health = self.ops.health.component(format!("analysis {topic}"));
        let start = backends::bus::StartAt::Time(since);
        spawn(
            scope,
            topic,
            ended,
            follow::topic(self.backends.bus.clone(), topic, start, health, out, identity),
        );
        spawn(scope, topic, ended, consume::run(records, reader));
    }
}

/// Reads `monitoring-data` until the scope stops, then lets the archive make its last commit.
fn spawn_data(scope: &Scope, ended: &mpsc::Sender<&'static str>, mut data: Data) {
    let (stopping, ended) = (scope.stopping(), ended.clone());
    scope.spawn(record::MONITORING_DATA, async move {
        let is_early = tokio::select! {
            () = stopping.cancelled() => false,
            () = data.run() => true,
        };
        data.close().await;
        if is_early {
            // Only the first report is read.
            ended.try_send(record::MONITORING_DATA).ok();
        }
    });
}

/// Runs `work` until the scope stops; should it end before, `subject` is reported.
fn spawn(
    scope: &Scope,
    subject: &'static str,
    ended: &mpsc::Sender<&'static str>,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let (stopping, ended) = (scope.stopping(), ended.clone());
    scope.spawn(subject, async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            // Only the first report is read.
            () = work => drop(ended.try_send(subject)),
        }
    });
}

#[cfg(test)]
mod tests;
