//! The configurations and rules for Prometheus: promtool accepts them and runs the rules' unit tests; a real Prometheus
//! runs each configuration against a real psystrike without errors; the rules use only metrics that psystrike exports.
//!
//! Debian builds its Prometheus without discovery in Kubernetes, so files replace the clusters there. The newest
//! Prometheus has it: its promtool checks the configurations as shipped, and it discovers clusters through psystrike.

// The rules are those of a psystrike with TLS.
#![cfg(feature = "tls")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use psystrike::proxy::outcome::{Class, Outcome};
use serde_json::{Value, json};
use support::{
    Scratch, assert_same,
    cluster::{self, Cluster},
    dashboard::queries,
    exposition,
    markdown::Document,
    pods::{Pod, Refusing, Then},
    prometheus::{Prometheus, Release, Target, promtool},
    promql::Names,
    psystrike::Psystrike,
    read, require_programs,
    servers::Servers,
    shipped::{
        AT_ONCE, CLUSTERS, FILE_SD, IN_TIME, PODS, PROMETHEUS, PROXY_URL, RELABELLING, RULES, RULES_TEST,
        TLS, annotated, by_the_chart, configuration, discovered_app, loaded, parsed, rules, scrape_configs,
        shipped, wait_for_targets,
    },
    tls::make_certificate,
};

/// The same pod with labels whose names are those that the configuration sets.
fn presumptuous(mut pod: Value) -> Value {
    for name in ["job", "instance", "cluster"] {
        pod["labels"][format!("__meta_kubernetes_pod_label_{name}")] = "the-pods-own".into();
    }
    pod
}

const PAGE: &str = "# TYPE pod_up gauge\npod_up 1\n";

fn pod(ip: &str) -> Pod {
    let fields = "Content-Type: text/plain; version=0.0.4\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{PAGE}", PAGE.len());
    Pod::answering(ip, answer, Then::Keep)
}

fn start_psystrike() -> Psystrike {
    Psystrike::start(&["--allow", "127.10.0.0/16", "--allow", "127.0.0.1/32", "--allow", "::1/128"])
}

fn start_psystrike_with_tunnels() -> Psystrike {
    let allow = ["--allow", "127.10.0.0/16", "--allow", "127.0.0.1/32", "--allow", "::1/128"];
    Psystrike::start(&[&allow[..], &["--allow-connect"]].concat())
}

#[test]
fn promtool_accepts_every_configuration() {
    let releases = Release::all_with(&["promtool"]);
    let scratch = Scratch::new("prometheus-check");
    for file in [RULES, PODS] {
        scratch.write(file, &shipped(file));
    }
    for pods in ["tokyo.json", "osaka.json"] {
        scratch.write(pods, "[]");
    }
    for cluster in ["tokyo", "osaka"] {
        fs::create_dir(scratch.path(cluster)).expect("a new folder");
    }
    for cluster in ["", "tokyo/", "osaka/"] {
        for file in ["kubernetes-ca.crt", "kubernetes-token", "psystrike-ca.crt"] {
            scratch.write(&format!("{cluster}{file}"), "");
        }
    }
    let files: [(&str, &[&str]); 6] = [
        (PROMETHEUS, &["tokyo.json"]),
        (TLS, &["tokyo.json"]),
        (RELABELLING, &["tokyo.json"]),
        (CLUSTERS, &["tokyo.json"; 8]),
        (FILE_SD, &[]),
        (PROXY_URL, &["tokyo.json", "osaka.json", "osaka.json", "osaka.json"]),
    ];
    for release in releases {
        for (file, discovered) in files {
            let text = match release {
                Release::Installed => configuration(file, discovered, &[]),
                Release::Newest => shipped(file),
            };
            let said = promtool(release, &["check", "config"], &scratch.write(file, &text));
            let accepted = said.contains("SUCCESS") && said.contains("rules found");
            assert!(accepted, "{release:?}: {file}: {said}");
        }
    }
}

#[test]
fn discovery_authenticates_the_api_server() {
    let jobs = [PROMETHEUS, CLUSTERS].map(|file| scrape_configs(&parsed(file)));
    let mut different = BTreeSet::new();
    let mut count = 0;
    for job in jobs.iter().flatten() {
        let Some(discovery) = job["kubernetes_sd_configs"].get(0) else { continue };
        let roles = [("pods", "pod"), ("nodes", "node"), ("cadvisor", "node"), ("apiserver", "endpoints")];
        let name = job["job_name"].as_str().expect("a name");
        let (_, role) = roles.into_iter().find(|(part, _)| name.contains(part)).expect("a role");
        assert_eq!(discovery["role"], role, "{job}");
        assert_eq!(discovery["namespaces"].is_object(), role == "endpoints", "{job}");
        let server = discovery["api_server"].as_str().unwrap_or_default();
        assert!(server.starts_with("https://"), "{job}");
        let files = [&discovery["tls_config"]["ca_file"], &discovery["authorization"]["credentials_file"]];
        assert!(files.iter().all(|file| file.is_string()), "{job}");
        // An API server is reached without a proxy, or by that of its pods.
        let proxy = &discovery["proxy_url"];
        assert!(proxy.is_null() || *proxy == job["proxy_url"], "{job}");
        let known = ["role", "api_server", "tls_config", "authorization", "proxy_url", "namespaces"];
        let mut keys = discovery.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        assert!(keys.all(|key| known.contains(&key)), "{job}");
        different.extend(files.map(Value::to_string));
        different.insert(proxy.as_str().unwrap_or(server).to_owned());
        count += 1;
    }
    assert_eq!(count, 1 + 2 * 4);
    assert_eq!(different.len(), 3 * 3, "each cluster has its own: {different:?}");
}

