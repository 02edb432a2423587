//! The steps of an operator, end to end: the image is built and runs under its limits; a real Prometheus with the
//! shipped configuration and rules scrapes real pods through it; failures raise their alerts; and Prometheus answers
//! every query of the dashboard with data.
//!
//! Not tested here is the cluster: files replace discovery, and podman replaces the kubelet.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{
    Scratch, assert_same,
    dashboard::unanswered,
    image,
    podman::Podman,
    pods::Refusing,
    prometheus::{NodeExporter, Prometheus, Release},
    require_programs,
    shipped::{
        AT_ONCE, IN_TIME, PROMETHEUS, RULES, annotated, configuration, loaded, rules, shipped,
        wait_for_targets,
    },
};

/// Where psystrike listens: it is a pod too, and its own page is scraped through itself.
const PSYSTRIKE: &str = "127.28.0.1:31000";

#[test]
fn from_the_dockerfile_to_the_dashboard() {
    if !image::can_be_made() || !require_programs(&["prometheus", "prometheus-node-exporter"]) {
        return;
    }
    let scratch = Scratch::new("operator");
    let binary = image::build(&scratch.path("build"), &image::cargo_home(), image::AS_THIS_TEST);
    let podman = Podman::new(&scratch);
    image::make(&podman, &binary, "latest", "docker");
    let environment =
        ["--env", &format!("PSYSTRIKE_LISTEN={PSYSTRIKE}"), "--env", "PSYSTRIKE_ALLOW=127.28.0.0/24"];
    let _running = image::run(&podman, "operator", &[&["--network", "host"][..], &environment].concat(), &[]);

    let (exporter, refusing) = (NodeExporter::start("127.28.0.2"), Refusing::on("127.28.0.3"));
    let psystrike = annotated("psystrike", PSYSTRIKE.parse().expect("an address"));
    let healthy = [psystrike, annotated("node-exporter", exporter.address())];
    scratch.write("pods.json", &json!(healthy).to_string());
    scratch.write(RULES, &shipped(RULES));
    let replaced = [&AT_ONCE[..], &[("psystrike.example:31000", PSYSTRIKE)]].concat();
    scratch.write("prometheus.yml", &configuration(PROMETHEUS, &["pods.json"], &replaced));
    let prometheus = Prometheus::start(Release::Installed, &scratch);

    let address = exporter.address().to_string();
    wait_for_targets(
        &prometheus,
        &["job", "instance"],
        &[&["psystrike", PSYSTRIKE], &["kubernetes-pods", &address]],
    );
    assert_eq!(prometheus.query("node_uname_info{job='kubernetes-pods'}").len(), 1, "a real exporter's page");
    let names = |kind| rules(kind).into_iter().map(|(name, _)| name);
    let all: BTreeSet<String> = names("record").chain(names("alert")).collect();
    let known = loaded(&prometheus);
    let names_known = known.iter().filter_map(|rule| rule["name"].as_str().map(str::to_owned));
    assert_same(names_known, all, "rules loaded by Prometheus, and those of the file");

    // A pod that refuses connections, and one that is not allowed.
    let elsewhere = annotated("elsewhere", "127.28.1.1:80".parse().expect("an address"));
    let trouble = [annotated("refusing", refusing.address()), elsewhere];
    scratch.write("pods.json", &json!([&healthy[..], &trouble].concat()).to_string());

    // Both have an alert. (It waits for minutes before it fires.)
    let expected = BTreeSet::from(["PsystrikePodsFailing", "PsystrikeRejectingRequests"].map(str::to_owned));
    let raised = |prometheus: &Prometheus| -> BTreeSet<String> {
        let rules = loaded(prometheus);
        let alerts = rules.iter().filter(|rule| rule["type"] == "alerting" && rule["state"] != "inactive");
        alerts.filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect()
    };
    let in_time = prometheus.wait_until(IN_TIME, |prometheus| raised(prometheus).is_superset(&expected));
    assert!(in_time, "{:?} of {known:#?}\n{:#?}", raised(&prometheus), prometheus.targets());

    // With the shipped options, it opens no tunnels and reads no files.
    let is_shipped = |query: &String| {
        !["Tunnel duration: ", "Time since files were last read: ", "Time until certificates expire: "]
            .iter()
            .any(|title| query.starts_with(title))
    };
    let unanswered = |prometheus: &Prometheus| -> Vec<String> {
        unanswered(prometheus).into_iter().filter(is_shipped).collect()
    };
    let in_time = prometheus.wait_until(IN_TIME, |prometheus| unanswered(prometheus).is_empty());
    assert!(in_time, "no data for\n{}\n{}", unanswered(&prometheus).join("\n"), prometheus.stderr());

    let health = podman.exit_status(&["healthcheck", "run", "operator"]);
    assert_eq!(health, (Some(0), String::new()));
    let restarts: Value = podman.inspect("container", "operator")["RestartCount"].clone();
    assert_eq!(restarts, 0, "it stayed within its limits");
}
