//! This server's lease in the registry: kept alive as long as the server runs, taken anew when it was lost.

use std::sync::Arc;
use std::time::Duration;

use backends::lease::Lease;
use backends::registry::{Compare, LeaseId, Operation, Registry, RegistryError, Txn};
use model::limit::SERVER_LEASE;
use proto::key::{self, ServerEntry};
use runtime::{Backoff, Component};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::hub::Hub;
use crate::inventory::json;

/// What the lease's keeper is given.
pub(crate) struct Holding {
    pub(crate) hub: Arc<Hub>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) own: ServerEntry,
    /// The lease as it stands, for those who write under it.
    pub(crate) lease: watch::Sender<Option<LeaseId>>,
    pub(crate) health: Component,
    /// Cancelled when another process has taken this server's id.
    pub(crate) replaced: CancellationToken,
}

/// How the server's key stands after a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ours(LeaseId),
    /// A server with our id started after us.
    Replaced,
}

impl Holding {
    /// Holds the lease and the server's key until `stop`, then gives both back: the heartbeat keys on it end with it, and
    /// the leading monitor gives the agents time to move.
    pub(crate) async fn hold(self, stop: CancellationToken) {
        let mut lease = Lease::new(Arc::clone(&self.registry), SERVER_LEASE);
        let mut backoff = Backoff::new(Duration::from_millis(100), SERVER_LEASE / 4);
        let mut troubled = false;
        loop {
            let wait = match self.beat(&mut lease).await {
                Ok(Standing::Ours(held)) => {
                    if std::mem::take(&mut troubled) {
                        tracing::info!("the server's lease is renewed again");
                    }
                    self.health.ok();
                    backoff.reset();
                    self.holds(held);
                    lease.beat()
                }
                Ok(Standing::Replaced) => {
                    self.replaced.cancel();
                    break;
                }
                Err(error) => {
                    if !std::mem::replace(&mut troubled, true) {
                        tracing::warn!(%error, "the server's lease cannot be renewed");
                    }
                    self.health.degraded(format!("the server's lease cannot be renewed: {error}"));
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        stop.cancelled().await;
        lease.give_back().await;
    }

    fn holds(&self, held: LeaseId) {
        let before = self.lease.send_replace(Some(held));
        if before != Some(held) {
            if before.is_some() {
                tracing::warn!("the server's lease had expired; registered anew");
            }
            self.hub.lease_changed();
        }
    }

    async fn beat(&self, lease: &mut Lease) -> Result<Standing, RegistryError> {
        let held = lease.renew().await?;
        let key = key::server(&self.own.server_id);
        let known = *self.lease.borrow();
        if known != Some(held) {
            // A lease is also lost with its registry: another may stand in its place.
            self.hub.registry_known(lease.within(identity(&*self.registry)).await?);
        }
        let standing = lease.within(self.registry.get(&key)).await?;
        let fence = match standing {
            Some(entry) if entry.value == json(&self.own) && entry.lease == Some(held) => {
                return Ok(Standing::Ours(held));
            }
            // At its start a server takes the place of the run before it; later nobody else has a right to its id.
            Some(entry) if known.is_some() && entry.value != json(&self.own) => {
                return Ok(Standing::Replaced);
            }
            Some(entry) => Compare::Modified { key: key.clone(), revision: entry.modified },
            None => Compare::Absent { key: key.clone() },
        };
        let put = Operation::Put { key, value: json(&self.own), lease: Some(held) };
        let written = self.registry.commit(Txn { compares: vec![fence], operations: vec![put] });
        match lease.within(written).await?.succeeded {
            true => Ok(Standing::Ours(held)),
            false => {
                Err(RegistryError::Unavailable { reason: "the server's key changed meanwhile".to_owned() })
            }
        }
    }
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
