//! Deadlines of sessions, in their order.
//!
//! A session has several timers, each updated lazily: if a deadline moves away, its entry stays in the heap, and the
//! owner is checked again when the entry is taken: when it is due, or before. Owns no clock: time arrives as an
//! argument.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::timestamp::Timestamp;

/// The heap is swept when it exceeds its expected length by a quarter and by this many entries.
const STALE_MAX: usize = 64;

/// The timers of a session, each with its own deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The deadline of its exchange.
    Exchange,
    /// The wait for a place.
    Place,
    /// The wait for a first request during shutdown.
    Silence,
}

impl Timer {
    const COUNT: usize = 3;
}

/// The time of a timer's newest entry: never later than its owner's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimerSlot(Timestamp);

impl TimerSlot {
    const UNARMED: Self = Self(Timestamp::MAX);
}

/// The timers of one session.
#[derive(Clone, Copy, Debug)]
pub struct SessionTimers([TimerSlot; Timer::COUNT]);

impl Default for SessionTimers {
    fn default() -> Self {
        Self([TimerSlot::UNARMED; Timer::COUNT])
    }
}

impl SessionTimers {
    /// Returns whether the entry for this time is the timer's newest, and disarms the timer if it is.
    pub fn fire(&mut self, timer: Timer, at: Timestamp) -> bool {
        let slot = &mut self.0[timer as usize];
        let newest = *slot == TimerSlot(at);
        if newest {
            *slot = TimerSlot::UNARMED;
        }
        newest
    }

    fn is_newest(&self, timer: Timer, at: Timestamp) -> bool {
        self.0[timer as usize] == TimerSlot(at)
    }
}

/// The timers of all owners, each identified by a `K`.
#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<(Timestamp, K, Timer)>>,
    /// The number of entries after the last sweep.
    swept_len: usize,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), swept_len: 0 }
    }
}

impl<K: Copy + Ord> Timers<K> {
    /// Arms this timer of `owner` to come due at `at` or before.
    pub fn arm(&mut self, owner: K, timer: Timer, armed: &mut SessionTimers, at: Timestamp) {
        let slot = &mut armed.0[timer as usize];
        if at < slot.0 {
            *slot = TimerSlot(at);
            self.push(owner, timer, at);
        }
    }

    /// Once in the binary, and not in every place that arms a timer: 1.3 KB.
    #[inline(never)]
    fn push(&mut self, owner: K, timer: Timer, at: Timestamp) {
        self.heap.push(Reverse((at, owner, timer)));
    }

    /// Takes the next entry if it passes a test: its owner, its timer, and its time.
    pub fn pop_if(
        &mut self,
        test: impl FnOnce(K, Timer, Timestamp) -> bool,
    ) -> Option<(K, Timer, Timestamp)> {
        let &Reverse((at, owner, timer)) = self.heap.peek()?;
        test(owner, timer, at).then(|| self.heap.pop())?;
        Some((owner, timer, at))
    }

