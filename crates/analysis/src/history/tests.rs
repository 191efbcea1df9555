//! The history by its properties: each record once, in order, within its bounds.

use std::collections::BTreeMap;

use model::id::{Incarnation, Sequence};
use model::sample::{Sample, SeriesKey, SystemMetrics};
use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const ROOMY: usize = 1 << 30;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn agent(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}

/// Tick `sequence` of run `run`: every run lasts a hundred seconds.
fn tick(id: &str, run: u8, sequence: u64, series: &[(&str, f64)]) -> DataRecord {
    let sample = |(name, value): &(&str, f64)| Sample { key: SeriesKey::new(name), value: *value };
    DataRecord {
        agent_id: agent(id),
        timestamp: at(i64::from(run) * 100 + i64::try_from(sequence).unwrap()),
        metrics: SystemMetrics { cpu_percent: Some(sequence as f64), ..SystemMetrics::default() },
        metadata: BTreeMap::new(),
        incarnation: Incarnation::new(format!("run{run}")).unwrap(),
        sequence: Sequence(sequence),
        first_sequence: None,
        series: series.iter().map(sample).collect(),
        not_sent: Vec::new(),
    }
}

fn store(bytes_max: usize, records: impl IntoIterator<Item = DataRecord>) -> Store {
    let mut store = Store::new(HOUR, bytes_max);
    for record in records {
        let received = record.timestamp;
        store.take(record, received);
        store.shrink();
    }
    store
}

fn answer(store: &Store, step: Option<Duration>, series: SeriesFilter, limit: usize) -> Answer {
    let agents = wanted(store, None);
    let stored = agents.iter().flat_map(|agent| store.select(agent, at(-1), at(1_000_000))).collect();
    Answer::new(stored, step, series, limit)
}

fn all(store: &Store) -> Vec<DataRecord> {
    answer(store, None, SeriesFilter::default(), usize::MAX).collect()
}

fn key(record: &DataRecord) -> (Timestamp, AgentId, Incarnation, Sequence) {
    (record.timestamp, record.agent_id.clone(), record.incarnation.clone(), record.sequence)
}

prop_compose! {
    fn any_tick()(id in "[ab]", run in 0u8..3, sequence in 0u64..30, width in 0usize..4) -> DataRecord {
        let names = ["load", "system.cpu.time", "system.memory.usage", "x"];
        let series: Vec<_> = names[..width].iter().map(|name| (*name, sequence as f64)).collect();
        tick(&id, run, sequence, &series)
    }
}

