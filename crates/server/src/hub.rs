//! Where streams, topics and registry meet: the pure parts behind one lock, and what wakes whom.
//!
//! Every method takes the lock for an instant and never waits. What goes down to an agent goes through its [`Link`]: a
//! bounded queue, and an agent that lets it fill up is cut off.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backends::registry::Event;
use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId, Incarnation, ServerId};
use model::limit;
use model::presence::{Collection, Timing};
use model::truth::ConfigTruth;
use proto::record::ResponseRecord;
use proto::wire;
use runtime::Clock;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::hello::Introduction;
use crate::layers::{Desired, Layers};
use crate::leave;
use crate::measure::Measure;
use crate::orders::{Judgement, Order, Orders, Seen, Taken};
use crate::roster::{Displacement, Ending, Now, Roster, SessionId, Write, Written};
use crate::session::Report;

/// What the rest of the server has for one session.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Order(Box<Order>),
    Config(Box<Desired>),
    /// A report of this session is durable.
    Reported {
        command_id: CommandId,
        state: CommandState,
    },
    Leave(wire::Leave),
}

/// A session's end of its [`Link`].
#[derive(Debug)]
pub(crate) struct Seat {
    pub id: SessionId,
    pub control: mpsc::Receiver<Control>,
    /// The agent left too much unread.
    pub cut: CancellationToken,
}

/// A report on its way to the bus.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub agent: AgentId,
    pub report: Report,
    /// Who waits for it to be durable.
    pub session: Option<SessionId>,
}

/// A [`Pending`] that was judged: what to publish, if anything.
#[derive(Debug)]
pub(crate) struct Judged {
    pub pending: Pending,
    pub response: Option<ResponseRecord>,
}

/// The server's shared state.
#[derive(Debug)]
pub(crate) struct Hub {
    pub server: ServerId,
    pub incarnation: Incarnation,
    pub timing: Timing,
    pub clock: Clock,
    pub measure: Measure,
    /// The next presence verdict is due at another time now.
    pub rescheduled: Notify,
    /// The inventory has something to write.
    pub unwritten: Notify,
    /// A report waits to be published.
    pub reported: Notify,
    state: Mutex<State>,
    layers: Mutex<Layers>,
}

#[derive(Debug)]
struct State {
    roster: Roster,
    orders: Orders,
    links: HashMap<SessionId, Link>,
    reports: VecDeque<Pending>,
    draining: bool,
}

#[derive(Debug)]
struct Link {
    control: mpsc::Sender<Control>,
    cut: CancellationToken,
}

