//! What must hold of any bytes: one function for each fuzz target, which panics where it does not.
//!
//! `cargo fuzz` calls these with bytes that it makes up, and tests/corpus.rs with every file of the corpus. The
//! expectations are written down a second time here, as simply as possible and without the code under test.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use psystrike::{
    config::{self, Command},
    http1::{
        body::{BodyScanner, Progress, Scan},
        field::{FieldLine, Name, Names},
        framing::{self, Framing},
        head::{self, HeadError, RequestHead, ResponseHead, Target},
        rewrite::{self, Host, Persistence, RequestEdit, ResponseEdit},
    },
    limits::Limits,
    proxy::{
        peer::Peer,
        policy::{self, Policy, Ports},
        route::{self, Destination, PodRoute, Route},
    },
};

/// Inputs up to this length are cut at every point, longer ones at about as many.
const CUTS_MAX: usize = 256;

fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(len / CUTS_MAX + 1)
}

// Heads.

/// A request head: the verdict is the same for every beginning that shows it, and what is taken keeps the grammar.
pub(crate) fn request_head(bytes: &[u8]) {
    verdict_stays(bytes, |bytes| {
        head::request(bytes, |head| {
            assert!(head.method.bytes().all(is_token) && !head.method.is_empty());
            let target = head.target.to_string();
            assert!(!target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
            let lines = sound_lines(head.bytes.trim_ascii_start());
            let start = format!("{} {target} HTTP/1.", head.method);
            assert!(lines[0].starts_with(start.as_bytes()) && lines[0].len() == start.len() + 1);
            assert!(lines.len() - 1 <= head::REQUEST_FIELDS_MAX);
            assert!(head.bytes.len() <= head::REQUEST_HEAD_BYTES_MAX);
            let hosts = lines[1..].iter().filter(|line| name_of(line).eq_ignore_ascii_case(b"Host")).count();
            assert!(hosts == 1 || (hosts == 0 && lines[0].ends_with(b"0")));
            sound_fields(&lines[1..], head.fields.iter().map(|(_, line)| (line.name, line.value)));
            head.bytes.len()
        })
    });
}

/// The same of an answer's head.
pub(crate) fn response_head(bytes: &[u8]) {
    verdict_stays(bytes, |bytes| {
        head::response(bytes, |head| {
            let lines = sound_lines(head.bytes);
            let status = format!("{}", head.status);
            assert!(lines[0].starts_with(b"HTTP/1.") && lines[0][9..].starts_with(status.as_bytes()));
            assert!(lines.len() - 1 <= head::RESPONSE_FIELDS_MAX);
            assert!(head.bytes.len() <= head::RESPONSE_HEAD_BYTES_MAX);
            sound_fields(&lines[1..], head.fields.iter().map(|(_, line)| (line.name, line.value)));
            head.bytes.len()
        })
    });
}

/// Parses every beginning of `bytes`. `parse` gives the length of a head that is whole.
fn verdict_stays(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<Option<usize>, HeadError>) {
    let verdict = parse(bytes);
    for len in cuts(bytes.len()) {
        match parse(&bytes[..len]) {
            // Not whole yet, whatever follows.
            Ok(None) => assert_ne!(verdict, Ok(Some(len)), "whole in {len} bytes, and yet not"),
            early => assert_eq!(early, verdict, "in {len} bytes"),
        }
    }
    if let Ok(Some(length)) = verdict {
        assert_eq!(parse(&bytes[..length]), verdict, "by its own bytes");
        assert_eq!(parse(&bytes[..length - 1]), Ok(None), "without its last byte");
    }
}

/// The lines of a head, which all end with CRLF, the last one empty; no other CR, LF or NUL is in them.
fn sound_lines(head: &[u8]) -> Vec<&[u8]> {
    let text = head.strip_suffix(b"\r\n\r\n").expect("an empty line at the end");
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    let (last, others) = lines.split_last().expect("a line");
    let others = others.iter().map(|line| line.strip_suffix(b"\r").expect("CRLF"));
    let lines: Vec<&[u8]> = others.chain([*last]).collect();
    assert!(lines.iter().all(|line| !line.is_empty() && !line.contains(&b'\r') && !line.contains(&0)));
    lines
}

fn sound_fields<'b>(lines: &[&[u8]], fields: impl Iterator<Item = (&'b str, &'b [u8])>) {
    let fields: Vec<_> = fields.collect();
    assert_eq!(fields.len(), lines.len(), "a field for each line");
    for (line, (name, value)) in lines.iter().zip(fields) {
        assert!(!name.is_empty() && name.bytes().all(is_token));
        assert_eq!(name_of(line), name.as_bytes());
        assert_eq!(line[name.len() + 1..].trim_ascii(), value);
        assert!(value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)));
    }
}

