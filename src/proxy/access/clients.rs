//! The addresses from which clients may connect.
//!
//! Owns the check of a client's address. [`crate::proxy::policy`] parses the ranges.

use std::net::IpAddr;

use ipnet::IpNet;

/// The addresses from which clients may connect. The default: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRanges(Box<[IpNet]>);

impl ClientRanges {
    /// Returns these ranges. Without any, all addresses are allowed.
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Self(ranges.into())
    }

    /// Returns the ranges. Empty: all addresses are allowed.
    pub fn ranges(&self) -> &[IpNet] {
        &self.0
    }

    /// Returns whether all addresses are allowed.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a client may connect from this address. IPv4-mapped addresses are checked as IPv4. An unknown
    /// address is allowed only if all are.
    #[inline]
    pub fn allow(&self, ip: Option<IpAddr>) -> bool {
        self.is_any() || ip.is_some_and(|ip| self.contain(ip.to_canonical()))
    }

    fn contain(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::policy::parse_range;

    #[test]
    fn clients_are_checked_by_the_address_they_connect_from() {
        for (ranges, ip, expected) in [
            ("", Some("203.0.113.1"), true),
            ("", Some("2001:db8::1"), true),
            ("", None, true),
            ("10.0.0.0/8", Some("10.255.255.255"), true),
            ("10.0.0.0/8", Some("11.0.0.0"), false),
            ("10.0.0.0/8", Some("::ffff:10.1.2.3"), true),
            ("10.0.0.0/8", Some("::ffff:11.1.2.3"), false),
            ("10.0.0.0/8", Some("::10.1.2.3"), false),
            ("10.0.0.0/8", None, false),
            ("10.1.2.3", Some("10.1.2.3"), true),
            ("10.1.2.3", Some("10.1.2.4"), false),
            ("0.0.0.0/0", Some("2001:db8::1"), false),
            ("::/0", Some("10.1.2.3"), false),
            ("::/0", Some("::ffff:10.1.2.3"), false),
            ("2001:db8::/32 192.0.2.0/24", Some("2001:db8:ffff::1"), true),
            ("2001:db8::/32 192.0.2.0/24", Some("192.0.2.7"), true),
            ("2001:db8::/32 192.0.2.0/24", Some("127.0.0.1"), false),
        ] {
            let parsed = ranges.split_whitespace().map(|range| parse_range(range).expect("a range"));
            let clients = ClientRanges::new(parsed.collect());
            let ip = ip.map(|ip| ip.parse().expect("an address"));
            assert_eq!(clients.allow(ip), expected, "{ranges:?}, {ip:?}");
        }
    }
}
