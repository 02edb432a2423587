//! By what a message's body ends: RFC 9112 section 6.3, rule by rule. Where it does is [`super::body`]'s.
//!
//! Stricter than the RFC wherever it lets a recipient guess. Two readers of one connection that guess
//! differently are how requests are smuggled and answers split, so what is doubtful is refused, on both sides.

use super::field::{self, Fields, Name};
use super::head::{RequestHead, ResponseHead, Version};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// All until the sender closes the connection. A broken connection cannot be told from an end but by a reset.
    UntilClose,
}

/// Why a message's framing cannot be trusted. The text says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingError(pub &'static str);

/// The framing fields of one head, taken together.
struct FramingFields {
    length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    fn of(version: Version, fields: &Fields<'_, '_>) -> Result<Self, FramingError> {
        let mut length = None;
        let mut chunked = false;
        if !fields.has(Name::ContentLength) && !fields.has(Name::TransferEncoding) {
            return Ok(Self { length, chunked });
        }
        for (name, field) in fields.iter() {
            match name {
                Name::ContentLength if length.is_some() => {
                    return Err(FramingError("Content-Length repeated"));
                }
                Name::ContentLength => {
                    let bytes = field::digits(field.value).ok_or(FramingError("Content-Length"))?;
                    length = Some(bytes);
                }
                Name::TransferEncoding if chunked => {
                    return Err(FramingError("Transfer-Encoding repeated"));
                }
                // We offer no other coding (no TE goes out), so no other can be understood on the way.
                Name::TransferEncoding if !field.value.eq_ignore_ascii_case(b"chunked") => {
                    return Err(FramingError("Transfer-Encoding other than chunked"));
                }
                Name::TransferEncoding => chunked = true,
                _ => {}
            }
        }
        if chunked && length.is_some() {
            return Err(FramingError("Content-Length beside Transfer-Encoding"));
        }
        if chunked && version == Version::Http10 {
            return Err(FramingError("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(Self { length, chunked })
    }
}

/// The framing of a request. [`Framing::UntilClose`] is none that a request can have.
///
/// # Errors
/// [`FramingError`] where the fields contradict themselves or each other.
pub fn of_request(head: &RequestHead<'_, '_>) -> Result<Framing, FramingError> {
    let fields = FramingFields::of(head.version, &head.fields)?;
    Ok(match fields {
        FramingFields { chunked: true, .. } => Framing::Chunked,
        FramingFields { length: Some(bytes @ 1..), .. } => Framing::Length(bytes),
        _ => Framing::Empty,
    })
}

/// The framing of the final answer to a request, which was a `HEAD` or not.
///
/// # Errors
/// [`FramingError`] where the fields contradict themselves or each other.
pub fn of_response(head: &ResponseHead<'_, '_>, to_head: bool) -> Result<Framing, FramingError> {
    let fields = FramingFields::of(head.version, &head.fields)?;
    Ok(match fields {
        // Rule 1. Whatever the fields say, they speak of a body that is not sent.
        _ if to_head || matches!(head.status, 100..=199 | 204 | 304) => Framing::Empty,
        // Rule 4.
        FramingFields { chunked: true, .. } => Framing::Chunked,
        // Rule 6.
        FramingFields { length: Some(0), .. } => Framing::Empty,
        FramingFields { length: Some(bytes), .. } => Framing::Length(bytes),
        // Rule 8.
        _ => Framing::UntilClose,
    })
}
