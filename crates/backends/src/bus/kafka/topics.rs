//! Creating topics, and telling where one that exists differs from what is wanted.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::questions::Questions;
use super::settings::Settings;
use super::{failure, refused};
use crate::bus::{BusError, Retention, TopicSpec};

/// Kafka removes whole segments; this many make up what a partition keeps.
const SEGMENTS: u64 = 10;
/// Kafka's own bounds for them: the least since 4.0, and the default.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1_048_576..=1_073_741_824;
/// Not less, so that no broker holds a file for every few minutes; not more, so that compaction comes to pass.
const SEGMENT_AGE: std::ops::RangeInclusive<u64> = 3_600_000..=604_800_000;
/// Between two looks whether a new topic has its leaders.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Creates what is missing and compares what is there.
pub(super) async fn ensure(
    settings: &Settings,
    questions: &Questions,
    topics: &[TopicSpec],
) -> Result<(), BusError> {
    let mut missing = Vec::new();
    let mut present = Vec::new();
    for topic in topics {
        match questions.width(&topic.name).await {
            Ok(found) => {
                check_width(topic, found)?;
                present.push(topic);
            }
            Err(BusError::NoSuchTopic { .. }) => missing.push(topic),
            Err(error) => return Err(error),
        }
    }
    if !missing.is_empty() {
        create(settings, &missing).await?;
        for topic in missing {
            check_width(topic, created(settings, questions, topic).await?)?;
        }
    }
    if !present.is_empty() {
        compare(settings, &present).await;
    }
    Ok(())
}

fn check_width(topic: &TopicSpec, found: u32) -> Result<(), BusError> {
    if found == topic.partitions {
        return Ok(());
    }
    Err(BusError::Unfit { topic: topic.name.clone(), found, wanted: topic.partitions })
}

async fn create(settings: &Settings, topics: &[&TopicSpec]) -> Result<(), BusError> {
    let properties: Vec<Vec<(&str, String)>> =
        topics.iter().map(|topic| properties(topic, settings.replication)).collect();
    // -1 is the brokers' own default.
    let replicas = settings.replication.map_or(-1, i32::from);
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&properties)
        .map(|(topic, properties)| {
            let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
            let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(replicas));
            properties.iter().fold(new, |new, (name, value)| new.set(name, value))
        })
        .collect();
    let admin = Admin::open(settings)?;
    let results = admin
        .client()
        .create_topics(&new, &options(settings))
        .await
        .map_err(|error| failure("topics", &error))?;
    for result in results {
        match result {
            // Another process may have been first.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                return Err(BusError::Unavailable {
                    reason: format!("{topic} could not be created: {code}"),
                });
            }
        }
    }
    Ok(())
}

