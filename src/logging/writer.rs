//! Writes lines, each in one call and never mixed with parts of another.

use std::{
    fmt::{self, Display},
    io, thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::proxy::log_losses::LogLoss;

/// How long to sleep when poll reports the descriptor writable but a write returns EAGAIN.
const CONTRADICTION: Duration = Duration::from_millis(20);

/// A destination of bytes.
pub(super) trait Sink {
    /// As `write(2)`.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno>;

    /// Waits until something can be written.
    fn wait(&mut self);
}

/// Standard error, without the lock and the panics of std's macros.
pub(super) struct Stderr;

impl Sink for Stderr {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        rustix::io::write(io::stderr(), bytes)
    }

    fn wait(&mut self) {
        poll_stderr(None);
    }
}

/// Writes as much to standard error as it accepts, waiting at most `limit` before each call.
pub(super) fn try_write(mut bytes: &[u8], limit: Duration) {
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    while !bytes.is_empty() && poll_stderr(Some(&limit)) {
        match Stderr.write(bytes) {
            Ok(taken @ 1..) => bytes = &bytes[taken..],
            Err(Errno::INTR) => {}
            _ => break,
        }
    }
}

/// Waits until standard error is writable or failed, or a signal arrives. Returns whether that was in time.
fn poll_stderr(limit: Option<&Timespec>) -> bool {
    let stderr = io::stderr();
    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], limit) != Ok(0)
}

/// Writes complete lines, and counts the lost lines that are not yet logged.
pub(super) struct Writer<S> {
    sink: S,
    /// Whether the last write ended within a line.
    torn: bool,
    buffer: Vec<u8>,
    losses: Losses,
}

/// Lost lines by reason, and the last error.
#[derive(Default)]
pub(super) struct Losses {
    lines: [u64; LogLoss::ALL.len()],
    error: Option<Errno>,
}

