//! The checks of passwords that all workers share, and the thread that makes them: bcrypt takes a tenth of a second and
//! more, which no event loop may wait for.
//!
//! Owns the lock around [`crate::proxy::access::checks`]. There is one thread, as in Prometheus's exporters: more would
//! let clients with wrong passwords use more of the machine. It starts with the first check, and never ends.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use log::warn;

use super::{lookups::Asker, shared::Shared, slots::Key};
use crate::proxy::access::{
    checks::{Asked, Checked, Checks},
    users::{Login, LoginId},
};

/// Stack of the thread. bcrypt has 4 KiB on it.
const STACK_BYTES: usize = 64 * 1024;
/// The thread yields to those that serve scrapes.
const NICE: i32 = 10;

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
    fn wait_for_next(&self) -> Login {
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
        let mut workers: Vec<usize> = askers.iter().map(|asker| asker.worker).collect();
        workers.sort_unstable();
        workers.dedup();
        state.results.extend(askers.into_iter().map(|asker| (asker, id, checked)));
        workers
    }

    /// Notes whether there is a thread, and returns whether there was one.
    fn set_thread(&self, has_thread: bool) -> bool {
        std::mem::replace(&mut self.state().has_thread, has_thread)
    }
}

/// Starts the thread, unless it runs.
#[cold]
pub fn start(shared: &Arc<Shared>) {
    if shared.passwords().set_thread(true) {
        return;
    }
    let run = {
        let shared = Arc::clone(shared);
        move || check_passwords(&shared)
    };
    let thread = thread::Builder::new().name("passwords".to_owned()).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(run) {
        warn!("cannot start a thread to check passwords: {error}");
        shared.passwords().set_thread(false);
        while let Some(login) = shared.passwords().begin_next() {
            finish(shared, &login, Checked::Not);
        }
    }
}

fn check_passwords(shared: &Shared) {
    // In Linux this applies to the thread. If it fails, a check may delay scrapes on a machine with one core.
    let _ = rustix::process::nice(NICE);
    loop {
        let login = shared.passwords().wait_for_next();
        let is_right = login.check();
        login.remember(is_right, shared.now());
        finish(shared, &login, if is_right { Checked::Right } else { Checked::Wrong });
    }
}

fn finish(shared: &Shared, login: &Login, checked: Checked) {
    let workers = shared.passwords().finish(login.id(), checked);
    workers.into_iter().for_each(|worker| shared.wake(worker));
}
