//! The documents are true as far as a machine can tell: their commands run, or the reason why they cannot run here is
//! given; links lead somewhere; options, variables and metrics exist; Prometheus shows the errors that they describe;
//! licences and versions are those of the files that they come from.

// The documents are those of a psystrike with TLS.
#![cfg(feature = "tls")]

mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use psystrike::config::help;
use serde_json::{Value, json};
use support::{
    Scratch, assert_same,
    markdown::{self, Document},
    pods::{Pod, Refusing, Then, Unanswering},
    prometheus::{Prometheus, Release},
    psystrike::{BINARY, Psystrike, run as run_psystrike},
    read, repository, require_programs,
    shipped::rules,
};

/// The way in which a shell block is tested.
enum Fate {
    /// It runs here if these programs are installed, and its output contains all of these texts.
    Prints(&'static [&'static str], &'static [&'static str]),
    /// `.ci/run` runs it in this line.
    RunByCi(&'static str),
    /// It cannot run here, for this reason.
    Cannot(&'static str),
}

use Fate::{Cannot, Prints, RunByCi};

const CLUSTER: &str = "needs a cluster; tests/deploy_kubernetes.rs checks what is applied";
const BASE_IMAGES: &str = "needs base images and a registry; tests/deploy_image.rs builds without";
const SYSTEMD: &str = "needs systemd as process 1; tests/deploy_systemd.rs checks the unit";

/// Every shell block of every document, by its first words.
const COMMANDS: &[(&str, Fate)] = &[
    ("cargo build --release && (", RunByCi("command=$(awk '/^```sh$/")),
    ("cargo test\n", RunByCi("run cargo test")),
    ("cargo test --test exchange_response\n", RunByCi("run cargo test")),
    ("cargo doc --no-deps --open\n", RunByCi("run cargo doc --locked --no-deps")),
    ("psystrike --web-config-file ", RunByCi("run cargo test")), // tests/web_config.rs
    (".ci/fuzz 200000 15\n", RunByCi("run .ci/fuzz 200000 15")),
    ("docker build ", Cannot(BASE_IMAGES)),
    ("kubectl label node ", Cannot(CLUSTER)),
    ("kubectl apply -k ", Cannot(CLUSTER)),
    ("curl -fsS http://psystrike.example:31000/readyz\n", Prints(&["curl"], &["ok"])),
    ("kubectl create serviceaccount ", Cannot(CLUSTER)),
    ("kubectl auth can-i ", Cannot(CLUSTER)),
    (
        "promtool check config prometheus.yml\n",
        Cannot(
            "Debian builds promtool without discovery in Kubernetes; tests/deploy_prometheus.rs checks it with the \
             newest",
        ),
    ),
    ("apt-get install nginx haproxy ", Cannot("changes the machine, and takes more than an hour")),
    (
        "cargo bench --bench side_by_side -- instructions ",
        RunByCi("run cargo bench --locked --bench side_by_side -- instructions --forwarders psystrike"),
    ),
    ("cargo test --release --test limits ", RunByCi("run cargo test")),
    ("kubectl get nodes ", Cannot(CLUSTER)),
    (
        "kubectl kustomize deploy/kubernetes/overlays/nodeport\n",
        Prints(&["kubectl"], &["kind: Deployment", "nodePort: 31000", "PSYSTRIKE_ALLOW: "]),
    ),
    ("kubectl create secret tls psystrike-tls ", Cannot(CLUSTER)),
    ("(umask 077 && openssl rand -hex 32 > psystrike-token)\n", Prints(&["openssl"], &[])),
    ("(\n  umask 077\n  openssl req -x509 ", Prints(&["openssl"], &["self-signature ok"])),
    ("(\n  umask 077\n  openssl req -newkey ", Cannot("needs the CA that another block creates")),
    ("psystrike --tls-cert ", RunByCi("run cargo test")), // tests/prometheus_tls.rs
    ("curl -fsS --cacert ca.crt ", Cannot("needs the certificate; tests/prometheus_tls.rs scrapes so")),
    ("helm install ", Cannot("needs a cluster; tests/deploy_helm.rs checks what is installed")),
    ("rustup target add x86_64-unknown-linux-musl\n", Cannot("changes the toolchain that runs the tests")),
    ("install -m 755 ", Cannot(SYSTEMD)),
    (
        "podman run ",
        Cannot(
            "takes a port of the machine's; tests/deploy_image.rs runs it without, on an image built there",
        ),
    ),
    ("psystrike --healthcheck ", Prints(&[], &[])),
    ("umask 077\nkubectl create token ", Cannot(CLUSTER)),
    ("curl -sS -o /dev/null -w '%{http_code}\\n' --cacert kubernetes-ca.crt ", Cannot(CLUSTER)),
    ("promtool check rules deploy/prometheus/psystrike.rules.yml\n", Prints(&["promtool"], &["SUCCESS"])),
    ("kubectl rollout undo ", Cannot(CLUSTER)),
    ("psystrike --version\n", Prints(&[], &[concat!("psystrike ", env!("CARGO_PKG_VERSION"), " (")])),
    (
        "curl -sv -x http://psystrike.example:31000 ",
        Cannot("needs pods; tests/scraping/ and tests/prometheus_tls.rs scrape both ways"),
    ),
    (
        "curl -sv http://psystrike.example:31000/pods/",
        Prints(&["curl"], &["< HTTP/1.1 200 OK", "of_the_pod 1"]),
    ),
    (
        "curl -fsS http://psystrike.example:31000/metrics | grep ",
        Prints(&["curl"], &["psystrike_outcomes_total{outcome=\"forwarded\"} 1"]),
    ),
    ("kubectl get pods ", Cannot(CLUSTER)),
    (".ci/run\n", Cannot("it is what runs this test")),
    (
        "cargo bench --bench side_by_side -- all --write\n",
        Cannot("takes more than an hour of an idle machine"),
    ),
    ("git tag ", Cannot("needs the right to push, and is done once")),
    ("export SOURCE_DATE_EPOCH=", Cannot(BASE_IMAGES)),
    ("docker buildx build ", Cannot(BASE_IMAGES)),
    ("skopeo copy ", Cannot("needs an archive with the image, and a registry")),
    ("sha256sum ", Prints(&["sha256sum"], &["psystrike-0.1.0-x86_64: OK", "psystrike-0.1.0-aarch64: OK"])),
    ("cargo tree ", Prints(&["cargo"], &["mio v", " MIT"])),
];

#[test]
fn every_command_runs_or_has_a_reason_why_not() {
    let ci = read(".ci/run");
    let (mut used, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for document in Document::all() {
        for block in document.blocks() {
            // A block of an unknown language could contain commands that this test misses.
            let known = ["sh", "yaml", "text", "nginx", "promql"].contains(&block.language.as_str());
            assert!(known, "{}: a block of {:?}:\n{}", document.path, block.language, block.text);
            if block.language != "sh" {
                continue;
            }
            let fates = COMMANDS.iter().filter(|(beginning, _)| block.text.starts_with(beginning));
            let [(beginning, fate)] = fates.collect::<Vec<_>>()[..] else {
                panic!("{}: not in COMMANDS, or more than once:\n{}", document.path, block.text);
            };
            used.insert(beginning);
            match fate {
                _ if !seen.insert(block.text.clone()) => {} // for example in both READMEs
                Prints(programs, parts) if require_programs(programs) => run(&block.text, parts),
                Prints(..) => {}
                RunByCi(line) => {
                    assert!(ci.contains(line), ".ci/run no longer has {line:?}:\n{}", block.text)
                }
                Cannot(why) => assert!(!why.is_empty()),
            }
        }
    }
    let unused: Vec<_> =
        COMMANDS.iter().map(|(beginning, _)| beginning).filter(|b| !used.contains(b)).collect();
    assert_eq!(unused, Vec::<&&str>::new(), "not in any document");
}

/// Runs a block in a copy of the repository's folder. A psystrike that has scraped one pod replaces the one in the
/// documents.
fn run(block: &str, parts: &[&str]) {
    let scratch = Scratch::new("docs");
    for entry in fs::read_dir(repository()).expect("the repository's folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.') && name != "target" {
            symlink(&path, scratch.path(&name)).expect("a link");
        }
    }
    for binary in ["x86_64", "aarch64"] {
        scratch.write(&format!("psystrike-{}-{binary}", env!("CARGO_PKG_VERSION")), binary);
    }
    let page = "# TYPE of_the_pod gauge\nof_the_pod 1\n";
    let pod = Pod::answering(
        "127.31.0.1",
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()),
        Then::Keep,
    );
    let psystrike = Psystrike::start(&["--allow", "127.31.0.1"]);
    assert_eq!(psystrike.get(&Psystrike::target(pod.address(), "/metrics")).status(), 200);

    let (ip, port) = (pod.address().ip(), pod.address().port());
    let here = block
        .replace("psystrike.example:31000", &psystrike.address().to_string())
        .replace("127.0.0.1:8080", &psystrike.address().to_string())
        .replace("10.1.2.3/8080", &format!("{ip}/{port}"));
    let binaries = Path::new(BINARY).parent().expect("the binary is in a folder");
    let path = env::join_paths(
        [binaries.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    );
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &here])
        .current_dir(scratch.path(""))
        .env("PATH", path.expect("no folder has a colon"))
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{}\n{here}\n{said}", output.status);
    for part in parts {
        assert!(said.contains(part), "{here}\ndoes not print {part:?}, but\n{said}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for document in Document::all() {
        let links = document.sections().iter().flat_map(markdown::Section::links).collect::<Vec<_>>();
        count += links.len();
        for link in links.iter().filter(|link| !link.starts_with("https://")) {
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(p, a)| (p, Some(a)));
            let folder = Path::new(&document.path).parent().unwrap_or(Path::new(""));
            let target = if path.is_empty() { document.path.clone().into() } else { folder.join(path) };
            let at = repository().join(&target);
            assert!(at.exists(), "{}: {link}: there is no {}", document.path, target.display());
            let Some(anchor) = anchor else { continue };
            let normal = at.canonicalize().expect("it exists");
            let normal = normal.strip_prefix(repository().canonicalize().expect("so does the repository"));
            let target = Document::read(&normal.expect("a link within the repository").to_string_lossy());
            let anchors = target.anchors();
            assert!(anchors.iter().any(|known| known == anchor), "{}: {link}: of {anchors:?}", document.path);
        }
    }
    assert!(count > 100, "only {count} links were found");
}

