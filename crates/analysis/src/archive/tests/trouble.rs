//! Full disks, files that somebody else has altered, and the bounds.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use backends::bus::embedded::{EmbeddedBus, Options};
use backends::bus::{Bus, NewRecord, Retention, TopicSpec};
use proptest::prelude::*;
use proto::record::MONITORING_DATA;
use runtime::{Health, Scope};

use super::super::disk::Disk;
use super::*;
use crate::data::Data;

/// Longer than any wait of the archive.
const A_WHILE: Duration = ARCHIVE_COMMIT_EVERY.saturating_add(RETRY_CEILING);

/// One reader of a topic, with its archive on `disk`.
struct Reader {
    bus: Arc<dyn Bus>,
    disk: Disk,
    history: History,
    health: Health,
    scope: Scope,
}

impl Reader {
    async fn start(bus: &Arc<dyn Bus>, disk: &Disk) -> Self {
        let (health, metrics) = (Health::default(), prometheus::Registry::new());
        let history = history();
        let component = |name: &str| health.component(name);
        let counters = ArchiveCounters::register(&metrics).unwrap();
        let file = File::new(Source::Disk(disk.clone()), HOUR, u64::MAX);
        let archive = Archive::of(file, HOUR, component("archive"), counters);
        let bad = prometheus::IntCounter::new("bad", "bad").unwrap();
        let mut data =
            Data::new(Arc::clone(bus), component("topic"), HOUR, history.clone(), bad, Some(archive));
        let scope = Scope::new("test");
        let stopping = scope.stopping();
        scope.spawn("data", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = data.run() => {}
            }
            data.close().await;
        });
        history.caught_up().await;
        Self { bus: Arc::clone(bus), disk: disk.clone(), history, health, scope }
    }

    async fn publish(&self, sequences: std::ops::RangeInclusive<u64>) {
        let mut live = self.history.live();
        for sequence in sequences {
            let value = serde_json::to_vec(&tick("a", "i", sequence, clock::wall())).unwrap().into();
            let record = NewRecord { key: "a".to_owned(), value, ..NewRecord::default() };
            self.bus.publish(MONITORING_DATA, vec![record]).await.unwrap();
            live.next().await.unwrap();
        }
    }

    /// The archive's health, as text.
    fn health(&self) -> String {
        format!("{:?}", self.health.report().components["archive"])
    }

    fn sequences(&self) -> Vec<u64> {
        query_all(&self.history).iter().map(|record| record.sequence.0).collect()
    }

    /// What the file has when everything else is lost.
    fn archived(&self) -> Vec<u64> {
        let mut file = File::new(Source::Disk(self.disk.after_a_cut()), HOUR, u64::MAX);
        keys_in(&mut file).into_iter().map(|(_, _, sequence)| sequence).collect()
    }

    async fn stop(self) {
        self.scope.stop(Duration::from_secs(60)).await.unwrap();
    }
}

async fn bus() -> Arc<dyn Bus> {
    bus_with(Options::default()).await
}

async fn bus_with(options: Options) -> Arc<dyn Bus> {
    let bus = EmbeddedBus::in_memory(options).unwrap();
    let retention = Retention { age: 24 * HOUR, bytes: 1 << 30, compacted: false };
    let topic = TopicSpec { name: MONITORING_DATA.to_owned(), partitions: 2, retention };
    bus.ensure_topics(&[topic]).await.unwrap();
    Arc::new(bus)
}

fn numbers(count: u64) -> Vec<u64> {
    (1..=count).collect()
}

