//! Targets with TLS, end to end: a real Prometheus with one line of `proxy_url` speaks TLS with the pods through
//! psystrike's tunnels, and shows psystrike's reason if a tunnel is refused.

mod scraping;
mod support;

use std::{fmt::Write, time::Duration};

use scraping::hosts::{Failure, Scheme, pods_of_every_host};
use support::{
    Scratch,
    markdown::{self, Document},
    pods::{Refusing, Unanswering},
    prometheus::{Prometheus, Release, Target},
    psystrike::Psystrike,
    require_programs,
    servers::Servers,
    tls::make_certificate,
};

#[test]
fn prometheus_scrapes_pods_with_tls_through_tunnels() {
    pods_with_tls(Release::Installed);
}

#[test]
fn the_newest_prometheus_scrapes_pods_with_tls_through_tunnels() {
    pods_with_tls(Release::Newest);
}

#[test]
fn prometheus_scrapes_pods_with_tls_of_every_host() {
    pods_of_every_host(Release::Installed, &HTTPS);
}

#[test]
fn the_newest_prometheus_scrapes_pods_with_tls_of_every_host() {
    pods_of_every_host(Release::Newest, &HTTPS);
}

/// The errors that Prometheus shows if the pod behind an open tunnel is slow or silent, closes during the handshake,
/// does not speak TLS, or has a certificate that is not trusted or is for another address.
const SLOW: &str = "context deadline exceeded";
const CLOSES: &str = "EOF";
const NO_TLS: &str = "tls: first record does not look like a TLS handshake";
const UNTRUSTED: &str = "x509: certificate signed by unknown authority";
const OTHER_NAME: &str = "x509: certificate is valid for";

#[test]
fn errors_of_open_tunnels_are_in_the_table() {
    let table = Document::read("deploy/troubleshooting.md").section("Errors of a tunnel").table();
    let spans = table.iter().flat_map(|row| markdown::code_spans(&row[0]));
    let spans: Vec<&str> = spans.map(|span| span.trim_matches(['…', ' '])).collect();
    for error in [SLOW, CLOSES, NO_TLS, UNTRUSTED, OTHER_NAME] {
        assert!(spans.contains(&error), "{error:?} is not in {table:#?}");
    }
}

const HTTPS: Scheme =
    Scheme { name: "https", shown: shown_of_https, others: &[("closing", CLOSES), ("http", NO_TLS)] };

/// The reason of a response to CONNECT, without its status. In an open tunnel psystrike cannot respond.
fn shown_of_https(failure: Failure) -> String {
    let reason = match failure {
        Failure::Forbidden => "destination not allowed",
        Failure::NameForbidden => "name resolves to no allowed address",
        Failure::Dead => "pod refused the connection",
        Failure::Unanswering => "pod did not accept the connection within 500ms",
        Failure::Slow => SLOW,
    };
    format!("\": {reason}")
}

fn pods_with_tls(release: Release) {
    if !release.require(&["prometheus"]) || !require_programs(&["openssl", "python3"]) {
        return;
    }
    let scratch = Scratch::new(&format!("prometheus-tls-{release:?}"));
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    let pods = ["127.25.0.1", "127.25.0.2", "::1", "127.0.0.1", "127.25.0.1"].map(|ip| ("tls", ip));
    let pods = Servers::start(&scratch, &pods);
    let (refusing, unanswering) = (Refusing::on("127.25.0.3"), Unanswering::on("127.25.0.4"));
    let allow = ["--allow", "127.25.0.0/16", "--allow", "::1/128", "--allow", "127.0.0.1"];
    let psystrike = Psystrike::start(&[&allow[..], &["--allow-connect"]].concat());
    let off = Psystrike::start(&allow);

    let [v4, other, v6, named, untrusted] = pods.addresses[..] else { panic!("five pods") };
    let [v4, other, v6, untrusted] = [v4, other, v6, untrusted].map(|address| address.to_string());
    let named = format!("localhost:{}", named.port());
    let [refusing, unanswering] = [refusing.address(), unanswering.address()].map(|it| it.to_string());
    let forbidden = "127.66.0.1:443".to_owned();
    let verify = format!("ca_file: {}", scratch.path("cert.pem").display());
    let jobs = [
        ("verified", &psystrike, &*verify, vec![&v4, &v6, &named]),
        (
            "unverified",
            &psystrike,
            "insecure_skip_verify: true",
            vec![&other, &refusing, &forbidden, &unanswering],
        ),
        ("wrong-name", &psystrike, &*verify, vec![&other]),
        ("untrusted", &psystrike, "", vec![&untrusted]),
        ("off", &off, "insecure_skip_verify: true", vec![&v4]),
    ];
    let mut configuration =
        "global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n".to_owned();
    for (name, psystrike, tls, targets) in &jobs {
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let (address, targets) = (psystrike.address(), targets.join(", "));
        let _ = write!(
            configuration,
            "- job_name: {name}\n  scheme: https\n  proxy_url: http://{address}\n  tls_config: {{ {tls} }}\n  \
             static_configs: [{{ targets: [{targets}] }}]\n"
        );
    }
    scratch.write("prometheus.yml", &configuration);
    let prometheus = Prometheus::start(release, &scratch);
    let settled = "count_over_time(up[5m]) >= 3";
    let in_time = prometheus.wait_until(Duration::from_secs(25), |it| it.query(settled).len() == 10);
    let targets = prometheus.targets();
    assert!(in_time, "{targets:#?}");

    for (job, address, error) in [
        ("verified", &v4, ""),
        ("verified", &v6, ""),
        ("verified", &named, ""),
        ("unverified", &other, ""),
        ("unverified", &refusing, "pod refused the connection"),
        ("unverified", &unanswering, SLOW), // CONNECT has no time limit but --connect-timeout
        ("unverified", &forbidden, "destination not allowed"),
        ("wrong-name", &other, OTHER_NAME),
        ("untrusted", &untrusted, UNTRUSTED),
        ("off", &v4, "CONNECT is disabled; --allow-connect enables it"),
    ] {
        let is_it = |target: &&Target| target.labels["job"] == job && target.labels["instance"] == *address;
        let target =
            targets.iter().find(is_it).unwrap_or_else(|| panic!("no {job}, {address}: {targets:#?}"));
        assert!(target.last_error.contains(error), "{job}, {address}: {:?}", target.last_error);
        assert_eq!(target.health, if error.is_empty() { "up" } else { "down" }, "{target:#?}");
        let up = prometheus.query(&format!("pod_up{{job='{job}',instance='{address}'}}"));
        assert_eq!(
            up.values().next().map(String::as_str),
            error.is_empty().then_some("1"),
            "{job}, {address}"
        );
    }
    // Prometheus uses one tunnel for all scrapes of a pod.
    let connections = prometheus.query("max_over_time(pod_connections{job='verified'}[5m])");
    assert_eq!(connections.values().map(String::as_str).collect::<Vec<_>>(), ["1", "1", "1"]);
    assert!(psystrike.metric("psystrike_tunnels") >= 4.0);
    assert!(psystrike.metric("psystrike_tunnel_bytes_total{direction=\"to_client\"}") > 12.0 * 16384.0);
    assert!(off.metric("psystrike_refusals_total{reason=\"connect_not_allowed\"}") > 0.0);
}
