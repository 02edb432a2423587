//! The CAs that we trust, from PEM files.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::certificate::Certificate;

/// Certificates of trusted CAs. The default: none, so that no certificate is trusted.
#[derive(Clone)]
pub struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    unusable: usize,
    expires_at: u64,
}

impl Default for Authorities {
    fn default() -> Self {
        Self { roots: Arc::new(RootCertStore::empty()), unusable: 0, expires_at: 0 }
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Authorities {
    /// Reads all certificates of a PEM file.
    ///
    /// # Errors
    /// None of them can be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        Self::new(certificates(pem)?)
    }

    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let last = |last: u64, certificate: &CertificateDer<'_>| {
            last.max(Certificate::parse(certificate).map_or(0, |certificate| certificate.expires_at))
        };
        let expires_at = certificates.iter().fold(0, last);
        let mut roots = RootCertStore::empty();
        // A bundle may have a certificate that only other programs can use.
        let (_, unusable) = roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Err("invalid certificate".to_owned());
        }
        Ok(Self { roots: Arc::new(roots), unusable, expires_at })
    }

    /// Returns the number of certificates.
    pub fn count(&self) -> usize {
        self.roots.len()
    }

    /// Returns the number of certificates that were left out because they cannot be parsed.
    pub fn unusable(&self) -> usize {
        self.unusable
    }

    /// Returns when the last of them expires, in seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

/// Returns all certificates of a PEM file, at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    // The PEM library's error may have a line of the file, which may be a key.
    let certificates = certificates.map_err(|_| "the certificate's PEM is damaged")?;
    if certificates.is_empty() { Err("no certificate in PEM".to_owned()) } else { Ok(certificates) }
}
