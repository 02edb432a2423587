//! The Helm chart: it renders the same objects as kustomize, its objects fit together, and its notes say what to do
//! next. Its values are in tests/deploy_helm_values.rs. With `PSYSTRIKE_WRITE=1` these tests write the chart's copies
//! of the rules and the dashboard.

mod support;

use std::{collections::BTreeMap, process::Command, thread};

use serde_json::{Value, json};
use support::{
    Scratch, generated,
    helm::{CHART, changed_values, helm, render},
    kubernetes::{Rendered, VERSIONS, admits, broken_rules, render_overlay, texts, validate},
    markdown::Document,
    psystrike::{Psystrike, run as run_psystrike},
    read, repository, require_programs,
    shipped::{RULES, parsed},
};

/// The group and version of the Prometheus Operator's kinds.
const OPERATOR: &str = "apiVersion: monitoring.coreos.com/v1\n";

/// Returns the notes that Helm prints after an installation with these values.
fn notes(values: &str) -> String {
    let scratch = Scratch::new(&format!("notes-{}", thread::current().name().unwrap_or_default()));
    let file = scratch.write("values.yaml", values);
    const INSTALL: [&str; 6] =
        ["install", "psystrike", CHART, "--dry-run=client", "--namespace", "monitoring"];
    let output = helm(&INSTALL).arg("--values").arg(file).output().expect("helm runs");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, notes) = stdout.split_once("\nNOTES:\n").unwrap_or_else(|| panic!("no notes in {output:?}"));
    notes.to_owned()
}

#[test]
fn helm_lint_accepts_the_chart() {
    if !require_programs(&["helm"]) {
        return;
    }
    let scratch = Scratch::new("lint");
    let changed = scratch.write("values.yaml", &changed_values().to_string());
    for values in [None, Some(changed)] {
        let mut lint = helm(&["lint", "--strict", "--quiet", CHART]);
        if let Some(values) = &values {
            lint.arg("--values").arg(values);
        }
        let output = lint.output().expect("helm runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.is_empty(), "{values:?}: {said}");
    }
}

/// Returns the objects by kind, without the parts in which kustomize and Helm differ: labels and selectors, the
/// ConfigMap's name and how its change replaces pods, and explicit defaults.
fn comparable(rendered: &Rendered) -> BTreeMap<String, Value> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|key, value| match key.as_str() {
                    "labels" | "matchLabels" | "namespace" | "checksum/options" => false,
                    "selector" => value["matchLabels"].is_object(),
                    "imagePullPolicy" => value != "IfNotPresent",
                    "replicas" => value != 1,
                    _ => true,
                });
                if let Some(name) = object.get_mut("name")
                    && name.as_str().is_some_and(|name| name.starts_with("psystrike-"))
                {
                    *name = "psystrike".into();
                }
                object.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    // Helm creates the namespace by an option, not from a template.
    let objects = rendered.objects.iter().filter(|object| object["kind"] != "Namespace").map(|object| {
        let mut object = object.clone();
        strip(&mut object);
        (object["kind"].as_str().expect("an object has a kind").to_owned(), object)
    });
    objects.collect()
}

/// The values that render each overlay, by the chart's README.
fn documented_overlays() -> BTreeMap<String, Value> {
    let blocks = Document::read("deploy/helm/README.md").blocks();
    let block = blocks.iter().find(|block| block.text.starts_with("base:\n")).expect("it has them");
    serde_saphyr::from_str(&block.text).unwrap_or_else(|error| panic!("{error} in\n{}", block.text))
}

#[test]
fn commands_in_the_readme_are_valid_in_a_shell() {
    if !require_programs(&["helm"]) {
        return;
    }
    for document in ["deploy/README.md", "deploy/helm/README.md"] {
        let blocks = Document::read(document).blocks();
        let command = blocks.iter().find(|block| block.text.starts_with("helm install ")).expect("a command");
        // With two ranges: a shell expands braces that are not quoted.
        let command = command.text.replace("helm install ", "helm template --skip-tests ");
        let command = command.replace("/16}", "/16,fd00::/64}");
        assert!(command.contains(",fd00::/64}"), "{command}");
        let mut shell = Command::new("bash");
        shell.args(["-euc", &command]).current_dir(repository());
        let rendered = Rendered::by(&mut shell);
        let allow = rendered.variables()["PSYSTRIKE_ALLOW"];
        assert!(allow.starts_with("10.") && allow.ends_with(".0.0/16,fd00::/64"), "{command}: {allow}");
    }
}

