//! The page of the counters, in Prometheus's text format 0.0.4.
//!
//! Owns the names of metrics and labels, and their help texts. No label value comes from a peer, except status codes
//! from a fixed list.

use std::{
    fmt::{self, Display},
    io::Write,
    sync::Arc,
    time::Duration,
};

use super::{
    certificate_expiry::CertificateExpiry,
    counters::{BUCKETS, CLASSES, Counter, Counters, Histogram, STATUSES},
    reload_status::ReloadStatus,
};
use crate::proxy::{
    log_losses::LogLoss,
    outcome::{Class, Outcome},
    route::RouteName,
    tls_fault::TlsFault,
    tunnel::TunnelEnd,
};

/// The media type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics of this process from the kernel. Unavailable ones are left out of the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time, user and system.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Virtual memory.
    pub virtual_bytes: Option<u64>,
    /// The limit of virtual memory.
    pub virtual_bytes_max: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The limit of open file descriptors.
    pub max_fds: Option<u64>,
    /// The start time, in seconds since 1970.
    pub start_time_seconds: Option<f64>,
    /// Whether long responses go through splice(2), if known.
    pub splices: Option<bool>,
}

/// Values that stay the same while the process runs.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// The crate's version.
    pub version: &'static str,
    /// The revision that it was built from.
    pub revision: &'static str,
    /// The limit of client connections.
    pub clients_max: usize,
    /// The limit of pooled pod connections.
    pub upstreams_idle_max: usize,
    /// The limit of bytes buffered for clients and pods.
    pub buffers_max: usize,
}

/// Values that change rarely, other than counters.
#[derive(Debug, Default)]
pub struct State {
    /// Whether scrapes need credentials.
    pub is_authenticated: bool,
    /// Whether any client on the network can scrape.
    pub is_unrestricted: bool,
    /// The files that are read again when they change.
    pub reloads: Vec<Arc<ReloadStatus>>,
    /// The certificates in use for TLS.
    pub certificates: Vec<Arc<CertificateExpiry>>,
}

/// Selects a counter of a worker.
type Count = fn(&Counters) -> &Counter;

/// Counters and gauges without labels: name, help text and counter.
const NUMBERS: [(&str, &str, Count); 13] = [
    ("psystrike_client_sent_bytes_total", "Total bytes sent to clients, including headers.", |worker| {
        &worker.client_sent_bytes
    }),
    ("psystrike_client_connections", "Current client connections.", |worker| &worker.clients),
    ("psystrike_client_connections_accepted_total", "Total client connections accepted.", |worker| {
        &worker.clients_accepted
    }),
    (
        "psystrike_client_connections_refused_total",
        "Total client connections closed because --allow-clients does not allow their address.",
        |worker| &worker.clients_refused,
    ),
    ("psystrike_tls_handshakes_total", "Total TLS handshakes completed with clients.", |worker| {
        &worker.tls_handshakes
    }),
    ("psystrike_pod_connections_opened_total", "Total pod connections opened.", |worker| {
        &worker.upstreams_opened
    }),
    ("psystrike_pod_connections_reused_total", "Total requests sent on a pooled pod connection.", |worker| {
        &worker.upstreams_reused
    }),
    ("psystrike_tunnels", "Current tunnels.", |worker| &worker.tunnels),
    ("psystrike_tunnels_opened_total", "Total tunnels opened.", |worker| &worker.tunnels_opened),
    (
        "psystrike_retries_total",
        "Total scrapes retried because their pooled connection was closed or stale.",
        |worker| &worker.retries,
    ),
    (
        "psystrike_pod_reads_saved_total",
        "Total reads from pods that were avoided because responses gathered, as estimated from earlier reads.",
        |worker| &worker.reads_saved,
    ),
    (
        "psystrike_buffered_bytes",
        "Bytes currently buffered for clients and pods, without the first 4 KiB for each client and its pod.",
        |worker| &worker.buffered_bytes,
    ),
    (
        "psystrike_pauses_total",
        "Total pauses in reading from a client or a pod because the buffers were full.",
        |worker| &worker.pauses,
    ),
];

