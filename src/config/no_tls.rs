//! Takes the place of [`tls`](super) in a psystrike that is built without it: each of its options is a usage error.

use std::{ffi::OsString, net::SocketAddr, sync::Arc};

use super::{
    files::Reloads,
    options::{Kind, Opt},
    source::{Source, UsageError},
};
use crate::{net::shared::Shared, proxy::metrics::CertificateExpiry};

const WITHOUT_TLS: &str = "this psystrike is built without TLS";

/// As in a build with TLS.
#[derive(Clone, Copy, Debug)]
pub struct TlsOptions;

/// Rejects the options for TLS.
pub(super) fn tls<V: Fn(&str) -> Option<OsString>>(source: &mut Source<V>) -> Result<TlsOptions, UsageError> {
    for &option in Opt::ALL.iter().filter(|option| option.name().contains("tls-")) {
        if option.kind() != Kind::Flag {
            source.optional(option, |_| Err::<(), _>(WITHOUT_TLS))?;
        } else if source.flag(option)? {
            return Err(UsageError(format!("{}: {WITHOUT_TLS}", source.name(option))));
        }
    }
    Ok(TlsOptions)
}

impl TlsOptions {
    /// Returns whether clients may use HTTPS.
    pub fn serves_clients(&self) -> bool {
        false
    }

    /// Returns whether HTTPS to pods is configured.
    pub fn reaches_pods(&self) -> bool {
        false
    }

    /// Returns whether the certificates of clients are verified.
    pub fn verifies_clients(&self) -> bool {
        false
    }

    /// Does nothing.
    ///
    /// # Errors
    /// Never.
    pub fn load(
        &self,
        _: &[SocketAddr],
        _: &Arc<Shared>,
        _: &mut Reloads,
    ) -> Result<Vec<Arc<CertificateExpiry>>, String> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn options_for_tls_are_refused() {
        for (argument, expected) in [
            ("--tls-only", "--tls-only: this psystrike is built without TLS"),
            ("--tls-self-signed", "--tls-self-signed: this psystrike is built without TLS"),
            ("--tls-cert=a", "--tls-cert \"a\": this psystrike is built without TLS"),
            ("--pod-tls-skip-verify", "--pod-tls-skip-verify: this psystrike is built without TLS"),
            ("--pod-tls-ca=a", "--pod-tls-ca \"a\": this psystrike is built without TLS"),
        ] {
            let error = parse(vec![argument.into()], |_| None).expect_err("no TLS");
            assert_eq!(error.to_string(), expected);
        }
        assert!(parse(Vec::new(), |_| None).is_ok());
        let off = |name: &str| (name == "PSYSTRIKE_TLS_SELF_SIGNED").then(|| OsString::from("false"));
        assert!(parse(Vec::new(), off).is_ok());
    }
}
