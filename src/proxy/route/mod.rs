//! Maps a request target to a page or a pod, and a pod's `Location` back to a path of psystrike.
//!
//! Owns the forms of a target. Never decides whether a pod may be reached.

mod forward;
mod host;
mod location;
mod pods;
mod target;

pub use self::{
    location::{Responder, location_through_us},
    target::{Destination, Page, PodRoute, PodTarget, ROUTES, Route, RouteName, Scheme},
};
use super::outcome::{Failure, Outcome};
use crate::http1::head::Target;

/// Resolves a request target to a page or a pod.
///
/// # Errors
/// [`Outcome::NotFound`], [`Outcome::BadTarget`], [`Outcome::BadHost`] or [`Outcome::BadPort`].
pub fn resolve(target: Target<'_>) -> Result<Route<'_>, Failure> {
    match (target, RouteName::of(target)) {
        (_, RouteName::Page(page)) => Ok(Route::Page(page)),
        (Target::Origin { path, query }, RouteName::Pods) => Ok(Route::Pod(pods::resolve(path, query)?)),
        (Target::Absolute(uri), _) => forward::resolve(uri).map(Route::Pod),
        (Target::Other(_), _) => Err(forward::bad("neither a path nor an http URL")),
        (Target::Origin { .. }, _) => Err(Outcome::NotFound.into()),
    }
}

/// Resolves the target of CONNECT to a pod.
///
/// # Errors
/// [`Outcome::BadTarget`], [`Outcome::BadHost`] or [`Outcome::BadPort`].
pub fn resolve_connect(target: Target<'_>) -> Result<Destination<'_>, Failure> {
    match target {
        Target::Other(authority) => forward::resolve_authority(authority),
        Target::Origin { .. } | Target::Absolute(_) => Err(forward::bad("expected host:port")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::proxy::peer::Peer;

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
            match resolve(Target::Origin { path, query }) {
                Ok(Route::Pod(PodRoute {
                    scheme: None,
                    destination: Destination::Address(peer),
                    target: to_pod,
                    authority: None,
                })) => {
                    assert_eq!((peer, to_pod.parts().concat().as_str()), (pod(address), asked), "{target}");
                }
                other => panic!("{target}: {other:?}"),
            }
        }
    }

    #[test]
    fn paths_may_name_the_scheme() {
        let http = Some(Scheme::Http);
        let https = Some(Scheme::Https);
        for (path, scheme, address, asked) in [
            ("/pods/https:10.1.2.3/8443/m", https, "10.1.2.3:8443", "/m"),
            ("/pods/https:10.1.2.3/8443", https, "10.1.2.3:8443", "/metrics"),
            ("/pods/https:10.1.2.3/8443/https:x", https, "10.1.2.3:8443", "/https:x"),
            ("/pods/http:10.1.2.3/8443/m", http, "10.1.2.3:8443", "/m"),
            ("/pods/https:[fd00::1]/80/m", https, "[fd00::1]:80", "/m"),
            ("/pods/https:%5Bfd00::1%5D/80/m", https, "[fd00::1]:80", "/m"),
            ("/pods/https:fd00::1/80/m", https, "[fd00::1]:80", "/m"),
            ("/pods/http:fd00::1/80/m", http, "[fd00::1]:80", "/m"),
            ("/pods/https:::1/80/m", https, "[::1]:80", "/m"),
            ("/pods/https:::ffff:10.1.2.3/80/m", https, "10.1.2.3:80", "/m"),
            ("/pods/fd00::1/80/m", None, "[fd00::1]:80", "/m"),
            ("/pods/a::1/80/m", None, "[a::1]:80", "/m"),
        ] {
            match resolve(Target::Origin { path, query: None }) {
                Ok(Route::Pod(route)) => {
                    let expected = (scheme, Destination::Address(pod(address)), asked);
                    assert_eq!((route.scheme, route.destination, route.target.path), expected, "{path}");
                }
                other => panic!("{path}: {other:?}"),
            }
        }
        for (path, scheme, name) in [
            ("/pods/https:web.ns.svc/8443/m", https, "web.ns.svc"),
            ("/pods/http:web.ns.svc/8443/m", http, "web.ns.svc"),
            ("/pods/https:https/8443/m", https, "https"),
            ("/pods/https/8443/m", None, "https"),
            ("/pods/http/8443/m", None, "http"),
            ("/pods/https-web/8443/m", None, "https-web"),
        ] {
            match resolve(Target::Origin { path, query: None }) {
                Ok(Route::Pod(route)) => {
                    let expected = (scheme, Destination::Name(name, 8443));
                    assert_eq!((route.scheme, route.destination), expected, "{path}");
                }
                other => panic!("{path}: {other:?}"),
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
            ("/pods/https:/80/m", Err(Outcome::BadHost)),
            ("/pods/https:", Err(Outcome::NotFound)),
            ("/pods/https:10.1.2.3", Err(Outcome::NotFound)),
            ("/pods/https:10.1.2.3:80/80/m", Err(Outcome::BadHost)),
            ("/pods/https:10.1.2.3:80/m", Err(Outcome::BadHost)),
            ("/pods/https://10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/https:https:10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/https:http:10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/HTTPS:10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/Http:10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/https%3A10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/ftp:10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/:10.1.2.3/80/m", Err(Outcome::BadHost)),
            ("/pods/https:10.1.2.3/0/m", Err(Outcome::BadPort)),
            ("/pods/a..b/80/m", Err(Outcome::BadHost)),
            ("/pods/localhost/0/m", Err(Outcome::BadPort)),
        ] {
            let got = resolve(Target::Origin { path, query: None });
            assert_eq!(got, expected.map(Route::Page).map_err(Failure::from), "{path}");
        }
    }

    #[test]
    fn paths_may_have_names() {
        for (path, name, port, asked) in [
            ("/pods/localhost/80/m", "localhost", 80, "/m"),
            ("/pods/metadata.google.internal/80", "metadata.google.internal", 80, "/metrics"),
            ("/pods/a.b-c_d.svc.cluster.local./8080/", "a.b-c_d.svc.cluster.local.", 8080, "/"),
        ] {
            match resolve(Target::Origin { path, query: None }) {
                Ok(Route::Pod(PodRoute { scheme: None, destination, target, authority: None })) => {
                    assert_eq!(destination, Destination::Name(name, port), "{path}");
                    assert_eq!(target.path, asked, "{path}");
                }
                other => panic!("{path}: {other:?}"),
            }
        }
    }
}
