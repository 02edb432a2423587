//! The short responses that psystrike itself generates: pages, refusals, failures.
//!
//! Owns their format on the wire. Never decides which one is sent.

use std::{fmt::Display, io::Write, time::SystemTime};

use super::rewrite::Persistence;

/// The media type of all plain text that psystrike generates.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// A response that psystrike generates. The reason phrase must not contain bytes of a peer.
pub struct LocalResponse<'a, R: Display> {
    /// The status code.
    pub status: u16,
    /// The reason phrase. Prometheus shows it on its targets page.
    pub reason: R,
    /// The media type of `body`.
    pub content_type: &'a str,
    /// Further fields, in this order, such as `Allow` for a 405 (RFC 9110 section 15.5.6).
    pub fields: &'a [(&'a str, &'a str)],
    /// The content.
    pub body: &'a [u8],
    /// The persistence of the client's connection.
    pub persistence: Persistence,
    /// The request is a `HEAD`: the content is described but not sent.
    pub to_head: bool,
    /// The time for `Date` (RFC 9110 section 6.6.1).
    pub date: SystemTime,
}

impl<R: Display> LocalResponse<'_, R> {
    /// Appends the response to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { status, reason, content_type, body, .. } = self;
        let date = httpdate::HttpDate::from(self.date);
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {status} {reason}\r\nDate: {date}\r\nContent-Type: {content_type}\r\n");
        let _ = write!(out, "Content-Length: {}\r\nX-Content-Type-Options: nosniff\r\n", body.len());
        for (name, value) in self.fields {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        out.extend_from_slice(self.persistence.line());
        out.extend_from_slice(b"\r\n");
        if !self.to_head {
            out.extend_from_slice(body);
        }
    }
}
