//! What a monitor knows of the fleet, and what follows from it. Pure: told the time, asked for decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::id::{AgentId, Incarnation, Revision, ServerId};
use model::limit::SERVER_LOSS_GRACE;
use model::presence::{Presence, Reason, ServerLoss, Verdict};
use model::sample::Timestamp;
use proto::key::AgentEntry;
use proto::record::StatusRecord;

/// Every agent's newest evidence, and what was last said of it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    agents: BTreeMap<AgentId, (AgentEntry, Revision)>,
    servers: BTreeMap<ServerId, Incarnation>,
    /// Agents whose server is gone, since when this monitor has known it.
    orphans: BTreeMap<AgentId, ServerLoss>,
    /// Heartbeat keys that are not our servers': there, or there once.
    foreign: BTreeMap<AgentId, bool>,
    /// What `agent-status` says last.
    published: BTreeMap<AgentId, StatusRecord>,
}

/// An orphan's verdict, to be written over the entry it was judged by and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub entry: AgentEntry,
    /// The revision of the entry that was judged: a server that took the agent meanwhile wins.
    pub judged: Revision,
}

impl Board {
    pub fn agent(&mut self, entry: AgentEntry, modified: Revision) {
        self.agents.insert(entry.agent_id.clone(), (entry, modified));
    }

    pub fn agent_removed(&mut self, agent: &AgentId) {
        self.agents.remove(agent);
        self.orphans.remove(agent);
    }

    pub fn server(&mut self, server: ServerId, incarnation: Incarnation) {
        self.servers.insert(server, incarnation);
    }

    pub fn server_gone(&mut self, server: &ServerId) {
        self.servers.remove(server);
    }

    /// A heartbeat key written by something else than our servers came or went.
    pub fn foreign(&mut self, agent: AgentId, there: bool) {
        if there || self.foreign.contains_key(&agent) {
            self.foreign.insert(agent, there);
        }
    }

    /// A value of `agent-status`, ours or an earlier leader's.
    pub fn published(&mut self, record: StatusRecord) {
        self.published.insert(record.agent_id.clone(), record);
    }

    pub fn entry(&self, agent: &AgentId) -> Option<&AgentEntry> {
        self.agents.get(agent).map(|(entry, _)| entry)
    }

    /// How many agents stand how.
    pub fn counts(&self) -> BTreeMap<Presence, usize> {
        let mut counts = BTreeMap::new();
        for (entry, _) in self.agents.values() {
            *counts.entry(entry.status).or_default() += 1;
        }
        counts
    }

    /// Verdicts over agents whose server is gone, that differ from what their entries say.
    pub fn judge(&mut self, now: Duration, wall: Timestamp) -> Vec<Judgement> {
        let gone: BTreeSet<AgentId> = self
            .agents
            .values()
            .filter(|(entry, _)| self.is_orphan(entry))
            .map(|(e, _)| e.agent_id.clone())
            .collect();
        self.orphans.retain(|agent, _| gone.contains(agent));
        for agent in gone {
            self.orphans.entry(agent).or_insert(ServerLoss { since: now, grace: SERVER_LOSS_GRACE });
        }
        let orphans = self.orphans.iter().filter_map(|(agent, loss)| Some((self.agents.get(agent)?, loss)));
        orphans
            .filter(|((entry, _), loss)| entry.verdict() != loss.verdict(now))
            .map(|((entry, judged), loss)| {
                let Verdict { status, reason } = loss.verdict(now);
                Judgement {
                    entry: AgentEntry { status, reason, since: wall, ..entry.clone() },
                    judged: *judged,
                }
            })
            .collect()
    }

    /// The next instant at which [`Self::judge`] may say something new by itself.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        self.orphans.values().map(|loss| loss.since + loss.grace).filter(|at| *at > now).min()
    }

    /// What `agent-status` does not say yet. Call [`Self::published`] with each record that became durable.
    pub fn unpublished(&self, wall: Timestamp) -> Vec<StatusRecord> {
        let ours = self.agents.values().map(|(entry, _)| StatusRecord {
            agent_id: entry.agent_id.clone(),
            status: entry.status,
            reason: entry.reason,
            incarnation: Some(entry.incarnation.clone()),
            server: Some(entry.server.clone()),
            timestamp: wall,
        });
        let foreign = self.foreign.iter().filter(|(agent, _)| !self.agents.contains_key(*agent));
        let foreign = foreign.map(|(agent, there)| StatusRecord {
            agent_id: agent.clone(),
            status: if *there { Presence::Online } else { Presence::Offline },
            reason: if *there { Reason::ForeignKey } else { Reason::ForeignKeyGone },
            incarnation: None,
            server: None,
            timestamp: wall,
        });
        ours.chain(foreign)
            .filter(|record| self.published.get(&record.agent_id).is_none_or(|last| says_new(last, record)))
            .collect()
    }

    /// An agent that is thought alive, held by a server run that is not there.
    fn is_orphan(&self, entry: &AgentEntry) -> bool {
        let thought_alive = match entry.status {
            Presence::Online | Presence::Late | Presence::Restarting | Presence::Duplicate => true,
            Presence::Offline | Presence::Shutdown | Presence::NeverSeen => false,
        };
        thought_alive && self.servers.get(&entry.server) != Some(&entry.server_incarnation)
    }
}

/// Whether `new` is a transition after `last`. A new incarnation is one: the agent was started anew.
fn says_new(last: &StatusRecord, new: &StatusRecord) -> bool {
    (last.status, last.reason, &last.incarnation) != (new.status, new.reason, &new.incarnation)
}

#[cfg(test)]
mod tests;
