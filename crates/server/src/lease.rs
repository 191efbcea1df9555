//! This server's lease in the registry: kept alive as long as the server runs, taken anew when it was lost.

use std::sync::Arc;
use std::time::Duration;

use backends::registry::{Compare, LeaseId, Operation, Registry, RegistryError, Txn};
use model::limit::SERVER_LEASE;
use proto::key::{self, ServerEntry};
use runtime::{Backoff, Component};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::hub::Hub;
use crate::inventory::json;

/// Holds the lease and the server's key until `stop`, then gives both back: the heartbeat keys on it end with it, and the
/// leading monitor gives the agents its grace to move.
pub(crate) async fn hold(
    hub: Arc<Hub>,
    registry: Arc<dyn Registry>,
    own: ServerEntry,
    lease: watch::Sender<Option<LeaseId>>,
    health: Component,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), SERVER_LEASE / 4);
    loop {
        let current = *lease.borrow();
        let wait = match renew(&hub, &*registry, &own, current).await {
            Ok(renewed) => {
                health.ok();
                backoff.reset();
                if current != Some(renewed) {
                    lease.send_replace(Some(renewed));
                    hub.lease_changed();
                }
                SERVER_LEASE / 3
            }
            Err(error) => {
                tracing::warn!(%error, "the server's lease cannot be renewed");
                health.degraded(error.to_string());
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    let last = *lease.borrow();
    if let Some(last) = last
        && let Err(error) = registry.revoke(last).await
    {
        tracing::warn!(%error, "the server's lease could not be given back; it will expire");
    }
}

async fn renew(
    hub: &Hub,
    registry: &dyn Registry,
    own: &ServerEntry,
    current: Option<LeaseId>,
) -> Result<LeaseId, RegistryError> {
    if let Some(lease) = current {
        match registry.keep_alive(lease).await {
            Err(RegistryError::NoSuchLease(_)) => {
                tracing::warn!("the server's lease had expired; registering anew");
            }
            other => return other.map(|()| lease),
        }
    }
    hub.registry_known(identity(registry).await?);
    let lease = registry.grant(SERVER_LEASE).await?;
    let put = Operation::Put { key: key::server(&own.server_id), value: json(own), lease: Some(lease) };
    registry.commit(Txn { compares: Vec::new(), operations: vec![put] }).await?;
    Ok(lease)
}

/// The registry's own name; whoever comes first gives it one.
async fn identity(registry: &dyn Registry) -> Result<String, RegistryError> {
    let key = key::REGISTRY.to_owned();
    let value = Ulid::generate().to_string().into();
    let name = Operation::Put { key: key.clone(), value, lease: None };
    registry.commit(Txn { compares: vec![Compare::Absent { key }], operations: vec![name] }).await?;
    let entry = registry.get(key::REGISTRY).await?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).unwrap_or_default())
}
