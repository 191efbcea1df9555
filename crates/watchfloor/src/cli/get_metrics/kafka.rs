//! `get-metrics` from the topic itself: what analysis would have answered, read by this command alone.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use backends::bus::{BusError, Record, StartAt};
use console::order::Target;
use model::id::AgentId;
use model::sample::Timestamp;
use proto::record::MONITORING_DATA;
use runtime::clock;

use super::follow::Tail;
use super::kept::{self, Newest, Past};
use super::{Args, Received};
use crate::cli::kafka::{CatchUp, Link};
use crate::cli::{parse, render};
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// Where the newest record of each agent is looked for; agents that measure more rarely are found with --since.
const NEWEST_WITHIN: Duration = Duration::from_secs(600);
/// A read that takes longer says what it reads, and how far it is.
const NOTICE_FIRST: Duration = Duration::from_secs(2);
const NOTICE_AGAIN: Duration = Duration::from_secs(10);
/// Silence of a Kafka that is there, before the end that it told: the rest are marks of transactions, or went meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether Kafka is there, while following.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One read of the topic.
struct Reading<'a> {
    link: &'a Link,
    topic: CatchUp,
    from: Timestamp,
    /// Whose records are wanted; all when `None`.
    chosen: Option<BTreeSet<AgentId>>,
    unreadable: u64,
}

pub(super) async fn run(args: &Args, link: &Link, environment: &Environment, out: &mut dyn Write) -> Outcome {
    let chosen = chosen(args, environment).await?;
    let now = clock::wall();
    let from = args.since.unwrap_or(parse::Since::Ago(NEWEST_WITHIN)).from(now);
    let start = match (args.follow, args.since) {
        (true, None) => StartAt::Latest,
        _ => StartAt::Time(from),
    };
    let topic = CatchUp::begin(&*link.bus, MONITORING_DATA, start).await;
    let topic = topic.map_err(|error| link.failure(error))?;
    let mut reading = Reading { link, topic, from, chosen, unreadable: 0 };
    if args.follow {
        return reading.follow(args, out).await;
    }
    if args.since.is_some() {
        let past = reading.past().await?;
        reading.tell_unreadable();
        check_named(args, from, |agent| past.has(agent))?;
        let width = past.width();
        args.print(width, "no metrics in this time", past.into_records(), out)?;
    } else {
        let newest = reading.newest().await?;
        reading.tell_unreadable();
        check_named(args, from, |agent| newest.has(agent))?;
        let none = format!("no metrics in the last {}", render::age(NEWEST_WITHIN));
        args.print(newest.width(), &none, newest.into_records(), out)?;
    }
    Ok(Exit::Ok)
}

