//! `watchfloor get-metrics`: the newest values, the past, or the live tail.

mod follow;
mod kafka;
mod kept;
mod show;

use std::io::Write;
use std::time::Duration;

use model::id::AgentId;
use model::selector::Selector;
use proto::record::DataRecord;
use runtime::clock;
use serde::Deserialize;
use serde_json::Value;

use self::show::Show;
use super::kafka::{KafkaArgs, Way};
use super::output::{self, RecordOutput};
use super::parse;
use crate::api::{Api, ApiError, Chosen, Window};
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// Show metrics: the newest of each agent, --since a moment, or as they come with --follow.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor get-metrics
  watchfloor get-metrics --follow
  watchfloor get-metrics agent-001 --since 1h --step 1m
  watchfloor get-metrics -l role=db --follow -o jsonl | jq .metrics.cpu_percent
  watchfloor get-metrics --since 24h --step 5m -o csv > day.csv
  watchfloor get-metrics --follow --kafka                      no API: KAFKA_BOOTSTRAP_SERVERS, or localhost:9092
  watchfloor get-metrics --since 10m --kafka kafka-1:9092 --insecure

Straight against Kafka the newest of each agent is looked for in the last ten minutes, --step cannot be had, and -l
reads the labels in etcd once, at the start.

Disk and network are MB per second, MB = 1 048 576 bytes. A dash is what was not measured; it is not 0.")]
pub(crate) struct Args {
    /// Only these agents.
    #[arg(value_name = "AGENT")]
    agents: Vec<AgentId>,
    /// Only agents with these labels: k=v, k!=v, k in (a,b), joined by commas.
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "agents")]
    selector: Option<Selector>,
    /// Go on with each record as it comes; Ctrl-C ends it.
    #[arg(short, long)]
    follow: bool,
    /// From this moment on: how long ago (1h, 30m), or 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse::since)]
    since: Option<parse::Since>,
    /// With --since: one record per step, the mean of what it covers.
    #[arg(long, value_name = "DURATION", value_parser = parse::timeout, requires = "since", conflicts_with = "follow")]
    step: Option<Duration>,
    #[arg(short, long, value_enum, default_value_t)]
    output: RecordOutput,
    #[command(flatten)]
    kafka: KafkaArgs,
}

/// A record as it came and as we understand it: JSON for scripts shows what we do not know, too.
#[derive(Debug)]
struct Received {
    value: Value,
    record: DataRecord,
}

impl Received {
    fn new(value: Value) -> Result<Self, serde_json::Error> {
        Ok(Self { record: DataRecord::deserialize(&value)?, value })
    }
}

impl Args {
    pub(crate) fn run(&self, api: &Api, environment: &Environment, out: &mut dyn Write) -> Outcome {
        if self.follow && self.output == RecordOutput::Json {
            let message = "-o json is one array, which never ends with --follow: use -o jsonl";
            return Err(Failure::message(Exit::Usage, message));
        }
        match self.kafka.way(environment, || self.by_api(api, out))? {
            Way::Answered(exit) => Ok(exit),
            Way::Kafka(brokers) => {
                self.check_without_api()?;
                self.kafka.connected(&brokers, async |link| kafka::run(self, link, environment, out).await)
            }
        }
    }

    fn by_api(&self, api: &Api, out: &mut dyn Write) -> Outcome {
        if self.follow {
            return follow::run(self, api, out);
        }
        let records = match self.since {
            Some(since) => {
                let window = Window { since: since.from(clock::wall()), step: self.step };
                self.past(api, window)?
            }
            None => received(api.latest(self.chosen())?),
        };
        self.check_named(api, &records)?;
        let width = records.iter().map(|received| received.record.agent_id.as_str().len()).max();
        let none = if self.since.is_some() { "no metrics in this time" } else { "no metrics yet" };
        self.print(width.unwrap_or(0), none, records.into_iter(), out)?;
        Ok(Exit::Ok)
    }

    /// Records of the past, one at a time. `width` is that of the longest agent id; `none` is said when there are none.
    fn print(
        &self,
        width: usize,
        none: &str,
        records: impl Iterator<Item = Received>,
        out: &mut dyn Write,
    ) -> std::io::Result<()> {
        let mut records = records.peekable();
        if self.output == RecordOutput::Json {
            return output::json_array(out, records.map(|received| received.value));
        }
        if self.output == RecordOutput::Table && records.peek().is_none() {
            return writeln!(out, "{none}");
        }
        if self.output == RecordOutput::Table && self.since.is_none() {
            return show::table(records.map(|received| received.record)).print(out);
        }
        let mut show = Show::new(self.output, width);
        records.try_for_each(|received| show.record(&received, out))
    }

    /// Means over steps are what analysis makes.
    fn check_without_api(&self) -> Result<(), Failure> {
        if self.step.is_none() {
            return Ok(());
        }
        let message = "--step needs the API, whose analysis makes the means: leave it out, or run `watchfloor analysis`";
        Err(Failure::message(Exit::Usage, message))
    }

    fn chosen(&self) -> Chosen<'_> {
        Chosen { agents: &self.agents, selector: self.selector.as_ref() }
    }

    fn past(&self, api: &Api, window: Window) -> Result<Vec<Received>, ApiError> {
        let past = api.history(self.chosen(), window)?;
        if past.left_out > 0 {
            let left_out = past.left_out;
            anstream::eprintln!("{left_out} older records are left out: give --step, or a later --since");
        }
        Ok(received(past.records))
    }

    /// An agent that was named and that nobody knows is an error, not an empty answer.
    fn check_named(&self, api: &Api, records: &[Received]) -> Result<(), ApiError> {
        for id in &self.agents {
            if !records.iter().any(|received| received.record.agent_id == *id) {
                api.agent(id)?;
            }
        }
        Ok(())
    }
}

/// Records of a newer version that we cannot read are left out, with a word on stderr.
fn received(values: Vec<Value>) -> Vec<Received> {
    let count = values.len();
    let records: Vec<Received> = values.into_iter().filter_map(|value| Received::new(value).ok()).collect();
    if records.len() < count {
        anstream::eprintln!(
            "{} records could not be read: is the API of another version?",
            count - records.len()
        );
    }
    records
}
