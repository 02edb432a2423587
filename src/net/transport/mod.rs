//! Transports of a connection's bytes: TCP, and TLS over it.
//!
//! Owns the operations of a transport. [`super::stream`] keeps its readiness.

pub mod channel;
#[cfg(test)]
pub(crate) mod fake;
pub mod splice;
pub mod tcp;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    time::Duration,
};

/// Operations of a connection's socket. No call blocks.
pub trait Transport {
    /// Reads available bytes.
    ///
    /// # Errors
    /// As `read(2)`; `WouldBlock` if there are none.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Copies the first available bytes without removing them.
    ///
    /// # Errors
    /// As `recv(2)` with `MSG_PEEK`; `WouldBlock` if there are none.
    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes as much as the kernel accepts.
    ///
    /// # Errors
    /// As `writev(2)`; `WouldBlock` if it accepts nothing.
    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Returns whether a connection in progress is established. With TLS, continues its handshake.
    ///
    /// # Errors
    /// Why it failed.
    fn connected(&mut self) -> io::Result<bool>;

    /// Makes the kernel detect that the peer vanished: the connection fails if sent bytes are not acknowledged, or if
    /// after a long silence a probe is not acknowledged.
    fn watch(&self);

    /// Delays the event that reports it readable until this number of bytes can be read (`SO_RCVLOWAT`, socket(7)), or
    /// none will follow.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    fn set_low_water(&self, bytes: u32) -> io::Result<()>;

    /// Returns whether its bytes can go through a pipe: not if the transport transforms them, like TLS.
    fn can_splice(&self) -> bool;

    /// Returns whether an end that was read is authentic: with TLS (RFC 8446 section 6.1) an end without `close_notify`
    /// may come from an attacker, and truncates anything delimited by it.
    fn is_end_clean(&self) -> bool;

    /// Ends our side; the peer's can still be read.
    fn shutdown(&mut self);

    /// Returns whether the peer has yet to acknowledge bytes that were written. After a close the kernel could hold
    /// them for long, and no limit would count them.
    fn has_undelivered(&self) -> bool;

    /// Makes the following close send a reset.
    fn reset_on_close(&mut self);

    /// Lets the kernel drop undelivered bytes once they have been unacknowledged for this long.
    fn deliver_within(&self, most: Duration);

    /// Returns the peer's address.
    fn peer(&self) -> Option<SocketAddr>;
}
