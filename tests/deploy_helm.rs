//! The Helm chart: it renders the same objects as kustomize, every value has an effect, and unknown values are
//! rejected.

mod support;

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, thread};

use psystrike::config::options::Opt;
use serde_json::{Value, json};
use support::{
    Scratch,
    kubernetes::{Rendered, VERSIONS, admits, broken_rules, render_overlay, validate},
    markdown::Document,
    psystrike::{Psystrike, run as run_psystrike},
    repository, require_programs,
};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/helm");

/// Every value, set to another value than its default.
const CHANGED: &str = r#"
image: { repository: registry.example.org/team/psystrike, tag: 9.9.9, pullPolicy: Always }
imagePullSecrets: [{ name: pull }]
options:
  allow: [127.1.0.0/16, "fd00::/64"]
  allow-ports: 1-1023,8080
  allow-names: [svc, example.com]
  deny: [127.1.2.0/24]
  workers: 2
  timeout: 20s
  timeout-max: 1m
  connect-timeout: 1s
  header-timeout: 5s
  client-idle-timeout: 7m
  upstream-idle-timeout: 2m
  resolve-ttl: 3s
  clients-max: 1000000
  upstreams-idle-max: 0
  buffers-max: 2MiB
  shutdown-delay: 10s
  allow-connect: true
  connect-ports: 443,8443
  tunnel-idle-timeout: 5m
  shutdown-timeout: 20s
  log-level: debug
  log-format: json
  access-log: true
kind: DaemonSet
replicas: 5
autoscaling: { enabled: true, minReplicas: 3, maxReplicas: 9, averageValue: 700m }
service:
  type: LoadBalancer
  port: 80
  nodePort: 31001
  externalTrafficPolicy: Local
  annotations: { example.com/internal: "true" }
networkPolicy:
  enabled: true
  from: [{ ipBlock: { cidr: 192.0.2.10/32 } }]
  to: [{ ipBlock: { cidr: 127.1.0.0/16 } }]
podDisruptionBudget: { enabled: false }
resources: { requests: { cpu: 20m, memory: 9Mi }, limits: { memory: 33Mi } }
terminationGracePeriodSeconds: 50
podAnnotations: { prometheus.io/scrape: "false", prometheus.io/port: "1", prometheus.io/path: /m, a.example/b: c }
podLabels: { team: metrics }
nodeSelector: { node-role.kubernetes.io/edge: "" }
tolerations: [{ key: node-role.kubernetes.io/edge, operator: Exists, effect: NoSchedule }]
affinity: { nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } }
priorityClassName: high
"#;

fn helm(arguments: &[&str]) -> Command {
    let mut command = Command::new("helm");
    command.args(arguments);
    command
}

/// Renders the chart with these values in addition to its own.
fn render(values: &str) -> Rendered {
    let scratch = Scratch::new(&format!("values-{}", thread::current().name().unwrap_or_default()));
    let file = scratch.write("values.yaml", values);
    Rendered::by(helm(&["template", "psystrike", CHART, "--namespace", "monitoring", "--values"]).arg(file))
}

fn default_values() -> Value {
    let values = fs::read_to_string(PathBuf::from(CHART).join("values.yaml")).expect("the chart has values");
    serde_saphyr::from_str(&values).expect("the values are YAML")
}

fn changed_values() -> Value {
    serde_saphyr::from_str(CHANGED).expect("the values are YAML")
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    if !require_programs(&["helm"]) {
        return;
    }
    let scratch = Scratch::new("lint");
    let changed = scratch.write("values.yaml", CHANGED);
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
    let objects = rendered.objects.iter().map(|object| {
        let mut object = object.clone();
        strip(&mut object);
        (object["kind"].as_str().expect("an object has a kind").to_owned(), object)
    });
    objects.collect()
}