impl Reading<'_> {
    async fn newest(&mut self) -> Result<Newest, Failure> {
        let mut newest = Newest::default();
        let mut left_out = 0_u64;
        self.catch_up(|received, record| {
            left_out += u64::from(!newest.take(&received.record, record.at, record.value));
        })
        .await?;
        if left_out > 0 {
            anstream::eprintln!("{left_out} records had no room beside others: name agents");
        }
        Ok(newest)
    }

    async fn past(&mut self) -> Result<Past, Failure> {
        let mut past = Past::new(self.from);
        self.catch_up(|received, record| past.take(&received.record, record.value)).await?;
        if past.left_out() > 0 {
            let left_out = past.left_out();
            anstream::eprintln!(
                "{left_out} older records are left out: give a later --since, or name agents"
            );
        }
        Ok(past)
    }

    /// Hands over every record that was there when reading began.
    async fn catch_up(&mut self, mut take: impl FnMut(Received, Record)) -> Result<(), Failure> {
        let mut notice = Instant::now() + NOTICE_FIRST;
        while !self.topic.is_done() {
            if Instant::now() >= notice {
                notice = Instant::now() + NOTICE_AGAIN;
                self.tell_progress();
            }
            match tokio::time::timeout(SILENCE_MAX, self.topic.next()).await {
                Ok(next) => {
                    if let Some((received, record)) = self.read(next)? {
                        take(received, record);
                    }
                }
                Err(_) => {
                    if let Some(reason) = self.link.away() {
                        return Err(self.link.failure(BusError::Unavailable { reason }));
                    }
                    let (read, of) = self.topic.progress();
                    anstream::eprintln!(
                        "Kafka gave {read} records where {of} were expected, and no more for {SILENCE_MAX:?}"
                    );
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Goes on for ever: a Kafka that goes away is waited for, and what came meanwhile is shown then.
    async fn follow(&mut self, args: &Args, out: &mut dyn Write) -> Outcome {
        let mut tail = Tail::new(args);
        if args.since.is_some() {
            for received in self.past().await?.into_records() {
                tail.show(&received, out)?;
            }
            out.flush()?;
        }
        let mut gone: Option<Instant> = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                next = self.topic.next() => {
                    if let Some(Err(error)) = &next && error.is_transient() {
                        anstream::eprintln!("{error}; going on");
                        continue;
                    }
                    if let Some((received, _)) = self.read(next)? {
                        tail.show(&received, out)?;
                        out.flush()?;
                    }
                }
                _ = look.tick() => self.tell_absence(&mut gone),
            }
        }
    }

    /// A record that is wanted and that we can read.
    fn read(
        &mut self,
        next: Option<Result<Record, BusError>>,
    ) -> Result<Option<(Received, Record)>, Failure> {
        let record = next.unwrap_or(Err(BusError::Closed)).map_err(|error| self.link.failure(error))?;
        // The key is the agent's id, which spares reading what is not wanted. Records of others may have no key.
        let is_wanted = |id: &str| {
            self.chosen.as_ref().is_none_or(|chosen| chosen.iter().any(|wanted| wanted.as_str() == id))
        };
        if !record.key.is_empty() && !is_wanted(&record.key) {
            return Ok(None);
        }
        match kept::read(&record.value) {
            Ok(received) if is_wanted(received.record.agent_id.as_str()) => Ok(Some((received, record))),
            Ok(_) => Ok(None),
            Err(_) => {
                self.unreadable += 1;
                Ok(None)
            }
        }
    }

    fn tell_progress(&self) {
        let (read, of) = self.topic.progress();
        anstream::eprintln!(
            "reading {MONITORING_DATA} of Kafka at {} from {} on: {read} of {of} records",
            self.link.brokers,
            self.from
        );
    }

    fn tell_unreadable(&self) {
        if self.unreadable > 0 {
            anstream::eprintln!(
                "{} records could not be read: are they of another version?",
                self.unreadable
            );
        }
    }

    fn tell_absence(&self, gone: &mut Option<Instant>) {
        let brokers = &self.link.brokers;
        match (self.link.away(), *gone) {
            (Some(reason), None) => {
                anstream::eprintln!(
                    "Kafka at {brokers} does not answer ({reason}); waiting for it to come back"
                );
                *gone = Some(Instant::now());
            }
            (None, Some(since)) => {
                anstream::eprintln!("Kafka at {brokers} is back after {}", render::age(since.elapsed()));
                *gone = None;
            }
            _ => {}
        }
    }
}

/// The agents meant now.
async fn chosen(args: &Args, environment: &Environment) -> Result<Option<BTreeSet<AgentId>>, Failure> {
    let Some(selector) = &args.selector else {
        return Ok((!args.agents.is_empty()).then(|| args.agents.iter().cloned().collect()));
    };
    let inventory = args.kafka.inventory(environment, "-l").await?;
    Ok(Some(Target::Selector(selector.clone()).resolve(inventory)?.into_iter().collect()))
}

/// A mistyped id is an error, not an empty answer. Which agents there are, the topic does not know.
fn check_named(args: &Args, from: Timestamp, has: impl Fn(&AgentId) -> bool) -> Result<(), Failure> {
    match args.agents.iter().find(|agent| !has(agent)) {
        None => Ok(()),
        Some(agent) => {
            let message = format!(
                "{agent} has sent no measurement since {from}: check its id, or give an earlier --since"
            );
            Err(Failure::message(Exit::Failed, message))
        }
    }
}
