//! Keeps a session alive: which server, when to try again.

use std::time::Duration;

use model::limit;
use rand::seq::SliceRandom;
use runtime::{Backoff, Component};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::session::{Session, SessionError, Surroundings};
use crate::settings::Server;

const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A session that held this long was a good one: the next failure begins with short delays. Shorter ones, one after the
/// other, are a server that takes agents in and fails.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) servers: Vec<Server>,
    pub(crate) surroundings: Surroundings,
    pub(crate) health: Component,
    /// The server of the session, if there is one.
    pub(crate) connected: watch::Sender<Option<String>>,
    /// Streams tried so far. Servers tell by it which of two is the newer.
    pub(crate) connections: u64,
}

/// A round over all servers that ended without a goodbye.
#[derive(Debug)]
struct NoSession {
    server: String,
    error: SessionError,
    /// Nobody took us, as opposed to a session that was and is no more.
    everywhere: bool,
}

impl Uplink {
    /// Ends after a goodbye, or, without a session, when one would be due.
    pub(crate) async fn run(mut self) {
        let mut farewell = self.surroundings.farewell.clone();
        let connected = self.connected.subscribe();
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        self.servers.shuffle(&mut rand::rng());
        loop {
            let ended = tokio::select! {
                ended = self.round(&mut backoff) => ended,
                () = stopping_without_session(&mut farewell, &connected) => return,
            };
            let Err(ended) = ended else { return };
            let delay = delay(&ended, self.servers.len(), backoff.next_delay());
            let NoSession { server, error, .. } = ended;
            tracing::warn!(server, error = %error, retry_in = ?delay, "no session with a server");
            self.health.degraded(format!("{server}: {error}"));
            // In another order, and the one that let go of us last: its host may be gone, which takes time to find out.
            self.servers.shuffle(&mut rand::rng());
            self.servers.sort_by_key(|one| one.name == server);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = farewell.wait_for(Option::is_some) => return,
            }
        }
    }

    /// Tries every server once until one welcomes us; then stays. `Ok` after a goodbye.
    async fn round(&mut self, backoff: &mut Backoff) -> Result<(), NoSession> {
        let mut last = None;
        for server in &self.servers {
            self.connections += 1;
            let name = || server.name.clone();
            let error = match Session::open(server, self.surroundings.clone(), self.connections).await {
                Ok(session) => match self.serve(server, session, backoff).await {
                    Ok(()) => return Ok(()),
                    Err(error) => return Err(NoSession { server: name(), error, everywhere: false }),
                },
                Err(error) => error,
            };
            tracing::debug!(server = server.name, %error, "a server does not take us");
            let ours = error.is_about_us();
            last = Some(NoSession { server: name(), error, everywhere: true });
            if ours {
                break;
            }
        }
        Err(last.expect("at least one server is given"))
    }

    async fn serve(
        &self,
        server: &Server,
        session: Session,
        backoff: &mut Backoff,
    ) -> Result<(), SessionError> {
        tracing::info!(server = server.name, server_id = session.server_id(), "session begun");
        let metrics = &self.surroundings.metrics;
        metrics.sessions.inc();
        metrics.connected.set(1);
        self.health.ok();
        self.connected.send_replace(Some(server.name.clone()));
        let began = Instant::now();
        let ended = session.run().await;
        metrics.connected.set(0);
        self.connected.send_replace(None);
        if began.elapsed() >= HEALTHY_AFTER {
            backoff.reset();
        }
        ended
    }
}

/// How long to wait. A server that asks for patience gets it, unless it speaks for itself only and there are others to try.
fn delay(ended: &NoSession, servers: usize, jitter: Duration) -> Duration {
    match &ended.error {
        SessionError::Left { retry_after: Some(after), .. }
            if ended.error.is_about_us() || ended.everywhere || servers == 1 =>
        {
            (*after).min(limit::DUPLICATE_RETRY_MAX) + jitter
        }
        _ => jitter,
    }
}

/// The agent ends while there is no session to say goodbye on.
async fn stopping_without_session(
    farewell: &mut watch::Receiver<Option<proto::wire::goodbye::Reason>>,
    connected: &watch::Receiver<Option<String>>,
) {
    // The sender's end means the same.
    farewell.wait_for(Option::is_some).await.ok();
    let has_session = connected.borrow().is_some();
    if has_session {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use proto::wire::leave::Reason;

    use super::*;

    fn left(reason: Reason, everywhere: bool, retry_after: Option<Duration>) -> NoSession {
        let error = SessionError::Left { reason, message: String::new(), retry_after };
        NoSession { server: String::new(), error, everywhere }
    }

    #[test]
    fn a_server_is_given_the_time_it_asks_for_unless_another_may_take_us() {
        let minute = Duration::from_secs(60);
        let jitter = Duration::from_millis(300);
        let (alone, refused) = (1, true);
        for reason in [Reason::Draining, Reason::Overloaded] {
            assert_eq!(delay(&left(reason, false, Some(minute)), alone, jitter), minute + jitter);
            assert_eq!(delay(&left(reason, false, Some(minute)), 2, jitter), jitter);
            assert_eq!(delay(&left(reason, refused, Some(minute)), 2, jitter), minute + jitter);
        }
        assert_eq!(delay(&left(Reason::Superseded, false, Some(minute)), 2, jitter), minute + jitter);
        assert_eq!(delay(&left(Reason::Superseded, false, None), 2, jitter), jitter);
        let eternity = Some(Duration::from_secs(u64::MAX));
        let longest = limit::DUPLICATE_RETRY_MAX + jitter;
        assert_eq!(delay(&left(Reason::Superseded, false, eternity), 1, jitter), longest);
    }
}
