//! Rewrites a pod's `Location` to a path of psystrike.
//!
//! Decides which references lead to the same pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{pods::encoded_question_mark, target::Scheme};
use crate::proxy::peer::Peer;

/// The pod that sent a `Location`.
#[derive(Clone, Copy, Debug)]
pub struct Responder<'n> {
    /// Its address.
    pub peer: Peer,
    /// Its name, if the request gives one: it stays in the path, unless `Location` has the address.
    pub name: Option<&'n str>,
    /// The scheme for paths of this client that name none.
    pub implied: Scheme,
}

/// Rewrites a pod's `Location` to a path of psystrike. Returns `None` if it does not lead to the same pod, or leads
/// nowhere.
///
/// `requested` is the path of the request to the pod: relative references are resolved against it. Resolved against the
/// client's own path, a reference with `..` could lead elsewhere.
pub fn location_through_us(location: &[u8], pod: &Responder<'_>, requested: &str) -> Option<String> {
    let location = str::from_utf8(location).ok()?;
    let Responder { peer, mut name, implied } = *pod;
    let (named, rest) = split_scheme(location);
    let scheme = named.unwrap_or(if peer.tls().is_some() { Scheme::Https } else { Scheme::Http });
    let reference = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = before(b"/?#", rest);
            name = name.filter(|name| is_named(authority, name, scheme, peer.port()));
            if name.is_none() && !is_addressed(authority, scheme, peer) {
                return None;
            }
            if path.starts_with('/') { path.to_owned() } else { ["/", path].concat() }
        }
        // RFC 3986 section 3.1: a reference with a colon before its first `/`, `?` or `#` has a scheme.
        None if before(b"/?#", location).0.bytes().any(|byte| byte == b':') => return None,
        None => location.to_owned(),
    };
    let (path, suffix) = before(b"?#", &reference);
    let path = match path {
        // Only another fragment: the same page, and no request.
        "" if !suffix.starts_with('?') => return None,
        "" => requested.to_owned(),
        _ if path.starts_with('/') => remove_dot_segments(path),
        _ => {
            let end = requested.bytes().rposition(|byte| byte == b'/');
            let folder = end.map_or("/", |at| &requested[..=at]);
            remove_dot_segments(&[folder, path].concat())
        }
    };
    // If the path has a `%3F` and no query follows, an empty query prevents its decoding to a `?`.
    let query = if encoded_question_mark(&path).is_some() && !suffix.starts_with('?') { "?" } else { "" };
    // Bare IPv6: a path segment may have colons, but no brackets (RFC 3986 section 3.3).
    let port = peer.port();
    let scheme = if scheme == implied { "" } else { scheme.prefix() };
    let host = name.map_or_else(|| peer.ip().to_string(), str::to_owned);
    Some(format!("/pods/{scheme}{host}/{port}{path}{query}{suffix}"))
}

/// Splits off the scheme of a reference, if it has one of the two.
fn split_scheme(location: &str) -> (Option<Scheme>, &str) {
    for scheme in [Scheme::Http, Scheme::Https] {
        let (start, rest) = location.split_at_checked(scheme.prefix().len()).unwrap_or_default();
        if start.eq_ignore_ascii_case(scheme.prefix()) {
            return (Some(scheme), rest);
        }
    }
    (None, location)
}

/// Splits a text at the first of these bytes.
#[inline(never)]
fn before<'t>(ends: &[u8], text: &'t str) -> (&'t str, &'t str) {
    text.split_at(text.bytes().position(|byte| ends.contains(&byte)).unwrap_or(text.len()))
}

/// Returns whether an authority has this name and port.
fn is_named(authority: &str, name: &str, scheme: Scheme, port: u16) -> bool {
    let (host, digits) = authority.split_once(':').unwrap_or((authority, ""));
    let named = if digits.is_empty() { Some(scheme.default_port()) } else { digits.parse().ok() };
    host.eq_ignore_ascii_case(name) && named == Some(port)
}

/// Returns whether an authority has the address of the pod that responded.
fn is_addressed(authority: &str, scheme: Scheme, peer: Peer) -> bool {
    let peer = peer.with_tls(None);
    match authority.parse::<SocketAddr>() {
        Ok(addr) => Peer::new(addr.ip(), addr.port()) == peer,
        Err(_) => {
            let authority = authority.strip_suffix(':').unwrap_or(authority); // an empty port is the default one
            let host = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let ip = match host {
                Some(host) => host.parse::<Ipv6Addr>().map(IpAddr::from),
                None => authority.parse::<Ipv4Addr>().map(IpAddr::from),
            };
            ip.is_ok_and(|ip| Peer::new(ip, scheme.default_port()) == peer)
        }
    }
}

