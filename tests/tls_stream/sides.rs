//! The two sides of a connection: psystrike's streams, and rustls as any other peer.

use std::{
    io::{self, ErrorKind, IoSlice, Read as _, Write as _},
    sync::Arc,
};

use psystrike::net::{
    stream::{Ready, Received, Stream},
    transport::{
        Transport,
        tls::{
            config::{Acceptor, Connector},
            fault::cause_of,
        },
    },
};

use crate::{bytes::Random, wire::Socket};

/// How the bytes of the other side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Announced.
    Clean,
    /// Not announced.
    Unclean,
    /// With an error.
    Failed,
}

/// What both kinds of sides have.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) to_send: Vec<u8>,
    pub(crate) sent: usize,
    pub(crate) received: Vec<u8>,
    pub(crate) end: Option<End>,
    /// The handshake is complete.
    pub(crate) is_open: bool,
}

/// One side.
pub(crate) enum Side {
    Ours(Box<Ours>),
    Theirs(Box<Theirs>),
}

impl Side {
    pub(crate) fn traffic(&mut self) -> &mut Traffic {
        match self {
            Self::Ours(side) => &mut side.traffic,
            Self::Theirs(side) => &mut side.traffic,
        }
    }

    /// Does all that it can do after these events.
    pub(crate) fn run(&mut self, events: Ready, random: &mut Random) {
        match self {
            Self::Ours(side) => side.run(events, random),
            Self::Theirs(side) => side.run(random),
        }
    }

    /// Returns whether it has to run again without an event.
    pub(crate) fn yields(&self) -> bool {
        matches!(self, Self::Ours(side) if side.yields)
    }

    /// Announces its end and ends its side. Returns whether nothing is left that it has to send before.
    pub(crate) fn close(&mut self) -> bool {
        match self {
            Self::Ours(side) if side.stream.channel().has_unsent() => false,
            Self::Ours(side) => {
                side.stream.channel_mut().shutdown();
                true
            }
            Self::Theirs(side) => side.close(),
        }
    }

    /// Returns the memory that it holds for waiting bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Ours(side) => side.stream.channel().held_bytes(),
            Self::Theirs(_) => 0,
        }
    }

    pub(crate) fn socket(&self) -> Socket {
        match self {
            Self::Ours(side) => side.stream.channel().socket().clone(),
            Self::Theirs(side) => side.socket.clone(),
        }
    }
}

/// psystrike's side.
pub(crate) struct Ours {
    stream: Stream<Socket>,
    is_client: bool,
    /// Whether its turn ended before it had nothing left to do.
    yields: bool,
    traffic: Traffic,
}

impl Ours {
    pub(crate) fn server(socket: Socket, acceptor: &Acceptor) -> Self {
        let stream = Stream::of_client(socket, Some(acceptor));
        Self { stream, is_client: false, yields: false, traffic: Traffic::default() }
    }

    pub(crate) fn client(socket: Socket, connector: &Connector) -> Self {
        let mut stream = Stream::new(socket);
        let name = connector.name_of(Some("pod"), [127, 0, 0, 1].into()).expect("a name");
        stream.channel_mut().start_tls(connector, name).expect("TLS begins");
        Self { stream, is_client: true, yields: false, traffic: Traffic::default() }
    }

    fn run(&mut self, events: Ready, random: &mut Random) {
        self.stream.add_ready(events);
        self.yields = false;
        while self.traffic.end != Some(End::Failed) && self.step(random) {
            // As a turn of the worker ends: the next one needs no event.
            self.yields = random.one_in(6);
            if self.yields {
                return;
            }
        }
    }

    /// Makes one step, as the worker would. Returns whether anything moved.
    fn step(&mut self, random: &mut Random) -> bool {
        if self.is_client && !self.traffic.is_open {
            match self.stream.channel_mut().connected() {
                Ok(is_open) => self.traffic.is_open = is_open,
                Err(_) => self.traffic.end = Some(End::Failed),
            }
            return self.traffic.is_open;
        }
        self.flush_and_write(random) | self.read(random)
    }

    fn flush_and_write(&mut self, random: &mut Random) -> bool {
        if self.stream.flush().is_err() {
            self.traffic.end = Some(End::Failed);
            return false;
        }
        let rest = &self.traffic.to_send[self.traffic.sent..];
        if !self.traffic.is_open || rest.is_empty() || self.stream.channel().has_unsent() {
            return false;
        }
        let portion = &rest[..rest.len().min(1 + random.below(100_000))];
        let (head, body) = portion.split_at(random.below(300).min(portion.len()));
        match self.stream.write(&[IoSlice::new(head), IoSlice::new(body)]) {
            Ok(bytes) => {
                self.traffic.sent += bytes;
                bytes > 0
            }
            Err(_) => {
                self.traffic.end = Some(End::Failed);
                false
            }
        }
    }

