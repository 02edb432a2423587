//! The head of a request and of an answer: start line and fields, borrowed from the bytes they came in.
//!
//! httparse cuts; this file refuses what httparse lets through and RFC 9112 does not: bare LF, a `Host` that is
//! missing, repeated or no host, a target with a fragment or with bytes beyond ASCII. (Braces and the like pass,
//! although no URI has them: many clients send queries with them raw, and they mean one thing to everybody.)
//! It owns the limits on heads. It never decides what a request is for.

use std::fmt;

use httparse::{Error, Status};

use super::field::{self, Connection, FieldLine, Name};

/// The longest request head that is read, its last empty line included.
pub const REQUEST_HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most fields a request may have.
pub const REQUEST_FIELDS_MAX: usize = 100;
/// The longest head of an answer that is read, its last empty line included.
pub const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most fields an answer may have.
pub const ANSWER_FIELDS_MAX: usize = 256;
/// The most bytes that the `Connection` fields of a head may hold together. Every other field is looked up in
/// them; without a bound, one head could keep a worker busy for tens of milliseconds.
pub const CONNECTION_BYTES_MAX: usize = 1024;
/// What most heads fit in. They are parsed with this much first, so that a scrape does not pay for clearing
/// room for the largest head there may be.
const FIELDS_USUAL: usize = 24;

/// The name that we give ourselves in `Via`.
pub const PSEUDONYM: &str = "psystrike";

/// `HTTP/1.0` or `HTTP/1.1`. Another major or minor version is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, and connections close unless both sides say `keep-alive`.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Why a head cannot be used. Each variant is the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Against the grammar; the text says where.
    Malformed(&'static str),
    /// A version that is neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// The request line alone is over the limit.
    TargetTooLong,
    /// The head is over the limit in bytes.
    TooLarge,
    /// The head is over the limit in fields.
    TooManyFields,
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead<'b, 'f> {
    /// The method, as it came.
    pub method: &'b str,
    /// The request target, as it came.
    pub target: Target<'b>,
    /// The version of the request line.
    pub version: Version,
    /// What the `Connection` fields say.
    pub connection: Connection,
    /// Every field line, in the order they came.
    pub fields: &'f [FieldLine<'b>],
}

/// A request target (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path` or `/path?query`.
    Origin {
        /// The path, from its first `/` on.
        path: &'b str,
        /// What stands behind the first `?`.
        query: Option<&'b str>,
    },
    /// `http://authority/path`, as clients send it to a proxy.
    Absolute(&'b str),
    /// `host:port` (of `CONNECT`), `*` (of `OPTIONS`), or nothing known.
    Other(&'b str),
}

/// An answer's head.
#[derive(Debug)]
pub struct AnswerHead<'b, 'f> {
    /// 100 to 599.
    pub status: u16,
    /// The version of the status line.
    pub version: Version,
    /// What the `Connection` fields say.
    pub connection: Connection,
    /// Every field line, in the order they came.
    pub fields: &'f [FieldLine<'b>],
    /// The head's own bytes, from the status line to the empty line.
    pub bytes: &'b [u8],
}

