//! When the next tick is due. Deadlines are added up, so ticks do not drift; those that were missed are not made up for.

use std::time::Duration;

/// Times are monotonic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    /// `None` before the first tick.
    last: Option<Duration>,
    next: Duration,
}

impl Schedule {
    /// The first tick is due at `first`.
    pub(crate) fn new(interval: Duration, first: Duration) -> Self {
        Self { interval, last: None, next: first }
    }

    pub(crate) fn next(&self) -> Duration {
        self.next
    }

    /// A tick happens at `now`. The next keeps the rhythm, and passes over what is past already.
    pub(crate) fn advance(&mut self, now: Duration) {
        self.last = Some(self.next);
        self.next += self.interval;
        if self.next <= now {
            let behind = (now - self.next).as_nanos() % self.interval.as_nanos().max(1);
            let behind = Duration::from_nanos(u64::try_from(behind).unwrap_or(0));
            self.next = now + self.interval - behind;
        }
    }

    /// Another interval, counted from the last tick: at once if that is past already. The first tick may come sooner for it,
    /// never later.
    pub(crate) fn change(&mut self, interval: Duration, now: Duration) {
        if interval != self.interval {
            self.next = match self.last {
                Some(last) => (last + interval).max(now),
                None => self.next.min(now + interval),
            };
            self.interval = interval;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_late_tick_does_not_shift_the_next() {
        let mut schedule = Schedule::new(5 * SECOND, 10 * SECOND);
        schedule.advance(12 * SECOND);
        assert_eq!(schedule.next(), 15 * SECOND);
    }

    #[test]
    fn missed_ticks_are_skipped_and_the_rhythm_is_kept() {
        let mut schedule = Schedule::new(5 * SECOND, 10 * SECOND);
        schedule.advance(1_001 * SECOND);
        assert_eq!(schedule.next(), 1_005 * SECOND);
        schedule.advance(1_005 * SECOND);
        assert_eq!(schedule.next(), 1_010 * SECOND);
    }

    #[test]
    fn a_shorter_interval_does_not_wait_for_the_end_of_an_hour() {
        let mut schedule = Schedule::new(3_600 * SECOND, 10 * SECOND);
        schedule.advance(10 * SECOND);
        schedule.change(5 * SECOND, 100 * SECOND);
        assert_eq!(schedule.next(), 100 * SECOND);
        schedule.advance(100 * SECOND);
        assert_eq!(schedule.next(), 105 * SECOND);
    }

    #[test]
    fn a_shorter_interval_brings_the_first_tick_forward() {
        let mut schedule = Schedule::new(5 * SECOND, 11 * SECOND);
        schedule.change(SECOND / 2, 10 * SECOND);
        assert_eq!(schedule.next(), 10 * SECOND + SECOND / 2);
    }

    #[test]
    fn a_longer_interval_does_not_put_off_the_first_tick() {
        let mut schedule = Schedule::new(5 * SECOND, 10 * SECOND);
        schedule.change(3_600 * SECOND, 9 * SECOND);
        assert_eq!(schedule.next(), 10 * SECOND);
        schedule.advance(10 * SECOND);
        assert_eq!(schedule.next(), 3_610 * SECOND);
    }

    proptest! {
        #[test]
        fn the_next_tick_is_ahead_by_at_most_an_interval(
            interval in 100u64..10_000, late in 0u64..100_000, first in 0u64..1_000,
        ) {
            let [interval, late, first] = [interval, late, first].map(Duration::from_millis);
            let mut schedule = Schedule::new(interval, first);
            schedule.advance(first + late);
            prop_assert!(schedule.next() > first + late);
            prop_assert!(schedule.next() <= first + late + interval);
            prop_assert_eq!((schedule.next() - first).as_nanos() % interval.as_nanos(), 0);
        }
    }
}
