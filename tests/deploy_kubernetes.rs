//! The manifests as kustomize renders them: Kubernetes's schemas and its strictest Pod Security Standard accept them,
//! and the real binary starts with their options and answers their probes.

mod support;

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    path::Path,
    process::Command,
};

use psystrike::config::options::Opt;
use serde_json::{Value, json};
use support::{
    Scratch, assert_same,
    kubernetes::{MANIFESTS, VERSIONS, admits, broken_rules, kustomize, render_overlay, texts, validate},
    markdown::{self, Document},
    podman::Podman,
    psystrike::{BINARY, Psystrike},
    require_programs, require_working,
};

const BASE: &str = "base";
const NODEPORT: &str = "overlays/nodeport";
const REPLICAS: &str = "overlays/replicas";
const DAEMONSET: &str = "overlays/daemonset";
const HPA: &str = "overlays/hpa";
const MIGRATION: &str = "overlays/migration";
const ALL: [&str; 6] = [BASE, NODEPORT, REPLICAS, DAEMONSET, HPA, MIGRATION];

#[test]
fn every_overlay_fits_the_schemas_of_the_oldest_and_the_newest_kubernetes() {
    if !require_programs(&["kubernetes-validate"]) {
        return;
    }
    for overlay in ALL {
        let Some(rendered) = render_overlay(overlay) else { return };
        for version in VERSIONS {
            assert_eq!(validate(version, &rendered.text), Ok(()), "{overlay}, {version:?}");
            let wrong = rendered.text.replace("automountServiceAccountToken", "autoMountServiceAccountToken");
            assert!(validate(version, &wrong).is_err(), "{version:?} accepts an unknown field");
        }
    }
}

#[test]
fn overlays_differ_only_in_their_purpose() {
    for overlay in ALL {
        let Some(rendered) = render_overlay(overlay) else { return };
        let workload = if overlay == DAEMONSET { "DaemonSet" } else { "Deployment" };
        let mut kinds = BTreeSet::from(["ConfigMap", "NetworkPolicy", "Service", "ServiceAccount", workload]);
        if overlay != DAEMONSET {
            kinds.insert("PodDisruptionBudget");
        }
        if overlay == HPA {
            kinds.insert("HorizontalPodAutoscaler");
        }
        let namespace = match overlay {
            BASE => Value::Null,
            MIGRATION => json!("default"),
            _ => json!("psystrike"),
        };
        if namespace == "psystrike" {
            kinds.insert("Namespace");
            assert_eq!(rendered.kind("Namespace")["metadata"]["name"], namespace, "{overlay}");
        }
        assert_same(rendered.kinds(), kinds.clone(), overlay);
        assert_eq!(rendered.objects.len(), kinds.len(), "{overlay}");

        let version = env!("CARGO_PKG_VERSION");
        let pod_labels = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
        let own = || rendered.objects.iter().filter(|object| object["kind"] != "Namespace");
        for labels in own().map(|object| &object["metadata"]["labels"]).chain([pod_labels]) {
            for (label, value) in [
                ("name", "psystrike"),
                ("instance", "psystrike"),
                ("version", version),
                ("component", "proxy"),
                ("part-of", "monitoring"),
            ] {
                assert_eq!(labels[format!("app.kubernetes.io/{label}")], value, "{overlay}: {labels}");
            }
        }
        for object in own() {
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "kustomize");
            assert_eq!(object["metadata"]["namespace"], namespace, "{overlay}: {}", object["kind"]);
        }
        let image = format!("registry.example/psystrike:{version}");
        assert_eq!(rendered.container()["image"], image, "{overlay}");
        assert_eq!(rendered.variables()["PSYSTRIKE_ALLOW"], "10.244.0.0/16", "{overlay}");

        // All selectors match the pods, by the label of the Java psystrike's manifest: a selector cannot be changed in
        // place.
        let app = json!({ "app": "psystrike" });
        assert_eq!(pod_labels["app"], "psystrike", "{overlay}");
        assert_eq!(rendered.workload()["spec"]["selector"]["matchLabels"], app, "{overlay}");
        assert_eq!(rendered.kind("Service")["spec"]["selector"], app, "{overlay}");
        assert_eq!(rendered.kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"], app, "{overlay}");
        for object in rendered.objects.iter().filter(|object| object["kind"] != "ConfigMap") {
            assert_eq!(object["metadata"]["name"], "psystrike", "{overlay}: {}", object["kind"]);
        }

        let service = &rendered.kind("Service")["spec"];
        let port = &service["ports"][0];
        let outside = overlay != BASE;
        assert_eq!(service["type"], if outside { "NodePort" } else { "ClusterIP" }, "{overlay}");
        assert_eq!(port["nodePort"], if outside { json!(31000) } else { Value::Null }, "{overlay}");
        assert_eq!(port["port"], 8080, "{overlay}");
        assert_eq!(port["targetPort"], rendered.container()["ports"][0]["name"], "{overlay}");
        // An ipBlock recognizes Prometheus only if nodes keep its address.
        let policy = match overlay {
            BASE => Value::Null,
            MIGRATION => json!("Cluster"),
            _ => json!("Local"),
        };
        assert_eq!(service["externalTrafficPolicy"], policy, "{overlay}");
    }
}

