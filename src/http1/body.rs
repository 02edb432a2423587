//! Finds the end of a body while its bytes pass through, without storing them. Bytes that are not forwarded are
//! overwritten by those after them.
//!
//! Where RFC 9112 section 7.1 lets a recipient be lenient (bare LF, an empty size), the scanner is strict: forwarded
//! bytes must mean the same to the next recipient. Bytes after a chunk's size are accepted as in Go's client
//! (ESPAsyncWebServer and old Tomcat send white space there) and are not forwarded: extensions mean nothing beyond this
//! hop (section 7.1.1), and parsers disagree on where one ends.

use super::framing::Framing;

/// Maximum length of one chunk's extensions, without their first byte. Without a limit, a pod could send a response
/// that never has any content.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 4 * 1024;
/// Maximum number of digits of a chunk's size: 64 bits hold no more.
pub const SIZE_DIGITS_MAX: u8 = 16;
/// Maximum length of the trailer section: that of a response's head.
pub const TRAILER_BYTES_MAX: u32 = 64 * 1024;

/// Follows one body from its first byte to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyScanner {
    /// The number of bytes that are still to come.
    Length(u64),
    /// Chunked coding.
    Chunked(Chunked),
    /// The body ends with the connection.
    UntilClose,
}

/// The scanner's position in the chunked coding (RFC 9112 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunked {
    /// In the size.
    Size {
        /// The value of the digits read.
        bytes: u64,
        /// The number of digits read, at most [`SIZE_DIGITS_MAX`].
        digits: u8,
    },
    /// After the size, before the line's end. These bytes are not forwarded.
    Extension {
        /// The chunk's size.
        bytes: u64,
        /// The number of bytes read here, without the first.
        extension_bytes: u32,
        /// Only white space has followed the size; `;` or the line's end must come next.
        white: bool,
    },
    /// CR ended the chunk's line; LF must follow.
    SizeLf {
        /// The chunk's size.
        bytes: u64,
    },
    /// In the chunk's data.
    Data {
        /// The number of bytes that are still to come.
        bytes: u64,
    },
    /// The data has ended; CR must follow.
    DataCr,
    /// LF must follow.
    DataLf,
    /// In the trailer section, at the start of a line.
    TrailerLine {
        /// The length of the section so far.
        bytes: u32,
    },
    /// In a trailer field's name; it has at least one character.
    TrailerName {
        /// The length of the section so far.
        bytes: u32,
    },
    /// In a trailer field's value.
    TrailerValue {
        /// The length of the section so far.
        bytes: u32,
    },
    /// CR ended a trailer field; LF must follow.
    TrailerLf {
        /// The length of the section so far.
        bytes: u32,
    },
    /// CR began the last line; LF ends the body.
    LastLf,
    /// The body has ended.
    Ended,
}

/// A run of bytes of the body, all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its length.
    pub bytes: usize,
    /// Its kind.
    pub kind: Kind,
}

/// The kind of a run of bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content.
    Content,
    /// The coding around the content.
    Coding,
    /// Bytes after a chunk's size, which are not forwarded.
    Extension,
}

/// The result of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The number of bytes, from the first, that belong to the body and are valid.
    pub bytes: usize,
    /// What comes after them.
    pub progress: Progress,
}

/// The part of a body that follows the scanned bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More of the body.
    More,
    /// The body ended. Bytes after its end do not belong to it.
    Ended,
    /// An extension, which is not forwarded ([`BodyScanner::sound_to_front`]).
    Extension,
    /// The next byte breaks the coding.
    Broken(BodyError),
}

/// The reason why a body has no valid end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The connection ended before the body did.
    CutShort,
    /// The body breaks the grammar of the chunked coding or exceeds a limit; the text names the place.
    Coding(&'static str),
}

