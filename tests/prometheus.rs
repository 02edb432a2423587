//! The main job, end to end: a real Prometheus, the installed one and the newest, set up as the README tells users,
//! scrapes pods through the real binary. The pods stand on loopback addresses; `file_sd` stands in for the cluster that
//! knows of them. What Prometheus then has must be what a direct scrape of each pod gives, and what it shows of a pod
//! that cannot be scraped must be psystrike's own reason.

mod support;

use std::{io::Write, net::SocketAddr, time::Duration};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::{Value, json};
use support::{
    LIMIT, Scratch,
    exposition::{self, Labels, Samples},
    http::{Client, Response},
    pods::{Pod, Refusing, Then},
    prometheus::{NodeExporter, Prometheus, Release, Target, check_metrics},
    psystrike::Psystrike,
    require_programs, seed,
};

#[test]
fn prometheus_scrapes_every_kind_of_pod() {
    every_kind_of_pod(Release::Installed, &BY_PATH);
}

#[test]
fn prometheus_scrapes_every_kind_of_pod_through_proxy_url() {
    every_kind_of_pod(Release::Installed, &BY_PROXY_URL);
}

#[test]
fn newest_prometheus_scrapes_every_kind_of_pod() {
    every_kind_of_pod(Release::Newest, &BY_PATH);
}

#[test]
fn newest_prometheus_scrapes_every_kind_of_pod_through_proxy_url() {
    every_kind_of_pod(Release::Newest, &BY_PROXY_URL);
}

/// How Prometheus reaches pods through psystrike.
struct Way {
    name: &'static str,
    configuration: fn(SocketAddr) -> String,
    /// The target that reaches the pod at [`QUERY`].
    query: &'static str,
}

const BY_PATH: Way = Way { name: "by-path", configuration, query: QUERY };

/// A proxy must not modify the path (RFC 9110 section 7.7), and Prometheus encodes the `?`.
const BY_PROXY_URL: Way =
    Way { name: "by-proxy-url", configuration: proxy_configuration, query: "/metrics%3Fformat=prometheus" };

fn every_kind_of_pod(release: Release, way: &Way) {
    if !release.require(&["prometheus"]) || !require_programs(&["prometheus-node-exporter"]) {
        return;
    }
    let mut psystrike = start_psystrike();
    let pods = Pods::start();
    let mut scraped = pods.scraped(psystrike.address());
    if let Some(pod) = scraped.iter_mut().find(|pod| pod.name == "query" && way.query != QUERY) {
        pod.expected = Expected::Down("404 Not Found");
    }
    let at_first: Vec<Option<Response>> = scraped.iter().map(ScrapedPod::scrape_if_it_changes).collect();

    let scratch = Scratch::new(&format!("every-kind-of-pod-{}-{release:?}", way.name));
    let discovered = scraped.iter().map(|pod| pod.discovered("true")).chain([pods.unannotated()]);
    scratch.write("pods.json", &Value::from_iter(discovered).to_string());
    scratch.write("prometheus.yml", &(way.configuration)(psystrike.address()));
    let prometheus = Prometheus::start(release, &scratch);

    let settled = format!("count_over_time(up[5m]) >= {SCRAPES}");
    let in_time = prometheus.wait_until(Duration::from_secs(25), |prometheus| {
        prometheus.query(&settled).len() > scraped.len() // and the one more that is psystrike itself
    });

    let mut report = Report::default();
    report.check(in_time, || format!("not every target was scraped {SCRAPES} times in time"));
    pods.check_what_arrived(way.query, &mut report);
    let targets = prometheus.targets();
    for (pod, before) in scraped.iter().zip(at_first) {
        check_target(pod, &targets, &mut report);
        check_samples(pod, before, &prometheus, &mut report);
    }
    report.check(targets.len() == scraped.len() + 1, || format!("{} targets", targets.len()));
    report.check(prometheus.dropped_targets() == 1, || {
        "the pod without scrape annotation is not dropped".into()
    });
    let own = prometheus.query("psystrike_build_info{job='psystrike'}");
    report.check(own.len() == 1, || format!("of psystrike's own page: {own:?}"));

    let status = psystrike.terminate(LIMIT);
    report.check(status.success(), || format!("SIGTERM under scrapes ended with {status}"));
    report.conclude(&targets);
}

