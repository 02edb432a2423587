//! Rewrites a pod's `Location` to a path of psystrike.
//!
//! Decides which references lead to the same pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::pods::encoded_question_mark;
use crate::proxy::peer::Peer;

/// Rewrites a pod's `Location` to a path of psystrike. Returns `None` if it does not lead to the same pod, or leads
/// nowhere.
///
/// `name` is the pod's name, if the request gives one: it stays in the path, unless `Location` has the address.
/// `requested` is the path of the request to the pod: relative references are resolved against it. Resolved against the
/// client's own path, a reference with `..` could lead elsewhere.
pub fn location_through_us(
    location: &[u8],
    peer: Peer,
    name: Option<&str>,
    requested: &str,
) -> Option<String> {
    let location = str::from_utf8(location).ok()?;
    let mut name = name;
    let reference = match location.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || scheme.eq_ignore_ascii_case("http:") => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            name = name.filter(|name| is_named(authority, name, peer.port()));
            if name.is_none() && !is_addressed(authority, peer) {
                return None;
            }
            if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
        }
        // RFC 3986 section 3.1: a reference with a colon before its first `/`, `?` or `#` has a scheme.
        _ if location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':')) => return None,
        _ => location.to_owned(),
    };
    let end = reference.find(['?', '#']).unwrap_or(reference.len());
    let (path, suffix) = reference.split_at(end);
    let path = match path {
        // Only another fragment: the same page, and no request.
        "" if !suffix.starts_with('?') => return None,
        "" => requested.to_owned(),
        _ if path.starts_with('/') => remove_dot_segments(path),
        _ => {
            let folder = requested.rfind('/').map_or("/", |at| &requested[..=at]);
            remove_dot_segments(&format!("{folder}{path}"))
        }
    };
    // If the path has a `%3F` and no query follows, an empty query prevents its decoding to a `?`.
    let query = if encoded_question_mark(&path).is_some() && !suffix.starts_with('?') { "?" } else { "" };
    // Bare IPv6: a path segment may have colons, but no brackets (RFC 3986 section 3.3).
    let port = peer.port();
    Some(match name {
        Some(name) => format!("/pods/{name}/{port}{path}{query}{suffix}"),
        None => format!("/pods/{}/{port}{path}{query}{suffix}", peer.ip()),
    })
}

/// Returns whether an authority has this name and port.
fn is_named(authority: &str, name: &str, port: u16) -> bool {
    let (host, digits) = authority.split_once(':').unwrap_or((authority, ""));
    let named = if digits.is_empty() { Some(80) } else { digits.parse().ok() };
    host.eq_ignore_ascii_case(name) && named == Some(port)
}

/// Returns whether an authority has the address of the pod that responded.
fn is_addressed(authority: &str, peer: Peer) -> bool {
    match authority.parse::<SocketAddr>() {
        Ok(addr) => Peer::new(addr.ip(), addr.port()) == peer,
        Err(_) => {
            let authority = authority.strip_suffix(':').unwrap_or(authority); // an empty port is the default one
            let host = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let ip = match host {
                Some(host) => host.parse::<Ipv6Addr>().map(IpAddr::from),
                None => authority.parse::<Ipv4Addr>().map(IpAddr::from),
            };
            ip.is_ok_and(|ip| Peer::new(ip, 80) == peer)
        }
    }
}

/// Removes dot segments (RFC 3986 section 5.2.4) from a path that begins with `/`.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(address: &str) -> Peer {
        let address: SocketAddr = address.parse().unwrap();
        Peer::new(address.ip(), address.port())
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
            ("/metrics", "https://10.1.2.3:8080/m", None),
            ("/metrics", "http://user@10.1.2.3:8080/m", None),
            ("/metrics", "//example.com/m", None),
            ("/metrics", "mailto:a@b", None),
            ("/metrics", "a:b/c", None),
        ] {
            let got = location_through_us(location.as_bytes(), pod("10.1.2.3:8080"), None, requested);
            assert_eq!(got.as_deref(), expected, "{location:?} from {requested}");
        }
        for (location, expected) in [
            ("http://[fd00::1]/m", Some("/pods/fd00::1/80/m")),
            ("http://[fd00:0::1]:80/m", Some("/pods/fd00::1/80/m")),
            ("http://[fd00::1]:/m", Some("/pods/fd00::1/80/m")),
            ("http://fd00::1/m", None),
        ] {
            let got = location_through_us(location.as_bytes(), pod("[fd00::1]:80"), None, "/metrics");
            assert_eq!(got.as_deref(), expected, "{location:?}");
        }
        let not_text = location_through_us(b"/\xff", pod("10.1.2.3:8080"), None, "/metrics");
        assert_eq!(not_text, None, "bytes that are not text were rewritten");
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
            let got = location_through_us(location.as_bytes(), pod(address), Some("web.svc"), "/metrics");
            assert_eq!(got.as_deref(), expected, "{location:?} from {address}");
        }
    }
}
