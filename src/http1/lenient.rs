//! A second parse of response heads that break the grammar: accepts what Go's client accepts (net/http 1.26, as used by
//! Prometheus), if it is unambiguous, and rewrites it to the grammar.
//!
//! The result is then parsed as strictly as any other head. Only broken heads of pods come here, as this parse is slow.
//! Never reads a body, and never decides how a head is used.

use std::collections::HashSet;

use super::{
    field::{self, Connection, Name},
    head::{RESPONSE_FIELDS_MAX, RESPONSE_HEAD_BYTES_MAX},
};

/// The result of the second parse.
#[derive(Debug, PartialEq, Eq)]
pub enum Lenient {
    /// The head is incomplete, and may become valid.
    Partial,
    /// The head is refused.
    Refused,
    /// The head is unambiguous.
    Head {
        /// The head, rewritten to the grammar.
        bytes: Vec<u8>,
        /// The length of the head in the input.
        length: usize,
    },
}

/// Parses the head at the start of `bytes`. Its lines may end with a bare LF (RFC 9112 section 2.2).
pub fn normalise(bytes: &[u8]) -> Lenient {
    let within = &bytes[..bytes.len().min(RESPONSE_HEAD_BYTES_MAX)];
    if !within.iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected) {
        return Lenient::Refused;
    }
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        let Some(end) = memchr::memchr(b'\n', &within[at..]) else { return Lenient::Partial };
        let line = &within[at..at + end];
        at += end + 1;
        match line.strip_suffix(b"\r").unwrap_or(line) {
            b"" => break,
            // Waiting for more bytes could only turn this refusal into a timeout.
            line if lines.is_empty() && status_line(line).is_none() => return Lenient::Refused,
            // More lines than the strict parse accepts; the limit also keeps each parse of a slowly arriving head
            // short.
            _ if lines.len() > RESPONSE_FIELDS_MAX => return Lenient::Refused,
            line => lines.push(line),
        }
    }
    match head(&lines) {
        Some(bytes) => Lenient::Head { bytes, length: at },
        None => Lenient::Refused,
    }
}

fn head(lines: &[&[u8]]) -> Option<Vec<u8>> {
    let (start, rest) = lines.split_first()?;
    let mut out = status_line(start)?;
    let mut fields = Fields::default();
    for line in joined(rest)? {
        fields.add(line)?;
    }
    fields.write(&mut out);
    Some(out)
}

/// Rewrites `HTTP/1.2  200` to `HTTP/1.1 200 `. A later minor version of HTTP/1 means the same as HTTP/1.1 (RFC 9110
/// section 2.5); the space after the status is required (RFC 9112 section 4).
fn status_line(line: &[u8]) -> Option<Vec<u8>> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first().filter(|(minor, _)| minor.is_ascii_digit())?;
    let rest = rest.strip_prefix(b" ")?;
    let rest = &rest[rest.iter().take_while(|&&byte| byte == b' ').count()..];
    let (status, reason) = rest.split_at_checked(3)?;
    let reason = if reason.is_empty() { reason } else { reason.strip_prefix(b" ")? };
    if !status.iter().all(u8::is_ascii_digit) || reason.contains(&0) {
        return None;
    }
    let version = if *minor == b'0' { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    let (reason, _) = without_controls(reason);
    Some([version, status, b" ", &reason, b"\r\n"].concat())
}

/// A field line, and whether it was folded.
type Line = (Vec<u8>, bool);

/// Unfolds lines, with a space for each fold (RFC 9112 section 5.2). The first line cannot continue another.
fn joined(lines: &[&[u8]]) -> Option<Vec<Line>> {
    let mut joined: Vec<Line> = Vec::new();
    for line in lines {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            let (last, folded) = joined.last_mut()?;
            last.push(b' ');
            last.extend_from_slice(trim(line));
            *folded = true;
        } else {
            joined.push((line.to_vec(), false));
        }
    }
    Some(joined)
}

/// Replaces control bytes in a value with spaces (RFC 9110 section 5.5). Returns whether there were any.
fn without_controls(value: &[u8]) -> (Vec<u8>, bool) {
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    let replaced = value.iter().map(|&byte| if is_control(byte) { b' ' } else { byte }).collect();
    (replaced, value.iter().any(|&byte| is_control(byte)))
}

/// The fields that are forwarded, and the meaning of those that are not.
#[derive(Default)]
struct Fields {
    lines: Vec<(Name, Vec<u8>, Vec<u8>)>,
    length: Option<Vec<u8>>,
    is_coded: bool,
    connection: Connection,
    /// Names listed by `Connection`, in lower case.
    listed: HashSet<Vec<u8>>,
}

