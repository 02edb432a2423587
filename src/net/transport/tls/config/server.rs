//! TLS with clients.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};

use super::{
    authorities::Authorities,
    identity::Identity,
    provider::{ALPN_OF_CLIENTS, Versions, provider},
    verify::{AnyCertificate, NamedClients},
};

/// Whether clients present a certificate, and whether it is verified. As Go's `tls.ClientAuthType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is requested (`NoClientCert`).
    #[default]
    None,
    /// One is requested, and not verified (`RequestClientCert`).
    Request,
    /// One is required, and not verified (`RequireAnyClientCert`).
    RequireAny,
    /// One is requested, and verified if it is presented (`VerifyClientCertIfGiven`).
    VerifyIfGiven,
    /// One is required and verified (`RequireAndVerifyClientCert`).
    RequireAndVerify,
}

/// Everything that is configured for clients.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Our certificate.
    pub identity: Identity,
    /// Whether clients present one.
    pub client_auth: ClientAuth,
    /// The CAs that sign the certificates of clients.
    pub client_ca: Option<Authorities>,
    /// The names of clients that are accepted, if they present a certificate; empty: any.
    pub client_sans: Vec<String>,
    /// The versions of TLS.
    pub versions: Versions,
}

/// Accepts TLS connections of clients.
#[derive(Clone)]
pub struct Acceptor {
    /// For the engine.
    pub(in crate::net::transport::tls) config: Arc<ServerConfig>,
    verifies_clients: bool,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("verifies_clients", &self.verifies_clients).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Returns what accepts connections as configured. Sessions are not resumed: Prometheus does not either.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn new(tls: &ServerTls) -> Result<Self, String> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&tls.versions.supported());
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = match client_verifier(tls)? {
            None => builder.with_no_client_auth(),
            Some(inner) if tls.client_sans.is_empty() => builder.with_client_cert_verifier(inner),
            Some(inner) => {
                let names = tls.client_sans.clone();
                builder.with_client_cert_verifier(Arc::new(NamedClients { inner, names }))
            }
        };
        let certified = Arc::clone(&tls.identity.certified);
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = ALPN_OF_CLIENTS.map(<[u8]>::to_vec).into();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let verifies = matches!(tls.client_auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
        Ok(Self { config: Arc::new(config), verifies_clients: verifies })
    }

    /// Returns whether a certificate that a client presents is verified, and thus proves who it is.
    pub fn verifies_clients(&self) -> bool {
        self.verifies_clients
    }
}

fn client_verifier(tls: &ServerTls) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let verifier = |is_optional: bool| {
        let ca = tls.client_ca.as_ref().ok_or("certificates of clients cannot be verified without a CA")?;
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&ca.roots), provider());
        let builder = if is_optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map(Some).map_err(|error| error.to_string())
    };
    match tls.client_auth {
        ClientAuth::None => Ok(None),
        ClientAuth::Request => Ok(Some(Arc::new(AnyCertificate::new(false)))),
        ClientAuth::RequireAny => Ok(Some(Arc::new(AnyCertificate::new(true)))),
        ClientAuth::VerifyIfGiven => verifier(true),
        ClientAuth::RequireAndVerify => verifier(false),
    }
}
