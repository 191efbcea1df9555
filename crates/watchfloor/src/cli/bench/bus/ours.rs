//! Through our bus, whichever is behind it: publishing as servers do, reading as analysis does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backends::bus::{Bus, BusError, StartAt};
use runtime::Scope;
use tokio::sync::mpsc;

use super::Load;
use super::stopwatch::{Stopwatch, Took};
use crate::exit::{Exit, Failure};

/// Failures of one call in a row; each has already waited as long as the bus does.
const TRIES: u64 = 3;
/// Longer than any broker hesitates.
const SILENCE: Duration = Duration::from_secs(30);

/// Publishes the whole load: every caller takes the next batch, and waits until it is durable before it takes another.
pub(super) async fn publish(bus: &Arc<dyn Bus>, topic: &str, load: &Arc<Load>) -> Result<Took, Failure> {
    let scope = Scope::new("bench");
    let next = Arc::new(AtomicU64::new(0));
    let (done, mut ended) = mpsc::channel(load.callers);
    let watch = Stopwatch::start();
    for _ in 0..load.callers {
        let caller = Caller {
            bus: Arc::clone(bus),
            topic: topic.to_owned(),
            load: Arc::clone(load),
            next: Arc::clone(&next),
        };
        let done = done.clone();
        scope.spawn("caller", async move {
            // Nobody listens once another caller has failed.
            done.send(caller.run().await).await.ok();
        });
    }
    drop(done);
    let mut total = Took::default();
    let mut callers = 0;
    while let Some(took) = ended.recv().await {
        let took = took.map_err(unavailable)?;
        total.records += took.records;
        total.bytes += took.bytes;
        total.repeated += took.repeated;
        callers += 1;
    }
    if callers != load.callers {
        return Err(Failure::message(Exit::Dirty, "a caller broke off"));
    }
    Ok(Took { repeated: total.repeated, ..watch.stop(total.records, total.bytes) })
}

struct Caller {
    bus: Arc<dyn Bus>,
    topic: String,
    load: Arc<Load>,
    next: Arc<AtomicU64>,
}

impl Caller {
    async fn run(self) -> Result<Took, BusError> {
        let mut took = Took::default();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.load.batches {
                return Ok(took);
            }
            let batch = self.load.payload.batch(number);
            let mut failures = 0;
            // Cloned for each try, as the server does.
            while let Err(error) = self.bus.publish(&self.topic, batch.to_vec()).await {
                failures += 1;
                if failures == TRIES || !error.is_transient() {
                    return Err(error);
                }
            }
            took.repeated += failures;
            took.records += batch.len() as u64;
            took.bytes += batch.iter().map(|record| record.value.len() as u64).sum::<u64>();
        }
    }
}

/// Reads `records` records from `begins` on, measured from the first to the last.
pub(super) async fn read(
    bus: &dyn Bus,
    topic: &str,
    begins: &BTreeMap<u32, u64>,
    records: u64,
) -> Result<Took, Failure> {
    let mut subscription =
        bus.subscribe(topic, StartAt::Offsets(begins.clone())).await.map_err(unavailable)?;
    let mut watch = None;
    let (mut seen, mut bytes) = (0, 0);
    while seen < records {
        let next = match subscription.try_next() {
            Some(record) => Ok(Some(record)),
            None => tokio::time::timeout(SILENCE, subscription.next()).await,
        };
        let record = match next {
            Ok(Some(record)) => record.map_err(unavailable)?,
            Ok(None) => return Err(unavailable(BusError::Closed)),
            Err(_) => return Err(unavailable(silent(topic, seen, records))),
        };
        watch.get_or_insert_with(Stopwatch::start);
        seen += 1;
        bytes += record.value.len() as u64;
    }
    Ok(watch.unwrap_or_else(Stopwatch::start).stop(seen, bytes))
}

pub(super) fn silent(topic: &str, seen: u64, records: u64) -> BusError {
    let reason = format!("{topic}: nothing came for {SILENCE:?} after {seen} of {records} records");
    BusError::Unavailable { reason }
}

pub(super) fn unavailable(error: BusError) -> Failure {
    Failure::new(Exit::Unavailable, error)
}
