//! What the operator set, as far as exchanges go by it.
//!
//! Owns how long a scrape may take. Never reads an option or a clock.

use std::time::Duration;

use super::policy::Policy;
use crate::http1::field;

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which pods may be reached.
    pub policy: Policy,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Whether reports name the request target.
    pub access_log: bool,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A scrape that names no limit of its own, from its head to the last byte of its answer.
    pub scrape: Duration,
    /// The most that a scrape's own limit may ask for.
    pub scrape_max: Duration,
    /// Connecting to a pod.
    pub connect: Duration,
    /// A request's head, from its first byte on; and the silence of a new connection.
    pub header: Duration,
    /// The silence of a client between two requests.
    pub client_idle: Duration,
    /// The silence of a pod's connection that is kept.
    pub upstream_idle: Duration,
}

impl Timeouts {
    /// How long Prometheus leaves us: what it says it is going to wait, less a margin so that it shows our reason
    /// and not its own. A value that is no positive number is ignored.
    pub fn patience(&self, scrape_timeout: Option<&[u8]>) -> Duration {
        const MARGIN_MAX: f64 = 0.5;
        let seconds = |value: &[u8]| match field::digits(value) {
            Some(seconds) => Some(seconds as f64), // as almost always
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
