//! Certificates, made by openssl, and pods that serve their metrics over TLS.

use std::{net::SocketAddr, path::Path, process::Command};

use super::{LIMIT, Scratch, program::Program, repository};

/// Makes a self-signed certificate for 127.25.0.1, ::1 and localhost, and its key.
pub fn make_certificate(certificate: &Path, key: &Path) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args([
        "-days",
        "2",
        "-subj",
        "/CN=pod",
        "-addext",
        "subjectAltName=IP:127.25.0.1,IP:::1,DNS:localhost",
    ]);
    command.arg("-keyout").arg(key).arg("-out").arg(certificate);
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A pod that serves a page of 16 KiB over TLS, by tests/prometheus_tls.py.
pub struct TlsPod {
    _program: Program,
    address: SocketAddr,
}

impl TlsPod {
    /// Starts one at a free port of `ip`, with the certificate and the key that `scratch` has: cert.pem and key.pem.
    pub fn start(scratch: &Scratch, ip: &str) -> Self {
        let mut command = Command::new("python3");
        command.arg(repository().join("tests/prometheus_tls.py"));
        command.args([scratch.path("cert.pem"), scratch.path("key.pem")]).arg(ip);
        let program = Program::start(&mut command);
        let line = program.wait_for_line("listening on port", LIMIT);
        let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port");
        Self { _program: program, address: SocketAddr::new(ip.parse().expect("an address"), port) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
