//! Which kept pod connection is used again, and which goes first when there are too many.
//!
//! Knows connections by their slot number. Last in, first out for each pod: the connection that idled least is
//! the one that the pod has least reason to have closed. Least recently used out first, over all pods. Never
//! touches a connection, nor decides whether one is fit to be kept.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use super::{recency::Recency, route::Origin};

/// No slot.
const NONE: u32 = u32::MAX;

/// One kept connection, and its neighbours among those to the same pod.
#[derive(Clone, Copy, Debug)]
struct Idle {
    origin: Origin,
    since: Instant,
    older: u32,
    newer: u32,
}

/// The idle connections of one worker.
#[derive(Debug)]
pub struct Pool {
    idle_max: usize,
    timeout: Duration,
    /// By slot. Only slots that are in `recency` mean something.
    idle: Vec<Option<Idle>>,
    len: usize,
    newest: HashMap<Origin, u32>,
    recency: Recency,
}

impl Pool {
    /// A pool that keeps at most `idle_max` connections, each for at most `timeout`.
    pub fn new(idle_max: usize, timeout: Duration) -> Self {
        let (idle, newest, recency) = <_>::default();
        Self { idle_max, timeout, idle, len: 0, newest, recency }
    }

    /// How many connections are kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the connection in `slot`. The caller then closes what [`Self::surplus`] names.
    pub fn put(&mut self, slot: u32, origin: Origin, now: Instant) {
        let at = slot as usize;
        if at >= self.idle.len() {
            self.idle.resize(at + 1, None);
        }
        debug_assert!(self.idle[at].is_none(), "slot {slot} is kept already");
        let older = match self.newest.entry(origin) {
            Entry::Occupied(mut newest) => newest.insert(slot),
            Entry::Vacant(none) => {
                none.insert(slot);
                NONE
            }
        };
        if let Some(older) = self.at(older) {
            older.newer = slot;
        }
        self.idle[at] = Some(Idle { origin, since: now, older, newer: NONE });
        self.recency.push(slot);
        self.len += 1;
    }

    /// Takes out the newest connection to `origin` that was put in before `now`.
    ///
    /// One that was put in at `now`, in this very turn, has not been looked at by the kernel's readiness since:
    /// bytes behind the last answer's end could be waiting on it, and be taken for the next one's.
    pub fn take(&mut self, origin: Origin, now: Instant) -> Option<u32> {
        let mut slot = *self.newest.get(&origin)?;
        while let Some(&mut Idle { since, older, .. }) = self.at(slot) {
            if since < now {
                self.remove(slot);
                return Some(slot);
            }
            slot = older;
        }
        None
    }

    /// Forgets the connection in `slot`, if it is kept.
    pub fn remove(&mut self, slot: u32) {
        let Some(Idle { origin, older, newer, .. }) = self.idle.get_mut(slot as usize).and_then(Option::take)
        else {
            return;
        };
        if let Some(idle) = self.at(older) {
            idle.newer = newer;
        }
        match self.at(newer) {
            Some(idle) => idle.older = older,
            None if older == NONE => {
                self.newest.remove(&origin);
            }
            None => {
                self.newest.insert(origin, older);
            }
        }
        self.recency.remove(slot);
        self.len -= 1;
    }

    /// The least recently used connection, if there are more than may be.
    pub fn surplus(&self) -> Option<u32> {
        self.oldest().filter(|_| self.len > self.idle_max)
    }

    /// The least recently used connection.
    pub fn oldest(&self) -> Option<u32> {
        self.recency.oldest()
    }

    /// The connection whose time is up by `now`.
    pub fn expired(&self, now: Instant) -> Option<u32> {
        self.oldest().filter(|_| self.next_expiry().is_some_and(|at| at <= now))
    }

    /// When the next connection's time is up.
    pub fn next_expiry(&self) -> Option<Instant> {
        let idle = self.idle.get(self.oldest()? as usize)?;
        idle.map(|idle| idle.since + self.timeout)
    }

    fn at(&mut self, slot: u32) -> Option<&mut Idle> {
        self.idle.get_mut(slot as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(last: u8) -> Origin {
        Origin::new([10, 0, 0, last].into(), 80)
    }

    #[test]
    fn the_newest_of_a_pod_is_taken_first_and_the_oldest_of_all_goes_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pool = Pool::new(3, Duration::from_secs(60));
        for (slot, origin) in [(0, pod(1)), (1, pod(2)), (2, pod(1))] {
            pool.put(slot, origin, at(slot.into()));
        }
        assert_eq!(pool.surplus(), None);
        pool.put(7, pod(1), at(7));
        assert_eq!(pool.surplus(), Some(0));
        pool.remove(0);
        assert_eq!((pool.len(), pool.surplus()), (3, None));

        assert_eq!(pool.take(pod(1), at(8)), Some(7));
        assert_eq!(pool.take(pod(1), at(8)), Some(2));
        assert_eq!(pool.take(pod(1), at(8)), None, "slot 0 was forgotten");
        assert_eq!(pool.take(pod(3), at(8)), None);
        assert_eq!(pool.oldest(), Some(1));
        assert_eq!(pool.take(pod(2), at(8)), Some(1));
        assert!(pool.is_empty() && pool.newest.is_empty(), "{pool:?}");
    }

    #[test]
    fn one_that_was_put_in_this_very_turn_rests() {
        let now = Instant::now();
        let mut pool = Pool::new(10, Duration::from_secs(60));
        pool.put(1, pod(1), now);
        pool.put(2, pod(1), now + Duration::from_nanos(1));
        assert_eq!(pool.take(pod(1), now), None);
        assert_eq!(pool.take(pod(1), now + Duration::from_nanos(1)), Some(1));
        assert_eq!(pool.take(pod(1), now + Duration::from_nanos(2)), Some(2));
    }

    #[test]
    fn time_runs_out_for_the_oldest_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pool = Pool::new(10, Duration::from_secs(60));
        assert_eq!(pool.next_expiry(), None);
        pool.put(1, pod(1), at(0));
        pool.put(2, pod(1), at(5));
        assert_eq!((pool.next_expiry(), pool.expired(at(59))), (Some(at(60)), None));
        assert_eq!(pool.expired(at(60)), Some(1));
        pool.remove(1);
        assert_eq!((pool.next_expiry(), pool.expired(at(64))), (Some(at(65)), None));
    }

    /// Against a plain model, over every kind of operation.
    #[test]
    fn a_long_life_agrees_with_a_plain_list() {
        let start = Instant::now();
        let mut pool = Pool::new(8, Duration::from_secs(60));
        let mut model: Vec<(u32, Origin)> = Vec::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for turn in 0..20_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (slot, origin) = ((random >> 33) as u32 % 16, pod((random >> 40) as u8 % 3));
            let now = start + Duration::from_millis(turn);
            let known = model.iter().position(|&(known, _)| known == slot);
            match random >> 62 {
                0 | 1 if known.is_none() => {
                    pool.put(slot, origin, now);
                    model.push((slot, origin));
                    if let Some(surplus) = pool.surplus() {
                        assert_eq!(surplus, model.remove(0).0, "turn {turn}");
                        pool.remove(surplus);
                    }
                }
                2 => {
                    pool.remove(slot);
                    known.map(|at| model.remove(at));
                }
                _ => {
                    let expected = model.iter().rposition(|&(_, known)| known == origin);
                    let expected = expected.map(|at| model.remove(at).0);
                    assert_eq!(pool.take(origin, now), expected, "turn {turn}");
                }
            }
            assert_eq!((pool.len(), pool.oldest()), (model.len(), model.first().map(|first| first.0)));
        }
    }
}
