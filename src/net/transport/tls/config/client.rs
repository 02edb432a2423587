//! TLS with pods.

use std::{fmt, net::IpAddr, sync::Arc};

use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, sign::SingleCertAndKey};

use super::{
    authorities::Authorities,
    identity::Identity,
    provider::{ALPN, Versions, provider},
    verify::AnyCertificate,
};

/// The name of a pod: a DNS name or an address.
pub type Name = ServerName<'static>;

/// Which certificates of pods are trusted.
#[derive(Clone, Debug)]
pub enum PodTrust {
    /// Those that one of these CAs signed.
    SignedBy(Authorities),
    /// Any, for any name, even if it has expired.
    Any,
}

/// Everything that is configured for pods.
#[derive(Clone, Debug)]
pub struct PodTls {
    /// Which certificates are trusted.
    pub trust: PodTrust,
    /// The name that they must have; `None`: the pod's name or address as requested.
    pub name: Option<String>,
    /// Our certificate, for pods that request one.
    pub identity: Option<Identity>,
}

/// Opens TLS connections to pods.
#[derive(Clone)]
pub struct Connector {
    /// For the engine.
    pub(in crate::net::transport::tls) config: Arc<ClientConfig>,
    /// The name to verify instead of the pod's name or address.
    name: Option<Name>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Connector {
    /// Returns what opens connections as configured. Sessions are not resumed.
    ///
    /// # Errors
    /// The name is neither a DNS name nor an IP address.
    pub fn new(tls: &PodTls) -> Result<Self, String> {
        let name = tls.name.clone().map(ServerName::try_from).transpose();
        let name = name.map_err(|_| "expected a DNS name or an IP address")?;
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&Versions::default().supported());
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = match &tls.trust {
            PodTrust::SignedBy(authorities) => builder.with_root_certificates(Arc::clone(&authorities.roots)),
            PodTrust::Any => {
                let any = Arc::new(AnyCertificate::new(true));
                builder.dangerous().with_custom_certificate_verifier(any)
            }
        };
        let mut config = match &tls.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certified = Arc::clone(&identity.certified);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }

    /// Returns the name to verify of a pod with this name, or with this address if it was requested by that. `None`: no
    /// certificate can be for this name.
    pub fn name_of(&self, name: Option<&str>, ip: IpAddr) -> Option<Name> {
        match (&self.name, name) {
            (Some(fixed), _) => Some(fixed.clone()),
            (None, Some(name)) => ServerName::try_from(name.to_owned()).ok(),
            (None, None) => Some(ip.into()),
        }
    }
}

/// Returns whether a text is a DNS name or an IP address.
pub fn is_host(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}
