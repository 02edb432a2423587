//! The address of a pod: the target of an upstream connection, and the key of the pool.
//!
//! Owns the identity of a pod for the policy, the pool and the socket. Never decides whether it may be reached.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The address and port of a pod. IPv4-mapped IPv6 addresses are converted to IPv4 at the start and do not occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    ip: IpAddr,
    port: u16,
}

impl Peer {
    /// Returns the pod at this address.
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip: ip.to_canonical(), port }
    }

    /// Returns the address that the policy checks and the socket connects to.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Returns the port that the policy checks and the socket connects to.
    pub fn port(self) -> u16 {
        self.port
    }

    /// Returns address and port for a socket.
    pub fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// Displays `10.1.2.3:8080` or `[fd00::1]:8080`, as in `Host`, responses and logs.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket_addr().fmt(f)
    }
}
