//! The control group the agent runs in, from `/proc/self/cgroup` (cgroups(7)) and the group's files below
//! `/sys/fs/cgroup`, version 2 or 1. A `pread` for each of its files and for the limits of the groups above it, 3 µs
//! each. No state but the open files.
//!
//! Inside a container the other collectors still show the whole host; these series show what this group uses and may
//! use of it. A group without a limit has no limit series.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use model::limit::CGROUP_DEPTH_MAX;

use super::source::{Host, KeptFile};
use super::text::{integer, lines, words};
use super::{Chosen, CollectError, Collector, Moment, Reading};

/// Version 1 writes "no limit" as the largest multiple of a page.
const NO_LIMIT_BYTES_MIN: u64 = 1 << 62;

/// What a group uses and may use. What its version or its controllers do not say is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Group {
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
    /// In processors.
    cpu_limit: Option<f64>,
    throttled_seconds: Option<f64>,
}

/// Where this process stands in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    /// Empty for version 2.
    controllers: Vec<String>,
    /// Relative to the hierarchy's root.
    path: PathBuf,
}

/// Lines such as `4:memory:/docker/ab` (version 1) and `0::/system.slice` (version 2).
pub(super) fn parse(text: &[u8]) -> Vec<Membership> {
    let membership = |line| {
        let mut parts = str::from_utf8(line).ok()?.splitn(3, ':');
        let controllers = parts.nth(1)?.split(',').filter(|name| !name.is_empty());
        let controllers = controllers.map(str::to_owned).collect();
        let path = Path::new(parts.next()?.strip_prefix('/')?);
        // A group outside our namespace is shown with `..`, and cannot be found from here.
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        inside.then(|| Membership { controllers, path: path.to_owned() })
    };
    lines(text).filter_map(membership).collect()
}

/// `max`, and what is as good as that, is no limit.
fn bytes_limit(text: &[u8]) -> Option<u64> {
    integer(text.trim_ascii()).filter(|bytes| *bytes < NO_LIMIT_BYTES_MIN)
}

/// Quota and period in microseconds, as processors. A quota of `max` or -1 is no limit.
fn cpu_limit(text: &[u8]) -> Option<f64> {
    let mut words = words(text);
    let (quota, period) = (integer(words.next()?)?, integer(words.next()?)?);
    (period > 0).then(|| quota as f64 / period as f64)
}

/// One number of `cpu.stat`.
fn stat(text: &[u8], key: &[u8]) -> Option<u64> {
    let mut found = lines(text).map(words).filter_map(|mut words| (words.next()? == key).then_some(words));
    integer(found.next()?.next()?)
}

#[derive(Debug)]
struct Container {
    membership: KeptFile,
    cgroup: PathBuf,
    /// Where the process stood last. When it is moved, the files of its former group are let go.
    place: Vec<Membership>,
    files: BTreeMap<PathBuf, KeptFile>,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(Container::new(host))
}

impl Collector for Container {
    fn collect(&mut self, _: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let memberships = self.membership.read_if_present()?.map(parse).unwrap_or_default();
        if memberships != self.place {
            self.files.clear();
            self.place.clone_from(&memberships);
        }
        let of =
            |name: &str| memberships.iter().find(|place| place.controllers.iter().any(|own| own == name));
        let mut group = Group::default();
        // A controller belongs to one version only; in a mixed setup version 1 has them all.
        match memberships.iter().find(|place| place.controllers.is_empty()) {
            Some(place) if of("memory").is_none() && of("cpu").is_none() => {
                self.version_2(&place.path, &mut group);
            }
            _ => {
                for (controller, read) in VERSION_1 {
                    if let Some(place) = of(controller) {
                        read(self, &place.path, &mut group);
                    }
                }
            }
        }
        push(&group, into);
        Ok(())
    }
}

type Read = fn(&mut Container, &Path, &mut Group);

const VERSION_1: [(&str, Read); 3] =
    [("memory", Container::memory_1), ("cpu", Container::cpu_1), ("cpuacct", Container::cpuacct_1)];

