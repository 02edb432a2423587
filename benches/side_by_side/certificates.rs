//! The certificates of forwarders and pods.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::generate_simple_self_signed;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The key of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// ECDSA with P-256.
    P256,
    /// RSA with 2048 bits.
    Rsa2048,
}

impl Key {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "ECDSA P-256",
            Self::Rsa2048 => "RSA-2048",
        }
    }
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both, as HAProxy reads them.
    pub(crate) both: PathBuf,
}

/// A certificate with a P-256 key, without a file.
pub(crate) fn self_signed() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
    let made = generate_simple_self_signed(["localhost".to_owned()]).map_err(|error| error.to_string())?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((made.cert.der().clone(), key.into()))
}

/// Makes a self-signed certificate in this folder, with openssl, unless it was made before.
pub(crate) fn files(folder: &Path, key: Key) -> Result<Files, String> {
    let file = |suffix: &str| folder.join(format!("{key:?}.{suffix}"));
    let files = Files { certificate: file("crt"), key: file("key"), both: file("pem") };
    if files.both.exists() {
        return Ok(files);
    }
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost", "-newkey"]);
    match key {
        Key::P256 => command.args(["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]),
        Key::Rsa2048 => command.arg("rsa:2048"),
    };
    command.arg("-keyout").arg(&files.key).arg("-out").arg(&files.certificate);
    let output = command.output().map_err(|error| format!("openssl: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let both = [read(&files.certificate)?, read(&files.key)?].concat();
    fs::write(&files.both, both).map_err(|error| format!("{}: {error}", files.both.display()))?;
    Ok(files)
}
