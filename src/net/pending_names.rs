//! The clients of one worker that wait for the addresses of a name.
//!
//! Knows which name each client waits for, and holds answers from the cache until they are delivered.

use std::mem;

use super::{lookups::Delivery, slots::Key};

/// Clients that wait for addresses.
#[derive(Debug, Default)]
pub(super) struct PendingNames {
    /// The names of lookups that are queued or in progress, in the order of their clients.
    pending: Vec<(Key, Box<str>)>,
    /// Answers from the cache.
    known: Vec<Delivery>,
}

impl PendingNames {
    /// Returns whether an answer can be delivered at once.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        !self.known.is_empty()
    }

    /// Returns whether a lookup is queued or in progress.
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Adds a client that waits for a lookup.
    pub(super) fn add(&mut self, client: Key, name: Box<str>) {
        match self.position(client) {
            Ok(at) => self.pending[at].1 = name,
            Err(at) => self.pending.insert(at, (client, name)),
        }
    }

    /// Adds an answer from the cache.
    pub(super) fn add_known(&mut self, delivery: Delivery) {
        self.known.push(delivery);
    }

    /// Takes the answers from the cache.
    pub(super) fn take_known(&mut self) -> Vec<Delivery> {
        mem::take(&mut self.known)
    }

    /// Removes a client, and returns the name that it waited for.
    pub(super) fn remove(&mut self, client: Key) -> Option<Box<str>> {
        self.position(client).ok().map(|at| self.pending.remove(at).1)
    }

    fn position(&self, client: Key) -> Result<usize, usize> {
        self.pending.binary_search_by_key(&client, |&(known, _)| known)
    }
}
