//! The clients of one worker that wait for the addresses of a name.
//!
//! Owns who waits for which name, and the answers that were known at once.

use std::mem;

use super::{lookups::Delivery, slots::Key};

/// Clients that wait for addresses.
#[derive(Debug, Default)]
pub(super) struct PendingNames {
    /// The names of look-ups that are queued or under way.
    /// In the order of their clients.
    pending: Vec<(Key, Box<str>)>,
    /// Answers that were known already.
    known: Vec<Delivery>,
}

impl PendingNames {
    /// Returns whether an answer can be delivered at once.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        !self.known.is_empty()
    }

    /// Returns whether a look-up is queued or under way.
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Adds a client that waits for a look-up.
    pub(super) fn add(&mut self, client: Key, name: Box<str>) {
        match self.position(client) {
            Ok(at) => self.pending[at].1 = name,
            Err(at) => self.pending.insert(at, (client, name)),
        }
    }

    /// Adds an answer that was known already.
    pub(super) fn add_known(&mut self, delivery: Delivery) {
        self.known.push(delivery);
    }

    /// Takes the answers that were known already.
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
