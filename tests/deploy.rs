//! The files that users copy are right: the manifest's arguments and probes work with the real binary, and the
//! Prometheus configuration finds its targets as the article's does, with the real Prometheus.

mod support;

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, process::Command};

use serde_json::{Value, json};
use support::{LIMIT, Scratch, prometheus::Prometheus, psystrike::Psystrike, require_programs, seed};

const MANIFEST: &str = "deploy/kubernetes/psystrike.yaml";
const PROMETHEUS: &str = "deploy/prometheus/prometheus.yml";

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_manifest_runs_the_binary_as_it_is() {
    let documents = documents(MANIFEST);
    let [deployment, service] = documents.as_slice() else { panic!("{MANIFEST}: {documents:#?}") };
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];

    let arguments = container["args"].as_array().expect("the container has arguments");
    let arguments: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
    let psystrike = Psystrike::start(&arguments);
    for probe in ["livenessProbe", "readinessProbe"] {
        let request = &container[probe]["httpGet"];
        let answer = psystrike.get(request["path"].as_str().expect("the probe has a path"));
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok\n"), "{probe}: {request}");
        assert_eq!(request["port"], container["ports"][0]["name"], "{probe}");
        assert_eq!(container[probe]["initialDelaySeconds"], Value::Null, "it starts at once");
    }
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], container["ports"][0]["containerPort"].to_string());
    let metrics = psystrike.get(annotations["prometheus.io/path"].as_str().expect("it is annotated"));
    assert_eq!(metrics.status(), 200);

    // Where the original's users have their Service, and what restricted Pod Security asks for.
    for (at, got, expected) in [
        ("nodePort", &service["spec"]["ports"][0]["nodePort"], json!(31000)),
        ("port", &service["spec"]["ports"][0]["port"], json!(8080)),
        ("type", &service["spec"]["type"], json!("NodePort")),
        ("targetPort", &service["spec"]["ports"][0]["targetPort"], container["ports"][0]["name"].clone()),
        (
            "selector",
            &service["spec"]["selector"],
            deployment["spec"]["template"]["metadata"]["labels"].clone(),
        ),
        ("matchLabels", &deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"].clone()),
        ("runAsNonRoot", &pod["securityContext"]["runAsNonRoot"], json!(true)),
        ("seccompProfile", &pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault")),
        ("token", &pod["automountServiceAccountToken"], json!(false)),
        ("root", &container["securityContext"]["readOnlyRootFilesystem"], json!(true)),
        ("escalation", &container["securityContext"]["allowPrivilegeEscalation"], json!(false)),
        ("capabilities", &container["securityContext"]["capabilities"]["drop"], json!(["ALL"])),
        ("version", &container["image"], json!(concat!("psystrike:", env!("CARGO_PKG_VERSION")))),
    ] {
        assert_eq!(*got, expected, "{at}");
    }
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("it has a grace period");
    let shutdown_timeout = 30;
    assert!(grace > 5 + shutdown_timeout, "{grace}s end before --shutdown-delay and --shutdown-timeout do");
}

/// A pod with what service discovery says of it: its address with a container's port, and its annotations.
fn discovered(address: &str, annotations: &[(&str, &str)]) -> Value {
    let ip = address.parse().map_or(address.to_owned(), |address: SocketAddr| address.ip().to_string());
    let mut labels = json!({
        "__meta_kubernetes_pod_ip": ip,
        "__meta_kubernetes_namespace": "default",
        "__meta_kubernetes_pod_name": format!("pod-at-{ip}"),
        "__meta_kubernetes_pod_node_name": "node-1",
        "__meta_kubernetes_pod_label_app": "app",
    });
    for (name, value) in annotations {
        labels[format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}")] = (*value).into();
    }
    json!({ "targets": [address], "labels": labels })
}

#[test]
fn prometheus_finds_its_targets_as_the_articles_does() {
    if !require_programs(&["prometheus", "promtool"]) {
        return;
    }
    let scratch = Scratch::new("deploy");
    // Debian builds its Prometheus without discovery in Kubernetes, so a file stands in for the cluster.
    let mut ours = documents(PROMETHEUS).remove(0);
    let job = ours["scrape_configs"][0].as_object_mut().expect("it has a job");
    let discovery = job.remove("kubernetes_sd_configs").expect("it finds pods in Kubernetes");
    assert_eq!(discovery[0]["role"], "pod");
    job.insert("file_sd_configs".to_owned(), json!([{ "files": ["pods.json"] }]));
    scratch.write("pods.json", "[]");
    let file = scratch.write("prometheus.yml", &ours.to_string()); // JSON is YAML
    let check = Command::new("promtool").args(["check", "config"]).arg(file).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
    assert!(check.status.success() && said.contains("SUCCESS"), "{PROMETHEUS}: {said}");

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
    let job = |name, rules: &Value, pods| json!({ "job_name": name, "file_sd_configs": [{ "files": [pods] }], "relabel_configs": rules });
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
    let prometheus = Prometheus::start(&scratch);
    let found = prometheus.wait_until(LIMIT, |prometheus| prometheus.targets().len() == 10);
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