/// Calls `then` with the request head at the start of `bytes` and the head's length in bytes; gives `None` while
/// it is not whole.
///
/// # Errors
/// [`HeadError`], as soon as the bytes that are there show it.
pub fn request<'b, T>(
    bytes: &'b [u8],
    then: impl FnOnce(RequestHead<'b, '_>, usize) -> T,
) -> Result<Option<T>, HeadError> {
    let within = &bytes[..bytes.len().min(REQUEST_HEAD_BYTES_MAX)];
    let sound = before_bare_lf(within);
    let mut usual = [httparse::EMPTY_HEADER; FIELDS_USUAL];
    let mut parsed = httparse::Request::new(&mut usual);
    let mut most;
    let mut status = parsed.parse(sound);
    if status == Err(Error::TooManyHeaders) {
        most = [httparse::EMPTY_HEADER; REQUEST_FIELDS_MAX];
        parsed = httparse::Request::new(&mut most);
        status = parsed.parse(sound);
    }
    let length = match status {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if sound.len() < within.len() => return Err(HeadError::Malformed("bare LF")),
        Ok(Status::Partial) if within.len() < REQUEST_HEAD_BYTES_MAX => return Ok(None),
        Ok(Status::Partial) => {
            // httparse skips empty lines before the request line, as RFC 9112 section 2.2 asks.
            let request_line_ends = sound.trim_ascii_start().contains(&b'\n');
            return Err(if request_line_ends { HeadError::TooLarge } else { HeadError::TargetTooLong });
        }
        Err(error) => return Err(error.into()),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HeadError::Malformed("request line"));
    };
    let fields = &*parsed.headers;
    let version = version(minor);
    let connection = connection(fields)?;
    let hosts = fields.iter().filter(|field| Name::of(field.name) == Name::Host);
    // RFC 9112 section 3.2: exactly one Host in HTTP/1.1; HTTP/1.0 knew none.
    match (hosts.clone().count(), version) {
        (1, _) | (0, Version::Http10) => {}
        (0, Version::Http11) => return Err(HeadError::Malformed("no Host")),
        _ => return Err(HeadError::Malformed("more than one Host")),
    }
    if !hosts.into_iter().all(|host| is_host(host.value)) {
        return Err(HeadError::Malformed("Host"));
    }
    let target = Target::parse(target)?;
    Ok(Some(then(RequestHead { method, target, version, connection, fields }, length)))
}

/// Calls `then` with the answer's head at the start of `bytes`; gives `None` while it is not whole.
///
/// # Errors
/// [`HeadError`], as soon as the bytes that are there show it.
pub fn answer<'b, T>(
    bytes: &'b [u8],
    then: impl FnOnce(AnswerHead<'b, '_>) -> T,
) -> Result<Option<T>, HeadError> {
    // httparse skips empty lines before the start line; RFC 9112 section 2.2 allows that to servers only.
    if bytes.first().is_some_and(|&first| first != b'H') {
        return Err(HeadError::Malformed("not HTTP/1"));
    }
    let within = &bytes[..bytes.len().min(ANSWER_HEAD_BYTES_MAX)];
    let sound = before_bare_lf(within);
    let mut usual = [httparse::EMPTY_HEADER; FIELDS_USUAL];
    let mut parsed = httparse::Response::new(&mut usual);
    let mut most;
    let mut status = parsed.parse(sound);
    if status == Err(Error::TooManyHeaders) {
        most = [httparse::EMPTY_HEADER; ANSWER_FIELDS_MAX];
        parsed = httparse::Response::new(&mut most);
        status = parsed.parse(sound);
    }
    let length = match status {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if sound.len() < within.len() => return Err(HeadError::Malformed("bare LF")),
        Ok(Status::Partial) if within.len() < ANSWER_HEAD_BYTES_MAX => return Ok(None),
        Ok(Status::Partial) => return Err(HeadError::TooLarge),
        Err(error) => return Err(error.into()),
    };
    let bytes = &bytes[..length];
    let (Some(status @ 100..=599), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::Malformed("status code"));
    };
    let fields = &*parsed.headers;
    let connection = connection(fields)?;
    Ok(Some(then(AnswerHead { status, version: version(minor), connection, fields, bytes })))
}

fn version(minor: u8) -> Version {
    if minor == 0 { Version::Http10 } else { Version::Http11 }
}

/// Whether a head that was not whole in the first `seen` of `bytes` may be whole now, or show to be broken: what
/// drips in without ending a line is not worth another look.
pub fn worth_another_look(bytes: &[u8], seen: usize, bytes_max: usize) -> bool {
    seen == 0 || bytes.len() >= bytes_max || memchr::memchr(b'\n', &bytes[seen.min(bytes.len())..]).is_some()
}

