//! The Helm chart, and values for it.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, thread};

use psystrike::config::options::{Kind, Opt};
use serde_json::{Value, json};

use super::{Scratch, kubernetes::Rendered};

pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/helm");

/// Every value, set to something other than its default; of the options, those on which others depend.
const CHANGED: &str = r#"
nameOverride: other
fullnameOverride: whole
commonLabels: { department: operations }
image:
  repository: registry.example.org/team/psystrike
  tag: 9.9.9
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  pullPolicy: Always
imagePullSecrets: [{ name: pull }]
options:
  allow: [127.1.0.0/16, "fd00::/64"]
  allow-ports: 1-1023,8080
  deny: [127.1.2.0/24]
  connect-ports: 443,8443
  timeout: 20s
  clients-max: 1000000
  tls-self-signed: false
  pod-tls-skip-verify: false
auth: { tokenSecret: some-secrets, tokenKey: others }
tls: { secretName: a-certificate, clientCASecretName: of-clients, clientCAKey: clients.crt }
podTLS: { ca: { configMap: { name: of-pods } }, caKey: pods.crt, secretName: for-pods }
extraArgs: [--access-log]
extraEnv: [{ name: TZ, value: Asia/Tokyo }]
kind: DaemonSet
replicaCount: 5
autoscaling: { enabled: true, minReplicas: 3, maxReplicas: 9, averageValue: 700m }
service:
  type: LoadBalancer
  port: 80
  nodePort: 31001
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [192.0.2.10/32]
  annotations: { example.com/internal: "true" }
networkPolicy:
  enabled: true
  from: [{ ipBlock: { cidr: 192.0.2.10/32 } }]
  to: [{ ipBlock: { cidr: 127.1.0.0/16 } }]
updateStrategy: { type: RollingUpdate, rollingUpdate: { maxSurge: 0, maxUnavailable: 2 } }
serviceAccount: { create: false, name: another, annotations: { example.com/role: none } }
podDisruptionBudget: { enabled: false }
podSecurityContext: { runAsNonRoot: true, runAsUser: 65533, runAsGroup: 65534, seccompProfile: { type: Localhost } }
securityContext:
  { allowPrivilegeEscalation: false, readOnlyRootFilesystem: false, capabilities: { drop: [ALL, SETUID] } }
livenessProbe: { httpGet: { path: /, port: 1080 }, periodSeconds: 11 }
readinessProbe: { httpGet: { path: /healthz, port: 1081 }, periodSeconds: 6 }
startupProbe: { tcpSocket: { port: http } }
resources: { requests: { cpu: 20m, memory: 9Mi }, limits: { memory: 33Mi } }
terminationGracePeriodSeconds: 50
podAnnotations: { prometheus.io/scrape: "false", prometheus.io/port: "1", prometheus.io/path: /m, a.example/b: c }
podLabels: { team: metrics }
nodeSelector: { node-role.kubernetes.io/edge: "" }
tolerations: [{ key: node-role.kubernetes.io/edge, operator: Exists, effect: NoSchedule }]
affinity: { nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } }
topologySpreadConstraints:
  - { topologyKey: topology.kubernetes.io/zone, maxSkew: 2, whenUnsatisfiable: DoNotSchedule }
priorityClassName: high
serviceMonitor:
  enabled: true
  labels: { release: prometheus }
  interval: 17s
  scrapeTimeout: 9s
  scheme: http
  tlsConfig: { insecureSkipVerify: true }
  authorization: { credentials: { name: of-prometheus, key: secret } }
  relabelings: [{ targetLabel: cluster, replacement: one }]
  metricRelabelings: [{ action: labeldrop, regex: revision }]
prometheusRule: { enabled: true, labels: { release: prometheus }, runbookRepository: https://git.example.org/p }
dashboard: { enabled: true, labels: { grafana_dashboard: "yes" }, annotations: { folder: Scraping } }
"#;

pub fn helm(arguments: &[&str]) -> Command {
    let mut command = Command::new("helm");
    command.args(arguments);
    command
}

/// Renders the chart with these values in addition to its own.
pub fn render(values: &str) -> Rendered {
    let scratch = Scratch::new(&format!("values-{}", thread::current().name().unwrap_or_default()));
    let file = scratch.write("values.yaml", values);
    const TEMPLATE: [&str; 6] = ["template", "psystrike", CHART, "--skip-tests", "--namespace", "monitoring"];
    Rendered::by(helm(&TEMPLATE).arg("--values").arg(file))
}

pub fn default_values() -> Value {
    let values = fs::read_to_string(PathBuf::from(CHART).join("values.yaml")).expect("the chart has values");
    serde_saphyr::from_str(&values).expect("the values are YAML")
}

/// Returns every value, set to something other than its default, and every option.
pub fn changed_values() -> Value {
    let mut values: Value = serde_saphyr::from_str(CHANGED).expect("the values are YAML");
    let options = values["options"].as_object_mut().expect("options are a map");
    for option in Opt::ALL {
        if let Some(value) = changed_option(option.kind()) {
            options.entry(option.name().trim_start_matches('-')).or_insert(value);
        }
    }
    values
}

/// Returns a value that is not the default of any option of this kind. `None` if the chart does not set such options.
fn changed_option(kind: Kind) -> Option<Value> {
    Some(match kind {
        Kind::Addresses | Kind::Action | Kind::Url | Kind::File => return None,
        Kind::Flag => true.into(),
        Kind::Ranges => json!(["127.1.3.0/24"]),
        Kind::Ports => "444,8444".into(),
        Kind::Names => json!(["svc", "example.com"]),
        Kind::Host => "metrics.example".into(),
        Kind::Hosts => json!(["psystrike.example", "10.0.0.1"]),
        Kind::ClientNames => json!(["prometheus.example", "spiffe://monitoring/prometheus"]),
        Kind::TlsVersion => "1.3".into(),
        Kind::Workers => 2.into(),
        Kind::Duration | Kind::DurationOrZero => "59s".into(),
        Kind::Milliseconds => "59ms".into(),
        Kind::Count | Kind::CountOrZero => 999.into(),
        Kind::Size => "2MiB".into(),
        Kind::Scheme => "https".into(),
        Kind::Level => "debug".into(),
        Kind::Format => "json".into(),
    })
}

/// Returns the paths and values of everything that is not a map.
pub fn leaves(value: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => object
            .iter()
            .for_each(|(key, value)| leaves(value, &format!("{path}/{}", key.replace('/', "~1")), found)),
        None => drop(found.insert(path.to_owned(), value.clone())),
    }
}