#[test]
fn replicas_are_those_of_the_overlay_and_one_may_be_evicted_at_a_time() {
    for (overlay, replicas) in
        [(BASE, Value::Null), (NODEPORT, Value::Null), (REPLICAS, json!(3)), (HPA, Value::Null)]
    {
        let Some(rendered) = render_overlay(overlay) else { return };
        assert_eq!(rendered.workload()["spec"]["replicas"], replicas, "{overlay}");
        let budget = &rendered.kind("PodDisruptionBudget")["spec"];
        let expected = json!({ "maxUnavailable": 1, "selector": { "matchLabels": { "app": "psystrike" } } });
        assert_eq!(*budget, expected, "{overlay}");
        let spread = &rendered.pod()["topologySpreadConstraints"];
        if [REPLICAS, HPA].contains(&overlay) {
            assert_eq!(spread[0]["topologyKey"], "kubernetes.io/hostname", "{overlay}");
            assert_eq!(spread[0]["labelSelector"]["matchLabels"], json!({ "app": "psystrike" }), "{overlay}");
        } else {
            assert_eq!(*spread, Value::Null, "{overlay}");
        }
    }
    let Some(rendered) = render_overlay(HPA) else { return };
    let autoscaler = &rendered.kind("HorizontalPodAutoscaler")["spec"];
    let target = &autoscaler["scaleTargetRef"];
    let workload = rendered.workload();
    assert_eq!(
        [&target["apiVersion"], &target["kind"], &target["name"]],
        [&workload["apiVersion"], &workload["kind"], &workload["metadata"]["name"]]
    );
    let [least, most] = ["minReplicas", "maxReplicas"].map(|bound| autoscaler[bound].as_u64());
    assert!(Some(2) <= least && least < most, "{autoscaler}");

    let Some(rendered) = render_overlay(DAEMONSET) else { return };
    let spec = &rendered.workload()["spec"];
    assert_eq!([&spec["replicas"], &spec["strategy"]], [&Value::Null; 2], "a DaemonSet has none");
    let edge = "node-role.kubernetes.io/edge";
    assert_eq!(rendered.pod()["nodeSelector"], json!({ edge: "" }));
    assert_eq!(rendered.pod()["tolerations"][0]["key"], edge);
}

#[test]
fn the_network_policy_allows_pods_and_the_scrape_port() {
    for overlay in ALL {
        let Some(rendered) = render_overlay(overlay) else { return };
        let policy = &rendered.kind("NetworkPolicy")["spec"];
        assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]), "{overlay}");
        let port = &rendered.container()["ports"][0]["name"];
        let mut ingress = json!([{ "ports": [{ "protocol": "TCP", "port": port }] }]);
        if overlay != MIGRATION {
            let itself = json!({ "podSelector": { "matchLabels": { "app": "psystrike" } } });
            ingress[0]["from"] = json!([{ "ipBlock": { "cidr": "192.0.2.10/32" } }, itself]);
        }
        assert_eq!(policy["ingress"], ingress, "{overlay}: closed but for Prometheus and psystrike itself");
        // All pods, and the cluster's DNS. A range here would have to be in --allow as well.
        let ports = json!([{ "protocol": "TCP" }, { "protocol": "UDP", "port": 53 }]);
        let pods = json!([{ "to": [{ "namespaceSelector": {} }], "ports": ports }]);
        assert_eq!(policy["egress"], pods, "{overlay}");
    }
}