pub(super) async fn remove(settings: &Settings, topic: &str) -> Result<(), BusError> {
    let admin = Admin::open(settings)?;
    let results = admin
        .client()
        .delete_topics(&[topic], &options(settings))
        .await
        .map_err(|error| failure(topic, &error))?;
    match results.into_iter().find_map(Result::err) {
        None => Ok(()),
        Some((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {
            Err(BusError::NoSuchTopic { topic: topic.to_owned() })
        }
        Some((_, code)) => {
            Err(BusError::Unavailable { reason: format!("{topic} could not be removed: {code}") })
        }
    }
}

/// Waits until the new topic can be read: brokers hear of it one after another.
async fn created(settings: &Settings, questions: &Questions, topic: &TopicSpec) -> Result<u32, BusError> {
    let deadline = Instant::now() + settings.answer_within;
    loop {
        match questions.extents(&topic.name).await {
            Err(BusError::NoSuchTopic { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            answer => return answer.map(|extents| u32::try_from(extents.len()).unwrap_or(u32::MAX)),
        }
    }
}

/// Says how topics that exist differ. They may be so on purpose, so nothing is changed.
async fn compare(settings: &Settings, topics: &[&TopicSpec]) {
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let described = match Admin::open(settings) {
        Ok(admin) => admin
            .client()
            .describe_configs(&resources, &options(settings))
            .await
            .map_err(|error| failure("topics", &error)),
        Err(error) => Err(error),
    };
    let described = match described {
        Ok(described) => described,
        Err(error) => return tracing::warn!(%error, "the settings of topics could not be looked at"),
    };
    for (topic, resource) in topics.iter().zip(described) {
        let Ok(resource) = resource else { continue };
        for (name, wanted) in properties(topic, settings.replication) {
            let found = resource.get(name).and_then(|entry| entry.value.as_deref());
            // Segments are a matter of taste.
            if found != Some(wanted.as_str()) && !name.starts_with("segment.") {
                let found = found.unwrap_or_default();
                tracing::warn!(topic = %topic.name, setting = name, found, wanted, "a topic differs from what is configured");
            }
        }
    }
}

fn options(settings: &Settings) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(settings.answer_within))
        .operation_timeout(Some(settings.answer_within))
}

fn properties(topic: &TopicSpec, replication: Option<u16>) -> Vec<(&'static str, String)> {
    let Retention { age, bytes, compacted } = topic.retention;
    let mut properties = vec![
        // Times of one partition never go back, whatever clocks publishers have.
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("cleanup.policy", if compacted { "compact" } else { "delete" }.to_owned()),
    ];
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX).min(i64::MAX as u64);
    properties
        .push(("segment.ms", (age / SEGMENTS).clamp(*SEGMENT_AGE.start(), *SEGMENT_AGE.end()).to_string()));
    if compacted {
        // A reader that is a little behind still sees every change.
        properties.push(("min.compaction.lag.ms", "60000".to_owned()));
    } else {
        // Kafka's limit is per partition, ours for the whole topic.
        let each = bytes / u64::from(topic.partitions.max(1));
        let limit = i64::try_from(each).ok().filter(|_| bytes != u64::MAX).unwrap_or(-1);
        properties.push(("retention.ms", age.to_string()));
        properties.push(("retention.bytes", limit.to_string()));
        let segment = (each / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        properties.push(("segment.bytes", segment.to_string()));
    }
    if replication.is_some_and(|replicas| replicas >= 3) {
        // One replica may be away, and what is acknowledged is on two.
        properties.push(("min.insync.replicas", "2".to_owned()));
        properties.push(("unclean.leader.election.enable", "false".to_owned()));
    }
    properties
}

/// A client for administration, which waits for its thread when it is dropped.
struct Admin(Option<AdminClient<DefaultClientContext>>);

impl Admin {
    fn open(settings: &Settings) -> Result<Self, BusError> {
        settings.administering().create().map(|client| Self(Some(client))).map_err(|error| refused(&error))
    }

    fn client(&self) -> &AdminClient<DefaultClientContext> {
        self.0.as_ref().expect("it is taken out only by dropping")
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let client = self.0.take();
        drop(tokio::task::spawn_blocking(move || drop(client)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(bytes: u64, compacted: bool) -> TopicSpec {
        let retention = Retention { age: Duration::from_secs(86_400), bytes, compacted };
        TopicSpec { name: "t".to_owned(), partitions: 4, retention }
    }

    fn value(topic: &TopicSpec, name: &str) -> Option<String> {
        properties(topic, None).into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    #[test]
    fn bytes_of_a_topic_are_shared_by_its_partitions() {
        assert_eq!(value(&topic(400_000_000, false), "retention.bytes").as_deref(), Some("100000000"));
        assert_eq!(value(&topic(400_000_000, false), "segment.bytes").as_deref(), Some("10000000"));
        assert_eq!(value(&topic(u64::MAX, false), "retention.bytes").as_deref(), Some("-1"));
    }

    #[test]
    fn a_compacted_topic_loses_nothing_by_age_or_size() {
        let topic = topic(1, true);
        assert_eq!(value(&topic, "cleanup.policy").as_deref(), Some("compact"));
        assert_eq!((value(&topic, "retention.ms"), value(&topic, "retention.bytes")), (None, None));
    }
}
