//! Paths to pods: `/pods/{host}/{port}/{path}`, with `http:` or `https:` before the host or without.
//!
//! Owns their format. Never decides whether a pod may be reached.

use memchr::memchr_iter;

use super::{
    host::{parse_host, parse_port},
    target::{PodRoute, PodTarget, Scheme},
};
use crate::proxy::outcome::Outcome;

/// The pod's path if the target has no path: Prometheus's default.
const METRICS_PATH: &str = "/metrics";

/// Returns the pod of a path and a query.
///
/// # Errors
/// [`Outcome::NotFound`], [`Outcome::BadHost`] or [`Outcome::BadPort`].
pub(super) fn resolve<'b>(path: &'b str, query: Option<&'b str>) -> Result<PodRoute<'b>, Outcome> {
    // Prometheus takes an annotation like `/metrics?format=prometheus` for a path, and encodes its `?`.
    let (path, query) = match (query, encoded_question_mark(path)) {
        (None, Some(at)) => (&path[..at], Some(&path[at + "%3F".len()..])),
        _ => (path, query),
    };
    let rest = path.strip_prefix("/pods/").ok_or(Outcome::NotFound)?;
    let (scheme, rest) = split_scheme(rest);
    let (host, rest) = before_slash(rest);
    let rest = rest.strip_prefix('/').ok_or(Outcome::NotFound)?;
    let (port, path) = match before_slash(rest) {
        (port, "") => (port, METRICS_PATH),
        parts => parts,
    };
    let destination = parse_host(host)?.at(parse_port(port)?);
    Ok(PodRoute { scheme, destination, target: PodTarget { path, query }, authority: None })
}

/// Splits off a scheme, in Kubernetes' form. No IPv6 address begins with one, as `h` is not a hexadecimal digit.
fn split_scheme(rest: &str) -> (Option<Scheme>, &str) {
    if rest.starts_with('h') {
        for scheme in [Scheme::Http, Scheme::Https] {
            if let Some(rest) = rest.strip_prefix(scheme.prefix()) {
                return (Some(scheme), rest);
            }
        }
    }
    (None, rest)
}

pub(super) fn encoded_question_mark(path: &str) -> Option<usize> {
    let path = path.as_bytes();
    memchr_iter(b'%', path).find(|&at| matches!(path[at..], [_, b'3', b'F' | b'f', ..]))
}

/// Splits a text at its first `/`, which is near the start: a loop finds it before a SIMD search gets going.
fn before_slash(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| byte == b'/').unwrap_or(text.len()))
}