fn name_of<'b>(line: &&'b [u8]) -> &'b [u8] {
    line.split(|&byte| byte == b':').next().unwrap_or_default()
}

/// `tchar` (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

// Bodies.

/// A body: whole, in two parts cut anywhere, and byte by byte, the scanner sees what a naive decoder sees.
pub(crate) fn body(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let framing = match kind {
        b'c' => Framing::Chunked,
        b'u' => Framing::UntilClose,
        b'e' => Framing::Empty,
        length => Framing::Length(length.into()),
    };
    let naive = decode(framing, bytes);
    let check = |parts: &[&[u8]]| {
        let mut scanner = BodyScanner::new(framing);
        let mut copier = BodyScanner::new(framing);
        let mut sound = Vec::new();
        let mut seen = Decoded { content: Vec::new(), bytes: 0, end: End::Open };
        for part in parts {
            let (mut goes_on, mut copy) = (part.to_vec(), part.to_vec());
            let looked = scanner.clone().scan(part);
            let (scanned, kept) = scanner.sound_to_front(&mut goes_on);
            let (copied, content) = copier.content_to_front(&mut copy);
            assert_eq!((copied, &copier), (scanned, &scanner), "ways to go through a body");
            if looked.progress == Progress::Extension {
                assert_ne!(part[looked.bytes], b'\r');
            } else {
                assert_eq!((looked, kept), (scanned, scanned.bytes), "all of it goes on");
            }
            sound.extend_from_slice(&goes_on[..kept]);
            seen.content.extend_from_slice(&copy[..content]);
            seen.bytes += scanned.bytes;
            match scanned.progress {
                Progress::More => assert_eq!(scanned.bytes, part.len()),
                Progress::Ended => seen.end = End::Reached,
                Progress::Broken(_) => seen.end = End::Broken,
                Progress::Extension => unreachable!("it is left out"),
            }
            if seen.end != End::Open {
                break;
            }
        }
        if framing != Framing::Empty || !parts.is_empty() {
            assert_eq!(scanner.ended(), seen.end == End::Reached || naive.end == End::Reached);
        }
        if seen.end == End::Open && scanner.ended() {
            seen.end = End::Reached;
        }
        // What goes on means the same, and has no extension to leave out.
        let again = BodyScanner::new(framing).scan(&sound);
        let ends = if seen.end == End::Reached { Progress::Ended } else { Progress::More };
        assert_eq!(again, Scan { bytes: sound.len(), progress: ends });
        let cut_short = scanner.end_of_connection().is_err();
        assert_eq!(cut_short, seen.end != End::Reached && framing != Framing::UntilClose);
        assert_eq!(
            seen,
            naive,
            "in parts of {:?} bytes",
            parts.iter().map(|part| part.len()).collect::<Vec<_>>()
        );
    };
    check(&[bytes]);
    for at in cuts(bytes.len()) {
        check(&[&bytes[..at], &bytes[at..]]);
    }
    check(&bytes.chunks(1).collect::<Vec<_>>());
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Reached,
    Broken,
}

/// What of some bytes is a body, and its content.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    bytes: usize,
    end: End,
}

fn decode(framing: Framing, bytes: &[u8]) -> Decoded {
    let plain = |length: u64| {
        let taken = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        let end = if taken as u64 == length { End::Reached } else { End::Open };
        Decoded { content: bytes[..taken].to_vec(), bytes: taken, end }
    };
    match framing {
        Framing::Empty => plain(0),
        Framing::Length(length) => plain(length),
        Framing::UntilClose => plain(u64::MAX),
        Framing::Chunked => decode_chunked(bytes),
    }
}

