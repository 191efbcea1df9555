//! Which session speaks for which agent, and what is therefore said of the agent.
//!
//! A pure value: it is told the time. The newest session of an agent id wins; one that claims the id of a live agent
//! under another incarnation is a duplicate, and the one it displaced has to stay away for a while. What should stand in
//! the inventory is kept here as [`AgentEntry`]; writing it is [`crate::inventory`]'s work.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use model::id::{AgentId, Incarnation, ServerId};
use model::limit;
use model::presence::{Collection, Presence, Timing};
use model::sample::Timestamp;
use model::truth::{ConfigTruth, Failure, Mark};
use proto::key::{AgentEntry, Client};

use self::member::{Member, merged_truth, rhythm_timing};
pub(crate) use self::writes::{Known, Write, Written};
use crate::hello::Introduction;

mod member;
mod writes;

/// One instant on both clocks: monotonic to judge by, wall to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub monotonic: Duration,
    pub wall: Timestamp,
}

/// One stream, for the lifetime of this server run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub u64);

/// A session that was let in, and the one that had to go for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub session: SessionId,
    pub displaced: Option<(SessionId, Displacement)>,
}

/// Why an older session of the same agent id ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Displacement {
    /// The same agent came back, or the old stream was silent: nobody is there to be told.
    Replaced,
    /// Another live agent uses the id.
    Superseded { retry_after: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was superseded and is back too early.
    Banned {
        remaining: Duration,
    },
    Full,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Lost,
    Goodbye { restarting: bool },
}

/// Every agent this server run holds, or held and still judges.
#[derive(Debug)]
pub(crate) struct Roster {
    server: ServerId,
    server_incarnation: Incarnation,
    timing: Timing,
    members: BTreeMap<AgentId, Member>,
    sessions: HashMap<SessionId, AgentId>,
    next_session: u64,
    schedule: BTreeSet<(Duration, AgentId)>,
    dirty: VecDeque<AgentId>,
    frozen: bool,
}

impl Roster {
    pub(crate) fn new(server: ServerId, server_incarnation: Incarnation, timing: Timing) -> Self {
        Self {
            server,
            server_incarnation,
            timing,
            members: BTreeMap::new(),
            sessions: HashMap::new(),
            next_session: 1,
            schedule: BTreeSet::new(),
            dirty: VecDeque::new(),
            frozen: false,
        }
    }

