//! The heads of requests and responses: start line and fields, borrowed from the received bytes.
//!
//! httparse splits the head; this file refuses heads that httparse accepts and RFC 9112 forbids: bare LF, a missing,
//! repeated or invalid `Host`, a target with a fragment or with bytes beyond ASCII. Braces and the like pass, although
//! URIs exclude them: many clients send them unencoded in queries, and all recipients agree on their meaning. The file
//! owns the limits on heads. It never decides how a request is handled.

use std::{fmt, mem::MaybeUninit};

use httparse::{Error, ParserConfig, Status};

use super::field::{self, Connection, FieldLine, Fields, Name};

/// Maximum length of a request head, including its last empty line.
pub const REQUEST_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Maximum number of fields of a request.
pub const REQUEST_FIELDS_MAX: usize = 100;
/// Maximum length of a response head, including its last empty line.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of fields of a response.
pub const RESPONSE_FIELDS_MAX: usize = 256;
/// Maximum number of bytes in all `Connection` fields of a head. Every other field is looked up in them; without a
/// limit, one head could occupy a worker for tens of milliseconds.
pub const CONNECTION_BYTES_MAX: usize = 1024;

/// The name of psystrike in `Via`.
pub const PSEUDONYM: &str = "psystrike";

/// `HTTP/1.0` or `HTTP/1.1`. Other versions are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, and connections close unless both sides send `keep-alive`.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// The reason why a head is refused. Each variant is the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The head breaks the grammar; the text names the place.
    Malformed(&'static str),
    /// A version that is neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// The request line alone exceeds the limit.
    TargetTooLong,
    /// The head exceeds the limit in bytes.
    TooLarge,
    /// The head exceeds the limit in fields.
    TooManyFields,
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead<'b, 'f> {
    /// The method, unchanged.
    pub method: &'b str,
    /// The request target, unchanged.
    pub target: Target<'b>,
    /// The version of the request line.
    pub version: Version,
    /// The options of the `Connection` fields.
    pub connection: Connection,
    /// Every field, in order.
    pub fields: Fields<'b, 'f>,
    /// The bytes of the head, to the empty line; empty lines before the request line are included.
    pub bytes: &'b [u8],
}

/// A request target (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path` or `/path?query`.
    Origin {
        /// The path, from its first `/` on.
        path: &'b str,
        /// The query, after the first `?`.
        query: Option<&'b str>,
    },
    /// `http://authority/path`, as clients send it to a proxy.
    Absolute(&'b str),
    /// `host:port` (of `CONNECT`), `*` (of `OPTIONS`), or another form.
    Other(&'b str),
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead<'b, 'f> {
    /// The status code, from 100 to 599.
    pub status: u16,
    /// The version of the status line.
    pub version: Version,
    /// The options of the `Connection` fields.
    pub connection: Connection,
    /// Every field, in order.
    pub fields: Fields<'b, 'f>,
    /// The bytes of the head, from the status line to the empty line.
    pub bytes: &'b [u8],
}

/// Calls `then` with the request head at the start of `bytes`; returns `None` while the head is incomplete.
///
/// # Errors
/// [`HeadError`], as soon as the received bytes show it.
pub fn request<'b, T>(
    bytes: &'b [u8],
    then: impl FnOnce(RequestHead<'b, '_>) -> T,
) -> Result<Option<T>, HeadError> {
    let within = &bytes[..bytes.len().min(REQUEST_HEAD_BYTES_MAX)];
    let mut room = [const { MaybeUninit::uninit() }; REQUEST_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(within, &mut room);
    let Some(bytes) = sound(within, status, parsed.headers) else {
        let parse = |bytes| httparse::Request::new(&mut []).parse_with_uninit_headers(bytes, &mut room);
        return match fault(within, status, parse) {
            Some(HeadError::Version) if !names_a_version(within) => Err(HeadError::Malformed("request line")),
            Some(error) => Err(error),
            None if within.len() < REQUEST_HEAD_BYTES_MAX => Ok(None),
            // httparse skips empty lines before the request line, as RFC 9112 section 2.2 recommends.
            None if within.trim_ascii_start().contains(&b'\n') => Err(HeadError::TooLarge),
            None => Err(HeadError::TargetTooLong),
        };
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HeadError::Malformed("request line"));
    };
    let mut names = [Name::Other; REQUEST_FIELDS_MAX];
    let fields = Fields::sort(bytes, parsed.headers, &mut names);
    let version = version(minor);
    let connection = connection(&fields)?;
    let mut hosts = fields.values(Name::Host);
    // RFC 9112 section 3.2: exactly one Host in HTTP/1.1; HTTP/1.0 does not require it.
    match (hosts.next(), hosts.next(), version) {
        (Some(host), None, _) if is_host(host) => {}
        (Some(_), None, _) => return Err(HeadError::Malformed("Host header")),
        (Some(_), Some(_), _) => return Err(HeadError::Malformed("more than one Host header")),
        (None, _, Version::Http10) => {}
        (None, _, Version::Http11) => return Err(HeadError::Malformed("no Host header")),
    }
    let target = Target::parse(target)?;
    Ok(Some(then(RequestHead { method, target, version, connection, fields, bytes })))
}

/// Calls `then` with the response head at the start of `bytes`; returns `None` while the head is incomplete.
///
/// # Errors
/// [`HeadError`], as soon as the received bytes show it.
pub fn response<'b, T>(
    bytes: &'b [u8],
    then: impl FnOnce(ResponseHead<'b, '_>) -> T,
) -> Result<Option<T>, HeadError> {
    // httparse skips empty lines before the start line; RFC 9112 section 2.2 allows that to servers only.
    if bytes.first().is_some_and(|&first| first != b'H') {
        return Err(HeadError::Malformed("not HTTP/1"));
    }
    let within = &bytes[..bytes.len().min(RESPONSE_HEAD_BYTES_MAX)];
    let config = ParserConfig::default();
    let mut room = [const { MaybeUninit::uninit() }; RESPONSE_FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let status = config.parse_response_with_uninit_headers(&mut parsed, within, &mut room);
    let Some(bytes) = sound(within, status, parsed.headers) else {
        let parse = |bytes| {
            let mut parsed = httparse::Response::new(&mut []);
            config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut room)
        };
        return match fault(within, status, parse) {
            Some(error) => Err(error),
            None if within.len() < RESPONSE_HEAD_BYTES_MAX => Ok(None),
            None => Err(HeadError::TooLarge),
        };
    };
    let (Some(status @ 100..=599), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::Malformed("status code"));
    };
    let mut names = [Name::Other; RESPONSE_FIELDS_MAX];
    let fields = Fields::sort(bytes, parsed.headers, &mut names);
    let connection = connection(&fields)?;
    Ok(Some(then(ResponseHead { status, version: version(minor), connection, fields, bytes })))
}

