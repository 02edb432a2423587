//! Where sockets and pipes come from, and how events name them.
//!
//! Owns the seam between a worker and the kernel: real sockets are [`super::event_loop`]'s, and a simulation has its own.

use std::{io, net::SocketAddr};

use super::{
    slots::Key,
    transport::{Transport, splice::Pipe},
};

/// Where sockets come from.
pub trait Network {
    /// What a connection is made of.
    type Socket: Transport;
    /// What bytes go through from one of them to another.
    type Pipe: Pipe<Self::Socket>;

    /// Has a client's socket report its readiness under `token`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    fn register(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// Begins a connection, which reports its readiness under `token`.
    ///
    /// # Errors
    /// Why it cannot even begin.
    fn connect(&mut self, to: SocketAddr, token: Token) -> io::Result<Self::Socket>;

    /// Makes a pipe.
    ///
    /// # Errors
    /// As `pipe2(2)`.
    fn pipe(&mut self) -> io::Result<Self::Pipe>;
}

/// Whose readiness an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A client's connection.
    Client(Key),
    /// A pod's connection.
    Upstream(Key),
}

impl Token {
    const UPSTREAM: usize = 1 << (usize::BITS - 1);

    /// The token as an event carries it.
    pub fn to_bits(self) -> usize {
        match self {
            Self::Client(key) => key.to_bits(),
            Self::Upstream(key) => key.to_bits() | Self::UPSTREAM,
        }
    }

    /// The token out of an event.
    pub fn from_bits(bits: usize) -> Self {
        let key = Key::from_bits(bits & !Self::UPSTREAM);
        if bits & Self::UPSTREAM == 0 { Self::Client(key) } else { Self::Upstream(key) }
    }
}
