//! A lease in the registry for whoever keeps keys there that end with it: renewed in time, taken anew when it was lost.
//!
//! There is no task in here: the owner calls [`Lease::renew`] every [`Lease::beat`], and does its own writes in between.
//! Every call is bounded by a beat, so that one without an answer leaves time for the next before the lease is over.
//! [`keep_key`] is the whole of it for a role that has one key and nothing else to say.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtime::{Backoff, Component};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::registry::{Compare, LeaseId, Operation, Registry, RegistryError, Txn};

const RETRY_FIRST: Duration = Duration::from_millis(100);

/// One lease, held or still to be taken.
#[derive(Debug)]
pub struct Lease {
    registry: Arc<dyn Registry>,
    ttl: Duration,
    held: Option<LeaseId>,
    renewed: Instant,
}

impl Lease {
    /// Asks for nothing yet.
    pub fn new(registry: Arc<dyn Registry>, ttl: Duration) -> Self {
        Self { registry, ttl, held: None, renewed: Instant::now() }
    }

    /// How often to renew: two renewals may fail before the lease is over.
    pub fn beat(&self) -> Duration {
        self.ttl / 3
    }

    /// Renews the lease, or takes another one when it is gone: the caller then writes its keys again.
    ///
    /// Cancel safe: a lease that was granted and not heard of ends by itself.
    pub async fn renew(&mut self) -> Result<LeaseId, RegistryError> {
        let asked = Instant::now();
        let kept = match self.held {
            Some(held) => match self.within(self.registry.keep_alive(held)).await {
                Ok(()) => Some(held),
                Err(RegistryError::NoSuchLease(_)) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let lease = match kept {
            Some(kept) => kept,
            None => self.within(self.registry.grant(self.ttl)).await?,
        };
        self.held = Some(lease);
        // The registry counts from when it was asked or later, so by this clock the lease never ends too late.
        self.renewed = asked;
        Ok(lease)
    }

    /// By our own clock the lease is held until then at least, whether or not the registry answers.
    pub fn lasts_until(&self) -> Instant {
        self.renewed + self.ttl
    }

    /// A call of the owner's, bounded as the lease's own are.
    pub async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        match timeout(self.beat(), call).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(RegistryError::Unavailable { reason: format!("no answer within {:?}", self.beat()) })
            }
        }
    }

    /// Ends the lease and what hangs on it. One that cannot be given back ends by itself.
    pub async fn give_back(mut self) {
        let Some(held) = self.held.take() else { return };
        if let Err(error) = self.within(self.registry.revoke(held)).await {
            tracing::debug!(%error, "a lease could not be given back; it will expire");
        }
    }
}

/// Keeps `key` on a lease of its own until `stop`, then takes it away. A key that is removed meanwhile is written again; one
/// that somebody else has overwritten is left alone, and `health` says so.
pub async fn keep_key(
    registry: Arc<dyn Registry>,
    ttl: Duration,
    key: String,
    value: Bytes,
    health: Component,
    stop: CancellationToken,
) {
    let mut lease = Lease::new(Arc::clone(&registry), ttl);
    let mut written_on = None;
    let mut backoff = Backoff::new(RETRY_FIRST, lease.beat());
    loop {
        let wait = match keep(&mut lease, &*registry, &key, &value, &mut written_on).await {
            Ok(true) => {
                health.ok();
                backoff.reset();
                lease.beat()
            }
            Ok(false) => {
                health.degraded(format!(
                    "{key} was overwritten: another process has the same id, give it its own"
                ));
                lease.beat()
            }
            Err(error) => {
                health.degraded(format!("{key} cannot be kept: {error}"));
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    lease.give_back().await;
}

/// One beat. `false`: the key is somebody else's.
async fn keep(
    lease: &mut Lease,
    registry: &dyn Registry,
    key: &str,
    value: &Bytes,
    written_on: &mut Option<LeaseId>,
) -> Result<bool, RegistryError> {
    let held = lease.renew().await?;
    let mut compares = Vec::new();
    if *written_on == Some(held) {
        match lease.within(registry.get(key)).await? {
            Some(entry) => return Ok(entry.value == *value),
            None => compares.push(Compare::Absent { key: key.to_owned() }),
        }
    }
    let put = Operation::Put { key: key.to_owned(), value: value.clone(), lease: Some(held) };
    let written = lease.within(registry.commit(Txn { compares, operations: vec![put] })).await?;
    *written_on = Some(held);
    Ok(written.succeeded)
}

#[cfg(test)]
mod tests {
    use runtime::{Health, Scope};

    use super::*;
    use crate::registry::Event;
    use crate::registry::embedded::EmbeddedRegistry;
    use model::id::Revision;

    const TTL: Duration = Duration::from_secs(9);

    fn registry() -> Arc<dyn Registry> {
        Arc::new(EmbeddedRegistry::in_memory(&Default::default()).unwrap())
    }

    /// A role that keeps `/k`, and everything that happens to it.
    async fn keeper(registry: &Arc<dyn Registry>) -> (Scope, Health, crate::registry::Watch) {
        let (scope, health) = (Scope::new("test"), Health::default());
        let watch = registry.watch("/k", Revision(0)).await.unwrap();
        let (key, value) = ("/k".to_owned(), Bytes::from_static(b"ours"));
        let component = health.component("key");
        let registry = Arc::clone(registry);
        scope.spawn("keeper", keep_key(registry, TTL, key, value, component, scope.stopping()));
        (scope, health, watch)
    }

    async fn next_put(watch: &mut crate::registry::Watch) -> crate::registry::Entry {
        loop {
            if let Event::Put(entry) = watch.next().await.unwrap().unwrap() {
                return entry;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_outlives_its_time_to_live_and_goes_when_its_keeper_stops() {
        let registry = registry();
        let (scope, health, mut watch) = keeper(&registry).await;
        let put = next_put(&mut watch).await;
        tokio::time::sleep(3 * TTL).await;
        assert_eq!(registry.get("/k").await.unwrap(), Some(put));
        assert_eq!(health.report().status, "OK");
        scope.stop(TTL).await.unwrap();
        assert_eq!(registry.get("/k").await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_lease_and_a_removed_key_are_made_good() {
        let registry = registry();
        let (scope, _health, mut watch) = keeper(&registry).await;
        let first = next_put(&mut watch).await;
        registry.revoke(first.lease.unwrap()).await.unwrap();
        let second = next_put(&mut watch).await;
        assert_ne!(second.lease, first.lease);
        registry.delete("/k").await.unwrap();
        assert_eq!(next_put(&mut watch).await.lease, second.lease);
        scope.stop(TTL).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_process_wrote_is_left_alone_and_told() {
        let registry = registry();
        let (scope, health, mut watch) = keeper(&registry).await;
        next_put(&mut watch).await;
        registry.put("/k", "theirs").await.unwrap();
        tokio::time::sleep(2 * TTL).await;
        assert_eq!(registry.get("/k").await.unwrap().unwrap().value, "theirs");
        assert_eq!(health.report().status, "DEGRADED");
        scope.stop(TTL).await.unwrap();
        assert_eq!(registry.get("/k").await.unwrap().unwrap().value, "theirs");
    }
}
