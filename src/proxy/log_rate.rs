//! Limits how often failures of one kind are logged, so that many failures do not flood the log. All are counted on
//! `/metrics`.

use std::{mem, net::SocketAddr, time::Duration};

use super::{
    outcome::{OUTCOMES, Outcome},
    timestamp::Timestamp,
};

/// Each worker logs at most one line for each outcome and pod in this time, and [`LINES_MAX`] for each outcome.
const INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of lines for one outcome in an interval: many pods may fail in the same way.
const LINES_MAX: u32 = 8;
/// Maximum number of remembered combinations of outcome and pod.
const PODS_MAX: usize = 64;

/// The number of lines that were suppressed since the last line was logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suppressed {
    /// Lines about the same pod with the same outcome.
    pub lines: u64,
    /// Lines about other pods with the same outcome.
    pub other_pods: u64,
}

/// When failures were last logged, and how many lines were suppressed since.
#[derive(Debug, Default)]
pub struct LogRate {
    outcomes: Vec<OfOutcome>,
    pods: Vec<OfPod>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfOutcome {
    since: Option<Timestamp>,
    lines: u32,
    suppressed: u64,
}

#[derive(Clone, Copy, Debug)]
struct OfPod {
    outcome: Outcome,
    pod: Option<SocketAddr>,
    last: Timestamp,
    suppressed: u64,
}

impl LogRate {
    /// Returns `None` if `outcome` of this pod must not be logged at `now`; otherwise how many lines were suppressed
    /// since the last one.
    pub fn admit(&mut self, outcome: Outcome, pod: Option<SocketAddr>, now: Timestamp) -> Option<Suppressed> {
        let known = self.pods.iter_mut().find(|known| (known.outcome, known.pod) == (outcome, pod));
        if let Some(known) = known
            && now < known.last + INTERVAL
        {
            known.suppressed += 1;
            return None;
        }
        self.outcomes.resize(OUTCOMES, OfOutcome::default());
        let of_outcome = &mut self.outcomes[outcome as usize];
        if of_outcome.since.is_none_or(|since| now >= since + INTERVAL) {
            (of_outcome.since, of_outcome.lines) = (Some(now), 0);
        }
        if of_outcome.lines == LINES_MAX {
            of_outcome.suppressed += 1;
            return None;
        }
        of_outcome.lines += 1;
        let other_pods = mem::take(&mut of_outcome.suppressed);
        let lines = mem::take(&mut self.remember(outcome, pod, now).suppressed);
        Some(Suppressed { lines, other_pods })
    }

    /// Returns the entry of an outcome and a pod, logged now. If there are too many, it replaces the oldest.
    fn remember(&mut self, outcome: Outcome, pod: Option<SocketAddr>, now: Timestamp) -> &mut OfPod {
        let new = OfPod { outcome, pod, last: now, suppressed: 0 };
        let at = self.pods.iter().position(|known| (known.outcome, known.pod) == (outcome, pod));
        let at = at.unwrap_or_else(|| {
            if self.pods.len() < PODS_MAX {
                self.pods.push(new);
                return self.pods.len() - 1;
            }
            let ages = self.pods.iter().enumerate().map(|(at, known)| (known.last, at));
            let (_, at) = ages.min().unwrap_or((now, 0));
            let old = mem::replace(&mut self.pods[at], new);
            self.outcomes[old.outcome as usize].suppressed += old.suppressed;
            at
        });
        self.pods[at].last = now;
        &mut self.pods[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Timestamp {
        Timestamp::default()
    }

    fn pod(number: u8) -> Option<SocketAddr> {
        Some(SocketAddr::from(([10, 0, 0, number], 80)))
    }

    fn suppressed(lines: u64, other_pods: u64) -> Option<Suppressed> {
        Some(Suppressed { lines, other_pods })
    }

    #[test]
    fn one_line_an_outcome_a_pod_and_an_interval() {
        let mut rate = LogRate::default();
        let end = start() + INTERVAL;
        for (outcome, pod, at, expected) in [
            (Outcome::NoResponse, pod(1), start(), suppressed(0, 0)),
            (Outcome::NoResponse, pod(1), start(), None),
            (Outcome::NoResponse, pod(2), start(), suppressed(0, 0)),
            (Outcome::ConnectionRefused, pod(1), start(), suppressed(0, 0)),
            (Outcome::NotFound, None, start(), suppressed(0, 0)),
            (Outcome::NotFound, None, start(), None),
            (Outcome::NoResponse, pod(1), start() + INTERVAL / 2, None),
            (Outcome::NoResponse, pod(1), end, suppressed(2, 0)),
            (Outcome::NoResponse, pod(1), end, None),
            (Outcome::NotFound, None, end, suppressed(1, 0)),
        ] {
            assert_eq!(rate.admit(outcome, pod, at), expected, "{outcome:?} of {pod:?} at {at:?}");
        }
    }

    #[test]
    fn an_outcome_of_many_pods_has_few_lines() {
        let mut rate = LogRate::default();
        let admitted =
            (0..100).filter(|&at| rate.admit(Outcome::NoResponse, pod(at), start()).is_some()).count();
        assert_eq!(admitted, LINES_MAX as usize);
        assert_eq!(
            rate.admit(Outcome::ConnectTimeout, pod(0), start()),
            suppressed(0, 0),
            "others have their own"
        );
        let next = rate.admit(Outcome::NoResponse, pod(200), start() + INTERVAL);
        assert_eq!(next, suppressed(0, 100 - u64::from(LINES_MAX)));
    }

    #[test]
    fn what_is_no_longer_remembered_is_still_counted() {
        let mut rate = LogRate::default();
        assert_eq!(rate.admit(Outcome::NoResponse, pod(0), start()), suppressed(0, 0));
        assert_eq!(rate.admit(Outcome::NoResponse, pod(0), start()), None);
        let mut now = start();
        for at in 1..=u8::try_from(PODS_MAX).expect("few") {
            now = now + INTERVAL;
            assert_eq!(rate.admit(Outcome::NoResponse, pod(at), now), suppressed(0, 0), "{at}");
        }
        assert_eq!(rate.pods.len(), PODS_MAX);
        assert_eq!(rate.admit(Outcome::NoResponse, pod(99), now + INTERVAL), suppressed(0, 1));
    }
}
