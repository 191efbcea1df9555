//! Swap space and paging, from `/proc/swaps` (proc_swaps(5)) and `/proc/vmstat` (proc_vmstat(5)). Two `pread`s,
//! together 23 µs, no state.

use super::source::{Host, KeptFile};
use super::text::{integer, lines, name, words};
use super::{Chosen, CollectError, Collector, Moment, Reading};

/// One swap device or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area {
    device: String,
    total_bytes: u64,
    used_bytes: u64,
}

/// Pages and events since boot. Kernels without swap leave the first two out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Paging {
    pages_in: Option<u64>,
    pages_out: Option<u64>,
    major_faults: Option<u64>,
    oom_kills: Option<u64>,
}

/// No line but the heading is a machine without swap.
pub(super) fn parse_swaps(text: &[u8]) -> Vec<Area> {
    let area = |line| {
        let mut words = words(line);
        let device = name(words.next()?);
        let kilobytes = |word| integer(word)?.checked_mul(1_024);
        let (total_bytes, used_bytes) = (kilobytes(words.nth(1)?)?, kilobytes(words.next()?)?);
        Some(Area { device, total_bytes, used_bytes })
    };
    lines(text).filter_map(area).collect()
}

pub(super) fn parse_vmstat(text: &[u8]) -> Paging {
    let mut paging = Paging::default();
    for line in lines(text) {
        let mut words = words(line);
        let field = match words.next().unwrap_or_default() {
            b"pswpin" => &mut paging.pages_in,
            b"pswpout" => &mut paging.pages_out,
            b"pgmajfault" => &mut paging.major_faults,
            b"oom_kill" => &mut paging.oom_kills,
            _ => continue,
        };
        *field = words.next().and_then(integer);
    }
    paging
}

#[derive(Debug)]
struct Swap {
    swaps: KeptFile,
    vmstat: KeptFile,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    let file = |name| KeptFile::new(host.proc.join(name));
    Box::new(Swap { swaps: file("swaps"), vmstat: file("vmstat") })
}

impl Collector for Swap {
    fn collect(&mut self, _: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        // A kernel built without swap has no such file.
        for area in self.swaps.read_if_present()?.map(parse_swaps).unwrap_or_default() {
            let free = area.total_bytes.saturating_sub(area.used_bytes);
            for (state, bytes) in [("used", area.used_bytes), ("free", free)] {
                into.push("system.paging.usage", &[("device", &area.device), ("state", state)], bytes as f64);
            }
        }
        let paging = parse_vmstat(self.vmstat.read()?);
        let counts = [
            ("system.paging.operations", Some(("direction", "page_in")), paging.pages_in),
            ("system.paging.operations", Some(("direction", "page_out")), paging.pages_out),
            ("system.paging.faults", Some(("type", "major")), paging.major_faults),
            ("system.linux.oom_kills", None, paging.oom_kills),
        ];
        for (name, attribute, count) in counts {
            if let Some(count) = count {
                into.push(name, attribute.as_slice(), count as f64);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_area_is_read_and_the_heading_is_none() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/zram0                              partition\t8388604\t\t1024\t\t100\n\
            /swap\\040file                          file\t\t2048\t\t0\t\t-2\n";
        let areas = parse_swaps(text);
        assert_eq!(areas.len(), 2);
        assert_eq!((areas[0].device.as_str(), areas[0].used_bytes), ("/dev/zram0", 1_024 * 1_024));
        assert_eq!(areas[1].total_bytes, 2_048 * 1_024);
    }

    #[test]
    fn paging_is_found_among_other_lines_and_may_be_missing() {
        let paging = parse_vmstat(b"nr_free_pages 1\npswpin 3\npswpout 4\npgmajfault 3407\n");
        assert_eq!((paging.pages_in, paging.pages_out, paging.oom_kills), (Some(3), Some(4), None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _areas = parse_swaps(&bytes);
            let _paging = parse_vmstat(&bytes);
        }
    }
}
