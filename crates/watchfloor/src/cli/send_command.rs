//! `watchfloor send-command`: one order, one line per agent as outcomes arrive, one sum.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId};
use model::limit;
use model::selector::Selector;
use proto::api::{CommandAccepted, CommandRequest, CommandTarget};
use proto::record::ResponseRecord;
use serde_json::Value;

use super::output::{self, Output};
use super::render::{self, Cell};
use super::{operator, parse, pause};
use crate::api::{Api, ApiError};
use crate::exit::{Exit, Failure, Outcome};

/// Order agents: STATUS, STOP, START, UPDATE_CONFIG or RESTART.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "watchfloor send-command [OPTIONS] <AGENT...|-l SELECTOR|--all> <TYPE>",
    after_help = "\
Types:
  STATUS         what the agent does, runs and costs
  STOP           pause collection; heartbeats and commands go on, across restarts too
  START          resume collection
  UPDATE_CONFIG  read the agent's config from the registry again and apply it
  RESTART        a new incarnation; the outcome comes after it

Examples:
  watchfloor send-command agent-001 STATUS
  watchfloor send-command agent-001 agent-002 STOP
  watchfloor send-command -l role=db UPDATE_CONFIG --timeout 10s
  watchfloor send-command --all RESTART -o json

Exit code 0 only if every agent succeeded."
)]
pub(crate) struct Args {
    /// Agents, then the type: STATUS, STOP, START, UPDATE_CONFIG or RESTART.
    #[arg(required = true, value_name = "AGENT... TYPE")]
    words: Vec<String>,
    /// Every agent with these labels: k=v, k!=v, k in (a,b), joined by commas.
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "all")]
    selector: Option<Selector>,
    /// Every known agent that has not shut down, offline ones included.
    #[arg(long)]
    all: bool,
    /// How long agents have to answer.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::timeout)]
    timeout: Duration,
    /// A parameter of the command; the value may be JSON. Repeatable.
    #[arg(long = "param", value_name = "KEY=VALUE", value_parser = parse::param)]
    params: Vec<(String, Value)>,
    /// Makes the order repeatable: the same id acts once.
    #[arg(long, value_name = "ID")]
    command_id: Option<CommandId>,
    /// Wait for the outcomes (the default).
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return as soon as the order is durable.
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    pub(crate) fn run(&self, api: &Api, out: &mut dyn Write) -> Outcome {
        let request = self.request()?;
        let single = matches!(&request.target, CommandTarget::Agents(agents) if agents.len() == 1);
        let accepted = api.order(&request)?;
        if accepted.agents.is_empty() {
            return Err(Failure::message(Exit::Failed, "no agent is meant: see `watchfloor agents`"));
        }
        if self.no_wait {
            self.print_accepted(&accepted, out)?;
            return Ok(Exit::Ok);
        }
        let patience = self.timeout + limit::COMMAND_GRACE + ANSWER_WITHIN;
        let mut wait = Wait::new(api, &accepted, patience);
        let started = Instant::now();
        let width = accepted.agents.iter().map(|id| id.as_str().len()).max().unwrap_or(0);
        while let Some(response) = wait.next_final()? {
            if self.output == Output::Table {
                line(&response, width, started.elapsed(), out)?;
                if single && !response.result.is_empty() {
                    render::facts(&response.result, 2, out)?;
                }
                out.flush()?;
            }
        }
        match self.output {
            Output::Json => output::json(out, &wait.values())?,
            Output::Table => wait.sum(request.kind, out)?,
        }
        Ok(if wait.all_succeeded() { Exit::Ok } else { Exit::Failed })
    }

    fn request(&self) -> Result<CommandRequest, Failure> {
        let other = match (&self.selector, self.all) {
            (Some(_), _) => Some("-l"),
            (None, true) => Some("--all"),
            (None, false) => None,
        };
        let (agents, kind) =
            parse::order(&self.words, other).map_err(|error| Failure::new(Exit::Usage, error))?;
        let target = match &self.selector {
            Some(selector) => CommandTarget::Selector(selector.to_string()),
            None if self.all => CommandTarget::All,
            None => CommandTarget::Agents(agents),
        };
        Ok(CommandRequest {
            target,
            kind,
            params: parse::params(&self.params),
            timeout_seconds: Some(self.timeout.as_secs_f64()),
            command_id: self.command_id.clone(),
            issued_by: Some(operator()),
        })
    }

    fn print_accepted(&self, accepted: &CommandAccepted, out: &mut dyn Write) -> std::io::Result<()> {
        if self.output == Output::Json {
            return output::json(out, accepted);
        }
        let CommandAccepted { command_id, agents, expires_at } = accepted;
        let plural = if agents.len() == 1 { "" } else { "s" };
        writeln!(out, "{command_id} for {} agent{plural} until {expires_at}", agents.len())
    }
}