/// A copy of the manifests, and a folder of the user's own beside it with this kustomization.
fn own(scratch: &Scratch, kustomization: &str) {
    let copied = Command::new("cp").arg("-R").arg(MANIFESTS).arg(scratch.path("kubernetes")).status();
    assert!(copied.expect("cp runs").success());
    fs::create_dir(scratch.path("own")).expect("a folder can be made");
    scratch.write("own/kustomization.yaml", kustomization);
}

/// Prometheus's address is admitted, and so is each psystrike, because its page is scraped through another one. With
/// the commented line of networkpolicy.yaml, nodes can be scraped.
#[test]
fn only_prometheus_and_psystrike_itself_are_admitted() {
    let scratch = Scratch::new("only-prometheus");
    own(
        &scratch,
        r"
        resources: [../kubernetes/overlays/replicas]
        patches:
          - target: { kind: NetworkPolicy, name: psystrike }
            patch: |
              - op: replace
                path: /spec/ingress/0/from/0/ipBlock/cidr
                value: 198.51.100.7/32",
    );
    let file = "kubernetes/base/networkpolicy.yaml";
    let policy = fs::read_to_string(scratch.path(file)).expect("it was copied");
    assert!(policy.contains("#- ipBlock: "));
    scratch.write(file, &policy.replace("#- ipBlock: ", "- ipBlock: "));
    let Some(rendered) = kustomize(&scratch.path("own")) else { return };
    let policy = &rendered.kind("NetworkPolicy")["spec"];
    assert_eq!(policy["ingress"].as_array().map(Vec::len), Some(1), "one rule: another would let in more");
    let from = &policy["ingress"][0]["from"];
    assert!(admits(from, &json!({ "ip": "198.51.100.7/32" })), "Prometheus: {from}");
    assert!(!admits(from, &json!({ "ip": "192.0.2.10/32" })), "the placeholder: {from}");
    let pod_labels = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
    assert!(admits(from, &json!({ "labels": pod_labels })), "another psystrike: {from}");
    assert!(!admits(from, &json!({ "labels": { "app": "another" } })), "{from}");
    assert_eq!(policy["egress"][0]["to"][1], json!({ "ipBlock": { "cidr": "192.0.2.0/24" } }));
    if require_programs(&["kubernetes-validate"]) {
        for version in VERSIONS {
            assert_eq!(validate(version, &rendered.text), Ok(()), "{version:?}");
        }
    }
}

/// deploy/README.md, "Security".
#[test]
fn the_policy_for_pods_admits_psystrike() {
    let blocks = Document::read("deploy/README.md").blocks();
    let block =
        blocks.iter().find(|block| block.text.starts_with("ingress:")).expect("the page has the policy");
    let rule: Value = serde_saphyr::from_str(&block.text).expect("YAML");
    let from = &rule["ingress"][0]["from"];
    let Some(rendered) = render_overlay(NODEPORT) else { return };
    let labels = &rendered.workload()["spec"]["template"]["metadata"]["labels"];
    let namespace = json!({ "kubernetes.io/metadata.name": "psystrike" });
    assert!(admits(from, &json!({ "labels": labels, "namespace": namespace })), "{from}");
    assert!(!admits(from, &json!({ "labels": labels, "namespace": {} })), "{from}");
    let other = json!({ "app": "other" });
    assert!(!admits(from, &json!({ "labels": other, "namespace": namespace })), "{from}");
}

/// The article's manifest has these, so they are replaced and not added.
#[test]
fn the_migration_overlay_replaces_the_java_psystrike() {
    let Some(rendered) = render_overlay(MIGRATION) else { return };
    for kind in ["Deployment", "Service"] {
        let object = &rendered.kind(kind)["metadata"];
        assert_eq!([&object["namespace"], &object["name"]], ["default", "psystrike"], "{kind}");
    }
    let service = &rendered.kind("Service")["spec"];
    assert_eq!([&service["ports"][0]["port"], &service["ports"][0]["nodePort"]], [8080, 31000]);
}

