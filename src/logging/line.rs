//! Formats a line of the log into bytes.

use std::{
    fmt::{self, Write},
    time::SystemTime,
};

use log::{
    Level,
    kv::{Error, Key, Source, Value, VisitSource},
};

use super::format::LogFormat;
use crate::proxy::logged::{CUT, prefix};

/// Limit of a line's bytes, its end included. A pipe accepts this many in one atomic write (`PIPE_BUF`, POSIX `write`),
/// so lines of processes that share a pipe do not mix.
pub(super) const LINE_BYTES_MAX: usize = 4096;
const END: u8 = b'\n';
/// Room for the mark of a cut or of missing fields, and for what closes a value and a line.
const TAIL_BYTES: usize = CUT.len() + "\",\"\":true}\n".len();

/// A complete line. If it is too long, either the value that does not fit is cut, ends with [`CUT`] and is the last
/// one, or [`CUT`] replaces the fields that do not fit. The line remains valid in its format.
pub(super) struct Line {
    bytes: [u8; LINE_BYTES_MAX],
    length: usize,
    format: LogFormat,
    is_cut: bool,
}

/// The content of a line.
pub(super) struct Entry<'e> {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    /// Shown only in [`LogFormat::Plain`].
    pub(super) target: &'e str,
    pub(super) message: fmt::Arguments<'e>,
    pub(super) fields: &'e dyn Source,
}

