//! psystrikes behind each other, with TLS between them: replicas that scrape each other, the own metrics by `/pods/`,
//! and paths that lead in a circle.
#![cfg(feature = "tls")]

mod support;

use support::{
    Scratch,
    certificates::{Ca, Files},
    psystrike::Psystrike,
    scrapes::echo,
};

fn start(ca: &Ca, own: &Files, arguments: &[&str]) -> Psystrike {
    let ([certificate, key], trust) = (own.options("--tls"), format!("--pod-tls-ca={}", ca.file));
    let given = ["--allow=127.0.0.0/8", "--tls-only", &certificate, &key, &trust];
    Psystrike::start(&[&given, arguments].concat())
}

/// A front psystrike for plain HTTP, whose pods are psystrikes that accept only TLS.
struct Setup {
    ca_file: String,
    front: Psystrike,
    replicas: [Psystrike; 2],
}

impl Setup {
    fn new(scratch: &Scratch) -> Self {
        let ca = Ca::new(scratch, "ca");
        let own = ca.sign("psystrike", &["127.0.0.1", "127.33.0.1", "127.33.0.2"]);
        let replica = |ip: &str| start(&ca, &own, &[&format!("--listen={ip}:0")]);
        let trust = format!("--pod-tls-ca={}", ca.file);
        Self {
            front: Psystrike::start(&["--allow=127.0.0.0/8", &trust]),
            replicas: [replica("127.33.0.1"), replica("127.33.0.2")],
            ca_file: ca.file,
        }
    }
}

/// The path at which a psystrike scrapes `path` of another one by TLS.
fn through(next: &Psystrike, path: &str) -> String {
    let address = next.address();
    format!("/pods/https:{}/{}{path}", address.ip(), address.port())
}

#[test]
fn replicas_scrape_each_other() {
    let scratch = Scratch::new("tls-replicas");
    let Setup { front, replicas: [one, two], .. } = &Setup::new(&scratch);
    let pod = echo("127.33.0.9");
    let target = Psystrike::target(pod.address(), "/metrics");
    for (path, expected) in [
        (through(one, "/metrics"), "psystrike_build_info"),
        (through(one, &through(two, "/metrics")), "psystrike_build_info"),
        (through(one, &target), "/metrics"),
        (through(one, &through(two, &target)), "/metrics"),
        // The way through /pods/ to itself is a connection like any other, with TLS.
        (through(one, &through(one, "/metrics")), "psystrike_build_info"),
    ] {
        let mut client = front.client();
        for _ in 0..3 {
            let response = client.get(&path);
            assert_eq!(response.status(), 200, "{path}: {}", response.text());
            assert!(response.text().contains(expected), "{path}: {}", response.text());
        }
    }
    // The front has one pod, and all scrapes share a connection.
    let page = front.get("/metrics").text();
    assert!(page.contains("\npsystrike_pod_connections_opened_total 1\n"), "{page}");
    assert!(!one.stderr().contains("TLS with a client failed"), "{}", one.stderr());
}

#[test]
fn loops_over_tls_are_refused() {
    let scratch = Scratch::new("tls-loops");
    let Setup { front, replicas: [one, two], .. } = &Setup::new(&scratch);
    let pod = echo("127.33.0.8");
    let target = Psystrike::target(pod.address(), "/metrics");
    let circle = through(one, &through(two, &through(one, &through(two, &target))));
    let response = front.get(&circle);
    assert_eq!((response.status(), response.reason()), (508, "scrape loops through psystrike".to_owned()));
    assert_eq!(pod.connections(), 0);
    // The circle of a replica with itself.
    let response = front.get(&through(one, &through(one, &through(one, &through(one, &target)))));
    assert_eq!(response.status(), 508, "{}", response.text());
}

#[test]
fn the_own_address_is_known_by_proxy_url() {
    use rustls::version::TLS13;
    use support::tls_client::{TlsClient, trusting};
    let scratch = Scratch::new("tls-own-address");
    let setup = Setup::new(&scratch);
    let [one, _] = &setup.replicas;
    let config = trusting(&setup.ca_file, &[&TLS13]);
    let mut client = TlsClient::connect(one.address(), &config).expect("a handshake");
    let (status, page) = client.get(&format!("http://{}/metrics", one.address())).expect("a response");
    assert_eq!(status, 200);
    let page = String::from_utf8(page).expect("text");
    assert!(page.contains("\npsystrike_pod_connections_opened_total 0\n"), "{page}");
}