impl BodyScanner {
    /// Returns a scanner before the first byte of a body.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(bytes) => Self::Length(bytes),
            Framing::Chunked => Self::Chunked(Chunked::Size { bytes: 0, digits: 0 }),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Returns whether the body has ended.
    pub fn ended(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Ended))
    }

    /// Returns how many of the next bytes need no scan.
    pub fn opaque_len(&self) -> u64 {
        match self {
            Self::Length(bytes) | Self::Chunked(Chunked::Data { bytes }) => *bytes,
            Self::Chunked(_) => 0,
            Self::UntilClose => u64::MAX,
        }
    }

    /// Advances by `bytes` that were not scanned: at most [`Self::opaque_len`].
    pub fn skip_opaque(&mut self, bytes: u64) -> Scan {
        let bytes = self.content(bytes) as usize;
        Scan { bytes, progress: if self.ended() { Progress::Ended } else { Progress::More } }
    }

    /// Advances over as many of `available` bytes as are content of any value, and returns their number.
    fn content(&mut self, available: u64) -> u64 {
        let taken = available.min(self.opaque_len());
        if let Self::Length(left) | Self::Chunked(Chunked::Data { bytes: left }) = self {
            *left -= taken;
        }
        if *self == Self::Chunked(Chunked::Data { bytes: 0 }) {
            *self = Self::Chunked(Chunked::DataCr);
        }
        taken
    }

    /// Scans `bytes`, up to the first one that is not forwarded.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        self.follow(bytes.len(), |scanner, at| match scanner.whole_chunks(&bytes[at..]) {
            0 if scanner.is_before_extension(bytes[at]) => Err(Progress::Extension),
            0 => scanner.span(&bytes[at..]).map(|span| span.bytes).map_err(Progress::Broken),
            chunks => Ok(chunks),
        })
    }

    /// Scans `bytes`, and moves the content together at their start. Returns its length too.
    pub fn content_to_front(&mut self, bytes: &mut [u8]) -> (Scan, usize) {
        self.gather(bytes, |kind| kind == Kind::Content)
    }

    /// Scans `bytes`, and moves content and coding together at their start: the bytes that are forwarded.
    pub fn sound_to_front(&mut self, bytes: &mut [u8]) -> (Scan, usize) {
        self.gather(bytes, |kind| kind != Kind::Extension)
    }

    /// Scans `bytes`, and moves the runs that `keeps` accepts together at their start.
    fn gather(&mut self, bytes: &mut [u8], keeps: impl Fn(Kind) -> bool) -> (Scan, usize) {
        let mut kept = 0;
        let scanned = self.follow(bytes.len(), |scanner, at| {
            let span = scanner.span(&bytes[at..]).map_err(Progress::Broken)?;
            if keeps(span.kind) {
                bytes.copy_within(at..at + span.bytes, kept);
                kept += span.bytes;
            }
            Ok(span.bytes)
        });
        (scanned, kept)
    }

    /// Advances over `bytes` by one run after another; `run_at` takes each from its start.
    fn follow(
        &mut self,
        bytes: usize,
        mut run_at: impl FnMut(&mut Self, usize) -> Result<usize, Progress>,
    ) -> Scan {
        let mut at = 0;
        while at < bytes && !self.ended() {
            match run_at(self, at) {
                Ok(run) => at += run,
                Err(progress) => return Scan { bytes: at, progress },
            }
        }
        Scan { bytes: at, progress: if self.ended() { Progress::Ended } else { Progress::More } }
    }

    /// Advances over whole chunks at the start of `bytes` and the usual end of a body, and returns their length. The
    /// result is that of [`span`](Self::span), which walks the coding byte by byte.
    fn whole_chunks(&mut self, bytes: &[u8]) -> usize {
        const END: &[u8] = b"0\r\n\r\n";
        let Self::Chunked(state @ Chunked::Size { digits: 0, .. }) = self else { return 0 };
        let mut at = 0;
        while let Some(chunk) = whole_chunk(&bytes[at..]) {
            at += chunk;
        }
        if bytes[at..].starts_with(END) {
            *state = Chunked::Ended;
            at += END.len();
        }
        at
    }

    /// Returns whether `byte`, as the next one, belongs to an extension, which is not forwarded.
    fn is_before_extension(&self, byte: u8) -> bool {
        match self {
            Self::Chunked(Chunked::Size { digits: 1.., .. }) => is_blank(byte) || byte == b';',
            Self::Chunked(Chunked::Extension { .. }) => byte != b'\r',
            _ => false,
        }
    }

    /// Returns the next run of bytes that are all content, all coding or all extension. `bytes` is not empty, and the
    /// body has not ended.
    ///
    /// # Errors
    /// [`BodyError::Coding`] at the first byte that breaks the coding.
    pub fn span(&mut self, bytes: &[u8]) -> Result<Span, BodyError> {
        match self {
            Self::UntilClose | Self::Length(_) | Self::Chunked(Chunked::Data { .. }) => {
                let bytes = self.content(bytes.len() as u64) as usize;
                Ok(Span { bytes, kind: Kind::Content })
            }
            Self::Chunked(_) => {
                let extension = self.is_before_extension(bytes[0]);
                let mut at = 0;
                while at < bytes.len() && self.is_before_extension(bytes[at]) == extension {
                    let Self::Chunked(state) = self else { break };
                    if matches!(state, Chunked::Data { .. } | Chunked::Ended) {
                        break;
                    }
                    match state.step(bytes[at]) {
                        Ok(next) => *state = next,
                        // The valid bytes are returned first; the next call finds the broken one again.
                        Err(_) if at > 0 => break,
                        Err(error) => return Err(error),
                    }
                    at += 1;
                }
                Ok(Span { bytes: at, kind: if extension { Kind::Extension } else { Kind::Coding } })
            }
        }
    }

    /// Checks that the body may end with the connection.
    ///
    /// # Errors
    /// [`BodyError::CutShort`] if the body had not ended.
    pub fn end_of_connection(&self) -> Result<(), BodyError> {
        let whole = self.ended() || *self == Self::UntilClose;
        if whole { Ok(()) } else { Err(BodyError::CutShort) }
    }
}

