//! The head that goes on to the other side: ours for a request, the pod's own for an answer wherever it needs
//! no edit.
//!
//! Never touches a body. What a head is changed to is the caller's decision; that hop-by-hop fields end here
//! (RFC 9110 section 7.6.1) is this file's.

use std::{fmt::Display, io::Write, time::SystemTime};

use super::field::{FieldLine, Name, ends_here};
use super::head::{AnswerHead, PSEUDONYM, RequestHead, Version};

/// What the head of an answer says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: HTTP/1.1 connections persist.
    Implied,
    /// `keep-alive`, as an HTTP/1.0 client needs to be told.
    KeepAlive,
    /// `close`: this answer is the connection's last.
    Close,
}

impl Persistence {
    /// The field line to send, with its line end.
    pub fn line(self) -> &'static [u8] {
        match self {
            Self::Implied => b"",
            Self::KeepAlive => b"Connection: keep-alive\r\n",
            Self::Close => b"Connection: close\r\n",
        }
    }

    /// Whether another request may follow on the connection.
    pub fn persists(self) -> bool {
        self != Self::Close
    }
}

/// Writes the request head for the pod: the target in origin-form, cut in any number of parts; the pod's own
/// `Host`; every field that goes on; and `Via` (RFC 9110 section 7.6.3).
///
/// No framing field goes on: the requests that we forward have no body.
pub fn request(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, target: &[&str], host: impl Display) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    target.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    text(out, host);
    out.extend_from_slice(b"\r\n");
    for field in head.fields {
        let framing_or_host = matches!(
            Name::of(field.name),
            Name::Host | Name::ContentLength | Name::TransferEncoding | Name::Trailer
        );
        if !framing_or_host && !ends_here(field.name, head.connection, head.fields) {
            line(out, field);
        }
    }
    let received = if head.version == Version::Http10 { "1.0" } else { "1.1" };
    text(out, format_args!("Via: {received} {PSEUDONYM}\r\n\r\n"));
}

/// How the head of an answer changes on its way to the client.
#[derive(Debug)]
pub struct AnswerEdit {
    /// What it says about the client's connection.
    pub persistence: Persistence,
    /// The chunked coding is taken off on the way, as for an HTTP/1.0 client.
    pub unchunk: bool,
    /// Stands in for the value of `Location`.
    pub location: Option<String>,
    /// When the answer came, where it does not say itself when it was made (RFC 9110 section 6.6.1).
    pub date: Option<SystemTime>,
}

impl AnswerEdit {
    /// Whether the head may go on as it came.
    pub fn is_none(&self, head: &AnswerHead<'_, '_>) -> bool {
        self.persistence == Persistence::Implied
            && !self.unchunk
            && self.location.is_none()
            && self.date.is_none()
            && head.version == Version::Http11
            && head.bytes[STATUS_END..].starts_with(b" ")
            && !head.connection.present
            && !head.fields.iter().any(|field| match Name::of(field.name) {
                Name::HopByHop => true,
                Name::TransferEncoding | Name::ContentLength => without_framing(head.status),
                _ => false,
            })
    }
}

/// Where the status ends: the version and the status are of one length, whichever they are.
const STATUS_END: usize = "HTTP/1.1 200".len();

/// Answers that must not be sent with `Transfer-Encoding` (RFC 9112 section 6.1) or `Content-Length` (RFC 9110
/// section 8.6). A client that believed either would take the next answer for this one's body.
fn without_framing(status: u16) -> bool {
    matches!(status, 100..=199 | 204)
}

/// Writes the head of an answer for the client. The version is ours (RFC 9110 section 6.2); status and reason
/// phrase are the pod's.
pub fn answer(out: &mut Vec<u8>, head: &AnswerHead<'_, '_>, edit: &AnswerEdit) {
    const VERSION: &[u8] = b"HTTP/1.1";
    let status_line = memchr::memchr(b'\n', head.bytes).map_or(head.bytes, |end| &head.bytes[..=end]);
    out.extend_from_slice(VERSION);
    out.extend_from_slice(&status_line[VERSION.len()..STATUS_END]);
    let reason = &status_line[STATUS_END..];
    // RFC 9112 section 4: the space behind the status is sent even where no reason phrase follows.
    if !reason.starts_with(b" ") {
        out.push(b' ');
    }
    out.extend_from_slice(reason);
    for field in head.fields {
        match (Name::of(field.name), &edit.location) {
            (Name::TransferEncoding | Name::Trailer, _) if edit.unchunk => {}
            (Name::TransferEncoding | Name::ContentLength, _) if without_framing(head.status) => {}
            _ if ends_here(field.name, head.connection, head.fields) => {}
            (Name::Location, Some(location)) => {
                line(out, &FieldLine { name: field.name, value: location.as_bytes() });
            }
            _ => line(out, field),
        }
    }
    if let Some(date) = edit.date {
        text(out, format_args!("Date: {}\r\n", httpdate::HttpDate::from(date)));
    }
    out.extend_from_slice(edit.persistence.line());
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, field: &FieldLine<'_>) {
    out.extend_from_slice(field.name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(field.value);
    out.extend_from_slice(b"\r\n");
}

fn text(out: &mut Vec<u8>, text: impl Display) {
    // Writing to a Vec cannot fail, and none of the types written here fails to display itself.
    let _ = write!(out, "{text}");
}
