//! A topic, a reader and a disk, cut off at any point.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::disk::Disk;
use super::*;

const NOW: i64 = 1_800_000_000;
const PARTITIONS: u32 = 3;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// An agent's next ticks; it may have been started anew before.
    Publish {
        agent: u8,
        ticks: u8,
        restarted: bool,
    },
    /// Its last ticks once more, as after a lost acknowledgement.
    PublishAgain {
        agent: u8,
        ticks: u8,
    },
    Read {
        records: u8,
    },
    /// So many records come while the disk is busy.
    Commit {
        meanwhile: u8,
    },
    /// The disk takes so many more writes.
    FillUp {
        writes: u8,
    },
    FreeSpace,
    /// More waits than may.
    FallBehind,
    /// A commit finds the file damaged.
    SetAside {
        meanwhile: u8,
    },
    /// The process dies, and the power with it: what was not synced is lost.
    Kill,
    /// Everything is read and committed before that.
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5, 1u8..6, proptest::bool::weighted(0.1))
            .prop_map(|(agent, ticks, restarted)| Step::Publish { agent, ticks, restarted }),
        1 => (0u8..5, 1u8..4).prop_map(|(agent, ticks)| Step::PublishAgain { agent, ticks }),
        4 => (1u8..12).prop_map(|records| Step::Read { records }),
        3 => (0u8..4).prop_map(|meanwhile| Step::Commit { meanwhile }),
        1 => (0u8..40).prop_map(|writes| Step::FillUp { writes }),
        1 => Just(Step::FreeSpace),
        1 => Just(Step::FallBehind),
        1 => (0u8..4).prop_map(|meanwhile| Step::SetAside { meanwhile }),
        2 => Just(Step::Kill),
        1 => Just(Step::Stop),
    ]
}

/// The topic: what was published, by partition and offset.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) partitions: BTreeMap<u32, Vec<(Record, DataRecord)>>,
    runs: BTreeMap<u8, (u32, u64)>,
    pub(super) clock_ms: i64,
}

impl Topic {
    fn publish(&mut self, agent: u8, ticks: u8, restarted: bool) {
        for tick in 0..ticks {
            let (run, sequence) = self.runs.entry(agent).or_insert((0, 0));
            if restarted && tick == 0 {
                (*run, *sequence) = (*run + 1, 0);
            }
            *sequence += 1;
            let (run, sequence) = (*run, *sequence);
            self.append(agent, run, sequence);
        }
    }

    fn publish_again(&mut self, agent: u8, ticks: u8) {
        let (run, last) = self.runs.get(&agent).copied().unwrap_or((0, 0));
        let first = last.saturating_sub(u64::from(ticks)) + 1;
        (first..=last).for_each(|sequence| self.append(agent, run, sequence));
    }

    fn append(&mut self, agent: u8, run: u32, sequence: u64) {
        let partition = u32::from(agent) % PARTITIONS;
        let log = self.partitions.entry(partition).or_default();
        self.clock_ms += 1;
        let at = Timestamp::from_unix_ms(NOW * 1_000 + self.clock_ms);
        let record = Record {
            position: Position { partition, offset: log.len() as u64 },
            at,
            key: String::new(),
            value: Default::default(),
            headers: Default::default(),
        };
        log.push((record, tick(&format!("a{agent}"), &format!("i{run}"), sequence, at)));
    }

    fn keys(&self) -> BTreeSet<Key> {
        self.partitions.values().flatten().map(|(_, data)| key(data)).collect()
    }

    fn extents(&self) -> Vec<Extent> {
        let high = |partition| self.partitions.get(&partition).map_or(0, |log| log.len() as u64);
        (0..PARTITIONS).map(|partition| Extent { partition, low: 0, high: high(partition) }).collect()
    }
}

/// One process.
pub(super) struct Life {
    pub(super) keeper: Keeper,
    pub(super) file: File,
    pub(super) history: History,
    unwritten: Option<Batch>,
    /// What the bus delivers next.
    next: BTreeMap<u32, u64>,
    pub(super) changes: Vec<Change>,
}

