//! The address of a pod, and how it is connected to: the target of an upstream connection, and the key of the pool.
//!
//! Owns the identity of a pod for the policy, the pool and the socket. Never decides whether it may be reached.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
};

/// The address and port of a pod, and whether TLS is used. IPv4-mapped IPv6 addresses are converted to IPv4 at the
/// start and do not occur.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    ip: IpAddr,
    port: u16,
    tls: Option<TlsProfile>,
}

/// What the certificate of a pod is verified against, as a keyed hash. A connection only serves requests with the same
/// profile as its own, or with none if it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsProfile(NonZeroU64);

impl TlsProfile {
    /// Returns the profile with this hash.
    pub fn new(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the hash as a number.
    pub fn bits(self) -> u64 {
        self.0.get()
    }
}

impl Peer {
    /// Returns the pod at this address, without TLS.
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip: ip.to_canonical(), port, tls: None }
    }

    /// Returns the same pod, with TLS if there is a profile.
    pub fn with_tls(self, tls: Option<TlsProfile>) -> Self {
        Self { tls, ..self }
    }

    /// Returns the address that the policy checks and the socket connects to.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Returns the port that the policy checks and the socket connects to.
    pub fn port(self) -> u16 {
        self.port
    }

    /// Returns the TLS profile; `None`: without TLS.
    pub fn tls(self) -> Option<TlsProfile> {
        self.tls
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

/// Displays the profile too, if there is one.
impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.tls.map_or(Ok(()), |tls| write!(f, " (TLS {:x})", tls.bits()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_part_of_the_identity_and_not_of_the_address() {
        let plain = Peer::new([10, 1, 2, 3].into(), 8443);
        let [one, other] = [1, 2].map(|hash| plain.with_tls(Some(TlsProfile::new(hash))));
        assert!(plain != one && one != other && one.with_tls(None) == plain);
        assert_eq!((one.socket_addr(), one.to_string().as_str()), (plain.socket_addr(), "10.1.2.3:8443"));
        assert_eq!([plain, one].map(|pod| format!("{pod:?}")), ["10.1.2.3:8443", "10.1.2.3:8443 (TLS 1)"]);
    }

    #[test]
    fn every_hash_is_a_profile() {
        assert_eq!([0, 1, u64::MAX].map(|hash| TlsProfile::new(hash).bits()), [1, 1, u64::MAX]);
        assert_eq!(size_of::<Option<TlsProfile>>(), 8);
    }
}
