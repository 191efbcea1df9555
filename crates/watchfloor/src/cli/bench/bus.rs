//! `watchfloor bench bus`: our bus beside what it stands on.
//!
//! Our bus on Kafka and librdkafka alone take turns on one broker and one topic, with the same records and the same
//! properties; who begins changes with every round. The embedded bus publishes and reads the same beside them.

mod course;
mod ours;
mod payload;
mod raw;
mod stopwatch;
mod summary;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backends::bus::kafka::KafkaOptions;
use backends::bus::{Retention, TopicSpec};
use serde::Serialize;

use self::course::{Course, Embedded, Kafka};
use self::payload::Payload;
use self::summary::{Rounds, Row, Way, grouped};
use crate::cli::output::{self, Output};
use crate::exit::{Exit, Failure, Outcome};
use crate::external::{KafkaFlags, PlainText};

/// A topic that a run could not remove does not stay full.
const RETENTION: Retention = Retention { age: Duration::from_secs(3_600), bytes: u64::MAX, compacted: false };
/// Before the rounds, a part of one so small: connections are made, and a broker's compiler gets to work.
const WARM_UP: u64 = 5;
/// What was chosen and a reader of the numbers should know; each is the same for our bus and for librdkafka alone.
const TOLD: [&str; 5] = ["acks", "enable.idempotence", "compression.type", "linger.ms", "check.crcs"];

/// Publish to and read from our bus, and beside it librdkafka alone, on one broker.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor bench bus                                            the embedded bus
  deploy/dev/kafka start /tmp/kafka 9092 && watchfloor bench bus --kafka 127.0.0.1:9092
  watchfloor bench bus --kafka 127.0.0.1:9092 --bytes 2048 --callers 16 --kafka-property linger.ms=20

Publishing: each caller publishes a batch, waits until it is durable (embedded: fsync; Kafka: acks=all) and takes the next.
librdkafka alone: one thread fills the same producer's queue, delivery reports are counted. Reading: one reader of all that
a round has published, measured from the first record to the last. In Kafka a topic watchfloor-bench-<id> is made and removed
at the end; a run that is interrupted leaves it there, for an hour not empty.")]
pub(super) struct Args {
    /// Brokers to measure on; without them only the embedded bus is measured.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Published in each turn.
    #[arg(long, value_name = "COUNT", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    records: u64,
    /// Size of a value, about; the eight metrics alone have some 400.
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(256..=65_536))]
    bytes: u32,
    /// Records of one call.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    batch: u32,
    /// Calls at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    callers: u32,
    /// Partitions of the topic.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    partitions: u32,
    /// Turns of each; the median counts.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// The embedded bus writes below it, and removes what it wrote.
    #[arg(long, value_name = "DIR", default_value = "./watchfloor-data", env = "WATCHFLOOR_DATA_DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    plain: PlainText,
    #[command(flatten)]
    flags: KafkaFlags,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What each turn publishes.
#[derive(Debug)]
struct Load {
    batches: u64,
    callers: usize,
    payload: Arc<Payload>,
}

/// Under which conditions the rows came about.
#[derive(Debug, Serialize)]
struct Conditions {
    kafka: Option<String>,
    properties: BTreeMap<String, String>,
    partitions: u32,
    records: u64,
    bytes_mean: f64,
    batch: u32,
    callers: u32,
    rounds: u32,
    /// Of one minute, before and after: others slow everything down, and not evenly.
    load_average: [f64; 2],
}

#[derive(Debug, Serialize)]
struct Report {
    conditions: Conditions,
    rows: Vec<Row>,
}

impl Args {
    pub(super) fn run(&self, out: &mut dyn Write) -> Outcome {
        let load_before = load_average();
        let options = self.options()?;
        // Whole batches.
        let batches = self.records.div_ceil(u64::from(self.batch));
        let payload = Arc::new(Payload::new(batches, self.batch as usize, self.bytes as usize));
        let bytes_mean = payload.bytes_mean;
        let load = |batches| {
            Arc::new(Load { batches, callers: self.callers as usize, payload: Arc::clone(&payload) })
        };
        let rounds = self.measure(options.as_ref(), &load(batches.div_ceil(WARM_UP)), &load(batches))?;
        let report = Report {
            conditions: Conditions {
                kafka: self.kafka.clone(),
                properties: told(options.as_ref())?,
                partitions: self.partitions,
                records: batches * u64::from(self.batch),
                bytes_mean,
                batch: self.batch,
                callers: self.callers,
                rounds: self.rounds,
                load_average: [load_before, load_average()],
            },
            rows: rounds.rows(),
        };
        match self.output {
            Output::Json => output::json(out, &report)?,
            Output::Table => report.print(out)?,
        }
        Ok(Exit::Ok)
    }

