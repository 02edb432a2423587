//! The options for TLS.
//!
//! Owns which of them contradict each other. `load` reads their files.

mod load;

use std::{ffi::OsString, path::PathBuf};

use super::{
    options::Opt,
    source::{Source, UsageError},
};
use crate::net::transport::tls::config::{Version, Versions, is_host};

/// A certificate's file and that of its key.
type Pair = [PathBuf; 2];

/// The options for TLS.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    certificate: OwnCertificate,
    client_ca: Option<PathBuf>,
    client_sans: Vec<String>,
    versions: Versions,
    pod_ca: Option<PathBuf>,
    pod_name: Option<String>,
    pod_skip_verify: bool,
    pod_certificate: Option<Pair>,
}

/// The certificate that clients see.
#[derive(Clone, Debug)]
enum OwnCertificate {
    /// None: no TLS with clients.
    None,
    /// From files.
    Files(Pair),
    /// Made at the start, for these names; none: default names.
    SelfSigned(Vec<String>),
}

impl TlsOptions {
    /// Returns whether the certificates of clients are verified.
    pub fn verifies_clients(&self) -> bool {
        self.client_ca.is_some()
    }
}

/// Reads the options for TLS. The files are not read yet.
#[cold]
pub(super) fn tls<V: Fn(&str) -> Option<OsString>>(source: &mut Source<V>) -> Result<TlsOptions, UsageError> {
    let certificate = own_certificate(source)?;
    let client_ca = source.optional(Opt::TlsClientCa, path)?;
    let client_sans = source.list(Opt::TlsClientSan, client_san)?;
    let min = source.optional(Opt::TlsMinVersion, version)?;
    let given = [(client_ca.is_some(), Opt::TlsClientCa), (min.is_some(), Opt::TlsMinVersion)];
    if let (OwnCertificate::None, Some((_, option))) = (&certificate, given.iter().find(|given| given.0)) {
        return Err(requires(source, *option, &[Opt::TlsCert, Opt::TlsSelfSigned]));
    }
    if !client_sans.is_empty() && client_ca.is_none() {
        return Err(requires(source, Opt::TlsClientSan, &[Opt::TlsClientCa]));
    }
    let versions = Versions { min: min.unwrap_or(Versions::default().min), ..Versions::default() };
    let pod_ca = source.optional(Opt::PodTlsCa, path)?;
    let pod_name = source.optional(Opt::PodTlsName, host)?;
    let pod_skip_verify = source.flag(Opt::PodTlsSkipVerify)?;
    if pod_skip_verify && pod_ca.is_some() {
        return Err(excludes(source, Opt::PodTlsSkipVerify, Opt::PodTlsCa));
    }
    if pod_skip_verify && pod_name.is_some() {
        return Err(excludes(source, Opt::PodTlsSkipVerify, Opt::PodTlsName));
    }
    if pod_name.is_some() && pod_ca.is_none() {
        return Err(requires(source, Opt::PodTlsName, &[Opt::PodTlsCa]));
    }
    let pod_certificate = pair(source, Opt::PodTlsCert, Opt::PodTlsKey)?;
    Ok(TlsOptions {
        certificate,
        client_ca,
        client_sans,
        versions,
        pod_ca,
        pod_name,
        pod_skip_verify,
        pod_certificate,
    })
}

#[cold]
fn own_certificate<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
) -> Result<OwnCertificate, UsageError> {
    let files = pair(source, Opt::TlsCert, Opt::TlsKey)?;
    let is_self_signed = source.flag(Opt::TlsSelfSigned)?;
    let names = source.list(Opt::TlsName, host)?;
    match files {
        Some(_) if is_self_signed => Err(excludes(source, Opt::TlsSelfSigned, Opt::TlsCert)),
        None if is_self_signed => Ok(OwnCertificate::SelfSigned(names)),
        _ if !names.is_empty() => Err(requires(source, Opt::TlsName, &[Opt::TlsSelfSigned])),
        files => Ok(files.map_or(OwnCertificate::None, OwnCertificate::Files)),
    }
}

/// Reads two options that need each other.
#[cold]
fn pair<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
    certificate: Opt,
    key: Opt,
) -> Result<Option<Pair>, UsageError> {
    match (source.optional(certificate, path)?, source.optional(key, path)?) {
        (Some(of_certificate), Some(of_key)) => Ok(Some([of_certificate, of_key])),
        (None, None) => Ok(None),
        (Some(_), None) => Err(requires(source, certificate, &[key])),
        (None, Some(_)) => Err(requires(source, key, &[certificate])),
    }
}

#[cold]
fn requires<V: Fn(&str) -> Option<OsString>>(source: &Source<V>, option: Opt, one_of: &[Opt]) -> UsageError {
    let names: Vec<&str> = one_of.iter().map(|option| option.name()).collect();
    UsageError(format!("{} requires {}", source.name(option), names.join(" or ")))
}

#[cold]
fn excludes<V: Fn(&str) -> Option<OsString>>(source: &Source<V>, option: Opt, other: Opt) -> UsageError {
    UsageError(format!("{} and {} exclude each other", source.name(option), source.name(other)))
}

#[cold]
fn path(text: &str) -> Result<PathBuf, &'static str> {
    Ok(PathBuf::from(text))
}

#[cold]
fn host(text: &str) -> Result<String, &'static str> {
    if is_host(text) { Ok(text.to_owned()) } else { Err("expected a DNS name or an IP address") }
}

#[cold]
fn client_san(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("expected a name") } else { Ok(text.to_owned()) }
}

#[cold]
fn version(text: &str) -> Result<Version, &'static str> {
    match text {
        "1.2" => Ok(Version::Tls12),
        "1.3" => Ok(Version::Tls13),
        _ => Err("expected 1.2 or 1.3"),
    }
}
