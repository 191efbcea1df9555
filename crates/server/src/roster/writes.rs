//! What the roster has for the inventory: one write per agent at a time, and the latest wins.

use backends::registry::LeaseId;
use bytes::Bytes;
use model::id::{AgentId, Incarnation};
use model::limit;
use model::presence::Presence;
use model::sample::Timestamp;
use proto::key::{AgentEntry, HeartbeatEntry};

use super::{Displacement, Roster, SessionId};

/// What the inventory should be told about one agent. One at a time per agent; settle it with [`Roster::written`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub entry: AgentEntry,
    /// Whether the heartbeat key should stand.
    pub hold: bool,
    /// The agent came to this server since the last write: it may be taken from whoever had it.
    pub fresh: bool,
    /// Which stream of its incarnation the agent has here.
    pub connection: u64,
    pub known: Known,
}

/// What this server last wrote about an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The heartbeat key as it stands, and its lease.
    pub heartbeat: Option<(Bytes, LeaseId)>,
}

/// What became of a [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done {
        known: Known,
        first_seen: Timestamp,
        connected_at: Timestamp,
    },
    /// Another server, or another run of this one, has the agent now; if it is known, this incarnation of it.
    Usurped {
        by: Option<Incarnation>,
    },
    /// The registry did not answer; still to be done.
    Postponed,
}

impl Write {
    /// The value of the heartbeat key that says what this write says.
    pub(crate) fn heartbeat(&self) -> HeartbeatEntry {
        HeartbeatEntry {
            server: self.entry.server.clone(),
            server_incarnation: self.entry.server_incarnation.clone(),
            incarnation: self.entry.incarnation.clone(),
            connection: self.connection,
            since: self.entry.connected_at,
        }
    }
}

impl Roster {
    /// The next agent the inventory should hear about; nobody else is given this agent until it is [`Self::written`].
    pub(crate) fn next_write(&mut self) -> Option<Write> {
        while let Some(agent) = self.dirty.pop_front() {
            let Some(member) = self.members.get_mut(&agent) else { continue };
            member.dirty = false;
            member.writing = true;
            let status = member.entry.status;
            return Some(Write {
                entry: member.entry.clone(),
                hold: !matches!(status, Presence::Offline | Presence::Shutdown | Presence::Restarting),
                fresh: member.fresh,
                connection: member.connection,
                known: member.known.clone(),
            });
        }
        None
    }

    pub(crate) fn has_writes(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Settles a [`Write`]. Returns the session that lost its agent to another server.
    pub(crate) fn written(&mut self, write: &Write, outcome: Written) -> Option<(SessionId, Displacement)> {
        let agent = &write.entry.agent_id;
        let member = self.members.get_mut(agent)?;
        member.writing = false;
        let again = std::mem::take(&mut member.dirty);
        match outcome {
            Written::Done { known, first_seen, connected_at } => {
                member.known = known;
                member.entry.first_seen = first_seen;
                if member.entry.incarnation == write.entry.incarnation {
                    member.entry.connected_at = connected_at;
                    member.fresh = false;
                }
                if again {
                    self.mark_dirty(agent);
                } else {
                    self.forget_if_settled(agent);
                }
                None
            }
            Written::Postponed => {
                self.mark_dirty(agent);
                None
            }
            Written::Usurped { .. } if member.fresh && !write.fresh => {
                // It came here, anew, while the write was under way.
                self.mark_dirty(agent);
                None
            }
            Written::Usurped { by } => {
                // The same run of the agent has merely moved, and this is what is left of its old stream.
                let moved = by.as_ref() == Some(&member.entry.incarnation);
                let displacement = match moved {
                    true => Displacement::Replaced,
                    false => Displacement::Superseded { retry_after: limit::DUPLICATE_RETRY_MIN },
                };
                let session = member.session;
                self.remove(agent);
                session.map(|session| (session, displacement))
            }
        }
    }

    /// Somebody else's claim on an agent was seen: if it is held here, the next write finds out who has it.
    pub(crate) fn claimed_elsewhere(&mut self, agent: &AgentId) {
        self.mark_dirty(agent);
    }

    /// The server has a new lease: heartbeat keys on the old one are gone, or will be, and are to be written again.
    pub(crate) fn lease_changed(&mut self) {
        let held =
            self.members.iter().filter(|(_, member)| member.writing || member.known.heartbeat.is_some());
        let agents: Vec<AgentId> = held.map(|(agent, _)| agent.clone()).collect();
        for agent in agents {
            self.mark_dirty(&agent);
        }
    }

    pub(super) fn mark_dirty(&mut self, agent: &AgentId) {
        let Some(member) = self.members.get_mut(agent) else { return };
        let queued = std::mem::replace(&mut member.dirty, true);
        if !queued && !member.writing {
            self.dirty.push_back(agent.clone());
        }
    }

    /// An agent that is gone, written down and not awaited needs no place here.
    fn forget_if_settled(&mut self, agent: &AgentId) {
        let settled = self.members.get(agent).is_some_and(|member| {
            let gone = matches!(member.entry.status, Presence::Shutdown | Presence::Offline);
            gone && member.session.is_none() && member.bans.is_empty() && member.known.heartbeat.is_none()
        });
        if settled {
            self.remove(agent);
        }
    }
}