/// The image and the version are set in the base only, so that an upgrade changes one file.
#[test]
fn the_image_is_set_in_one_file() {
    let scratch = Scratch::new("one-place");
    let copied = Command::new("cp").arg("-R").arg(MANIFESTS).arg(scratch.path("kubernetes")).status();
    assert!(copied.expect("cp runs").success());
    let file = "kubernetes/base/kustomization.yaml";
    let base = fs::read_to_string(scratch.path(file)).expect("it was copied");
    let version = env!("CARGO_PKG_VERSION");
    let base = base.replace("registry.example/psystrike", "registry.example.org/p").replace(version, "9.9.9");
    scratch.write(file, &base);
    for overlay in ALL {
        let Some(rendered) = kustomize(&scratch.path("kubernetes").join(overlay)) else { return };
        assert_eq!(rendered.container()["image"], "registry.example.org/p:9.9.9", "{overlay}");
        for text in ["registry.example/", version] {
            assert!(!rendered.text.contains(text), "{overlay}: {text} is in another file, too");
        }
    }
}

/// deploy/README.md, "From one overlay to another".
#[test]
fn objects_left_by_another_overlay_are_documented() {
    let table = markdown::table(&Document::read("deploy/README.md").section("Kubernetes").prose);
    let spans = |cell: &str| markdown::code_spans(cell).map(str::to_owned).collect::<Vec<_>>();
    let overlays = [NODEPORT, REPLICAS, HPA, DAEMONSET];
    for (from, to) in overlays.iter().flat_map(|from| overlays.map(|to| (*from, to))) {
        let (Some(before), Some(after)) = (render_overlay(from), render_overlay(to)) else { return };
        let left = &before.kinds() - &after.kinds();
        let [of, into] = [from, to].map(|overlay| overlay.trim_start_matches("overlays/").to_owned());
        let rows = table.iter().filter(|row| spans(&row[0]).contains(&of) && spans(&row[1]).contains(&into));
        let commands: Vec<String> = rows.map(|row| spans(&row[2]).concat()).collect();
        let kinds: Vec<String> = left.iter().map(|kind| kind.to_lowercase()).collect();
        let expected = format!("kubectl delete {} psystrike --namespace psystrike", kinds.join(","));
        assert_eq!(commands, if left.is_empty() { vec![] } else { vec![expected] }, "from {of} to {into}");
    }
}

#[test]
fn the_binary_accepts_the_options_of_every_overlay() {
    for overlay in ALL {
        let Some(rendered) = render_overlay(overlay) else { return };
        let (pod, container) = (rendered.pod(), rendered.container());
        let variables = rendered.variables();
        let pairs: Vec<_> = variables.iter().map(|(name, value)| (*name, *value)).collect();
        let psystrike = Psystrike::start_with_env(&texts(&container["args"]), &pairs);
        let clients_max = psystrike.metric("psystrike_client_connections_max");
        assert_eq!(clients_max.to_string(), variables["PSYSTRIKE_CLIENTS_MAX"], "{overlay}: they are read");
        psystrike.wait_for_line(&format!("allow={} deny=", variables["PSYSTRIKE_ALLOW"]));
        for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
            let probe = &container[probe];
            let request = &probe["httpGet"];
            assert_eq!(request["path"], path, "{overlay}");
            let answer = psystrike.get(path);
            assert_eq!((answer.status(), answer.text().as_str()), (200, "ok\n"), "{overlay}: {path}");
            assert_eq!(request["port"], container["ports"][0]["name"], "{overlay}: {path}");
            assert_eq!(probe["initialDelaySeconds"], Value::Null, "{overlay}: it starts at once");
        }
        assert_eq!(container["startupProbe"], Value::Null, "{overlay}: it starts at once");
        assert_eq!(container["lifecycle"], Value::Null, "{overlay}: the image has no shell for a hook");
        assert_eq!(container["ports"][0]["containerPort"], 8080, "{overlay}: where it listens by default");
        let annotations = &rendered.workload()["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/scrape"], "true", "{overlay}");
        assert_eq!(annotations["prometheus.io/port"], "8080", "{overlay}");
        let metrics = psystrike.get(annotations["prometheus.io/path"].as_str().expect("it has a path"));
        assert_eq!(metrics.status(), 200, "{overlay}");

        let delay =
            variables["PSYSTRIKE_SHUTDOWN_DELAY"].strip_suffix('s').and_then(|s| s.parse::<u64>().ok());
        let shutdown_timeout = 30; // the default, which the manifests keep
        let grace = pod["terminationGracePeriodSeconds"].as_u64();
        assert!(
            delay.is_some() && grace > delay.map(|delay| delay + shutdown_timeout),
            "{overlay}: {grace:?} s end before --shutdown-delay ({delay:?} s) and --shutdown-timeout do"
        );
        assert!(texts(&container["command"]).is_empty(), "{overlay}: the image's own entry point");
        for (what, unit) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
            assert!(container["resources"][what][unit].is_string(), "{overlay}: {what} of {unit}");
        }
        // The pod has no token of the API server.
        assert_eq!(pod["automountServiceAccountToken"], false, "{overlay}");
        assert_eq!(rendered.kind("ServiceAccount")["automountServiceAccountToken"], false, "{overlay}");
        assert_eq!(pod["serviceAccountName"], "psystrike", "{overlay}");
        assert_eq!(pod["enableServiceLinks"], false, "{overlay}");
    }
}

