//! The examples for the Prometheus Operator match Prometheus's own configuration: the PrometheusRule is generated from
//! the rules, and the ScrapeConfig has the job of prometheus.yml in the Operator's spelling.
//!
//! Their fields were decoded strictly by the Operator's own types (v0.95.2) once, which is not part of the tests.

mod support;

use std::{env, fs};

use serde_json::{Map, Value, json};
use support::{
    read, repository,
    shipped::{PROMETHEUS, RULES, parsed, scrape_configs, shipped},
};

const PROMETHEUS_RULE: &str = "operator/prometheusrule.yaml";
const SCRAPE_CONFIG: &str = "operator/scrapeconfig.yaml";
const POD_MONITOR: &str = "operator/podmonitor.yaml";

const HEAD: &str = "\
# For the Prometheus Operator: the rules of ../psystrike.rules.yml. Generated from that file, which has comments on each
# rule: PSYSTRIKE_WRITE=1 cargo test --test deploy_operator
#
# Set the labels that ruleSelector in your Prometheus resource requires.
#
#   kubectl apply -f prometheusrule.yaml
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: psystrike
  namespace: monitoring
  labels:
    release: kube-prometheus-stack
spec:
";

/// The rules as a PrometheusRule, without comments.
fn prometheus_rule() -> String {
    let rules = shipped(RULES);
    let lines = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let indented = lines.map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") });
    HEAD.to_owned() + &indented.collect::<String>()
}

#[test]
fn the_prometheus_rule_is_current() {
    let generated = prometheus_rule();
    let decoded: Value = serde_saphyr::from_str(&generated).expect("it is YAML");
    assert_eq!(decoded["spec"], parsed(RULES));
    let file = format!("deploy/prometheus/{PROMETHEUS_RULE}");
    if env::var_os("PSYSTRIKE_WRITE").is_some() {
        fs::write(repository().join(&file), generated).expect("the file is writable");
        return;
    }
    let current = read(&file);
    let differs = current.lines().zip(generated.lines()).find(|(current, generated)| current != generated);
    assert!(
        current == generated,
        "{file} is not what {RULES} says; run this test with PSYSTRIKE_WRITE=1 to write it. The first difference: \
         {differs:#?}"
    );
}

/// The Operator's name of a setting of Prometheus.
fn in_camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    let capitalized = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    first + &parts.map(capitalized).collect::<String>()
}

fn all_in_camel_case(settings: &Value) -> Value {
    let settings = settings.as_object().unwrap_or_else(|| panic!("no settings: {settings}"));
    settings.iter().map(|(name, value)| (in_camel_case(name), value.clone())).collect::<Map<_, _>>().into()
}

/// A key of the Secret that the head of the ScrapeConfig creates.
fn key_of_secret(key: &str) -> Value {
    json!({ "name": "psystrike-cluster", "key": key })
}

#[test]
fn the_scrape_config_is_the_job_of_prometheus() {
    let scrape_config = parsed(SCRAPE_CONFIG);
    assert_eq!(scrape_config["apiVersion"], "monitoring.coreos.com/v1alpha1");
    assert_eq!(scrape_config["kind"], "ScrapeConfig");
    let prometheus = parsed(PROMETHEUS);
    let [job] = &scrape_configs(&prometheus)[..] else { panic!("one job") };
    let rules = job["relabel_configs"].as_array().expect("it has rules");
    let [discovery] = &job["kubernetes_sd_configs"].as_array().expect("it discovers")[..] else {
        panic!("one discovery")
    };
    let expected = json!({
        "scrapeInterval": prometheus["global"]["scrape_interval"],
        "scrapeTimeout": prometheus["global"]["scrape_timeout"],
        "proxyUrl": job["proxy_url"],
        "kubernetesSDConfigs": [{
            "role": "Pod",
            "apiServer": discovery["api_server"],
            "tlsConfig": { "ca": { "secret": key_of_secret("ca.crt") } },
            "authorization": { "credentials": key_of_secret("token") },
        }],
        "relabelings": rules.iter().map(all_in_camel_case).collect::<Vec<_>>(),
        "tlsConfig": all_in_camel_case(&job["tls_config"]),
    });
    assert_eq!(scrape_config["spec"], expected);
    let create = "kubectl create secret generic psystrike-cluster --namespace monitoring";
    assert!(shipped(SCRAPE_CONFIG).contains(create));
    assert_eq!(scrape_config["metadata"]["namespace"], "monitoring");
}

#[test]
fn the_pod_monitor_scrapes_through_the_service() {
    let pod_monitor = parsed(POD_MONITOR);
    assert_eq!(pod_monitor["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(pod_monitor["kind"], "PodMonitor");
    let service: Value = serde_saphyr::from_str(&read("deploy/kubernetes/base/service.yaml")).expect("YAML");
    let (name, port) = (&service["metadata"]["name"], &service["spec"]["ports"][0]["port"]);
    let proxy = format!("http://{}.default.svc:{port}", name.as_str().expect("a name"));
    let [endpoint] = &pod_monitor["spec"]["podMetricsEndpoints"].as_array().expect("it scrapes")[..] else {
        panic!("one endpoint")
    };
    assert_eq!(endpoint["proxyUrl"], proxy);
    let global = &parsed(PROMETHEUS)["global"];
    assert_eq!(endpoint["interval"], global["scrape_interval"]);
    assert_eq!(endpoint["scrapeTimeout"], global["scrape_timeout"]);
}
