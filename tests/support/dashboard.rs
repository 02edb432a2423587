//! The dashboard of deploy/grafana/, and its queries.

use serde_json::Value;

use super::{prometheus::Prometheus, read};

pub const DASHBOARD: &str = "deploy/grafana/psystrike.json";

pub fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap_or_else(|error| panic!("{DASHBOARD}: {error}"))
}

/// All panels, rows apart.
pub fn panels() -> (Vec<Value>, Vec<Value>) {
    let panels = dashboard()["panels"].take();
    let panels = panels.as_array().expect("panels are an array");
    panels.iter().cloned().partition(|panel| panel["type"] == "row")
}

/// The queries, each with the title of its panel.
pub fn queries() -> Vec<(String, String)> {
    let (_, panels) = panels();
    let of = |panel: &Value| -> Vec<(String, String)> {
        let title = panel["title"].as_str().expect("a panel has a title");
        let targets = panel["targets"].as_array().expect("a panel has targets");
        let expressions =
            targets.iter().map(|target| target["expr"].as_str().expect("a target has an expression"));
        expressions.map(|expression| (title.to_owned(), expression.to_owned())).collect()
    };
    panels.iter().flat_map(of).collect()
}

/// Returns an expression as Grafana sends it if all values of the variables are selected.
pub fn interpolated(expression: &str) -> String {
    let chosen = [
        ("$__rate_interval", "10s"),
        ("$job", "psystrike"),
        ("$cluster", ".*"), // its `allValue`
        ("$instance", "127.+"),
    ];
    let expression =
        chosen.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!expression.contains('$') || expression.contains("\"$1\""), "another variable in {expression}");
    expression
}

/// Returns the queries for which this Prometheus has no data.
pub fn unanswered(prometheus: &Prometheus) -> Vec<String> {
    let has_data =
        |expression: &str| prometheus.query(&interpolated(expression)).values().any(|value| value != "NaN");
    let without = queries().into_iter().filter(|(_, expression)| !has_data(expression));
    without.map(|(title, expression)| format!("{title}: {expression}")).collect()
}
