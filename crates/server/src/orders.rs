//! The commands a server knows: which wait, which were sent, which have ended, and who may say so.
//!
//! A pure value. Exactly one response per command and agent is final, so an outcome is judged here before it is
//! published: a repeat of the final one is only acknowledged, one that comes after the final one or too late is told
//! as an afterthought.

use std::collections::BTreeMap;
use std::time::Duration;

use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId};
use model::limit;

use crate::roster::SessionId;

/// A command on its way to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub command_id: CommandId,
    pub agent_id: AgentId,
    pub kind: CommandType,
    /// A JSON object as text; empty means none.
    pub params_json: String,
    /// Unix seconds, for the seeds' `Command.timestamp`.
    pub issued_seconds: i64,
    /// On the monotonic clock.
    pub deadline: Duration,
}

/// What became of a record of the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Waiting,
    /// Known already, or past its deadline: the leading monitor ends it.
    Ignored,
    /// Too many wait for this agent: to be REJECTED, if the agent is here.
    Full,
    /// Too many wait on this server; not kept.
    NoRoom,
}

/// What to do with a reported state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Publish as it is; final if the state is.
    Publish,
    /// Publish, but not as the final one: that exists, or is the leading monitor's to write by now.
    Late,
    /// It is on the bus already.
    Repeat,
}

/// A response as read from the topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub agent: &'a AgentId,
    pub command: &'a CommandId,
    pub kind: CommandType,
    pub state: CommandState,
    pub is_final: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Waiting,
    Sent(SessionId),
    /// The agent said that it has it: it will not be sent again.
    Taken,
    /// One too many: it will never be sent.
    Refused,
    /// A final response is being published.
    Ending(CommandState),
    Ended(CommandState),
}

impl Stand {
    fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Sent(_) | Self::Taken)
    }
}

#[derive(Debug)]
struct Known {
    order: Order,
    /// Order of arrival, over all agents.
    number: u64,
    stand: Stand,
}

/// Every command that has not passed its deadline.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    agents: BTreeMap<AgentId, BTreeMap<CommandId, Known>>,
    len: usize,
    next_number: u64,
}

impl Orders {
    pub(crate) fn take(&mut self, order: Order, now: Duration) -> Taken {
        if order.deadline <= now {
            return Taken::Ignored;
        }
        if self.known(&order.agent_id, &order.command_id).is_some() {
            return Taken::Ignored;
        }
        if self.len >= limit::COMMANDS_PER_SERVER_MAX {
            self.forget_passed(now);
        }
        if self.len >= limit::COMMANDS_PER_SERVER_MAX {
            return Taken::NoRoom;
        }
        let orders = self.agents.entry(order.agent_id.clone()).or_default();
        let open =
            orders.values().filter(|known| known.stand.is_open() && now < known.order.deadline).count();
        let full = open >= limit::COMMANDS_WAITING_PER_AGENT_MAX;
        let stand = if full { Stand::Refused } else { Stand::Waiting };
        self.len += 1;
        self.next_number += 1;
        orders.insert(order.command_id.clone(), Known { order, number: self.next_number, stand });
        if full { Taken::Full } else { Taken::Waiting }
    }

    /// What `session` should be sent, oldest first. Nothing is given to one session twice.
    pub(crate) fn deliver(&mut self, agent: &AgentId, session: SessionId, now: Duration) -> Vec<Order> {
        let orders = self.agents.get_mut(agent).into_iter().flat_map(BTreeMap::values_mut);
        let mut due: Vec<&mut Known> = orders
            .filter(|known| match known.stand {
                Stand::Waiting => true,
                Stand::Sent(to) => to != session,
                Stand::Taken | Stand::Refused | Stand::Ending(_) | Stand::Ended(_) => false,
            })
            .filter(|known| now < known.order.deadline)
            .collect();
        due.sort_unstable_by_key(|known| known.number);
        for known in &mut due {
            known.stand = Stand::Sent(session);
        }
        due.into_iter().map(|known| known.order.clone()).collect()
    }

    /// Judges a report just before it is published. A final state that passes is being published from now on, until
    /// [`Self::published`] or [`Self::failed`].
    pub(crate) fn judge(
        &mut self,
        agent: &AgentId,
        command: &CommandId,
        state: CommandState,
        now: Duration,
    ) -> Judgement {
        let Some(known) = self.known(agent, command) else {
            // Its deadline is past: whoever leads the monitors has ended it, or will.
            return if state.is_final() { Judgement::Late } else { Judgement::Repeat };
        };
        match known.stand {
            Stand::Ending(ended) | Stand::Ended(ended) => {
                let news = state.is_final() && state != ended;
                return if news { Judgement::Late } else { Judgement::Repeat };
            }
            Stand::Waiting | Stand::Sent(_) | Stand::Taken | Stand::Refused => {}
        }
        if now >= known.order.deadline + limit::COMMAND_GRACE / 2 {
            return if state.is_final() { Judgement::Late } else { Judgement::Publish };
        }
        known.stand = if state.is_final() { Stand::Ending(state) } else { Stand::Taken };
        Judgement::Publish
    }

