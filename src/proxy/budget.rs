//! How many bytes one worker holds for others, and who has to give way when that is as much as it may.
//!
//! Counted is what a session (a client, its exchange and its pod's connection) keeps between turns: the beginning of
//! a request, requests that wait, the request as the pod gets it, the beginning of an answer's head, and what the
//! client has yet to take. [`ALLOWANCE_BYTES`] of it are free for every session, so that an ordinary scrape goes on
//! whatever others hold. Of the rest a worker holds at most its share: who would need more is not read from (it is
//! paused). The last [`RESERVE_BYTES`] of the share are for the session that has held bytes longest, so that not all of
//! them wait for each other's room. Where no room comes for [`GRACE`], that session is ended.
//!
//! Owns the sum and the order. Knows sessions by the slot of their client, and never touches one.

use std::time::Duration;

use super::{lru::LruList, timestamp::Timestamp};

/// What each session may hold uncounted: a request with a token in it, and an answer's head of the usual length.
pub const ALLOWANCE_BYTES: usize = 4 * 1024;
/// How long a session is paused before the one that has held bytes longest has to give way. A client that reads, and
/// a pod that is about to end its head, need less.
pub const GRACE: Duration = Duration::from_millis(100);
/// What is left to the session that has held bytes longest: the longest head of an answer. At most half of the share.
pub const RESERVE_BYTES: usize = 64 * 1024;
/// What has to be free before anybody goes on: who is woken for less would be paused again at once.
const ROOM_MIN: usize = 4 * 1024;
/// What is made free at once by those who give way: the longest head of a request.
const ROOM_MADE: usize = 16 * 1024;
/// Heads grow by so much at most as they are rewritten.
pub const REWRITE_BYTES: usize = 1024;
/// The least that a worker's share may be: the longest head of an answer, and as much again.
pub const SHARE_MIN: usize = 128 * 1024;

/// The bytes that one worker holds for others.
#[derive(Debug)]
pub struct Budget {
    share: usize,
    /// What all sessions may hold but for the one that has held bytes longest.
    common: usize,
    held: usize,
    /// Sessions that hold counted bytes, in the order in which they began to.
    holders: LruList,
    paused: LruList,
    /// Sessions that are paused, or whose client does not read, in the order in which they began to be.
    stalled: LruList,
    stalled_count: usize,
    /// Since then no room has come for those that are paused.
    tight_since: Timestamp,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(share: usize) -> Self {
        Self {
            share,
            common: share - RESERVE_BYTES.min(share / 2),
            held: 0,
            holders: LruList::default(),
            paused: LruList::default(),
            stalled: LruList::default(),
            stalled_count: 0,
            tight_since: Timestamp::default(),
        }
    }

