//! Writes the heads that are forwarded: a new one for a request; for a response the pod's own, unless it needs an edit.
//!
//! Never touches a body. The caller decides on the edits; this file removes hop-by-hop fields (RFC 9110 section 7.6.1).

use std::{io::Write, net::SocketAddr, ops::Range, time::SystemTime};

use super::field::{Name, Names};
use super::head::{PSEUDONYM, RequestHead, ResponseHead, Version};

/// The connection persistence that a response head signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// No field: HTTP/1.1 connections persist.
    Implied,
    /// `keep-alive`, which an HTTP/1.0 client requires.
    KeepAlive,
    /// `close`: this response is the connection's last.
    Close,
}

impl Persistence {
    /// Returns the field line to send, with its line end.
    pub fn line(self) -> &'static [u8] {
        match self {
            Self::Implied => b"",
            Self::KeepAlive => b"Connection: keep-alive\r\n",
            Self::Close => b"Connection: close\r\n",
        }
    }

    /// Returns whether another request may follow on the connection.
    pub fn persists(self) -> bool {
        self != Self::Close
    }
}

/// Copies a head in runs as long as possible: from one edit to the next.
struct HeadCopy<'b, 'o> {
    head: &'b [u8],
    /// The bytes before this offset are copied or left out.
    at: usize,
    out: &'o mut Vec<u8>,
}

impl HeadCopy<'_, '_> {
    /// Copies the bytes before `end`.
    fn up_to(&mut self, end: usize) {
        self.out.extend_from_slice(&self.head[self.at..end]);
        self.at = end;
    }

    /// Copies the bytes before `range`, and leaves out those in it.
    fn leave_out(&mut self, range: Range<usize>) {
        self.up_to(range.start);
        self.at = range.end;
    }

    /// Copies the bytes before `range`, and writes `instead` for those in it.
    fn replace(&mut self, range: Range<usize>, instead: &[u8]) {
        self.leave_out(range);
        self.out.extend_from_slice(instead);
    }
}

/// The value of a `Host` field.
#[derive(Clone, Copy, Debug)]
pub enum Host<'e> {
    /// `10.1.2.3:8080` or `[fd00::1]:8080`.
    Address(SocketAddr),
    /// The authority of the request target (RFC 9112 section 3.2.2), as received.
    Authority(&'e str),
}

/// The edits of a request head.
#[derive(Clone, Copy, Debug)]
pub struct RequestEdit<'e> {
    /// The value of `Host`.
    pub host: Host<'e>,
    /// The fields to remove, in addition to those that are always removed.
    pub without: Names,
    /// The fields to add: names and values.
    pub with: &'e [(&'e str, &'e [u8])],
}

/// The fields that are never forwarded: a scrape has no body, and the pod gets its own `Host`.
const NEVER_FORWARDED: Names =
    Names::NONE.with(Name::Host).with(Name::ContentLength).with(Name::TransferEncoding).with(Name::Trailer);

