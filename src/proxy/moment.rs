//! Points in time in eight bytes, for what is kept thousands of times.
//!
//! Owns no clock: time arrives as an argument.

use std::time::{Duration, Instant};

/// Nanoseconds since the [`Start`]. They last for centuries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// So much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(duration)))
    }
}

/// What moments are counted from.
#[derive(Clone, Copy, Debug)]
pub struct Start(pub Instant);

impl Start {
    /// `at`, as a moment. What was before the start is taken for it.
    pub fn moment(self, at: Instant) -> Moment {
        Moment(nanoseconds(at.saturating_duration_since(self.0)))
    }

    /// What [`Self::moment`] was given.
    pub fn instant(self, Moment(nanoseconds): Moment) -> Instant {
        self.0 + Duration::from_nanos(nanoseconds)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_and_back() {
        let start = Instant::now();
        let at = start + Duration::new(7 * 24 * 3600, 1);
        let moment = Start(start).moment(at);
        assert_eq!(Start(start).instant(moment), at);
        assert_eq!(Start(start).moment(start).plus(at - start), moment);
        assert_eq!(Start(at).instant(Start(at).moment(start)), at, "before the start");
    }
}
