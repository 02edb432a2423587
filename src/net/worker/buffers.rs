//! The bytes that a worker holds for its clients and their pods between turns, and what happens at their limit: reading
//! pauses, and then the session that has held bytes longest is ended.
//!
//! [`crate::proxy::budget`] owns the sum and the order. This file does the counting and carries out the decisions.

use std::mem;

use super::Worker;
use crate::{
    net::{client::Client, network::Network, runner::held_bytes, slots::Key},
    proxy::{events::Event, tls_fault::TlsFault},
};

impl<N: Network> Worker<N> {
    /// Counts the bytes held for a client after a run, and notes whether it has to wait for room.
    pub(super) fn settle(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let (paused, pauses, mut counted) =
            (client.paused, mem::take(&mut client.lacks_room), client.counted);
        let Some(client) = self.clients.get(key) else { return };
        let upstream = client.upstream.and_then(|upstream| self.upstreams.get(upstream));
        let holds = held_bytes(client, upstream);
        let is_too_much = self.tools.budget.settle(key.slot(), &mut counted, holds);
        match (paused, pauses) {
            (false, true) => {
                self.tools.budget.pause(key.slot(), self.tools.now);
                self.counters().pauses.add(1);
            }
            (true, false) => self.tools.budget.resume(key.slot()),
            _ => {}
        }
        if let Some(client) = self.clients.get_mut(key) {
            (client.counted, client.paused) = (counted, pauses);
            let stalls = pauses || client.is_behind();
            client.unsettled = counted > 0 || stalls;
            self.tools.budget.set_stalled(key.slot(), stalls);
        }
        self.counters().buffered_bytes.set(self.tools.budget.held() as u64);
        if is_too_much {
            // A page of psystrike or a record of TLS: they are rendered and read without checking the budget.
            self.end_for_room(key, scratch);
        }
    }

    /// Removes a client that is gone from the budget.
    pub(super) fn forget_held(&mut self, slot: u32, client: &Client<N::Socket>) {
        if client.unsettled {
            self.tools.budget.forget(slot, client.counted);
            self.counters().buffered_bytes.set(self.tools.budget.held() as u64);
        }
    }

    /// Resumes paused sessions for which there is room now. If none came for too long, ends the session that has held
    /// bytes longest.
    pub(super) fn make_room_in_buffers(&mut self, scratch: &mut [u8]) {
        if !self.tools.budget.is_tight() {
            return; // almost always
        }
        self.resume_paused();
        let mut ended = false;
        while let Some(key) =
            self.tools.budget.next_to_end(self.tools.now).and_then(|slot| self.clients.key_at(slot))
        {
            self.end_for_room(key, scratch);
            ended = true;
        }
        if ended {
            self.tools.budget.made_room(self.tools.now);
            self.resume_paused();
        }
    }

    /// Returns how many sessions stall: for them bytes may wait in the kernel's buffers, which the budget does not
    /// count.
    pub fn stalled(&self) -> usize {
        self.tools.budget.stalled_count()
    }

    /// Ends one in eight of the stalled sessions, those stalled longest, because the process is about to run out of
    /// memory although the counted bytes are within their limit.
    pub fn relieve(&mut self) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..self.stalled().div_ceil(8) {
            let longest = self.tools.budget.longest_stalled().and_then(|slot| self.clients.key_at(slot));
            let Some(key) = longest else { break };
            self.end_for_room(key, &mut scratch);
        }
        self.scratch = scratch;
    }

    fn resume_paused(&mut self) {
        let mut woken = 0;
        while let Some(slot) = self.tools.budget.next_to_resume(woken, self.tools.now) {
            woken += 1;
            let Some(key) = self.clients.key_at(slot) else { continue };
            if let Some(client) = self.clients.get_mut(key) {
                client.paused = false;
            }
            self.enqueue(key);
        }
    }

    /// Ends a session to free the bytes it holds.
    fn end_for_room(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.stream.channel().may_be_handshaking() {
            return self.end_handshake(key, TlsFault::BuffersFull);
        }
        let client_stalled = client.is_stalled();
        client.input = Box::default();
        client.input_is_new = false;
        self.step(key, Event::NoRoom { client_stalled });
        self.run(key, scratch);
        // Its error response is smaller than the allowance. If the session holds more nevertheless, it is closed
        // without one.
        if self.clients.get(key).is_some_and(|client| client.counted > 0 || client.paused) {
            self.step(key, Event::NoRoom { client_stalled: true });
            self.remove_client(key);
        }
    }
}
