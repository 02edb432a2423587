//! A pod that a request gives by name: its name, and those of its addresses that may be tried.
//!
//! Contains only authorized addresses.

use std::{fmt, net::IpAddr};

use crate::proxy::{
    peer::{Peer, TlsProfile},
    policy::Policy,
};

/// A pod that a request gives by name.
#[derive(Debug)]
pub(crate) struct NamedPod {
    pub(super) name: Box<str>,
    port: u16,
    /// The TLS profile for connections to its addresses; `None`: without TLS.
    pub(super) tls: Option<TlsProfile>,
    /// Allowed addresses that are not tried yet, in reverse order.
    untried: Vec<Peer>,
}

impl NamedPod {
    pub(super) fn new(name: &str, port: u16) -> Self {
        Self { name: name.into(), port, tls: None, untried: Vec::new() }
    }

    /// Stores those of the name's addresses that are allowed, in their order.
    pub(super) fn set_addresses(&mut self, addresses: &[IpAddr], policy: &Policy) {
        let peers = addresses.iter().rev().map(|&ip| Peer::new(ip, self.port));
        let allowed = peers.filter(|&peer| policy.authorize(peer).is_ok());
        self.untried = allowed.map(|peer| peer.with_tls(self.tls)).collect();
    }

    /// Returns the next allowed address.
    pub(super) fn next_address(&mut self) -> Option<Peer> {
        self.untried.pop()
    }
}

/// Displays `name:8080`, as in `Host` and in responses.
impl fmt::Display for NamedPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}