impl Fields {
    /// Adds a line; returns `None` if it is ambiguous.
    fn add(&mut self, (line, folded): Line) -> Option<()> {
        let (name, value) = line.split_at(memchr::memchr(b':', &line)?);
        let value = trim(&value[1..]);
        let text = str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        if !text.bytes().all(|byte| is_token(byte) || byte == b' ') || value.contains(&0) {
            return None;
        }
        let is_odd = text.contains(' ');
        let sorted = Name::of(&text.replace(' ', ""));
        let frames = matches!(sorted, Name::ContentLength | Name::TransferEncoding);
        let (value, had_controls) = without_controls(value);
        let value = trim(&value).to_vec();
        match sorted {
            // Framing is never guessed.
            _ if frames && (is_odd || folded || had_controls) => return None,
            // Replacing controls would change the coding.
            _ if had_controls && text.eq_ignore_ascii_case("Content-Encoding") => return None,
            Name::ContentLength if field::digits(&value).is_none() => return None,
            Name::ContentLength => match &self.length {
                Some(length) => return (*length == value).then_some(()), // a repeated field
                None => self.length = Some(value.clone()),
            },
            Name::TransferEncoding => self.is_coded = true,
            Name::Connection => {
                self.connection.add(&value);
                self.listed.extend(field::list(&value).map(<[u8]>::to_ascii_lowercase));
                return Some(());
            }
            // No recipient would confuse it with the field that it resembles.
            _ if is_odd => return Some(()),
            _ => {}
        }
        self.lines.push((sorted, name.to_vec(), value));
        Some(())
    }

    fn write(self, out: &mut Vec<u8>) {
        // RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length, and the connection is then closed.
        let overridden = self.is_coded && self.length.is_some();
        for (sorted, name, value) in &self.lines {
            let keeps = matches!(
                sorted,
                Name::ContentLength | Name::TransferEncoding | Name::Trailer | Name::Content
            );
            let ends_here = !keeps && self.listed.contains(&name.to_ascii_lowercase());
            let is_overridden = overridden && *sorted == Name::ContentLength;
            if !(ends_here || is_overridden) {
                out.extend_from_slice(&[name, &b": "[..], value, b"\r\n"].concat());
            }
        }
        if self.connection.close || overridden {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.connection.keep_alive {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Trims `OWS` (RFC 9110 section 5.6.3): SP and HTAB, and no control byte.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Returns whether `byte` is a `tchar` (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unambiguous_heads_are_rewritten_to_the_grammar() {
        for (came, expected) in [
            ("HTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nA: b\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
            ("HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 \r\n\r\n"),
            ("HTTP/1.1   200  OK\r\n\r\n", "HTTP/1.1 200  OK\r\n\r\n"),
            ("HTTP/1.9 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
            ("HTTP/1.0 200 O\x01K\r\n\r\n", "HTTP/1.0 200 O K\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\t d \r\n\r\n", "HTTP/1.1 200 OK\r\nA: b c d\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nA: \x01b\rc\x7f\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b c\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nAn Odd: x\r\nB : y\r\nC: z\r\n\r\n", "HTTP/1.1 200 OK\r\nC: z\r\n\r\n"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\ncontent-length:3 \r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\nConnection: x-hop, Content-Type\nX-Hop: a\nContent-Type: b\n\n",
                "HTTP/1.1 200 OK\r\nContent-Type: b\r\n\r\n",
            ),
            (
                "HTTP/1.0 200 OK\nConnection: keep-alive\n\n",
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
            ),
        ] {
            for behind in ["", "body", "\r\n"] {
                let all = format!("{came}{behind}");
                let got = normalise(all.as_bytes());
                let expected = Lenient::Head { bytes: expected.into(), length: came.len() };
                assert_eq!(got, expected, "{came:?}");
            }
            for length in 0..came.len() {
                let begun = &came.as_bytes()[..length];
                assert_eq!(normalise(begun), Lenient::Partial, "{length} bytes of {came:?}");
            }
        }
    }

    #[test]
    fn a_head_of_too_many_lines_is_refused_before_it_is_complete() {
        let lines = |count: usize| format!("HTTP/1.1 200 OK\n{}", "a:\n".repeat(count));
        assert_eq!(normalise(lines(RESPONSE_FIELDS_MAX).as_bytes()), Lenient::Partial);
        assert_eq!(normalise(lines(RESPONSE_FIELDS_MAX + 1).as_bytes()), Lenient::Refused);
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for came in [
            "220 smtp.example ready\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1x 200 OK\r\n\r\n",
            "HTTP/1.10 200 OK\r\n\r\n",
            "HTTP/1.1\t200 OK\r\n\r\n",
            "HTTP/1.1 \t200 OK\r\n\r\n",
            "HTTP/1.1 \r200 OK\r\n\r\n",
            "HTTP/1.1 200OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\x01: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\t: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \x013\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\x0c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Encoding: \x01gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chu\x01nked\r\n\r\n",
        ] {
            assert_eq!(normalise(came.as_bytes()), Lenient::Refused, "{came:?}");
        }
    }

    #[test]
    fn an_invalid_status_line_is_refused_before_the_head_ends() {
        for came in ["HTTP/1.1 abc\n", "HTTP/1.1\t200 OK\r\n", "HTTP/1.1 200OK\r\nA: b\r\n"] {
            assert_eq!(normalise(came.as_bytes()), Lenient::Refused, "{came:?}");
        }
    }
}
