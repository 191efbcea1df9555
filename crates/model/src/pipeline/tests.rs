//! The laws of a pipeline: every sequence comes out once, order is kept, a change of config loses nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::config;
use crate::sample::{Sample, SeriesKey, SystemMetrics};

pub(super) fn pipeline(config: &str) -> Pipeline {
    Pipeline::build(&config::parse(config).unwrap(), &NoSandbox).unwrap()
}

/// An empty tick.
pub(super) fn tick(sequence: u64) -> Tick {
    Tick { sequence: Sequence(sequence), ..Tick::default() }
}

fn busy(sequence: u64, cpu: f64) -> Tick {
    let metrics = SystemMetrics { cpu_percent: Some(cpu), ..SystemMetrics::default() };
    Tick { metrics, ..tick(sequence) }
}

fn reconfigure(pipeline: &mut Pipeline, config: &str) -> Result<Output, ConfigError> {
    pipeline.reconfigure(&config::parse(config).unwrap(), &NoSandbox, Duration::from_secs(1_000))
}

fn disposition(first: u64, last: u64, action: Action, plugin: &str) -> Disposition {
    Disposition { first: Sequence(first), last: Sequence(last), action, plugin: plugin.to_owned() }
}

#[test]
fn without_plugins_every_tick_is_its_own_row() {
    let mut pipeline = Pipeline::default();
    let output = pipeline.process(busy(1, 5.0), Duration::ZERO);
    assert_eq!(output.range, Some((Sequence(1), Sequence(1))));
    assert_eq!(output.passed, [Tick { first_sequence: Sequence(1), ..busy(1, 5.0) }]);
    assert_eq!(output.dispositions, []);
}

