//! Network IO, from `/proc/<pid>/net/dev` (proc_pid_net(5)). One `pread`, 5 µs, and one small file of /sys for each
//! interface, 9 µs: its index tells two interfaces of one name apart. That file is not kept open, because its descriptor
//! would follow the interface to another name.
//!
//! The two fields sum every interface, lo included, as psutil 7.2.2's `net_io_counters()` does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use model::limit::INTERFACES_IDENTIFIED_MAX;
use model::metric::MetricName;

use super::counter::{Step, add, step};
use super::source::{Host, KeptFile, read_once};
use super::text::{integer, integers, lines, name, words};
use super::{Chosen, CollectError, Collector, Moment, Previous, Reading, megabytes_per_second};

/// One interface's counters, and its index where it could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    index: Option<u64>,
    receive: Direction,
    transmit: Direction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Direction {
    bytes: u64,
    packets: u64,
    errors: u64,
    dropped: u64,
}

type Interfaces = BTreeMap<String, Interface>;

/// Every interface, still without index. The two headings have no line of numbers and fall out by themselves.
pub(super) fn parse(text: &[u8]) -> Interfaces {
    lines(text).filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<(String, Interface)> {
    // An alias such as eth0:1 has a colon in its name: the last one ends it.
    let colon = line.iter().rposition(|byte| *byte == b':')?;
    let name = name(line[..colon].trim_ascii());
    let [r_bytes, r_packets, r_errors, r_dropped, _, _, _, _, t_bytes, t_packets, t_errors, t_dropped] =
        integers(words(&line[colon + 1..]))?;
    let receive = Direction { bytes: r_bytes, packets: r_packets, errors: r_errors, dropped: r_dropped };
    let transmit = Direction { bytes: t_bytes, packets: t_packets, errors: t_errors, dropped: t_dropped };
    Some((name, Interface { index: None, receive, transmit }))
}

#[derive(Debug)]
struct Network {
    file: KeptFile,
    sys_net: PathBuf,
    buffer: Vec<u8>,
    previous: Previous<Interfaces>,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    Box::new(Network {
        file: KeptFile::new(host.resident().join("net/dev")),
        sys_net: host.sys.join("class/net"),
        buffer: Vec::new(),
        previous: Previous::default(),
    })
}

impl Collector for Network {
    fn collect(&mut self, moment: &Moment, chosen: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        let mut interfaces = parse(self.file.read()?);
        for (name, interface) in interfaces.iter_mut().take(INTERFACES_IDENTIFIED_MAX) {
            interface.index = self.index(name);
        }
        if chosen.contains(&MetricName::Network) {
            push_series(&interfaces, into);
        }
        self.previous
            .step(moment, interfaces, |before, now, elapsed| rates(before, now, elapsed, chosen, into));
        Ok(())
    }
}

impl Network {
    /// `None` where /sys does not show this network namespace; then the name alone must do.
    fn index(&mut self, name: &str) -> Option<u64> {
        let path = self.sys_net.join(name).join("ifindex");
        integer(read_once(&path, &mut self.buffer).ok()?.trim_ascii())
    }
}

/// Only interfaces that are in both readings and went forward count; with none of them there is no rate.
fn rates(before: &Interfaces, now: &Interfaces, elapsed: Duration, chosen: &Chosen, into: &mut Reading) {
    let (mut receive, mut transmit) = (None, None);
    for (name, now) in now {
        let Some(before) = before.get(name).filter(|before| before.index == now.index) else { continue };
        match (step(before.receive.bytes, now.receive.bytes), step(before.transmit.bytes, now.transmit.bytes))
        {
            (Step::Forward(received), Step::Forward(transmitted)) => {
                add(&mut receive, received);
                add(&mut transmit, transmitted);
            }
            (Step::Reset, _) | (_, Step::Reset) => into.reset(name),
        }
    }
    let rate = |bytes: Option<u64>, name| {
        Some(megabytes_per_second(bytes.filter(|_| chosen.contains(&name))?, elapsed))
    };
    into.metrics.net_in_mb = rate(receive, MetricName::NetIn);
    into.metrics.net_out_mb = rate(transmit, MetricName::NetOut);
}

/// An interface that never carried anything is left out.
fn push_series(interfaces: &Interfaces, into: &mut Reading) {
    let used = |interface: &Interface| interface.receive.packets > 0 || interface.transmit.packets > 0;
    for (name, interface) in interfaces.iter().filter(|(_, interface)| used(interface)) {
        for (label, direction) in [("receive", interface.receive), ("transmit", interface.transmit)] {
            let attributes = [("device", name.as_str()), ("direction", label)];
            into.push("system.network.io", &attributes, direction.bytes as f64);
            into.push("system.network.packets", &attributes, direction.packets as f64);
            into.push("system.network.errors", &attributes, direction.errors as f64);
            into.push("system.network.dropped", &attributes, direction.dropped as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEV: &[u8] = b"Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier\n\
        \x20   lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0\n\
        \x20 eth0:206908031   11348    1    2    0     0          0         0   811739    7708    3    4    0     0       0\n";

    fn interfaces(list: &[(&str, u64, u64, u64)]) -> Interfaces {
        let entry = |(name, index, received, transmitted): &(&str, u64, u64, u64)| {
            let direction = |bytes: u64| Direction { bytes, packets: 1, ..Direction::default() };
            let (receive, transmit) = (direction(*received), direction(*transmitted));
            ((*name).to_owned(), Interface { index: Some(*index), receive, transmit })
        };
        list.iter().map(entry).collect()
    }

    /// MB per second in and out over two seconds.
    fn rate(
        before: &[(&str, u64, u64, u64)],
        now: &[(&str, u64, u64, u64)],
    ) -> (Option<f64>, Option<f64>, Vec<String>) {
        let mut reading = Reading::default();
        let chosen = Chosen::from([MetricName::NetIn, MetricName::NetOut]);
        rates(&interfaces(before), &interfaces(now), Duration::from_secs(2), &chosen, &mut reading);
        (reading.metrics.net_in_mb, reading.metrics.net_out_mb, reading.resets)
    }

    #[test]
    fn headings_are_skipped_and_a_number_may_touch_the_colon() {
        let interfaces = parse(DEV);
        assert_eq!(interfaces.keys().collect::<Vec<_>>(), ["eth0", "lo"]);
        let eth0 = interfaces["eth0"];
        assert_eq!(eth0.receive, Direction { bytes: 206_908_031, packets: 11_348, errors: 1, dropped: 2 });
        assert_eq!(eth0.transmit, Direction { bytes: 811_739, packets: 7_708, errors: 3, dropped: 4 });
    }

    #[test]
    fn a_name_may_hold_a_colon_and_any_byte() {
        let line = b"eth0:1\xff: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        assert_eq!(parse_line(line).unwrap().0, "eth0:1\u{fffd}");
    }

    #[test]
    fn the_total_is_per_second_over_all_interfaces_lo_included() {
        let (received, transmitted, _) = rate(
            &[("lo", 1, 0, 0), ("eth0", 2, 0, 0)],
            &[("lo", 1, 1 << 20, 1 << 20), ("eth0", 2, 3 << 20, 1 << 20)],
        );
        assert_eq!((received, transmitted), (Some(2.0), Some(1.0)));
    }

    #[test]
    fn an_interface_just_plugged_in_brings_no_spike() {
        let (received, ..) = rate(&[("lo", 1, 0, 0)], &[("lo", 1, 0, 0), ("eth1", 3, 1 << 40, 0)]);
        assert_eq!(received, Some(0.0));
    }

    #[test]
    fn another_interface_under_the_same_name_brings_no_spike() {
        let (received, _, resets) = rate(&[("eth0", 2, 100, 100)], &[("eth0", 7, 1 << 40, 1 << 40)]);
        assert_eq!((received, resets.len()), (None, 0));
    }

    #[test]
    fn a_32_bit_counter_that_wraps_keeps_its_rate_and_one_that_was_reset_loses_it() {
        let end = (1 << 32) - (1 << 20);
        assert_eq!(rate(&[("eth0", 2, end, 0)], &[("eth0", 2, 1 << 20, 0)]).0, Some(1.0));
        let (received, _, resets) = rate(&[("eth0", 2, 1 << 30, 0)], &[("eth0", 2, 1 << 20, 0)]);
        assert_eq!((received, resets), (None, vec!["eth0".to_owned()]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _interfaces = parse(&bytes);
            let _interface = parse_line(&bytes);
        }

        #[test]
        fn no_numbers_make_a_negative_rate(before: [u64; 4], now: [u64; 4]) {
            let list = |n: [u64; 4]| [("eth0", 1, n[0], n[1]), ("eth1", 2, n[2], n[3])];
            let (received, transmitted, _) = rate(&list(before), &list(now));
            prop_assert!(received.is_none_or(|rate| rate >= 0.0) && transmitted.is_none_or(|rate| rate >= 0.0));
        }
    }
}