/// Options of other programs in the documents.
const OPTIONS_OF_OTHERS: &str = "
    cargo, rustc, rustup: --all-targets --bench --bin --document-private-items --edges --format --locked --no-dedupe
        --no-default-features --no-deps --nocapture --open --prefix --release --remap-path-prefix --target --test
    curl: --cacert --noproxy --proxy --retry --retry-connrefused --retry-delay
    docker, podman: --build-arg --cap-drop --detach --health-cmd --health-interval --memory --name --no-cache
        --output --pids-limit --platform --provenance --publish --read-only --restart --security-opt --ulimit
        --use --user
    git: --annotate --format --message --short
    helm: --create-namespace --reuse-values --set
    kubectl: --all-namespaces --as --cert --cluster-cidr --clusterrole --duration --flatten --from-file --key --minify
        --namespace --previous --raw --resource --serviceaccount --verb
    otelcol-contrib: --config
    sha256sum: --check
    skopeo: --all
    systemctl: --now --user
";

#[test]
fn every_option_and_variable_exists() {
    let bench = read("benches/side_by_side/options.rs");
    let options =
        |text: &str| tokens(text, "--", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let ours = options(&help());
    let known: BTreeSet<String> =
        [options(&bench), options(OPTIONS_OF_OTHERS), ours.clone()].into_iter().flatten().collect();
    let variable = |option: &String| {
        format!("PSYSTRIKE_{}", option.trim_start_matches('-').replace('-', "_").to_uppercase())
    };
    let mut variables: BTreeSet<String> = ours.iter().map(variable).collect();
    variables.insert("PSYSTRIKE_REVISION".to_owned()); // of src/build.rs
    let of_the_tests = ["PSYSTRIKE_REQUIRE_ALL", "PSYSTRIKE_SEED", "PSYSTRIKE_WRITE"];
    variables.extend(of_the_tests.map(str::to_owned));
    variables.insert("PSYSTRIKE_".to_owned()); // PSYSTRIKE_*
    for document in Document::all() {
        let unknown = &options(&document.text) - &known;
        assert_eq!(unknown, BTreeSet::new(), "{}: unknown options", document.path);
        let named = tokens(&document.text, "PSYSTRIKE_", |c| c.is_ascii_uppercase() || c == '_');
        assert_eq!(&named - &variables, BTreeSet::new(), "{}: unknown variables", document.path);
    }
}

#[test]
fn every_metric_exists() {
    let scratch = Scratch::new("docs-metrics");
    let file = scratch.write("token", "of-a-secret-0123456789");
    // Some metrics exist only with a file.
    let psystrike =
        Psystrike::start(&["--tls-self-signed", "--auth-token-file", file.to_str().expect("a path")]);
    let page = psystrike.get("/metrics").text();
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = |(name, kind): (&str, &str)| {
        let suffixes = if kind == "histogram" { &["", "_bucket", "_count", "_sum"][..] } else { &[""] };
        suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect::<Vec<_>>()
    };
    let known: BTreeSet<String> = families.flat_map(names).collect();
    for (document, prefix) in Document::all()
        .iter()
        .flat_map(|document| ["psystrike_", "process_"].map(|prefix| (document, prefix)))
    {
        let named = tokens(&document.text, prefix, |c| c.is_ascii_lowercase() || c == '_');
        assert_eq!(&named - &known, BTreeSet::new(), "{}: unknown metrics", document.path);
    }
}

/// Returns the words of a text with this beginning, followed by such characters.
fn tokens(text: &str, prefix: &str, goes_on: impl Fn(char) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let before = text[..at].chars().next_back();
        let rest = &text[at + prefix.len()..];
        let length = rest.find(|c| !goes_on(c)).unwrap_or(rest.len());
        let in_a_word = before.is_some_and(|c| c.is_alphanumeric() || "-_|:".contains(c));
        // `---` is part of a table, and so are dashes without a word after them.
        if !in_a_word && (prefix != "--" || rest.starts_with(|c: char| c.is_ascii_lowercase())) {
            found.insert(format!("{prefix}{}", rest[..length].trim_end_matches('-')));
        }
    }
    found
}

