//! TLS handshakes: how many run in one turn, with clients and with pods. Ends one with a client if too many are in
//! progress, and reports why they fail.
//!
//! [`crate::net::handshakes`] owns the limit. A handshake takes as long as dozens of scrapes, so it runs like a long
//! response ([`Client::is_bulk`]): after clients with little to do, and only a few in one turn. Its deadline is that of
//! the first request's head, or of connecting to the pod.

use super::Worker;
use crate::{
    net::{
        client::Client,
        handshakes::{HANDSHAKE_BYTES, STALLED_BYTES},
        network::Network,
        slots::Key,
        transport::channel::Handshake,
    },
    proxy::{events::Event, tls_fault::TlsFault},
};

impl<N: Network> Worker<N> {
    /// Notes whether a client is in a handshake after a run, and ends one if there are too many.
    #[inline(never)]
    pub(super) fn note_handshake(&mut self, key: Key) {
        let Some(client) = self.clients.get(key) else { return };
        self.handshakes.note(key.slot(), client.stream.channel().handshake());
        if self.handshakes.are_too_many() {
            self.end_surplus_handshake();
        }
    }

    /// Returns how far a client's handshake is; `None` if none can begin. One with its pod counts as answered: each of
    /// its few steps may take long.
    #[inline]
    pub(super) fn handshake_of(&self, key: Key) -> Option<Handshake> {
        let client = self.clients.get(key)?;
        let channel = client.stream.channel();
        let of_pod = client.is_handshaking_with_pod().then_some(Handshake::Answered);
        of_pod.or_else(|| channel.may_be_handshaking().then(|| channel.handshake()))
    }

    /// Returns how many bytes of a turn the last run of a client counts for because of its handshake.
    #[inline]
    pub(super) fn handshake_bytes(&self, key: Key, before: Option<Handshake>) -> usize {
        let after = self.handshake_of(key);
        match before {
            None => 0,
            Some(_) if self.clients.get(key).is_some_and(Client::is_handshaking_with_pod) => HANDSHAKE_BYTES,
            Some(_) if after == before || after == Some(Handshake::Begun) => STALLED_BYTES,
            Some(_) => HANDSHAKE_BYTES,
        }
    }

    /// Ends a handshake, preferably one that waits for its client.
    fn end_surplus_handshake(&mut self) {
        let clients = &self.clients;
        let waits = |slot| clients.key_at(slot).and_then(|key| clients.get(key)).is_some_and(|it| !it.queued);
        let surplus = self.handshakes.surplus(waits);
        if let Some(key) = surplus.and_then(|slot| self.clients.key_at(slot)) {
            self.end_handshake(key, TlsFault::TooMany);
        }
    }

    /// Ends the handshake of a client, which cannot read a response yet, and closes its connection.
    pub(super) fn end_handshake(&mut self, key: Key, fault: TlsFault) {
        if let Some(client) = self.clients.get_mut(key) {
            client.stream.channel_mut().fail(fault);
        }
        self.step(key, Event::ClientGone);
    }

    /// Forgets a client that is gone. Counts and logs why TLS with it failed, if it did.
    #[inline]
    pub(super) fn leave_handshake(&mut self, slot: u32, client: &Client<N::Socket>) {
        self.handshakes.note(slot, Handshake::None);
        if let Some(fault) = client.stream.channel().fault() {
            self.report_fault(fault, client);
        }
    }

    fn report_fault(&mut self, fault: TlsFault, client: &Client<N::Socket>) {
        self.counters().tls_failures[fault as usize].add(1);
        self.journal.tls_failure(fault, client.facts.ip, self.tools.now);
    }
}
