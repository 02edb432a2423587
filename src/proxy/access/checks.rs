//! The queue of passwords to be checked, and the clients that wait for each.
//!
//! Owns the limits of the queue and the order of the checks. Never checks a password.

use super::{
    attempts::address_key,
    users::{Login, LoginId},
};

/// Maximum number of passwords that wait for a check.
pub const QUEUE_MAX: usize = 64;
/// Maximum number of them from one address, so that no client fills the queue alone.
pub const OF_ADDRESS_MAX: usize = 8;
/// Maximum number of clients that wait for the check of one password: more than a Prometheus with 10,000 targets opens
/// in a second.
pub const WAITERS_MAX: usize = 1024;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The password is right.
    Right,
    /// The password is wrong, or the user is unknown.
    Wrong,
    /// Too many passwords or clients wait for a check, or no thread checks them.
    Not,
}

/// The result of requesting a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The check was queued: a thread is needed for it.
    Queued,
    /// This password is queued or being checked already.
    Shared,
    /// The queue is full, or too many clients wait for this password.
    Full,
}

/// Queued checks and the one in progress, each with its waiters, identified by a `W`.
#[derive(Debug)]
pub struct Checks<W>(Vec<Check<W>>);

#[derive(Debug)]
struct Check<W> {
    login: Login,
    waiters: Vec<W>,
    has_begun: bool,
}

impl<W> Default for Checks<W> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<W: PartialEq> Checks<W> {
    /// Requests a check, for a waiter.
    pub fn ask(&mut self, login: &Login, waiter: W) -> Asked {
        if let Some(check) = self.get_mut(login.id()) {
            if check.waiters.len() >= WAITERS_MAX {
                return Asked::Full;
            }
            check.waiters.push(waiter);
            return Asked::Shared;
        }
        let from = address_key(login.address());
        let of_address = self.0.iter().filter(|check| address_key(check.login.address()) == from).count();
        if self.0.len() >= QUEUE_MAX || of_address >= OF_ADDRESS_MAX {
            return Asked::Full;
        }
        self.0.push(Check { login: login.copy(), waiters: vec![waiter], has_begun: false });
        Asked::Queued
    }

    /// Removes a waiter. A check without waiters is removed too, unless it is in progress.
    pub fn cancel(&mut self, id: LoginId, waiter: &W) {
        if let Some(check) = self.get_mut(id) {
            check.waiters.retain(|known| known != waiter);
            self.0.retain(|check| check.has_begun || !check.waiters.is_empty());
        }
    }

    fn get_mut(&mut self, id: LoginId) -> Option<&mut Check<W>> {
        self.0.iter_mut().find(|check| check.login.id() == id)
    }

    /// Takes the next password to check. [`finish`](Self::finish) has to follow.
    pub fn begin_next(&mut self) -> Option<Login> {
        let next = self.0.iter_mut().find(|check| !check.has_begun)?;
        next.has_begun = true;
        Some(next.login.copy())
    }

    /// Removes a check that is done, and returns its waiters.
    pub fn finish(&mut self, id: LoginId) -> Vec<W> {
        let at = self.0.iter().position(|check| check.login.id() == id);
        at.map(|at| self.0.remove(at).waiters).unwrap_or_default()
    }
}

#[cfg(all(test, feature = "web-config"))]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use super::*;
    use crate::proxy::{
        access::{
            bcrypt::PasswordHash,
            users::{Users, Verdict},
        },
        timestamp::Timestamp,
    };

    /// The login of this number, from the address of this number.
    fn login(number: usize, address: u32) -> Login {
        let users = vec![("alice".to_owned(), PasswordHash::unmatched(4))];
        let users = Arc::new(Users::new(users, [7; 16]));
        let from = IpAddr::V4(address.into());
        let password = number.to_string();
        match users.judge(b"alice", password.as_bytes(), Some(from), Timestamp::default()) {
            Verdict::Unchecked(login) => login,
            known => panic!("{known:?}"),
        }
    }

    #[test]
    fn a_password_is_checked_once_for_all_that_wait_for_it() {
        let mut checks = Checks::default();
        assert_eq!(checks.ask(&login(1, 1), 'a'), Asked::Queued);
        assert_eq!(checks.ask(&login(2, 1), 'b'), Asked::Queued);
        assert_eq!(checks.ask(&login(1, 2), 'c'), Asked::Shared);
        let first = checks.begin_next().expect("a check");
        assert_eq!(first.id(), login(1, 1).id());
        assert_eq!(checks.ask(&login(1, 3), 'd'), Asked::Shared, "it is in progress");
        assert_eq!(checks.finish(first.id()), ['a', 'c', 'd']);
        assert_eq!(checks.begin_next().map(|login| login.id()), Some(login(2, 1).id()));
        assert_eq!(checks.begin_next().map(|login| login.id()), None);
        assert_eq!(checks.finish(login(2, 1).id()), ['b']);
        assert_eq!(checks.finish(login(2, 1).id()), [], "it is done already");
    }

    #[test]
    fn a_cancelled_check_is_not_made_unless_others_wait_or_it_is_in_progress() {
        let mut checks = Checks::default();
        for (number, waiter) in [(1, 'a'), (2, 'b'), (2, 'c'), (3, 'd')] {
            checks.ask(&login(number, 1), waiter);
        }
        let first = checks.begin_next().expect("a check");
        for (number, waiter) in [(1, 'a'), (2, 'b'), (3, 'd'), (4, 'e')] {
            checks.cancel(login(number, 1).id(), &waiter);
        }
        assert_eq!(checks.finish(first.id()), []);
        let second = checks.begin_next().expect("another one waits");
        assert_eq!((second.id(), checks.begin_next().is_none()), (login(2, 1).id(), true));
        assert_eq!(checks.finish(second.id()), ['c']);
    }

    #[test]
    fn the_queue_is_limited_as_a_whole_and_for_each_address() {
        let mut checks = Checks::default();
        for number in 0..OF_ADDRESS_MAX {
            assert_eq!(checks.ask(&login(number, 1), 'a'), Asked::Queued);
        }
        assert_eq!(checks.ask(&login(100, 1), 'a'), Asked::Full);
        assert_eq!(checks.ask(&login(0, 1), 'b'), Asked::Shared);
        for number in OF_ADDRESS_MAX..QUEUE_MAX {
            assert_eq!(checks.ask(&login(number, number as u32 + 1), 'a'), Asked::Queued);
        }
        assert_eq!(checks.ask(&login(100, 100), 'a'), Asked::Full);
        let first = checks.begin_next().expect("a check");
        assert_eq!(checks.ask(&login(100, 100), 'a'), Asked::Full, "it is in progress");
        checks.finish(first.id());
        assert_eq!(checks.ask(&login(100, 100), 'a'), Asked::Queued);
    }

    #[test]
    fn only_some_clients_wait_for_one_password() {
        let mut checks = Checks::default();
        let asked: Vec<Asked> = (0..=WAITERS_MAX).map(|waiter| checks.ask(&login(1, 1), waiter)).collect();
        let count = |asked_for| asked.iter().filter(|&&asked| asked == asked_for).count();
        assert_eq!([Asked::Queued, Asked::Shared, Asked::Full].map(count), [1, WAITERS_MAX - 1, 1]);
        checks.cancel(login(1, 1).id(), &0);
        assert_eq!(checks.ask(&login(1, 1), 0), Asked::Shared, "one left");
        assert_eq!(checks.finish(login(1, 1).id()).len(), WAITERS_MAX);
    }
}