/// RFC 9112 section 7.1, one byte after the other: each byte is what the grammar has next, or breaks the coding.
fn decode_chunked(bytes: &[u8]) -> Decoded {
    let mut decoder = Decoder { bytes, at: 0, content: Vec::new() };
    let end = match decoder.run() {
        Ok(()) => End::Reached,
        Err(end) => end,
    };
    Decoded { content: decoder.content, bytes: decoder.at, end }
}

struct Decoder<'b> {
    bytes: &'b [u8],
    at: usize,
    content: Vec<u8>,
}

impl Decoder<'_> {
    /// The next byte if `fits` takes it.
    fn take(&mut self, fits: impl Fn(u8) -> bool) -> Result<Option<u8>, End> {
        let byte = *self.bytes.get(self.at).ok_or(End::Open)?;
        self.at += usize::from(fits(byte));
        Ok(fits(byte).then_some(byte))
    }

    fn must(&mut self, expected: u8) -> Result<(), End> {
        self.take(|byte| byte == expected)?.map(|_| ()).ok_or(End::Broken)
    }

    fn run(&mut self) -> Result<(), End> {
        while self.chunk()? {}
        self.trailer()
    }

    /// Whether it was not the last. What stands behind its size means nothing.
    fn chunk(&mut self) -> Result<bool, End> {
        let mut digits = String::new();
        while let Some(digit) = self.take(|byte| byte.is_ascii_hexdigit() && digits.len() < 16)? {
            digits.push(digit.into());
        }
        let size = u64::from_str_radix(&digits, 16).map_err(|_| End::Broken)?;
        self.extension()?;
        self.must(b'\r')?;
        self.must(b'\n')?;
        for _ in 0..size {
            let byte = self.take(|_| true)?;
            self.content.extend(byte);
        }
        if size > 0 {
            self.must(b'\r')?;
            self.must(b'\n')?;
        }
        Ok(size > 0)
    }

    fn extension(&mut self) -> Result<(), End> {
        let mut length = 0;
        while self.take(|byte| matches!(byte, b' ' | b'\t') && length <= 4096)?.is_some() {
            length += 1;
        }
        if self.take(|byte| byte == b';' && length <= 4096)?.is_none() {
            return Ok(());
        }
        while self.take(|byte| !matches!(byte, b'\r' | b'\n') && length < 4096)?.is_some() {
            length += 1;
        }
        Ok(())
    }

    fn trailer(&mut self) -> Result<(), End> {
        while self.take(|byte| byte == b'\r')?.is_none() {
            if self.take(is_token)?.is_none() {
                return Err(End::Broken);
            }
            while self.take(is_token)?.is_some() {}
            self.must(b':')?;
            while self.take(is_text)?.is_some() {}
            self.must(b'\r')?;
            self.must(b'\n')?;
        }
        self.must(b'\n')
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

// Rewriting.

const POD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), 8080);

/// A head that goes on parses again, to the same meaning: as a request and as an answer.
pub(crate) fn rewrite(bytes: &[u8]) {
    let Some((&choices, bytes)) = bytes.split_first() else { return };
    if bytes.starts_with(b"HTTP/") {
        let _ = head::response(bytes, |head| rewrite_answer(&head, choices));
    } else {
        let _ = head::request(bytes, |head| rewrite_request(&head));
    }
}

/// A field as it means something: its name's case does not.
type Meaning = (String, Vec<u8>);

fn meaning((_, line): (Name, &FieldLine<'_>)) -> Meaning {
    (line.name.to_ascii_lowercase(), line.value.to_vec())
}

fn ends_here(name: &str, listed: &[Vec<u8>]) -> bool {
    const HOP_BY_HOP: &[&str] = &["connection", "keep-alive", "te", "upgrade", "expect"];
    const NEVER: &[&str] =
        &["content-length", "transfer-encoding", "trailer", "content-type", "content-encoding"];
    HOP_BY_HOP.contains(&name)
        || name == "proxy"
        || name.starts_with("proxy-")
        || (!NEVER.contains(&name)
            && listed.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes())))
}

