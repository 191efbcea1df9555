//! The set as a whole: choosing, failing in part, forgetting, suspension. What each collector makes of its file is
//! tested beside it; what all of them make of a recorded machine is tests/collect_golden.rs.

use std::time::Duration;

use super::*;

fn at(seconds: u64) -> Moment {
    let running = Duration::from_secs(seconds);
    Moment { monotonic: running, boottime: running, ..Moment::default() }
}

/// A machine of three files, so that most collectors fail on it.
fn small() -> (tempfile::TempDir, Host) {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::at(folder.path().join("proc"), folder.path().join("sys"), "/");
    std::fs::create_dir_all(&host.proc).unwrap();
    write(&host, "loadavg", "1 2 3 1/1 1\n");
    write(&host, "stat", "cpu 0 0 0 0\n");
    write(&host, "meminfo", "MemTotal: 100 kB\nMemFree: 50 kB\nMemAvailable: 60 kB\n");
    (folder, host)
}

fn write(host: &Host, file: &str, text: &str) {
    std::fs::write(host.proc.join(file), text).unwrap();
}

#[test]
fn every_metric_name_is_served_by_exactly_one_collector() {
    for name in MetricName::ALL {
        let rows = TABLE.iter().filter(|row| row.serves.contains(&name)).count();
        assert_eq!(rows, 1, "{name}");
    }
    let names: BTreeSet<&str> = TABLE.iter().map(|row| row.collector).collect();
    assert_eq!(names.len(), TABLE.len());
}

#[test]
fn a_collector_that_fails_is_named_with_its_file_and_stops_no_other() {
    let (_folder, host) = small();
    let reading =
        CollectorSet::new(host, [MetricName::Load, MetricName::Tcp, MetricName::Memory]).collect(at(0));
    let faults: Vec<String> = reading.faults.iter().map(Fault::to_string).collect();
    assert_eq!(faults.len(), 1);
    assert!(
        faults[0].starts_with("tcp: read ") && faults[0].contains("net/sockstat: No such file"),
        "{}",
        faults[0]
    );
    assert_eq!(reading.metrics.memory_percent, Some(40.0));
    assert_eq!(reading.series.len(), 3);
}

#[test]
fn a_failed_collector_yields_nothing_rather_than_0() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::at(folder.path(), folder.path(), folder.path());
    let mut set = CollectorSet::new(host, MetricName::ALL);
    for second in 0..3 {
        let reading = set.collect(at(second));
        assert_eq!(reading.metrics.values(), [None; 8]);
        assert!(reading.faults.iter().any(|fault| fault.collector == "cpu"));
    }
}

#[test]
fn the_seed_names_give_the_eight_fields_and_no_series() {
    let mut set = CollectorSet::new(Host::local(), MetricName::SEED_SIX);
    set.collect(Moment::now());
    let reading = set.collect(Moment::now());
    assert!(reading.series.is_empty());
    assert!(reading.faults.is_empty(), "{:?}", reading.faults);
}

#[test]
fn each_seed_name_gives_its_own_fields_only() {
    let fields = [
        (MetricName::Memory, &["memory_percent", "memory_used_mb", "memory_total_mb"][..]),
        (MetricName::NetIn, &["net_in_mb"]),
        (MetricName::NetOut, &["net_out_mb"]),
        (MetricName::DiskRead, &["disk_read_mb"]),
        (MetricName::DiskWrite, &["disk_write_mb"]),
    ];
    for (name, expected) in fields {
        let mut set = CollectorSet::new(Host::local(), [name]);
        set.collect(Moment::now());
        let metrics = set.collect(Moment::now()).metrics;
        let given: Vec<&str> =
            metrics.named().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect();
        assert_eq!(given, expected, "{name}");
    }
}

#[test]
fn choosing_again_keeps_the_memory_of_what_stays() {
    let (_folder, host) = small();
    let mut set = CollectorSet::new(host.clone(), [MetricName::Cpu]);
    set.collect(at(0));
    set.choose([MetricName::Cpu, MetricName::Load]);
    write(&host, "stat", "cpu 1 0 0 1\n");
    let reading = set.collect(at(1));
    assert_eq!((reading.metrics.cpu_percent, reading.series.len()), (Some(50.0), 3));
    set.choose([MetricName::Load]);
    assert_eq!(set.collect(at(2)).metrics.cpu_percent, None);
}

#[test]
fn after_a_pause_the_first_reading_has_no_rates() {
    let (_folder, host) = small();
    let mut set = CollectorSet::new(host.clone(), [MetricName::Cpu]);
    set.collect(at(0));
    set.forget();
    write(&host, "stat", "cpu 1 0 0 1\n");
    assert_eq!(set.collect(at(1)).metrics.cpu_percent, None);
    write(&host, "stat", "cpu 2 0 0 2\n");
    assert_eq!(set.collect(at(2)).metrics.cpu_percent, Some(50.0));
}

#[test]
fn a_suspension_is_marked_once_and_leaves_no_rate() {
    let (_folder, host) = small();
    let mut set = CollectorSet::new(host.clone(), [MetricName::Cpu]);
    set.collect(at(0));
    write(&host, "stat", "cpu 1 0 0 1\n");
    let awake = |seconds| Moment { boottime: Duration::from_secs(seconds + 3_600), ..at(seconds) };
    let reading = set.collect(awake(1));
    assert_eq!((reading.suspended, reading.metrics.cpu_percent), (Some(Duration::from_secs(3_600)), None));
    write(&host, "stat", "cpu 2 0 0 2\n");
    let reading = set.collect(awake(2));
    assert_eq!((reading.suspended, reading.metrics.cpu_percent), (None, Some(50.0)));
}

#[test]
fn a_file_that_comes_back_is_read_again() {
    let (_folder, host) = small();
    let mut set = CollectorSet::new(host.clone(), [MetricName::Load]);
    write(&host, "loadavg", "not a number\n");
    assert_eq!(set.collect(at(0)).faults.len(), 1);
    write(&host, "loadavg", "1 2 3\n");
    assert_eq!(set.collect(at(1)).series.len(), 3);
}

#[test]
fn this_machine_passes_its_own_selftest() {
    let mut set = CollectorSet::new(Host::local(), MetricName::ALL);
    let first = set.collect(Moment::now());
    // Processor times advance by hundredths of a second; spin until the kernel has counted one.
    let second =
        (0..100_000).map(|_| set.collect(Moment::now())).find(|next| next.metrics.cpu_percent.is_some());
    let failed: Vec<_> =
        selftest::check(&first, &second.unwrap()).into_iter().filter(|check| !check.passed).collect();
    assert_eq!(failed, []);
}
