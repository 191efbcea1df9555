//! Who knocks: the first message of a stream, parsed into what the rest of the server may rely on.

use std::collections::BTreeMap;
use std::time::Duration;

use model::id::{AgentId, IdError, Incarnation};
use model::limit;
use model::presence::Collection;
use model::truth::ConfigTruth;
use proto::key::Client;
use proto::{PROTOCOL, convert, wire};

/// An agent as it introduced itself. Texts are within their limits and free of control characters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Introduction {
    pub agent_id: AgentId,
    pub client: Client,
    pub incarnation: Incarnation,
    /// The agent's own count of its streams; 0 when it does not count.
    pub connection: u64,
    pub host: String,
    pub os: String,
    pub version: String,
    pub boot_id: String,
    pub labels: BTreeMap<String, String>,
    pub truth: ConfigTruth,
    pub collection: Collection,
    pub interval: Duration,
}

/// Why a hello is not acceptable. The text goes back to the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("this server speaks protocol {PROTOCOL}, the hello says {0}: use a matching version")]
    Protocol(u32),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("{count} labels, at most {} are allowed", limit::LABELS_MAX)]
    LabelCount { count: usize },
    #[error("{what} has {bytes} bytes, at most {} are allowed", limit::ATTRIBUTE_BYTES_MAX)]
    TooLong { what: &'static str, bytes: usize },
    #[error("{what} has a control character")]
    Control { what: &'static str },
    #[error("a label has no name")]
    UnnamedLabel,
}

/// Checks a [`wire::Hello`].
pub(crate) fn introduce(hello: wire::Hello) -> Result<Introduction, HelloError> {
    if hello.protocol != PROTOCOL {
        return Err(HelloError::Protocol(hello.protocol));
    }
    if hello.labels.len() > limit::LABELS_MAX {
        return Err(HelloError::LabelCount { count: hello.labels.len() });
    }
    let mut labels = BTreeMap::new();
    for (name, value) in hello.labels {
        if name.is_empty() {
            return Err(HelloError::UnnamedLabel);
        }
        labels.insert(text("label name", name)?, text("label value", value)?);
    }
    Ok(Introduction {
        agent_id: AgentId::new(hello.agent_id)?,
        client: Client::Session,
        incarnation: Incarnation::new(hello.incarnation)?,
        connection: hello.connection,
        host: text("host", hello.host)?,
        os: text("os", hello.os)?,
        version: text("version", hello.version)?,
        boot_id: text("boot id", hello.boot_id)?,
        labels,
        truth: hello.config_truth.as_ref().map(truth).unwrap_or_default(),
        collection: convert::collection_from_wire(hello.collection),
        interval: Duration::from_millis(hello.interval_ms).min(limit::INTERVAL_MAX),
    })
}

/// A StreamMetrics client has no hello: its first message names it, its address stands for its host.
pub(crate) fn introduce_client(
    agent_id: &str,
    incarnation: Incarnation,
    host: String,
) -> Result<Introduction, HelloError> {
    Ok(Introduction {
        agent_id: AgentId::new(agent_id)?,
        client: Client::StreamMetrics,
        incarnation,
        connection: 0,
        host,
        os: String::new(),
        version: String::new(),
        boot_id: String::new(),
        labels: BTreeMap::new(),
        truth: ConfigTruth::default(),
        collection: Collection::Collecting,
        interval: Duration::ZERO,
    })
}

/// A config truth with its texts cut to what an inventory entry should hold.
pub(crate) fn truth(truth: &wire::ConfigTruth) -> ConfigTruth {
    let mut truth = convert::truth_from_wire(truth);
    for mark in [&mut truth.received, &mut truth.running, &mut truth.last_good].into_iter().flatten() {
        cut(&mut mark.digest, limit::ATTRIBUTE_BYTES_MAX);
    }
    if let Some(failure) = &mut truth.last_failed {
        cut(&mut failure.mark.digest, limit::ATTRIBUTE_BYTES_MAX);
        cut(&mut failure.path, limit::ATTRIBUTE_BYTES_MAX);
        cut(&mut failure.message, limit::METADATA_BYTES_MAX);
    }
    truth
}

fn cut(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

fn text(what: &'static str, text: String) -> Result<String, HelloError> {
    if text.len() > limit::ATTRIBUTE_BYTES_MAX {
        return Err(HelloError::TooLong { what, bytes: text.len() });
    }
    if text.chars().any(char::is_control) {
        return Err(HelloError::Control { what });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> wire::Hello {
        wire::Hello {
            protocol: PROTOCOL,
            agent_id: "agent-001".to_owned(),
            incarnation: "i1".to_owned(),
            ..wire::Hello::default()
        }
    }

    fn refusal(hello: wire::Hello) -> String {
        introduce(hello).unwrap_err().to_string()
    }

    #[test]
    fn a_hello_of_another_protocol_learns_which_one_is_spoken() {
        assert!(refusal(wire::Hello { protocol: 9, ..hello() }).contains("speaks protocol 1"));
    }

    #[test]
    fn ids_and_texts_that_could_break_a_key_or_a_line_are_refused() {
        assert!(introduce(hello()).is_ok());
        for agent_id in ["", "a\nb", "a/b", &"x".repeat(10_000)] {
            assert!(introduce(wire::Hello { agent_id: agent_id.to_owned(), ..hello() }).is_err());
        }
        assert!(refusal(wire::Hello { host: "a\u{1b}[2J".to_owned(), ..hello() }).contains("control"));
        assert!(refusal(wire::Hello { os: "x".repeat(300), ..hello() }).contains("300 bytes"));
    }

    #[test]
    fn labels_have_a_number_and_a_length() {
        let labels =
            |labels: Vec<(String, String)>| wire::Hello { labels: labels.into_iter().collect(), ..hello() };
        let many = (0..65).map(|i| (format!("l{i}"), String::new())).collect();
        assert!(refusal(labels(many)).contains("65 labels"));
        assert!(refusal(labels(vec![("role".to_owned(), "x".repeat(300))])).contains("300 bytes"));
        assert!(refusal(labels(vec![(String::new(), "x".to_owned())])).contains("no name"));
    }
}
