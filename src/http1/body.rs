//! Finds the end of a body while its bytes go by, and keeps none of them. Where some do not go on, those behind them
//! move up.
//!
//! Where RFC 9112 section 7.1 leaves a recipient room (bare LF, an empty size), the scanner takes none: what it lets by
//! must mean the same to whoever reads it next. What a chunk's line holds behind the size is taken as Go's client takes
//! it (ESPAsyncWebServer and old Tomcat send white space there), and left out of what goes on: extensions mean nothing
//! beyond this hop (section 7.1.1), and parsers do not agree on where one ends.

use super::framing::Framing;

/// The longest extensions of one chunk, but for the byte that they begin with. Without a bound, a pod could send a scrape
/// that never has any content.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 4 * 1024;
/// The most digits of a chunk's size: what 64 bits hold.
pub const SIZE_DIGITS_MAX: u8 = 16;
/// The longest trailer section: what a head may be at most.
pub const TRAILER_BYTES_MAX: u32 = 64 * 1024;

/// Follows one body from its first byte to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyScanner {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunked coding.
    Chunked(Chunked),
    /// Only the end of the connection ends it.
    UntilClose,
}

/// Where in the chunked coding the next byte stands (RFC 9112 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunked {
    /// In the size; how many digits there were.
    Size {
        /// What they amount to.
        bytes: u64,
        /// At most [`SIZE_DIGITS_MAX`] of them.
        digits: u8,
    },
    /// Behind the size, before the line's end. What stands here does not go on.
    Extension {
        /// The chunk's size.
        bytes: u64,
        /// How many bytes stand here by now, but for the first.
        extension_bytes: u32,
        /// Only white space stands behind the size yet; `;` or the line's end must follow it.
        white: bool,
    },
    /// CR ended the chunk's line, LF must follow.
    SizeLf {
        /// The chunk's size.
        bytes: u64,
    },
    /// In the chunk's data.
    Data {
        /// How much is still to come.
        bytes: u64,
    },
    /// The data is over, CR must follow.
    DataCr,
    /// LF must follow.
    DataLf,
    /// In the trailer section, at the start of a line.
    TrailerLine {
        /// How long the section is by now.
        bytes: u32,
    },
    /// In a trailer field's name; it has at least one character.
    TrailerName {
        /// How long the section is by now.
        bytes: u32,
    },
    /// In a trailer field's value.
    TrailerValue {
        /// How long the section is by now.
        bytes: u32,
    },
    /// CR ended a trailer field, LF must follow.
    TrailerLf {
        /// How long the section is by now.
        bytes: u32,
    },
    /// CR began the last line, LF ends the body.
    LastLf,
    /// The body is over.
    Ended,
}

/// A run of bytes that belongs to the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// How long it is.
    pub bytes: usize,
    /// What it is.
    pub kind: Kind,
}

/// What a run of bytes of a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content.
    Content,
    /// The coding around it.
    Coding,
    /// What stands behind a chunk's size, which does not go on.
    Extension,
}

/// What became of the bytes that were scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// So many of the first ones belong to the body, and are sound.
    pub bytes: usize,
    /// What comes after them.
    pub progress: Progress,
}

/// What comes after the bytes of a body that are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More of the body.
    More,
    /// The body ended. Bytes behind its end are none of its own.
    Ended,
    /// An extension, which does not go on ([`BodyScanner::sound_to_front`]).
    Extension,
    /// The next byte breaks the coding.
    Broken(BodyError),
}

/// Why a body cannot be followed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The connection ended before the body did.
    CutShort,
    /// Against the grammar of the chunked coding, or over a limit; the text says where.
    Coding(&'static str),
}

