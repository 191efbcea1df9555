//! Disk IO, from `/proc/diskstats` (proc_diskstats(5), the kernel's admin-guide/iostats). One `pread`, 11 µs, and one
//! look into `/sys/block` for each device not seen before.
//!
//! The two fields sum the devices that psutil 7.2.2's `disk_io_counters()` sums: all that `/sys/block` lists, so whole
//! disks and virtual ones (loop, dm, md, zram) but no partitions. A write through dm to a disk counts for both.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::metric::MetricName;

use super::counter::{Step, add, step};
use super::source::{Host, KeptFile};
use super::text::{integers, lines, name, words};
use super::{Chosen, CollectError, Collector, Moment, Previous, Reading, megabytes_per_second};

/// The kernel counts in sectors of this size, whatever the device's own.
const SECTOR_BYTES: u64 = 512;

/// A name alone is not a device: another one may get it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Device {
    name: String,
    major: u64,
    minor: u64,
}

/// One device's counters since it appeared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    read: Direction,
    write: Direction,
    in_flight: u64,
    busy_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Direction {
    operations: u64,
    sectors: u64,
    ms: u64,
}

type Disks = BTreeMap<Device, Counters>;

/// Every device the kernel lists. A line that is too short is a partition of a kernel before 2.6.25, and left out.
pub(super) fn parse(text: &[u8]) -> Disks {
    lines(text).filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<(Device, Counters)> {
    let mut words = words(line);
    let [major, minor] = integers(words.by_ref().take(2))?;
    let device = Device { name: name(words.next()?), major, minor };
    let [reads, _, read_sectors, read_ms, writes, _, write_sectors, write_ms, in_flight, busy_ms, _] =
        integers(words)?;
    let read = Direction { operations: reads, sectors: read_sectors, ms: read_ms };
    let write = Direction { operations: writes, sectors: write_sectors, ms: write_ms };
    Some((device, Counters { read, write, in_flight, busy_ms }))
}

#[derive(Debug)]
struct DisksCollector {
    file: KeptFile,
    sys_block: PathBuf,
    /// Whether a device is a whole one; asked once, as long as it stays.
    whole: BTreeMap<Device, bool>,
    previous: Previous<Disks>,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(DisksCollector {
        file: KeptFile::new(host.proc.join("diskstats")),
        sys_block: host.sys.join("block"),
        whole: BTreeMap::new(),
        previous: Previous::default(),
    })
}

impl Collector for DisksCollector {
    fn collect(&mut self, moment: &Moment, chosen: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let mut disks = parse(self.file.read()?);
        self.keep_whole(&mut disks)?;
        if chosen.contains(&MetricName::Disks) {
            push_series(&disks, into);
        }
        self.previous.step(moment, disks, |before, now, elapsed| rates(before, now, elapsed, chosen, into));
        Ok(())
    }
}

impl DisksCollector {
    fn keep_whole(&mut self, disks: &mut Disks) -> Result<(), CollectError> {
        self.whole.retain(|device, _| disks.contains_key(device));
        for device in disks.keys() {
            if !self.whole.contains_key(device) {
                let whole = self.is_whole(&device.name);
                let whole =
                    whole.map_err(|cause| CollectError::Read { path: self.sys_block.clone(), cause })?;
                self.whole.insert(device.clone(), whole);
            }
        }
        disks.retain(|device, _| self.whole[device]);
        Ok(())
    }

    /// Without /sys nobody could tell; that is an error, not a machine without disks.
    fn is_whole(&self, name: &str) -> io::Result<bool> {
        // Some drivers have names with a slash, which sysfs writes as an exclamation mark.
        let found = self.sys_block.join(name.replace('/', "!")).try_exists()?;
        if !found {
            self.sys_block.metadata()?;
        }
        Ok(found)
    }
}

/// Only devices that are in both readings and went forward count; with none of them there is no rate.
fn rates(before: &Disks, now: &Disks, elapsed: Duration, chosen: &Chosen, into: &mut Reading) {
    let (mut read, mut write) = (None, None);
    for (device, now) in now {
        let Some(before) = before.get(device) else { continue };
        match (step(before.read.sectors, now.read.sectors), step(before.write.sectors, now.write.sectors)) {
            (Step::Forward(read_sectors), Step::Forward(write_sectors)) => {
                add(&mut read, read_sectors);
                add(&mut write, write_sectors);
            }
            (Step::Reset, _) | (_, Step::Reset) => into.reset(&device.name),
        }
    }
    let rate = |sectors: Option<u64>, name| {
        let sectors = sectors.filter(|_| chosen.contains(&name))?;
        Some(megabytes_per_second(sectors.saturating_mul(SECTOR_BYTES), elapsed))
    };
    into.metrics.disk_read_mb = rate(read, MetricName::DiskRead);
    into.metrics.disk_write_mb = rate(write, MetricName::DiskWrite);
}

/// A device that never did anything (spare loop devices) is left out.
fn push_series(disks: &Disks, into: &mut Reading) {
    let used = |counters: &Counters| counters.read.operations > 0 || counters.write.operations > 0;
    for (Device { name, .. }, counters) in disks.iter().filter(|(_, counters)| used(counters)) {
        for (label, direction) in [("read", counters.read), ("write", counters.write)] {
            let attributes = [("device", name.as_str()), ("direction", label)];
            into.push("system.disk.io", &attributes, direction.sectors.saturating_mul(SECTOR_BYTES) as f64);
            into.push("system.disk.operations", &attributes, direction.operations as f64);
            into.push("system.disk.operation_time", &attributes, direction.ms as f64 / 1_000.0);
        }
        let attributes = [("device", name.as_str())];
        into.push("system.disk.io_time", &attributes, counters.busy_ms as f64 / 1_000.0);
        into.push("system.disk.pending_operations", &attributes, counters.in_flight as f64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disks(devices: &[(&str, u64, u64)]) -> Disks {
        let line =
            |(name, read, write): &(&str, u64, u64)| format!("8 0 {name} 1 0 {read} 0 1 0 {write} 0 0 0 0\n");
        parse(devices.iter().map(line).collect::<String>().as_bytes())
    }

    /// MB per second read and written over two seconds.
    fn rate(
        before: &[(&str, u64, u64)],
        now: &[(&str, u64, u64)],
    ) -> (Option<f64>, Option<f64>, Vec<String>) {
        let mut reading = Reading::default();
        let chosen = Chosen::from([MetricName::DiskRead, MetricName::DiskWrite]);
        rates(&disks(before), &disks(now), Duration::from_secs(2), &chosen, &mut reading);
        (reading.metrics.disk_read_mb, reading.metrics.disk_write_mb, reading.resets)
    }

    #[test]
    fn a_line_of_any_kernel_since_2_6_25_is_understood() {
        let long = b" 254 0 vda 96715 12195 8779370 171635 12866 54163 14073736 54391 3 16132 226837 6320 32 43 795 4 1";
        let (device, counters) = parse_line(long).unwrap();
        assert_eq!((device.name.as_str(), device.major), ("vda", 254));
        assert_eq!(counters.read, Direction { operations: 96_715, sectors: 8_779_370, ms: 171_635 });
        assert_eq!((counters.in_flight, counters.busy_ms), (3, 16_132));
        assert_eq!(parse_line(b"8 1 sda1 1 2 3 4"), None);
        assert!(parse_line(b"8 0 sda 1 2 3 4 5 6 7 8 9 10 11").is_some());
    }

    #[test]
    fn the_total_is_per_second_over_all_devices() {
        let (read, write, _) =
            rate(&[("sda", 0, 0), ("sdb", 100, 0)], &[("sda", 4_096, 2_048), ("sdb", 4_196, 2_048)]);
        assert_eq!((read, write), (Some(2.0), Some(1.0)));
    }

    #[test]
    fn a_device_in_one_reading_only_is_not_in_the_total() {
        let (read, ..) = rate(&[("sda", 0, 0), ("gone", 9, 9)], &[("sda", 4_096, 0), ("new", 1_000_000, 0)]);
        assert_eq!(read, Some(1.0));
        assert_eq!(rate(&[], &[("new", 1_000_000, 0)]).0, None);
    }

    #[test]
    fn a_device_whose_counters_began_anew_has_no_rate_and_is_named() {
        let (read, write, resets) = rate(&[("sda", 5_000, 5_000)], &[("sda", 10, 6_000)]);
        assert_eq!((read, write, resets), (None, None, vec!["sda".to_owned()]));
    }

    #[test]
    fn another_device_under_the_same_name_has_no_rate() {
        let mut reading = Reading::default();
        let before = parse(b"8 0 sda 1 0 100 0 1 0 100 0 0 0 0");
        let now = parse(b"8 16 sda 1 0 900 0 1 0 900 0 0 0 0");
        let chosen = Chosen::from([MetricName::DiskRead]);
        rates(&before, &now, Duration::from_secs(1), &chosen, &mut reading);
        assert_eq!(reading.metrics.disk_read_mb, None);
    }

    #[test]
    fn partitions_do_not_count_and_a_slash_in_a_name_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sda", "cciss!c0d0"] {
            std::fs::create_dir_all(folder.path().join("sys/block").join(name)).unwrap();
        }
        let proc = folder.path().join("proc");
        std::fs::create_dir(&proc).unwrap();
        let line = |name: &str| format!("8 0 {name} 1 0 8 0 1 0 8 0 0 0 0\n");
        std::fs::write(proc.join("diskstats"), ["sda", "sda1", "cciss/c0d0"].map(line).concat()).unwrap();
        let mut collector = build(&Host::at(proc, folder.path().join("sys"), "/"));
        let mut reading = Reading::default();
        collector.collect(&Moment::default(), &Chosen::from([MetricName::Disks]), &mut reading).unwrap();
        let mut devices: Vec<_> =
            reading.series.iter().map(|sample| sample.key.attributes["device"].as_str()).collect();
        devices.dedup();
        assert_eq!(devices, ["cciss/c0d0", "sda"]);
    }

    #[test]
    fn without_sys_it_is_a_fault_and_not_a_machine_without_disks() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("diskstats"), "8 0 sda 1 0 8 0 1 0 8 0 0 0 0\n").unwrap();
        let mut collector = build(&Host::at(folder.path(), folder.path().join("nowhere"), "/"));
        let error =
            collector.collect(&Moment::default(), &Chosen::new(), &mut Reading::default()).unwrap_err();
        assert!(error.to_string().contains("nowhere/block"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _disks = parse(&bytes);
        }

        #[test]
        fn no_numbers_make_a_negative_rate(before: [u64; 4], now: [u64; 4]) {
            let devices = |n: [u64; 4]| [("sda", n[0] / 2, n[1] / 2), ("sdb", n[2] / 2, n[3] / 2)];
            let (read, write, _) = rate(&devices(before), &devices(now));
            prop_assert!(read.is_none_or(|rate| rate >= 0.0) && write.is_none_or(|rate| rate >= 0.0));
        }
    }
}
