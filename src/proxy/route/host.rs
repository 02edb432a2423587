//! Hosts and ports in a request target.
//!
//! Decides which spellings of an address are accepted. [`name`](crate::proxy::name) owns the syntax of names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::target::Destination;
use crate::proxy::{name::is_name, outcome::Outcome, peer::Peer};

/// A host: an address, or a name that has to be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host<'b> {
    Address(IpAddr),
    Name(&'b str),
}

impl<'b> Host<'b> {
    /// Returns the destination at a port of this host.
    pub(super) fn at(self, port: u16) -> Destination<'b> {
        match self {
            Self::Address(ip) => Destination::Address(Peer::new(ip, port)),
            Self::Name(name) => Destination::Name(name, port),
        }
    }
}

/// Parses an IPv4 address in strict dotted form, an IPv6 address (bare, in brackets, or in encoded brackets as Go
/// clients send them), or a name. std's parsers accept neither zone ids nor other spellings.
pub(super) fn parse_host(host: &str) -> Result<Host<'_>, Outcome> {
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Address(ip.into()));
    }
    let in_brackets = host
        .strip_prefix('[')
        .or_else(|| strip_prefix_ignore_case(host, "%5B"))
        .and_then(|rest| rest.strip_suffix(']').or_else(|| strip_suffix_ignore_case(rest, "%5D")));
    if let Ok(ip) = in_brackets.unwrap_or(host).parse::<Ipv6Addr>() {
        return Ok(Host::Address(ip.into()));
    }
    parse_name(host)
}

/// Parses a DNS name.
pub(super) fn parse_name(host: &str) -> Result<Host<'_>, Outcome> {
    if is_name(host) { Ok(Host::Name(host)) } else { Err(Outcome::BadHost) }
}

fn strip_prefix_ignore_case<'b>(text: &'b str, prefix: &str) -> Option<&'b str> {
    let start = text.get(..prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

fn strip_suffix_ignore_case<'b>(text: &'b str, suffix: &str) -> Option<&'b str> {
    let at = text.len().checked_sub(suffix.len())?;
    text.get(at..)?.eq_ignore_ascii_case(suffix).then(|| &text[..at])
}

/// Parses 1 to 65535 in plain digits, without leading zeros.
pub(super) fn parse_port(port: &str) -> Result<u16, Outcome> {
    // std's parser accepts digits with a `+` or zeros before them, and nothing else.
    let plain = port.starts_with(|first: char| matches!(first, '1'..='9'));
    port.parse().ok().filter(|_| plain).ok_or(Outcome::BadPort)
}
