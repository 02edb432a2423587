//! The configurations of other agents match that of Prometheus: the jobs of vmagent, Grafana Alloy and the
//! OpenTelemetry Collector are those of proxy_url.yml. A real vmagent discovers and scrapes a cluster through
//! psystrike.
//!
//! Alloy and the Collector take too long to build for every run. The comments at the top of their files say how to
//! check them.

mod support;

use std::{collections::BTreeMap, fs, net::SocketAddr, process::Command};

use serde_json::{Map, Value, json};
use support::{
    LIMIT, Scratch, alloy,
    cluster::{self, Cluster},
    http::Client,
    markdown::{Document, code_spans},
    pods::{Pod, Then},
    poll_within,
    program::Program,
    prometheus::{Release, promtool},
    psystrike::Psystrike,
    require_programs, require_variable,
    servers::Servers,
    shipped::{IN_TIME, PROXY_URL, parsed, scrape_configs, shipped},
    tls::make_certificate,
};

const VMAGENT: &str = "vmagent.yml";
const ALLOY: &str = "config.alloy";
const OPENTELEMETRY: &str = "opentelemetry.yml";

/// Jobs by their names.
type Jobs = BTreeMap<String, Value>;

fn jobs(jobs: Vec<Value>) -> Jobs {
    let name = |job: &Value| job["job_name"].as_str().expect("a job has a name").to_owned();
    jobs.into_iter().map(|job| (name(&job), job)).collect()
}

/// The receiver's configuration, with the `$$` that the Collector reads as `$`.
fn collector() -> Value {
    let text = shipped(OPENTELEMETRY).replace("$$", "$");
    let whole: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{OPENTELEMETRY}: {e}"));
    whole["receivers"]["prometheus"]["config"].clone()
}

