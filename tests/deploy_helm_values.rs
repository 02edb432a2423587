//! The Helm chart's values: each of them has an effect, others are refused, options are those of the binary, and the
//! chart's README has them all. With `PSYSTRIKE_WRITE=1` these tests write the README's tables.

// The options are those of a psystrike with TLS.
#![cfg(feature = "tls")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use psystrike::config::options::{Fallback, Kind, Opt};
use serde_json::{Value, json};
use support::{
    Scratch, assert_same, generated,
    helm::{CHART, changed_values, default_values, helm, leaves, render},
    kubernetes::Rendered,
    psystrike::{Psystrike, run as run_psystrike},
    read, require_programs,
    tls::make_certificate,
};

/// Values under which a change of another one has an effect.
fn precondition(path: &str) -> Value {
    let part = path.split('/').nth(1).expect("a pointer begins with a slash");
    match part {
        _ if path.ends_with("/enabled") => json!({}),
        "autoscaling" | "serviceMonitor" | "prometheusRule" | "dashboard" => {
            json!({ part: { "enabled": true } })
        }
        "auth" => json!({ "auth": { "tokenSecret": "another" } }),
        "tls" => json!({ "tls": { "secretName": "another", "clientCASecretName": "others" } }),
        "podTLS" => json!({ "podTLS": { "ca": { "configMap": { "name": "another" } } } }),
        "service" if path.ends_with("/loadBalancerSourceRanges") => {
            json!({ "service": { "type": "LoadBalancer" } })
        }
        _ => json!({}),
    }
}

/// Values with one more.
fn with(values: &Value, path: &str, value: &Value) -> Value {
    let mut values = values.clone();
    let keys = path.split('/').skip(1).map(|key| key.replace("~1", "/"));
    *keys.fold(&mut values, |at, key| &mut at[key]) = value.clone();
    values
}

#[test]
fn every_value_has_an_effect() {
    if !require_programs(&["helm"]) {
        return;
    }
    let (default, changed) = (default_values(), changed_values());
    let mut of_default = BTreeMap::new();
    leaves(&default, "", &mut of_default);
    let mut unchanged = Vec::new();
    for (path, before) in &of_default {
        let mut value = changed.pointer(path).unwrap_or_else(|| panic!("{path} is not changed")).clone();
        if value == *before {
            unchanged.push(path.as_str());
            value = (!before.as_bool().unwrap_or_else(|| panic!("{path} is not changed"))).into();
        }
        let precondition = precondition(path);
        let [before, after] = [precondition.clone(), with(&precondition, path, &value)]
            .map(|values| render(&values.to_string()).text);
        assert_ne!(before, after, "{path} changes nothing");
        // Values other than switches, lists and maps are rendered unchanged.
        if value.is_string() || value.is_number() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert!(after.contains(&value), "{path}: no {value} in\n{after}");
        }
    }
    // Changed here: changed_values() has restricted pods and a NetworkPolicy.
    const UNCHANGED: [&str; 3] = [
        "/networkPolicy/enabled",
        "/podSecurityContext/runAsNonRoot",
        "/securityContext/allowPrivilegeEscalation",
    ];
    assert_eq!(unchanged, UNCHANGED);
}

/// The comments of values.yaml: of each commented value its path and its comment, on one line.
fn comments() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut keys, mut comment): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let text = read("deploy/helm/values.yaml");
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(part) = content.strip_prefix("# ") {
            comment.push(part);
        } else if let Some((key, _)) = content.split_once(':').filter(|_| !content.starts_with('-')) {
            keys.truncate((line.len() - content.len()) / 2);
            keys.push(key);
            if !comment.is_empty() {
                found.push((keys.join("/"), comment.join(" ")));
            }
            comment.clear();
        } else {
            comment.clear();
        }
    }
    found
}

/// The type of a value, in the words of the table.
fn kind_of(schema: &Value) -> String {
    let one_of = schema["enum"].as_array().map(|all| {
        all.iter().filter_map(Value::as_str).filter(|value| !value.is_empty()).collect::<Vec<_>>().join(", ")
    });
    one_of.unwrap_or_else(|| {
        let kind = schema["type"].as_str().or(schema["type"][0].as_str()).expect("the schema has a type");
        let plain = match kind {
            "array" => "list",
            "object" => "map",
            other => other,
        };
        plain.to_owned()
    })
}