    /// Returns when the next entry is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Limits the heap: removes all entries but the newest of each timer, once there are a quarter more than expected.
    /// The expected number is that of the last sweep, but at least one and at most all timers for each of `owners`.
    pub fn sweep(&mut self, owners: usize, timers: impl Fn(K) -> Option<SessionTimers>) {
        let expected = self.swept_len.clamp(owners, owners * Timer::COUNT);
        if self.heap.len() > expected + expected / 4 + STALE_MAX {
            let is_newest = |at, owner, timer| timers(owner).is_some_and(|armed| armed.is_newest(timer, at));
            self.heap.retain(|Reverse((at, owner, timer))| is_newest(*at, *owner, *timer));
            self.swept_len = self.heap.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pop_due<K: Copy + Ord>(timers: &mut Timers<K>, now: Timestamp) -> Option<(K, Timer, Timestamp)> {
        timers.pop_if(|_, _, at| at <= now)
    }

    #[test]
    fn a_later_deadline_adds_no_entry() {
        let start = Timestamp::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        let mut armed = SessionTimers::default();
        for seconds in [10, 11, 12] {
            timers.arm('a', Timer::Exchange, &mut armed, at(seconds));
        }
        assert_eq!((timers.heap.len(), timers.next()), (1, Some(at(10))));
        assert_eq!(pop_due(&mut timers, at(9)), None);
        assert_eq!(pop_due(&mut timers, at(10)), Some(('a', Timer::Exchange, at(10))));
        assert!(armed.fire(Timer::Exchange, at(10)), "the owner now arms itself again");
        timers.arm('a', Timer::Exchange, &mut armed, at(12));
        assert_eq!(timers.next(), Some(at(12)));
    }

    #[test]
    fn an_earlier_deadline_adds_an_entry_and_leaves_a_stale_one() {
        let start = Timestamp::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        let (mut a, mut b) = (SessionTimers::default(), SessionTimers::default());
        timers.arm('a', Timer::Exchange, &mut a, at(10));
        timers.arm('b', Timer::Exchange, &mut b, at(7));
        timers.arm('a', Timer::Exchange, &mut a, at(5));
        assert_eq!(pop_due(&mut timers, at(20)), Some(('a', Timer::Exchange, at(5))));
        assert!(a.fire(Timer::Exchange, at(5)));
        assert_eq!(pop_due(&mut timers, at(20)), Some(('b', Timer::Exchange, at(7))));
        assert_eq!(pop_due(&mut timers, at(20)), Some(('a', Timer::Exchange, at(10))));
        assert!(!a.fire(Timer::Exchange, at(10)), "a stale entry fired");
        assert_eq!((pop_due(&mut timers, at(20)), timers.next()), (None, None));
    }

    #[test]
    fn the_heap_is_limited_by_the_number_of_owners() {
        let start = Timestamp::default();
        let mut timers = Timers::default();
        let mut armed = SessionTimers::default();
        for closer in 0..100_000u64 {
            timers.arm('a', Timer::Exchange, &mut armed, start + Duration::from_secs(200_000 - closer));
            timers.sweep(1, |_| Some(armed));
            assert!(timers.heap.len() <= 2 + STALE_MAX, "after {closer}");
        }
        assert_eq!(timers.next(), Some(start + Duration::from_secs(100_001)));
    }

    #[test]
    fn timers_of_one_owner_fire_independently() {
        let start = Timestamp::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        let mut armed = SessionTimers::default();
        timers.arm('a', Timer::Exchange, &mut armed, at(10));
        timers.arm('a', Timer::Place, &mut armed, at(3));
        timers.arm('a', Timer::Silence, &mut armed, at(5));
        timers.arm('a', Timer::Place, &mut armed, at(4)); // no entry: the owner arms it when the earlier one is due
        for (timer, seconds) in [(Timer::Place, 3), (Timer::Silence, 5), (Timer::Exchange, 10)] {
            assert_eq!(pop_due(&mut timers, at(20)), Some(('a', timer, at(seconds))));
            assert!(
                armed.fire(timer, at(seconds)) && !armed.fire(timer, at(seconds)),
                "{timer:?} fires once"
            );
        }
        assert_eq!(pop_due(&mut timers, at(20)), None);
    }

    #[test]
    fn entries_in_use_are_swept_only_once() {
        let start = Timestamp::default();
        let mut timers = Timers::default();
        let mut armed = [SessionTimers::default(); 1000];
        for (owner, armed) in armed.iter_mut().enumerate() {
            for (timer, seconds) in [(Timer::Exchange, 1), (Timer::Place, 2), (Timer::Silence, 3)] {
                timers.arm(owner, timer, armed, start + Duration::from_secs(seconds));
            }
        }
        let checks = std::cell::Cell::new(0);
        for _ in 0..10 {
            timers.sweep(armed.len(), |owner| {
                checks.set(checks.get() + 1);
                Some(armed[owner])
            });
        }
        assert_eq!((timers.heap.len(), checks.get()), (3000, 3000), "the heap was swept more than once");
    }

    #[test]
    fn entries_of_removed_owners_are_swept() {
        let start = Timestamp::default();
        let mut timers = Timers::default();
        let mut armed = [SessionTimers::default(); 1000];
        for (owner, armed) in armed.iter_mut().enumerate() {
            timers.arm(owner, Timer::Exchange, armed, start + Duration::from_secs(1));
        }
        timers.sweep(10, |owner| Some(armed[owner]));
        assert_eq!(timers.heap.len(), 1000);
        timers.sweep(10, |owner| armed.get(owner).copied().filter(|_| owner < 10));
        assert_eq!(timers.heap.len(), 10);
    }
}