impl BodyScanner {
    /// A scanner before the first byte of a body.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(bytes) => Self::Length(bytes),
            Framing::Chunked => Self::Chunked(Chunked::Size { bytes: 0, digits: 0 }),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the body is over.
    pub fn ended(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Ended))
    }

    /// How many of the next bytes need not be looked at.
    pub fn opaque_len(&self) -> u64 {
        match self {
            Self::Length(bytes) | Self::Chunked(Chunked::Data { bytes }) => *bytes,
            Self::Chunked(_) => 0,
            Self::UntilClose => u64::MAX,
        }
    }

    /// Follows the body through so many bytes that nobody looked at: at most [`Self::opaque_len`].
    pub fn skip_opaque(&mut self, bytes: u64) -> Scan {
        let bytes = self.content(bytes) as usize;
        Scan { bytes, progress: if self.ended() { Progress::Ended } else { Progress::More } }
    }

    /// Takes as many of `available` bytes as are content, whatever they are, and says how many.
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

    /// Follows the body through `bytes`, up to the first of them that does not go on.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        self.follow(bytes.len(), |scanner, at| match scanner.whole_chunks(&bytes[at..]) {
            0 if scanner.is_before_extension(bytes[at]) => Err(Progress::Extension),
            0 => scanner.span(&bytes[at..]).map(|span| span.bytes).map_err(Progress::Broken),
            chunks => Ok(chunks),
        })
    }

    /// Follows the body through `bytes`, and moves its content together at their start: so many bytes of it.
    pub fn content_to_front(&mut self, bytes: &mut [u8]) -> (Scan, usize) {
        self.gather(bytes, |kind| kind == Kind::Content)
    }

    /// The same of content and coding: of all that goes on.
    pub fn sound_to_front(&mut self, bytes: &mut [u8]) -> (Scan, usize) {
        self.gather(bytes, |kind| kind != Kind::Extension)
    }

    /// Follows the body through `bytes`, and moves what `keeps` wants together at their start.
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

    /// Takes one run after the other, each from where it begins, through so many bytes.
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

    /// Takes the chunks that are here whole, one behind the other, and the end of most bodies: so many bytes. It
    /// comes to what [`span`](Self::span) does, which walks the coding byte by byte.
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

    /// Whether `byte` is next, and belongs to what does not go on.
    fn is_before_extension(&self, byte: u8) -> bool {
        match self {
            Self::Chunked(Chunked::Size { digits: 1.., .. }) => is_blank(byte) || byte == b';',
            Self::Chunked(Chunked::Extension { .. }) => byte != b'\r',
            _ => false,
        }
    }

    /// The next run of bytes that are all content, all coding, or all extension. `bytes` is not empty and the body is not over.
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
                        // The sound bytes first; the broken one comes up again at the next call.
                        Err(_) if at > 0 => break,
                        Err(error) => return Err(error),
                    }
                    at += 1;
                }
                Ok(Span { bytes: at, kind: if extension { Kind::Extension } else { Kind::Coding } })
            }
        }
    }

    /// What the end of the connection means here.
    ///
    /// # Errors
    /// [`BodyError::CutShort`] where the body was not over.
    pub fn end_of_connection(&self) -> Result<(), BodyError> {
        let whole = self.ended() || *self == Self::UntilClose;
        if whole { Ok(()) } else { Err(BodyError::CutShort) }
    }
}

/// The length of the chunk at the start of `bytes`, from its size to its last line end. None if not all of it is
/// here, if it has extensions, or if it is the last one.
fn whole_chunk(bytes: &[u8]) -> Option<usize> {
    let digits = bytes.iter().take(SIZE_DIGITS_MAX.into()).map_while(|&byte| hex(byte));
    let (digits, size) = digits.fold((0, 0), |(digits, size), digit| (digits + 1, size << 4 | digit));
    let data = bytes[digits..].strip_prefix(b"\r\n")?;
    let behind = data.get(usize::try_from(size).ok()?..)?;
    let rest = behind.strip_prefix(b"\r\n")?;
    (size > 0).then_some(bytes.len() - rest.len())
}

/// What a hexadecimal digit stands for.
fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

impl Chunked {
    /// The state behind one byte of the coding. Data is not walked byte by byte and never comes here.
    fn step(&self, byte: u8) -> Result<Self, BodyError> {
        let broken = |what| Err(BodyError::Coding(what));
        Ok(match (self, byte) {
            (&Self::Size { bytes, digits }, _) if let Some(digit) = hex(byte) => {
                if digits == SIZE_DIGITS_MAX {
                    return broken("chunk size too large");
                }
                Self::Size { bytes: bytes << 4 | digit, digits: digits + 1 }
            }
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

/// A byte of a field value: no control but HTAB.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `tchar` (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
