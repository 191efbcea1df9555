//! Questions that may never be answered: each mount is asked in a thread of its own.
//!
//! A collection waits [`MOUNT_PATIENCE`](model::limit::MOUNT_PATIENCE) for all of them together. A mount that is silent
//! for longer is not asked again and not waited for again until it answers, so a dead file server delays one
//! collection, once. A thread that is stuck in the kernel cannot be ended; their number is bounded, and each ends after
//! its last answer.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use model::limit::{MOUNT_STUCK_AFTER, MOUNTS_MAX};

use super::{Mount, Space};
use crate::collect::text::name;
use crate::collect::{CollectError, Host, Moment};

/// A statvfs call needs little; the default would be 2 MiB of address space each.
const STACK_BYTES: usize = 64 * 1024;

/// Never used twice, so that an answer cannot be taken for another mount's.
type Serial = u64;

type Answer = io::Result<Space>;

/// One mount and the thread that asks it.
#[derive(Debug)]
struct Probe {
    mount: Mount,
    /// Dropping it ends the thread, at the latest after its answer.
    questions: SyncSender<()>,
    /// The monotonic time of a question not answered yet.
    asked: Option<Duration>,
}

/// The probes of all mounts.
pub(super) struct Probes {
    host: Host,
    probes: BTreeMap<Serial, Probe>,
    next: Serial,
    answers: Receiver<(Serial, Answer)>,
    answered: SyncSender<(Serial, Answer)>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("probes", &self.probes).finish_non_exhaustive()
    }
}

impl Probes {
    pub(super) fn new(host: &Host) -> Self {
        // A thread has at most one answer under way, so none ever waits to send it.
        let (answered, answers) = sync_channel(MOUNTS_MAX);
        Self { host: host.clone(), probes: BTreeMap::new(), next: 0, answers, answered }
    }

    /// Follows these mounts and forgets others. Says how many are past the limit.
    pub(super) fn watch(&mut self, mut mounts: Vec<Mount>) -> Result<usize, CollectError> {
        self.probes.retain(|_, probe| match mounts.iter().position(|mount| *mount == probe.mount) {
            Some(index) => {
                mounts.remove(index);
                true
            }
            None => false,
        });
        let room = MOUNTS_MAX.saturating_sub(self.threads());
        let left_out = mounts.len().saturating_sub(room);
        mounts.truncate(room);
        for mount in mounts {
            let probe = self.start(mount)?;
            self.probes.insert(self.next, probe);
            self.next += 1;
        }
        Ok(left_out)
    }

    /// Asks every mount that is not still busy with an earlier question, and returns what is answered in time.
    pub(super) fn ask(&mut self, moment: &Moment) -> Vec<(Mount, Answer)> {
        // An answer that came too late is from another time, but its mount can be asked again.
        while let Ok((serial, _)) = self.answers.try_recv() {
            self.settle(serial);
        }
        let mut open = 0;
        for probe in self.probes.values_mut().filter(|probe| probe.asked.is_none()) {
            if probe.questions.try_send(()).is_ok() {
                probe.asked = Some(moment.monotonic);
                open += 1;
            }
        }
        let until = Instant::now() + self.host.mount_patience;
        let mut answers = Vec::new();
        while open > 0 {
            let Ok((serial, answer)) =
                self.answers.recv_timeout(until.saturating_duration_since(Instant::now()))
            else {
                break;
            };
            if let Some((mount, asked)) = self.settle(serial)
                && asked == moment.monotonic
            {
                answers.push((mount, answer));
                open -= 1;
            }
        }
        answers.sort_by(|(a, _), (b, _)| a.mountpoint.cmp(&b.mountpoint));
        answers
    }

    /// The mounts that have been silent for too long.
    pub(super) fn stuck(&self, moment: &Moment) -> Vec<String> {
        let silent = |asked| moment.monotonic.saturating_sub(asked) >= MOUNT_STUCK_AFTER;
        let stuck = self.probes.values().filter(|probe| probe.asked.is_some_and(silent));
        stuck.map(|probe| name(probe.mount.mountpoint.as_os_str().as_encoded_bytes())).collect()
    }

