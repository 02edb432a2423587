//! The small answers of our own: pages, refusals, failures.
//!
//! Owns how they look on the wire. Never decides which one is due.

use std::{fmt::Display, io::Write, time::SystemTime};

use super::rewrite::Persistence;

/// The media type of everything we say in words.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// An answer of our own. Everything in it is ours: nothing a peer sent may stand in the reason phrase.
pub struct LocalResponse<'a, R: Display> {
    /// The status code.
    pub status: u16,
    /// The reason phrase. Prometheus shows it on its targets page.
    pub reason: R,
    /// The media type of `body`.
    pub content_type: &'a str,
    /// Further fields, in this order: `Allow` for a 405 (RFC 9110 section 15.5.6), and the like.
    pub fields: &'a [(&'a str, &'a str)],
    /// The content.
    pub body: &'a [u8],
    /// What is said about the client's connection.
    pub persistence: Persistence,
    /// It answers a `HEAD`: the body is described and not sent.
    pub to_head: bool,
    /// When it is sent (RFC 9110 section 6.6.1).
    pub date: SystemTime,
}

impl<R: Display> LocalResponse<'_, R> {
    /// Appends the answer to `out`.
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
