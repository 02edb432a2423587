//! Reads responses and checks that each has the expected status and is complete. Shares no code with psystrike.

use crate::pods::PERIOD_BYTES;

/// The maximum size of a response header.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Reads responses, one after the other.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The expected status; any other is an error.
    status: u16,
    /// An incomplete header.
    head: Vec<u8>,
    state: State,
    /// The bytes of the body that have arrived.
    body_bytes: u64,
    close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length { left: u64 },
    Size { bytes: u64, digits: u8 },
    SizeLf { bytes: u64 },
    Data { left: u64 },
    EndCr { last: bool },
    EndLf { last: bool },
    Whole,
}

impl Answer {
    /// Before the first byte.
    pub(crate) fn with_status(status: u16) -> Self {
        Self { status, head: Vec::new(), state: State::Head, body_bytes: 0, close: false }
    }

    /// Whether it is complete.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// Whether the connection closes after it.
    pub(crate) fn closes(&self) -> bool {
        self.close
    }

    /// The length of its body.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Waits for the next one.
    pub(crate) fn clear(&mut self) {
        self.head.clear();
        (self.state, self.body_bytes, self.close) = (State::Head, 0, false);
    }

    /// Takes more bytes of it. If `body` is given, compares every byte of the body with it, over and over.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], body: Option<&[u8]>) -> Result<(), String> {
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Head => self.head(bytes)?,
                State::Length { left } | State::Data { left } => {
                    let used = (*left).min(bytes.len() as u64) as usize;
                    *left -= used as u64;
                    if let Some(period) = body {
                        compare(&bytes[..used], self.body_bytes, period)?;
                    }
                    self.body_bytes += used as u64;
                    used
                }
                State::Whole => return Err(format!("{} bytes after the end of a response", bytes.len())),
                coding => {
                    *coding = coding.step(bytes[0])?;
                    1
                }
            };
            self.state = match self.state {
                State::Length { left: 0 } => State::Whole,
                State::Data { left: 0 } => State::EndCr { last: false },
                state => state,
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn head(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let before = self.head.len();
        if before == 0
            && let Some(length) = self.read_head(bytes)?
        {
            return Ok(length);
        }
        self.head.extend_from_slice(bytes);
        let head = std::mem::take(&mut self.head);
        if let Some(length) = self.read_head(&head)? {
            return Ok(length - before);
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err("a response header has no end".to_owned());
        }
        self.head = head;
        Ok(bytes.len())
    }

    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let parsed = head.parse(bytes).map_err(|error| format!("a response header: {error}"))?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        if head.code != Some(self.status) {
            let start = &bytes[..length.min(200)];
            return Err(format!("response status is not {}: {}", self.status, start.escape_ascii()));
        }
        let mut framing = None;
        for field in &*head.headers {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let length = str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
                framing =
                    Some(State::Length { left: length.ok_or("a response has an invalid Content-Length")? });
            } else if is("transfer-encoding") {
                framing = Some(State::Size { bytes: 0, digits: 0 });
            } else if is("connection") {
                self.close = field.value.eq_ignore_ascii_case(b"close");
            }
        }
        self.state = framing.ok_or("a response has neither Content-Length nor Transfer-Encoding")?;
        Ok(Some(length))
    }
}

impl State {
    /// The state after one byte of the chunked coding.
    fn step(self, byte: u8) -> Result<Self, String> {
        Ok(match (self, byte) {
            (Self::Size { bytes, digits: digits @ 0..8 }, _) if byte.is_ascii_hexdigit() => {
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                Self::Size { bytes: bytes * 16 + digit, digits: digits + 1 }
            }
            (Self::Size { bytes, digits: 1.. }, b'\r') => Self::SizeLf { bytes },
            // Pods send no trailers: an empty line follows the size of the last chunk.
            (Self::SizeLf { bytes: 0 }, b'\n') => Self::EndCr { last: true },
            (Self::SizeLf { bytes }, b'\n') => Self::Data { left: bytes },
            (Self::EndCr { last }, b'\r') => Self::EndLf { last },
            (Self::EndLf { last: true }, b'\n') => Self::Whole,
            (Self::EndLf { last: false }, b'\n') => Self::Size { bytes: 0, digits: 0 },
            _ => return Err(format!("invalid chunked coding: {byte:#x} in state {self:?}")),
        })
    }
}

fn compare(bytes: &[u8], offset: u64, period: &[u8]) -> Result<(), String> {
    let mut at = (offset % PERIOD_BYTES as u64) as usize;
    let mut bytes = bytes;
    while !bytes.is_empty() {
        let length = bytes.len().min(period.len() - at);
        if bytes[..length] != period[at..at + length] {
            return Err(format!("a body differs from the pod's after byte {offset}"));
        }
        bytes = &bytes[length..];
        at = 0;
    }
    Ok(())
}
