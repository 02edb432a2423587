//! The framing of bodies as a table: the framing fields of a head, and the framing that follows from RFC 9112 section
//! 6.3, or the reason for a refusal.

#[path = "support/bytes.rs"]
mod bytes;

use bytes::Shown;
use psystrike::http1::framing::{self, Framing, FramingError};
use psystrike::http1::head;

use Framing::{Chunked, Empty, Length, UntilClose};

type Expected = Result<Framing, FramingError>;

const fn bad(what: &'static str) -> Expected {
    Err(FramingError(what))
}

const BAD_LENGTH: Expected = bad("invalid Content-Length");
const OTHER_CODING: Expected = bad("Transfer-Encoding other than chunked");
const CODING_TWICE: Expected = bad("Transfer-Encoding repeated");
const LENGTH_TWICE: Expected = bad("Content-Length repeated");
const BOTH: Expected = bad("both Content-Length and Transfer-Encoding");
const CODING_IN_1_0: Expected = bad("Transfer-Encoding in HTTP/1.0");

/// Framing fields, and the framing in HTTP/1.1 of a message that may have a body. `UntilClose`: no field determines it.
const FIELDS: &[(&str, &str, Expected)] = &[
    ("none", "", Ok(UntilClose)),
    ("others", "Content-Type: a\r\nContent-Encoding: gzip\r\nTrailer: A\r\nTE: trailers\r\n", Ok(UntilClose)),
    ("names that begin alike", "Content-Length-X: 5\r\nX-Transfer-Encoding: chunked\r\n", Ok(UntilClose)),
    ("a length", "Content-Length: 5\r\n", Ok(Length(5))),
    ("a length in other letters", "CONTENT-length:5\r\n", Ok(Length(5))),
    ("a length among white space", "Content-Length: \t 5 \t\r\n", Ok(Length(5))),
    ("a length with zeros", "Content-Length: 00000000000000000000005\r\n", Ok(Length(5))),
    ("no length", "Content-Length: 0\r\n", Ok(Empty)),
    ("the greatest length", "Content-Length: 18446744073709551615\r\n", Ok(Length(u64::MAX))),
    ("a length that overflows", "Content-Length: 18446744073709551616\r\n", BAD_LENGTH),
    (
        "a length that overflows far",
        "Content-Length: 99999999999999999999999999999999999999999\r\n",
        BAD_LENGTH,
    ),
    ("an empty length", "Content-Length:\r\n", BAD_LENGTH),
    ("a positive length", "Content-Length: +5\r\n", BAD_LENGTH),
    ("a negative length", "Content-Length: -5\r\n", BAD_LENGTH),
    ("a negative zero", "Content-Length: -0\r\n", BAD_LENGTH),
    ("a list of lengths", "Content-Length: 5, 6\r\n", BAD_LENGTH),
    ("a list of the same length", "Content-Length: 5, 5\r\n", BAD_LENGTH),
    ("a list of one length", "Content-Length: 5,\r\n", BAD_LENGTH),
    ("two words", "Content-Length: 5 6\r\n", BAD_LENGTH),
    ("a hexadecimal length", "Content-Length: 0x5\r\n", BAD_LENGTH),
    ("hexadecimal digits", "Content-Length: a\r\n", BAD_LENGTH),
    ("an underscore", "Content-Length: 1_0\r\n", BAD_LENGTH),
    ("a fraction", "Content-Length: 5.0\r\n", BAD_LENGTH),
    ("an exponent", "Content-Length: 1e1\r\n", BAD_LENGTH),
    ("a quoted length", "Content-Length: \"5\"\r\n", BAD_LENGTH),
    ("digits of another script", "Content-Length: \u{0665}\r\n", BAD_LENGTH),
    ("no digits", "Content-Length: chunked\r\n", BAD_LENGTH),
    ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", LENGTH_TWICE),
    ("the same length twice", "Content-Length: 5\r\ncontent-length: 5\r\n", LENGTH_TWICE),
    ("no length twice", "Content-Length: 0\r\nA: b\r\nContent-Length: 0\r\n", LENGTH_TWICE),
    ("a length, then none", "Content-Length: 5\r\nContent-Length:\r\n", LENGTH_TWICE),
    ("chunked", "Transfer-Encoding: chunked\r\n", Ok(Chunked)),
    ("chunked in other letters", "transfer-ENCODING:\tChunKED \r\n", Ok(Chunked)),
    ("an empty coding", "Transfer-Encoding:\r\n", OTHER_CODING),
    ("gzip", "Transfer-Encoding: gzip\r\n", OTHER_CODING),
    ("identity", "Transfer-Encoding: identity\r\n", OTHER_CODING),
    ("gzip under chunked", "Transfer-Encoding: gzip, chunked\r\n", OTHER_CODING),
    ("gzip over chunked", "Transfer-Encoding: chunked, gzip\r\n", OTHER_CODING),
    ("chunked twice in one field", "Transfer-Encoding: chunked, chunked\r\n", OTHER_CODING),
    ("chunked in a list of one", "Transfer-Encoding: chunked,\r\n", OTHER_CODING),
    ("chunked behind nothing", "Transfer-Encoding: ,chunked\r\n", OTHER_CODING),
    ("chunked with a parameter", "Transfer-Encoding: chunked;a=b\r\n", OTHER_CODING),
    ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n", OTHER_CODING),
    ("chunked behind a vertical tab's twin", "Transfer-Encoding: \u{a0}chunked\r\n", OTHER_CODING),
    ("xchunked", "Transfer-Encoding: xchunked\r\n", OTHER_CODING),
    ("chunked and more", "Transfer-Encoding: chunkedx\r\n", OTHER_CODING),
    ("chunked in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CODING_TWICE),
    ("chunked, then gzip", "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", CODING_TWICE),
    ("gzip, then chunked", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", OTHER_CODING),
    ("length, then chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BOTH),
    ("chunked, then length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BOTH),
    ("no length, and chunked", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", BOTH),
    ("a bad length, and chunked", "Transfer-Encoding: chunked\r\nContent-Length: -5\r\n", BAD_LENGTH),
    ("a length, and identity", "Content-Length: 5\r\nTransfer-Encoding: identity\r\n", OTHER_CODING),
];

fn of_request(bytes: &[u8]) -> Expected {
    head::request(bytes, |head| framing::of_request(&head)).expect("a sound head").expect("a whole head")
}

fn of_response(bytes: &[u8], to_head: bool) -> Expected {
    head::response(bytes, |head| framing::of_response(&head, to_head))
        .expect("a sound head")
        .expect("a whole head")
}

/// Returns the expectation for HTTP/1.0, which has no transfer coding (RFC 9112 section 6.1).
fn in_1_0(expected: Expected) -> Expected {
    if expected == Ok(Chunked) { CODING_IN_1_0 } else { expected }
}

/// Bytes after a head do not change its framing.
fn check(name: &str, head: &str, expected: Expected, framing: impl Fn(&[u8]) -> Expected) {
    for behind in ["", "5\r\nhello\r\n0\r\n\r\n", "Content-Length: 7\r\n\r\n", "\n\0"] {
        let bytes = [head, behind].concat();
        let bytes = bytes.as_bytes();
        assert_eq!(framing(bytes), expected, "{name}: {}", Shown(bytes));
    }
}

#[test]
fn requests() {
    for &(name, fields, expected) in FIELDS {
        // Rule 7: a request without framing fields has no body.
        let expected = if expected == Ok(UntilClose) { Ok(Empty) } else { expected };
        for method in ["GET", "HEAD", "POST", "CONNECT"] {
            let head = format!("{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            check(name, &head, expected, of_request);
            let head = format!("{method} / HTTP/1.0\r\n{fields}\r\n");
            check(name, &head, in_1_0(expected), of_request);
        }
    }
}

#[test]
fn answers() {
    for &(name, fields, expected) in FIELDS {
        for status in ["200 OK", "206 P", "301 M", "401 U", "404 N", "500 I", "599 X", "205 Reset Content"] {
            let head = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
            check(name, &head, expected, |bytes| of_response(bytes, false));
            let head = format!("HTTP/1.0 {status}\r\n{fields}\r\n");
            check(name, &head, in_1_0(expected), |bytes| of_response(bytes, false));
        }
    }
}

/// Rule 1: these responses end with their heads, whatever their fields are, unless the fields contradict each other.
#[test]
fn responses_without_body() {
    for &(name, fields, expected) in FIELDS {
        let expected = expected.map(|_| Empty);
        for (status, to_head) in [
            ("100 Continue", false),
            ("101 Switching Protocols", false),
            ("103 Early Hints", false),
            ("199 X", false),
            ("204 No Content", false),
            ("304 Not Modified", false),
            ("200 OK", true),
            ("204 No Content", true),
            ("404 Not Found", true),
            ("500 Internal Server Error", true),
        ] {
            let head = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
            check(name, &head, expected, |bytes| of_response(bytes, to_head));
        }
    }
}

/// Fields listed in `Connection` still frame their message: ignoring them would move the body's end.
#[test]
fn connection_does_not_unframe() {
    let length = "Connection: Content-Length, Transfer-Encoding\r\nContent-Length: 5\r\n";
    let chunked = "Connection: Content-Length, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n";
    for (name, fields, expected) in [("length", length, Ok(Length(5))), ("chunked", chunked, Ok(Chunked))] {
        check(name, &format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), expected, of_request);
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        check(name, &answer, expected, |bytes| of_response(bytes, false));
    }
}
