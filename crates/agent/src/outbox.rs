//! Reports on commands on their way to the server: kept until it says they are durable, sent again on every new stream.

use std::collections::VecDeque;

use model::command::CommandState;
use model::limit::COMMAND_JOURNAL_MAX;
use proto::convert::command_state_from_wire;
use proto::wire::CommandReport;

/// Delivered, running, and the end of each remembered command.
const REPORTS_MAX: usize = 3 * COMMAND_JOURNAL_MAX;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    reports: VecDeque<CommandReport>,
    /// How many of the first `reports` went out on this stream.
    sent: usize,
}

impl Outbox {
    /// Adds a report; the same one again is sent again. When full, the oldest goes: what matters of it is in the journal.
    pub(crate) fn put(&mut self, report: CommandReport) {
        self.remove(|kept| kept.command_id == report.command_id && kept.state == report.state);
        if self.reports.len() >= REPORTS_MAX {
            self.reports.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        self.reports.push_back(report);
    }

    /// A new stream begins: everything is sent again, of each command the last word only.
    pub(crate) fn restart(&mut self) {
        self.sent = 0;
        let mut later = std::collections::HashSet::new();
        let mut kept: VecDeque<CommandReport> = VecDeque::new();
        for report in std::mem::take(&mut self.reports).into_iter().rev() {
            if later.insert(report.command_id.clone()) {
                kept.push_front(report);
            }
        }
        self.reports = kept;
    }

    /// The next to send.
    pub(crate) fn next(&mut self) -> Option<CommandReport> {
        let report = self.reports.get(self.sent)?.clone();
        self.sent += 1;
        Some(report)
    }

    pub(crate) fn has_next(&self) -> bool {
        self.sent < self.reports.len()
    }

    /// The server made this state durable, and so all before it are history.
    pub(crate) fn acknowledged(&mut self, command_id: &str, state: CommandState) {
        self.remove(|report| {
            let reported = command_state_from_wire(report.state);
            report.command_id == command_id && reported.is_none_or(|reported| reported <= state)
        });
    }

    fn remove(&mut self, gone: impl Fn(&CommandReport) -> bool) {
        let sent_stay = self.reports.iter().take(self.sent).filter(|report| !gone(report)).count();
        self.reports.retain(|report| !gone(report));
        self.sent = sent_stay;
    }
}

#[cfg(test)]
mod tests {
    use proto::convert::command_state_to_wire;

    use super::*;

    fn report(id: &str, state: CommandState) -> CommandReport {
        let state = command_state_to_wire(state).into();
        CommandReport { command_id: id.to_owned(), state, ..CommandReport::default() }
    }

    fn drain(outbox: &mut Outbox) -> Vec<(String, CommandState)> {
        std::iter::from_fn(|| outbox.next())
            .map(|report| (report.command_id, command_state_from_wire(report.state).unwrap()))
            .collect()
    }

    #[test]
    fn a_report_goes_out_once_per_stream_until_it_is_acknowledged() {
        let mut outbox = Outbox::default();
        for state in [CommandState::Delivered, CommandState::Running, CommandState::Succeeded] {
            outbox.put(report("a", state));
        }
        outbox.put(report("b", CommandState::Delivered));
        assert_eq!(drain(&mut outbox).len(), 4);
        assert!(!outbox.has_next());

        outbox.restart();
        let last_words =
            [("a".to_owned(), CommandState::Succeeded), ("b".to_owned(), CommandState::Delivered)];
        assert_eq!(drain(&mut outbox), last_words);

        outbox.acknowledged("a", CommandState::Succeeded);
        outbox.restart();
        assert_eq!(drain(&mut outbox), last_words[1..]);
    }

    #[test]
    fn acknowledging_what_was_sent_does_not_skip_what_was_not() {
        let mut outbox = Outbox::default();
        outbox.put(report("a", CommandState::Delivered));
        assert_eq!(drain(&mut outbox).len(), 1);
        outbox.put(report("a", CommandState::Running));
        outbox.acknowledged("a", CommandState::Delivered);
        assert_eq!(drain(&mut outbox), [("a".to_owned(), CommandState::Running)]);
    }

    #[test]
    fn an_outbox_nobody_empties_stays_bounded() {
        let mut outbox = Outbox::default();
        for number in 0..2 * REPORTS_MAX {
            outbox.put(report(&number.to_string(), CommandState::Succeeded));
            outbox.next();
        }
        assert_eq!(outbox.reports.len(), REPORTS_MAX);
        assert!(!outbox.has_next());
    }
}