impl Container {
    fn new(host: &Host) -> Self {
        Self {
            membership: KeptFile::new(host.proc.join("self/cgroup")),
            cgroup: host.sys.join("fs/cgroup"),
            place: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    fn version_2(&mut self, path: &Path, group: &mut Group) {
        let levels = levels(&self.cgroup, path);
        let own = &levels[0];
        group.memory_bytes = self.read(own, "memory.current", |text| integer(text.trim_ascii()));
        let micros = |key: &'static [u8]| move |text: &[u8]| stat(text, key).map(|us| us as f64 / 1e6);
        group.cpu_seconds = self.read(own, "cpu.stat", micros(b"usage_usec"));
        group.throttled_seconds = self.read(own, "cpu.stat", micros(b"throttled_usec"));
        group.memory_limit_bytes =
            levels.iter().filter_map(|at| self.read(at, "memory.max", bytes_limit)).min();
        let limits = levels.iter().filter_map(|at| self.read(at, "cpu.max", cpu_limit));
        group.cpu_limit = limits.min_by(f64::total_cmp);
    }

    fn memory_1(&mut self, path: &Path, group: &mut Group) {
        let levels = levels(&self.cgroup.join("memory"), path);
        group.memory_bytes =
            self.read(&levels[0], "memory.usage_in_bytes", |text| integer(text.trim_ascii()));
        let limits = levels.iter().filter_map(|at| self.read(at, "memory.limit_in_bytes", bytes_limit));
        group.memory_limit_bytes = limits.min();
    }

    fn cpu_1(&mut self, path: &Path, group: &mut Group) {
        let levels = levels(&self.cgroup.join("cpu"), path);
        let nanos = |text: &[u8]| stat(text, b"throttled_time").map(|ns| ns as f64 / 1e9);
        group.throttled_seconds = self.read(&levels[0], "cpu.stat", nanos);
        let limit = |at: &PathBuf| {
            let quota = self.read(at, "cpu.cfs_quota_us", |text| Some(text.to_vec()))?;
            let period = self.read(at, "cpu.cfs_period_us", |text| Some(text.to_vec()))?;
            cpu_limit(&[&quota[..], b" ", &period].concat())
        };
        group.cpu_limit = levels.iter().filter_map(limit).min_by(f64::total_cmp);
    }

    fn cpuacct_1(&mut self, path: &Path, group: &mut Group) {
        let levels = levels(&self.cgroup.join("cpuacct"), path);
        let nanos = |text: &[u8]| integer(text.trim_ascii()).map(|ns| ns as f64 / 1e9);
        group.cpu_seconds = self.read(&levels[0], "cpuacct.usage", nanos);
    }

    /// A group's file. The root group lacks most of them, and a controller may be off: that is no fault.
    fn read<T>(&mut self, folder: &Path, file: &str, parse: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        let file = self.files.entry(folder.join(file)).or_insert_with_key(|path| KeptFile::new(path));
        parse(file.read().ok()?)
    }
}

/// The group's own folder first, then its parents': the smallest limit on the way holds. Where the path is the host's
/// and the mount is the container's (version 1 without a namespace), the mount itself is the group.
fn levels(mount: &Path, path: &Path) -> Vec<PathBuf> {
    if !mount.join(path).is_dir() {
        return vec![mount.to_owned()];
    }
    path.ancestors().take(CGROUP_DEPTH_MAX).map(|level| mount.join(level)).collect()
}

fn push(group: &Group, into: &mut Reading) {
    let values = [
        ("container.memory.usage", group.memory_bytes.map(|bytes| bytes as f64)),
        ("container.memory.limit", group.memory_limit_bytes.map(|bytes| bytes as f64)),
        ("container.cpu.time", group.cpu_seconds),
        ("container.cpu.limit", group.cpu_limit),
        ("container.cpu.throttled_time", group.throttled_seconds),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            into.push(name, &[], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Collects on a tree of these files; the series by name.
    fn collect(files: &[(&str, &str)]) -> Vec<(String, f64)> {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), files);
        let mut reading = Reading::default();
        build(&host(folder.path())).collect(&Moment::default(), &Chosen::new(), &mut reading).unwrap();
        reading.series.into_iter().map(|sample| (sample.key.name, sample.value)).collect()
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn host(folder: &Path) -> Host {
        Host::at(folder.join("proc"), folder.join("sys"), "/")
    }

    fn named(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn version_2_takes_the_smallest_limit_on_the_way_up() {
        let series = collect(&[
            ("proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.current", "1000\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n"),
            ("sys/fs/cgroup/a.slice/b.service/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a.slice/b.service/cpu.stat", "usage_usec 2500000\nthrottled_usec 500000\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "4096\n"),
            ("sys/fs/cgroup/a.slice/cpu.max", "max 100000\n"),
        ]);
        let expected = [
            ("container.memory.usage", 1_000.0),
            ("container.memory.limit", 4_096.0),
            ("container.cpu.time", 2.5),
            ("container.cpu.limit", 1.5),
            ("container.cpu.throttled_time", 0.5),
        ];
        assert_eq!(series, named(&expected));
    }

    #[test]
    fn version_1_beside_an_empty_version_2_is_read_and_no_limit_is_absent() {
        let series = collect(&[
            ("proc/self/cgroup", "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/\n"),
            // Without a namespace the path is the host's; the mount is the container's own.
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "77\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpuacct/cpuacct.usage", "1500000000\n"),
        ]);
        assert_eq!(series, named(&[("container.memory.usage", 77.0), ("container.cpu.time", 1.5)]));
    }

    #[test]
    fn a_process_that_is_moved_lets_go_of_its_former_group() {
        let folder = tempfile::tempdir().unwrap();
        let mut container = Container::new(&host(folder.path()));
        let mut open = Vec::new();
        for group in ["a", "b", "c"] {
            let usage = format!("sys/fs/cgroup/{group}/memory.current");
            write(folder.path(), &[("proc/self/cgroup", &format!("0::/{group}\n")), (&usage, "7\n")]);
            container.collect(&Moment::default(), &Chosen::new(), &mut Reading::default()).unwrap();
            open.push(container.files.len());
        }
        assert_eq!(open, [open[0]; 3]);
    }

    #[test]
    fn a_machine_without_control_groups_gives_nothing_and_no_fault() {
        assert_eq!(collect(&[]), []);
    }

    #[test]
    fn a_path_that_leads_out_of_the_hierarchy_is_not_followed() {
        assert_eq!(parse(b"0::/../../etc\n"), []);
        assert_eq!(parse(b"0::relative\nx\n"), []);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _memberships = parse(&[b"0::/", &bytes[..]].concat());
            let _limits = (bytes_limit(&bytes), cpu_limit(&bytes), stat(&bytes, b"usage_usec"));
        }
    }
}
