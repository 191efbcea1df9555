//! What a monitor knows of the fleet, and what follows from it. Pure: told the time, asked for decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::id::{AgentId, Incarnation, Revision, ServerId};
use model::limit::{SERVER_LOSS_GRACE, SERVER_LOSS_NOTICE};
use model::presence::{Presence, Reason, ServerLoss, Verdict};
use model::sample::Timestamp;
use proto::key::AgentEntry;
use proto::record::StatusRecord;

const FOREIGN: Verdict = Verdict::new(Presence::Online, Reason::ForeignKey);
const FOREIGN_GONE: Verdict = Verdict::new(Presence::Offline, Reason::ForeignKeyGone);

/// Every agent's newest evidence, and what was last said of it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    agents: BTreeMap<AgentId, (AgentEntry, Revision)>,
    servers: BTreeMap<ServerId, Incarnation>,
    /// Agents whose server is gone, since when this monitor has known it.
    orphans: BTreeMap<AgentId, ServerLoss>,
    /// Heartbeat keys that are not our servers', and when they were written.
    foreign: BTreeMap<AgentId, Revision>,
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

    /// A heartbeat key that something else than our servers wrote at this revision, or that is there no more.
    pub fn foreign(&mut self, agent: AgentId, written: Option<Revision>) {
        match written {
            Some(written) => self.foreign.insert(agent, written),
            None => self.foreign.remove(&agent),
        };
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

    /// Notes whose server is gone, and since when. To be called by monitors that stand by, too: their grace has begun when
    /// they begin to lead.
    pub fn look(&mut self, now: Duration) {
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
    }

    /// Verdicts over agents whose server is gone, that differ from what their entries say.
    pub fn judge(&mut self, now: Duration, wall: Timestamp) -> Vec<Judgement> {
        self.look(now);
        let orphans = self.orphans.iter().filter_map(|(agent, loss)| Some((self.agents.get(agent)?, loss)));
        orphans
            .filter(|(_, loss)| now.saturating_sub(loss.since) >= SERVER_LOSS_NOTICE)
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
        let changes =
            self.orphans.values().flat_map(|loss| [SERVER_LOSS_NOTICE, loss.grace].map(|at| loss.since + at));
        changes.filter(|at| *at > now).min()
    }

    /// What `agent-status` does not say yet. Call [`Self::published`] with each record that became durable.
    pub fn unpublished(&self, wall: Timestamp) -> Vec<StatusRecord> {
        let foreign = |agent: &AgentId, Verdict { status, reason }| StatusRecord {
            agent_id: agent.clone(),
            status,
            reason,
            incarnation: None,
            server: None,
            timestamp: wall,
        };
        let ours = self.agents.values().map(|(entry, modified)| match self.outlives(entry, *modified) {
            true => foreign(&entry.agent_id, FOREIGN),
            false => StatusRecord {
                agent_id: entry.agent_id.clone(),
                status: entry.status,
                reason: entry.reason,
                incarnation: Some(entry.incarnation.clone()),
                server: Some(entry.server.clone()),
                timestamp: wall,
            },
        });
        let strangers = |agent: &&AgentId| !self.agents.contains_key(*agent);
        let there = self.foreign.keys().filter(strangers).map(|agent| foreign(agent, FOREIGN));
        // Also those that went while nobody led: the topic knows that they were there.
        let gone = self.published.values().filter(|last| last.reason == Reason::ForeignKey);
        let gone = gone.map(|last| &last.agent_id).filter(|agent| !self.foreign.contains_key(*agent));
        let gone = gone.filter(strangers).map(|agent| foreign(agent, FOREIGN_GONE));
        ours.chain(there)
            .chain(gone)
            .filter(|record| self.published.get(&record.agent_id).is_none_or(|last| says_new(last, record)))
            .collect()
    }

    /// Whether another program's key says more than our own last word. A goodbye is one, so the key must be newer.
    fn outlives(&self, entry: &AgentEntry, modified: Revision) -> bool {
        let Some(written) = self.foreign.get(&entry.agent_id) else { return false };
        match entry.status {
            Presence::Offline | Presence::NeverSeen => true,
            Presence::Shutdown => *written > modified,
            Presence::Online | Presence::Late | Presence::Restarting | Presence::Duplicate => false,
        }
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
