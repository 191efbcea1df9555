//! What became of one order at each of its agents, and how it is told. The same whoever brings the responses.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId};
use model::sample::Timestamp;
use proto::api::{CommandRequest, CommandTarget};
use proto::record::ResponseRecord;
use serde_json::Value;

use crate::cli::output::{self, Output};
use crate::cli::render::{self, Cell};
use crate::exit::{Exit, Outcome};

/// The newest response of each agent.
#[derive(Debug)]
pub(super) struct Outcomes {
    open: Vec<AgentId>,
    newest: BTreeMap<AgentId, (ResponseRecord, Value)>,
}

/// How outcomes are printed.
#[derive(Debug)]
pub(super) struct Report {
    output: Output,
    kind: CommandType,
    single: bool,
    width: usize,
    began: Instant,
}

impl Outcomes {
    pub(super) fn new(agents: Vec<AgentId>) -> Self {
        Self { open: agents, newest: BTreeMap::new() }
    }

    /// The agents without a final response.
    pub(super) fn open(&self) -> &[AgentId] {
        &self.open
    }

    /// Notes a response; gives it back when it is of an agent that still had no final one.
    pub(super) fn take(&mut self, value: Value) -> Option<ResponseRecord> {
        let response: ResponseRecord = serde_json::from_value(value.clone()).ok()?;
        let at = self.open.iter().position(|agent| *agent == response.agent_id)?;
        self.newest.insert(response.agent_id.clone(), (response.clone(), value));
        if response.is_final {
            self.open.remove(at);
        }
        Some(response)
    }

    /// Waits for nobody any more: every agent that is open is UNKNOWN to us. Nothing final was heard, so nothing is
    /// called final.
    pub(super) fn give_up(
        &mut self,
        command_id: &CommandId,
        kind: CommandType,
        now: Timestamp,
    ) -> Vec<ResponseRecord> {
        let give_up = |agent: AgentId| {
            let message = match self.newest.get(&agent) {
                Some((heard, _)) => format!("{}, and no outcome was heard", heard.state),
                None => "nobody answered".to_owned(),
            };
            let state = CommandState::Unknown;
            let mut response = ResponseRecord::new(command_id.clone(), agent, kind, state, message, now);
            response.is_final = false;
            let value = serde_json::to_value(&response).unwrap_or_default();
            self.newest.insert(response.agent_id.clone(), (response.clone(), value));
            response
        };
        std::mem::take(&mut self.open).into_iter().map(give_up).collect()
    }

    /// The newest response of each agent, as it was published.
    fn values(&self) -> Vec<&Value> {
        self.newest.values().map(|(_, value)| value).collect()
    }

    fn all_succeeded(&self) -> bool {
        self.open.is_empty() && self.newest.values().all(|(response, _)| response.success)
    }

    /// `STOP: 2 of 3 succeeded, 1 EXPIRED`.
    fn sum(&self, kind: CommandType, out: &mut dyn Write) -> io::Result<()> {
        for agent in &self.open {
            let state = self.newest.get(agent).map_or(CommandState::Pending, |(response, _)| response.state);
            writeln!(out, "{agent}  {state}  no outcome yet; see `watchfloor status {agent}`")?;
        }
        let mut others: BTreeMap<CommandState, usize> = BTreeMap::new();
        for (response, _) in self.newest.values().filter(|(response, _)| !response.success) {
            *others.entry(response.state).or_default() += 1;
        }
        let succeeded = self.newest.values().filter(|(response, _)| response.success).count();
        let all = self.newest.len() + self.open.iter().filter(|id| !self.newest.contains_key(*id)).count();
        if all == 1 {
            return Ok(());
        }
        write!(out, "{kind}: {succeeded} of {all} succeeded")?;
        for (state, count) in others {
            write!(out, ", {count} {}", Cell::styled(state.label(), render::state_style(state)))?;
        }
        writeln!(out)
    }
}

impl Report {
    pub(super) fn new(output: Output, request: &CommandRequest, agents: &[AgentId]) -> Self {
        let single = matches!(&request.target, CommandTarget::Agents(agents) if agents.len() == 1);
        let width = agents.iter().map(|id| id.as_str().len()).max().unwrap_or(0);
        Self { output, kind: request.kind, single, width, began: Instant::now() }
    }

