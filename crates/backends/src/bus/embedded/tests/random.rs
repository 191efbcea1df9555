//! Random sequences of everything one can do with a bus, against a model of a few vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use model::sample::Timestamp;
use proptest::prelude::*;

use crate::bus::embedded::{EmbeddedBus, Options};
use crate::bus::{Bus, Extent, NewRecord, Position, Record, Retention, StartAt, Subscription, TopicSpec};
use crate::power_loss::Disk;
use crate::store::Source;

const PARTITIONS: u32 = 3;
const AGE: Duration = Duration::from_secs(100);
const BYTES: u64 = 2_000;

#[derive(Clone, Debug)]
enum Action {
    /// Keys and sizes.
    Publish(Vec<(u8, u16)>),
    /// Seconds; the wall clock may go back.
    Pass(i64),
    Retain,
    Reopen,
    /// Joins, reads what is not committed and commits that many of them.
    Work(usize),
    ReadFromTime(i64),
    ReadFromOffset(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec((0..5_u8, 0..400_u16), 1..6).prop_map(Action::Publish),
        2 => (-30..90_i64).prop_map(Action::Pass),
        2 => Just(Action::Retain),
        1 => Just(Action::Reopen),
        2 => (0..10_usize).prop_map(Action::Work),
        1 => (0..600_i64).prop_map(Action::ReadFromTime),
        1 => (0..40_u64).prop_map(Action::ReadFromOffset),
    ]
}

#[derive(Debug, Default)]
struct Model {
    kept: Vec<Record>,
    next: BTreeMap<u32, u64>,
    newest: BTreeMap<u32, Timestamp>,
    commits: BTreeMap<u32, u64>,
}

impl Model {
    fn publish(&mut self, positions: &[Position], records: Vec<NewRecord>, now: Timestamp) {
        assert_eq!(positions.len(), records.len());
        for (position, NewRecord { key, value, headers }) in positions.iter().zip(records) {
            let next = self.next.entry(position.partition).or_default();
            assert_eq!(position.offset, *next);
            *next += 1;
            let newest = self.newest.entry(position.partition).or_default();
            *newest = now.max(*newest);
            self.kept.push(Record { position: *position, at: *newest, key, value, headers });
        }
    }

    fn retain(&mut self, compacted: bool, now: Timestamp) {
        if compacted {
            let minute = Duration::from_secs(60);
            let newest: BTreeMap<String, Position> =
                self.kept.iter().map(|record| (record.key.clone(), record.position)).collect();
            self.kept
                .retain(|record| newest[&record.key] == record.position || now.since(record.at) <= minute);
            return;
        }
        let size = |record: &Record| (record.key.len() + record.value.len()) as u64;
        let mut bytes: u64 = self.kept.iter().map(size).sum();
        let mut by_age: Vec<&Record> = self.kept.iter().collect();
        by_age.sort_by_key(|record| (record.at, record.position));
        let mut gone = BTreeSet::new();
        for record in by_age {
            if now.since(record.at) <= AGE && bytes <= BYTES {
                break;
            }
            bytes -= size(record);
            gone.insert(record.position);
        }
        self.kept.retain(|record| !gone.contains(&record.position));
    }

    fn extents(&self) -> Vec<Extent> {
        let extent = |partition| {
            let high = self.next.get(&partition).copied().unwrap_or(0);
            let of_this = self.kept.iter().map(|r| r.position).filter(|p| p.partition == partition);
            Extent { partition, low: of_this.map(|p| p.offset).min().unwrap_or(high), high }
        };
        (0..PARTITIONS).map(extent).collect()
    }

    fn from(&self, begins: impl Fn(&Record) -> bool) -> Vec<Record> {
        let mut records: Vec<Record> = self.kept.iter().filter(|record| begins(record)).cloned().collect();
        records.sort_by_key(|record| record.position);
        records
    }
}

struct World {
    disk: Disk,
    now_ms: Arc<AtomicI64>,
    compacted: bool,
}

