//! Certificates, made by openssl.

use std::{path::Path, process::Command};

/// Makes a self-signed certificate for 127.25.0.1, ::1, localhost and the name of an API server, and its key.
pub fn make_certificate(certificate: &Path, key: &Path) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args([
        "-days",
        "2",
        "-subj",
        "/CN=pod",
        "-addext",
        "subjectAltName=IP:127.25.0.1,IP:::1,DNS:localhost,DNS:kubernetes.default.svc",
    ]);
    command.arg("-keyout").arg(key).arg("-out").arg(certificate);
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
