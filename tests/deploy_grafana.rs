//! The dashboard: Grafana's schema accepts it, its panels do not overlap, its queries are PromQL over metrics that
//! psystrike exports, and a real Prometheus that scrapes a real psystrike answers each query with data.
//!
//! No Grafana is available here. The schema is that of grafana-foundation-sdk, in the folders that the variable
//! `GRAFANA_FOUNDATION_SDK` lists, separated by colons; `.ci/run` installs them.

// The dashboard is that of a psystrike with TLS.
#![cfg(feature = "tls")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    Scratch,
    dashboard::{DASHBOARD, dashboard, interpolated, panels, queries, unanswered},
    exposition,
    pods::{Pod, Refusing, Then},
    prometheus::{Prometheus, Release, promtool},
    promql::Names,
    psystrike::Psystrike,
    repository, require_programs, require_variable,
    shipped::{RULES, shipped},
};

fn variables() -> BTreeMap<String, Value> {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().expect("it has variables");
    variables.iter().map(|one| (one["name"].as_str().unwrap_or_default().to_owned(), one.clone())).collect()
}

#[test]
fn grafanas_schema_accepts_the_dashboard() {
    let Some(folders) = require_variable("GRAFANA_FOUNDATION_SDK") else { return };
    let script = repository().join("tests/deploy_grafana.py");
    let dashboard = repository().join(DASHBOARD);
    for sdk in env::split_paths(&folders) {
        assert!(sdk.is_dir(), "{} is not a folder", sdk.display());
        let mut python = Command::new("python3");
        python.arg("-B").arg(&script).arg(&dashboard).env("PYTHONPATH", &sdk);
        let output = python.output().expect("python3 runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "by {}:\n{said}", sdk.display());
    }
}

#[test]
fn every_panel_has_a_position_a_unit_and_a_description() {
    const WIDTH: u64 = 24;
    let (rows, panels) = panels();
    let mut taken = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for panel in rows.iter().chain(&panels) {
        let title = panel["title"].as_str().unwrap_or_default();
        assert!(!title.is_empty(), "{panel}");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is another's");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|at| panel["gridPos"][at].as_u64().expect("a position"));
        assert!(w > 0 && h > 0 && x + w <= WIDTH, "{title}: {}", panel["gridPos"]);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            let other = taken.insert(place, title);
            assert_eq!(other, None, "{title} overlaps it at {place:?}");
        }
    }
    let height = taken.keys().map(|(_, y)| y + 1).max().unwrap_or_default();
    assert_eq!(taken.len() as u64, WIDTH * height, "there are gaps");

    for panel in &panels {
        let title = &panel["title"];
        for (what, text) in
            [("unit", &panel["fieldConfig"]["defaults"]["unit"]), ("word", &panel["description"])]
        {
            assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{title} has no {what}");
        }
        let targets = panel["targets"].as_array().expect("it has targets");
        let names: BTreeSet<_> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
        assert_eq!(names.len(), targets.len(), "{title}: a refId twice");
        // Every override matches the legend of a series.
        let overrides = panel["fieldConfig"]["overrides"].as_array().into_iter().flatten();
        for matcher in overrides.map(|one| &one["matcher"]).filter(|matcher| matcher["id"] == "byRegexp") {
            let begin =
                matcher["options"].as_str().and_then(|regex| regex.strip_suffix(".*")).expect("a beginning");
            let mut legends = targets.iter().filter_map(|target| target["legendFormat"].as_str());
            assert!(legends.any(|legend| legend.starts_with(begin)), "{title}: {matcher}");
        }
        for source in targets.iter().map(|target| &target["datasource"]).chain([&panel["datasource"]]) {
            assert_eq!(*source, json!({ "type": "prometheus", "uid": "${datasource}" }), "{title}");
        }
    }
    let variables = variables();
    assert_eq!(variables.keys().collect::<Vec<_>>(), ["cluster", "datasource", "instance", "job"]);
    assert_eq!(variables["cluster"]["allValue"], ".*", "there may be no such label");
}