    /// A response is durable.
    pub(crate) fn published(
        &mut self,
        agent: &AgentId,
        command: &CommandId,
        state: CommandState,
        is_final: bool,
    ) {
        let Some(known) = self.known(agent, command) else { return };
        if is_final {
            known.stand = Stand::Ended(state);
        } else if matches!(known.stand, Stand::Waiting | Stand::Sent(_)) && state != CommandState::Pending {
            known.stand = Stand::Taken;
        }
    }

    /// A response was read from the topic. A final one may come before its command: they are different topics, and another
    /// server may have been faster. It is remembered, so that the command is not begun again.
    pub(crate) fn observed(&mut self, seen: Seen<'_>, now: Duration) {
        let Seen { agent, command, kind, state, is_final } = seen;
        if is_final && self.known(agent, command).is_none() && self.len < limit::COMMANDS_PER_SERVER_MAX {
            let order = Order {
                command_id: command.clone(),
                agent_id: agent.clone(),
                kind,
                params_json: String::new(),
                issued_seconds: 0,
                deadline: now + limit::COMMAND_TIMEOUT_DEFAULT,
            };
            let known = Known { order, number: 0, stand: Stand::Ended(state) };
            self.agents.entry(agent.clone()).or_default().insert(command.clone(), known);
            self.len += 1;
        }
        self.published(agent, command, state, is_final);
    }

    /// A final response could not be published; the agent will tell it again.
    pub(crate) fn failed(&mut self, agent: &AgentId, command: &CommandId) {
        if let Some(known) = self.known(agent, command)
            && matches!(known.stand, Stand::Ending(_))
        {
            known.stand = Stand::Taken;
        }
    }

    /// What was sent, has passed its deadline, and was never said to have arrived; each once. It may have been acted on, or
    /// may yet be by an agent that was stopped and goes on, so nobody may call it undelivered.
    pub(crate) fn unconfirmed(&mut self, now: Duration) -> Vec<Order> {
        let all = self.agents.values_mut().flat_map(BTreeMap::values_mut);
        let passed = all.filter(|known| matches!(known.stand, Stand::Sent(_)) && now >= known.order.deadline);
        passed
            .map(|known| {
                known.stand = Stand::Taken;
                known.order.clone()
            })
            .collect()
    }

    /// Forgets what the leading monitor has ended by now.
    pub(crate) fn forget_passed(&mut self, now: Duration) {
        let mut left = 0;
        self.agents.retain(|_, orders| {
            orders.retain(|_, known| now < known.order.deadline + 2 * limit::COMMAND_GRACE);
            left += orders.len();
            !orders.is_empty()
        });
        self.len = left;
    }

