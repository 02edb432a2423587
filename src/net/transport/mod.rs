//! What carries a connection's bytes: TCP. TLS comes to stand beside it.
//!
//! Owns what a transport can do. What is known of its readiness is [`super::stream`]'s.

#[cfg(test)]
pub(crate) mod fake;
pub mod splice;
pub mod tcp;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    time::Duration,
};

/// What a connection's socket can do. Every call returns at once.
pub trait Transport {
    /// Reads what is there.
    ///
    /// # Errors
    /// As `read(2)`; `WouldBlock` where nothing is there.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Shows the beginning of what is there, and leaves it there.
    ///
    /// # Errors
    /// As `recv(2)` with `MSG_PEEK`; `WouldBlock` where nothing is there.
    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes as much as the kernel takes.
    ///
    /// # Errors
    /// As `writev(2)`; `WouldBlock` where it takes nothing.
    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether the connection that was begun is there by now.
    ///
    /// # Errors
    /// Why it is never going to be.
    fn connected(&self) -> io::Result<bool>;

    /// Has the kernel find out that the other side vanished without a word: what was sent and is not acknowledged
    /// fails the connection, and so does a long silence in which it does not answer a probe.
    fn watch(&self);

    /// Whether its bytes can go through a pipe: not where they are changed on their way, as by TLS.
    fn can_splice(&self) -> bool;

    /// Whether an end that was read is one that the other side meant: with TLS (RFC 8446 section 6.1) an end without
    /// `close_notify` may be an attacker's, and truncates what is ended by it.
    fn is_end_clean(&self) -> bool;

    /// Ends our side; theirs can still be read.
    fn shutdown(&self);

    /// Whether the other side has yet to acknowledge bytes that were written. After a close they would stay in the
    /// kernel for as long as it likes, and no limit would count them.
    fn has_undelivered(&self) -> bool;

    /// Makes the close that follows a reset.
    fn reset_on_close(&self);

    /// Has the kernel give up what it has yet to deliver once that has gone unacknowledged for so long.
    fn deliver_within(&self, most: Duration);

    /// Who is on the other side.
    fn peer(&self) -> Option<SocketAddr>;
}
