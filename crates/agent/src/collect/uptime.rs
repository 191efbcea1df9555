//! Time since boot, from `/proc/uptime` (proc_uptime(5)), and the boot's id. One `pread`, 2 µs, no state.

use std::io;

use super::source::{Host, KeptFile, read_once};
use super::text::{decimal, name, words};
use super::{Chosen, CollectError, Collector, Moment, Reading};

/// Seconds since boot, suspended time included.
pub(super) fn parse(text: &[u8]) -> Option<f64> {
    words(text).next().and_then(decimal)
}

/// A random id the kernel draws at every boot: tells a machine that restarted from one that did not.
pub fn boot_id(host: &Host) -> io::Result<String> {
    let mut buffer = Vec::new();
    let text = read_once(&host.proc.join("sys/kernel/random/boot_id"), &mut buffer)?;
    Ok(name(text.trim_ascii()))
}

#[derive(Debug)]
struct Uptime {
    file: KeptFile,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(Uptime { file: KeptFile::new(host.proc.join("uptime")) })
}

impl Collector for Uptime {
    fn collect(&mut self, _: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let seconds = parse(self.file.read()?);
        let seconds = seconds.ok_or_else(|| KeptFile::malformed(self.file.path(), "number of seconds"))?;
        into.push("system.uptime", &[], seconds);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_number_is_the_uptime() {
        assert_eq!(parse(b"1542.72 2463.78\n"), Some(1_542.72));
        assert_eq!(parse(b"\n"), None);
    }

    #[test]
    fn this_machine_has_a_boot_id_that_stays() {
        let id = boot_id(&Host::local()).unwrap();
        assert_eq!((id.len(), boot_id(&Host::local()).unwrap()), (36, id.clone()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _uptime = parse(&bytes);
        }
    }
}
