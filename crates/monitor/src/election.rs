//! Which monitor leads: whoever created the leader key, on its own lease.
//!
//! A leader that cannot renew its lease for as long as the lease lasts stops leading by its own clock, before another can
//! begin: two never lead at once.

use std::sync::Arc;
use std::time::Duration;

use backends::registry::{Compare, LeaseId, Operation, Registry, RegistryError, Txn};
use model::sample::Timestamp;
use proto::key::{self, LeaderEntry};
use runtime::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A standby takes over this long after a leader died, at most.
const LEASE: Duration = Duration::from_secs(6);
const RENEW: Duration = Duration::from_secs(2);

/// One candidate of one role's election.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) role: &'static str,
    pub(crate) id: String,
    pub(crate) clock: Clock,
}

impl Candidate {
    /// Runs until `stop`; `leading` tells the state. Gives the leadership back when it ends.
    pub(crate) async fn run(self, leading: watch::Sender<bool>, stop: CancellationToken) {
        let mut lease = None;
        let mut renewed = self.clock.monotonic();
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let asked = self.clock.monotonic();
            match tokio::time::timeout(RENEW, self.campaign(&mut lease)).await {
                Ok(Ok(leads)) => {
                    renewed = asked;
                    self.tell(&leading, leads);
                }
                Ok(Err(error)) => tracing::debug!(%error, role = self.role, "the election had no answer"),
                Err(_) => tracing::debug!(role = self.role, "the election had no answer in time"),
            }
            if self.clock.monotonic().saturating_sub(renewed) + RENEW >= LEASE {
                self.tell(&leading, false);
            }
        }
        self.tell(&leading, false);
        if let Some(lease) = lease
            && let Err(error) = self.registry.revoke(lease).await
        {
            tracing::debug!(%error, role = self.role, "the leader key is left to expire");
        }
    }

    fn tell(&self, leading: &watch::Sender<bool>, leads: bool) {
        let changed = leading.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            tracing::info!(role = self.role, id = %self.id, leads, "leadership changed");
        }
    }

    /// Renews the lease and tries for the key. `Ok(true)` while it is ours.
    async fn campaign(&self, lease: &mut Option<LeaseId>) -> Result<bool, RegistryError> {
        let held = match *lease {
            Some(held) => match self.registry.keep_alive(held).await {
                Ok(()) => held,
                Err(RegistryError::NoSuchLease(_)) => self.registry.grant(LEASE).await?,
                Err(error) => return Err(error),
            },
            None => self.registry.grant(LEASE).await?,
        };
        *lease = Some(held);
        let key = key::leader(self.role);
        let Some(entry) = self.registry.get(&key).await? else {
            return self.claim(&key, Compare::Absent { key: key.clone() }, held).await;
        };
        if entry.lease == Some(held) {
            return Ok(true);
        }
        // Our own id on an older lease: the run before this one died. No other process can have this id.
        let mine =
            serde_json::from_slice::<LeaderEntry>(&entry.value).is_ok_and(|leader| leader.id == self.id);
        match mine {
            true => {
                self.claim(&key, Compare::Modified { key: key.clone(), revision: entry.modified }, held).await
            }
            false => Ok(false),
        }
    }

    async fn claim(&self, key: &str, compare: Compare, lease: LeaseId) -> Result<bool, RegistryError> {
        let value = LeaderEntry { id: self.id.clone(), since: self.wall() };
        let value = serde_json::to_vec(&value).unwrap_or_default().into();
        let put = Operation::Put { key: key.to_owned(), value, lease: Some(lease) };
        Ok(self.registry.commit(Txn { compares: vec![compare], operations: vec![put] }).await?.succeeded)
    }

    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }
}
