//! Maps a request target to a page or a pod, and a pod's `Location` back to a path of psystrike.
//!
//! Owns the format of psystrike's paths. Never decides whether a pod may be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memchr_iter;

use super::{outcome::Outcome, peer::Peer};

/// The pod's path if the target has none: Prometheus's default.
const METRICS_PATH: &str = "/metrics";

/// One of psystrike's own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/`.
    Index,
    /// `/healthz`.
    Healthz,
    /// `/readyz`.
    Readyz,
    /// `/metrics`.
    Metrics,
}

/// The route of a request, as a label on `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteName {
    /// To a pod: `/pods/`.
    Pods,
    /// One of psystrike's own pages.
    Page(Page),
    /// No known route, or a head that could not be parsed.
    None,
}

/// The number of [`RouteName`]s.
pub const ROUTES: usize = 6;

impl RouteName {
    /// All routes, in the order of their [`index`](Self::index).
    pub const ALL: [Self; ROUTES] = [
        Self::Pods,
        Self::Page(Page::Index),
        Self::Page(Page::Healthz),
        Self::Page(Page::Readyz),
        Self::Page(Page::Metrics),
        Self::None,
    ];

    /// Returns the index in a table of counters.
    pub fn index(self) -> usize {
        match self {
            Self::Pods => 0,
            Self::Page(Page::Index) => 1,
            Self::Page(Page::Healthz) => 2,
            Self::Page(Page::Readyz) => 3,
            Self::Page(Page::Metrics) => 4,
            Self::None => 5,
        }
    }

    /// Returns the label's value.
    pub fn label(self) -> &'static str {
        ["/pods", "/", "/healthz", "/readyz", "/metrics", "none"][self.index()]
    }
}

/// The meaning of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'b> {
    /// One of psystrike's own pages.
    Page(Page),
    /// A pod.
    Pod {
        /// Its address and port.
        peer: Peer,
        /// The request target for the pod.
        target: PodTarget<'b>,
    },
}

/// The request target for the pod: a path, and a query if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodTarget<'b> {
    /// The path, from its first `/` on.
    pub path: &'b str,
    /// The query, behind a `?`.
    pub query: Option<&'b str>,
}

impl<'b> PodTarget<'b> {
    /// Returns the parts in order, as they are sent.
    pub fn parts(&self) -> [&'b str; 3] {
        match self.query {
            Some(query) => [self.path, "?", query],
            None => [self.path, "", ""],
        }
    }
}

/// Returns the route of `path`, whether or not the rest of the request is valid.
pub fn name(path: &str) -> RouteName {
    match path {
        "/" => RouteName::Page(Page::Index),
        "/healthz" => RouteName::Page(Page::Healthz),
        "/readyz" => RouteName::Page(Page::Readyz),
        "/metrics" => RouteName::Page(Page::Metrics),
        _ if path.starts_with("/pods/") => RouteName::Pods,
        _ => RouteName::None,
    }
}

/// Returns the page or pod of a path and a query.
///
/// # Errors
/// [`Outcome::NotFound`], [`Outcome::BadHost`], [`Outcome::HostName`] or [`Outcome::BadPort`].
pub fn resolve<'b>(path: &'b str, query: Option<&'b str>) -> Result<Route<'b>, Outcome> {
    match name(path) {
        RouteName::Page(page) => return Ok(Route::Page(page)),
        RouteName::None => return Err(Outcome::NotFound),
        RouteName::Pods => {}
    }
    // Prometheus takes an annotation like `/metrics?format=prometheus` for a path, and encodes its `?`.
    let (path, query) = match (query, encoded_question_mark(path)) {
        (None, Some(at)) => (&path[..at], Some(&path[at + "%3F".len()..])),
        _ => (path, query),
    };
    let rest = path.strip_prefix("/pods/").ok_or(Outcome::NotFound)?;
    let (host, rest) = before_slash(rest);
    let rest = rest.strip_prefix('/').ok_or(Outcome::NotFound)?;
    let (port, path) = match before_slash(rest) {
        (port, "") => (port, METRICS_PATH),
        parts => parts,
    };
    let peer = Peer::new(parse_host(host)?, parse_port(port)?);
    Ok(Route::Pod { peer, target: PodTarget { path, query } })
}

fn encoded_question_mark(path: &str) -> Option<usize> {
    let path = path.as_bytes();
    memchr_iter(b'%', path).find(|&at| matches!(path[at..], [_, b'3', b'F' | b'f', ..]))
}

