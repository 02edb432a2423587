//! Pods by IPv4 address, by IPv6 address and by name: each is up, redirecting, slow, dead and forbidden. One Prometheus
//! scrapes them directly and through `proxy_url`, over plain HTTP or TLS. It must store the same samples, and show
//! psystrike's reason for a pod that cannot be scraped.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use serde_json::{Value, json};

use super::{pages::PAGE, pods::SCRAPES, report::Report};
use crate::support::{
    Scratch,
    exposition::{self, Samples},
    pods::{Pod, Refusing, Then, Unanswering},
    prometheus::{Prometheus, Release, Target},
    psystrike::Psystrike,
    require_programs,
    servers::Servers,
    tls::make_certificate,
};

/// The hosts of targets, and the IP address at which their pods listen.
const HOSTS: [(&str, &str); 3] = [("127.25.0.1", "127.25.0.1"), ("[::1]", "::1"), ("localhost", "127.0.0.1")];
/// The host that is not an IP address.
const NAME: &str = HOSTS[2].0;

/// The protocol between Prometheus and the pods, and the errors for pods that cannot be scraped.
pub struct Scheme {
    pub name: &'static str,
    /// The end of the displayed error.
    pub shown: fn(Failure) -> String,
    /// More pods of the IPv4 address: their kind, and their displayed error.
    pub others: &'static [(&'static str, &'static str)],
}

/// The reason why a pod cannot be scraped.
#[derive(Clone, Copy)]
pub enum Failure {
    Forbidden,
    NameForbidden,
    Dead,
    Unanswering,
    Slow,
}

/// A target, and the expected result of its scrapes.
struct Case {
    /// The job, the value of the label `case`, and the address.
    job: &'static str,
    name: String,
    address: String,
    path: &'static str,
    /// The target of its redirect.
    to: String,
    /// The end of the displayed error. If empty, the samples have to be those of a direct scrape.
    error: String,
}

impl Case {
    fn target(&self) -> Value {
        let mut labels = json!({ "case": self.name, "__metrics_path__": self.path });
        if !self.to.is_empty() {
            labels["__param_to"] = self.to.as_str().into();
        }
        json!({ "targets": [self.address], "labels": labels })
    }
}

/// Pods that cannot be reached, and ports on which nothing listens.
struct Unreached {
    forbidden: Vec<Pod>,
    beyond: Pod,
    dead: Vec<Refusing>,
    unanswering: Unanswering,
    /// Connections are established, but not read.
    silent: TcpListener,
}

impl Unreached {
    fn start() -> Self {
        let pod = |ip| Pod::answering(ip, "HTTP/1.1 204 No Content\r\n\r\n", Then::Close);
        Self {
            forbidden: HOSTS.map(|(_, ip)| pod(ip)).into(),
            beyond: pod("127.66.0.1"),
            dead: HOSTS.map(|(_, ip)| Refusing::on(ip)).into(),
            unanswering: Unanswering::on("127.25.0.1"),
            silent: TcpListener::bind("127.25.0.1:0").expect("a listener"),
        }
    }
}

fn cases(scheme: &Scheme, servers: &Servers, unreached: &Unreached) -> Vec<Case> {
    let mut cases = Vec::new();
    for (nth, (host, _)) in HOSTS.into_iter().enumerate() {
        let at = |address: SocketAddr| format!("{host}:{}", address.port());
        let [pod, other] = [0, 1].map(|more| at(servers.addresses[2 * nth + more]));
        let dead = at(unreached.dead[nth].address());
        let forbidden = at(unreached.forbidden[nth].address());
        let mut add = |job, what: &str, address: &str, (path, to), error| {
            let (name, address) = (format!("{host} {what}"), address.to_owned());
            cases.push(Case { job, name, address, path, to, error });
        };
        let url = |address: &str| format!("{}://{address}/page", scheme.name);
        let page = || ("/page", String::new());
        let redirect = |to: String| ("/redirect", to);
        let shown = scheme.shown;
        add("through", "up", &pod, page(), String::new());
        add("through", "redirects to its path", &pod, redirect("/page".into()), String::new());
        add("through", "redirects to itself", &pod, redirect(url(&pod)), String::new());
        add("through", "redirects to another", &pod, redirect(url(&other)), String::new());
        let beyond = url(&unreached.beyond.address().to_string());
        add("through", "redirects beyond", &pod, redirect(beyond), shown(Failure::Forbidden));
        add("through", "slow", &pod, ("/slow", String::new()), shown(Failure::Slow));
        add("through", "dead", &dead, page(), shown(Failure::Dead));
        let failure = if host == NAME { Failure::NameForbidden } else { Failure::Forbidden };
        add("strict", "forbidden", &forbidden, page(), shown(failure));
    }
    let mut add = |name: &str, address: SocketAddr, error| {
        let (name, address, to) = (name.to_owned(), address.to_string(), String::new());
        cases.push(Case { job: "through", name, address, path: "/page", to, error });
    };
    for ((kind, error), address) in scheme.others.iter().zip(&servers.addresses[2 * HOSTS.len()..]) {
        add(kind, *address, format!("\": {error}"));
    }
    let silent = unreached.silent.local_addr().expect("it is bound");
    add("silent", silent, (scheme.shown)(Failure::Slow));
    add("unanswering", unreached.unanswering.address(), (scheme.shown)(Failure::Unanswering));
    cases
}