fn listed(fields: &[Meaning]) -> Vec<Vec<u8>> {
    let values = fields.iter().filter(|(name, _)| name == "connection").map(|(_, value)| value);
    values
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(|option| option.trim_ascii().to_vec())
        .collect()
}

fn rewrite_request(head: &RequestHead<'_, '_>) {
    let Target::Origin { path, query } = head.target else { return };
    let mut out = Vec::new();
    let parts = [path, if query.is_some() { "?" } else { "" }, query.unwrap_or_default()];
    rewrite::request(
        &mut out,
        head,
        &parts,
        &RequestEdit { host: Host::Address(POD), without: Names::NONE, with: &[] },
    );
    let fields: Vec<Meaning> = head.fields.iter().map(meaning).collect();
    let listed = listed(&fields);
    let mut expected = vec![("host".to_owned(), POD.to_string().into_bytes())];
    expected.extend(fields.into_iter().filter(|(name, _)| {
        let framing_or_host =
            ["host", "content-length", "transfer-encoding", "trailer"].contains(&name.as_str());
        !framing_or_host && !ends_here(name, &listed)
    }));
    let via = if head.version == head::Version::Http10 { "1.0 psystrike" } else { "1.1 psystrike" };
    expected.push(("via".to_owned(), via.into()));
    let again = head::request(&out, |again| {
        assert_eq!((again.method, again.target), (head.method, head.target));
        assert_eq!(again.fields.iter().map(meaning).collect::<Vec<_>>(), expected);
        assert_eq!(framing::of_request(&again), Ok(Framing::Empty));
        assert_eq!(again.bytes.len(), out.len(), "nothing behind the head");
    });
    // What was added may lead over a limit of ours; a pod's are its own.
    let over =
        matches!(again, Err(HeadError::TooManyFields | HeadError::TooLarge | HeadError::TargetTooLong));
    assert!(over || again == Ok(Some(())), "{again:?}: {}", out.escape_ascii());
}

fn rewrite_answer(head: &ResponseHead<'_, '_>, choices: u8) {
    let Ok(body) = framing::of_response(head, choices & 1 != 0) else { return };
    let edit = ResponseEdit {
        persistence: [Persistence::Implied, Persistence::KeepAlive, Persistence::Close]
            [usize::from(choices >> 1 & 3) % 3],
        unchunk: choices & 8 != 0 && body == Framing::Chunked,
        location: (choices & 16 != 0 && head.location().is_some()).then(|| "/elsewhere".to_owned()),
        date: (!head.is_dated()).then_some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)),
    };
    let mut out = Vec::new();
    rewrite::response(&mut out, head, &edit);
    if edit.is_none(head) {
        assert_eq!(out, head.bytes, "a head that needs no edit is its own");
    }
    let fields: Vec<Meaning> = head.fields.iter().map(meaning).collect();
    let listed = listed(&fields);
    let without_framing = matches!(head.status, 100..=199 | 204);
    let mut expected: Vec<Meaning> = fields
        .into_iter()
        .filter(|(name, _)| {
            let framing = name == "transfer-encoding" || name == "content-length";
            let unchunked = edit.unchunk && (name == "transfer-encoding" || name == "trailer");
            !((framing && without_framing) || unchunked || ends_here(name, &listed))
        })
        .map(|(name, value)| match &edit.location {
            Some(location) if name == "location" => (name, location.clone().into_bytes()),
            _ => (name, value),
        })
        .collect();
    if edit.date.is_some() {
        expected.push(("date".to_owned(), b"Sun, 06 Nov 1994 08:49:37 GMT".to_vec()));
    }
    match edit.persistence {
        Persistence::Implied => {}
        Persistence::KeepAlive => expected.push(("connection".to_owned(), b"keep-alive".to_vec())),
        Persistence::Close => expected.push(("connection".to_owned(), b"close".to_vec())),
    }
    let again = head::response(&out, |again| {
        assert_eq!(again.status, head.status);
        assert_eq!(again.version, head::Version::Http11);
        assert_eq!(again.fields.iter().map(meaning).collect::<Vec<_>>(), expected);
        assert_eq!(again.persistent(), edit.persistence.persists());
        let to_head = choices & 1 != 0;
        let expected = if edit.unchunk { Framing::UntilClose } else { body };
        assert_eq!(framing::of_response(&again, to_head), Ok(expected));
        assert_eq!(again.bytes.len(), out.len(), "nothing behind the head");
    });
    let over = matches!(again, Err(HeadError::TooManyFields | HeadError::TooLarge));
    assert!(over || again == Ok(Some(())), "{again:?}: {}", out.escape_ascii());
}