impl Life {
    pub(super) fn start(disk: &Disk, topic: &Topic) -> Self {
        let history = history();
        let mut file = File::new(Source::Disk(disk.clone()), HOUR, 1 << 30);
        let mut keeper = Keeper::new(HOUR);
        // A disk may be full when the process starts: it goes on without the file.
        if let (Ok(stored), _) = open(&mut file, &history, at(NOW).minus(HOUR)) {
            keeper.opened(stored, at(NOW));
        }
        let (unwritten, next, changes) = (None, BTreeMap::new(), Vec::new());
        let mut life = Self { keeper, file, history, unwritten, next, changes };
        life.follow(topic);
        life
    }

    /// As the bus does it, and as the archive asks for it.
    fn follow(&mut self, topic: &Topic) {
        let (start, changes) = self.keeper.begin(&topic.extents(), at(NOW));
        self.changes.extend(changes);
        self.next = match start {
            StartAt::Offsets(offsets) => offsets,
            // All of it lies in the window.
            StartAt::Time(_) => BTreeMap::new(),
            start => panic!("{start:?}"),
        };
    }

    /// Reads up to `records`. Returns how many there were.
    pub(super) fn read(&mut self, topic: &Topic, records: usize) -> usize {
        let mut read = 0;
        while read < records {
            let fresh = topic.partitions.iter().find_map(|(partition, log)| {
                let next = self.next.get(partition).copied().unwrap_or(0);
                log.get(usize::try_from(next).unwrap())
            });
            let Some((record, data)) = fresh else { break };
            self.next.insert(record.position.partition, record.position.offset + 1);
            match self.keeper.see(record) {
                Sight::New => {
                    let taken = self.history.take(data.clone(), record.at);
                    self.keeper.take(taken, record.position);
                }
                Sight::Witness => {}
                Sight::OtherLog => {
                    self.changes.push(Change::OtherLog { partition: record.position.partition });
                    self.follow(topic);
                }
            }
            read += 1;
        }
        read
    }

    /// Tries to commit what there is. `false` when the disk did not take it.
    fn commit(&mut self, topic: &Topic) -> bool {
        self.visit(topic, 0, |file, batch| attempt(file, batch, at(NOW)))
    }

    /// As [`Archive`] does it; `meanwhile` so many records come.
    fn visit(
        &mut self,
        topic: &Topic,
        meanwhile: u8,
        attempt: impl FnOnce(&mut File, Option<&Batch>) -> Result<Stored, FileError>,
    ) -> bool {
        let batch = self.unwritten.take().or_else(|| self.keeper.batch(at(NOW)));
        if batch.is_none() && !self.keeper.is_behind() {
            return true;
        }
        let result = attempt(&mut self.file, batch.as_ref());
        self.read(topic, usize::from(meanwhile));
        let Ok(stored) = result else {
            self.unwritten = batch;
            return false;
        };
        if self.keeper.committed(batch.as_ref().map(|batch| &batch.progress), stored, at(NOW))
            == Next::StartOver
        {
            self.follow(topic);
        }
        true
    }

