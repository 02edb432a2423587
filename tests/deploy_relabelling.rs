//! The relabelling that users get finds the pods that the article's finds, with the same labels.

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{
    Scratch,
    prometheus::{Prometheus, Release},
    require_programs, seed,
    shipped::{IN_TIME, RELABELLING, discovered_app, parsed},
};

/// A pod with what service discovery says of it: its address with a container's port, and its annotations.
fn discovered(address: &str, annotations: &[(&str, &str)]) -> Value {
    discovered_app("app", address, annotations)
}

#[test]
fn prometheus_finds_its_targets_as_the_articles_does() {
    if !require_programs(&["prometheus"]) {
        return;
    }
    let scratch = Scratch::new("prometheus-relabelling");
    let mut ours = parsed(RELABELLING);
    // The rules over pods as they should be, ours and the article's, which agree; and ours over odd ones. Nobody
    // answers the scrapes.
    let nobody = "127.0.0.1:1";
    let mut ours = ours["scrape_configs"][0]["relabel_configs"].take();
    for rule in ours.as_array_mut().expect("it has rules") {
        if rule["target_label"] == "__address__" {
            rule["replacement"] = nobody.into();
        }
    }
    let seed: Value = serde_saphyr::from_str(&seed::relabel_configs(nobody)).expect("the article's rules");
    let job = |name: &str, rules: &Value, pods| {
        let mut rules = rules.clone();
        let sets_job = |rule: &&mut Value| rule["replacement"] == "kubernetes-pods";
        for rule in rules.as_array_mut().into_iter().flatten().filter(sets_job) {
            rule["replacement"] = name.into();
        }
        json!({ "job_name": name, "file_sd_configs": [{ "files": [pods] }], "relabel_configs": rules })
    };
    let jobs =
        [job("ours", &ours, "pods.json"), job("seed", &seed, "pods.json"), job("odd", &ours, "odd.json")];
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
        // No port is annotated: whatever is to be scraped, it is not psystrike in this pod's name.
        discovered("127.9.1.1:8080", &[("scrape", "true")]),
        // No container declares a port.
        discovered("127.9.1.2", &[("scrape", "true"), ("port", "8080")]),
        // Two containers declare one each, and the pod has one page.
        discovered("127.9.1.3:9100", &[("scrape", "true"), ("port", "8080")]),
        discovered("127.9.1.3:8443", &[("scrape", "true"), ("port", "8080")]),
    ];
    scratch.write("odd.json", &json!(odd).to_string());
    let prometheus = Prometheus::start(Release::Installed, &scratch);
    let found = prometheus.wait_until(IN_TIME, |prometheus| prometheus.targets().len() == 10);
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
    assert_eq!(of_job("ours"), of_job("seed"));
    for (name, expected) in [
        (
            "ours",
            &[
                ("/pods/127.9.0.1/8080/metrics", "127.9.0.1:8080"),
                ("/pods/127.9.0.2/8080", "127.9.0.2:8080"),
                ("/pods/127.9.0.3/8080/", "127.9.0.3:8080"),
                ("/pods/::1/8080/a/b%3Fc=d", "[::1]:8080"),
            ][..],
        ),
        ("odd", &[("/pods/127.9.1.2/8080", "127.9.1.2:8080"), ("/pods/127.9.1.3/8080", "127.9.1.3:8080")]),
    ] {
        let of_job = of_job(name).into_iter().map(|(url, labels)| (url, labels["instance"].clone()));
        let expected =
            expected.iter().map(|(path, pod)| (format!("http://{nobody}{path}"), (*pod).to_owned()));
        assert_eq!(of_job.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{name}");
    }
}
