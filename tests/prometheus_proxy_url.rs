//! Scrapes through `proxy_url`, end to end: one line in the job of a real Prometheus, the installed one and the newest,
//! instead of relabelling rules.

mod scraping;
mod support;

use std::net::SocketAddr;

use scraping::{
    Way, every_kind_of_pod,
    hosts::{Failure, Scheme, pods_of_every_host},
};
use support::prometheus::Release;

#[test]
fn prometheus_scrapes_every_kind_of_pod_through_proxy_url() {
    every_kind_of_pod(Release::Installed, &BY_PROXY_URL);
}

#[test]
fn newest_prometheus_scrapes_every_kind_of_pod_through_proxy_url() {
    every_kind_of_pod(Release::Newest, &BY_PROXY_URL);
}

#[test]
fn prometheus_scrapes_pods_of_every_host_through_proxy_url() {
    pods_of_every_host(Release::Installed, &HTTP);
}

#[test]
fn newest_prometheus_scrapes_pods_of_every_host_through_proxy_url() {
    pods_of_every_host(Release::Newest, &HTTP);
}

const HTTP: Scheme = Scheme { name: "http", shown: shown_of_http, others: &[] };

/// A response of psystrike, with its status.
fn shown_of_http(failure: Failure) -> String {
    let answer = match failure {
        Failure::Forbidden => "403 destination not allowed",
        Failure::NameForbidden => "403 name resolves to no allowed address",
        Failure::Dead => "502 pod refused the connection",
        Failure::Unanswering => "504 pod did not accept the connection within 500ms",
        Failure::Slow => "504 no response from the pod within 900ms",
    };
    format!("server returned HTTP status {answer}")
}

/// A proxy must not modify the path (RFC 9110 section 7.7), and Prometheus encodes the `?`.
const BY_PROXY_URL: Way = Way { name: "by-proxy-url", job: proxy_job, query: "/metrics%3Fformat=prometheus" };

/// Returns the job with one line for psystrike; the relabelling would be the same without it.
fn proxy_job(psystrike: SocketAddr) -> String {
    format!(
        r"
  proxy_url: http://{psystrike}
  relabel_configs:
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
      action: keep
      regex: true
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scheme]
      target_label: __scheme__
      regex: (https?)
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path]
      target_label: __metrics_path__
      regex: (.+)
    - source_labels: [__address__]
      target_label: instance
    - source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port]
      target_label: __address__
      regex: (.+):\d+;(\d+)
      replacement: $1:$2
    - action: labelmap
      regex: __meta_kubernetes_pod_label_(.+)
    - source_labels: [__meta_kubernetes_namespace]
      target_label: kubernetes_namespace
    - source_labels: [__meta_kubernetes_pod_name]
      target_label: kubernetes_pod_name
    - source_labels: [__meta_kubernetes_pod_node_name]
      target_label: kubernetes_pod_node_name
"
    )
}
