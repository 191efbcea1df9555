//! The IO of one `StreamMetrics` stream: what a client of the seeds' protocol sends becomes records, commands go down.
//!
//! The client knows neither credits nor acknowledgement. When the bus is slow its stream is read no further, which is the
//! only backpressure it understands.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backends::bus::NewRecord;
use model::command::CommandState;
use model::id::{AgentId, Incarnation};
use model::limit;
use proto::wire;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use ulid::Ulid;

use crate::client::{ClientStream, seed_command};
use crate::hello::Introduction;
use crate::hub::{Control, Hub, Seat};
use crate::leave;
use crate::orders::Order;
use crate::publish::Publisher;
use crate::roster::{Ending, SessionId};
use crate::session_stream::{Context, note_refused};

/// Messages read and not yet durable.
const MESSAGES_MAX: usize = 64;
/// A client that stalls every stream of its own is not told from one that is idle; the first message has this long.
const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(60);
const NO_OUTCOME: &str = "delivered; no outcome is reported by this client (StreamMetrics has none)";

type Outbox = mpsc::Sender<Result<wire::Command, Status>>;

/// Runs one stream from its first message to its end.
pub(crate) async fn run(
    context: Context,
    mut inbound: Streaming<wire::MetricsRequest>,
    outbox: Outbox,
    peer: Option<SocketAddr>,
) {
    if let Err(status) = serve(&context, &mut inbound, &outbox, peer).await {
        // The peer may be gone; there is nobody else to tell.
        drop(outbox.try_send(Err(status)));
    }
}

async fn serve(
    context: &Context,
    inbound: &mut Streaming<wire::MetricsRequest>,
    outbox: &Outbox,
    peer: Option<SocketAddr>,
) -> Result<(), Status> {
    let first = tokio::select! {
        first = timeout(FIRST_MESSAGE_WITHIN, inbound.message()) => first,
        () = context.draining.cancelled() => return Err(Status::unavailable(leave::draining().message)),
    };
    let first = first.map_err(|_| Status::deadline_exceeded("no first message came"))??;
    let Some(first) = first else { return Ok(()) };
    let (stream, introduction, seat) = open(&context.hub, &first, peer)?;
    let agent = introduction.agent_id;
    let id = seat.id;
    let hub = Arc::clone(&context.hub);
    let (lane, last) = (VecDeque::new(), None);
    let mut client = Client { hub: Arc::clone(&hub), agent, id, stream, lane, last };
    let outcome = client.serve(first, inbound, outbox, seat, &context.publisher).await;
    let ending = match &outcome {
        // A stream that its client closes is its goodbye; it has no other.
        Ok(()) => Ending::Goodbye { restarting: false },
        Err(_) => Ending::Lost,
    };
    hub.closed(id, ending);
    hub.unlink(id);
    outcome
}

fn open(
    hub: &Hub,
    first: &wire::MetricsRequest,
    peer: Option<SocketAddr>,
) -> Result<(ClientStream, Introduction, Seat), Status> {
    let incarnation = Incarnation::new(Ulid::generate().to_string())
        .map_err(|error| Status::internal(error.to_string()))?;
    let host = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
    let (stream, introduction) = ClientStream::open(first, incarnation, host).map_err(|error| {
        hub.measure.refuse("hello");
        Status::invalid_argument(error.to_string())
    })?;
    let seat = hub.admit(&introduction).map_err(|leave| {
        hub.measure.refuse("not_admitted");
        Status::unavailable(leave.message)
    })?;
    Ok((stream, introduction, seat))
}

/// A stream whose client was let in.
struct Client {
    hub: Arc<Hub>,
    agent: AgentId,
    id: SessionId,
    stream: ClientStream,
    /// Records that wait for the bus.
    lane: VecDeque<NewRecord>,
    /// The server is stopping: nothing more is read, and this is said when what was read is durable.
    last: Option<Status>,
}

impl Client {
    async fn serve(
        &mut self,
        first: wire::MetricsRequest,
        inbound: &mut Streaming<wire::MetricsRequest>,
        outbox: &Outbox,
        mut seat: Seat,
        publisher: &Publisher,
    ) -> Result<(), Status> {
        self.take(first)?;
        let mut open = true;
        while (open && self.last.is_none()) || !self.lane.is_empty() {
            // One call at a time keeps the order; what comes meanwhile goes with the next.
            let records: Vec<NewRecord> = self.lane.drain(..).collect();
            let messages = records.len() as u64;
            let publish = async {
                if records.is_empty() {
                    std::future::pending().await
                } else {
                    publisher.data(records, messages).await
                }
            };
            tokio::pin!(publish);
            loop {
                let room = self.lane.len() < MESSAGES_MAX;
                tokio::select! {
                    biased;
                    () = seat.cut.cancelled() => return Err(Status::resource_exhausted("too many commands are unread")),
                    control = seat.control.recv() => {
                        self.obey(control, outbox)?;
                        if self.last.is_some() && messages == 0 { break }
                    }
                    published = &mut publish => {
                        published.map_err(|error| Status::unavailable(error.to_string()))?;
                        break;
                    }
                    message = inbound.message(), if open && room && self.last.is_none() => match message? {
                        Some(message) => {
                            self.take(message)?;
                            if messages == 0 { break }
                        }
                        None => {
                            open = false;
                            if messages == 0 { break }
                        }
                    },
                }
            }
        }
        self.last.take().map_or(Ok(()), Err)
    }

    fn take(&mut self, message: wire::MetricsRequest) -> Result<(), Status> {
        let now = self.hub.now();
        let encoded = self.stream.take(message, now.monotonic, now.wall).map_err(|error| {
            self.hub.measure.refuse("protocol");
            Status::invalid_argument(error.to_string())
        })?;
        self.hub.heard(self.id);
        self.hub.rhythm(self.id, self.stream.interval());
        note_refused(&self.hub, &self.agent, &encoded);
        self.lane.extend(encoded.records);
        Ok(())
    }

    fn obey(&mut self, control: Option<Control>, outbox: &Outbox) -> Result<(), Status> {
        match control {
            Some(Control::Order(order)) => self.send(&order, outbox),
            // It has no words for config, and nobody waits for its reports.
            Some(Control::Config(_) | Control::Reported { .. }) => Ok(()),
            Some(Control::Leave(leave)) => match leave.reason() {
                wire::leave::Reason::Superseded => Err(Status::aborted(leave.message)),
                _ => {
                    self.last = Some(Status::unavailable(leave.message));
                    Ok(())
                }
            },
            None => Err(Status::unavailable("this session was given up")),
        }
    }

    /// Sends a command and tells its end at once: the client never will.
    fn send(&self, order: &Order, outbox: &Outbox) -> Result<(), Status> {
        if order.deadline <= self.hub.clock.monotonic() {
            return Ok(()); // Too late to begin: the leading monitor ends it.
        }
        outbox
            .try_send(Ok(seed_command(order)))
            .map_err(|_| Status::resource_exhausted("too many commands are unread"))?;
        self.hub.measure.commands_delivered.inc();
        self.hub.answer(order, CommandState::Delivered, "");
        self.hub.answer(order, CommandState::Unknown, NO_OUTCOME);
        Ok(())
    }
}

const _: () = assert!(MESSAGES_MAX <= limit::SESSION_OUTBOX_MAX);