    /// Reads and commits until nothing is left to do.
    fn finish(&mut self, topic: &Topic) {
        for _ in 0..10 {
            let is_behind = self.unwritten.is_some() || self.keeper.is_behind();
            if self.read(topic, 1_000) == 0 && !is_behind && self.keeper.uncommitted() == 0 {
                return;
            }
            assert!(self.commit(topic), "the disk is not full");
        }
        panic!("it reads and commits for ever");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_cut_off_the_archive_ends_with_each_record_once(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let (mut topic, mut disk) = (Topic::default(), Disk::default());
        let mut life = Life::start(&disk, &topic);
        let mut doubles = false;
        for step in steps {
            match step {
                Step::Publish { agent, ticks, restarted } => topic.publish(agent, ticks, restarted),
                Step::PublishAgain { agent, ticks } => {
                    topic.publish_again(agent, ticks);
                    doubles = true;
                }
                Step::Read { records } => {
                    life.read(&topic, usize::from(records));
                }
                Step::Commit { meanwhile } => {
                    life.visit(&topic, meanwhile, |file, batch| attempt(file, batch, at(NOW)));
                }
                Step::FillUp { writes } => disk.fill_up_after(u64::from(writes)),
                Step::FreeSpace => disk.free_space(),
                Step::FallBehind => life.keeper.fall_behind(),
                Step::SetAside { meanwhile } => {
                    life.visit(&topic, meanwhile, |file, _| anew(file));
                }
                Step::Kill => {
                    disk = disk.after_a_cut();
                    life = Life::start(&disk, &topic);
                }
                Step::Stop => {
                    disk.free_space();
                    life.finish(&topic);
                    disk = disk.after_a_cut();
                    life = Life::start(&disk, &topic);
                }
            }
            prop_assert_eq!(&life.changes, &[], "nothing has happened to the topic");
        }
        disk.free_space();
        life.commit(&topic);
        life.finish(&topic);
        let expected = topic.keys();
        prop_assert_eq!(query_all(&life.history).iter().map(key).collect::<BTreeSet<_>>(), expected.clone());

        let mut next = Life::start(&disk.after_a_cut(), &topic);
        let read: Vec<_> = query_all(&next.history).iter().map(key).collect();
        prop_assert_eq!(read.len(), expected.len());
        prop_assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), expected.clone());
        let stored = keys_in(&mut next.file);
        if !doubles {
            prop_assert_eq!(stored.len(), expected.len());
        }
        prop_assert_eq!(stored.into_iter().collect::<BTreeSet<_>>(), expected);
        prop_assert_eq!(next.read(&topic, 1_000), PARTITIONS.min(topic.partitions.len() as u32) as usize, "witnesses only");
    }
}

/// What a commit does that finds the file damaged.
fn anew(file: &mut File) -> Result<Stored, FileError> {
    file.set_aside()?;
    file.stored()
}

#[test]
fn what_came_while_a_file_was_begun_anew_is_stored_once() {
    let (mut topic, disk) = (Topic::default(), Disk::default());
    topic.publish(0, 3, false);
    let mut life = Life::start(&disk, &topic);
    life.read(&topic, 1);
    life.visit(&topic, 2, |file, _| anew(file));
    for _ in 0..3 {
        life.read(&topic, 1);
        life.commit(&topic);
    }
    assert_eq!(keys_in(&mut life.file), topic.keys().into_iter().collect::<Vec<_>>());
}

/// A topic with the same number of records in the same places, from another day.
fn recreated(topic: &Topic, ticks: u8) -> Topic {
    let mut other = Topic { clock_ms: topic.clock_ms + 1_000, ..Topic::default() };
    other.publish(0, ticks, true);
    other
}

#[test]
fn a_topic_that_was_recreated_is_read_from_its_beginning_however_long_it_is() {
    for ticks in [3, 10, 12] {
        let (mut topic, disk) = (Topic::default(), Disk::default());
        topic.publish(0, 10, false);
        let mut life = Life::start(&disk, &topic);
        life.finish(&topic);
        drop(life);

        let other = recreated(&topic, ticks);
        let mut life = Life::start(&disk, &other);
        life.finish(&other);
        assert_eq!(life.changes, [Change::OtherLog { partition: 0 }], "{ticks}");
        let both: BTreeSet<Key> = topic.keys().union(&other.keys()).cloned().collect();
        assert_eq!(query_all(&life.history).iter().map(key).collect::<BTreeSet<_>>(), both, "{ticks}");
        assert_eq!(keys_in(&mut life.file).len(), both.len(), "{ticks}");
        drop(life);

        let life = Life::start(&disk, &other);
        assert_eq!((life.changes, query_all(&life.history).len()), (vec![], both.len()), "{ticks}");
    }
}
