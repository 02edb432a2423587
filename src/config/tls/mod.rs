//! The options for TLS.
//!
//! Owns which of them contradict each other. `load` reads their files.

mod load;

#[cfg(feature = "web-config")]
pub(super) use self::load::{describe, note};

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
    /// Returns whether clients may use HTTPS.
    pub fn serves_clients(&self) -> bool {
        !matches!(self.certificate, OwnCertificate::None)
    }

    /// Returns whether HTTPS to pods is configured.
    pub fn reaches_pods(&self) -> bool {
        self.pod_ca.is_some() || self.pod_skip_verify
    }

    /// Returns whether the certificates of clients are verified.
    pub fn verifies_clients(&self) -> bool {
        self.client_ca.is_some()
    }
}

/// Reads the options for TLS. The files are not read yet.
pub(super) fn tls<V: Fn(&str) -> Option<OsString>>(source: &mut Source<V>) -> Result<TlsOptions, UsageError> {
    let certificate = own_certificate(source)?;
    let client_ca = source.path(Opt::TlsClientCa)?;
    let client_sans = source.list(Opt::TlsClientSan, client_san)?;
    let min = source.optional(Opt::TlsMinVersion, version)?;
    let given = [(client_ca.is_some(), Opt::TlsClientCa), (min.is_some(), Opt::TlsMinVersion)];
    if let (OwnCertificate::None, Some((_, option))) = (&certificate, given.iter().find(|given| given.0)) {
        return Err(source.requires(*option, &[Opt::TlsCert, Opt::TlsSelfSigned]));
    }
    if !client_sans.is_empty() && client_ca.is_none() {
        return Err(source.requires(Opt::TlsClientSan, &[Opt::TlsClientCa]));
    }
    let versions = Versions { min: min.unwrap_or(Versions::default().min), ..Versions::default() };
    let pod_ca = source.path(Opt::PodTlsCa)?;
    let pod_name = source.optional(Opt::PodTlsName, host)?;
    let pod_skip_verify = source.flag(Opt::PodTlsSkipVerify)?;
    if pod_skip_verify && pod_ca.is_some() {
        return Err(source.excludes(Opt::PodTlsSkipVerify, &[Opt::PodTlsCa]));
    }
    if pod_skip_verify && pod_name.is_some() {
        return Err(source.excludes(Opt::PodTlsSkipVerify, &[Opt::PodTlsName]));
    }
    if pod_name.is_some() && pod_ca.is_none() {
        return Err(source.requires(Opt::PodTlsName, &[Opt::PodTlsCa]));
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

fn own_certificate<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
) -> Result<OwnCertificate, UsageError> {
    let files = pair(source, Opt::TlsCert, Opt::TlsKey)?;
    let is_self_signed = source.flag(Opt::TlsSelfSigned)?;
    let names = source.list(Opt::TlsName, host)?;
    match files {
        Some(_) if is_self_signed => Err(source.excludes(Opt::TlsSelfSigned, &[Opt::TlsCert])),
        None if is_self_signed => Ok(OwnCertificate::SelfSigned(names)),
        _ if !names.is_empty() => Err(source.requires(Opt::TlsName, &[Opt::TlsSelfSigned])),
        files => Ok(files.map_or(OwnCertificate::None, OwnCertificate::Files)),
    }
}

/// Reads two options that need each other.
fn pair<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
    certificate: Opt,
    key: Opt,
) -> Result<Option<Pair>, UsageError> {
    match (source.path(certificate)?, source.path(key)?) {
        (Some(of_certificate), Some(of_key)) => Ok(Some([of_certificate, of_key])),
        (None, None) => Ok(None),
        (Some(_), None) => Err(source.requires(certificate, &[key])),
        (None, Some(_)) => Err(source.requires(key, &[certificate])),
    }
}

fn host(text: &str) -> Result<String, &'static str> {
    if is_host(text) { Ok(text.to_owned()) } else { Err("expected a DNS name or an IP address") }
}

fn client_san(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("expected a name") } else { Ok(text.to_owned()) }
}