// Routes and destinations.

/// A target, and behind a LF a `Location`: a pod's target is a part of what was asked, and a location that leads
/// through us leads to the same pod.
pub(crate) fn route(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (target, location) = text.split_once('\n').unwrap_or((text, ""));
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return; // no request target (`head::request`)
    }
    let origin = |target| match str::split_once(target, '?') {
        Some((path, query)) => Target::Origin { path, query: Some(query) },
        None => Target::Origin { path: target, query: None },
    };
    let form = if target.starts_with('/') { origin(target) } else { Target::Absolute(target) };
    let Ok(Route::Pod(PodRoute { destination, target, authority })) = route::resolve(form) else { return };
    assert!(target.path.starts_with('/'));
    match (form, authority) {
        (Target::Origin { path, .. }, None) => {
            assert!(path.starts_with("/pods/"));
            assert!(target.path == "/metrics" || path.contains(target.path));
        }
        (Target::Absolute(uri), Some(authority)) => {
            let [path, mark, query] = target.parts();
            let rest = &uri["http://".len() + authority.len()..];
            let path = if path == "/" && !rest.starts_with('/') { "" } else { path };
            assert_eq!(uri["http://".len()..], format!("{authority}{path}{mark}{query}"));
            let named = authority.parse().or_else(|_| format!("{authority}:80").parse::<SocketAddr>());
            match destination {
                Destination::Address(peer) => {
                    let named = named.expect("an address, and a port or none");
                    assert_eq!(Peer::new(named.ip(), named.port()), peer);
                }
                Destination::Name(name, port) => {
                    assert!(named.is_err(), "{authority} is an address");
                    assert!([name.to_owned(), format!("{name}:{port}")].contains(&authority.to_owned()));
                }
            }
        }
        other => panic!("{other:?}"),
    }
    let peer = match destination {
        Destination::Address(peer) => peer,
        Destination::Name(name, port) => {
            assert!(port > 0 && !name.is_empty() && name.len() <= 254);
            assert!(name.parse::<IpAddr>().is_err() && name.bytes().all(|byte| byte.is_ascii_graphic()));
            return;
        }
    };
    assert!(peer.port() > 0);
    assert!(!matches!(peer.ip(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()), "judged as IPv6");
    let again = format!("/pods/{}/{}{}", peer.ip(), peer.port(), target.path);
    // With a query of its own, no `%3F` is taken for one.
    let query = Some(target.query.unwrap_or_default());
    match route::resolve(Target::Origin { path: &again, query }) {
        Ok(Route::Pod(pod)) => {
            assert_eq!((pod.destination, pod.target.path), (destination, target.path));
        }
        other => panic!("{again}: {other:?}"),
    }
    let Some(through) = route::location_through_us(location.as_bytes(), peer, None, target.path) else {
        return;
    };
    let end = through.find(['?', '#']).unwrap_or(through.len());
    let query = through[end..].strip_prefix('?').map(|rest| rest.split('#').next().unwrap_or_default());
    match route::resolve(Target::Origin { path: &through[..end], query }) {
        Ok(Route::Pod(pod)) => {
            assert_eq!(pod.destination, destination, "{location:?} leaves the pod by {through:?}");
            let rest = through[..end].strip_prefix(&format!("/pods/{}/{}", peer.ip(), peer.port()));
            assert_eq!(rest, Some(pod.target.path));
        }
        other => panic!("{location:?} leads to {through:?}: {other:?}"),
    }
}

