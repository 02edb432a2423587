//! Places for clients: how many are taken, which clients wait for one, and which worker frees places. A place is a
//! permit to be one of the `--clients-max` clients of the process.
//!
//! If no place is free, the client's worker adds a wish. Wishes are fulfilled in the order in which they came, across
//! all workers, by a place that becomes free or by a place that a worker takes from a client and hands over. Without
//! wishes, no lock is taken. A wish is identified by its worker and its client, so that withdrawing it never takes
//! another client's place.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use super::slots::Key;
use crate::proxy::timestamp::Timestamp;

/// A client that waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The worker of the client.
    pub worker: usize,
    /// The client's key in that worker.
    pub client: Key,
}

/// State of one worker that the others read. Alone on its cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct OfWorker {
    /// Since when the worker's longest-idle client has been idle, in nanoseconds; [`NONE`]: no client is idle.
    idle_since: AtomicU64,
    /// Its wishes that are fulfilled but not collected yet.
    granted: AtomicUsize,
}

/// No client is idle.
const NONE: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Wishes {
    waiting: VecDeque<Wish>,
    granted: Vec<Wish>,
}

/// The places of a process.
///
/// Atomics are sequentially consistent: a worker that frees a place and one that wishes for it must not miss each
/// other. The same holds for a worker whose client becomes idle and one that looks for an idle client.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: AtomicUsize,
    /// Number of waiting wishes. Written with the lock held.
    wanted: AtomicUsize,
    /// Number of wishes, including fulfilled ones that are not collected yet. Written with the lock held.
    stirred: AtomicUsize,
    wishes: Mutex<Wishes>,
    workers: Box<[OfWorker]>,
}

impl Places {
    /// Creates `most` places for the clients of that many `workers`.
    pub fn new(most: usize, workers: usize) -> Self {
        let of_worker = |_| OfWorker { idle_since: AtomicU64::new(NONE), granted: AtomicUsize::new(0) };
        Self {
            most,
            taken: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            stirred: AtomicUsize::new(0),
            wishes: Mutex::default(),
            workers: (0..workers).map(of_worker).collect(),
        }
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free place, unless clients wait for one. Returns whether it did.
    pub fn take(&self) -> bool {
        !self.is_wanted() && self.take_free()
    }

    fn take_free(&self) -> bool {
        let take = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, take).is_ok()
    }

    /// Gives a place back. The longest-waiting wish gets it; returns the worker of that wish.
    #[must_use = "the worker has to be woken"]
    pub fn give_back(&self) -> Option<usize> {
        self.taken.fetch_sub(1, SeqCst);
        if self.is_wanted() { self.match_up(&mut self.wishes()) } else { None }
    }

    /// Adds a wish. If a place is free by now, the longest-waiting wish gets it; returns the worker of that wish.
    #[must_use = "the worker has to be woken"]
    pub fn wish(&self, wish: Wish) -> Option<usize> {
        let mut wishes = self.wishes();
        wishes.waiting.push_back(wish);
        self.count(&wishes);
        self.match_up(&mut wishes)
    }

    fn count(&self, wishes: &Wishes) {
        self.wanted.store(wishes.waiting.len(), SeqCst);
        self.stirred.store(wishes.waiting.len() + wishes.granted.len(), SeqCst);
    }

    fn match_up(&self, wishes: &mut Wishes) -> Option<usize> {
        if wishes.waiting.is_empty() || !self.take_free() {
            return None;
        }
        let wish = wishes.waiting.pop_front()?;
        Some(self.grant_to(wishes, wish))
    }

    fn grant_to(&self, wishes: &mut Wishes, wish: Wish) -> usize {
        wishes.granted.push(wish);
        self.workers[wish.worker].granted.fetch_add(1, SeqCst);
        self.count(wishes);
        wish.worker
    }

    /// Withdraws a wish. A fulfilled wish stays fulfilled.
    pub fn withdraw(&self, wish: Wish) {
        let mut wishes = self.wishes();
        wishes.waiting.retain(|known| *known != wish);
        self.count(&wishes);
    }

