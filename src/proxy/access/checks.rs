//! The queue of passwords to be checked, and the clients that wait for each.
//!
//! Owns the limits of the queue and the order of the checks. Never checks a password.
//!
//! A check takes a tenth of a second and more, and everyone can request them. So addresses take turns: each has one
//! check in a round, and a check that comes later than others is not in an earlier round. A client with a right
//! password then waits for one check of each address that was there before it, however many these have queued, and for
//! none of those that come later.

use super::{
    attempts::address_key,
    users::{Login, LoginId},
};

/// Maximum number of passwords that wait for a check.
pub const QUEUE_MAX: usize = 512;
/// Maximum number of them from one address, so that 128 addresses are needed to fill the queue.
pub const OF_ADDRESS_MAX: usize = 4;
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
pub struct Checks<W> {
    checks: Vec<Check<W>>,
    /// The round of the last check that has begun.
    round: u64,
}

#[derive(Debug)]
struct Check<W> {
    login: Login,
    /// What counts of the address that it came from.
    from: u128,
    round: u64,
    waiters: Vec<W>,
    has_begun: bool,
}

impl<W> Default for Checks<W> {
    fn default() -> Self {
        Self { checks: Vec::new(), round: 0 }
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
        let of_address = || self.checks.iter().filter(|check| check.from == from);
        if self.checks.len() >= QUEUE_MAX || of_address().count() >= OF_ADDRESS_MAX {
            return Asked::Full;
        }
        let after = of_address().map(|check| check.round + 1).max();
        let round = after.map_or(self.round, |after| after.max(self.round));
        self.checks.push(Check { login: login.copy(), from, round, waiters: vec![waiter], has_begun: false });
        Asked::Queued
    }

    /// Removes a waiter. Its check is made nevertheless: if the queue is longer than the client's time limit, the
    /// result is known when the client comes again.
    pub fn cancel(&mut self, id: LoginId, waiter: &W) {
        if let Some(check) = self.get_mut(id) {
            check.waiters.retain(|known| known != waiter);
        }
    }

    fn get_mut(&mut self, id: LoginId) -> Option<&mut Check<W>> {
        self.checks.iter_mut().find(|check| check.login.id() == id)
    }

    /// Takes the next password to check. [`finish`](Self::finish) has to follow.
    pub fn begin_next(&mut self) -> Option<Login> {
        let waiting = self.checks.iter_mut().filter(|check| !check.has_begun);
        let next = waiting.min_by_key(|check| check.round)?; // the first one of a round
        next.has_begun = true;
        self.round = next.round;
        Some(next.login.copy())
    }

    /// Removes a check that is done, and returns its waiters.
    pub fn finish(&mut self, id: LoginId) -> Vec<W> {
        let at = self.checks.iter().position(|check| check.login.id() == id);
        at.map(|at| self.checks.remove(at).waiters).unwrap_or_default()
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
    fn a_check_is_made_although_its_waiters_have_left() {
        let mut checks = Checks::default();
        for (number, waiter) in [(1, 'a'), (2, 'b'), (2, 'c'), (3, 'd')] {
            checks.ask(&login(number, 1), waiter);
        }
        let first = checks.begin_next().expect("a check");
        for (number, waiter) in [(1, 'a'), (2, 'b'), (3, 'd'), (4, 'e')] {
            checks.cancel(login(number, 1).id(), &waiter);
        }
        assert_eq!(checks.finish(first.id()), []);
        for (number, waiters) in [(2, &['c'][..]), (3, &[])] {
            let next = checks.begin_next().expect("a check");
            assert_eq!((next.id(), checks.finish(next.id())), (login(number, 1).id(), waiters.to_vec()));
        }
        assert!(checks.begin_next().is_none());
    }

    /// Makes the next check, and returns its number.
    fn check_next(checks: &mut Checks<char>) -> Option<usize> {
        let next = checks.begin_next()?.id();
        checks.finish(next);
        (0..10_000).find(|&number| login(number, 0).id() == next)
    }

    #[test]
    fn addresses_take_turns() {
        let mut checks = Checks::default();
        for (number, address) in [(10, 1), (11, 1), (12, 1), (20, 2), (21, 2), (30, 3)] {
            checks.ask(&login(number, address), 'a');
        }
        let order: Vec<_> = (0..4).filter_map(|_| check_next(&mut checks)).collect();
        assert_eq!(order, [10, 20, 30, 11]);
        checks.ask(&login(31, 3), 'a');
        checks.ask(&login(40, 4), 'a');
        let order: Vec<_> = std::iter::from_fn(|| check_next(&mut checks)).collect();
        assert_eq!(order, [21, 31, 40, 12], "new ones are in the current round");
    }

    #[test]
    fn as_many_addresses_as_fill_the_queue_delay_another_by_one_check_each() {
        let mut checks = Checks::default();
        let attackers = 1..(QUEUE_MAX / OF_ADDRESS_MAX) as u32;
        let fill = |checks: &mut Checks<char>, round: usize| {
            for attacker in attackers.clone() {
                for number in 0..OF_ADDRESS_MAX {
                    checks.ask(&login(1000 * round + 10 * attacker as usize + number, attacker), 'a');
                }
            }
        };
        fill(&mut checks, 1);
        assert_eq!(checks.ask(&login(1, 1000), 'b'), Asked::Queued);
        let made = (0..).find(|&round| {
            let next = check_next(&mut checks);
            fill(&mut checks, 2 + round);
            next == Some(1)
        });
        assert!(made <= Some(attackers.len()), "{made:?}");
    }

    #[test]
    fn addresses_that_come_later_do_not_come_first() {
        let mut checks = Checks::default();
        for address in 1..=10 {
            checks.ask(&login(1000 + address as usize, address), 'a');
        }
        checks.ask(&login(1, 500), 'b');
        let made = (0..100).find(|&round| {
            checks.ask(&login(2000 + round, 600 + round as u32), 'a'); // another address each time
            check_next(&mut checks) == Some(1)
        });
        assert_eq!(made, Some(10), "after those that were there before");
    }

    #[test]
    fn the_queue_is_limited_as_a_whole_and_for_each_address() {
        let mut checks = Checks::default();
        for number in 0..OF_ADDRESS_MAX {
            assert_eq!(checks.ask(&login(number, 1), 'a'), Asked::Queued);
        }
        assert_eq!(checks.ask(&login(1000, 1), 'a'), Asked::Full);
        assert_eq!(checks.ask(&login(0, 1), 'b'), Asked::Shared);
        for number in OF_ADDRESS_MAX..QUEUE_MAX {
            assert_eq!(checks.ask(&login(number, number as u32 + 1), 'a'), Asked::Queued);
        }
        assert_eq!(checks.ask(&login(1000, 1000), 'a'), Asked::Full);
        let first = checks.begin_next().expect("a check");
        assert_eq!(checks.ask(&login(1000, 1000), 'a'), Asked::Full, "it is in progress");
        checks.finish(first.id());
        assert_eq!(checks.ask(&login(1000, 1000), 'a'), Asked::Queued);
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
