//! The console: the face of analysis towards people and scripts. HTTP, JSON, live streams.
//!
//! It answers from what analysis keeps, reads and writes config in the registry, and puts commands on the bus. It keeps
//! nothing itself. What each route takes and gives is a type of [`proto::api`].

mod agents;
mod ask;
mod commands;
mod config;
mod document;
mod guard;
mod metrics;
pub mod order;
mod problem;

use std::sync::Arc;
use std::time::Duration;

use analysis::{CommandBook, Fleet, History};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use backends::Backends;
use model::limit;
use runtime::ops::{self, Ops};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use guard::Hosts;
use problem::Refusal;

/// How long a question may wait for the inventory.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What the console shows and acts on.
#[derive(Clone, Debug)]
pub struct Console {
    pub history: History,
    pub commands: CommandBook,
    pub fleet: Fleet,
    pub backends: Backends,
    pub ops: Ops,
}

/// Every route, for a listener on loopback: requests under a foreign host name are refused.
pub fn router(console: Console) -> Router {
    router_for(console, Hosts::Loopback)
}

/// Every route, for requests under the names that `hosts` allows.
pub fn router_for(console: Console, hosts: Hosts) -> Router {
    let ops = ops::router(console.ops.clone());
    let desk =
        Desk { console, streams: Arc::new(Semaphore::new(limit::LIVE_STREAMS_MAX)), orders: Arc::default() };
    let (api, document) = routes().split_for_parts();
    let document = document::serve(document);
    Router::new()
        .route("/", get(document::index))
        .merge(api.layer(from_fn_with_state(desk.clone(), await_inventory)).with_state(desk))
        .merge(document)
        .merge(ops)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(limit::HTTP_BODY_BYTES_MAX))
        .layer(from_fn_with_state(hosts, guard::check_host))
        .layer(from_fn(guard::add_headers))
}

/// Lets a question that comes while the process starts wait a moment, rather than be answered from half an inventory.
async fn await_inventory(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    // What is still not read then is told by the handlers that need it.
    tokio::time::timeout(READ_WITHIN, desk.fleet.complete()).await.ok();
    next.run(request).await
}

/// What handlers share.
#[derive(Clone, Debug)]
struct Desk {
    console: Console,
    /// One permit per open live stream.
    streams: Arc<Semaphore>,
    /// Held while a command that names its own id is looked up and published, so that two equal requests act once.
    orders: Arc<Mutex<()>>,
}

impl Desk {
    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let full = |_| {
            Refusal::unavailable(format!(
                "{} live streams are open already: end one",
                limit::LIVE_STREAMS_MAX
            ))
        };
        Arc::clone(&self.streams).try_acquire_owned().map_err(full)
    }
}

impl std::ops::Deref for Desk {
    type Target = Console;
    fn deref(&self) -> &Console {
        &self.console
    }
}

fn routes() -> OpenApiRouter<Desk> {
    OpenApiRouter::with_openapi(document::base())
        .routes(routes!(agents::list))
        .routes(routes!(agents::one))
        .routes(routes!(agents::topology))
        .routes(routes!(metrics::records))
        .routes(routes!(metrics::live))
        .routes(routes!(commands::list, commands::order))
        .routes(routes!(commands::one))
        .routes(routes!(commands::live))
        .routes(routes!(config::targets))
        .routes(routes!(config::read, config::put, config::remove))
        .routes(routes!(config::history))
        .routes(routes!(config::roll_back))
        .routes(routes!(config::effective))
        .routes(routes!(config::validate))
}

#[cfg(test)]
mod tests;
