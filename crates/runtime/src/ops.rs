//! The operations endpoint of every role: `/livez`, `/readyz`, `/api/v1/health` and Prometheus `/metrics`.

use std::future::Future;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::Health;

/// What the endpoint shows.
#[derive(Clone, Debug)]
pub struct Ops {
    pub health: Health,
    pub metrics: Registry,
}

/// The four routes, to serve alone or merged with more.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/api/v1/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(ops)
}

/// Serves until `stop` completes, then lets open requests end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn ready(State(ops): State<Ops>) -> impl IntoResponse {
    if ops.health.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn health(State(ops): State<Ops>) -> impl IntoResponse {
    Json(ops.health.report())
}

async fn metrics(State(ops): State<Ops>) -> impl IntoResponse {
    let text = TextEncoder::new().encode_to_string(&ops.metrics.gather());
    match text {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