impl Hub {
    pub(crate) fn new(
        server: ServerId,
        incarnation: Incarnation,
        timing: Timing,
        measure: Measure,
    ) -> Arc<Self> {
        let roster = Roster::new(server.clone(), incarnation.clone(), timing);
        let (orders, links, reports) = (Orders::default(), HashMap::new(), VecDeque::new());
        Arc::new(Self {
            server,
            incarnation,
            timing,
            clock: Clock::start(),
            measure,
            rescheduled: Notify::new(),
            unwritten: Notify::new(),
            reported: Notify::new(),
            state: Mutex::new(State { roster, orders, links, reports, draining: false }),
            layers: Mutex::default(),
        })
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic: self.clock.monotonic(), wall: self.clock.wall() }
    }

    // ---- sessions ----

    /// Lets an agent in and gives its session what waits for it; the session it displaces is told to leave.
    pub(crate) fn admit(&self, who: &Introduction) -> Result<Seat, wire::Leave> {
        self.with(|state, now| {
            if state.draining {
                return Err(leave::draining());
            }
            let admitted = state.roster.admit(who, now).map_err(leave::refusal)?;
            if let Some((old, displacement)) = admitted.displaced {
                state.dismiss(old, leave::displaced(displacement));
            }
            let (sender, control) = mpsc::channel(limit::SESSION_OUTBOX_MAX);
            let cut = CancellationToken::new();
            let id = admitted.session;
            state.links.insert(id, Link { control: sender, cut: cut.clone() });
            state.hand_over(&who.agent_id, now.monotonic);
            Ok(Seat { id, control, cut })
        })
    }

    pub(crate) fn heard(&self, session: SessionId) {
        self.with(|state, now| state.roster.heard(session, now));
    }

    pub(crate) fn rhythm(&self, session: SessionId, interval: Option<Duration>) {
        self.with(|state, now| state.roster.rhythm(session, interval, now));
    }

    pub(crate) fn facts(&self, session: SessionId, collection: Collection, interval: Duration) {
        self.with(|state, _| state.roster.facts(session, collection, interval));
    }

    pub(crate) fn truth(&self, session: SessionId, truth: ConfigTruth) {
        self.with(|state, _| state.roster.truth(session, truth));
    }

    /// The agent left, or its stream ended. Its link stays until [`Self::unlink`]: acknowledgements may follow.
    pub(crate) fn closed(&self, session: SessionId, ending: Ending) {
        self.with(|state, now| state.roster.closed(session, ending, now));
    }

    pub(crate) fn unlink(&self, session: SessionId) {
        self.with(|state, _| state.links.remove(&session));
    }

    /// Sends every agent away, soon to return; the inventory is left as it is.
    pub(crate) fn drain(&self) {
        self.with(|state, _| {
            state.draining = true;
            state.roster.freeze();
            let sessions: Vec<SessionId> = state.links.keys().copied().collect();
            for session in sessions {
                state.send(session, Control::Leave(leave::draining()));
            }
        });
    }

    // ---- commands ----

    /// A command came from the topic. It is sent if its agent is here, else kept until it comes or time is up.
    pub(crate) fn order(&self, order: Order) {
        self.with(|state, now| {
            let agent = order.agent_id.clone();
            let (command_id, kind) = (order.command_id.clone(), order.kind);
            match state.orders.take(order, now.monotonic) {
                Taken::Waiting => state.hand_over(&agent, now.monotonic),
                Taken::Ignored => {}
                Taken::NoRoom => self.measure.refuse("commands_full"),
                Taken::Full => {
                    self.measure.refuse("command_queue_full");
                    // For an agent that is not here nobody answers but the monitor.
                    if state.roster.session_of(&agent).is_some() {
                        let message = format!(
                            "{} commands wait for this agent already: wait for their outcomes",
                            limit::COMMANDS_WAITING_PER_AGENT_MAX
                        );
                        let report = server_report(command_id, kind, CommandState::Rejected, message, now);
                        state.reports.push_back(Pending { agent, report, session: None });
                    }
                }
            }
        });
    }

    /// A response was read from the topic.
    pub(crate) fn observed(&self, response: &ResponseRecord) {
        let seen = Seen {
            agent: &response.agent_id,
            command: &response.command_id,
            kind: response.kind,
            state: response.state,
            is_final: response.is_final,
        };
        self.with(|state, now| state.orders.observed(seen, now.monotonic));
    }

    /// A report is to be published, in its turn.
    pub(crate) fn report(&self, agent: &AgentId, report: Report, session: Option<SessionId>) {
        self.with(|state, _| state.reports.push_back(Pending { agent: agent.clone(), report, session }));
    }

    /// The server speaks for an agent that cannot.
    pub(crate) fn answer(&self, order: &Order, state: CommandState, message: impl Into<String>) {
        let (id, kind) = (order.command_id.clone(), order.kind);
        let report = server_report(id, kind, state, message.into(), self.now());
        self.report(&order.agent_id, report, None);
    }

    pub(crate) fn take_reports(&self, max: usize) -> Vec<Pending> {
        self.with(|state, _| {
            let count = state.reports.len().min(max);
            state.reports.drain(..count).collect()
        })
    }

    /// Says what of `pending` may be published now, and as what.
    pub(crate) fn judge(&self, pending: Vec<Pending>) -> Vec<Judged> {
        self.with(|state, now| {
            let judged = pending.into_iter().map(|pending| {
                let Report { command_id, state: reported, .. } = &pending.report;
                let judgement = state.orders.judge(&pending.agent, command_id, *reported, now.monotonic);
                let response = match judgement {
                    Judgement::Repeat => None,
                    Judgement::Publish => Some(response(&pending, "")),
                    Judgement::Late => {
                        Some(ResponseRecord { is_final: false, ..response(&pending, "late: ") })
                    }
                };
                Judged { pending, response }
            });
            judged.collect()
        })
    }

    /// What was judged is durable: the agents may forget it.
    pub(crate) fn durable(&self, judged: &[Judged]) {
        self.with(|state, _| {
            for Judged { pending, response } in judged {
                let Report { command_id, state: reported, .. } = &pending.report;
                if let Some(response) = response {
                    let (agent, is_final) = (&response.agent_id, response.is_final);
                    self.measure.commands_responses.with_label_values(&[reported.label()]).inc();
                    state.orders.published(agent, command_id, *reported, is_final);
                }
                if let Some(session) = pending.session {
                    let command_id = command_id.clone();
                    state.send(session, Control::Reported { command_id, state: *reported });
                }
            }
        });
    }

    /// What was judged may not be on the bus; it is to be judged again.
    pub(crate) fn undurable(&self, judged: Vec<Judged>) -> Vec<Pending> {
        self.with(|state, _| {
            let again = judged.into_iter().map(|Judged { pending, response }| {
                if response.is_some_and(|response| response.is_final) {
                    state.orders.failed(&pending.agent, &pending.report.command_id);
                }
                pending
            });
            again.collect()
        })
    }

    pub(crate) fn forget_passed_commands(&self) {
        self.with(|state, now| state.orders.forget_passed(now.monotonic));
    }

    // ---- config ----

    /// Takes a change of the registry in and tells the agents it concerns.
    pub(crate) fn config_changed(&self, prefix: &str, event: Event) {
        let concern = self.layers().take(prefix, event);
        let agents = self.with(|state, _| state.roster.configurable());
        for (session, agent, labels) in agents {
            if concern.includes(&agent, &labels) {
                // Merged outside of the state's lock: with a large fleet this takes a while.
                let desired = self.layers().desired(&agent, &labels);
                self.with(|state, _| state.send(session, Control::Config(Box::new(desired))));
            }
        }
    }

    /// What the agent of `session` should run, as far as the watches have come.
    pub(crate) fn desired(&self, agent: &AgentId) -> Option<Desired> {
        let labels = self.labels(agent)?;
        Some(self.layers().desired(agent, &labels))
    }

    /// What selectors see of an agent that is here.
    pub(crate) fn labels(&self, agent: &AgentId) -> Option<std::collections::BTreeMap<String, String>> {
        self.with(|state, _| state.roster.entry(agent).map(proto::key::AgentEntry::selectable))
    }

    /// A config is being sent to the agent of `session`.
    pub(crate) fn sending(&self, session: SessionId, desired: &Desired) {
        self.with(|state, now| {
            state.roster.desired(session, desired.mark.clone(), desired.failure(now.wall));
        });
    }

    // ---- presence and inventory ----

    pub(crate) fn advance(&self) {
        self.with(|state, now| state.roster.advance(now));
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.with(|state, _| state.roster.next_due())
    }

    pub(crate) fn next_write(&self) -> Option<Write> {
        self.with(|state, _| state.roster.next_write())
    }

    pub(crate) fn written(&self, write: &Write, outcome: Written) {
        self.with(|state, now| {
            if let Some(session) = state.roster.written(write, outcome) {
                let retry_after = limit::DUPLICATE_RETRY_MIN;
                tracing::warn!(agent = %write.entry.agent_id, "another server has taken this agent");
                state.dismiss(session, leave::displaced(Displacement::Superseded { retry_after }));
                state.roster.closed(session, Ending::Lost, now);
            }
        });
    }

    pub(crate) fn lease_changed(&self) {
        self.with(|state, _| state.roster.lease_changed());
    }

    // ---- inside ----

    /// Works on the state and wakes whoever has something to do after it.
    fn with<T>(&self, work: impl FnOnce(&mut State, Now) -> T) -> T {
        let now = self.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.roster.next_due();
        let outcome = work(&mut state, now);
        let rescheduled = state.roster.next_due() != due;
        let (unwritten, reported) = (state.roster.has_writes(), !state.reports.is_empty());
        self.measure.sessions.set(i64::try_from(state.roster.sessions()).unwrap_or(i64::MAX));
        drop(state);
        for (news, whom) in
            [(rescheduled, &self.rescheduled), (unwritten, &self.unwritten), (reported, &self.reported)]
        {
            if news {
                whom.notify_one();
            }
        }
        outcome
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends everything that waits for an agent down its session, if it has one.
    fn hand_over(&mut self, agent: &AgentId, now: Duration) {
        let Some(session) = self.roster.session_of(agent) else { return };
        for order in self.orders.deliver(agent, session, now) {
            self.send(session, Control::Order(Box::new(order)));
        }
    }

    fn dismiss(&mut self, session: SessionId, leave: wire::Leave) {
        self.send(session, Control::Leave(leave));
        self.links.remove(&session);
    }

    fn send(&mut self, session: SessionId, control: Control) {
        let Some(link) = self.links.get(&session) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = link.control.try_send(control) {
            link.cut.cancel();
        }
    }
}

fn server_report(
    command_id: CommandId,
    kind: CommandType,
    state: CommandState,
    message: String,
    now: Now,
) -> Report {
    Report { command_id, kind, state, message, result: serde_json::Map::new(), at: now.wall }
}

fn response(pending: &Pending, prefix: &str) -> ResponseRecord {
    let Pending { agent, report, .. } = pending;
    let message = format!("{prefix}{}", report.message);
    let (command, kind, state) = (report.command_id.clone(), report.kind, report.state);
    let response = ResponseRecord::new(command, agent.clone(), kind, state, message, report.at);
    ResponseRecord { result: report.result.clone(), ..response }
}
