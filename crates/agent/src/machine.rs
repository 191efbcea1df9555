//! What the agent says of its machine and of itself, from /proc and os-release(5). What cannot be read is empty.

use std::path::Path;
use std::time::Duration;

use crate::collect::Host;

/// The watched machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) host: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub(crate) os: String,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn read(host: &Host) -> Self {
        let kernel_file = |name: &str| line(&host.proc.join("sys/kernel").join(name));
        let release = std::fs::read_to_string(host.rootfs.join("etc/os-release"));
        let release = release.or_else(|_| std::fs::read_to_string(host.rootfs.join("usr/lib/os-release")));
        Self {
            host: kernel_file("hostname"),
            os: release.ok().and_then(|text| pretty_name(&text)).unwrap_or_else(|| "Linux".to_owned()),
            kernel: kernel_file("osrelease"),
        }
    }
}

fn line(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn pretty_name(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// What this process used so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// From `/proc/self/stat` of our own /proc, whichever machine is watched.
    pub(crate) fn read() -> Option<Self> {
        let (ticks_per_second, page_bytes) =
            (rustix::param::clock_ticks_per_second(), rustix::param::page_size());
        parse_stat(&std::fs::read_to_string("/proc/self/stat").ok()?, ticks_per_second, page_bytes as u64)
    }
}

/// Fields 14, 15 and 24 of proc_pid_stat(5), counted behind the command's name, which may hold blanks.
fn parse_stat(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.checked_add(number(15)?)?;
    Some(Usage {
        cpu: Duration::from_secs_f64(ticks as f64 / ticks_per_second.max(1) as f64),
        resident_bytes: number(24)?.saturating_mul(page_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let fields = "S 1 1 1 0 -1 4194304 9 0 0 0 150 50 0 0 20 0 5 0 100 99999 10 18446744073709551615";
        let usage = parse_stat(&format!("7 (a) b (c)) {fields}"), 100, 4_096).unwrap();
        assert_eq!(usage, Usage { cpu: Duration::from_secs(2), resident_bytes: 40_960 });
        for text in ["", "7 (a) S", ")", "7 (a"] {
            assert_eq!(parse_stat(text, 100, 4_096), None, "{text}");
        }
    }

    #[test]
    fn this_machine_has_a_name_and_a_kernel() {
        let machine = Machine::read(&Host::local());
        assert!(!machine.host.is_empty() && !machine.kernel.is_empty() && !machine.os.is_empty());
        assert!(Usage::read().unwrap().resident_bytes > 0);
    }

    #[test]
    fn the_name_of_the_system_is_read_with_or_without_quotes() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"A B\"\n").as_deref(), Some("A B"));
        assert_eq!(pretty_name("PRETTY_NAME=Alpine\n").as_deref(), Some("Alpine"));
        assert_eq!(pretty_name("ID=x\n"), None);
    }
}
