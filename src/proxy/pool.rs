//! Decides which pooled connection is reused, and which is closed first when there are too many.
//!
//! Connections are identified by their slot numbers. For each pod, the newest is reused first: the pod is least likely
//! to have closed it. Over all pods, the longest-idle connection is closed first. Never touches a connection or decides
//! whether it may be pooled: [`crate::net::upstreams`] does, and it opens new ones.

use std::{
    hash::{BuildHasher, RandomState},
    iter,
    net::IpAddr,
    time::Duration,
};

use super::{
    lru::LruList,
    peer::{Peer, TlsProfile},
    timestamp::Timestamp,
};

/// No slot.
const NONE: u32 = u32::MAX;

/// A pooled connection, and its neighbours.
#[derive(Clone, Copy, Debug)]
struct Idle {
    peer: Peer,
    since: Timestamp,
    /// The neighbours in the list of connections to the same pod.
    older: u32,
    newer: u32,
    /// For the newest connection to its pod: the newest one to the next pod in the same bucket.
    next: u32,
}

/// The location of the reference to a pod's newest connection, or of the empty reference where it would be.
#[derive(Clone, Copy)]
enum Link {
    Bucket(usize),
    After(u32),
}

/// The idle connections of one worker.
#[derive(Debug)]
pub struct Pool {
    idle_max: usize,
    timeout: Duration,
    /// By slot; `None` if the slot has no pooled connection.
    idle: Vec<Option<Idle>>,
    len: usize,
    pods: usize,
    /// A hash table of the newest connection to each pod, chained through the connections. std's table would take ten
    /// times the memory and hash at every step. The length is a power of two.
    buckets: Vec<u32>,
    hash: Hash,
    lru: LruList,
}

impl Pool {
    /// Returns a pool for at most `idle_max` connections, each for at most `timeout`.
    pub fn new(idle_max: usize, timeout: Duration) -> Self {
        Self {
            idle_max,
            timeout,
            idle: Vec::new(),
            len: 0,
            pods: 0,
            buckets: vec![NONE],
            hash: Hash::new(),
            lru: LruList::default(),
        }
    }

    /// Returns the number of pooled connections.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the pool is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the connection in `slot`. The caller then closes the connection that [`Self::surplus`] returns.
    pub fn put(&mut self, slot: u32, peer: Peer, now: Timestamp) {
        let at = slot as usize;
        if at >= self.idle.len() {
            self.idle.resize(at + 1, None);
        }
        debug_assert!(self.idle[at].is_none(), "slot {slot} is already pooled");
        let link = self.find(peer);
        let older = self.follow(link);
        let next = match self.at(older) {
            Some(older) => {
                older.newer = slot;
                older.next
            }
            None => {
                self.pods += 1;
                NONE
            }
        };
        self.idle[at] = Some(Idle { peer, since: now, older, newer: NONE, next });
        self.set(link, slot);
        self.lru.push(slot);
        self.len += 1;
        if self.pods > self.buckets.len() {
            self.grow();
        }
    }

    /// Takes the newest connection to `peer` that was added before `now`.
    ///
    /// The kernel has not yet reported the readiness of connections added at `now`, in the current turn: bytes after
    /// the end of the last response could be unread there, and be taken for the next response.
    pub fn take(&mut self, peer: Peer, now: Timestamp) -> Option<u32> {
        let link = self.find(peer);
        let mut slot = self.follow(link);
        while let Some(&mut Idle { since, older, .. }) = self.at(slot) {
            if since < now {
                self.unlink(slot, link);
                return Some(slot);
            }
            slot = older;
        }
        None
    }

    /// Removes the connection in `slot`, if it is pooled.
    pub fn remove(&mut self, slot: u32) {
        if let Some(&mut Idle { peer, .. }) = self.at(slot) {
            self.unlink(slot, self.find(peer));
        }
    }

