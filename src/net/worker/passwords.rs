//! Requests the checks of passwords for the clients of a worker, and delivers their results.
//!
//! A result reaches a client by its key, and only while its exchange waits for the check of that login.

use super::Worker;
use crate::{
    net::{lookups::Asker, network::Network, slots::Key},
    proxy::{
        access::{
            checks::{Asked, Checked},
            users::LoginId,
        },
        events::Event,
    },
};

impl<N: Network> Worker<N> {
    /// Has the password checked that a client's exchange waits for. Returns the event that results at once, if any.
    pub(super) fn check_password(&mut self, key: Key) -> Option<Event<'static>> {
        let login = self.clients.get(key).and_then(|client| client.session.login())?;
        let id = login.id();
        match self.shared.passwords().ask(login, Asker { worker: self.index, client: key }) {
            Asked::Full => return Some(Event::PasswordChecked(Checked::Not)),
            Asked::Queued => self.tools.network.check_passwords(&self.shared),
            Asked::Shared => {}
        }
        match self.position(key) {
            Ok(at) => self.password_checks[at].1 = id,
            Err(at) => self.password_checks.insert(at, (key, id)),
        }
        None
    }

    /// Returns where a client is among those that wait, which are in the order of their keys.
    fn position(&self, key: Key) -> Result<usize, usize> {
        self.password_checks.binary_search_by_key(&key, |&(known, _)| known)
    }

    /// Removes a client from those that wait, and returns the login that it waited for.
    fn remove_waiting(&mut self, key: Key) -> Option<LoginId> {
        self.position(key).ok().map(|at| self.password_checks.remove(at).1)
    }

    /// Delivers the results that arrived since the last turn.
    #[inline]
    pub(super) fn deliver_password_checks(&mut self, scratch: &mut [u8]) {
        if cfg!(feature = "web-config") && !self.password_checks.is_empty() {
            self.deliver_each_check(scratch); // almost never
        }
    }

    fn deliver_each_check(&mut self, scratch: &mut [u8]) {
        for (key, id, checked) in self.shared.passwords().collect(self.index) {
            let waits_for = self.clients.get(key).and_then(|client| client.session.login());
            if waits_for.is_some_and(|login| login.id() == id) {
                self.remove_waiting(key);
                self.step(key, Event::PasswordChecked(checked));
                self.run(key, scratch);
            }
        }
    }

    /// Removes a client from the waiters of its check.
    #[inline]
    pub(super) fn stop_checking(&mut self, key: Key) {
        if cfg!(feature = "web-config") && !self.password_checks.is_empty() {
            self.cancel_check(key);
        }
    }

    fn cancel_check(&mut self, key: Key) {
        if let Some(id) = self.remove_waiting(key) {
            self.shared.passwords().cancel(id, Asker { worker: self.index, client: key });
        }
    }
}