    fn known(&mut self, agent: &AgentId, command: &CommandId) -> Option<&mut Known> {
        self.agents.get_mut(agent)?.get_mut(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const FIRST: SessionId = SessionId(1);

    fn agent() -> AgentId {
        AgentId::new("a").unwrap()
    }

    fn id(number: usize) -> CommandId {
        CommandId::new(format!("c-{number}")).unwrap()
    }

    fn order(number: usize) -> Order {
        Order {
            command_id: id(number),
            agent_id: agent(),
            kind: CommandType::Status,
            params_json: String::new(),
            issued_seconds: 0,
            deadline: 30 * SECOND,
        }
    }

    fn delivered(orders: &mut Orders, session: SessionId) -> Vec<CommandId> {
        let due = orders.deliver(&agent(), session, SECOND);
        due.into_iter().map(|order| order.command_id).collect()
    }

    #[test]
    fn commands_are_sent_in_their_order_once_per_session_until_the_agent_has_them() {
        let mut orders = Orders::default();
        for number in [2, 1, 3] {
            assert_eq!(orders.take(order(number), SECOND), Taken::Waiting);
        }
        assert_eq!(orders.take(order(2), SECOND), Taken::Ignored);
        assert_eq!(delivered(&mut orders, FIRST), [id(2), id(1), id(3)]);
        assert_eq!(delivered(&mut orders, FIRST), []);
        orders.judge(&agent(), &id(2), CommandState::Delivered, SECOND);
        assert_eq!(delivered(&mut orders, SessionId(2)), [id(1), id(3)]);
    }

    #[test]
    fn one_too_many_is_full_and_ended_ones_make_room() {
        let mut orders = Orders::default();
        for number in 0..limit::COMMANDS_WAITING_PER_AGENT_MAX {
            assert_eq!(orders.take(order(number), SECOND), Taken::Waiting);
        }
        assert_eq!(orders.take(order(1_000), SECOND), Taken::Full);
        assert!(!delivered(&mut orders, FIRST).contains(&id(1_000)));
        let rejection = orders.judge(&agent(), &id(1_000), CommandState::Rejected, SECOND);
        assert_eq!(rejection, Judgement::Publish);
        assert_eq!(orders.take(order(1_000), SECOND), Taken::Ignored);
        orders.published(&agent(), &id(0), CommandState::Succeeded, true);
        assert_eq!(orders.take(order(1_001), SECOND), Taken::Waiting);
    }

    #[test]
    fn an_outcome_after_the_final_one_is_late_and_the_same_one_a_repeat() {
        let mut orders = Orders::default();
        orders.take(order(1), SECOND);
        let judge = |orders: &mut Orders, state| orders.judge(&agent(), &id(1), state, SECOND);
        assert_eq!(judge(&mut orders, CommandState::Running), Judgement::Publish);
        assert_eq!(judge(&mut orders, CommandState::Succeeded), Judgement::Publish);
        orders.published(&agent(), &id(1), CommandState::Succeeded, true);
        assert_eq!(judge(&mut orders, CommandState::Succeeded), Judgement::Repeat);
        assert_eq!(judge(&mut orders, CommandState::Running), Judgement::Repeat);
        assert_eq!(judge(&mut orders, CommandState::Failed), Judgement::Late);
    }

    #[test]
    fn an_outcome_near_the_monitors_hour_is_not_final() {
        let mut orders = Orders::default();
        orders.take(order(1), SECOND);
        let judge = |orders: &mut Orders, at| orders.judge(&agent(), &id(1), CommandState::Failed, at);
        assert_eq!(judge(&mut orders, 31 * SECOND), Judgement::Late);
        assert_eq!(judge(&mut orders, 31 * SECOND - Duration::from_millis(1)), Judgement::Publish);
    }

    #[test]
    fn what_was_sent_and_never_confirmed_is_named_once_after_its_deadline() {
        let mut orders = Orders::default();
        for number in [1, 2, 3] {
            orders.take(order(number), SECOND);
        }
        delivered(&mut orders, FIRST);
        orders.take(order(4), SECOND);
        orders.judge(&agent(), &id(1), CommandState::Delivered, SECOND);
        orders.published(&agent(), &id(2), CommandState::Succeeded, true);
        assert_eq!(orders.unconfirmed(30 * SECOND - Duration::from_millis(1)), []);
        assert_eq!(orders.unconfirmed(30 * SECOND), [order(3)]);
        assert_eq!(orders.unconfirmed(30 * SECOND), []);
        let word = orders.judge(&agent(), &id(3), CommandState::Delivered, 30 * SECOND);
        assert_eq!(word, Judgement::Publish);
    }

    #[test]
    fn an_outcome_that_could_not_be_published_may_be_told_again() {
        let mut orders = Orders::default();
        orders.take(order(1), SECOND);
        let judge = |orders: &mut Orders| orders.judge(&agent(), &id(1), CommandState::Succeeded, SECOND);
        assert_eq!(judge(&mut orders), Judgement::Publish);
        orders.failed(&agent(), &id(1));
        assert_eq!(judge(&mut orders), Judgement::Publish);
    }

    #[test]
    fn a_final_response_that_is_read_before_its_command_ends_it_too() {
        let mut orders = Orders::default();
        let (agent, command) = (agent(), id(1));
        let (kind, state) = (CommandType::Status, CommandState::Succeeded);
        let seen = Seen { agent: &agent, command: &command, kind, state, is_final: true };
        orders.observed(seen, SECOND);
        assert_eq!(orders.take(order(1), SECOND), Taken::Ignored);
        assert_eq!(delivered(&mut orders, FIRST), []);
    }

    #[test]
    fn what_has_passed_is_forgotten_and_an_outcome_for_it_is_late() {
        let mut orders = Orders::default();
        orders.take(order(1), SECOND);
        orders.forget_passed(34 * SECOND);
        assert_eq!(orders.len, 0);
        let judgement = orders.judge(&agent(), &id(1), CommandState::Succeeded, 40 * SECOND);
        assert_eq!(judgement, Judgement::Late);
    }

    proptest! {
        #[test]
        fn at_most_one_response_is_final(
            steps in proptest::collection::vec((0usize..3, 0usize..5, 0u64..3_000, any::<bool>()), 1..40),
        ) {
            let states = [CommandState::Delivered, CommandState::Running, CommandState::Succeeded, CommandState::Failed, CommandState::Interrupted];
            let mut orders = Orders::default();
            for number in 0..3 {
                orders.take(order(number), Duration::ZERO);
            }
            let mut finals: BTreeMap<usize, usize> = BTreeMap::new();
            let mut now = Duration::ZERO;
            for (number, state, ms, lands) in steps {
                now += Duration::from_millis(ms);
                let state = states[state];
                let judgement = orders.judge(&agent(), &id(number), state, now);
                if judgement != Judgement::Publish { continue; }
                if lands {
                    orders.published(&agent(), &id(number), state, state.is_final());
                    *finals.entry(number).or_default() += usize::from(state.is_final());
                } else {
                    orders.failed(&agent(), &id(number));
                }
            }
            prop_assert!(finals.values().all(|count| *count <= 1));
        }
    }
}
