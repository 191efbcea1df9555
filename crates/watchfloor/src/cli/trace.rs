//! Ticks of this machine or of a file, and what a pipeline makes of them: for `selftest realtime` and `bench`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use agent::collect::{CollectorSet, Host, Moment};
use model::config::{self, ConfigError};
use model::id::Sequence;
use model::metric::MetricName;
use model::pipeline::{NoSandbox, Output, Pipeline};
use model::sample::Tick;
use proto::record::DataRecord;

use super::pause;

/// Ticks in order, each at a time on a monotonic clock.
pub(super) type Trace = Vec<(Duration, Tick)>;

/// A trace is in memory, several times over.
pub(super) const TICKS_MAX: usize = 1_000_000;

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub(super) enum TraceError {
    #[error("cannot read {path}: {cause}")]
    Read { path: String, cause: std::io::Error },
    #[error("{path}, line {line} is no monitoring-data value: {cause}")]
    Line { path: String, line: usize, cause: serde_json::Error },
    #[error("{path} holds no measurement")]
    Empty { path: String },
    #[error("{path} holds more than {TICKS_MAX} records")]
    TooLong { path: String },
}

/// Measures this machine, as its agent does. The first reading has no rates and is not in the trace.
pub(super) fn record(ticks: usize, interval: Duration) -> Trace {
    let mut set = CollectorSet::new(Host::local(), MetricName::SEED_SIX);
    drop(set.collect(Moment::now()));
    let begun = Instant::now();
    let tick = |number: u32| {
        let due = begun + interval * number;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            pause(left);
        }
        let moment = Moment::now();
        let sequence = Sequence(u64::from(number));
        (moment.monotonic, set.collect(moment).into_tick(sequence, moment.wall))
    };
    (1..=u32::try_from(ticks).unwrap_or(u32::MAX)).map(tick).collect()
}

/// Reads a file of `monitoring-data` values, one per line, as `get-metrics -o jsonl` prints them.
pub(super) fn read(path: &Path) -> Result<Trace, TraceError> {
    let name = || path.display().to_string();
    let fail = |cause| TraceError::Read { path: name(), cause };
    let file = BufReader::new(std::fs::File::open(path).map_err(fail)?);
    let mut trace = Trace::new();
    let mut begin = None;
    for (line, text) in (1..).zip(file.lines()) {
        let text = text.map_err(fail)?;
        let record: DataRecord =
            serde_json::from_str(&text).map_err(|cause| TraceError::Line { path: name(), line, cause })?;
        if !record.has_values() {
            continue;
        }
        if trace.len() == TICKS_MAX {
            return Err(TraceError::TooLong { path: name() });
        }
        let sequence = Sequence(trace.len() as u64 + 1);
        let begin = *begin.get_or_insert(record.timestamp);
        let DataRecord { timestamp: at, metrics, series, .. } = record;
        let tick = Tick { first_sequence: sequence, sequence, at, metrics, series, ..Tick::default() };
        trace.push((at.since(begin), tick));
    }
    if trace.is_empty() {
        return Err(TraceError::Empty { path: name() });
    }
    Ok(trace)
}

/// Everything that leaves the plugins of `config`, flushed at the end.
pub(super) fn play(config: &str, trace: &Trace) -> Result<Vec<Output>, ConfigError> {
    let mut pipeline = Pipeline::build(&config::parse(config)?, &NoSandbox)?;
    let mut outputs: Vec<Output> =
        trace.iter().map(|(now, tick)| pipeline.process(tick.clone(), *now)).collect();
    outputs.push(pipeline.flush(trace.last().map_or(Duration::ZERO, |(now, _)| *now)));
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_trace_is_what_get_metrics_prints() {
        let line = |second: u32, metrics: &str| {
            format!(
                r#"{{"agent_id":"a","timestamp":"2026-01-01T00:00:0{second}Z","metrics":{metrics},"incarnation":"i","sequence":{second}}}"#
            )
        };
        let (first, account, second) =
            (line(1, r#"{"cpu_percent":1}"#), line(2, "{}"), line(3, r#"{"cpu_percent":2}"#));
        let trace = read(file(&[first, account, second].join("\n")).path()).unwrap();
        let seen: Vec<_> = trace.iter().map(|(now, tick)| (now.as_secs(), tick.sequence.0)).collect();
        assert_eq!(seen, [(0, 1), (2, 2)], "a record that measures nothing is no tick");
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        let error = read(file("{}\n").path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        assert!(matches!(read(file("").path()), Err(TraceError::Empty { .. })));
        assert!(matches!(read(Path::new("/nowhere/at/all")), Err(TraceError::Read { .. })));
    }
}
