//! What an agent measures: a plain table of collectors, and the set of those a config chose.
//!
//! Linux only, read from /proc and /sys by hand: no commands are run and no privilege is needed. What was not read is
//! absent, never 0; one collector that fails is reported by name and takes no other with it. Everything blocks for
//! microseconds (mounts at most [`MOUNT_PATIENCE`](model::limit::MOUNT_PATIENCE)), so run it off the async threads.
//! Costs in the collectors' headers are medians of an optimised build on two cores; the seed set takes 70 µs and the
//! default set 0.4 ms.
//!
//! Series are named as OpenTelemetry's host metrics receiver names them, with its attributes (`device`, `direction`,
//! `mountpoint`, `cpu`, `state`, ...); what it lacks is below `system.linux.`. Counters are sent as counters
//! ([`CUMULATIVE`](model::metric::CUMULATIVE)); only the eight fields and utilizations are rates.
//!
//! A new collector is one file of fixed shape (header with source and cost, sample, `parse`, [`Collector`], tests) and
//! one row of `TABLE`.

mod agent;
mod container;
mod counter;
mod cpu;
mod disks;
mod filesystem;
mod load;
mod memory;
mod moment;
mod network;
mod pressure;
mod processes;
mod reading;
pub mod selftest;
mod source;
mod swap;
mod tcp;
mod text;
mod uptime;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use model::metric::MetricName;

pub use filesystem::Space;
use moment::Previous;
pub use moment::{Moment, Span};
pub use reading::{Reading, Run};
pub use source::{Host, SpaceOf};
pub use uptime::boot_id;

/// The names a config chose.
pub type Chosen = BTreeSet<MetricName>;

/// One source of samples.
///
/// Laws, checked for every row of the table by the tests:
/// 1. `collect` adds only what it read in this call, and only what `chosen` asks for.
/// 2. On an error, what it has added so far is true and stays.
/// 3. A rate needs an earlier reading of the same device on the same running clock; without one it is absent.
/// 4. No content of any file makes it panic.
pub trait Collector: fmt::Debug + Send {
    fn collect(&mut self, moment: &Moment, chosen: &Chosen, into: &mut Reading) -> Result<(), CollectError>;
}

/// Why a collector gave less than it should.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path} has no {what}: is this the /proc of a Linux machine?")]
    Malformed { path: PathBuf, what: &'static str },
    #[error("no answer from the file system at {}: it is left out until it answers", mountpoints.join(", "))]
    Stuck { mountpoints: Vec<String> },
    #[error("start a thread for the mount at {mountpoint}")]
    Thread {
        mountpoint: String,
        #[source]
        cause: io::Error,
    },
}

impl CollectError {
    /// Whether this kernel or machine simply has no such thing.
    fn is_absence(&self) -> bool {
        match self {
            // A kernel that has pressure files but does not measure pressure refuses to open them.
            Self::Read { cause, .. } => matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::Unsupported),
            Self::Malformed { .. } | Self::Stuck { .. } | Self::Thread { .. } => false,
        }
    }
}

/// One collector's failure.
#[derive(Debug)]
pub struct Fault {
    pub collector: &'static str,
    pub error: CollectError,
}

