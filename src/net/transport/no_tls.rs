//! Takes the place of [`tls`](super) in a psystrike that is built without it: its types have no values.

/// As in a build with TLS.
pub mod config {
    use std::convert::Infallible;

    /// Accepts TLS connections of clients.
    pub type Acceptor = Infallible;
    /// Opens TLS connections to pods.
    pub type Connector = Infallible;
}
