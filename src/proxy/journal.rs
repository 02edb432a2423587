//! Logs exchanges: a line of the access log for each scrape, and failures at a limited rate.
//!
//! Owns the fields of these lines. [`crate::logging`] writes them to standard error. Every duration is a number under
//! the key `duration_seconds`, in the base unit and with its name, as in the names of metrics. Prometheus's log writes
//! `duration=1.5s`, but a program that reads JSON would have to parse that, and lines of both kinds are compared.

use std::{
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use log::{Level, Record, debug, kv::Value};

use super::{
    events::Report,
    log_rate::{LogRate, Subject, Suppressed, Unreported},
    logged,
    outcome::{Class, Outcome},
    peer::Peer,
    timestamp::Timestamp,
    tls_fault::TlsFault,
    tunnel::TunnelReport,
};

/// The log target of access log lines, which are logged at every level.
pub const ACCESS_LOG: &str = "access";
/// The key of every duration.
const DURATION: &str = "duration_seconds";
/// As many fields as any line has.
const FIELDS_MAX: usize = 8;
/// Maximum number of bytes of a refused request in the log.
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
    /// Bytes sent to the client, including heads.
    pub sent_bytes: u64,
    /// The time of the turn.
    pub at: Timestamp,
}

/// The fields of a line, in order.
struct Fields<'v>(Vec<(&'static str, Value<'v>)>);

impl<'v> Fields<'v> {
    fn new() -> Self {
        Self(Vec::with_capacity(FIELDS_MAX))
    }

    fn with(mut self, key: &'static str, value: impl Into<Value<'v>>) -> Self {
        self.0.push((key, value.into()));
        self
    }

    fn with_display(mut self, key: &'static str, value: Option<&'v impl Display>) -> Self {
        self.0.extend(value.map(|value| (key, Value::from_dyn_display(value))));
        self
    }

    /// Logs a failure: its outcome, and how many such lines were suppressed since the last one.
    fn log_failure(self, outcome: Outcome, suppressed: &Suppressed, message: fmt::Arguments<'_>) {
        self.with("outcome", outcome.label()).warn(suppressed, message);
    }

    fn warn(mut self, suppressed: &Suppressed, message: fmt::Arguments<'_>) {
        for (key, lines) in
            [("suppressed", suppressed.lines), ("suppressed_other_pods", suppressed.other_pods)]
        {
            if lines > 0 {
                self = self.with(key, lines);
            }
        }
        self.log(Level::Warn, module_path!(), message);
    }

    fn log(&self, level: Level, target: &'static str, message: fmt::Arguments<'_>) {
        let metadata = log::Metadata::builder().level(level).target(target).build();
        let fields = self.0.as_slice();
        let record = Record::builder().metadata(metadata).args(message).key_values(&fields).build();
        log::logger().log(&record);
    }
}

/// Displays a duration in seconds, as a number.
struct Seconds(Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

impl Journal {
    /// Logs a finished exchange: in the access log, and as a failure if the pod failed or the request was refused.
    pub fn record(&mut self, report: &Report, access_log: bool, delivery: &Delivery) {
        let Report { route, outcome, status, duration, .. } = report;
        if outcome.class() == Class::Client {
            debug!(pod:? = report.peer; "{}", outcome.reason());
        }
        let request = report.request.as_deref().unwrap_or("-");
        if access_log && route.is_to_pods() {
            let seconds = Seconds(*duration);
            Fields::new()
                .with_display("client", delivery.client.as_ref())
                .with_display("pod", report.peer.as_ref())
                .with("request", request)
                .with("status", *status)
                .with("outcome", outcome.label())
                .with("bytes", delivery.sent_bytes)
                .with_display(DURATION, Some(&seconds))
                .log(Level::Info, ACCESS_LOG, format_args!("scrape"));
        }
        if !matches!(outcome.class(), Class::Pod | Class::Refused) {
            return;
        }
        let pod = report.peer.map(|peer| peer.socket_addr());
        // First, as most lines of a flood are suppressed.
        let Some(suppressed) = self.rate.admit(*outcome, pod, delivery.at) else { return };
        let phrase = report.phrase();
        let fields = Fields::new();
        let seconds = Seconds(*duration);
        let cut = logged::cut(request, LOGGED_BYTES_MAX);
        let fields = match &pod {
            Some(_) => {
                let request = report.request.as_ref().map(|_| &cut);
                fields
                    .with_display("pod", pod.as_ref())
                    .with_display("request", request)
                    .with_display(DURATION, Some(&seconds))
            }
            None => fields.with_display("client", delivery.client.as_ref()).with("request", &*cut),
        };
        fields.log_failure(*outcome, &suppressed, format_args!("{phrase}"));
    }

    /// Logs the end of a tunnel in the access log. Its target is in the line of its request: a tunnel does not store
    /// it. The kernel no longer knows the `client` of a connection that both sides have closed.
    pub fn tunnel(&mut self, tunnel: &TunnelReport, client: Option<SocketAddr>, pod: Option<Peer>) {
        let seconds = Seconds(tunnel.duration);
        Fields::new()
            .with_display("client", client.as_ref())
            .with_display("pod", pod.as_ref())
            .with("end", tunnel.end.label())
            .with_display(DURATION, Some(&seconds))
            .log(Level::Info, ACCESS_LOG, format_args!("tunnel closed"));
    }

    /// Returns when [`Self::log_suppressed`] may next have something to log.
    #[inline]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.rate.next_due()
    }

    /// Logs how many lines were suppressed, for those that no later line reported in time. [`Timestamp::MAX`]: for all.
    pub fn log_suppressed(&mut self, now: Timestamp) {
        for Unreported { subject, pod, suppressed } in self.rate.take_due(now) {
            let mut fields = Fields::new().with_display("pod", pod.as_ref());
            let about = match subject {
                Subject::Outcome(outcome) => {
                    fields.log_failure(outcome, &suppressed, format_args!("similar log lines suppressed"));
                    continue;
                }
                Subject::RefusedClient => "refused clients",
                Subject::Tls(fault) => {
                    fields = fields.with("reason", fault.label());
                    "TLS with clients"
                }
            };
            fields.warn(&suppressed, format_args!("similar log lines about {about} suppressed"));
        }
    }

    /// Logs, at a limited rate, that a client's connection was closed because of its address.
    pub fn refused_client(&mut self, client: Option<IpAddr>, now: Timestamp) {
        let Some(suppressed) = self.rate.admit(Subject::RefusedClient, None, now) else { return };
        let message = format_args!("client address not allowed; connection closed");
        Fields::new().with_display("client", client.as_ref()).warn(&suppressed, message);
    }

    /// Logs, at a limited rate, why TLS with a client failed.
    pub fn tls_failure(&mut self, fault: TlsFault, client: Option<IpAddr>, now: Timestamp) {
        let Some(suppressed) = self.rate.admit(Subject::Tls(fault), None, now) else { return };
        let fields = Fields::new().with_display("client", client.as_ref()).with("reason", fault.label());
        fields.warn(&suppressed, format_args!("TLS with a client failed: {}", fault.reason()));
    }

    /// Logs a failure outside of any exchange, at a limited rate.
    pub fn trouble(&mut self, outcome: Outcome, now: Timestamp, about: impl Display) {
        let Some(suppressed) = self.rate.admit(outcome, None, now) else { return };
        Fields::new().log_failure(outcome, &suppressed, format_args!("{about}"));
    }
}
