//! Formats a line of the log into bytes.

use std::{
    fmt::{self, Write},
    time::SystemTime,
};

use log::Level;

use crate::proxy::logged::CUT;

/// Limit of a line's bytes, its end included. A pipe accepts this many in one atomic write (`PIPE_BUF`, POSIX `write`),
/// so lines of processes that share a pipe do not mix.
pub(super) const LINE_BYTES_MAX: usize = 4096;
const END: u8 = b'\n';

/// A whole line. If it is too long, it is cut and ends with [`CUT`].
pub(super) struct Line {
    bytes: [u8; LINE_BYTES_MAX],
    length: usize,
}

impl Line {
    /// Formats the time as in RFC 3339, and the rest as simple_logger does.
    pub(super) fn new(time: SystemTime, level: Level, target: &str, text: fmt::Arguments<'_>) -> Self {
        let mut line = Self { bytes: [0; LINE_BYTES_MAX], length: 0 };
        let time = humantime::format_rfc3339_millis(time);
        if write!(line, "{time} {level:<5} [{target}] {text}").is_err() {
            line.push(CUT.as_bytes());
        }
        line.push(&[END]);
        line
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

impl Write for Line {
    /// Appends the text, but leaves room for the line's end; fails if the text had to be cut.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_BYTES_MAX - CUT.len() - 1 - self.length;
        let fits = &text[..text.floor_char_boundary(room)];
        self.push(fits.as_bytes());
        if fits.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command, time::Duration};

    use log::{LevelFilter, Log, Record};
    use simple_logger::SimpleLogger;

    use super::*;

    const LEVELS: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    fn text(level: Level, target: &str, text: fmt::Arguments<'_>) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        String::from_utf8(Line::new(time, level, target, text).bytes().to_vec()).expect("a line is text")
    }

    #[test]
    fn a_line_has_a_time_a_level_and_a_target() {
        let expected = "2023-11-14T22:13:20.123Z WARN  [psystrike] 12 of é\n";
        assert_eq!(text(Level::Warn, "psystrike", format_args!("{} of é", 12)), expected);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_between_characters_and_marked() {
        let before = text(Level::Info, "access", format_args!("")).len() - 1;
        let whole = LINE_BYTES_MAX - before - "…\n".len();
        for (given, length, end) in [
            ("x".repeat(whole), LINE_BYTES_MAX - 3, "xx\n"),
            ("x".repeat(whole + 1), LINE_BYTES_MAX, "xx…\n"),
            ("x".repeat(70_000), LINE_BYTES_MAX, "xx…\n"),
            ("x".repeat(whole - 1) + "é", LINE_BYTES_MAX - 1, "xx…\n"),
            ("x".repeat(whole - 2) + "éx", LINE_BYTES_MAX, "xé…\n"),
        ] {
            let line = text(Level::Info, "access", format_args!("{given}"));
            assert_eq!(line.len(), length, "{} bytes", given.len());
            assert!(line.ends_with(end) && line.matches('\n').count() == 1, "{} bytes", given.len());
        }
        let parts = text(Level::Info, "access", format_args!("{} and {}", "x".repeat(5000), "more"));
        assert!(parts.ends_with("xx…\n"), "nothing comes after the cut");
    }

    /// Writes lines to stderr, which the next test captures.
    #[test]
    fn simple_logger_writes() {
        let logger = SimpleLogger::new().with_level(LevelFilter::Trace);
        for level in LEVELS {
            let args = format_args!("one {:?}", "two");
            logger.log(&Record::builder().level(level).target("psystrike").args(args).build());
        }
    }

    #[test]
    fn lines_are_those_of_simple_logger_with_the_time_before_them() {
        let name = format!("{}::simple_logger_writes", module_path!().split_once("::").expect("a module").1);
        let mut tests = Command::new(env::current_exe().expect("a test runs from a file"));
        let ran = tests.args([name.as_str(), "--exact", "--nocapture"]).output().expect("it starts");
        let ours = LEVELS.map(|level| text(level, "psystrike", format_args!("one {:?}", "two")));
        let without_time = ours.map(|line| line.split_once(' ').expect("a time").1.to_owned());
        assert_eq!(String::from_utf8_lossy(&ran.stderr), without_time.concat());
    }
}
