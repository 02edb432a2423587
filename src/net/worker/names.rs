//! Requests the addresses of names for the clients of a worker, and delivers the answers.
//!
//! An answer reaches a client by its key, and only while its exchange waits for that name: a client that got another
//! response in the meantime and now waits for another name does not receive it.

use super::Worker;
use crate::{
    net::{lookups::Asker, network::Network, slots::Key},
    proxy::{events::Event, resolver::Asked},
};

impl<N: Network> Worker<N> {
    fn asker(&self, client: Key) -> Asker {
        Asker { worker: self.index, client }
    }

    /// Looks up the name that a client's exchange waits for.
    pub(super) fn resolve(&mut self, key: Key) {
        let Some(name) = self.clients.get(key).and_then(|client| client.session.name()) else { return };
        let ttl = self.tools.settings.timeouts.resolve_ttl;
        let asked = self.shared.lookups().ask(name, self.asker(key), self.tools.now, ttl);
        match asked {
            Asked::Known(answer) => {
                self.names.add_known((key, name.to_ascii_lowercase().into(), answer));
                return;
            }
            Asked::Queued => self.tools.network.look_up(&self.shared),
            Asked::Shared => {}
        }
        self.names.add(key, name.into());
    }

    /// Delivers the answers that arrived since the last turn or were cached.
    #[inline]
    pub(super) fn deliver_answers(&mut self, scratch: &mut [u8]) {
        if self.names.is_due() || self.names.has_pending() {
            self.deliver_each(scratch); // almost never
        }
    }

    fn deliver_each(&mut self, scratch: &mut [u8]) {
        let mut answers = self.names.take_known();
        if self.names.has_pending() {
            answers.extend(self.shared.lookups().collect(self.index));
        }
        for (key, name, answer) in answers {
            let asked = self.clients.get(key).and_then(|client| client.session.name());
            if asked.is_some_and(|asked| asked.eq_ignore_ascii_case(&name)) {
                self.names.remove(key);
                self.step(key, Event::Resolved(&answer));
                self.run(key, scratch);
            }
        }
    }

    /// Removes a client from the waiters of its lookup.
    #[inline]
    pub(super) fn stop_resolving(&mut self, key: Key) {
        if self.names.has_pending() {
            self.cancel(key);
        }
    }

    fn cancel(&mut self, key: Key) {
        if let Some(name) = self.names.remove(key) {
            self.shared.lookups().cancel(&name, self.asker(key));
        }
    }
}