    /// One agent's outcome, as it arrives.
    pub(super) fn outcome(&self, response: &ResponseRecord, out: &mut dyn Write) -> io::Result<()> {
        if self.output == Output::Json {
            return Ok(());
        }
        writeln!(out, "{}", self.line(response))?;
        if self.single && !response.result.is_empty() {
            render::facts(&response.result, 2, out)?;
        }
        out.flush()
    }

    /// A state on the way to the outcome.
    pub(super) fn progress(&self, response: &ResponseRecord) {
        if self.output == Output::Table {
            anstream::eprintln!("{}", self.line(response));
        }
    }

    /// The sum, and the exit code: 0 only if every agent succeeded.
    pub(super) fn end(&self, outcomes: &Outcomes, out: &mut dyn Write) -> Outcome {
        match self.output {
            Output::Json => output::json(out, &outcomes.values())?,
            Output::Table => outcomes.sum(self.kind, out)?,
        }
        Ok(if outcomes.all_succeeded() { Exit::Ok } else { Exit::Failed })
    }

    fn line(&self, response: &ResponseRecord) -> String {
        line(response, self.width, self.began.elapsed())
    }
}

fn line(response: &ResponseRecord, width: usize, took: Duration) -> String {
    let ResponseRecord { agent_id, state, message, .. } = response;
    let style = render::state_style(*state);
    let (on, off) = (style.render(), style.render_reset());
    let message = render::harmless(message);
    let took = took.as_secs_f64();
    let line = format!("{:width$}  {on}{state:<11}{off}  {took:>6.2}s  {message}", agent_id.as_str());
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(agent: &str, state: CommandState) -> Value {
        let (command, agent) = (CommandId::new("c").unwrap(), AgentId::new(agent).unwrap());
        let kind = CommandType::Stop;
        let record = ResponseRecord::new(command, agent, kind, state, "", Timestamp::default());
        serde_json::to_value(record).unwrap()
    }

    fn of(agents: &[&str]) -> Outcomes {
        Outcomes::new(agents.iter().map(|id| AgentId::new(*id).unwrap()).collect())
    }

    fn sum(outcomes: &Outcomes) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        outcomes.sum(CommandType::Stop, &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn an_agent_is_open_until_its_first_final_response_which_stands() {
        let mut outcomes = of(&["a", "b"]);
        assert!(outcomes.take(response("a", CommandState::Running)).is_some());
        assert!(outcomes.take(response("stranger", CommandState::Succeeded)).is_none());
        assert!(outcomes.take(json!({"agent_id": "a"})).is_none());
        assert_eq!(outcomes.open().len(), 2);
        assert!(outcomes.take(response("a", CommandState::Succeeded)).is_some());
        assert!(outcomes.take(response("a", CommandState::Failed)).is_none());
        assert!(!outcomes.all_succeeded(), "b is open");
        outcomes.take(response("b", CommandState::Succeeded));
        assert!(outcomes.all_succeeded());
        assert_eq!(sum(&outcomes), "STOP: 2 of 2 succeeded\n");
    }

    #[test]
    fn what_was_not_heard_is_unknown_a_failure_and_not_final() {
        let mut outcomes = of(&["a", "b", "c"]);
        outcomes.take(response("a", CommandState::Succeeded));
        outcomes.take(response("b", CommandState::Delivered));
        let id = CommandId::new("c").unwrap();
        let given_up = outcomes.give_up(&id, CommandType::Stop, Timestamp::default());
        let told: Vec<_> = given_up.iter().map(|r| (r.message.as_str(), r.is_final, r.success)).collect();
        let expected =
            [("DELIVERED, and no outcome was heard", false, false), ("nobody answered", false, false)];
        assert_eq!(told, expected);
        assert!(outcomes.open().is_empty() && !outcomes.all_succeeded());
        assert_eq!(sum(&outcomes), "STOP: 1 of 3 succeeded, 2 UNKNOWN\n");
    }
}
