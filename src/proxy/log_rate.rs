//! Limits how often failures of one kind are logged, so that many failures do not flood the log. All are counted on
//! `/metrics`.

use std::time::Duration;

use super::{
    outcome::{OUTCOMES, Outcome},
    timestamp::Timestamp,
};

/// Each worker logs at most one line for each outcome in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// For each outcome, when it was last logged and how many lines were suppressed since.
#[derive(Debug)]
pub struct LogRate([(Option<Timestamp>, u64); OUTCOMES]);

impl Default for LogRate {
    fn default() -> Self {
        Self([(None, 0); OUTCOMES])
    }
}

impl LogRate {
    /// Returns `None` if `outcome` must not be logged at `now`; otherwise the number of lines suppressed since the last
    /// one.
    pub fn admit(&mut self, outcome: Outcome, now: Timestamp) -> Option<u64> {
        let (last, suppressed) = &mut self.0[outcome as usize];
        if last.is_some_and(|last| now < last + INTERVAL) {
            *suppressed += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_outcome_and_interval() {
        let start = Timestamp::default();
        let mut rate = LogRate::default();
        assert_eq!(rate.admit(Outcome::NoAnswer, start), Some(0));
        assert_eq!(rate.admit(Outcome::NoAnswer, start), None);
        assert_eq!(rate.admit(Outcome::ConnectionRefused, start), Some(0));
        assert_eq!(rate.admit(Outcome::NoAnswer, start + INTERVAL / 2), None);
        assert_eq!(rate.admit(Outcome::NoAnswer, start + INTERVAL), Some(2));
        assert_eq!(rate.admit(Outcome::NoAnswer, start + INTERVAL), None);
    }
}