/// Returns the head at the start of `bytes`, if it is complete and each of its lines ends with CRLF. RFC 9112 section
/// 2.2 lets a recipient accept a bare LF; recipients that disagree on it make request smuggling possible.
///
/// httparse accepts LF only as a line's end, and each is followed by a field or the head's last line: checking there is
/// enough.
fn sound<'b>(bytes: &'b [u8], parsed: httparse::Result<usize>, lines: &[FieldLine<'b>]) -> Option<&'b [u8]> {
    let Ok(Status::Complete(length)) = parsed else { return None };
    let head = &bytes[..length];
    let starts_a_line = |line: &FieldLine<'_>| {
        let at = field::offset(head, line.name.as_bytes());
        head[..at].ends_with(b"\r\n")
    };
    let sound = match head[0] {
        // An empty line before the start line is followed by neither.
        b'\r' | b'\n' => before_bare_lf(head) == head,
        _ => head.ends_with(b"\r\n\r\n") && lines.iter().all(starts_a_line),
    };
    sound.then_some(head)
}

/// Returns the first fault of a head that is not valid; `None` if the head is only incomplete.
///
/// Bytes after a bare LF are cut off before parsing, so that the first fault decides, no matter how the head is split
/// into reads.
fn fault<'b>(
    bytes: &'b [u8],
    parsed: httparse::Result<usize>,
    parse: impl FnOnce(&'b [u8]) -> httparse::Result<usize>,
) -> Option<HeadError> {
    let before = before_bare_lf(bytes);
    if before.len() == bytes.len() {
        return parsed.err().map(HeadError::from);
    }
    Some(parse(before).err().map_or(HeadError::Malformed("bare LF"), HeadError::from))
}

/// Returns the bytes before the first LF that does not end a CRLF.
fn before_bare_lf(bytes: &[u8]) -> &[u8] {
    let bare = memchr::memchr_iter(b'\n', bytes).find(|&at| at == 0 || bytes[at - 1] != b'\r');
    &bytes[..bare.unwrap_or(bytes.len())]
}

/// Returns whether a version follows the target (`HTTP/` and a digit, RFC 9112 section 2.3), unlike in `GET /a b
/// HTTP/1.1`. The byte at which httparse refuses the line decides, so later bytes do not matter.
fn names_a_version(bytes: &[u8]) -> bool {
    let version = bytes.trim_ascii_start().splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..])
}

fn version(minor: u8) -> Version {
    if minor == 0 { Version::Http10 } else { Version::Http11 }
}