/// The clusters of clusters.yml, with their jobs.
fn clusters() -> BTreeMap<String, Vec<Value>> {
    let mut clusters = BTreeMap::<String, Vec<Value>>::new();
    for job in scrape_configs(&parsed(CLUSTERS)) {
        let name = job["job_name"].as_str().and_then(|name| name.rsplit('-').next()).expect("a name");
        clusters.entry(name.to_owned()).or_default().push(job);
    }
    clusters
}

#[test]
fn clusters_differ_only_in_their_name() {
    let clusters = clusters();
    assert_eq!(clusters.keys().collect::<Vec<_>>(), ["osaka", "tokyo"]);
    let osaka = json!(clusters["osaka"]).to_string();
    let tokyo = json!(clusters["tokyo"]).to_string();
    assert_eq!(osaka.replace("osaka", "tokyo"), tokyo);
    for (name, jobs) in &clusters {
        for job in jobs {
            assert_eq!(job["proxy_url"], format!("http://psystrike.{name}.example:31000"), "{job}");
            let rules = job["relabel_configs"].as_array().expect("it has rules");
            let last = json!({ "target_label": "cluster", "replacement": name });
            assert_eq!(rules.last(), Some(&last), "{job}");
        }
    }
}

/// A job of a cluster equals that of proxy_url.yml, except for its address, files and rules.
#[test]
fn each_cluster_has_the_jobs_of_proxy_url() {
    let expected = scrape_configs(&parsed(PROXY_URL));
    let without_rules = |mut job: Value| {
        let job_fields = job.as_object_mut().expect("a job");
        job_fields.remove("relabel_configs");
        job
    };
    for (name, jobs) in clusters() {
        let text = json!(jobs).to_string();
        let text = text
            .replace(&format!(".{name}."), ".")
            .replace(&format!("{name}/"), "")
            .replace(&format!("-{name}"), "");
        let jobs: Vec<Value> = serde_json::from_str(&text).expect("still jobs");
        let expected = expected.iter();
        let jobs: Vec<Value> = jobs.into_iter().map(without_rules).collect();
        assert_eq!(jobs, expected.cloned().map(without_rules).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn the_rules_pass_their_own_tests() {
    let scratch = Scratch::new("prometheus-rules");
    let rules = scratch.write(RULES, &shipped(RULES));
    let tests = scratch.write(RULES_TEST, &shipped(RULES_TEST));
    for release in Release::all_with(&["promtool"]) {
        let said = promtool(release, &["check", "rules"], &rules);
        assert!(said.contains("SUCCESS") && !said.contains("duplicate"), "{release:?}: {said}");
        let said = promtool(release, &["test", "rules"], &tests);
        assert!(said.contains("SUCCESS"), "{release:?}: {said}");
    }
}

#[test]
fn every_rule_has_a_test() {
    let tests = parsed(RULES_TEST);
    let tests = tests["tests"].as_array().expect("it has tests");
    let cases = |kind: &'static str| tests.iter().filter_map(move |test| test[kind].as_array()).flatten();
    let is_empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);

    let alerts: BTreeSet<String> = rules("alert").into_iter().map(|(name, _)| name).collect();
    assert!(!alerts.is_empty());
    for quiet in [false, true] {
        let tested = cases("alert_rule_test").filter(|case| is_empty(&case["exp_alerts"]) == quiet);
        let tested = tested.filter_map(|case| case["alertname"].as_str().map(str::to_owned));
        assert_same(alerts.clone(), tested, &format!("alerts, and those tested to be quiet: {quiet}"));
    }
    // Two alerts may share a name and differ in labels.
    let severities =
        rules("alert").into_iter().map(|(name, rule)| (name, rule["labels"]["severity"].clone()));
    let fired = cases("alert_rule_test").flat_map(|case| {
        let alerts = case["exp_alerts"].as_array().into_iter().flatten();
        alerts.map(|alert| (case["alertname"].clone(), alert["exp_labels"]["severity"].clone()))
    });
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    assert_same(
        severities.map(|(name, severity)| (name, text(severity))),
        fired.map(|(name, severity)| (text(name), text(severity))),
        "alerts with their severities, and those tested to fire",
    );
    for (name, rule) in rules("record") {
        let tested = cases("promql_expr_test")
            .filter(|case| case["expr"].as_str().is_some_and(|expression| expression.starts_with(&name)));
        let samples = tested.filter_map(|case| case["exp_samples"].as_array()).flatten();
        let mut samples = samples.filter_map(|sample| sample["labels"].as_str());
        let own = rule["labels"].as_object().into_iter().flatten();
        let own: Vec<String> = own.map(|(label, value)| format!("{label}={value}")).collect();
        assert!(
            samples.any(|labels| own.iter().all(|one| labels.contains(one))),
            "{name} {own:?} has no test"
        );
    }
}

#[test]
fn every_alert_has_an_action() {
    let troubleshooting = read("deploy/troubleshooting.md");
    for (name, alert) in rules("alert") {
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity:?}");
        for annotation in ["summary", "description"] {
            assert!(alert["annotations"][annotation].is_string(), "{name} has no {annotation}");
        }
        let place = env!("CARGO_PKG_REPOSITORY");
        let section = format!("{place}/blob/main/deploy/troubleshooting.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], section, "{name}");
        let is_there = troubleshooting.lines().any(|line| line == format!("### {name}"));
        assert!(is_there, "deploy/troubleshooting.md has no section {name}");
    }
}

/// A rule sees the results of the rules before it in its group, from the same evaluation.
#[test]
fn an_alert_that_suppresses_others_comes_before_them() {
    let mut before = BTreeSet::new();
    let mut suppressed = 0;
    for (name, alert) in rules("alert") {
        let names = Names::of(alert["expr"].as_str().expect("an expression"));
        for (_, other) in names.values.iter().filter(|(label, _)| label == "alertname") {
            assert!(before.contains(other), "{name} is before {other}, which suppresses it");
            suppressed += 1;
        }
        before.insert(name);
    }
    assert!(suppressed > 0);
}

#[test]
fn the_kernels_memory_per_connection_is_that_of_sizing() {
    let sizing = read("deploy/README.md");
    let (before, _) = sizing.split_once(" KiB for each open connection").expect("Sizing has the figure");
    let kib: f64 = before.rsplit(' ').next().and_then(|figure| figure.parse().ok()).expect("a figure");
    let bytes = format!("{:.0} * (", (kib * 1024.0 / 100.0).round() * 100.0);
    let (_, memory) =
        rules("alert").into_iter().find(|(name, _)| name == "PsystrikeMemoryHigh").expect("its rule");
    assert!(memory["expr"].as_str().is_some_and(|rule| rule.contains(&bytes)), "{bytes}: {memory}");
    let description = memory["annotations"]["description"].as_str().unwrap_or_default();
    assert!(description.contains(&format!("{kib} KiB of kernel memory")), "{kib}: {description}");
    for (title, expression) in queries().iter().filter(|(title, _)| title.to_lowercase().contains("memory")) {
        assert!(expression.contains(&bytes), "{title}: {expression}");
    }
}

#[test]
fn rules_use_only_exported_metrics() {
    let scratch = Scratch::new("rules-metrics");
    let file = scratch.write("token", "of-a-secret-0123456789");
    // Some metrics exist only with a file.
    let psystrike =
        Psystrike::start(&["--tls-self-signed", "--auth-token-file", file.to_str().expect("a path")]);
    let page = exposition::parse(&psystrike.get("/metrics").text());
    let exported = |name: &str| page.keys().any(|labels| labels["__name__"] == name);
    let recorded: BTreeSet<String> = rules("record").into_iter().map(|(name, _)| name).collect();
    let of_targets = ["job", "instance", "cluster"];
    // Prometheus itself writes these series for its alerts.
    let alerts: BTreeSet<String> = rules("alert").into_iter().map(|(name, _)| name).collect();
    let of_alerts = ["alertname", "alertstate", "severity"];
    let clusters = shipped(CLUSTERS);
    let [psystrike_job, pods_job] = ["psystrike", "kubernetes-pods"];
    for job in [psystrike_job, pods_job] {
        assert!(clusters.contains(&format!("replacement: {job}\n")), "no job {job} in {CLUSTERS}");
    }
    for (name, rule) in rules("record").into_iter().chain(rules("alert")) {
        let names = Names::of(rule["expr"].as_str().expect("a rule has an expression"));
        assert!(!names.metrics.is_empty(), "{name}: {names:?}");
        for metric in &names.metrics {
            let of_prometheus = ["up", "ALERTS"].contains(&metric.as_str());
            assert!(recorded.contains(metric) || of_prometheus || exported(metric), "{name}: {metric}");
        }
        for label in &names.labels {
            let known = of_targets.iter().chain(&of_alerts).chain(&["quantile"]).any(|known| known == label);
            assert!(known || page.keys().any(|labels| labels.contains_key(label)), "{name}: {label}");
        }
        for (label, value) in &names.values {
            let known = match label.as_str() {
                "job" => [psystrike_job, pods_job].contains(&&**value),
                "quantile" => value == "0.5",
                "alertname" => alerts.contains(value),
                "alertstate" => value == "firing",
                "severity" => value == "critical",
                // The page has these series only after the first event.
                "code" => Outcome::ALL.iter().any(|outcome| outcome.status().to_string() == *value),
                _ => page.keys().any(|labels| labels.get(label) == Some(value)),
            };
            assert!(known, "{name}: {label}={value}");
        }
    }
    // Every limit has a rule.
    let asked: BTreeSet<String> = rules("record")
        .into_iter()
        .flat_map(|(_, rule)| Names::of(rule["expr"].as_str().unwrap_or_default()).metrics)
        .collect();
    let limits = page.keys().map(|labels| &labels["__name__"]);
    let limits = limits.filter(|name| name.starts_with("psystrike_") && name.ends_with("_max"));
    for limit in limits {
        assert!(asked.contains(limit), "{limit}");
    }
}

#[test]
fn the_configuration_runs_and_a_healthy_psystrike_raises_no_alert() {
    runs_and_alerts_nobody(PROMETHEUS);
}

#[test]
fn relabelling_runs_and_a_healthy_psystrike_raises_no_alert() {
    runs_and_alerts_nobody(RELABELLING);
}

/// The annotation `prometheus.io/scheme` selects HTTPS in a path too.
#[test]
fn relabelling_scrapes_pods_with_tls() {
    if !require_programs(&["prometheus", "openssl", "python3"]) {
        return;
    }
    let psystrike = Psystrike::start(&["--allow", "127.10.0.0/16", "--pod-tls-skip-verify"]);
    let scratch = Scratch::new("prometheus-relabelling-https");
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    let with_tls = Servers::start(&scratch, &[("tls", "127.10.8.1")]);
    let plain = pod("127.10.8.2");
    let [with_tls, plain] =
        [(with_tls.addresses[0], "https"), (plain.address(), "http")].map(|(address, scheme)| {
            let mut pod = annotated("app", address);
            pod["labels"]["__meta_kubernetes_pod_annotation_prometheus_io_scheme"] = scheme.into();
            (pod, address.to_string())
        });
    scratch.write(RULES, &shipped(RULES));
    scratch.write("pods.json", &json!([with_tls.0, plain.0]).to_string());
    let own = psystrike.address().to_string();
    let replaced = [&AT_ONCE[..], &[("psystrike.example:31000", &own)]].concat();
    scratch.write("prometheus.yml", &configuration(RELABELLING, &["pods.json"], &replaced));
    let prometheus = Prometheus::start(Release::Installed, &scratch);
    wait_for_targets(&prometheus, &["instance"], &[&[&with_tls.1], &[&plain.1]]);
}

/// Apart from TLS and the secret, the job is that of prometheus.yml.
#[test]
fn the_configuration_with_tls_is_otherwise_the_same() {
    let [mut expected, with_tls] = [PROMETHEUS, TLS].map(parsed);
    let job = &mut expected["scrape_configs"][0];
    job["proxy_url"] = "https://prometheus:SECRET@psystrike.example:31000".into();
    job["tls_config"] = json!({ "ca_file": "psystrike-ca.crt" });
    assert_eq!(with_tls, expected);
}

/// Over TLS, with a secret, with one CA for psystrike and for a pod with TLS, both installed and newest Prometheus.
#[test]
fn the_configuration_with_tls_runs() {
    if !require_programs(&["openssl", "python3"]) {
        return;
    }
    for release in Release::all_with(&["prometheus"]) {
        let scratch = Scratch::new(&format!("prometheus-with-tls-{release:?}"));
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| scratch.path(name));
        make_certificate(&certificate, &key);
        let pod_with_tls = Servers::start(&scratch, &[("tls", "127.25.0.1")]);
        let secret = scratch.write("token", "prometheus:e6f1c0b9-7d52-4a8e");
        let [certificate, key, secret] =
            [&certificate, &key, &secret].map(|path| path.to_str().expect("a path"));
        let files = ["--tls-cert", certificate, "--tls-key", key, "--auth-token-file", secret, "--tls-only"];
        let allow = ["--listen=127.25.0.1:0", "--allow=127.10.0.0/16,127.25.0.1", "--allow-connect"];
        let psystrike = Psystrike::start(&[&allow[..], &files].concat());
        let (own, plain) = (psystrike.address().to_string(), pod("127.10.4.4"));
        let mut with_tls = annotated("app", pod_with_tls.addresses[0]);
        with_tls["labels"]["__meta_kubernetes_pod_annotation_prometheus_io_scheme"] = "https".into();
        let pods =
            json!([annotated("psystrike", psystrike.address()), annotated("app", plain.address()), with_tls]);
        scratch.write("pods.json", &pods.to_string());
        scratch.write(RULES, &shipped(RULES));
        let replaced = [
            ("SECRET", "e6f1c0b9-7d52-4a8e"),
            ("psystrike.example:31000", &own),
            ("psystrike-ca.crt", "cert.pem"),
        ];
        let text = configuration(TLS, &["pods.json"], &[&AT_ONCE[..], &replaced].concat());
        scratch.write("prometheus.yml", &text);
        let prometheus = Prometheus::start(release, &scratch);
        let [plain, with_tls] =
            [plain.address(), pod_with_tls.addresses[0]].map(|address| address.to_string());
        let expected =
            [&["psystrike", &own][..], &["kubernetes-pods", &plain], &["kubernetes-pods", &with_tls]];
        wait_for_targets(&prometheus, &["job", "instance"], &expected);
        assert_eq!(psystrike.get("/metrics").status(), 400, "plain HTTP");
    }
}

fn runs_and_alerts_nobody(file: &str) {
    if !require_programs(&["prometheus"]) {
        return;
    }
    let ip = if file == PROMETHEUS { "127.10.4.1" } else { "127.10.4.3" };
    let (psystrike, pod) = (start_psystrike(), pod(ip));
    let (own, address) = (psystrike.address().to_string(), pod.address().to_string());
    let scratch = Scratch::new(&format!("prometheus-runs-{file}"));
    scratch.write(RULES, &shipped(RULES));
    let mut ended = annotated("app", "127.10.4.2:8080".parse().expect("an address"));
    ended["labels"]["__meta_kubernetes_pod_phase"] = "Succeeded".into();
    let app = presumptuous(annotated("app", pod.address()));
    let pods = json!([presumptuous(annotated("psystrike", psystrike.address())), app, ended]);
    scratch.write("pods.json", &pods.to_string());
    let replaced = [&AT_ONCE[..], &[("psystrike.example:31000", &own)]].concat();
    scratch.write("prometheus.yml", &configuration(file, &["pods.json"], &replaced));
    let prometheus = Prometheus::start(Release::Installed, &scratch);

    let named = ["cluster", "job", "instance", "app", "pod"];
    wait_for_targets(
        &prometheus,
        &named,
        &[
            &["", "psystrike", &own, "psystrike", "psystrike-at-127.0.0.1"],
            &["", "kubernetes-pods", &address, "app", &format!("app-at-{ip}")],
        ],
    );
    assert_eq!(prometheus.query("pod_up{job='kubernetes-pods'}").len(), 1);

    // Long enough for rates: every rule has been evaluated with data.
    let recorded: BTreeSet<String> = rules("record").into_iter().map(|(name, _)| name).collect();
    let has_all = |prometheus: &Prometheus| {
        recorded.iter().all(|name| !prometheus.query(&format!("{name} >= 0")).is_empty())
    };
    let in_time = prometheus.wait_until(IN_TIME, has_all);
    let missing = recorded.iter().filter(|name| prometheus.query(name).is_empty());
    assert!(in_time, "nothing was recorded as {:?}", missing.collect::<Vec<_>>());
    let is_settled = |prometheus: &Prometheus| loaded(prometheus).iter().all(|rule| rule["health"] == "ok");
    assert!(prometheus.wait_until(IN_TIME, is_settled), "{:#?}", loaded(&prometheus));
    let is_quiet = |prometheus: &Prometheus| {
        let rules = loaded(prometheus);
        let mut alerts = rules.iter().filter(|rule| rule["type"] == "alerting");
        alerts.all(|alert| alert["state"] == "inactive")
    };
    assert!(prometheus.wait_until(IN_TIME, is_quiet), "{:#?}", prometheus.api("alerts"));
    assert_eq!(loaded(&prometheus).len(), rules("record").len() + rules("alert").len());
}

/// A scrape is every request that Prometheus can be made to send, except for psystrike's own pages, for outcomes with
/// an alert of their own, and for CONNECT, which is subtracted by its route.
#[test]
fn scrape_outcomes_are_those_that_prometheus_can_cause() {
    let (_, rule) = rules("record")
        .into_iter()
        .find(|(name, _)| name == "instance:psystrike_scrapes:rate5m")
        .expect("it");
    let names = Names::of(rule["expr"].as_str().expect("an expression"));
    let excluded: BTreeSet<&str> =
        names.values.iter().filter(|(label, _)| label == "outcome").map(|(_, value)| &**value).collect();
    let others =
        [Outcome::RequestTimeout, Outcome::HttpVersion, Outcome::RequestBody, Outcome::MethodNotAllowed];
    assert!(others.iter().all(|outcome| outcome.class() == Class::Refused));
    let with_alerts = [Outcome::TooManyClients, Outcome::NoFileDescriptors, Outcome::BuffersFull];
    let others = others.iter().chain(&with_alerts).chain([&Outcome::Page]);
    assert_same(excluded, others.map(|outcome| outcome.label()), "outcomes that are not scrapes");
    assert!(names.values.contains(&("route".to_owned(), "connect".to_owned())), "{names:?}");
}

/// The endpoints that discovery finds in the namespace default: an API server that psystrike does not allow, and two
/// others.
fn api_servers() -> String {
    let endpoint = |service, port| {
        json!({
            "targets": ["10.96.0.1:443"],
            "labels": {
                "__meta_kubernetes_namespace": "default",
                "__meta_kubernetes_service_name": service,
                "__meta_kubernetes_endpoint_port_name": port,
            },
        })
    };
    json!([endpoint("kubernetes", "https"), endpoint("kubernetes", "other"), endpoint("other", "https")])
        .to_string()
}

#[test]
fn several_clusters_are_distinguished() {
    if !require_programs(&["prometheus", "openssl", "python3"]) {
        return;
    }
    let [tokyo, osaka] = [start_psystrike_with_tunnels(), start_psystrike_with_tunnels()];
    let scratch = Scratch::new("prometheus-clusters");
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    // Both clusters have pods of these addresses.
    let pods = [pod("127.10.5.1"), pod("::1")];
    let with_tls = Servers::start(&scratch, &[("tls", "127.10.5.2")]);
    let kubelet = Servers::start(&scratch, &[("tls", "127.10.5.3")]);
    scratch.write(RULES, &shipped(RULES));
    let [v4, v6] = pods.each_ref().map(|pod| pod.address().to_string());
    let [with_tls, kubelet] = [&with_tls, &kubelet].map(|pod| pod.addresses[0]);
    let nodes = json!([{ "targets": [kubelet.to_string()], "labels": { "instance": "node-1" } }]);
    scratch.write("nodes.json", &nodes.to_string());
    for (cluster, psystrike) in [("tokyo", &tokyo), ("osaka", &osaka)] {
        let own = annotated("psystrike", psystrike.address());
        let own = if cluster == "osaka" { by_the_chart(own) } else { own };
        let app = |address| annotated("app", address);
        let mut tls = app(with_tls);
        tls["labels"]["__meta_kubernetes_pod_annotation_prometheus_io_scheme"] = "https".into();
        let mut path = app(pods[1].address());
        path["labels"]["__meta_kubernetes_pod_annotation_prometheus_io_path"] = "/stats".into();
        let mut ended = app("127.10.5.9:8080".parse().expect("an address"));
        ended["labels"]["__meta_kubernetes_pod_phase"] = "Succeeded".into();
        let not_annotated = discovered_app("app", "127.10.5.9:8080", &[]);
        let pods = [own, app(pods[0].address()), path, tls, ended, not_annotated].map(presumptuous);
        scratch.write(&format!("{cluster}.json"), &json!(pods).to_string());
        fs::create_dir(scratch.path(cluster)).expect("a new folder");
        scratch.write(&format!("{cluster}/kubernetes-token"), "token");
        fs::copy(scratch.path("cert.pem"), scratch.path(cluster).join("kubernetes-ca.crt")).expect("a copy");
    }
    let [tokyo_address, osaka_address] = [&tokyo, &osaka].map(|psystrike| psystrike.address().to_string());
    let replaced = [
        ("psystrike.tokyo.example:31000", &*tokyo_address),
        ("psystrike.osaka.example:31000", &*osaka_address),
        // The certificate is not for this kubelet.
        ("ca_file: tokyo/kubernetes-ca.crt", "insecure_skip_verify: true"),
        ("ca_file: osaka/kubernetes-ca.crt", "insecure_skip_verify: true"),
    ];
    let replaced = [&AT_ONCE[..], &replaced[..]].concat();
    scratch.write("apiservers.json", &api_servers());
    let files = |pods| [pods, "nodes.json", "nodes.json", "apiservers.json"];
    let files = [files("tokyo.json"), files("osaka.json")].concat();
    scratch.write("prometheus.yml", &configuration(CLUSTERS, &files, &replaced));
    let prometheus = Prometheus::start(Release::Installed, &scratch);

    let found = |prometheus: &Prometheus| {
        let is_settled = |target: &Target| ["up", "down"].contains(&target.health.as_str());
        let targets = prometheus.targets();
        targets.len() == 2 * (4 + 3) && targets.iter().all(is_settled)
    };
    let in_time = prometheus.wait_until(IN_TIME, found);
    let targets = prometheus.targets();
    assert!(in_time, "{targets:#?}\n{}", prometheus.stderr());
    let mut shown = BTreeSet::new();
    for target in &targets {
        let label = |name| target.labels.get(name).map_or("", String::as_str);
        let line = ["cluster", "job", "instance", "app", "pod"].map(label).join(" ");
        shown.insert(format!("{line} {} {}", target.scrape_url, target.health));
        let refused = label("job") == "kubernetes-apiserver";
        assert_eq!(target.last_error.contains("destination not allowed"), refused, "{target:#?}");
    }
    let mut expected = BTreeSet::new();
    for (cluster, own, own_app) in [("tokyo", &tokyo_address, "psystrike"), ("osaka", &osaka_address, "")] {
        let pods = format!("{cluster} kubernetes-pods");
        expected.extend([
            format!("{cluster} psystrike {own} {own_app} psystrike-at-127.0.0.1 http://{own}/metrics up"),
            format!("{pods} {v4} app app-at-127.10.5.1 http://{v4}/metrics up"),
            format!("{pods} {v6} app app-at-::1 http://{v6}/stats up"),
            format!("{pods} {with_tls} app app-at-127.10.5.2 https://{with_tls}/metrics up"),
            format!("{cluster} kubernetes-nodes node-1   https://{kubelet}/metrics up"),
            format!("{cluster} kubernetes-cadvisor node-1   https://{kubelet}/metrics/cadvisor up"),
            format!("{cluster} kubernetes-apiserver 10.96.0.1:443   https://10.96.0.1:443/metrics down"),
        ]);
    }
    assert_same(shown, expected, "targets, and those expected");
    for psystrike in [&tokyo, &osaka] {
        assert!(psystrike.outcomes("forwarded") >= 2.0, "its cluster's pods are scraped through it");
        assert!(psystrike.metric("psystrike_tunnels") >= 2.0, "its pods and kubelets with TLS as well");
    }
    let of_both = prometheus.query("count by (job) (pod_up{job='kubernetes-pods', namespace='default'})");
    assert_eq!(of_both.values().collect::<Vec<_>>(), ["6"], "three series for each cluster");
}

/// Without files: pods are discovered through each cluster's API server, which is reached through its psystrike.
#[test]
fn api_servers_are_reached_through_psystrike() {
    if !Release::Newest.require(&["prometheus"]) || !require_programs(&["openssl", "python3"]) {
        return;
    }
    let scratch = Scratch::new("prometheus-discovery");
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    let shared = pod("127.25.9.1");
    let with_tls = Servers::start(&scratch, &[("tls", "127.25.9.2")]);
    let pods = [
        cluster::pod("shared", shared.address(), &[]),
        cluster::pod("with-tls", with_tls.addresses[0], &[("scheme", "https")]),
    ];
    // The certificate is for these addresses.
    let of_cluster = |ip| {
        let allow = ["--allow", "127.25.9.0/24", "--allow", ip];
        (Cluster::start(&scratch, ip, &pods), Psystrike::start(&[&allow[..], &["--allow-connect"]].concat()))
    };
    let clusters = [("tokyo", of_cluster("127.25.0.1")), ("osaka", of_cluster("::1"))];
    let mut text = shipped(CLUSTERS);
    for (from, to) in AT_ONCE {
        text = text.replace(from, to);
    }
    // From the last cluster to the first, because everything after a cluster's beginning is replaced.
    for (name, (cluster, psystrike)) in clusters.iter().rev() {
        text = text.replace(&format!("psystrike.{name}.example:31000"), &psystrike.address().to_string());
        // The name of the API server is the same in all of them.
        let (before, of_cluster) =
            text.split_at(text.find(&format!("- job_name: kubernetes-pods-{name}")).expect("a job"));
        let server = cluster.address().to_string();
        let of_cluster = of_cluster.replace("kubernetes.default.svc:443", &server);
        text = format!("{before}{of_cluster}");
        fs::create_dir(scratch.path(name)).expect("a new folder");
        scratch.write(&format!("{name}/kubernetes-token"), "token");
        fs::copy(scratch.path("cert.pem"), scratch.path(name).join("kubernetes-ca.crt")).expect("a copy");
    }
    scratch.write(RULES, &shipped(RULES));
    scratch.write("prometheus.yml", &text);
    let prometheus = Prometheus::start(Release::Newest, &scratch);

    let [v4, tls] = [shared.address(), with_tls.addresses[0]].map(|address| address.to_string());
    let servers = clusters.each_ref().map(|(name, (cluster, _))| (*name, cluster.address().to_string()));
    let expected = servers.iter().flat_map(|(name, server)| {
        [
            [*name, "kubernetes-pods", &v4],
            [*name, "kubernetes-pods", &tls],
            [*name, "kubernetes-nodes", "node-1"],
            [*name, "kubernetes-cadvisor", "node-1"],
            [*name, "kubernetes-apiserver", server],
        ]
    });
    let expected: Vec<_> = expected.collect();
    let expected: Vec<&[&str]> = expected.iter().map(|target| &target[..]).collect();
    wait_for_targets(&prometheus, &["cluster", "job", "instance"], &expected);
    for (_, (cluster, _)) in &clusters {
        cluster.wait_until_all_is_answered();
    }
}

#[test]
fn pods_come_from_a_file() {
    pods_of_a_file(&shipped(FILE_SD), &shipped(PODS));
}

#[test]
fn pods_of_a_file_are_scraped_by_rewritten_paths() {
    let file = shipped(FILE_SD);
    let (others, _) = file.split_once("  - job_name: pods\n").expect("the job");
    let blocks = Document::read("deploy/relabelling.md").blocks();
    let job = blocks.iter().find(|block| block.text.contains("file_sd_configs")).expect("the job");
    // Neither address receives psystrike's own page.
    let dropped =
        "- targets: [127.10.6.9]\n- targets: [127.10.6.9:80]\n  labels: { __metrics_path__: metrics }\n";
    // A path cannot name the scheme.
    let listed = shipped(PODS);
    let (listed, _) = listed.split_once("# This pod serves its metrics over TLS.").expect("a pod with TLS");
    pods_of_a_file(&format!("{others}{}", job.text), &format!("{listed}{dropped}"));
}

fn pods_of_a_file(configuration: &str, listed: &str) {
    if !require_programs(&["prometheus", "openssl", "python3"]) {
        return;
    }
    let psystrike = start_psystrike_with_tunnels();
    let pods = [pod("127.10.6.1"), pod("127.10.6.2"), pod("::1")];
    let [one, two, three] = pods.each_ref().map(|pod| pod.address().to_string());
    let scratch = Scratch::new(&format!("prometheus-file-sd-{}", psystrike.address().port()));
    scratch.write(RULES, &shipped(RULES));
    let with = |text: &str, replaced: &[(&str, &str)]| {
        replaced.iter().fold(text.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "no {from} in {text}");
            text.replace(from, to)
        })
    };
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    let with_tls = Servers::start(&scratch, &[("tls", "127.10.6.3")]);
    let four = with_tls.addresses[0].to_string();
    let addresses = [("10.1.2.3:8080", &*one), ("10.1.2.4:8080", &two), ("[fd00::1:5]:9100", &three)];
    let tls = ("10.1.2.5:8443", &*four);
    let lists_tls = listed.contains(tls.0);
    let addresses = addresses.into_iter().chain(lists_tls.then_some(tls)).collect::<Vec<_>>();
    scratch.write(PODS, &with(listed, &addresses));
    let own = psystrike.address().to_string();
    let replaced = [&AT_ONCE[..], &[("psystrike.example:31000", &own)]].concat();
    scratch.write("prometheus.yml", &with(configuration, &replaced));
    let prometheus = Prometheus::start(Release::Installed, &scratch);

    let mut expected = vec![
        ["psystrike", &own, ""],
        ["pods", &one, "web"],
        ["pods", &two, "web"],
        ["pods", &three, "queue"],
    ];
    expected.extend(lists_tls.then_some(["pods", &four, "api"]));
    let expected: Vec<&[&str]> = expected.iter().map(|target| &target[..]).collect();
    wait_for_targets(&prometheus, &["job", "instance", "app"], &expected);
    for (pod, target) in pods.iter().zip(["/metrics", "/metrics", "/stats?format=prometheus"]) {
        let asked = pod.heads();
        assert!(asked.iter().all(|head| head.target() == target) && !asked.is_empty(), "{asked:?}");
    }
}

