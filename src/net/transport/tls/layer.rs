//! TLS between the content of a connection and its socket.
//!
//! Owns no socket: each call borrows it. Owns the bytes that wait on the connection (`Held`); an idle connection has
//! none. Bytes pass through scratch memory of the thread, which holds nothing between two calls.

use std::{
    cell::RefCell,
    io::{self, ErrorKind, IoSlice},
};

use rustls::pki_types::ServerName;

use super::{
    config::{Acceptor, Connector},
    engine::{CONTENT_BYTES_MAX, Engine, Outgoing, RECORD_BYTES_MAX},
    fault::error,
    held::Held,
    parts::Parts,
};
use crate::{net::transport::Transport, proxy::tls_fault::TlsFault};

/// Maximum number of bytes after the handshake that have no content, before the connection fails: more than one record
/// that arrives in parts, and the session tickets of any server.
const WITHOUT_CONTENT_MAX: usize = 2 * RECORD_BYTES_MAX;
/// Maximum number of bytes read at once.
const READ_BYTES_MAX: usize = 64 * 1024 + RECORD_BYTES_MAX;
/// Maximum number of bytes held of an incomplete record or handshake message. Chains of certificates are shorter.
const INCOMPLETE_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { incoming: Vec::new(), outgoing: Outgoing::new() }) };
}

/// Memory for one call.
struct Scratch {
    /// Never shrinks, as bytes that are added have to be zeroed.
    incoming: Vec<u8>,
    /// Empty between two calls.
    outgoing: Outgoing,
}

impl Scratch {
    /// Returns memory for `bytes` incoming bytes.
    fn incoming(&mut self, bytes: usize) -> &mut [u8] {
        if self.incoming.len() < bytes {
            self.incoming.resize(bytes, 0);
        }
        &mut self.incoming[..bytes]
    }
}

/// The TLS of one connection.
#[derive(Debug)]
pub struct TlsLayer {
    engine: Engine,
    held: Option<Box<Held>>,
    /// Whether a verified certificate of the peer is required or accepted.
    verifies: bool,
    /// Whether the last read took all that the socket had.
    is_drained: bool,
    /// Whether the socket's end was read.
    has_ended: bool,
    /// Whether our side has ended: nothing more can be sent.
    is_closed: bool,
    /// Whether the socket's side ends once it has taken the records that wait.
    ends_when_flushed: bool,
    /// How many bytes arrived since the last content.
    without_content: usize,
    fault: Option<TlsFault>,
}