/// Splits a text at its first `/`, which is near the start: a loop finds it before a SIMD search gets going.
fn before_slash(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| byte == b'/').unwrap_or(text.len()))
}

/// Parses an IPv4 address in strict dotted form, or an IPv6 address: bare, in brackets, or in encoded brackets as Go
/// clients send them. std's parsers accept neither zone ids nor other spellings.
fn parse_host(host: &str) -> Result<IpAddr, Outcome> {
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
    // In a name, the last label is not a number (WHATWG URL, "ends in a number").
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    let name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    Err(if name && !numeric { Outcome::HostName } else { Outcome::BadHost })
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
fn parse_port(port: &str) -> Result<u16, Outcome> {
    // std's parser accepts digits with a `+` or zeros before them, and nothing else.
    let plain = port.starts_with(|first: char| matches!(first, '1'..='9'));
    port.parse().ok().filter(|_| plain).ok_or(Outcome::BadPort)
}

/// Rewrites a pod's `Location` to a path of psystrike. Returns `None` if it does not lead to the same pod, or leads
/// nowhere.
///
/// `asked` is the path of the request to the pod: relative references are resolved against it. Resolved against the
/// client's own path, a reference with `..` could lead elsewhere.
pub fn location_through_us(location: &[u8], peer: Peer, asked: &str) -> Option<String> {
    let location = str::from_utf8(location).ok()?;
    let reference = match location.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || scheme.eq_ignore_ascii_case("http:") => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if !names(authority, peer) {
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
        "" => asked.to_owned(),
        _ if path.starts_with('/') => remove_dot_segments(path),
        _ => {
            let folder = asked.rfind('/').map_or("/", |at| &asked[..=at]);
            remove_dot_segments(&format!("{folder}{path}"))
        }
    };
    // If the path has a `%3F` and no query follows, an empty query keeps it from being taken for a `?`.
    let query = if encoded_question_mark(&path).is_some() && !suffix.starts_with('?') { "?" } else { "" };
    // Bare IPv6: a path segment may have colons, but no brackets (RFC 3986 section 3.3).
    Some(format!("/pods/{}/{}{path}{query}{suffix}", peer.ip(), peer.port()))
}

/// Returns whether an authority names the pod that responded.
fn names(authority: &str, peer: Peer) -> bool {
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
    fn targets_lead_to_pods() {
        for (target, address, asked) in [
            ("/pods/10.1.2.3/8080/metrics", "10.1.2.3:8080", "/metrics"),
            ("/pods/10.1.2.3/8080", "10.1.2.3:8080", "/metrics"),
            ("/pods/10.1.2.3/8080?a=b", "10.1.2.3:8080", "/metrics?a=b"),
            ("/pods/10.1.2.3/8080/", "10.1.2.3:8080", "/"),
            ("/pods/10.1.2.3/8080/?", "10.1.2.3:8080", "/?"),
            ("/pods/10.1.2.3/1/a/b?c=d&e=%2F", "10.1.2.3:1", "/a/b?c=d&e=%2F"),
            ("/pods/10.1.2.3/65535//a//", "10.1.2.3:65535", "//a//"),
            ("/pods/10.1.2.3/80/../x/./y", "10.1.2.3:80", "/../x/./y"),
            ("/pods/10.1.2.3/80/a%2Fb%0d%0ac", "10.1.2.3:80", "/a%2Fb%0d%0ac"),
            ("/pods/10.1.2.3/80/m%3Fa=b%3Fc", "10.1.2.3:80", "/m?a=b%3Fc"),
            ("/pods/10.1.2.3/80/m%3fa=b", "10.1.2.3:80", "/m?a=b"),
            ("/pods/10.1.2.3/80/m%3Fa=b?c", "10.1.2.3:80", "/m%3Fa=b?c"),
            ("/pods/10.1.2.3/80/m%3Fa=b?", "10.1.2.3:80", "/m%3Fa=b?"),
            ("/pods/10.1.2.3/80%3Fa=b", "10.1.2.3:80", "/metrics?a=b"),
            ("/pods/fd00::1/80/m", "[fd00::1]:80", "/m"),
            ("/pods/[fd00::1]/80/m", "[fd00::1]:80", "/m"),
            ("/pods/%5Bfd00::1%5D/80/m", "[fd00::1]:80", "/m"),
            ("/pods/%5bfd00::1%5d/80/m", "[fd00::1]:80", "/m"),
            ("/pods/::ffff:10.1.2.3/80/m", "10.1.2.3:80", "/m"),
            ("/pods/[::FFFF:a01:203]/80/m", "10.1.2.3:80", "/m"),
        ] {
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (target, None),
            };
            match resolve(path, query) {
                Ok(Route::Pod { peer, target: to_pod }) => {
                    assert_eq!((peer, to_pod.parts().concat().as_str()), (pod(address), asked), "{target}");
                }
                other => panic!("{target}: {other:?}"),
            }
        }
    }

    #[test]
    fn other_targets_lead_to_pages_or_nowhere() {
        for (path, expected) in [
            ("/", Ok(Page::Index)),
            ("/healthz", Ok(Page::Healthz)),
            ("/readyz", Ok(Page::Readyz)),
            ("/metrics", Ok(Page::Metrics)),
            ("/healthz/", Err(Outcome::NotFound)),
            ("/metricsx", Err(Outcome::NotFound)),
            ("/pods", Err(Outcome::NotFound)),
            ("/pods/", Err(Outcome::NotFound)),
            ("/pods/10.1.2.3", Err(Outcome::NotFound)),
            ("/pods/10.1.2.3/", Err(Outcome::BadPort)),
            ("/pods//80/m", Err(Outcome::BadHost)),
            ("/pods/10.1.2.3/0/m", Err(Outcome::BadPort)),
            ("/pods/10.1.2.3/65536/m", Err(Outcome::BadPort)),
            ("/pods/10.1.2.3/080/m", Err(Outcome::BadPort)),
            ("/pods/10.1.2.3/+80/m", Err(Outcome::BadPort)),
            ("/pods/10.1.2.3/8080metrics", Err(Outcome::BadPort)),
            ("/pods/10.1.2.3/%38%30/m", Err(Outcome::BadPort)),
            ("/pods/10.1.2/80/m", Err(Outcome::BadHost)),
            ("/pods/10.1.2.3.4/80/m", Err(Outcome::BadHost)),
            ("/pods/010.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/0x0a.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/10.1.2.0x3/80/m", Err(Outcome::BadHost)),
            ("/pods/167838211/80/m", Err(Outcome::BadHost)),
            ("/pods/0x7f000001/80/m", Err(Outcome::BadHost)),
            ("/pods/127.1/80/m", Err(Outcome::BadHost)),
            ("/pods/10.1.2.3./80/m", Err(Outcome::BadHost)),
            ("/pods/10.1.2.%33/80/m", Err(Outcome::BadHost)),
            ("/pods/fe80::1%25eth0/80/m", Err(Outcome::BadHost)),
            ("/pods/[fe80::1%25eth0]/80/m", Err(Outcome::BadHost)),
            ("/pods/fe80::1%eth0/80/m", Err(Outcome::BadHost)),
            ("/pods/[10.1.2.3]/80/m", Err(Outcome::BadHost)),
            ("/pods/[fd00::1/80/m", Err(Outcome::BadHost)),
            ("/pods/fd00::1]/80/m", Err(Outcome::BadHost)),
            ("/pods/[[fd00::1]]/80/m", Err(Outcome::BadHost)),
            ("/pods/user@10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/localhost/80/m", Err(Outcome::HostName)),
            ("/pods/metadata.google.internal/80/m", Err(Outcome::HostName)),
            ("/pods/a.b-c_d.svc.cluster.local./80/m", Err(Outcome::HostName)),
        ] {
            let got = resolve(path, None);
            assert_eq!(got, expected.map(Route::Page), "{path}");
        }
    }

    #[test]
    fn locations_into_the_pod_lead_through_us() {
        for (asked, location, expected) in [
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
            let got = location_through_us(location.as_bytes(), pod("10.1.2.3:8080"), asked);
            assert_eq!(got.as_deref(), expected, "{location:?} from {asked}");
        }
        for (location, expected) in [
            ("http://[fd00::1]/m", Some("/pods/fd00::1/80/m")),
            ("http://[fd00:0::1]:80/m", Some("/pods/fd00::1/80/m")),
            ("http://[fd00::1]:/m", Some("/pods/fd00::1/80/m")),
            ("http://fd00::1/m", None),
        ] {
            let got = location_through_us(location.as_bytes(), pod("[fd00::1]:80"), "/metrics");
            assert_eq!(got.as_deref(), expected, "{location:?}");
        }
        let not_text = location_through_us(b"/\xff", pod("10.1.2.3:8080"), "/metrics");
        assert_eq!(not_text, None, "what cannot be read is not rewritten");
    }
}
