//! The pods of a cluster, the expected results of their scrapes, and the requests that must reach them.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    pages::{NOT_FOUND, PAGE, chunked, content_length, gzip, half_of, until_close},
    report::Report,
};
use crate::support::{
    LIMIT,
    exposition::Labels,
    http::{Client, Response},
    pods::{Pod, Refusing, Then},
    prometheus::NodeExporter,
};

/// The number of scrapes of each target before the checks: persistent connections have been reused by then.
pub const SCRAPES: usize = 3;

/// The scrape timeout of each configuration less psystrike's margin of a tenth.
pub const NO_ANSWER: &str = "504 no response from the pod within 900ms";

/// A pod in the cluster, and the expected result of its scrapes.
pub struct ScrapedPod {
    pub name: &'static str,
    /// As discovered, with the container's port.
    pub address: SocketAddr,
    /// The annotated address, which is the one to scrape.
    pub port: u16,
    pub path: Option<&'static str>,
    pub expected: Expected,
}

/// A path is that of the page in a direct scrape.
pub enum Expected {
    /// The same series with the same values.
    Samples(&'static str),
    /// The same series; their values change with every scrape.
    Series(&'static str),
    /// No samples, and this text in the error that Prometheus shows.
    Down(&'static str),
}

impl ScrapedPod {
    pub fn new(name: &'static str, address: SocketAddr, path: &'static str, expected: Expected) -> Self {
        Self { name, address, port: address.port(), path: Some(path), expected }
    }

    /// Returns the pod as service discovery would, with the annotation `prometheus.io/scrape`.
    pub fn discovered(&self, scrape: &str) -> Value {
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

    /// Returns the labels that Prometheus must attach to the pod's samples.
    pub fn target_labels(&self) -> Labels {
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

    pub fn is_up(&self) -> bool {
        !matches!(self.expected, Expected::Down(_))
    }

    pub fn scrape_directly(&self, path: &str) -> Response {
        Client::connect(SocketAddr::new(self.address.ip(), self.port)).get(path)
    }

    pub fn scrape_if_it_changes(&self) -> Option<Response> {
        match self.expected {
            Expected::Series(path) => Some(self.scrape_directly(path)),
            Expected::Samples(_) | Expected::Down(_) => None,
        }
    }
}

/// All the pods of the cluster.
pub struct Pods {
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
    pub fn start() -> Self {
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
                client.take_rest(LIMIT); // until psystrike closes it
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

    /// Returns all pods that must be scraped, including psystrike itself.
    pub fn scraped(&self, psystrike: SocketAddr) -> Vec<ScrapedPod> {
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

    /// Returns another pod, which the relabelling must drop.
    pub fn unannotated(&self) -> Value {
        let unannotated =
            ScrapedPod::new("unannotated", self.forbidden.address(), "/metrics", Expected::Down(""));
        unannotated.discovered("false")
    }

    /// Checks the requests that reached the pods, before direct scrapes do.
    pub fn check_what_arrived(&self, query: &str, report: &mut Report) {
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

    pub fn check_heads(&self, query: &str, report: &mut Report) {
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

pub const QUERY: &str = "/metrics?format=prometheus";

/// Serves the page only for exactly this `target`.
fn only_at(target: &'static str, ip: &str) -> Pod {
    Pod::serve(ip, move |head, client| {
        let answer = if head.target() == target { content_length(PAGE) } else { NOT_FOUND.to_owned() };
        client.send(answer).map(|()| Then::Keep)
    })
}

/// Serves the page at /new, and redirects /old to the location that `location` returns for its address.
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