impl Line {
    /// Formats the time as in RFC 3339.
    pub(super) fn new(format: LogFormat, entry: &Entry<'_>) -> Self {
        let mut line = Self { bytes: [0; LINE_BYTES_MAX], length: 0, format, is_cut: false };
        let Entry { time, level, target, message, fields } = entry;
        let time = humantime::format_rfc3339_millis(*time);
        // None of these is long.
        let _ = match format {
            LogFormat::Logfmt => write!(line, "ts={time} level={}", lower_case(*level)),
            LogFormat::Json => write!(line, "{{\"ts\":\"{time}\",\"level\":\"{}\"", lower_case(*level)),
            LogFormat::Plain => write!(line, "{time} {level:<5} [{target}] "),
        };
        match format {
            LogFormat::Plain => {
                line.is_cut = write!(line, "{message}").is_err();
                line.push(if line.is_cut { CUT.as_bytes() } else { b"" });
            }
            LogFormat::Logfmt | LogFormat::Json => line.field("msg", &message.to_string(), true),
        }
        let _ = fields.visit(&mut Fields(&mut line)); // no field fails
        line.push(if format == LogFormat::Json { b"}\n" } else { &[END] });
        line
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn room(&self) -> usize {
        (LINE_BYTES_MAX - TAIL_BYTES).saturating_sub(self.length)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Appends a field, with its value in quotes if necessary.
    fn field(&mut self, key: &str, value: &str, is_text: bool) {
        let is_json = self.format == LogFormat::Json;
        if self.is_cut {
            return;
        }
        if self.room() < key.len() + ",\"\":\"".len() {
            self.is_cut = true;
            let mark = if is_json { format!(",\"{CUT}\":true") } else { format!(" {CUT}") };
            return self.push(mark.as_bytes());
        }
        let (before, between) = if is_json { (",\"", "\":") } else { (" ", "=") };
        [before, key, between].iter().for_each(|part| self.push(part.as_bytes()));
        let quoted = if is_json { is_text } else { !is_bare(value) };
        if quoted {
            self.push(b"\"");
        }
        self.is_cut = write!(Escaped(self), "{value}").is_err();
        if self.is_cut {
            self.push(CUT.as_bytes());
        }
        if quoted {
            self.push(b"\"");
        }
    }
}

/// Returns whether logfmt needs no quotes around a value.
fn is_bare(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'))
}

/// Returns whether a text is a JSON number without sign and exponent.
fn is_decimal(text: &str) -> bool {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(part) && (whole == "0" || !whole.starts_with('0'))
}

fn lower_case(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

impl Write for Line {
    /// Appends the text, but leaves room for the line's end; fails if the text had to be cut.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = prefix(text, self.room());
        self.push(fits.as_bytes());
        if fits.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Writes into a quoted value. JSON's escapes (RFC 8259 section 7) are those of logfmt too.
struct Escaped<'l>(&'l mut Line);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(|letter: char| letter.is_control() || matches!(letter, '"' | '\\')) {
            let last = part.chars().next_back().unwrap_or_default();
            let escape = match last {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                _ if last.is_control() => &*format!("\\u{:04x}", u32::from(last)),
                _ => "",
            };
            if escape.is_empty() {
                self.0.write_str(part)?;
                continue;
            }
            self.0.write_str(&part[..part.len() - last.len_utf8()])?;
            // An escape is never cut.
            if self.0.room() < escape.len() {
                return Err(fmt::Error);
            }
            self.0.write_str(escape)?;
        }
        Ok(())
    }
}

/// Appends fields to a line.
struct Fields<'l>(&'l mut Line);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if let Some(text) = value.to_borrowed_str() {
            self.0.field(key.as_str(), text, true);
            return Ok(());
        }
        // A number, or a value that is displayed as one.
        let text = value.to_string();
        self.0.field(key.as_str(), &text, !is_decimal(&text));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command, time::Duration};

    use log::{LevelFilter, Log, Record};
    use serde_json::json;
    use simple_logger::SimpleLogger;

    use super::*;

    const LEVELS: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
    const FORMATS: [LogFormat; 3] = [LogFormat::Logfmt, LogFormat::Json, LogFormat::Plain];

    fn text(format: LogFormat, level: Level, message: &str, fields: &dyn Source) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let entry = Entry { time, level, target: "psystrike", message: format_args!("{message}"), fields };
        String::from_utf8(Line::new(format, &entry).bytes().to_vec()).expect("a line is text")
    }

    #[test]
    fn a_line_has_a_time_a_level_a_message_and_fields() {
        let request = "GET /a b=\"é\"\n";
        let fields: [(&str, Value<'_>); 4] = [
            ("pod", "10.1.2.3:80".into()),
            ("status", 200u16.into()),
            ("duration_seconds", 0.5f64.into()),
            ("request", request.into()),
        ];
        for (format, expected) in [
            (
                LogFormat::Logfmt,
                concat!(
                    r#"ts=2023-11-14T22:13:20.123Z level=warn msg="12 of é" pod=10.1.2.3:80"#,
                    r#" status=200 duration_seconds=0.5 request="GET /a b=\"é\"\n""#
                ),
            ),
            (
                LogFormat::Json,
                concat!(
                    r#"{"ts":"2023-11-14T22:13:20.123Z","level":"warn","msg":"12 of é","#,
                    r#""pod":"10.1.2.3:80","status":200,"duration_seconds":0.5,"request":"GET /a b=\"é\"\n"}"#
                ),
            ),
            (
                LogFormat::Plain,
                concat!(
                    r#"2023-11-14T22:13:20.123Z WARN  [psystrike] 12 of é pod=10.1.2.3:80"#,
                    r#" status=200 duration_seconds=0.5 request="GET /a b=\"é\"\n""#
                ),
            ),
        ] {
            assert_eq!(text(format, Level::Warn, "12 of é", &fields), format!("{expected}\n"));
        }
    }

    #[test]
    fn values_are_quoted_if_necessary() {
        for (value, expected) in [
            ("", "\"\""),
            ("a", "a"),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("é", "\"é\""),
            ("\\", r#""\\""#),
            ("\u{1}\t\r\u{85}", r#""\u0001\t\r\u0085""#),
        ] {
            let line = text(LogFormat::Logfmt, Level::Info, "m", &[("v", value)]);
            assert!(line.ends_with(&format!(" msg=m v={expected}\n")), "{value:?}: {line}");
            let line = text(LogFormat::Json, Level::Info, value, &[("v", value)]);
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&parsed["msg"], &parsed["v"]), (&json!(value), &json!(value)), "{line}");
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_closed() {
        // With the bytes that each takes.
        let letters = [("x", 1), ("é", 2), ("\"", 2), ("\u{1}", 6)];
        let cases = FORMATS.into_iter().flat_map(|format| letters.map(|letter| (format, letter)));
        for (format, (letter, bytes)) in cases {
            for length in (3900 / bytes..=4100 / bytes).chain([70_000]) {
                let value = letter.repeat(length);
                let fields = [("first", value.as_str()), ("second", "more")];
                let line = text(format, Level::Info, "m", &fields);
                assert!(line.len() <= LINE_BYTES_MAX, "{format} {length} of {letter:?}: {}", line.len());
                assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{format}: {line}");
                let is_cut = line.contains(CUT);
                assert!(is_cut || line.contains("second"), "{format}: what is missing is marked: {line}");
                if format == LogFormat::Json {
                    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
                    let first = parsed["first"].as_str().unwrap();
                    assert!(value.starts_with(first.trim_end_matches(CUT)), "{line}");
                }
            }
        }
        let long = text(LogFormat::Logfmt, Level::Info, &"x ".repeat(35_000), &[("pod", "p")]);
        assert!(long.ends_with("x…\"\n") || long.ends_with("x …\"\n") && !long.contains("pod"), "{long}");
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
    fn plain_lines_equal_those_of_simple_logger_after_the_time() {
        let name = format!("{}::simple_logger_writes", module_path!().split_once("::").expect("a module").1);
        let mut tests = Command::new(env::current_exe().expect("a test runs from a file"));
        let ran = tests.args([name.as_str(), "--exact", "--nocapture"]).output().expect("it starts");
        let none: [(&str, &str); 0] = [];
        let ours = LEVELS.map(|level| text(LogFormat::Plain, level, "one \"two\"", &none));
        let without_time = ours.map(|line| line.split_once(' ').expect("a time").1.to_owned());
        assert_eq!(String::from_utf8_lossy(&ran.stderr), without_time.concat());
    }
}