#[test]
fn everything_goes_through_proxy_url() {
    if !require_programs(&["prometheus", "openssl"]) {
        return;
    }
    let psystrike = start_psystrike_with_tunnels();
    let pods = [pod("127.10.7.1"), pod("::1")];
    let node = Refusing::on("127.10.7.2");
    let own = psystrike.address().to_string();
    let scratch = Scratch::new("prometheus-proxy-url");
    scratch.write("kubernetes-token", "token");
    make_certificate(&scratch.path("kubernetes-ca.crt"), &scratch.path("kubernetes-ca.key"));
    let discovered = pods.iter().map(|pod| annotated("app", pod.address()));
    let discovered = discovered.chain([annotated("psystrike", psystrike.address())]);
    scratch.write("pods.json", &Value::from_iter(discovered).to_string());
    scratch.write("nodes.json", &json!([{ "targets": [node.address().to_string()] }]).to_string());
    scratch.write("apiservers.json", &api_servers());
    let replaced = [&AT_ONCE[..], &[("psystrike.example:31000", &*own)]].concat();
    scratch.write(RULES, &shipped(RULES));
    let files = ["pods.json", "nodes.json", "nodes.json", "apiservers.json"];
    scratch.write("prometheus.yml", &configuration(PROXY_URL, &files, &replaced));
    let prometheus = Prometheus::start(Release::Installed, &scratch);
    let in_time = prometheus.wait_until(IN_TIME, |prometheus| {
        prometheus.query("up == 1").len() == 3 && prometheus.query("up").len() == 6
    });
    let targets = prometheus.targets();
    assert!(in_time, "{targets:#?}");
    for target in targets {
        let reason = match target.labels["job"].as_str() {
            "psystrike" | "kubernetes-pods" => "",
            // The errors with and without a tunnel; both contain psystrike's reason.
            "kubernetes-nodes" | "kubernetes-cadvisor" => "pod refused the connection",
            _ => "destination not allowed",
        };
        assert!(
            target.last_error.contains(reason) && (reason.is_empty() == target.last_error.is_empty()),
            "{target:#?}"
        );
    }
    for pod in pods {
        let head = pod.heads().into_iter().next().expect("it was scraped");
        assert_eq!(
            (head.target().as_str(), head.values("Via").concat()),
            ("/metrics", "1.1 psystrike".to_owned())
        );
    }
}
