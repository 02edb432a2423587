//! Determines how a message's body ends, by the rules of RFC 9112 section 6.3. Where it ends is up to [`super::body`].
//!
//! Stricter than the RFC where its rules let a recipient guess. Recipients that guess differently make request
//! smuggling and response splitting possible, so ambiguous framing is refused on both sides.

use super::field::{self, Fields, Name};
use super::head::{RequestHead, ResponseHead, Version};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// All bytes until the sender closes the connection. Only a reset distinguishes a broken connection from the
    /// end of the body.
    UntilClose,
}

/// The reason why a message's framing is refused, as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingError(pub &'static str);

/// The framing fields of one head.
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
                    let bytes = field::digits(field.value).ok_or(FramingError("invalid Content-Length"))?;
                    length = Some(bytes);
                }
                Name::TransferEncoding if chunked => {
                    return Err(FramingError("Transfer-Encoding repeated"));
                }
                // psystrike forwards no `TE`, so the pod may use no other coding.
                Name::TransferEncoding if !field.value.eq_ignore_ascii_case(b"chunked") => {
                    return Err(FramingError("Transfer-Encoding other than chunked"));
                }
                Name::TransferEncoding => chunked = true,
                _ => {}
            }
        }
        if chunked && length.is_some() {
            return Err(FramingError("both Content-Length and Transfer-Encoding"));
        }
        if chunked && version == Version::Http10 {
            return Err(FramingError("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(Self { length, chunked })
    }
}

/// Returns the framing of a request. It is never [`Framing::UntilClose`].
///
/// # Errors
/// [`FramingError`] if the fields contradict themselves or each other.
pub fn of_request(head: &RequestHead<'_, '_>) -> Result<Framing, FramingError> {
    let fields = FramingFields::of(head.version, &head.fields)?;
    Ok(match fields {
        FramingFields { chunked: true, .. } => Framing::Chunked,
        FramingFields { length: Some(bytes @ 1..), .. } => Framing::Length(bytes),
        _ => Framing::Empty,
    })
}

/// Returns the framing of the final response to a request; `to_head` is whether its method was `HEAD`.
///
/// # Errors
/// [`FramingError`] if the fields contradict themselves or each other.
pub fn of_response(head: &ResponseHead<'_, '_>, to_head: bool) -> Result<Framing, FramingError> {
    let fields = FramingFields::of(head.version, &head.fields)?;
    Ok(match fields {
        // Rule 1. The fields describe a body that is not sent.
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
