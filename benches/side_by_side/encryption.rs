//! Where a forwarder uses TLS.

use crate::{
    certificates::{self, Files, Key},
    setup::Setup,
};

/// Where TLS is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    Nowhere,
    /// Between clients and forwarder, with this key.
    Clients(Key),
    /// Between forwarder and pods.
    Pods,
}

/// The TLS of a configuration.
#[derive(Debug)]
pub(crate) struct Encryption {
    /// The certificate for clients.
    pub(crate) certificate: Option<Files>,
    pub(crate) to_pods: bool,
}

impl Encryption {
    /// Makes the certificate, if one is needed, in the folder of the setup.
    pub(crate) fn of(tls: Tls, setup: &Setup) -> Result<Self, String> {
        let certificate = match tls {
            Tls::Clients(key) => Some(certificates::files(&setup.scratch, key)?),
            Tls::Nowhere | Tls::Pods => None,
        };
        Ok(Self { certificate, to_pods: tls == Tls::Pods })
    }
}