#[test]
fn errors_without_a_status_are_those_of_the_table() {
    let releases = Release::all_with(&["prometheus"]);
    let table = Document::read("deploy/troubleshooting.md").section("Errors without a status").table();
    let refusing = Refusing::on("127.32.0.1");
    let unanswering = Unanswering::on("127.32.0.2");
    // The kernel accepts connections; no program responds.
    let silent = TcpListener::bind("127.32.0.7:0").expect("a free port");
    let cut_short = Pod::answering(
        "127.32.0.3",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\na 1\n",
        Then::Close,
    );
    let closing = Pod::answering("127.32.0.4", "", Then::Close);
    let reset = Pod::answering("127.32.0.5", "", Then::Reset);
    let no_metrics = |ip, fields| {
        let html = "<!doctype html>";
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{html}", html.len());
        Pod::answering(ip, answer, Then::Keep)
    };
    let page = no_metrics("127.32.0.6", "Content-Type: text/plain\r\n");
    let html = no_metrics("127.32.0.8", "Content-Type: text/html\r\n");
    let untyped = no_metrics("127.32.0.9", "");
    let psystrike = Psystrike::start(&["--allow", "127.32.0.0/16"]);
    let through = |pod: &Pod| (psystrike.address(), Psystrike::target(pod.address(), "/metrics"));
    let metrics = || "/metrics".to_owned();
    let not_a_page = "is not a valid start token";
    // The errors of Prometheus 2 and Prometheus 3.
    let both = |error| [error, error];
    let cases = [
        (both("connect: connection refused"), "http", (refusing.address(), metrics())),
        (both("i/o timeout"), "http", (unanswering.address(), metrics())),
        (both("context deadline exceeded"), "http", (silent.local_addr().expect("a listener's"), metrics())),
        (both("unexpected EOF"), "http", through(&cut_short)),
        (both("EOF"), "http", (closing.address(), metrics())),
        (both("connection reset by peer"), "http", (reset.address(), metrics())),
        (both("http: server gave HTTP response to HTTPS client"), "https", (psystrike.address(), metrics())),
        ([not_a_page, "expected a valid start token"], "http", through(&page)),
        ([not_a_page, "received unsupported Content-Type"], "http", through(&html)),
        ([not_a_page, "sending blank Content-Type"], "http", through(&untyped)),
    ];
    let job = |at: usize| format!("case-{at}");
    let jobs: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(at, (_, scheme, (address, path)))| {
            json!({
                "job_name": job(at), "scheme": scheme, "metrics_path": path,
                "static_configs": [{ "targets": [address.to_string()] }],
            })
        })
        .collect();
    let scratch = Scratch::new("errors-without-a-status");
    let global = json!({ "scrape_interval": "1s", "scrape_timeout": "1s" });
    scratch.write("prometheus.yml", &json!({ "global": global, "scrape_configs": jobs }).to_string());
    // Both run at the same time, because each takes seconds.
    let started: Vec<_> = releases.into_iter().map(|release| Prometheus::start(release, &scratch)).collect();
    for prometheus in started {
        let down = |prometheus: &Prometheus| {
            let targets = prometheus.targets();
            targets.len() == cases.len() && targets.iter().all(|target| !target.last_error.is_empty())
        };
        let shown = prometheus.wait_until(Duration::from_secs(25), down);
        let targets = prometheus.targets();
        assert!(shown, "{targets:#?}\n{}", prometheus.stderr());
        for (at, (errors, ..)) in cases.iter().enumerate() {
            let error = errors[usize::from(prometheus.major_version() >= 3)];
            let target =
                targets.iter().find(|target| target.labels["job"] == job(at)).expect("it is a target");
            // While connecting, the error depends on which side's timeout expires first.
            let either = error == "i/o timeout" && target.last_error.contains("context deadline exceeded");
            assert!(either || target.last_error.contains(error), "not {error:?}, but {target:#?}");
            let in_table = table
                .iter()
                .any(|row| markdown::code_spans(&row[0]).any(|span| span.trim_matches(['…', ' ']) == error));
            assert!(in_table, "{error:?} is not in {table:#?}");
        }
    }
}