#[test]
fn own_metrics_pass_promtool() {
    let releases = Release::all_with(&["promtool"]);
    let psystrike = start_psystrike();
    let pod = Pod::answering("127.10.0.1", content_length(PAGE), Then::Keep);
    let refusing = Refusing::on("127.10.0.2");
    // So that the page has more to show than its zeros.
    for (address, status) in [
        (pod.address(), 200),
        (pod.address(), 200),
        (refusing.address(), 502),
        ("127.66.0.1:80".parse().unwrap(), 403),
    ] {
        let target = Psystrike::target(address, "/metrics");
        assert_eq!(psystrike.get(&target).status(), status, "{target}");
    }

    let page = psystrike.get("/metrics");

    let text = page.text();
    for release in releases {
        let check = check_metrics(release, &page);
        let complaints = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
        let accepted = check.status.success() && complaints.is_empty();
        assert!(accepted, "{release:?}: {}: {complaints}\nof\n{text}", check.status);
    }
    exposition::parse(&text);
}

/// How often each target is scraped before anything is judged: kept connections have been used again by then.
const SCRAPES: usize = 3;

/// The scrape timeout of [`configuration`] less psystrike's margin of a tenth.
const NO_ANSWER: &str = "504 no answer from the pod within 900ms";

/// Where the pods are; 127.66.0.0/16, where one more is, is left out.
fn start_psystrike() -> Psystrike {
    Psystrike::start(&["--allow", "127.10.0.0/16", "--allow", "127.0.0.1/32", "--allow", "::1/128"])
}

/// The relabelling is what users have had since the original psystrike: only the address is ours.
fn configuration(psystrike: SocketAddr) -> String {
    let relabel_configs = seed::relabel_configs(&psystrike.to_string()).replace('\n', "\n    ");
    format!(
        r"
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
- job_name: 'psystrike'
  static_configs:
    - targets: ['{psystrike}']
- job_name: 'kubernetes-pods'
  file_sd_configs:
    - files: [pods.json]
  relabel_configs:
    {relabel_configs}
"
    )
}

/// One line instead of rules for the way: what relabelling there is would be the same without psystrike.
fn proxy_configuration(psystrike: SocketAddr) -> String {
    format!(
        r"
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
- job_name: 'psystrike'
  static_configs:
    - targets: ['{psystrike}']
- job_name: 'kubernetes-pods'
  proxy_url: http://{psystrike}
  file_sd_configs:
    - files: [pods.json]
  relabel_configs:
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
      action: keep
      regex: true
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scheme]
      target_label: __scheme__
      regex: (https?)
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path]
      target_label: __metrics_path__
      regex: (.+)
    - source_labels: [__address__]
      target_label: instance
    - source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port]
      target_label: __address__
      regex: (.+):\d+;(\d+)
      replacement: $1:$2
    - action: labelmap
      regex: __meta_kubernetes_pod_label_(.+)
    - source_labels: [__meta_kubernetes_namespace]
      target_label: kubernetes_namespace
    - source_labels: [__meta_kubernetes_pod_name]
      target_label: kubernetes_pod_name
    - source_labels: [__meta_kubernetes_pod_node_name]
      target_label: kubernetes_pod_node_name
"
    )
}

/// A pod as the cluster knows it, and what is to come of its scrapes.
struct ScrapedPod {
    name: &'static str,
    /// As discovered, with the container's port.
    address: SocketAddr,
    /// Annotated, and the one that counts.
    port: u16,
    path: Option<&'static str>,
    expected: Expected,
}