/// Prometheus's address alone would make Prometheus see only one replica up. An ipBlock needs the client's address.
#[test]
fn only_listed_clients_and_the_release_itself_are_admitted() {
    if !require_programs(&["helm"]) {
        return;
    }
    let open = render("");
    assert_eq!(open.kind("NetworkPolicy")["spec"]["ingress"][0]["from"], Value::Null, "anybody");
    assert_eq!(open.kind("Service")["spec"]["externalTrafficPolicy"], "Cluster");
    let rendered =
        render("{ replicaCount: 3, networkPolicy: { from: [{ ipBlock: { cidr: 192.0.2.10/32 } }] } }");
    assert_eq!(rendered.kind("Service")["spec"]["externalTrafficPolicy"], "Local");
    let ingress = &rendered.kind("NetworkPolicy")["spec"]["ingress"];
    assert_eq!(ingress.as_array().map(Vec::len), Some(1), "there is more than one ingress rule");
    let from = &ingress[0]["from"];
    assert!(admits(from, &json!({ "ip": "192.0.2.10/32" })), "Prometheus: {from}");
    let pod_labels = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
    assert!(admits(from, &json!({ "labels": pod_labels })), "another psystrike: {from}");
    assert!(admits(from, &json!({ "labels": test_pod("")["metadata"]["labels"] })), "the test: {from}");
    let mut other = pod_labels.clone();
    other["app.kubernetes.io/instance"] = "another".into();
    assert!(!admits(from, &json!({ "labels": other })), "{from}");
}

#[test]
fn the_chart_renders_the_same_objects_as_the_overlays() {
    if !require_programs(&["helm"]) {
        return;
    }
    let mut all: BTreeMap<String, Value> = documented_overlays();
    all.insert("overlays/migration".to_owned(), json!({})); // by default
    const OVERLAYS: [&str; 6] = [
        "base",
        "overlays/daemonset",
        "overlays/hpa",
        "overlays/migration",
        "overlays/nodeport",
        "overlays/replicas",
    ];
    assert_eq!(all.keys().collect::<Vec<_>>(), OVERLAYS);
    for (overlay, values) in &all {
        let Some(by_kustomize) = render_overlay(overlay) else { return };
        let by_helm = comparable(&render(&values.to_string()));
        for (kind, object) in comparable(&by_kustomize) {
            assert_eq!(by_helm.get(&kind), Some(&object), "{overlay}");
        }
        let kinds: Vec<&str> = by_helm.keys().map(String::as_str).collect();
        let expected = by_kustomize.kinds().into_iter().filter(|kind| *kind != "Namespace");
        assert_eq!(kinds, expected.collect::<Vec<_>>(), "{overlay}");
    }
}

#[test]
fn rendered_objects_fit_the_schemas_and_select_their_own_pods() {
    if !require_programs(&["helm", "kubernetes-validate"]) {
        return;
    }
    let changed = changed_values();
    let mut deployment = changed.as_object().cloned().expect("values are a map");
    deployment.insert("kind".to_owned(), "Deployment".into());
    deployment.insert("podDisruptionBudget".to_owned(), json!({ "enabled": true }));
    deployment.insert("serviceAccount".to_owned(), json!({ "create": true }));
    for (values, name) in
        [("", "psystrike"), (&changed.to_string(), "other"), (&Value::from(deployment).to_string(), "other")]
    {
        let rendered = render(values);
        for version in VERSIONS {
            // The Operator's kinds are not Kubernetes's.
            let manifests = rendered.text.split("---\n");
            let manifests: Vec<&str> = manifests.filter(|text| !text.contains(OPERATOR)).collect();
            let manifests = manifests.join("---\n");
            assert_eq!(validate(version, &manifests), Ok(()), "{version:?}");
        }
        assert!(broken_rules(rendered.pod()).is_empty());
        let template = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
        let own = json!({
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/instance": "psystrike",
            "app.kubernetes.io/component": "proxy",
        });
        for (name, value) in own.as_object().into_iter().flatten() {
            assert_eq!(template[name], *value);
        }
        let selectors = [
            &rendered.workload()["spec"]["selector"]["matchLabels"],
            &rendered.kind("Service")["spec"]["selector"],
            &rendered.kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ];
        assert_eq!(selectors, [&own; 3]);
    }
}

