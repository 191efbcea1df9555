//! Processes by state, and the few that use most, from `/proc/<pid>/stat` of every process (proc_pid_stat(5)). One open,
//! read and close each, about 12 µs: a hundred processes cost more than all other collectors together, so it runs only
//! when asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::limit::{PROCESSES_MAX, PROCESSES_TOP};

use super::source::{Host, read_once};
use super::text::{integer, name, words};
use super::{Chosen, CollectError, Collector, Moment, Previous, Reading};

/// One process, as far as its `stat` file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) state: u8,
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
    pub(super) threads: u64,
    /// Ticks after boot; tells two users of one pid apart.
    pub(super) started: u64,
    pub(super) resident_pages: u64,
}

/// The name stands in parentheses and may itself hold blanks, parentheses and any other byte: the last one ends it.
pub(super) fn parse(text: &[u8]) -> Option<Process> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')').filter(|close| *close > open)?;
    let fields: Vec<&[u8]> = words(&text[close + 1..]).take(22).collect();
    // proc_pid_stat(5) counts from 1, the name is field 2.
    let number = |field: usize| integer(fields.get(field - 3)?);
    Some(Process {
        name: name(&text[open + 1..close]),
        state: *fields.first()?.first()?,
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        threads: number(20)?,
        started: number(22)?,
        resident_pages: number(24)?,
    })
}

/// The states of OpenTelemetry's convention, and what Linux calls them.
fn state_name(state: u8) -> &'static str {
    match state {
        b'R' => "running",
        b'S' => "sleeping",
        b'I' => "idle",
        b'D' => "blocked",
        b'T' | b't' => "stopped",
        b'Z' => "zombies",
        _ => "unknown",
    }
}

/// A pid alone is not a process: it is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    pid: u64,
    started: u64,
}

type Ticks = BTreeMap<Id, u64>;

#[derive(Debug)]
struct Processes {
    proc: PathBuf,
    page_bytes: u64,
    ticks_per_second: u64,
    buffer: Vec<u8>,
    previous: Previous<Ticks>,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(Processes {
        proc: host.proc.clone(),
        page_bytes: host.page_bytes,
        ticks_per_second: host.ticks_per_second,
        buffer: Vec::new(),
        previous: Previous::default(),
    })
}

impl Collector for Processes {
    fn collect(&mut self, moment: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let processes = self.walk(into);
        let processes = processes.map_err(|cause| CollectError::Read { path: self.proc.clone(), cause })?;
        push_counts(&processes, into);
        let now = processes
            .iter()
            .map(|(id, process)| (*id, process.user_ticks.saturating_add(process.system_ticks)))
            .collect();
        let rate = self.ticks_per_second as f64;
        let used = self.previous.step(moment, now, |before, now, elapsed| used(before, now, elapsed, rate));
        let used = used.unwrap_or_default();
        for id in top(&processes, &used) {
            let process = &processes[&id];
            let pid = id.pid.to_string();
            let attributes = [("name", process.name.as_str()), ("pid", pid.as_str())];
            let memory = process.resident_pages.saturating_mul(self.page_bytes);
            into.push("process.memory.usage", &attributes, memory as f64);
            if let Some(cores) = used.get(&id) {
                into.push("process.cpu.utilization", &attributes, *cores);
            }
        }
        Ok(())
    }
}

impl Processes {
    fn walk(&mut self, into: &mut Reading) -> io::Result<BTreeMap<Id, Process>> {
        let mut processes = BTreeMap::new();
        for entry in std::fs::read_dir(&self.proc)? {
            let entry = entry?;
            let Some(pid) = integer(entry.file_name().as_encoded_bytes()) else { continue };
            if processes.len() >= PROCESSES_MAX {
                into.left_out += 1;
                continue;
            }
            // A process that ended since the listing cannot be opened or read (ENOENT, ESRCH); it is simply gone.
            let Ok(text) = read_once(&entry.path().join("stat"), &mut self.buffer) else { continue };
            if let Some(process) = parse(text) {
                processes.insert(Id { pid, started: process.started }, process);
            }
        }
        Ok(processes)
    }
}

fn push_counts(processes: &BTreeMap<Id, Process>, into: &mut Reading) {
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for process in processes.values() {
        *states.entry(state_name(process.state)).or_default() += 1;
    }
    for (state, count) in states {
        into.push("system.processes.count", &[("status", state)], count as f64);
    }
    let threads: u64 = processes.values().fold(0, |sum, process| sum.saturating_add(process.threads));
    into.push("system.linux.threads", &[], threads as f64);
}

