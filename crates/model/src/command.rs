//! What becomes of an order: one command id, one target, exactly one final state.
//!
//! An agent answers for itself. For one that never answers, the leading monitor keeps [`OpenCommands`] and writes the
//! final state after the deadline.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, CommandId};
use crate::limit;

/// The five commands of the seed documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CommandType {
    Status,
    Stop,
    Start,
    UpdateConfig,
    Restart,
}

impl CommandType {
    pub const ALL: [Self; 5] = [Self::Status, Self::Stop, Self::Start, Self::UpdateConfig, Self::Restart];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Status => "STATUS",
            Self::Stop => "STOP",
            Self::Start => "START",
            Self::UpdateConfig => "UPDATE_CONFIG",
            Self::Restart => "RESTART",
        }
    }

    /// Case does not matter, and `-` may stand for `_`: people type this.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.replace('-', "_");
        Self::ALL.into_iter().find(|kind| kind.label().eq_ignore_ascii_case(&plain))
    }
}

impl fmt::Display for CommandType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// Where a command stands at one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CommandState {
    /// Durable on the bus, not with the agent yet.
    Pending,
    /// The agent has it.
    Delivered,
    /// The agent acts.
    Running,
    Succeeded,
    Failed,
    /// Not acceptable: malformed, or one too many waiting.
    Rejected,
    /// The deadline passed before it was sent to the agent.
    Expired,
    /// The agent died while it acted; it was not repeated.
    Interrupted,
    Cancelled,
    /// It was sent to the agent, which never told the outcome.
    Unknown,
}

impl CommandState {
    pub const fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Delivered | Self::Running => false,
            Self::Succeeded
            | Self::Failed
            | Self::Rejected
            | Self::Expired
            | Self::Interrupted
            | Self::Cancelled
            | Self::Unknown => true,
        }
    }

    pub const fn label(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Delivered => "DELIVERED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Rejected => "REJECTED",
            Self::Expired => "EXPIRED",
            Self::Interrupted => "INTERRUPTED",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for CommandState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// A command that waits for its final state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    kind: CommandType,
    deadline: Duration,
    state: CommandState,
}

/// A command whose deadline passed without an answer, and the state that is therefore final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    pub command_id: CommandId,
    pub agent_id: AgentId,
    pub kind: CommandType,
    /// [`CommandState::Expired`] when it was never delivered, [`CommandState::Unknown`] when it was.
    pub state: CommandState,
}

/// Every command without a final state, as seen from the bus. Time is monotonic, so clock steps expire nothing.
///
/// Orders and reports come on two topics, so a report may be seen before its order; and an order may be sent twice. The
/// newest reports of commands that are not open are therefore remembered.
#[derive(Clone, Debug, Default)]
pub struct OpenCommands {
    open: BTreeMap<Key, Open>,
    reported: Reported,
}

/// One command at one agent.
type Key = (CommandId, AgentId);

/// The furthest state of commands that are not open: ended, or not seen yet.
#[derive(Clone, Debug, Default)]
struct Reported {
    states: BTreeMap<Key, CommandState>,
    /// The same keys, oldest first.
    order: VecDeque<Key>,
}

impl Reported {
    /// A later state does not go back, and an end stays.
    fn note(&mut self, key: Key, state: CommandState) {
        if let Some(known) = self.states.get_mut(&key) {
            *known = (*known).max(state);
            return;
        }
        self.states.insert(key.clone(), state);
        self.order.push_back(key);
        if self.order.len() > limit::COMMANDS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.states.remove(&oldest);
        }
    }
}

impl OpenCommands {
    /// A command was accepted and has `remaining` time left. Seen twice, the first counts.
    pub fn issued(
        &mut self,
        command_id: CommandId,
        agent_id: AgentId,
        kind: CommandType,
        now: Duration,
        remaining: Duration,
    ) {
        let deadline = now + remaining.min(limit::COMMAND_TIMEOUT_MAX) + limit::COMMAND_GRACE;
        let key = (command_id, agent_id);
        let state = self.reported.states.get(&key).copied().unwrap_or(CommandState::Pending);
        if !state.is_final() {
            self.open.entry(key).or_insert(Open { kind, deadline, state });
        }
    }

