//! A socket and its known readiness.
//!
//! Sockets are registered once, for both directions, edge-triggered. Events only add to the known readiness; only the
//! result of a read or a write removes from it. A scrape therefore makes no call that is known to return EAGAIN.

use std::{
    io::{self, ErrorKind, IoSlice},
    time::Duration,
};

use super::transport::{
    Transport,
    channel::Channel,
    splice::Pipe,
    tls::{config::Acceptor, fault::cause_of},
};
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
    channel: Channel<S>,
    ready: Ready,
}

impl<S: Transport> Stream<S> {
    /// Wraps a socket without TLS, of unknown readiness.
    pub fn new(socket: S) -> Self {
        Self::over(Channel::plain(socket))
    }

    /// Wraps the socket of a client, which may use TLS if there is an acceptor.
    pub fn of_client(socket: S, acceptor: Option<&Acceptor>) -> Self {
        Self::over(Channel::of_client(socket, acceptor))
    }

    /// Wraps a channel of unknown readiness.
    pub fn over(channel: Channel<S>) -> Self {
        Self { channel, ready: Ready::NONE }
    }

    /// Closes the connection, with a reset if written bytes are undelivered, as nothing waits for their delivery.
    pub fn close(mut self) {
        if self.channel.has_undelivered() {
            self.channel.reset_on_close();
        } else {
            self.channel.close();
        }
    }

    /// Closes the connection without a reset. The kernel has `most` time to deliver the written bytes, which should be
    /// few, as no limit counts them.
    pub fn close_delivering(mut self, most: Duration) {
        self.channel.close();
        self.channel.deliver_within(most);
    }

    /// Returns the channel.
    pub fn channel(&self) -> &Channel<S> {
        &self.channel
    }

    /// Returns the channel.
    pub fn channel_mut(&mut self) -> &mut Channel<S> {
        &mut self.channel
    }

    /// Returns the socket, for registration.
    pub fn socket_mut(&mut self) -> &mut S {
        self.channel.socket_mut()
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
    // A call of its own would take a quarter of the instructions of a read.
    #[inline(always)]
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Received> {
        if !self.channel.is_plain() {
            return self.read_other(into);
        }
        let read = self.take(|channel| channel.socket_mut().read(into))?;
        // A short read emptied the socket, and new data brings an event.
        self.note_drained(matches!(read, Received::Bytes(bytes) if bytes < into.len()));
        Ok(read)
    }

    /// Reads from a channel that has TLS, or may have.
    #[inline(never)]
    fn read_other(&mut self, into: &mut [u8]) -> io::Result<Received> {
        self.read_by(Channel::read, into)
    }

    /// Reads by this call, whatever the channel has.
    #[inline(always)]
    fn read_by(
        &mut self,
        call: impl Fn(&mut Channel<S>, &mut [u8]) -> io::Result<usize>,
        into: &mut [u8],
    ) -> io::Result<Received> {
        let read = self.take(|channel| call(channel, into))?;
        self.note_drained(
            matches!(read, Received::Bytes(bytes) if self.channel.is_drained(bytes, into.len())),
        );
        Ok(read)
    }

    /// Notes that a read has emptied the socket, unless no event may come: an end that has already arrived brings none,
    /// and a read may have ended at a mark of urgent data.
    #[inline]
    fn note_drained(&mut self, is_drained: bool) {
        if is_drained && !self.is_ready(Ready::END) && !self.is_ready(Ready::URGENT) {
            self.ready = self.ready.without(Ready::READ);
        }
    }

    /// Reads as [`Self::read`] does, to discard the bytes.
    ///
    /// # Errors
    /// The connection failed.
    pub fn discard(&mut self, into: &mut [u8]) -> io::Result<Received> {
        self.read_by(Channel::discard, into)
    }

    /// Peeks at the beginning of the data, if there may be some.
    ///
    /// # Errors
    /// The connection failed.
    pub fn peek(&mut self, into: &mut [u8]) -> io::Result<Received> {
        self.take(|channel| channel.peek(into))
    }

    /// Moves at most `bytes` bytes into an empty pipe, if there may be some.
    ///
    /// # Errors
    /// The connection failed.
    pub fn splice_in(&mut self, pipe: &mut impl Pipe<S>, bytes: usize) -> io::Result<Received> {
        // A short count may mean a full pipe: it shows nothing about the socket.
        self.take(|channel| pipe.splice_in(channel.socket(), bytes))
    }

    #[inline(always)]
    fn take(&mut self, mut call: impl FnMut(&mut Channel<S>) -> io::Result<usize>) -> io::Result<Received> {
        if !self.is_ready(Ready::READ) {
            return Ok(Received::NotReady);
        }
        loop {
            match call(&mut self.channel) {
                Ok(0) => return Ok(Received::Eof { clean: self.channel.is_end_clean() }),
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
        let is_plain = self.channel.is_plain();
        let bytes = if is_plain {
            self.give(|channel| channel.socket_mut().write(from))?
        } else {
            self.write_other(from)?
        };
        if bytes < all || (!is_plain && self.channel.has_unsent()) {
            // A short write filled the socket; an event reports when there is room again.
            self.ready = self.ready.without(Ready::WRITE);
        }
        Ok(bytes)
    }

    #[inline(never)]
    fn write_other(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.give(|channel| channel.write(from))
    }

    /// Passes bytes that were written, but which the socket has yet to take, to the socket.
    ///
    /// # Errors
    /// The connection failed.
    #[inline]
    pub fn flush(&mut self) -> io::Result<()> {
        if self.channel.has_unsent() { self.flush_unsent() } else { Ok(()) }
    }

    fn flush_unsent(&mut self) -> io::Result<()> {
        if self.is_ready(Ready::WRITE) {
            self.channel.flush()?;
            if self.channel.has_unsent() {
                self.ready = self.ready.without(Ready::WRITE);
            }
        }
        Ok(())
    }

    /// Moves `bytes` bytes out of a pipe that holds them: as many as the kernel accepts now.
    ///
    /// # Errors
    /// The connection failed.
    pub fn splice_out(&mut self, pipe: &mut impl Pipe<S>, bytes: usize) -> io::Result<usize> {
        let mut poured = 0;
        // Loops until EAGAIN: a short count may have any reason.
        while poured < bytes {
            match self.give(|channel| pipe.splice_out(channel.socket(), bytes - poured)) {
                Ok(0) => break,
                Ok(more) => poured += more,
                Err(_) if poured > 0 => break, // the next call returns the error
                Err(error) => return Err(error),
            }
        }
        Ok(poured)
    }

    fn give(&mut self, mut call: impl FnMut(&mut Channel<S>) -> io::Result<usize>) -> io::Result<usize> {
        if !self.is_ready(Ready::WRITE) {
            return Ok(0);
        }
        loop {
            match call(&mut self.channel) {
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
    if let Some(fault) = cause_of(error) {
        return UpstreamError::Tls(fault);
    }
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