fn version(text: &str) -> Result<Version, &'static str> {
    match text {
        "1.2" => Ok(Version::Tls12),
        "1.3" => Ok(Version::Tls13),
        _ => Err("expected 1.2 or 1.3"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, parse};

    fn options(arguments: &[&str]) -> Result<TlsOptions, String> {
        match parse(arguments.iter().map(OsString::from).collect(), |_| None) {
            Ok(Command::Serve(config)) => Ok(config.tls),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        const CERT: &str = "--tls-cert=c";
        const KEY: &str = "--tls-key=k";
        const SELF_SIGNED: &str = "--tls-self-signed";
        const NOT_A_HOST: &str = "\"a b\": expected a DNS name or an IP address";
        for (arguments, expected) in [
            (&[CERT][..], "--tls-cert requires --tls-key"),
            (&[KEY], "--tls-key requires --tls-cert"),
            (&[SELF_SIGNED, KEY], "--tls-key requires --tls-cert"),
            (&[CERT, KEY, SELF_SIGNED], "--tls-self-signed and --tls-cert exclude each other"),
            (&["--tls-only"], "--tls-only requires --tls-cert or --tls-self-signed"),
            (&["--tls-name=a"], "--tls-name requires --tls-self-signed"),
            (&[CERT, KEY, "--tls-name=a"], "--tls-name requires --tls-self-signed"),
            (&[SELF_SIGNED, "--tls-name=a b"], NOT_A_HOST),
            (&["--tls-client-ca=c"], "--tls-client-ca requires --tls-cert or --tls-self-signed"),
            (&["--tls-min-version=1.3"], "--tls-min-version requires --tls-cert or --tls-self-signed"),
            (&[SELF_SIGNED, "--tls-min-version=1.1"], "--tls-min-version \"1.1\": expected 1.2 or 1.3"),
            (&[SELF_SIGNED, "--tls-client-san=a"], "--tls-client-san requires --tls-client-ca"),
            (&[SELF_SIGNED, "--tls-client-ca=c", "--tls-client-san=a,,b"], "\"\": expected a name"),
            (&[CERT, KEY, CERT], "--tls-cert: given more than once"),
            (&["--pod-tls-cert=c"], "--pod-tls-cert requires --pod-tls-key"),
            (&["--pod-tls-key=k"], "--pod-tls-key requires --pod-tls-cert"),
            (&["--pod-tls-name=a"], "--pod-tls-name requires --pod-tls-ca"),
            (&["--pod-tls-ca=c", "--pod-tls-name=a b"], NOT_A_HOST),
            (
                &["--pod-tls-skip-verify", "--pod-tls-ca=c"],
                "--pod-tls-skip-verify and --pod-tls-ca exclude each other",
            ),
            (
                &["--pod-tls-skip-verify", "--pod-tls-name=a"],
                "--pod-tls-skip-verify and --pod-tls-name exclude each other",
            ),
            (
                &[SELF_SIGNED, "--auth-metrics"],
                "--auth-metrics requires --auth-token-file, --tls-client-ca or --web-config-file",
            ),
        ] {
            let error = options(arguments).expect_err("a contradiction");
            assert!(error.ends_with(expected), "{arguments:?}: {error}");
        }
        let variable = |name: &str| (name == "PSYSTRIKE_TLS_CERT").then(|| OsString::from("c"));
        let error = parse(Vec::new(), variable).expect_err("no key");
        assert_eq!(error.to_string(), "PSYSTRIKE_TLS_CERT requires --tls-key");
    }

    #[test]
    fn options_that_belong_together_are_accepted() {
        let pods = ["--pod-tls-ca=a", "--pod-tls-name=10.0.0.1", "--pod-tls-cert=c", "--pod-tls-key=k"];
        for arguments in [
            &[][..],
            &["--tls-cert=c", "--tls-key=k", "--tls-min-version=1.3"],
            &["--tls-cert=c", "--tls-key=k", "--tls-client-ca=a", "--tls-client-san=a,b@c,spiffe://d/e"],
            &["--tls-self-signed", "--tls-name=a.example,10.0.0.1", "--tls-name=::1"],
            &["--tls-self-signed", "--tls-client-ca=a", "--auth-metrics"],
            #[cfg(feature = "web-config")]
            &["--web-config-file=w", "--auth-metrics"],
            &pods,
            &["--pod-tls-skip-verify", "--pod-tls-cert=c", "--pod-tls-key=k"],
        ] {
            options(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        }
        let several = options(&["--tls-self-signed", "--tls-client-ca=a", "--tls-client-san=a,b"]);
        assert_eq!(several.expect("valid").client_sans, ["a", "b"]);
    }
}
