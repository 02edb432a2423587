//! HTTP/1.1 as raw bytes, for tests: a client that parses strictly and reports how a connection ended, and the heads
//! that clients and pods read. Sends any bytes, valid or not.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use super::LIMIT;

/// A message's start line and fields as received, including the empty line.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    pub raw: Vec<u8>,
}

impl Head {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    pub fn start_line(&self) -> String {
        self.text().split("\r\n").next().unwrap_or_default().to_owned()
    }

    /// Returns the word of the start line at `index`: a request's method, target or version.
    fn word(&self, index: usize) -> String {
        self.start_line().split(' ').nth(index).unwrap_or_default().to_owned()
    }

    pub fn method(&self) -> String {
        self.word(0)
    }

    pub fn target(&self) -> String {
        self.word(1)
    }

    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_else(|e| panic!("no status in {self:?}: {e}"))
    }

    pub fn reason(&self) -> String {
        self.start_line().splitn(3, ' ').nth(2).unwrap_or_default().to_owned()
    }

    /// Returns names in lower case and values without surrounding white space, in order.
    pub fn fields(&self) -> Vec<(String, String)> {
        let text = self.text();
        let lines = text.split("\r\n").skip(1).take_while(|line| !line.is_empty());
        lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("a field without a colon in {self:?}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
            .collect()
    }

    /// All values of one field, in order.
    pub fn values(&self, name: &str) -> Vec<String> {
        let fields = self.fields().into_iter();
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// Returns the value of a field that occurs at most once.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        assert!(values.len() <= 1, "{name} occurs more than once in {self:?}");
        values.pop()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.raw.escape_ascii())
    }
}

/// The state of a connection after the last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side closed it in order.
    Eof,
    /// The other side reset it.
    Reset,
    /// Neither, during the time that was waited.
    Open,
}

/// A connection, and the bytes that were read from it but not yet used.
pub struct Wire {
    stream: Arc<TcpStream>,
    unread: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit can be set");
        stream.set_write_timeout(Some(LIMIT)).expect("a time limit can be set");
        stream.set_nodelay(true).expect("Nagle's algorithm can be turned off");
        Self { stream: Arc::new(stream), unread: Vec::new() }
    }

    pub fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&*self.stream).write_all(bytes.as_ref())
    }

    /// Reads once more.
    fn fill(&mut self) -> Result<(), End> {
        let mut piece = [0; 16 << 10];
        loop {
            return match (&*self.stream).read(&mut piece) {
                Ok(0) => Err(End::Eof),
                Ok(n) => {
                    self.unread.extend_from_slice(&piece[..n]);
                    Ok(())
                }
                Err(e) => match e.kind() {
                    ErrorKind::Interrupted => continue,
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(End::Open),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(End::Reset),
                    _ => panic!("reading failed in a way no test expects: {e}"),
                },
            };
        }
    }

    /// Takes `length` bytes.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, End> {
        while self.unread.len() < length {
            self.fill()?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    /// Takes all bytes up to and including the first `end`.
    fn take_through(&mut self, end: &[u8]) -> Result<Vec<u8>, End> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..].windows(end.len()).position(|window| window == end) {
                return Ok(self.unread.drain(..searched + at + end.len()).collect());
            }
            searched = self.unread.len().saturating_sub(end.len() - 1);
            self.fill()?;
        }
    }

    pub fn take_head(&mut self) -> Result<Head, End> {
        self.take_through(b"\r\n\r\n").map(|raw| Head { raw })
    }

    /// Takes all bytes until the connection ends, or until none has arrived for `quiet`.
    pub fn take_rest(&mut self, quiet: Duration) -> (Vec<u8>, End) {
        self.stream.set_read_timeout(Some(quiet)).expect("a time limit can be set");
        let end = loop {
            if let Err(end) = self.fill() {
                break end;
            }
        };
        self.stream.set_read_timeout(Some(LIMIT)).expect("a time limit can be set");
        (std::mem::take(&mut self.unread), end)
    }
}

/// A client of psystrike or of a pod.
pub struct Client {
    wire: Wire,
}

/// A complete response.
#[derive(Clone)]
pub struct Response {
    /// The heads with a status of 1xx before it.
    pub interim: Vec<Head>,
    pub head: Head,
    /// Without the transfer coding.
    pub body: Vec<u8>,
    /// The body's bytes as they came, with the transfer coding.
    pub coded_body: Vec<u8>,
    /// The lines of a chunked body's trailer section.
    pub trailers: Vec<String>,
    /// Whether only the end of the connection ended it.
    pub until_close: bool,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn reason(&self) -> String {
        self.head.reason()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}{}", self.interim, self.head, self.coded_body.escape_ascii())
    }
}

