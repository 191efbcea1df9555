//! The difference of two readings of one kernel counter, and the two ways it can go down.

/// Counters of old drivers and 32-bit kernels have 32 bits.
const WRAP: u64 = 1 << 32;
/// A counter wraps only from the last sixteenth of its range, and only by less than a sixteenth. Anything else that goes
/// down began anew: a driver was loaded again, a device came back.
const WRAP_NEAR: u64 = WRAP / 16;

/// How far a counter went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Forward(u64),
    /// It began anew; how far it went is not known.
    Reset,
}

/// From `before` to `now`.
pub(super) fn step(before: u64, now: u64) -> Step {
    if let Some(forward) = now.checked_sub(before) {
        return Step::Forward(forward);
    }
    match WRAP.checked_sub(before) {
        Some(rest @ 1..) if rest + now < WRAP_NEAR => Step::Forward(rest + now),
        _ => Step::Reset,
    }
}

/// Adds to a total that does not exist before its first part.
pub(super) fn add(total: &mut Option<u64>, part: u64) {
    *total = Some(total.unwrap_or(0).saturating_add(part));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_that_grows_goes_forward() {
        assert_eq!(step(10, 15), Step::Forward(5));
        assert_eq!(step(u64::MAX, u64::MAX), Step::Forward(0));
    }

    #[test]
    fn a_counter_near_the_end_of_32_bits_wraps() {
        assert_eq!(step(WRAP - 100, 50), Step::Forward(150));
        assert_eq!(step(WRAP - 1, 0), Step::Forward(1));
    }

    #[test]
    fn a_counter_that_goes_down_from_elsewhere_was_reset() {
        assert_eq!(step(1_000, 5), Step::Reset);
        assert_eq!(step(WRAP + 5, 5), Step::Reset);
        assert_eq!(step(WRAP - 2 * WRAP_NEAR, 5), Step::Reset);
        assert_eq!(step(u64::MAX, 5), Step::Reset);
    }

    #[test]
    fn a_fall_from_near_the_end_into_the_middle_was_a_reset() {
        assert_eq!(step(WRAP - 100, WRAP / 2), Step::Reset);
    }

    proptest! {
        #[test]
        fn no_pair_gives_more_than_the_larger_value_or_a_sixteenth(before: u64, now: u64) {
            if let Step::Forward(forward) = step(before, now) {
                prop_assert!(forward <= now.max(WRAP_NEAR));
            }
        }
    }
}
