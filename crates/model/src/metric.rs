//! The names that `metrics` in an agent's config may list: what an agent can be told to collect.
//!
//! The six of the seed documents give exactly the eight fields of [`SystemMetrics`](crate::sample::SystemMetrics) and
//! nothing else; every other name adds series with OpenTelemetry names. How a name is collected is the agent's affair.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One name of the config key `metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum MetricName {
    Cpu,
    Memory,
    DiskRead,
    DiskWrite,
    NetIn,
    NetOut,
    CpuDetail,
    MemoryDetail,
    Swap,
    Disks,
    Network,
    Filesystem,
    Load,
    Pressure,
    Tcp,
    Uptime,
    Container,
    Agent,
    Processes,
}

/// Series that only ever grow, until their machine, device or process starts anew: a reader shows their rate, not their
/// value. Everything else an agent collects is a level.
pub const CUMULATIVE: [&str; 20] = [
    "container.cpu.throttled_time",
    "container.cpu.time",
    "process.cpu.time",
    "system.disk.io",
    "system.disk.io_time",
    "system.disk.operation_time",
    "system.disk.operations",
    "system.linux.context_switches",
    "system.linux.oom_kills",
    "system.linux.pressure.stalled_time",
    "system.linux.tcp.failures",
    "system.linux.tcp.opens",
    "system.linux.tcp.segments",
    "system.network.dropped",
    "system.network.errors",
    "system.network.io",
    "system.network.packets",
    "system.paging.faults",
    "system.paging.operations",
    "system.processes.created",
];

/// A text that names no metric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no metric is named {given:?}: use {}", MetricName::ALL.map(MetricName::as_str).join(", "))]
pub struct UnknownMetric {
    /// What was given, cut to a length that fits a message.
    pub given: String,
}

/// Longer than every name, short enough to repeat in an error.
const GIVEN_CHARS_MAX: usize = 40;

impl MetricName {
    /// Every name, in the order documents list them.
    pub const ALL: [Self; 19] = [
        Self::Cpu,
        Self::Memory,
        Self::DiskRead,
        Self::DiskWrite,
        Self::NetIn,
        Self::NetOut,
        Self::CpuDetail,
        Self::MemoryDetail,
        Self::Swap,
        Self::Disks,
        Self::Network,
        Self::Filesystem,
        Self::Load,
        Self::Pressure,
        Self::Tcp,
        Self::Uptime,
        Self::Container,
        Self::Agent,
        Self::Processes,
    ];

    /// The names of the seed documents, which give the eight fields and no series.
    pub const SEED_SIX: [Self; 6] =
        [Self::Cpu, Self::Memory, Self::DiskRead, Self::DiskWrite, Self::NetIn, Self::NetOut];

    /// As config and documents write it. A space in place of the underscore is understood too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::DiskRead => "disk_read",
            Self::DiskWrite => "disk_write",
            Self::NetIn => "net_in",
            Self::NetOut => "net_out",
            Self::CpuDetail => "cpu_detail",
            Self::MemoryDetail => "memory_detail",
            Self::Swap => "swap",
            Self::Disks => "disks",
            Self::Network => "network",
            Self::Filesystem => "filesystem",
            Self::Load => "load",
            Self::Pressure => "pressure",
            Self::Tcp => "tcp",
            Self::Uptime => "uptime",
            Self::Container => "container",
            Self::Agent => "agent",
            Self::Processes => "processes",
        }
    }

    /// One line for people: what choosing this name yields.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::Cpu => "cpu_percent: share of time the processors were busy",
            Self::Memory => "memory_percent, memory_used_mb and memory_total_mb",
            Self::DiskRead => "disk_read_mb: MB per second read from all disks",
            Self::DiskWrite => "disk_write_mb: MB per second written to all disks",
            Self::NetIn => "net_in_mb: MB per second received on all interfaces",
            Self::NetOut => "net_out_mb: MB per second sent on all interfaces",
            Self::CpuDetail => "processor time by state, in total and for each core",
            Self::MemoryDetail => "memory by state",
            Self::Swap => "swap space by state, and pages moved in and out",
            Self::Disks => "bytes, operations and busy time of each disk",
            Self::Network => "bytes, packets, errors and drops of each interface",
            Self::Filesystem => "space and inodes of each mounted file system",
            Self::Load => "load averages over 1, 5 and 15 minutes",
            Self::Pressure => "time lost waiting for processor, memory and IO",
            Self::Tcp => "sockets by state, connections opened, segments sent again",
            Self::Uptime => "time since boot",
            Self::Container => "the limits and use of the control group the agent runs in",
            Self::Agent => "what the agent itself costs: processor time, memory, open files",
            Self::Processes => "processes by state, and those that use most processor and memory",
        }
    }

    /// Whether it is collected when the config has no `metrics`. A walk over every process costs about 12 µs for each
    /// one, so on a busy machine many times what all other names cost together; those are cheap.
    pub const fn is_default(self) -> bool {
        !matches!(self, Self::Processes)
    }

    /// What is collected when the config has no `metrics`.
    pub fn default_set() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|name| name.is_default())
    }
}

impl FromStr for MetricName {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        let same = |name: &Self| {
            let name = name.as_str();
            name.len() == text.len()
                && name.bytes().zip(text.bytes()).all(|(n, t)| n == t || (n, t) == (b'_', b' '))
        };
        Self::ALL
            .into_iter()
            .find(same)
            .ok_or_else(|| UnknownMetric { given: text.chars().take(GIVEN_CHARS_MAX).collect() })
    }
}

impl TryFrom<String> for MetricName {
    type Error = UnknownMetric;

    fn try_from(text: String) -> Result<Self, UnknownMetric> {
        text.parse()
    }
}

impl From<MetricName> for &'static str {
    fn from(name: MetricName) -> Self {
        name.as_str()
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_spelling_and_ours_name_the_same_metric() {
        for (seed, ours) in [("disk read", "disk_read"), ("net out", "net_out"), ("cpu", "cpu")] {
            assert_eq!(seed.parse::<MetricName>(), ours.parse::<MetricName>());
            assert!(ours.parse::<MetricName>().is_ok(), "{ours}");
        }
    }

    #[test]
    fn every_name_reads_back_and_all_lists_each_once() {
        for (index, name) in MetricName::ALL.into_iter().enumerate() {
            assert_eq!(name.as_str().parse(), Ok(name));
            assert_eq!(name as usize, index, "{name} is out of order");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let error = "gpu".parse::<MetricName>().unwrap_err().to_string();
        assert!(error.starts_with(r#"no metric is named "gpu": use cpu, memory, disk_read"#), "{error}");
        for text in ["", "CPU", "disk__read", "disk-read", " cpu"] {
            assert!(text.parse::<MetricName>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn an_error_does_not_repeat_a_huge_text() {
        let error = "ä".repeat(100_000).parse::<MetricName>().unwrap_err();
        assert_eq!(error.given.chars().count(), GIVEN_CHARS_MAX);
    }

    #[test]
    fn json_uses_the_underscore_and_reads_both() {
        let names: Vec<MetricName> = serde_json::from_str(r#"["net in","net_in"]"#).unwrap();
        assert_eq!(serde_json::to_string(&names).unwrap(), r#"["net_in","net_in"]"#);
    }

    #[test]
    fn the_seed_six_are_collected_by_default() {
        assert!(MetricName::SEED_SIX.iter().all(|name| name.is_default()));
    }
}
