//! TLS between a real Prometheus and psystrike, end to end, the installed one and the newest: by path and by
//! `proxy_url`, with every way to prove who the client is, and the reason that Prometheus shows if that fails.
#![cfg(feature = "tls")]

mod support;

use std::net::SocketAddr;

use support::{
    Scratch,
    certificates::{Ca, Files},
    jobs::{Job, assert_jobs, job},
    pods::{Pod, Then},
    prometheus::Release,
    psystrike::Psystrike,
    require_programs,
    scrapes::with_length,
    tls_pods::TlsPods,
};

const SECRET: &str = "e6f1c0b9-7d52-4a8e";

#[test]
fn prometheus_connects_with_tls() {
    every_way(Release::Installed);
}

#[test]
fn the_newest_prometheus_connects_with_tls() {
    every_way(Release::Newest);
}

/// The psystrikes of a test, one for each way in which clients prove who they are.
struct Doors {
    /// TLS and plain HTTP on one port, with a secret.
    secret: Psystrike,
    /// Only TLS, with a client certificate of any name.
    certificate: Psystrike,
    /// The same, of one name.
    named: Psystrike,
    /// Neither, and no TLS.
    plain: Psystrike,
}

impl Doors {
    fn open(scratch: &Scratch, ca: &Ca) -> Self {
        let server = ca.sign("psystrike", &["127.0.0.1", "localhost"]).options("--tls");
        let secrets = scratch.write("secrets", &format!("prometheus:{SECRET}\n"));
        let secrets = format!("--auth-token-file={}", secrets.display());
        let client_ca = format!("--tls-client-ca={}", ca.file);
        let start = |arguments: &[&str]| {
            let common = ["--allow=127.27.0.0/16", "--allow-connect"];
            Psystrike::start(&[&common[..], arguments].concat())
        };
        let [certificate, key] = &server;
        let named = "--tls-client-san=prometheus.example";
        Self {
            secret: start(&[certificate, key, &secrets]),
            certificate: start(&[certificate, key, &client_ca, "--tls-only"]),
            named: start(&[certificate, key, &client_ca, named]),
            plain: start(&[]),
        }
    }
}

/// The lines of a job for TLS with a psystrike or a pod that `ca` signed, and a client certificate.
fn tls(ca: &str, client: Option<&Files>) -> String {
    let client = client.map_or_else(String::new, |Files { certificate, key }| {
        format!(", cert_file: {certificate}, key_file: {key}")
    });
    format!("tls_config: {{ ca_file: {ca}{client} }}")
}

fn every_way(release: Release) {
    if !release.require(&["prometheus"]) || !require_programs(&["go"]) {
        return;
    }
    let scratch = Scratch::new(&format!("prometheus-tls-clients-{release:?}"));
    let (ca, other_ca) = (Ca::new(&scratch, "ca"), Ca::new(&scratch, "other"));
    let doors = Doors::open(&scratch, &ca);
    ca.sign("pod", &["127.27.1.1"]);
    let pods = TlsPods::start(&scratch, &[("tls", "127.27.1.1", "pod")]);
    let pod = Pod::serve("127.27.1.2", |head, client| {
        let credentials = head.field("Authorization").unwrap_or_default();
        client
            .send(with_length(&format!("pod_received{{credentials=\"{credentials}\"}} 1\n")))
            .map(|()| Then::Keep)
    });
    let clients = Clients {
        ca: ca.file.clone(),
        named: ca.sign("prometheus", &["prometheus.example"]),
        unnamed: ca.sign("another", &["another.example"]),
        unknown: other_ca.sign("unknown", &["prometheus.example"]),
    };
    let mut jobs = by_path(&doors, &clients, pod.address());
    jobs.extend(by_proxy_url(&doors, &clients, [pod.address(), pods.addresses[0]]));

    let prometheus = assert_jobs(release, &scratch, &jobs);

    let received = prometheus.label_values("credentials", "pod_received");
    assert_eq!(received, ["Bearer of-the-pod"], "of the jobs with credentials for the pod");
    let handshakes = doors.secret.metric("psystrike_tls_handshakes_total");
    let scrapes = prometheus.query("sum(count_over_time(up{job=~'bearer|basic'}[5m]))");
    assert!(handshakes < 40.0, "{handshakes} handshakes for {scrapes:?} scrapes of two jobs");
    assert!(!doors.secret.stderr().contains(SECRET));
    let seen = format!("{:?}", pod.heads());
    assert!(!seen.contains(SECRET) && !seen.contains("Proxy-"), "{seen}");
}

/// The certificates of the clients, and the CA that they trust.
struct Clients {
    ca: String,
    named: Files,
    unnamed: Files,
    unknown: Files,
}

/// What Go's client shows if the server closes with this alert.
const NO_CERTIFICATE: &str = "remote error: tls: certificate required";
const OTHER_NAME: &str = "remote error: tls: bad certificate";
const NO_TLS: &str = "HTTP status 400 HTTPS required; this port refuses plain HTTP";
const UNKNOWN_CA: &str = "remote error: tls: unknown certificate authority";

