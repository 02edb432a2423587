//! A CA and certificates that it signed, for the sides of a test that use TLS. Made in memory, with P-256 keys unless a
//! test needs others, and written as PEM.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

use super::{Scratch, base64};

/// A CA. `{name}.crt` in its folder is its certificate.
pub struct Ca<'s> {
    folder: &'s Scratch,
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub file: String,
}

/// How a certificate differs from a valid one of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    Expired,
    NotYetValid,
    /// Signed by its own key, and the certificate of a CA.
    SelfSigned,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: String,
    pub key: String,
}

impl Files {
    /// Returns the options with these files: `{option}-cert` and `{option}-key`.
    pub fn options(&self, option: &str) -> [String; 2] {
        [format!("{option}-cert={}", self.certificate), format!("{option}-key={}", self.key)]
    }
}

impl<'s> Ca<'s> {
    pub fn new(folder: &'s Scratch, name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let file = folder.write(&format!("{name}.crt"), &pem("CERTIFICATE", issuer.der()));
        Self { folder, issuer, file: text(file) }
    }

    /// Makes `{name}.crt` and `{name}.key`, for these names and addresses.
    pub fn sign(&self, name: &str, names: &[&str]) -> Files {
        self.sign_with(name, names, Flaw::None)
    }

    pub fn sign_with(&self, name: &str, names: &[&str], flaw: Flaw) -> Files {
        self.sign_key(name, names, flaw, &KeyPair::generate().expect("a key"))
    }

    /// Makes a certificate for a key.
    pub fn sign_key(&self, name: &str, names: &[&str], flaw: Flaw, key: &KeyPair) -> Files {
        let mut params = params(name, names);
        match flaw {
            Flaw::None => {}
            Flaw::Expired => params.not_after = date_time_ymd(2020, 1, 1),
            Flaw::NotYetValid => params.not_before = date_time_ymd(2090, 1, 1),
            Flaw::SelfSigned => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        }
        let certificate = match flaw {
            Flaw::SelfSigned => params.self_signed(key),
            _ => params.signed_by(key, &self.issuer),
        };
        let certificate = pem("CERTIFICATE", certificate.expect("a certificate").der());
        let (certificate_file, key_file) = (format!("{name}.crt"), format!("{name}.key"));
        Files {
            certificate: text(self.folder.write(&certificate_file, &certificate)),
            key: text(self.folder.write(&key_file, &pem("PRIVATE KEY", &key.serialize_der()))),
        }
    }
}

/// Valid from 2019 to 2095, so that a clock that is off does not matter.
fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2095, 1, 1));
    params
}

/// Returns DER as PEM (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = base64::encode(der);
    let lines = base64.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a path in UTF-8")
}

/// Replaces the files of a folder at once, as Kubernetes replaces those of a Secret: `..data` links to another folder.
pub fn swap(scratch: &Scratch, to: &str) {
    std::os::unix::fs::symlink(to, scratch.path("..new")).expect("a link");
    fs::rename(scratch.path("..new"), scratch.path("..data")).expect("renamed");
}
