//! Our own certificate and its key: from PEM files, or made at the start.
//!
//! Owns which keys are accepted. Nothing of a key is in its errors.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{authorities::certificates, certificate::Certificate, provider::provider};

/// How long a self-signed certificate is valid. A new one is made at each start.
const SELF_SIGNED_VALID: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// A certificate with its chain, and its key.
#[derive(Clone)]
pub struct Identity {
    pub(super) certified: Arc<CertifiedKey>,
    names: Vec<String>,
    expires_at: u64,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a certificate, followed by its chain, and its key, both in PEM. The key is in PKCS#8, or else in SEC1
    /// (ECDSA) or PKCS#1 (RSA).
    ///
    /// # Errors
    /// What is wrong, without anything of the key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        Self::new(certificates(chain)?, private_key(key)?)
    }

    /// Makes a certificate for these DNS names and IP addresses, which no CA signs.
    ///
    /// # Errors
    /// A name is neither of both.
    pub fn self_signed(names: &[String]) -> Result<Self, String> {
        let failed = |error: rcgen::Error| format!("cannot make a certificate: {error}");
        let mut params = CertificateParams::new(names).map_err(failed)?;
        let now = SystemTime::now();
        params.not_before = now.into();
        params.not_after = (now + SELF_SIGNED_VALID).into();
        params.distinguished_name.push(DnType::CommonName, "psystrike");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?; // ECDSA P-256
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::new(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, String> {
        let parsed = chain.iter().map(|certificate| Certificate::parse(certificate));
        let parsed = parsed.collect::<Option<Vec<_>>>().ok_or("invalid certificate")?;
        let expires_at = parsed.iter().map(|certificate| certificate.expires_at).min().unwrap_or_default();
        let names = parsed.into_iter().next().map(|leaf| leaf.names).unwrap_or_default();
        // Errors about the key are not shown, although ring's say nothing of it.
        let key = provider().key_provider.load_private_key(key);
        let key = key.map_err(|_| {
            "the key cannot be used; expected RSA of at least 2048 bits, ECDSA P-256 or P-384, or Ed25519"
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err("the key does not belong to the (first) certificate".to_owned());
            }
            // It has been parsed above, but webpki is stricter.
            Err(_) => return Err("the certificate cannot be used; expected X.509 version 3".to_owned()),
        }
        Ok(Self { certified: Arc::new(certified), names, expires_at })
    }

    /// Returns the names of the certificate: DNS names, IP addresses, e-mail addresses and URIs.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns when the first certificate of the chain expires, in seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

/// Returns the first private key of a PEM file.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    // Either as its own kind of section, or as a header of one.
    if pem.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED") {
        return Err("the key is encrypted; decrypt it with openssl pkey");
    }
    match PrivateKeyDer::pem_slice_iter(pem).next() {
        None => Err("no private key in PEM"),
        Some(key) => key.map_err(|_| "the private key's PEM is damaged"),
    }
}
