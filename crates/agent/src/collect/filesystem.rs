//! Space of mounted file systems, from `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)) and statvfs(3) on each. One
//! `pread`, 5 µs, and 25 µs for each mount, asked in a thread of its own: see [`probe`].
//!
//! Kernel interfaces that only look like file systems are left out, and of several mounts of one device the first
//! counts (bind mounts, chroots). Asking never mounts anything: automounts are left out too.

mod probe;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::source::{Host, KeptFile};
use super::text::{lines, name, words};
use super::{Chosen, CollectError, Collector, Moment, Reading};
use probe::Probes;

/// File systems that store nothing of the user's, or a read-only image that is always full.
const PSEUDO: [&str; 28] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse.lxcfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "squashfs",
    "sysfs",
    "tracefs",
    "rootfs",
];

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Unique while it is mounted; together with the place it tells a later mount from an earlier one.
    id: Vec<u8>,
    device_number: Vec<u8>,
    mountpoint: PathBuf,
    kind: String,
    device: String,
}

/// What a file system says about its room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Free for those without privilege; the rest of the free space is reserved.
    pub available_bytes: u64,
    /// 0 where the file system has no fixed number of them (btrfs).
    pub inodes: u64,
    pub inodes_free: u64,
}

/// Asks the kernel. Blocks for ever on a mount whose server is gone.
pub(super) fn space_of(mountpoint: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(mountpoint)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space {
        total_bytes: bytes(stat.f_blocks),
        free_bytes: bytes(stat.f_bfree),
        available_bytes: bytes(stat.f_bavail),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// The mounts worth asking, one for each device. Where one was mounted over another, only the last can be seen.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    let all: Vec<Mount> = lines(text).filter_map(parse_line).collect();
    let (mut places, mut devices) = (BTreeSet::new(), BTreeSet::new());
    let mut visible: Vec<&Mount> =
        all.iter().rev().filter(|mount| places.insert(&mount.mountpoint)).collect();
    visible.reverse();
    let worth = |mount: &&Mount| {
        let whole_container = mount.kind == "overlay" && mount.mountpoint == Path::new("/");
        whole_container || !PSEUDO.contains(&mount.kind.as_str())
    };
    let first = |mount: &&Mount| devices.insert(mount.device_number.clone());
    visible.into_iter().filter(worth).filter(first).cloned().collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = words(line);
    let id = words.next()?.to_vec();
    let device_number = words.nth(1)?.to_vec();
    let mountpoint = PathBuf::from(std::ffi::OsString::from_vec(unescape(words.nth(1)?)));
    // Any number of optional fields, ended by a lone hyphen.
    words.by_ref().find(|word| *word == b"-")?;
    let (kind, device) = (name(words.next()?), name(&unescape(words.next()?)));
    Some(Mount { id, device_number, mountpoint, kind, device })
}

/// The kernel writes blanks and backslashes as `\040`: three octal digits.
fn unescape(mut word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    while let Some((first, rest)) = word.split_first() {
        let octal = rest.first_chunk::<3>().filter(|digits| *first == b'\\' && digits.iter().all(is_octal));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(value.to_le_bytes()[0]);
                word = &rest[3..];
            }
            None => {
                bytes.push(*first);
                word = rest;
            }
        }
    }
    bytes
}

fn is_octal(digit: &u8) -> bool {
    (b'0'..=b'7').contains(digit)
}

#[derive(Debug)]
struct Filesystem {
    mountinfo: KeptFile,
    probes: Probes,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(Filesystem {
        mountinfo: KeptFile::new(host.resident().join("mountinfo")),
        probes: Probes::new(host),
    })
}