#[test]
fn objects_have_the_usual_names_of_charts() {
    if !require_programs(&["helm"]) {
        return;
    }
    for (release, values, name, account) in [
        ("psystrike", "", "psystrike", "psystrike"),
        ("edge", "", "edge-psystrike", "edge-psystrike"),
        ("my-psystrike", "", "my-psystrike", "my-psystrike"),
        ("edge", "nameOverride=scrapes", "edge-scrapes", "edge-scrapes"),
        ("edge", "fullnameOverride=scrapes", "scrapes", "scrapes"),
        ("edge", "serviceAccount.name=other", "edge-psystrike", "other"),
        ("edge", "serviceAccount.create=false", "edge-psystrike", "default"),
        ("edge", "serviceAccount.create=false,serviceAccount.name=other", "edge-psystrike", "other"),
    ] {
        let rendered =
            Rendered::by(&mut helm(&["template", release, CHART, "--skip-tests", "--set", values]));
        for object in rendered.objects.iter().filter(|object| object["kind"] != "ServiceAccount") {
            assert_eq!(object["metadata"]["name"], name, "{release}, {values}: {}", object["kind"]);
        }
        assert_eq!(rendered.pod()["serviceAccountName"], account, "{release}, {values}");
        let own = rendered.objects.iter().find(|object| object["kind"] == "ServiceAccount");
        assert_eq!(own.is_some(), !values.contains("create=false"), "{release}, {values}");
        assert!(own.is_none_or(|own| own["metadata"]["name"] == account), "{release}, {values}");
        rendered.variables(); // fails unless the ConfigMap exists
    }
}

#[test]
fn labels_and_a_digest_do_not_break_selectors() {
    if !require_programs(&["helm"]) {
        return;
    }
    let name = "app.kubernetes.io/name";
    let digest = format!("sha256:{}", "a".repeat(64));
    let values = json!({
        "commonLabels": { name: "wrong", "team": "a", "app.kubernetes.io/part-of": "shop" },
        "podLabels": { name: "wrong", "team": "b" },
        "image": { "tag": "9.9.9", "digest": digest },
    });
    let rendered = render(&values.to_string());
    for object in &rendered.objects {
        let labels = &object["metadata"]["labels"];
        assert_eq!([&labels[name], &labels["team"]], ["psystrike", "a"], "{}", object["kind"]);
        assert_eq!(labels["app.kubernetes.io/part-of"], "shop", "{}", object["kind"]);
    }
    let labels = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
    assert_eq!([&labels[name], &labels["team"]], ["psystrike", "b"]);
    assert_eq!(rendered.container()["image"], format!("registry.example/psystrike@{digest}"));
}

/// The Pod of `helm test`.
fn test_pod(values: &str) -> Value {
    let template = ["template", "psystrike", CHART, "--show-only", "templates/tests/healthcheck.yaml"];
    let rendered = Rendered::by(helm(&template).args(["--set", values]));
    assert_eq!(rendered.objects.len(), 1);
    rendered.objects[0].clone()
}

