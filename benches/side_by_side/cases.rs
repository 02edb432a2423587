//! What is scraped: the bodies that the figures are taken with.

use std::{fmt, str::FromStr};

/// A body that pods have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) bytes: u64,
    pub(crate) chunked: bool,
}

/// A length-delimited body.
pub(crate) const fn length(kib: u64) -> Body {
    Body { bytes: kib * 1024, chunked: false }
}

/// A body in chunks of 4 KiB.
pub(crate) const fn chunked(kib: u64) -> Body {
    Body { bytes: kib * 1024, chunked: true }
}

/// All of them.
pub(crate) const ALL: [Body; 7] =
    [length(1), length(16), length(64), length(256), length(1024), chunked(16), chunked(256)];

impl Body {
    /// Where pods have it.
    pub(crate) fn path(self) -> String {
        let framing = if self.chunked { "chunked" } else { "length" };
        format!("/{framing}/{}", self.bytes)
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes / 1024 {
            kib @ 1024.. if kib % 1024 == 0 => write!(f, "{} MiB", kib / 1024)?,
            kib => write!(f, "{kib} KiB")?,
        }
        f.write_str(if self.chunked { ", chunked" } else { ", length" })
    }
}

impl FromStr for Body {
    type Err = String;

    /// `16k` and `1m` have a length; `16k-chunked` is chunked.
    fn from_str(text: &str) -> Result<Self, String> {
        let (size, chunked) = match text.strip_suffix("-chunked") {
            Some(size) => (size, true),
            None => (text, false),
        };
        let wrong = || format!("{text:?}: a body is written 16k, 1m or 16k-chunked");
        let (digits, factor) = match size.split_at_checked(size.len().saturating_sub(1)) {
            Some((digits, "k")) => (digits, 1024),
            Some((digits, "m")) => (digits, 1024 * 1024),
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        Ok(Self { bytes: number.min(1024) * factor, chunked })
    }
}
