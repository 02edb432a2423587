//! Manifests as kustomize and Helm render them, and their checks: Kubernetes's schemas and its Pod Security Standard.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    thread,
};

use serde_json::Value;

use super::{Scratch, require_programs};

pub const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes");

/// The objects in the output of a program.
#[derive(Debug)]
pub struct Rendered {
    pub text: String,
    pub objects: Vec<Value>,
}

/// Renders a folder by kustomize; `None` if there is no kubectl.
pub fn kustomize(folder: &Path) -> Option<Rendered> {
    require_programs(&["kubectl"]).then(|| Rendered::by(Command::new("kubectl").arg("kustomize").arg(folder)))
}

/// [`kustomize`] for a folder of this repository.
pub fn render_overlay(name: &str) -> Option<Rendered> {
    kustomize(&Path::new(MANIFESTS).join(name))
}

impl Rendered {
    pub fn by(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        // Deprecations are printed as warnings.
        assert!(output.status.success() && said.is_empty(), "{command:?}: {said}");
        let text = String::from_utf8(output.stdout).expect("manifests are text");
        let objects = serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
        Self { text, objects }
    }

    pub fn kinds(&self) -> BTreeSet<&str> {
        self.objects.iter().filter_map(|object| object["kind"].as_str()).collect()
    }

    pub fn kind(&self, kind: &str) -> &Value {
        let found = self.objects.iter().find(|object| object["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} in\n{}", self.text))
    }

    /// Returns the object with a pod template.
    pub fn workload(&self) -> &Value {
        let found = self.objects.iter().find(|object| object["spec"]["template"].is_object());
        found.unwrap_or_else(|| panic!("no workload in\n{}", self.text))
    }

    pub fn pod(&self) -> &Value {
        &self.workload()["spec"]["template"]["spec"]
    }

    pub fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    /// Returns the environment variables of the container.
    pub fn variables(&self) -> BTreeMap<&str, &str> {
        let from = &self.container()["envFrom"][0]["configMapRef"]["name"];
        let is_it = |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == *from;
        let config = self.objects.iter().find(is_it);
        let config = config.unwrap_or_else(|| panic!("no ConfigMap {from} in\n{}", self.text));
        let data = config["data"].as_object().expect("the ConfigMap has variables");
        data.iter()
            .map(|(name, value)| (name.as_str(), value.as_str().expect("a variable is text")))
            .collect()
    }
}

pub fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Returns whether a NetworkPolicy has this peer: `{ "ip": a range }`, or a pod by its `labels` and, if it is in
/// another namespace than the policy, those of its `namespace`.
pub fn admits(peers: &Value, peer: &Value) -> bool {
    let selects = |selector: &Value, labels: &Value| {
        assert!(selector["matchExpressions"].is_null(), "{selector}: not known here");
        let wanted = selector["matchLabels"].as_object().into_iter().flatten();
        wanted.into_iter().all(|(name, value)| labels[name] == *value)
    };
    peers.as_array().into_iter().flatten().any(|allowed| {
        let (pods, namespaces) = (&allowed["podSelector"], &allowed["namespaceSelector"]);
        if !allowed["ipBlock"].is_null() {
            return !peer["ip"].is_null() && allowed["ipBlock"]["cidr"] == peer["ip"];
        }
        let of_namespace = match &peer["namespace"] {
            Value::Null => namespaces.is_null() || namespaces.as_object().is_some_and(|all| all.is_empty()),
            labels => !namespaces.is_null() && selects(namespaces, labels),
        };
        !peer["labels"].is_null() && of_namespace && selects(pods, &peer["labels"])
    })
}

/// Kubernetes versions by whose schemas manifests are validated: the oldest of the validator and, without a number, its
/// newest.
pub const VERSIONS: [&[&str]; 2] = [&["-k", "1.25"], &[]];

