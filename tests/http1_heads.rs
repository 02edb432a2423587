//! Heads as tables: each row is parsed whole, cut at every point, and with other bytes after it.
//!
//! A prefix of a head is incomplete or fails with the same error as the whole head; once refused, it stays refused.
//! Bytes after a head change nothing.

#[path = "support/bytes.rs"]
mod bytes;

use std::fmt::Write;

use bytes::{Random, Shown, cuts, with_seeds};
use psystrike::http1::field::Fields;
use psystrike::http1::head::{
    self, HeadError, REQUEST_FIELDS_MAX, REQUEST_HEAD_BYTES_MAX, RESPONSE_FIELDS_MAX,
    RESPONSE_HEAD_BYTES_MAX, Target, Version,
};

/// A description of the parsed head, and the head's length.
type Verdict = Result<Option<(String, usize)>, HeadError>;
/// Reads a head at the start of the bytes.
type Read = fn(&[u8]) -> Verdict;
/// The expectation of a row: the description, or the error.
type Expected<'a> = Result<&'a str, HeadError>;

const fn bad(what: &'static str) -> Expected<'static> {
    Err(HeadError::Malformed(what))
}
const VERSION: Expected<'static> = Err(HeadError::Version);
const TARGET_TOO_LONG: Expected<'static> = Err(HeadError::TargetTooLong);
const TOO_LARGE: Expected<'static> = Err(HeadError::TooLarge);
const TOO_MANY_FIELDS: Expected<'static> = Err(HeadError::TooManyFields);

/// `GET /a ? b 1.1 stays|Host: pod`: target by its form, version, persistence, fields.
fn request(bytes: &[u8]) -> Verdict {
    head::request(bytes, |head| {
        let target = match head.target {
            Target::Origin { path, query: None } => path.to_owned(),
            Target::Origin { path, query: Some(query) } => format!("{path} ? {query}"),
            Target::Absolute(target) => format!("absolute {target}"),
            Target::Other(target) => format!("other {target}"),
        };
        let rest = version_and_fields(head.version, head.persistent(), head.fields);
        (format!("{} {target} {rest}", head.method), head.bytes.len())
    })
}

/// `200 1.1 stays|A: b`: status, version, persistence, fields.
fn answer(bytes: &[u8]) -> Verdict {
    head::response(bytes, |head| {
        assert_eq!(head.bytes, &bytes[..head.bytes.len()], "the head has other bytes than were received");
        let rest = version_and_fields(head.version, head.persistent(), head.fields);
        (format!("{} {rest}", head.status), head.bytes.len())
    })
}

fn version_and_fields(version: Version, persistent: bool, fields: Fields<'_, '_>) -> String {
    let version = if version == Version::Http10 { "1.0" } else { "1.1" };
    let mut words = format!("{version} {}", if persistent { "stays" } else { "ends" });
    for (_, field) in fields.iter() {
        write!(words, "|{}: {}", field.name, field.value.escape_ascii()).unwrap();
    }
    words
}

/// Checks a row whole and with other bytes after it.
fn check_whole(read: Read, name: &str, bytes: &[u8], expected: Expected<'_>) {
    let expected = expected.map(|words| Some((words.to_owned(), bytes.len())));
    let many = vec![b'a'; 2 * RESPONSE_HEAD_BYTES_MAX];
    let behind: [&[u8]; 8] = [
        b"",
        b"\n",
        b"\r\n",
        b" ",
        b"\0",
        b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\na\nb\r\n",
        &many,
    ];
    for behind in behind {
        let got = read(&[bytes, behind].concat());
        assert_eq!(got, expected, "{name}: {} and after it {}", Shown(bytes), Shown(behind));
    }
}

/// Checks a row whole, with other bytes after it, and cut at every point.
fn check(read: Read, name: &str, bytes: &[u8], expected: Expected<'_>) {
    check_whole(read, name, bytes, expected);
    let mut refused = false;
    for cut in cuts(bytes.len()).filter(|&cut| cut < bytes.len()) {
        let got = read(&bytes[..cut]);
        let sound = match &got {
            Ok(None) => !refused,
            Ok(Some(_)) => false,
            Err(error) => expected == Err(*error),
        };
        assert!(
            sound,
            "{name}: {} cut at {cut} (refused before: {refused})\n expected: none yet, or of {expected:?} the \
             error\n      got: {got:?}",
            Shown(bytes)
        );
        refused |= got.is_err();
    }
}

#[test]
fn valid_requests() {
    let rows: &[(&str, &[u8], &str)] = &[
        (
            "a scrape as Prometheus sends it",
            b"GET /pods/10.0.0.1/80/metrics HTTP/1.1\r\nHost: s:1\r\nUser-Agent: Prometheus/2.42.0\r\n\
              Accept: a;q=0.5,b;q=0.1\r\nAccept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n",
            "GET /pods/10.0.0.1/80/metrics 1.1 stays|Host: s:1|User-Agent: Prometheus/2.42.0|\
             Accept: a;q=0.5,b;q=0.1|Accept-Encoding: gzip|X-Prometheus-Scrape-Timeout-Seconds: 10",
        ),
        ("a query", b"GET /a?b=c?d HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a ? b=c?d 1.1 stays|Host: h"),
        ("an empty query", b"GET /a? HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a ?  1.1 stays|Host: h"),
        (
            "nothing is decoded",
            b"GET /%5Bfd00::1%5D/a%2Fb%0d%0a%3Fc HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /%5Bfd00::1%5D/a%2Fb%0d%0a%3Fc 1.1 stays|Host: h",
        ),
        (
            "absolute-form",
            b"GET http://h/a HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET absolute http://h/a 1.1 stays|Host: h",
        ),
        ("asterisk-form", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS other * 1.1 stays|Host: h"),
        ("authority-form", b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", "CONNECT other h:1 1.1 stays|Host: h"),
        ("a query behind no path", b"GET ?a HTTP/1.1\r\nHost: h\r\n\r\n", "GET other ?a 1.1 stays|Host: h"),
        ("no scheme", b"GET ://h HTTP/1.1\r\nHost: h\r\n\r\n", "GET other ://h 1.1 stays|Host: h"),
        ("two slashes", b"GET //h/a HTTP/1.1\r\nHost: h\r\n\r\n", "GET //h/a 1.1 stays|Host: h"),
        (
            "any token is a method",
            b"g!#$%&'*+-.^_`|~9 / HTTP/1.1\r\nHost: h\r\n\r\n",
            "g!#$%&'*+-.^_`|~9 / 1.1 stays|Host: h",
        ),
        ("an empty line in front", b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / 1.1 stays|Host: h"),
        ("two empty lines in front", b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / 1.1 stays|Host: h"),
        ("an empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / 1.1 stays|Host: "),
        ("Host with a port", b"GET / HTTP/1.1\r\nhOST: [fd00::1]:80\r\n\r\n", "GET / 1.1 stays|hOST: [fd00::1]:80"),
        ("1.0 without Host", b"GET / HTTP/1.0\r\n\r\n", "GET / 1.0 ends"),
        ("1.0 with Host", b"GET / HTTP/1.0\r\nHost: h\r\n\r\n", "GET / 1.0 ends|Host: h"),
        (
            "1.0 keep-alive",
            b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            "GET / 1.0 stays|Connection: Keep-Alive",
        ),
        (
            "close among other options",
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x\t, ,CLOSE\r\n\r\n",
            "GET / 1.1 ends|Host: h|Connection: x\\t, ,CLOSE",
        ),
        (
            "close in the second Connection field",
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
            "GET / 1.1 ends|Host: h|Connection: keep-alive|Connection: close",
        ),
        (
            "closed is not close",
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\n",
            "GET / 1.1 stays|Host: h|Connection: closed",
        ),
        (
            "white space around values",
            b"GET / HTTP/1.1\r\nHost:h\r\nA: \t b c\t \r\nB:\r\nC: \t \r\nD: \xff\t\x80\r\n\r\n",
            "GET / 1.1 stays|Host: h|A: b c|B: |C: |D: \\xff\\t\\x80",
        ),
    ];
    for (name, bytes, expected) in rows {
        check(request, name, bytes, Ok(expected));
    }
}

#[test]
fn invalid_requests() {
    let rows: &[(&str, &[u8], Expected<'_>)] = &[
        ("bare LF behind the request line", b"GET / HTTP/1.1\nHost: h\r\n\r\n", bad("bare LF")),
        ("bare LF behind a field", b"GET / HTTP/1.1\r\nHost: h\n\r\n", bad("bare LF")),
        ("bare LF as the last line", b"GET / HTTP/1.1\r\nHost: h\r\n\n", bad("bare LF")),
        ("nothing but bare LF", b"GET / HTTP/1.1\nHost: h\n\n", bad("bare LF")),
        ("bare LF in front", b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", bad("bare LF")),
        ("bare LF and more wrong behind it", b"GET / HTTP/1.1\r\nA: b\n: c\r\n\r\n", bad("bare LF")),
        ("bare LF behind another fault", b"GET / HTTP/1.1\r\n: c\r\nA: b\n\r\n", bad("header name")),
        ("LF in the method", b"GE\nT / HTTP/1.1\r\nHost: h\r\n\r\n", bad("bare LF")),
        ("bare CR in front", b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", bad("line end")),
        ("bare CR behind the version", b"GET / HTTP/1.1\rHost: h\r\n\r\n", bad("line end")),
        ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", bad("header value")),
        ("bare CR before a value", b"GET / HTTP/1.1\r\nHost: h\r\nA:\rb\r\n\r\n", bad("header value")),
        ("two CR behind a value", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\r\n\r\n", bad("header value")),
        ("bare CR as the last line", b"GET / HTTP/1.1\r\nHost: h\r\n\rX", bad("line end")),
        ("obs-fold", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", bad("header name")),
        ("obs-fold with HTAB", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\tc\r\n\r\n", bad("header name")),
        ("obs-fold that is empty", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n \r\n\r\n", bad("header name")),
        ("white space before the first field", b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", bad("header name")),
        ("white space before a colon", b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", bad("header name")),
        ("HTAB before a colon", b"GET / HTTP/1.1\r\nHost\t: h\r\n\r\n", bad("header name")),
        ("an empty name", b"GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n", bad("header name")),
        ("no colon", b"GET / HTTP/1.1\r\nHost: h\r\nAb\r\n\r\n", bad("header name")),
        ("no Host", b"GET / HTTP/1.1\r\nA: b\r\n\r\n", bad("no Host header")),
        ("no field at all", b"GET / HTTP/1.1\r\n\r\n", bad("no Host header")),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", bad("more than one Host header")),
        (
            "the same Host twice",
            b"GET / HTTP/1.1\r\nHost: h\r\nHOST: h\r\n\r\n",
            bad("more than one Host header"),
        ),
        (
            "two Hosts in 1.0",
            b"GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n",
            bad("more than one Host header"),
        ),
        ("a path in Host", b"GET / HTTP/1.1\r\nHost: h/a\r\n\r\n", bad("Host header")),
        ("a user in Host", b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", bad("Host header")),
        ("a list in Host", b"GET / HTTP/1.1\r\nHost: h, i\r\n\r\n", bad("Host header")),
        ("white space in Host", b"GET / HTTP/1.1\r\nHost: h i\r\n\r\n", bad("Host header")),
        ("not ASCII in Host", b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", bad("Host header")),
        ("a bad Host in 1.0", b"GET / HTTP/1.0\r\nHost: h/a\r\n\r\n", bad("Host header")),
        ("no method", b" / HTTP/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        ("no target", b"GET HTTP/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        ("an empty target", b"GET  HTTP/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        ("two spaces before the version", b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        ("HTAB before the target", b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        ("HTAB before the version", b"GET /\tHTTP/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        ("a space behind the version", b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", bad("line end")),
        ("a fragment", b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", bad("request target")),
        ("UTF-8 in the target", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n", bad("request target")),
        ("HTTP/0.9", b"GET /\r\n", bad("request line")),
        ("HTTP/0.9 by name", b"GET / HTTP/0.9\r\nHost: h\r\n\r\n", VERSION),
        ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", VERSION),
        ("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: h\r\n\r\n", bad("line end")),
        ("HTTP/1", b"GET / HTTP/1\r\nHost: h\r\n\r\n", VERSION),
        ("HTTP/01.1", b"GET / HTTP/01.1\r\nHost: h\r\n\r\n", VERSION),
        ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", VERSION),
        ("a version in small letters", b"GET / http/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", bad("request line")),
        (
            "a space in the target, near a version",
            b"GET /a HTTP/b HTTP/1.1\r\nHost: h\r\n\r\n",
            bad("request line"),
        ),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VERSION),
        ("a TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bad("request line")),
        ("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", bad("request line")),
    ];
    for (name, bytes, expected) in rows {
        check(request, name, bytes, *expected);
    }
}

#[test]
fn valid_responses() {
    let rows: &[(&str, &[u8], &str)] = &[
        ("plain", b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "200 1.1 stays|A: b"),
        ("no fields", b"HTTP/1.1 204 No Content\r\n\r\n", "204 1.1 stays"),
        ("an empty reason phrase", b"HTTP/1.1 200 \r\n\r\n", "200 1.1 stays"),
        ("no reason phrase", b"HTTP/1.1 200\r\n\r\n", "200 1.1 stays"),
        ("a reason phrase of many words", b"HTTP/1.1 503 a  \tb \xe9 9\r\n\r\n", "503 1.1 stays"),
        ("the least status", b"HTTP/1.1 100 Continue\r\n\r\n", "100 1.1 stays"),
        ("the greatest status", b"HTTP/1.1 599 X\r\n\r\n", "599 1.1 stays"),
        ("1.0", b"HTTP/1.0 200 OK\r\n\r\n", "200 1.0 ends"),
        (
            "1.0 keep-alive",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
            "200 1.0 stays|Connection: keep-alive",
        ),
        (
            "1.0 keep-alive and close",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n\r\n",
            "200 1.0 ends|Connection: keep-alive, close",
        ),
        ("close", b"HTTP/1.1 200 OK\r\nconnection:close\r\n\r\n", "200 1.1 ends|connection: close"),
    ];
    for (name, bytes, expected) in rows {
        check(answer, name, bytes, Ok(expected));
    }
}

#[test]
fn invalid_responses() {
    let rows: &[(&str, &[u8], Expected<'_>)] = &[
        ("an empty line in front", b"\r\nHTTP/1.1 200 OK\r\n\r\n", bad("not HTTP/1")),
        ("bare LF in front", b"\nHTTP/1.1 200 OK\r\n\r\n", bad("not HTTP/1")),
        ("a chunk's end in front", b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", bad("not HTTP/1")),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n", bad("not HTTP/1")),
        ("a TLS alert", b"\x15\x03\x01\x00\x02\x02\x46", bad("not HTTP/1")),
        ("an error without a head", b"<html>\n", bad("not HTTP/1")),
        ("bare LF behind the status line", b"HTTP/1.1 200 OK\nA: b\r\n\r\n", bad("bare LF")),
        ("bare LF behind the status", b"HTTP/1.1 200\nA: b\r\n\r\n", bad("bare LF")),
        ("bare LF behind a field", b"HTTP/1.1 200 OK\r\nA: b\n\r\n", bad("bare LF")),
        ("bare LF as the last line", b"HTTP/1.1 200 OK\r\nA: b\r\n\n", bad("bare LF")),
        ("bare CR in the reason phrase", b"HTTP/1.1 200 O\rK\r\n\r\n", bad("status line")),
        ("bare CR behind the status", b"HTTP/1.1 200\rA: b\r\n\r\n", bad("status line")),
        ("bare CR in a value", b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", bad("header value")),
        ("bare CR as the last line", b"HTTP/1.1 200 OK\r\n\rA", bad("line end")),
        ("obs-fold", b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", bad("header name")),
        ("white space before a colon", b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n", bad("header name")),
        ("an empty name", b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", bad("header name")),
        ("no colon", b"HTTP/1.1 200 OK\r\nAb\r\n\r\n", bad("header name")),
        ("two digits", b"HTTP/1.1 20 OK\r\n\r\n", bad("status line")),
        ("four digits", b"HTTP/1.1 2000 OK\r\n\r\n", bad("status line")),
        ("no digits", b"HTTP/1.1 OK\r\n\r\n", bad("status line")),
        ("a sign", b"HTTP/1.1 +20 OK\r\n\r\n", bad("status line")),
        ("two spaces before the status", b"HTTP/1.1  200 OK\r\n\r\n", bad("status line")),
        ("no status", b"HTTP/1.1 \r\n\r\n", bad("status line")),
        ("only a version", b"HTTP/1.1\r\n\r\n", VERSION),
        ("HTAB behind the status", b"HTTP/1.1 200\tOK\r\n\r\n", bad("status line")),
        ("status under 100", b"HTTP/1.1 099 X\r\n\r\n", bad("status code")),
        ("status 000", b"HTTP/1.1 000 X\r\n\r\n", bad("status code")),
        ("status over 599", b"HTTP/1.1 600 X\r\n\r\n", bad("status code")),
        ("HTTP/0.9", b"HTTP/0.9 200 OK\r\n\r\n", VERSION),
        ("HTTP/1.2", b"HTTP/1.2 200 OK\r\n\r\n", VERSION),
        ("HTTP/2", b"HTTP/2 200 OK\r\n\r\n", VERSION),
        ("HTTP/2.0", b"HTTP/2.0 200 OK\r\n\r\n", VERSION),
        ("Hello", b"Hello world\r\n", VERSION),
    ];
    for (name, bytes, expected) in rows {
        check(answer, name, bytes, *expected);
    }
}

/// Inserts one byte at a place where most bytes are invalid, and checks each byte value.
struct Place {
    name: &'static str,
    read: Read,
    before: &'static str,
    behind: &'static str,
    /// Whether the byte is valid there.
    fits: fn(u8) -> bool,
    /// The error for an invalid byte.
    refusal: fn(u8) -> HeadError,
}

const TOKEN: fn(u8) -> bool = |byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
const TEXT: fn(u8) -> bool = |byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f);

#[test]
fn every_byte_at_every_place() {
    let places = [
        Place {
            name: "method",
            read: request,
            before: "GE",
            behind: "T /a HTTP/1.1\r\nHost: h\r\n\r\n",
            fits: TOKEN,
            refusal: |_| HeadError::Malformed("request line"),
        },
        Place {
            name: "target",
            read: request,
            before: "GET /",
            behind: "a HTTP/1.1\r\nHost: h\r\n\r\n",
            fits: |byte| byte.is_ascii_graphic() && byte != b'#',
            refusal: |byte| match byte {
                b'#' => HeadError::Malformed("request target"),
                _ => HeadError::Malformed("request line"),
            },
        },
        Place {
            name: "name",
            read: request,
            before: "GET / HTTP/1.1\r\nHost: h\r\nA",
            behind: "b: c\r\n\r\n",
            fits: |byte| TOKEN(byte) || byte == b':', // the colon ends a shorter name
            refusal: |_| HeadError::Malformed("header name"),
        },
        Place {
            name: "name's start",
            read: request,
            before: "GET / HTTP/1.1\r\nHost: h\r\n",
            behind: "b: c\r\n\r\n",
            fits: TOKEN,
            refusal: |byte| match byte {
                b'\r' => HeadError::Malformed("line end"), // it begins the empty line
                _ => HeadError::Malformed("header name"),
            },
        },
        Place {
            name: "value",
            read: request,
            before: "GET / HTTP/1.1\r\nHost: h\r\nA: b",
            behind: "c\r\n\r\n",
            fits: TEXT,
            refusal: |_| HeadError::Malformed("header value"),
        },
        Place {
            name: "Host",
            read: request,
            before: "GET / HTTP/1.1\r\nHost: a",
            behind: "b\r\n\r\n",
            fits: |byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&byte),
            refusal: |byte| match byte {
                _ if TEXT(byte) => HeadError::Malformed("Host header"),
                _ => HeadError::Malformed("header value"),
            },
        },
        Place {
            name: "answer's name",
            read: answer,
            before: "HTTP/1.1 200 OK\r\nA",
            behind: "b: c\r\n\r\n",
            fits: |byte| TOKEN(byte) || byte == b':',
            refusal: |_| HeadError::Malformed("header name"),
        },
        Place {
            name: "answer's value",
            read: answer,
            before: "HTTP/1.1 200 OK\r\nA: b",
            behind: "c\r\n\r\n",
            fits: TEXT,
            refusal: |_| HeadError::Malformed("header value"),
        },
        Place {
            name: "reason phrase",
            read: answer,
            before: "HTTP/1.1 200 a",
            behind: "b\r\n\r\n",
            fits: TEXT,
            refusal: |_| HeadError::Malformed("status line"),
        },
    ];
    for place in &places {
        for byte in 0..=u8::MAX {
            at_place(place, byte);
        }
    }
}

fn at_place(place: &Place, byte: u8) {
    let Place { name, read, before, behind, fits, refusal } = place;
    let refusal = if byte == b'\n' { HeadError::Malformed("bare LF") } else { refusal(byte) };
    // httparse scans names, values and targets in blocks of 8 to 32 bytes: the byte is tried at every position of a
    // block. At the start of a line there is only one position.
    let pads = if before.ends_with('\n') { 1 } else { 34 };
    for pad in 0..pads {
        let pad = "x".repeat(pad);
        let bytes = [before.as_bytes(), pad.as_bytes(), &[byte], pad.as_bytes(), behind.as_bytes()].concat();
        let name = format!("{name}, byte {byte:#04x}, padded by {}", pad.len());
        if fits(byte) {
            let got = read(&bytes);
            let read_whole = matches!(&got, Ok(Some((_, length))) if *length == bytes.len());
            assert!(read_whole, "{name}: {}\n got: {got:?}", Shown(&bytes));
        } else if pad.is_empty() {
            check(*read, &name, &bytes, Err(refusal));
        } else {
            assert_eq!(read(&bytes), Err(refusal), "{name}: {}", Shown(&bytes));
        }
    }
}

/// `{before}xxx..{behind}`, `len` bytes long.
fn filled(before: &str, behind: &str, len: usize) -> Vec<u8> {
    let fill = "x".repeat(len - before.len() - behind.len());
    [before, &fill, behind].concat().into_bytes()
}

/// A head with this many fields, the first of them `Host`.
fn with_fields(start: &str, count: usize) -> (Vec<u8>, String) {
    let mut bytes = format!("{start}\r\nHost: h\r\n");
    let mut words = String::from("|Host: h");
    for number in 1..count {
        write!(bytes, "N{number}: v\r\n").unwrap();
        write!(words, "|N{number}: v").unwrap();
    }
    bytes += "\r\n";
    (bytes.into_bytes(), words)
}

#[test]
fn limits() {
    const REQUEST: usize = REQUEST_HEAD_BYTES_MAX;
    const ANSWER: usize = RESPONSE_HEAD_BYTES_MAX;
    assert_eq!((REQUEST, REQUEST_FIELDS_MAX), (16 * 1024, 100));
    assert_eq!((ANSWER, RESPONSE_FIELDS_MAX), (64 * 1024, 256));

    let get = "GET / HTTP/1.1\r\nHost: h\r\nA: ";
    let ok = "HTTP/1.1 200 OK\r\nA: ";
    let end = "\r\n\r\n";
    let line_end = " HTTP/1.1\r\nHost: h\r\n\r\n";
    let filling = |around: &str, len: usize| "x".repeat(len - around.len());

    let whole = filled(get, end, REQUEST);
    let words = format!("GET / 1.1 stays|Host: h|A: {}", filling(&[get, end].concat(), REQUEST));
    check(request, "a head of exactly 16 KiB", &whole, Ok(&words));
    let whole = filled("GET /", line_end, REQUEST);
    let words = format!("GET /{} 1.1 stays|Host: h", filling(&["GET /", line_end].concat(), REQUEST));
    check(request, "a target that fills 16 KiB", &whole, Ok(&words));
    let whole = filled(ok, end, ANSWER);
    let words = format!("200 1.1 stays|A: {}", filling(&[ok, end].concat(), ANSWER));
    check(answer, "a head of exactly 64 KiB", &whole, Ok(&words));

    let line = " HTTP/1.1\r\n";
    let rows: &[(&str, Read, Vec<u8>, Expected<'_>)] = &[
        ("a head one byte over 16 KiB", request, filled(get, end, REQUEST + 1), TOO_LARGE),
        ("a head far over 16 KiB", request, filled(get, end, 5 * REQUEST), TOO_LARGE),
        ("a head over 16 KiB and no end", request, filled(get, "", REQUEST), TOO_LARGE),
        ("a head over 16 KiB and then a fault", request, filled(get, "\0\r\n\r\n", REQUEST + 5), TOO_LARGE),
        ("a head over 16 KiB and then bare LF", request, filled(get, "\n\r\n", REQUEST + 3), TOO_LARGE),
        ("bare LF as the last byte of 16 KiB", request, filled(get, "\n", REQUEST), bad("bare LF")),
        ("a request line of exactly 16 KiB", request, filled("GET /", line, REQUEST), TOO_LARGE),
        ("a request line over 16 KiB", request, filled("GET /", line, REQUEST + 1), TARGET_TOO_LONG),
        ("a request line far over 16 KiB", request, filled("GET /", line_end, 5 * REQUEST), TARGET_TOO_LONG),
        ("a target without end", request, filled("GET /", "", REQUEST), TARGET_TOO_LONG),
        (
            "a target without end after an empty line",
            request,
            filled("\r\nGET /", "", REQUEST),
            TARGET_TOO_LONG,
        ),
        ("a method without end", request, filled("GET", "", REQUEST), TARGET_TOO_LONG),
        ("empty lines without end", request, b"\r\n".repeat(REQUEST / 2), TARGET_TOO_LONG),
        ("an answer's head one byte over 64 KiB", answer, filled(ok, end, ANSWER + 1), TOO_LARGE),
        ("an answer's head without end", answer, filled(ok, "", ANSWER), TOO_LARGE),
        ("an answer's head over 64 KiB, then a fault", answer, filled(ok, "\0", ANSWER + 1), TOO_LARGE),
        ("a reason phrase without end", answer, filled("HTTP/1.1 200 ", "", ANSWER), TOO_LARGE),
    ];
    for (name, read, bytes, expected) in rows {
        check(*read, name, bytes, *expected);
    }

    for count in [1, 23, 24, 25, 99, 100] {
        let (bytes, words) = with_fields("GET / HTTP/1.1", count);
        check(request, &format!("{count} fields"), &bytes, Ok(&format!("GET / 1.1 stays{words}")));
    }
    for count in [1, 24, 25, 255, 256] {
        let (bytes, words) = with_fields("HTTP/1.1 200 OK", count);
        check(answer, &format!("{count} fields"), &bytes, Ok(&format!("200 1.1 stays{words}")));
    }
    let (bytes, _) = with_fields("GET / HTTP/1.1", REQUEST_FIELDS_MAX + 1);
    check(request, "101 fields", &bytes, TOO_MANY_FIELDS);
    let (bytes, _) = with_fields("HTTP/1.1 200 OK", RESPONSE_FIELDS_MAX + 1);
    check(answer, "257 fields", &bytes, TOO_MANY_FIELDS);
    // The 101st field ends after the limit in bytes, so that limit is always exceeded first.
    let (mut bytes, _) = with_fields("GET / HTTP/1.1", REQUEST_FIELDS_MAX);
    bytes.truncate(bytes.len() - 2);
    let head = String::from_utf8(bytes).unwrap() + "Last: ";
    check(request, "101 fields over 16 KiB", &filled(&head, end, REQUEST + 100), TOO_LARGE);
}

/// Valid heads with some bytes changed, inserted or removed: the result does not depend on how they are split into
/// reads.
#[test]
fn broken_heads_have_the_same_result_under_any_cut() {
    let heads: [(Read, &[u8]); 4] = [
        (
            request,
            b"GET /pods/10.0.0.1/80/metrics?a=b HTTP/1.1\r\nHost: s:1\r\nAccept: a\r\nConnection: x\r\n\r\n",
        ),
        (request, b"\r\nHEAD / HTTP/1.0\r\nA:\r\nB: \t\r\n\r\n"),
        (answer, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nA: b\r\n\r\n"),
        (answer, b"HTTP/1.0 503\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ];
    with_seeds(1500, |seed, random| {
        let (read, sound) = random.pick(&heads);
        let bytes = spoilt(sound, random);
        // The result of the shortest prefix that has one is final.
        let first = (0..=bytes.len()).map(|cut| (cut, read(&bytes[..cut]))).find(|(_, got)| *got != Ok(None));
        let (at, expected) = first.unwrap_or((bytes.len(), Ok(None)));
        for cut in at..=bytes.len() {
            let got = read(&bytes[..cut]);
            assert_eq!(got, expected, "seed {seed}: {} cut at {cut}, judged at {at}", Shown(&bytes));
        }
    });
}

fn spoilt(sound: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let likely = b"\r\n\t :/.01\0\x7f\x80,";
        let byte = if random.one_in(4) { random.byte() } else { random.pick(likely) };
        match random.below(3) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}
