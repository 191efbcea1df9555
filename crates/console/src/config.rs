//! `/config`: what the registry holds for agents and groups, checked before it is written.

mod check;
mod store;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use model::id::{AgentId, GroupName, Revision};
use model::limit;
use proto::api::{
    ConfigCheck, ConfigKind, ConfigTarget, ConfigVerdict, ConfigWrite, ConfigWritten, EffectiveConfig,
    Problem, Rollback, StoredConfig,
};
use proto::key::{HistoryEntry, Target};

use crate::Desk;
use crate::ask::{Body, Params, asker};
use crate::problem::{Refusal, faults};
use store::{Change, current};

/// Everything that has config.
#[utoipa::path(get, path = "/api/v1/config", tag = "config", responses((status = 200, body = Vec<ConfigTarget>)))]
pub(crate) async fn targets(State(desk): State<Desk>, uri: Uri) -> Result<Json<Vec<ConfigTarget>>, Refusal> {
    Params::of(&uri, &[])?;
    let target = |(target, revision)| match target {
        Target::Agent(id) => ConfigTarget { kind: ConfigKind::Agent, name: id.to_string(), revision },
        Target::Group(name) => ConfigTarget { kind: ConfigKind::Group, name: name.to_string(), revision },
    };
    Ok(Json(desk.fleet.configs().into_iter().map(target).collect()))
}

/// The config of one agent or group, as it was written.
#[utoipa::path(
    get, path = "/api/v1/config/{kind}/{name}", tag = "config",
    params(("kind" = String, Path, description = "agents or groups"), ("name" = String, Path, description = "its id or name")),
    responses((status = 200, body = StoredConfig), (status = 404, body = Problem), (status = 503, body = Problem))
)]
pub(crate) async fn read(
    State(desk): State<Desk>,
    Path(path): Path<(String, String)>,
    uri: Uri,
) -> Result<Json<StoredConfig>, Refusal> {
    Params::of(&uri, &[])?;
    let target = target(path)?;
    let stored = current(&desk, &target).await?.ok_or_else(|| none(&target))?;
    Ok(Json(stored))
}

/// Writes a config. Checked first, merged with its groups too, unless `unchecked`.
#[utoipa::path(
    put, path = "/api/v1/config/{kind}/{name}", tag = "config", request_body = ConfigWrite,
    params(("kind" = String, Path, description = "agents or groups"), ("name" = String, Path, description = "its id or name")),
    responses(
        (status = 200, body = ConfigWritten), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)
    )
)]
pub(crate) async fn put(
    State(desk): State<Desk>,
    Path(path): Path<(String, String)>,
    uri: Uri,
    Body(write): Body<ConfigWrite>,
) -> Result<Json<ConfigWritten>, Refusal> {
    Params::of(&uri, &[])?;
    let (target, by) = (target(path)?, asker(write.by)?);
    if write.text.len() > limit::CONFIG_BYTES_MAX {
        let (given, max) = (write.text.len(), limit::CONFIG_BYTES_MAX);
        return Err(Refusal::too_large(format!("the config has {given} bytes: at most {max} are allowed")));
    }
    if !write.unchecked {
        check::check(&desk, &target, &write.text).await?;
    }
    let change = Change { target: &target, text: Some(&write.text), expect: write.expect_revision, by };
    Ok(Json(change.commit(&desk).await?))
}

/// Removes a config. The agent goes on with what its groups and the defaults say.
#[utoipa::path(
    delete, path = "/api/v1/config/{kind}/{name}", tag = "config",
    params(
        ("kind" = String, Path, description = "agents or groups"), ("name" = String, Path, description = "its id or name"),
        ("expect_revision" = Option<u64>, Query, description = "only if the stored revision is this one"),
        ("by" = Option<String>, Query, description = "who asks")
    ),
    responses(
        (status = 200, body = ConfigWritten), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)
    )
)]
pub(crate) async fn remove(
    State(desk): State<Desk>,
    Path(path): Path<(String, String)>,
    uri: Uri,
) -> Result<Json<ConfigWritten>, Refusal> {
    let params = Params::of(&uri, &["expect_revision", "by"])?;
    let (target, expect) = (target(path)?, params.parsed("expect_revision")?.map(Revision));
    let by = asker(params.one("by")?.map(str::to_owned))?;
    let change = Change { target: &target, text: None, expect, by };
    Ok(Json(change.commit(&desk).await?))
}