    /// Returns whether a client waits.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst) > 0
    }

    /// Returns whether there are any wishes, waiting or not collected yet, of any worker.
    pub fn is_stirred(&self) -> bool {
        self.stirred.load(SeqCst) > 0
    }

    /// Removes the longest-waiting wish, for a worker that takes a place from a client to [`Self::hand_over`].
    pub fn next_wish(&self) -> Option<Wish> {
        let mut wishes = self.wishes();
        let wish = wishes.waiting.pop_front();
        self.count(&wishes);
        wish
    }

    /// Fulfils a wish with a place taken from a client. Returns the worker to wake.
    #[must_use = "the worker has to be woken"]
    pub fn hand_over(&self, wish: Wish) -> usize {
        self.grant_to(&mut self.wishes(), wish)
    }

    /// Collects a fulfilled wish of this worker. If its client is gone, the worker gives the place back.
    pub fn collect(&self, worker: usize) -> Option<Key> {
        if !self.has_granted(worker) {
            return None;
        }
        let mut wishes = self.wishes();
        let at = wishes.granted.iter().position(|wish| wish.worker == worker)?;
        self.workers[worker].granted.fetch_sub(1, SeqCst);
        let client = wishes.granted.remove(at).client;
        self.count(&wishes);
        Some(client)
    }

    /// Returns whether there is something to collect for this worker.
    pub fn has_granted(&self, worker: usize) -> bool {
        self.workers[worker].granted.load(SeqCst) > 0
    }

    /// Returns how many workers share the places.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Publishes since when a worker's longest-idle client has been idle.
    pub fn show_idle(&self, worker: usize, since: Option<Timestamp>) {
        self.workers[worker].idle_since.store(since.map_or(NONE, Timestamp::nanoseconds), SeqCst);
    }

    /// Returns the worker with the longest-idle client, if any client is idle.
    pub fn longest_idle(&self) -> Option<usize> {
        let idle = self.workers.iter().map(|worker| worker.idle_since.load(SeqCst)).enumerate();
        idle.filter(|&(_, since)| since != NONE).min_by_key(|&(_, since)| since).map(|(worker, _)| worker)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn wish(worker: usize, client: usize) -> Wish {
        Wish { worker, client: Key::from_bits(super::super::slots::KEYS_FROM + client) }
    }

    /// Returns one place, which is taken, and wishes of two workers in turn.
    fn full(wishes: usize) -> Places {
        let places = Places::new(1, 2);
        assert!(places.take());
        for nth in 0..wishes {
            assert_eq!(places.wish(wish(nth % 2, nth)), None);
        }
        places
    }

    fn collected(places: &Places) -> Vec<(usize, Key)> {
        let of = |worker| std::iter::from_fn(move || places.collect(worker).map(|key| (worker, key)));
        (0..2).flat_map(of).collect()
    }

    #[test]
    fn a_place_goes_to_the_wish_that_has_waited_longest() {
        let places = full(3);
        for nth in 0..3 {
            assert!(!places.take(), "others wait");
            assert_eq!(places.give_back(), Some(nth % 2));
            assert_eq!(collected(&places), [(nth % 2, wish(nth % 2, nth).client)]);
        }
        assert_eq!(places.give_back(), None);
        assert!(places.take() && !places.take());
    }

    #[test]
    fn withdrawing_a_wish_takes_no_other_wishs_place() {
        // (withdrawn wishes, wishes that then get the places)
        for (gone, expected) in
            [(&[0][..], &[1, 2][..]), (&[1], &[0, 2]), (&[2], &[0, 1]), (&[0, 1, 2], &[]), (&[7], &[0, 1, 2])]
        {
            let places = full(3);
            gone.iter().for_each(|&nth| places.withdraw(wish(nth % 2, nth)));
            for &nth in expected {
                assert_eq!(places.give_back(), Some(nth % 2), "without {gone:?}");
                assert_eq!(collected(&places), [(nth % 2, wish(nth % 2, nth).client)], "without {gone:?}");
            }
            assert!(!places.is_wanted(), "without {gone:?}");
            assert_eq!(places.give_back(), None);
        }
    }

    #[test]
    fn a_place_that_is_handed_over_stays_taken() {
        let places = full(2);
        let first = places.next_wish().unwrap();
        places.withdraw(first); // too late: being fulfilled, and its worker gives the place back
        assert_eq!(places.hand_over(first), 0);
        assert_eq!(collected(&places), [(0, first.client)]);
        assert_eq!(places.give_back(), Some(1));
        assert_eq!((collected(&places).len(), places.take(), places.next_wish()), (1, false, None));
    }

    #[test]
    fn the_longest_idle_client_is_found_on_any_worker() {
        let at = |seconds| Some(Timestamp::default() + Duration::from_secs(seconds));
        for (idle, expected) in [
            ([None, None, None], None),
            ([None, at(5), None], Some(1)),
            ([at(7), at(5), at(6)], Some(1)),
            ([at(7), at(9), at(6)], Some(2)),
            ([at(0), at(0), None], Some(0)),
        ] {
            let places = Places::new(1, 3);
            idle.into_iter().enumerate().for_each(|(worker, since)| places.show_idle(worker, since));
            assert_eq!(places.longest_idle(), expected, "{idle:?}");
        }
    }

    #[test]
    fn no_place_is_lost_between_workers() {
        const ROUNDS: usize = 20_000;
        let places = Places::new(1, 2);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let places = &places;
                scope.spawn(move || {
                    for nth in 0..ROUNDS {
                        let wish = wish(worker, nth);
                        if !places.take() {
                            let _ = places.wish(wish);
                            while places.collect(worker).is_none() {
                                std::thread::yield_now();
                            }
                        }
                        let _ = places.give_back();
                    }
                });
            }
        });
        assert!(places.take() && !places.is_wanted());
    }
}
