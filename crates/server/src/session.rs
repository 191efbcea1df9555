//! The laws of one `Session` stream, as a value: frames in, what they mean out.
//!
//! It knows which message may come when and within which bounds, and nothing of sockets, bus or registry. A peer that
//! breaks a law gets the reason and loses its stream.

use std::time::Duration;

use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId, IdError, Incarnation, Sequence};
use model::limit;
use model::presence::{Collection, Timing};
use model::sample::Timestamp;
use model::truth::ConfigTruth;
use proto::columns::{ColumnsError, Decoder};
use proto::record::NotSent;
use proto::wire::agent_message::Body;
use proto::{convert, wire};

use crate::hello::{self, HelloError, Introduction};
use crate::records::{self, Encoded};

/// What a frame means.
#[derive(Debug)]
pub(crate) enum Step {
    Introduced(Box<Introduction>),
    /// To publish, then to acknowledge with [`Session::acknowledge`].
    Batch {
        id: u64,
        encoded: Encoded,
    },
    Beat {
        collection: Collection,
        interval: Duration,
    },
    Report(Box<Report>),
    Truth(Box<ConfigTruth>),
    Goodbye {
        restarting: bool,
    },
    /// A sign of life and nothing more.
    Nothing,
}

/// A command's progress or outcome, in the agent's words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub command_id: CommandId,
    pub kind: CommandType,
    pub state: CommandState,
    pub message: String,
    pub result: serde_json::Map<String, serde_json::Value>,
    pub at: Timestamp,
}

