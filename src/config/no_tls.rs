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
#[cold]
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
