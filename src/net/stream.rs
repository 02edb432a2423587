//! A socket, and what is known of its readiness.
//!
//! Sockets are registered once, for both directions, edge-triggered. An event only adds to what is known here;
//! only what a read or a write shows takes away from it. So a scrape costs no call that could have been known to
//! say "not now".

use std::{
    io::{self, ErrorKind, IoSlice},
    time::Duration,
};

use super::transport::{Transport, splice::Pipe};
use crate::proxy::outcome::UpstreamError;

/// A set of things that a socket is ready for, or that are known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(u8);

impl Ready {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A read may give something.
    pub const READ: Self = Self(1);
    /// A write may take something.
    pub const WRITE: Self = Self(2);
    /// The other side ended its own, or the connection failed. Never taken away.
    pub const END: Self = Self(4);
    /// Urgent data came: a read ends at its mark, whatever is behind it (tcp(7)). Never taken away.
    pub const URGENT: Self = Self(8);

    /// Whether all of `other` is in here.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Takes `other` away.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// The other side ended its own.
    Eof {
        /// It said so, and did not just stop ([`Transport::is_end_clean`]).
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
    /// A socket of which nothing is known yet.
    pub fn new(socket: S) -> Self {
        Self { socket, ready: Ready::NONE }
    }

    /// Closes the connection: by a reset, if bytes are on their way that nobody is going to wait for.
    pub fn close(self) {
        if self.socket.has_undelivered() {
            self.socket.reset_on_close();
        }
    }

    /// Closes the connection in order. What is on its way is for the kernel to deliver, within so long: little, as nobody
    /// counts it.
    pub fn close_delivering(self, most: Duration) {
        self.socket.deliver_within(most);
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket, to have it registered or deregistered.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// An event told of this.
    pub fn add_ready(&mut self, ready: Ready) {
        self.ready = self.ready.with(ready);
    }

    /// Whether it is ready for `what`, as far as is known.
    pub fn is_ready(&self, what: Ready) -> bool {
        self.ready.has(what)
    }

    /// Reads, if there may be something.
    ///
    /// # Errors
    /// The connection failed.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Received> {
        let read = self.take(|socket| socket.read(into))?;
        // A short read emptied the socket, and what comes next brings an event; but for an end that had come
        // already: its event was this one. And but for a read that ended at a mark of urgent data.
        let is_short = matches!(read, Received::Bytes(bytes) if bytes < into.len());
        if is_short && !self.is_ready(Ready::END) && !self.is_ready(Ready::URGENT) {
            self.ready = self.ready.without(Ready::READ);
        }
        Ok(read)
    }

    /// Looks at the beginning of what there is to be read, if there may be something.
    ///
    /// # Errors
    /// The connection failed.
    pub fn peek(&mut self, into: &mut [u8]) -> io::Result<Received> {
        self.take(|socket| socket.peek(into))
    }

    /// Moves at most so many bytes into a pipe that is empty, if there may be some.
    ///
    /// # Errors
    /// The connection failed.
    pub fn splice_in(&mut self, pipe: &mut impl Pipe<S>, bytes: usize) -> io::Result<Received> {
        // Fewer than were asked for may be all that the pipe has room for: they say nothing of the socket.
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

    /// Writes as much as the kernel takes now: nothing, if it is not ready.
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
            // A short write filled the socket; when there is room again, an event tells.
            self.ready = self.ready.without(Ready::WRITE);
        }
        Ok(bytes)
    }

    /// Moves `bytes`, which are in a pipe, out of it: as many as the kernel takes now.
    ///
    /// # Errors
    /// The connection failed.
    pub fn splice_out(&mut self, pipe: &mut impl Pipe<S>, bytes: usize) -> io::Result<usize> {
        let mut poured = 0;
        // Until the kernel says that it takes no more: fewer than there are may mean anything.
        while poured < bytes {
            match self.give(|socket| pipe.splice_out(socket, bytes - poured)) {
                Ok(0) => break,
                Ok(more) => poured += more,
                Err(_) if poured > 0 => break, // the next call tells of it
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

/// What an error of a pod's connection means to an exchange.
pub fn upstream_error(error: &io::Error) -> UpstreamError {
    match error.kind() {
        ErrorKind::ConnectionRefused => UpstreamError::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            UpstreamError::Unreachable
        }
        ErrorKind::TimedOut => UpstreamError::TimedOut,
        ErrorKind::AddrNotAvailable => UpstreamError::NoLocalPort,
        // connect(2): EACCES and EPERM of a firewall, EINVAL of a blackhole route (ip-route(8)).
        ErrorKind::PermissionDenied | ErrorKind::InvalidInput => UpstreamError::Forbidden,
        _ if is_out_of_descriptors(error) => UpstreamError::NoDescriptors,
        _ => UpstreamError::Other,
    }
}

/// Whether an error says that there is no file descriptor left, to the process (EMFILE) or the system (ENFILE).
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
