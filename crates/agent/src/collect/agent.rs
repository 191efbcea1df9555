//! What the agent itself costs, from `/proc/self/{stat,fd}` (proc_pid_stat(5)). One `pread`, and one listing of as
//! many entries as files are open; 30 µs with a dozen. No state.
//!
//! These series have no `pid`: as OpenTelemetry has it, `process.*` without one is about the sender.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::processes::{Process, parse};
use super::source::{Host, KeptFile};
use super::{Chosen, CollectError, Collector, Moment, Reading};

#[derive(Debug)]
struct Agent {
    stat: KeptFile,
    descriptors: PathBuf,
    page_bytes: u64,
    ticks_per_second: u64,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    let own = host.proc.join("self");
    Box::new(Agent {
        stat: KeptFile::new(own.join("stat")),
        descriptors: own.join("fd"),
        page_bytes: host.page_bytes,
        ticks_per_second: host.ticks_per_second,
    })
}

impl Collector for Agent {
    fn collect(&mut self, _: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let process = parse(self.stat.read()?);
        let process = process
            .ok_or_else(|| KeptFile::malformed(self.stat.path(), "state, times and memory of a process"))?;
        self.push(&process, into);
        let open = count(&self.descriptors);
        let open = open.map_err(|cause| CollectError::Read { path: self.descriptors.clone(), cause })?;
        into.push("process.open_file_descriptors", &[], open as f64);
        Ok(())
    }
}

impl Agent {
    fn push(&self, process: &Process, into: &mut Reading) {
        let seconds = |ticks: u64| ticks as f64 / self.ticks_per_second as f64;
        into.push("process.cpu.time", &[("state", "user")], seconds(process.user_ticks));
        into.push("process.cpu.time", &[("state", "system")], seconds(process.system_ticks));
        let memory = process.resident_pages.saturating_mul(self.page_bytes);
        into.push("process.memory.usage", &[], memory as f64);
        into.push("process.threads", &[], process.threads as f64);
    }
}

/// Counts the entries. The folder's size would say it in one call, but only since Linux 6.2.
fn count(folder: &Path) -> io::Result<usize> {
    fs::read_dir(folder)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_has_threads_and_holds_files() {
        let mut reading = Reading::default();
        build(&Host::local()).collect(&Moment::default(), &Chosen::new(), &mut reading).unwrap();
        for name in ["process.memory.usage", "process.threads", "process.open_file_descriptors"] {
            let sample = reading.series.iter().find(|sample| sample.key.name == name).unwrap();
            assert!(sample.value >= 1.0, "{name}");
        }
    }

    #[test]
    fn a_proc_that_cannot_show_us_is_a_fault_with_its_path() {
        let mut collector = build(&Host::at("/nowhere", "/sys", "/"));
        let error =
            collector.collect(&Moment::default(), &Chosen::new(), &mut Reading::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/self/stat"), "{error}");
    }
}