impl TlsLayer {
    /// Waits for a client's handshake.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn accept(acceptor: &Acceptor) -> io::Result<Self> {
        Ok(Self::new(Engine::accept(acceptor).map_err(error)?, acceptor.verifies_clients()))
    }

    /// Begins a handshake with a server of this name, once the socket is connected.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn connect(connector: &Connector, name: ServerName<'static>) -> io::Result<Self> {
        Ok(Self::new(Engine::connect(connector, name).map_err(error)?, false))
    }

    fn new(engine: Engine, verifies: bool) -> Self {
        Self {
            engine,
            held: None,
            verifies,
            is_drained: false,
            has_ended: false,
            is_closed: false,
            ends_when_flushed: false,
            without_content: 0,
            fault: None,
        }
    }

    /// Returns whether the handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.engine.is_handshaking()
    }

    /// Returns whether a client's first message was complete, and was answered.
    pub fn has_answered(&self) -> bool {
        self.engine.has_answered()
    }

    /// Returns whether the peer presented a certificate that was verified.
    pub fn has_verified_peer(&self) -> bool {
        self.verifies && self.engine.has_peer_certificate()
    }

    /// Returns why TLS failed, if it did. A connection that ends within its handshake, has failed.
    pub fn fault(&self) -> Option<TlsFault> {
        let in_handshake = if self.has_ended { TlsFault::Closed } else { TlsFault::Timeout };
        self.fault.or_else(|| self.is_handshaking().then_some(in_handshake))
    }

    /// Returns whether TLS failed, so that nothing can be read or sent.
    pub fn has_failed(&self) -> bool {
        self.fault.is_some()
    }

    /// Gives up for this reason, unless TLS failed before.
    pub fn fail(&mut self, fault: TlsFault) {
        self.fault.get_or_insert(fault);
    }

    /// Returns the memory that the waiting bytes hold.
    pub fn held_bytes(&self) -> usize {
        let held = self.held.as_ref();
        held.map_or(0, |held| held.incoming.capacity() + held.content.capacity() + held.outgoing.capacity())
    }

    /// Returns whether records wait for the socket to take them.
    pub fn has_unsent(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.outgoing().is_empty())
    }

    /// Returns whether a read would find nothing before the next event of the socket.
    pub fn is_drained(&self) -> bool {
        let has_content = self.held.as_ref().is_some_and(|held| !held.content().is_empty());
        self.is_drained && !has_content && !self.is_over()
    }

    /// Returns whether the end that was read is authentic (RFC 8446 section 6.1).
    pub fn is_end_clean(&self) -> bool {
        self.engine.is_peer_closed()
    }

    fn is_over(&self) -> bool {
        self.has_ended || self.fault.is_some() || self.engine.is_peer_closed()
    }

    /// Reads content; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; a fault ([`super::fault::cause_of`]); as the socket.
    pub fn read(&mut self, socket: &mut impl Transport, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.take_content(into, true);
        if bytes > 0 || into.is_empty() {
            // The socket may have got more since it was read.
            self.is_drained = false;
            return Ok(bytes);
        }
        loop {
            if self.is_over() {
                return self.end();
            }
            let bytes = self.receive(socket, into)?;
            if bytes > 0 {
                return Ok(bytes);
            }
        }
    }

    /// Copies the first content without removing it; 0 at the end.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn peek(&mut self, socket: &mut impl Transport, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.take_content(into, false);
            if bytes > 0 {
                return Ok(bytes);
            }
            if self.is_over() {
                return self.end();
            }
            self.receive(socket, &mut [])?;
        }
    }

    /// Returns how the connection ended.
    fn end(&self) -> io::Result<usize> {
        match self.fault {
            Some(fault) => Err(error(fault)),
            None if self.engine.is_handshaking() => Err(error(TlsFault::Closed)),
            None => Ok(0),
        }
    }

    /// Copies waiting content, and removes it if it is to be `taken`.
    fn take_content(&mut self, into: &mut [u8], taken: bool) -> usize {
        let Some(held) = &mut self.held else { return 0 };
        let bytes = held.content().len().min(into.len());
        into[..bytes].copy_from_slice(&held.content()[..bytes]);
        if taken {
            held.content_at += bytes;
            if held.content().is_empty() {
                (held.content, held.content_at) = (Vec::new(), 0);
            }
            self.tidy();
        }
        bytes
    }

    /// Frees the memory of waiting bytes when there are none.
    fn tidy(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
    }

    /// Reads once from the socket, and returns how many bytes of content it put into `into`. Further content waits.
    fn receive(&mut self, socket: &mut impl Transport, into: &mut [u8]) -> io::Result<usize> {
        SCRATCH.with_borrow_mut(|scratch| {
            let before = self.held.as_ref().map_or(&[][..], |held| &held.incoming);
            let room = (before.len() + RECORD_BYTES_MAX.max(into.len())).min(READ_BYTES_MAX + before.len());
            let read = socket.read(&mut scratch.incoming(room)[before.len()..])?;
            scratch.incoming[..before.len()].copy_from_slice(before);
            let all = before.len() + read;
            self.is_drained = all < room;
            self.has_ended = read == 0;
            let given = self.process(socket, &mut scratch.incoming[..all], &mut scratch.outgoing, into)?;
            self.limit_overhead(read, given);
            Ok(given)
        })
    }

    /// Fails the connection if the peer sends only what is not content: a read goes on until there is some.
    fn limit_overhead(&mut self, read: usize, given: usize) {
        let has_content = given > 0 || self.held.as_ref().is_some_and(|held| !held.content().is_empty());
        self.without_content = if has_content { 0 } else { self.without_content + read };
        if self.without_content > WITHOUT_CONTENT_MAX && !self.is_handshaking() {
            self.fault.get_or_insert(TlsFault::Protocol);
        }
    }

    /// Processes received bytes, which begin with those that wait.
    fn process(
        &mut self,
        socket: &mut impl Transport,
        incoming: &mut [u8],
        outgoing: &mut Outgoing,
        into: &mut [u8],
    ) -> io::Result<usize> {
        let (mut given, mut waiting) = (0, Vec::new());
        let received = self.engine.receive(incoming, outgoing, |content| {
            let fits = content.len().min(into.len() - given);
            into[given..given + fits].copy_from_slice(&content[..fits]);
            given += fits;
            waiting.extend_from_slice(&content[fits..]);
        });
        let rest = match received {
            Ok(used) => &incoming[used..],
            Err(fault) => {
                self.fault = Some(fault);
                &[]
            }
        };
        if rest.len() > INCOMPLETE_BYTES_MAX {
            self.fault = Some(TlsFault::Protocol);
        }
        if !rest.is_empty() || !waiting.is_empty() || self.held.is_some() {
            let held = self.held.get_or_insert_default();
            held.incoming = rest.to_vec();
            if !waiting.is_empty() {
                (held.content, held.content_at) = (waiting, 0);
            }
        }
        let sent = self.send(socket, outgoing);
        self.tidy();
        // Content before a failure is passed on first.
        if given == 0 && self.fault.is_none() { sent.map(|()| 0) } else { Ok(given) }
    }

    /// Sends records, or keeps those that the socket does not take. Clears `outgoing`.
    fn send(&mut self, socket: &mut impl Transport, outgoing: &mut Outgoing) -> io::Result<()> {
        let records = outgoing.records();
        if records.is_empty() || self.is_closed {
            outgoing.clear();
            return Ok(());
        }
        let taken = if self.has_unsent() { Ok(0) } else { write(socket, records) };
        if let Ok(taken) = taken
            && taken < records.len()
        {
            let held = self.held.get_or_insert_default();
            held.outgoing.extend_from_slice(&records[taken..]);
        }
        outgoing.clear();
        taken.map(drop)
    }

    /// Sends the records that wait, as far as the socket takes them.
    ///
    /// # Errors
    /// As the socket.
    pub fn flush(&mut self, socket: &mut impl Transport) -> io::Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        if held.outgoing().is_empty() {
            return Ok(());
        }
        held.outgoing_at += write(socket, held.outgoing())?;
        if held.outgoing().is_empty() {
            (held.outgoing, held.outgoing_at) = (Vec::new(), 0);
            self.tidy();
            if self.ends_when_flushed {
                socket.shutdown();
            }
        }
        Ok(())
    }

    /// Encrypts content and writes it. Takes a portion of it whole, however much of that the socket takes now, and
    /// then no more before the socket has taken all.
    ///
    /// # Errors
    /// `WouldBlock` if earlier records wait; a fault; as the socket.
    pub fn write(&mut self, socket: &mut impl Transport, from: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.engine.is_handshaking() {
            // Only a client that is turned away gets a response before its request, and it cannot read that yet.
            let fault = *self.fault.get_or_insert(TlsFault::TooMany);
            return Err(error(fault));
        }
        self.flush(socket)?;
        let mut taken = 0;
        let mut parts = Parts::new(from);
        SCRATCH.with_borrow_mut(|scratch| {
            while !self.has_unsent() {
                let bytes = self.encrypt(socket, &mut parts, scratch)?;
                if bytes == 0 {
                    break;
                }
                taken += bytes;
                self.send(socket, &mut scratch.outgoing)?;
            }
            if taken == 0 && from.iter().any(|part| !part.is_empty()) {
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(taken)
        })
    }

    /// Encrypts the next portion. Small parts are encrypted together.
    fn encrypt(
        &mut self,
        socket: &mut impl Transport,
        parts: &mut Parts<'_>,
        scratch: &mut Scratch,
    ) -> io::Result<usize> {
        let incoming = self.held.as_mut().map_or(&mut [][..], |held| &mut held.incoming);
        scratch.incoming(CONTENT_BYTES_MAX);
        let content = parts.next(&mut scratch.incoming);
        if content.is_empty() {
            return Ok(0);
        }
        let sent = self.engine.send(content, incoming, &mut scratch.outgoing);
        let bytes = content.len();
        if let Err(fault) = sent {
            self.fault = Some(fault);
            self.send(socket, &mut scratch.outgoing)?; // an alert
            return Err(error(fault));
        }
        Ok(bytes)
    }

    /// Announces our end (`close_notify`), unless records before it wait, which will never be sent.
    pub fn close(&mut self, socket: &mut impl Transport) {
        if self.has_unsent() || self.fault.is_some() {
            self.is_closed = true;
        }
        if self.is_closed {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let incoming = self.held.as_mut().map_or(&mut [][..], |held| &mut held.incoming);
            self.engine.close(incoming, &mut scratch.outgoing);
            // Without it, the peer finds the end not authentic.
            let _ = self.send(socket, &mut scratch.outgoing);
        });
        self.is_closed = true;
    }

    /// Announces our end as [`Self::close`] does, and ends our side once the socket has taken that.
    pub fn shutdown(&mut self, socket: &mut impl Transport) {
        self.close(socket);
        self.ends_when_flushed = self.has_unsent();
        if !self.ends_when_flushed {
            socket.shutdown();
        }
    }

    /// Ends our side without an announcement.
    pub fn break_off(&mut self) {
        self.engine.break_off();
    }

    /// Continues the handshake. Returns whether it is complete.
    ///
    /// # Errors
    /// A fault; as the socket.
    pub fn handshake(&mut self, socket: &mut impl Transport) -> io::Result<bool> {
        self.flush(socket)?;
        if self.engine.is_handshaking() && self.held.is_none() && !self.has_ended {
            // The first message of a client is sent without being asked for.
            SCRATCH
                .with_borrow_mut(|scratch| self.process(socket, &mut [], &mut scratch.outgoing, &mut []))?;
        }
        while self.engine.is_handshaking() {
            if self.is_over() {
                self.end()?;
            }
            match self.receive(socket, &mut []) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => drop(received?),
            }
        }
        match self.fault {
            Some(fault) => Err(error(fault)),
            None => Ok(true),
        }
    }
}

/// Writes as much as a socket takes, which may be nothing.
fn write(socket: &mut impl Transport, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(&[IoSlice::new(bytes)]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            written => return written,
        }
    }
}