/// In any order: the rules have the most severe alert first.
#[test]
fn every_alert_has_its_section() {
    let alerts = rules("alert");
    let mut alerts: Vec<&str> = alerts.iter().map(|(name, _)| name.as_str()).collect();
    assert!(!alerts.is_empty());
    let sections = Document::read("deploy/troubleshooting.md").sections();
    let behind = sections.iter().skip_while(|section| section.title != "Alerts").skip(1);
    let mut described: Vec<&str> = behind.map(|section| section.title.as_str()).collect();
    alerts.sort_unstable();
    alerts.dedup(); // one with two severities has one section
    described.sort_unstable();
    assert_eq!(described, alerts);
}

/// The licences that the binary's dependencies may have.
const LICENCES: &[&str] =
    &["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unlicense", "ISC", "BSD-3-Clause"];

#[test]
fn the_licences_are_those_of_the_shipped_crates() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut built = BTreeSet::new();
    for target in ["x86_64", "aarch64"].iter().flat_map(|cpu| ["musl", "gnu"].map(|c| (cpu, c))) {
        let target = format!("{}-unknown-linux-{}", target.0, target.1);
        let arguments =
            "tree --locked --offline --edges normal --prefix none --no-dedupe --format".split(' ');
        let output = Command::new(&cargo)
            .args(arguments)
            .args(["{p}|{l}", "--target", &target])
            .current_dir(repository())
            .output()
            .expect("cargo runs");
        let (tree, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{target}: {errors}");
        for line in tree.lines().skip(1) {
            let (package, licence) = line.split_once('|').expect("as it was asked for");
            let (name, version) = package.split_once(" v").expect("a name and a version");
            let version = version.split(' ').next().unwrap_or(version);
            built.insert((format!("`{name}`"), version.to_owned(), licence.to_owned()));
        }
    }
    assert!(built.len() > 10, "{built:?}");
    for (name, _, licence) in &built {
        // One alternative of an OR is enough, and all parts of an AND are needed. No crate has both.
        let accepted = licence.split(" OR ").any(|licence| LICENCES.contains(&licence))
            || licence.split(" AND ").all(|licence| LICENCES.contains(&licence));
        assert!(accepted, "{name} is under {licence}");
    }
    let rows = Document::read("deploy/licences.md").section("Licences").table();
    let listed = rows.iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone()));
    assert_same(built, listed, "built, and listed in deploy/licences.md");
}