    /// The stuck ones of mounts long gone, and of collectors long gone, are among them.
    fn threads(&self) -> usize {
        self.host.mount_threads.load(Ordering::Relaxed)
    }

    fn settle(&mut self, serial: Serial) -> Option<(Mount, Duration)> {
        let probe = self.probes.get_mut(&serial)?;
        let asked = probe.asked.take()?;
        Some((probe.mount.clone(), asked))
    }

    fn start(&self, mount: Mount) -> Result<Probe, CollectError> {
        let (questions, asked) = sync_channel(1);
        let (serial, answered, alive) =
            (self.next, self.answered.clone(), Alive::new(&self.host.mount_threads));
        let (space_of, path) = (Arc::clone(&self.host.space_of), below(&self.host.rootfs, &mount.mountpoint));
        let work = move || {
            let _alive = alive;
            while let Ok(()) = asked.recv() {
                if answered.send((serial, space_of(&path))).is_err() {
                    break;
                }
            }
        };
        // Not a task of the runtime: a blocked one would take a worker of everyone with it, and stop the shutdown.
        let started =
            thread::Builder::new().name("mount-probe".to_owned()).stack_size(STACK_BYTES).spawn(work);
        match started {
            Ok(_detached) => Ok(Probe { mount, questions, asked: None }),
            Err(cause) => {
                Err(CollectError::Thread { mountpoint: mount.mountpoint.display().to_string(), cause })
            }
        }
    }
}

