//! Reads and displays durations in the format of options and logs: `500ms`, `9.5s`, `2m`.

use std::{fmt, time::Duration};

/// The longest duration that an option accepts: a week. Timestamps stay far from overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The units, in descending order, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses whole numbers with their units, `h`, `m`, `s` and `ms` in this order, as Prometheus writes durations.
///
/// # Errors
/// The expected format, to be shown after the value.
#[cold] // 300 bytes less, which keep the static binary without TLS below 1 MiB
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a duration with a unit: 500ms, 3s, 1m30s, 1h (at most 168h)";
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut milliseconds: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at(letters);
        // Continues after this unit, so that no unit is repeated or out of order.
        let (_, factor) = units.find(|(known, _)| *known == unit).ok_or(EXPECTED)?;
        let part = number.checked_mul(*factor).ok_or(EXPECTED)?;
        milliseconds = milliseconds.checked_add(part).ok_or(EXPECTED)?;
        rest = behind;
    }
    let duration = Duration::from_millis(milliseconds);
    if duration <= DURATION_MAX { Ok(duration) } else { Err(EXPECTED) }
}

/// Displays a duration in seconds or milliseconds, rounded to the millisecond, or below one to a tenth: `9.5s`,
/// `900ms`, `0.4ms`.
#[derive(Clone, Copy, Debug)]
pub struct HumanDuration(pub Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(duration) = *self;
        if duration < Duration::from_millis(1) {
            write!(f, "{}ms", (duration.as_secs_f64() * 10_000.0).round() / 10.0)
        } else if duration < Duration::from_secs(1) {
            write!(f, "{}ms", duration.as_millis())
        } else {
            write!(f, "{}s", (duration.as_secs_f64() * 1000.0).round() / 1000.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("0s", Some(0)),
            ("3s", Some(3_000)),
            ("2m", Some(120_000)),
            ("1m30s", Some(90_000)),
            ("1h0m0s", Some(3_600_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("1s500ms", Some(1_500)),
            ("30s1m", None),
            ("1s1s", None),
            ("1m30", None),
            ("1ms1s", None),
            ("167h60m", Some(604_800_000)),
            ("168h1ms", None),
            ("168h", Some(604_800_000)),
            ("169h", None),
            ("18446744073709551615h", None),
            ("3", None),
            ("s", None),
            ("", None),
            ("1.5s", None),
            ("-1s", None),
            ("+1s", None),
            (" 1s", None),
            ("1s ", None),
            ("1 s", None),
            ("1d", None),
        ] {
            assert_eq!(parse(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn durations_are_displayed() {
        for (microseconds, expected) in [
            (0, "0ms"),
            (440, "0.4ms"),
            (1_000, "1ms"),
            (900_000, "900ms"),
            (999_999, "999ms"),
            (1_000_000, "1s"),
            (9_500_000, "9.5s"),
            (12_345_678, "12.346s"),
            (120_000_000, "120s"),
        ] {
            assert_eq!(HumanDuration(Duration::from_micros(microseconds)).to_string(), expected);
        }
    }
}
