//! Sockets and TCP, from `/proc/<pid>/net/{sockstat,sockstat6,snmp,netstat}` (proc_pid_net(5)). Four `pread`s, together
//! 60 µs, no state. These are the kernel's own counts: `/proc/net/tcp`, which lists every connection and takes
//! milliseconds on a busy machine, is never read.

use super::source::{Host, KeptFile};
use super::text::{integer, lines, words};
use super::{Chosen, CollectError, Collector, Moment, Reading};

/// Where a count is found and what it is called.
struct Count {
    /// The line's first word.
    line: &'static [u8],
    field: &'static [u8],
    name: &'static str,
    attributes: &'static [(&'static str, &'static str)],
}

const fn count(
    line: &'static [u8],
    field: &'static [u8],
    name: &'static str,
    attributes: &'static [(&'static str, &'static str)],
) -> Count {
    Count { line, field, name, attributes }
}

const CONNECTIONS: &str = "system.network.connections";
const SOCKETS: &str = "system.linux.sockets";
const OPENS: &str = "system.linux.tcp.opens";
const SEGMENTS: &str = "system.linux.tcp.segments";
const FAILURES: &str = "system.linux.tcp.failures";

const SOCKSTAT: [Count; 4] = [
    count(b"TCP:", b"inuse", SOCKETS, &[("family", "ipv4"), ("protocol", "tcp")]),
    count(b"TCP:", b"orphan", CONNECTIONS, &[("protocol", "tcp"), ("state", "ORPHAN")]),
    count(b"TCP:", b"tw", CONNECTIONS, &[("protocol", "tcp"), ("state", "TIME_WAIT")]),
    count(b"UDP:", b"inuse", SOCKETS, &[("family", "ipv4"), ("protocol", "udp")]),
];
const SOCKSTAT6: [Count; 2] = [
    count(b"TCP6:", b"inuse", SOCKETS, &[("family", "ipv6"), ("protocol", "tcp")]),
    count(b"UDP6:", b"inuse", SOCKETS, &[("family", "ipv6"), ("protocol", "udp")]),
];
const SNMP: [Count; 9] = [
    count(b"Tcp:", b"CurrEstab", CONNECTIONS, &[("protocol", "tcp"), ("state", "ESTABLISHED")]),
    count(b"Tcp:", b"ActiveOpens", OPENS, &[("side", "active")]),
    count(b"Tcp:", b"PassiveOpens", OPENS, &[("side", "passive")]),
    count(b"Tcp:", b"InSegs", SEGMENTS, &[("kind", "received")]),
    count(b"Tcp:", b"OutSegs", SEGMENTS, &[("kind", "sent")]),
    count(b"Tcp:", b"RetransSegs", SEGMENTS, &[("kind", "sent_again")]),
    count(b"Tcp:", b"AttemptFails", FAILURES, &[("kind", "attempt_failed")]),
    count(b"Tcp:", b"EstabResets", FAILURES, &[("kind", "reset")]),
    count(b"Tcp:", b"InErrs", FAILURES, &[("kind", "bad_segment")]),
];
const NETSTAT: [Count; 2] = [
    count(b"TcpExt:", b"ListenOverflows", FAILURES, &[("kind", "listen_overflow")]),
    count(b"TcpExt:", b"ListenDrops", FAILURES, &[("kind", "listen_drop")]),
];

/// A field of a line that alternates names and numbers: `TCP: inuse 4 orphan 0`.
pub(super) fn parse_pairs(text: &[u8], line: &[u8], field: &[u8]) -> Option<u64> {
    let mut words = lines(text).map(words).find_map(|mut words| (words.next()? == line).then_some(words))?;
    while let Some(name) = words.next() {
        let number = words.next()?;
        if name == field {
            return integer(number);
        }
    }
    None
}

/// A field of two lines, the first with the names and the second with the numbers.
pub(super) fn parse_columns(text: &[u8], line: &[u8], field: &[u8]) -> Option<u64> {
    let mut rows = lines(text).map(words).filter_map(|mut words| (words.next()? == line).then_some(words));
    let (mut names, mut numbers) = (rows.next()?, rows.next()?);
    let column = names.position(|name| name == field)?;
    numbers.nth(column).and_then(integer)
}

type Parse = fn(&[u8], &[u8], &[u8]) -> Option<u64>;

#[derive(Debug)]
struct Tcp {
    sockstat: KeptFile,
    sockstat6: KeptFile,
    snmp: KeptFile,
    netstat: KeptFile,
}

pub(super) fn build(host: &Host) -> Box<dyn Collector> {
    let net = host.resident().join("net");
    let file = |name| KeptFile::new(net.join(name));
    Box::new(Tcp {
        sockstat: file("sockstat"),
        sockstat6: file("sockstat6"),
        snmp: file("snmp"),
        netstat: file("netstat"),
    })
}

impl Collector for Tcp {
    fn collect(&mut self, _: &Moment, _: &Chosen, into: &mut Reading) -> Result<(), CollectError> {
        push(&SOCKSTAT, parse_pairs, self.sockstat.read()?, into);
        // A kernel without IPv6 has no such file.
        push(&SOCKSTAT6, parse_pairs, self.sockstat6.read_if_present()?.unwrap_or_default(), into);
        push(&SNMP, parse_columns, self.snmp.read()?, into);
        push(&NETSTAT, parse_columns, self.netstat.read()?, into);
        Ok(())
    }
}

fn push(counts: &[Count], parse: Parse, text: &[u8], into: &mut Reading) {
    for count in counts {
        if let Some(value) = parse(text, count.line, count.field) {
            into.push(count.name, count.attributes, value as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pair_is_found_on_its_own_line_only() {
        let text = b"sockets: used 19\nTCP: inuse 4 orphan 1 tw 2\nUDP: inuse 7 mem 0\n";
        assert_eq!(parse_pairs(text, b"TCP:", b"tw"), Some(2));
        assert_eq!(parse_pairs(text, b"UDP:", b"inuse"), Some(7));
        assert_eq!(parse_pairs(text, b"UDP:", b"tw"), None);
        assert_eq!(parse_pairs(b"TCP: inuse", b"TCP:", b"inuse"), None);
    }

    #[test]
    fn a_column_is_found_by_name_so_new_columns_do_no_harm() {
        let text =
            b"Ip: A B\nIp: 1 2\nTcp: MaxConn New CurrEstab\nTcp: -1 5 77\nTcpExt: CurrEstab\nTcpExt: 9\n";
        assert_eq!(parse_columns(text, b"Tcp:", b"CurrEstab"), Some(77));
        assert_eq!(parse_columns(text, b"Tcp:", b"MaxConn"), None);
        assert_eq!(parse_columns(text, b"Tcp:", b"Gone"), None);
        assert_eq!(parse_columns(b"Tcp: CurrEstab\n", b"Tcp:", b"CurrEstab"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, tail: Vec<u8>) {
            let text = [b"TCP: inuse ", &bytes[..], b"\nTCP: ", &tail[..]].concat();
            let _pair = parse_pairs(&text, b"TCP:", b"inuse");
            let _column = parse_columns(&text, b"TCP:", b"inuse");
        }
    }
}