/// Counts a thread for as long as it lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a mount point of the watched machine is found from here.
fn below(rootfs: &Path, mountpoint: &Path) -> PathBuf {
    rootfs.join(mountpoint.strip_prefix("/").unwrap_or(mountpoint))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::sync::{Mutex, OnceLock};

    use super::super::parse;
    use super::*;

    /// Long enough that a healthy mount always answers in it; only a test with a hung one ever waits so long.
    const PATIENCE: Duration = Duration::from_millis(1_500);

    fn at(seconds: u64) -> Moment {
        Moment { monotonic: Duration::from_secs(seconds), ..Moment::default() }
    }

    fn mounts(places: &[&str]) -> Vec<Mount> {
        let line =
            |(index, place): (usize, &&str)| format!("{index} 0 8:{index} / {place} rw - ext4 /dev/x rw\n");
        parse(places.iter().enumerate().map(line).collect::<String>().as_bytes())
    }

    fn asked(probes: &mut Probes, moment: &Moment) -> Vec<PathBuf> {
        probes.ask(moment).into_iter().map(|(mount, _)| mount.mountpoint).collect()
    }

    /// Probes for which `/hung` answers only after a word on the returned channel.
    fn probes() -> (Probes, Sender<()>, Receiver<()>) {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (answering, answers) = std::sync::mpsc::channel();
        let released = Mutex::new(released);
        let mut host = Host { mount_patience: PATIENCE, ..Host::local() };
        host.space_of = Arc::new(move |path| {
            if path == Path::new("/hung") {
                let _end = released.lock().unwrap().recv();
                let _seen = answering.send(());
            }
            Ok(Space { total_bytes: 1, ..Space::default() })
        });
        (Probes::new(&host), release, answers)
    }

    #[test]
    fn a_hung_mount_costs_one_wait_is_skipped_while_stuck_and_comes_back() {
        let (mut probes, release, answers) = probes();
        probes.watch(mounts(&["/good", "/hung"])).unwrap();
        assert_eq!(asked(&mut probes, &at(0)), [Path::new("/good")]);
        assert!(probes.stuck(&at(1)).is_empty());

        let began = Instant::now();
        assert_eq!(asked(&mut probes, &at(5)), [Path::new("/good")]);
        assert!(began.elapsed() < PATIENCE, "a stuck mount was waited for again");
        assert_eq!(probes.stuck(&at(5)), ["/hung"]);

        release.send(()).unwrap();
        answers.recv().unwrap();
        release.send(()).unwrap(); // For the question that follows.
        let back = (6..).find(|second| asked(&mut probes, &at(*second)).len() == 2);
        assert!(back.is_some() && probes.stuck(&at(100)).is_empty());
    }

    #[test]
    fn a_hung_mount_that_is_the_only_one_comes_back() {
        let (mut probes, release, _answers) = probes();
        probes.watch(mounts(&["/hung"])).unwrap();
        let patience = std::mem::take(&mut probes.host.mount_patience);
        assert!(asked(&mut probes, &at(0)).is_empty());
        probes.host.mount_patience = patience;
        release.send(()).unwrap(); // For the question above, and for the next.
        release.send(()).unwrap();
        let back = (1..10_000_000).find(|second| !asked(&mut probes, &at(*second)).is_empty());
        assert!(back.is_some());
    }

    #[test]
    fn an_answer_to_an_earlier_question_is_not_taken_for_this_one() {
        const HUNG: Serial = 1;
        let (_release, released) = std::sync::mpsc::channel::<()>();
        let (released, questions) = (Mutex::new(released), AtomicUsize::new(0));
        let late: Arc<OnceLock<SyncSender<(Serial, Answer)>>> = Arc::default();
        let answered = Arc::clone(&late);
        let mut host = Host { mount_patience: PATIENCE, ..Host::local() };
        host.space_of = Arc::new(move |path| {
            if path == Path::new("/hung") {
                let _never = released.lock().unwrap().recv();
            } else if questions.fetch_add(1, Ordering::Relaxed) == 1 {
                // The second question to /good: just now the first one to /hung is answered.
                answered.get().unwrap().send((HUNG, Ok(Space::default()))).unwrap();
            }
            Ok(Space::default())
        });
        let mut probes = Probes::new(&host);
        late.set(probes.answered.clone()).unwrap();
        probes.watch(mounts(&["/good", "/hung"])).unwrap();
        assert_eq!(asked(&mut probes, &at(0)), [Path::new("/good")]);
        assert_eq!(asked(&mut probes, &at(5)), [Path::new("/good")]);
    }

    #[test]
    fn a_mount_that_went_away_is_forgotten_and_its_thread_ends() {
        let (mut probes, ..) = probes();
        probes.watch(mounts(&["/a", "/b"])).unwrap();
        assert_eq!(asked(&mut probes, &at(0)).len(), 2);
        probes.watch(mounts(&["/a"])).unwrap();
        assert_eq!(asked(&mut probes, &at(1)), [Path::new("/a")]);
        probes.watch(Vec::new()).unwrap();
        while probes.threads() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn mounts_past_the_limit_are_counted_and_not_asked() {
        let (mut probes, ..) = probes();
        let places: Vec<String> = (0..MOUNTS_MAX + 3).map(|number| format!("/mnt/{number}")).collect();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        assert_eq!(probes.watch(mounts(&places)).unwrap(), 3);
        assert_eq!(asked(&mut probes, &at(0)).len(), MOUNTS_MAX);
    }

    #[test]
    fn a_stuck_thread_counts_against_the_limit_of_later_collectors() {
        let (mut probes, _release, _) = probes();
        probes.watch(mounts(&["/hung"])).unwrap();
        probes.host.mount_patience = Duration::ZERO;
        probes.ask(&at(0));
        let later = Probes::new(&probes.host);
        drop(probes);
        assert_eq!(later.threads(), 1);
    }

    #[test]
    fn mounts_are_asked_below_the_root_of_the_watched_machine() {
        assert_eq!(below(Path::new("/host"), Path::new("/var/lib")), Path::new("/host/var/lib"));
        assert_eq!(below(Path::new("/"), Path::new("/")), Path::new("/"));
    }
}
