//! Which monitor leads: whoever created the leader key, on its own lease.
//!
//! A leader that cannot renew its lease for as long as the lease lasts stops leading by its own clock, before another can
//! begin. A process that was stopped in between notices late; so whoever writes asks [`Leadership`] first, and what goes to
//! the registry compares the leader key in the same transaction.

use std::sync::Arc;
use std::time::Duration;

use backends::lease::Lease;
use backends::registry::{Compare, LeaseId, Operation, Registry, RegistryError, Txn};
use model::id::Revision;
use proto::key::{self, LeaderEntry};
use runtime::Clock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A standby takes over this long after a leader died, at most.
const LEASE: Duration = Duration::from_secs(6);
/// A leader stops this long before its lease may be over.
const MARGIN: Duration = Duration::from_secs(1);

/// A stretch of leading: the revision that wrote the leader key. Whoever leads later has a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Term(pub(crate) Revision);

/// One candidate of one role's election.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) role: &'static str,
    pub(crate) id: String,
    pub(crate) clock: Clock,
}

/// How an election stands for one candidate. Clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    registry: Arc<dyn Registry>,
    key: String,
    /// The term, and until when it lasts by our own clock.
    leads: watch::Receiver<Option<(Term, Instant)>>,
}

impl Leadership {
    /// The term that this monitor leads in now.
    pub(crate) fn term(&self) -> Option<Term> {
        self.leads.borrow().filter(|(_, until)| Instant::now() < *until).map(|(term, _)| term)
    }

    /// Waits for the beginning or the end of a term. Cancel safe: yes.
    pub(crate) async fn changed(&mut self) {
        if self.leads.changed().await.is_err() {
            std::future::pending::<()>().await; // The election ends with its monitor.
        }
    }

    /// What must hold for a write of `term` to the registry.
    pub(crate) fn fence(&self, term: Term) -> Compare {
        Compare::Modified { key: self.key.clone(), revision: term.0 }
    }

    /// Whether `term` still lasts, by the registry and then by our own clock: to be asked right before what cannot be
    /// compared, a publish.
    pub(crate) async fn confirms(&self, term: Term) -> Result<bool, RegistryError> {
        let entry = self.registry.get(&self.key).await?;
        Ok(entry.is_some_and(|entry| entry.modified == term.0) && self.term() == Some(term))
    }
}

impl Candidate {
    /// What the candidate will tell in [`Self::run`].
    pub(crate) fn leadership(&self) -> (watch::Sender<Option<(Term, Instant)>>, Leadership) {
        let (tell, leads) = watch::channel(None);
        (tell, Leadership { registry: Arc::clone(&self.registry), key: key::leader(self.role), leads })
    }

    /// Runs until `stop`. Gives the leadership back when it ends.
    pub(crate) async fn run(self, leads: watch::Sender<Option<(Term, Instant)>>, stop: CancellationToken) {
        let mut lease = Lease::new(Arc::clone(&self.registry), LEASE);
        let mut beats = tokio::time::interval(lease.beat());
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut troubled = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = beats.tick() => {}
            }
            match self.campaign(&mut lease).await {
                Ok(term) => {
                    troubled = false;
                    self.tell(&leads, term.map(|term| (term, lease.lasts_until() - MARGIN)));
                }
                Err(error) if !std::mem::replace(&mut troubled, true) => {
                    tracing::warn!(%error, role = self.role, "the election has no answer");
                }
                Err(_) => {}
            }
            if leads.borrow().is_some_and(|(_, until)| Instant::now() >= until) {
                self.tell(&leads, None);
            }
        }
        self.tell(&leads, None);
        lease.give_back().await;
    }

    /// A renewal is no news to those who wait for a change.
    fn tell(&self, leads: &watch::Sender<Option<(Term, Instant)>>, now: Option<(Term, Instant)>) {
        let changed = leads.send_if_modified(|before| {
            let term = |leads: &Option<(Term, Instant)>| leads.map(|(term, _)| term);
            term(&std::mem::replace(before, now)) != term(before)
        });
        if changed {
            tracing::info!(role = self.role, id = %self.id, leads = now.is_some(), "leadership changed");
        }
    }

    /// Renews the lease and tries for the key; the term while it is ours.
    async fn campaign(&self, lease: &mut Lease) -> Result<Option<Term>, RegistryError> {
        let held = lease.renew().await?;
        let key = key::leader(self.role);
        let Some(entry) = lease.within(self.registry.get(&key)).await? else {
            return lease.within(self.claim(&key, Compare::Absent { key: key.clone() }, held)).await;
        };
        if entry.lease == Some(held) {
            return Ok(Some(Term(entry.modified)));
        }
        // Our own id on another lease: most likely the run before this one, which died. Should it live, it finds out before
        // it writes.
        let mine =
            serde_json::from_slice::<LeaderEntry>(&entry.value).is_ok_and(|leader| leader.id == self.id);
        match mine {
            true => {
                let unchanged = Compare::Modified { key: key.clone(), revision: entry.modified };
                lease.within(self.claim(&key, unchanged, held)).await
            }
            false => Ok(None),
        }
    }

    async fn claim(
        &self,
        key: &str,
        compare: Compare,
        lease: LeaseId,
    ) -> Result<Option<Term>, RegistryError> {
        let value = LeaderEntry { id: self.id.clone(), since: self.clock.wall() };
        let value = serde_json::to_vec(&value).unwrap_or_default().into();
        let put = Operation::Put { key: key.to_owned(), value, lease: Some(lease) };
        let claimed = self.registry.commit(Txn { compares: vec![compare], operations: vec![put] }).await?;
        Ok(claimed.succeeded.then_some(Term(claimed.revision)))
    }
}