impl Collector for Filesystem {
    fn collect(&mut self, moment: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let mounts = parse(self.mountinfo.read()?);
        into.left_out += self.probes.watch(mounts)?;
        let mut failed = None;
        for (mount, answer) in self.probes.ask(moment) {
            match answer {
                Ok(space) => push(&mount, &space, into),
                // Somebody else's FUSE mount: not ours to look into, and not a fault that could be mended.
                Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {}
                Err(cause) => failed = Some(CollectError::Read { path: mount.mountpoint, cause }),
            }
        }
        let stuck = self.probes.stuck(moment);
        if !stuck.is_empty() {
            return Err(CollectError::Stuck { mountpoints: stuck });
        }
        failed.map_or(Ok(()), Err)
    }
}

/// A mount without blocks (an empty pseudo file system we do not know) has no space to speak of.
fn push(mount: &Mount, space: &Space, into: &mut Reading) {
    if space.total_bytes == 0 {
        return;
    }
    let mountpoint = name(mount.mountpoint.as_os_str().as_encoded_bytes());
    let mut push = |name, state, value: u64| {
        let attributes = [
            ("device", mount.device.as_str()),
            ("mountpoint", mountpoint.as_str()),
            ("state", state),
            ("type", mount.kind.as_str()),
        ];
        into.push(name, &attributes, value as f64);
    };
    push("system.filesystem.usage", "used", space.total_bytes.saturating_sub(space.free_bytes));
    push("system.filesystem.usage", "free", space.available_bytes);
    push("system.filesystem.usage", "reserved", space.free_bytes.saturating_sub(space.available_bytes));
    if space.inodes > 0 {
        push("system.filesystem.inodes.usage", "used", space.inodes.saturating_sub(space.inodes_free));
        push("system.filesystem.inodes.usage", "free", space.inodes_free);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTINFO: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard\n\
        30 27 254:0 /var /srv/bind rw,relatime - ext4 /dev/vda rw\n\
        31 27 0:40 / /mnt/with\\040blank rw - nfs4 server:/a\\134b rw\n\
        32 27 0:41 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n";

    fn places(text: &[u8]) -> Vec<(PathBuf, String)> {
        parse(text).into_iter().map(|mount| (mount.mountpoint, mount.device)).collect()
    }

    #[test]
    fn kernel_interfaces_bind_mounts_and_layers_are_left_out_and_escapes_undone() {
        let expected = [("/", "/dev/vda"), ("/mnt/with blank", r"server:/a\b")];
        assert_eq!(
            places(MOUNTINFO),
            expected.map(|(place, device)| (PathBuf::from(place), device.to_owned()))
        );
    }

    #[test]
    fn the_root_of_a_container_is_kept_though_it_is_a_layer() {
        assert_eq!(places(b"1 0 0:50 / / rw - overlay overlay rw\n").len(), 1);
    }

    #[test]
    fn of_two_mounts_at_one_place_the_last_is_the_one_to_see() {
        let text = b"1 0 0:23 / /dev/shm rw - tmpfs first rw\n2 1 0:30 / /dev/shm rw - tmpfs last rw\n";
        assert_eq!(places(text), [(PathBuf::from("/dev/shm"), "last".to_owned())]);
    }

    #[test]
    fn a_line_without_its_end_is_left_out() {
        assert_eq!(places(b"27 1 254:0 / / rw,relatime shared:1\n27 1 254:0 / / rw - ext4\n"), []);
    }

    #[test]
    fn used_free_and_reserved_add_up_to_the_whole() {
        let mount = &parse(MOUNTINFO)[0];
        let space =
            Space { total_bytes: 100, free_bytes: 40, available_bytes: 35, inodes: 0, inodes_free: 0 };
        let mut reading = Reading::default();
        push(mount, &space, &mut reading);
        assert_eq!(reading.series.iter().map(|sample| sample.value).collect::<Vec<_>>(), [60.0, 35.0, 5.0]);
    }

    #[test]
    fn the_root_of_this_machine_has_space() {
        assert!(space_of(Path::new("/")).unwrap().total_bytes > 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _mounts = parse(&bytes);
            let _mounts = parse(&[b"1 2 3 / /", &bytes[..], b" rw - ext4 ", &bytes[..], b" rw"].concat());
        }
    }
}
