//! Between the wire's enums and messages and the model's: the only place that knows both.
//!
//! `from_wire` functions answer `None` for what this build does not know; the caller decides what that means.

use model::command::{CommandState, CommandType};
use model::id::Revision;
use model::presence::Collection;
use model::sample::Timestamp;
use model::truth::{ConfigTruth, Failure, Mark, Stage};

use crate::record::{NotSent, NotSentAction};
use crate::wire;

pub fn command_type_to_wire(kind: CommandType) -> wire::command::CommandType {
    match kind {
        CommandType::Status => wire::command::CommandType::Status,
        CommandType::Stop => wire::command::CommandType::Stop,
        CommandType::Start => wire::command::CommandType::Start,
        CommandType::UpdateConfig => wire::command::CommandType::UpdateConfig,
        CommandType::Restart => wire::command::CommandType::Restart,
    }
}

pub fn command_type_from_wire(kind: i32) -> Option<CommandType> {
    Some(match wire::command::CommandType::try_from(kind).ok()? {
        wire::command::CommandType::Status => CommandType::Status,
        wire::command::CommandType::Stop => CommandType::Stop,
        wire::command::CommandType::Start => CommandType::Start,
        wire::command::CommandType::UpdateConfig => CommandType::UpdateConfig,
        wire::command::CommandType::Restart => CommandType::Restart,
    })
}

pub fn command_state_to_wire(state: CommandState) -> wire::CommandState {
    match state {
        CommandState::Pending => wire::CommandState::Pending,
        CommandState::Delivered => wire::CommandState::Delivered,
        CommandState::Running => wire::CommandState::Running,
        CommandState::Succeeded => wire::CommandState::Succeeded,
        CommandState::Failed => wire::CommandState::Failed,
        CommandState::Rejected => wire::CommandState::Rejected,
        CommandState::Expired => wire::CommandState::Expired,
        CommandState::Interrupted => wire::CommandState::Interrupted,
        CommandState::Cancelled => wire::CommandState::Cancelled,
        CommandState::Unknown => wire::CommandState::Unknown,
    }
}

pub fn command_state_from_wire(state: i32) -> Option<CommandState> {
    Some(match wire::CommandState::try_from(state).ok()? {
        wire::CommandState::Unspecified => return None,
        wire::CommandState::Pending => CommandState::Pending,
        wire::CommandState::Delivered => CommandState::Delivered,
        wire::CommandState::Running => CommandState::Running,
        wire::CommandState::Succeeded => CommandState::Succeeded,
        wire::CommandState::Failed => CommandState::Failed,
        wire::CommandState::Rejected => CommandState::Rejected,
        wire::CommandState::Expired => CommandState::Expired,
        wire::CommandState::Interrupted => CommandState::Interrupted,
        wire::CommandState::Cancelled => CommandState::Cancelled,
        wire::CommandState::Unknown => CommandState::Unknown,
    })
}

pub fn collection_to_wire(collection: Collection) -> wire::Collection {
    match collection {
        Collection::Collecting => wire::Collection::Collecting,
        Collection::Paused => wire::Collection::Paused,
    }
}

/// An unknown value reads as collecting: the honest default of a stream that sends data.
pub fn collection_from_wire(collection: i32) -> Collection {
    match wire::Collection::try_from(collection) {
        Ok(wire::Collection::Paused) => Collection::Paused,
        Ok(wire::Collection::Collecting | wire::Collection::Unspecified) | Err(_) => Collection::Collecting,
    }
}

pub fn mark_to_wire(mark: &Mark) -> wire::RevisionMark {
    wire::RevisionMark { revision: mark.revision.0, digest: mark.digest.clone() }
}

pub fn mark_from_wire(mark: &wire::RevisionMark) -> Mark {
    Mark { revision: Revision(mark.revision), digest: mark.digest.clone() }
}

pub fn failure_to_wire(failure: &Failure) -> wire::ConfigFault {
    wire::ConfigFault {
        mark: Some(mark_to_wire(&failure.mark)),
        stage: failure.stage.label().to_owned(),
        path: failure.path.clone(),
        message: failure.message.clone(),
        at_ms: failure.at.unix_ms(),
    }
}

pub fn failure_from_wire(fault: &wire::ConfigFault) -> Option<Failure> {
    Some(Failure {
        mark: mark_from_wire(fault.mark.as_ref()?),
        stage: Stage::ALL.into_iter().find(|stage| stage.label() == fault.stage)?,
        path: fault.path.clone(),
        message: fault.message.clone(),
        at: Timestamp::from_unix_ms(fault.at_ms),
    })
}

/// `desired` is the registry's side and does not travel.
pub fn truth_to_wire(truth: &ConfigTruth) -> wire::ConfigTruth {
    wire::ConfigTruth {
        received: truth.received.as_ref().map(mark_to_wire),
        running: truth.running.as_ref().map(mark_to_wire),
        last_good: truth.last_good.as_ref().map(mark_to_wire),
        last_failed: truth.last_failed.as_ref().map(failure_to_wire),
    }
}

pub fn truth_from_wire(truth: &wire::ConfigTruth) -> ConfigTruth {
    ConfigTruth {
        desired: None,
        received: truth.received.as_ref().map(mark_from_wire),
        running: truth.running.as_ref().map(mark_from_wire),
        last_good: truth.last_good.as_ref().map(mark_from_wire),
        last_failed: truth.last_failed.as_ref().and_then(failure_from_wire),
    }
}

pub fn not_sent_to_wire(range: &NotSent) -> wire::Disposition {
    let action = match range.action {
        NotSentAction::Dropped => wire::disposition::Action::Dropped,
        NotSentAction::Merged => wire::disposition::Action::Merged,
        NotSentAction::NotCollected => wire::disposition::Action::NotCollected,
    };
    wire::Disposition {
        first_sequence: range.first.0,
        last_sequence: range.last.0,
        action: action.into(),
        plugin: range.plugin.clone(),
    }
}

pub fn not_sent_from_wire(range: wire::Disposition) -> Option<NotSent> {
    let action = match wire::disposition::Action::try_from(range.action).ok()? {
        wire::disposition::Action::Unspecified => return None,
        wire::disposition::Action::Dropped => NotSentAction::Dropped,
        wire::disposition::Action::Merged => NotSentAction::Merged,
        wire::disposition::Action::NotCollected => NotSentAction::NotCollected,
    };
    Some(NotSent {
        first: model::id::Sequence(range.first_sequence),
        last: model::id::Sequence(range.last_sequence),
        action,
        plugin: range.plugin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_command_numbers_are_kept() {
        let numbers = CommandType::ALL.map(|kind| command_type_to_wire(kind) as i32);
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        for (kind, number) in CommandType::ALL.into_iter().zip(numbers) {
            assert_eq!(command_type_from_wire(number), Some(kind));
        }
    }

    #[test]
    fn a_truth_survives_the_wire() {
        let mark = Mark { revision: Revision(7), digest: "d".to_owned() };
        let truth = ConfigTruth {
            desired: None,
            received: Some(mark.clone()),
            running: Some(mark.clone()),
            last_good: Some(mark.clone()),
            last_failed: Some(Failure {
                mark,
                stage: Stage::Build,
                path: "plugins[0]".to_owned(),
                message: "m".to_owned(),
                at: Timestamp::from_unix_ms(5),
            }),
        };
        assert_eq!(truth_from_wire(&truth_to_wire(&truth)), truth);
    }
}
