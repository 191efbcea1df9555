//! The contract on real files, and what only the embedded bus promises.

mod power_loss;
mod random;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::sample::Timestamp;
use tempfile::TempDir;

use super::{EmbeddedBus, Options};
use crate::bus::contract::{Ageing, Fixture};
use crate::bus::{Bus, BusError, NewRecord, Position, Retention, StartAt, TopicSpec};
use crate::power_loss::{Disk, Space};
use crate::store::Source;

/// A directory, a clock that is set by hand, and the bus that is open there now.
struct Files {
    directory: TempDir,
    now_ms: Arc<AtomicI64>,
    open: std::sync::Mutex<Option<Arc<EmbeddedBus>>>,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(AtomicI64::new(1_767_225_600_000));
        Self { directory, now_ms, open: std::sync::Mutex::default() }
    }

    fn options(&self) -> Options {
        let now_ms = Arc::clone(&self.now_ms);
        // Each reading is a little later, as on a real clock.
        let clock = move || Timestamp::from_unix_ms(now_ms.fetch_add(1, Ordering::SeqCst));
        Options { clock: Arc::new(clock), ..Options::default() }
    }

    fn start(&self) -> Result<EmbeddedBus, BusError> {
        EmbeddedBus::open(self.directory.path(), self.options())
    }

    fn current(&self) -> Arc<EmbeddedBus> {
        self.open.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Fixture for Files {
    async fn open(&self) -> Arc<dyn Bus> {
        let bus = Arc::new(self.start().unwrap());
        *self.open.lock().unwrap() = Some(Arc::clone(&bus));
        bus
    }

    async fn close(&self, _bus: Arc<dyn Bus>) {
        self.current().close().await.unwrap();
    }
}

#[async_trait]
impl Ageing for Files {
    async fn pass(&self, _bus: &Arc<dyn Bus>, duration: Duration) {
        self.now_ms.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
        self.current().retain().await.unwrap();
    }
}

mod contract {
    use super::Files;

    crate::bus_contract!(Files::new(), ageing);
}

const KEEP: Retention = Retention { age: Duration::from_secs(86_400), bytes: u64::MAX, compacted: false };

fn record(value: &'static str) -> NewRecord {
    NewRecord { key: "k".to_owned(), value: value.into(), ..NewRecord::default() }
}

async fn with_topic(bus: EmbeddedBus) -> EmbeddedBus {
    bus.ensure_topics(&[TopicSpec { name: "t".to_owned(), partitions: 1, retention: KEEP }]).await.unwrap();
    bus
}

async fn texts(bus: &EmbeddedBus, count: usize) -> Vec<String> {
    let mut reader = bus.subscribe("t", StartAt::Earliest).await.unwrap();
    let mut read = Vec::new();
    while read.len() < count {
        let record = reader.next().await.unwrap().unwrap();
        read.push(String::from_utf8(record.value.to_vec()).unwrap());
    }
    read
}

#[tokio::test]
async fn a_full_disk_refuses_publishing_until_there_is_space_again() {
    // More than the blocks that are there can take.
    let large = NewRecord { value: vec![7; 500_000].into(), ..NewRecord::default() };
    for space in [Space::NoNewBlocks, Space::None] {
        let disk = Disk::default();
        let bus =
            with_topic(EmbeddedBus::start(Source::Disk(disk.clone()), Options::default()).unwrap()).await;
        let mut reader = bus.subscribe("t", StartAt::Earliest).await.unwrap();
        bus.publish("t", vec![record("before")]).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().value, "before");
        disk.set_space(space);
        for _ in 0..3 {
            let error = bus.publish("t", vec![large.clone(); 10]).await.unwrap_err();
            assert!(error.is_transient() && error.to_string().contains("no space"), "{error}");
        }
        if space == Space::NoNewBlocks {
            assert_eq!(texts(&bus, 1).await, ["before"], "reading goes on");
        }
        disk.set_space(Space::Plenty);
        bus.publish("t", vec![record("after")]).await.unwrap();
        assert_eq!(texts(&bus, 2).await, ["before", "after"]);
        assert_eq!(reader.next().await.unwrap().unwrap().value, "after");
    }
}

#[tokio::test]
async fn a_failing_disk_is_an_error_for_good_and_nothing_hangs() {
    let disk = Disk::default();
    let bus = with_topic(EmbeddedBus::start(Source::Disk(disk.clone()), Options::default()).unwrap()).await;
    disk.cut_power_after(1);
    for _ in 0..2 {
        let error = bus.publish("t", vec![record("lost")]).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("the power is out"), "{error}");
    }
    bus.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus.redb");
    with_topic(EmbeddedBus::open(directory.path(), Options::default()).unwrap()).await.close().await.unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut headless = good.clone();
    headless[..4_096].fill(0xee);
    for damaged in [headless, b"no database at all".to_vec()] {
        std::fs::write(&path, damaged).unwrap();
        let error = EmbeddedBus::open(directory.path(), Options::default()).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("move it aside"), "{error}");
    }
}

