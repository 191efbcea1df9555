//! `/commands`: give an order, see what became of it.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use futures_util::stream;
use model::id::{AgentId, CommandId};
use model::limit;
use model::selector::Selector;
use proto::api::{Command, CommandAccepted, CommandRequest, Problem};
use proto::key::Client;
use proto::record::ResponseRecord;
use runtime::clock;
use serde_json::json;

use crate::ask::{Body, Params, asker};
use crate::order::{Order, OrderError, Target, check_params};
use crate::problem::Refusal;
use crate::{Desk, agents, metrics};

/// The newest commands first.
#[utoipa::path(
    get, path = "/api/v1/commands", tag = "commands",
    params(("limit" = Option<usize>, Query, description = "at most so many")),
    responses((status = 200, body = Vec<Command>), (status = 400, body = Problem))
)]
pub(crate) async fn list(State(desk): State<Desk>, uri: Uri) -> Result<Json<Vec<Command>>, Refusal> {
    let params = Params::of(&uri, &["limit"])?;
    Ok(Json(desk.commands.list(params.limit(limit::COMMANDS_LISTED_DEFAULT, limit::COMMAND_BOOK_MAX)?)))
}

/// One command and the newest response of each agent it was for.
#[utoipa::path(
    get, path = "/api/v1/commands/{id}", tag = "commands",
    params(("id" = String, Path, description = "the command's id")),
    responses((status = 200, body = Command), (status = 404, body = Problem))
)]
pub(crate) async fn one(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Command>, Refusal> {
    Params::of(&uri, &[])?;
    let id = command_id(id)?;
    desk.commands.get(&id).map(Json).ok_or_else(|| unknown(&id))
}

/// The responses to a command as they come, those so far first: event `response` each, then `done`.
#[utoipa::path(
    get, path = "/api/v1/commands/{id}/live", tag = "commands",
    params(("id" = String, Path, description = "the command's id")),
    responses(
        (status = 200, body = ResponseRecord, content_type = "text/event-stream"),
        (status = 404, body = Problem), (status = 503, body = Problem)
    )
)]
pub(crate) async fn live(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Refusal> {
    Params::of(&uri, &[])?;
    let id = command_id(id)?;
    let responses = desk.commands.responses(&id).ok_or_else(|| unknown(&id))?;
    let permit = desk.stream_permit()?;
    let events = stream::unfold((responses, permit), async |(mut responses, permit)| {
        let event = match responses.next().await? {
            analysis::Progress::Response(response) => metrics::event("response", &response),
            analysis::Progress::Done => metrics::event("done", &json!({})),
        };
        Some((event, (responses, permit)))
    });
    Ok(metrics::sse(events))
}

/// Gives an order. Answered when it is durable on the bus; what becomes of it is at `/commands/{id}`.
///
/// With a `command_id` the request can be repeated: the same one acts once, another content under it is refused.
#[utoipa::path(
    post, path = "/api/v1/commands", tag = "commands", request_body = CommandRequest,
    responses(
        (status = 202, body = CommandAccepted), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)
    )
)]
pub(crate) async fn order(
    State(desk): State<Desk>,
    uri: Uri,
    Body(request): Body<CommandRequest>,
) -> Result<(StatusCode, Json<CommandAccepted>), Refusal> {
    Params::of(&uri, &[])?;
    let order = Checked::read(request)?;
    let accepted = match order.command_id.clone() {
        None => publish(&desk, &order, Order::fresh_id()).await?,
        Some(id) => {
            let _turn = desk.orders.lock().await;
            match desk.commands.get(&id) {
                Some(known) => order.repeats(&desk, &known)?,
                None => publish(&desk, &order, id).await?,
            }
        }
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// A request that passed every check but whom it is for.
#[derive(Debug)]
struct Checked {
    request: CommandRequest,
    target: Target,
    timeout: Duration,
    command_id: Option<CommandId>,
}

impl Checked {
    fn read(mut request: CommandRequest) -> Result<Self, Refusal> {
        let target = Target::read(&request.target)?;
        check_params(&request.params)?;
        let timeout = timeout(request.timeout_seconds)?;
        request.issued_by = asker(request.issued_by)?;
        let command_id = request.command_id.clone();
        Ok(Self { request, target, timeout, command_id })
    }

    /// Whom it is for now. Never empty.
    fn resolve(&self, desk: &Desk) -> Result<Vec<AgentId>, Refusal> {
        if !desk.fleet.is_complete() {
            return Err(agents::not_read());
        }
        if let Target::Agents(agents) = &self.target {
            for id in agents {
                let Some(entry) = desk.fleet.agent(id) else { return Err(agents::unknown(desk, id)) };
                if entry.client == Client::Foreign {
                    return Err(Refusal::invalid(format!(
                        "{id} is an agent of another program, known by its heartbeat key only: it takes no commands"
                    )));
                }
            }
        }
        Ok(self.target.resolve(desk.fleet.agents(&Selector::default()))?)
    }

    /// The answer to an order that was given before under the same id, if it was the same.
    fn repeats(&self, desk: &Desk, known: &Command) -> Result<CommandAccepted, Refusal> {
        let agents = desk.commands.agents(&known.command_id);
        let same_agents = match &self.target {
            Target::Agents(wanted) => wanted.iter().eq(&agents),
            // They were resolved then; the fleet may have changed since.
            Target::Selector(_) | Target::All => true,
        };
        let same = same_agents
            && known.kind == self.request.kind
            && known.params == self.request.params
            && known.issued_by == self.request.issued_by
            && known.expires_at.since(known.issued_at) == self.timeout;
        if !same {
            let id = &known.command_id;
            let message = format!("command {id} was given before with another content: use another id");
            return Err(Refusal::conflict(message));
        }
        Ok(CommandAccepted { command_id: known.command_id.clone(), agents, expires_at: known.expires_at })
    }
}

/// Puts one record per agent on the bus.
async fn publish(desk: &Desk, checked: &Checked, command_id: CommandId) -> Result<CommandAccepted, Refusal> {
    let agents = checked.resolve(desk)?;
    let now = clock::wall();
    let order = Order {
        command_id: command_id.clone(),
        kind: checked.request.kind,
        params: checked.request.params.clone(),
        issued_at: now,
        expires_at: now.plus(checked.timeout),
        issued_by: checked.request.issued_by.clone(),
    };
    if let Err(error) = order.publish(&*desk.backends.bus, &agents).await {
        let message =
            format!("the command may not have reached all: {error}; repeat it with command_id {command_id}");
        tracing::warn!(%command_id, %error, "a command could not be published");
        return Err(if error.is_transient() { Refusal::unavailable(message) } else { Refusal::from(error) });
    }
    // So that whoever got the answer finds the command, before it has come back from the bus.
    for agent in &agents {
        desk.commands.issued(&command_id, &order.command(agent), now);
    }
    Ok(CommandAccepted { command_id, agents, expires_at: order.expires_at })
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::ParamsTooLarge { .. } => Self::too_large(error.to_string()),
            OrderError::NobodyNamed | OrderError::Selector(_) => Self::invalid(error.to_string()),
            OrderError::NobodySelected(_) | OrderError::NobodyThere => {
                Self::invalid(format!("{error}: GET /api/v1/agents lists them"))
            }
        }
    }
}

fn timeout(seconds: Option<f64>) -> Result<Duration, Refusal> {
    let Some(seconds) = seconds else { return Ok(limit::COMMAND_TIMEOUT_DEFAULT) };
    let timeout = Duration::try_from_secs_f64(seconds).ok();
    // Records tell milliseconds.
    let timeout =
        timeout.map(|timeout| Duration::from_millis(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)));
    timeout.filter(|timeout| !timeout.is_zero() && *timeout <= limit::COMMAND_TIMEOUT_MAX).ok_or_else(|| {
        let max = limit::COMMAND_TIMEOUT_MAX.as_secs();
        Refusal::invalid(format!("timeout_seconds is {seconds}: give more than 0 and at most {max}"))
    })
}

fn command_id(text: String) -> Result<CommandId, Refusal> {
    CommandId::new(text).map_err(|error| Refusal::malformed(error.to_string()))
}

fn unknown(id: &CommandId) -> Refusal {
    let hours = limit::COMMAND_BOOK_WINDOW.as_secs() / 3_600;
    Refusal::not_found(format!(
        "there is no command {id}, or it is more than {hours} h old: GET /api/v1/commands lists them"
    ))
}
