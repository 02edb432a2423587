//! Limits how often failures of one kind are logged, so that many failures do not flood the log. All are counted on
//! `/metrics`.
//!
//! A logged line reports how many lines of its kind were suppressed before it. If no such line follows, a line of its
//! own reports them ([`LogRate::take_due`]).

use std::{mem, net::SocketAddr, time::Duration};

use super::{
    outcome::{OUTCOMES, Outcome},
    timestamp::Timestamp,
    tls_fault::TlsFault,
};

/// Each worker logs at most one line for each subject and pod in this time, and [`LINES_MAX`] for each subject.
const INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of lines for one subject in an interval: many pods may fail in the same way.
const LINES_MAX: u32 = 8;
/// Maximum number of remembered combinations of subject and pod.
const PODS_MAX: usize = 64;
/// How long after a logged line the lines suppressed since get a line of their own. Longer than [`INTERVAL`], so that
/// failures that go on at least as often are reported by their next line only.
const REPORTED_AFTER: Duration = Duration::from_secs(20);

/// The number of lines that were suppressed since the last line was logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suppressed {
    /// Lines about the same pod with the same outcome.
    pub lines: u64,
    /// Lines about other pods with the same outcome.
    pub other_pods: u64,
}

/// Suppressed lines that no later line reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreported {
    /// Their subject.
    pub subject: Subject,
    /// Their pod. `None`: they have none, or they are about several pods.
    pub pod: Option<SocketAddr>,
    /// How many they are.
    pub suppressed: Suppressed,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A failure of an exchange, or with the effect of one.
    Outcome(Outcome),
    /// A client whose connection was closed because of its address.
    RefusedClient,
    /// A client with which TLS failed for this reason.
    Tls(TlsFault),
}

impl Subject {
    fn index(self) -> usize {
        match self {
            Self::Outcome(outcome) => outcome as usize,
            Self::RefusedClient => OUTCOMES,
            Self::Tls(fault) => OUTCOMES + 1 + fault as usize,
        }
    }
}

const SUBJECTS: usize = OUTCOMES + 1 + TlsFault::ALL.len();

impl From<Outcome> for Subject {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(outcome)
    }
}

/// When failures were last logged, and how many lines were suppressed since.
#[derive(Debug, Default)]
pub struct LogRate {
    subjects: Vec<OfSubject>,
    pods: Vec<OfPod>,
    /// When suppressed lines may be due to be reported, at the earliest. `None`: none are suppressed.
    next_due: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfSubject {
    since: Option<Timestamp>,
    lines: u32,
    suppressed: u64,
}

#[derive(Clone, Copy, Debug)]
struct OfPod {
    subject: Subject,
    pod: Option<SocketAddr>,
    last: Timestamp,
    suppressed: u64,
}

impl LogRate {
    /// Returns `None` if a line about `subject` and this pod must not be logged at `now`; otherwise how many lines were
    /// suppressed since the last one.
    pub fn admit(
        &mut self,
        subject: impl Into<Subject>,
        pod: Option<SocketAddr>,
        now: Timestamp,
    ) -> Option<Suppressed> {
        let subject = subject.into();
        let known = self.pods.iter_mut().find(|known| (known.subject, known.pod) == (subject, pod));
        if let Some(known) = known
            && now < known.last + INTERVAL
        {
            known.suppressed += 1;
            self.next_due = earlier(self.next_due, known.last + REPORTED_AFTER);
            return None;
        }
        self.subjects.resize(SUBJECTS, OfSubject::default());
        let of_subject = &mut self.subjects[subject.index()];
        if of_subject.since.is_none_or(|since| now >= since + INTERVAL) {
            (of_subject.since, of_subject.lines) = (Some(now), 0);
        }
        if of_subject.lines == LINES_MAX {
            of_subject.suppressed += 1;
            self.next_due = earlier(self.next_due, of_subject.since.unwrap_or(now) + REPORTED_AFTER);
            return None;
        }
        of_subject.lines += 1;
        let other_pods = mem::take(&mut of_subject.suppressed);
        let lines = mem::take(&mut self.remember(subject, pod, now).suppressed);
        Some(Suppressed { lines, other_pods })
    }

    /// Returns when [`Self::take_due`] may next have something to take.
    #[inline]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.next_due
    }

