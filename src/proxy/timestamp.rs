//! Points in time in eight bytes: cheap to compare, to add to, and to store in large numbers.
//!
//! Owns no clock: time arrives as an argument. [`crate::net::shared`] reads the clock.

use std::{ops::Add, time::Duration};

/// Nanoseconds since a start that the whole process shares, which is the default. They last for centuries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start: no point in time is earlier.
    pub const MIN: Self = Self(0);
    /// Later than any other point in time.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the time since `earlier`; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the nanoseconds since the start.
    pub fn nanoseconds(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let seconds = duration.as_secs().saturating_mul(1_000_000_000);
        Self(self.0.saturating_add(seconds.saturating_add(duration.subsec_nanos().into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_exact_and_does_not_wrap() {
        let (start, week) = (Timestamp::default(), Duration::new(7 * 24 * 3600, 1));
        let at = start + week;
        assert_eq!((at.since(start), start.since(at)), (week, Duration::ZERO));
        assert!(start < at);
        assert_eq!(at + Duration::MAX, start + Duration::MAX);
    }
}
