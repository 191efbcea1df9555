//! The IO of one `Session` stream: reads frames for [`crate::session`], and does what they mean.
//!
//! One task per stream. It never stops reading because the bus is slow: batches wait in its own lane, bounded by
//! credits, so heartbeats, outcomes and commands pass them by.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backends::bus::{BusError, NewRecord};
use backends::registry::Registry;
use model::command::{CommandState, CommandType};
use model::id::{AgentId, Revision};
use model::limit;
use proto::wire::leave::Reason;
use proto::wire::server_message::Body;
use proto::{convert, wire};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::fresh_config::{self, NoConfig};
use crate::hello::Introduction;
use crate::hub::{Control, Hub, Seat};
use crate::layers::Desired;
use crate::leave;
use crate::orders::Order;
use crate::publish::Publisher;
use crate::records::Encoded;
use crate::room::Place;
use crate::roster::{Ending, SessionId};
use crate::session::{Session, Step};

/// One publish call of a session takes batches up to this many bytes: more would only delay their acknowledgement.
const PUBLISH_BYTES: usize = 2 * 1024 * 1024;
/// What a stream needs of the server.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub hub: Arc<Hub>,
    pub publisher: Publisher,
    pub registry: Arc<dyn Registry>,
    /// The server is stopping: nobody new is let in.
    pub draining: CancellationToken,
}

/// The way down. A peer that does not read is not waited for.
type Outbox = mpsc::Sender<Result<wire::ServerMessage, Status>>;
type Later<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Why the stream ends.
#[derive(Debug)]
enum End {
    /// The agent's connection is gone, or it reads no more.
    Lost,
    /// Nothing is left to say.
    Done,
    Leave(wire::Leave),
    Status(Box<Status>),
}

/// Runs one stream from its first frame to its end.
pub(crate) async fn run(context: Context, mut inbound: Streaming<wire::AgentMessage>, outbox: Outbox) {
    let end = match greet(&context, &mut inbound).await {
        Ok((laws, introduction, seat)) => {
            let agent = introduction.agent_id;
            tracing::debug!(%agent, session = seat.id.0, "agent connected");
            let mut stream = Stream::new(context.clone(), agent, seat.id, laws, outbox.clone());
            let end = stream.serve(&mut inbound, seat).await;
            context.hub.closed(stream.id, Ending::Lost);
            context.hub.unlink(stream.id);
            tracing::debug!(agent = %stream.agent, session = stream.id.0, ?end, "agent's stream ended");
            end
        }
        Err(end) => end,
    };
    // The peer may be gone or full; there is nobody else to tell.
    let last = match end {
        End::Leave(leave) => Ok(wire::ServerMessage { body: Some(Body::Leave(leave)) }),
        End::Status(status) => Err(*status),
        End::Lost | End::Done => return,
    };
    drop(outbox.try_send(last));
}

/// Waits for the hello and lets the agent in.
async fn greet(
    context: &Context,
    inbound: &mut Streaming<wire::AgentMessage>,
) -> Result<(Session, Introduction, Seat), End> {
    let refuse = |reason: &str, message: String| {
        context.hub.measure.refuse(reason);
        End::Leave(leave::because(Reason::Refused, message, Duration::ZERO))
    };
    let first = tokio::select! {
        first = timeout(limit::HELLO_WITHIN, inbound.message()) => first,
        () = context.draining.cancelled() => return Err(End::Leave(leave::draining())),
    };
    let first = match first {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Err(End::Lost),
        Ok(Err(status)) => return Err(End::Status(Box::new(status))),
        Err(_) => {
            return Err(refuse("no_hello", format!("no hello came within {:?}", limit::HELLO_WITHIN)));
        }
    };
    let mut laws = Session::default();
    match laws.take(first, context.hub.clock.wall()) {
        Ok(Step::Introduced(introduction)) => match context.hub.admit(&introduction) {
            Ok(seat) => Ok((laws, *introduction, seat)),
            Err(leave) => {
                context.hub.measure.refuse("not_admitted");
                Err(End::Leave(leave))
            }
        },
        Ok(_) => Err(refuse("hello", "the first message must be a hello".to_owned())),
        Err(violation) => Err(refuse("hello", violation.to_string())),
    }
}

/// A batch that waits for the bus.
struct Waiting {
    id: u64,
    records: Vec<NewRecord>,
    place: Place,
}

/// A stream whose agent was let in.
struct Stream {
    context: Context,
    agent: AgentId,
    id: SessionId,
    laws: Session,
    outbox: Outbox,
    /// Batches that wait for the bus.
    lane: VecDeque<Waiting>,
    publishing: Later<(u64, Result<(), BusError>)>,
    /// Commands that wait for one that has to ask the registry first: their order is kept.
    orders: VecDeque<Order>,
    asking: Later<(Order, Result<Desired, NoConfig>)>,
    /// The newest revision sent; older ones are not news.
    sent: Revision,
    /// Nothing more is read: what is under way ends, then the stream does.
    leaving: Option<(End, Instant)>,
}

