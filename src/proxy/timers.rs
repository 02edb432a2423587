//! What is due, and when the next thing will be.
//!
//! One deadline an owner, lazily kept: a deadline that moves away leaves its entry in the heap, and when that
//! comes up the owner is asked again. A connection that scrapes again and again so costs the heap nothing.
//! Owns no clock: time arrives as an argument.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::timestamp::Timestamp;

/// Stale entries that the heap may hold, beyond one for every fourth owner, before they are swept out.
const STALE_MAX: usize = 64;

/// When its owner's newest entry comes up: never later than what the owner waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSlot(Option<Timestamp>);

impl TimerSlot {
    /// Whether the entry that came up at `at` is the newest. If so, it is spent.
    pub fn fire(&mut self, at: Timestamp) -> bool {
        let newest = *self == Self(Some(at));
        if newest {
            self.0 = None;
        }
        newest
    }
}

/// The deadlines of owners that are known by a `K`.
#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<(Timestamp, K)>>,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new() }
    }
}

impl<K: Copy + Ord> Timers<K> {
    /// Makes sure that `owner` comes up at `at` or before.
    pub fn arm(&mut self, owner: K, armed: &mut TimerSlot, at: Timestamp) {
        let before = armed.0.is_some_and(|armed| armed <= at);
        if !before {
            armed.0 = Some(at);
            self.heap.push(Reverse((at, owner)));
        }
    }

    /// Takes out an entry that is due: its owner, and when it was due.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(K, Timestamp)> {
        let at = self.next().filter(|&at| at <= now)?;
        self.heap.pop().map(|Reverse((_, owner))| (owner, at))
    }

    /// When the next entry comes up.
    pub fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Bounds the heap: a quarter past the number of `owners` it keeps just what is still some owner's newest entry.
    pub fn sweep(&mut self, owners: usize, newest: impl Fn(K) -> Option<TimerSlot>) {
        if self.heap.len() > owners + owners / 4 + STALE_MAX {
            let is_newest = |at, owner| newest(owner) == Some(TimerSlot(Some(at)));
            self.heap.retain(|Reverse((at, owner))| is_newest(*at, *owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_deadline_that_moves_away_costs_no_entry() {
        let start = Timestamp::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        let mut armed = TimerSlot::default();
        for seconds in [10, 11, 12] {
            timers.arm('a', &mut armed, at(seconds));
        }
        assert_eq!((timers.heap.len(), timers.next()), (1, Some(at(10))));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(10)), Some(('a', at(10))));
        assert!(armed.fire(at(10)), "the owner now arms itself again");
        timers.arm('a', &mut armed, at(12));
        assert_eq!(timers.next(), Some(at(12)));
    }

    #[test]
    fn a_deadline_that_comes_closer_overtakes_and_leaves_a_stale_entry() {
        let start = Timestamp::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        let (mut a, mut b) = (TimerSlot::default(), TimerSlot::default());
        timers.arm('a', &mut a, at(10));
        timers.arm('b', &mut b, at(7));
        timers.arm('a', &mut a, at(5));
        assert_eq!(timers.pop_due(at(20)), Some(('a', at(5))));
        assert!(a.fire(at(5)));
        assert_eq!(timers.pop_due(at(20)), Some(('b', at(7))));
        assert_eq!(timers.pop_due(at(20)), Some(('a', at(10))));
        assert!(!a.fire(at(10)), "that entry was overtaken");
        assert_eq!((timers.pop_due(at(20)), timers.next()), (None, None));
    }

    #[test]
    fn the_heap_stays_bounded_by_its_owners() {
        let start = Timestamp::default();
        let mut timers = Timers::default();
        let mut armed = TimerSlot::default();
        for closer in 0..100_000u64 {
            timers.arm('a', &mut armed, start + Duration::from_secs(200_000 - closer));
            timers.sweep(1, |_| Some(armed));
            assert!(timers.heap.len() <= 2 + STALE_MAX, "after {closer}");
        }
        assert_eq!(timers.next(), Some(start + Duration::from_secs(100_001)));
    }
}