    /// Removes the connection in `slot`; `link` leads to the newest connection to its pod.
    fn unlink(&mut self, slot: u32, link: Link) {
        let Some(&mut Idle { older, newer, next, .. }) = self.at(slot) else { return };
        if let Some(newer) = self.at(newer) {
            newer.older = older;
        } else {
            self.set(link, if older == NONE { next } else { older });
            self.pods -= usize::from(older == NONE);
        }
        if let Some(idle) = self.at(older) {
            idle.newer = newer;
            idle.next = next;
        }
        self.idle[slot as usize] = None;
        self.lru.remove(slot);
        self.len -= 1;
    }

    /// Returns the longest-idle connection, if the limit is exceeded.
    pub fn surplus(&self) -> Option<u32> {
        self.oldest().filter(|_| self.len > self.idle_max)
    }

    /// Returns the longest-idle connection.
    pub fn oldest(&self) -> Option<u32> {
        self.lru.oldest()
    }

    /// Returns a connection whose timeout has expired by `now`.
    pub fn expired(&self, now: Timestamp) -> Option<u32> {
        self.oldest().filter(|_| self.next_expiry().is_some_and(|at| at <= now))
    }

    /// Returns when the timeout of the next connection expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let idle = self.idle.get(self.oldest()? as usize)?;
        idle.map(|idle| idle.since + self.timeout)
    }

    fn at(&mut self, slot: u32) -> Option<&mut Idle> {
        self.idle.get_mut(slot as usize)?.as_mut()
    }

    /// Returns the link to a pod's newest connection, or the empty link at the end of its bucket.
    fn find(&self, peer: Peer) -> Link {
        let mut link = Link::Bucket(self.bucket(peer));
        loop {
            let slot = self.follow(link);
            match self.idle.get(slot as usize) {
                Some(Some(idle)) if idle.peer != peer => link = Link::After(slot),
                _ => return link,
            }
        }
    }

    fn follow(&self, link: Link) -> u32 {
        match link {
            Link::Bucket(bucket) => self.buckets[bucket],
            Link::After(slot) => self.idle[slot as usize].map_or(NONE, |idle| idle.next),
        }
    }

    fn set(&mut self, link: Link, to: u32) {
        match link {
            Link::Bucket(bucket) => self.buckets[bucket] = to,
            Link::After(slot) => {
                if let Some(idle) = self.at(slot) {
                    idle.next = to;
                }
            }
        }
    }

    fn bucket(&self, peer: Peer) -> usize {
        self.hash.of(peer) as usize & (self.buckets.len() - 1)
    }

    /// Doubles the number of buckets.
    fn grow(&mut self) {
        let buckets = vec![NONE; 2 * self.buckets.len()];
        for first in std::mem::replace(&mut self.buckets, buckets) {
            let mut slot = first;
            while let Some(&mut Idle { peer, next, .. }) = self.at(slot) {
                let bucket = self.bucket(peer);
                let second = std::mem::replace(&mut self.buckets[bucket], slot);
                self.set(Link::After(slot), second);
                slot = next;
            }
        }
    }
}

/// A hash function with random factors, so that clients cannot choose pods that collide. It is universal (Thorup, "High
/// Speed Hashing for Integers and Strings", section 3.2).
#[derive(Debug)]
struct Hash([u64; 6]);

impl Hash {
    fn new() -> Self {
        // std's source of random numbers.
        Self(std::array::from_fn(|_| RandomState::new().hash_one(())))
    }

