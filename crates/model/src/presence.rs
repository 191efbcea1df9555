//! Who is alive, and why not: evidence in, verdict with cause out.
//!
//! Time is monotonic (a `Duration` since any fixed instant of the caller's), so wall-clock steps change nothing. The
//! server that holds an agent's session keeps one [`Tracker`] for it; the leading monitor uses [`ServerLoss`] for agents
//! whose server is gone.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limit;

/// What is said of an agent. Whether it collects is another matter, see [`Collection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Presence {
    Online,
    Late,
    Offline,
    Shutdown,
    Restarting,
    Duplicate,
    NeverSeen,
}

impl Presence {
    /// The word in records, JSON and terminals. Public: add freely, rename never.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Online => "ONLINE",
            Self::Late => "LATE",
            Self::Offline => "OFFLINE",
            Self::Shutdown => "SHUTDOWN",
            Self::Restarting => "RESTARTING",
            Self::Duplicate => "DUPLICATE",
            Self::NeverSeen => "NEVER_SEEN",
        }
    }
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// The cause behind a [`Presence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The session is open and heard from.
    Connected,
    /// The session is open and nothing comes.
    Silence,
    /// The stream ended without a goodbye.
    ConnectionLost,
    /// The server that held the session is gone.
    ServerLost,
    /// It said goodbye.
    Goodbye,
    /// It said that it restarts.
    Restart,
    /// It said that it restarts, and did not come back.
    RestartOverdue,
    /// Two live sessions claim this id.
    TwoSessions,
    /// It has config, or is awaited, and never connected.
    NeverConnected,
    /// A heartbeat key written by something else than our servers.
    ForeignKey,
    /// That foreign heartbeat key is gone.
    ForeignKeyGone,
}

impl Reason {
    /// A few words for a person.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Silence => "connected, but silent",
            Self::ConnectionLost => "connection lost",
            Self::ServerLost => "its server is gone",
            Self::Goodbye => "shut down in order",
            Self::Restart => "restarting",
            Self::RestartOverdue => "did not come back from its restart",
            Self::TwoSessions => "two live agents use this id",
            Self::NeverConnected => "never connected",
            Self::ForeignKey => "heartbeat key of another agent program",
            Self::ForeignKeyGone => "heartbeat key of another agent program expired",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

/// Whether an agent collects. STOP pauses it, START resumes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Collection {
    #[default]
    Collecting,
    Paused,
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Collecting => "COLLECTING",
            Self::Paused => "PAUSED",
        })
    }
}

/// A presence and its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Verdict {
    pub status: Presence,
    pub reason: Reason,
}

impl Verdict {
    pub const fn new(status: Presence, reason: Reason) -> Self {
        Self { status, reason }
    }
}

/// When silence becomes LATE and OFFLINE; all follow from one timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { timeout: limit::PRESENCE_TIMEOUT_DEFAULT }
    }
}

impl Timing {
    /// `None` outside 1 s to 1 h: below, a busy machine's scheduling would be called death.
    pub fn new(timeout: Duration) -> Option<Self> {
        (limit::PRESENCE_TIMEOUT_MIN..=limit::PRESENCE_TIMEOUT_MAX)
            .contains(&timeout)
            .then_some(Self { timeout })
    }

    pub fn timeout(self) -> Duration {
        self.timeout
    }

    /// How often an agent sends a heartbeat: a tenth of the timeout, within 100 ms to 1 s.
    pub fn heartbeat(self) -> Duration {
        (self.timeout / 10).clamp(limit::HEARTBEAT_MIN, limit::HEARTBEAT_MAX)
    }

    pub fn late_after(self) -> Duration {
        self.timeout / 2
    }

    /// Timeout + one heartbeat + half a second on the way: an agent that pauses for less than the timeout is never called
    /// OFFLINE.
    pub fn offline_after(self) -> Duration {
        self.timeout + self.heartbeat() + Duration::from_millis(500)
    }
}

/// How the stream to the agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Open,
    Lost,
    Left { restarting: bool, at: Duration },
}

/// What one server knows of one agent it holds, or held.
#[derive(Clone, Debug)]
pub struct Tracker {
    timing: Timing,
    link: Link,
    last_heard: Duration,
    duplicate_until: Option<Duration>,
}