#[tokio::test(start_paused = true)]
async fn a_commit_comes_by_itself_and_the_last_one_when_it_stops() {
    let (bus, disk) = (bus().await, Disk::default());
    let reader = Reader::start(&bus, &disk).await;
    reader.publish(1..=5).await;
    assert_eq!(reader.archived(), numbers(0));
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((reader.archived(), reader.health()), (numbers(5), "Ok".to_owned()));
    reader.publish(6..=7).await;
    reader.stop().await;
    let next = Reader::start(&bus, &disk).await;
    assert_eq!((next.archived(), next.sequences()), (numbers(7), numbers(7)));
    next.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_and_history_goes_on_until_there_is_space_again() {
    let (bus, disk) = (bus().await, Disk::default());
    let reader = Reader::start(&bus, &disk).await;
    reader.publish(1..=5).await;
    disk.fill_up_after(0);
    tokio::time::sleep(A_WHILE).await;
    assert!(reader.health().contains("no space for the test's disk"), "{}", reader.health());
    reader.publish(6..=10).await;
    assert_eq!((reader.sequences(), reader.archived()), (numbers(10), vec![]));

    disk.free_space();
    tokio::time::sleep(2 * A_WHILE).await;
    assert_eq!((reader.archived(), reader.health()), (numbers(10), "Ok".to_owned()));
    reader.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_could_not_be_opened_catches_up_from_the_bus() {
    let (bus, disk) = (bus().await, Disk::default());
    disk.fill_up_after(0);
    let reader = Reader::start(&bus, &disk).await;
    reader.publish(1..=5).await;
    assert!(reader.health().contains("no space"), "{}", reader.health());
    disk.free_space();
    tokio::time::sleep(2 * A_WHILE).await;
    assert_eq!((reader.archived(), reader.sequences()), (numbers(5), numbers(5)));
    reader.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_window_has_passed_on_the_bus_is_skipped_and_not_read_again() {
    let back_ms = Arc::new(AtomicI64::new(0));
    let clock = {
        let back_ms = Arc::clone(&back_ms);
        move || Timestamp::from_unix_ms(clock::wall().unix_ms() - back_ms.load(Ordering::SeqCst))
    };
    let bus = bus_with(Options { clock: Arc::new(clock), ..Options::default() }).await;
    let disk = Disk::default();
    let reader = Reader::start(&bus, &disk).await;
    reader.stop().await;
    // While nobody reads: the offsets are known, and these records are old when the next one comes.
    back_ms.store(2 * 3_600_000, Ordering::SeqCst);
    let old = serde_json::to_vec(&tick("a", "i", 1, clock::wall())).unwrap();
    let old = NewRecord { key: "a".to_owned(), value: old.into(), ..NewRecord::default() };
    bus.publish(MONITORING_DATA, vec![old]).await.unwrap();
    back_ms.store(0, Ordering::SeqCst);
    let reader = Reader::start(&bus, &disk).await;
    reader.publish(2..=3).await;
    assert_eq!(reader.sequences(), [2, 3]);
    reader.stop().await;
    let reader = Reader::start(&bus, &disk).await;
    assert_eq!((reader.sequences(), reader.archived()), (vec![2, 3], vec![2, 3]));
    reader.stop().await;
}

/// Commits `sequences` of one run, one by one.
fn fill(file: &mut File, sequences: impl Iterator<Item = u64>, at: impl Fn(u64) -> Timestamp) {
    let history = history();
    for sequence in sequences {
        let Taken::New(kept) = history.take(tick("a", "i", sequence, at(sequence)), at(sequence)) else {
            panic!("{sequence} was there");
        };
        let after = file.stored().unwrap().commits;
        let batch = Batch { after, records: vec![kept], ..Batch::default() };
        file.commit(&batch, at(sequence)).unwrap();
    }
}

fn sequences_in(file: &mut File) -> Vec<u64> {
    keys_in(file).into_iter().map(|(_, _, sequence)| sequence).collect()
}

#[test]
fn what_is_out_of_the_window_leaves_with_the_next_commit() {
    let mut file = File::new(Source::Disk(Disk::default()), HOUR, u64::MAX);
    fill(&mut file, 1..=100, |sequence| at(60 * sequence as i64));
    assert_eq!(sequences_in(&mut file), (40..=100).collect::<Vec<_>>());
    let stored = file.stored().unwrap();
    assert_eq!((stored.blocks, stored.oldest), (61, Some(at(60 * 40))));
}

#[test]
fn past_the_limit_the_oldest_blocks_leave_and_their_space_is_used_again() {
    const BYTES_MAX: u64 = 20_000;
    let disk = Disk::default();
    let mut file = File::new(Source::Disk(disk.clone()), HOUR, BYTES_MAX);
    let mut sizes = Vec::new();
    for round in 0..4 {
        fill(&mut file, round * 500 + 1..=round * 500 + 500, |_| at(0));
        let stored = file.stored().unwrap();
        assert!((BYTES_MAX - 500..=BYTES_MAX).contains(&stored.bytes), "{stored:?}");
        sizes.push(redb::StorageBackend::len(&disk).unwrap());
    }
    let kept = sequences_in(&mut file);
    assert_eq!((kept.len() as u64, kept.last()), (file.stored().unwrap().blocks, Some(&2_000)));
    assert_eq!(sizes[1], sizes[3], "the file grows");
}

#[test]
fn an_attempt_that_was_said_to_fail_and_did_not_is_not_repeated() {
    let mut file = File::new(Source::Disk(Disk::default()), HOUR, u64::MAX);
    let Taken::New(kept) = history().take(tick("a", "i", 1, at(0)), at(0)) else { panic!("it was there") };
    let batch = Batch { records: vec![kept], ..Batch::default() };
    assert_eq!(file.commit(&batch, at(0)).unwrap(), file.commit(&batch, at(1)).unwrap());
    assert_eq!(sequences_in(&mut file), [1]);
}

fn ten_on_disk(path: &Path) -> Vec<u64> {
    let mut file = File::new(Source::File(path.to_owned()), HOUR, u64::MAX);
    fill(&mut file, 1..=10, at_one_time);
    sequences_in(&mut file)
}

fn at_one_time(_: u64) -> Timestamp {
    at(1_000)
}

/// Opens `path` as a process does, and reads what is in it.
fn opened(path: &Path) -> (Stored, Vec<u64>) {
    let mut file = File::new(Source::File(path.to_owned()), HOUR, u64::MAX);
    let (stored, _) = open(&mut file, &history(), at(0));
    (stored.unwrap(), sequences_in(&mut file))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_file_that_was_altered_is_whole_or_set_aside(
        place in any::<prop::sample::Index>(), garbage in proptest::collection::vec(any::<u8>(), 0..5_000)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let whole = ten_on_disk(&path);
        let mut bytes = fs::read(&path).unwrap();
        let start = place.index(bytes.len());
        if garbage.is_empty() {
            bytes.truncate(start);
        } else {
            let end = (start + garbage.len()).min(bytes.len());
            bytes[start..end].copy_from_slice(&garbage[..end - start]);
        }
        fs::write(&path, &bytes).unwrap();

        let (stored, found) = opened(&path);
        let aside = path.with_extension("redb.damaged");
        if aside.exists() {
            prop_assert_eq!(fs::read(aside).unwrap().len(), bytes.len(), "it was kept");
            prop_assert_eq!((stored, found), (Stored::default(), vec![]));
        } else {
            // The last commit whose checksums are right; the bus goes on from there.
            prop_assert!(stored.commits > 0 && found == whole[..stored.commits as usize], "{stored:?} {found:?}");
        }
        // What stands there now goes on.
        opened(&path);
    }
}

#[test]
fn an_empty_file_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    fs::write(&path, []).unwrap();
    assert_eq!(opened(&path), (Stored::default(), vec![]));
    assert!(path.with_extension("redb.damaged").exists());
}

#[test]
fn a_file_of_another_format_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    ten_on_disk(&path);
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let facts = redb::TableDefinition::<&str, i64>::new("facts");
    transaction.open_table(facts).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(opened(&path), (Stored::default(), vec![]));
    assert!(path.with_extension("redb.damaged").exists());
}

#[test]
fn a_file_without_a_directory_is_trouble_and_no_panic() {
    let mut file = File::new(Source::File("/proc/nowhere/archive.redb".into()), HOUR, u64::MAX);
    let (stored, restored) = open(&mut file, &history(), at(0));
    let error = stored.unwrap_err();
    assert!(matches!(error, FileError::Failed { .. }), "{error}");
    assert!(error.to_string().starts_with("/proc/nowhere/archive.redb"), "{error}");
    assert_eq!(restored, 0);
}