#[test]
fn the_charts_readme_has_every_value() {
    let default = default_values();
    let schema: Value = serde_json::from_str(&read("deploy/helm/values.schema.json")).expect("it is JSON");
    let comments = comments();
    let is_group = |path: &str| comments.iter().any(|(other, _)| other.starts_with(&format!("{path}/")));
    let mut table = "| value | type | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for (path, meaning) in &comments {
        let value = default.pointer(&format!("/{path}")).unwrap_or_else(|| panic!("{path} is not a value"));
        let of_schema = schema.pointer(&format!("/properties/{}", path.replace('/', "/properties/")));
        let kind = kind_of(of_schema.unwrap_or_else(|| panic!("{path} is not in the schema")));
        let default = if is_group(path) { String::new() } else { format!("`{value}`") };
        let name = path.replace('/', ".");
        table += &format!("| `{name}` | {kind} | {default} | {meaning} |\n");
    }
    generated::part("deploy/helm/README.md", "values.yaml and values.schema.json", &table);

    let mut of_default = BTreeMap::new();
    leaves(&default, "", &mut of_default);
    for leaf in of_default.keys() {
        let described = |path: &String| {
            let below = leaf[1..].strip_prefix(path.as_str());
            below.is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && !is_group(path)))
        };
        assert!(comments.iter().any(|(path, _)| described(path)), "{leaf} has no comment in values.yaml");
    }
    // Every property of the schema is in values.yaml, except for options with a default of the binary.
    for (path, properties) in schema_properties(&schema, "") {
        let is_known = path.starts_with("/options/") || path == "/global" || default.pointer(&path).is_some();
        assert!(is_known, "{path} is not in values.yaml: {properties}");
    }
}

/// The paths of all values that the schema names.
fn schema_properties(schema: &Value, path: &str) -> Vec<(String, Value)> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let each = properties.flat_map(|(name, schema)| {
        let path = format!("{path}/{name}");
        let mut below = schema_properties(schema, &path);
        below.push((path, schema.clone()));
        below
    });
    each.collect()
}

#[test]
fn the_charts_readme_has_every_option() {
    let mut table = "| option | psystrike's default | meaning |\n| --- | --- | --- |\n".to_owned();
    for option in Opt::ALL.iter().filter(|option| **option != Opt::Listen && option.variable().is_some()) {
        if option.kind() == Kind::File {
            continue;
        }
        let default = match option.default() {
            Fallback::Value(value) => format!("`{value}`"),
            Fallback::Text(text) => text.to_owned(),
            Fallback::Silent => String::new(),
        };
        let name = option.name().trim_start_matches('-');
        table += &format!("| `options.{name}` | {default} | {} |\n", option.description());
    }
    generated::part("deploy/helm/README.md", "src/config/options.rs", &table);
}

#[test]
fn the_charts_options_are_those_of_the_binary() {
    if !require_programs(&["helm"]) {
        return;
    }
    let rendered = render(&changed_values().to_string());
    let variables = rendered.variables().into_iter().map(|(name, value)| (name, value.to_owned()));
    let mut variables: BTreeMap<&str, String> = variables.collect();
    assert_eq!(variables["PSYSTRIKE_ALLOW"], "127.1.0.0/16,fd00::/64");
    assert_eq!(variables["PSYSTRIKE_CLIENTS_MAX"], "1000000");
    // Without --listen, whose address the chart sets, and the web configuration file, which does the same as other
    // options do. The files come from Secrets and ConfigMaps.
    let is_set = |option: &&Opt| option.kind() != Kind::Addresses && **option != Opt::WebConfigFile;
    let names = Opt::ALL.iter().filter(is_set);
    let names: BTreeSet<String> = names.filter_map(|option| option.variable()).collect();
    assert_same(variables.keys().map(|name| (*name).to_owned()), names, "variables, and options");

    let scratch = Scratch::new("options-of-the-chart");
    let files = Opt::ALL.iter().filter(|option| option.kind() == Kind::File && is_set(option));
    let files: Vec<String> = files.filter_map(|option| option.variable()).collect();
    check_that_volumes_have(&rendered, &files);
    let secret = scratch.write("token", "of-a-secret-0123456789");
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| scratch.path(name));
    make_certificate(&certificate, &key);
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    for name in &files {
        let file = match name.as_str() {
            "PSYSTRIKE_AUTH_TOKEN_FILE" => &secret,
            name if name.ends_with("_KEY") => &key,
            _ => &certificate,
        };
        *variables.get_mut(name.as_str()).expect("it is set") = text(file);
    }
    variables.insert("PSYSTRIKE_LISTEN", "127.0.0.1:0".to_owned());
    // Options that exclude each other.
    let mut others = variables.clone();
    variables.remove("PSYSTRIKE_TLS_NAME");
    others.retain(|name, _| !name.contains("TLS_CERT") && !name.contains("TLS_KEY"));
    others.retain(|name, _| !["PSYSTRIKE_POD_TLS_CA", "PSYSTRIKE_POD_TLS_NAME"].contains(name));
    for flag in ["PSYSTRIKE_TLS_SELF_SIGNED", "PSYSTRIKE_POD_TLS_SKIP_VERIFY"] {
        others.insert(flag, "true".to_owned());
    }
    for variables in [variables, others] {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Psystrike::start_with_env(&[], &variables)
            .wait_for_line(r#""allow":"127.1.0.0/16,fd00::/64","deny":"127.1.2.0/24","ports":"1-1023,8080""#);
    }
}

