//! How much of a request is logged.

use std::fmt::{self, Display, Write};

/// The most of a request's method and target in the access log, in bytes. With every byte of it escaped, a line is
/// still within what a pipe takes at once (`PIPE_BUF`, 4096 bytes).
pub const REQUEST_BYTES_MAX: usize = 1800;
/// Stands where text was cut.
pub const CUT: &str = "…";

/// The first `most` bytes of a text, less what is left of a character that does not fit; what is missing is marked.
pub fn cut(text: impl Display, most: usize) -> String {
    let mut cut = Cut { text: String::new(), most };
    if write!(cut, "{text}").is_err() {
        cut.text.push_str(CUT);
    }
    cut.text
}

struct Cut {
    text: String,
    most: usize,
}

impl Write for Cut {
    /// Takes what fits; fails where that is not all.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(self.most - self.text.len());
        self.text.push_str(&text[..fits]);
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_marked() {
        for (text, most, expected) in [
            ("", 0, ""),
            ("abc", 3, "abc"),
            ("abc", 2, "ab…"),
            ("abc", 0, "…"),
            ("aé", 3, "aé"),
            ("aéb", 2, "a…"),
            ("aéb", 3, "aé…"),
        ] {
            assert_eq!(cut(text, most), expected, "{text:?}, {most}");
        }
    }

    #[test]
    fn of_several_parts_none_comes_after_the_cut() {
        let parts = |most| cut(format_args!("{} {}?{}", "GET", "/path", "a"), most);
        assert_eq!(parts(11), "GET /path?a");
        assert_eq!(parts(10), "GET /path?…");
        assert_eq!(parts(6), "GET /p…");
        assert_eq!(parts(2), "GE…");
    }
}
