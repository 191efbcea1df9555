//! The power goes at every single write and sync of a small workload; what was acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use model::sample::Timestamp;

use crate::bus::embedded::{EmbeddedBus, Options, log};
use crate::bus::{Bus, BusError, NewRecord, Position, Retention, TopicSpec};
use crate::power_loss::{Disk, losses};
use crate::store::Source;

const STEPS: usize = 8;

/// All that the bus promises to keep.
#[derive(Debug, PartialEq)]
struct Kept {
    extents: Vec<(u32, u64, u64)>,
    records: Vec<(Position, Timestamp, String)>,
    commits: BTreeMap<u32, u64>,
}

struct World {
    disk: Disk,
    now_ms: Arc<AtomicI64>,
}

impl World {
    fn on(disk: Disk) -> Self {
        Self { disk, now_ms: Arc::new(AtomicI64::new(1_767_225_600_000)) }
    }

    fn start(&self) -> Result<EmbeddedBus, BusError> {
        let now_ms = Arc::clone(&self.now_ms);
        let clock = Arc::new(move || Timestamp::from_unix_ms(now_ms.load(Ordering::SeqCst)));
        EmbeddedBus::start(Source::Disk(self.disk.clone()), Options { clock, ..Options::default() })
    }

    /// Each is one commit.
    async fn step(&self, bus: &EmbeddedBus, step: usize) -> Result<(), BusError> {
        self.now_ms.fetch_add(60_000, Ordering::SeqCst);
        match step {
            0 => {
                let retention =
                    Retention { age: Duration::from_secs(200), bytes: u64::MAX, compacted: false };
                bus.ensure_topics(&[TopicSpec { name: "t".to_owned(), partitions: 2, retention }]).await
            }
            4 => {
                let commit = bus.join("t", "g").await?;
                commit.commit(Position { partition: 0, offset: 1 }).await
            }
            6 => bus.retain().await,
            _ => {
                // Small ones share a page with others; large ones have pages of their own.
                let record = |n: usize| NewRecord {
                    key: format!("k{n}"),
                    value: format!("{step}.{n} ").repeat(1 << (n * 3)).into(),
                    headers: Default::default(),
                };
                bus.publish("t", (0..5).map(record).collect()).await.map(drop)
            }
        }
    }
}

async fn kept(bus: &EmbeddedBus) -> Kept {
    let Ok(topic) = bus.shared.topic("t") else {
        return Kept { extents: Vec::new(), records: Vec::new(), commits: BTreeMap::new() };
    };
    let mut extents = Vec::new();
    let mut records = Vec::new();
    for (number, partition) in (0..).zip(topic.partitions.clone()) {
        extents.push((number, partition.low, partition.high));
        let everything = log::Most { records: usize::MAX, bytes: usize::MAX };
        let read = move |transaction: &_| log::read(transaction, topic.id, number, 0, u64::MAX, everything);
        let (found, _) = bus.shared.read(read).await.unwrap();
        records.extend(
            found.into_iter().map(|record| {
                (record.position, record.at, String::from_utf8(record.value.to_vec()).unwrap())
            }),
        );
    }
    let commits = bus.shared.read(move |transaction| log::committed(transaction, "g", topic.id)).await;
    Kept { extents, records, commits: commits.unwrap() }
}

/// What is kept before the first step and after each one, when nothing goes wrong.
async fn undisturbed() -> Vec<Kept> {
    let world = World::on(Disk::default());
    let bus = world.start().unwrap();
    let mut after = vec![kept(&bus).await];
    for step in 0..STEPS {
        world.step(&bus, step).await.unwrap();
        after.push(kept(&bus).await);
    }
    let last = after.last().unwrap();
    assert!(last.extents.iter().any(|(_, low, _)| *low > 0), "retention has removed something");
    assert_eq!(last.commits, BTreeMap::from([(0, 2)]));
    after
}

/// Runs until the power goes; the number of steps that were acknowledged.
async fn disturbed(world: &World) -> usize {
    let Ok(bus) = world.start() else { return 0 };
    let mut acknowledged = 0;
    for step in 0..STEPS {
        if world.step(&bus, step).await.is_err() {
            break;
        }
        acknowledged += 1;
    }
    bus.close().await.unwrap();
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_at_every_operation() {
    let expected = undisturbed().await;
    for operation in 1.. {
        let world = World::on(Disk::default());
        world.disk.cut_power_after(operation);
        let acknowledged = disturbed(&world).await;
        for loss in losses(operation) {
            let world = World::on(world.disk.after(loss));
            let bus = world.start().unwrap_or_else(|error| panic!("cut at {operation}, {loss:?}: {error}"));
            let found = kept(&bus).await;
            // The step that was under way may have happened, whole.
            let possible = &expected[acknowledged..(acknowledged + 2).min(STEPS + 1)];
            assert!(
                possible.contains(&found),
                "cut at {operation}, {loss:?}: {acknowledged} steps were acknowledged, found {found:?}"
            );
            world.step(&bus, 0).await.unwrap();
            world.step(&bus, 1).await.unwrap();
        }
        if !world.disk.is_dark() {
            return;
        }
    }
}
