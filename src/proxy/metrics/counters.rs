//! The counters of a worker.
//!
//! Every worker has its own counters, and only its thread writes them: counting takes no lock, nor an atomic
//! read-modify-write.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::proxy::{
    events::Report,
    outcome::{Class, OUTCOMES, Outcome},
    route::ROUTES,
    tls_fault::TlsFault,
    tunnel::{TunnelEnd, TunnelReport},
};

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Increases a counter. Only for the thread that owns it.
    pub fn add(&self, number: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(number), Relaxed);
    }

    /// Decreases a gauge. Only for the thread that owns it.
    pub fn sub(&self, number: u64) {
        self.add(number.wrapping_neg());
    }

    /// Sets a gauge. Only for the thread that owns it.
    pub fn set(&self, number: u64) {
        self.0.store(number, Relaxed);
    }

    /// Returns the current number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Status codes with a label value of their own: IANA's, and some unregistered ones that servers send. All others are
/// `other`.
pub(super) const STATUSES: [u16; 66] = [
    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402,
    403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425,
    426, 428, 429, 431, 444, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522,
    523, 524, 525,
];

/// Status classes of pods' final responses, as label values. The first digits of the codes are those from 2 on.
pub(super) const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the histograms' buckets, and their label values. The last one is the default of `--timeout-max`.
pub(super) const BUCKETS: [(Duration, &str); 15] = [
    (Duration::from_millis(1), "0.001"),
    (Duration::from_millis(5), "0.005"),
    (Duration::from_millis(10), "0.01"),
    (Duration::from_millis(25), "0.025"),
    (Duration::from_millis(50), "0.05"),
    (Duration::from_millis(100), "0.1"),
    (Duration::from_millis(250), "0.25"),
    (Duration::from_millis(500), "0.5"),
    (Duration::from_secs(1), "1"),
    (Duration::from_millis(2500), "2.5"),
    (Duration::from_secs(5), "5"),
    (Duration::from_secs(10), "10"),
    (Duration::from_secs(30), "30"),
    (Duration::from_secs(60), "60"),
    (Duration::from_secs(120), "120"),
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each of [`BUCKETS`], and one for longer durations. Not cumulative.
    pub(super) buckets: [Counter; BUCKETS.len() + 1],
    pub(super) sum_nanoseconds: Counter,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let bucket = BUCKETS.iter().take_while(|(upper, _)| *upper < duration).count();
        self.buckets[bucket].add(1);
        self.sum_nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    pub(super) requests: [[Counter; STATUSES.len() + 1]; ROUTES],
    pub(super) outcomes: [Counter; OUTCOMES],
    /// Final responses from pods, by [`CLASSES`].
    pub(super) pod_responses: [Counter; CLASSES.len()],
    pub(super) scrape_duration: Histogram,
    pub(super) first_byte: Histogram,
    /// Bytes sent to clients, headers and tunnels included.
    pub client_sent_bytes: Counter,
    /// Current tunnels.
    pub tunnels: Counter,
    pub(super) tunnels_opened: Counter,
    pub(super) tunnels_ended: [Counter; TunnelEnd::ALL.len()],
    pub(super) tunnel_duration: Histogram,
    /// Bytes sent to pods through tunnels.
    pub tunnel_to_pods: Counter,
    /// Bytes received from pods through tunnels.
    pub tunnel_to_clients: Counter,
    /// Current client connections.
    pub clients: Counter,
    /// Accepted client connections.
    pub clients_accepted: Counter,
    /// Client connections that were closed because of their address.
    pub clients_refused: Counter,
    /// Completed TLS handshakes with clients.
    pub tls_handshakes: Counter,
    /// Failures of TLS with clients, by [`TlsFault`].
    pub tls_failures: [Counter; TlsFault::ALL.len()],
    /// Current pod connections with an exchange.
    pub upstreams_active: Counter,
    /// Current pooled pod connections.
    pub upstreams_idle: Counter,
    /// Opened pod connections.
    pub upstreams_opened: Counter,
    /// Requests that were sent on a pooled pod connection.
    pub upstreams_reused: Counter,
    /// Scrapes retried because their pooled connection was closed or stale.
    pub retries: Counter,
    /// Reads that were saved by letting responses gather; estimated.
    pub reads_saved: Counter,
    /// Bytes currently buffered for clients and pods, without the allowance of each session.
    pub buffered_bytes: Counter,
    /// Times that reading from a client or a pod was paused, because the buffers were full.
    pub pauses: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())),
            outcomes: std::array::from_fn(|_| Counter::default()),
            pod_responses: <_>::default(),
            scrape_duration: <_>::default(),
            first_byte: <_>::default(),
            client_sent_bytes: <_>::default(),
            tunnels: <_>::default(),
            tunnels_opened: <_>::default(),
            tunnels_ended: <_>::default(),
            tunnel_duration: <_>::default(),
            tunnel_to_pods: <_>::default(),
            tunnel_to_clients: <_>::default(),
            clients: <_>::default(),
            clients_accepted: <_>::default(),
            clients_refused: <_>::default(),
            tls_handshakes: <_>::default(),
            tls_failures: <_>::default(),
            upstreams_active: <_>::default(),
            upstreams_idle: <_>::default(),
            upstreams_opened: <_>::default(),
            upstreams_reused: <_>::default(),
            retries: <_>::default(),
            reads_saved: <_>::default(),
            buffered_bytes: <_>::default(),
            pauses: <_>::default(),
        }
    }
}

impl Counters {
    /// Counts a finished exchange.
    pub fn record(&self, report: &Report) {
        let status = STATUSES.binary_search(&report.status).unwrap_or(STATUSES.len());
        self.requests[report.route.index()][status].add(1);
        self.outcomes[report.outcome as usize].add(1);
        let class = report.pod_status.map(|status| usize::from(status / 100).wrapping_sub(2));
        if let Some(counter) = class.and_then(|class| self.pod_responses.get(class)) {
            counter.add(1);
        }
        if report.route.is_scrape() && report.outcome.class() != Class::Refused {
            self.scrape_duration.observe(report.duration);
        }
        if report.outcome == Outcome::Tunnel {
            self.tunnels.add(1);
            self.tunnels_opened.add(1);
        }
        if let Some(first_byte) = report.first_byte {
            self.first_byte.observe(first_byte);
        }
    }

    /// Counts a tunnel that is over.
    pub fn record_tunnel(&self, report: &TunnelReport) {
        self.tunnels_ended[report.end as usize].add(1);
        self.tunnel_duration.observe(report.duration);
    }
}