#[test]
fn ticks_behind_an_open_window_wait_for_it_and_leave_in_order() {
    let mut pipeline = pipeline(r#"{"plugins":["filter","aggregation"],"min_cpu":50,"window_size":3}"#);
    for (sequence, cpu) in [(1, 1.0), (2, 60.0), (3, 1.0), (4, 60.0)] {
        let output = pipeline.process(busy(sequence, cpu), Duration::ZERO);
        assert_eq!(output.range.is_some(), sequence == 1, "tick {sequence}");
    }
    assert_eq!(pipeline.not_collected(Sequence(5)), Output::default());
    assert_eq!(pipeline.waiting(), 4);
    let output = pipeline.process(busy(6, 90.0), Duration::ZERO);
    assert_eq!(output.range, Some((Sequence(2), Sequence(6))));
    assert_eq!(
        output.dispositions,
        [
            disposition(2, 2, Action::Merged, "aggregation"),
            disposition(3, 3, Action::Dropped, "filter"),
            disposition(4, 4, Action::Merged, "aggregation"),
            disposition(5, 5, Action::NotCollected, ""),
        ]
    );
    assert_eq!(
        output.passed.iter().map(|row| (row.first_sequence.0, row.sequence.0)).collect::<Vec<_>>(),
        [(2, 6)]
    );
    assert_eq!(pipeline.waiting(), 0);
}

#[test]
fn nothing_is_said_about_a_sequence_that_never_entered() {
    let mut pipeline = pipeline(r#"{"plugins":["aggregation"],"window_size":3}"#);
    pipeline.process(tick(1), Duration::ZERO);
    pipeline.process(tick(3), Duration::ZERO);
    let output = pipeline.process(tick(4), Duration::ZERO);
    let merged = [1, 3].map(|sequence| disposition(sequence, sequence, Action::Merged, "aggregation"));
    assert_eq!(output.dispositions, merged);
}

#[test]
fn what_was_merged_into_a_row_that_is_dropped_is_dropped() {
    let mut pipeline = pipeline(r#"{"plugins":["aggregation","filter"],"min_cpu":50,"window_size":2}"#);
    pipeline.process(busy(1, 10.0), Duration::ZERO);
    let output = pipeline.process(busy(2, 20.0), Duration::ZERO);
    assert_eq!(output.dispositions, [disposition(1, 2, Action::Dropped, "filter")]);
    assert_eq!(output.passed, []);
}

#[test]
fn a_flush_sends_what_windows_hold_through_the_rest_of_the_plugins() {
    let mut pipeline = pipeline(
        r#"{"plugins":["aggregation",{"name":"aggregation","config":{"window_size":3}}],"window_size":2}"#,
    );
    for sequence in 1..=7 {
        pipeline.process(busy(sequence, 1.0), Duration::ZERO);
    }
    let output = pipeline.flush(Duration::ZERO);
    assert_eq!(output.range, Some((Sequence(7), Sequence(7))));
    assert_eq!(output.passed.len(), 1);
    assert_eq!(pipeline.flush(Duration::ZERO), Output::default());
}

#[test]
fn a_plugin_that_did_not_change_keeps_its_state_wherever_it_stands() {
    let mut pipeline = pipeline(r#"{"plugins":["deduplication","filter"],"min_cpu":1}"#);
    pipeline.process(busy(1, 50.0), Duration::ZERO);
    reconfigure(
        &mut pipeline,
        r#"{"interval":1,"plugins":["threshold_alert","filter","deduplication"],"min_cpu":2}"#,
    )
    .unwrap();
    assert_eq!(pipeline.process(busy(2, 50.0), Duration::from_secs(5)).passed, [], "50 was sent already");
    let counters: Vec<_> = pipeline.counters().map(|(name, c)| (name.to_owned(), c.processed)).collect();
    let expected = [("threshold_alert", 1), ("filter", 1), ("deduplication", 2)];
    assert_eq!(counters, expected.map(|(name, count)| (name.to_owned(), count)));
}

#[test]
fn a_plugin_that_goes_sends_on_what_it_holds() {
    let mut pipeline = pipeline(r#"{"plugins":["aggregation"]}"#);
    pipeline.process(busy(1, 10.0), Duration::ZERO);
    pipeline.process(busy(2, 20.0), Duration::ZERO);
    let output = reconfigure(&mut pipeline, "{}").unwrap();
    assert_eq!(output.range, Some((Sequence(1), Sequence(2))));
    assert_eq!(output.passed[0].metrics.cpu_percent, Some(15.0));
}

#[test]
fn a_sandboxed_plugin_is_refused_and_what_ran_runs_on() {
    let mut pipeline = pipeline(r#"{"plugins":["aggregation"]}"#);
    pipeline.process(busy(1, 10.0), Duration::ZERO);
    let wanted = r#"{"plugins":["filter","agent.plugins.my_plugin.MyPlugin"]}"#;
    let error = reconfigure(&mut pipeline, wanted).unwrap_err();
    assert_eq!((error.stage(), error.path()), (Stage::Build, "plugins[1]"));
    assert!(error.message().contains("wasm:my_plugin is not built in"), "{error}");
    assert_eq!(pipeline.waiting(), 1);
    assert_eq!(pipeline.counters().next().unwrap().0, "aggregation");
}

#[test]
fn two_plugins_of_a_kind_are_told_apart() {
    let pipeline = pipeline(r#"{"plugins":["filter","filter"]}"#);
    assert_eq!(pipeline.counters().map(|(name, _)| name).collect::<Vec<_>>(), ["filter", "filter#2"]);
}

#[test]
fn books_that_grow_too_long_close_windows_early() {
    let mut pipeline =
        pipeline(r#"{"plugins":["filter","aggregation"],"min_cpu":50,"window_seconds":86400,"interval":1}"#);
    let mut rows = 0;
    for sequence in 1..=20_000 {
        let cpu = if sequence % 2 == 0 { 90.0 } else { 1.0 };
        rows += pipeline.process(busy(sequence, cpu), Duration::ZERO).passed.len();
        assert!(pipeline.ledger.stretches() <= PIPELINE_STRETCHES_MAX);
    }
    assert!(rows >= 4, "{rows}");
}

// ---- laws ----

const PLUGINS: [&str; 8] = [
    r#""deduplication""#,
    r#""threshold_alert""#,
    r#""filter""#,
    r#"{"name":"aggregation","config":{"window_size":3}}"#,
    r#"{"name":"aggregation","config":{"window_seconds":7}}"#,
    r#"{"name":"filter","config":{"min_cpu":40}}"#,
    r#"{"name":"deduplication","config":{"tolerance":5,"keep_alive":9,"drop_alerts":true}}"#,
    r#"{"name":"threshold_alert","config":{"for":3}}"#,
];

fn any_config() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PLUGINS.as_slice()), 0..5)
        .prop_map(|plugins| format!(r#"{{"plugins":[{}]}}"#, plugins.join(",")))
}

#[derive(Clone, Debug)]
enum Event {
    Tick { cpu: Option<f64>, gauge: Option<f64>, after: u64 },
    NotCollected,
    Reconfigure(String),
    Flush,
}

fn any_event() -> impl Strategy<Value = Event> {
    let level =
        || prop::option::weighted(0.9, prop::sample::select(vec![0.0, 5.0, 5.4, 30.0, 79.0, 85.0, 100.0]));
    prop_oneof![
        16 => (level(), level(), 0u64..4).prop_map(|(cpu, gauge, after)| Event::Tick { cpu, gauge, after }),
        1 => Just(Event::NotCollected),
        1 => any_config().prop_map(Event::Reconfigure),
        1 => Just(Event::Flush),
    ]
}

/// What is known about a run, gathered from its outputs.
#[derive(Debug, Default)]
struct Books {
    accounted: u64,
    seen: BTreeSet<u64>,
}

impl Books {
    /// Checks that `output` continues where the last one ended and says one thing about each of its sequences.
    fn take(&mut self, output: &Output) {
        let Some((first, last)) = output.range else {
            assert!(output.passed.is_empty() && output.dispositions.is_empty());
            return;
        };
        assert_eq!(first.0, self.accounted + 1, "a gap or an overlap between outputs");
        self.accounted = last.0;
        let rows = output.passed.iter().map(|row| (row.sequence.0, row.sequence.0));
        let stretches = output.dispositions.iter().map(|d| (d.first.0, d.last.0));
        for (from, to) in rows.chain(stretches) {
            for sequence in from..=to {
                assert!(self.seen.insert(sequence), "{sequence} has two fates");
            }
        }
        assert_eq!(self.seen.len() as u64, self.accounted, "a sequence of the range has no fate");
        assert!(output.passed.is_sorted_by_key(|row| row.sequence));
    }
}

fn make_tick(sequence: u64, cpu: Option<f64>, gauge: Option<f64>) -> Tick {
    let series = gauge.map(|value| Sample { key: SeriesKey::new("x.size"), value }).into_iter().collect();
    let metrics = SystemMetrics { cpu_percent: cpu, ..SystemMetrics::default() };
    Tick { metrics, series, ..tick(sequence) }
}

proptest! {
    #[test]
    fn every_sequence_is_accounted_for_exactly_once(
        config in any_config(),
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut pipeline = pipeline(&config);
        let (mut books, mut sequence, mut now) = (Books::default(), 0, 0);
        for event in events {
            let output = match event {
                Event::Tick { cpu, gauge, after } => {
                    sequence += 1;
                    now += after;
                    pipeline.process(make_tick(sequence, cpu, gauge), Duration::from_secs(now))
                }
                Event::NotCollected => {
                    sequence += 1;
                    pipeline.not_collected(Sequence(sequence))
                }
                Event::Reconfigure(config) => {
                    let config = config::parse(&config).unwrap();
                    pipeline.reconfigure(&config, &NoSandbox, Duration::from_secs(now)).unwrap()
                }
                Event::Flush => pipeline.flush(Duration::from_secs(now)),
            };
            books.take(&output);
            prop_assert_eq!(books.accounted + pipeline.waiting(), sequence);
            for (name, counters) in pipeline.counters() {
                prop_assert_eq!(counters.processed, counters.passed + counters.dropped, "{}", name);
            }
        }
        books.take(&pipeline.flush(Duration::from_secs(now)));
        prop_assert_eq!(books.accounted, sequence);
    }

    #[test]
    fn the_same_config_again_changes_nothing(
        config in any_config(),
        ticks in prop::collection::vec((0.0f64..100.0, any::<bool>()), 1..40),
    ) {
        let (mut plain, mut pushed) = (pipeline(&config), pipeline(&config));
        for (index, (cpu, push)) in ticks.into_iter().enumerate() {
            let now = Duration::from_secs(index as u64);
            if push {
                prop_assert_eq!(reconfigure(&mut pushed, &config).unwrap(), Output::default());
            }
            let tick = busy(index as u64 + 1, cpu);
            prop_assert_eq!(plain.process(tick.clone(), now), pushed.process(tick, now));
        }
        prop_assert!(plain.counters().eq(pushed.counters()));
    }

    #[test]
    fn deduplication_never_hides_a_change_larger_than_the_tolerance(
        tolerance in 0.0f64..10.0,
        ticks in prop::collection::vec((0.0f64..100.0, -1e6f64..1e6), 1..60),
    ) {
        let plugin = format!(r#"{{"name":"deduplication","config":{{"tolerance":{tolerance}}}}}"#);
        let mut pipeline = pipeline(&format!(r#"{{"plugins":[{plugin}]}}"#));
        let (mut cpu_seen, mut gauge_seen) = (f64::NAN, f64::NAN);
        for (index, (cpu, gauge)) in ticks.into_iter().enumerate() {
            let tick = make_tick(index as u64 + 1, Some(cpu), Some(gauge));
            let output = pipeline.process(tick, Duration::from_secs(index as u64));
            if let Some(row) = output.passed.first() {
                cpu_seen = row.metrics.cpu_percent.unwrap();
                gauge_seen = row.series.first().map_or(gauge_seen, |sample| sample.value);
            }
            prop_assert!((cpu - cpu_seen).abs() <= tolerance, "cpu {} seen as {}", cpu, cpu_seen);
            let allowed = gauge_seen.abs() * tolerance / 100.0 + 1e-9;
            prop_assert!((gauge - gauge_seen).abs() <= allowed, "gauge {} seen as {}", gauge, gauge_seen);
        }
    }

    #[test]
    fn a_mean_and_quantiles_lie_between_the_extremes(values in prop::collection::vec(prop::num::f64::NORMAL, 1..50)) {
        let mut pipeline = pipeline(r#"{"plugins":["aggregation"],"window_size":10000}"#);
        for (index, value) in values.iter().enumerate() {
            pipeline.process(busy(index as u64 + 1, *value), Duration::ZERO);
        }
        let row = pipeline.flush(Duration::ZERO).passed.remove(0);
        let note = |key: &str| row.metadata[&format!("cpu_percent_{key}")].parse::<f64>().unwrap();
        let (min, max) = (note("min"), note("max"));
        prop_assert_eq!((min, max), values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v))));
        let inner = [row.metrics.cpu_percent.unwrap(), note("p50"), note("p95"), note("p99")];
        prop_assert!(inner.iter().all(|value| (min..=max).contains(value)), "{inner:?}");
        prop_assert!(inner[1..].is_sorted());
    }
}
