//! Puts the parts together, and takes them down in order.

use std::sync::Arc;
use std::time::Duration;

use model::id::Incarnation;
use model::limit;
use model::pipeline::{NoSandbox, Pipeline};
use proto::wire::goodbye;
use runtime::clock::wall;
use runtime::{Clock, Health, Scope};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::collect;
use crate::collection::Collecting;
use crate::config::{Beginning, beginning};
use crate::control::{self, Control, Inbox};
use crate::journal::Journal;
use crate::lanes::Lanes;
use crate::machine::{Machine, Usage};
use crate::metrics::Metrics;
use crate::session::{Downlink, Identity, Surroundings};
use crate::settings::{Settings, StartError};
use crate::state::{Change, State, StateError};
use crate::uplink::Uplink;

/// Measuring and obeying end in milliseconds, a write under way in a second.
const WORK_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Sending the rest, a goodbye, and closing.
const UPLINK_ENDS_WITHIN: Duration = Duration::from_secs(4);
/// Orders under way to the collection loop: there is one who gives them, and it waits.
const ORDERS: usize = 1;
/// Acknowledged reports under way to the journal; more are told again by the server's next session.
const ACKNOWLEDGEMENTS: usize = 64;

/// An agent that can run: everything that can fail has not.
#[derive(Debug)]
pub struct Agent {
    collecting: Collecting,
    orders: mpsc::Receiver<crate::collection::Order>,
    control: Control,
    inbox: Inbox,
    uplink: Uplink,
    farewell: watch::Sender<Option<goodbye::Reason>>,
    restart: CancellationToken,
}

/// Why an agent's run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// It is to be made anew: a RESTART, or a fault of its own.
    Restart,
}

impl Agent {
    /// Reads the state and prepares everything. Spawns nothing and connects to nothing.
    pub fn bind(settings: Settings, metrics: Metrics, health: Health) -> Result<Self, StartError> {
        let component = move |name: &str| health.component(name);
        let servers = settings.servers()?;
        let (state, stored) = State::open(&settings.state_directory)?;
        let clock = Clock::start();
        let identity = Arc::new(identity(&settings));
        metrics.begun(&identity.agent_id, &identity.incarnation);
        let (journal, decided) = Journal::restore(stored.commands, &identity.incarnation, wall());
        remember(&state, &journal, &decided)?;
        let buildable = |config: &_| Pipeline::build(config, &NoSandbox).map(drop);
        let Beginning { config, truth } = beginning(stored.last_good.as_ref(), buildable, wall());

        let lanes = Arc::new(Lanes::new(metrics.clone()));
        let (collecting, view) = Collecting::new(
            settings.roots,
            &config,
            control::collection(stored.paused),
            clock,
            Arc::clone(&lanes),
            metrics.clone(),
            component("collection"),
        )
        .expect("the config was built a moment ago");
        let (order, orders) = mpsc::channel(ORDERS);
        let (commands, command_inbox) = mpsc::channel(limit::COMMANDS_WAITING_PER_AGENT_MAX);
        let (acknowledgements, acknowledged) = mpsc::channel(ACKNOWLEDGEMENTS);
        let (config, configured) = watch::channel(None);
        let (truth, truth_seen) = watch::channel(truth);
        let (farewell, farewell_seen) = watch::channel(None);
        let (connected, connected_seen) = watch::channel(None);
        let restart = CancellationToken::new();
        let control = Control {
            identity: Arc::clone(&identity),
            state: Arc::new(state),
            state_notice: stored.moved_aside.as_deref().map(control::damage_notice),
            journal,
            registry: stored.last_good.as_ref().map(|good| good.registry.clone()).unwrap_or_default(),
            last_good: stored.last_good,
            truth,
            lanes: Arc::clone(&lanes),
            orders: order,
            view: view.clone(),
            connected: connected_seen,
            metrics: metrics.clone(),
            health: component("state"),
            restart: restart.clone(),
        };
        let downlink = Downlink { commands, acknowledgements, config };
        let surroundings = Surroundings {
            identity,
            lanes,
            view,
            truth: truth_seen,
            farewell: farewell_seen,
            downlink,
            metrics,
        };
        let uplink = Uplink { servers, surroundings, health: component("uplink"), connected, connections: 0 };
        let inbox = Inbox { commands: command_inbox, acknowledgements: acknowledged, config: configured };
        Ok(Self { collecting, orders, control, inbox, uplink, farewell, restart })
    }

    /// Runs until `stop`, a RESTART, or a panic of one of its tasks. What was collected is sent before this returns, as
    /// far as a server takes it in time.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let (work, sending) = (Scope::new("agent"), Scope::new("agent uplink"));
        work.spawn("collection", self.collecting.run(self.orders, work.stopping()));
        work.spawn("control", self.control.run(self.inbox, work.stopping()));
        // The uplink ends by itself after the farewell; this is for whoever drops this future.
        let abandoned = CancellationToken::new();
        let _abandon = (abandoned.clone().drop_guard(), work.stopping().drop_guard());
        sending.spawn("uplink", async move {
            abandoned.run_until_cancelled(self.uplink.run()).await.unwrap_or(());
        });
        let ended = tokio::select! {
            biased;
            () = self.restart.cancelled() => Ended::Restart,
            () = stop.cancelled() => Ended::Stopped,
            () = work.broken() => Ended::Restart,
            () = sending.broken() => Ended::Restart,
        };
        if let Err(error) = work.stop(WORK_ENDS_WITHIN).await {
            tracing::error!(%error, "the agent's work did not end well");
        }
        self.farewell.send_replace(Some(match ended {
            Ended::Stopped => goodbye::Reason::Shutdown,
            Ended::Restart => goodbye::Reason::Restart,
        }));
        if let Err(error) = sending.stop(UPLINK_ENDS_WITHIN).await {
            tracing::error!(%error, "the agent's uplink did not end well");
        }
        ended
    }
}

fn identity(settings: &Settings) -> Identity {
    let boot_id = collect::boot_id(&settings.roots).unwrap_or_else(|error| {
        tracing::warn!(%error, "this machine's boot has no id; restarts of the machine and of the agent look the same");
        String::new()
    });
    Identity {
        agent_id: settings.agent_id.clone(),
        incarnation: Incarnation::new(Ulid::generate().to_string()).expect("a ULID is letters and digits"),
        boot_id,
        labels: settings.labels.clone(),
        machine: Machine::read(&settings.roots),
        started: tokio::time::Instant::now(),
        cpu_at_start: Usage::read().map_or(Duration::ZERO, |usage| usage.cpu),
    }
}

/// Writes what the restart decided about commands, before anybody is told.
fn remember(state: &State, journal: &Journal, decided: &[u64]) -> Result<(), StateError> {
    let entries = decided.iter().filter_map(|number| Some((*number, journal.get(*number)?.clone())));
    let changes: Vec<Change> =
        entries.map(|(number, entry)| Change::Command(number, Box::new(entry))).collect();
    if changes.is_empty() { Ok(()) } else { state.write(&changes) }
}

#[cfg(test)]
mod tests;