    /// Takes the suppressed lines that no line reported in time. [`Timestamp::MAX`] takes all. In an interval these are
    /// at most as many as were logged before, and one for each subject's other pods.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<Unreported> {
        let mut next = None;
        let mut take = |logged: Timestamp, suppressed: &mut u64| {
            let at = logged + REPORTED_AFTER;
            if *suppressed > 0 && now < at {
                next = earlier(next, at);
                return 0;
            }
            mem::take(suppressed)
        };
        let mut due = Vec::new();
        for OfPod { subject, pod, last, suppressed } in &mut self.pods {
            let suppressed = Suppressed { lines: take(*last, suppressed), other_pods: 0 };
            due.push(Unreported { subject: *subject, pod: *pod, suppressed });
        }
        let subjects = Outcome::ALL.iter().map(|&outcome| Subject::Outcome(outcome));
        let subjects = subjects
            .chain([Subject::RefusedClient])
            .chain(TlsFault::ALL.iter().map(|&fault| Subject::Tls(fault)));
        for (subject, OfSubject { since, suppressed, .. }) in subjects.zip(&mut self.subjects) {
            let Some(since) = *since else { continue };
            let suppressed = Suppressed { lines: 0, other_pods: take(since, suppressed) };
            due.push(Unreported { subject, pod: None, suppressed });
        }
        due.retain(|unreported| unreported.suppressed != Suppressed::default());
        self.next_due = next;
        due
    }

    /// Returns the entry of a subject and a pod, logged now. If there are too many, it replaces the oldest.
    fn remember(&mut self, subject: Subject, pod: Option<SocketAddr>, now: Timestamp) -> &mut OfPod {
        let new = OfPod { subject, pod, last: now, suppressed: 0 };
        let at = self.pods.iter().position(|known| (known.subject, known.pod) == (subject, pod));
        let at = at.unwrap_or_else(|| {
            if self.pods.len() < PODS_MAX {
                self.pods.push(new);
                return self.pods.len() - 1;
            }
            let ages = self.pods.iter().enumerate().map(|(at, known)| (known.last, at));
            let (_, at) = ages.min().unwrap_or((now, 0));
            let old = mem::replace(&mut self.pods[at], new);
            self.subjects[old.subject.index()].suppressed += old.suppressed;
            at
        });
        self.pods[at].last = now;
        &mut self.pods[at]
    }
}

fn earlier(one: Option<Timestamp>, other: Timestamp) -> Option<Timestamp> {
    Some(one.map_or(other, |one| one.min(other)))
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
    fn refused_clients_and_each_reason_of_tls_have_lines_of_their_own() {
        let mut rate = LogRate::default();
        for (subject, at, expected) in [
            (Subject::RefusedClient, start(), suppressed(0, 0)),
            (Subject::RefusedClient, start(), None),
            (Outcome::NotFound.into(), start(), suppressed(0, 0)),
            (Subject::RefusedClient, start() + INTERVAL, suppressed(1, 0)),
            (Subject::Tls(TlsFault::Expired), start() + INTERVAL, suppressed(0, 0)),
            (Subject::Tls(TlsFault::Expired), start() + INTERVAL, None),
            (Subject::Tls(TlsFault::Closed), start() + INTERVAL, suppressed(0, 0)),
        ] {
            assert_eq!(rate.admit(subject, None, at), expected, "{subject:?} at {at:?}");
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

    fn unreported(outcome: Outcome, pod: Option<SocketAddr>, (lines, other_pods): (u64, u64)) -> Unreported {
        Unreported { subject: outcome.into(), pod, suppressed: Suppressed { lines, other_pods } }
    }

    #[test]
    fn what_no_later_line_reports_is_due_once() {
        let mut rate = LogRate::default();
        let due = start() + REPORTED_AFTER;
        assert_eq!(rate.next_due(), None);
        rate.admit(Outcome::NoResponse, pod(1), start());
        rate.admit(Outcome::NoResponse, pod(2), start());
        assert_eq!(rate.next_due(), None, "all were logged");
        rate.admit(Outcome::NoResponse, pod(1), start());
        rate.admit(Outcome::NoResponse, pod(1), start() + INTERVAL / 2);
        assert_eq!(rate.next_due(), Some(due));
        assert_eq!(rate.take_due(start() + INTERVAL), []);
        assert_eq!(rate.next_due(), Some(due));
        assert_eq!(rate.take_due(due), [unreported(Outcome::NoResponse, pod(1), (2, 0))]);
        assert_eq!((rate.take_due(due), rate.next_due()), (vec![], None));
        assert_eq!(rate.admit(Outcome::NoResponse, pod(1), due), suppressed(0, 0), "it was reported");
    }

    #[test]
    fn failures_that_go_on_are_reported_by_their_next_line_only() {
        let mut rate = LogRate::default();
        let mut logged = 0;
        for second in 0..1000 {
            let now = start() + Duration::from_secs(second);
            assert_eq!(rate.take_due(now), [], "{second}");
            logged += rate.admit(Outcome::NoResponse, pod(1), now).map_or(0, |since| since.lines + 1);
        }
        assert_eq!(logged, 991);
        assert_eq!(rate.take_due(Timestamp::MAX), [unreported(Outcome::NoResponse, pod(1), (9, 0))]);
    }

    #[test]
    fn nothing_is_unreported_at_the_end_and_a_flood_has_few_lines() {
        let mut rate = LogRate::default();
        let (mut logged, mut lines) = (0, 0);
        let floods = 10;
        for flood in 0..floods {
            let now = start() + INTERVAL * flood;
            for at in 0..=u8::MAX {
                for outcome in [Outcome::NoResponse, Outcome::NotFound, Outcome::NoResponse] {
                    let admitted = rate.admit(outcome, pod(at), now);
                    logged += admitted.map_or(0, |since| since.lines + since.other_pods + 1);
                    lines += u32::from(admitted.is_some());
                }
            }
            lines += rate.take_due(now).len() as u32;
        }
        let rest = rate.take_due(Timestamp::MAX);
        lines += rest.len() as u32;
        let rest = rest.iter().map(|it| it.suppressed.lines + it.suppressed.other_pods);
        assert_eq!(logged + rest.sum::<u64>(), u64::from(floods) * 256 * 3);
        assert!(lines <= (floods + 1) * 2 * (2 * LINES_MAX + 1), "{lines}");
        assert_eq!(rate.next_due(), None);
    }
}
