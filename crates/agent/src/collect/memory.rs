//! Memory, from `/proc/meminfo` (proc_meminfo(5)). One `pread`, 7 µs.
//!
//! The three fields are what psutil 7.2.2's `virtual_memory()` gives: used is total - available, percent has one
//! decimal. Kernels before 3.14 do not say what is available; then it is estimated as psutil and `free` do, with the
//! low watermarks of `/proc/zoneinfo` (which is read only then).

use model::metric::MetricName;
use model::sample::SystemMetrics;

use super::source::{Host, KeptFile};
use super::text::{integer, lines, words};
use super::{Chosen, CollectError, Collector, MEGABYTE, Moment, Reading, one_decimal};

/// `/proc/meminfo` in bytes. What an old kernel or a container leaves out is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    total: u64,
    free: u64,
    available: Option<u64>,
    buffers: Option<u64>,
    cached: Option<u64>,
    slab_reclaimable: Option<u64>,
    active_file: Option<u64>,
    inactive_file: Option<u64>,
}

/// `None` without the two lines every kernel has.
pub(super) fn parse(text: &[u8]) -> Option<Memory> {
    let mut memory = Memory::default();
    let (mut total, mut free) = (None, None);
    for line in lines(text) {
        let mut words = words(line);
        let field = match words.next().unwrap_or_default() {
            b"MemTotal:" => &mut total,
            b"MemFree:" => &mut free,
            b"MemAvailable:" => &mut memory.available,
            b"Buffers:" => &mut memory.buffers,
            b"Cached:" => &mut memory.cached,
            b"SReclaimable:" => &mut memory.slab_reclaimable,
            b"Active(file):" => &mut memory.active_file,
            b"Inactive(file):" => &mut memory.inactive_file,
            _ => continue,
        };
        *field = words.next().and_then(integer).and_then(|kilobytes| kilobytes.checked_mul(1_024));
    }
    (memory.total, memory.free) = (total.filter(|total| *total > 0)?, free?);
    Some(memory)
}

/// The low watermarks of all zones together, in pages.
fn parse_watermarks(zoneinfo: &[u8]) -> u64 {
    let low = |line| {
        let mut words = words(line);
        words.next().filter(|key| *key == b"low").and_then(|_| integer(words.next()?))
    };
    lines(zoneinfo).filter_map(low).fold(0, u64::saturating_add)
}

impl Memory {
    /// Whether the kernel's own answer is there. Some have the line and say 0.
    fn says_available(&self) -> bool {
        self.available.is_some_and(|bytes| bytes > 0)
    }

    /// What can be had without swapping. `watermark` is only used where the kernel does not say.
    fn available(&self, watermark: Option<u64>) -> u64 {
        let available = match self.available {
            Some(available) if self.says_available() => available,
            _ => self.estimate(watermark),
        };
        // Inside some containers the sources contradict one another; `free` then shows what is free.
        if available > self.total { self.free.min(self.total) } else { available }
    }

    fn estimate(&self, watermark: Option<u64>) -> u64 {
        let fields = (self.active_file, self.inactive_file, self.slab_reclaimable, watermark);
        let (Some(active), Some(inactive), Some(slab), Some(watermark)) = fields else {
            return self.free.saturating_add(self.cached.unwrap_or(0));
        };
        let spared = |bytes: u64| bytes.saturating_sub((bytes / 2).min(watermark));
        self.free
            .saturating_add(spared(active.saturating_add(inactive)))
            .saturating_add(spared(slab))
            .saturating_sub(watermark)
    }

    fn fill(&self, available: u64, metrics: &mut SystemMetrics) {
        let (total, used) = (self.total as f64, (self.total - available) as f64);
        metrics.memory_percent = Some(one_decimal(used / total * 100.0));
        metrics.memory_used_mb = Some(used / MEGABYTE);
        metrics.memory_total_mb = Some(total / MEGABYTE);
    }

    /// States that add up to the total. Reclaimable slab counts as cache, as `free` shows it.
    fn push_states(&self, available: u64, into: &mut Reading) {
        let buffers = self.buffers.unwrap_or(0);
        let cached = self.cached.unwrap_or(0).saturating_add(self.slab_reclaimable.unwrap_or(0));
        let used = self.total.saturating_sub(self.free).saturating_sub(buffers).saturating_sub(cached);
        for (state, bytes) in [("used", used), ("free", self.free), ("buffered", buffers), ("cached", cached)]
        {
            into.push("system.memory.usage", &[("state", state)], bytes as f64);
        }
        into.push("system.memory.limit", &[], self.total as f64);
        into.push("system.linux.memory.available", &[], available as f64);
    }
}

