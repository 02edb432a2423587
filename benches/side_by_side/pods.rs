//! The pods: all addresses 127.x.y.z on one port. One thread responds for all of them, like Go's exporters.
//!
//! A request's path ends in `/length/BYTES`, `/chunked/BYTES` (chunks of 4 KiB), `/net-http/BYTES` (chunks of 2 KiB in
//! writes of 4 KiB) or `/records/BYTES` (a length, and writes as large as TLS records). If a client uses HTTP/1.0 or
//! sends `Connection: close`, the response has no chunks and the connection is closed, as Go does it. A body repeats
//! [`period`], so that every byte can be checked by its offset.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use rustls::ServerConfig;
use slab::Slab;

use crate::{
    cases::Framing,
    certificates,
    wire::{self, Wire},
};

/// A body repeats itself after this many bytes.
pub(crate) const PERIOD_BYTES: usize = 4096;
/// The size of a chunk.
const CHUNK_BYTES: usize = 4096;
/// The size of a chunk of Go's net/http, whose responses have a buffer of this size (`bufferBeforeChunkingSize` in
/// net/http/server.go). The pieces that compress/gzip writes are smaller, so they fill it: every chunk but the last has
/// this size.
const GO_CHUNK_BYTES: usize = 2048;
/// The size of a write of Go's net/http: the buffer of its connections. The header and the first chunk share the first
/// write, and chunks are cut where the buffer is full. Compared with node_exporter 1.5 under strace, which sends its
/// page of 9,626 bytes in writes of 4,096, 4,096 and 1,638 bytes. It compresses between two writes, but these pods do
/// not: with many scrapes at a time, they would write far ahead of the forwarder, and it would read several writes at
/// once. Therefore these bodies are scraped by one client ([`crate::options::Options::clients_of`]).
pub(crate) const GO_WRITE_BYTES: usize = 4096;
/// A TLS 1.3 record as Go's HTTP/1.1 server writes it: its buffer of 4 KiB with 22 bytes around. Each is a write.
pub(crate) const RECORD_BYTES: usize = 4096 + 22;
/// The size of the buffer that bodies with a length are written from.
const BLOCK_BYTES: usize = 1024 * 1024;
/// The maximum size of a chunked body, which is held in memory.
const CHUNKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The listeners without TLS and with it.
const LISTENERS: [Token; 2] = [Token(usize::MAX - 1), Token(usize::MAX - 2)];

/// A running set of pods.
pub(crate) struct Pods {
    pub(crate) port: u16,
    /// The port at which they use TLS.
    pub(crate) tls_port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Connections.
    open: AtomicUsize,
    /// Poll instead of sleeping.
    awake: AtomicBool,
}

impl Pods {
    /// Starts a thread for them, which has the caller's cores and runs until the process exits.
    pub(crate) fn start() -> io::Result<Self> {
        let listen = || TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let (plain, tls) = (listen()?, listen()?);
        let (port, tls_port) = (plain.local_addr()?.port(), tls.local_addr()?.port());
        let (certificate, key) = certificates::self_signed().map_err(io::Error::other)?;
        let config = wire::pod(certificate, key).map_err(io::Error::other)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("pods".into()).spawn(move || {
            let serve = || Server::new([plain, tls], config, theirs)?.run();
            eprintln!("the pods stopped: {:?}", serve());
            std::process::exit(1);
        })?;
        Ok(Self { port, tls_port, shared })
    }

    /// The number of their connections.
    pub(crate) fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Sets whether they poll instead of sleeping, from their next event on.
    pub(crate) fn keep_awake(&self, awake: bool) {
        self.shared.awake.store(awake, Ordering::Relaxed);
    }
}

/// The address of the pod with this number, below 65,025: none ends in 0 or 255, and none is 127.0.0.1.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (number / 254) as u8, (number % 254 + 1) as u8)
}

/// The text that bodies repeat: lines like those of exporters, cut to [`PERIOD_BYTES`].
pub(crate) fn period() -> Vec<u8> {
    let line = |number: usize| {
        format!("http_requests_total{{code=\"200\",handler=\"/api/{number}\"}} {}\n", 7 * number)
    };
    (0..).flat_map(|number| line(number).into_bytes()).take(PERIOD_BYTES).collect()
}

struct Server {
    poll: Poll,
    /// Without TLS and with it.
    listeners: [TcpListener; 2],
    config: Arc<ServerConfig>,
    connections: Slab<Connection>,
    shared: Arc<Shared>,
    pages: Pages,
    scratch: Box<[u8]>,
}

