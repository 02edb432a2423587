//! The formats of a line of the log.

use std::{fmt, str::FromStr};

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `ts=… level=info msg="…" key=value`, as Prometheus writes.
    #[default]
    Logfmt,
    /// `{"ts":"…","level":"info","msg":"…","key":"value"}`.
    Json,
    /// `… INFO  [psystrike] … key=value`, as simple_logger writes.
    Plain,
}

impl LogFormat {
    const ALL: [Self; 3] = [Self::Logfmt, Self::Json, Self::Plain];
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Logfmt => "logfmt",
            Self::Json => "json",
            Self::Plain => "plain",
        })
    }
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let format = Self::ALL.into_iter().find(|format| format.to_string() == text);
        format.ok_or("expected logfmt, json or plain")
    }
}