/// A response that is incomplete or invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub why: &'static str,
    /// The head, if it is complete.
    pub head: Option<Head>,
    /// The state of the connection; `Open` also if the bytes themselves are invalid.
    pub end: End,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, LIMIT);
        Self { wire: Wire::new(stream.unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"))) }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.wire.stream
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    /// Sends bytes that the other side may refuse to read completely.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.send(bytes)
    }

    /// Closes the sending direction; the other direction stays open.
    pub fn finish_sending(&mut self) {
        self.wire.stream.shutdown(Shutdown::Write).expect("a connection can be half closed");
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        reset_when_dropped(&self.wire.stream);
    }

    /// Sends a `GET` and returns its response, which must be complete.
    pub fn get(&mut self, target: &str) -> Response {
        self.send(get(target));
        self.response().unwrap_or_else(|broken| panic!("no complete response to GET {target}: {broken:?}"))
    }

    /// Reads the next response, to any method except `HEAD`.
    pub fn response(&mut self) -> Result<Response, Broken> {
        self.response_to("GET")
    }

    /// Reads the next response, to a request with this method.
    pub fn response_to(&mut self, method: &str) -> Result<Response, Broken> {
        let mut interim = Vec::new();
        let head = loop {
            let head =
                self.wire.take_head().map_err(|end| Broken { why: "no complete head", head: None, end })?;
            match head.status() {
                100..=199 => interim.push(head),
                _ => break head,
            }
        };
        let mut body = Body::default();
        let read = self.read_body(method, &head, &mut body);
        read.map_err(|(why, end)| Broken { why, head: Some(head.clone()), end })?;
        let Body { body, coded_body, trailers, until_close } = body;
        Ok(Response { interim, head, body, coded_body, trailers, until_close })
    }

    /// Reads all bytes until the connection ends, or until none has arrived for `quiet`.
    pub fn rest(&mut self, quiet: Duration) -> (Vec<u8>, End) {
        self.wire.take_rest(quiet)
    }

    /// Waits for the connection's end, before which no other byte may arrive.
    pub fn end(&mut self) -> End {
        let (bytes, end) = self.rest(LIMIT);
        assert!(bytes.is_empty(), "before the end ({end:?}) came {}", bytes.escape_ascii());
        end
    }

    /// Determines the framing of the body by RFC 9112 section 6.3, and refuses everything that a careful client would
    /// refuse.
    fn read_body(&mut self, method: &str, head: &Head, into: &mut Body) -> Result<(), Fault> {
        let lengths = head.values("content-length");
        let codings = head.values("transfer-encoding");
        if lengths.len() > 1 || codings.len() > 1 || (!lengths.is_empty() && !codings.is_empty()) {
            return Err(("more than one framing", End::Open));
        }
        if method == "HEAD" || matches!(head.status(), 204 | 304) {
            return Ok(());
        }
        if let Some(coding) = codings.first() {
            return match coding.as_str() {
                "chunked" => self.read_chunks(into),
                _ => Err(("a transfer coding other than chunked", End::Open)),
            };
        }
        if let Some(length) = lengths.first() {
            let length = length.parse().map_err(|_| ("an invalid Content-Length", End::Open))?;
            into.body = self.wire.take(length).map_err(|end| ("less than Content-Length", end))?;
            into.coded_body.clone_from(&into.body);
            return Ok(());
        }
        into.until_close = true;
        let (bytes, end) = self.wire.take_rest(LIMIT);
        into.body.clone_from(&bytes);
        into.coded_body = bytes;
        if end == End::Eof { Ok(()) } else { Err(("a body until close, without the close", end)) }
    }

    fn read_chunks(&mut self, into: &mut Body) -> Result<(), Fault> {
        loop {
            let line = self.take_line(into)?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| ("an invalid chunk size", End::Open))?;
            if size == 0 {
                break;
            }
            let chunk = self.wire.take(size + 2).map_err(|end| ("a chunk cut short", end))?;
            into.coded_body.extend_from_slice(&chunk);
            let data = chunk.strip_suffix(b"\r\n").ok_or(("a chunk longer than its size", End::Open))?;
            into.body.extend_from_slice(data);
        }
        loop {
            let line = self.take_line(into)?;
            if line.is_empty() {
                return Ok(());
            }
            into.trailers.push(line);
        }
    }

    fn take_line(&mut self, into: &mut Body) -> Result<String, Fault> {
        let line = self.wire.take_through(b"\r\n").map_err(|end| ("chunked coding cut short", end))?;
        into.coded_body.extend_from_slice(&line);
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }
}

type Fault = (&'static str, End);

#[derive(Default)]
struct Body {
    body: Vec<u8>,
    coded_body: Vec<u8>,
    trailers: Vec<String>,
    until_close: bool,
}

/// Returns a plain request of a client with a persistent connection.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n\r\n")
}

/// Connects from another loopback address.
pub fn connect_from(ip: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("it is local");
    socket.connect(&to.into()).expect("it listens");
    socket.set_read_timeout(Some(LIMIT)).expect("a socket");
    socket.into()
}

/// Makes the connection's close a reset: unsent bytes are discarded.
pub fn reset_when_dropped(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a lingering time can be set");
}
