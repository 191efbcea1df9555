//! `watchfloor send-command`: one order, one line per agent as outcomes arrive, one sum.

mod kafka;
mod outcomes;

use std::io::Write;
use std::time::{Duration, Instant};

use model::id::CommandId;
use model::limit;
use model::selector::Selector;
use proto::api::{CommandAccepted, CommandRequest, CommandTarget};
use proto::record::ResponseRecord;
use serde_json::Value;

use self::outcomes::{Outcomes, Report};
use super::kafka::{KafkaArgs, Way};
use super::output::{self, Output};
use super::{operator, parse, pause};
use crate::api::{Api, ApiError};
use crate::environment::Environment;
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
  watchfloor send-command --kafka agent-001 STATUS             no API: KAFKA_BOOTSTRAP_SERVERS, or localhost:9092
  watchfloor send-command --kafka localhost:9092 --registry etcd://localhost:2379 --all STATUS

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
    #[command(flatten)]
    kafka: KafkaArgs,
}

impl Args {
    pub(crate) fn run(&self, api: &Api, environment: &Environment, out: &mut dyn Write) -> Outcome {
        let request = self.request()?;
        match self.kafka.way(environment, || self.by_api(api, &request, out))? {
            Way::Answered(exit) => Ok(exit),
            Way::Kafka(brokers) => self
                .kafka
                .connected(&brokers, async |link| kafka::run(self, &request, link, environment, out).await),
        }
    }

    fn by_api(&self, api: &Api, request: &CommandRequest, out: &mut dyn Write) -> Outcome {
        let accepted = api.order(request)?;
        if accepted.agents.is_empty() {
            return Err(Failure::message(Exit::Failed, "no agent is meant: see `watchfloor agents`"));
        }
        if self.no_wait {
            self.print_accepted(&accepted, out)?;
            return Ok(Exit::Ok);
        }
        let patience = self.timeout + limit::COMMAND_GRACE + ANSWER_WITHIN;
        let mut wait = Wait::new(api, &accepted, patience);
        let report = Report::new(self.output, request, &accepted.agents);
        while let Some(response) = wait.next_final()? {
            report.outcome(&response, out)?;
        }
        report.end(&wait.outcomes, out)
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
    outcomes: Outcomes,
    events: Option<crate::api::Events>,
    deadline: Instant,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(api: &'a Api, accepted: &'a CommandAccepted, patience: Duration) -> Self {
        Self {
            api,
            command_id: &accepted.command_id,
            outcomes: Outcomes::new(accepted.agents.clone()),
            events: None,
            deadline: Instant::now() + patience,
        }
    }

    /// The next final response; `None` when each agent has its own, or patience ended.
    pub(crate) fn next_final(&mut self) -> Result<Option<ResponseRecord>, ApiError> {
        while !self.outcomes.open().is_empty() && Instant::now() < self.deadline {
            let Some(events) = &mut self.events else {
                self.connect()?;
                continue;
            };
            match events.next() {
                Some(Ok(event)) if event.name == "response" => {
                    let response = serde_json::from_str(&event.data).ok();
                    let response = response.and_then(|value| self.outcomes.take(value));
                    if let Some(response) = response.filter(|response| response.is_final) {
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
}

const RETRY_AFTER: Duration = Duration::from_millis(300);
