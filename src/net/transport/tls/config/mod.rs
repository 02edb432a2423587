//! What is accepted in handshakes: certificates, keys, names and versions.
//!
//! Owns the use of certificates and keys. Never reads a file:
//!
//! - `identity`: our own certificate, and its key;
//! - `authorities`: the certificates of the CAs that we trust;
//! - `certificate`: the names in a certificate, and when it expires;
//! - `server`: for clients; `client`: for pods;
//! - `verify`: certificates that are accepted without a CA, and names of clients;
//! - `provider`: the cryptography, and the versions of TLS.

mod authorities;
mod certificate;
mod client;
mod identity;
mod provider;
mod server;
#[cfg(test)]
mod tests;
mod verify;

pub use self::{
    authorities::Authorities,
    client::{Connector, Name, PodTls, PodTrust, is_host},
    identity::Identity,
    provider::{Version, Versions},
    server::{Acceptor, ClientAuth, ServerTls},
};
