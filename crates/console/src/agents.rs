//! `/agents` and `/topology`: who is there.

use std::collections::BTreeMap;

use analysis::Stored;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use model::id::AgentId;
use model::sample::Timestamp;
use proto::api::{Agent, Problem, RunningServer, Topology};
use proto::key::AgentEntry;

use crate::Desk;
use crate::ask::Params;
use crate::problem::Refusal;

/// Every agent, by id: those of the inventory, those of other programs that keep a heartbeat key, and those that have
/// config and never connected.
#[utoipa::path(
    get, path = "/api/v1/agents", tag = "fleet",
    params(("selector" = Option<String>, Query, description = "labels, as role=db,zone!=eu")),
    responses((status = 200, body = Vec<Agent>), (status = 400, body = Problem))
)]
pub(crate) async fn list(State(desk): State<Desk>, uri: Uri) -> Result<Json<Vec<Agent>>, Refusal> {
    let selector = Params::of(&uri, &["selector"])?.selector()?.unwrap_or_default();
    let agents = desk.fleet.agents(&selector);
    let ids = agents.iter().map(|entry| entry.agent_id.clone()).collect();
    let latest = desk.history.latest(Some(&ids));
    let last: BTreeMap<&AgentId, Timestamp> = latest.iter().map(|s| (s.agent(), s.at())).collect();
    let agent = |entry: AgentEntry| {
        let last_data = last.get(&entry.agent_id).copied();
        shown(entry, last_data)
    };
    Ok(Json(agents.into_iter().map(agent).collect()))
}

/// One agent.
#[utoipa::path(
    get, path = "/api/v1/agents/{id}", tag = "fleet",
    params(("id" = String, Path, description = "the agent's id")),
    responses((status = 200, body = Agent), (status = 404, body = Problem))
)]
pub(crate) async fn one(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Agent>, Refusal> {
    Params::of(&uri, &[])?;
    let id = AgentId::new(id).map_err(|error| Refusal::malformed(error.to_string()))?;
    let entry = desk.fleet.agent(&id).ok_or_else(|| unknown(&desk, &id))?;
    let latest = desk.history.latest(Some(&[id].into()));
    Ok(Json(shown(entry, latest.first().map(Stored::at))))
}

/// The servers and analyses that are alive, and who leads.
#[utoipa::path(get, path = "/api/v1/topology", tag = "fleet", responses((status = 200, body = Topology)))]
pub(crate) async fn topology(State(desk): State<Desk>, uri: Uri) -> Result<Json<Topology>, Refusal> {
    Params::of(&uri, &[])?;
    let servers = desk.fleet.servers().into_iter().map(|(entry, agents)| RunningServer { entry, agents });
    Ok(Json(Topology {
        servers: servers.collect(),
        analysis: desk.fleet.analyses(),
        leaders: desk.fleet.leaders(),
    }))
}

/// Why an agent is not found: there is none, or the inventory has not been read yet.
pub(crate) fn unknown(desk: &Desk, id: &AgentId) -> Refusal {
    if desk.fleet.is_complete() {
        Refusal::not_found(format!("there is no agent {id}: GET /api/v1/agents lists them"))
    } else {
        not_read()
    }
}

pub(crate) fn not_read() -> Refusal {
    Refusal::unavailable("the inventory is not read yet: try again, /readyz tells when")
}

fn shown(entry: AgentEntry, last_data: Option<Timestamp>) -> Agent {
    Agent { standing: entry.config.standing(), entry, last_data }
}
