//! Load averages, from `/proc/loadavg` (proc_loadavg(5)). One `pread`, 2 µs, no state.

use super::source::{Host, KeptFile};
use super::text::{decimal, words};
use super::{Chosen, CollectError, Collector, Moment, Reading};

/// Runnable and uninterruptible tasks, averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    one_minute: f64,
    five_minutes: f64,
    fifteen_minutes: f64,
}

pub(super) fn parse(text: &[u8]) -> Option<Load> {
    let mut numbers = words(text).map(decimal);
    let mut next = || numbers.next().flatten();
    Some(Load { one_minute: next()?, five_minutes: next()?, fifteen_minutes: next()? })
}

#[derive(Debug)]
struct LoadCollector {
    file: KeptFile,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(LoadCollector { file: KeptFile::new(host.proc.join("loadavg")) })
}

impl Collector for LoadCollector {
    fn collect(&mut self, _: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let load = parse(self.file.read()?);
        let load = load.ok_or_else(|| KeptFile::malformed(self.file.path(), "three load averages"))?;
        into.push("system.cpu.load_average.1m", &[], load.one_minute);
        into.push("system.cpu.load_average.5m", &[], load.five_minutes);
        into.push("system.cpu.load_average.15m", &[], load.fifteen_minutes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_three_numbers_are_the_averages() {
        let load = Load { one_minute: 0.59, five_minutes: 0.58, fifteen_minutes: 0.38 };
        assert_eq!(parse(b"0.59 0.58 0.38 2/97 20006\n"), Some(load));
    }

    #[test]
    fn a_short_line_is_malformed() {
        assert_eq!(parse(b"0.59 0.58"), None);
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _load = parse(&bytes);
        }
    }
}
