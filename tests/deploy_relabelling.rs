//! The shipped relabelling finds the pods that the article's rules find, with the same labels, three of which have
//! other names: through `/pods/`, and with `proxy_url`, where the target stays the pod.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::{
    Scratch, assert_same,
    exposition::Labels,
    prometheus::{Prometheus, Release},
    require_programs, seed,
    shipped::{CLUSTERS, IN_TIME, PROMETHEUS, RELABELLING, discovered_app, parsed},
};

/// A pod as service discovery returns it: its address with a container's port, and its annotations.
fn discovered(address: &str, annotations: &[(&str, &str)]) -> Value {
    discovered_app("app", address, annotations)
}

#[test]
fn relabelling_finds_the_same_targets_as_the_articles() {
    if !require_programs(&["prometheus"]) {
        return;
    }
    let scratch = Scratch::new("prometheus-relabelling");
    // Ours and the article's rules over ordinary pods, where they agree; and ours over odd pods. No pod answers the
    // scrapes.
    let nobody = "127.0.0.1:1";
    let rules_of = |file| parsed(file)["scrape_configs"][0]["relabel_configs"].take();
    let mut ours = rules_of(RELABELLING);
    for rule in ours.as_array_mut().expect("it has rules") {
        if rule["target_label"] == "__address__" {
            rule["replacement"] = nobody.into();
        }
    }
    let (proxied, clusters) = (rules_of(PROMETHEUS), rules_of(CLUSTERS));
    let seed: Value = serde_saphyr::from_str(&seed::relabel_configs(nobody)).expect("the article's rules");
    let job = |name: &str, rules: &Value, pods| {
        let mut rules = rules.clone();
        let sets_job = |rule: &&mut Value| rule["replacement"] == "kubernetes-pods";
        for rule in rules.as_array_mut().into_iter().flatten().filter(sets_job) {
            rule["replacement"] = name.into();
        }
        json!({ "job_name": name, "file_sd_configs": [{ "files": [pods] }], "relabel_configs": rules })
    };
    let jobs = [
        job("ours", &ours, "pods.json"),
        job("seed", &seed, "pods.json"),
        job("proxied", &proxied, "pods.json"),
        job("odd", &ours, "odd.json"),
        job("rich", &proxied, "rich.json"),
        job("clusters", &clusters, "rich.json"),
    ];
    scratch.write("prometheus.yml", &json!({ "scrape_configs": jobs }).to_string());
    let pods = [
        discovered("127.9.0.1:8080", &[("scrape", "true"), ("port", "8080"), ("path", "/metrics")]),
        discovered("127.9.0.2:8080", &[("scrape", "true"), ("port", "8080")]),
        discovered("[::1]:8080", &[("scrape", "true"), ("port", "8080"), ("path", "/a/b?c=d")]),
        discovered("127.9.0.3:8080", &[("scrape", "true"), ("port", "8080"), ("path", "/")]),
        discovered("127.9.0.4:8080", &[("scrape", "false"), ("port", "8080"), ("path", "/metrics")]),
        discovered("127.9.0.5:8080", &[]),
    ];
    scratch.write("pods.json", &json!(pods).to_string());
    let odd = [
        // Without an annotated port, the pod is dropped: psystrike must not be scraped under its name.
        discovered("127.9.1.1:8080", &[("scrape", "true")]),
        // No container declares a port.
        discovered("127.9.1.2", &[("scrape", "true"), ("port", "8080")]),
        // Two containers declare one each, and the pod has one page.
        discovered("127.9.1.3:9100", &[("scrape", "true"), ("port", "8080")]),
        discovered("127.9.1.3:8443", &[("scrape", "true"), ("port", "8080")]),
    ];
    scratch.write("odd.json", &json!(odd).to_string());
    // TLS and query parameters, which a path at psystrike cannot express.
    let annotations = [
        ("scrape", "true"),
        ("port", "8443"),
        ("scheme", "https"),
        ("param_format", "prometheus"),
        ("param_collect", "cpu"),
    ];
    let rich = [&odd[..], &[discovered("127.9.1.4:8443", &annotations)]].concat();
    scratch.write("rich.json", &json!(rich).to_string());
    let prometheus = Prometheus::start(Release::Installed, &scratch);
    let found = prometheus.wait_until(IN_TIME, |prometheus| prometheus.targets().len() == 20);
    let targets = prometheus.targets();
    assert!(found, "{targets:#?}\n{}", prometheus.stderr());

    let of_job = |name: &str| -> BTreeMap<String, _> {
        let of_job = targets.iter().filter(|target| target.labels["job"] == name);
        of_job
            .map(|target| {
                let mut labels = target.labels.clone();
                labels.remove("job");
                // Two spellings of one IPv6 address.
                (target.scrape_url.replace("%5B", "").replace("%5D", ""), labels)
            })
            .collect()
    };
    // The article's names of the labels of a pod, and ours, which are those of kube-state-metrics.
    let renamed = |targets: BTreeMap<String, Labels>| -> BTreeMap<String, Labels> {
        let ours = |name: String| match &*name {
            "kubernetes_namespace" => "namespace".to_owned(),
            "kubernetes_pod_name" => "pod".to_owned(),
            "kubernetes_pod_node_name" => "node".to_owned(),
            _ => name,
        };
        let labels = |labels: Labels| labels.into_iter().map(|(name, value)| (ours(name), value)).collect();
        targets.into_iter().map(|(url, of_target)| (url, labels(of_target))).collect()
    };
    for labels in of_job("ours").values() {
        assert!(["namespace", "pod", "node"].iter().all(|name| labels.contains_key(*name)), "{labels:?}");
    }
    let labels = |name: &str| of_job(name).into_values().collect::<BTreeSet<_>>();
    assert_same(of_job("ours"), renamed(of_job("seed")), "targets of the jobs ours and seed");
    assert_same(labels("ours"), labels("proxied"), "series of the jobs ours and proxied");
    let of_tokyo = of_job("rich").into_iter().map(|(url, mut labels)| {
        labels.insert("cluster".to_owned(), "tokyo".to_owned());
        (url, labels)
    });
    assert_same(of_job("clusters"), of_tokyo, "the job clusters, and the job rich with one label more");
    let forwarded = |path: &str| format!("http://{nobody}{path}");
    for (name, expected) in [
        (
            "ours",
            &[
                (&*forwarded("/pods/127.9.0.1/8080/metrics"), "127.9.0.1:8080"),
                (&forwarded("/pods/127.9.0.2/8080"), "127.9.0.2:8080"),
                (&forwarded("/pods/127.9.0.3/8080/"), "127.9.0.3:8080"),
                (&forwarded("/pods/::1/8080/a/b%3Fc=d"), "[::1]:8080"),
            ][..],
        ),
        (
            "odd",
            &[
                (&forwarded("/pods/127.9.1.2/8080"), "127.9.1.2:8080"),
                (&forwarded("/pods/127.9.1.3/8080"), "127.9.1.3:8080"),
            ],
        ),
        (
            "proxied",
            &[
                ("http://127.9.0.1:8080/metrics", "127.9.0.1:8080"),
                ("http://127.9.0.2:8080/metrics", "127.9.0.2:8080"),
                ("http://127.9.0.3:8080/", "127.9.0.3:8080"),
                // A path keeps its `?`, encoded: parameters have an annotation of their own.
                ("http://[::1]:8080/a/b%3Fc=d", "[::1]:8080"),
            ],
        ),
        (
            "rich",
            &[
                ("http://127.9.1.2:8080/metrics", "127.9.1.2:8080"),
                ("http://127.9.1.3:8080/metrics", "127.9.1.3:8080"),
                ("https://127.9.1.4:8443/metrics?collect=cpu&format=prometheus", "127.9.1.4:8443"),
            ],
        ),
    ] {
        let of_job: BTreeSet<_> =
            of_job(name).into_iter().map(|(url, labels)| (url, labels["instance"].clone())).collect();
        let expected: BTreeSet<_> =
            expected.iter().map(|(url, pod)| ((*url).to_owned(), (*pod).to_owned())).collect();
        assert_same(of_job, expected, name);
    }
}
