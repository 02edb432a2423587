//! The TLS protocol of one connection, without a socket: records in, plaintext and records out.
//!
//! Uses rustls's unbuffered API, so that records are decrypted and encrypted in the caller's buffers, and an idle
//! connection holds none. Never makes a system call.

use std::{fmt, sync::Arc};

use rustls::{
    CommonState, Error,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic},
};

use super::{
    config::{Acceptor, Connector},
    fault::fault_of,
};
use crate::proxy::tls_fault::TlsFault;

/// The bytes that a record has besides its content, at most: header, tag, explicit nonce and content type (RFC 8446
/// section 5.2, RFC 5288 section 3).
const OVERHEAD_BYTES: usize = 5 + 16 + 8 + 1;
/// The longest content of a record.
pub(super) const CONTENT_BYTES_MAX: usize = 16 * 1024;
/// The longest record: its content and, by RFC 5246 section 6.2.3, up to 2 KiB.
pub(super) const RECORD_BYTES_MAX: usize = CONTENT_BYTES_MAX + 2048 + 5;

/// Records for the peer, in memory that is used again.
pub(super) struct Outgoing {
    /// Never shrinks, as bytes that are added have to be zeroed.
    memory: Vec<u8>,
    len: usize,
}

impl Outgoing {
    /// Has none.
    pub(super) const fn new() -> Self {
        Self { memory: Vec::new(), len: 0 }
    }

    /// Removes all.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Returns them.
    pub(super) fn records(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// Appends what `write` writes, with room for `room` bytes, or for as many as it requires.
    fn append(
        &mut self,
        room: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
    ) -> Result<(), Error> {
        let mut room = room;
        loop {
            if self.memory.len() < self.len + room {
                self.memory.resize(self.len + room, 0);
            }
            match write(&mut self.memory[self.len..]) {
                Ok(bytes) => {
                    self.len += bytes;
                    return Ok(());
                }
                Err(Some(required)) if required > room => room = required,
                Err(_) => return Err(Error::EncryptError),
            }
        }
    }
}

/// One side of a TLS connection.
#[derive(Debug)]
pub(super) struct Engine {
    side: Side,
    /// The peer announced its end (`close_notify`).
    is_peer_closed: bool,
    /// Our end is announced.
    is_closed: bool,
    fault: Option<TlsFault>,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Both kinds of connections of rustls.
trait Connection {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Engine {
    /// Creates the server's side.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub(super) fn accept(acceptor: &Acceptor) -> Result<Self, TlsFault> {
        let server = UnbufferedServerConnection::new(Arc::clone(&acceptor.config));
        Ok(Self::new(Side::Server(server.map_err(|error| fault_of(&error))?)))
    }

    /// Creates the client's side, which verifies that the server has this name.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub(super) fn connect(connector: &Connector, name: ServerName<'static>) -> Result<Self, TlsFault> {
        let client = UnbufferedClientConnection::new(Arc::clone(&connector.config), name);
        Ok(Self::new(Side::Client(client.map_err(|error| fault_of(&error))?)))
    }

    fn new(side: Side) -> Self {
        Self { side, is_peer_closed: false, is_closed: false, fault: None }
    }

    fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(server) => server,
            Side::Client(client) => client,
        }
    }

    /// Returns whether the handshake is not complete: no content can be exchanged yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Returns whether the version was negotiated: as a server, that the client's first message was answered.
    pub(super) fn has_answered(&self) -> bool {
        self.state().protocol_version().is_some()
    }

    /// Returns whether the peer presented a certificate.
    pub(super) fn has_peer_certificate(&self) -> bool {
        self.state().peer_certificates().is_some()
    }

    /// Returns whether the peer announced its end.
    pub(super) fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// Processes the records in `incoming`. Passes their content to `content`, and appends records for the peer to
    /// `outgoing`. Returns how many bytes are used; the rest must be passed again, with the bytes that follow.
    ///
    /// # Errors
    /// The connection has failed. `outgoing` has an alert for the peer.
    pub(super) fn receive(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Outgoing,
        mut content: impl FnMut(&[u8]),
    ) -> Result<usize, TlsFault> {
        self.check()?;
        let closed = &mut self.is_peer_closed;
        let received = match &mut self.side {
            Side::Server(server) => receive(server, incoming, outgoing, closed, &mut content),
            Side::Client(client) => receive(client, incoming, outgoing, closed, &mut content),
        };
        received.map_err(|error| self.fail(&error, outgoing))
    }

    /// Returns whether the connection has not failed. A failed one is not passed to rustls any more.
    fn check(&self) -> Result<(), TlsFault> {
        self.fault.map_or(Ok(()), Err)
    }

    /// Appends the alert that rustls queued to `outgoing`.
    fn fail(&mut self, error: &Error, outgoing: &mut Outgoing) -> TlsFault {
        // rustls returns what is queued before it looks at received bytes, and those must be the same as before.
        while self.state().wants_write() {
            let encoded = match &mut self.side {
                Side::Server(server) => encode_queued(server, outgoing),
                Side::Client(client) => encode_queued(client, outgoing),
            };
            if encoded.is_err() {
                break;
            }
        }
        let fault = match fault_of(error) {
            // A peer whose renegotiation was refused sends the same alert as one without a common cipher suite.
            TlsFault::NothingInCommon if !self.is_handshaking() => TlsFault::Alert,
            fault => fault,
        };
        self.fault = Some(fault);
        fault
    }

    /// Appends records with this content to `outgoing`. `incoming` has the bytes that [`Self::receive`] did not use.
    ///
    /// # Errors
    /// The handshake is not complete, or the connection has failed or is closed.
    pub(super) fn send(
        &mut self,
        content: &[u8],
        incoming: &mut [u8],
        outgoing: &mut Outgoing,
    ) -> Result<(), TlsFault> {
        self.write(Some(content), incoming, outgoing)
    }

    /// Appends the announcement of our end to `outgoing`, unless it was made.
    pub(super) fn close(&mut self, incoming: &mut [u8], outgoing: &mut Outgoing) {
        if self.is_handshaking() || std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        // If it fails, the connection has failed, and ends without an announcement.
        let _ = self.write(None, incoming, outgoing);
    }

    /// Makes our end one that is never announced.
    pub(super) fn break_off(&mut self) {
        self.is_closed = true;
    }

    /// Sends content, or the announcement of our end.
    fn write(
        &mut self,
        content: Option<&[u8]>,
        incoming: &mut [u8],
        outgoing: &mut Outgoing,
    ) -> Result<(), TlsFault> {
        self.check()?;
        let written = match &mut self.side {
            Side::Server(server) => write(server, incoming, outgoing, content),
            Side::Client(client) => write(client, incoming, outgoing, content),
        };
        written.map_err(|error| self.fail(&error, outgoing))
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Client(_) => "Client",
        })
    }
}

fn receive<C: Connection>(
    connection: &mut C,
    incoming: &mut [u8],
    outgoing: &mut Outgoing,
    is_peer_closed: &mut bool,
    content: &mut impl FnMut(&[u8]),
) -> Result<usize, Error> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { mut discard, state } = connection.process(&mut incoming[used..]);
        let waits = match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    content(record.payload);
                }
                false
            }
            ConnectionState::EncodeTlsData(data) => {
                encode(data, outgoing)?;
                false
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done(); // its order is kept by `outgoing`
                false
            }
            ConnectionState::PeerClosed => {
                *is_peer_closed = true;
                false
            }
            // Early data is not offered, and not accepted.
            _ => true,
        };
        used += discard;
        if waits {
            return Ok(used);
        }
    }
}

fn encode_queued<C: Connection>(connection: &mut C, outgoing: &mut Outgoing) -> Result<(), Error> {
    match connection.process(&mut []).state? {
        ConnectionState::EncodeTlsData(data) => encode(data, outgoing),
        _ => Err(Error::EncryptError),
    }
}

/// Sends content, or the announcement of our end, after what rustls has to send before.
fn write<C: Connection>(
    connection: &mut C,
    incoming: &mut [u8],
    outgoing: &mut Outgoing,
    content: Option<&[u8]>,
) -> Result<(), Error> {
    loop {
        let UnbufferedStatus { discard, state } = connection.process(incoming);
        // All that can be used was used when it was received.
        debug_assert_eq!(discard, 0);
        match state? {
            ConnectionState::EncodeTlsData(data) => encode(data, outgoing)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(traffic) => return encrypt(traffic, outgoing, content),
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Outgoing) -> Result<(), Error> {
    outgoing.append(0, |into| {
        data.encode(into).map_err(|error| match error {
            EncodeError::InsufficientSize(needed) => Some(needed.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    })
}

fn encrypt<D>(
    mut traffic: WriteTraffic<'_, D>,
    outgoing: &mut Outgoing,
    content: Option<&[u8]>,
) -> Result<(), Error> {
    let bytes = content.map_or(0, <[u8]>::len);
    let room = bytes + bytes.div_ceil(CONTENT_BYTES_MAX).max(1) * OVERHEAD_BYTES;
    outgoing.append(room, |into| {
        let written = match content {
            Some(content) => traffic.encrypt(content, into),
            None => traffic.queue_close_notify(into),
        };
        written.map_err(|error| match error {
            EncryptError::InsufficientSize(needed) => Some(needed.required_size),
            EncryptError::EncryptExhausted => None,
        })
    })
}
