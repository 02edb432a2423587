//! Takes the place of `tls` in a psystrike that is built without TLS: `tls_server_config` is an error.

use super::document::WebTls;
use crate::{
    config::files::FileReader, net::transport::tls::config::Acceptor, proxy::metrics::CertificateExpiry,
};

/// As in a build with TLS.
pub(super) struct Served {
    /// As in a build with TLS.
    pub(super) acceptor: Acceptor,
    /// As in a build with TLS.
    pub(super) description: String,
}

/// Fails.
pub(super) fn read(tls: &WebTls, _: &mut FileReader<'_>, _: &CertificateExpiry) -> Result<Served, String> {
    Err(format!("line {}: tls_server_config: this psystrike is built without TLS", tls.line))
}
