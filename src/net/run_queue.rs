//! The order in which clients run: those with little to do first, then those with much, one portion each in turn,
//! across turns of the event loop.
//!
//! Owns the order. The worker decides what counts as little, and how long a portion is.

use std::collections::VecDeque;

use super::slots::Key;

/// Clients that can run. The caller makes sure that each is queued only once.
#[derive(Debug, Default)]
pub struct RunQueue {
    short: VecDeque<Key>,
    bulk: VecDeque<Key>,
}

impl RunQueue {
    /// Appends a client to the others of its kind.
    #[inline]
    pub fn push(&mut self, key: Key, is_bulk: bool) {
        if is_bulk { self.bulk.push_back(key) } else { self.short.push_back(key) }
    }

    /// Takes the next client with little to do.
    #[inline]
    pub fn pop_short(&mut self) -> Option<Key> {
        self.short.pop_front()
    }

    /// Takes the next client with much to do.
    #[inline]
    pub fn pop_bulk(&mut self) -> Option<Key> {
        self.bulk.pop_front()
    }

    /// Returns how many clients have little, and how many have much to do.
    #[inline]
    pub fn len(&self) -> (usize, usize) {
        (self.short.len(), self.bulk.len())
    }

    /// Returns whether no client can run.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_bulk_clients_run_in_their_order() {
        let key = |slot: usize| Key::from_bits(crate::net::slots::KEYS_FROM + slot);
        let mut queue = RunQueue::default();
        for (slot, is_bulk) in [(1, true), (2, false), (3, true), (4, false)] {
            queue.push(key(slot), is_bulk);
        }
        assert_eq!(queue.len(), (2, 2));
        assert_eq!([queue.pop_short(), queue.pop_bulk()], [Some(key(2)), Some(key(1))]);
        queue.push(key(1), true); // its portion is over
        assert_eq!(
            [queue.pop_bulk(), queue.pop_bulk(), queue.pop_bulk()],
            [Some(key(3)), Some(key(1)), None]
        );
        assert!(!queue.is_empty());
        assert_eq!([queue.pop_short(), queue.pop_short()], [Some(key(4)), None]);
        assert!(queue.is_empty());
    }
}
