//! `selftest realtime`: what must hold of the plugins whatever this machine is doing just now.

use model::config::ConfigError;
use model::pipeline::{Action, Output};
use model::sample::{SystemMetrics, Tick};

use super::Check;
use crate::cli::trace::{Trace, play};

/// What did not hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Untrue(String);

impl From<ConfigError> for Untrue {
    fn from(error: ConfigError) -> Self {
        Self(error.to_string())
    }
}

type Claim = fn(&Trace) -> Result<String, Untrue>;

/// Runs every claim on the same ticks.
pub(super) fn check(trace: &Trace) -> Vec<Check> {
    let claims: [(&str, Claim); 6] = [
        ("Live Readings", readings),
        ("Deduplication", deduplication),
        ("Threshold Alert", threshold_alert),
        ("Aggregation", aggregation),
        ("Filter", filter),
        ("Plugin Chain", chain),
    ];
    let check = |(name, claim): (&str, Claim)| {
        let (passed, detail) = match claim(trace) {
            Ok(detail) => (true, detail),
            Err(Untrue(detail)) => (false, detail),
        };
        Check { name: name.to_owned(), passed, detail }
    };
    claims.into_iter().map(check).collect()
}

fn expect(claim: &str, holds: bool) -> Result<(), Untrue> {
    if holds { Ok(()) } else { Err(Untrue(format!("not so: {claim}"))) }
}

fn readings(trace: &Trace) -> Result<String, Untrue> {
    let missing = |metrics: &SystemMetrics| metrics.named().find(|(_, value)| value.is_none());
    if let Some((name, _)) = trace.iter().find_map(|(_, tick)| missing(&tick.metrics)) {
        return Err(Untrue(format!("{name} is missing in a reading")));
    }
    let (first, last) = (&trace[0].0, &trace[trace.len() - 1].0);
    Ok(format!("{} readings of all eight fields in {:.1?}", trace.len(), last.saturating_sub(*first)))
}

fn deduplication(trace: &Trace) -> Result<String, Untrue> {
    let exact = r#"{"plugins": [{"name": "deduplication", "config": {"tolerance": 0, "keep_alive": 3600}}]}"#;
    let outputs = play(exact, trace)?;
    let mut last: Option<&Tick> = None;
    let sent: Vec<u64> = rows(&outputs).map(|row| row.sequence.0).collect();
    for (_, tick) in trace {
        let repeats = last.is_some_and(|last| last.metrics == tick.metrics);
        let was_sent = sent.contains(&tick.sequence.0);
        expect("with tolerance 0 exactly the repeats are dropped", repeats != was_sent)?;
        last = Some(tick);
    }
    let tolerant = play(r#"{"plugins": ["deduplication"]}"#, trace)?;
    expect("the first reading is sent", rows(&tolerant).next().is_some_and(|row| row.sequence.0 == 1))?;
    accounted(&tolerant, trace)?;
    Ok(format!("{} readings in, {} out", trace.len(), rows(&tolerant).count()))
}

fn threshold_alert(trace: &Trace) -> Result<String, Untrue> {
    let lowest = trace.iter().filter_map(|(_, tick)| tick.metrics.memory_percent).fold(100.0, f64::min);
    let below = play(&alert_at(lowest / 2.0), trace)?;
    let alerts = rows(&below).filter(|row| row.metadata.contains_key("alerts")).count();
    expect("every reading above the threshold has an alert, and none is dropped", alerts == trace.len())?;
    let above = play(&alert_at(100.0), trace)?;
    let quiet = rows(&above).all(|row| !row.metadata.contains_key("alerts"));
    expect("no reading below the threshold has one", quiet)?;
    Ok(format!("memory is at {lowest} %: {alerts} alerts at half of it, none at 100 %"))
}

fn alert_at(memory_percent: f64) -> String {
    format!(r#"{{"plugins": ["threshold_alert"], "thresholds": {{"memory_percent": {memory_percent}}}}}"#)
}

fn aggregation(trace: &Trace) -> Result<String, Untrue> {
    const WINDOW: usize = 5;
    let outputs = play(&format!(r#"{{"plugins": ["aggregation"], "window_size": {WINDOW}}}"#), trace)?;
    let windows: Vec<&Tick> = rows(&outputs).collect();
    expect("one record per window", windows.len() == trace.len().div_ceil(WINDOW))?;
    for (window, ticks) in windows.iter().zip(trace.chunks(WINDOW)) {
        let cpu = |tick: &Tick| tick.metrics.cpu_percent.unwrap_or_default();
        let (low, high) = ticks
            .iter()
            .map(|(_, tick)| cpu(tick))
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let inside = (low - 1e-9..=high + 1e-9).contains(&cpu(window));
        expect("the mean lies between what it was made of", inside)?;
    }
    accounted(&outputs, trace)?;
    Ok(format!("{} readings in, {} windows of {WINDOW} out", trace.len(), windows.len()))
}

fn filter(trace: &Trace) -> Result<String, Untrue> {
    let all = play(r#"{"plugins": ["filter"], "min_memory": 0.0, "send_idle": true}"#, trace)?;
    expect("a condition that always holds passes everything", rows(&all).count() == trace.len())?;
    let none = play(r#"{"plugins": ["filter"], "min_memory": 100.0}"#, trace)?;
    expect("one that never holds passes nothing", rows(&none).count() == 0)?;
    accounted(&none, trace)?;
    Ok(format!("{0} of {0} pass, 0 of {0} pass", trace.len()))
}

fn chain(trace: &Trace) -> Result<String, Untrue> {
    let both = play(r#"{"plugins": ["deduplication", "filter"]}"#, trace)?;
    let first = play(r#"{"plugins": ["deduplication"]}"#, trace)?;
    let (passed, of) = (rows(&both).count(), rows(&first).count());
    accounted(&both, trace)?;
    Ok(format!("{} readings in, {of} after deduplication, {passed} after the filter", trace.len()))
}

fn rows(outputs: &[Output]) -> impl Iterator<Item = &Tick> {
    outputs.iter().flat_map(|output| &output.passed)
}

/// No reading vanishes: each is a row, or its drop or merge is named.
fn accounted(outputs: &[Output], trace: &Trace) -> Result<(), Untrue> {
    let elsewhere: u64 = outputs
        .iter()
        .flat_map(|output| &output.dispositions)
        .filter(|gone| matches!(gone.action, Action::Dropped | Action::Merged))
        .map(|gone| gone.last.0 - gone.first.0 + 1)
        .sum();
    let all = rows(outputs).count() as u64 + elsewhere;
    expect("every reading is a record or accounted for", all == trace.len() as u64)
}
