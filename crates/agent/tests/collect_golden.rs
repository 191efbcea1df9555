//! A recorded machine at two moments, and everything the agent says about it.
//!
//! `tests/fixtures/machine/t0` is a whole /proc and /sys as far as collectors read them; `t1` holds the files that
//! changed two seconds later. In between a processor and a disk were plugged in, one disk's counters began anew, eth1
//! became another interface, a pid was used again and iowait went backwards.

#![expect(clippy::unwrap_used, reason = "a test; clippy only sees that in the test functions themselves")]

use std::fmt::Write as _;
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::collect::{CollectorSet, Host, Moment, Reading, Space, boot_id, selftest};
use model::limit::MOUNT_STUCK_AFTER;
use model::metric::{CUMULATIVE, MetricName};
use model::sample::Timestamp;

/// The machine's files in a place of their own, so that they can change under open descriptors as /proc does.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        machine.becomes("t0");
        machine
    }

    fn becomes(&self, snapshot: &str) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/machine");
        copy(&fixtures.join(snapshot), self.folder.path());
    }

    fn host(&self) -> Host {
        let root = self.folder.path();
        Host::at(root.join("proc"), root.join("sys"), "/").recorded(4_096, 100, Arc::new(space_of))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn space_of(mountpoint: &Path) -> Result<Space, Error> {
    let (total_bytes, free_bytes, available_bytes, inodes) = match mountpoint.to_str() {
        Some("/") => (100_000_000, 40_000_000, 35_000_000, 6_000),
        Some("/data disk") => (8_000_000_000, 1_000_000_000, 1_000_000_000, 0),
        _ => return Err(ErrorKind::PermissionDenied.into()),
    };
    Ok(Space { total_bytes, free_bytes, available_bytes, inodes, inodes_free: inodes / 2 })
}

fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(1_542 + seconds);
    Moment { wall: Timestamp::from_unix_seconds(1_767_227_142), monotonic: running, boottime: running }
}

fn readings(names: impl IntoIterator<Item = MetricName>) -> (Reading, Reading) {
    let machine = Machine::new();
    let mut set = CollectorSet::new(machine.host(), names);
    let first = set.collect(at(0));
    machine.becomes("t1");
    (first, set.collect(at(2)))
}

/// One value a line, series in the order of their keys.
fn shown(reading: &Reading) -> String {
    let mut text = String::new();
    for (name, value) in reading.metrics.named() {
        let value = value.map_or_else(|| "absent".to_owned(), |value| value.to_string());
        writeln!(text, "{name} {value}").unwrap();
    }
    let mut series: Vec<_> = reading.series.iter().collect();
    series.sort_by(|a, b| a.key.cmp(&b.key));
    for sample in series {
        writeln!(text, "{} {}", sample.key, sample.value).unwrap();
    }
    writeln!(text, "resets {:?}, left out {}, faults {:?}", reading.resets, reading.left_out, reading.faults)
        .unwrap();
    text
}

#[test]
fn everything_the_agent_says_about_the_recorded_machine() {
    let (first, second) = readings(MetricName::ALL);
    insta::assert_snapshot!("first_reading", shown(&first));
    insta::assert_snapshot!("two_seconds_later", shown(&second));
}

#[test]
fn the_recorded_machine_passes_the_selftest() {
    let (first, second) = readings(MetricName::ALL);
    let failed: Vec<_> = selftest::check(&first, &second).into_iter().filter(|check| !check.passed).collect();
    // The disk that began anew is in the fixture on purpose; nothing else may go down.
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].detail.split(", ").all(|key| key.contains(r#"device="nvme0n1""#)), "{failed:?}");
}

#[test]
fn every_counter_the_model_knows_is_given_by_a_collector() {
    let (_, second) = readings(MetricName::ALL);
    let missing: Vec<_> =
        CUMULATIVE.iter().filter(|name| !second.series.iter().any(|s| s.key.name == **name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn each_name_gives_its_part_and_all_names_together_give_the_sum() {
    let (_, all) = readings(MetricName::ALL);
    let mut series = 0;
    for name in MetricName::ALL {
        let (_, alone) = readings([name]);
        let fields = alone.metrics.values().iter().flatten().count();
        assert_eq!(fields > 0, MetricName::SEED_SIX.contains(&name), "{name}");
        assert_eq!(fields == 0, !alone.series.is_empty(), "{name}");
        series += alone.series.len();
    }
    assert_eq!(series, all.series.len());
}

#[test]
fn a_mount_that_hangs_delays_the_reading_once_and_is_then_reported() {
    let machine = Machine::new();
    let hung = PathBuf::from("/data disk");
    let (_release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let answer = move |path: &Path| {
        if path == hung {
            let _never = released.lock().unwrap().recv();
        }
        space_of(path)
    };
    let host = machine.host().recorded(4_096, 100, Arc::new(answer));
    let mut set = CollectorSet::new(host, [MetricName::Filesystem, MetricName::Load]);
    let first = set.collect(at(0));
    assert!(first.faults.is_empty() && first.series.iter().any(|sample| sample.key.name.contains("load")));
    let later = set.collect(at(MOUNT_STUCK_AFTER.as_secs()));
    let fault = later.faults[0].to_string();
    assert!(fault.starts_with("filesystem: no answer from the file system at /data disk"), "{fault}");
}

#[test]
fn the_boot_id_is_read_from_the_watched_machine() {
    assert_eq!(boot_id(&Machine::new().host()).unwrap(), "0b1c2d3e-4f50-4a6b-8c7d-9e0f1a2b3c4d");
}
