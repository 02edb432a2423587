//! The bytes of a connection, with TLS or without.
//!
//! Owns the choice, which a client's first byte makes if both are served. [`super::tls`] owns TLS.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    time::Duration,
};

use super::{
    Transport,
    tls::{
        config::{Acceptor, Connector, Name},
        layer::TlsLayer,
    },
};
use crate::proxy::tls_fault::TlsFault;

/// The first byte of a TLS handshake (RFC 8446 section 5.1). No HTTP request begins with it.
const HANDSHAKE: u8 = 22;

/// How far the TLS handshake of a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// None is in progress.
    None,
    /// The client's first message is incomplete, which has cost little.
    Begun,
    /// psystrike has answered the client's first message, with a signature.
    Answered,
    /// It failed, and the client has yet to read why.
    Failed,
}

/// A connection's socket, and what is between it and the content.
#[derive(Debug)]
pub struct Channel<S> {
    socket: S,
    layer: Layer,
}

#[derive(Debug)]
enum Layer {
    /// Nothing.
    Plain,
    /// Not known yet: no byte of the client has arrived.
    Unknown(Acceptor),
    /// TLS.
    Tls(Box<TlsLayer>),
}

impl<S: Transport> Channel<S> {
    /// Returns a channel without TLS.
    pub fn plain(socket: S) -> Self {
        Self { socket, layer: Layer::Plain }
    }

    /// Returns the channel of a client, which may use TLS if there is an acceptor.
    pub fn of_client(socket: S, acceptor: Option<&Acceptor>) -> Self {
        Self { socket, layer: acceptor.cloned().map_or(Layer::Plain, Layer::Unknown) }
    }

    /// Begins TLS with a pod, which is verified to have this name.
    ///
    /// # Errors
    /// As [`TlsLayer::connect`].
    pub fn start_tls(&mut self, connector: &Connector, name: Name) -> io::Result<()> {
        self.layer = Layer::Tls(Box::new(TlsLayer::connect(connector, name)?));
        Ok(())
    }

    /// Returns the socket below.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Returns the socket below, for registration.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Returns whether it is known to have no TLS.
    #[inline]
    pub fn is_plain(&self) -> bool {
        matches!(self.layer, Layer::Plain)
    }

    /// Returns its TLS, unless it is known to have none, or not known to have any.
    #[inline]
    pub fn tls(&self) -> Option<&TlsLayer> {
        match &self.layer {
            Layer::Tls(tls) => Some(tls),
            Layer::Plain | Layer::Unknown(_) => None,
        }
    }

    /// Returns whether the next bytes may belong to a handshake.
    #[inline]
    pub fn may_be_handshaking(&self) -> bool {
        match &self.layer {
            Layer::Plain => false,
            Layer::Unknown(_) => true,
            Layer::Tls(tls) => tls.is_handshaking(),
        }
    }

    /// Returns how far the handshake is.
    #[inline]
    pub fn handshake(&self) -> Handshake {
        match self.tls().filter(|tls| tls.is_handshaking()) {
            None => Handshake::None,
            Some(tls) if tls.has_failed() => Handshake::Failed,
            Some(tls) if tls.has_answered() => Handshake::Answered,
            Some(_) => Handshake::Begun,
        }
    }

    /// Returns why TLS failed, if it did.
    #[inline]
    pub fn fault(&self) -> Option<TlsFault> {
        self.tls().and_then(TlsLayer::fault)
    }

    /// Gives up TLS for this reason, if the peer has begun it and it has not failed before.
    pub fn fail(&mut self, fault: TlsFault) {
        let _ = self.choose(); // if no byte has arrived, there is no TLS to give up
        if let Layer::Tls(tls) = &mut self.layer {
            tls.fail(fault);
        }
    }

    /// Looks at a client's first byte, if it is not known yet and has arrived: without TLS, its request must not wait
    /// for the handshakes of others.
    #[inline]
    pub fn detect_plain(&mut self) {
        if let Layer::Unknown(_) = self.layer {
            self.peek_for_plain();
        }
    }

    /// TLS begins at the first read, so that clients that wait for it hold no memory of TLS.
    fn peek_for_plain(&mut self) {
        let mut first = [HANDSHAKE];
        if self.socket.peek(&mut first).is_ok() && first[0] != HANDSHAKE {
            self.layer = Layer::Plain;
        }
    }