/// What the `Connection` fields say together.
fn connection(fields: &[FieldLine<'_>]) -> Result<Connection, HeadError> {
    let mut connection = Connection::default();
    let mut bytes = 0;
    for field in fields.iter().filter(|field| Name::of(field.name) == Name::Connection) {
        connection.add(field.value);
        bytes += field.value.len();
    }
    if bytes > CONNECTION_BYTES_MAX {
        return Err(HeadError::Malformed("Connection over 1 KiB"));
    }
    Ok(connection)
}

/// The bytes before the first LF that does not end a CRLF. RFC 9112 section 2.2 lets a recipient take a bare LF;
/// two recipients that do not agree on it are how requests are smuggled, so we do not.
///
/// Cut off before httparse sees them, so that the first fault in a head is its verdict however the head comes in.
/// A body behind the head is cut too, which matters to nobody, and makes the search short.
fn before_bare_lf(bytes: &[u8]) -> &[u8] {
    let bare = memchr::memchr_iter(b'\n', bytes).find(|&at| at == 0 || bytes[at - 1] != b'\r');
    &bytes[..bare.unwrap_or(bytes.len())]
}

/// `uri-host [ ":" port ]` by its alphabet (RFC 3986 section 3.2.2). Which host it names does not matter here.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&byte))
}

/// The target as it came.
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
    /// Sorts a request target by its form. Its bytes stay as they are.
    fn parse(target: &'b str) -> Result<Self, HeadError> {
        // httparse takes any byte above the controls; a URI is ASCII and sends no fragment.
        if target.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
            return Err(HeadError::Malformed("request target"));
        }
        if !target.starts_with('/') {
            let scheme = target.split_once("://").map_or("", |(scheme, _)| scheme);
            let absolute = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
            return Ok(if absolute { Self::Absolute(target) } else { Self::Other(target) });
        }
        Ok(match target.split_once('?') {
            Some((path, query)) => Self::Origin { path, query: Some(query) },
            None => Self::Origin { path: target, query: None },
        })
    }
}

impl RequestHead<'_, '_> {
    /// Whether the client means to use its connection again (RFC 9112 section 9.3).
    pub fn persistent(&self) -> bool {
        persistent(self.version, self.connection)
    }

    /// How often this request has come through an intermediary with our [`PSEUDONYM`].
    pub fn hops(&self) -> usize {
        self.fields
            .iter()
            .filter(|field| Name::of(field.name) == Name::Via)
            .map(|field| field::via_hops(field.value, PSEUDONYM))
            .sum()
    }

    /// The value of the first field called `name`.
    pub fn first(&self, name: Name) -> Option<&[u8]> {
        self.fields.iter().find(|field| Name::of(field.name) == name).map(|field| field.value)
    }
}

impl AnswerHead<'_, '_> {
    /// Whether the pod means to use its connection again (RFC 9112 section 9.3).
    pub fn persistent(&self) -> bool {
        persistent(self.version, self.connection)
    }

    /// Whether it says when it was made.
    pub fn is_dated(&self) -> bool {
        self.fields.iter().any(|field| Name::of(field.name) == Name::Date)
    }

    /// The value of the only `Location` field. With two of them it is not ours to choose one.
    pub fn location(&self) -> Option<&[u8]> {
        let mut locations = self.fields.iter().filter(|field| Name::of(field.name) == Name::Location);
        let first = locations.next()?;
        locations.next().is_none().then_some(first.value)
    }
}

fn persistent(version: Version, connection: Connection) -> bool {
    !connection.close && (version == Version::Http11 || connection.keep_alive)
}

impl From<Error> for HeadError {
    fn from(error: Error) -> Self {
        match error {
            Error::HeaderName => Self::Malformed("field name"),
            Error::HeaderValue => Self::Malformed("field value"),
            Error::NewLine => Self::Malformed("line end"),
            Error::Status => Self::Malformed("status line"),
            Error::Token => Self::Malformed("request line"),
            Error::TooManyHeaders => Self::TooManyFields,
            Error::Version => Self::Version,
        }
    }
}