proptest! {
    #[test]
    fn in_any_order_and_however_often_each_record_is_there_once_and_sorted(
        ticks in proptest::collection::vec(any_tick(), 0..200)
    ) {
        let mut expected: Vec<_> = ticks.iter().map(key).collect();
        expected.sort();
        expected.dedup();
        let store = store(ROOMY, ticks);
        prop_assert_eq!(store.records(), expected.len());
        prop_assert_eq!(all(&store).iter().map(key).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_comes_out_is_what_went_in(record in any_tick()) {
        let store = store(ROOMY, [record.clone()]);
        prop_assert_eq!(all(&store), vec![record]);
    }

    #[test]
    fn memory_stays_within_its_bound_and_nothing_comes_back(
        ticks in proptest::collection::vec(any_tick(), 0..200), bytes_max in 0usize..20_000
    ) {
        let mut store = Store::new(HOUR, bytes_max);
        let mut taken = BTreeSet::new();
        for tick in ticks {
            let (key, received) = (key(&tick), tick.timestamp);
            if let Taken::New(_) = store.take(tick, received) {
                prop_assert!(taken.insert(key), "taken twice");
            }
            store.shrink();
            prop_assert!(store.bytes() <= bytes_max, "{} of {bytes_max}", store.bytes());
            prop_assert_eq!(all(&store).len(), store.records());
        }
    }

    #[test]
    fn an_expired_history_is_empty_to_the_last_byte(ticks in proptest::collection::vec(any_tick(), 0..100)) {
        let mut store = store(ROOMY, ticks);
        store.expire(at(1_000).plus(HOUR));
        prop_assert_eq!((store.records(), store.bytes(), store.agents().count()), (0, 0, 0));
    }

    #[test]
    fn steps_cover_the_same_ticks_as_the_records(ticks in proptest::collection::vec(any_tick(), 0..100), step in 1u64..50) {
        let store = store(ROOMY, ticks);
        let step = Duration::from_secs(step);
        let buckets: Vec<_> = answer(&store, Some(step), SeriesFilter::default(), usize::MAX).collect();
        let mut expected: Vec<_> = all(&store)
            .iter()
            .map(|r| (buckets::begin(r.timestamp, step), r.agent_id.clone(), r.incarnation.clone()))
            .collect();
        expected.sort();
        expected.dedup();
        let found: Vec<_> =
            buckets.iter().map(|b| (b.timestamp, b.agent_id.clone(), b.incarnation.clone())).collect();
        prop_assert_eq!(found, expected);
        let newest: Vec<_> = answer(&store, Some(step), SeriesFilter::default(), 3).collect();
        prop_assert_eq!(&newest[..], &buckets[buckets.len().saturating_sub(3)..]);
    }
}

#[test]
fn the_window_counts_from_when_the_bus_got_a_record() {
    let mut store = Store::new(HOUR, ROOMY);
    // Its clock is years behind.
    store.take(tick("a", 0, 1, &[]), at(1_000_000));
    assert_eq!(store.expire(at(1_000_000).plus(HOUR)), 0);
    assert_eq!(store.expire(at(1_000_001).plus(HOUR)), 1);
}

#[test]
fn when_memory_is_short_the_largest_agent_pays() {
    let wide: Vec<_> = (0..50).map(|n| (["load", "x"][n % 2], 1.0)).collect();
    let small = (0..5).map(|sequence| tick("small", 0, sequence, &[]));
    let large = (0..100).map(|sequence| tick("large", 0, sequence, &wide));
    let store = store(30_000, small.chain(large));
    let kept: Vec<_> = all(&store);
    assert_eq!(kept.iter().filter(|record| record.agent_id.as_str() == "small").count(), 5);
    let large: Vec<u64> =
        kept.iter().filter(|r| r.agent_id.as_str() == "large").map(|r| r.sequence.0).collect();
    assert!(large.len() < 100 && large.last() == Some(&99), "{large:?}");
}

#[test]
fn a_step_has_means_of_what_goes_up_and_down_and_the_last_of_counters() {
    let ticks = [
        tick("a", 0, 10, &[("load", 1.0), ("system.disk.io", 100.0), ("once", 7.0)]),
        tick("a", 0, 12, &[("load", 3.0), ("system.disk.io", 300.0)]),
    ];
    let store = store(ROOMY, ticks);
    let step = Some(Duration::from_secs(10));
    let record = answer(&store, step, SeriesFilter::default(), 10).next().unwrap();
    assert_eq!(
        (record.timestamp, record.first_sequence, record.sequence),
        (at(10), Some(Sequence(10)), Sequence(12))
    );
    assert_eq!((record.metrics.cpu_percent, record.metrics.memory_percent), (Some(11.0), None));
    let series: Vec<_> =
        record.series.iter().map(|sample| (sample.key.name.as_str(), sample.value)).collect();
    assert_eq!(series, [("load", 2.0), ("system.disk.io", 300.0), ("once", 7.0)]);
}

#[test]
fn a_limit_keeps_the_newest_and_counts_the_rest() {
    let store = store(ROOMY, (0..10).map(|sequence| tick("a", 0, sequence, &[])));
    let answer = answer(&store, None, SeriesFilter::default(), 3);
    assert_eq!(answer.left_out(), 7);
    assert_eq!(answer.map(|record| record.sequence.0).collect::<Vec<_>>(), [7, 8, 9]);
}

#[test]
fn a_series_filter_goes_by_whole_words() {
    let filter = SeriesFilter::new(vec!["system.cpu".to_owned()]);
    for (name, passes) in
        [("system.cpu", true), ("system.cpu.time", true), ("system.cpus", false), ("load", false)]
    {
        assert_eq!(filter.passes(name), passes, "{name}");
    }
    assert!(SeriesFilter::default().passes("anything"));
}

#[test]
fn the_latest_is_of_the_run_heard_from_last_and_measures_something() {
    let mut store = Store::new(HOUR, ROOMY);
    // Run 2 came first: after it the machine's clock, and with it the names of runs, fell back.
    store.take(tick("a", 2, 5, &[]), at(1));
    store.take(tick("a", 1, 1, &[]), at(2));
    store.take(DataRecord { metrics: SystemMetrics::default(), ..tick("a", 1, 2, &[]) }, at(3));
    let latest = store.latest(&agent("a")).unwrap().record(&SeriesFilter::default());
    assert_eq!((latest.incarnation.as_str(), latest.sequence), ("run1", Sequence(1)));
}

#[test]
fn names_are_kept_once_and_let_go_with_their_last_record() {
    let series: Vec<String> = (0..100).map(|n| format!("series.number.{n}")).collect();
    let series: Vec<(&str, f64)> = series.iter().map(|name| (name.as_str(), 1.0)).collect();
    let one = store(ROOMY, [tick("a", 0, 0, &series)]).bytes();
    let mut many = store(ROOMY, (0..10).map(|sequence| tick("a", 0, sequence, &series)));
    assert!(many.bytes() < 3 * one, "{} for ten, {one} for one", many.bytes());
    many.expire(at(1_000).plus(HOUR));
    assert_eq!(many.bytes(), 0);
}