#[tokio::test]
async fn a_second_bus_on_one_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = EmbeddedBus::open(directory.path(), Options::default()).unwrap();
    let error = EmbeddedBus::open(directory.path(), Options::default()).unwrap_err();
    assert!(error.to_string().contains("is open in another process"), "{error}");
}

#[tokio::test]
async fn a_member_stops_reading_what_went_to_another() {
    let bus = EmbeddedBus::in_memory(Options::default()).unwrap();
    let topic = TopicSpec { name: "t".to_owned(), partitions: 4, retention: KEEP };
    bus.ensure_topics(&[topic]).await.unwrap();
    let all_partitions = || {
        let key = |n| NewRecord { key: format!("k{n}"), ..NewRecord::default() };
        bus.publish("t", (0..40).map(key).collect())
    };
    let mut first = bus.join("t", "g").await.unwrap();
    for _ in all_partitions().await.unwrap() {
        let record = first.next().await.unwrap().unwrap();
        first.commit(record.position).await.unwrap();
    }
    let mut second = bus.join("t", "g").await.unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let published = all_partitions().await.unwrap();
        while !published.iter().all(|position| seen.contains(position)) {
            let record = tokio::select! { record = first.next() => record, record = second.next() => record };
            let position = record.unwrap().unwrap().position;
            assert!(seen.insert(position), "{position:?} went to both");
        }
    }
}

#[tokio::test]
async fn a_busy_member_lets_go_before_it_has_caught_up() {
    let bus = EmbeddedBus::in_memory(Options::default()).unwrap();
    let topic = TopicSpec { name: "t".to_owned(), partitions: 2, retention: KEEP };
    bus.ensure_topics(&[topic]).await.unwrap();
    let record = |n: usize| NewRecord { key: format!("k{n}"), ..NewRecord::default() };
    let positions = bus.publish("t", (0..800).map(record).collect()).await.unwrap();
    let mut busy = bus.join("t", "g").await.unwrap();
    let read = busy.next().await.unwrap().unwrap();
    assert_eq!(read.position, Position { partition: 0, offset: 0 });
    let _other = bus.join("t", "g").await.unwrap();
    let of_first = positions.iter().filter(|position| position.partition == 0).count();
    let key_of_first = positions.iter().position(|position| position.partition == 0).unwrap();
    bus.publish("t", vec![record(key_of_first)]).await.unwrap();
    for offset in 1..=of_first as u64 {
        let read = busy.next().await.unwrap().unwrap();
        assert_eq!(read.position, Position { partition: 0, offset });
    }
}

#[tokio::test]
async fn times_do_not_go_back_with_the_wall_clock() {
    let files = Files::new();
    let bus = with_topic(files.start().unwrap()).await;
    bus.publish("t", vec![record("first")]).await.unwrap();
    files.now_ms.fetch_sub(3_600_000, Ordering::SeqCst);
    bus.publish("t", vec![record("second")]).await.unwrap();
    let mut reader = bus.subscribe("t", StartAt::Earliest).await.unwrap();
    let first = reader.next().await.unwrap().unwrap().at;
    assert_eq!(reader.next().await.unwrap().unwrap().at, first);
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_waits_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let bus = with_topic(EmbeddedBus::open(directory.path(), Options::default()).unwrap()).await;
    let publish = bus.publish("t", vec![record("in time")]);
    tokio::time::timeout(Duration::from_millis(1), publish).await.unwrap().unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_millis(1), texts(&bus, 1)).await.unwrap(), ["in time"]);
}

#[tokio::test]
async fn closing_commits_what_is_queued() {
    let files = Files::new();
    let bus = with_topic(files.start().unwrap()).await;
    let publish = bus.publish("t", vec![record("queued")]);
    tokio::pin!(publish);
    // One poll queues the record.
    assert!(futures_util::poll!(&mut publish).is_pending());
    bus.close().await.unwrap();
    publish.await.unwrap();
    assert_eq!(texts(&files.start().unwrap(), 1).await, ["queued"]);
}

#[tokio::test]
async fn a_bus_in_memory_obeys_all_but_durability() {
    let bus = with_topic(EmbeddedBus::in_memory(Options::default()).unwrap()).await;
    bus.publish("t", vec![record("kept")]).await.unwrap();
    assert_eq!(texts(&bus, 1).await, ["kept"]);
}

#[tokio::test]
async fn retention_of_more_than_one_commit_is_done_in_one_call() {
    let files = Files::new();
    let bus = with_topic(files.start().unwrap()).await;
    for _ in 0..3 {
        bus.publish("t", vec![record("old"); 3_000]).await.unwrap();
    }
    files.now_ms.fetch_add(86_400_000 + 60_000, Ordering::SeqCst);
    bus.retain().await.unwrap();
    let extents = bus.extents("t").await.unwrap();
    assert_eq!((extents[0].low, extents[0].high), (9_000, 9_000));
}