    /// Looks at a client's first byte, if it is not known yet.
    #[inline]
    fn choose(&mut self) -> io::Result<()> {
        if let Layer::Unknown(_) = self.layer { self.sniff() } else { Ok(()) }
    }

    fn sniff(&mut self) -> io::Result<()> {
        let Layer::Unknown(acceptor) = &self.layer else { return Ok(()) };
        let mut first = [0];
        let is_tls = self.socket.peek(&mut first)? > 0 && first[0] == HANDSHAKE;
        self.layer = if is_tls { Layer::Tls(Box::new(TlsLayer::accept(acceptor)?)) } else { Layer::Plain };
        Ok(())
    }

    /// Returns whether bytes that were written wait for the socket to take them.
    #[inline]
    pub fn has_unsent(&self) -> bool {
        self.tls().is_some_and(TlsLayer::has_unsent)
    }

    /// Returns the memory that waiting bytes hold.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.tls().map_or(0, TlsLayer::held_bytes)
    }

    /// Passes bytes that wait to the socket.
    ///
    /// # Errors
    /// As [`Transport::write`], but for `WouldBlock`.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.layer {
            Layer::Tls(tls) => tls.flush(&mut self.socket),
            Layer::Plain | Layer::Unknown(_) => Ok(()),
        }
    }

    /// Returns whether a read of `bytes` bytes, with room for `room`, has emptied the socket.
    #[inline]
    pub fn is_drained(&self, bytes: usize, room: usize) -> bool {
        match &self.layer {
            Layer::Tls(tls) => tls.is_drained(),
            Layer::Plain | Layer::Unknown(_) => bytes < room,
        }
    }

    /// Reads bytes to discard them. After TLS has failed, they are not decrypted.
    ///
    /// # Errors
    /// As [`Transport::read`].
    pub fn discard(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &self.layer {
            Layer::Tls(tls) if tls.has_failed() => self.socket.read(into),
            Layer::Tls(_) | Layer::Plain | Layer::Unknown(_) => self.read(into),
        }
    }

    /// Announces our end, before the socket is closed.
    #[inline]
    pub fn close(&mut self) {
        if let Layer::Tls(tls) = &mut self.layer {
            tls.close(&mut self.socket);
        }
    }
}

impl<S: Transport> Transport for Channel<S> {
    #[inline]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.choose()?;
        match &mut self.layer {
            Layer::Tls(tls) => tls.read(&mut self.socket, into),
            Layer::Plain | Layer::Unknown(_) => self.socket.read(into),
        }
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.choose()?;
        match &mut self.layer {
            Layer::Tls(tls) => tls.peek(&mut self.socket, into),
            Layer::Plain | Layer::Unknown(_) => self.socket.peek(into),
        }
    }

    #[inline]
    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Tls(tls) => tls.write(&mut self.socket, from),
            Layer::Plain | Layer::Unknown(_) => self.socket.write(from),
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        if !self.socket.connected()? {
            return Ok(false);
        }
        match &mut self.layer {
            Layer::Tls(tls) => tls.handshake(&mut self.socket),
            Layer::Plain | Layer::Unknown(_) => Ok(true),
        }
    }

    fn watch(&self) {
        self.socket.watch();
    }

    fn set_low_water(&self, bytes: u32) -> io::Result<()> {
        self.socket.set_low_water(bytes)
    }

    #[inline]
    fn can_splice(&self) -> bool {
        matches!(self.layer, Layer::Plain) && self.socket.can_splice()
    }

    fn is_end_clean(&self) -> bool {
        match &self.layer {
            Layer::Tls(tls) => tls.is_end_clean(),
            Layer::Plain | Layer::Unknown(_) => self.socket.is_end_clean(),
        }
    }

    fn shutdown(&mut self) {
        match &mut self.layer {
            Layer::Tls(tls) => tls.shutdown(&mut self.socket),
            Layer::Plain | Layer::Unknown(_) => self.socket.shutdown(),
        }
    }

    fn has_undelivered(&self) -> bool {
        self.has_unsent() || self.socket.has_undelivered()
    }

    fn reset_on_close(&mut self) {
        // An announced end would make what came before look complete.
        if let Layer::Tls(tls) = &mut self.layer {
            tls.break_off();
        }
        self.socket.reset_on_close();
    }

    fn deliver_within(&self, most: Duration) {
        self.socket.deliver_within(most);
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer()
    }
}
