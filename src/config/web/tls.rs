//! Makes TLS with clients from `tls_server_config`.

use super::document::{ClientAuthType, Pem, TlsVersion, WebTls};
use crate::{
    config::{
        files::FileReader,
        options::Opt,
        tls::{describe, note},
    },
    net::transport::tls::config::{
        Acceptor, Authorities, ClientAuth, Identity, ServerTls, Version, Versions,
    },
    proxy::metrics::CertificateExpiry,
};

/// TLS with clients, ready to be used.
pub(super) struct Served {
    /// Accepts connections.
    pub(super) acceptor: Acceptor,
    /// For the log.
    pub(super) description: String,
}

/// Reads the certificates and the key, and notes when the certificate expires.
///
/// # Errors
/// The file, or the line of the web configuration file, and the fault.
pub(super) fn read(
    tls: &WebTls,
    reader: &mut FileReader<'_>,
    expiry: &CertificateExpiry,
) -> Result<Served, String> {
    let (cert, key) = (content(&tls.cert, reader)?, content(&tls.key, reader)?);
    let client_ca = tls.client_ca.as_ref().map(|ca| {
        let authorities = Authorities::from_pem(&content(ca, reader)?);
        authorities.map_err(|error| format!("{}: {error}", source(ca, tls)))
    });
    let identity = Identity::from_pem(&cert, &key);
    let identity = identity.map_err(|error| format!("{}: {error}", source(&tls.cert, tls)))?;
    let version = |version| match version {
        TlsVersion::Tls12 => Version::Tls12,
        TlsVersion::Tls13 => Version::Tls13,
    };
    let acceptor = Acceptor::new(&ServerTls {
        identity: identity.clone(),
        client_auth: client_auth(tls.client_auth),
        client_ca: client_ca.transpose()?,
        client_sans: tls.allowed_sans.clone().unwrap_or_default(),
        versions: Versions { min: version(tls.min_version), max: version(tls.max_version) },
    });
    let acceptor = acceptor.map_err(|error| format!("line {}: {error}", tls.line))?;
    note(Opt::WebConfigFile, expiry, identity.expires_at());
    Ok(Served { acceptor, description: describe(&identity) })
}

fn content(pem: &Pem, reader: &mut FileReader<'_>) -> Result<Vec<u8>, String> {
    match pem {
        Pem::File(path) => reader.read(path),
        Pem::Inline(text) => Ok(text.clone().into_bytes()),
    }
}

/// Returns where a certificate is, for an error.
fn source(pem: &Pem, tls: &WebTls) -> String {
    match pem {
        Pem::File(path) => path.display().to_string(),
        Pem::Inline(_) => format!("line {}", tls.line),
    }
}

fn client_auth(given: ClientAuthType) -> ClientAuth {
    match given {
        ClientAuthType::NoClientCert => ClientAuth::None,
        ClientAuthType::RequestClientCert => ClientAuth::Request,
        ClientAuthType::RequireAnyClientCert => ClientAuth::RequireAny,
        ClientAuthType::VerifyClientCertIfGiven => ClientAuth::VerifyIfGiven,
        ClientAuthType::RequireAndVerifyClientCert => ClientAuth::RequireAndVerify,
    }
}