#[test]
fn the_changelog_keeps_its_format() {
    let changelog = Document::read("CHANGELOG.md");
    let sections = changelog.sections();
    let versions: Vec<_> = sections.iter().filter(|section| section.level == 2).collect();
    assert_eq!(versions[0].title, "[Unreleased]");
    for version in &versions[1..] {
        let (number, day) = version.title.split_once(" - ").expect("## [1.2.3] - 2026-11-22");
        let digits = |text: &str, by: char, count: usize| {
            text.split(by).count() == count && text.split(by).all(|part| part.parse::<u32>().is_ok())
        };
        let number = number.trim_start_matches('[').trim_end_matches(']');
        assert!(digits(number, '.', 3) && digits(day, '-', 3), "{}", version.title);
    }
    for section in sections.iter().filter(|section| section.level == 3) {
        let known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
        assert!(known.contains(&section.title.as_str()), "{}", section.title);
    }
    // Released, or about to be.
    let version = env!("CARGO_PKG_VERSION");
    let newest = versions.get(1).map_or("", |section| section.title.as_str());
    let is_known = newest.contains(version) || versions[0].prose.contains(version);
    assert!(is_known, "{version} is neither the newest release nor named under Unreleased");
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let mut named = 0;
    for document in Document::all().iter().filter(|document| document.path != "CHANGELOG.md") {
        for before in ["registry.example/psystrike:", "psystrike-", "git tag --annotate v", "push peer v"] {
            for (at, _) in document.text.match_indices(before) {
                let rest = &document.text[at + before.len()..];
                if rest.starts_with(|c: char| c.is_ascii_digit()) {
                    named += 1;
                    assert!(rest.starts_with(version), "{}: {}", document.path, &rest[..12]);
                }
            }
        }
    }
    assert!(named > 5, "only {named} occurrences");
    // Also in the deployed files, under any of these names.
    let mut deployed = 0;
    for file in files(&["Dockerfile", "deploy/helm/Chart.yaml", "deploy/kubernetes"]) {
        let text = fs::read_to_string(&file).expect("a text");
        for line in text.lines() {
            let names =
                ["ARG VERSION=", "newTag: ", "version: ", "appVersion: ", "app.kubernetes.io/version: "];
            let value = names.iter().find_map(|name| line.trim_start().strip_prefix(name));
            if let Some(value) = value.filter(|value| !value.contains("{{")) {
                deployed += 1;
                assert_eq!(value.trim_matches('"'), version, "{}: {line}", file.display());
            }
        }
    }
    assert!(deployed > 3, "only {deployed} occurrences");
}

