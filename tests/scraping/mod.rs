//! Every kind of pod, scraped by a real Prometheus through the real binary. The pods listen on loopback addresses;
//! `file_sd` replaces discovery. Prometheus must store what a direct scrape of each pod returns, and show psystrike's
//! reason for a pod that cannot be scraped.

// Each test file is a crate of its own and uses its own part of this.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod hosts;
pub mod judge;
pub mod pages;
pub mod pods;
pub mod report;

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::support::{
    LIMIT, Scratch,
    http::Response,
    prometheus::{Prometheus, Release},
    psystrike::Psystrike,
    require_programs,
};
use judge::{check_samples, check_target};
use pods::{Expected, Pods, QUERY, SCRAPES, ScrapedPod};
use report::Report;

/// How Prometheus reaches pods through psystrike.
pub struct Way {
    pub name: &'static str,
    /// The part of the job for pods that differs, for psystrike at this address.
    pub job: fn(SocketAddr) -> String,
    /// The target that reaches the pod at [`QUERY`].
    pub query: &'static str,
}

fn configuration(way: &Way, psystrike: SocketAddr) -> String {
    let job = (way.job)(psystrike);
    format!(
        r"
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
- job_name: 'psystrike'
  static_configs:
    - targets: ['{psystrike}']
- job_name: 'kubernetes-pods'
  file_sd_configs:
    - files: [pods.json]
{job}"
    )
}

pub fn every_kind_of_pod(release: Release, way: &Way) {
    if !release.require(&["prometheus"]) || !require_programs(&["prometheus-node-exporter"]) {
        return;
    }
    let mut psystrike = start_psystrike();
    let pods = Pods::start();
    let mut scraped = pods.scraped(psystrike.address());
    if let Some(pod) = scraped.iter_mut().find(|pod| pod.name == "query" && way.query != QUERY) {
        pod.expected = Expected::Down("404 Not Found");
    }
    let at_first: Vec<Option<Response>> = scraped.iter().map(ScrapedPod::scrape_if_it_changes).collect();

    let scratch = Scratch::new(&format!("every-kind-of-pod-{}-{release:?}", way.name));
    let discovered = scraped.iter().map(|pod| pod.discovered("true")).chain([pods.unannotated()]);
    scratch.write("pods.json", &Value::from_iter(discovered).to_string());
    scratch.write("prometheus.yml", &configuration(way, psystrike.address()));
    let prometheus = Prometheus::start(release, &scratch);

    let settled = format!("count_over_time(up[5m]) >= {SCRAPES}");
    let in_time = prometheus.wait_until(Duration::from_secs(25), |prometheus| {
        prometheus.query(&settled).len() > scraped.len() // the pods, and psystrike itself
    });

    let mut report = Report::default();
    report.check(in_time, || format!("not every target was scraped {SCRAPES} times in time"));
    pods.check_what_arrived(way.query, &mut report);
    let targets = prometheus.targets();
    for (pod, before) in scraped.iter().zip(at_first) {
        check_target(pod, &targets, &mut report);
        check_samples(pod, before, &prometheus, &mut report);
    }
    report.check(targets.len() == scraped.len() + 1, || format!("{} targets", targets.len()));
    report.check(prometheus.dropped_targets() == 1, || {
        "the pod without scrape annotation is not dropped".into()
    });
    let own = prometheus.query("psystrike_build_info{job='psystrike'}");
    report.check(own.len() == 1, || format!("of psystrike's own page: {own:?}"));

    let status = psystrike.terminate(LIMIT);
    report.check(status.success(), || format!("SIGTERM under scrapes ended with {status}"));
    report.conclude(&targets);
}

/// The addresses of the pods, except for 127.66.0.0/16, which contains one more.
pub fn start_psystrike() -> Psystrike {
    Psystrike::start(&["--allow", "127.10.0.0/16", "--allow", "127.0.0.1/32", "--allow", "::1/128"])
}
