//! The real Prometheus, node exporter and promtool: started on free ports of loopback addresses, and queried over their
//! HTTP interfaces.

use std::{
    env,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    LIMIT, Scratch,
    exposition::{self, Labels, Samples},
    http::{Client, Response},
    program::Program,
    require_programs, require_variable,
};

/// Which of two releases of Prometheus to run.
#[derive(Clone, Copy, Debug)]
pub enum Release {
    /// The release in `PATH`: Debian's 2.42 in `.ci/run`.
    Installed,
    /// The release that `.ci/prometheus` builds, in the folder that the variable `NEWEST_PROMETHEUS` names.
    Newest,
}

const NEWEST: &str = "NEWEST_PROMETHEUS";

impl Release {
    /// Returns whether its `programs` are installed. If not, skips as [`require_programs`] does.
    pub fn require(self, programs: &[&str]) -> bool {
        match self {
            Self::Installed => require_programs(programs),
            Self::Newest => require_variable(NEWEST).is_some(),
        }
    }

    /// Returns the releases whose `programs` are installed. Skips the others as [`require_programs`] does.
    pub fn all_with(programs: &[&str]) -> Vec<Self> {
        [Self::Installed, Self::Newest].into_iter().filter(|release| release.require(programs)).collect()
    }

    fn command(self, program: &str) -> Command {
        match self {
            Self::Installed => Command::new(program),
            Self::Newest => {
                let folder = env::var_os(NEWEST).unwrap_or_else(|| panic!("{NEWEST} is not set"));
                Command::new(PathBuf::from(folder).join(program))
            }
        }
    }
}

/// A Prometheus that is ready.
pub struct Prometheus {
    program: Program,
    address: SocketAddr,
    major_version: u32,
}

impl Prometheus {
    /// Starts `release` with `scratch`'s prometheus.yml; its data goes there too.
    pub fn start(release: Release, scratch: &Scratch) -> Self {
        let mut command = release.command("prometheus");
        command.arg(format!("--config.file={}", scratch.path("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", scratch.path(&format!("data-{release:?}")).display()));
        command.arg("--web.listen-address=127.0.0.1:0");
        // 5 s by default, for which the newest waits before its first scrape.
        command.arg("--scrape.discovery-reload-interval=100ms");
        let program = Program::start(&mut command);
        let address = listening_address(&program);
        program.wait_for_line("Server is ready to receive web requests", LIMIT);
        let mut prometheus = Self { program, address, major_version: 0 };
        let build = prometheus.api("status/buildinfo");
        let major = build["version"].as_str().and_then(|version| version.split('.').next()?.parse().ok());
        prometheus.major_version = major.unwrap_or_else(|| panic!("no version in {build:#}"));
        prometheus
    }

    pub fn major_version(&self) -> u32 {
        self.major_version
    }

    /// The samples of a page as Prometheus stores them. Since 3.0 it writes `le` and `quantile` as OpenMetrics does:
    /// `1.0` for `1`.
    pub fn stored(&self, page: Samples) -> Samples {
        if self.major_version < 3 {
            return page;
        }
        let with_floats = |(mut labels, value): (Labels, String)| {
            for name in ["le", "quantile"] {
                if let Some(bound) = labels.get_mut(name).filter(|bound| bound.parse::<i64>().is_ok()) {
                    *bound += ".0";
                }
            }
            (labels, value)
        };
        page.into_iter().map(with_floats).collect()
    }

    /// Returns `data` of the response to a `GET` of `path` under /api/v1/, which must succeed.
    pub fn api(&self, path: &str) -> Value {
        let response = Client::connect(self.address).get(&format!("/api/v1/{path}"));
        let mut answer: Value = serde_json::from_slice(&response.body)
            .unwrap_or_else(|e| panic!("no JSON from Prometheus for {path}: {e}: {}", response.text()));
        assert_eq!(answer["status"], "success", "Prometheus's answer to {path}: {answer:#}");
        answer["data"].take()
    }

    /// Returns the current result of an instant query that yields a vector.
    pub fn query(&self, promql: &str) -> Samples {
        let data = self.api(&format!("query?query={}", percent_encoded(promql)));
        assert_eq!(data["resultType"], "vector", "the result of {promql}: {data:#}");
        let elements = data["result"].as_array().expect("a vector is an array");
        elements.iter().map(|element| (labels(&element["metric"]), value(&element["value"][1]))).collect()
    }

    /// The values that a label has in these series.
    pub fn label_values(&self, label: &str, series: &str) -> Vec<String> {
        let data = self.api(&format!("label/{label}/values?match[]={}", percent_encoded(series)));
        let values = data.as_array().expect("values are an array");
        values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    /// Returns the targets that it scrapes.
    pub fn targets(&self) -> Vec<Target> {
        let data = self.api("targets?state=active");
        let targets = data["activeTargets"].as_array().expect("activeTargets is an array");
        targets.iter().map(Target::from).collect()
    }

    /// Returns how many discovered targets it does not scrape after relabelling.
    pub fn dropped_targets(&self) -> usize {
        self.api("targets?state=dropped")["droppedTargets"].as_array().map_or(0, Vec::len)
    }

    /// Polls until `enough` holds, as its API offers no event to wait for. Returns whether that was within `limit`.
    pub fn wait_until(&self, limit: Duration, enough: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while !enough(self) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    pub fn stderr(&self) -> String {
        self.program.stderr()
    }
}

/// The entry of one target on the targets page.
#[derive(Debug)]
pub struct Target {
    pub labels: Labels,
    pub scrape_url: String,
    pub health: String,
    pub last_error: String,
}

impl From<&Value> for Target {
    fn from(target: &Value) -> Self {
        let text = |key: &str| target[key].as_str().unwrap_or_default().to_owned();
        Self {
            labels: labels(&target["labels"]),
            scrape_url: text("scrapeUrl"),
            health: text("health"),
            last_error: text("lastError"),
        }
    }
}

/// A node exporter that listens.
pub struct NodeExporter {
    _program: Program,
    address: SocketAddr,
}

impl NodeExporter {
    pub fn start(ip: &str) -> Self {
        Self::start_with(ip, &[])
    }

    pub fn start_with(ip: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("prometheus-node-exporter");
        command.arg(format!("--web.listen-address={ip}:0")).args(arguments);
        let program = Program::start(&mut command);
        let address = listening_address(&program);
        Self { _program: program, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Returns the output of `release`'s promtool, which must accept the file.
pub fn promtool(release: Release, arguments: &[&str], file: &Path) -> String {
    let mut command = release.command("promtool");
    command.args(arguments).arg(file);
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// The result of `promtool check metrics` for a page.
pub fn check_metrics(release: Release, page: &Response) -> Output {
    let mut promtool = release
        .command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start promtool: {e}"));
    let mut stdin = promtool.stdin.take().expect("stdin is piped");
    stdin.write_all(&page.body).expect("promtool reads the page");
    drop(stdin);
    promtool.wait_with_output().expect("promtool can be waited for")
}

/// Returns the bound address, which Prometheus's programs log as `msg="Listening on" address=127.0.0.1:41234`.
fn listening_address(program: &Program) -> SocketAddr {
    let line = program.wait_for_line("msg=\"Listening on\"", LIMIT);
    let address = line.split_once("address=").map(|(_, address)| address.trim());
    address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
}

fn labels(object: &Value) -> Labels {
    let members = object.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn value(text: &Value) -> String {
    text.as_str().and_then(exposition::value).unwrap_or_else(|| panic!("not a sample's value: {text}"))
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