fn by_path(doors: &Doors, clients: &Clients, pod: SocketAddr) -> Vec<Job> {
    let bearer = format!("authorization: {{ credentials: {SECRET} }}");
    let basic = |password| format!("basic_auth: {{ username: prometheus, password: {password} }}");
    let way = |name, psystrike: &Psystrike, lines: &str, tls: &str, error| {
        let path = Psystrike::target(pod, "/metrics");
        let lines = format!("metrics_path: {path}\n{tls}\n{lines}");
        job(name, lines.trim_end().to_owned(), psystrike.address().to_string(), error)
    };
    let https = |client| format!("scheme: https\n{}", tls(&clients.ca, client));
    let (secret, trusting) = (&doors.secret, https(None));
    vec![
        way("bearer", secret, &bearer, &trusting, ""),
        way("basic", secret, &basic(SECRET), &trusting, ""),
        way("bearer-plain", secret, &bearer, "", ""),
        way("basic-plain", secret, &basic(SECRET), "", ""),
        way("missing", secret, "", &trusting, "HTTP status 401 authentication required"),
        way("wrong", secret, &basic("wrong"), &trusting, "401 authentication failed: unknown secret"),
        way("untrusted", secret, &bearer, "scheme: https", "certificate signed by unknown authority"),
        way("certificate", &doors.certificate, "", &https(Some(&clients.named)), ""),
        way("unnamed", &doors.certificate, "", &https(Some(&clients.unnamed)), ""),
        way("named", &doors.named, "", &https(Some(&clients.named)), ""),
        way("pod-credentials", &doors.named, OF_POD, &https(Some(&clients.named)), ""),
        way("other-name", &doors.named, "", &https(Some(&clients.unnamed)), OTHER_NAME),
        way("no-certificate", &doors.certificate, "", &trusting, NO_CERTIFICATE),
        way("unknown-ca", &doors.certificate, "", &https(Some(&clients.unknown)), UNKNOWN_CA),
        way("no-tls", &doors.certificate, "", "", NO_TLS),
        way("plain", &doors.plain, "", "", ""),
        way("tls-to-plain", &doors.plain, "", &trusting, "http: server gave HTTP response to HTTPS client"),
    ]
}

const OF_POD: &str = "authorization: { credentials: of-the-pod }";

/// `to` has the addresses of a pod without TLS and of one with it.
fn by_proxy_url(doors: &Doors, clients: &Clients, to: [SocketAddr; 2]) -> Vec<Job> {
    let [plain, encrypted] = to;
    // In Prometheus, tls_config is for a proxy and for the target.
    let way = |name, proxy: String, client, target: SocketAddr, error| {
        let scheme = if target == encrypted { "https" } else { "http" };
        let lines = format!("proxy_url: {proxy}\nscheme: {scheme}\n{}", tls(&clients.ca, client));
        job(name, lines, target.to_string(), error)
    };
    let url = |scheme, userinfo: &str, psystrike: &Psystrike| {
        format!("{scheme}://{userinfo}{}", psystrike.address())
    };
    let (right, wrong) = (format!("prometheus:{SECRET}@"), "prometheus:wrong@");
    let https = |userinfo: &str| url("https", userinfo, &doors.secret);
    let by_certificate = || url("https", "", &doors.certificate);
    let http = |userinfo: &str| url("http", userinfo, &doors.secret);
    const MISSING: &str = "proxy authentication required";
    const WRONG: &str = "proxy authentication failed: unknown secret";
    vec![
        way("proxy", http(&right), None, plain, ""),
        way("proxy-tunnel", http(&right), None, encrypted, ""),
        way("proxy-missing", http(""), None, plain, MISSING),
        way("proxy-tls", https(&right), None, plain, ""),
        way("proxy-tls-tunnel", https(&right), None, encrypted, ""),
        way("proxy-tls-missing", https(""), None, plain, MISSING),
        way("proxy-tls-wrong", https(wrong), None, plain, WRONG),
        way("proxy-tls-tunnel-missing", https(""), None, encrypted, MISSING),
        way("proxy-tls-tunnel-wrong", https(wrong), None, encrypted, WRONG),
        way("proxy-certificate", by_certificate(), Some(&clients.named), plain, ""),
        way("proxy-certificate-tunnel", by_certificate(), Some(&clients.named), encrypted, ""),
        way("proxy-no-certificate", by_certificate(), None, plain, NO_CERTIFICATE),
        way("proxy-no-certificate-tunnel", by_certificate(), None, encrypted, NO_CERTIFICATE),
        way("proxy-other-name", url("https", "", &doors.named), Some(&clients.unnamed), plain, OTHER_NAME),
        way("proxy-no-tls", url("http", "", &doors.certificate), None, plain, NO_TLS),
    ]
}