#[test]
fn settings_can_be_made_in_a_separate_folder() {
    let scratch = Scratch::new("own");
    // In an existing namespace, so without the object that would create and delete it.
    own(
        &scratch,
        r"
        resources: [../kubernetes/overlays/hpa]
        namespace: monitoring
        images: [{ name: registry.example/psystrike, newName: registry.example.org/team/psystrike, newTag: 9.9.9 }]
        configMapGenerator:
          - name: psystrike
            behavior: merge
            literals: ['PSYSTRIKE_ALLOW=127.1.0.0/16,fd00::/64', PSYSTRIKE_WORKERS=2]
        patches:
          - patch: |
              $patch: delete
              apiVersion: v1
              kind: Namespace
              metadata:
                name: psystrike",
    );
    let Some(rendered) = kustomize(&scratch.path("own")) else { return };
    assert!(!rendered.kinds().contains("Namespace"), "{:?}", rendered.kinds());
    for object in &rendered.objects {
        assert_eq!(object["metadata"]["namespace"], "monitoring", "{}", object["kind"]);
    }
    let Some(shipped) = render_overlay(HPA) else { return };
    let variables = rendered.variables();
    assert_eq!(variables["PSYSTRIKE_ALLOW"], "127.1.0.0/16,fd00::/64");
    assert_eq!(variables["PSYSTRIKE_WORKERS"], "2");
    // A new name at each change, so that pods are replaced when their options change.
    assert_ne!(rendered.kind("ConfigMap")["metadata"]["name"], shipped.kind("ConfigMap")["metadata"]["name"]);
    let image = &rendered.container()["image"];
    assert_eq!(*image, "registry.example.org/team/psystrike:9.9.9");
}

#[test]
fn components_mount_the_files_of_their_options_in_any_overlay() {
    const TOKEN: &[(Opt, &str)] = &[(Opt::AuthTokenFile, "psystrike-token")];
    const TLS: &[(Opt, &str)] = &[(Opt::TlsCert, "psystrike-tls"), (Opt::TlsKey, "psystrike-tls")];
    let both = [TLS, TOKEN].concat();
    let cases =
        [(&["token"][..], TOKEN), (&["tls"], TLS), (&["tls", "token"], &both), (&["token", "tls"], &both)];
    for overlay in ALL.into_iter().filter(|overlay| *overlay != BASE) {
        let Some(without) = render_overlay(overlay) else { return };
        for (components, files) in cases {
            let scratch = Scratch::new("components");
            let of_components: Vec<String> =
                components.iter().map(|name| format!("../kubernetes/components/{name}")).collect();
            let lines =
                json!({ "resources": [format!("../kubernetes/{overlay}")], "components": of_components });
            own(&scratch, &lines.to_string());
            let Some(rendered) = kustomize(&scratch.path("own")) else { return };
            assert_eq!(rendered.kinds(), without.kinds(), "{overlay}");
            assert!(broken_rules(rendered.pod()).is_empty(), "{overlay}");
            check_files(rendered.pod(), files);
            if require_programs(&["kubernetes-validate"]) {
                assert_eq!(validate(VERSIONS[0], &rendered.text), Ok(()), "{overlay}, {components:?}");
            }
        }
    }
}