impl Tracker {
    /// A session was opened at `now`.
    pub fn opened(timing: Timing, now: Duration) -> Self {
        Self { timing, link: Link::Open, last_heard: now, duplicate_until: None }
    }

    /// Anything came from the agent. Evidence may arrive late or twice; it never moves the clock back.
    pub fn heard(&mut self, now: Duration) {
        self.last_heard = self.last_heard.max(now);
    }

    /// A new session of the same agent replaced the old one.
    pub fn reopened(&mut self, now: Duration) {
        self.link = Link::Open;
        self.heard(now);
    }

    /// The stream ended without a goodbye. After a goodbye this is no news.
    pub fn lost(&mut self) {
        if self.link == Link::Open {
            self.link = Link::Lost;
        }
    }

    pub fn said_goodbye(&mut self, restarting: bool, now: Duration) {
        self.link = Link::Left { restarting, at: now };
    }

    /// The agent's rhythm was learnt, or the kind of evidence has changed.
    pub fn retimed(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Another live session claimed the id; the mark stays until `until`.
    pub fn claimed_twice(&mut self, until: Duration) {
        self.duplicate_until = Some(until);
    }

    /// When the last evidence came.
    pub fn last_heard(&self) -> Duration {
        self.last_heard
    }

    pub fn is_open(&self) -> bool {
        self.link == Link::Open
    }

    pub fn verdict(&self, now: Duration) -> Verdict {
        let silence = now.saturating_sub(self.last_heard);
        match self.link {
            Link::Left { restarting: false, .. } => Verdict::new(Presence::Shutdown, Reason::Goodbye),
            Link::Left { restarting: true, at } => {
                if now.saturating_sub(at) < self.timing.offline_after() {
                    Verdict::new(Presence::Restarting, Reason::Restart)
                } else {
                    Verdict::new(Presence::Offline, Reason::RestartOverdue)
                }
            }
            Link::Lost if silence >= self.timing.timeout() => {
                Verdict::new(Presence::Offline, Reason::ConnectionLost)
            }
            Link::Open if silence >= self.timing.offline_after() => {
                Verdict::new(Presence::Offline, Reason::Silence)
            }
            Link::Open | Link::Lost if self.duplicate_until.is_some_and(|until| now < until) => {
                Verdict::new(Presence::Duplicate, Reason::TwoSessions)
            }
            Link::Lost => Verdict::new(Presence::Late, Reason::ConnectionLost),
            Link::Open if silence >= self.timing.late_after() => {
                Verdict::new(Presence::Late, Reason::Silence)
            }
            Link::Open => Verdict::new(Presence::Online, Reason::Connected),
        }
    }

    /// The next instant after `now` at which the verdict may change by itself; `None` when only evidence changes it.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let candidates = match self.link {
            Link::Left { restarting: false, .. } => [None, None, None],
            Link::Left { restarting: true, at } => [Some(at + self.timing.offline_after()), None, None],
            Link::Lost => [Some(self.last_heard + self.timing.timeout()), self.duplicate_until, None],
            Link::Open => [
                Some(self.last_heard + self.timing.late_after()),
                Some(self.last_heard + self.timing.offline_after()),
                self.duplicate_until,
            ],
        };
        candidates.into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// How long agents of a vanished server are given to come back: their fault it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLoss {
    /// When the loss was seen.
    pub since: Duration,
    pub grace: Duration,
}

