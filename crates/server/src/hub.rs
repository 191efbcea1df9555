//! Where streams, topics and registry meet: the pure parts behind one lock, and what wakes whom.
//!
//! Every method takes the lock for an instant and never waits. What goes down to an agent goes through its [`Link`]: a
//! bounded queue, and an agent that lets it fill up is cut off.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backends::follow::Reached;
use backends::registry::Event;
use model::command::CommandState;
use model::id::{AgentId, CommandId, Incarnation, ServerId};
use model::limit;
use model::presence::{Collection, Timing};
use model::truth::ConfigTruth;
use proto::key::{self, HeartbeatEntry};
use proto::wire;
use runtime::Clock;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::hello::Introduction;
use crate::layers::{Desired, Layers};
use crate::leave;
use crate::measure::Measure;
use crate::orders::{Order, Orders};
use crate::roster::{Displacement, Ending, Now, Roster, SessionId, Write, Written};

mod commands;

pub(crate) use self::commands::Pending;

/// The server looks at its state several times a second; when it did not for this long, it was stopped or starved.
const ABSENT_AFTER: Duration = Duration::from_secs(1);
/// Reports that may wait before those of ended sessions among them are looked for.
const REPORTS_UNSORTED_MAX: usize = 1_024;

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
    /// How far `command-responses` has been read.
    pub responses: watch::Sender<Reached>,
    /// Empty until the registry was first reached.
    registry_id: Mutex<String>,
    state: Mutex<State>,
    layers: Mutex<Layers>,
}

#[derive(Debug)]
struct State {
    roster: Roster,
    orders: Orders,
    links: HashMap<SessionId, Link>,
    reports: VecDeque<Pending>,
    /// How many reports there may be before those that nobody waits for are let go.
    reports_sorted_at: usize,
    draining: bool,
    last_look: Duration,
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
        let clock = Clock::start();
        let state = State {
            roster,
            orders: Orders::default(),
            links: HashMap::new(),
            reports: VecDeque::new(),
            reports_sorted_at: REPORTS_UNSORTED_MAX,
            draining: false,
            last_look: clock.monotonic(),
        };
        Arc::new(Self {
            server,
            incarnation,
            timing,
            clock,
            measure,
            rescheduled: Notify::new(),
            unwritten: Notify::new(),
            reported: Notify::new(),
            responses: watch::Sender::default(),
            registry_id: Mutex::default(),
            state: Mutex::new(state),
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
            let Some((session, displacement)) = state.roster.written(write, outcome) else { return };
            let agent = &write.entry.agent_id;
            match displacement {
                Displacement::Replaced => tracing::debug!(%agent, "the agent has moved to another server"),
                Displacement::Superseded { .. } => {
                    tracing::warn!(%agent, "another agent with the same id came to another server");
                }
            }
            state.dismiss(session, leave::displaced(displacement));
            state.roster.closed(session, Ending::Lost, now);
        });
    }

    /// A heartbeat key changed. One that another server wrote may be of an agent that is held here.
    pub(crate) fn heartbeat_changed(&self, event: Event) {
        let entries = match event {
            Event::Put(entry) => vec![entry],
            Event::Resync(snapshot) => snapshot.entries,
            // Ours go with our lease, whose owner knows of it.
            Event::Delete { .. } => return,
        };
        let elsewhere = entries.into_iter().filter_map(|entry| {
            let holder: HeartbeatEntry = serde_json::from_slice(&entry.value).ok()?;
            let ours = (&holder.server, &holder.server_incarnation) == (&self.server, &self.incarnation);
            let agent = entry.key.strip_prefix(key::HEARTBEATS).and_then(|id| AgentId::new(id).ok());
            agent.filter(|_| !ours)
        });
        let elsewhere: Vec<AgentId> = elsewhere.collect();
        self.with(|state, _| elsewhere.iter().for_each(|agent| state.roster.claimed_elsewhere(agent)));
    }

    pub(crate) fn registry_known(&self, id: String) {
        *self.registry_id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Which registry the revisions are of.
    pub(crate) fn registry_id(&self) -> String {
        self.registry_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let gap = now.monotonic.saturating_sub(std::mem::replace(&mut state.last_look, now.monotonic));
        if gap >= ABSENT_AFTER {
            state.roster.woke(gap);
        }
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
