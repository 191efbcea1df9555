//! What comes from topics and registry: commands, responses, configs. Read to its end before the first agent is let in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backends::Backends;
use backends::bus::{Record, StartAt};
use backends::follow::{self, Followed};
use backends::registry::Event;
use model::id::{AgentId, CommandId, IdError};
use model::limit;
use model::sample::Timestamp;
use proto::key::{CONFIG, GROUPS, HEARTBEATS};
use proto::record::{COMMAND_RESPONSES, COMMANDS, CommandRecord, ResponseRecord};
use runtime::{Component, Scope, Sparing};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::orders::Order;

/// Commands that have not passed their deadline may be this old.
const LOOK_BACK: Duration = limit::COMMAND_TIMEOUT_MAX;
/// Between followers and the one who takes in.
const QUEUE: usize = 256;
/// A record nobody can read is told this often at most, per topic.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// Often enough to be durable before the leading monitor ends what has passed its deadline.
const TELL_UNCONFIRMED_EVERY: Duration = Duration::from_millis(250);

/// One thing that came.
#[derive(Debug)]
enum News {
    Command(Followed),
    Response(Followed),
    Config(&'static str, Event),
    Heartbeat(Event),
}

/// Starts the followers and the one who takes in; `caught_up` is cancelled when everything that was there is known.
pub(crate) fn start(
    scope: &Scope,
    hub: Arc<Hub>,
    backends: &Backends,
    bus_health: &Component,
    registry_health: &Component,
    caught_up: CancellationToken,
    deaf: &mpsc::Sender<&'static str>,
) {
    let (sender, news) = mpsc::channel(QUEUE);
    let since = Timestamp::from_unix_ms(
        hub.clock.wall().unix_ms() - i64::try_from(LOOK_BACK.as_millis()).unwrap_or(i64::MAX),
    );
    for (topic, wrap) in [
        (COMMANDS, News::Command as fn(Followed) -> News),
        (COMMAND_RESPONSES, News::Response as fn(Followed) -> News),
    ] {
        let (bus, health) = (Arc::clone(&backends.bus), bus_health.clone());
        let followed = follow::topic(bus, topic, StartAt::Time(since), health, sender.clone(), wrap);
        spawn_follower(scope, topic, followed, deaf);
    }
    for prefix in [CONFIG, GROUPS, HEARTBEATS] {
        let (registry, health) = (Arc::clone(&backends.registry), registry_health.clone());
        let wrap = move |event| match prefix {
            HEARTBEATS => News::Heartbeat(event),
            _ => News::Config(prefix, event),
        };
        let followed = follow::prefix(registry, prefix, health, sender.clone(), wrap);
        spawn_follower(scope, prefix, followed, deaf);
    }
    let stopping = scope.stopping();
    scope.spawn("feed", async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = Feed::new(hub, caught_up).run(news) => {}
        }
    });
}

/// Runs a follower until the scope stops. One that ends before leaves the server deaf to its subject, which is told.
fn spawn_follower(
    scope: &Scope,
    subject: &'static str,
    followed: impl Future<Output = ()> + Send + 'static,
    deaf: &mpsc::Sender<&'static str>,
) {
    let (stopping, deaf) = (scope.stopping(), deaf.clone());
    scope.spawn(subject, async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            // Only the first is read.
            () = followed => drop(deaf.try_send(subject)),
        }
    });
}

struct Feed {
    hub: Arc<Hub>,
    caught_up: CancellationToken,
    /// What has not been read to its end yet.
    behind: Vec<&'static str>,
    /// The furthest response of each command that came before every command was known, without its text.
    early: BTreeMap<(CommandId, AgentId), ResponseRecord>,
    complaints: BTreeMap<&'static str, Sparing>,
}