#[test]
fn the_oldest_rust_is_that_of_the_manifest() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    for file in ["README.md", "README.ja.md"] {
        let text = read(file);
        let after = text.split_once("[Rust](https://rustup.rs) ").map_or("", |(_, after)| after);
        assert!(after.starts_with(version), "{file} does not require Rust {version}, as Cargo.toml does");
    }
}

#[test]
fn the_workflows_use_the_versions_of_the_dockerfile_and_of_ci() {
    let after = |file: &str, name: &str| {
        let text = read(file);
        let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("{file} has no {name:?}"));
        rest.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default().to_owned()
    };
    let rust = after("Dockerfile", "\nARG RUST=rust:");
    for file in ["ci.yml", "release.yml"].map(|name| format!(".github/workflows/{name}")) {
        for name in ["rustup toolchain install ", "rustup default "] {
            assert_eq!(after(&file, name), rust, "{file}: {name}");
        }
        // A tag can be moved, so the commit is named, with its tag for the reader.
        let text = read(&file);
        for line in text.lines().filter_map(|line| line.split_once("uses: ").map(|(_, action)| action)) {
            let (commit, tag) = line.split_once(" # v").expect("a tag");
            let commit = commit.split_once('@').map_or("", |(_, commit)| commit);
            assert!(commit.len() == 40 && tag.split('.').count() == 3, "{file}: {line}");
        }
    }
    assert_eq!(after(".github/workflows/ci.yml", "go-version: \""), after(".ci/go", "\nversion="));
}

/// deploy/releasing.md, "Where a build shows its version".
#[test]
fn a_build_shows_its_version_and_revision_everywhere() {
    let stdout = run_psystrike(&["--version"], &[]).stdout;
    let (version, revision) =
        stdout.trim_end_matches(")\n").split_once(" (").unwrap_or_else(|| panic!("{stdout:?}"));
    let version = version.strip_prefix("psystrike ").expect("its name first");
    let psystrike = Psystrike::start(&[]);
    psystrike.wait_for_line(&format!("version={version} revision={revision}"));
    let labels = format!("{{version=\"{version}\",revision=\"{revision}\"}}");
    assert_eq!(psystrike.metric(&format!("psystrike_build_info{labels}")), 1.0);
}

/// These files of the repository, and those below its folders of these names.
fn files(paths: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = paths.iter().map(|path| repository().join(path)).collect();
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.map(|entry| entry.expect("an entry").path())),
            Err(_) => files.push(path),
        }
    }
    files
}