/// Lines: ranges to allow, ranges to deny, ports, then addresses with ports. Each is judged as a reader would.
pub(crate) fn destinations(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (allow, deny, ports) = (ranges(line()), ranges(line()), line().parse::<Ports>());
    let Ok(ports) = ports else { return };
    assert_eq!(ports.to_string().parse(), Ok(ports.clone()), "as it is shown, so it is read");
    let policy = Policy::new(allow.clone(), deny.clone(), ports.clone());
    for address in lines.filter_map(|line| line.parse::<SocketAddr>().ok()) {
        let peer = Peer::new(address.ip(), address.port());
        let ip = peer.ip();
        let reached = policy.authorize(peer).is_ok();
        let listed =
            allow.iter().any(|range| range.contains(&ip)) && !deny.iter().any(|range| range.contains(&ip));
        assert!(!reached || (listed && ports.contain(address.port())), "{ip} is on no list");
        if !is_of_a_kind(ip) {
            assert_eq!(reached, listed && ports.contain(address.port()), "{ip} is like any other");
        } else if reached {
            // Only an entry that is inside a special range opens it: none that is as wide as these lists.
            let narrow = allow.iter().any(|range| range.contains(&ip) && range.prefix_len() >= 8);
            let unpacks = ip.is_ipv6();
            assert!(narrow || unpacks || !is_always_special(ip), "{ip} is reached by a wide range");
        }
    }
}

fn ranges(list: &str) -> Vec<IpNet> {
    let ranges = list.split(',').filter_map(|text| policy::parse_range(text.trim()).ok());
    let ranges: Vec<IpNet> = ranges.take(16).collect();
    for range in &ranges {
        assert_eq!(policy::parse_range(&range.to_string()), Ok(*range), "as it is shown, so it is read");
        assert_eq!(range.trunc(), *range);
    }
    ranges
}

/// Addresses that some rule may know: all that are not written down here are like any other.
fn is_of_a_kind(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            matches!(a, 0 | 127 | 224..=239 | 255)
                || matches!((a, b), (169, 254) | (100, 100) | (168, 63))
                || (a, b, c, d) == (192, 0, 0, 192)
        }
        IpAddr::V6(v6) => {
            let [a, b, .., fifth, sixth, _, _] = v6.segments();
            a < 0x100
                || matches!(a, 0x2001 | 0x2002 | 0xfd00 | 0xfd20)
                || a & 0xffc0 == 0xfe80
                || a >= 0xff00
                || (sixth == 0x5efe && fifth & !0x0200 == 0)
                || (a, b) == (0x64, 0xff9b)
        }
    }
}

/// The machine itself, its links and what is no single host.
fn is_always_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0 || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
    }
}

// Configuration.

/// Lines: arguments, and variables where a line is `PSYSTRIKE_NAME=value`. The answer is a configuration whose
/// numbers are in their limits, or one line that says what is wrong.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let is_variable = |line: &&str| line.starts_with("PSYSTRIKE_");
    let variables: Vec<(&str, &str)> =
        text.lines().filter(is_variable).filter_map(|line| line.split_once('=')).collect();
    let arguments = text.lines().filter(|line| !is_variable(line)).map(OsString::from).collect();
    let variable = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    };
    match config::parse(arguments, variable) {
        Ok(Command::Serve(config)) => {
            assert!((1..=256).contains(&config.workers));
            for open_files in [0, 1, 64, 1024, 20_000, 1 << 20, u64::MAX] {
                for memory in [None, Some(0), Some(1), Some(16 << 20), Some(u64::MAX)] {
                    let limits = Limits::new(&config, open_files, memory);
                    let (clients, idle) = (limits.clients.most, limits.upstreams_idle.most);
                    assert!((1..=1_000_000).contains(&clients) && idle <= 1_000_000, "{clients} and {idle}");
                    assert!(limits.buffers.most > 0);
                }
            }
            let week = Duration::from_secs(7 * 24 * 3600);
            let timeouts = config.settings.timeouts;
            for duration in [timeouts.scrape, timeouts.scrape_max, timeouts.connect, timeouts.header] {
                assert!(duration > Duration::ZERO && duration <= week);
            }
        }
        Ok(Command::Help | Command::Version | Command::Healthcheck(_)) => {}
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty() && !error.contains(['\n', '\r', '\0']), "{error:?} is one line");
        }
    }
    let unknown =
        config::unknown_variables(variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
    assert!(unknown.len() <= variables.len());
}
