//! `watchfloor bench reduction`: what the plugins save on a real trace, beside what the seeds claim.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use model::id::{AgentId, Incarnation};
use model::pipeline::{Action, Disposition, Output as Left};
use model::sample::Tick;
use proto::record::{DataRecord, NotSent, NotSentAction};
use serde::Serialize;

use crate::cli::output::{self, Output};
use crate::cli::render::{self, Cell, Table};
use crate::cli::trace::{self, Trace};
use crate::cli::{host_name, parse};
use crate::exit::{Exit, Failure, Outcome};

/// Run one trace through each plugin set and count records and bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor bench reduction                                      ten seconds of this machine, now
  watchfloor bench reduction --ticks 720 --interval 5s --save hour.jsonl
  watchfloor bench reduction --trace hour.jsonl
  watchfloor get-metrics web-1 --since 6h -o jsonl > web-1.jsonl && watchfloor bench reduction --trace web-1.jsonl

Bytes are those of the JSON values on the monitoring-data topic, with the account of what was not sent.
What is saved depends on the machine: an idle one repeats itself, a busy one does not.")]
pub(super) struct Args {
    /// A file of monitoring-data values, one per line, instead of this machine.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ticks", "interval", "save"])]
    trace: Option<PathBuf>,
    /// How many ticks to record.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=trace::TICKS_MAX as i64))]
    ticks: u32,
    /// Between two ticks.
    #[arg(long, value_name = "DURATION", default_value = "0.1", value_parser = parse::interval)]
    interval: Duration,
    /// Keep what was recorded.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A plugin set and what the seeds say of it.
const SETS: [(&str, &str, &str); 5] = [
    ("no plugins", r#"{"plugins": []}"#, "-"),
    ("deduplication", r#"{"plugins": ["deduplication"]}"#, "30-70 %"),
    ("filter", r#"{"plugins": ["filter"]}"#, "40-60 %"),
    ("deduplication, filter", r#"{"plugins": ["deduplication", "filter"]}"#, "60-85 %"),
    ("aggregation x10", r#"{"plugins": ["aggregation"], "window_size": 10}"#, "90 %"),
];

/// What left one plugin set.
#[derive(Debug, PartialEq, Serialize)]
struct Measured {
    plugins: &'static str,
    records: usize,
    bytes: usize,
    records_saved_percent: f64,
    bytes_saved_percent: f64,
    seeds_claim: &'static str,
}

impl Args {
    pub(super) fn run(&self, out: &mut dyn Write) -> Outcome {
        let trace = match &self.trace {
            Some(path) => trace::read(path)?,
            None => {
                let seconds = (self.interval * self.ticks).as_secs_f64();
                anstream::eprintln!("recording this machine for {seconds} s ...");
                trace::record(self.ticks as usize, self.interval)
            }
        };
        if let Some(path) = &self.save {
            save(&trace, path)?;
        }
        let measured = measure(&trace)?;
        match self.output {
            Output::Json => output::json(out, &measured)?,
            Output::Table => self.print(&trace, &measured, out)?,
        }
        Ok(Exit::Ok)
    }

    fn print(&self, trace: &Trace, measured: &[Measured], out: &mut dyn Write) -> Result<(), Failure> {
        let span =
            trace.last().zip(trace.first()).map_or(Duration::ZERO, |((end, _), (begin, _))| *end - *begin);
        let from = match &self.trace {
            Some(path) => path.display().to_string(),
            None => format!("{}, recorded now", host_name()),
        };
        writeln!(out, "{} ticks in {:.1} s of {from}", trace.len(), span.as_secs_f64())?;
        let mut table =
            Table::new(["PLUGINS", "RECORDS", "BYTES", "RECORDS SAVED", "BYTES SAVED", "SEEDS' CLAIM"]);
        for row in measured {
            table.row([
                Cell::styled(row.plugins, render::BOLD),
                Cell::right(row.records.to_string()),
                Cell::right(row.bytes.to_string()),
                Cell::right(format!("{:.1} %", row.records_saved_percent)),
                Cell::right(format!("{:.1} %", row.bytes_saved_percent)),
                Cell::right(row.seeds_claim),
            ]);
        }
        table.print(out)?;
        Ok(())
    }
}

fn measure(trace: &Trace) -> Result<Vec<Measured>, Failure> {
    let mut rows: Vec<Measured> = Vec::new();
    for (plugins, config, seeds_claim) in SETS {
        let (mut records, mut bytes) = (0, 0);
        for record in records_of(trace::play(config, trace)?) {
            records += usize::from(record.has_values());
            bytes += serde_json::to_vec(&record)?.len();
        }
        let whole = rows.first().map_or((records, bytes), |all| (all.records, all.bytes));
        let saved = |now: usize, of: usize| 100.0 * (1.0 - now as f64 / of.max(1) as f64);
        rows.push(Measured {
            plugins,
            records,
            bytes,
            records_saved_percent: saved(records, whole.0),
            bytes_saved_percent: saved(bytes, whole.1),
            seeds_claim,
        });
    }
    Ok(rows)
}

/// The values a server would publish: what was not sent travels with the next record, what nothing follows in a record
/// of its own. A server that is idle meanwhile writes some more of these.
fn records_of(outputs: Vec<Left>) -> Vec<DataRecord> {
    let mut records = Vec::new();
    let mut pending = Vec::new();
    for output in outputs {
        pending.extend(output.dispositions.iter().map(not_sent));
        for tick in output.passed {
            let upto = pending.partition_point(|gone: &NotSent| gone.last < tick.sequence);
            records.push(record(tick, pending.drain(..upto).collect()));
        }
    }
    if let Some(last) = pending.last() {
        let tick = Tick { first_sequence: last.last, sequence: last.last, ..Tick::default() };
        records.push(record(tick, pending));
    }
    records
}

fn not_sent(gone: &Disposition) -> NotSent {
    let action = match gone.action {
        Action::Dropped => NotSentAction::Dropped,
        Action::Merged => NotSentAction::Merged,
        Action::NotCollected => NotSentAction::NotCollected,
    };
    NotSent { first: gone.first, last: gone.last, action, plugin: gone.plugin.clone() }
}

fn record(tick: Tick, not_sent: Vec<NotSent>) -> DataRecord {
    DataRecord {
        agent_id: AgentId::new("bench").expect("letters are an id"),
        timestamp: tick.at,
        metrics: tick.metrics,
        metadata: tick.metadata,
        // As long as the one an agent makes.
        incarnation: Incarnation::new("0".repeat(26)).expect("zeros are an id"),
        sequence: tick.sequence,
        first_sequence: (tick.first_sequence != tick.sequence).then_some(tick.first_sequence),
        series: tick.series,
        not_sent,
    }
}

fn save(trace: &Trace, path: &std::path::Path) -> Result<(), Failure> {
    let mut text = Vec::new();
    for (_, tick) in trace {
        serde_json::to_writer(&mut text, &record(tick.clone(), Vec::new()))?;
        text.push(b'\n');
    }
    std::fs::write(path, text).map_err(|error| {
        let context = format!("cannot write {}", path.display());
        Failure::new(Exit::Failed, anyhow::Error::new(error).context(context))
    })
}

#[cfg(test)]
mod tests {
    use model::id::Sequence;
    use model::sample::SystemMetrics;

    use super::*;

    /// An idle machine, a tick every five seconds.
    fn idle(ticks: u64) -> Trace {
        let metrics = SystemMetrics::from_values([1.0, 50.0, 500.0, 1_000.0, 0.0, 0.0, 0.0, 0.0].map(Some));
        let tick = |number| {
            let (now, sequence) = (Duration::from_secs(5 * number), Sequence(number));
            (now, Tick { first_sequence: sequence, sequence, metrics, ..Tick::default() })
        };
        (1..=ticks).map(tick).collect()
    }

    #[test]
    fn an_idle_machine_is_reduced_and_every_tick_is_accounted_for() {
        let measured = measure(&idle(100)).unwrap();
        let records: Vec<usize> = measured.iter().map(|row| row.records).collect();
        assert_eq!((records[0], records[2], records[3], records[4]), (100, 0, 0, 10));
        assert!((2..=10).contains(&records[1]), "keep-alive only: {}", records[1]);
        assert!(measured[1].bytes_saved_percent > 50.0);
    }

    #[test]
    fn the_account_of_what_was_not_sent_is_paid_for() {
        let outputs = trace::play(r#"{"plugins": ["aggregation"], "window_size": 10}"#, &idle(10)).unwrap();
        let records = records_of(outputs);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].not_sent.iter().map(NotSent::ticks).sum::<u64>(), 9);
    }
}
