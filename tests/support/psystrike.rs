//! Runs the real binary: with the given arguments and without settings from the environment. Its log shows when it is
//! ready.

use std::{
    env,
    ffi::OsStr,
    net::SocketAddr,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{
    LIMIT, exposition,
    http::{Client, Response},
    process::Process,
    program::{Program, Signal},
};

/// A running psystrike.
pub struct Psystrike {
    program: Program,
    addresses: Vec<SocketAddr>,
}

impl Psystrike {
    /// Starts it, on a free port of 127.0.0.1 if `arguments` have no `--listen`.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with_env(arguments, &[])
    }

    /// Starts it with environment variables.
    pub fn start_with_env(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command();
        command.envs(variables.iter().copied());
        Self::start_command(command, arguments)
    }

    /// Starts it by another command, whose last arguments are its command line.
    pub fn start_under(wrapper: &[&str], arguments: &[&str]) -> Self {
        Self::start_binary_under(Path::new(BINARY), wrapper, arguments)
    }

    /// Starts another build of it in the same way.
    pub fn start_binary_under(binary: &Path, wrapper: &[&str], arguments: &[&str]) -> Self {
        let mut command = without_settings(wrapper[0]);
        command.args(&wrapper[1..]).arg(binary);
        Self::start_command(command, arguments)
    }

    /// Starts it with this open-files limit.
    pub fn start_with_open_files(most: usize, arguments: &[&str]) -> Self {
        let limit = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
        Self::start_under(&["sh", "-c", &limit], arguments)
    }

    fn start_command(mut command: Command, arguments: &[&str]) -> Self {
        command.args(arguments);
        let given = arguments.iter().filter(|a| **a == "--listen" || a.starts_with("--listen=")).count();
        let by_variable =
            command.get_envs().any(|(name, value)| name == "PSYSTRIKE_LISTEN" && value.is_some());
        if given == 0 && !by_variable {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let program = Program::start(&mut command);
        let lines = program.wait_for_lines(LISTENING, given.max(1), LIMIT);
        let addresses = lines.iter().map(|line| address_in(line)).collect();
        Self { program, addresses }
    }

    /// Returns the first address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Returns all addresses that it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Sends a `GET` on a connection of its own, and returns the response.
    pub fn get(&self, target: &str) -> Response {
        self.client().get(target)
    }

    /// Returns the request target for a scrape of `path` on `pod`.
    pub fn target(pod: SocketAddr, path: &str) -> String {
        match pod {
            SocketAddr::V4(pod) => format!("/pods/{}/{}{path}", pod.ip(), pod.port()),
            SocketAddr::V6(pod) => format!("/pods/[{}]/{}{path}", pod.ip(), pod.port()),
        }
    }

    pub fn wait_for_line(&self, part: &str) -> String {
        self.program.wait_for_line(part, LIMIT)
    }

    pub fn wait_for_lines(&self, part: &str, count: usize) -> Vec<String> {
        self.program.wait_for_lines(part, count, LIMIT)
    }

    pub fn stderr(&self) -> String {
        self.program.stderr()
    }

    /// Returns the started process: psystrike's own, unless another command runs psystrike as a child.
    pub fn process(&self) -> Process {
        self.program.process()
    }

    /// Returns the current value of a series on its `/metrics`, given as `name` or `name{label="value"}`. Requested on
    /// a connection of its own, which is counted too.
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.get("/metrics").text();
        let samples = exposition::parse(&page);
        let (labels, _) = exposition::sample(&format!("{series} 0")).expect("a series");
        let value = samples.get(&labels).unwrap_or_else(|| panic!("no {series} in\n{page}"));
        value.parse().expect("a sample's value is a number")
    }

    /// Returns how many exchanges have ended with this outcome.
    pub fn outcomes(&self, label: &str) -> f64 {
        self.metric(&format!("psystrike_outcomes_total{{outcome=\"{label}\"}}"))
    }

    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.program.wait(limit)
    }

    /// Sends SIGTERM, and returns the exit status.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }
}

/// Starts it on a free port of 127.0.0.1 with another stderr, which is not read here. Returns its address too.
pub fn start_with_stderr(arguments: &[&str], stderr: impl Into<Stdio>) -> (Program, SocketAddr) {
    let mut command = command();
    command.args(["--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8"]).args(arguments);
    let program = Program::start_with_stderr(&mut command, stderr.into());
    let address = program.process().wait_for_listeners(1)[0];
    (program, address)
}

/// Starts another build of it in the same way, by another command.
pub fn start_binary_with_stderr(
    binary: &Path,
    wrapper: &[&str],
    arguments: &[&str],
    stderr: impl Into<Stdio>,
) -> (Program, SocketAddr) {
    let mut command = without_settings(wrapper[0]);
    command.args(&wrapper[1..]).arg(binary).args(["--listen", "127.0.0.1:0"]).args(arguments);
    let program = Program::start_with_stderr(&mut command, stderr.into());
    let address = program.process().wait_for_listeners(1)[0];
    (program, address)
}

/// The result of a run that ends by itself: `--help`, `--version`, a usage error.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it until it ends by itself.
pub fn run(arguments: &[impl AsRef<OsStr>], variables: &[(&str, &str)]) -> Ended {
    let mut program = Program::start(command().args(arguments).envs(variables.iter().copied()));
    let status = program.wait(LIMIT);
    Ended { status, stdout: program.whole_stdout(), stderr: program.stderr() }
}

/// Runs another program, which runs psystrike, until it ends by itself.
pub fn run_under(wrapper: &str, arguments: &[&str]) -> Ended {
    let mut program = Program::start(without_settings(wrapper).args(arguments));
    let status = program.wait(LIMIT);
    Ended { status, stdout: program.whole_stdout(), stderr: program.stderr() }
}

/// The text before an address in the log line for it, in every log format.
const LISTENING: &str = "listening";

pub const BINARY: &str = env!("CARGO_BIN_EXE_psystrike");

/// Returns its command, without settings from the environment.
pub fn command() -> Command {
    without_settings(BINARY)
}

fn without_settings(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PSYSTRIKE_") {
            command.env_remove(name);
        }
    }
    command
}

fn address_in(line: &str) -> SocketAddr {
    let (_, after) = line.split_once("address").unwrap_or_else(|| panic!("no address in {line:?}"));
    let address = after.trim_start_matches(['=', '"', ':']).split([' ', '"']).next().unwrap_or_default();
    address.parse().unwrap_or_else(|e| panic!("no address in {line:?}: {e}"))
}