    fn options(&self) -> Result<Option<KafkaOptions>, Failure> {
        let Some(brokers) = &self.kafka else { return Ok(None) };
        let options = self.flags.options(brokers, self.plain, std::env::vars());
        options.map(Some).map_err(|error| Failure::new(Exit::Config, error))
    }

    fn measure(
        &self,
        options: Option<&KafkaOptions>,
        warm_up: &Arc<Load>,
        load: &Arc<Load>,
    ) -> Result<Rounds, Failure> {
        let topic = TopicSpec {
            name: format!("watchfloor-bench-{}", ulid::Ulid::generate().to_string().to_lowercase()),
            partitions: self.partitions,
            retention: RETENTION,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let embedded = Embedded::open(&runtime, &self.data_dir, &topic)?;
        let kafka = options.map(|options| Kafka::open(&runtime, options, &topic)).transpose()?;
        let mut course = Course::new(&runtime, &topic.name, warm_up);
        let ran = (0..=self.rounds).try_for_each(|round| {
            match round {
                0 => anstream::eprintln!("warming up, which does not count"),
                _ => anstream::eprintln!("round {round} of {}", self.rounds),
            }
            if round == 1 {
                course.begin(load);
            }
            if let Some(kafka) = &kafka {
                let ways = [Way::Kafka, Way::Librdkafka];
                course.kafka(kafka, if round % 2 == 0 { [ways[1], ways[0]] } else { ways })?;
            }
            course.embedded(&embedded)
        });
        let rounds = course.rounds;
        // What was made goes, whatever came of the rounds.
        let closed = kafka.map_or(Ok(()), |kafka| kafka.close(&runtime, &topic.name));
        let closed = closed.and(embedded.close(&runtime));
        ran.and(closed).map(|()| rounds)
    }
}

impl Report {
    fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let Conditions {
            kafka,
            properties,
            partitions,
            records,
            bytes_mean,
            batch,
            callers,
            rounds,
            load_average,
        } = &self.conditions;
        let on =
            kafka.as_ref().map_or_else(|| "the embedded bus".to_owned(), |kafka| format!("Kafka at {kafka}"));
        writeln!(
            out,
            "{on}, {partitions} partitions, median of {rounds} rounds; load of the machine {:.1} to {:.1}",
            load_average[0], load_average[1]
        )?;
        let records = grouped(*records as f64);
        writeln!(
            out,
            "{records} records of {bytes_mean:.0} bytes in each turn, {callers} callers x {batch} records"
        )?;
        if !properties.is_empty() {
            let properties: Vec<_> =
                properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(out, "{}", properties.join(" "))?;
        }
        writeln!(out)?;
        summary::table(&self.rows).print(out)?;
        for remark in summary::remarks(&self.rows) {
            writeln!(out, "{remark}")?;
        }
        if kafka.is_none() {
            writeln!(
                out,
                "\nKafka was not measured: start one (deploy/dev/kafka start DIRECTORY) and give --kafka 127.0.0.1:9092"
            )?;
        }
        Ok(())
    }
}

/// What our bus and librdkafka alone have in common.
fn told(options: Option<&KafkaOptions>) -> Result<BTreeMap<String, String>, Failure> {
    let Some(options) = options else { return Ok(BTreeMap::new()) };
    let mut properties = options.publishing_properties()?;
    properties.extend(options.reading_properties()?);
    properties.retain(|name, _| TOLD.contains(&name.as_str()));
    Ok(properties)
}

fn load_average() -> f64 {
    /// `sysinfo(2)` gives fixed point numbers.
    const ONE: f64 = 65_536.0;
    rustix::system::sysinfo().loads[0] as f64 / ONE
}
