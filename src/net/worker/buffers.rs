//! What a worker keeps for its clients and their pods between turns, in bytes, and what happens when that is as much
//! as it may keep: reading pauses, and then the session that has held bytes longest is ended.
//!
//! The sum and the order are [`crate::proxy::budget`]'s. Here is what is counted, and what is done.

use std::mem;

use super::Worker;
use crate::{
    net::{client::Client, network::Network, runner::held_bytes, slots::Key},
    proxy::events::Event,
};

impl<N: Network> Worker<N> {
    /// Counts what is kept for a client after it went on, and notes whether it has to wait for room.
    #[cold]
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
            // A page of ours, which nobody asked the budget for.
            self.end_for_room(key, scratch);
        }
    }

    /// A client is gone, and what was kept for it.
    pub(super) fn forget_held(&mut self, slot: u32, client: &Client<N::Socket>) {
        if client.unsettled {
            self.tools.budget.forget(slot, client.counted);
            self.counters().buffered_bytes.set(self.tools.budget.held() as u64);
        }
    }

    /// Has those go on for whom there is room by now. Where none came for too long, ends who has held bytes longest.
    pub(super) fn make_room_in_buffers(&mut self, scratch: &mut [u8]) {
        if !self.tools.budget.is_tight() {
            return; // as almost always
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

    /// How many sessions stall: for them bytes may wait in the kernel's buffers, which nobody here counts.
    pub fn stalled(&self) -> usize {
        self.tools.budget.stalled_count()
    }

    /// The process is about to be out of memory, although what is counted is within bounds. Ends one in eight of the
    /// sessions that stall, those that have stalled longest.
    #[cold]
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

    /// Ends a session for what it holds, which is gone then.
    fn end_for_room(&mut self, key: Key, scratch: &mut [u8]) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let client_stalled = client.is_stalled();
        client.input = Box::default();
        client.input_is_new = false;
        self.step(key, Event::NoRoom { client_stalled });
        self.run(key, scratch);
        // What it is told is less than every session may hold. If it holds more after all, it goes untold.
        if self.clients.get(key).is_some_and(|client| client.counted > 0 || client.paused) {
            self.step(key, Event::NoRoom { client_stalled: true });
            self.remove_client(key);
        }
    }
}
