//! The checks of passwords that all workers share: those that wait, and results that are not collected yet.
//!
//! Owns the lock around [`crate::proxy::access::checks`]. [`super::offload`] owns the thread that makes them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{lookups::Asker, slots::Key};
use crate::proxy::access::{
    checks::{Asked, Checked, Checks},
    users::{Login, LoginId},
};

/// The result of a check for a client: the client, the login, and the result.
pub type Verdict = (Key, LoginId, Checked);

/// The checks of a process.
#[derive(Debug, Default)]
pub struct PasswordChecks {
    state: Mutex<State>,
    queued: Condvar,
}

#[derive(Debug, Default)]
struct State {
    checks: Checks<Asker>,
    /// Results that workers have yet to collect.
    results: Vec<(Asker, LoginId, Checked)>,
    has_thread: bool,
}

impl PasswordChecks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a check ([`Checks::ask`]).
    pub fn ask(&self, login: &Login, asker: Asker) -> Asked {
        let asked = self.state().checks.ask(login, asker);
        if asked == Asked::Queued {
            self.queued.notify_one();
        }
        asked
    }

    /// Stops waiting for a check ([`Checks::cancel`]).
    pub fn cancel(&self, id: LoginId, asker: Asker) {
        self.state().checks.cancel(id, &asker);
    }

    /// Takes the results for the clients of a worker.
    pub fn collect(&self, worker: usize) -> Vec<Verdict> {
        let mut state = self.state();
        let taken = state.results.extract_if(.., |(asker, ..)| asker.worker == worker);
        taken.map(|(asker, id, checked)| (asker.client, id, checked)).collect()
    }

    /// Takes the next check, if there is one ([`Checks::begin_next`]).
    pub fn begin_next(&self) -> Option<Login> {
        self.state().checks.begin_next()
    }

    /// Waits for the next check, and returns it.
    pub fn wait_for_next(&self) -> Login {
        let mut state = self.state();
        loop {
            if let Some(login) = state.checks.begin_next() {
                return login;
            }
            state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stores the result of a check. Returns the workers that have to be woken.
    pub fn finish(&self, id: LoginId, checked: Checked) -> Vec<usize> {
        let mut state = self.state();
        let askers = state.checks.finish(id);
        let mut workers = Vec::new();
        for asker in askers {
            if !workers.contains(&asker.worker) {
                workers.push(asker.worker);
            }
            state.results.push((asker, id, checked));
        }
        workers
    }

    /// Notes whether there is a thread, and returns whether there was one.
    pub fn set_thread(&self, has_thread: bool) -> bool {
        std::mem::replace(&mut self.state().has_thread, has_thread)
    }
}

#[cfg(all(test, feature = "web-config"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        net::slots::KEYS_FROM,
        proxy::{
            access::{
                bcrypt::PasswordHash,
                users::{Users, Verdict as Known},
            },
            timestamp::Timestamp,
        },
    };

    fn asker(worker: usize, slot: usize) -> Asker {
        Asker { worker, client: Key::from_bits(KEYS_FROM + slot) }
    }

    #[test]
    fn results_go_to_the_workers_of_the_waiting_clients() {
        let users = vec![("alice".to_owned(), PasswordHash::unmatched(4))];
        let users = Arc::new(Users::new(users, [7; 16]));
        let Known::Unchecked(login) = users.judge(b"alice", b"wrong", None, Timestamp::default()) else {
            panic!("it is known")
        };
        let checks = PasswordChecks::default();
        let askers = [asker(1, 1), asker(0, 2), asker(1, 3), asker(2, 4)];
        let asked = askers.map(|asker| checks.ask(&login, asker));
        assert_eq!(asked, [Asked::Queued, Asked::Shared, Asked::Shared, Asked::Shared]);
        checks.cancel(login.id(), askers[3]);
        assert_eq!(checks.wait_for_next().id(), login.id());
        assert!(checks.begin_next().is_none());
        assert_eq!(checks.finish(login.id(), Checked::Wrong), [1, 0]);
        let result = |asker: Asker| (asker.client, login.id(), Checked::Wrong);
        assert_eq!(checks.collect(1), [result(askers[0]), result(askers[2])]);
        assert_eq!(checks.collect(0), [result(askers[1])]);
        assert_eq!([checks.collect(0), checks.collect(1), checks.collect(2)], [[], [], []]);
        assert!(!checks.set_thread(true) && checks.set_thread(true));
    }
}
