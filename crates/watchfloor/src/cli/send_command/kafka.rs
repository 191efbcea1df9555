//! `send-command` on the topics themselves: the same records as the API publishes, and the answers read by this command.

use std::io::Write;
use std::time::Duration;

use backends::bus::{BusError, Record, StartAt, Subscription};
use console::order::{Order, OrderError, Target, check_params};
use model::command::CommandType;
use model::id::{AgentId, CommandId};
use model::limit;
use model::sample::Timestamp;
use proto::api::{CommandAccepted, CommandRequest};
use proto::record::{COMMAND_RESPONSES, ResponseRecord};
use runtime::clock;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::outcomes::{Outcomes, Report};
use super::{Args, operator};
use crate::cli::kafka::Link;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// After the monitor has to have ended what nobody answered: for its clock, and for Kafka.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn run(
    args: &Args,
    request: &CommandRequest,
    link: &Link,
    environment: &Environment,
    out: &mut dyn Write,
) -> Outcome {
    check_params(&request.params)?;
    let agents = resolve(args, request, environment).await?;
    // What answers come between here and the publish are ours already.
    let responses = link.bus.subscribe(COMMAND_RESPONSES, start(request.command_id.as_ref())).await;
    let responses = responses.map_err(|error| link.failure(error))?;
    let order = order(args, request);
    if let Err(error) = order.publish(&*link.bus, &agents).await {
        let is_new = request.command_id.is_none() && error.is_transient();
        let failure = link.failure(error);
        if is_new {
            let id = &order.command_id;
            anstream::eprintln!("the command may have reached some: repeat it with --command-id {id}");
        }
        return Err(failure);
    }
    let deadline = Instant::now() + args.timeout + limit::COMMAND_GRACE + HEARD_WITHIN;
    if args.no_wait {
        let Order { command_id, expires_at, .. } = order;
        args.print_accepted(&CommandAccepted { command_id, agents, expires_at }, out)?;
        return Ok(Exit::Ok);
    }
    let report = Report::new(args.output, request, &agents);
    let mut outcomes = Outcomes::new(agents);
    let mut answers = Answers { link, responses, command_id: &order.command_id, kind: order.kind };
    while !outcomes.open().is_empty() {
        let Ok(answer) = timeout_at(deadline, answers.next()).await else { break };
        let Some(response) = outcomes.take(answer?) else { continue };
        if response.is_final {
            report.outcome(&response, out)?;
        } else {
            report.progress(&response);
        }
    }
    if !outcomes.open().is_empty() {
        let silent = outcomes.give_up(&order.command_id, order.kind, clock::wall());
        for response in &silent {
            report.outcome(response, out)?;
        }
        anstream::eprintln!("{}", what_to_check(link, &silent));
    }
    report.end(&outcomes, out)
}

/// Whom the order is for. Those that are named are believed to be there: the monitor answers for who is not.
async fn resolve(
    args: &Args,
    request: &CommandRequest,
    environment: &Environment,
) -> Result<Vec<AgentId>, Failure> {
    let target = Target::read(&request.target)?;
    let inventory = match &target {
        Target::Agents(_) => Vec::new(),
        Target::Selector(_) => args.kafka.inventory(environment, "-l").await?,
        Target::All => args.kafka.inventory(environment, "--all").await?,
    };
    target.resolve(inventory).map_err(|error: OrderError| error.into())
}

fn order(args: &Args, request: &CommandRequest) -> Order {
    let now = clock::wall();
    Order {
        command_id: request.command_id.clone().unwrap_or_else(Order::fresh_id),
        kind: request.kind,
        params: request.params.clone(),
        issued_at: now,
        expires_at: now.plus(args.timeout),
        issued_by: Some(operator()),
    }
}

/// An order under an id of the caller's may have been given, and answered, before: it acts once and is answered once.
fn start(given: Option<&CommandId>) -> StartAt {
    if given.is_none() {
        return StartAt::Latest;
    }
    let day = i64::try_from(limit::COMMAND_BOOK_WINDOW.as_millis()).unwrap_or(i64::MAX);
    StartAt::Time(Timestamp::from_unix_ms(clock::wall().unix_ms().saturating_sub(day)))
}

/// The responses to one command among all that are on the topic.
struct Answers<'a> {
    link: &'a Link,
    responses: Subscription,
    command_id: &'a CommandId,
    kind: CommandType,
}

impl Answers<'_> {
    /// The next one. Cancel safe: yes.
    async fn next(&mut self) -> Result<Value, Failure> {
        loop {
            let record = match self.responses.next().await {
                Some(Ok(record)) => record,
                // Reading goes on by itself; the deadline stays.
                Some(Err(error)) if error.is_transient() => continue,
                Some(Err(error)) => return Err(self.link.failure(error)),
                None => return Err(self.link.failure(BusError::Closed)),
            };
            if let Some(value) = self.read(&record)? {
                return Ok(value);
            }
        }
    }

    /// A response to this command. What others cannot read either is nothing to us.
    fn read(&self, record: &Record) -> Result<Option<Value>, Failure> {
        let Ok(value) = serde_json::from_slice::<Value>(&record.value) else { return Ok(None) };
        if value["command_id"] != self.command_id.as_str() {
            return Ok(None);
        }
        let Ok(response) = serde_json::from_value::<ResponseRecord>(value.clone()) else { return Ok(None) };
        if response.kind != self.kind {
            let id = self.command_id;
            let message = format!(
                "command {id} was given before with another content, {}: use another id",
                response.kind
            );
            return Err(Failure::message(Exit::Failed, message));
        }
        Ok(Some(value))
    }
}

fn what_to_check(link: &Link, silent: &[ResponseRecord]) -> String {
    let brokers = &link.brokers;
    if let Some(reason) = link.away() {
        return format!(
            "Kafka at {brokers} no longer answers ({reason}): what became of the command is on it"
        );
    }
    let agents =
        if let [one] = silent { one.agent_id.to_string() } else { format!("{} agents", silent.len()) };
    format!(
        "no outcome of {agents}, neither from an agent nor from a monitor, which ends every command {:?} after its deadline: \
         is a server running, is a monitor running (`watchfloor monitor`), and do both use Kafka at {brokers} and these topics?",
        limit::COMMAND_GRACE
    )
}
