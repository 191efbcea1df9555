//! What an agent remembers of commands: which it had, how each ended, and what the server knows of it.
//!
//! The rules are here, the disk is in [`crate::state`]: whoever changes the journal writes the changed entry before
//! acting on it. A command is acted on at most once, because its id is known before.

use std::collections::{BTreeMap, HashMap};

use model::command::{CommandState, CommandType};
use model::id::{CommandId, Incarnation};
use model::limit::COMMAND_JOURNAL_MAX;
use model::sample::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One command, as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: CommandId,
    pub(crate) kind: CommandType,
    pub(crate) state: CommandState,
    pub(crate) message: String,
    pub(crate) result: Map<String, Value>,
    pub(crate) at: Timestamp,
    /// The run of the agent that took it.
    pub(crate) incarnation: Incarnation,
    /// The server has made `state` durable. The outcome is then its affair, and only the id is kept.
    pub(crate) acknowledged: bool,
}

/// How a command went on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    pub(crate) state: CommandState,
    pub(crate) message: String,
    pub(crate) result: Map<String, Value>,
}

impl Progress {
    pub(crate) fn new(state: CommandState, message: impl Into<String>) -> Self {
        Self { state, message: message.into(), result: Map::new() }
    }

    pub(crate) fn succeeded(result: Map<String, Value>) -> Self {
        Self { state: CommandState::Succeeded, message: String::new(), result }
    }
}

/// The number of an entry, in the order in which commands came. The key on disk.
pub(crate) type Number = u64;

/// What an arriving command is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arrival {
    /// To be acted on; `forgotten` made room for it.
    New { number: Number, forgotten: Option<Number> },
    /// It was here before. Its server may not know how it stands.
    Unacknowledged(Entry),
    /// It was here before, and its server knows.
    Acknowledged,
}

/// Every remembered command, at most [`COMMAND_JOURNAL_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: BTreeMap<Number, Entry>,
    numbers: HashMap<CommandId, Number>,
}

impl Journal {
    /// What the disk held. Also answers with the entries that the restart itself decided.
    pub(crate) fn restore(
        entries: BTreeMap<Number, Entry>,
        incarnation: &Incarnation,
        now: Timestamp,
    ) -> (Self, Vec<Number>) {
        let numbers = entries.iter().map(|(number, entry)| (entry.id.clone(), *number)).collect();
        let mut journal = Self { entries, numbers };
        let open: Vec<Number> = journal.open().collect();
        for number in &open {
            if let Some(entry) = journal.entries.get(number) {
                let progress = after_restart(entry, incarnation);
                journal.advance(*number, progress, now);
            }
        }
        (journal, open)
    }

    /// A command has come.
    pub(crate) fn arrive(
        &mut self,
        id: &CommandId,
        kind: CommandType,
        incarnation: &Incarnation,
        now: Timestamp,
    ) -> Arrival {
        if let Some(entry) = self.numbers.get(id).and_then(|number| self.entries.get(number)) {
            return if entry.acknowledged {
                Arrival::Acknowledged
            } else {
                Arrival::Unacknowledged(entry.clone())
            };
        }
        let forgotten = if self.entries.len() >= COMMAND_JOURNAL_MAX { self.forget() } else { None };
        let number = self.entries.last_key_value().map_or(0, |(last, _)| last + 1);
        let Progress { state, message, result } = Progress::new(CommandState::Delivered, "");
        let (at, incarnation, acknowledged) = (now, incarnation.clone(), false);
        let id = id.clone();
        self.numbers.insert(id.clone(), number);
        let entry = Entry { id, kind, state, message, result, at, incarnation, acknowledged };
        self.entries.insert(number, entry);
        Arrival::New { number, forgotten }
    }

    /// A command went on.
    pub(crate) fn advance(&mut self, number: Number, progress: Progress, now: Timestamp) {
        if let Some(entry) = self.entries.get_mut(&number) {
            let Progress { state, message, result } = progress;
            (entry.state, entry.message, entry.result) = (state, message, result);
            (entry.at, entry.acknowledged) = (now, false);
        }
    }

    /// The server has made a state durable. Answers with the entry's number if that was its last word.
    pub(crate) fn acknowledge(&mut self, id: &CommandId, state: CommandState) -> Option<Number> {
        let number = *self.numbers.get(id)?;
        let entry = self.entries.get_mut(&number)?;
        if entry.state != state || !state.is_final() || entry.acknowledged {
            return None;
        }
        entry.acknowledged = true;
        entry.result = Map::new();
        Some(number)
    }

    pub(crate) fn get(&self, number: Number) -> Option<&Entry> {
        self.entries.get(&number)
    }

