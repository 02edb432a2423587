//! Parses the absolute form of a request target (RFC 9112 section 3.2.2), which clients with a `proxy_url` send.
//!
//! Owns the syntax of such targets. Never decides whether a destination may be reached.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    host::{Host, parse_name, parse_port},
    target::{Destination, PodRoute, PodTarget, Scheme},
};
use crate::proxy::outcome::{Failure, Outcome};

/// Returns the pod of a URI such as `http://10.1.2.3:8080/metrics?a=b`. The default path is `/`, the default port 80.
///
/// # Errors
/// [`Outcome::BadTarget`], [`Outcome::BadHost`] or [`Outcome::BadPort`].
pub(super) fn resolve(uri: &str) -> Result<PodRoute<'_>, Failure> {
    let Some(rest) = strip_scheme(uri) else { return Err(bad("the scheme is not http")) };
    // As for `before_slash`: near the start, a loop beats a search.
    let end = rest.bytes().position(|byte| matches!(byte, b'/' | b'?'));
    let (authority, rest) = rest.split_at(end.unwrap_or(rest.len()));
    if authority.bytes().any(|byte| byte == b'@') {
        return Err(bad("userinfo not allowed"));
    }
    let destination = parse_authority(authority, Some(Scheme::Http.default_port()))?;
    let (path, query) = match memchr::memchr(b'?', rest.as_bytes()) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    let target = PodTarget { path, query };
    Ok(PodRoute { scheme: Some(Scheme::Http), destination, target, authority: Some(authority) })
}

fn strip_scheme(uri: &str) -> Option<&str> {
    const SCHEME: &str = "http://";
    let (scheme, rest) = uri.split_at_checked(SCHEME.len())?;
    (scheme == SCHEME || scheme.eq_ignore_ascii_case(SCHEME)).then_some(rest)
}

pub(super) fn bad(detail: &'static str) -> Failure {
    Failure { outcome: Outcome::BadTarget, detail: Some(detail) }
}

/// Returns the destination of an authority with a port: the target of CONNECT (RFC 9112 section 3.2.3).
///
/// # Errors
/// As [`resolve`].
pub(super) fn resolve_authority(authority: &str) -> Result<Destination<'_>, Failure> {
    if authority.contains('@') {
        return Err(bad("userinfo not allowed"));
    }
    Ok(parse_authority(authority, None)?)
}

