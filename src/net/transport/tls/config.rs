//! What is accepted in handshakes: certificates, keys, versions.
//!
//! Owns the use of certificates and keys. Never reads a file.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};

/// Accepts TLS connections of clients.
#[derive(Clone, Debug)]
pub struct Acceptor {
    /// For [`super::engine`].
    pub(super) config: Arc<ServerConfig>,
    /// Whether a client's certificate, if it presents one, was verified.
    pub(super) verifies_clients: bool,
}

/// The name of a pod: a DNS name or an address.
pub type Name = ServerName<'static>;

/// Opens TLS connections to pods.
#[derive(Clone, Debug)]
pub struct Connector {
    /// For [`super::engine`].
    pub(super) config: Arc<ClientConfig>,
    /// The name to verify instead of the pod's name or address (`--pod-tls-name`).
    pub(super) name: Option<ServerName<'static>>,
}