struct Connection {
    stream: Wire<TcpStream>,
    /// An incomplete request.
    input: Vec<u8>,
    answer: Option<Answer>,
    readable: bool,
    writable: bool,
}

struct Answer {
    head: Rc<[u8]>,
    head_sent: usize,
    body: Body,
    /// The maximum number of bytes in one write.
    write_max: usize,
    close: bool,
}

/// The next `left` bytes of `bytes` repeated, starting at `at`.
struct Body {
    bytes: Rc<[u8]>,
    at: usize,
    left: u64,
}

/// What to do next with a connection.
enum Next {
    Wait,
    Close,
}

impl Server {
    fn new(
        mut listeners: [TcpListener; 2],
        config: Arc<ServerConfig>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (listener, token) in listeners.iter_mut().zip(LISTENERS) {
            poll.registry().register(listener, token, Interest::READABLE)?;
        }
        let pages = Pages::new();
        let scratch = vec![0; 64 * 1024].into();
        Ok(Self { poll, listeners, config, connections: Slab::new(), shared, pages, scratch })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.shared.awake.load(Ordering::Relaxed).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            if events.is_empty() {
                thread::yield_now(); // to the load, which has the same core
                continue;
            }
            self.pages.turn(Instant::now());
            for event in &events {
                if let Some(listener) = LISTENERS.iter().position(|token| event.token() == *token) {
                    self.accept(listener)?;
                    continue;
                }
                let Some(connection) = self.connections.get_mut(event.token().0) else { continue };
                connection.readable |= event.is_readable();
                connection.writable |= event.is_writable();
                let next = connection.go_on(&mut self.pages, &mut self.scratch);
                // A client may disconnect at any time.
                if !matches!(next, Ok(Next::Wait)) {
                    self.connections.remove(event.token().0);
                    self.shared.open.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        while let Some(mut stream) = accept(&self.listeners[listener])? {
            let entry = self.connections.vacant_entry();
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(entry.key()), both)?;
            let is_tls = listener == 1;
            let stream = if is_tls { Wire::server(stream, &self.config)? } else { Wire::plain(stream) };
            entry.insert(Connection {
                stream,
                input: Vec::new(),
                answer: None,
                readable: false,
                writable: false,
            });
            self.shared.open.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Connection {
    /// Reads and responds until the socket would block.
    fn go_on(&mut self, pages: &mut Pages, scratch: &mut [u8]) -> io::Result<Next> {
        match self.stream.send() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
            sent => sent?,
        }
        loop {
            if let Some(answer) = &mut self.answer {
                if !self.writable {
                    return Ok(Next::Wait);
                }
                match answer.write(&mut self.stream) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                    result => result?,
                }
                if answer.is_sent() {
                    if answer.close {
                        return Ok(Next::Close);
                    }
                    self.answer = None;
                }
                continue;
            }
            if !self.readable {
                return Ok(Next::Wait);
            }
            let bytes = match self.stream.read(scratch) {
                Ok(0) => return Ok(Next::Close),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(Next::Wait);
                }
                Err(error) => return Err(error),
            };
            self.readable = self.stream.is_tls() || bytes == scratch.len();
            let whole = if self.input.is_empty() { &scratch[..bytes] } else { &[] };
            if whole.ends_with(b"\r\n\r\n") {
                self.answer = Some(pages.answer(whole)?);
                continue;
            }
            self.input.extend_from_slice(&scratch[..bytes]);
            if self.input.ends_with(b"\r\n\r\n") {
                self.answer = Some(pages.answer(&self.input)?);
                self.input = Vec::new();
            }
        }
    }
}

impl Answer {
    fn write(&mut self, stream: &mut Wire<TcpStream>) -> io::Result<()> {
        while !self.is_sent() {
            let head = &self.head[self.head_sent..];
            let head = &head[..head.len().min(self.write_max)];
            let body = self.body.next();
            let parts =
                [IoSlice::new(head), IoSlice::new(&body[..body.len().min(self.write_max - head.len())])];
            let sent =
                if head.is_empty() { stream.write(&parts[1])? } else { stream.write_vectored(&parts)? };
            let of_head = sent.min(head.len());
            self.head_sent += of_head;
            self.body.skip(sent - of_head);
        }
        Ok(())
    }

    fn is_sent(&self) -> bool {
        self.head_sent == self.head.len() && self.body.left == 0
    }
}

impl Body {
    fn next(&self) -> &[u8] {
        let most = (self.bytes.len() - self.at) as u64;
        &self.bytes[self.at..][..self.left.min(most) as usize]
    }

