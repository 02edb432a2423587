//! Logs exchanges: a line of the access log for each scrape, and failures at a limited rate.
//!
//! Owns the format of these lines. [`crate::logging`] writes them to standard error.

use std::{fmt::Display, net::SocketAddr};

use log::{debug, info, warn};

use super::{
    duration::HumanDuration,
    events::Report,
    log_rate::LogRate,
    logged,
    outcome::{Class, Outcome},
    timestamp::Timestamp,
    tunnel::TunnelReport,
};

/// The log target of access log lines, which are logged at every level.
pub const ACCESS_LOG: &str = "access";
/// The most bytes of a refused request in the log.
const LOGGED_BYTES_MAX: usize = 200;

/// The log of one worker's exchanges.
#[derive(Debug, Default)]
pub struct Journal {
    rate: LogRate,
}

/// The delivery of a response.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The client, if its address is logged.
    pub client: Option<SocketAddr>,
    /// Bytes that the client took, heads included.
    pub sent_bytes: u64,
    /// The time of the turn.
    pub at: Timestamp,
}

impl Journal {
    /// Logs a finished exchange: in the access log, and as a failure if the pod failed or the request was refused.
    pub fn record(&mut self, report: &Report, access_log: bool, delivery: &Delivery) {
        let Report { route, outcome, status, duration, .. } = report;
        let access_log = access_log && route.is_to_pods();
        if outcome.class() == Class::Client {
            debug!("{}: pod {:?}", outcome.reason(), report.peer);
        }
        let trouble = matches!(outcome.class(), Class::Pod | Class::Refused);
        if !access_log && !trouble {
            return;
        }
        let client = delivery.client.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        let request = report.request.as_deref().unwrap_or("-");
        if access_log {
            info!(
                target: ACCESS_LOG,
                "client={client} request={request:?} code={status} outcome={} bytes={} seconds={:.6}",
                outcome.label(),
                delivery.sent_bytes,
                duration.as_secs_f64()
            );
        }
        if trouble {
            let phrase = report.phrase();
            let after = HumanDuration(*duration);
            match report.peer {
                Some(pod) => {
                    self.trouble(*outcome, delivery.at, format_args!("{phrase}: pod {pod}, after {after}"));
                }
                None => {
                    let request = logged::cut(request, LOGGED_BYTES_MAX);
                    let about = format_args!("{phrase}: client {client}, request {request:?}");
                    self.trouble(*outcome, delivery.at, about);
                }
            }
        }
    }

    /// Logs the end of a tunnel in the access log.
    pub fn tunnel(&mut self, tunnel: &TunnelReport, client: Option<SocketAddr>) {
        let client = client.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        let seconds = tunnel.duration.as_secs_f64();
        info!(target: ACCESS_LOG, "client={client} tunnel_ended={} seconds={seconds:.6}", tunnel.end.label());
    }

    /// Logs a failure, at a limited rate.
    pub fn trouble(&mut self, outcome: Outcome, now: Timestamp, about: impl Display) {
        let label = outcome.label();
        match self.rate.admit(outcome, now) {
            None => {}
            Some(0) => warn!("{about} (outcome={label})"),
            Some(more) => warn!("{about} (outcome={label}; {more} more since the last such line)"),
        }
    }
}