/// A configuration in JSON, which is YAML.
fn configuration(scheme: &Scheme, scratch: &Scratch, cases: &[Case], proxies: [&Psystrike; 2]) -> String {
    let job = |name: &str, proxy: Option<&Psystrike>, cases: Vec<&Case>| {
        let mut job = json!({
            "job_name": name,
            "scheme": scheme.name,
            "static_configs": Value::from_iter(cases.into_iter().map(Case::target)),
            "tls_config": { "ca_file": scratch.path("cert.pem") },
        });
        if let Some(proxy) = proxy {
            job["proxy_url"] = format!("http://{}", proxy.address()).into();
        }
        job
    };
    let of_job = |name: &str| cases.iter().filter(|case| case.job == name).collect();
    let jobs = [
        job("direct", None, cases.iter().filter(|case| case.error.is_empty()).collect()),
        job("through", Some(proxies[0]), of_job("through")),
        job("strict", Some(proxies[1]), of_job("strict")),
    ];
    let global = json!({ "scrape_interval": "1s", "scrape_timeout": "1s" });
    json!({ "global": global, "scrape_configs": jobs }).to_string()
}

pub fn pods_of_every_host(release: Release, scheme: &Scheme) {
    if !release.require(&["prometheus"]) || !require_programs(&["openssl", "python3"]) {
        return;
    }
    let scratch = Scratch::new(&format!("hosts-{}-{release:?}", scheme.name));
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    scratch.write("page", PAGE);
    let kind = if scheme.name == "https" { "tls" } else { "http" };
    let pods = HOSTS.iter().flat_map(|(_, ip)| [(kind, *ip); 2]);
    let others = scheme.others.iter().map(|(kind, _)| (*kind, HOSTS[0].1));
    let servers = Servers::start(&scratch, &pods.chain(others).collect::<Vec<_>>());
    let unreached = Unreached::start();
    let allow = ["--allow", "127.25.0.0/16", "--allow", "::1", "--allow", "127.0.0.1"];
    let more = ["--allow-connect", "--connect-timeout", "500ms"];
    let psystrike = Psystrike::start(&[&more[..], &allow].concat());
    let strict = Psystrike::start(&["--allow-connect", "--allow", "10.0.0.0/8"]);

    let cases = cases(scheme, &servers, &unreached);
    let configuration = configuration(scheme, &scratch, &cases, [&psystrike, &strict]);
    scratch.write("prometheus.yml", &configuration);
    let prometheus = Prometheus::start(release, &scratch);
    let settled = format!("count_over_time(up[5m]) >= {SCRAPES}");
    let scraped_directly = cases.iter().filter(|case| case.error.is_empty()).count();
    let in_time = prometheus.wait_until(Duration::from_secs(25), |prometheus| {
        prometheus.query(&settled).len() == cases.len() + scraped_directly
    });

    let mut report = Report::default();
    report.check(in_time, || format!("not every target was scraped {SCRAPES} times in time"));
    let targets = prometheus.targets();
    for case in &cases {
        check_target(case, &targets, &mut report);
        check_samples(case, &prometheus, &mut report);
    }
    for pod in unreached.forbidden.iter().chain([&unreached.beyond]) {
        report.check(pod.connections() == 0, || format!("{} was connected to", pod.address()));
    }
    report.conclude(&targets);
}

fn check_target(case: &Case, targets: &[Target], report: &mut Report) {
    let is_its = |target: &&Target| target.labels["case"] == case.name && target.labels["job"] == case.job;
    let Some(target) = targets.iter().find(is_its) else {
        return report.check(false, || format!("{}: no such target", case.name));
    };
    let Target { health, last_error, .. } = target;
    let as_expected = match case.error.as_str() {
        "" => health == "up" && last_error.is_empty(),
        error => health == "down" && last_error.ends_with(error),
    };
    report.check(as_expected, || format!("{}: {health}, {last_error:?}, not {:?}", case.name, case.error));
}

/// Compares the stored samples of a target with those of direct scrapes: labels except for the job, and values.
fn check_samples(case: &Case, prometheus: &Prometheus, report: &mut Report) {
    let stored = |job: &str| -> Samples {
        let samples = prometheus.query(&format!("{{job='{job}',case='{}'}}", case.name));
        let without_job = samples.into_iter().map(|(mut labels, value)| {
            labels.remove("job");
            (labels, value)
        });
        without_job.filter(|(labels, _)| labels["__name__"] != "scrape_duration_seconds").collect()
    };
    let name = &case.name;
    let scraped = stored(case.job);
    let of_page = scraped.keys().filter(|series| series["__name__"].starts_with("pod_")).count();
    if !case.error.is_empty() {
        return report.check(of_page == 0, || format!("{name}: a failed scrape stored {scraped:?}"));
    }
    let direct = stored("direct");
    report.check(scraped == direct, || format!("{name}:\n  scraped {scraped:?}\n  direct  {direct:?}"));
    let whole = exposition::parse(PAGE).len() + 1; // and the port's series
    report.check(of_page == whole, || format!("{name}: {of_page} series of {whole}"));
}
