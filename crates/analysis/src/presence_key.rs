//! The key by which others find this analysis: `/monitor/analysis/<id>`, on a lease of its own.

use std::sync::Arc;

use backends::lease;
use backends::registry::Registry;
use model::limit::SERVER_LEASE;
use proto::key::{self, AnalysisEntry};
use runtime::{Component, clock};
use tokio_util::sync::CancellationToken;

/// Keeps the key until `stop`, then takes it away. `http` is where the API of this process is, as others may reach it.
pub async fn announce(
    registry: Arc<dyn Registry>,
    analysis_id: String,
    http: String,
    health: Component,
    stop: CancellationToken,
) {
    let key = key::analysis(&analysis_id);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let entry = AnalysisEntry { analysis_id, http, version, started: clock::wall() };
    let value = serde_json::to_vec(&entry).unwrap_or_default().into();
    lease::keep_key(registry, SERVER_LEASE, key, value, health, stop).await;
}