/// Checks that each of these variables is a path in a volume, which Kubernetes updates.
fn check_that_volumes_have(rendered: &Rendered, files: &[String]) {
    let variables = rendered.variables();
    let (pod, container) = (rendered.pod(), rendered.container());
    let mounts = container["volumeMounts"].as_array().expect("it has some");
    let mut used = BTreeSet::new();
    for name in files {
        let folder = Path::new(variables[name.as_str()]).parent().and_then(Path::to_str);
        let mount = mounts.iter().find(|mount| mount["mountPath"].as_str() == folder);
        let mount = mount.unwrap_or_else(|| panic!("{name}: {folder:?} is not mounted"));
        assert_eq!((&mount["subPath"], &mount["readOnly"]), (&Value::Null, &json!(true)), "{mount}");
        used.insert(mount["name"].as_str().expect("a name"));
    }
    let volumes = pod["volumes"].as_array().expect("it has some");
    assert_same(volumes.iter().filter_map(|volume| volume["name"].as_str()), used, "volumes, and those used");
    for (volume, source) in [
        ("token", json!({ "secret": { "secretName": "some-secrets" } })),
        ("tls", json!({ "secret": { "secretName": "a-certificate" } })),
        ("client-ca", json!({ "secret": { "secretName": "of-clients" } })),
        ("pod-ca", json!({ "configMap": { "name": "of-pods" } })),
        ("pod-tls", json!({ "secret": { "secretName": "for-pods" } })),
    ] {
        let mut expected = source;
        expected["name"] = volume.into();
        assert!(volumes.contains(&expected), "no {expected} in {volumes:?}");
    }
}

#[test]
fn the_schema_accepts_the_same_durations_as_psystrike() {
    if !require_programs(&["helm"]) {
        return;
    }
    let kinds = [Kind::Duration, Kind::DurationOrZero, Kind::Milliseconds];
    let durations: Vec<Opt> =
        Opt::ALL.iter().copied().filter(|option| kinds.contains(&option.kind())).collect();
    let (mut taken, mut refused) = (0, 0);
    for option in &durations {
        let name = option.name().trim_start_matches('-');
        // The other limit, set so that it does not contradict this one.
        let has_max = ["timeout", "connect-timeout"].contains(&name);
        let max = ("PSYSTRIKE_TIMEOUT_MAX", if has_max { "168h" } else { "" });
        for value in [
            "0",
            "0s",
            "0ms",
            "1ms",
            "100ms",
            "101ms",
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
            let variable = option.variable().expect("a duration has a variable");
            // Options are parsed first; the health check then fails, as nothing listens.
            let ended = run_psystrike(
                &["--healthcheck", "http://127.0.0.1:1/"],
                &[(variable.as_str(), value), max][..1 + usize::from(!max.1.is_empty())],
            );
            let set = format!("options.{name}={value}");
            let output = helm(&["template", "psystrike", CHART, "--set", &set]).output().expect("helm runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), ended.status.code() == Some(1), "{set}: {ended:?}, {said}");
            assert!(output.status.success() || said.contains(name), "{said}");
            *if output.status.success() { &mut taken } else { &mut refused } += 1;
        }
    }
    // How many of these values psystrike accepts.
    let accepts = |option: &Opt| match option.kind() {
        Kind::DurationOrZero => 8,
        Kind::Milliseconds => 5,
        _ => 6,
    };
    let expected: usize = durations.iter().map(accepts).sum();
    assert_eq!((taken, refused), (expected, durations.len() * 15 - expected));
}

#[test]
fn contradictory_values_are_refused() {
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

    for (values, expected) in [
        ("tls.secretName=a,options.tls-self-signed=true", "exclude each other"),
        ("options.tls-only=true", "need tls.secretName"),
        ("tls.clientCASecretName=a", "need tls.secretName"),
        ("podTLS.ca.secret.secretName=a,options.pod-tls-skip-verify=true", "exclude each other"),
    ] {
        let output = helm(&["template", "psystrike", CHART, "--set", values]).output().expect("helm runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{values}: {said}");
    }

    // The ranges would have no effect, and any client could connect.
    let ranges =
        ["template", "psystrike", CHART, "--set", "service.loadBalancerSourceRanges={192.0.2.10/32}"];
    let output = helm(&ranges).output().expect("helm runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("needs service.type LoadBalancer"), "{said}");
}

#[test]
fn unknown_and_invalid_values_are_refused() {
    if !require_programs(&["helm"]) {
        return;
    }
    for values in [
        "replica: 3",
        "replicas: 3",
        "replicaCount: three",
        "image: { digest: latest }",
        "fullnameOverride: My_Name",
        "service: { loadBalancerSourceRanges: [192.0.2.10] }",
        "serviceMonitor: { interval: 30 }",
        "extraEnv: [{ value: nameless }]",
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