#[derive(Debug)]
struct MemoryCollector {
    meminfo: KeptFile,
    zoneinfo: KeptFile,
    page_bytes: u64,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    let file = |name| KeptFile::new(host.proc.join(name));
    Box::new(MemoryCollector {
        meminfo: file("meminfo"),
        zoneinfo: file("zoneinfo"),
        page_bytes: host.page_bytes,
    })
}

impl Collector for MemoryCollector {
    fn collect(&mut self, _: &Moment, chosen: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let memory = parse(self.meminfo.read()?);
        let memory = memory
            .ok_or_else(|| KeptFile::malformed(self.meminfo.path(), "lines `MemTotal` and `MemFree`"))?;
        let watermark = if memory.says_available() {
            None
        } else {
            let pages = self.zoneinfo.read_if_present()?.map(parse_watermarks);
            pages.map(|pages| pages.saturating_mul(self.page_bytes))
        };
        let available = memory.available(watermark);
        if chosen.contains(&MetricName::Memory) {
            memory.fill(available, &mut into.metrics);
        }
        if chosen.contains(&MetricName::MemoryDetail) {
            memory.push_states(available, into);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMINFO: &[u8] =
        b"MemTotal:       24684084 kB\nMemFree:        22192516 kB\nMemAvailable:   24008644 kB\n\
        Buffers:           47788 kB\nCached:          1916328 kB\nSReclaimable:     100000 kB\n\
        HugePages_Total:       0\nNewField:  x kB\n";

    fn fields(memory: &Memory, watermark: Option<u64>) -> SystemMetrics {
        let mut metrics = SystemMetrics::default();
        memory.fill(memory.available(watermark), &mut metrics);
        metrics
    }

    #[test]
    fn used_is_what_is_not_available() {
        let metrics = fields(&parse(MEMINFO).unwrap(), None);
        assert_eq!(metrics.memory_percent, Some(2.7));
        assert_eq!(metrics.memory_used_mb, Some(675_440.0 / 1_024.0));
        assert_eq!(metrics.memory_total_mb, Some(24_684_084.0 / 1_024.0));
    }

    #[test]
    fn the_states_add_up_to_the_total() {
        let mut reading = Reading::default();
        parse(MEMINFO).unwrap().push_states(0, &mut reading);
        let states = reading.series.iter().filter(|sample| sample.key.name == "system.memory.usage");
        assert_eq!(states.map(|sample| sample.value).sum::<f64>(), 24_684_084.0 * 1_024.0);
    }

    #[test]
    fn without_memavailable_it_is_estimated_as_free_does() {
        let memory = parse(
            b"MemTotal: 1000 kB\nMemFree: 100 kB\nCached: 300 kB\nSReclaimable: 50 kB\n\
              Active(file): 200 kB\nInactive(file): 100 kB\n",
        )
        .unwrap();
        assert!(!memory.says_available());
        // free - low + (300 - min(150, low)) + (50 - min(25, low)), with low = 40 kB
        assert_eq!(memory.available(Some(40 * 1_024)), (60 + 260 + 25) * 1_024);
        assert_eq!(memory.available(None), 400 * 1_024);
    }

    #[test]
    fn an_available_of_0_is_a_kernel_that_does_not_know() {
        let memory =
            parse(b"MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 0 kB\nCached: 300 kB\n").unwrap();
        assert_eq!(memory.available(None), 400 * 1_024);
    }

    #[test]
    fn more_available_than_there_is_means_what_is_free() {
        let memory = parse(b"MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 9000 kB\n").unwrap();
        assert_eq!(fields(&memory, None).memory_percent, Some(90.0));
    }

    #[test]
    fn the_low_watermarks_of_all_zones_are_added() {
        assert_eq!(
            parse_watermarks(b"Node 0, zone DMA\n  min 8\n  low      10\n  high 12\nlow 5\nlow x\n"),
            15
        );
    }

    #[test]
    fn a_file_without_a_total_is_malformed() {
        assert_eq!(parse(b"MemFree: 1 kB\n"), None);
        assert_eq!(parse(b"MemTotal: 0 kB\nMemFree: 0 kB\n"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _watermarks = parse_watermarks(&bytes);
            let _memory = parse(&bytes);
        }

        #[test]
        fn no_numbers_make_a_share_outside_0_to_100(numbers: [u64; 5], watermark: Option<u64>) {
            let [total, free, available, cached, active] = numbers;
            let text = format!(
                "MemTotal: {total} kB\nMemFree: {free} kB\nMemAvailable: {available} kB\nCached: {cached} kB\n\
                 Active(file): {active} kB\nInactive(file): {active} kB\nSReclaimable: {cached} kB\n"
            );
            if let Some(memory) = parse(text.as_bytes()) {
                let percent = fields(&memory, watermark).memory_percent.unwrap();
                prop_assert!((0.0..=100.0).contains(&percent));
                memory.push_states(memory.available(watermark), &mut Reading::default());
            }
        }
    }
}
