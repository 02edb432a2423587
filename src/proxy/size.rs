//! Reads and displays sizes in bytes in the format of options: `512KiB`, `8MiB`, `1048576`.

use std::fmt;

/// The units, in descending order.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
/// The largest size that an option accepts: 1 TiB.
const SIZE_MAX: u64 = 1 << 40;

/// Parses a whole number of bytes, `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// The expected format, to be shown after the value.
pub fn parse(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "expected a size in bytes or with a unit: 512KiB, 8MiB, 1GiB (at most 1024GiB)";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| EXPECTED)?;
    let (_, factor) = UNITS.into_iter().find(|(known, _)| *known == unit).ok_or(EXPECTED)?;
    number.checked_mul(factor).filter(|&bytes| bytes <= SIZE_MAX).ok_or(EXPECTED)
}

/// Displays a size such that [`parse`] returns it: in the largest unit that gives a whole number.
#[derive(Clone, Copy, Debug)]
pub struct Exact(pub u64);

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let fits = UNITS.into_iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
        let (unit, factor) = fits.unwrap_or(("", 1));
        write!(f, "{}{unit}", bytes / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_and_displayed() {
        for (text, expected, written) in [
            ("0", Some(0), "0"),
            ("1", Some(1), "1"),
            ("1048576", Some(1 << 20), "1MiB"),
            ("512KiB", Some(512 << 10), "512KiB"),
            ("1536KiB", Some(1536 << 10), "1536KiB"),
            ("8MiB", Some(8 << 20), "8MiB"),
            ("1024MiB", Some(1 << 30), "1GiB"),
            ("1024GiB", Some(1 << 40), "1024GiB"),
            ("1025GiB", None, ""),
            ("18446744073709551616", None, ""),
            ("18446744073709551615KiB", None, ""),
            ("", None, ""),
            ("MiB", None, ""),
            ("8 MiB", None, ""),
            ("8M", None, ""),
            ("8mib", None, ""),
            ("8MB", None, ""),
            ("1.5MiB", None, ""),
            ("-1", None, ""),
            ("+1", None, ""),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text:?}");
            if let Some(bytes) = expected {
                assert_eq!(Exact(bytes).to_string(), written, "{text:?}");
            }
        }
    }
}