/// Checks that the pod has these options, and no others, with paths in volumes of these Secrets.
fn check_files(pod: &Value, files: &[(Opt, &str)]) {
    let container = &pod["containers"][0];
    let [variables, mounts, volumes] = [&container["env"], &container["volumeMounts"], &pod["volumes"]]
        .map(|list| list.as_array().expect("a list"));
    let named = variables.iter().filter_map(|variable| variable["name"].as_str());
    let expected = files.iter().filter_map(|(option, _)| option.variable());
    assert_same(named.map(str::to_owned), expected, "variables, and those of the options");
    for (option, secret) in files {
        let named = option.variable().expect("it has one");
        let variable = variables.iter().find(|variable| variable["name"] == named).expect("it was there");
        let folder = Path::new(variable["value"].as_str().expect("a path")).parent().and_then(Path::to_str);
        let mount = mounts.iter().find(|mount| mount["mountPath"].as_str() == folder);
        let mount = mount.unwrap_or_else(|| panic!("{folder:?} is not mounted: {mounts:?}"));
        assert_eq!((&mount["subPath"], &mount["readOnly"]), (&Value::Null, &json!(true)), "it never changes");
        let volume = json!({ "name": mount["name"], "secret": { "secretName": secret } });
        assert!(volumes.contains(&volume), "no {volume} in {volumes:?}");
    }
}

#[test]
fn every_pod_is_restricted() {
    for overlay in ALL {
        let Some(rendered) = render_overlay(overlay) else { return };
        assert_eq!(broken_rules(rendered.pod()), BTreeSet::new(), "{overlay}");
        let context = &rendered.container()["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{overlay}: not a rule, but it writes nothing");
    }
}

#[test]
fn a_pod_that_violates_a_rule_is_detected() {
    let Some(rendered) = render_overlay(BASE) else { return };
    for (at, value, rule) in [
        ("/securityContext/windowsOptions", json!({ "hostProcess": true }), "HostProcess"),
        ("/hostNetwork", json!(true), "Host Namespaces"),
        ("/hostPID", json!(true), "Host Namespaces"),
        ("/containers/0/securityContext/privileged", json!(true), "Privileged Containers"),
        ("/volumes", json!([{ "name": "a", "nfs": {} }]), "Volume Types"),
        ("/containers/0/ports/0/hostPort", json!(8080), "Host Ports"),
        ("/containers/0/livenessProbe/httpGet/host", json!("127.0.0.1"), "Host Probes / Lifecycle Hooks"),
        ("/securityContext/appArmorProfile", json!({ "type": "Unconfined" }), "AppArmor"),
        ("/securityContext/seLinuxOptions", json!({ "type": "spc_t" }), "SELinux"),
        ("/containers/0/securityContext/procMount", json!("Unmasked"), "/proc Mount Type"),
        ("/securityContext/sysctls", json!([{ "name": "kernel.msgmax", "value": "1" }]), "Sysctls"),
        ("/containers/0/securityContext/allowPrivilegeEscalation", Value::Null, "Privilege Escalation"),
        ("/securityContext/runAsNonRoot", Value::Null, "Running as Non-root"),
        ("/containers/0/securityContext/runAsNonRoot", json!(false), "Running as Non-root"),
        ("/containers/0/securityContext/runAsUser", json!(0), "Running as Non-root user"),
        ("/securityContext/seccompProfile", Value::Null, "Seccomp"),
        ("/securityContext/seccompProfile/type", json!("Unconfined"), "Seccomp"),
        ("/containers/0/securityContext/seccompProfile", json!({ "type": "Unconfined" }), "Seccomp"),
        ("/containers/0/securityContext/capabilities/drop", json!(["NET_RAW"]), "Capabilities"),
        ("/containers/0/securityContext/capabilities/add", json!(["NET_ADMIN"]), "Capabilities"),
    ] {
        let mut pod = rendered.pod().clone();
        let (parent, key) = at.rsplit_once('/').expect("a pointer has a parent");
        pod.pointer_mut(parent).expect("the pod has it")[key] = value;
        assert_eq!(broken_rules(&pod), BTreeSet::from([rule]), "{at}");
    }
    let mut pod = rendered.pod().clone();
    pod["volumes"] = json!([{ "name": "a", "hostPath": { "path": "/" } }]);
    assert_eq!(broken_rules(&pod), BTreeSet::from(["HostPath Volumes", "Volume Types"]));
}

