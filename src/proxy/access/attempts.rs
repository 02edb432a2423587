//! Limits how many wrong secrets are checked for one client address.
//!
//! Above the limit, an attempt is refused without a check, so guessing is slow from any one address. That alone would
//! let a client lock out all others that share its address, for example behind NAT, or behind a Kubernetes Service that
//! replaces the client's address with the node's. Therefore an address from which a correct secret came within the last
//! hour is exempt. A client that shares its address with an attacker gets there soon: part of its own attempts is
//! checked too. An attacker who shares an address with a correct client is not slowed; against these, only a secret
//! that cannot be guessed helps.
//!
//! The table is bounded and belongs to one worker: each worker counts alone.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::proxy::timestamp::Timestamp;

/// How many wrong secrets of one address are checked in each [`WINDOW`].
pub const FAILURES_MAX: u32 = 10;
/// The period of the limit. `Retry-After` gives it in seconds.
pub const WINDOW: Duration = Duration::from_secs(1);
/// How long an address is exempt after its last correct secret.
const TRUST: Duration = Duration::from_secs(3600);
/// Maximum number of addresses that are remembered.
const ADDRESSES_MAX: usize = 1024;

/// The recent attempts of each address.
#[derive(Debug, Default)]
pub struct Attempts {
    addresses: HashMap<u128, OfAddress>,
}

#[derive(Clone, Copy, Debug)]
struct OfAddress {
    /// The end of the window in which `failures` were counted.
    until: Timestamp,
    failures: u32,
    trusted_until: Timestamp,
}

impl OfAddress {
    const NEW: Self = Self { until: Timestamp::MIN, failures: 0, trusted_until: Timestamp::MIN };

    /// Returns until when it is worth remembering.
    fn useful_until(&self) -> Timestamp {
        self.until.max(self.trusted_until)
    }
}

impl Attempts {
    /// Returns whether credentials from this address may be checked.
    pub fn may_check(&self, ip: Option<IpAddr>, now: Timestamp) -> bool {
        self.addresses.get(&address_key(ip)).is_none_or(|known| {
            now < known.trusted_until || now >= known.until || known.failures < FAILURES_MAX
        })
    }

    /// Counts a wrong secret from this address.
    pub fn failed(&mut self, ip: Option<IpAddr>, now: Timestamp) {
        let known = self.entry(ip, now);
        if now >= known.until {
            (known.until, known.failures) = (now + WINDOW, 0);
        }
        known.failures = known.failures.saturating_add(1);
    }

    /// Notes a correct secret from this address.
    pub fn succeeded(&mut self, ip: Option<IpAddr>, now: Timestamp) {
        self.entry(ip, now).trusted_until = now + TRUST;
    }

    fn entry(&mut self, ip: Option<IpAddr>, now: Timestamp) -> &mut OfAddress {
        let key = address_key(ip);
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&key) {
            self.make_room(now);
        }
        self.addresses.entry(key).or_insert(OfAddress::NEW)
    }

    /// Forgets the addresses that no longer matter, or else the one that matters for the shortest time: with more
    /// attackers than addresses, these are forgotten before any that is exempt.
    fn make_room(&mut self, now: Timestamp) {
        self.addresses.retain(|_, known| now < known.useful_until());
        if self.addresses.len() >= ADDRESSES_MAX {
            let first = self.addresses.iter().min_by_key(|(_, known)| known.useful_until());
            if let Some(key) = first.map(|(&key, _)| key) {
                self.addresses.remove(&key);
            }
        }
    }
}

/// Returns the part of an address that counts: one client has all addresses of an IPv6 /64. Unknown addresses count as
/// one.
pub(super) fn address_key(ip: Option<IpAddr>) -> u128 {
    match ip.map(|ip| ip.to_canonical()) {
        None => 0,
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().to_bits(),
        Some(IpAddr::V6(v6)) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_millis(milliseconds)
    }

    /// Sends wrong secrets, and returns how many of them were checked.
    fn guess(attempts: &mut Attempts, from: Option<IpAddr>, now: Timestamp, number: usize) -> u32 {
        let mut checked = 0;
        for _ in 0..number {
            if attempts.may_check(from, now) {
                attempts.failed(from, now);
                checked += 1;
            }
        }
        checked
    }

    #[test]
    fn an_address_has_a_number_of_guesses_a_second() {
        let mut attempts = Attempts::default();
        let from = ip("192.0.2.1");
        for (milliseconds, expected) in
            [(0, FAILURES_MAX), (999, 0), (1000, FAILURES_MAX), (1500, 0), (60_000, FAILURES_MAX)]
        {
            assert_eq!(guess(&mut attempts, from, at(milliseconds), 100), expected, "at {milliseconds} ms");
        }
    }

    #[test]
    fn neighbours_count_together_only_in_the_same_64_bits() {
        for (one, other, is_same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("2001:db8::1", "192.0.2.1", false),
        ] {
            let mut attempts = Attempts::default();
            guess(&mut attempts, ip(one), at(0), 100);
            assert_eq!(attempts.may_check(ip(other), at(0)), !is_same, "{one}, {other}");
        }
        let mut attempts = Attempts::default();
        guess(&mut attempts, None, at(0), 100);
        assert!(!attempts.may_check(None, at(0)), "unknown addresses are limited too");
    }

    #[test]
    fn who_shares_an_address_with_a_correct_client_does_not_lock_it_out() {
        let mut attempts = Attempts::default();
        let shared = ip("192.0.2.1");
        guess(&mut attempts, shared, at(0), 100);
        assert!(!attempts.may_check(shared, at(0)), "it has yet to get there");
        attempts.succeeded(shared, at(1000));
        guess(&mut attempts, shared, at(1000), 100);
        for (milliseconds, expected) in [(1000, true), (1500, true), (3_600_999, true), (3_601_000, false)] {
            guess(&mut attempts, shared, at(milliseconds), 100);
            assert_eq!(attempts.may_check(shared, at(milliseconds)), expected, "at {milliseconds} ms");
        }
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_matters_longest() {
        let mut attempts = Attempts::default();
        let number = |at: u32| Some(IpAddr::V4(at.into()));
        attempts.succeeded(number(1), at(0));
        for attacker in 2..20_000 {
            guess(&mut attempts, number(attacker), at(u64::from(attacker) / 100), 100);
            assert!(attempts.addresses.len() <= ADDRESSES_MAX);
        }
        assert!(!attempts.may_check(number(19_999), at(200)), "the last is still known");
        guess(&mut attempts, number(1), at(200), 100);
        assert!(attempts.may_check(number(1), at(200)), "a correct client is not forgotten");
        guess(&mut attempts, number(20_000), at(10_000), 1);
        assert_eq!(attempts.addresses.len(), 2, "what is over is forgotten");
    }
}
