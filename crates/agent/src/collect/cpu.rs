//! Processor time, from `/proc/stat` (proc_stat(5)). One `pread`, 8 µs on a small machine; on one with thousands of
//! interrupts the kernel needs milliseconds to write the `intr` line, read or not, so the file is read once per tick.
//!
//! `cpu_percent` is what psutil 7.2.2's `cpu_percent()` gives: each state's difference clamped at 0 (idle and iowait can
//! go backwards), guest time not counted twice, idle and iowait not busy, one decimal.

use std::collections::BTreeMap;

use model::metric::MetricName;

use super::source::{Host, KeptFile};
use super::text::{integer, lines, words};
use super::{Chosen, CollectError, Collector, Moment, Previous, Reading, one_decimal};

/// The states in the kernel's order. Guest time follows them in the file and is already inside user and nice.
const STATES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const IDLE: usize = 3;
const IOWAIT: usize = 4;

/// Ticks by state since boot. A state an old kernel does not know is 0.
type Times = [u64; STATES.len()];

/// What `/proc/stat` says about processors and the scheduler.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stat {
    total: Times,
    /// By the number in the name: processors come and go, so the place of a line means nothing.
    cores: BTreeMap<u64, Times>,
    context_switches: Option<u64>,
    created: Option<u64>,
    running: Option<u64>,
    blocked: Option<u64>,
}

/// `None` without a line for all processors together.
pub(super) fn parse(text: &[u8]) -> Option<Stat> {
    let mut stat = Stat::default();
    let mut total = None;
    for line in lines(text) {
        let mut words = words(line);
        let key = words.next().unwrap_or_default();
        match key {
            b"cpu" => total = Some(times(words)),
            b"ctxt" => stat.context_switches = words.next().and_then(integer),
            b"processes" => stat.created = words.next().and_then(integer),
            b"procs_running" => stat.running = words.next().and_then(integer),
            b"procs_blocked" => stat.blocked = words.next().and_then(integer),
            _ => {
                if let Some(core) = key.strip_prefix(b"cpu").and_then(integer) {
                    stat.cores.insert(core, times(words));
                }
            }
        }
    }
    stat.total = total?;
    Some(stat)
}

fn times<'a>(words: impl Iterator<Item = &'a [u8]>) -> Times {
    let mut times = Times::default();
    for (time, word) in times.iter_mut().zip(words) {
        *time = integer(word).unwrap_or(0);
    }
    times
}

/// How the time between two readings was spent. `None` when no time passed.
fn spent(before: &Times, now: &Times) -> Option<Spent> {
    let mut ticks = [0.0; STATES.len()];
    for ((ticks, before), now) in ticks.iter_mut().zip(before).zip(now) {
        *ticks = now.saturating_sub(*before) as f64;
    }
    let total: f64 = ticks.iter().sum();
    (total > 0.0).then_some(Spent { ticks, total })
}

struct Spent {
    ticks: [f64; STATES.len()],
    total: f64,
}

impl Spent {
    fn busy_percent(&self) -> f64 {
        let busy = self.total - self.ticks[IDLE] - self.ticks[IOWAIT];
        one_decimal(busy / self.total * 100.0)
    }

    fn shares(&self) -> impl Iterator<Item = (&'static str, f64)> {
        STATES.into_iter().zip(self.ticks.map(|ticks| ticks / self.total))
    }
}

#[derive(Debug)]
struct Cpu {
    file: KeptFile,
    previous: Previous<Stat>,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(Cpu { file: KeptFile::new(host.proc.join("stat")), previous: Previous::default() })
}

impl Collector for Cpu {
    fn collect(&mut self, moment: &Moment, chosen: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let stat = parse(self.file.read()?);
        let stat = stat.ok_or_else(|| KeptFile::malformed(self.file.path(), "line `cpu`"))?;
        let detail = chosen.contains(&MetricName::CpuDetail);
        if detail {
            scheduler(&stat, into);
        }
        self.previous.step(moment, stat, |before, now, _elapsed| {
            let total = spent(&before.total, &now.total);
            if chosen.contains(&MetricName::Cpu) {
                into.metrics.cpu_percent = total.as_ref().map(Spent::busy_percent);
            }
            if detail {
                utilizations(total.as_ref(), before, now, into);
            }
        });
        Ok(())
    }
}