/// Appends the page to `out`.
pub fn render(
    out: &mut Vec<u8>,
    workers: &[&Counters],
    build_info: BuildInfo,
    process: &Process,
    state: &State,
) {
    let mut page = Text { out, workers };
    page.requests();
    page.outcomes();
    page.pod_responses();
    page.histogram(
        "psystrike_scrape_duration_seconds",
        "Time from a scrape's request headers to the last byte of the response.",
        |worker| &worker.scrape_duration,
    );
    page.histogram(
        "psystrike_pod_first_byte_seconds",
        "Time from a scrape's request headers to the first byte of the pod's response.",
        |worker| &worker.first_byte,
    );
    for (name, help, count) in NUMBERS {
        let sum = page.sum(count);
        page.single(name, help, sum);
    }
    page.family("psystrike_pod_connections", "Current pod connections, by state.");
    let (active, idle) =
        (page.sum(|worker| &worker.upstreams_active), page.sum(|worker| &worker.upstreams_idle));
    page.sample("psystrike_pod_connections", format_args!("state=\"active\""), active);
    page.sample("psystrike_pod_connections", format_args!("state=\"idle\""), idle);

    page.tls_failures();
    page.tunnels();

    page.family("psystrike_log_lines_lost_total", "Total log lines lost, by reason.");
    for why in LogLoss::ALL {
        let (name, count) = ("psystrike_log_lines_lost_total", why.counted());
        page.sample(name, format_args!("reason=\"{}\"", why.label()), count);
    }

    page.limits(workers.len(), &build_info);
    if let Some(splices) = process.splices {
        page.single(
            "psystrike_splice_enabled",
            "1 while long responses are forwarded with splice(2), 0 after the kernel refused it.",
            u8::from(splices),
        );
    }
    page.state(state);
    let BuildInfo { version, revision, .. } = build_info;
    page.family(
        "psystrike_build_info",
        "A metric with a constant '1' value labeled by version and revision.",
    );
    page.sample("psystrike_build_info", format_args!("version=\"{version}\",revision=\"{revision}\""), 1);
    page.process(process);
}

/// The page in progress.
struct Text<'p> {
    out: &'p mut Vec<u8>,
    workers: &'p [&'p Counters],
}