/// A path here is where a direct scrape finds the page.
enum Expected {
    /// The same series with the same values.
    Samples(&'static str),
    /// The same series; their values change with every scrape.
    Series(&'static str),
    /// No samples, and this in the error that Prometheus shows.
    Down(&'static str),
}

impl ScrapedPod {
    fn new(name: &'static str, address: SocketAddr, path: &'static str, expected: Expected) -> Self {
        Self { name, address, port: address.port(), path: Some(path), expected }
    }

    /// As service discovery would give it, with the annotation `prometheus.io/scrape`.
    fn discovered(&self, scrape: &str) -> Value {
        let mut labels = json!({
            "__meta_kubernetes_namespace": "default",
            "__meta_kubernetes_pod_name": self.name,
            "__meta_kubernetes_pod_node_name": "node-1",
            "__meta_kubernetes_pod_label_app": format!("app-{}", self.name),
            "__meta_kubernetes_pod_annotation_prometheus_io_scheme": "http",
            "__meta_kubernetes_pod_annotation_prometheus_io_scrape": scrape,
            "__meta_kubernetes_pod_annotation_prometheus_io_port": self.port.to_string(),
        });
        if let Some(path) = self.path {
            labels["__meta_kubernetes_pod_annotation_prometheus_io_path"] = path.into();
        }
        json!({ "targets": [self.address.to_string()], "labels": labels })
    }

    /// What Prometheus must attach to the pod's samples.
    fn target_labels(&self) -> Labels {
        let labels = [
            ("job", "kubernetes-pods"),
            ("instance", &self.address.to_string()),
            ("app", &format!("app-{}", self.name)),
            ("kubernetes_namespace", "default"),
            ("kubernetes_pod_name", self.name),
            ("kubernetes_pod_node_name", "node-1"),
        ];
        labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    fn is_up(&self) -> bool {
        !matches!(self.expected, Expected::Down(_))
    }

    fn scrape_directly(&self, path: &str) -> Response {
        Client::connect(SocketAddr::new(self.address.ip(), self.port)).get(path)
    }

    fn scrape_if_it_changes(&self) -> Option<Response> {
        match self.expected {
            Expected::Series(path) => Some(self.scrape_directly(path)),
            Expected::Samples(_) | Expected::Down(_) => None,
        }
    }
}

/// All the pods of the cluster.
struct Pods {
    length: Pod,
    chunked: Pod,
    until_close_1_0: Pod,
    until_close_1_1: Pod,
    gzip: Pod,
    long: Pod,
    interim: Pod,
    redirect_path: Pod,
    redirect_url: Pod,
    query: Pod,
    pathless: Pod,
    hangs_up: Pod,
    talks_on: Pod,
    node_exporter: NodeExporter,
    slow: Pod,
    dead: Refusing,
    warming_up: Pod,
    cut_length: Pod,
    cut_chunked: Pod,
    reset: Pod,
    forbidden: Pod,
}

impl Pods {
    fn start() -> Self {
        let some_lines = &PAGE[..PAGE.find("# HELP pod_state").expect("it has this metric")];
        let long = format!("{}{PAGE}", "# Long enough for backpressure on the way.\n".repeat(100_000));
        Self {
            length: Pod::answering("127.10.0.1", content_length(PAGE), Then::Keep),
            chunked: Pod::answering("127.10.3.7", chunked(PAGE), Then::Keep),
            until_close_1_0: Pod::answering("127.10.200.254", until_close("HTTP/1.0", PAGE), Then::Close),
            until_close_1_1: Pod::answering("::1", until_close("HTTP/1.1", PAGE), Then::Close),
            gzip: Pod::answering("127.10.0.4", gzip(PAGE), Then::Keep),
            long: Pod::answering("127.10.0.5", chunked(&long), Then::Keep),
            interim: Pod::answering(
                "127.10.0.6",
                format!("HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n{}", content_length(PAGE)),
                Then::Keep,
            ),
            redirect_path: redirecting("127.10.0.7", |_| "/new".to_owned()),
            redirect_url: redirecting("::1", |pod| format!("http://{pod}/new")),
            query: only_at("/metrics?format=prometheus", "127.10.0.9"),
            pathless: only_at("/metrics", "::1"),
            hangs_up: Pod::answering("127.10.0.11", content_length(PAGE), Then::Close),
            talks_on: Pod::answering(
                "127.10.0.12",
                content_length(PAGE) + &content_length("pod_lies_total 1\n"),
                Then::Keep,
            ),
            node_exporter: NodeExporter::start("127.10.0.13"),
            slow: Pod::serve("127.10.1.1", |_, client| {
                client.take_rest(LIMIT); // until it is given up
                Ok(Then::Close)
            }),
            dead: Refusing::on("127.10.1.2"),
            warming_up: Pod::answering(
                "127.10.1.3",
                "HTTP/1.1 503 Warming Up\r\nContent-Length: 8\r\n\r\nnot yet\n",
                Then::Keep,
            ),
            cut_length: Pod::answering("127.10.1.4", half_of(content_length(PAGE)), Then::Close),
            cut_chunked: Pod::answering("127.10.1.5", half_of(chunked(PAGE)), Then::Close),
            reset: Pod::answering("127.10.1.6", until_close("HTTP/1.1", some_lines), Then::Reset),
            forbidden: Pod::answering("127.66.0.1", content_length(PAGE), Then::Keep),
        }
    }

    /// All those that are to be scraped, psystrike as a pod of its own among them.
    fn scraped(&self, psystrike: SocketAddr) -> Vec<ScrapedPod> {
        use Expected::{Down, Samples, Series};
        let pod = ScrapedPod::new;
        let another_port = SocketAddr::new(self.length.address().ip(), 1);
        vec![
            ScrapedPod {
                address: another_port,
                ..pod("length", self.length.address(), "/metrics", Samples("/"))
            },
            pod("chunked", self.chunked.address(), "/metrics", Samples("/")),
            pod("until-close-1-0", self.until_close_1_0.address(), "/metrics", Samples("/")),
            pod("until-close-1-1", self.until_close_1_1.address(), "/metrics", Samples("/")),
            pod("gzip", self.gzip.address(), "/metrics", Samples("/")),
            pod("long", self.long.address(), "/metrics", Samples("/")),
            pod("interim", self.interim.address(), "/metrics", Samples("/")),
            pod("redirect-path", self.redirect_path.address(), "/old", Samples("/new")),
            pod("redirect-url", self.redirect_url.address(), "/old", Samples("/new")),
            pod("query", self.query.address(), QUERY, Samples(QUERY)),
            ScrapedPod { path: None, ..pod("pathless", self.pathless.address(), "", Samples("/metrics")) },
            pod("hangs-up", self.hangs_up.address(), "/metrics", Samples("/")),
            pod("talks-on", self.talks_on.address(), "/metrics", Samples("/")),
            pod("node-exporter", self.node_exporter.address(), "/metrics", Series("/metrics")),
            pod("psystrike", psystrike, "/metrics", Series("/metrics")),
            pod("slow", self.slow.address(), "/metrics", Down(NO_ANSWER)),
            pod("dead", self.dead.address(), "/metrics", Down("502 pod refused the connection")),
            pod("warming-up", self.warming_up.address(), "/metrics", Down("503 Warming Up")),
            pod("cut-length", self.cut_length.address(), "/metrics", Down("unexpected EOF")),
            pod("cut-chunked", self.cut_chunked.address(), "/metrics", Down("unexpected EOF")),
            pod("reset", self.reset.address(), "/metrics", Down("connection reset by peer")),
            pod("forbidden", self.forbidden.address(), "/metrics", Down("403 destination not allowed")),
        ]
    }

    /// One more that the relabelling must drop.
    fn unannotated(&self) -> Value {
        let unannotated =
            ScrapedPod::new("unannotated", self.forbidden.address(), "/metrics", Expected::Down(""));
        unannotated.discovered("false")
    }

    /// Judges what has reached the pods, before direct scrapes do.
    fn check_what_arrived(&self, query: &str, report: &mut Report) {
        let kept = [("length", &self.length), ("chunked", &self.chunked), ("gzip", &self.gzip)];
        for (name, pod) in kept {
            let seen = pod.seen();
            report.check(seen.heads.len() >= SCRAPES && seen.accepted == 1, || {
                format!("{name}: {} scrapes over {} connections, not one", seen.heads.len(), seen.accepted)
            });
        }
        let not_kept = [("hangs-up", &self.hangs_up), ("talks-on", &self.talks_on)];
        for (name, pod) in not_kept {
            let seen = pod.seen();
            report.check(seen.heads.len() >= SCRAPES && seen.accepted >= seen.heads.len(), || {
                format!("{name}: {} scrapes over {} connections", seen.heads.len(), seen.accepted)
            });
        }
        let seen = self.forbidden.seen();
        report.check(seen.accepted == 0, || format!("the forbidden pod was connected to: {seen:?}"));
        let seen = self.slow.seen();
        report
            .check(seen.ended > 0, || format!("the slow pod's connections outlived their scrapes: {seen:?}"));
        self.check_heads(query, report);
    }

    fn check_heads(&self, query: &str, report: &mut Report) {
        for (pod, start_line) in [
            (&self.length, "/metrics"),
            (&self.redirect_url, "/old"),
            (&self.query, query),
            (&self.pathless, "/metrics"),
        ] {
            let start_line = format!("GET {start_line} HTTP/1.1");
            let Some(head) = pod.heads().into_iter().next() else {
                report.check(false, || format!("nothing reached the pod for {start_line}"));
                continue;
            };
            report
                .check(head.start_line() == start_line, || format!("{start_line} reached a pod as {head:?}"));
            let address = pod.address().to_string();
            for (name, value) in [
                ("Host", address.as_str()),
                ("Via", "1.1 psystrike"),
                ("Accept-Encoding", "gzip"),
                ("X-Prometheus-Scrape-Timeout-Seconds", "1"),
            ] {
                let values = head.values(name);
                report
                    .check(values == [value], || format!("not {name}: {value}, but {values:?} in {head:?}"));
            }
            let agent = head.field("User-Agent").unwrap_or_default();
            report.check(agent.starts_with("Prometheus/"), || format!("User-Agent is lost in {head:?}"));
            report.check(head.field("Accept").is_some(), || format!("Accept is lost in {head:?}"));
        }
    }
}

const QUERY: &str = "/metrics?format=prometheus";

/// Prometheus's own view of the target.
fn check_target(pod: &ScrapedPod, targets: &[Target], report: &mut Report) {
    let named =
        |target: &&Target| target.labels.get("kubernetes_pod_name").is_some_and(|name| name == pod.name);
    let Some(target) = targets.iter().find(named) else {
        return report.check(false, || format!("{}: no such target", pod.name));
    };
    let expected = pod.target_labels();
    report.check(target.labels == expected, || format!("{}: labels {:?}", pod.name, target.labels));
    let (health, error) = match pod.expected {
        Expected::Samples(_) | Expected::Series(_) => ("up", ""),
        Expected::Down(error) => ("down", error),
    };
    let (shown_health, shown_error) = (&target.health, &target.last_error);
    let as_expected =
        shown_health == health && shown_error.contains(error) && (error.is_empty() == shown_error.is_empty());
    report.check(as_expected, || {
        format!("{}: {shown_health}, {shown_error:?}; not {health}, {error:?}", pod.name)
    });
}

/// What Prometheus has of the pod, against what the pod gives.
fn check_samples(pod: &ScrapedPod, before: Option<Response>, prometheus: &Prometheus, report: &mut Report) {
    let name = pod.name;
    let up = if pod.is_up() { "1" } else { "0" };
    for bound in ["min", "max"] {
        let ups = prometheus.query(&format!("{bound}_over_time(up{{kubernetes_pod_name='{name}'}}[5m])"));
        report.check(ups.values().eq([up]), || format!("{name}: {bound} of up is {ups:?}"));
    }
    let scraped = prometheus.query(&format!("{{kubernetes_pod_name='{name}'}}"));
    let Some(scraped) = without_target(pod, scraped, report) else { return };
    match pod.expected {
        Expected::Down(_) => {
            report.check(scraped.is_empty(), || format!("{name}: of a failed scrape came {scraped:?}"));
        }
        Expected::Samples(path) => {
            let direct = prometheus.stored(samples(&pod.scrape_directly(path)));
            report
                .check(scraped == direct, || format!("{name}:\n  scraped {scraped:?}\n  direct  {direct:?}"));
        }
        Expected::Series(path) => {
            let before = prometheus.stored(samples(&before.expect("it was scraped at first")));
            let after = prometheus.stored(samples(&pod.scrape_directly(path)));
            check_series(name, &scraped, &before, &after, report);
        }
    }
}

/// Takes the target's labels off its samples, and the samples away that Prometheus adds of its own.
fn without_target(pod: &ScrapedPod, scraped: Samples, report: &mut Report) -> Option<Samples> {
    let target_labels = pod.target_labels();
    let mut samples = Samples::new();
    for (mut labels, value) in scraped {
        for (name, value) in &target_labels {
            if labels.remove(name).as_ref() != Some(value) {
                report.check(false, || format!("{}: not {name}={value:?} with {labels:?}", pod.name));
                return None;
            }
        }
        let name = &labels["__name__"];
        if name != "up" && !name.starts_with("scrape_") {
            samples.insert(labels, value);
        }
    }
    Some(samples)
}

/// A series may come or go meanwhile: then it is in only one of the direct scrapes.
fn check_series(name: &str, scraped: &Samples, before: &Samples, after: &Samples, report: &mut Report) {
    let lost = before.keys().filter(|series| after.contains_key(*series) && !scraped.contains_key(*series));
    let lost: Vec<_> = lost.collect();
    report.check(lost.is_empty(), || format!("{name}: lost on the way: {lost:?}"));
    let made_up =
        scraped.keys().filter(|series| !before.contains_key(*series) && !after.contains_key(*series));
    let made_up: Vec<_> = made_up.collect();
    report.check(made_up.is_empty(), || format!("{name}: made up on the way: {made_up:?}"));
    let infos = |samples: &Samples| -> Samples {
        let infos = samples.iter().filter(|(series, _)| series["__name__"].ends_with("_info"));
        infos.map(|(series, value)| (series.clone(), value.clone())).collect()
    };
    let (scraped, after) = (infos(scraped), infos(after));
    report.check(!after.is_empty() && scraped == after, || {
        format!("{name}:\n  scraped infos {scraped:?}\n  direct infos  {after:?}")
    });
}

/// The samples of a directly scraped page.
fn samples(page: &Response) -> Samples {
    assert_eq!(page.status(), 200, "the direct scrape's answer: {page:?}");
    if page.head.field("Content-Encoding").is_none() {
        return exposition::parse(&page.text());
    }
    let text = std::io::read_to_string(GzDecoder::new(page.body.as_slice()));
    exposition::parse(&text.expect("the body is gzip"))
}

/// All that was found wrong, so that one run shows it.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    fn conclude(self, targets: &[Target]) {
        assert!(self.0.is_empty(), "{}\nPrometheus's targets: {targets:#?}", self.0.join("\n"));
    }
}

/// Every kind of value and of character that the text format has.
const PAGE: &str = r#"# HELP pod_requests_total Requests.
# TYPE pod_requests_total counter
pod_requests_total{code="200",path="/a b"} 1.2345678e+07
pod_requests_total{code="500",path="C:\\\"quoted\"\nnext"} 0
# HELP pod_duration_seconds Durations.
# TYPE pod_duration_seconds histogram
pod_duration_seconds_bucket{le="0.005"} 3
pod_duration_seconds_bucket{le="+Inf"} 7
pod_duration_seconds_sum 0.125
pod_duration_seconds_count 7
# HELP pod_state States, 日本 among them.
# TYPE pod_state gauge
pod_state{zone="日本"} NaN
pod_state{zone="above"} +Inf
pod_state{zone="below"} -Inf
pod_state{zone=""} -273.15
"#;

const FIELDS: &str = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n";

fn content_length(page: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{FIELDS}Content-Length: {}\r\n\r\n{page}", page.len())
}

/// In pieces of growing size, with extensions and a trailer.
fn chunked(page: &str) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    let (mut rest, mut size) = (page.as_bytes(), 1);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        write!(answer, "{:X};piece;of=\"a;page\"\r\n", piece.len()).unwrap();
        answer.extend_from_slice(piece);
        answer.extend_from_slice(b"\r\n");
        rest = after;
        size = (size * 3).min(100_000);
    }
    answer.extend_from_slice(b"0\r\nX-Page-Checksum: none\r\n\r\n");
    answer
}