/// The versions that were observed, newest first, those written past this API included.
#[utoipa::path(
    get, path = "/api/v1/config/{kind}/{name}/history", tag = "config",
    params(("kind" = String, Path, description = "agents or groups"), ("name" = String, Path, description = "its id or name")),
    responses((status = 200, body = Vec<HistoryEntry>), (status = 400, body = Problem), (status = 503, body = Problem))
)]
pub(crate) async fn history(
    State(desk): State<Desk>,
    Path(path): Path<(String, String)>,
    uri: Uri,
) -> Result<Json<Vec<HistoryEntry>>, Refusal> {
    Params::of(&uri, &[])?;
    Ok(Json(store::history(&desk, &target(path)?).await?))
}

/// Writes an observed version again, as a new revision.
#[utoipa::path(
    post, path = "/api/v1/config/{kind}/{name}/rollback", tag = "config", request_body = Rollback,
    params(("kind" = String, Path, description = "agents or groups"), ("name" = String, Path, description = "its id or name")),
    responses(
        (status = 200, body = ConfigWritten), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 415, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)
    )
)]
pub(crate) async fn roll_back(
    State(desk): State<Desk>,
    Path(path): Path<(String, String)>,
    uri: Uri,
    Body(rollback): Body<Rollback>,
) -> Result<Json<ConfigWritten>, Refusal> {
    Params::of(&uri, &[])?;
    let (target, by) = (target(path)?, asker(rollback.by)?);
    let now = current(&desk, &target).await?.map_or(Revision(0), |stored| stored.revision);
    let text = store::version(&desk, &target, rollback.to, now).await?;
    check::check(&desk, &target, &text).await?;
    // Whoever wrote meanwhile is not rolled back unseen.
    let change = Change { target: &target, text: Some(&text), expect: Some(now), by };
    Ok(Json(change.commit(&desk).await?))
}

/// What an agent should run: defaults, groups by priority and its own, merged.
#[utoipa::path(
    get, path = "/api/v1/config/effective/{agent}", tag = "config",
    params(("agent" = String, Path, description = "the agent's id")),
    responses(
        (status = 200, body = EffectiveConfig), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)
    )
)]
pub(crate) async fn effective(
    State(desk): State<Desk>,
    Path(agent): Path<String>,
    uri: Uri,
) -> Result<Json<EffectiveConfig>, Refusal> {
    Params::of(&uri, &[])?;
    Ok(Json(check::effective_config(&desk, &agent_id(agent)?).await?))
}

/// Says whether a text would be taken. Writes nothing.
#[utoipa::path(
    post, path = "/api/v1/config/validate", tag = "config", request_body = ConfigCheck,
    responses(
        (status = 200, body = ConfigVerdict), (status = 400, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)
    )
)]
pub(crate) async fn validate(
    State(desk): State<Desk>,
    uri: Uri,
    Body(asked): Body<ConfigCheck>,
) -> Result<Json<ConfigVerdict>, Refusal> {
    Params::of(&uri, &[])?;
    let verdict = match (asked.kind, asked.agent) {
        (ConfigKind::Group, Some(_)) => {
            return Err(Refusal::invalid(
                "a group's text is not one agent's: drop agent, or set kind to agent",
            ));
        }
        (ConfigKind::Group, None) => check::group(&asked.text),
        (ConfigKind::Agent, None) => model::config::parse(&asked.text).map(drop),
        (ConfigKind::Agent, Some(agent)) => check::agent(&desk, &agent, &asked.text).await?,
    };
    let faults = verdict.as_ref().err().map(faults).unwrap_or_default();
    Ok(Json(ConfigVerdict { ok: verdict.is_ok(), faults }))
}

fn target((kind, name): (String, String)) -> Result<Target, Refusal> {
    match kind.as_str() {
        "agents" => Ok(Target::Agent(agent_id(name)?)),
        "groups" => {
            let name = GroupName::new(name).map_err(|error| Refusal::malformed(error.to_string()))?;
            Ok(Target::Group(name))
        }
        other => {
            Err(Refusal::not_found(format!("there is no config of {other:?}: ask for agents or groups")))
        }
    }
}

fn agent_id(text: String) -> Result<AgentId, Refusal> {
    AgentId::new(text).map_err(|error| Refusal::malformed(error.to_string()))
}

/// There is nothing stored.
fn none(target: &Target) -> Refusal {
    Refusal::not_found(format!("{} has no config: GET /api/v1/config lists what has", named(target)))
}

fn named(target: &Target) -> String {
    match target {
        Target::Agent(id) => format!("agent {id}"),
        Target::Group(name) => format!("group {name}"),
    }
}