/// Runs a script in its own network namespace, which must succeed, and returns its output.
fn script(scratch: &Scratch, text: &str, arguments: &[&str]) -> String {
    let script = format!("set -eu\nPATH=\"$1:$PATH\"; dir=$1; shift\nip link set lo up\n{text}");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, "sh"]).arg(scratch.path("")).args(arguments);
    // Into files: processes that stay to serve the pod would keep a pipe open.
    let [out, err] = ["out", "err"].map(|name| scratch.write(name, ""));
    let to = |path| OpenOptions::new().append(true).open(path).expect("the file is writable");
    let status = command.stdout(to(&out)).stderr(to(&err)).status().expect("unshare runs");
    let [stdout, stderr] = [out, err].map(|path| fs::read_to_string(path).expect("the file is writable"));
    assert!(status.success(), "{text}: {status}\n{stdout}{stderr}");
    stdout
}

/// Podman supports Deployments and ConfigMaps, so it replaces the node: with the kubelet's limits, another seccomp
/// profile and network, and no probes.
#[test]
fn the_rendered_pod_runs() {
    const PROGRAMS: [&str; 8] =
        ["podman", "buildah", "runc", "catatonit", "slirp4netns", "nsenter", "ip", "curl"];
    if !require_programs(&PROGRAMS) || !require_working(&["unshare", "--net", "true"]) {
        return;
    }
    let Some(rendered) = render_overlay(NODEPORT) else { return };
    let scratch = Scratch::new("kube-play");
    let _podman = Podman::new(&scratch);
    let mut pod = rendered.workload().clone();
    // Not from a registry.
    pod["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    let manifests = format!("{}\n---\n{pod}\n", rendered.kind("ConfigMap")); // JSON is YAML
    scratch.write("manifests.yaml", &manifests);
    let image = rendered.container()["image"].as_str().expect("it has an image");
    let grace = &rendered.pod()["terminationGracePeriodSeconds"];
    scratch.write("Dockerfile", "FROM scratch\nCOPY . /\nENTRYPOINT [\"/psystrike\"]\n");

    // The image also contains the libraries that this build is linked to. psystrike scrapes itself, by an address of
    // the pod range that is not the pod's own.
    let said = script(
        &scratch,
        r#"
        image=$1 binary=$2 grace=$3
        mkdir "$dir/image"
        cp "$binary" "$dir/image/psystrike"
        for library in $(ldd "$binary" | grep -o '/[^ ]*'); do cp --parents --dereference "$library" "$dir/image"; done
        own-buildah bud --isolation chroot --quiet --file "$dir/Dockerfile" --tag "$image" "$dir/image" >&2
        own-podman kube play --network slirp4netns "$dir/manifests.yaml" >&2
        name=psystrike-pod-0-psystrike
        pid=$(own-podman inspect --format '{{.State.Pid}}' $name)
        echo "pid $pid"
        inside="nsenter --net --target $pid"
        $inside ip address add 10.244.0.1/32 dev lo
        ask() { $inside curl -sS -o "$dir/page" -w "$1 %{http_code}\n" "http://127.0.0.1:8080$1"; }
        $inside curl -sS -o "$dir/page" --retry 20 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/healthz
        ask /healthz
        ask /readyz
        ask /pods/10.244.0.1/8080/metrics
        ask /pods/10.245.0.1/8080/metrics
        grep -E '^(Uid|Gid|CapEff|CapBnd|NoNewPrivs|Seccomp):' "/proc/$pid/status"
        awk '$5 == "/" { print "root", substr($6, 1, 2) }' "/proc/$pid/mountinfo"
        own-podman inspect --format 'memory {{.HostConfig.Memory}}' $name
        own-podman stop --time "$grace" $name >&2 &
        until [ "$(ask /readyz)" = '/readyz 503' ]; do kill -0 $!; done
        echo 'drains'
        wait $!
        own-podman inspect --format 'exit {{.State.ExitCode}}' $name
        "#,
        &[image, BINARY, &grace.to_string()],
    );
    let lines: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for expected in [
        "/healthz 200",
        "/readyz 200",
        "/pods/10.244.0.1/8080/metrics 200",
        "/pods/10.245.0.1/8080/metrics 403",
        "Uid: 65532 65532 65532 65532",
        "Gid: 65532 65532 65532 65532",
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "root ro",
        "memory 33554432",
        "drains",
        "exit 0",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} is missing in\n{said}");
    }
}