/// The comment that values.yaml begins with.
fn head_of_values() -> String {
    let values = fs::read_to_string(PathBuf::from(CHART).join("values.yaml")).expect("the chart has values");
    let lines = values.lines().map_while(|line| line.strip_prefix('#'));
    lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

/// Returns the values in it with which the chart matches an overlay.
fn documented_overlays() -> BTreeMap<String, Value> {
    let head = head_of_values();
    let (_, overlays) = head.split_once("make it the others:\n").expect("it says how");
    serde_saphyr::from_str(overlays).unwrap_or_else(|error| panic!("{error} in\n{overlays}"))
}

#[test]
fn its_commands_are_what_a_shell_takes() {
    if !require_programs(&["helm"]) {
        return;
    }
    let of_readme = Document::read("deploy/README.md").blocks();
    let of_readme =
        of_readme.iter().find(|block| block.text.starts_with("helm install ")).expect("a command");
    let head = head_of_values();
    let (_, of_values) = head.split_once("\n\n").expect("a command");
    let (of_values, _) = of_values.split_once("\n\n").expect("and more behind");
    for command in [&*of_readme.text, of_values] {
        // With two ranges, which braces without quotes would take apart.
        let command = command.replace("helm install ", "helm template ").replace("/16}", "/16,fd00::/64}");
        assert!(command.contains("helm template ") && command.contains(",fd00::/64}"), "{command}");
        let mut shell = Command::new("bash");
        shell.args(["-euc", &command]).current_dir(repository());
        let rendered = Rendered::by(&mut shell);
        let allow = rendered.variables()["PSYSTRIKE_ALLOW"];
        assert!(allow.starts_with("10.") && allow.ends_with(".0.0/16,fd00::/64"), "{command}: {allow}");
    }
}

/// With only Prometheus's address, all replicas except the one that forwards the scrape would be down for Prometheus.
#[test]
fn who_may_ask_are_those_and_psystrike_itself() {
    if !require_programs(&["helm"]) {
        return;
    }
    assert_eq!(render("").kind("NetworkPolicy")["spec"]["ingress"][0]["from"], Value::Null, "anybody");
    let rendered = render("{ replicas: 3, networkPolicy: { from: [{ ipBlock: { cidr: 192.0.2.10/32 } }] } }");
    let ingress = &rendered.kind("NetworkPolicy")["spec"]["ingress"];
    assert_eq!(ingress.as_array().map(Vec::len), Some(1), "one rule: another would let in more");
    let from = &ingress[0]["from"];
    assert!(admits(from, &json!({ "ip": "192.0.2.10/32" })), "Prometheus: {from}");
    let pod_labels = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
    assert!(admits(from, &json!({ "labels": pod_labels })), "another psystrike: {from}");
    let mut other = pod_labels.clone();
    other["app.kubernetes.io/instance"] = "another".into();
    assert!(!admits(from, &json!({ "labels": other })), "{from}");
}

#[test]
fn it_renders_what_the_overlays_are() {
    if !require_programs(&["helm"]) {
        return;
    }
    let mut all: BTreeMap<String, Value> = documented_overlays();
    all.insert("overlays/nodeport".to_owned(), json!({})); // by default
    let expected = ["base", "overlays/daemonset", "overlays/hpa", "overlays/nodeport", "overlays/replicas"];
    assert_eq!(all.keys().collect::<Vec<_>>(), expected);
    for (overlay, values) in &all {
        let Some(by_kustomize) = render_overlay(overlay) else { return };
        let by_helm = comparable(&render(&values.to_string()));
        for (kind, object) in comparable(&by_kustomize) {
            assert_eq!(by_helm.get(&kind), Some(&object), "{overlay}");
        }
        assert_eq!(by_helm.len(), by_kustomize.objects.len(), "{overlay}: {:?}", by_helm.keys());
    }
}

#[test]
fn what_it_renders_fits_the_schemas_and_selects_its_own_pods() {
    if !require_programs(&["helm", "kubernetes-validate"]) {
        return;
    }
    let deployment = changed_values();
    let mut deployment = deployment.as_object().cloned().expect("values are a map");
    deployment.insert("kind".to_owned(), "Deployment".into());
    deployment.insert("podDisruptionBudget".to_owned(), json!({ "enabled": true }));
    for values in ["", CHANGED, &Value::from(deployment).to_string()] {
        let rendered = render(values);
        for version in VERSIONS {
            assert_eq!(validate(version, &rendered.text), Ok(()), "{version:?}");
        }
        assert!(broken_rules(rendered.pod()).is_empty());
        let template = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
        let own = json!({ "app.kubernetes.io/name": "psystrike", "app.kubernetes.io/instance": "psystrike" });
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

/// Returns the paths of all values that are not maps, and the values.
fn leaves(value: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => object
            .iter()
            .for_each(|(key, value)| leaves(value, &format!("{path}/{}", key.replace('/', "~1")), found)),
        None => drop(found.insert(path.to_owned(), value.clone())),
    }
}

#[test]
fn every_value_counts() {
    if !require_programs(&["helm"]) {
        return;
    }
    let (mut of_default, mut of_changed) = (BTreeMap::new(), BTreeMap::new());
    let (default, changed) = (default_values(), changed_values());
    leaves(&default, "", &mut of_default);
    leaves(&changed, "", &mut of_changed);
    let with = |path: &str, value: &Value| {
        let keys = path.rsplit('/').map(|key| key.replace("~1", "/")).filter(|key| !key.is_empty());
        keys.fold(value.clone(), |value, key| json!({ key: value }))
    };
    let is_default = |path: &str| default.pointer(path) == changed.pointer(path);
    let unchanged: Vec<_> = of_default.keys().filter(|path| is_default(path)).collect();
    assert_eq!(unchanged, ["/networkPolicy/enabled"], "the values that are changed here");

    // One at a time, where it can be seen.
    let autoscaled = json!({ "autoscaling": { "enabled": true } });
    let mut changes: Vec<(String, Value, Value)> = of_default
        .keys()
        .map(|path| {
            let value = changed.pointer(path).unwrap_or_else(|| panic!("{path} is not changed"));
            let before = if path.starts_with("/autoscaling/") && !path.ends_with("enabled") {
                autoscaled.clone()
            } else {
                json!({})
            };
            (path.clone(), before, with(path, value))
        })
        .collect();
    changes.retain(|(path, ..)| path != "/networkPolicy/enabled");
    changes.push((
        "/networkPolicy/enabled".to_owned(),
        json!({}),
        json!({ "networkPolicy": { "enabled": false } }),
    ));
    for (path, before, mut change) in changes {
        if before != json!({}) {
            change["autoscaling"]["enabled"] = true.into();
        }
        let [before, after] = [&before, &change].map(|values| render(&values.to_string()).text);
        assert_ne!(before, after, "{path} changes nothing");
        // What is no switch, list or map arrives as it is.
        if let Some(value) = changed.pointer(&path).filter(|value| value.is_string() || value.is_number()) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert!(after.contains(&value), "{path}: no {value} in\n{after}");
        }
    }
}

#[test]
fn its_options_are_those_of_the_binary() {
    if !require_programs(&["helm"]) {
        return;
    }
    let rendered = render(CHANGED);
    let mut variables = rendered.variables();
    assert_eq!(variables["PSYSTRIKE_ALLOW"], "127.1.0.0/16,fd00::/64");
    assert_eq!(variables["PSYSTRIKE_CLIENTS_MAX"], "1000000");
    // All but --listen, as it listens where the manifests say.
    let options = Opt::ALL.iter().filter_map(|option| option.variable());
    assert_eq!(variables.len(), options.count() - 1, "{variables:?}");
    variables.insert("PSYSTRIKE_LISTEN", "127.0.0.1:0");
    let psystrike = Psystrike::start_with_env(&[], &variables.into_iter().collect::<Vec<_>>());
    psystrike
        .wait_for_line(r#""allow":"127.1.0.0/16,fd00::/64","deny":"127.1.2.0/24","ports":"1-1023,8080""#);
}

#[test]
fn it_takes_the_durations_that_psystrike_takes() {
    if !require_programs(&["helm"]) {
        return;
    }
    let changed = changed_values();
    let options = changed["options"].as_object().expect("options are a map");
    let is_duration = |value: &&Value| value.as_str().is_some_and(|text| text.ends_with(['s', 'm']));
    let durations: Vec<&String> =
        options.iter().filter(|(_, v)| is_duration(v)).map(|(name, _)| name).collect();
    assert_eq!(durations.len(), 10, "{durations:?}");
    let (mut taken, mut refused) = (0, 0);
    for name in durations {
        // The limit on the other side of a contradiction, out of the way.
        let max = ("PSYSTRIKE_TIMEOUT_MAX", if name == "timeout" { "168h" } else { "" });
        for value in [
            "0s",
            "0ms",
            "1ms",
            "1m30s",
            "168h",
            "167h60m",
            "169h",
            "10081m",
            "604800001ms",
            "9999999999h",
            "168h0m1s",
            "1s1m",
        ] {
            let variable = format!("PSYSTRIKE_{}", name.replace('-', "_").to_uppercase());
            // Options are read first, and then nothing is there to be asked.
            let ended = run_psystrike(
                &["--healthcheck", "http://127.0.0.1:1/"],
                &[(variable.as_str(), value), max][..1 + usize::from(!max.1.is_empty())],
            );
            let set = format!("options.{name}={value}");
            let output = helm(&["template", "psystrike", CHART, "--set", &set]).output().expect("helm runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), ended.status.code() == Some(1), "{set}: {ended:?}, {said}");
            assert!(output.status.success() || said.contains(name.as_str()), "{said}");
            *if output.status.success() { &mut taken } else { &mut refused } += 1;
        }
    }
    // Three may be zero.
    assert_eq!((taken, refused), (3 * 6 + 7 * 4, 3 * 6 + 7 * 8));
}

#[test]
fn what_contradicts_itself_is_refused() {
    if !require_programs(&["helm"]) {
        return;
    }
    let bounds = |least, most| {
        let values = format!(
            "autoscaling.enabled=true,autoscaling.minReplicas={least},autoscaling.maxReplicas={most}"
        );
        helm(&["template", "psystrike", CHART, "--set", &values]).output().expect("helm runs")
    };
    assert!(bounds(3, 3).status.success());
    let output = bounds(7, 6);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("minReplicas is above maxReplicas"), "{said}");
}

#[test]
fn what_is_no_value_is_refused() {
    if !require_programs(&["helm"]) {
        return;
    }
    for values in [
        "replica: 3",
        "replicas: three",
        "kind: StatefulSet",
        "options: { alow: [10.244.0.0/16] }",
        "options: { allow: [] }",
        "options: { allow: 10.244.0.0/16 }",
        "options: { allow: [pods.example] }",
        "options: { timeout: 30 }",
        "options: { timeout: 0s }",
        "options: { listen: '[::]:9090' }",
        "service: { type: ExternalName }",
        "service: { nodePort: 70000 }",
        "autoscaling: { enabled: 'yes' }",
    ] {
        let scratch = Scratch::new("refused");
        let file = scratch.write("values.yaml", values);
        let output =
            helm(&["template", "psystrike", CHART, "--values"]).arg(file).output().expect("helm runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("schema"), "{values}: {said}");
    }
}
