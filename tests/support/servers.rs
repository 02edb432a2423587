//! Pods in a separate program. Some of them speak TLS.

use std::{net::SocketAddr, process::Command};

use super::{LIMIT, Scratch, program::Program, repository};

/// The pods of servers.py, which documents their responses.
pub struct Servers {
    _program: Program,
    pub addresses: Vec<SocketAddr>,
}

impl Servers {
    /// Starts a pod for each kind and IP address. The pages, and the certificate and key for TLS, are in `folder`.
    pub fn start(folder: &Scratch, pods: &[(&str, &str)]) -> Self {
        let mut command = Command::new("python3");
        command.arg(repository().join("tests/support/servers.py")).arg(folder.path(""));
        command.args(pods.iter().map(|(kind, ip)| format!("{kind}={ip}")));
        let program = Program::start(&mut command);
        let lines = program.wait_for_lines("listening on port", pods.len(), LIMIT);
        let address = |(line, (_, ip)): (&String, &(&str, &str))| {
            let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port");
            SocketAddr::new(ip.parse().expect("an address"), port)
        };
        let addresses = lines.iter().zip(pods).map(address).collect();
        Self { _program: program, addresses }
    }
}
