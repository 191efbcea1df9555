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
/// A session that held this long was a good one: the next failure begins with short delays.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) servers: Vec<Server>,
    pub(crate) surroundings: Surroundings,
    pub(crate) health: Component,
    /// The server of the session, if there is one.
    pub(crate) connected: watch::Sender<Option<String>>,
}

impl Uplink {
    /// Ends after a goodbye, or, without a session, when one would be due.
    pub(crate) async fn run(mut self) {
        let mut farewell = self.surroundings.farewell.clone();
        let connected = self.connected.subscribe();
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let ended = tokio::select! {
                ended = self.round(&mut backoff) => ended,
                () = stopping_without_session(&mut farewell, &connected) => return,
            };
            let Err((server, error)) = ended else { return };
            let delay = delay(&error, self.servers.len(), backoff.next_delay());
            tracing::warn!(server, error = %error, retry_in = ?delay, "no session with a server");
            self.health.degraded(format!("{server}: {error}"));
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = farewell.wait_for(Option::is_some) => return,
            }
        }
    }

    /// Tries every server once, in random order, until one welcomes us; then stays. `Ok` after a goodbye.
    async fn round(&mut self, backoff: &mut Backoff) -> Result<(), (String, SessionError)> {
        self.servers.shuffle(&mut rand::rng());
        let mut last = None;
        for server in &self.servers {
            let error = match Session::open(server, self.surroundings.clone()).await {
                Ok(session) => match self.serve(server, session, backoff).await {
                    Ok(()) => return Ok(()),
                    Err(error) => return Err((server.name.clone(), error)),
                },
                Err(error) => error,
            };
            tracing::debug!(server = server.name, %error, "a server does not take us");
            last = Some((server.name.clone(), error));
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

/// How long to wait. A server that asks for patience gets it; one that is merely stopping is not waited for while there
/// are others.
fn delay(error: &SessionError, servers: usize, jitter: Duration) -> Duration {
    match error {
        SessionError::Left { draining, retry_after: Some(after), .. } if !draining || servers == 1 => {
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
    use super::*;

    #[test]
    fn a_server_is_given_the_time_it_asks_for() {
        let minute = Duration::from_secs(60);
        let left = |draining, retry_after| SessionError::Left {
            reason: "",
            message: String::new(),
            draining,
            retry_after,
        };
        let jitter = Duration::from_millis(300);
        assert_eq!(delay(&left(false, Some(minute)), 3, jitter), minute + jitter);
        assert_eq!(delay(&left(true, Some(minute)), 1, jitter), minute + jitter);
        assert_eq!(delay(&left(true, Some(minute)), 2, jitter), jitter);
        assert_eq!(delay(&left(false, None), 1, jitter), jitter);
        assert_eq!(delay(&SessionError::Ended, 1, jitter), jitter);
        let eternity = Some(Duration::from_secs(u64::MAX));
        assert_eq!(delay(&left(false, eternity), 1, jitter), limit::DUPLICATE_RETRY_MAX + jitter);
    }
}
