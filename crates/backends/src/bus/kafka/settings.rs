//! The properties of each kind of client. librdkafka's CONFIGURATION.md describes them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::bus::BusError;

/// What the laws of the bus rest on, and so cannot be chosen.
const RESERVED: [&str; 14] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "message.timeout.ms",
    "metadata.broker.list",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

/// For all clients. A broker that was away is tried again at least every two seconds.
const COMMON: [(&str, &str); 5] = [
    ("client.id", "watchfloor"),
    // Kafka's own limit for a batch; the bus's limit for a record lies below it.
    ("message.max.bytes", "1048588"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "2000"),
    ("socket.keepalive.enable", "true"),
];

const PUBLISHING: [(&str, &str); 8] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // As Kafka's own clients: a key lands in the same partition whoever publishes it.
    ("partitioner", "murmur2_random"),
    ("compression.type", "lz4"),
    // Each call waits for its report, so that a longer linger only delays.
    ("linger.ms", "5"),
    // What one process may hold for brokers that are slow; past it publishing waits.
    ("queue.buffering.max.kbytes", "65536"),
    ("queue.buffering.max.messages", "100000"),
    ("statistics.interval.ms", "5000"),
];

const READING: [(&str, &str); 12] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // Law 4: an offset that is gone continues at the earliest; so does a group without commits.
    ("auto.offset.reset", "earliest"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    // One reader's memory: what librdkafka fetches ahead.
    ("queued.max.messages.kbytes", "8192"),
    ("queued.min.messages", "10000"),
    ("fetch.max.bytes", "8388608"),
    ("fetch.error.backoff.ms", "200"),
    // How long fetching rests once that much is fetched: with librdkafka's own second, a reader that catches up mostly waits.
    ("fetch.queue.backoff.ms", "20"),
    // Who leads a partition is looked at anew this often, even when no error said that it changed.
    ("topic.metadata.refresh.interval.ms", "20000"),
    // Every member lets go before any begins anew, so that no record goes to two members.
    ("partition.assignment.strategy", "range"),
];

/// Group of a client that joins none: librdkafka wants a name before it lets partitions be assigned.
const NO_GROUP: &str = "watchfloor-reader";

/// How to make every client of one bus.
#[derive(Clone)]
pub(super) struct Settings {
    bootstrap: String,
    properties: BTreeMap<String, String>,
    pub(super) replication: Option<u16>,
    pub(super) answer_within: Duration,
    pub(super) publish_within: Duration,
}

impl Settings {
    pub(super) fn new(
        bootstrap: &[String],
        properties: BTreeMap<String, String>,
        replication: Option<u16>,
        answer_within: Duration,
        publish_within: Duration,
    ) -> Result<Self, BusError> {
        if bootstrap.iter().all(|broker| broker.trim().is_empty()) {
            return Err(BusError::Store { reason: "no Kafka broker is named: give host:port".to_owned() });
        }
        if let Some(name) = properties.keys().find(|name| RESERVED.contains(&name.as_str())) {
            let reason = format!("the Kafka property {name} cannot be chosen: the bus's promises rest on it");
            return Err(BusError::Store { reason });
        }
        Ok(Self { bootstrap: bootstrap.join(","), properties, replication, answer_within, publish_within })
    }

    pub(super) fn publishing(&self) -> ClientConfig {
        let mut config = self.config(&PUBLISHING);
        config.set("message.timeout.ms", self.publish_within.as_millis().to_string());
        config
    }

    /// For a reader of its own, who never commits.
    pub(super) fn reading(&self) -> ClientConfig {
        self.member(NO_GROUP)
    }

    pub(super) fn member(&self, group: &str) -> ClientConfig {
        let mut config = self.config(&READING);
        config.set("group.id", group);
        config
    }

    /// For questions: a consumer, because asking about a topic must not create it.
    pub(super) fn asking(&self) -> ClientConfig {
        self.config(&READING)
    }

    pub(super) fn administering(&self) -> ClientConfig {
        self.config(&[])
    }

    fn config(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in COMMON.iter().chain(own) {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }
}

impl fmt::Debug for Settings {
    /// Without the values of properties: passwords are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(properties: &[(&str, &str)]) -> Result<Settings, BusError> {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let second = Duration::from_secs(1);
        Settings::new(&["127.0.0.1:9".to_owned()], properties.collect(), None, second, second)
    }

    #[test]
    fn a_property_the_laws_rest_on_is_refused_by_name() {
        let error = settings(&[("acks", "0")]).unwrap_err().to_string();
        assert!(error.contains("acks"), "{error}");
    }

    #[test]
    fn a_property_beats_ours_and_reaches_every_client() {
        let settings = settings(&[("linger.ms", "50"), ("security.protocol", "ssl")]).unwrap();
        assert_eq!(settings.publishing().get("linger.ms"), Some("50"));
        for config in [settings.publishing(), settings.reading(), settings.asking(), settings.administering()]
        {
            assert_eq!(config.get("security.protocol"), Some("ssl"));
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let settings = settings(&[("sasl.password", "hunter2")]).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
