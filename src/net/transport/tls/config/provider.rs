//! The cryptography, and the versions of TLS.

use std::sync::Arc;

use rustls::{
    SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    version::{TLS12, TLS13},
};

/// The protocol within TLS (RFC 7301).
pub(super) const ALPN: &[u8] = b"http/1.1";

/// The protocols that clients may speak, the preferred one first.
pub(super) const ALPN_OF_CLIENTS: [&[u8]; 2] = [ALPN, b"http/1.0"];

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// The versions that are accepted, from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub min: Version,
    /// The highest.
    pub max: Version,
}

impl Default for Versions {
    fn default() -> Self {
        Self { min: Version::Tls12, max: Version::Tls13 }
    }
}

impl Versions {
    /// Returns them for rustls.
    pub(super) fn supported(self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
        let range = self.min..=self.max;
        all.into_iter().filter(|(version, _)| range.contains(version)).map(|(_, version)| version).collect()
    }
}

/// Returns the cryptography of ring. It prefers AES-128, as Go does: it is faster than AES-256, which rustls prefers. A
/// server that follows the client's order chooses the first.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        use rustls::CipherSuite::*;
        !matches!(
            suite.suite(),
            TLS13_AES_128_GCM_SHA256
                | TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    Arc::new(provider)
}
