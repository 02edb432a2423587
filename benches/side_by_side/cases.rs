//! The bodies that are scraped.

use std::{fmt, str::FromStr};

/// A body that pods serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) bytes: u64,
    pub(crate) framing: Framing,
}

/// How a pod sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Framing {
    /// With `Content-Length`, in one write.
    Length,
    /// In chunks of 4 KiB, in one write.
    Chunked,
    /// In chunks of 2 KiB and writes of 4 KiB, as Go's net/http sends a page that it compresses
    /// ([`crate::pods::GO_WRITE_BYTES`]).
    NetHttp,
    /// With `Content-Length`, in writes as large as the TLS records of Go's server ([`crate::pods::RECORD_BYTES`]).
    Records,
}

/// A length-delimited body.
pub(crate) const fn length(kib: u64) -> Body {
    Body { bytes: kib * 1024, framing: Framing::Length }
}

/// A body in chunks of 4 KiB.
pub(crate) const fn chunked(kib: u64) -> Body {
    Body { bytes: kib * 1024, framing: Framing::Chunked }
}

/// A body as Go's net/http sends it.
pub(crate) const fn net_http(kib: u64) -> Body {
    Body { bytes: kib * 1024, framing: Framing::NetHttp }
}

/// A body in writes as large as TLS records.
pub(crate) const fn records(kib: u64) -> Body {
    Body { bytes: kib * 1024, framing: Framing::Records }
}

/// The body of a paced load.
pub(crate) const PACED: Body = net_http(16);

/// All of the processor part.
pub(crate) const ALL: [Body; 10] = [
    length(1),
    length(16),
    length(64),
    length(256),
    length(1024),
    chunked(16),
    chunked(256),
    net_http(16),
    net_http(256),
    net_http(1024),
];

impl Body {
    /// The path at which pods serve it.
    pub(crate) fn path(self) -> String {
        format!("/{}/{}", self.framing.name(), self.bytes)
    }
}

impl Framing {
    const ALL: [Self; 4] = [Self::Length, Self::Chunked, Self::NetHttp, Self::Records];

    /// Its name in paths and on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Chunked => "chunked",
            Self::NetHttp => "net-http",
            Self::Records => "records",
        }
    }

    /// Its name in tables.
    fn title(self) -> &'static str {
        match self {
            Self::NetHttp => "net/http",
            framing => framing.name(),
        }
    }
}

impl FromStr for Framing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let framing = Self::ALL.into_iter().find(|framing| framing.name() == text);
        framing.ok_or_else(|| format!("unknown framing {text:?}"))
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes / 1024 {
            kib @ 1024.. if kib % 1024 == 0 => write!(f, "{} MiB", kib / 1024)?,
            kib => write!(f, "{kib} KiB")?,
        }
        write!(f, ", {}", self.framing.title())
    }
}

impl FromStr for Body {
    type Err = String;

    /// `16k` and `1m` have a length; `16k-chunked`, `16k-net-http` and `16k-records` have another framing.
    fn from_str(text: &str) -> Result<Self, String> {
        let (size, framing) = text.split_once('-').unwrap_or((text, Framing::Length.name()));
        let framing = framing.parse()?;
        let wrong = || format!("invalid body {text:?}; expected 16k, 1m or 16k-chunked, for example");
        let (digits, factor) = match size.split_at_checked(size.len().saturating_sub(1)) {
            Some((digits, "k")) => (digits, 1024),
            Some((digits, "m")) => (digits, 1024 * 1024),
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        Ok(Self { bytes: number.min(1024) * factor, framing })
    }
}