fn until_close(version: &str, page: &str) -> String {
    format!("{version} 200 OK\r\n{FIELDS}\r\n{page}")
}

fn gzip(page: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(page.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let fields = format!("{FIELDS}Content-Encoding: gzip\r\nContent-Length: {}\r\n", packed.len());
    [format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes(), &packed].concat()
}

fn half_of(answer: impl AsRef<[u8]>) -> Vec<u8> {
    let answer = answer.as_ref();
    let head_length = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    answer[..head_length + (answer.len() - head_length) / 2].to_vec()
}

/// Serves the page only where exactly `target` is asked for.
fn only_at(target: &'static str, ip: &str) -> Pod {
    Pod::serve(ip, move |head, client| {
        let answer = if head.target() == target { content_length(PAGE) } else { NOT_FOUND.to_owned() };
        client.send(answer).map(|()| Then::Keep)
    })
}

/// Serves the page at /new, and sends who asks for /old to the location that it has for its own address.
fn redirecting(ip: &str, location: fn(SocketAddr) -> String) -> Pod {
    Pod::serve(ip, move |head, client| {
        let own = client.stream().local_addr()?;
        let answer = match head.target().as_str() {
            "/new" => content_length(PAGE),
            "/old" => {
                format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", location(own))
            }
            _ => NOT_FOUND.to_owned(),
        };
        client.send(answer).map(|()| Then::Keep)
    })
}

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