/// The whole chain in one line: `tcp: read /proc/net/snmp: No such file or directory (os error 2)`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.collector, self.error)?;
        match std::error::Error::source(&self.error) {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

/// One row of [`TABLE`].
struct Row {
    collector: &'static str,
    /// The names of the config that need it. Each name belongs to one collector, so each file is read once per tick.
    serves: &'static [MetricName],
    build: fn(&Host) -> Box<dyn Collector>,
}

/// Every collector, in the order they run. Where the series limit bites, the later ones lose: those whose number of
/// series depends most on the machine are last.
const TABLE: [Row; 13] = [
    Row { collector: "load", serves: &[MetricName::Load], build: load::build },
    Row { collector: "uptime", serves: &[MetricName::Uptime], build: uptime::build },
    Row { collector: "agent", serves: &[MetricName::Agent], build: agent::build },
    Row {
        collector: "memory",
        serves: &[MetricName::Memory, MetricName::MemoryDetail],
        build: memory::build,
    },
    Row { collector: "swap", serves: &[MetricName::Swap], build: swap::build },
    Row { collector: "pressure", serves: &[MetricName::Pressure], build: pressure::build },
    Row { collector: "tcp", serves: &[MetricName::Tcp], build: tcp::build },
    Row { collector: "container", serves: &[MetricName::Container], build: container::build },
    Row { collector: "filesystem", serves: &[MetricName::Filesystem], build: filesystem::build },
    Row {
        collector: "disks",
        serves: &[MetricName::DiskRead, MetricName::DiskWrite, MetricName::Disks],
        build: disks::build,
    },
    Row { collector: "processes", serves: &[MetricName::Processes], build: processes::build },
    Row {
        collector: "network",
        serves: &[MetricName::NetIn, MetricName::NetOut, MetricName::Network],
        build: network::build,
    },
    Row { collector: "cpu", serves: &[MetricName::Cpu, MetricName::CpuDetail], build: cpu::build },
];

/// The collectors a config chose, with what they remember between ticks.
#[derive(Debug)]
pub struct CollectorSet {
    host: Host,
    chosen: Chosen,
    running: Vec<Running>,
    last: Option<Moment>,
}

#[derive(Debug)]
struct Running {
    collector: &'static str,
    inner: Box<dyn Collector>,
}

impl CollectorSet {
    /// Opens nothing and cannot fail: a file that is not there is a fault of each collection that wants it.
    pub fn new(host: Host, names: impl IntoIterator<Item = MetricName>) -> Self {
        let mut set = Self { host, chosen: Chosen::new(), running: Vec::new(), last: None };
        set.choose(names);
        set
    }

    /// Takes other names. A collector that stays keeps its memory, so a config change costs no rate.
    pub fn choose(&mut self, names: impl IntoIterator<Item = MetricName>) {
        self.chosen = names.into_iter().collect();
        let mut before = std::mem::take(&mut self.running);
        let wanted = TABLE.iter().filter(|row| row.serves.iter().any(|name| self.chosen.contains(name)));
        self.running = wanted
            .map(|row| match before.iter().position(|running| running.collector == row.collector) {
                Some(index) => before.swap_remove(index),
                None => Running { collector: row.collector, inner: (row.build)(&self.host) },
            })
            .collect();
    }

    /// Drops every memory, so that the next reading has no rates: for the time after collection was paused.
    pub fn forget(&mut self) {
        let names = std::mem::take(&mut self.chosen);
        self.choose([]);
        self.choose(names);
        self.last = None;
    }

    /// Runs every chosen collector once. Blocks; see the module's words on how long.
    pub fn collect(&mut self, moment: Moment) -> Reading {
        let mut reading = Reading::default();
        if let Some(last) = self.last.replace(moment)
            && let Span::Suspended(slept) = moment.since(&last)
        {
            reading.suspended = Some(slept);
        }
        for Running { collector, inner } in &mut self.running {
            let (began, before) = (Instant::now(), reading.samples());
            if let Err(error) = inner.collect(&moment, &self.chosen, &mut reading) {
                reading.faults.push(Fault { collector, error });
            }
            let (samples, elapsed) = (reading.samples() - before, began.elapsed());
            reading.runs.push(Run { collector, samples, elapsed });
        }
        reading
    }
}

/// `now - before` per second in MB, the unit of the eight fields.
fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / MEGABYTE / elapsed.as_secs_f64()
}

/// The seed documents' MB.
const MEGABYTE: f64 = 1_048_576.0;

/// One decimal, correctly rounded as psutil's `round(value, 1)` is: through the decimal text, not by multiplying.
fn one_decimal(value: f64) -> f64 {
    format!("{value:.1}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests;