#[test]
fn queries_use_only_exported_metrics() {
    let scratch = Scratch::new("grafana-metrics");
    let file = scratch.write("token", "of-a-secret-0123456789");
    // Some metrics exist only with a file or a certificate.
    let psystrike =
        Psystrike::start(&["--tls-self-signed", "--auth-token-file", file.to_str().expect("a path")]);
    let page = exposition::parse(&psystrike.get("/metrics").text());
    let exported = |name: &str| page.keys().any(|labels| labels["__name__"] == name);
    let mut shown = BTreeSet::new();
    for (title, expression) in queries() {
        let names = Names::of(&interpolated(&expression));
        assert!(!names.metrics.is_empty(), "{title}: {expression}");
        for metric in &names.metrics {
            assert!(metric == "up" || exported(metric), "{title}: {metric}");
        }
        for label in &names.labels {
            let of_target = ["job", "cluster", "instance"].contains(&label.as_str());
            assert!(of_target || page.keys().any(|labels| labels.contains_key(label)), "{title}: {label}");
        }
        for (label, value) in names.values.iter().filter(|(label, _)| label == "outcome") {
            assert!(page.keys().any(|labels| labels.get(label) == Some(value)), "{title}: {label}={value}");
        }
        for label in ["job", "cluster", "instance"] {
            let chosen = format!("{label}=~\"${label}\"");
            let selectors = expression.matches('{').count();
            assert_eq!(
                expression.matches(&chosen).count(),
                selectors,
                "{title}: {label} is not selected in {expression}"
            );
        }
        shown.extend(names.metrics);
    }
    // The dashboard excludes the same outcomes from scrapes as the alerts do.
    let no_scrapes = "page|request_timeout|http_version|request_body|method_not_allowed";
    assert_eq!(shipped(RULES).matches(no_scrapes).count(), 1);
    for title in ["Successful scrapes", "Failed requests by outcome"] {
        let (_, expression) = queries().into_iter().find(|query| query.0 == title).expect("its panel");
        let expression = expression.replace("forwarded|", "").replace("tunnel|", "");
        assert!(expression.contains(no_scrapes), "{title}: {expression}");
    }
    // A histogram is shown by its buckets.
    let all = page.keys().map(|labels| labels["__name__"].as_str());
    let parts_of_histograms =
        |name: &&str| name.ends_with("_seconds_sum") || name.ends_with("_seconds_count");
    let all = all.filter(|name| name.starts_with("psystrike_") && !parts_of_histograms(name));
    let not_shown: BTreeSet<&str> = all.filter(|name| !shown.contains(*name)).collect();
    assert!(not_shown.is_empty(), "{not_shown:?}");
}

#[test]
fn a_real_prometheus_answers_every_query() {
    if !require_programs(&["prometheus", "promtool"]) {
        return;
    }
    let scratch = Scratch::new("grafana");
    let queries: Vec<(String, String)> =
        queries().into_iter().map(|(title, expression)| (title, interpolated(&expression))).collect();

    // As rules, because promtool reads those. Their names do not matter.
    let expressions = queries.iter().map(|(_, expression)| expression).enumerate();
    let rules: Vec<Value> = expressions
        .map(|(at, expression)| json!({ "record": format!("query:{at}"), "expr": expression }))
        .collect();
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    promtool(
        Release::Installed,
        &["check", "rules"],
        &scratch.write("dashboard.rules.yml", &rules.to_string()),
    );

    const SECRET: &str = "of-a-secret-0123456789";
    let file = scratch.write("token", SECRET);
    let psystrike = Psystrike::start(&[
        "--allow",
        "127.11.0.0/16",
        "--allow-connect",
        "--tls-self-signed",
        "--auth-token-file",
        file.to_str().expect("a path"),
    ]);
    let page = "pod_up 1\n";
    let fields = "Content-Type: text/plain; version=0.0.4\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{page}", page.len());
    let (pod, refusing) = (Pod::answering("127.11.0.1", answer, Then::Keep), Refusing::on("127.11.0.2"));
    // A pod that responds, one that does not, one that is not allowed, and psystrike's own page.
    let own = psystrike.address().to_string();
    let pods = [
        Psystrike::target(pod.address(), "/metrics"),
        Psystrike::target(refusing.address(), "/metrics"),
        "/pods/127.66.0.1/80/metrics".to_owned(),
    ];
    let pods = pods
        .map(|path| json!({ "targets": [own], "labels": { "__metrics_path__": path, "instance": path } }));
    let configuration = json!({
        "global": { "scrape_interval": "1s", "scrape_timeout": "1s" },
        "scrape_configs": [
            { "job_name": "psystrike", "static_configs": [{ "targets": [own] }] },
            { "job_name": "pods", "static_configs": pods, "authorization": { "credentials": SECRET } },
        ],
    });
    scratch.write("prometheus.yml", &configuration.to_string());
    let prometheus = Prometheus::start(Release::Installed, &scratch);

    prometheus.wait_until(Duration::from_secs(30), |prometheus| {
        // A tunnel that opens and ends.
        let mut client = psystrike.client();
        let authorization = format!("Proxy-Authorization: Bearer {SECRET}\r\n");
        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n{authorization}\r\n", pod.address()));
        client.stream().peek(&mut [0]).expect("a response");
        drop(client);
        unanswered(prometheus).is_empty()
    });
    let unanswered = unanswered(&prometheus);
    assert!(unanswered.is_empty(), "no data for\n{}\n{}", unanswered.join("\n"), prometheus.stderr());

    // The values that its variables offer.
    let variables = variables();
    for (name, offered) in [("job", &["psystrike"][..]), ("instance", &[&*own]), ("cluster", &[])] {
        let query = variables[name]["query"]["query"].as_str().expect("a variable has a query");
        let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = arguments.and_then(|text| text.rsplit_once(", ")).expect("of a label");
        let values = prometheus.label_values(label, &interpolated(series));
        assert_eq!(values, offered, "{name}: {query}");
    }
}