    fn of(&self, peer: Peer) -> u32 {
        let ip = match peer.ip() {
            IpAddr::V4(v4) => v4.to_bits().into(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let words = [ip as u32, (ip >> 32) as u32, (ip >> 64) as u32, (ip >> 96) as u32, peer.port().into()];
        let [addend, ref factors @ ..] = self.0;
        let products = iter::zip(factors, words).map(|(factor, word)| factor.wrapping_mul(word.into()));
        // A TLS profile is already a hash with a random key.
        let addend = addend.wrapping_add(peer.tls().map_or(0, TlsProfile::bits));
        (products.fold(addend, u64::wrapping_add) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(last: u8) -> Peer {
        Peer::new([10, 0, 0, last].into(), 80)
    }

    #[test]
    fn the_newest_of_a_pod_is_reused_first_and_the_oldest_of_all_is_closed_first() {
        let start = Timestamp::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pool = Pool::new(3, Duration::from_secs(60));
        for (slot, peer) in [(0, pod(1)), (1, pod(2)), (2, pod(1))] {
            pool.put(slot, peer, at(slot.into()));
        }
        assert_eq!(pool.surplus(), None);
        pool.put(7, pod(1), at(7));
        assert_eq!(pool.surplus(), Some(0));
        pool.remove(0);
        assert_eq!((pool.len(), pool.surplus()), (3, None));

        assert_eq!(pool.take(pod(1), at(8)), Some(7));
        assert_eq!(pool.take(pod(1), at(8)), Some(2));
        assert_eq!(pool.take(pod(1), at(8)), None, "slot 0 was removed");
        assert_eq!(pool.take(pod(3), at(8)), None);
        assert_eq!(pool.oldest(), Some(1));
        assert_eq!(pool.take(pod(2), at(8)), Some(1));
        assert!(
            pool.is_empty() && pool.pods == 0 && pool.buckets.iter().all(|&slot| slot == NONE),
            "{pool:?}"
        );
    }

    #[test]
    fn a_connection_is_not_reused_in_the_turn_in_which_it_was_pooled() {
        let now = Timestamp::default();
        let mut pool = Pool::new(10, Duration::from_secs(60));
        pool.put(1, pod(1), now);
        pool.put(2, pod(1), now + Duration::from_nanos(1));
        assert_eq!(pool.take(pod(1), now), None);
        assert_eq!(pool.take(pod(1), now + Duration::from_nanos(1)), Some(1));
        assert_eq!(pool.take(pod(1), now + Duration::from_nanos(2)), Some(2));
    }

    #[test]
    fn the_oldest_connection_expires_first() {
        let start = Timestamp::default();
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

    #[test]
    fn connections_of_other_tls_profiles_are_not_reused() {
        let profiles = [None, Some(TlsProfile::new(1)), Some(TlsProfile::new(2))];
        let [plain, one, other] = profiles.map(|profile| pod(1).with_tls(profile));
        for (pooled, requested, reused) in [
            (plain, plain, true),
            (one, one, true),
            (plain, one, false),
            (one, plain, false),
            (one, other, false),
        ] {
            let now = Timestamp::default();
            let mut pool = Pool::new(10, Duration::from_secs(60));
            pool.put(1, pooled, now);
            let taken = pool.take(requested, now + Duration::from_nanos(1));
            assert_eq!(taken, reused.then_some(1), "{pooled:?}, {requested:?}");
        }
    }

    /// Compares every operation with a plain list: with few pods, which have several connections, and with many, which
    /// share buckets. A third of them has no TLS profile.
    #[test]
    fn random_operations_agree_with_a_plain_list() {
        for (idle_max, slots, pods) in [(8, 16, 3), (100, 200, 150)] {
            run_random_operations(idle_max, slots, pods);
        }
    }

    fn run_random_operations(idle_max: usize, slots: u32, pods: u8) {
        let start = Timestamp::default();
        let mut pool = Pool::new(idle_max, Duration::from_secs(60));
        let mut model: Vec<(u32, Peer)> = Vec::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for turn in 0..20_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (slot, peer) = ((random >> 33) as u32 % slots, pod((random >> 40) as u8 % pods));
            let tls = [None, Some(TlsProfile::new(1)), Some(TlsProfile::new(2))];
            let peer = peer.with_tls(tls[(random >> 48) as usize % tls.len()]);
            let now = start + Duration::from_millis(turn);
            let known = model.iter().position(|&(known, _)| known == slot);
            match random >> 62 {
                0 | 1 if known.is_none() => {
                    pool.put(slot, peer, now);
                    model.push((slot, peer));
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
                    let expected = model.iter().rposition(|&(_, known)| known == peer);
                    let expected = expected.map(|at| model.remove(at).0);
                    assert_eq!(pool.take(peer, now), expected, "turn {turn}");
                }
            }
            assert_eq!((pool.len(), pool.oldest()), (model.len(), model.first().map(|first| first.0)));
        }
    }
}