impl Stream {
    fn new(context: Context, agent: AgentId, id: SessionId, laws: Session, outbox: Outbox) -> Self {
        Self {
            context,
            agent,
            id,
            laws,
            outbox,
            lane: VecDeque::new(),
            publishing: None,
            orders: VecDeque::new(),
            asking: None,
            sent: Revision(0),
            leaving: None,
        }
    }

    async fn serve(&mut self, inbound: &mut Streaming<wire::AgentMessage>, mut seat: Seat) -> End {
        match self.open_and_serve(inbound, &mut seat).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn open_and_serve(
        &mut self,
        inbound: &mut Streaming<wire::AgentMessage>,
        seat: &mut Seat,
    ) -> Result<std::convert::Infallible, End> {
        let hub = Arc::clone(&self.context.hub);
        let room = self.context.publisher.room.clone();
        let starved = room.is_short();
        let credits = if starved { 0 } else { limit::BATCH_CREDITS };
        self.send(Body::Welcome(Session::welcome(&hub.server, hub.timing, credits)))?;
        if let Some(desired) = hub.desired(&self.agent) {
            self.send_config(&desired)?;
        }
        loop {
            self.start_publishing();
            self.start_asking()?;
            self.end_if_settled()?;
            let deadline = self.leaving.as_ref().map(|(_, deadline)| *deadline);
            tokio::select! {
                biased;
                () = seat.cut.cancelled() => {
                    let message = "too many messages to this agent are unread";
                    return Err(End::Leave(leave::because(Reason::Overloaded, message, Duration::from_secs(1))));
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(self.leaving.take().map_or(End::Lost, |(end, _)| end));
                }
                control = seat.control.recv() => match control {
                    Some(control) => self.obey(control)?,
                    None => return Err(End::Lost),
                },
                // Credits are given with the welcome, so for some it has to come back.
                () = room.eased(), if starved => return Err(End::Leave(leave::eased())),
                (order, desired) = ready(&mut self.asking) => self.asked(&order, desired)?,
                (id, published) = ready(&mut self.publishing) => self.published(id, published)?,
                frame = inbound.message(), if self.leaving.is_none() => match frame {
                    Ok(Some(frame)) => self.take(frame)?,
                    Ok(None) => return Err(End::Lost),
                    Err(status) => return Err(End::Status(Box::new(status))),
                },
            }
        }
    }

    /// Does what a frame means.
    fn take(&mut self, frame: wire::AgentMessage) -> Result<(), End> {
        let hub = Arc::clone(&self.context.hub);
        hub.heard(self.id);
        let step = self.laws.take(frame, hub.clock.wall()).map_err(|violation| {
            hub.measure.refuse("protocol");
            tracing::warn!(agent = %self.agent, %violation, "an agent broke the protocol");
            End::Leave(leave::because(Reason::Refused, violation.to_string(), Duration::ZERO))
        })?;
        match step {
            Step::Nothing => {}
            Step::Batch { id, encoded } => {
                note_refused(&hub, &self.agent, &encoded);
                let Some(place) = self.context.publisher.room.take(encoded.bytes()) else {
                    hub.measure.refuse("no_room");
                    return Err(End::Leave(leave::no_room()));
                };
                self.lane.push_back(Waiting { id, records: encoded.records, place });
            }
            Step::Beat { collection, interval } => hub.facts(self.id, collection, interval),
            Step::Report(report) => hub.report(&self.agent, *report, Some(self.id)),
            Step::Truth(truth) => hub.truth(self.id, *truth),
            Step::Goodbye { restarting } => {
                hub.closed(self.id, Ending::Goodbye { restarting });
                self.leaving = Some((End::Done, Instant::now() + limit::DRAIN_WITHIN));
            }
            Step::Introduced(_) => {}
        }
        Ok(())
    }

    fn obey(&mut self, control: Control) -> Result<(), End> {
        match control {
            Control::Order(order) => self.orders.push_back(*order),
            Control::Config(desired) => self.send_config(&desired)?,
            Control::Reported { command_id, state } => {
                self.laws.acknowledge_report();
                let command_id = command_id.to_string();
                let state = convert::command_state_to_wire(state).into();
                self.send(Body::ReportAck(wire::ReportAck { command_id, state }))?;
            }
            Control::Leave(leave) if leave.reason() == Reason::Draining => {
                self.leaving = Some((End::Leave(leave), Instant::now() + limit::DRAIN_WITHIN));
            }
            Control::Leave(leave) => return Err(End::Leave(leave)),
        }
        Ok(())
    }

    // ---- data ----

    /// Publishes what waits, as one call, if none is under way.
    fn start_publishing(&mut self) {
        if self.publishing.is_some() || self.lane.is_empty() {
            return;
        }
        let (mut last, mut bytes, mut records, mut places) = (0, 0, Vec::new(), Vec::new());
        while bytes < PUBLISH_BYTES
            && let Some(Waiting { id, records: batch, place }) = self.lane.pop_front()
        {
            bytes += batch.iter().map(|record| record.value.len()).sum::<usize>();
            records.extend(batch);
            last = id;
            places.push(place);
        }
        let publisher = self.context.publisher.clone();
        self.publishing = Some(Box::pin(async move {
            let published = publisher.data(records, places.len() as u64).await;
            drop(places);
            (last, published)
        }));
    }

    fn published(&mut self, id: u64, published: Result<(), BusError>) -> Result<(), End> {
        match published {
            Ok(()) => {
                let ack = self.laws.acknowledge(id);
                self.send(Body::Ack(ack))
            }
            Err(error) => Err(End::Leave(leave::because(
                Reason::Overloaded,
                format!("this server cannot store data: {error}"),
                Duration::from_secs(5),
            ))),
        }
    }

    /// A stream that is to end does so when nothing is under way.
    fn end_if_settled(&mut self) -> Result<(), End> {
        if self.leaving.is_some() && self.laws.is_settled() {
            return Err(self.leaving.take().map_or(End::Done, |(end, _)| end));
        }
        Ok(())
    }

    // ---- commands and config ----

    /// Sends the commands that wait, up to one that has to ask the registry first.
    fn start_asking(&mut self) -> Result<(), End> {
        while self.asking.is_none()
            && let Some(order) = self.orders.pop_front()
        {
            if order.kind != CommandType::UpdateConfig {
                self.send_order(&order, None)?;
                continue;
            }
            let (context, agent) = (self.context.clone(), self.agent.clone());
            self.asking = Some(Box::pin(async move {
                let desired = fresh_config::read(&context, &agent).await;
                (order, desired)
            }));
        }
        Ok(())
    }

    fn asked(&mut self, order: &Order, desired: Result<Desired, NoConfig>) -> Result<(), End> {
        match desired {
            Ok(desired) => self.send_order(order, Some(&desired)),
            Err(reason) => {
                let message = format!("the config could not be read: {reason}; try again");
                self.context.hub.answer(order, CommandState::Failed, message);
                Ok(())
            }
        }
    }

    fn send_order(&mut self, order: &Order, desired: Option<&Desired>) -> Result<(), End> {
        let hub = Arc::clone(&self.context.hub);
        let remaining = order.deadline.saturating_sub(hub.clock.monotonic());
        if remaining.is_zero() {
            return Ok(()); // Too late to begin: the leading monitor ends it.
        }
        if let Some(desired) = desired {
            hub.sending(self.id, desired);
            self.sent = self.sent.max(desired.mark.revision);
        }
        hub.measure.commands_delivered.inc();
        self.send(Body::Command(wire::Command {
            command_id: order.command_id.to_string(),
            agent_id: order.agent_id.to_string(),
            r#type: convert::command_type_to_wire(order.kind).into(),
            timestamp: order.issued_seconds,
            params_json: order.params_json.clone(),
            remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).max(1),
            config: desired.map(|desired| desired.to_wire(hub.registry_id(), hub.clock.wall())),
        }))
    }