    /// Somebody reported a state. A final one closes the command.
    pub fn reported(&mut self, command_id: &CommandId, agent_id: &AgentId, state: CommandState) {
        let key = (command_id.clone(), agent_id.clone());
        match self.open.get_mut(&key) {
            Some(open) if !state.is_final() => open.state = open.state.max(state),
            _ => {
                self.open.remove(&key);
                self.reported.note(key, state);
            }
        }
    }

    /// What is past its deadline at `now`. Each stays open until its final state is [`Self::reported`].
    pub fn unanswered(&self, now: Duration) -> Vec<Unanswered> {
        let due = self.open.iter().filter(|(_, open)| now >= open.deadline);
        due.map(|((command_id, agent_id), open)| Unanswered {
            command_id: command_id.clone(),
            agent_id: agent_id.clone(),
            kind: open.kind,
            state: match open.state {
                CommandState::Pending => CommandState::Expired,
                _ => CommandState::Unknown,
            },
        })
        .collect()
    }

    /// When [`Self::unanswered`] next has something.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.open.values().map(|open| open.deadline).min()
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ids() -> (CommandId, AgentId) {
        (CommandId::new("c-1").unwrap(), AgentId::new("agent-001").unwrap())
    }

    fn open() -> OpenCommands {
        let (command, agent) = ids();
        let mut open = OpenCommands::default();
        open.issued(command, agent, CommandType::Stop, Duration::ZERO, 30 * SECOND);
        open
    }

    #[test]
    fn command_types_read_as_people_type_them() {
        for text in ["UPDATE_CONFIG", "update-config", "Update_Config"] {
            assert_eq!(CommandType::parse(text), Some(CommandType::UpdateConfig), "{text}");
        }
        assert_eq!(CommandType::parse("REBOOT"), None);
    }

    #[test]
    fn undelivered_expires_and_delivered_without_answer_is_unknown() {
        let (command, agent) = ids();
        let undelivered = open();
        assert_eq!(undelivered.unanswered(31 * SECOND), []);
        assert_eq!(undelivered.unanswered(32 * SECOND)[0].state, CommandState::Expired);

        let mut delivered = open();
        delivered.reported(&command, &agent, CommandState::Delivered);
        assert_eq!(delivered.unanswered(32 * SECOND)[0].state, CommandState::Unknown);
    }

    #[test]
    fn an_answered_command_is_never_given_a_second_end() {
        let (command, agent) = ids();
        let mut answered = open();
        answered.reported(&command, &agent, CommandState::Succeeded);
        answered.reported(&command, &agent, CommandState::Running);
        assert_eq!(answered.unanswered(1_000 * SECOND), []);
        assert!(answered.is_empty());
    }

    #[test]
    fn a_command_whose_answer_was_seen_first_or_that_is_sent_again_stays_ended() {
        let (command, agent) = ids();
        let mut early = OpenCommands::default();
        early.reported(&command, &agent, CommandState::Succeeded);
        for _ in 0..2 {
            early.issued(command.clone(), agent.clone(), CommandType::Stop, Duration::ZERO, 30 * SECOND);
            assert!(early.is_empty());
        }
    }

    #[test]
    fn a_delivery_that_was_seen_before_its_order_counts() {
        let (command, agent) = ids();
        let mut early = OpenCommands::default();
        early.reported(&command, &agent, CommandState::Delivered);
        early.issued(command, agent, CommandType::Stop, Duration::ZERO, 30 * SECOND);
        assert_eq!(early.unanswered(32 * SECOND)[0].state, CommandState::Unknown);
    }

    #[test]
    fn a_late_progress_report_does_not_move_a_command_back() {
        let (command, agent) = ids();
        let mut running = open();
        running.reported(&command, &agent, CommandState::Running);
        running.reported(&command, &agent, CommandState::Delivered);
        assert_eq!(running.next_deadline(), Some(32 * SECOND));
        assert_eq!(running.unanswered(32 * SECOND)[0].state, CommandState::Unknown);
    }

    #[test]
    fn the_same_command_seen_twice_keeps_its_first_deadline() {
        let (command, agent) = ids();
        let mut twice = open();
        twice.issued(command, agent, CommandType::Stop, 20 * SECOND, 30 * SECOND);
        assert_eq!(twice.next_deadline(), Some(32 * SECOND));
    }
}