/// Returns whether a head that was incomplete in the first `seen` of `bytes` may now be complete or broken. Bytes
/// without a line end do not change the result of a parse.
pub fn worth_another_look(bytes: &[u8], seen: usize, bytes_max: usize) -> bool {
    seen == 0 || bytes.len() >= bytes_max || memchr::memchr(b'\n', &bytes[seen.min(bytes.len())..]).is_some()
}

/// Returns the options of all `Connection` fields.
fn connection(fields: &Fields<'_, '_>) -> Result<Connection, HeadError> {
    let mut connection = Connection::default();
    let mut bytes = 0;
    for value in fields.values(Name::Connection) {
        connection.add(value);
        bytes += value.len();
    }
    if bytes > CONNECTION_BYTES_MAX {
        return Err(HeadError::Malformed("Connection headers over 1 KiB"));
    }
    Ok(connection)
}

/// Returns whether `value` has only characters of `uri-host [ ":" port ]` (RFC 3986 section 3.2.2). The host itself
/// does not matter here.
fn is_host(value: &[u8]) -> bool {
    const FITS: [bool; 256] = {
        let mut fits = [false; 256];
        let mut byte = 0;
        while byte < fits.len() {
            fits[byte] = matches!(
                byte as u8,
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%'
                    | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
            );
            byte += 1;
        }
        fits
    };
    value.iter().all(|&byte| FITS[usize::from(byte)])
}

/// Displays the target unchanged.
impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin { path, query: Some(query) } => write!(f, "{path}?{query}"),
            Self::Origin { path: text, query: None } | Self::Absolute(text) | Self::Other(text) => {
                f.write_str(text)
            }
        }
    }
}

impl<'b> Target<'b> {
    /// Classifies a request target by its form. Its bytes stay unchanged.
    fn parse(target: &'b str) -> Result<Self, HeadError> {
        // httparse accepts any byte above the controls; a URI is ASCII and a request target has no fragment. The fold
        // visits all bytes, so the compiler can vectorise it.
        let sound = |byte: u8| byte.is_ascii_graphic() & (byte != b'#');
        if !target.bytes().fold(true, |all, byte| all & sound(byte)) {
            return Err(HeadError::Malformed("request target"));
        }
        if !target.starts_with('/') {
            let scheme = target.bytes().take_while(u8::is_ascii_alphanumeric).count();
            let absolute = scheme > 0 && target[scheme..].starts_with("://");
            return Ok(if absolute { Self::Absolute(target) } else { Self::Other(target) });
        }
        Ok(match memchr::memchr(b'?', target.as_bytes()) {
            Some(at) => Self::Origin { path: &target[..at], query: Some(&target[at + 1..]) },
            None => Self::Origin { path: target, query: None },
        })
    }
}

impl RequestHead<'_, '_> {
    /// Returns whether the client wants to keep its connection open (RFC 9112 section 9.3).
    pub fn persistent(&self) -> bool {
        persistent(self.version, self.connection)
    }

    /// Returns how often this request passed an intermediary with the name [`PSEUDONYM`].
    pub fn hops(&self) -> usize {
        self.fields.values(Name::Via).map(|value| field::via_hops(value, PSEUDONYM)).sum()
    }

    /// Returns the value of the first field of this name.
    pub fn first(&self, name: Name) -> Option<&[u8]> {
        self.fields.values(name).next()
    }
}

impl ResponseHead<'_, '_> {
    /// Returns whether the pod wants to keep its connection open (RFC 9112 section 9.3).
    pub fn persistent(&self) -> bool {
        persistent(self.version, self.connection)
    }

    /// Returns whether the response has a `Date`.
    pub fn is_dated(&self) -> bool {
        self.fields.has(Name::Date)
    }

    /// Returns the value of `Location`, unless there are several: psystrike does not choose among them.
    pub fn location(&self) -> Option<&[u8]> {
        let mut locations = self.fields.values(Name::Location);
        let first = locations.next()?;
        locations.next().is_none().then_some(first)
    }
}

fn persistent(version: Version, connection: Connection) -> bool {
    !connection.close && (version == Version::Http11 || connection.keep_alive)
}

impl From<Error> for HeadError {
    fn from(error: Error) -> Self {
        match error {
            Error::HeaderName => Self::Malformed("header name"),
            Error::HeaderValue => Self::Malformed("header value"),
            Error::NewLine => Self::Malformed("line end"),
            Error::Status => Self::Malformed("status line"),
            Error::Token => Self::Malformed("request line"),
            Error::TooManyHeaders => Self::TooManyFields,
            Error::Version => Self::Version,
        }
    }
}
