//! `--healthcheck`: requests one page from a running psystrike. Container health checks and exec probes run a program
//! in the container, and the image contains no other.
//!
//! Owns the accepted URLs, the time limit, and the limit of the response's head. Resolves no names: `localhost` is
//! loopback.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    str::FromStr,
    time::{Duration, Instant},
};

use crate::{
    http1::head::{self, HeadError},
    proxy::duration::HumanDuration,
};

/// Time limit for the whole check, including connecting.
const TIME_MAX: Duration = Duration::from_secs(3);
/// Limit of the response's head. The heads of psystrike's own pages have a few hundred bytes.
const RESPONSE_HEAD_BYTES_MAX: usize = 4096;

/// The page to request, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    address: SocketAddr,
    /// Tried if connecting to `address` fails.
    otherwise: Option<SocketAddr>,
    /// The path, with the query if there is one.
    path: String,
}

impl Page {
    /// Returns `/healthz` of a psystrike that listens on `address`.
    ///
    /// # Errors
    /// If the port is 0: the actual port is not known.
    pub fn healthz(address: SocketAddr) -> Result<Self, &'static str> {
        Self::new(address, "/healthz")
    }

    /// An unspecified address becomes loopback. `[::]` becomes the loopback addresses of both families, as only one may
    /// be configured.
    fn new(address: SocketAddr, path: &str) -> Result<Self, &'static str> {
        let at = |ip: IpAddr| SocketAddr::new(ip, address.port());
        let (v4, v6) = (at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into()));
        let (address, otherwise) = match address.ip() {
            _ if address.port() == 0 => return Err("expected a port from 1 to 65535"),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (v4, None),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (v4, Some(v6)),
            _ => (address, None),
        };
        Ok(Self { address, otherwise, path: path.to_owned() })
    }

    /// Requests the page and returns `Ok` if the status is 200.
    ///
    /// # Errors
    /// The failure, in one line.
    pub fn check(&self) -> Result<(), String> {
        let until = Instant::now() + TIME_MAX;
        let why = match self.connect(until).and_then(|stream| self.status(stream, until)) {
            Ok(200) => return Ok(()),
            Ok(status) => format!("status {status}"),
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
                format!("no response within {}", HumanDuration(TIME_MAX))
            }
            Err(error) => error.to_string(),
        };
        Err(format!("{self}: {why}"))
    }

    fn connect(&self, until: Instant) -> io::Result<TcpStream> {
        let connect = |address| TcpStream::connect_timeout(address, left(until)?);
        connect(&self.address).or_else(|error| match &self.otherwise {
            Some(address) => connect(address).map_err(|_| error),
            None => Err(error),
        })
    }

    fn status(&self, mut stream: TcpStream, until: Instant) -> io::Result<u16> {
        let Self { address, path, .. } = self;
        stream.set_write_timeout(Some(left(until)?))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut response = [0; RESPONSE_HEAD_BYTES_MAX];
        let mut length = 0;
        loop {
            stream.set_read_timeout(Some(left(until)?))?;
            length += match stream.read(&mut response[length..]) {
                Ok(0) => {
                    return Err(io::Error::other(
                        "the connection closed before the end of the response headers",
                    ));
                }
                Ok(more) => more,
                // A stopped process that continues may get EINTR (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            let why = match head::response(&response[..length], |head| head.status) {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if length < response.len() => continue,
                Ok(None) => "headers over 4 KiB",
                Err(HeadError::Malformed(why)) => why,
                Err(_) => "unsupported HTTP version or too many headers",
            };
            return Err(io::Error::other(format!("malformed response: {why}")));
        }
    }
}

/// Returns the remaining time, never zero: std rejects a zero timeout.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Parses `http://host:port/path`, where the host is an IP address or `localhost`. The default path is `/healthz`.
impl FromStr for Page {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "expected an http:// URL with an IP address or localhost: http://127.0.0.1:8080/readyz";
        let rest = url.strip_prefix("http://").ok_or(EXPECTED)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = match authority.strip_prefix("localhost") {
            Some(port) => format!("[::]{port}"),
            None => authority.to_owned(),
        };
        let address = authority.parse().or_else(|_| format!("{authority}:80").parse());
        // Other characters, such as a line break, could end the request line.
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(EXPECTED);
        }
        Self::new(address.map_err(|_| EXPECTED)?, if path.is_empty() { "/healthz" } else { path })
    }
}

/// Formats the URL, with the address that is tried first.
impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        for (url, address, otherwise, path) in [
            ("http://127.0.0.1:8080/healthz", "127.0.0.1:8080", None, "/healthz"),
            ("http://10.1.2.3:80/readyz?x=/y", "10.1.2.3:80", None, "/readyz?x=/y"),
            ("http://10.1.2.3", "10.1.2.3:80", None, "/healthz"),
            ("http://[fd00::1]:8080/", "[fd00::1]:8080", None, "/"),
            ("http://[::1]/metrics", "[::1]:80", None, "/metrics"),
            ("http://localhost:8080/healthz", "127.0.0.1:8080", Some("[::1]:8080"), "/healthz"),
            ("http://localhost", "127.0.0.1:80", Some("[::1]:80"), "/healthz"),
            ("http://0.0.0.0:8080/healthz", "127.0.0.1:8080", None, "/healthz"),
            ("http://[::]:8080/healthz", "127.0.0.1:8080", Some("[::1]:8080"), "/healthz"),
        ] {
            let expected = Page {
                address: address.parse().unwrap(),
                otherwise: otherwise.map(|address| address.parse().unwrap()),
                path: path.to_owned(),
            };
            assert_eq!(url.parse(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn invalid_urls_are_refused() {
        for url in [
            "",
            "/healthz",
            "127.0.0.1:8080",
            "https://127.0.0.1:8080/",
            "http://",
            "http:///healthz",
            "http://psystrike:8080/",
            "http://localhost.example/",
            "http://me@127.0.0.1:8080/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:65536/",
            "http://127.0.0.1:/",
            "http://::1:8080/",
            "http://127.0.0.1?x",
            "http://127.0.0.1:8080/a b",
            "http://127.0.0.1:8080/a#b",
            "http://127.0.0.1:8080/\r\nX: y",
            "http://127.0.0.1:8080/\u{e9}",
        ] {
            assert!(url.parse::<Page>().is_err(), "{url:?}");
        }
    }
}