/// Past the deadline and the monitor's grace, an outcome under way still has this long to be heard.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Waits for the final responses to one command, over reconnects.
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    api: &'a Api,
    command_id: &'a CommandId,
    open: Vec<AgentId>,
    newest: BTreeMap<AgentId, (ResponseRecord, Value)>,
    events: Option<crate::api::Events>,
    deadline: Instant,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(api: &'a Api, accepted: &'a CommandAccepted, patience: Duration) -> Self {
        Self {
            api,
            command_id: &accepted.command_id,
            open: accepted.agents.clone(),
            newest: BTreeMap::new(),
            events: None,
            deadline: Instant::now() + patience,
        }
    }

    /// The next final response; `None` when each agent has its own, or patience ended.
    pub(crate) fn next_final(&mut self) -> Result<Option<ResponseRecord>, ApiError> {
        while !self.open.is_empty() && Instant::now() < self.deadline {
            let Some(events) = &mut self.events else {
                self.connect()?;
                continue;
            };
            match events.next() {
                Some(Ok(event)) if event.name == "response" => {
                    if let Some(response) = self.take(&event.data) {
                        return Ok(Some(response));
                    }
                }
                Some(Ok(event)) if event.name == "done" => break,
                Some(Ok(_)) => {}
                // The stream says all so far again when it is opened anew.
                Some(Err(_)) | None => {
                    self.events = None;
                    pause(RETRY_AFTER);
                }
            }
        }
        Ok(None)
    }

    fn connect(&mut self) -> Result<(), ApiError> {
        match self.api.responses(self.command_id) {
            Ok(events) => self.events = Some(events),
            Err(error) if error.is_transient() => pause(RETRY_AFTER),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Notes a response; gives it back when it is the final one of an agent that still had none.
    fn take(&mut self, data: &str) -> Option<ResponseRecord> {
        let value: Value = serde_json::from_str(data).ok()?;
        let response: ResponseRecord = serde_json::from_value(value.clone()).ok()?;
        let at = self.open.iter().position(|agent| *agent == response.agent_id)?;
        self.newest.insert(response.agent_id.clone(), (response.clone(), value));
        response.is_final.then(|| {
            self.open.remove(at);
            response
        })
    }

    /// The newest response of each agent, as it was published.
    fn values(&self) -> Vec<&Value> {
        self.newest.values().map(|(_, value)| value).collect()
    }

    fn all_succeeded(&self) -> bool {
        self.open.is_empty() && self.newest.values().all(|(response, _)| response.success)
    }

    /// `STOP: 2 of 3 succeeded, 1 EXPIRED`.
    fn sum(&self, kind: CommandType, out: &mut dyn Write) -> std::io::Result<()> {
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

const RETRY_AFTER: Duration = Duration::from_millis(300);

fn line(response: &ResponseRecord, width: usize, took: Duration, out: &mut dyn Write) -> std::io::Result<()> {
    let ResponseRecord { agent_id, state, message, .. } = response;
    let style = render::state_style(*state);
    let (on, off) = (style.render(), style.render_reset());
    let message = render::harmless(message);
    let took = took.as_secs_f64();
    let line = format!("{:width$}  {on}{state:<11}{off}  {took:>6.2}s  {message}", agent_id.as_str());
    writeln!(out, "{}", line.trim_end())
}
