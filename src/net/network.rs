//! The interface that creates sockets and pipes, resolves names and checks passwords, and the tokens that identify
//! connections in events.
//!
//! Owns the interface between a worker and the kernel: [`super::event_loop`] has real sockets, a simulation its own.

use std::{io, net::SocketAddr, sync::Arc};

use super::{
    shared::Shared,
    slots::Key,
    transport::{Transport, splice::Pipe},
};

/// Creates sockets and pipes, resolves names and checks passwords.
pub trait Network {
    /// The socket of a connection.
    type Socket: Transport;
    /// The pipe that moves bytes from one socket to another.
    type Pipe: Pipe<Self::Socket>;

    /// Registers a client's socket to report its readiness under `token`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    fn register(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// Starts a connection that reports its readiness under `token`.
    ///
    /// # Errors
    /// Errors that occur before the connection is in progress.
    fn connect(&mut self, to: SocketAddr, token: Token) -> io::Result<Self::Socket>;

    /// Creates a pipe.
    ///
    /// # Errors
    /// As `pipe2(2)`.
    fn pipe(&mut self) -> io::Result<Self::Pipe>;

    /// Begins a lookup that was queued in [`Shared::lookups`]. Never blocks.
    fn look_up(&mut self, shared: &Arc<Shared>);

    /// Begins a check that was queued in [`Shared::passwords`]. Never blocks.
    fn check_passwords(&mut self, shared: &Arc<Shared>);
}

/// The connection that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A client's connection.
    Client(Key),
    /// A pod's connection.
    Upstream(Key),
}

impl Token {
    const UPSTREAM: usize = 1 << (usize::BITS - 1);

    /// Returns the token as bits for an event.
    pub fn to_bits(self) -> usize {
        match self {
            Self::Client(key) => key.to_bits(),
            Self::Upstream(key) => key.to_bits() | Self::UPSTREAM,
        }
    }

    /// Returns the token from an event's bits.
    pub fn from_bits(bits: usize) -> Self {
        let key = Key::from_bits(bits & !Self::UPSTREAM);
        if bits & Self::UPSTREAM == 0 { Self::Client(key) } else { Self::Upstream(key) }
    }
}