    fn send_config(&mut self, desired: &Desired) -> Result<(), End> {
        if desired.mark.revision < self.sent {
            return Ok(());
        }
        self.sent = desired.mark.revision;
        let hub = &self.context.hub;
        hub.sending(self.id, desired);
        self.send(Body::Config(desired.to_wire(hub.registry_id(), hub.clock.wall())))
    }

    fn send(&self, body: Body) -> Result<(), End> {
        let message = wire::ServerMessage { body: Some(body) };
        self.outbox.try_send(Ok(message)).map_err(|_| End::Lost)
    }
}

/// Counts and tells what could not be taken of an agent's data.
pub(crate) fn note_refused(hub: &Hub, agent: &AgentId, encoded: &Encoded) {
    for (what, count) in [("series", encoded.series_refused), ("metadata", encoded.metadata_refused)] {
        if count > 0 {
            hub.measure.refused.with_label_values(&[what]).inc_by(count as u64);
            tracing::debug!(%agent, what, count, "a record was too large; its rest was left out");
        }
    }
}

/// Completes when the future in `slot` does, and empties it; never while there is none. Cancel safe.
async fn ready<T>(slot: &mut Later<T>) -> T {
    let Some(future) = slot else { return pending().await };
    let outcome = future.await;
    *slot = None;
    outcome
}