fn scheduler(stat: &Stat, into: &mut Reading) {
    let counts = [
        ("system.linux.context_switches", stat.context_switches),
        ("system.processes.created", stat.created),
        ("system.linux.processes.running", stat.running),
        ("system.linux.processes.blocked", stat.blocked),
    ];
    for (name, count) in counts {
        if let Some(count) = count {
            into.push(name, &[], count as f64);
        }
    }
}

/// The whole machine first, so that it is there even where the cores are more than the series limit allows.
fn utilizations(total: Option<&Spent>, before: &Stat, now: &Stat, into: &mut Reading) {
    for (state, share) in total.into_iter().flat_map(Spent::shares) {
        into.push("system.cpu.utilization", &[("state", state)], share);
    }
    for (core, now) in &now.cores {
        let Some(spent) = before.cores.get(core).and_then(|before| spent(before, now)) else { continue };
        let core = core.to_string();
        for (state, share) in spent.shares() {
            into.push("system.cpu.utilization", &[("cpu", &core), ("state", state)], share);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &[u8] = b"cpu  100 20 30 400 50 6 7 8 90 10\n\
        cpu0 60 10 15 200 25 3 3 4 45 5\n\
        cpu12 40 10 15 200 25 3 4 4 45 5\n\
        intr 374873 0 0\nctxt 484258\nbtime 1795262949\nprocesses 20017\nprocs_running 5\nprocs_blocked 1\n";

    fn percent(before: Times, now: Times) -> Option<f64> {
        spent(&before, &now).as_ref().map(Spent::busy_percent)
    }

    #[test]
    fn processors_are_known_by_number_and_guest_time_is_ignored() {
        let stat = parse(STAT).unwrap();
        assert_eq!(stat.total, [100, 20, 30, 400, 50, 6, 7, 8]);
        assert_eq!(stat.cores.keys().copied().collect::<Vec<_>>(), [0, 12]);
        assert_eq!((stat.context_switches, stat.created), (Some(484_258), Some(20_017)));
    }

    #[test]
    fn steal_is_busy_and_iowait_is_not() {
        assert_eq!(percent([0; 8], [10, 0, 10, 40, 20, 5, 5, 10]), Some(40.0));
    }

    #[test]
    fn idle_time_that_goes_backwards_counts_as_none() {
        assert_eq!(percent([0, 0, 0, 100, 50, 0, 0, 0], [30, 0, 0, 99, 60, 0, 0, 0]), Some(75.0));
    }

    #[test]
    fn no_time_passed_is_no_percentage() {
        assert_eq!(percent([5; 8], [5; 8]), None);
        assert_eq!(percent([5; 8], [4; 8]), None);
    }

    #[test]
    fn an_old_kernel_with_four_states_is_understood() {
        assert_eq!(parse(b"cpu 1 2 3 4\n").unwrap().total, [1, 2, 3, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn a_file_without_processors_is_malformed() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"cpu0 1 2 3 4\n"), None);
    }

    #[test]
    fn the_percentage_is_rounded_as_psutil_rounds() {
        assert_eq!(percent([0; 8], [1, 0, 0, 2, 0, 0, 0, 0]), Some(33.3));
        assert_eq!(one_decimal(0.25), 0.2);
        assert_eq!(one_decimal(0.35), 0.3); // 0.35 is a little less than 0.35.
    }

    #[test]
    fn a_processor_just_plugged_in_has_no_utilization_yet() {
        let before = parse(b"cpu 0 0 0 0\ncpu0 0 0 0 0\n").unwrap();
        let now = parse(b"cpu 1 0 0 1\ncpu0 1 0 0 1\ncpu1 5 0 0 5\n").unwrap();
        let mut reading = Reading::default();
        utilizations(spent(&before.total, &now.total).as_ref(), &before, &now, &mut reading);
        let cores: Vec<_> =
            reading.series.iter().filter_map(|sample| sample.key.attributes.get("cpu")).collect();
        assert_eq!(cores, ["0"; 8]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _stat = parse(&bytes);
        }

        #[test]
        fn a_percentage_is_between_0_and_100_and_shares_add_up(before: Times, now: Times) {
            if let Some(spent) = spent(&before, &now) {
                prop_assert!((0.0..=100.0).contains(&spent.busy_percent()));
                let sum: f64 = spent.shares().map(|(_, share)| share).sum();
                prop_assert!((sum - 1.0).abs() < 1e-9);
            }
        }
    }
}