    fn read(&mut self, random: &mut Random) -> bool {
        if self.traffic.end.is_some() {
            return false;
        }
        let mut into = vec![0; 1 + random.below(random_room(self.traffic.received.len()))];
        if random.one_in(8) {
            let _ = self.stream.peek(&mut into[..1]);
        }
        let read = self.stream.read(&mut into);
        self.traffic.is_open |= self.stream.channel().tls().is_some_and(|tls| !tls.is_handshaking());
        match read {
            Ok(Received::Bytes(bytes)) => {
                self.traffic.received.extend(&into[..bytes]);
                true
            }
            Ok(Received::NotReady) => false,
            Ok(Received::Eof { clean }) => {
                self.traffic.end = Some(if clean { End::Clean } else { End::Unclean });
                true
            }
            Err(error) => {
                let is_known = cause_of(&error).is_some() || error.kind() == ErrorKind::ConnectionReset;
                assert!(is_known, "{error}");
                self.traffic.end = Some(End::Failed);
                false
            }
        }
    }
}

/// Small reads at first, then larger ones, so that a run is short.
fn random_room(received: usize) -> usize {
    if received < 500 { 100 } else { 70_000 }
}

/// rustls takes no more in a row.
const KEY_UPDATES_MAX: usize = 20;

/// Another implementation's side: rustls with its own buffers, and as a server with session tickets.
pub(crate) struct Theirs {
    socket: Socket,
    tls: rustls::Connection,
    is_closed: bool,
    key_updates: usize,
    traffic: Traffic,
}

struct Plumbing<'s>(&'s mut Socket);

impl io::Read for Plumbing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl io::Write for Plumbing<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(from)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Theirs {
    pub(crate) fn server(socket: Socket, config: &Arc<rustls::ServerConfig>) -> Self {
        let tls = rustls::ServerConnection::new(Arc::clone(config)).expect("a server");
        Self { socket, tls: tls.into(), is_closed: false, key_updates: 0, traffic: Traffic::default() }
    }

    pub(crate) fn client(socket: Socket, config: &Arc<rustls::ClientConfig>) -> Self {
        let name = "pod".try_into().expect("a name");
        let tls = rustls::ClientConnection::new(Arc::clone(config), name).expect("a client");
        Self { socket, tls: tls.into(), is_closed: false, key_updates: 0, traffic: Traffic::default() }
    }

    fn run(&mut self, random: &mut Random) {
        while self.traffic.end != Some(End::Failed) && self.step(random) {}
    }

    fn step(&mut self, random: &mut Random) -> bool {
        if self.traffic.is_open && self.key_updates < KEY_UPDATES_MAX && random.one_in(100) {
            let _ = self.tls.refresh_traffic_keys(); // refused by TLS 1.2
            self.key_updates += 1;
        }
        let mut moved = self.write_records();
        if self.traffic.is_open && !self.tls.wants_write() {
            let rest = &self.traffic.to_send[self.traffic.sent..];
            let portion = &rest[..rest.len().min(1 + random.below(100_000))];
            let bytes = self.tls.writer().write(portion).expect("accepted");
            self.traffic.sent += bytes;
            moved |= bytes > 0;
        }
        self.write_records() | self.read() | moved
    }

    fn write_records(&mut self) -> bool {
        let mut moved = false;
        while self.tls.wants_write() && !self.is_closed {
            match self.tls.write_tls(&mut Plumbing(&mut self.socket)) {
                Ok(_) => moved = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.traffic.end = Some(End::Failed);
                    break;
                }
            }
        }
        moved
    }

    fn read(&mut self) -> bool {
        if self.traffic.end.is_some() || !self.tls.wants_read() {
            return false;
        }
        let read = match self.tls.read_tls(&mut Plumbing(&mut self.socket)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => {
                self.traffic.end = Some(End::Failed);
                return false;
            }
        };
        if self.tls.process_new_packets().is_err() {
            self.write_records();
            self.traffic.end = Some(End::Failed);
            return false;
        }
        self.traffic.is_open |= !self.tls.is_handshaking();
        let mut content = Vec::new();
        match self.tls.reader().read_to_end(&mut content) {
            Ok(_) => self.traffic.end = Some(End::Clean),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.traffic.end = Some(End::Unclean),
        }
        self.traffic.received.extend(content);
        read > 0
    }

    fn close(&mut self) -> bool {
        if self.tls.wants_write() {
            return false;
        }
        self.tls.send_close_notify();
        self.write_records();
        let is_sent = !self.tls.wants_write();
        if is_sent {
            self.is_closed = true;
            self.socket.end();
        }
        is_sent
    }
}
