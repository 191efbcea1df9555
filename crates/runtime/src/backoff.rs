//! Exponential backoff with full jitter: each delay is uniform in zero to the current ceiling, which doubles.
//!
//! Full jitter spreads a fleet that lost its server at one instant over the whole window (Brooker, "Exponential Backoff
//! And Jitter", AWS Architecture Blog, 2015).

use std::time::Duration;

use rand::RngExt;

/// The delays between tries.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    current: Duration,
}

impl Backoff {
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, current: first }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.current.mul_f64(rand::rng().random_range(0.0..=1.0));
        self.current = (self.current * 2).min(self.ceiling);
        delay
    }

    /// Things went well for a while.
    pub fn reset(&mut self) {
        self.current = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_below_a_ceiling_that_doubles_up_to_its_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4));
        for ceiling in [1, 2, 4, 4, 4] {
            assert!(backoff.next_delay() <= Duration::from_secs(ceiling));
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }

    #[test]
    fn delays_differ_so_that_a_fleet_does_not_return_at_one_instant() {
        let delay = || Backoff::new(Duration::from_secs(1_000), Duration::from_secs(1_000)).next_delay();
        let delays: std::collections::BTreeSet<_> = std::iter::repeat_with(delay).take(20).collect();
        assert!(delays.len() > 10);
    }
}