#[test]
fn helm_test_queries_psystrike_through_its_service() {
    if !require_programs(&["helm"]) {
        return;
    }
    for (values, prefix) in [("", "PSYSTRIKE"), ("fullnameOverride=edge-1", "EDGE_1")] {
        let pod = test_pod(values);
        assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
        assert_eq!(pod["spec"]["enableServiceLinks"], true, "which sets the variables");
        assert!(broken_rules(&pod["spec"]).is_empty());
        let psystrike = Psystrike::start(&[]);
        // Replaces variables in arguments as the kubelet does.
        let address = psystrike.address();
        let arguments: Vec<String> = texts(&pod["spec"]["containers"][0]["args"])
            .iter()
            .map(|argument| {
                let argument =
                    argument.replace(&format!("$({prefix}_SERVICE_HOST)"), &address.ip().to_string());
                argument.replace(&format!("$({prefix}_SERVICE_PORT)"), &address.port().to_string())
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let host = address.ip().to_string();
        let variables = [
            ("PSYSTRIKE_SERVICE_HOST", host.as_str()),
            ("PSYSTRIKE_SERVICE_PORT_HTTP", "8080"),
            ("PSYSTRIKE_PORT", "tcp://10.96.0.1:8080"),
        ];
        let ended = run_psystrike(&arguments, &variables);
        assert!(ended.status.success(), "{arguments:?}: {ended:?}");
        // The Service does not select it, so it does not count as a replica.
        let rendered = render("");
        let selector = &rendered.kind("Service")["spec"]["selector"];
        let labels = &pod["metadata"]["labels"];
        let selected = selector.as_object().into_iter().flatten().all(|(name, value)| labels[name] == *value);
        assert!(!selected, "{labels}");
    }
}

#[test]
fn notes_have_the_next_commands_and_warnings() {
    if !require_programs(&["helm"]) {
        return;
    }
    const OPEN: &str = "WARNING: psystrike does not authenticate its clients.";
    const READABLE: &str = "WARNING: without TLS, the secrets in some-secrets can be read on the network.";
    const HIDDEN: &str = "WARNING: with service.externalTrafficPolicy Cluster";
    const FROM: &str = "networkPolicy: { from: [{ ipBlock: { cidr: 192.0.2.10/32 } }] }";
    for (values, url, present, absent) in [
        (String::new(), "NODE:31000", vec![OPEN, "Every node answers", "a firewall"], vec![HIDDEN, "PORT:"]),
        (FROM.to_owned(), "NODE:31000", vec!["Only the nodes that run psystrike answer"], vec![OPEN, HIDDEN]),
        (
            format!("{FROM}\nservice: {{ externalTrafficPolicy: Cluster }}"),
            "NODE:31000",
            vec![HIDDEN],
            vec![OPEN],
        ),
        (
            format!("{FROM}\nservice: {{ type: ClusterIP }}"),
            "psystrike.monitoring.svc:8080",
            vec![],
            vec![OPEN, HIDDEN],
        ),
        ("service: { nodePort: 0 }".to_owned(), "NODE:PORT", vec![OPEN, "{.spec.ports[0].nodePort}"], vec![]),
        (
            "service: { type: ClusterIP }".to_owned(),
            "psystrike.monitoring.svc:8080",
            vec![OPEN],
            vec!["a firewall"],
        ),
        (
            "service: { type: LoadBalancer, port: 80 }".to_owned(),
            "ADDRESS:80",
            vec![OPEN, "EXTERNAL-IP", "- service.loadBalancerSourceRanges"],
            vec!["NODE"],
        ),
        (
            "service: { type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.10/32] }".to_owned(),
            "ADDRESS:8080",
            vec![OPEN, "restricts only the load balancer"],
            vec!["- service.loadBalancerSourceRanges"],
        ),
        (
            "auth: { tokenSecret: some-secrets }".to_owned(),
            "prometheus:SECRET@NODE:31000",
            vec!["one of those in the Secret some-secrets", READABLE],
            vec![OPEN],
        ),
        (
            "auth: { tokenSecret: some-secrets }\ntls: { secretName: some-tls }".to_owned(),
            "prometheus:SECRET@NODE:31000",
            vec!["one of those in the Secret some-secrets", "the certificate in the Secret some-tls"],
            vec![OPEN, READABLE],
        ),
        (
            "tls: { secretName: some-tls, clientCASecretName: some-ca }".to_owned(),
            "NODE:31000",
            vec!["that a CA in the Secret some-ca signed"],
            vec![OPEN, READABLE],
        ),
        (
            "kind: DaemonSet".to_owned(),
            "NODE:31000",
            vec!["rollout status daemonset/psystrike --namespace mon"],
            vec![],
        ),
    ] {
        let notes = notes(&values);
        let scheme = if values.contains("tls: ") { "https" } else { "http" };
        let urls = [
            format!("proxy_url: {scheme}://{url}\n"),
            format!("curl -fsS http://{}/readyz\n", url.trim_start_matches("prometheus:SECRET@")),
        ];
        let always = ["helm test psystrike", "promtool check config", "connects only to 10.244.0.0/16"];
        for text in urls.iter().map(String::as_str).chain(always).chain(present) {
            assert!(notes.contains(text), "{values}: no {text:?} in\n{notes}");
        }
        for text in absent {
            assert!(!notes.contains(text), "{values}: {text:?} in\n{notes}");
        }
        // Commands may be longer.
        let mut prose = notes.lines().filter(|line| !line.starts_with("     "));
        assert!(prose.all(|line| line.len() <= 120), "{values}: a long line in\n{notes}");
    }
}

/// A chart reads no files outside of its folder.
#[test]
fn the_charts_rules_and_dashboard_are_current() {
    for (file, original) in [
        ("deploy/helm/files/psystrike.rules.yml", "deploy/prometheus/psystrike.rules.yml"),
        ("deploy/helm/files/psystrike.json", "deploy/grafana/psystrike.json"),
    ] {
        generated::file(file, original, &read(original));
    }
    if !require_programs(&["helm"]) {
        return;
    }
    let rendered = render("{ prometheusRule: { enabled: true }, dashboard: { enabled: true } }");
    assert_eq!(
        rendered.kind("PrometheusRule")["spec"],
        parsed(RULES),
        "no template of the alerts is rendered"
    );
    let dashboards = rendered.objects.iter().filter_map(|object| object["data"]["psystrike.json"].as_str());
    let dashboards: Vec<Value> =
        dashboards.map(|text| serde_json::from_str(text).expect("the dashboard is JSON")).collect();
    let original: Value = serde_json::from_str(&read("deploy/grafana/psystrike.json")).expect("it is JSON");
    assert_eq!(dashboards, [original]);

    let elsewhere = "https://git.example.org/team/psystrike";
    let rendered = render(&format!("prometheusRule: {{ enabled: true, runbookRepository: {elsewhere}/ }}"));
    let rules = &rendered.kind("PrometheusRule")["spec"];
    let rules =
        rules["groups"].as_array().into_iter().flatten().filter_map(|group| group["rules"].as_array());
    let links: Vec<&str> =
        rules.flatten().filter_map(|rule| rule["annotations"]["runbook_url"].as_str()).collect();
    let beginning = format!("{elsewhere}/blob/main/deploy/troubleshooting.md#");
    assert!(!links.is_empty() && links.iter().all(|link| link.starts_with(&beginning)), "{links:?}");
}

#[test]
fn the_service_monitor_selects_the_service() {
    if !require_programs(&["helm"]) {
        return;
    }
    let rendered =
        render("serviceMonitor: { enabled: true, interval: 30s, labels: { release: prometheus } }");
    let (monitor, service) = (rendered.kind("ServiceMonitor"), rendered.kind("Service"));
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let selector = monitor["spec"]["selector"]["matchLabels"].as_object().expect("it selects by labels");
    assert!(!selector.is_empty());
    for (name, value) in selector {
        assert_eq!(service["metadata"]["labels"][name], *value);
    }
    let job = json!([{ "targetLabel": "job", "replacement": "psystrike" }]);
    let endpoint = json!({ "port": "http", "path": "/metrics", "interval": "30s", "relabelings": job });
    assert_eq!(monitor["spec"]["endpoints"], json!([endpoint]));
    assert_eq!(service["spec"]["ports"][0]["name"], "http");
}

#[test]
fn the_service_monitor_uses_https_where_plain_http_is_refused() {
    if !require_programs(&["helm"]) {
        return;
    }
    for (values, scheme) in [
        ("", Value::Null),
        ("tls: { secretName: a }", Value::Null),
        ("tls: { secretName: a }\noptions: { tls-only: true }", json!("https")),
        ("tls: { secretName: a, clientCASecretName: b }", json!("https")),
        ("tls: { secretName: a, clientCASecretName: b }\nauth: { tokenSecret: c }", Value::Null),
    ] {
        let rendered = render(&format!("serviceMonitor: {{ enabled: true }}\n{values}\n"));
        assert_eq!(rendered.kind("ServiceMonitor")["spec"]["endpoints"][0]["scheme"], scheme, "{values}");
        // Probes are answered over plain HTTP.
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(rendered.container()[probe]["httpGet"]["scheme"], Value::Null, "{values}");
        }
    }
}