/// Parses `10.1.2.3`, `[fd00::1]` or `name`, with a port or not (RFC 3986 section 3.2), without userinfo.
fn parse_authority(authority: &str, default_port: Option<u16>) -> Result<Destination<'_>, Outcome> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']').ok_or(Outcome::BadHost)?;
            (ip.parse::<Ipv6Addr>().map(|ip| Host::Address(ip.into())).map_err(|_| Outcome::BadHost)?, port)
        }
        None => {
            let end = authority.bytes().position(|byte| byte == b':');
            let (text, port) = authority.split_at(end.unwrap_or(authority.len()));
            if port.bytes().skip(1).any(|byte| byte == b':') {
                return Err(Outcome::BadHost); // an IPv6 address without brackets, or another unknown form
            }
            let ip = text.parse::<Ipv4Addr>().map(|ip| Host::Address(ip.into()));
            (ip.or_else(|_| parse_name(text))?, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(port) => parse_port(port)?,
        None if port.is_empty() => default_port.ok_or(Outcome::BadPort)?,
        None => return Err(Outcome::BadHost),
    };
    Ok(host.at(port))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::proxy::peer::Peer;

    #[test]
    fn absolute_targets_lead_to_pods() {
        for (uri, address, authority, asked) in [
            ("http://10.1.2.3:8080/metrics", "10.1.2.3:8080", "10.1.2.3:8080", "/metrics"),
            ("HTTP://10.1.2.3:8080/metrics?a=b", "10.1.2.3:8080", "10.1.2.3:8080", "/metrics?a=b"),
            ("http://10.1.2.3/m", "10.1.2.3:80", "10.1.2.3", "/m"),
            ("http://10.1.2.3", "10.1.2.3:80", "10.1.2.3", "/"),
            ("http://10.1.2.3?", "10.1.2.3:80", "10.1.2.3", "/?"),
            ("http://10.1.2.3:1?a=/b", "10.1.2.3:1", "10.1.2.3:1", "/?a=/b"),
            ("http://10.1.2.3:65535//a//?b?c", "10.1.2.3:65535", "10.1.2.3:65535", "//a//?b?c"),
            ("http://10.1.2.3/../x/./y%2Fz", "10.1.2.3:80", "10.1.2.3", "/../x/./y%2Fz"),
            ("http://10.1.2.3/m%3Fa=b", "10.1.2.3:80", "10.1.2.3", "/m%3Fa=b"),
            ("http://10.1.2.3/a@b:c", "10.1.2.3:80", "10.1.2.3", "/a@b:c"),
            ("http://[fd00::1]:8080/m", "[fd00::1]:8080", "[fd00::1]:8080", "/m"),
            ("http://[FD00::1]/m", "[fd00::1]:80", "[FD00::1]", "/m"),
            ("http://[::ffff:10.1.2.3]:80/m", "10.1.2.3:80", "[::ffff:10.1.2.3]:80", "/m"),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            match resolve(uri) {
                Ok(PodRoute {
                    scheme: Some(Scheme::Http),
                    destination: Destination::Address(peer),
                    target,
                    authority: named,
                }) => {
                    assert_eq!(peer, Peer::new(address.ip(), address.port()), "{uri}");
                    assert_eq!((target.parts().concat().as_str(), named), (asked, Some(authority)), "{uri}");
                }
                other => panic!("{uri}: {other:?}"),
            }
        }
    }

    #[test]
    fn other_absolute_targets_are_refused() {
        let bad_target = |detail| bad(detail);
        for (uri, expected) in [
            ("https://10.1.2.3/m", bad_target("the scheme is not http")),
            ("ftp://10.1.2.3/m", bad_target("the scheme is not http")),
            ("http:/10.1.2.3/m", bad_target("the scheme is not http")),
            ("http://user@10.1.2.3/m", bad_target("userinfo not allowed")),
            ("http://user:password@10.1.2.3:80/m", bad_target("userinfo not allowed")),
            ("http://@10.1.2.3/m", bad_target("userinfo not allowed")),
            ("http://", Outcome::BadHost.into()),
            ("http:///m", Outcome::BadHost.into()),
            ("http://:80/m", Outcome::BadHost.into()),
            ("http://10.1.2.3:/m", Outcome::BadPort.into()),
            ("http://10.1.2.3:0/m", Outcome::BadPort.into()),
            ("http://10.1.2.3:080/m", Outcome::BadPort.into()),
            ("http://10.1.2.3:65536/m", Outcome::BadPort.into()),
            ("http://10.1.2.3:80:80/m", Outcome::BadHost.into()),
            ("http://10.1.2.3:+80/m", Outcome::BadPort.into()),
            ("http://10.1.2/m", Outcome::BadHost.into()),
            ("http://10.1.2.3./m", Outcome::BadHost.into()),
            ("http://0177.0.0.1/m", Outcome::BadHost.into()),
            ("http://2130706433/m", Outcome::BadHost.into()),
            ("http://0x7f.1/m", Outcome::BadHost.into()),
            ("http://10.1.2.%33/m", Outcome::BadHost.into()),
            ("http://fd00::1/m", Outcome::BadHost.into()),
            ("http://[fd00::1/m", Outcome::BadHost.into()),
            ("http://[fd00::1]80/m", Outcome::BadHost.into()),
            ("http://[[fd00::1]]/m", Outcome::BadHost.into()),
            ("http://[10.1.2.3]/m", Outcome::BadHost.into()),
            ("http://[fe80::1%25eth0]/m", Outcome::BadHost.into()),
            ("http://%5Bfd00::1%5D/m", Outcome::BadHost.into()),
            ("http://a-/m", Outcome::BadHost.into()),
            ("http://a..b/m", Outcome::BadHost.into()),
            ("http://[a]/m", Outcome::BadHost.into()),
            ("http://a:0/m", Outcome::BadPort.into()),
        ] {
            assert_eq!(resolve(uri).err(), Some(expected), "{uri}");
        }
    }

    #[test]
    fn absolute_targets_may_have_names() {
        for (uri, name, port, authority) in [
            ("http://localhost/m", "localhost", 80, "localhost"),
            ("http://a-b.c_d.svc:8080/m", "a-b.c_d.svc", 8080, "a-b.c_d.svc:8080"),
            ("HTTP://Web.Example.:80?a", "Web.Example.", 80, "Web.Example.:80"),
        ] {
            let PodRoute { destination, authority: named, .. } = resolve(uri).expect(uri);
            assert_eq!((destination, named), (Destination::Name(name, port), Some(authority)), "{uri}");
        }
    }
}
