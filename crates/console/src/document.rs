//! The OpenAPI document, and a plain page that says where things are.

use axum::http::header;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use proto::api::Lost;
use utoipa::OpenApi;
use utoipa::openapi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Watchfloor",
        description = "Watches and commands a fleet of machines. Every error answer is a Problem. Writes carry \
                       application/json."
    ),
    components(schemas(Lost)),
    paths(health, live, ready, prometheus_text, document)
)]
struct Base;

/// What is in the document besides the routes that describe themselves.
pub(crate) fn base() -> openapi::OpenApi {
    let mut base = Base::openapi();
    base.info.version = env!("CARGO_PKG_VERSION").to_owned();
    base
}

/// Serves the document. It is written once.
pub(crate) fn serve(document: openapi::OpenApi) -> Router {
    let json = serde_json::to_value(document).unwrap_or_default();
    Router::new().route("/api/v1/openapi.json", get(async move || Json(json)))
}

pub(crate) async fn index() -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-cache")], Html(INDEX))
}

const INDEX: &str = "<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>Watchfloor</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em}</style>
<h1>Watchfloor</h1>
<ul>
<li><a href=\"/api/v1/agents\">/api/v1/agents</a>: who is there
<li><a href=\"/api/v1/topology\">/api/v1/topology</a>: which servers and analyses run, and who leads
<li><a href=\"/api/v1/metrics?latest=true\">/api/v1/metrics?latest=true</a>: what was measured last
<li><a href=\"/api/v1/metrics/live\">/api/v1/metrics/live</a>: what is being measured
<li><a href=\"/api/v1/commands\">/api/v1/commands</a>: what was ordered
<li><a href=\"/api/v1/config\">/api/v1/config</a>: what has config
<li><a href=\"/api/v1/health\">/api/v1/health</a>: what works and what does not
<li><a href=\"/api/v1/openapi.json\">/api/v1/openapi.json</a>: every path
<li><a href=\"/metrics\">/metrics</a>: Watchfloor's own numbers, for Prometheus
</ul>
";

// The operations endpoint serves these; here they are only described.

/// What works and what does not, by component.
#[utoipa::path(get, path = "/api/v1/health", tag = "operations", responses((status = 200, body = Object)))]
#[expect(dead_code, reason = "describes a route of runtime::ops")]
fn health() {}

/// Answers as long as the process lives.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = 200, body = String, content_type = "text/plain")))]
#[expect(dead_code, reason = "describes a route of runtime::ops")]
fn live() {}

/// 200 once every component has started.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 503, body = String, content_type = "text/plain")
    )
)]
#[expect(dead_code, reason = "describes a route of runtime::ops")]
fn ready() {}

/// Watchfloor's own numbers, as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = String, content_type = "text/plain")))]
#[expect(dead_code, reason = "describes a route of runtime::ops")]
fn prometheus_text() {}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "operations", responses((status = 200, body = Object)))]
#[expect(dead_code, reason = "describes a route of runtime::ops")]
fn document() {}
