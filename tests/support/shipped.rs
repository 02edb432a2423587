//! The contents of deploy/prometheus/ as shipped, and the replacements that are needed to run it here: files replace
//! the clusters, because Debian builds its Prometheus without discovery in Kubernetes.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use super::{assert_same, exposition::Labels, prometheus::Prometheus, read};

/// Time limit for Prometheus, which waits up to 5 seconds before it scrapes new targets.
pub const IN_TIME: Duration = Duration::from_secs(30);

pub const PROMETHEUS: &str = "prometheus.yml";
pub const RELABELLING: &str = "relabelling.yml";
pub const CLUSTERS: &str = "clusters.yml";
pub const FILE_SD: &str = "file_sd.yml";
pub const PROXY_URL: &str = "proxy_url.yml";
pub const TLS: &str = "tls.yml";
pub const PODS: &str = "pods.yml";
pub const RULES: &str = "psystrike.rules.yml";
pub const RULES_TEST: &str = "psystrike.rules.test.yml";

pub fn shipped(file: &str) -> String {
    read(&format!("deploy/prometheus/{file}"))
}

pub fn parsed(file: &str) -> Value {
    serde_saphyr::from_str(&shipped(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The jobs of a configuration.
pub fn scrape_configs(configuration: &Value) -> Vec<Value> {
    let jobs = configuration["scrape_configs"].as_array();
    jobs.unwrap_or_else(|| panic!("no scrape_configs in {configuration}")).clone()
}

/// Returns a shipped configuration with the replacements that are needed to run it here. Each text of `replaced` must
/// occur in it.
pub fn configuration(file: &str, discovered: &[&str], replaced: &[(&str, &str)]) -> String {
    let mut discovered = discovered.iter();
    let mut text = String::new();
    let mut in_discovery = false;
    for line in shipped(file).lines() {
        in_discovery &= line.starts_with("      ");
        if line == "    kubernetes_sd_configs:" {
            in_discovery = true;
            let pods =
                discovered.next().unwrap_or_else(|| panic!("{file} discovers pods more often than expected"));
            text += &format!("    file_sd_configs: [{{ files: [{pods}] }}]\n");
        } else if !in_discovery {
            text += &format!("{line}\n");
        }
    }
    assert_eq!(discovered.next(), None, "{file} discovers pods less often than expected");
    for (from, to) in replaced {
        assert!(text.contains(from), "no {from:?} in {file}");
        text = text.replace(from, to);
    }
    text
}

/// The replacements in every configuration: all intervals become a second, and alerts are sent nowhere.
pub const AT_ONCE: [(&str, &str); 4] = [
    ("scrape_interval: 30s", "scrape_interval: 1s"),
    ("scrape_timeout: 10s", "scrape_timeout: 1s"),
    ("evaluation_interval: 30s", "evaluation_interval: 1s"),
    ("alertmanager.example:9093", "127.0.0.1:1"),
];

pub fn discovered_app(app: &str, address: &str, annotations: &[(&str, &str)]) -> Value {
    let ip = address.parse().map_or(address.to_owned(), |address: SocketAddr| address.ip().to_string());
    let mut labels = json!({
        "__meta_kubernetes_pod_ip": ip,
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_namespace": "default",
        "__meta_kubernetes_pod_name": format!("{app}-at-{ip}"),
        "__meta_kubernetes_pod_node_name": "node-1",
        "__meta_kubernetes_pod_label_app": app,
    });
    for (name, value) in annotations {
        labels[format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}")] = (*value).into();
    }
    json!({ "targets": [address], "labels": labels })
}

/// The same pod with the labels that the Helm chart gives it instead.
pub fn by_the_chart(mut pod: Value) -> Value {
    let labels = pod["labels"].as_object_mut().expect("it has labels");
    let app = labels.remove("__meta_kubernetes_pod_label_app").expect("of an app");
    labels.insert("__meta_kubernetes_pod_label_app_kubernetes_io_name".to_owned(), app);
    pod
}

/// Returns a pod that is annotated to be scraped at the port of its address.
pub fn annotated(app: &str, address: SocketAddr) -> Value {
    let port = address.port().to_string();
    discovered_app(app, &address.to_string(), &[("scrape", "true"), ("port", &port)])
}

/// Returns all rules: recording rules and alerts, by their names.
pub fn rules(kind: &str) -> Vec<(String, Value)> {
    let rules = parsed(RULES);
    let groups = rules["groups"].as_array().expect("it has groups");
    let all = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
    all.filter_map(|rule| Some((rule[kind].as_str()?.to_owned(), rule.clone()))).collect()
}

/// Waits until exactly these targets are scraped and all of them are up. They are given by the values of the labels
/// `named`.
pub fn wait_for_targets(prometheus: &Prometheus, named: &[&str], expected: &[&[&str]]) {
    let expected: BTreeSet<Vec<String>> =
        expected.iter().map(|values| values.iter().map(|value| (*value).to_owned()).collect()).collect();
    let label = |labels: &Labels, name: &&str| labels.get(*name).cloned().unwrap_or_default();
    let found = |prometheus: &Prometheus| {
        let targets = prometheus.targets();
        let up = targets.iter().filter(|target| target.health == "up").count();
        let of = targets.iter().map(|target| named.iter().map(|name| label(&target.labels, name)).collect());
        up == targets.len() && targets.len() == expected.len() && of.collect::<BTreeSet<_>>() == expected
    };
    let in_time = prometheus.wait_until(IN_TIME, found);
    if !in_time {
        let targets = prometheus.targets();
        let of = targets.iter().map(|target| named.iter().map(|name| label(&target.labels, name)).collect());
        assert_same(of, expected.clone(), &format!("{named:?} of the targets, and of those expected"));
    }
    assert!(in_time, "not {expected:#?}, but {:#?}\n{}", prometheus.targets(), prometheus.stderr());
}

/// Returns the rules that Prometheus has loaded.
pub fn loaded(prometheus: &Prometheus) -> Vec<Value> {
    let groups = prometheus.api("rules")["groups"].take();
    let groups = groups.as_array().expect("groups are an array");
    groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect()
}
