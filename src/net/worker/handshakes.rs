//! TLS handshakes with clients: how many may be in progress, and why they fail.
//!
//! A handshake takes as long as dozens of scrapes, so it runs like a long response ([`Client::is_bulk`]): after clients
//! with little to do, and only a few in one turn. Its deadline is that of the first request's head.

use super::Worker;
use crate::{
    net::{client::Client, network::Network, slots::Key},
    proxy::{events::Event, lru::LruList, tls_fault::TlsFault},
};

/// Maximum number of handshakes in progress on one worker. One that begins beyond it ends the one that began first: an
/// honest client takes a round trip or two, and so is never the first among this many.
const HANDSHAKES_MAX: usize = 512;
/// How many bytes of a turn a handshake counts for: with RSA, it takes as long as this many bytes of a long response.
pub(super) const HANDSHAKE_BYTES: usize = 256 * 1024;

/// The clients in a handshake, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    order: LruList,
    len: usize,
}

impl Handshakes {
    /// Notes whether a client is in a handshake.
    #[inline]
    fn note(&mut self, slot: u32, shakes_hands: bool) {
        if !shakes_hands && self.len == 0 {
            return; // always, without TLS
        }
        match (self.order.contains(slot), shakes_hands) {
            (false, true) => {
                self.order.push(slot);
                self.len += 1;
            }
            (true, false) => {
                self.order.remove(slot);
                self.len -= 1;
            }
            _ => {}
        }
    }

    /// Returns the client that began first, if there are too many.
    #[inline]
    fn surplus(&self) -> Option<u32> {
        if self.len > HANDSHAKES_MAX { self.order.oldest() } else { None }
    }
}

impl<N: Network> Worker<N> {
    /// Notes whether a client is in a handshake after a run, and ends one if there are too many.
    #[inline]
    pub(super) fn note_handshake(&mut self, key: Key) {
        let Some(client) = self.clients.get(key) else { return };
        self.handshakes.note(key.slot(), client.stream.channel().is_handshaking());
        if let Some(first) = self.handshakes.surplus().and_then(|slot| self.clients.key_at(slot)) {
            self.end_handshake(first);
        }
    }

    #[cold]
    fn end_handshake(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key) {
            client.stream.channel_mut().fail(TlsFault::TooMany);
        }
        self.step(key, Event::ClientGone);
    }

    /// Forgets a client that is gone. Counts and logs why TLS with it failed, if it did.
    #[inline]
    pub(super) fn leave_handshake(&mut self, slot: u32, client: &Client<N::Socket>) {
        self.handshakes.note(slot, false);
        if let Some(fault) = client.stream.channel().fault() {
            self.report_fault(fault, client);
        }
    }

    #[cold]
    fn report_fault(&mut self, fault: TlsFault, client: &Client<N::Socket>) {
        self.counters().tls_failures[fault as usize].add(1);
        self.journal.tls_failure(fault, client.facts.ip, self.tools.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_too_many_handshakes_is_the_surplus() {
        let mut handshakes = Handshakes::default();
        for slot in 0..HANDSHAKES_MAX as u32 {
            handshakes.note(slot, true);
            handshakes.note(slot, true);
            assert_eq!(handshakes.surplus(), None, "{slot}");
        }
        handshakes.note(1000, true);
        assert_eq!(handshakes.surplus(), Some(0));
        handshakes.note(0, false);
        handshakes.note(0, false);
        assert_eq!(handshakes.surplus(), None);
        handshakes.note(1001, true);
        assert_eq!(handshakes.surplus(), Some(1));
    }
}
