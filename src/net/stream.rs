//! A socket and its known readiness.
//!
//! Sockets are registered once, for both directions, edge-triggered. Events only add to the known readiness; only the
//! result of a read or a write removes from it. A scrape therefore makes no call that is known to return EAGAIN.

use std::{
    io::{self, ErrorKind, IoSlice},
    time::Duration,
};

use super::transport::{Transport, splice::Pipe};
use crate::proxy::outcome::UpstreamError;

/// A set of readiness flags of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(u8);

impl Ready {
    /// Not ready.
    pub const NONE: Self = Self(0);
    /// A read may return something.
    pub const READ: Self = Self(1);
    /// A write may accept something.
    pub const WRITE: Self = Self(2);
    /// The peer ended its side, or the connection failed. Never removed.
    pub const END: Self = Self(4);
    /// Urgent data arrived: a read ends at its mark, even with more data after it (tcp(7)). Never removed.
    pub const URGENT: Self = Self(8);

    /// The connection failed. Never removed.
    pub const FAILED: Self = Self(16);

    /// Returns whether all of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Removes `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This number of bytes.
    Bytes(usize),
    /// The peer ended its side.
    Eof {
        /// Whether the end is authentic ([`Transport::is_end_clean`]).
        clean: bool,
    },
    /// Nothing yet.
    NotReady,
}

/// A socket and its readiness.
#[derive(Debug)]
pub struct Stream<S> {
    socket: S,
    ready: Ready,
}

impl<S: Transport> Stream<S> {
    /// Wraps a socket of unknown readiness.
    pub fn new(socket: S) -> Self {
        Self { socket, ready: Ready::NONE }
    }

    /// Closes the connection, with a reset if written bytes are undelivered, as nothing waits for their delivery.
    pub fn close(self) {
        if self.socket.has_undelivered() {
            self.socket.reset_on_close();
        }
    }

    /// Closes the connection without a reset. The kernel has `most` time to deliver the written bytes, which should be
    /// few, as no limit counts them.
    pub fn close_delivering(self, most: Duration) {
        self.socket.deliver_within(most);
    }

    /// Returns the socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Returns the socket, for registration.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Adds readiness reported by an event.
    pub fn add_ready(&mut self, ready: Ready) {
        self.ready = self.ready.with(ready);
    }

    /// Returns whether it is ready for `what`, as far as known.
    pub fn is_ready(&self, what: Ready) -> bool {
        self.ready.has(what)
    }

    /// Reads, if there may be something to read.
    ///
    /// # Errors
    /// The connection failed.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Received> {
        let read = self.take(|socket| socket.read(into))?;
        // A short read emptied the socket, and new data brings an event. Two exceptions: an end that has already
        // arrived brings none, and a read may have ended at a mark of urgent data.
        let is_short = matches!(read, Received::Bytes(bytes) if bytes < into.len());
        if is_short && !self.is_ready(Ready::END) && !self.is_ready(Ready::URGENT) {
            self.ready = self.ready.without(Ready::READ);
        }
        Ok(read)
    }

    /// Peeks at the beginning of the data, if there may be some.
    ///
    /// # Errors
    /// The connection failed.
    pub fn peek(&mut self, into: &mut [u8]) -> io::Result<Received> {
        self.take(|socket| socket.peek(into))
    }

    /// Moves at most `bytes` bytes into an empty pipe, if there may be some.
    ///
    /// # Errors
    /// The connection failed.
    pub fn splice_in(&mut self, pipe: &mut impl Pipe<S>, bytes: usize) -> io::Result<Received> {
        // A short count may mean a full pipe: it shows nothing about the socket.
        self.take(|socket| pipe.splice_in(socket, bytes))
    }

    fn take(&mut self, mut call: impl FnMut(&mut S) -> io::Result<usize>) -> io::Result<Received> {
        if !self.is_ready(Ready::READ) {
            return Ok(Received::NotReady);
        }
        loop {
            match call(&mut self.socket) {
                Ok(0) => return Ok(Received::Eof { clean: self.socket.is_end_clean() }),
                Ok(bytes) => return Ok(Received::Bytes(bytes)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.ready = self.ready.without(Ready::READ);
                    return Ok(Received::NotReady);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes as much as the kernel accepts now: nothing, if it is not ready.
    ///
    /// # Errors
    /// The connection failed.
    pub fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: usize = from.iter().map(|slice| slice.len()).sum();
        if all == 0 {
            return Ok(0);
        }
        let bytes = self.give(|socket| socket.write(from))?;
        if bytes < all {
            // A short write filled the socket; an event reports when there is room again.
            self.ready = self.ready.without(Ready::WRITE);
        }
        Ok(bytes)
    }

    /// Moves `bytes` bytes out of a pipe that holds them: as many as the kernel accepts now.
    ///
    /// # Errors
    /// The connection failed.
    pub fn splice_out(&mut self, pipe: &mut impl Pipe<S>, bytes: usize) -> io::Result<usize> {
        let mut poured = 0;
        // Loops until EAGAIN: a short count may have any reason.
        while poured < bytes {
            match self.give(|socket| pipe.splice_out(socket, bytes - poured)) {
                Ok(0) => break,
                Ok(more) => poured += more,
                Err(_) if poured > 0 => break, // the next call returns the error
                Err(error) => return Err(error),
            }
        }
        Ok(poured)
    }

    fn give(&mut self, mut call: impl FnMut(&mut S) -> io::Result<usize>) -> io::Result<usize> {
        if !self.is_ready(Ready::WRITE) {
            return Ok(0);
        }
        loop {
            match call(&mut self.socket) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.ready = self.ready.without(Ready::WRITE);
                    return Ok(0);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Maps an error of a pod's connection to an exchange's.
pub fn upstream_error(error: &io::Error) -> UpstreamError {
    match error.kind() {
        ErrorKind::ConnectionRefused => UpstreamError::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            UpstreamError::Unreachable
        }
        ErrorKind::TimedOut => UpstreamError::TimedOut,
        ErrorKind::AddrNotAvailable => UpstreamError::NoLocalPort,
        // connect(2): EACCES and EPERM come from a firewall, EINVAL from a blackhole route (ip-route(8)).
        ErrorKind::PermissionDenied | ErrorKind::InvalidInput => UpstreamError::Forbidden,
        _ if is_out_of_descriptors(error) => UpstreamError::NoDescriptors,
        _ => UpstreamError::Other,
    }
}

/// Returns whether an error means that the process (EMFILE) or the system (ENFILE) has no file descriptor left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
