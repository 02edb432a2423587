//! The name lookups that all workers share: waiting clients, queued names, and answers that are not collected yet.
//!
//! Owns the lock around [`crate::proxy::resolver`]. [`super::offload`] owns the threads that resolve names.

use std::{
    net::IpAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::slots::Key;
use crate::proxy::{
    outcome::LookupError,
    resolver::{Answer, Asked, RUNNING_MAX, Resolver},
    timestamp::Timestamp,
};

/// Maximum number of descriptors for resolving names. A lookup in glibc has a UDP socket for each server (`MAXNS`: 3)
/// and a TCP socket; one in musl has a UDP socket, and a TCP socket for each of two queries.
pub const DESCRIPTORS: usize = RUNNING_MAX * 4;

/// A client that waits for the addresses of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    /// The index of its worker.
    pub worker: usize,
    /// Its key there.
    pub client: Key,
}

/// The answer for a client: the client, the name in lower case, and the answer.
pub type Delivery = (Key, Arc<str>, Answer);

/// The lookups of a process.
#[derive(Debug, Default)]
pub struct Lookups {
    state: Mutex<State>,
    queued: Condvar,
}

#[derive(Debug, Default)]
struct State {
    resolver: Resolver<Asker>,
    /// Answers that workers have yet to collect.
    answers: Vec<(Asker, Arc<str>, Answer)>,
    threads: usize,
    /// Threads that wait for a lookup.
    idle: usize,
}

impl Lookups {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests the addresses of a name ([`Resolver::ask`]).
    pub fn ask(&self, name: &str, asker: Asker, now: Timestamp, ttl: Duration) -> Asked {
        let asked = self.state().resolver.ask(name, asker, now, ttl);
        if asked == Asked::Queued {
            self.queued.notify_one();
        }
        asked
    }

    /// Stops waiting for the addresses of a name ([`Resolver::cancel`]).
    pub fn cancel(&self, name: &str, asker: Asker) {
        self.state().resolver.cancel(name, &asker);
    }

    /// Takes the answers for the clients of a worker.
    pub fn collect(&self, worker: usize) -> Vec<Delivery> {
        let mut state = self.state();
        let is_its = |(asker, ..): &mut (Asker, _, _)| asker.worker == worker;
        let taken = state.answers.extract_if(.., is_its);
        taken.map(|(asker, name, answer)| (asker.client, name, answer)).collect()
    }

    /// Takes the next lookup, if there is one ([`Resolver::begin_next`]).
    pub fn begin_next(&self) -> Option<Arc<str>> {
        self.state().resolver.begin_next()
    }

    /// Waits for the next lookup, and returns it.
    pub fn wait_for_next(&self) -> Arc<str> {
        let mut state = self.state();
        loop {
            if let Some(name) = state.resolver.begin_next() {
                return name;
            }
            state.idle += 1;
            state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Stores the answer of a lookup ([`Resolver::finish`]). Returns the workers that have to be woken.
    pub fn finish(
        &self,
        name: &Arc<str>,
        found: Result<Vec<IpAddr>, LookupError>,
        took: Duration,
        now: Timestamp,
    ) -> Vec<usize> {
        let mut state = self.state();
        let (answer, askers) = state.resolver.finish(name, found, took, now);
        let mut workers: Vec<usize> = askers.iter().map(|asker| asker.worker).collect();
        workers.dedup(); // the waiters are in the order of their workers
        state.answers.extend(askers.into_iter().map(|asker| (asker, Arc::clone(name), answer.clone())));
        workers
    }

    /// Returns whether another thread is to be started, and counts it. One thread is needed for each lookup that is
    /// queued or in progress, up to a limit.
    pub fn add_thread(&self) -> bool {
        let mut state = self.state();
        let is_needed = state.resolver.queued() > state.idle && state.threads < RUNNING_MAX;
        state.threads += usize::from(is_needed);
        is_needed
    }

    /// Counts a thread that could not be started. Returns whether no thread is left.
    pub fn remove_thread(&self) -> bool {
        let mut state = self.state();
        state.threads -= 1;
        state.threads == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::slots::KEYS_FROM;

    fn asker(worker: usize, slot: usize) -> Asker {
        Asker { worker, client: Key::from_bits(KEYS_FROM + slot) }
    }

    #[test]
    fn answers_go_to_the_workers_of_the_waiting_clients() {
        let (lookups, now, ttl) = (Lookups::default(), Timestamp::default(), Duration::from_secs(5));
        for asker in [asker(1, 1), asker(0, 2), asker(1, 3)] {
            lookups.ask("A.example", asker, now, ttl);
        }
        let name = lookups.begin_next().expect("a lookup is queued");
        let ip: IpAddr = [10, 0, 0, 1].into();
        assert_eq!(lookups.finish(&name, Ok(vec![ip]), Duration::ZERO, now), [0, 1]);
        let clients = |worker| -> Vec<Key> {
            let collected = lookups.collect(worker);
            assert!(
                collected
                    .iter()
                    .all(|(_, name, answer)| { &**name == "a.example" && *answer == Ok([ip].into()) })
            );
            collected.into_iter().map(|(client, ..)| client).collect()
        };
        assert_eq!(clients(1), [asker(1, 1).client, asker(1, 3).client]);
        assert_eq!(clients(0), [asker(0, 2).client]);
        assert_eq!([clients(0), clients(1)], [[], []]);
    }

    #[test]
    fn threads_are_started_as_needed_up_to_a_limit() {
        let (lookups, now, ttl) = (Lookups::default(), Timestamp::default(), Duration::from_secs(5));
        assert!(!lookups.add_thread(), "no lookup is queued");
        for slot in 0..RUNNING_MAX + 2 {
            lookups.ask(&format!("n{slot}"), asker(0, slot), now, ttl);
            assert_eq!(lookups.add_thread(), slot < RUNNING_MAX);
        }
        for left in (0..RUNNING_MAX).rev() {
            assert_eq!(lookups.remove_thread(), left == 0);
        }
        let mut state = lookups.state();
        state.idle = state.resolver.queued();
        drop(state);
        assert!(!lookups.add_thread(), "enough threads are idle");
    }
}