impl Feed {
    fn new(hub: Arc<Hub>, caught_up: CancellationToken) -> Self {
        let behind = vec![COMMANDS, COMMAND_RESPONSES, CONFIG, GROUPS];
        Self { hub, caught_up, behind, early: BTreeMap::new(), complaints: BTreeMap::new() }
    }

    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let mut forget = tokio::time::interval(FORGET_EVERY);
        let mut unconfirmed = tokio::time::interval(TELL_UNCONFIRMED_EVERY);
        loop {
            tokio::select! {
                next = news.recv() => match next {
                    Some(next) => self.take(next),
                    None => return,
                },
                _ = forget.tick() => self.hub.forget_passed_commands(),
                _ = unconfirmed.tick() => self.hub.tell_unconfirmed(),
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Command(Followed::Record(record)) => self.command(&record),
            News::Response(followed) => self.responses(&followed),
            News::Command(Followed::CaughtUp(_)) => self.reached(COMMANDS),
            // Who is held elsewhere matters to nobody before the first agent is here.
            News::Heartbeat(event) => self.hub.heartbeat_changed(event),
            News::Config(prefix, event) => {
                self.hub.config_changed(prefix, event);
                self.reached(prefix);
            }
        }
    }

    fn reached(&mut self, what: &'static str) {
        self.behind.retain(|behind| *behind != what);
        if what == COMMANDS {
            for response in std::mem::take(&mut self.early).values() {
                self.hub.observed(response);
            }
        }
        if self.behind.is_empty() {
            self.caught_up.cancel();
        }
    }

    fn command(&mut self, record: &Record) {
        match order(&self.hub, record) {
            Ok(order) => self.hub.order(order),
            Err(problem) => self.complain(COMMANDS, record, &problem.to_string()),
        }
    }

    fn responses(&mut self, followed: &Followed) {
        match followed {
            Followed::Record(record) => self.response(record),
            Followed::CaughtUp(_) => self.reached(COMMAND_RESPONSES),
        }
        // Said last: whoever waits for it relies on what it says.
        self.hub.responses_read(followed);
    }

    fn response(&mut self, record: &Record) {
        match serde_json::from_slice::<ResponseRecord>(&record.value) {
            // Which of the two topics is read first is chance; a day of responses fits the commands' own limit.
            Ok(response) if self.behind.contains(&COMMANDS) => self.early(response),
            Ok(response) => self.hub.observed(&response),
            Err(error) => self.complain(COMMAND_RESPONSES, record, &error.to_string()),
        }
    }

    fn early(&mut self, response: ResponseRecord) {
        let key = (response.command_id.clone(), response.agent_id.clone());
        let known = self.early.get(&key);
        let further =
            known.is_none_or(|known| !known.is_final && (response.is_final || response.state > known.state));
        let room = known.is_some() || self.early.len() < limit::COMMANDS_PER_SERVER_MAX;
        if further && room {
            let bare = ResponseRecord { message: String::new(), result: serde_json::Map::new(), ..response };
            self.early.insert(key, bare);
        }
    }

    fn complain(&mut self, topic: &'static str, record: &Record, problem: &str) {
        self.hub.measure.malformed.with_label_values(&[topic]).inc();
        if !self.complaints.entry(topic).or_insert_with(|| Sparing::new(COMPLAIN_EVERY)).may_tell() {
            return;
        }
        let (partition, offset) = (record.position.partition, record.position.offset);
        tracing::warn!(topic, partition, offset, problem, "a record cannot be read and is skipped");
    }
}

/// Why a record is no command.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("params have {bytes} bytes, at most {} are allowed", limit::COMMAND_JSON_BYTES_MAX)]
    Params { bytes: usize },
}

/// The order a record gives, with what a person leaves out filled in.
fn order(hub: &Hub, record: &Record) -> Result<Order, Unreadable> {
    let command: CommandRecord = serde_json::from_slice(&record.value)?;
    let position = record.position;
    let command_id = match command.command_id {
        Some(id) => id,
        None => CommandId::new(format!("c-{}-{}", position.partition, position.offset))?,
    };
    let params_json = match command.params.is_empty() {
        true => String::new(),
        false => serde_json::Value::Object(command.params).to_string(),
    };
    if params_json.len() > limit::COMMAND_JSON_BYTES_MAX {
        return Err(Unreadable::Params { bytes: params_json.len() });
    }
    let now = hub.now();
    let expires_at = command.expires_at.unwrap_or_else(|| record.at.plus(limit::COMMAND_TIMEOUT_DEFAULT));
    let remaining = expires_at.since(now.wall).min(limit::COMMAND_TIMEOUT_MAX);
    Ok(Order {
        command_id,
        agent_id: command.agent_id,
        kind: command.kind,
        params_json,
        issued_seconds: command.timestamp.unwrap_or(record.at).unix_seconds(),
        deadline: now.monotonic + remaining,
    })
}
