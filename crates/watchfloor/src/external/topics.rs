//! The four topics: what they are called, how wide they are, and for how long they keep their records.

use std::collections::BTreeMap;
use std::time::Duration;

use backends::bus::{Retention, TopicSpec};
use proto::record::{AGENT_STATUS, COMMAND_RESPONSES, COMMANDS, MONITORING_DATA};

use super::ExternalError;
use super::kafka::HEADING;
use crate::cli::parse;

const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1024 * 1024;
const KINDS: [&str; 4] = [MONITORING_DATA, COMMANDS, COMMAND_RESPONSES, AGENT_STATUS];
/// Kafka's own limit (`Topic.java`).
const NAME_CHARS_MAX: usize = 249;

/// What the topics are called. Whoever reads or writes them is given the same.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TopicNames {
    /// Call a topic otherwise, such as commands=prod.commands. Repeatable, or joined by commas.
    #[arg(long = "topic", value_name = "TOPIC=NAME", env = "WATCHFLOOR_TOPICS", value_delimiter = ',',
          value_parser = parse::pair, help_heading = TOPICS)]
    given: Vec<(String, String)>,
}

/// Names, widths and retention. Every process of a fleet is given the same.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TopicFlags {
    #[command(flatten)]
    pub(crate) names: TopicNames,
    /// Partitions of each topic. Order is kept per agent; more let more readers of a group share the work.
    #[arg(long, value_name = "N", env = "WATCHFLOOR_PARTITIONS", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=256), help_heading = TOPICS)]
    partitions: u32,
    /// Copies of each partition, where a topic is created in Kafka; the brokers' default when absent. 3 survive a broker.
    #[arg(long, value_name = "N", env = "WATCHFLOOR_REPLICATION", value_parser = clap::value_parser!(u16).range(1..=9),
          help_heading = HEADING)]
    pub(crate) replication: Option<u16>,
    /// How long records stay on the bus.
    #[arg(long, value_name = "DURATION", env = "WATCHFLOOR_RETENTION", default_value = "168h",
          value_parser = parse::retention, help_heading = TOPICS)]
    retention: Duration,
    /// How many MiB of measurements stay at most; the other topics take far less.
    #[arg(long, value_name = "MIB", env = "WATCHFLOOR_RETENTION_MIB", default_value_t = 4096,
          value_parser = clap::value_parser!(u64).range(64..=1 << 30), help_heading = TOPICS)]
    retention_mib: u64,
}

const TOPICS: &str = "Topics";

impl Default for TopicFlags {
    /// As the flags' own defaults.
    fn default() -> Self {
        let names = TopicNames::default();
        Self { names, partitions: 8, replication: None, retention: DAY * 7, retention_mib: 4096 }
    }
}

impl TopicFlags {
    /// What must exist before any role can work.
    pub(crate) fn specs(&self) -> [TopicSpec; 4] {
        // A week of 20 agents at 5 s with every collector on is some 10 GiB; without asking we take less.
        let data = Retention { age: self.retention, bytes: self.retention_mib * MIB, compacted: false };
        let orders = Retention { age: self.retention, bytes: 128 * MIB, compacted: false };
        let status = Retention { age: self.retention, bytes: 64 * MIB, compacted: true };
        let spec = |name: &str, retention| TopicSpec {
            name: name.to_owned(),
            partitions: self.partitions,
            retention,
        };
        [
            spec(MONITORING_DATA, data),
            spec(COMMANDS, orders),
            spec(COMMAND_RESPONSES, orders),
            spec(AGENT_STATUS, status),
        ]
    }
}

impl TopicNames {
    /// Our name of a topic, and what it is to be called. Those that keep their name are absent.
    pub(crate) fn real(&self) -> Result<BTreeMap<&'static str, String>, ExternalError> {
        let mut names = BTreeMap::new();
        for (given, name) in &self.given {
            let Some(kind) = KINDS.into_iter().find(|kind| kind == given) else {
                return Err(ExternalError::Topic { given: given.clone(), known: KINDS.join(", ") });
            };
            if !is_name(name) {
                return Err(ExternalError::TopicName { given: name.clone() });
            }
            names.insert(kind, name.clone());
        }
        let called = |kind: &'static str| names.get(kind).map_or(kind, String::as_str);
        for (index, kind) in KINDS.into_iter().enumerate() {
            if KINDS[..index].iter().any(|other| called(other) == called(kind)) {
                return Err(ExternalError::OneName { name: called(kind).to_owned() });
            }
        }
        Ok(names)
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(given: &[(&str, &str)]) -> Result<BTreeMap<&'static str, String>, ExternalError> {
        let given = given.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect();
        TopicNames { given }.real()
    }

    #[test]
    fn a_topic_can_be_called_otherwise() {
        let named = names(&[("commands", "prod.commands")]).unwrap();
        assert_eq!(named, BTreeMap::from([(COMMANDS, "prod.commands".to_owned())]));
    }

    #[test]
    fn unknown_topics_bad_names_and_one_name_for_two_are_refused() {
        assert!(matches!(names(&[("metrics", "m")]), Err(ExternalError::Topic { .. })));
        assert!(matches!(names(&[("commands", "a b")]), Err(ExternalError::TopicName { .. })));
        assert!(matches!(names(&[("commands", "..")]), Err(ExternalError::TopicName { .. })));
        assert!(matches!(names(&[("commands", AGENT_STATUS)]), Err(ExternalError::OneName { .. })));
        let swapped = [("commands", COMMAND_RESPONSES), ("command-responses", COMMANDS)];
        assert!(names(&swapped).is_ok());
    }
}