/// Removes dot segments (RFC 3986 section 5.2.4) from a path that begins with `/`.
fn remove_dot_segments(path: &str) -> String {
    let (mut kept, mut rest) = (String::new(), path);
    while let Some(after) = rest.strip_prefix('/') {
        let segment;
        (segment, rest) = before(b"/", after);
        match segment {
            ".." => kept.truncate(kept.bytes().rposition(|byte| byte == b'/').unwrap_or(0)),
            "." => {}
            _ => {
                kept.push('/');
                kept.push_str(segment);
                continue;
            }
        }
        if rest.is_empty() {
            kept.push('/');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::peer::TlsProfile;

    const HTTP: Scheme = Scheme::Http;
    const HTTPS: Scheme = Scheme::Https;

    /// A pod that is scraped by HTTP, as paths without a scheme are.
    fn pod(address: &str) -> Responder<'_> {
        let address: SocketAddr = address.parse().unwrap();
        Responder { peer: Peer::new(address.ip(), address.port()), name: None, implied: HTTP }
    }

    /// A pod that is scraped by this scheme.
    fn pod_by(scheme: Scheme, address: &str) -> Responder<'_> {
        let tls = (scheme == HTTPS).then_some(TlsProfile::new(7));
        let pod = pod(address);
        Responder { peer: pod.peer.with_tls(tls), ..pod }
    }

    #[test]
    fn locations_on_the_same_pod_lead_through_psystrike() {
        for (requested, location, expected) in [
            ("/metrics", "/m", Some("/pods/10.1.2.3/8080/m")),
            ("/metrics", "/m?a=/../b#c", Some("/pods/10.1.2.3/8080/m?a=/../b#c")),
            ("/metrics", "/a/../../m/.", Some("/pods/10.1.2.3/8080/m/")),
            ("/metrics", "http://10.1.2.3:8080/m/", Some("/pods/10.1.2.3/8080/m/")),
            ("/metrics", "HTTP://10.1.2.3:8080", Some("/pods/10.1.2.3/8080/")),
            ("/metrics", "http://10.1.2.3:8080?q", Some("/pods/10.1.2.3/8080/?q")),
            ("/metrics", "//10.1.2.3:8080/m", Some("/pods/10.1.2.3/8080/m")),
            ("/metrics", "m/", Some("/pods/10.1.2.3/8080/m/")),
            ("/a/b/c", "../x", Some("/pods/10.1.2.3/8080/a/x")),
            ("/a/b/c", "../../../../x", Some("/pods/10.1.2.3/8080/x")),
            ("/a/b/c", "?q", Some("/pods/10.1.2.3/8080/a/b/c?q")),
            ("/a/b", "./c:d", Some("/pods/10.1.2.3/8080/a/c:d")),
            ("/metrics", "/a%3Fb", Some("/pods/10.1.2.3/8080/a%3Fb?")),
            ("/metrics", "/a%3fb#c", Some("/pods/10.1.2.3/8080/a%3fb?#c")),
            ("/metrics", "/a%3Fb?c", Some("/pods/10.1.2.3/8080/a%3Fb?c")),
            ("/metrics", "", None),
            ("/metrics", "#there", None),
            ("/metrics", "http://10.1.2.4:8080/m", None),
            ("/metrics", "http://10.1.2.3/m", None),
            ("/metrics", "http://10.1.2.3:8081/m", None),
            ("/metrics", "https://10.1.2.3:8080/m", Some("/pods/https:10.1.2.3/8080/m")),
            ("/metrics", "https://10.1.2.3/m", None),
            ("/metrics", "ftp://10.1.2.3:8080/m", None),
            ("/metrics", "http://user@10.1.2.3:8080/m", None),
            ("/metrics", "//example.com/m", None),
            ("/metrics", "mailto:a@b", None),
            ("/metrics", "a:b/c", None),
        ] {
            let got = location_through_us(location.as_bytes(), &pod("10.1.2.3:8080"), requested);
            assert_eq!(got.as_deref(), expected, "{location:?} from {requested}");
        }
        for (location, expected) in [
            ("http://[fd00::1]/m", Some("/pods/fd00::1/80/m")),
            ("http://[fd00:0::1]:80/m", Some("/pods/fd00::1/80/m")),
            ("http://[fd00::1]:/m", Some("/pods/fd00::1/80/m")),
            ("http://fd00::1/m", None),
        ] {
            let got = location_through_us(location.as_bytes(), &pod("[fd00::1]:80"), "/metrics");
            assert_eq!(got.as_deref(), expected, "{location:?}");
        }
        let not_text = location_through_us(b"/\xff", &pod("10.1.2.3:8080"), "/metrics");
        assert_eq!(not_text, None, "bytes that are not text were rewritten");
    }

    #[test]
    fn locations_name_the_scheme_if_a_path_without_it_leads_elsewhere() {
        const EXPLICIT: Option<&str> = Some("/pods/https:10.1.2.3/8443/m");
        const PLAIN: Option<&str> = Some("/pods/http:10.1.2.3/8443/m");
        const SHORT: Option<&str> = Some("/pods/10.1.2.3/8443/m");
        for (by, location, if_http, if_https) in [
            (HTTPS, "/m", EXPLICIT, SHORT),
            (HTTPS, "m", EXPLICIT, SHORT),
            (HTTPS, "//10.1.2.3:8443/m", EXPLICIT, SHORT),
            (HTTPS, "https://10.1.2.3:8443/m", EXPLICIT, SHORT),
            (HTTPS, "HTTPS://10.1.2.3:8443/m", EXPLICIT, SHORT),
            (HTTPS, "http://10.1.2.3:8443/m", SHORT, PLAIN),
            (HTTPS, "https://10.1.2.3/m", None, None),
            (HTTPS, "http://10.1.2.3/m", None, None),
            (HTTP, "/m", SHORT, PLAIN),
            (HTTP, "//10.1.2.3:8443/m", SHORT, PLAIN),
            (HTTP, "http://10.1.2.3:8443/m", SHORT, PLAIN),
            (HTTP, "https://10.1.2.3:8443/m", EXPLICIT, SHORT),
        ] {
            for (implied, expected) in [(HTTP, if_http), (HTTPS, if_https)] {
                let pod = Responder { implied, ..pod_by(by, "10.1.2.3:8443") };
                let got = location_through_us(location.as_bytes(), &pod, "/metrics");
                assert_eq!(got.as_deref(), expected, "{location:?} by {by:?}, {implied:?} implied");
            }
        }
    }

    #[test]
    fn the_default_port_follows_from_the_scheme() {
        for (address, name, location, expected) in [
            ("10.1.2.3:443", None, "https://10.1.2.3/m", Some("/pods/https:10.1.2.3/443/m")),
            ("10.1.2.3:443", None, "//10.1.2.3/m", Some("/pods/https:10.1.2.3/443/m")),
            ("10.1.2.3:443", None, "http://10.1.2.3/m", None),
            ("10.1.2.3:443", None, "http://10.1.2.3:443/m", Some("/pods/10.1.2.3/443/m")),
            ("10.1.2.3:80", None, "https://10.1.2.3/m", None),
            ("10.1.2.3:80", None, "http://10.1.2.3/m", Some("/pods/10.1.2.3/80/m")),
            ("[fd00::1]:443", None, "https://[fd00::1]/m", Some("/pods/https:fd00::1/443/m")),
            ("10.1.2.3:443", Some("web.svc"), "https://WEB.svc/m", Some("/pods/https:web.svc/443/m")),
            ("10.1.2.3:443", Some("web.svc"), "https://10.1.2.3/m", Some("/pods/https:10.1.2.3/443/m")),
            ("10.1.2.3:443", Some("web.svc"), "http://web.svc/m", None),
            ("10.1.2.3:8443", Some("web.svc"), "/m", Some("/pods/https:web.svc/8443/m")),
        ] {
            let pod = Responder { name, ..pod_by(HTTPS, address) };
            let got = location_through_us(location.as_bytes(), &pod, "/metrics");
            assert_eq!(got.as_deref(), expected, "{location:?} from {address}");
        }
    }

    #[test]
    fn locations_keep_the_requested_name() {
        for (address, location, expected) in [
            ("10.1.2.3:8080", "/m", Some("/pods/web.svc/8080/m")),
            ("10.1.2.3:8080", "n?q", Some("/pods/web.svc/8080/n?q")),
            ("10.1.2.3:8080", "http://web.svc:8080/m", Some("/pods/web.svc/8080/m")),
            ("10.1.2.3:8080", "//WEB.svc:8080", Some("/pods/web.svc/8080/")),
            ("10.1.2.3:8080", "http://10.1.2.3:8080/m", Some("/pods/10.1.2.3/8080/m")),
            ("10.1.2.3:80", "http://web.svc/m", Some("/pods/web.svc/80/m")),
            ("10.1.2.3:80", "http://web.svc:/m", Some("/pods/web.svc/80/m")),
            ("10.1.2.3:8080", "http://web.svc/m", None),
            ("10.1.2.3:8080", "http://web.svc:8081/m", None),
            ("10.1.2.3:8080", "http://web.svc:x/m", None),
            ("10.1.2.3:8080", "http://other.svc:8080/m", None),
            ("10.1.2.3:8080", "http://10.1.2.4:8080/m", None),
            ("10.1.2.3:8080", "http://user@web.svc:8080/m", None),
        ] {
            let pod = Responder { name: Some("web.svc"), ..pod(address) };
            let got = location_through_us(location.as_bytes(), &pod, "/metrics");
            assert_eq!(got.as_deref(), expected, "{location:?} from {address}");
        }
    }
}
