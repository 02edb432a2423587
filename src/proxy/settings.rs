//! The operator's settings for exchanges.
//!
//! Owns how long a scrape may take. Never reads an option or a clock.

use std::time::Duration;

use super::{
    access::Access,
    pods::Pods,
    policy::{Policy, Ports},
};
use crate::http1::field;

/// The operator's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The clients that are served.
    pub access: Access,
    /// The allowed destinations.
    pub policy: Policy,
    /// How pods are connected to.
    pub pods: Pods,
    /// The time limits.
    pub timeouts: Timeouts,
    /// The ports that CONNECT may reach, among those of `policy`; `None`: CONNECT is disabled.
    pub connect_ports: Option<Ports>,
    /// Whether reports include the request target.
    pub access_log: bool,
}

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a scrape without its own limit, from its head to the last byte of the response.
    pub scrape: Duration,
    /// The upper limit of scrapes with their own limit.
    pub scrape_max: Duration,
    /// For connecting to a pod.
    pub connect: Duration,
    /// For a request's head, from its first byte on, and for a new connection without a request.
    pub header: Duration,
    /// For an idle client between two requests.
    pub client_idle: Duration,
    /// For a pooled connection.
    pub upstream_idle: Duration,
    /// How long bytes of a long response may wait to be read together with more; zero: not at all.
    pub gather: Duration,
    /// How long a tunnel may be silent.
    pub tunnel_idle: Duration,
    /// For the cached addresses of a name, from their lookup on.
    pub resolve_ttl: Duration,
}

impl Timeouts {
    /// Returns how long a scrape may take: as long as Prometheus waits, less a margin so that Prometheus shows
    /// psystrike's reason and not its own. Values other than positive numbers are ignored.
    pub fn patience(&self, scrape_timeout: Option<&[u8]>) -> Duration {
        const MARGIN_MAX: f64 = 0.5;
        let seconds = |value: &[u8]| match field::digits(value) {
            Some(seconds) => Some(seconds as f64), // the usual case
            None => str::from_utf8(value).ok()?.parse().ok(),
        };
        let seconds =
            scrape_timeout.and_then(seconds).filter(|seconds| seconds.is_finite() && *seconds > 0.0);
        match seconds {
            None => self.scrape,
            Some(seconds) => Duration::try_from_secs_f64(seconds - MARGIN_MAX.min(seconds / 10.0))
                .map_or(self.scrape_max, |patience| patience.min(self.scrape_max)),
        }
    }
}
