//! Hosts and ports in a request target.
//!
//! Owns which spellings of an address are accepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::proxy::outcome::Outcome;

/// Parses an IPv4 address in strict dotted form, or an IPv6 address: bare, in brackets, or in encoded brackets as Go
/// clients send them. std's parsers accept neither zone ids nor other spellings.
pub(super) fn parse_host(host: &str) -> Result<IpAddr, Outcome> {
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(ip.into());
    }
    let in_brackets = host
        .strip_prefix('[')
        .or_else(|| strip_prefix_ignore_case(host, "%5B"))
        .and_then(|rest| rest.strip_suffix(']').or_else(|| strip_suffix_ignore_case(rest, "%5D")));
    if let Ok(ip) = in_brackets.unwrap_or(host).parse::<Ipv6Addr>() {
        return Ok(ip.into());
    }
    Err(not_an_address(host))
}

/// Returns the outcome for a host that is not an address: a name, or an invalid host.
pub(super) fn not_an_address(host: &str) -> Outcome {
    // In a name, the last label is not a number (WHATWG URL, "ends in a number").
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    let name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if name && !numeric { Outcome::HostName } else { Outcome::BadHost }
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