    /// The bytes that are counted now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether so many bytes more fit in any case.
    #[inline]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.held + bytes <= self.common
    }

    /// How many bytes more the session in `slot` may hold that `holds` so many, of which `counted` are counted.
    pub fn room(&self, slot: u32, counted: u32, holds: usize) -> usize {
        let limit = if self.holders.oldest() == Some(slot) { self.share } else { self.common };
        let others = self.held - counted as usize;
        let most = limit.saturating_sub(others) + ALLOWANCE_BYTES;
        most.saturating_sub(holds + REWRITE_BYTES)
    }

    /// Notes what a session `holds` now, and how much of that is `counted`. Says whether that is too much in all.
    pub fn settle(&mut self, slot: u32, counted: &mut u32, holds: usize) -> bool {
        let before = *counted as usize;
        let now = holds.saturating_sub(ALLOWANCE_BYTES);
        self.held = self.held - before + now;
        *counted = u32::try_from(now).unwrap_or(u32::MAX);
        match (before, now) {
            (0, 1..) => self.holders.push(slot),
            (1.., 0) => self.holders.remove(slot),
            _ => {}
        }
        now > before && self.held > self.share
    }

    /// A session that holds counted bytes got something done: it begins to hold what it holds only now.
    pub fn renew(&mut self, slot: u32) {
        self.holders.push(slot);
    }

    /// A session is over.
    pub fn forget(&mut self, slot: u32, counted: u32) {
        self.settle(slot, &mut { counted }, 0);
        self.paused.remove(slot);
        self.set_stalled(slot, false);
    }

    /// Notes whether a session stalls. For it bytes may wait in the kernel too.
    pub fn set_stalled(&mut self, slot: u32, stalls: bool) {
        match (self.stalled.contains(slot), stalls) {
            (false, true) => {
                self.stalled.push(slot);
                self.stalled_count += 1;
            }
            (true, false) => {
                self.stalled.remove(slot);
                self.stalled_count -= 1;
            }
            _ => {}
        }
    }

    /// How many sessions stall.
    pub fn stalled_count(&self) -> usize {
        self.stalled_count
    }

    /// The session that has stalled longest.
    pub fn longest_stalled(&self) -> Option<u32> {
        self.stalled.oldest()
    }

    /// There is no room for what a session would read.
    pub fn pause(&mut self, slot: u32, now: Timestamp) {
        if self.paused.oldest().is_none() {
            self.tight_since = now;
        }
        self.paused.push(slot);
    }

    /// A session goes on, or has nothing to read any more.
    pub fn resume(&mut self, slot: u32) {
        self.paused.remove(slot);
    }

    /// Whose turn it is to go on, if there is room for as much as the `woken` before it may need.
    pub fn next_to_resume(&mut self, woken: usize, now: Timestamp) -> Option<u32> {
        let longest = self.holders.oldest().filter(|&slot| self.paused.contains(slot));
        let longest = longest.filter(|_| self.held + ROOM_MIN <= self.share);
        let next = self.paused.oldest().filter(|_| self.has_room_for((woken + 1) * ROOM_MIN));
        let slot = longest.or(next)?;
        self.paused.remove(slot);
        self.tight_since = now;
        Some(slot)
    }

    /// Who has to give way by `now`. The caller ends that session, and asks again.
    pub fn next_to_end(&self, now: Timestamp) -> Option<u32> {
        let due = self.next_wake().is_some_and(|at| at <= now);
        let is_tight = !self.has_room_for(ROOM_MADE.min(self.common));
        self.holders.oldest().filter(|_| due && is_tight)
    }

    /// Those that are paused get their time again, once somebody gave way.
    pub fn made_room(&mut self, now: Timestamp) {
        self.tight_since = now;
    }

    /// Whether anybody is paused.
    #[inline]
    pub fn is_tight(&self) -> bool {
        self.paused.oldest().is_some()
    }

    /// When somebody has to give way, if no room comes before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.paused.oldest().map(|_| self.tight_since + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn what_the_allowance_covers_is_not_counted() {
        let mut budget = Budget::new(128 * KIB);
        let mut counted = 0;
        for (holds, expected) in
            [(0, 0), (ALLOWANCE_BYTES, 0), (ALLOWANCE_BYTES + 1, 1), (20 * KIB, 16 * KIB)]
        {
            assert!(!budget.settle(7, &mut counted, holds));
            assert_eq!((counted as usize, budget.held()), (expected, expected), "{holds}");
        }
        assert_eq!(budget.room(7, counted, 20 * KIB), (128 - 16 - 1) * KIB, "it is the only one");
        assert_eq!(budget.room(8, 0, 0), (64 - 16 + 4 - 1) * KIB);
        assert!(budget.settle(7, &mut counted, 133 * KIB), "more than there may be");
        assert!(!budget.settle(7, &mut counted, 132 * KIB));
        assert_eq!(budget.room(8, 0, 0), 3 * KIB, "others go on");
        budget.forget(7, counted);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn who_held_longest_gives_way_after_the_grace_and_those_paused_go_on() {
        let start = Timestamp::default();
        let mut budget = Budget::new(256 * KIB);
        let mut counted = [0; 3];
        budget.settle(1, &mut counted[1], 100 * KIB);
        budget.settle(0, &mut counted[0], 100 * KIB);
        budget.settle(1, &mut counted[1], 60 * KIB);
        budget.settle(1, &mut counted[1], 100 * KIB);
        assert_eq!(budget.next_wake(), None);
        budget.pause(2, start);
        budget.pause(0, start + GRACE / 2);
        assert_eq!(budget.next_wake(), Some(start + GRACE));
        assert_eq!(budget.next_to_end(start + GRACE / 2), None);
        assert_eq!(budget.next_to_resume(0, start), None);
        assert_eq!(budget.next_to_end(start + GRACE), Some(1), "drops of its own do not make it a newer one");
        budget.forget(1, counted[1]);
        assert_eq!(budget.next_to_end(start + GRACE), None, "there is room now");
        let now = start + GRACE;
        assert_eq!(budget.next_to_resume(0, now), Some(0), "it holds something longest now");
        assert_eq!(budget.next_to_resume(1, now), Some(2));
        assert_eq!((budget.next_to_resume(2, now), budget.next_wake()), (None, None));
    }
}
