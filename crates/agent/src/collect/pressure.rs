//! Time lost to waiting, from `/proc/pressure/{cpu,memory,io}` (the kernel's accounting/psi). Three `pread`s,
//! together 12 µs, no state. Kernels before 4.20, or started without PSI, have none; then nothing is sent and nothing
//! is wrong.

use super::source::{Host, KeptFile};
use super::text::{decimal, integer, lines, words};
use super::{Chosen, CollectError, Collector, Moment, Reading};

const RESOURCES: [&str; 3] = ["cpu", "memory", "io"];

/// How much some tasks, or all of them at once, had to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pressure {
    extent: &'static str,
    /// Share of the last ten seconds, 0 to 1.
    ten_seconds: f64,
    /// Since boot.
    stalled_us: u64,
}

/// One entry for each extent the kernel measures; older ones have no `full` for the processor.
pub(super) fn parse(text: &[u8]) -> Vec<Pressure> {
    lines(text).filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Pressure> {
    let extent = match words(line).next()? {
        b"some" => "some",
        b"full" => "full",
        _ => return None,
    };
    let field = |key: &[u8]| words(line).find_map(|word| word.strip_prefix(key)?.strip_prefix(b"="));
    let ten_seconds = decimal(field(b"avg10")?)? / 100.0;
    Some(Pressure { extent, ten_seconds, stalled_us: integer(field(b"total")?)? })
}

#[derive(Debug)]
struct PressureCollector {
    files: [(&'static str, KeptFile); RESOURCES.len()],
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    let folder = host.proc.join("pressure");
    Box::new(PressureCollector { files: RESOURCES.map(|name| (name, KeptFile::new(folder.join(name)))) })
}

impl Collector for PressureCollector {
    fn collect(&mut self, _: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        for (resource, file) in &mut self.files {
            let Some(text) = file.read_if_present()? else { continue };
            for Pressure { extent, ten_seconds, stalled_us } in parse(text) {
                let attributes = [("extent", extent), ("resource", *resource)];
                let windowed = [("extent", extent), ("resource", *resource), ("window", "10s")];
                into.push("system.linux.pressure.stalled_time", &attributes, stalled_us as f64 / 1e6);
                into.push("system.linux.pressure.ratio", &windowed, ten_seconds);
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
    fn both_extents_are_read_whatever_the_order_of_the_fields() {
        let text = b"some avg10=3.00 avg60=1.56 avg300=0.94 total=21713999\nfull total=5 avg10=0.50\n";
        let some = Pressure { extent: "some", ten_seconds: 0.03, stalled_us: 21_713_999 };
        let full = Pressure { extent: "full", ten_seconds: 0.005, stalled_us: 5 };
        assert_eq!(parse(text), [some, full]);
    }

    #[test]
    fn a_line_that_lacks_a_field_is_left_out() {
        assert_eq!(parse(b"some avg10=0.00\nother avg10=0.00 total=1\nfull avg10=x total=1\n"), []);
    }

    #[test]
    fn a_kernel_without_pressure_gives_nothing_and_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        let mut collector = build(&Host::at(folder.path(), "/sys", "/"));
        let mut reading = Reading::default();
        collector.collect(&Moment::default(), &Chosen::new(), &mut reading).unwrap();
        assert!(reading.series.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _pressure = parse(&bytes);
        }
    }
}
