//! The course of a run: what is opened, whose turn it is, and what is removed at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backends::bus::embedded::{EmbeddedBus, Options};
use backends::bus::kafka::{KafkaBus, KafkaOptions};
use backends::bus::{Bus, TopicSpec};
use tokio::runtime::Runtime;

use super::Load;
use super::ours::{self, unavailable};
use super::raw::Raw;
use super::stopwatch::Took;
use super::summary::{Rounds, Turn, Way, grouped};
use crate::exit::{Exit, Failure};

/// Our bus and librdkafka alone, on the same brokers.
pub(super) struct Kafka {
    bus: Arc<KafkaBus>,
    raw: Raw,
}

impl Kafka {
    /// Creates the topic, and lets both producers meet the brokers before anything is measured.
    pub(super) fn open(
        runtime: &Runtime,
        options: &KafkaOptions,
        topic: &TopicSpec,
    ) -> Result<Self, Failure> {
        let config = |error| Failure::new(Exit::Config, anyhow::Error::new(error));
        let (bus, raw) = runtime.block_on(async {
            let bus = KafkaBus::connect(options.clone()).map_err(config)?;
            bus.ensure_topics(std::slice::from_ref(topic)).await.map_err(unavailable)?;
            Ok::<_, Failure>((Arc::new(bus), Raw::new(options)?))
        })?;
        anstream::eprintln!("made the topic {}", topic.name);
        Ok(Self { bus, raw })
    }

    pub(super) fn close(self, runtime: &Runtime, topic: &str) -> Result<(), Failure> {
        let Self { bus, raw } = self;
        drop(raw);
        runtime.block_on(async {
            let removed = bus.remove_topic(topic).await;
            let closed = bus.close().await;
            removed.and(closed).map_err(unavailable)
        })?;
        anstream::eprintln!("removed the topic {topic}");
        Ok(())
    }
}

/// The embedded bus in a directory of its own, which goes with it.
pub(super) struct Embedded {
    bus: Arc<EmbeddedBus>,
    directory: PathBuf,
}

impl Embedded {
    pub(super) fn open(runtime: &Runtime, data: &Path, topic: &TopicSpec) -> Result<Self, Failure> {
        let directory = data.join("bench").join(&topic.name);
        let refuse = |error: std::io::Error| {
            let context = format!("cannot write to {}", directory.display());
            Failure::new(Exit::Unavailable, anyhow::Error::new(error).context(context))
        };
        std::fs::create_dir_all(&directory).map_err(refuse)?;
        let opened = runtime.block_on(async {
            let bus = EmbeddedBus::open(&directory, Options::default())?;
            bus.ensure_topics(std::slice::from_ref(topic)).await?;
            Ok(Arc::new(bus))
        });
        match opened {
            Ok(bus) => Ok(Self { bus, directory }),
            Err(error) => {
                remove(&directory);
                Err(unavailable(error))
            }
        }
    }

    pub(super) fn close(self, runtime: &Runtime) -> Result<(), Failure> {
        let closed = runtime.block_on(self.bus.close());
        remove(&self.directory);
        closed.map_err(unavailable)
    }
}

/// The directory with what is in it, and those above it that we may have made, if nothing else is there.
fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        anstream::eprintln!("{} could not be removed: {error}", directory.display());
    }
    for above in directory.ancestors().skip(1).take(2) {
        std::fs::remove_dir(above).ok();
    }
}

/// Who has been measured so far.
pub(super) struct Course<'a> {
    runtime: &'a Runtime,
    topic: &'a str,
    load: &'a Arc<Load>,
    pub(super) rounds: Rounds,
}

impl<'a> Course<'a> {
    pub(super) fn new(runtime: &'a Runtime, topic: &'a str, load: &'a Arc<Load>) -> Self {
        Self { runtime, topic, load, rounds: Rounds::default() }
    }

    /// What was measured so far was to warm up.
    pub(super) fn begin(&mut self, load: &'a Arc<Load>) {
        self.load = load;
        self.rounds = Rounds::default();
    }

    /// Both ways publish; then both read all of it.
    pub(super) fn kafka(&mut self, Kafka { bus, raw }: &Kafka, ways: [Way; 2]) -> Result<(), Failure> {
        let ours: Arc<dyn Bus> = Arc::clone(bus) as _;
        let begins = self.ends(&*ours)?;
        for way in ways {
            let took = match way {
                Way::Librdkafka => raw.publish(self.topic, self.load),
                Way::Kafka | Way::Embedded => self.publish(&ours),
            };
            self.add(Turn::Publish, way, took?);
        }
        let records = count(&begins, &self.ends(&*ours)?);
        for way in ways {
            let took = match way {
                Way::Librdkafka => raw.read(self.topic, &begins, records),
                Way::Kafka | Way::Embedded => self.read(&*ours, &begins, records),
            };
            self.add(Turn::Read, way, took?);
        }
        Ok(())
    }

    pub(super) fn embedded(&mut self, Embedded { bus, .. }: &Embedded) -> Result<(), Failure> {
        let bus: Arc<dyn Bus> = Arc::clone(bus) as _;
        let begins = self.ends(&*bus)?;
        let published = self.publish(&bus)?;
        self.add(Turn::Publish, Way::Embedded, published);
        let records = count(&begins, &self.ends(&*bus)?);
        let read = self.read(&*bus, &begins, records)?;
        self.add(Turn::Read, Way::Embedded, read);
        Ok(())
    }

    fn publish(&self, bus: &Arc<dyn Bus>) -> Result<Took, Failure> {
        self.runtime.block_on(ours::publish(bus, self.topic, self.load))
    }

    fn read(&self, bus: &dyn Bus, begins: &BTreeMap<u32, u64>, records: u64) -> Result<Took, Failure> {
        self.runtime.block_on(ours::read(bus, self.topic, begins, records))
    }

    /// Where each partition ends now.
    fn ends(&self, bus: &dyn Bus) -> Result<BTreeMap<u32, u64>, Failure> {
        let extents = self.runtime.block_on(bus.extents(self.topic)).map_err(unavailable)?;
        Ok(extents.iter().map(|extent| (extent.partition, extent.high)).collect())
    }

    fn add(&mut self, turn: Turn, way: Way, took: Took) {
        let rate = grouped(took.records_per_second());
        anstream::eprintln!("  {} through {}: {rate} records/s", turn.name(), way.name());
        self.rounds.add(turn, way, took);
    }
}

fn count(begins: &BTreeMap<u32, u64>, ends: &BTreeMap<u32, u64>) -> u64 {
    ends.iter().map(|(partition, end)| end - begins.get(partition).unwrap_or(end)).sum()
}
