//! The two clocks: monotonic for every duration and deadline, wall for what people read.
//!
//! Monotonic time is tokio's, so that tests pause and advance it. It is told to the model as a `Duration` since this
//! clock started.

use std::time::{Duration, SystemTime};

use model::sample::Timestamp;
use tokio::time::Instant;

/// A copyable clock; all copies share one origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Monotonic time counts from here, plus one day: instants before the start can be expressed.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Never goes back, does not count suspend.
    pub fn monotonic(&self) -> Duration {
        DAY + self.origin.elapsed()
    }

    /// The tokio instant of a monotonic time, to sleep until it.
    pub fn instant(&self, at: Duration) -> Instant {
        self.origin + at.saturating_sub(DAY)
    }

    pub fn wall(&self) -> Timestamp {
        wall()
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// The wall clock. A time before 1970 reads as 1970.
pub fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
