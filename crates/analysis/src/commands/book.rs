//! The book itself: commands by id, their agents, the newest response of each. Pure and bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::command::CommandType;
use model::id::{AgentId, CommandId};
use model::sample::Timestamp;
use proto::api::Command;
use proto::record::ResponseRecord;
use serde_json::{Map, Value};

/// A map entry with two ids.
const ENTRY_BYTES: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    entries: HashMap<CommandId, Entry>,
    by_age: BTreeSet<(Timestamp, CommandId)>,
    entries_max: usize,
    bytes_max: usize,
    bytes: usize,
    changes: u64,
}

/// One command, or responses that wait for theirs.
#[derive(Debug)]
struct Entry {
    issued: Option<Issued>,
    agents: BTreeMap<AgentId, Standing>,
    /// Its own and those of its agents.
    bytes: usize,
}

/// What all agents of one command were told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Issued {
    pub(super) kind: CommandType,
    pub(super) params: Map<String, Value>,
    pub(super) issued_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) issued_by: Option<String>,
}

/// How a command stands at one agent.
#[derive(Debug, Default)]
struct Standing {
    /// Whether the command itself was seen, not only a response.
    meant: bool,
    response: Option<ResponseRecord>,
    /// The change that brought the response.
    changed: u64,
    bytes: usize,
}

/// What is new about one command.
#[derive(Debug)]
pub(super) struct News {
    /// In the order in which they came.
    pub(super) responses: Vec<ResponseRecord>,
    /// Every agent has its final response.
    pub(super) done: bool,
    /// Where to go on.
    pub(super) changes: u64,
}

impl Book {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let (entries, by_age) = (HashMap::new(), BTreeSet::new());
        Self { entries, by_age, entries_max, bytes_max, bytes: 0, changes: 0 }
    }

    /// How many changes there were.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// One agent is told. What the command says is taken from the first record seen of it.
    pub(super) fn issue(&mut self, id: &CommandId, agent: AgentId, issued: Issued, at: Timestamp) {
        self.with(id, at, |entry, _| {
            let standing = entry.agents.entry(agent).or_default();
            let changed = !std::mem::replace(&mut standing.meant, true);
            if changed && standing.bytes == 0 {
                standing.bytes = ENTRY_BYTES;
                entry.bytes += ENTRY_BYTES;
            }
            if entry.issued.is_none() {
                entry.bytes += json_bytes(&issued.params);
                entry.issued = Some(issued);
            }
            changed
        });
    }

    /// An agent, or the monitor for it, reports. A final response stays, and progress does not go back.
    pub(super) fn respond(&mut self, response: ResponseRecord, at: Timestamp, bytes: usize) {
        self.with(&response.command_id.clone(), at, |entry, change| {
            let standing = entry.agents.entry(response.agent_id.clone()).or_default();
            let stays = |known: &ResponseRecord| {
                known.is_final || (!response.is_final && response.state <= known.state)
            };
            if standing.response.as_ref().is_some_and(stays) {
                return false;
            }
            standing.response = Some(response);
            standing.changed = change;
            entry.bytes = entry.bytes - standing.bytes + ENTRY_BYTES + bytes;
            standing.bytes = ENTRY_BYTES + bytes;
            true
        });
    }

    /// Forgets what began before `begin`.
    pub(super) fn expire(&mut self, begin: Timestamp) {
        while self.by_age.first().is_some_and(|(at, _)| *at < begin) {
            self.forget_oldest();
        }
    }

    pub(super) fn get(&self, id: &CommandId) -> Option<Command> {
        self.entries.get(id)?.command(id)
    }

    pub(super) fn list(&self, limit: usize) -> Vec<Command> {
        let newest = self.by_age.iter().rev();
        newest.filter_map(|(_, id)| self.get(id)).take(limit).collect()
    }

    pub(super) fn agents(&self, id: &CommandId) -> Vec<AgentId> {
        self.entries.get(id).map(|entry| entry.agents.keys().cloned().collect()).unwrap_or_default()
    }

    /// What came about one command after the change `seen`.
    pub(super) fn since(&self, id: &CommandId, seen: u64) -> Option<News> {
        let entry = self.entries.get(id)?;
        let new = entry.agents.values().filter(|standing| standing.changed > seen);
        let mut new: Vec<_> =
            new.filter_map(|standing| Some((standing.changed, standing.response.as_ref()?))).collect();
        new.sort_by_key(|(changed, _)| *changed);
        let responses = new.into_iter().map(|(_, response)| response.clone()).collect();
        let done = entry.agents.values().all(Standing::is_final);
        Some(News { responses, done, changes: self.changes })
    }

    /// Changes one entry, made if need be, and keeps the sums and limits true.
    fn with(&mut self, id: &CommandId, at: Timestamp, change: impl FnOnce(&mut Entry, u64) -> bool) {
        let entry = self.entries.entry(id.clone()).or_insert_with(|| {
            self.by_age.insert((at, id.clone()));
            Entry { issued: None, agents: BTreeMap::new(), bytes: ENTRY_BYTES }
        });
        // A new entry's bytes are in no sum yet.
        let before = if entry.is_new() { 0 } else { entry.bytes };
        if change(entry, self.changes + 1) {
            self.changes += 1;
        }
        self.bytes = self.bytes - before + entry.bytes;
        while self.entries.len() > self.entries_max || self.bytes > self.bytes_max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, id)) = self.by_age.pop_first() else { return };
        self.bytes -= self.entries.remove(&id).map_or(0, |entry| entry.bytes);
    }
}

impl Entry {
    fn is_new(&self) -> bool {
        self.agents.is_empty()
    }

    /// `None` for responses whose command was not seen.
    fn command(&self, id: &CommandId) -> Option<Command> {
        let issued = self.issued.clone()?;
        let open = self.agents.iter().filter(|(_, standing)| !standing.is_final());
        Some(Command {
            command_id: id.clone(),
            kind: issued.kind,
            params: issued.params,
            issued_at: issued.issued_at,
            expires_at: issued.expires_at,
            issued_by: issued.issued_by,
            responses: self.agents.values().filter_map(|standing| standing.response.clone()).collect(),
            open: open.map(|(agent, _)| agent.clone()).collect(),
        })
    }
}

impl Standing {
    fn is_final(&self) -> bool {
        self.response.as_ref().is_some_and(|response| response.is_final)
    }
}

fn json_bytes(params: &Map<String, Value>) -> usize {
    params.iter().map(|(key, value)| key.len() + value.to_string().len() + 64).sum()
}
