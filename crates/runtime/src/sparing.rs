//! Saying the same thing at most once in a while: what repeats is counted in metrics, not told each time.

use std::time::Duration;

use tokio::time::Instant;

/// Allows one telling per period, beginning with the first.
#[derive(Clone, Debug)]
pub struct Sparing {
    every: Duration,
    told: Option<Instant>,
}

impl Sparing {
    pub fn new(every: Duration) -> Self {
        Self { every, told: None }
    }

    /// Whether it may be told now. A yes counts as told.
    pub fn may_tell(&mut self) -> bool {
        let may = self.told.is_none_or(|told| told.elapsed() >= self.every);
        if may {
            self.told = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_and_then_one_in_each_period() {
        let mut sparing = Sparing::new(Duration::from_secs(60));
        assert_eq!([sparing.may_tell(), sparing.may_tell()], [true, false]);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!sparing.may_tell());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([sparing.may_tell(), sparing.may_tell()], [true, false]);
    }
}
