//! The hub's part in commands: from the topic to sessions, and from reports to responses.

use std::collections::HashMap;

use backends::follow::Followed;
use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId};
use model::limit;
use proto::record::ResponseRecord;

use super::{Control, Hub, Link, REPORTS_UNSORTED_MAX, State};
use crate::orders::{Judgement, Order, Seen, Taken};
use crate::roster::{Now, SessionId};
use crate::session::Report;

/// A report on its way to the bus.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub agent: AgentId,
    pub report: Report,
    /// Who waits for it to be durable.
    pub session: Option<SessionId>,
}

impl Pending {
    /// Whether it still has to be told: the server's own word, or one whose stream waits for its acknowledgement.
    fn is_awaited(&self, links: &HashMap<SessionId, Link>) -> bool {
        self.session.is_none_or(|session| links.contains_key(&session))
    }
}

/// A [`Pending`] that was judged: what to publish, if anything.
#[derive(Debug)]
pub(crate) struct Judged {
    pub pending: Pending,
    pub response: Option<ResponseRecord>,
}

impl Hub {
    /// A command came from the topic. It is sent if its agent is here, else kept until it comes or time is up.
    pub(crate) fn order(&self, order: Order) {
        self.with(|state, now| {
            let agent = order.agent_id.clone();
            let (command_id, kind) = (order.command_id.clone(), order.kind);
            match state.orders.take(order, now.monotonic) {
                Taken::Waiting => state.hand_over(&agent, now.monotonic),
                Taken::Ignored => {}
                Taken::NoRoom => self.measure.refuse("commands_full"),
                Taken::Full => {
                    self.measure.refuse("command_queue_full");
                    // For an agent that is not here nobody answers but the monitor.
                    if state.roster.session_of(&agent).is_some() {
                        let message = format!(
                            "{} commands wait for this agent already: wait for their outcomes",
                            limit::COMMANDS_WAITING_PER_AGENT_MAX
                        );
                        let report = server_report(command_id, kind, CommandState::Rejected, message, now);
                        state.reports.push_back(Pending { agent, report, session: None });
                    }
                }
            }
        });
    }

    /// A response was read from the topic.
    pub(crate) fn observed(&self, response: &ResponseRecord) {
        let seen = Seen {
            agent: &response.agent_id,
            command: &response.command_id,
            kind: response.kind,
            state: response.state,
            is_final: response.is_final,
        };
        self.with(|state, now| state.orders.observed(seen, now.monotonic));
    }

    /// A report is to be published, in its turn.
    ///
    /// While the bus is away reports wait here. Agents that come and go meanwhile tell theirs on each stream anew, so
    /// those of streams that have ended are let go.
    pub(crate) fn report(&self, agent: &AgentId, report: Report, session: Option<SessionId>) {
        self.with(|state, _| {
            state.reports.push_back(Pending { agent: agent.clone(), report, session });
            if state.reports.len() > state.reports_sorted_at {
                let State { reports, links, .. } = state;
                reports.retain(|pending| pending.is_awaited(links));
                state.reports_sorted_at = 2 * state.reports.len() + REPORTS_UNSORTED_MAX;
            }
        });
    }

    /// The server speaks for an agent that cannot.
    pub(crate) fn answer(&self, order: &Order, state: CommandState, message: impl Into<String>) {
        let (id, kind) = (order.command_id.clone(), order.kind);
        let report = server_report(id, kind, state, message.into(), self.now());
        self.report(&order.agent_id, report, None);
    }

    pub(crate) fn take_reports(&self, max: usize) -> Vec<Pending> {
        self.with(|state, _| {
            let count = state.reports.len().min(max);
            state.reports.drain(..count).collect()
        })
    }

    /// Says what of `pending` may be published now, and as what. What an agent said on a stream that has ended it says
    /// again on its next, perhaps to another server: told by both, an outcome would be final twice.
    pub(crate) fn judge(&self, pending: Vec<Pending>) -> Vec<Judged> {
        self.with(|state, now| {
            let awaited: Vec<Pending> =
                pending.into_iter().filter(|pending| pending.is_awaited(&state.links)).collect();
            let judged = awaited.into_iter().map(|pending| {
                let Report { command_id, state: reported, .. } = &pending.report;
                let judgement = state.orders.judge(&pending.agent, command_id, *reported, now.monotonic);
                let response = match judgement {
                    Judgement::Repeat => None,
                    Judgement::Publish => Some(response(&pending, "")),
                    Judgement::Late => {
                        Some(ResponseRecord { is_final: false, ..response(&pending, "late: ") })
                    }
                };
                Judged { pending, response }
            });
            judged.collect()
        })
    }

    /// What was judged is durable: the agents may forget it.
    pub(crate) fn durable(&self, judged: &[Judged]) {
        self.with(|state, _| {
            for Judged { pending, response } in judged {
                let Report { command_id, state: reported, .. } = &pending.report;
                if let Some(response) = response {
                    let (agent, is_final) = (&response.agent_id, response.is_final);
                    self.measure.commands_responses.with_label_values(&[reported.label()]).inc();
                    state.orders.published(agent, command_id, *reported, is_final);
                }
                if let Some(session) = pending.session {
                    let command_id = command_id.clone();
                    state.send(session, Control::Reported { command_id, state: *reported });
                }
            }
        });
    }

    /// What was judged may not be on the bus; it is to be judged again.
    pub(crate) fn undurable(&self, judged: Vec<Judged>) -> Vec<Pending> {
        self.with(|state, _| {
            let again = judged.into_iter().map(|Judged { pending, response }| {
                if response.is_some_and(|response| response.is_final) {
                    state.orders.failed(&pending.agent, &pending.report.command_id);
                }
                pending
            });
            again.collect()
        })
    }

    /// Says of commands that were sent and not confirmed in time that they were sent. Without this word the leading monitor
    /// would call them EXPIRED, and an agent that was merely stopped acts on them when it goes on.
    pub(crate) fn tell_unconfirmed(&self) {
        self.with(|state, now| {
            for order in state.orders.unconfirmed(now.monotonic) {
                let message = "sent; the agent has not confirmed that it arrived".to_owned();
                let (id, kind) = (order.command_id, order.kind);
                let report = server_report(id, kind, CommandState::Delivered, message, now);
                state.reports.push_back(Pending { agent: order.agent_id, report, session: None });
            }
        });
    }

    /// A record of `command-responses` was taken in, or all that was there.
    pub(crate) fn responses_read(&self, followed: &Followed) {
        self.responses.send_modify(|reached| reached.take(followed));
    }

    pub(crate) fn forget_passed_commands(&self) {
        self.with(|state, now| state.orders.forget_passed(now.monotonic));
    }
}

fn server_report(
    command_id: CommandId,
    kind: CommandType,
    state: CommandState,
    message: String,
    now: Now,
) -> Report {
    Report { command_id, kind, state, message, result: serde_json::Map::new(), at: now.wall }
}

fn response(pending: &Pending, prefix: &str) -> ResponseRecord {
    let Pending { agent, report, .. } = pending;
    let message = format!("{prefix}{}", report.message);
    let (command, kind, state) = (report.command_id.clone(), report.kind, report.state);
    let response = ResponseRecord::new(command, agent.clone(), kind, state, message, report.at);
    ResponseRecord { result: report.result.clone(), ..response }
}