/// Writes the request head for the pod: the target in origin-form, in any number of parts; the pod's own `Host`; the
/// forwarded fields, unchanged; the added fields; and `Via` (RFC 9110 section 7.6.3).
pub fn request(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, target: &[&str], edit: &RequestEdit<'_>) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    target.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(b" HTTP/1.1\r\nHost:");
    match edit.host {
        Host::Address(address) => authority(out, address),
        Host::Authority(authority) => {
            [" ", authority].iter().for_each(|part| out.extend_from_slice(part.as_bytes()))
        }
    }
    out.extend_from_slice(b"\r\n");
    let lines = head.fields.section();
    let without = NEVER_FORWARDED.union(edit.without);
    let mut copy = HeadCopy { head: head.bytes, at: lines.start, out };
    for (index, (name, line)) in head.fields.iter().enumerate() {
        if without.contains(name) || head.fields.ends_here(name, line, head.connection) {
            copy.leave_out(head.fields.line_at(index));
        }
    }
    copy.up_to(lines.end);
    for (name, value) in edit.with {
        [name.as_bytes(), b": ", value, b"\r\n"].iter().for_each(|part| out.extend_from_slice(part));
    }
    out.extend_from_slice(if head.version == Version::Http10 { b"Via: 1.0 " } else { b"Via: 1.1 " });
    out.extend_from_slice(PSEUDONYM.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends ` 10.1.2.3:8080` or ` [fd00::1]:8080`.
fn authority(out: &mut Vec<u8>, address: SocketAddr) {
    let SocketAddr::V4(address) = address else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, " {address}");
        return;
    };
    // Every scrape writes one: this takes a tenth of the instructions of `write!`.
    let mut text = [0; b" 255.255.255.255:65535".len()];
    let mut at = text.len();
    let mut put = |byte| {
        at -= 1;
        text[at] = byte;
    };
    let [a, b, c, d] = address.ip().octets().map(u16::from);
    for (before, mut number) in [(b':', address.port()), (b'.', d), (b'.', c), (b'.', b), (b' ', a)] {
        while number > 9 {
            put(b'0' + (number % 10) as u8);
            number /= 10;
        }
        put(b'0' + number as u8);
        put(before);
    }
    out.extend_from_slice(&text[at..]);
}

/// The edits of a response head.
#[derive(Debug)]
pub struct ResponseEdit {
    /// The persistence of the client's connection.
    pub persistence: Persistence,
    /// The chunked coding is removed, as for an HTTP/1.0 client.
    pub unchunk: bool,
    /// Replaces the value of `Location`.
    pub location: Option<String>,
    /// The time of receipt, if the response has no `Date` (RFC 9110 section 6.6.1).
    pub date: Option<SystemTime>,
}

impl ResponseEdit {
    /// Returns whether the head may be forwarded unchanged.
    pub fn is_none(&self, head: &ResponseHead<'_, '_>) -> bool {
        self.persistence == Persistence::Implied
            && !self.unchunk
            && self.location.is_none()
            && self.date.is_none()
            && head.version == Version::Http11
            && head.bytes[STATUS_END..].starts_with(b" ")
            && !head.connection.present
            && !head.fields.has(Name::HopByHop)
            && !(without_framing(head.status)
                && (head.fields.has(Name::TransferEncoding) || head.fields.has(Name::ContentLength)))
    }
}

/// The offset after the status code: all versions and status codes have the same length.
const STATUS_END: usize = "HTTP/1.1 200".len();

/// Returns whether a response must not have `Transfer-Encoding` (RFC 9112 section 6.1) or `Content-Length` (RFC 9110
/// section 8.6). A client that trusts either would take the next response for this one's body.
fn without_framing(status: u16) -> bool {
    matches!(status, 100..=199 | 204)
}

/// Writes the response head for the client. The version is psystrike's (RFC 9110 section 6.2); status and reason phrase
/// are the pod's.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>, edit: &ResponseEdit) {
    const VERSION: &[u8] = b"HTTP/1.1";
    let fields = head.fields;
    let mut copy = HeadCopy { head: head.bytes, at: 0, out };
    copy.replace(0..VERSION.len(), VERSION);
    // RFC 9112 section 4: the space after the status is required even without a reason phrase.
    if !head.bytes[STATUS_END..].starts_with(b" ") {
        copy.replace(STATUS_END..STATUS_END, b" ");
    }
    for (index, (name, line)) in fields.iter().enumerate() {
        let goes = match name {
            Name::TransferEncoding | Name::Trailer if edit.unchunk => false,
            Name::TransferEncoding | Name::ContentLength if without_framing(head.status) => false,
            _ => !fields.ends_here(name, line, head.connection),
        };
        match (name, &edit.location) {
            _ if !goes => copy.leave_out(fields.line_at(index)),
            (Name::Location, Some(location)) => copy.replace(fields.value_at(index), location.as_bytes()),
            _ => {}
        }
    }
    copy.up_to(fields.section().end);
    if let Some(date) = edit.date {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "Date: {}\r\n", httpdate::HttpDate::from(date));
    }
    out.extend_from_slice(edit.persistence.line());
    out.extend_from_slice(b"\r\n");
}
