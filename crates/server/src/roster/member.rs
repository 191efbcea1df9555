//! One agent of the roster: its entry, its tracker, and who was sent away for its id.

use std::collections::BTreeMap;
use std::time::Duration;

use model::id::{Incarnation, ServerId};
use model::limit;
use model::presence::{Presence, Reason, Timing, Tracker};
use model::truth::{ConfigTruth, Failure, Mark};
use proto::key::AgentEntry;

use super::{Known, Now, SessionId};
use crate::hello::Introduction;

#[derive(Debug)]
pub(super) struct Member {
    pub entry: AgentEntry,
    pub tracker: Tracker,
    pub session: Option<SessionId>,
    /// Which stream of its incarnation the newest session here is.
    pub connection: u64,
    pub bans: Vec<Ban>,
    /// The agent's own word about its config and what the server found at fault, merged into the entry.
    pub server_fault: Option<Failure>,
    pub due: Option<Duration>,
    pub known: Known,
    pub fresh: bool,
    pub dirty: bool,
    pub writing: bool,
}

/// A superseded incarnation stays away until `until`.
#[derive(Debug)]
pub(super) struct Ban {
    pub incarnation: Incarnation,
    pub until: Duration,
    pub length: Duration,
}

impl Member {
    pub(super) fn new(
        who: &Introduction,
        server: &ServerId,
        server_incarnation: &Incarnation,
        timing: Timing,
        now: Now,
    ) -> Self {
        let entry = AgentEntry {
            agent_id: who.agent_id.clone(),
            client: who.client,
            host: String::new(),
            os: String::new(),
            version: String::new(),
            labels: BTreeMap::new(),
            boot_id: String::new(),
            incarnation: who.incarnation.clone(),
            first_seen: now.wall,
            connected_at: now.wall,
            status: Presence::Online,
            reason: Reason::Connected,
            since: now.wall,
            server: server.clone(),
            server_incarnation: server_incarnation.clone(),
            collection: who.collection,
            interval_ms: 0,
            config: ConfigTruth::default(),
            rivals: Vec::new(),
        };
        Self {
            entry,
            tracker: Tracker::opened(timing, now.monotonic),
            session: None,
            connection: who.connection,
            bans: Vec::new(),
            server_fault: None,
            due: None,
            known: Known::default(),
            fresh: true,
            dirty: false,
            writing: false,
        }
    }

    /// Sends the current incarnation away; each time for twice as long.
    pub(super) fn ban(&mut self, now: Duration) -> Duration {
        // One that stayed away for as long again has made good.
        self.bans.retain(|ban| now < ban.until + ban.length);
        let incarnation = &self.entry.incarnation;
        let before = self.bans.iter().position(|ban| ban.incarnation == *incarnation);
        let length = before.map_or(limit::DUPLICATE_RETRY_MIN, |at| {
            (self.bans.remove(at).length * 2).min(limit::DUPLICATE_RETRY_MAX)
        });
        if self.bans.len() >= limit::RIVALS_MAX {
            self.bans.remove(0);
        }
        self.bans.push(Ban { incarnation: incarnation.clone(), until: now + length, length });
        length
    }
}

/// What silence means for a client that announced no interval: three of its observed ones, and never less than for
/// everyone.
pub(super) fn rhythm_timing(base: Timing, interval: Option<Duration>) -> Timing {
    let wanted = interval.map_or(limit::STREAM_METRICS_FIRST_INTERVAL, |interval| interval * 3);
    Timing::new(wanted.clamp(base.timeout(), limit::PRESENCE_TIMEOUT_MAX)).unwrap_or(base)
}

/// The agent's word, with the registry's side added: what is desired, and a fault that the agent cannot see itself.
pub(super) fn merged_truth(own: ConfigTruth, desired: Option<Mark>, fault: Option<&Failure>) -> ConfigTruth {
    let newer = |own: &Failure, ours: &Failure| own.mark.revision >= ours.mark.revision;
    let last_failed = match (own.last_failed, fault) {
        (Some(own), Some(ours)) if !newer(&own, ours) => Some(ours.clone()),
        (None, Some(ours)) => Some(ours.clone()),
        (own, _) => own,
    };
    ConfigTruth { desired, last_failed, ..own }
}