impl ServerLoss {
    pub fn verdict(self, now: Duration) -> Verdict {
        if now.saturating_sub(self.since) < self.grace {
            Verdict::new(Presence::Late, Reason::ServerLost)
        } else {
            Verdict::new(Presence::Offline, Reason::ServerLost)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_000);

    fn tracker() -> Tracker {
        Tracker::opened(Timing::default(), START)
    }

    fn after(tracker: &Tracker, ms: u64) -> (Presence, Reason) {
        let verdict = tracker.verdict(START + Duration::from_millis(ms));
        (verdict.status, verdict.reason)
    }

    #[test]
    fn silence_is_late_at_half_the_timeout_and_offline_after_it() {
        let silent = tracker();
        assert_eq!(after(&silent, 4_999), (Presence::Online, Reason::Connected));
        assert_eq!(after(&silent, 5_000), (Presence::Late, Reason::Silence));
        assert_eq!(after(&silent, 11_499), (Presence::Late, Reason::Silence));
        assert_eq!(after(&silent, 11_500), (Presence::Offline, Reason::Silence));
    }

    #[test]
    fn a_lost_connection_is_late_at_once_and_offline_at_the_timeout() {
        let mut lost = tracker();
        lost.lost();
        assert_eq!(after(&lost, 0), (Presence::Late, Reason::ConnectionLost));
        assert_eq!(after(&lost, 10_000), (Presence::Offline, Reason::ConnectionLost));
    }

    #[test]
    fn an_agent_that_comes_back_in_time_was_never_offline() {
        let mut flapping = tracker();
        flapping.lost();
        flapping.reopened(START + Duration::from_secs(9));
        assert_eq!(after(&flapping, 9_000), (Presence::Online, Reason::Connected));
        assert_eq!(after(&flapping, 13_000), (Presence::Online, Reason::Connected));
    }

    #[test]
    fn a_goodbye_is_not_a_death_and_the_closing_stream_is_no_news() {
        let mut gone = tracker();
        gone.said_goodbye(false, START);
        gone.lost();
        assert_eq!(after(&gone, 86_400_000), (Presence::Shutdown, Reason::Goodbye));
    }

    #[test]
    fn a_restart_that_never_ends_is_told() {
        let mut restarting = tracker();
        restarting.said_goodbye(true, START);
        restarting.lost();
        assert_eq!(after(&restarting, 11_499), (Presence::Restarting, Reason::Restart));
        assert_eq!(after(&restarting, 11_500), (Presence::Offline, Reason::RestartOverdue));
    }

    #[test]
    fn a_duplicate_is_shown_while_the_mark_holds_but_death_goes_first() {
        let mut doubled = tracker();
        doubled.claimed_twice(START + Duration::from_secs(60));
        assert_eq!(after(&doubled, 1_000), (Presence::Duplicate, Reason::TwoSessions));
        assert_eq!(after(&doubled, 12_000), (Presence::Offline, Reason::Silence));
        doubled.heard(START + Duration::from_secs(60));
        assert_eq!(after(&doubled, 60_000), (Presence::Online, Reason::Connected));
    }

    #[test]
    fn the_heartbeat_follows_the_timeout_within_its_bounds() {
        let heartbeat = |s| Timing::new(Duration::from_secs(s)).map(Timing::heartbeat);
        assert_eq!(heartbeat(1), Some(Duration::from_millis(100)));
        assert_eq!(heartbeat(5), Some(Duration::from_millis(500)));
        assert_eq!(heartbeat(60), Some(Duration::from_secs(1)));
        assert_eq!(heartbeat(0), None);
    }

    #[test]
    fn agents_of_a_lost_server_have_its_grace() {
        let loss = ServerLoss { since: START, grace: Duration::from_secs(60) };
        let at = |s| loss.verdict(START + Duration::from_secs(s)).status;
        assert_eq!((at(59), at(60)), (Presence::Late, Presence::Offline));
    }

    proptest! {
        #[test]
        fn an_agent_heard_within_its_timeout_is_never_offline(
            timeout_ms in 1_000u64..100_000,
            gaps in proptest::collection::vec(0.0f64..1.0, 1..50),
        ) {
            let timing = Timing::new(Duration::from_millis(timeout_ms)).unwrap();
            let mut tracker = Tracker::opened(timing, START);
            let mut now = START;
            for gap in gaps {
                now += timing.timeout().mul_f64(gap);
                prop_assert_ne!(tracker.verdict(now).status, Presence::Offline);
                tracker.heard(now);
            }
        }

        #[test]
        fn the_verdict_only_changes_where_next_change_said(
            lost in any::<bool>(), goodbye in any::<bool>(), doubled_ms in 0u64..90_000, step_ms in 1u64..40_000,
        ) {
            let mut tracker = tracker();
            tracker.claimed_twice(START + Duration::from_millis(doubled_ms));
            if goodbye { tracker.said_goodbye(true, START); }
            if lost { tracker.lost(); }
            let later = START + Duration::from_millis(step_ms);
            if tracker.next_change(START).is_none_or(|at| later < at) {
                prop_assert_eq!(tracker.verdict(START), tracker.verdict(later));
            }
        }
    }
}