impl<S: Sink> Writer<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, torn: false, buffer: Vec::new(), losses: Losses::default() }
    }

    /// Writes a line including its newline, and blocks until it is written. Needs one call, unless the write is short.
    ///
    /// # Errors
    /// As `write(2)`. A part of the line may be written; the next one then starts on a new line.
    pub(super) fn write(&mut self, line: &[u8]) -> Result<(), Errno> {
        self.buffer.clear();
        self.buffer.extend(self.torn.then_some(b'\n'));
        self.buffer.extend(line);
        let mut rest = &self.buffer[..];
        let mut waited = false;
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => return Err(self.failed(Errno::IO)), // unexpected; retrying could loop forever
                Ok(taken) => {
                    self.torn = rest[taken - 1] != b'\n';
                    rest = &rest[taken..];
                    waited = false;
                }
                Err(Errno::INTR) => {}
                // Another process that shares the descriptor made it non-blocking.
                Err(Errno::AGAIN) if !waited => {
                    self.sink.wait();
                    waited = true;
                }
                Err(Errno::AGAIN) => {
                    thread::sleep(CONTRADICTION);
                    waited = false;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn failed(&mut self, error: Errno) -> Errno {
        self.losses.error = Some(error);
        error
    }

    /// Adds to the lost lines.
    pub(super) fn lost(&mut self, why: LogLoss, lines: u64) {
        self.losses.lines[why as usize] += lines;
    }

    /// Returns the message about lost lines, if there are any.
    pub(super) fn losses(&self) -> Option<String> {
        self.losses.lines.iter().any(|lines| *lines > 0).then(|| self.losses.to_string())
    }

    /// Marks the losses as logged.
    pub(super) fn set_logged(&mut self) {
        self.losses = Losses::default();
    }
}

impl Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: u64 = self.lines.iter().sum();
        write!(f, "{lines} log {} lost (", if lines == 1 { "line was" } else { "lines were" })?;
        for (at, why) in LogLoss::ALL.into_iter().enumerate() {
            let blank = if at == 0 { "" } else { " " };
            write!(f, "{blank}{}={}", why.label(), self.lines[why as usize])?;
        }
        self.error.map_or(Ok(()), |error| write!(f, "; write to stderr: {error}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts the number of bytes, or fails with the error, next in `next`; then accepts everything.
    #[derive(Default)]
    struct Script {
        next: Vec<Result<usize, Errno>>,
        written: Vec<u8>,
        calls: usize,
        waits: usize,
    }

    impl Sink for Script {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
            self.calls += 1;
            let takes = if self.next.is_empty() { Ok(bytes.len()) } else { self.next.remove(0) };
            let taken = takes?.min(bytes.len());
            self.written.extend(&bytes[..taken]);
            Ok(taken)
        }

        fn wait(&mut self) {
            self.waits += 1;
        }
    }

    #[test]
    fn a_line_is_one_call_and_is_completed_after_short_writes() {
        use Errno as E;
        // Results of the calls and of the first line; the output after two lines; the number of calls; the number of
        // waits.
        for (next, first, written, calls, waits) in [
            (vec![], Ok(()), "one\ntwo\n", 2, 0),
            (vec![Ok(1), Ok(2)], Ok(()), "one\ntwo\n", 4, 0),
            (vec![Err(E::INTR), Ok(1), Err(E::INTR)], Ok(()), "one\ntwo\n", 5, 0),
            (vec![Err(E::AGAIN)], Ok(()), "one\ntwo\n", 3, 1),
            (vec![Ok(2), Err(E::AGAIN)], Ok(()), "one\ntwo\n", 4, 1),
            (vec![Err(E::AGAIN), Err(E::AGAIN), Err(E::AGAIN)], Ok(()), "one\ntwo\n", 5, 2),
            (vec![Err(E::NOSPC)], Err(E::NOSPC), "two\n", 2, 0),
            (vec![Err(E::PIPE)], Err(E::PIPE), "two\n", 2, 0),
            (vec![Ok(0)], Err(E::IO), "two\n", 2, 0),
            (vec![Ok(2), Err(E::NOSPC)], Err(E::NOSPC), "on\ntwo\n", 3, 0),
            (vec![Err(E::AGAIN), Ok(3), Err(E::IO)], Err(E::IO), "one\ntwo\n", 4, 1),
        ] {
            let case = format!("{next:?}");
            let mut writer = Writer::new(Script { next, ..Script::default() });
            assert_eq!(writer.write(b"one\n"), first, "{case}");
            assert_eq!(writer.write(b"two\n"), Ok(()), "{case}");
            let Script { written: was, calls: were, waits: waited, .. } = writer.sink;
            assert_eq!(
                (String::from_utf8_lossy(&was).as_ref(), were, waited),
                (written, calls, waits),
                "{case}"
            );
        }
    }

    #[test]
    fn failures_after_a_partial_line_add_only_one_newline() {
        let next = vec![Ok(2), Err(Errno::NOSPC), Err(Errno::NOSPC), Ok(1), Err(Errno::NOSPC)];
        let mut writer = Writer::new(Script { next, ..Script::default() });
        let written: Vec<_> = (0..4).map(|_| writer.write(b"line\n").is_ok()).collect();
        assert_eq!(written, [false, false, false, true]);
        assert_eq!(String::from_utf8_lossy(&writer.sink.written), "li\nline\n");
    }

    #[test]
    fn losses_are_reported_by_reason() {
        let mut writer = Writer::new(Script { next: vec![Err(Errno::NOSPC)], ..Script::default() });
        assert_eq!(writer.losses(), None);
        writer.lost(LogLoss::QueueFull, 12);
        assert_eq!(writer.losses().as_deref(), Some("12 log lines were lost (queue_full=12 write_failed=0)"));
        writer.set_logged();
        assert_eq!(writer.losses(), None);
        assert!(writer.write(b"line\n").is_err());
        writer.lost(LogLoss::WriteFailed, 1);
        let message = "1 log line was lost (queue_full=0 write_failed=1; write to stderr: No space left on device \
                       (os error 28))";
        assert_eq!(writer.losses().as_deref(), Some(message));
    }
}