/// Processors each process kept busy on average (2.0: two of them). One that is new has none yet.
fn used(before: &Ticks, now: &Ticks, elapsed: Duration, ticks_per_second: f64) -> BTreeMap<Id, f64> {
    let cores = |(id, now): (&Id, &u64)| {
        let ticks = now.saturating_sub(*before.get(id)?);
        Some((*id, ticks as f64 / ticks_per_second / elapsed.as_secs_f64()))
    };
    now.iter().filter_map(cores).collect()
}

/// Those that use most memory, and most processor time where any was used.
fn top(processes: &BTreeMap<Id, Process>, used: &BTreeMap<Id, f64>) -> BTreeSet<Id> {
    let mut by_memory: Vec<(u64, Id)> =
        processes.iter().map(|(id, process)| (process.resident_pages, *id)).collect();
    by_memory.sort_unstable_by(|a, b| b.cmp(a));
    let mut by_cpu: Vec<(f64, Id)> =
        used.iter().filter(|(_, cores)| **cores > 0.0).map(|(id, c)| (*c, *id)).collect();
    by_cpu.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let by_memory =
        by_memory.into_iter().filter(|(pages, _)| *pages > 0).map(|(_, id)| id).take(PROCESSES_TOP);
    by_memory.chain(by_cpu.into_iter().map(|(_, id)| id).take(PROCESSES_TOP)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(name: &str, ticks: u64, started: u64, pages: u64) -> Vec<u8> {
        format!("1 ({name}) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 3 0 {started} 1000 {pages} 1 1\n")
            .into_bytes()
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_is_read_to_its_last_one() {
        let process = parse(&line("a) R (b", 7, 9, 387)).unwrap();
        assert_eq!((process.name.as_str(), process.state), ("a) R (b", b'S'));
        assert_eq!((process.user_ticks, process.threads, process.started), (7, 3, 9));
        assert_eq!(process.resident_pages, 387);
    }

    #[test]
    fn a_name_of_any_bytes_becomes_text() {
        let mut text = line("xx", 7, 9, 387);
        text[3..5].copy_from_slice(b"\xff\x1b");
        assert_eq!(parse(&text).unwrap().name, "\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_short_read_is_no_process() {
        let text = line("sh", 7, 9, 387);
        assert_eq!(parse(&text[..40]), None);
        assert_eq!(parse(b"1 )("), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let before = Ticks::from([(Id { pid: 5, started: 10 }, 1_000)]);
        let now = Ticks::from([(Id { pid: 5, started: 99 }, 1_500)]);
        assert!(used(&before, &now, Duration::from_secs(1), 100.0).is_empty());
    }

    #[test]
    fn utilization_is_in_processors_over_the_time_that_passed() {
        let id = Id { pid: 5, started: 10 };
        let used = used(&Ticks::from([(id, 100)]), &Ticks::from([(id, 500)]), Duration::from_secs(2), 100.0);
        assert_eq!(used[&id], 2.0);
    }

    #[test]
    fn the_top_holds_the_largest_and_the_busiest_and_is_bounded() {
        let id = |pid| Id { pid, started: 1 };
        let of = |pid: u64| (id(pid), parse(&line("p", 0, 1, pid + 1)).unwrap());
        let processes: BTreeMap<Id, Process> = (0..100).map(of).collect();
        let used: BTreeMap<Id, f64> = (0..50).map(|pid| (id(pid), (50 - pid) as f64)).collect();
        let top = top(&processes, &used);
        assert_eq!(top.len(), 2 * PROCESSES_TOP);
        assert!(top.contains(&id(99)) && top.contains(&id(0)) && !top.contains(&id(60)));
    }

    #[test]
    fn a_process_that_ended_during_the_walk_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("7")).unwrap(); // Listed, but without a `stat` any more.
        let mut reading = Reading::default();
        let mut collector = build(&Host::at(folder.path(), "/sys", "/"));
        collector.collect(&Moment::default(), &Chosen::new(), &mut reading).unwrap();
        assert_eq!(reading.series.len(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _process = parse(&bytes);
            let _process = parse(&[b"1 (", &bytes[..], b") R ", &bytes[..]].concat());
        }
    }
}
