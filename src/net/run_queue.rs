//! Which client goes on next: those with little to do first, then those with much, a portion each and one after the
//! other, from one turn to the next.
//!
//! Owns the order. What is little, and how long a portion is, the worker says.

use std::collections::VecDeque;

use super::slots::Key;

/// Clients that can go on. Whoever puts one in sees to it that it is in here once.
#[derive(Debug, Default)]
pub struct RunQueue {
    short: VecDeque<Key>,
    bulk: VecDeque<Key>,
}

impl RunQueue {
    /// Puts a client behind all others of its kind.
    #[inline]
    pub fn push(&mut self, key: Key, is_bulk: bool) {
        if is_bulk { self.bulk.push_back(key) } else { self.short.push_back(key) }
    }

    /// Takes the next client that has little to do.
    #[inline]
    pub fn pop_short(&mut self) -> Option<Key> {
        self.short.pop_front()
    }

    /// Takes the next client that has much to do.
    #[inline]
    pub fn pop_bulk(&mut self) -> Option<Key> {
        self.bulk.pop_front()
    }

    /// How many have little, and how many have much to do.
    #[inline]
    pub fn len(&self) -> (usize, usize) {
        (self.short.len(), self.bulk.len())
    }

    /// Whether no client can go on.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_goes_in_order() {
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