impl Text<'_> {
    // Writing to a Vec cannot fail.

    /// Appends a metric's comments. By Prometheus's conventions, the names of counters end in `_total`.
    fn family(&mut self, name: &str, help: &str) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        self.put(&["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"]);
    }

    /// Appends texts. Copying is many times faster than formatting, and most of the page is constant.
    fn put(&mut self, texts: &[&str]) {
        texts.iter().for_each(|text| self.out.extend_from_slice(text.as_bytes()));
    }

    fn value(&mut self, value: impl Display) {
        let _ = writeln!(self.out, "{value}");
    }

    fn sample(&mut self, name: &str, labels: fmt::Arguments<'_>, value: impl Display) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {value}");
    }

    fn single(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help);
        self.put(&[name, " "]);
        self.value(value);
    }

    /// Returns the sum over all workers.
    fn sum(&self, count: impl Fn(&Counters) -> &Counter) -> u64 {
        self.workers.iter().map(|worker| count(worker).get()).fold(0, u64::wrapping_add)
    }

    fn requests(&mut self) {
        const NAME: &str = "psystrike_requests_total";
        let help = "Total finished requests, by route and status code. 499: the client closed the connection before a \
                    response.";
        self.family(NAME, help);
        for route in RouteName::ALL {
            for status in 0..=STATUSES.len() {
                let count = self.sum(|worker| &worker.requests[route.index()][status]);
                // Usual series exist from the start; otherwise a rate misses their first increment.
                let usual = STATUSES.get(status) == Some(&200) && route != RouteName::None;
                if count > 0 || usual {
                    let code = STATUSES.get(status).map_or("other".to_owned(), u16::to_string);
                    self.sample(NAME, format_args!("route=\"{}\",code=\"{code}\"", route.label()), count);
                }
            }
        }
    }

    fn outcomes(&mut self) {
        let all = Outcome::ALL.iter().copied();
        let refusals = all.clone().filter(|outcome| outcome.class() == Class::Refused);
        self.by_outcome("psystrike_outcomes_total", "outcome", "Total finished requests, by outcome.", all);
        self.by_outcome(
            "psystrike_refusals_total",
            "reason",
            "Total requests rejected before contacting a pod, by reason. Also counted in psystrike_outcomes_total.",
            refusals,
        );
    }

    fn pod_responses(&mut self) {
        const NAME: &str = "psystrike_pod_responses_total";
        self.family(NAME, "Total responses from pods, by status class, whether or not they were forwarded.");
        for (at, class) in CLASSES.into_iter().enumerate() {
            let count = self.sum(|worker| &worker.pod_responses[at]);
            self.put(&[NAME, "{class=\"", class, "\"} "]);
            self.value(count);
        }
    }

    fn tls_failures(&mut self) {
        const NAME: &str = "psystrike_tls_failures_total";
        self.family(NAME, "Total failures of TLS with clients, by reason. Most are within the handshake.");
        for fault in TlsFault::ALL {
            let count = self.sum(|worker| &worker.tls_failures[*fault as usize]);
            self.put(&[NAME, "{reason=\"", fault.label(), "\"} "]);
            self.value(count);
        }
    }

    fn tunnels(&mut self) {
        const ENDED: &str = "psystrike_tunnels_ended_total";
        self.family(ENDED, "Total tunnels ended, by reason.");
        for end in TunnelEnd::ALL {
            let count = self.sum(|worker| &worker.tunnels_ended[end as usize]);
            self.sample(ENDED, format_args!("reason=\"{}\"", end.label()), count);
        }
        const BYTES: &str = "psystrike_tunnel_bytes_total";
        self.family(BYTES, "Total bytes forwarded through tunnels, by direction.");
        let to_pods = self.sum(|worker| &worker.tunnel_to_pods);
        self.sample(BYTES, format_args!("direction=\"to_pod\""), to_pods);
        let to_clients = self.sum(|worker| &worker.tunnel_to_clients);
        self.sample(BYTES, format_args!("direction=\"to_client\""), to_clients);
        self.histogram(
            "psystrike_tunnel_duration_seconds",
            "Time from the opening of a tunnel to its end.",
            |worker| &worker.tunnel_duration,
        );
    }

    fn by_outcome(&mut self, name: &str, label: &str, help: &str, outcomes: impl Iterator<Item = Outcome>) {
        self.family(name, help);
        for outcome in outcomes {
            let count = self.sum(|worker| &worker.outcomes[outcome as usize]);
            self.put(&[name, "{", label, "=\"", outcome.label(), "\"} "]);
            self.value(count);
        }
    }

    fn limits(&mut self, workers: usize, build_info: &BuildInfo) {
        self.single("psystrike_workers", "Number of event loops, each in its own thread.", workers);
        self.single(
            "psystrike_client_connections_max",
            "Maximum number of client connections.",
            build_info.clients_max,
        );
        self.single(
            "psystrike_pod_connections_idle_max",
            "Maximum number of pooled pod connections.",
            build_info.upstreams_idle_max,
        );
        self.single(
            "psystrike_buffered_bytes_max",
            "Maximum number of bytes buffered for clients and pods.",
            build_info.buffers_max,
        );
    }

    fn state(&mut self, state: &State) {
        self.single(
            "psystrike_authentication_enabled",
            "Whether scrapes need credentials.",
            u8::from(state.is_authenticated),
        );
        self.single(
            "psystrike_access_unrestricted",
            "Whether any client on the network can scrape: without credentials, from any address.",
            u8::from(state.is_unrestricted),
        );
        const EXPIRY: &str = "psystrike_tls_certificate_expiry_timestamp_seconds";
        let in_use = |certificate: &&Arc<CertificateExpiry>| certificate.at() > 0;
        if state.certificates.iter().any(|certificate| in_use(&certificate)) {
            self.family(EXPIRY, "Time at which the certificates of this option expire.");
        }
        for certificate in state.certificates.iter().filter(in_use) {
            self.sample(EXPIRY, format_args!("option=\"{}\"", certificate.option()), certificate.at());
        }
        const SUCCESSFUL: &str = "psystrike_config_last_reload_successful";
        const AT: &str = "psystrike_config_last_reload_success_timestamp_seconds";
        if state.reloads.is_empty() {
            return;
        }
        self.family(SUCCESSFUL, "Whether the last attempt to read the file of this option succeeded.");
        for reload in &state.reloads {
            let value = u8::from(reload.is_successful());
            self.sample(SUCCESSFUL, format_args!("option=\"{}\"", reload.option()), value);
        }
        self.family(AT, "Time at which the file of this option was last read with success.");
        for reload in &state.reloads {
            self.sample(AT, format_args!("option=\"{}\"", reload.option()), reload.succeeded_at());
        }
    }

    fn histogram(&mut self, name: &str, help: &str, of: impl Fn(&Counters) -> &Histogram) {
        self.put(&["# HELP ", name, " ", help, "\n# TYPE ", name, " histogram\n"]);
        let mut count = 0;
        for bucket in 0..=BUCKETS.len() {
            count += self.sum(|worker| &of(worker).buckets[bucket]);
            let upper = BUCKETS.get(bucket).map_or("+Inf", |(_, text)| text);
            self.put(&[name, "_bucket{le=\"", upper, "\"} "]);
            self.value(count);
        }
        let seconds = Duration::from_nanos(self.sum(|worker| &of(worker).sum_nanoseconds)).as_secs_f64();
        let _ = writeln!(self.out, "{name}_sum {seconds}\n{name}_count {count}");
    }

    /// Appends the standard metrics of a process, with the texts of Prometheus's client libraries.
    fn process(&mut self, process: &Process) {
        let number = |value: Option<u64>| value.map(|value| value as f64);
        for (name, help, value) in [
            (
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
                process.cpu_seconds,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                number(process.resident_bytes),
            ),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", number(process.virtual_bytes)),
            (
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
                number(process.virtual_bytes_max),
            ),
            ("process_open_fds", "Number of open file descriptors.", number(process.open_fds)),
            ("process_max_fds", "Maximum number of open file descriptors.", number(process.max_fds)),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                process.start_time_seconds,
            ),
        ] {
            if let Some(value) = value {
                self.single(name, help, value);
            }
        }
    }
}
