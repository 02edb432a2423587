//! The other end of an upstream connection: which server to connect to, and the key of the pool.
//!
//! Owns what identifies a pod to the policy, the pool and the socket. Never decides whether it may be reached.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Where a pod is. IPv4-mapped IPv6 addresses do not occur: they are IPv4 ones from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    ip: IpAddr,
    port: u16,
}

impl Peer {
    /// The pod at this address.
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip: ip.to_canonical(), port }
    }

    /// The address that is judged, and then connected to.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The port that is judged, and then connected to.
    pub fn port(self) -> u16 {
        self.port
    }

    /// Both, as sockets take them.
    pub fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// `10.1.2.3:8080` or `[fd00::1]:8080`: the value of `Host`, and how the pod is named to people.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket_addr().fmt(f)
    }
}