    /// Somebody introduced itself.
    pub(crate) fn admit(&mut self, who: &Introduction, now: Now) -> Result<Admitted, Refusal> {
        if !self.members.contains_key(&who.agent_id) && !self.has_room() {
            return Err(Refusal::Full);
        }
        if let Some(remaining) = self.banned(who, now.monotonic) {
            return Err(Refusal::Banned { remaining });
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let displaced = self.displace(who, now);
        self.seat(who, session, now);
        self.sessions.insert(session, who.agent_id.clone());
        self.judge(&who.agent_id.clone(), now);
        self.mark_dirty(&who.agent_id);
        Ok(Admitted { session, displaced })
    }

    /// Anything came from the agent on this session.
    pub(crate) fn heard(&mut self, session: SessionId, now: Now) {
        let Some((agent, member)) = self.speaking(session) else { return };
        member.tracker.heard(now.monotonic);
        if member.tracker.verdict(now.monotonic) != member.entry.verdict() {
            self.judge(&agent, now);
        }
    }

    /// The rhythm of a StreamMetrics client, as observed; `None` before there is one.
    pub(crate) fn rhythm(&mut self, session: SessionId, interval: Option<Duration>, now: Now) {
        let timing = rhythm_timing(self.timing, interval);
        let Some((agent, member)) = self.speaking(session) else { return };
        member.tracker.retimed(timing);
        let interval_ms =
            interval.map_or(0, |interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
        member.entry.interval_ms = interval_ms;
        self.judge(&agent, now);
    }

    /// What the agent says of itself changed. Written only if it did.
    pub(crate) fn facts(&mut self, session: SessionId, collection: Collection, interval: Duration) {
        let Some((agent, member)) = self.speaking(session) else { return };
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        if (member.entry.collection, member.entry.interval_ms) != (collection, interval_ms) {
            member.entry.collection = collection;
            member.entry.interval_ms = interval_ms;
            self.mark_dirty(&agent);
        }
    }

    /// The agent's own word about its config.
    pub(crate) fn truth(&mut self, session: SessionId, truth: ConfigTruth) {
        let Some((agent, member)) = self.speaking(session) else { return };
        let merged = merged_truth(truth, member.entry.config.desired.clone(), member.server_fault.as_ref());
        if merged != member.entry.config {
            member.entry.config = merged;
            self.mark_dirty(&agent);
        }
    }

    /// The registry's side: what this agent should run, or why that cannot be told.
    pub(crate) fn desired(&mut self, session: SessionId, mark: Mark, fault: Option<Failure>) {
        let Some((agent, member)) = self.speaking(session) else { return };
        if member.entry.config.desired.as_ref().is_some_and(|old| old.revision > mark.revision) {
            return;
        }
        member.server_fault = fault;
        let truth = member.entry.config.clone();
        let merged = merged_truth(truth, Some(mark), member.server_fault.as_ref());
        if merged != member.entry.config {
            member.entry.config = merged;
            self.mark_dirty(&agent);
        }
    }

    /// The stream ended. After a displacement this is no news.
    pub(crate) fn closed(&mut self, session: SessionId, ending: Ending, now: Now) {
        let frozen = self.frozen;
        let Some((agent, member)) = self.speaking(session) else { return };
        if frozen && ending == Ending::Lost {
            member.session = None;
            self.sessions.remove(&session);
            return;
        }
        match ending {
            Ending::Goodbye { restarting } => member.tracker.said_goodbye(restarting, now.monotonic),
            Ending::Lost => {
                if member.entry.client == Client::StreamMetrics {
                    // Its open connection was the last sign of life, and coming back has nothing to do with its rhythm.
                    member.tracker.heard(now.monotonic);
                }
                member.tracker.lost();
            }
        }
        member.session = None;
        self.sessions.remove(&session);
        let timing = self.timing;
        if let Some(member) = self.members.get_mut(&agent) {
            member.tracker.retimed(timing);
        }
        self.judge(&agent, now);
    }

    /// Judges everyone whose verdict may have changed by the time alone.
    pub(crate) fn advance(&mut self, now: Now) {
        if self.frozen {
            self.schedule.clear();
        }
        while self.schedule.first().is_some_and(|(due, _)| *due <= now.monotonic) {
            if let Some((_, agent)) = self.schedule.pop_first() {
                if let Some(member) = self.members.get_mut(&agent) {
                    member.due = None;
                }
                self.judge(&agent, now);
            }
        }
    }

    /// The server itself did not run for `gap`: what its agents said meanwhile is still to be read, and their silence
    /// proves nothing.
    pub(crate) fn woke(&mut self, gap: Duration) {
        for member in self.members.values_mut() {
            let last_heard = member.tracker.last_heard();
            member.tracker.heard(last_heard + gap);
        }
    }

    /// When [`Self::advance`] next has something to do.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.schedule.first().map(|(due, _)| *due)
    }

    /// From now on only goodbyes are news: the server is leaving, its agents are not.
    pub(crate) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// The session that speaks for `agent`.
    pub(crate) fn session_of(&self, agent: &AgentId) -> Option<SessionId> {
        self.members.get(agent)?.session
    }

    pub(crate) fn entry(&self, agent: &AgentId) -> Option<&AgentEntry> {
        self.members.get(agent).map(|member| &member.entry)
    }

    /// Every open session of our own protocol, with what selectors see of its agent.
    pub(crate) fn configurable(&self) -> Vec<(SessionId, AgentId, BTreeMap<String, String>)> {
        let sessions = self.members.iter().filter_map(|(agent, member)| {
            let session = member.session.filter(|_| member.entry.client == Client::Session)?;
            Some((session, agent.clone(), member.entry.selectable()))
        });
        sessions.collect()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    // ---- inside ----

    fn speaking(&mut self, session: SessionId) -> Option<(AgentId, &mut Member)> {
        let agent = self.sessions.get(&session)?.clone();
        let member = self.members.get_mut(&agent)?;
        (member.session == Some(session)).then_some((agent, member))
    }

    /// Forgets agents that are gone when there are too many; only their bans keep them here.
    fn has_room(&mut self) -> bool {
        if self.members.len() >= limit::AGENTS_PER_SERVER_MAX {
            self.members.retain(|_, member| {
                let gone = matches!(member.entry.status, Presence::Shutdown | Presence::Offline);
                !gone || member.session.is_some() || member.dirty || member.writing
            });
        }
        self.members.len() < limit::AGENTS_PER_SERVER_MAX
    }

    fn banned(&self, who: &Introduction, now: Duration) -> Option<Duration> {
        let bans = &self.members.get(&who.agent_id)?.bans;
        let ban = bans.iter().find(|ban| ban.incarnation == who.incarnation && now < ban.until)?;
        Some(ban.until - now)
    }

    /// Ends the current session of the newcomer's id, if there is one.
    fn displace(&mut self, who: &Introduction, now: Now) -> Option<(SessionId, Displacement)> {
        let late_after = self.timing.late_after();
        let member = self.members.get_mut(&who.agent_id)?;
        let old = member.session.take()?;
        self.sessions.remove(&old);
        let silence = now.monotonic.saturating_sub(member.tracker.last_heard());
        let rival = member.entry.incarnation != who.incarnation && silence < late_after;
        if !rival {
            return Some((old, Displacement::Replaced));
        }
        let retry_after = member.ban(now.monotonic);
        member.tracker.claimed_twice(now.monotonic + retry_after);
        let host = member.entry.host.clone();
        member.entry.rivals.retain(|rival| *rival != host);
        member.entry.rivals.push(host);
        let spare = member.entry.rivals.len().saturating_sub(limit::RIVALS_MAX);
        member.entry.rivals.drain(..spare);
        Some((old, Displacement::Superseded { retry_after }))
    }

    /// Makes `session` the one that speaks for its agent.
    fn seat(&mut self, who: &Introduction, session: SessionId, now: Now) {
        let timing = match who.client {
            // Who opens a stream is not foreign.
            Client::Session | Client::Foreign => self.timing,
            Client::StreamMetrics => rhythm_timing(self.timing, None),
        };
        let (server, server_incarnation) = (&self.server, &self.server_incarnation);
        let fresh = || Member::new(who, server, server_incarnation, timing, now);
        let member = self.members.entry(who.agent_id.clone()).or_insert_with(fresh);
        let entry = &mut member.entry;
        if entry.incarnation != who.incarnation {
            entry.connected_at = now.wall;
        }
        entry.client = who.client;
        entry.incarnation = who.incarnation.clone();
        entry.host.clone_from(&who.host);
        entry.os.clone_from(&who.os);
        entry.version.clone_from(&who.version);
        entry.boot_id.clone_from(&who.boot_id);
        entry.labels.clone_from(&who.labels);
        entry.collection = who.collection;
        entry.interval_ms = u64::try_from(who.interval.as_millis()).unwrap_or(u64::MAX);
        entry.config = who.truth.clone();
        member.server_fault = None;
        member.session = Some(session);
        member.connection = who.connection;
        member.fresh = true;
        member.tracker.reopened(now.monotonic);
        member.tracker.retimed(timing);
    }

    /// Takes the tracker's verdict into the entry, and the next instant to look into the schedule.
    fn judge(&mut self, agent: &AgentId, now: Now) {
        let Some(member) = self.members.get_mut(agent) else { return };
        let verdict = member.tracker.verdict(now.monotonic);
        let changed = verdict != member.entry.verdict();
        if changed {
            member.entry.status = verdict.status;
            member.entry.reason = verdict.reason;
            member.entry.since = now.wall;
            if verdict.status == Presence::Online {
                member.entry.rivals.clear();
            }
        }
        let due = member.tracker.next_change(now.monotonic);
        // One that is due earlier than scheduled is moved; later is found out when the earlier instant comes.
        if member.due.is_none_or(|old| due.is_some_and(|new| new < old)) {
            if let Some(old) = member.due.take() {
                self.schedule.remove(&(old, agent.clone()));
            }
            member.due = due;
            self.schedule.extend(due.map(|due| (due, agent.clone())));
        }
        if changed {
            self.mark_dirty(agent);
        }
    }

    fn remove(&mut self, agent: &AgentId) {
        let Some(member) = self.members.remove(agent) else { return };
        if let Some(due) = member.due {
            self.schedule.remove(&(due, agent.clone()));
        }
        if let Some(session) = member.session {
            self.sessions.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests;
