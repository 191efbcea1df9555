//! The laws of one `StreamMetrics` stream: the seeds' protocol, as a value.
//!
//! The client names itself in its first message. Incarnation, sequence and interval are the server's to give or to
//! observe, since the client has no words for them.

use std::collections::VecDeque;
use std::time::Duration;

use model::id::{AgentId, Incarnation, Sequence};
use model::sample::{Tick, Timestamp};
use proto::columns::{bounded_metadata, metrics_from_wire};
use proto::convert;
use proto::wire;

use crate::hello::{HelloError, Introduction, introduce_client};
use crate::orders::Order;
use crate::records::{self, Encoded};

/// Gaps between messages that are remembered; their median is the interval.
const GAPS: usize = 8;

/// One stream from its first message on.
#[derive(Debug)]
pub(crate) struct ClientStream {
    agent: AgentId,
    incarnation: Incarnation,
    sequence: Sequence,
    last: Option<Duration>,
    gaps: VecDeque<Duration>,
}

/// The client spoke for another agent than its first message did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this stream is agent {expected}'s: open another stream for another agent id")]
pub(crate) struct OtherAgent {
    expected: AgentId,
}

impl ClientStream {
    /// Who the first message speaks for; the message itself is to be given to [`Self::take`] as well.
    pub(crate) fn open(
        first: &wire::MetricsRequest,
        incarnation: Incarnation,
        host: String,
    ) -> Result<(Self, Introduction), HelloError> {
        let introduction = introduce_client(&first.agent_id, incarnation.clone(), host)?;
        let stream = Self {
            agent: introduction.agent_id.clone(),
            incarnation,
            sequence: Sequence(0),
            last: None,
            gaps: VecDeque::with_capacity(GAPS),
        };
        Ok((stream, introduction))
    }

    /// The record of one message. The server's time stands in for a timestamp that was not given.
    pub(crate) fn take(
        &mut self,
        request: wire::MetricsRequest,
        monotonic: Duration,
        wall: Timestamp,
    ) -> Result<Encoded, OtherAgent> {
        if request.agent_id != self.agent.as_str() {
            return Err(OtherAgent { expected: self.agent.clone() });
        }
        if let Some(last) = self.last.replace(monotonic) {
            if self.gaps.len() == GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(monotonic.saturating_sub(last));
        }
        self.sequence = self.sequence.next();
        let at = match request.timestamp {
            0 => wall,
            seconds => Timestamp::from_unix_seconds(seconds),
        };
        let tick = Tick {
            first_sequence: self.sequence,
            sequence: self.sequence,
            at,
            metrics: request.metrics.as_ref().map(metrics_from_wire).unwrap_or_default(),
            series: Vec::new(),
            metadata: bounded_metadata(request.metadata),
        };
        let mut encoded = Encoded::default();
        encoded.push(records::of_tick(&self.agent, &self.incarnation, tick, Vec::new()));
        Ok(encoded)
    }

    /// The client's rhythm: the median of its last gaps. `None` before its second message.
    pub(crate) fn interval(&self) -> Option<Duration> {
        let mut gaps: Vec<Duration> = self.gaps.iter().copied().collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied()
    }
}

/// A command as the seeds know it: four fields and nothing else.
pub(crate) fn seed_command(order: &Order) -> wire::Command {
    wire::Command {
        command_id: order.command_id.to_string(),
        agent_id: order.agent_id.to_string(),
        r#type: convert::command_type_to_wire(order.kind).into(),
        timestamp: order.issued_seconds,
        ..wire::Command::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::record::DataRecord;

    fn request(agent: &str) -> wire::MetricsRequest {
        let metrics = wire::SystemMetrics { cpu_percent: Some(12.5), ..Default::default() };
        let metadata = [("os".to_owned(), "linux".to_owned())].into();
        wire::MetricsRequest {
            agent_id: agent.to_owned(),
            timestamp: 1_767_225_600,
            metrics: Some(metrics),
            metadata,
        }
    }

    fn stream() -> ClientStream {
        ClientStream::open(&request("a"), Incarnation::new("i").unwrap(), "h".to_owned()).unwrap().0
    }

    fn record(encoded: &Encoded) -> DataRecord {
        serde_json::from_slice(&encoded.records[0].value).unwrap()
    }

    #[test]
    fn each_message_is_a_record_with_a_sequence_of_ours() {
        let mut stream = stream();
        for sequence in 1..=3 {
            let encoded = stream.take(request("a"), Duration::ZERO, Timestamp::default()).unwrap();
            let record = record(&encoded);
            assert_eq!((record.sequence.0, record.incarnation.as_str()), (sequence, "i"));
            assert_eq!(record.timestamp.to_string(), "2026-01-01T00:00:00.000Z");
            assert_eq!((record.metrics.cpu_percent, record.metadata["os"].as_str()), (Some(12.5), "linux"));
        }
    }

    #[test]
    fn a_message_without_time_is_dated_by_the_server() {
        let wall = Timestamp::from_unix_seconds(5);
        let request = wire::MetricsRequest { timestamp: 0, ..request("a") };
        assert_eq!(record(&stream().take(request, Duration::ZERO, wall).unwrap()).timestamp, wall);
    }

    #[test]
    fn one_stream_speaks_for_one_agent() {
        assert!(stream().take(request("b"), Duration::ZERO, Timestamp::default()).is_err());
        let bad = ClientStream::open(&request("a\nb"), Incarnation::new("i").unwrap(), String::new());
        assert!(bad.is_err());
    }

    #[test]
    fn the_rhythm_is_the_median_so_one_pause_does_not_bend_it() {
        let mut stream = stream();
        assert_eq!(stream.interval(), None);
        for second in [0, 2, 4, 3_600, 3_602, 3_604] {
            stream.take(request("a"), Duration::from_secs(second), Timestamp::default()).unwrap();
        }
        assert_eq!(stream.interval(), Some(Duration::from_secs(2)));
    }
}
