//! When something was read, and how much time lies between two readings.
//!
//! Rates divide by what the monotonic clock measured, never by the configured interval and never by wall time: a wall
//! clock that steps changes nothing here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::limit::SUSPENSION_MIN;
use model::sample::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// One instant on three clocks. Collectors are told it, so that recorded files give the same answer every time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// To show and to store; nothing is computed from it.
    pub wall: Timestamp,
    /// CLOCK_MONOTONIC: stands still while the machine is suspended.
    pub monotonic: Duration,
    /// CLOCK_BOOTTIME: goes on while the machine is suspended.
    pub boottime: Duration,
}

/// What lies between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// This much running time.
    Ran(Duration),
    /// The machine slept for about this long, so counters of both sides do not belong together.
    Suspended(Duration),
    /// No time at all, or the moments are in the wrong order.
    Nothing,
}

impl Moment {
    /// Reads the three clocks.
    pub fn now() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self {
            wall: Timestamp::from_unix_ms(i64::try_from(wall).unwrap_or(i64::MAX)),
            monotonic: read(ClockId::Monotonic),
            boottime: read(ClockId::Boottime),
        }
    }

    /// What lies between `earlier` and this moment.
    pub fn since(&self, earlier: &Self) -> Span {
        let ran = self.monotonic.saturating_sub(earlier.monotonic);
        let slept = self.boottime.saturating_sub(earlier.boottime).saturating_sub(ran);
        if slept > SUSPENSION_MIN {
            Span::Suspended(slept)
        } else if ran.is_zero() {
            Span::Nothing
        } else {
            Span::Ran(ran)
        }
    }
}

fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// The last value of a counter set, and when it was read.
#[derive(Debug)]
pub(super) struct Previous<T>(Option<(Moment, T)>);

impl<T> Default for Previous<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Previous<T> {
    /// Keeps `now` and compares it with what it replaces. `None`, so no rate, for the first value, after a suspension,
    /// and where no time has passed.
    pub(super) fn step<R>(
        &mut self,
        moment: &Moment,
        now: T,
        compare: impl FnOnce(&T, &T, Duration) -> R,
    ) -> Option<R> {
        let before = self.0.take();
        let (_, now) = self.0.insert((*moment, now));
        let (at, before) = before?;
        match moment.since(&at) {
            Span::Ran(elapsed) => Some(compare(&before, now, elapsed)),
            Span::Suspended(_) | Span::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic: u64, boottime: u64) -> Moment {
        Moment {
            wall: Timestamp::default(),
            monotonic: Duration::from_millis(monotonic),
            boottime: Duration::from_millis(boottime),
        }
    }

    fn rate(previous: &mut Previous<u64>, moment: Moment, value: u64) -> Option<f64> {
        previous.step(&moment, value, |before, now, elapsed| (now - before) as f64 / elapsed.as_secs_f64())
    }

    #[test]
    fn a_rate_divides_by_the_time_that_really_passed() {
        let mut previous = Previous::default();
        assert_eq!(rate(&mut previous, at(0, 0), 100), None);
        assert_eq!(rate(&mut previous, at(2_500, 2_500), 200), Some(40.0));
    }

    #[test]
    fn a_wall_clock_that_steps_changes_no_rate() {
        let mut previous = Previous::default();
        let tomorrow = Moment { wall: Timestamp::from_unix_seconds(86_400), ..at(0, 0) };
        assert_eq!(rate(&mut previous, tomorrow, 100), None);
        assert_eq!(rate(&mut previous, at(1_000, 1_000), 200), Some(100.0));
    }

    #[test]
    fn a_suspension_leaves_no_rate_and_the_next_one_is_right_again() {
        let mut previous = Previous::default();
        rate(&mut previous, at(0, 0), 100);
        assert_eq!(at(1_000, 61_000).since(&at(0, 0)), Span::Suspended(Duration::from_secs(60)));
        assert_eq!(rate(&mut previous, at(1_000, 61_000), 200), None);
        assert_eq!(rate(&mut previous, at(2_000, 62_000), 250), Some(50.0));
    }

    #[test]
    fn clocks_read_a_moment_apart_are_no_suspension() {
        assert_eq!(at(1_000, 3_000).since(&at(0, 0)), Span::Ran(Duration::from_secs(1)));
        assert_eq!(at(1_000, 3_001).since(&at(0, 0)), Span::Suspended(Duration::from_millis(2_001)));
    }

    #[test]
    fn two_readings_at_one_moment_have_no_rate() {
        let mut previous = Previous::default();
        rate(&mut previous, at(5, 5), 100);
        assert_eq!(rate(&mut previous, at(5, 5), 200), None);
    }

    #[test]
    fn the_clocks_of_this_machine_go_forward() {
        let (earlier, later) = (Moment::now(), Moment::now());
        assert!(later.monotonic >= earlier.monotonic && later.boottime >= earlier.boottime);
        assert!(later.boottime >= later.monotonic.saturating_sub(Duration::from_millis(1)));
    }
}