/// The jobs of all three, in the form of Prometheus's configuration.
fn agents() -> [(&'static str, Jobs); 3] {
    let written = [
        (VMAGENT, scrape_configs(&parsed(VMAGENT))),
        (OPENTELEMETRY, scrape_configs(&collector())),
        (ALLOY, scrape_configs_of_alloy()),
    ];
    written.map(|(file, written)| (file, jobs(written)))
}

/// Converts the components of config.alloy to scrape_configs.
fn scrape_configs_of_alloy() -> Vec<Value> {
    let components = alloy::parse(&shipped(ALLOY));
    let scrapes = components.iter().filter(|(name, _)| name.starts_with("prometheus.scrape."));
    scrapes.map(|(_, scrape)| job_of_alloy(&components, scrape)).collect()
}

fn job_of_alloy(components: &Map<String, Value>, scrape: &Value) -> Value {
    let mut job = client_of_alloy(scrape);
    assert_eq!(
        job.remove("forward_to"),
        Some(json!(["&prometheus.remote_write.default.receiver"])),
        "{scrape}"
    );
    for (name, value) in parsed(PROXY_URL)["global"].as_object().expect("it has some") {
        if name.starts_with("scrape_") {
            assert_eq!(job.remove(name), Some(value.clone()), "{name} of {scrape}");
        }
    }
    let mut targets = job.remove("targets").expect("it has targets");
    let component = |reference: &Value, export| {
        let name = reference.as_str()?.strip_prefix('&')?.strip_suffix(export)?;
        Some(components.get(name).unwrap_or_else(|| panic!("no {name}")).clone())
    };
    if let Some(mut relabel) = component(&targets, ".output") {
        job.insert("relabel_configs".to_owned(), relabel["rule"].take());
        targets = relabel["targets"].take();
    }
    let discovery = component(&targets, ".targets").unwrap_or_else(|| panic!("no targets: {targets}"));
    job.insert("kubernetes_sd_configs".to_owned(), json!([client_of_alloy(&discovery)]));
    Value::Object(job)
}

/// A component with the settings of an HTTP client as Prometheus has them, and paths relative to the configuration.
fn client_of_alloy(component: &Value) -> Map<String, Value> {
    let mut client = component.as_object().expect("a component").clone();
    if let Some(file) = client.remove("bearer_token_file") {
        client.insert("authorization".to_owned(), json!({ "credentials_file": file }));
    }
    for block in ["tls_config", "namespaces"] {
        if let Some(mut blocks) = client.remove(block) {
            client.insert(block.to_owned(), blocks[0].take());
        }
    }
    let text = Value::Object(client).to_string().replace("/etc/alloy/", "");
    serde_json::from_str(&text).expect("the result is an object")
}

const PODS: &str = "kubernetes-pods";

#[test]
fn every_agent_has_the_jobs_of_prometheus() {
    let expected = jobs(scrape_configs(&parsed(PROXY_URL)));
    assert_eq!(expected.len(), 4);
    for (file, jobs) in agents() {
        assert_eq!(jobs, expected, "{file}");
    }
}

/// Without rules and Alertmanagers: vmagent and the Collector refuse settings that they do not use.
#[test]
fn every_agent_scrapes_as_often_as_prometheus_and_writes_samples() {
    let prometheus = parsed(PROXY_URL);
    let mut global = prometheus["global"].clone();
    global.as_object_mut().expect("it has some").remove("evaluation_interval");
    for (file, configuration) in [(VMAGENT, parsed(VMAGENT)), (OPENTELEMETRY, collector())] {
        assert_eq!(configuration["global"], global, "{file}");
        let keys: Vec<&str> = configuration.as_object().expect("a map").keys().map(String::as_str).collect();
        assert_eq!(keys, ["global", "scrape_configs"], "{file}");
    }
    let url = "https://metrics.example/api/v1/write";
    assert!(shipped(VMAGENT).contains(&format!("-remoteWrite.url={url}")));
    let alloy = alloy::parse(&shipped(ALLOY));
    assert_eq!(alloy["prometheus.remote_write.default"], json!({ "endpoint": [{ "url": url }] }));
    let collector = parsed(OPENTELEMETRY);
    assert_eq!(collector["exporters"], json!({ "prometheusremotewrite": { "endpoint": url } }));
    let pipeline = json!({ "receivers": ["prometheus"], "exporters": ["prometheusremotewrite"] });
    assert_eq!(collector["service"], json!({ "pipelines": { "metrics": pipeline } }));
}

/// The Collector expands a single `$` before a brace or a name as a variable.
#[test]
fn the_collector_expands_no_part_of_a_rule_as_a_variable() {
    let text = shipped(OPENTELEMETRY);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let left: Vec<&str> = lines.filter(|line| line.replace("$$", "").contains('$')).collect();
    assert_eq!(left, Vec::<&str>::new());
    assert!(text.contains("replacement: $$1:$$2"));
}

#[test]
fn promtool_accepts_the_collectors_receiver() {
    if !Release::Newest.require(&["promtool"]) {
        return;
    }
    let scratch = Scratch::new("agents-promtool");
    for file in ["kubernetes-ca.crt", "kubernetes-token"] {
        scratch.write(file, "");
    }
    let said = promtool(
        Release::Newest,
        &["check", "config"],
        &scratch.write("prometheus.yml", &collector().to_string()),
    );
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn the_readme_has_the_check_in_each_files_comment() {
    for row in Document::read("deploy/README.md").section("Configurations").table() {
        let file = code_spans(&row[1]).next().expect("a file").to_owned();
        let command = code_spans(&row[2]).next().expect("a command").to_owned();
        let text = shipped(&file);
        let mut head = text.lines().map_while(|line| line.strip_prefix('#').or(line.strip_prefix("//")));
        let says = |line: &str| command.split(' ').all(|word| line.split(' ').any(|other| other == word));
        assert!(head.any(says), "{file}: its head has no {command}");
    }
}

fn vmagent() -> Option<Command> {
    require_variable("VMAGENT").map(Command::new)
}

#[test]
fn vmagent_accepts_its_configuration() {
    let scratch = Scratch::new("agents-vmagent-check");
    let check = |text: &str| {
        let file = scratch.write(VMAGENT, text);
        let mut vmagent = vmagent()?;
        vmagent.arg("-dryRun").arg(format!("-promscrape.config={}", file.display()));
        let output = vmagent.output().unwrap_or_else(|e| panic!("cannot start {vmagent:?}: {e}"));
        Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let text = shipped(VMAGENT);
    let Some((accepted, said)) = check(&text) else { return };
    assert!(accepted && said.contains("all the configs are ok"), "{said}");
    let (accepted, said) =
        check(&text.replace("insecure_skip_verify: true", "insecure: true")).expect("it runs");
    assert!(!accepted && said.contains("field insecure not found"), "{said}");
}

/// The entry of a target on vmagent's targets page.
fn shown(target: &Value) -> [String; 4] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = &target["labels"];
    [text(&labels["job"]), text(&labels["instance"]), text(&target["scrapeUrl"]), text(&target["health"])]
}

#[test]
fn vmagent_discovers_and_scrapes_a_cluster_through_psystrike() {
    let Some(mut command) = vmagent() else { return };
    if !require_programs(&["openssl", "python3"]) {
        return;
    }
    let scratch = Scratch::new("agents-vmagent");
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    fs::copy(scratch.path("cert.pem"), scratch.path("kubernetes-ca.crt")).expect("a copy");
    scratch.write("kubernetes-token", "token");
    let page = "# TYPE pod_up gauge\npod_up 1\n";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    let pods =
        [Pod::answering("127.25.8.2", answer.clone(), Then::Keep), Pod::answering("::1", answer, Then::Keep)];
    let with_tls = Servers::start(&scratch, &[("tls", "127.25.8.3")]);
    let [v4, v6] = pods.each_ref().map(Pod::address);
    let ended: SocketAddr = "127.25.8.4:8080".parse().expect("an address");
    let mut objects = [
        cluster::pod("v4", v4, &[("path", "/stats")]),
        cluster::pod("v6", v6, &[]),
        cluster::pod("with-tls", with_tls.addresses[0], &[("scheme", "https")]),
        cluster::pod("ended", ended, &[]),
        cluster::pod("not-annotated", ended, &[("scrape", "false")]),
    ];
    objects[3]["status"]["phase"] = "Failed".into();
    // The certificate is for this address.
    let cluster = Cluster::start(&scratch, "127.25.0.1", &objects);
    let psystrike = Psystrike::start(&["--allow", "127.25.0.0/16", "--allow", "::1", "--allow-connect"]);

    let (own, server) = (psystrike.address().to_string(), cluster.address().to_string());
    let mut text = shipped(VMAGENT);
    for (from, to) in [
        ("psystrike.example:31000", &*own),
        ("kubernetes.default.svc:443", &*server),
        ("scrape_interval: 30s", "scrape_interval: 1s"),
        ("scrape_timeout: 10s", "scrape_timeout: 1s"),
    ] {
        assert!(text.contains(from), "no {from} in {VMAGENT}");
        text = text.replace(from, to);
    }
    let configuration = scratch.write(VMAGENT, &text);
    command.arg(format!("-promscrape.config={}", configuration.display()));
    command.arg(format!("-remoteWrite.tmpDataPath={}", scratch.path("data").display()));
    command.args(["-remoteWrite.url=http://127.0.0.1:1/", "-httpListenAddr=127.0.0.1:0"]);
    let vmagent = Program::start(&mut command);
    let line = vmagent.wait_for_line("started server at http://", LIMIT);
    let address = line.rsplit('/').nth(1).and_then(|address| address.parse().ok()).expect("an address");

    let [v4, v6, with_tls] = [v4, v6, with_tls.addresses[0]].map(|address| address.to_string());
    let expected = [
        ["kubernetes-apiserver", &server, &format!("https://{server}/metrics")],
        ["kubernetes-cadvisor", "node-1", &format!("https://{server}/metrics/cadvisor")],
        ["kubernetes-nodes", "node-1", &format!("https://{server}/metrics")],
        [PODS, &v4, &format!("http://{v4}/stats")],
        [PODS, &with_tls, &format!("https://{with_tls}/metrics")],
        [PODS, &v6, &format!("http://{v6}/metrics")],
    ];
    let mut expected =
        expected.map(|[job, instance, url]| [job, instance, url, "up"].map(str::to_owned)).to_vec();
    expected.sort();
    let targets = || {
        let answer = Client::connect(address).get("/api/v1/targets").body;
        let answer: Value = serde_json::from_slice(&answer).expect("vmagent answers in JSON");
        let targets = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        let mut shown: Vec<_> = targets.iter().map(shown).collect();
        shown.sort();
        shown
    };
    poll_within(IN_TIME, "vmagent's targets", targets, |shown| *shown == expected);
    for (pod, target) in pods.iter().zip(["/stats", "/metrics"]) {
        let head = pod.heads().into_iter().next().expect("it was scraped");
        assert_eq!((head.target().as_str(), &*head.values("Via").concat()), (target, "1.1 psystrike"));
        assert_eq!(head.field("Authorization"), None, "the token is the API server's");
    }
    cluster.wait_until_all_is_answered();
    // Watches of pods, nodes and endpoints; the API server, the kubelet twice, and the pod with TLS.
    let tunnels = || psystrike.metric("psystrike_tunnels");
    poll_within(LIMIT, "tunnels", tunnels, |&tunnels| tunnels >= 6.0);
}
