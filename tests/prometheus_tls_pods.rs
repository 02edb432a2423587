//! Pods with TLS, end to end: a real Prometheus, the installed one and the newest, scrapes them through `/pods/`, and
//! psystrike opens the TLS connections. Pods of Go's net/http and of nginx, with good certificates and bad ones.
#![cfg(feature = "tls")]

mod support;

use std::{fmt::Write, net::SocketAddr};

use support::{
    Scratch,
    certificates::{Ca, Flaw},
    exposition::Samples,
    jobs::{Job, assert_jobs, job},
    nginx::Nginx,
    prometheus::{Prometheus, Release},
    psystrike::Psystrike,
    require_programs,
    tls_pods::TlsPods,
};

#[test]
fn prometheus_scrapes_pods_with_tls() {
    every_kind_of_pod(Release::Installed);
}

#[test]
fn the_newest_prometheus_scrapes_pods_with_tls() {
    every_kind_of_pod(Release::Newest);
}

/// The pods of a test, by name. Each has a certificate for its address, unless the name says otherwise.
struct Pods {
    _go: TlsPods,
    addresses: Vec<(&'static str, SocketAddr)>,
    _nginx: Nginx,
}

impl Pods {
    fn start(scratch: &Scratch, ca: &Ca) -> Self {
        let flawed = |name, address, flaw| ca.sign_with(name, &[address], flaw);
        let good = ca.sign("good", &["127.28.0.1", "127.28.0.2", "127.28.0.3", "127.28.0.9", "127.12.9.9"]);
        ca.sign("localhost", &["localhost"]);
        ca.sign("elsewhere", &["127.28.9.9", "pods.example"]);
        flawed("expired", "127.28.0.4", Flaw::Expired);
        flawed("early", "127.28.0.6", Flaw::NotYetValid);
        flawed("self-signed", "127.28.0.7", Flaw::SelfSigned);
        Ca::new(scratch, "another").sign("stranger", &["127.28.0.8"]);
        let kinds = [
            ("tls", "127.28.0.1", "good"),
            ("required", "127.28.0.2", "good"),
            ("requested", "127.28.0.3", "good"),
            ("old", "127.28.0.9", "good"),
            ("plain", "127.28.0.10", ""),
            ("tls", "127.0.0.1", "localhost"),
            ("tls", "127.28.0.4", "expired"),
            ("tls", "127.28.0.5", "elsewhere"),
            ("tls", "127.28.0.6", "early"),
            ("tls", "127.28.0.7", "self-signed"),
            ("tls", "127.28.0.8", "stranger"),
        ];
        let go = TlsPods::start(scratch, &kinds);
        let nginx = Nginx::listening(
            scratch,
            "ssl",
            &format!("ssl_certificate {}; ssl_certificate_key {};", good.certificate, good.key),
            "location /metrics { default_type text/plain; return 200 'pod_up{nginx=\"$nginx_version\", \
             over=\"$scheme\", tls=\"$ssl_protocol\", sni=\"$ssl_server_name\"} 1\\n'; }",
        );
        let name = |(kind, _, certificate): &(&'static str, &str, &'static str)| match *kind {
            "tls" => *certificate,
            kind => kind,
        };
        let mut addresses: Vec<_> = kinds.iter().map(name).zip(go.addresses.iter().copied()).collect();
        addresses.push(("nginx", nginx.address));
        Self { _go: go, addresses, _nginx: nginx }
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.addresses.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1
    }
}

/// The psystrikes of a test, by their options for pods.
struct Ways {
    verify: Psystrike,
    /// The same, with a certificate of its own.
    present: Psystrike,
    /// The same, and pods have one name.
    named: Psystrike,
    skip: Psystrike,
    none: Psystrike,
    /// With TLS for clients, whose scheme is that of pods.
    client: Psystrike,
}

impl Ways {
    fn start(ca: &Ca) -> Self {
        let start = |arguments: &[&str]| Psystrike::start(&[&["--allow=127.0.0.0/8"], arguments].concat());
        let trust = format!("--pod-tls-ca={}", ca.file);
        let [certificate, key] = ca.sign("psystrike", &["psystrike.example"]).options("--pod-tls");
        let [own, own_key] = ca.sign("front", &["127.0.0.1"]).options("--tls");
        Self {
            verify: start(&[&trust]),
            present: start(&[&trust, &certificate, &key]),
            named: start(&[&trust, "--pod-tls-name=pods.example"]),
            skip: start(&["--pod-tls-skip-verify"]),
            none: start(&[]),
            client: start(&[&trust, "--pod-scheme=client", &own, &own_key]),
        }
    }
}

fn every_kind_of_pod(release: Release) {
    if !release.require(&["prometheus"]) || !require_programs(&["go", "nginx"]) {
        return;
    }
    let scratch = Scratch::new(&format!("prometheus-tls-pods-{release:?}"));
    let ca = Ca::new(&scratch, "ca");
    let (ways, pods) = (Ways::start(&ca), Pods::start(&scratch, &ca));
    let jobs = [trusted(&ways, &pods), refused(&ways, &pods), by_scheme(&ways, &pods, &ca.file)].concat();

    let prometheus = assert_jobs(release, &scratch, &jobs);

    assert_pages(&prometheus);
    // One connection for all scrapes of a pod, and so one handshake.
    let opened = ways.present.metric("psystrike_pod_connections_opened_total");
    assert_eq!(opened, 3.0, "connections to three pods");
}

/// A job that scrapes a pod through a psystrike, by a target of this form.
fn way(name: &'static str, psystrike: &Psystrike, pod: &str, error: &'static str) -> Job {
    job(name, format!("metrics_path: /pods/{pod}/metrics"), psystrike.address().to_string(), error)
}

fn https(pod: SocketAddr) -> String {
    format!("https:{}/{}", pod.ip(), pod.port())
}

/// Jobs whose pod is trusted, or need not be.
fn trusted(ways: &Ways, pods: &Pods) -> Vec<Job> {
    let way = |name, psystrike, pod| way(name, psystrike, &https(pods.address(pod)), "");
    let by_name = format!("https:localhost/{}", pods.address("localhost").port());
    vec![
        way("go", &ways.verify, "good"),
        self::way("go-by-name", &ways.verify, &by_name, ""),
        way("nginx", &ways.verify, "nginx"),
        way("requested-without", &ways.verify, "requested"),
        way("go-and-certificate", &ways.present, "good"),
        way("required", &ways.present, "required"),
        way("requested", &ways.present, "requested"),
        way("named", &ways.named, "elsewhere"),
        way("skip-self-signed", &ways.skip, "self-signed"),
        way("skip-stranger", &ways.skip, "stranger"),
        way("skip-expired", &ways.skip, "expired"),
        way("skip-elsewhere", &ways.skip, "elsewhere"),
    ]
}

/// Jobs whose pod is refused, and the reason that Prometheus shows.
fn refused(ways: &Ways, pods: &Pods) -> Vec<Job> {
    let way = |name, psystrike, pod, error| way(name, psystrike, &https(pods.address(pod)), error);
    vec![
        way("expired", &ways.verify, "expired", "502 pod's certificate is not trusted: expired"),
        way("early", &ways.verify, "early", "502 pod's certificate is not trusted: not valid yet"),
        way("elsewhere", &ways.verify, "elsewhere", WRONG_NAME),
        way("other-name", &ways.named, "good", WRONG_NAME),
        way("stranger", &ways.verify, "stranger", UNKNOWN_ISSUER),
        way("none", &ways.none, "good", NO_CA),
        way(
            "self-signed",
            &ways.verify,
            "self-signed",
            "502 pod's certificate is not trusted: a CA certificate, which many self-signed ones are, cannot be \
             verified",
        ),
        way(
            "no-certificate",
            &ways.verify,
            "required",
            "502 TLS connection to the pod failed: the peer refused or requires a certificate",
        ),
        way("old", &ways.skip, "old", "502 TLS connection to the pod failed: no common TLS version"),
        way("http", &ways.skip, "plain", "502 TLS connection to the pod failed: not TLS"),
    ]
}

const WRONG_NAME: &str = "502 pod's certificate is not trusted: not valid for this name";
const UNKNOWN_ISSUER: &str = "502 pod's certificate is not trusted: unknown issuer";
const NO_CA: &str = "502 pod's certificate is not trusted: no CA for pods is configured; set --pod-tls-ca or \
                     --pod-tls-skip-verify";

/// Jobs in which the scheme towards psystrike is the pod's, as in relabelling with `prometheus.io/scheme`.
fn by_scheme(ways: &Ways, pods: &Pods, ca: &str) -> Vec<Job> {
    let tls = format!("scheme: https\ntls_config: {{ ca_file: {ca} }}");
    let way = |name, lines: &str, scheme: &str, pod, error| {
        let pod = pods.address(pod);
        let path = format!("/pods/{scheme}{}/{}/metrics", pod.ip(), pod.port());
        let lines = format!("metrics_path: {path}\n{lines}");
        job(name, lines.trim_end().to_owned(), ways.client.address().to_string(), error)
    };
    vec![
        way("scheme-https", &tls, "", "good", ""),
        way("scheme-http", "", "", "plain", ""),
        way("scheme-http-over-https", &tls, "http:", "plain", ""),
        way("scheme-https-over-http", "", "https:", "good", ""),
        way("scheme-https-to-http", &tls, "", "plain", "502 TLS connection to the pod failed: not TLS"),
        way("scheme-http-to-https", "", "", "good", "HTTP status 400 Bad Request"), // of Go's net/http
    ]
}

/// Checks which TLS the pods had: their pages show it.
fn assert_pages(prometheus: &Prometheus) {
    let mut wrong = String::new();
    for (job, expected) in [
        ("go", "alpn='http/1.1',client_certificate='',over='https',protocol='HTTP/1.1',sni=''"),
        ("go-by-name", "alpn='http/1.1',over='https',sni='localhost'"),
        ("nginx", "over='https',sni='',tls='TLSv1.2'"),
        ("requested-without", "client_certificate='',over='https'"),
        ("required", "client_certificate='psystrike',over='https'"),
        ("requested", "client_certificate='psystrike',over='https'"),
        ("go-and-certificate", "client_certificate='',over='https'"), // it requests none
        ("named", "over='https',sni='pods.example'"),
        ("scheme-https", "over='https',sni=''"),
        ("scheme-http", "over='http'"),
        ("scheme-http-over-https", "over='http'"),
        ("scheme-https-over-http", "over='https'"),
    ] {
        let found: Samples = prometheus.query(&format!("pod_up{{job='{job}',{expected}}}"));
        if found.len() != 1 {
            let pages = prometheus.query(&format!("pod_up{{job='{job}'}}"));
            let _ = writeln!(wrong, "{job}: not {expected}: {pages:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