    /// What the server may not know, in the order of arrival.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| !entry.acknowledged)
    }

    fn open(&self) -> impl Iterator<Item = Number> {
        self.entries.iter().filter(|(_, entry)| !entry.state.is_final()).map(|(number, _)| *number)
    }

    /// The oldest that is no longer needed: first those whose outcome is known, then those whose outcome nobody asked
    /// for during all the commands since.
    fn forget(&mut self) -> Option<Number> {
        let oldest = |wanted: fn(&Entry) -> bool| {
            self.entries.iter().find(|(_, entry)| wanted(entry)).map(|(number, _)| *number)
        };
        let number = oldest(|entry| entry.acknowledged).or_else(|| oldest(|entry| entry.state.is_final()))?;
        let entry = self.entries.remove(&number)?;
        self.numbers.remove(&entry.id);
        Some(number)
    }
}

/// What a command is whose agent ended before it did.
fn after_restart(entry: &Entry, incarnation: &Incarnation) -> Progress {
    match (entry.kind, entry.state) {
        (CommandType::Restart, CommandState::Running) => {
            let result = json!({ "old_incarnation": entry.incarnation, "new_incarnation": incarnation });
            Progress::succeeded(result.as_object().cloned().unwrap_or_default())
        }
        (_, CommandState::Running) => {
            Progress::new(CommandState::Interrupted, "the agent ended while it acted; it was not repeated")
        }
        _ => Progress::new(CommandState::Interrupted, "the agent ended before it acted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> CommandId {
        CommandId::new(text).unwrap()
    }

    fn incarnation(text: &str) -> Incarnation {
        Incarnation::new(text).unwrap()
    }

    fn arrive(journal: &mut Journal, text: &str, kind: CommandType) -> Arrival {
        journal.arrive(&id(text), kind, &incarnation("i1"), Timestamp::default())
    }

    fn advance(journal: &mut Journal, number: Number, state: CommandState) {
        journal.advance(number, Progress::new(state, ""), Timestamp::default());
    }

    #[test]
    fn the_same_id_is_new_once() {
        let mut journal = Journal::default();
        assert_eq!(arrive(&mut journal, "c", CommandType::Stop), Arrival::New { number: 0, forgotten: None });
        assert!(matches!(arrive(&mut journal, "c", CommandType::Stop), Arrival::Unacknowledged(_)));
        advance(&mut journal, 0, CommandState::Succeeded);
        let Arrival::Unacknowledged(entry) = arrive(&mut journal, "c", CommandType::Stop) else { panic!() };
        assert_eq!(entry.state, CommandState::Succeeded);
        assert_eq!(journal.acknowledge(&id("c"), CommandState::Succeeded), Some(0));
        assert_eq!(arrive(&mut journal, "c", CommandType::Stop), Arrival::Acknowledged);
    }

    #[test]
    fn an_acknowledged_step_on_the_way_is_not_the_end() {
        let mut journal = Journal::default();
        arrive(&mut journal, "c", CommandType::Stop);
        assert_eq!(journal.acknowledge(&id("c"), CommandState::Delivered), None);
        advance(&mut journal, 0, CommandState::Succeeded);
        assert_eq!(journal.acknowledge(&id("c"), CommandState::Delivered), None);
        assert_eq!(journal.unacknowledged().count(), 1);
    }

    #[test]
    fn what_was_begun_and_not_ended_is_interrupted_and_a_restart_has_succeeded() {
        let mut journal = Journal::default();
        for (number, (name, kind)) in
            [("a", CommandType::Stop), ("b", CommandType::Restart), ("c", CommandType::Restart)]
                .iter()
                .enumerate()
        {
            arrive(&mut journal, name, *kind);
            if *name != "c" {
                advance(&mut journal, number as Number, CommandState::Running);
            }
        }
        let (journal, decided) = Journal::restore(journal.entries, &incarnation("i2"), Timestamp::default());
        assert_eq!(decided, [0, 1, 2]);
        let states: Vec<CommandState> = journal.unacknowledged().map(|entry| entry.state).collect();
        assert_eq!(states, [CommandState::Interrupted, CommandState::Succeeded, CommandState::Interrupted]);
        let result = &journal.get(1).unwrap().result;
        assert_eq!((&result["old_incarnation"], &result["new_incarnation"]), (&json!("i1"), &json!("i2")));
    }

    #[test]
    fn a_full_journal_forgets_what_is_settled_before_what_is_not() {
        let mut journal = Journal::default();
        for number in 0..COMMAND_JOURNAL_MAX {
            arrive(&mut journal, &format!("c{number}"), CommandType::Status);
            advance(&mut journal, number as Number, CommandState::Succeeded);
        }
        journal.acknowledge(&id("c7"), CommandState::Succeeded);
        let forgotten = |arrival| match arrival {
            Arrival::New { forgotten, .. } => forgotten,
            other => panic!("{other:?}"),
        };
        assert_eq!(forgotten(arrive(&mut journal, "x", CommandType::Status)), Some(7));
        assert_eq!(forgotten(arrive(&mut journal, "y", CommandType::Status)), Some(0));
        assert_eq!(journal.entries.len(), COMMAND_JOURNAL_MAX);
    }
}