    fn skip(&mut self, bytes: usize) {
        self.at = (self.at + bytes) % self.bytes.len().max(1);
        self.left -= bytes as u64;
    }
}

/// The pods' responses, built once.
struct Pages {
    block: Rc<[u8]>,
    /// Bodies in the chunked coding, by length and size of the chunks.
    chunked: HashMap<(u64, usize), Rc<[u8]>>,
    /// Headers for the current second, because of `Date`.
    heads: HashMap<Asked, Rc<[u8]>>,
    date: String,
    date_is_of: Option<Instant>,
}

/// The response that a request selects.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Asked {
    bytes: u64,
    framing: Framing,
    /// HTTP/1.0, which has no chunks.
    old: bool,
    close: bool,
}

impl Pages {
    fn new() -> Self {
        let block = period().repeat(BLOCK_BYTES / PERIOD_BYTES);
        let (chunked, heads) = (HashMap::new(), HashMap::new());
        Self { block: block.into(), chunked, heads, date: String::new(), date_is_of: None }
    }

    fn turn(&mut self, now: Instant) {
        if self.date_is_of.is_none_or(|then| now.duration_since(then).as_secs() > 0) {
            self.date = httpdate::fmt_http_date(SystemTime::now());
            self.date_is_of = Some(now);
            self.heads.clear();
        }
    }

    fn answer(&mut self, request: &[u8]) -> io::Result<Answer> {
        let asked = Asked::read(request).ok_or_else(|| {
            let text = format!("a pod cannot parse this request: {}", request.escape_ascii());
            eprintln!("{text}");
            io::Error::new(ErrorKind::InvalidData, text)
        })?;
        let head = self.heads.entry(asked).or_insert_with(|| asked.head(&self.date).into());
        let body = match asked.chunk_bytes() {
            Some(chunk) => {
                let page = self.chunked.entry((asked.bytes, chunk));
                let bytes = page.or_insert_with(|| chunked(asked.bytes, chunk).into());
                Body { bytes: Rc::clone(bytes), at: 0, left: bytes.len() as u64 }
            }
            None => Body { bytes: Rc::clone(&self.block), at: 0, left: asked.bytes },
        };
        let write_max = match asked.framing {
            Framing::Length | Framing::Chunked => usize::MAX,
            Framing::NetHttp => GO_WRITE_BYTES,
            Framing::Records => RECORD_BYTES,
        };
        Ok(Answer { head: Rc::clone(head), head_sent: 0, body, write_max, close: asked.close })
    }
}

impl Asked {
    fn read(request: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut fields);
        head.parse(request).ok()?;
        let mut segments = head.path?.rsplit('/');
        let bytes = segments.next()?.parse().ok()?;
        let framing = match segments.next()?.parse().ok()? {
            Framing::Chunked | Framing::NetHttp if bytes > CHUNKED_BYTES_MAX => Framing::Length,
            framing => framing,
        };
        let asks_to_close = |field: &httparse::Header<'_>| {
            field.name.eq_ignore_ascii_case("connection") && field.value.eq_ignore_ascii_case(b"close")
        };
        let old = head.version? == 0;
        Some(Self { bytes, framing, old, close: old || head.headers.iter().any(asks_to_close) })
    }

    /// The size of the chunks, if the body has the chunked coding.
    fn chunk_bytes(self) -> Option<usize> {
        match self.framing {
            _ if self.old => None,
            Framing::Chunked => Some(CHUNK_BYTES),
            Framing::NetHttp => Some(GO_CHUNK_BYTES),
            Framing::Length | Framing::Records => None,
        }
    }

    fn head(self, date: &str) -> Vec<u8> {
        let Self { bytes, framing, old, close } = self;
        let framing = match framing {
            Framing::Chunked | Framing::NetHttp if old => String::new(),
            Framing::Chunked | Framing::NetHttp => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::Length | Framing::Records => format!("Content-Length: {bytes}\r\n"),
        };
        let version = if old { "1.0" } else { "1.1" };
        let close = if close { "Connection: close\r\n" } else { "" };
        format!(
            "HTTP/{version} 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Date: {date}\r\n{framing}{close}\r\n"
        )
        .into_bytes()
    }
}

/// A body of this many bytes in the chunked coding.
fn chunked(bytes: u64, chunk_bytes: usize) -> Vec<u8> {
    let body = period().repeat(bytes as usize / PERIOD_BYTES + 1);
    let mut wire = Vec::with_capacity(body.len() + body.len() / 128);
    for chunk in body[..bytes as usize].chunks(chunk_bytes) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}

/// Accepts a waiting connection, if there is one, and sets TCP_NODELAY.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => stream.set_nodelay(true).map(|()| Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
