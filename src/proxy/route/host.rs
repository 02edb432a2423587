//! Hosts and ports in a request target.
//!
//! Owns which spellings of an address are accepted, and the syntax of DNS names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::target::Destination;
use crate::proxy::{outcome::Outcome, peer::Peer};

/// The longest DNS name, and the longest label in it (RFC 1035 section 2.3.4), in text and without a trailing dot.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

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

/// Parses a DNS name: labels of letters, digits, hyphens and underscores, with a dot behind the last one or not. What
/// resolvers take for an address in another spelling, such as `0x7f.1`, is refused.
#[cold]
pub(super) fn parse_name(host: &str) -> Result<Host<'_>, Outcome> {
    let name = host.strip_suffix('.').unwrap_or(host);
    // No name's last label is a number (WHATWG URL, "ends in a number"): getaddrinfo(3) takes it for an address.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    let is_name = name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label) && !is_number;
    if is_name { Ok(Host::Name(host)) } else { Err(Outcome::BadHost) }
}

/// Returns whether a text is a label (RFC 1123 section 2.1). Underscores are no part of host names by the standard, but
/// of names that people use.
fn is_label(label: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(is_inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses_and_from_neither() {
        let label = "a".repeat(LABEL_BYTES_MAX);
        let longest = [&*label, &label, &label, &label[..61]].join(".");
        assert_eq!(longest.len(), NAME_BYTES_MAX);
        for name in [
            "localhost",
            "LocalHost",
            "my-svc.my-ns.svc",
            "my-svc.my-ns.svc.cluster.local.",
            "a",
            "a.",
            "1a",
            "1.a",
            "10-1-2-3.default.pod.cluster.local",
            "10.1.2.3.example",
            "_http._tcp.svc",
            "a_b",
            "_",
            "xn--bcher-kva.example",
            "a0x1",
            &label,
            &longest,
            &format!("{longest}."),
        ] {
            assert_eq!(parse_host(name), Ok(Host::Name(name)));
        }
        for neither in [
            "",
            ".",
            "..",
            ".a",
            "a..",
            "a..b",
            "-",
            "-a",
            "a-",
            "a.-b",
            "a-.b",
            "a b",
            "a%2eb",
            "a:b",
            "a@b",
            "b\u{fc}cher.example",
            "*.a",
            "a/b",
            "[a]",
            "%5Ba%5D",
            "fe80::1%eth0",
            // Addresses in disguise.
            "0177.0.0.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "127.1",
            "127.0.1",
            "0",
            "10.1.2.3.",
            "10.1.2.3.4",
            "10.1.2.256",
            "10.1.2.0x3",
            "10.1.2.0X3.",
            "a.0x",
            "a.0xyz",
            "a.1",
            "a.1.",
            &format!("{label}a"),
            &format!("a.{label}a.b"),
            &format!("{longest}a"),
            &format!("{longest}a."),
        ] {
            assert_eq!(parse_host(neither), Err(Outcome::BadHost), "{neither}");
        }
        for (text, ip) in
            [("10.1.2.3", "10.1.2.3"), ("[fd00::1]", "fd00::1"), ("::ffff:10.1.2.3", "::ffff:10.1.2.3")]
        {
            assert_eq!(parse_host(text), Ok(Host::Address(ip.parse().unwrap())), "{text}");
        }
    }
}