/// Returns the errors that kubernetes-validate finds in manifests. It must have validated each object.
pub fn validate(version: &[&str], manifests: &str) -> Result<(), String> {
    let scratch = Scratch::new(&format!("validate-{}", thread::current().name().unwrap_or_default()));
    let file = scratch.write("manifests.yaml", manifests);
    let output = Command::new("kubernetes-validate").args(version).arg("--strict").arg(file).output();
    let output = output.expect("kubernetes-validate runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let objects = manifests.lines().filter(|line| line.starts_with("kind: ")).count();
    let passed = said.lines().filter(|line| line.contains("passed")).count();
    if output.status.success() && passed == objects { Ok(()) } else { Err(said) }
}

/// Returns the rules of the Pod Security Standard "restricted" (which include "baseline") that a pod's specification
/// violates. Some rules allow values that psystrike does not need; those count as violations here.
/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>
pub fn broken_rules(pod: &Value) -> BTreeSet<&'static str> {
    let containers: Vec<&Value> = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .filter_map(|kind| pod[*kind].as_array())
        .flatten()
        .collect();
    let contexts = || containers.iter().map(|container| &container["securityContext"]);
    let with_pod = || contexts().chain([&pod["securityContext"]]);
    let unset_or =
        |value: &Value, allowed: &[&str]| value.is_null() || allowed.iter().any(|one| value == one);
    // Set for the pod and overridden by no container, or set for each container.
    let everywhere = |holds: &dyn Fn(&Value) -> bool, unset: &dyn Fn(&Value) -> bool| {
        let of_pod = holds(&pod["securityContext"]);
        contexts().all(|context| holds(context) || (of_pod && unset(context)))
    };
    let handlers = containers.iter().flat_map(|container| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        probes.into_iter().chain(hooks)
    });
    let mut hosts = handlers.flat_map(|handler| ["httpGet", "tcpSocket"].map(|by| &handler[by]["host"]));
    let mut ports = containers.iter().filter_map(|container| container["ports"].as_array()).flatten();
    let volumes: Vec<&Value> = pod["volumes"].as_array().into_iter().flatten().collect();
    const VOLUMES: [&str; 8] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let kept = [
        ("HostProcess", with_pod().all(|context| context["windowsOptions"]["hostProcess"] != true)),
        ("Host Namespaces", ["hostNetwork", "hostPID", "hostIPC"].iter().all(|host| pod[*host] != true)),
        ("Privileged Containers", contexts().all(|context| context["privileged"] != true)),
        ("HostPath Volumes", volumes.iter().all(|volume| volume["hostPath"].is_null())),
        ("Host Ports", ports.all(|port| port["hostPort"].as_u64().unwrap_or(0) == 0)),
        ("Host Probes / Lifecycle Hooks", hosts.all(|host| unset_or(host, &[""]))),
        (
            "AppArmor",
            with_pod().all(|c| unset_or(&c["appArmorProfile"]["type"], &["RuntimeDefault", "Localhost"])),
        ),
        ("SELinux", with_pod().all(|context| context["seLinuxOptions"].is_null())),
        ("/proc Mount Type", contexts().all(|context| unset_or(&context["procMount"], &["Default"]))),
        ("Sysctls", pod["securityContext"]["sysctls"].is_null()),
        (
            "Volume Types",
            volumes.iter().filter_map(|volume| volume.as_object()).all(|volume| {
                volume.keys().filter(|key| *key != "name").all(|kind| VOLUMES.contains(&kind.as_str()))
            }),
        ),
        ("Privilege Escalation", contexts().all(|context| context["allowPrivilegeEscalation"] == false)),
        (
            "Running as Non-root",
            everywhere(&|context| context["runAsNonRoot"] == true, &|context| {
                context["runAsNonRoot"].is_null()
            }),
        ),
        ("Running as Non-root user", with_pod().all(|context| context["runAsUser"] != 0)),
        (
            "Seccomp",
            everywhere(
                &|context| {
                    ["RuntimeDefault", "Localhost"].iter().any(|t| context["seccompProfile"]["type"] == *t)
                },
                &|context| context["seccompProfile"].is_null(),
            ),
        ),
        (
            "Capabilities",
            contexts().map(|context| &context["capabilities"]).all(|capabilities| {
                texts(&capabilities["drop"]).contains(&"ALL")
                    && texts(&capabilities["add"]).iter().all(|added| *added == "NET_BIND_SERVICE")
            }),
        ),
    ];
    kept.into_iter().filter(|(_, kept)| !kept).map(|(rule, _)| rule).collect()
}
