//! Kafka and etcd as flags, files and environment name them, and what the backends take. Checked before anything connects.
//!
//! Two rules hold for both: secrets come by file or environment, because every process list shows flags; and plain text
//! leaves this machine only when the operator says so.

mod etcd;
mod kafka;
mod topics;

use std::net::IpAddr;

pub(crate) use etcd::EtcdFlags;
pub(crate) use kafka::KafkaFlags;
pub(crate) use topics::{TopicFlags, TopicNames};

/// Plain text beyond loopback: to backends, and on our own listeners.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct PlainText {
    /// Plain text beyond loopback is meant, for what listens here and for Kafka and etcd.
    #[arg(long, env = "WATCHFLOOR_INSECURE", hide_env_values = true)]
    pub(crate) insecure: bool,
}

/// What was said about Kafka or etcd and cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExternalError {
    #[error(
        "{what} at {host} is another machine, and would be spoken to in plain text: {remedy}, or add --insecure to say that \
         you mean it"
    )]
    Exposed { what: &'static str, host: String, remedy: &'static str },
    #[error("cannot read {flag} {path}: {source}")]
    Read { flag: &'static str, path: String, source: std::io::Error },
    #[error("{path}, line {line}: {text:?} is not name=value")]
    Property { path: String, line: usize, text: String },
    #[error("{given} is given without {missing}: give both, or neither")]
    Without { given: &'static str, missing: &'static str },
    #[error("the topic {given:?} is not known: name one of {known}")]
    Topic { given: String, known: String },
    #[error("{given:?} is no name for a Kafka topic: 1 to 249 letters, digits, '.', '_' and '-'")]
    TopicName { given: String },
    #[error("two topics would be called {name}: give each a name of its own")]
    OneName { name: String },
    #[error(transparent)]
    Pem(#[from] runtime::tls::PemError),
    #[error(transparent)]
    Etcd(#[from] backends::registry::etcd::OptionsError),
}

/// Whether `host:port` can be another machine. A name can be anybody's, but for the one that never is.
fn is_remote(address: &str) -> bool {
    let host = match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => address,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    !host.eq_ignore_ascii_case("localhost") && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read(flag: &'static str, path: &std::path::Path) -> Result<Vec<u8>, ExternalError> {
    let refuse = |source| ExternalError::Read { flag, path: path.display().to_string(), source };
    std::fs::read(path).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_its_name_are_this_machine() {
        for here in ["localhost:9092", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:2379"] {
            assert!(!is_remote(here), "{here}");
        }
        for there in ["kafka:9092", "10.0.0.1:9092", "localhost.example.org:1", "[fe80::1]:2379", ""] {
            assert!(is_remote(there), "{there}");
        }
    }
}