impl World {
    async fn start(&self) -> EmbeddedBus {
        let now_ms = Arc::clone(&self.now_ms);
        let clock = Arc::new(move || Timestamp::from_unix_ms(now_ms.load(Ordering::SeqCst)));
        let options = Options { clock, ..Options::default() };
        let bus = EmbeddedBus::start(Source::Disk(self.disk.clone()), options).unwrap();
        let retention = Retention { age: AGE, bytes: BYTES, compacted: self.compacted };
        let topic = TopicSpec { name: "t".to_owned(), partitions: PARTITIONS, retention };
        bus.ensure_topics(&[topic]).await.unwrap();
        bus
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.now_ms.load(Ordering::SeqCst))
    }
}

/// Reads `count` records and puts the partitions in order; within one they must be so already.
async fn read(subscription: &mut Subscription, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(60), subscription.next()).await;
        records.push(next.expect("a record is missing").unwrap().unwrap());
    }
    records.sort_by_key(|record| record.position.partition);
    records
}

async fn run(actions: Vec<Action>, compacted: bool) {
    let world =
        World { disk: Disk::default(), now_ms: Arc::new(AtomicI64::new(1_767_225_600_000)), compacted };
    let begin = world.now();
    let mut model = Model::default();
    let mut bus = world.start().await;
    let mut tail = bus.subscribe("t", StartAt::Latest).await.unwrap();
    for action in actions {
        match action {
            Action::Publish(records) => {
                let records: Vec<NewRecord> = records
                    .into_iter()
                    .map(|(key, size)| NewRecord {
                        key: format!("key-{key}"),
                        value: vec![key; usize::from(size)].into(),
                        headers: Default::default(),
                    })
                    .collect();
                let count = records.len();
                let positions = bus.publish("t", records.clone()).await.unwrap();
                model.publish(&positions, records, world.now());
                let published: BTreeSet<Position> = positions.into_iter().collect();
                let expected = model.from(|record| published.contains(&record.position));
                assert_eq!(read(&mut tail, count).await, expected);
            }
            Action::Pass(seconds) => {
                world.now_ms.fetch_add(seconds * 1_000, Ordering::SeqCst);
            }
            Action::Retain => {
                bus.retain().await.unwrap();
                model.retain(compacted, world.now());
            }
            Action::Reopen => {
                bus.close().await.unwrap();
                bus = world.start().await;
                tail = bus.subscribe("t", StartAt::Latest).await.unwrap();
            }
            Action::Work(done) => {
                let mut member = bus.join("t", "g").await.unwrap();
                let commits = model.commits.clone();
                let expected = model.from(|record| {
                    let next = commits.get(&record.position.partition).copied().unwrap_or(0);
                    record.position.offset >= next
                });
                let records = read(&mut member, expected.len()).await;
                assert_eq!(records, expected);
                for record in records.iter().take(done) {
                    member.commit(record.position).await.unwrap();
                    model.commits.insert(record.position.partition, record.position.offset + 1);
                }
            }
            Action::ReadFromTime(seconds) => {
                let at = begin.plus(Duration::from_secs(seconds.unsigned_abs()));
                let expected = model.from(|record| record.at >= at);
                let mut reader = bus.subscribe("t", StartAt::Time(at)).await.unwrap();
                assert_eq!(read(&mut reader, expected.len()).await, expected);
            }
            Action::ReadFromOffset(offset) => {
                let next = model.next.get(&0).copied().unwrap_or(0);
                let expected = model.from(|record| {
                    record.position.partition != 0 || offset > next || record.position.offset >= offset
                });
                let offsets = StartAt::Offsets(BTreeMap::from([(0, offset)]));
                let mut reader = bus.subscribe("t", offsets).await.unwrap();
                assert_eq!(read(&mut reader, expected.len()).await, expected);
            }
        }
        assert_eq!(bus.extents("t").await.unwrap(), model.extents());
    }
    let expected = model.from(|_| true);
    let mut reader = bus.subscribe("t", StartAt::Earliest).await.unwrap();
    assert_eq!(read(&mut reader, expected.len()).await, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_bus_does_what_the_model_does(
        actions in prop::collection::vec(action(), 1..40), compacted: bool
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(actions, compacted));
    }
}
