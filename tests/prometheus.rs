//! The main job, end to end: a real Prometheus, the installed one and the newest, scrapes pods by their paths at
//! psystrike, with the shipped relabelling.

mod scraping;
mod support;

use std::net::SocketAddr;

use scraping::{
    Way, every_kind_of_pod,
    pages::{PAGE, content_length},
    pods::QUERY,
    start_psystrike,
};
use support::{
    exposition,
    pods::{Pod, Refusing, Then},
    prometheus::{Release, check_metrics},
    psystrike::Psystrike,
    seed,
};

#[test]
fn prometheus_scrapes_every_kind_of_pod() {
    every_kind_of_pod(Release::Installed, &BY_PATH);
}

#[test]
fn newest_prometheus_scrapes_every_kind_of_pod() {
    every_kind_of_pod(Release::Newest, &BY_PATH);
}

const BY_PATH: Way = Way { name: "by-path", job, query: QUERY };

#[test]
fn own_metrics_pass_promtool() {
    let releases = Release::all_with(&["promtool"]);
    let psystrike = start_psystrike();
    let pod = Pod::answering("127.10.0.1", content_length(PAGE), Then::Keep);
    let refusing = Refusing::on("127.10.0.2");
    // So that some counters on the page are not zero.
    for (address, status) in [
        (pod.address(), 200),
        (pod.address(), 200),
        (refusing.address(), 502),
        ("127.66.0.1:80".parse().unwrap(), 403),
    ] {
        let target = Psystrike::target(address, "/metrics");
        assert_eq!(psystrike.get(&target).status(), status, "{target}");
    }

    let page = psystrike.get("/metrics");

    let text = page.text();
    assert_eq!(
        psystrike.metric("psystrike_pod_responses_total{class=\"2xx\"}"),
        2.0,
        "a sample of the pod that responds"
    );
    for release in releases {
        let check = check_metrics(release, &page);
        let complaints = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
        let accepted = check.status.success() && complaints.is_empty();
        assert!(accepted, "{release:?}: {}: {complaints}\nof\n{text}", check.status);
    }
    exposition::parse(&text);
}

/// Returns the job with the relabelling of the original psystrike's users, at this address.
fn job(psystrike: SocketAddr) -> String {
    let relabel_configs = seed::relabel_configs(&psystrike.to_string()).replace('\n', "\n    ");
    format!(
        r"
  relabel_configs:
    {relabel_configs}
"
    )
}
