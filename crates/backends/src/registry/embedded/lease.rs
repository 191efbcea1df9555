//! When leases end. In memory and by monotonic time: the file only knows that a lease exists and how long it lives, so a
//! restart gives each one full time to live.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::registry::LeaseId;

#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: Mutex<BTreeMap<LeaseId, Lease>>,
    /// A lease was granted: it may end before all others.
    granted: Notify,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    /// `None` once it has ended and its keys are about to be deleted: nothing brings it back.
    until: Option<Instant>,
}

impl Leases {
    pub(super) fn add(&self, id: LeaseId, ttl: Duration, now: Instant) {
        // A time to live past the end of time is as good as thirty years.
        let until = now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(1_000_000_000));
        self.lock().insert(id, Lease { ttl, until: Some(until) });
        self.granted.notify_one();
    }

    /// Restarts the time of `id`; `false` when it has ended.
    pub(super) fn keep_alive(&self, id: LeaseId, now: Instant) -> bool {
        let mut leases = self.lock();
        let Some(lease) = leases.get_mut(&id).filter(|lease| lease.lives(now)) else { return false };
        lease.until = now.checked_add(lease.ttl).or(lease.until);
        true
    }

    pub(super) fn is_alive(&self, id: LeaseId, now: Instant) -> bool {
        self.lock().get(&id).is_some_and(|lease| lease.lives(now))
    }

    /// From here on `id` is not alive.
    pub(super) fn end(&self, id: LeaseId) {
        if let Some(lease) = self.lock().get_mut(&id) {
            lease.until = None;
        }
    }

    /// Like [`Leases::end`], unless it was kept alive meanwhile.
    pub(super) fn end_if_due(&self, id: LeaseId, now: Instant) -> bool {
        let mut leases = self.lock();
        let Some(lease) = leases.get_mut(&id).filter(|lease| !lease.lives(now)) else { return false };
        lease.until = None;
        true
    }

    /// Its keys are deleted.
    pub(super) fn forget(&self, id: LeaseId) {
        self.lock().remove(&id);
    }

    /// Waits until a lease is due and returns all that are.
    ///
    /// Cancel safe: yes, it changes nothing.
    pub(super) async fn due(&self) -> Vec<LeaseId> {
        loop {
            let now = Instant::now();
            let due = self.due_at(now);
            if !due.is_empty() {
                return due;
            }
            let next = self.lock().values().filter_map(|lease| lease.until).min();
            let first_end = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = first_end => {}
                () = self.granted.notified() => {}
            }
        }
    }

    pub(super) fn due_at(&self, now: Instant) -> Vec<LeaseId> {
        self.lock().iter().filter(|(_, lease)| !lease.lives(now)).map(|(id, _)| *id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Lease>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    fn lives(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}