/// A law that the peer broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("the first message must be a hello")]
    NoHello,
    #[error("a second hello came on the same stream")]
    SecondHello,
    #[error("nothing may follow a goodbye")]
    AfterGoodbye,
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Columns(#[from] ColumnsError),
    #[error("batch {got} came, {expected} was due")]
    BatchOrder { got: u64, expected: u64 },
    #[error("more than {} batches are unacknowledged", limit::BATCH_CREDITS)]
    NoCredit,
    #[error("batch {id} is not acceptable: {problem}")]
    Batch { id: u64, problem: &'static str },
    #[error("more than {} reports are unacknowledged", limit::REPORTS_IN_FLIGHT_MAX)]
    TooManyReports,
    #[error("a report of command {command_id} is not acceptable: {problem}")]
    Report { command_id: CommandId, problem: &'static str },
}

/// One stream from its first frame on.
#[derive(Debug, Default)]
pub(crate) struct Session {
    agent: Option<AgentId>,
    decoder: Decoder,
    last_batch: u64,
    acknowledged: u64,
    reports: usize,
    goodbye: bool,
}

impl Session {
    pub(crate) fn welcome(server: &model::id::ServerId, timing: Timing, credits: u32) -> wire::Welcome {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        wire::Welcome {
            server_id: server.to_string(),
            heartbeat_interval_ms: ms(timing.heartbeat()),
            timeout_ms: ms(timing.timeout()),
            credits,
            batch_bytes_max: u32::try_from(limit::BATCH_BYTES_MAX).unwrap_or(u32::MAX),
        }
    }

    /// Takes the next frame.
    pub(crate) fn take(&mut self, message: wire::AgentMessage, now: Timestamp) -> Result<Step, Violation> {
        if self.goodbye {
            return Err(Violation::AfterGoodbye);
        }
        let Some(agent) = self.agent.clone() else {
            let Some(Body::Hello(hello)) = message.body else { return Err(Violation::NoHello) };
            let introduction = hello::introduce(hello)?;
            self.agent = Some(introduction.agent_id.clone());
            return Ok(Step::Introduced(Box::new(introduction)));
        };
        // A body this build does not know is a newer agent's: ignored, as the rules of change say.
        let Some(body) = message.body else { return Ok(Step::Nothing) };
        Ok(match body {
            Body::Hello(_) => return Err(Violation::SecondHello),
            Body::Schema(schema) => {
                self.decoder.learn(schema)?;
                Step::Nothing
            }
            Body::Batch(batch) => self.batch(&agent, batch, now)?,
            Body::Heartbeat(beat) => Step::Beat {
                collection: convert::collection_from_wire(beat.collection),
                interval: Duration::from_millis(beat.interval_ms).min(limit::INTERVAL_MAX),
            },
            Body::CommandReport(report) => self.report(report)?,
            Body::ConfigTruth(truth) => Step::Truth(Box::new(hello::truth(&truth))),
            Body::Goodbye(goodbye) => {
                self.goodbye = true;
                Step::Goodbye { restarting: goodbye.reason() == wire::goodbye::Reason::Restart }
            }
        })
    }

    /// Every batch up to `id` is durable.
    pub(crate) fn acknowledge(&mut self, id: u64) -> wire::Ack {
        self.acknowledged = self.acknowledged.max(id);
        wire::Ack { batch_id: self.acknowledged }
    }

    /// One report is durable.
    pub(crate) fn acknowledge_report(&mut self) {
        self.reports = self.reports.saturating_sub(1);
    }

    /// Whether everything that was taken has been acknowledged.
    pub(crate) fn is_settled(&self) -> bool {
        self.acknowledged == self.last_batch && self.reports == 0
    }

    fn batch(&mut self, agent: &AgentId, batch: wire::Batch, now: Timestamp) -> Result<Step, Violation> {
        let id = batch.batch_id;
        if id != self.last_batch + 1 {
            return Err(Violation::BatchOrder { got: id, expected: self.last_batch + 1 });
        }
        if id - self.acknowledged > u64::from(limit::BATCH_CREDITS) {
            return Err(Violation::NoCredit);
        }
        let problem = |problem| Violation::Batch { id, problem };
        let (first, last) = (batch.first_sequence, batch.last_sequence);
        if first == 0 || first > last {
            return Err(problem("its range of sequences is empty or begins at 0"));
        }
        if batch.rows.len() > limit::BATCH_TICKS_MAX || batch.dispositions.len() > limit::BATCH_TICKS_MAX {
            return Err(problem("it has too many rows or dispositions"));
        }
        let rising = batch.rows.windows(2).all(|pair| pair[0].sequence < pair[1].sequence);
        if !rising || batch.rows.iter().any(|row| !(first..=last).contains(&row.sequence)) {
            return Err(problem("its rows are out of order or out of its range"));
        }
        let incarnation = Incarnation::new(batch.incarnation)?;
        let not_sent: Vec<NotSent> =
            batch.dispositions.into_iter().filter_map(convert::not_sent_from_wire).collect();
        let inside =
            |range: &NotSent| first <= range.first.0 && range.first <= range.last && range.last.0 <= last;
        if !not_sent.iter().all(inside) {
            return Err(problem("a disposition is out of its range"));
        }
        if not_sent.iter().any(|range| range.plugin.len() > limit::ATTRIBUTE_BYTES_MAX) {
            return Err(problem("a plugin's name is too long"));
        }
        let rows = batch.rows.into_iter().map(|row| self.decoder.decode(batch.schema_id, row));
        let ticks = rows.collect::<Result<Vec<_>, _>>()?;
        self.last_batch = id;
        let encoded = records::of_batch(agent, &incarnation, Sequence(last), ticks, not_sent, now);
        Ok(Step::Batch { id, encoded })
    }

    fn report(&mut self, report: wire::CommandReport) -> Result<Step, Violation> {
        if self.reports >= limit::REPORTS_IN_FLIGHT_MAX {
            return Err(Violation::TooManyReports);
        }
        let command_id = CommandId::new(report.command_id)?;
        let problem = |problem| Violation::Report { command_id: command_id.clone(), problem };
        let kind = convert::command_type_from_wire(report.r#type).ok_or(problem("its type is unknown"))?;
        let state = convert::command_state_from_wire(report.state).ok_or(problem("its state is unknown"))?;
        if report.message.len() > limit::METADATA_BYTES_MAX {
            return Err(problem("its message is too long"));
        }
        if report.result_json.len() > limit::COMMAND_JSON_BYTES_MAX {
            return Err(problem("its result is too long"));
        }
        let result = match report.result_json.as_str() {
            "" => serde_json::Map::new(),
            text => serde_json::from_str(text).map_err(|_| problem("its result is not a JSON object"))?,
        };
        let at = Timestamp::from_unix_ms(report.timestamp_ms);
        self.reports += 1;
        Ok(Step::Report(Box::new(Report { command_id, kind, state, message: report.message, result, at })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(body: Body) -> wire::AgentMessage {
        wire::AgentMessage { body: Some(body) }
    }

    fn hello() -> wire::AgentMessage {
        frame(Body::Hello(wire::Hello {
            protocol: 1,
            agent_id: "a".to_owned(),
            incarnation: "i".to_owned(),
            ..wire::Hello::default()
        }))
    }

    fn open() -> Session {
        let mut session = Session::default();
        assert!(matches!(session.take(hello(), Timestamp::default()), Ok(Step::Introduced(_))));
        let schema = wire::Schema { id: 1, first: 0, series: Vec::new() };
        session.take(frame(Body::Schema(schema)), Timestamp::default()).unwrap();
        session
    }

    fn batch(id: u64) -> wire::Batch {
        let row = wire::Row { sequence: id, ..wire::Row::default() };
        wire::Batch {
            batch_id: id,
            incarnation: "i".to_owned(),
            first_sequence: id,
            last_sequence: id,
            schema_id: 1,
            rows: vec![row],
            dispositions: Vec::new(),
        }
    }

    fn take(session: &mut Session, body: Body) -> Result<Step, Violation> {
        session.take(frame(body), Timestamp::default())
    }

    #[test]
    fn a_stream_begins_with_one_hello_and_ends_with_a_goodbye() {
        let heartbeat = || Body::Heartbeat(wire::Heartbeat::default());
        assert_eq!(take(&mut Session::default(), heartbeat()).unwrap_err(), Violation::NoHello);
        let mut session = open();
        assert_eq!(session.take(hello(), Timestamp::default()).unwrap_err(), Violation::SecondHello);
        assert!(matches!(take(&mut session, heartbeat()), Ok(Step::Beat { .. })));
        let goodbye = wire::Goodbye { reason: wire::goodbye::Reason::Restart.into() };
        assert!(matches!(take(&mut session, Body::Goodbye(goodbye)), Ok(Step::Goodbye { restarting: true })));
        assert_eq!(take(&mut session, heartbeat()).unwrap_err(), Violation::AfterGoodbye);
    }

    #[test]
    fn credits_are_a_limit_and_acknowledgement_returns_them() {
        let mut session = open();
        for id in 1..=u64::from(limit::BATCH_CREDITS) {
            assert!(matches!(take(&mut session, Body::Batch(batch(id))), Ok(Step::Batch { .. })));
        }
        assert_eq!(take(&mut session, Body::Batch(batch(17))).unwrap_err(), Violation::NoCredit);
        assert_eq!(session.acknowledge(1).batch_id, 1);
        assert!(take(&mut session, Body::Batch(batch(17))).is_ok());
        assert!(!session.is_settled());
        session.acknowledge(17);
        assert!(session.is_settled());
    }

    #[test]
    fn a_batch_that_cannot_be_accounted_for_is_refused() {
        type Spoil = fn(&mut wire::Batch);
        let spoils: [(Spoil, &str); 7] = [
            (|batch| batch.batch_id = 2, "1 was due"),
            (|batch| batch.first_sequence = 0, "begins at 0"),
            (|batch| batch.rows[0].sequence = 9, "out of its range"),
            (|batch| batch.rows.push(batch.rows[0].clone()), "out of order"),
            (|batch| batch.incarnation = "a\nb".to_owned(), "incarnation"),
            (|batch| batch.schema_id = 7, "schema 7"),
            (
                |batch| {
                    let action = wire::disposition::Action::Dropped.into();
                    let range = wire::Disposition {
                        first_sequence: 1,
                        last_sequence: 5,
                        action,
                        ..Default::default()
                    };
                    batch.dispositions.push(range);
                },
                "disposition",
            ),
        ];
        for (spoil, reason) in spoils {
            let mut spoilt = batch(1);
            spoil(&mut spoilt);
            let error = take(&mut open(), Body::Batch(spoilt)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_report_is_parsed_once_and_bounded() {
        let report = |result: &str| {
            Body::CommandReport(wire::CommandReport {
                command_id: "c-1".to_owned(),
                state: wire::CommandState::Succeeded.into(),
                result_json: result.to_owned(),
                ..wire::CommandReport::default()
            })
        };
        let mut session = open();
        assert!(matches!(take(&mut session, report(r#"{"uptime":1}"#)), Ok(Step::Report(_))));
        assert!(take(&mut session, report("[]")).is_err());
        assert!(take(&mut session, report(&"x".repeat(70_000))).is_err());
        for _ in 1..limit::REPORTS_IN_FLIGHT_MAX {
            take(&mut session, report("")).unwrap();
        }
        assert_eq!(take(&mut session, report("")).unwrap_err(), Violation::TooManyReports);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_panic_a_session(frames in proptest::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut session = open();
            for bytes in frames {
                if let Ok(message) = <wire::AgentMessage as prost::Message>::decode(bytes.as_slice()) {
                    drop(session.take(message, Timestamp::default()));
                }
            }
        }
    }
}
