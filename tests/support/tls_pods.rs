//! Pods of Go's net/http, as most exporters are. Most of them speak TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{LIMIT, Scratch, program::Program, repository};

/// The pods of tls_pods.go, which documents their kinds and page.
pub struct TlsPods {
    _program: Program,
    pub addresses: Vec<SocketAddr>,
}

impl TlsPods {
    /// Builds and starts a pod for each kind, IP address and name of the files in `folder`.
    pub fn start(folder: &Scratch, pods: &[(&str, &str, &str)]) -> Self {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        let mut command = Command::new(BINARY.get_or_init(build));
        command.arg(folder.path("")).args(pods.iter().map(|(kind, ip, name)| format!("{kind}={ip}={name}")));
        let program = Program::start(&mut command);
        let lines = program.wait_for_lines("listening on port", pods.len(), LIMIT);
        let address = |(line, (_, ip, _)): (&String, &(&str, &str, &str))| {
            let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port");
            SocketAddr::new(ip.parse().expect("an address"), port)
        };
        let addresses = lines.iter().zip(pods).map(address).collect();
        Self { _program: program, addresses }
    }
}

/// Builds tls_pods.go, once for all tests of a process.
fn build() -> PathBuf {
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls-pods");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&binary).arg(repository().join("tests/support/tls_pods.go"));
    let output = go.env("GOTOOLCHAIN", "local").output().expect("go runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    binary
}
