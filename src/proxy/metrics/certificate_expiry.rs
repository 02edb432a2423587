//! When the certificate of an option expires.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The expiry of the certificates of one option. One thread writes it, and any thread reads it.
#[derive(Debug)]
pub struct CertificateExpiry {
    option: &'static str,
    /// In seconds since 1970.
    at: AtomicU64,
}

impl CertificateExpiry {
    /// Returns the expiry before a certificate is read.
    pub fn new(option: &'static str) -> Self {
        Self { option, at: AtomicU64::new(0) }
    }

    /// Returns the option, which is the label on `/metrics`.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// Sets it, in seconds since 1970.
    pub fn set(&self, at: u64) {
        self.at.store(at, Relaxed);
    }

    /// Returns it, in seconds since 1970.
    pub fn at(&self) -> u64 {
        self.at.load(Relaxed)
    }
}
