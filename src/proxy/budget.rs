//! Limits the bytes that one worker buffers for its sessions, and decides which session ends when the limit is reached.
//!
//! A session is a client, its exchange and its pod's connection. Its buffered bytes are those that it holds between
//! turns: an incomplete request, waiting requests, the request for the pod, an incomplete response head, and output
//! that the client has yet to take. The first [`ALLOWANCE_BYTES`] of each session are not counted, so that an ordinary
//! scrape continues no matter how much other sessions buffer. The counted bytes of a worker are at most its share. A
//! session that needs more is paused: it is not read from. The last [`RESERVE_BYTES`] of the share are for the session
//! that has held counted bytes longest, so that sessions cannot all wait for each other. If no room appears within
//! [`GRACE`], that session is ended.
//!
//! Owns the sum and the order. Sessions are identified by the slots of their clients and not touched here.

use std::time::Duration;

use super::{lru::LruList, timestamp::Timestamp};

/// The uncounted bytes of each session: enough for a request with a token and a response head of the usual length.
pub const ALLOWANCE_BYTES: usize = 4 * 1024;
/// How long sessions are paused before the one with the oldest counted bytes is ended. Clients that read, and pods that
/// are about to complete a head, need less.
pub const GRACE: Duration = Duration::from_millis(100);
/// The bytes reserved for the session that has held counted bytes longest: the longest response head. At most half of
/// the share.
pub const RESERVE_BYTES: usize = 64 * 1024;
/// The free bytes that a session needs to resume: with less, it would be paused again at once.
const ROOM_MIN: usize = 4 * 1024;
/// Once room is short, sessions are ended until this many bytes are free: the longest request head.
const ROOM_MADE: usize = 16 * 1024;
/// Maximum number of bytes by which rewriting lengthens a head.
pub const REWRITE_BYTES: usize = 1024;
/// The smallest share of a worker: twice the longest response head.
pub const SHARE_MIN: usize = 128 * 1024;

/// The bytes that one worker buffers for its sessions.
#[derive(Debug)]
pub struct Budget {
    share: usize,
    /// The limit for all sessions but the one that has held counted bytes longest.
    common: usize,
    held: usize,
    /// Sessions with counted bytes, in the order in which they began to hold them.
    holders: LruList,
    paused: LruList,
    /// Sessions that are paused or whose client does not read, in the order in which they stalled.
    stalled: LruList,
    stalled_count: usize,
    /// The time since which no room has appeared for the paused sessions.
    tight_since: Timestamp,
}

impl Budget {
    /// Returns a budget with a limit of `share` bytes.
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

    /// Returns the counted bytes.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns whether any session may buffer `bytes` more.
    #[inline]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.held + bytes <= self.common
    }

    /// Returns how many more bytes the session in `slot` may buffer. It `holds` bytes, of which `counted` are counted.
    pub fn room(&self, slot: u32, counted: u32, holds: usize) -> usize {
        let limit = if self.holders.oldest() == Some(slot) { self.share } else { self.common };
        let others = self.held - counted as usize;
        let most = limit.saturating_sub(others) + ALLOWANCE_BYTES;
        most.saturating_sub(holds + REWRITE_BYTES)
    }

    /// Records the bytes that a session `holds`, and updates `counted`. Returns whether the worker now exceeds its
    /// share.
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

    /// Makes a session with counted bytes the newest holder, after progress.
    pub fn renew(&mut self, slot: u32) {
        self.holders.push(slot);
    }

    /// Removes a session that has ended.
    pub fn forget(&mut self, slot: u32, counted: u32) {
        self.settle(slot, &mut { counted }, 0);
        self.paused.remove(slot);
        self.set_stalled(slot, false);
    }

    /// Records whether a session stalls. Further bytes of a stalled session may wait in the kernel.
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

    /// Returns the number of stalled sessions.
    pub fn stalled_count(&self) -> usize {
        self.stalled_count
    }

    /// Returns the session that has stalled longest.
    pub fn longest_stalled(&self) -> Option<u32> {
        self.stalled.oldest()
    }

    /// Records that there is no room for the bytes that a session would read.
    pub fn pause(&mut self, slot: u32, now: Timestamp) {
        if self.paused.oldest().is_none() {
            self.tight_since = now;
        }
        self.paused.push(slot);
    }

    /// Records that a session continues, or has nothing more to read.
    pub fn resume(&mut self, slot: u32) {
        self.paused.remove(slot);
    }

    /// Takes the next paused session, if there is room for it and for the `woken` sessions before it.
    pub fn next_to_resume(&mut self, woken: usize, now: Timestamp) -> Option<u32> {
        let longest = self.holders.oldest().filter(|&slot| self.paused.contains(slot));
        let longest = longest.filter(|_| self.held + ROOM_MIN <= self.share);
        let next = self.paused.oldest().filter(|_| self.has_room_for((woken + 1) * ROOM_MIN));
        let slot = longest.or(next)?;
        self.paused.remove(slot);
        self.tight_since = now;
        Some(slot)
    }

    /// Returns the session that must end by `now`. The caller ends it and calls again.
    pub fn next_to_end(&self, now: Timestamp) -> Option<u32> {
        let due = self.next_wake().is_some_and(|at| at <= now);
        let is_tight = !self.has_room_for(ROOM_MADE.min(self.common));
        self.holders.oldest().filter(|_| due && is_tight)
    }

    /// Restarts the grace time of paused sessions after one was ended.
    pub fn made_room(&mut self, now: Timestamp) {
        self.tight_since = now;
    }

    /// Returns whether any session is paused.
    #[inline]
    pub fn is_tight(&self) -> bool {
        self.paused.oldest().is_some()
    }

    /// Returns when a session must end, if no room appears before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.paused.oldest().map(|_| self.tight_since + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn bytes_within_the_allowance_are_not_counted() {
        let mut budget = Budget::new(128 * KIB);
        let mut counted = 0;
        for (holds, expected) in
            [(0, 0), (ALLOWANCE_BYTES, 0), (ALLOWANCE_BYTES + 1, 1), (20 * KIB, 16 * KIB)]
        {
            assert!(!budget.settle(7, &mut counted, holds));
            assert_eq!((counted as usize, budget.held()), (expected, expected), "{holds}");
        }
        assert_eq!(
            budget.room(7, counted, 20 * KIB),
            (128 - 16 - 1) * KIB,
            "the only holder may use the reserve"
        );
        assert_eq!(budget.room(8, 0, 0), (64 - 16 + 4 - 1) * KIB);
        assert!(budget.settle(7, &mut counted, 133 * KIB), "more than the share");
        assert!(!budget.settle(7, &mut counted, 132 * KIB));
        assert_eq!(budget.room(8, 0, 0), 3 * KIB, "others still have their allowance");
        budget.forget(7, counted);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_oldest_holder_is_ended_after_the_grace_time_and_paused_sessions_resume() {
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
        assert_eq!(
            budget.next_to_end(start + GRACE),
            Some(1),
            "a change of its size does not make it the newest"
        );
        budget.forget(1, counted[1]);
        assert_eq!(budget.next_to_end(start + GRACE), None, "there is room");
        let now = start + GRACE;
        assert_eq!(budget.next_to_resume(0, now), Some(0), "it is now the oldest holder");
        assert_eq!(budget.next_to_resume(1, now), Some(2));
        assert_eq!((budget.next_to_resume(2, now), budget.next_wake()), (None, None));
    }
}