/// Returns the length of the chunk at the start of `bytes`, from its size to its last line end. Returns `None` if the
/// chunk is incomplete, has extensions or is the last one.
fn whole_chunk(bytes: &[u8]) -> Option<usize> {
    let digits = bytes.iter().take(SIZE_DIGITS_MAX.into()).map_while(|&byte| hex(byte));
    let (digits, size) = digits.fold((0, 0), |(digits, size), digit| (digits + 1, size << 4 | digit));
    let data = bytes[digits..].strip_prefix(b"\r\n")?;
    let behind = data.get(usize::try_from(size).ok()?..)?;
    let rest = behind.strip_prefix(b"\r\n")?;
    (size > 0).then_some(bytes.len() - rest.len())
}

/// Returns the value of a hexadecimal digit.
fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

impl Chunked {
    /// Returns the state after one byte of the coding. Data is never passed here: it is not scanned byte by byte.
    fn step(&self, byte: u8) -> Result<Self, BodyError> {
        let broken = |what| Err(BodyError::Coding(what));
        if let &Self::Size { bytes, digits } = self
            && let Some(digit) = hex(byte)
        {
            return match digits {
                SIZE_DIGITS_MAX => broken("chunk size too large"),
                _ => Ok(Self::Size { bytes: bytes << 4 | digit, digits: digits + 1 }),
            };
        }
        Ok(match (self, byte) {
            (Self::Size { digits: 0, .. }, _) => return broken("chunk size"),
            (&Self::Size { bytes, .. } | &Self::Extension { bytes, .. }, b'\r') => Self::SizeLf { bytes },
            (&Self::Size { bytes, .. }, b';') => Self::Extension { bytes, extension_bytes: 0, white: false },
            (&Self::Size { bytes, .. }, b' ' | b'\t') => {
                Self::Extension { bytes, extension_bytes: 0, white: true }
            }
            (Self::Size { .. }, _) => return broken("chunk size"),
            (&Self::Extension { bytes, extension_bytes, white }, _) => {
                let blank = is_blank(byte);
                if extension_bytes >= CHUNK_EXTENSION_BYTES_MAX {
                    return broken("chunk extension too long");
                }
                if byte == b'\n' || (white && !blank && byte != b';') {
                    return broken("chunk extension");
                }
                Self::Extension { bytes, extension_bytes: extension_bytes + 1, white: white && blank }
            }
            (Self::SizeLf { bytes: 0 }, b'\n') => Self::TrailerLine { bytes: 0 },
            (&Self::SizeLf { bytes }, b'\n') => Self::Data { bytes },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { bytes: 0, digits: 0 },
            (Self::TrailerLine { .. }, b'\r') => Self::LastLf,
            (Self::TrailerLine { bytes } | Self::TrailerName { bytes } | Self::TrailerValue { bytes }, _)
                if *bytes >= TRAILER_BYTES_MAX =>
            {
                return broken("trailer section too long");
            }
            (&Self::TrailerLine { bytes } | &Self::TrailerName { bytes }, _) if is_token(byte) => {
                Self::TrailerName { bytes: bytes + 1 }
            }
            (&Self::TrailerName { bytes }, b':') => Self::TrailerValue { bytes: bytes + 1 },
            (&Self::TrailerValue { bytes }, b'\r') => Self::TrailerLf { bytes: bytes + 1 },
            (&Self::TrailerValue { bytes }, _) if is_text(byte) => Self::TrailerValue { bytes: bytes + 1 },
            (&Self::TrailerLf { bytes }, b'\n') => Self::TrailerLine { bytes: bytes + 1 },
            (Self::LastLf, b'\n') => Self::Ended,
            (Self::DataCr | Self::DataLf, _) => return broken("chunk is longer than its size"),
            (Self::SizeLf { .. } | Self::TrailerLf { .. } | Self::LastLf, _) => return broken("bare CR"),
            (Self::TrailerLine { .. } | Self::TrailerName { .. } | Self::TrailerValue { .. }, _) => {
                return broken("trailer field");
            }
            (Self::Data { .. } | Self::Ended, _) => unreachable!("not walked byte by byte"),
        })
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Returns whether `byte` may be in a field value: any but controls other than HTAB.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Returns whether `byte` is a `tchar` (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
