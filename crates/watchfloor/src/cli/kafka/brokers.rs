//! Brokers as people type them: `localhost:9092`, `a:9092,b:9092`, or with `kafka://` before them, as for `--bus`.

use std::ffi::OsString;

const FLAG: &str = "--kafka";

/// Why a text names no brokers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no Kafka brokers: write host:port, joined by commas")]
pub(super) struct BrokersError(String);

/// The value of `--kafka=`. A host without a port has Kafka's own.
pub(super) fn parse(text: &str) -> Result<String, BrokersError> {
    let brokers = bare(text);
    let plain = |broker: &str| !broker.trim().is_empty() && !broker.contains(['/', ' ']);
    if brokers.split(',').all(plain) { Ok(brokers.to_owned()) } else { Err(BrokersError(text.to_owned())) }
}

/// The command line with `--kafka host:port` made into `--kafka=host:port`.
///
/// The value may be missing, so it is one only if it looks like one: `send-command --kafka agent-001 STATUS` names an
/// agent. An agent called `host:9092` is named before the flag.
pub(crate) fn joined(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut only_names = false;
    for word in words {
        let is_value = !only_names && joined.last().is_some_and(|last| last == FLAG);
        match word.to_str().filter(|text| is_value && is_hosts_and_ports(bare(text))) {
            Some(brokers) => {
                joined.pop();
                joined.push(format!("{FLAG}={brokers}").into());
            }
            None => {
                only_names |= word == "--";
                joined.push(word);
            }
        }
    }
    joined
}

fn bare(text: &str) -> &str {
    text.strip_prefix("kafka://").unwrap_or(text).trim_end_matches('/')
}

fn is_hosts_and_ports(text: &str) -> bool {
    text.split(',').all(|broker| {
        broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(words: &str) -> String {
        let words = joined(words.split(' ').map(OsString::from));
        words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_looks_like_brokers_after_the_flag_is_its_value() {
        for (typed, meant) in [
            ("get-metrics --kafka h:1 agent-001", "get-metrics --kafka=h:1 agent-001"),
            ("get-metrics --kafka kafka://h:1,[::1]:2/", "get-metrics --kafka=kafka://h:1,[::1]:2/"),
        ] {
            assert_eq!(join(typed), meant);
        }
        for as_typed in [
            "send-command --kafka agent-001 STATUS",
            "send-command --kafka zone:a:b STATUS",
            "send-command agent-001 STATUS --kafka",
            "get-metrics --kafka=h:1 x:9092",
            "get-metrics --kafka --follow x:9092",
            "get-metrics -- --kafka x:9092",
        ] {
            assert_eq!(join(as_typed), as_typed);
        }
    }

    #[test]
    fn brokers_are_hosts_joined_by_commas() {
        assert_eq!(parse("kafka://a:1,b/").unwrap(), "a:1,b");
        for text in ["", "a:1,", "http://h:1", "a b"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
