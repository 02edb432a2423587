//! Limits how much of a request is logged.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use crate::http1::head::Target;

/// Maximum number of bytes of a request's method and target in the access log. Even if every byte is escaped, a line
/// fits into one atomic write to a pipe (`PIPE_BUF`, 4096 bytes).
pub const REQUEST_BYTES_MAX: usize = 1800;
/// Marks the place where text was cut.
pub const CUT: &str = "…";

/// The usual maximum length; longer requests cost another allocation.
const REQUEST_BYTES_USUAL: usize = 128;

/// Returns a request's method and target, cut to [`REQUEST_BYTES_MAX`] and marked if they are longer.
/// Userinfo in a target, which may hold a password, is replaced by a mark too.
pub fn request(method: &str, target: Target<'_>) -> String {
    let mut cut = Cut { text: String::with_capacity(REQUEST_BYTES_USUAL), most: REQUEST_BYTES_MAX };
    let around = match target {
        Target::Absolute(text) | Target::Other(text) => around_userinfo(text),
        // Clients that write a URL without its scheme.
        Target::Origin { path, .. } => {
            let around = path.strip_prefix("//").and_then(around_userinfo);
            around.filter(|(before, _)| before.is_empty()).map(|(_, after)| ("//", after))
        }
    };
    let written = match (around, target) {
        (Some((before, after)), Target::Origin { query: Some(query), .. }) => {
            write!(cut, "{method} {before}{CUT}{after}?{query}")
        }
        (Some((before, after)), _) => write!(cut, "{method} {before}{CUT}{after}"),
        (None, target) => write!(cut, "{method} {target}"),
    };
    if written.is_err() {
        cut.text.push_str(CUT);
    }
    cut.text
}

/// Splits a target around its userinfo (RFC 3986 section 3.2.1), if it has one: `http://`, and `@` with the rest. If
/// a password contains a `/` or a `?`, the authority before it is invalid; all up to the last `@` then counts as
/// userinfo.
fn around_userinfo(target: &str) -> Option<(&str, &str)> {
    let scheme = target.split_once("://").map(|(scheme, _)| scheme);
    let scheme = scheme.filter(|scheme| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let start = scheme.map_or(0, |scheme| scheme.len() + "://".len());
    let authority = target[start..].split(['/', '?']).next()?;
    let end = match authority.rfind('@') {
        Some(at) => at,
        None if is_host_and_port(authority) => return None,
        None => target[start..].rfind('@')?,
    };
    Some((&target[..start], &target[start + end..]))
}

/// Returns whether an authority looks like one without userinfo.
fn is_host_and_port(authority: &str) -> bool {
    let port = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((_, port))) => port.strip_prefix(':'),
        Some(None) => return false,
        None => authority.split_once(':').map(|(_, port)| port),
    };
    !authority.is_empty() && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns at most the first `most` bytes of a text, cut between characters and marked if it is longer.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.len() <= most {
        true => text.into(),
        false => format!("{}{CUT}", prefix(text, most)).into(),
    }
}

/// Returns at most the first `most` bytes of a text, cut between characters.
pub fn prefix(text: &str, most: usize) -> &str {
    // `str::floor_char_boundary` requires Rust 1.91.
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

struct Cut {
    text: String,
    most: usize,
}

impl Write for Cut {
    /// Appends the part that fits; fails if the rest is cut.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = prefix(text, self.most - self.text.len());
        self.text.push_str(fits);
        if fits.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
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
    fn a_long_request_ends_with_the_cut() {
        assert_eq!(request("GET", Target::Other("/path")), "GET /path");
        let whole = "x".repeat(REQUEST_BYTES_MAX - 4);
        for (path, query, expected) in [
            (&whole[..whole.len() - 2], "a", format!("GET {}?a", &whole[2..])),
            (&whole[..whole.len() - 2], "ab", format!("GET {}?a…", &whole[2..])),
            (&whole, "a", format!("GET {whole}…")),
            (&whole[1..], "é", format!("GET {}?…", &whole[1..])),
            (&whole[3..], "éé", format!("GET {}?é…", &whole[3..])),
        ] {
            assert_eq!(request("GET", Target::Origin { path, query: Some(query) }), expected);
        }
        assert_eq!(request(&"M".repeat(9000), Target::Other("/")).len(), REQUEST_BYTES_MAX + CUT.len());
    }

    #[test]
    fn no_password_is_logged() {
        for (target, expected) in [
            (Target::Absolute("http://user:password@10.1.2.3/m?a=b@c"), "http://…@10.1.2.3/m?a=b@c"),
            (Target::Absolute("http://a@b:c@10.1.2.3"), "http://…@10.1.2.3"),
            (Target::Absolute("http://10.1.2.3/a@b"), "http://10.1.2.3/a@b"),
            (Target::Absolute("http://10.1.2.3?a@b"), "http://10.1.2.3?a@b"),
            (Target::Other("user:password@10.1.2.3:443"), "…@10.1.2.3:443"),
            (Target::Other("10.1.2.3:443"), "10.1.2.3:443"),
            (Target::Absolute("http://[::1]:80/a@b"), "http://[::1]:80/a@b"),
            (Target::Absolute("http://pod/a@b:c"), "http://pod/a@b:c"),
            // Passwords with a / or a ? in them, and invalid URLs.
            (Target::Absolute("https://user:pass/word@10.1.2.3/m"), "https://…@10.1.2.3/m"),
            (Target::Absolute("http://user:pass?word@10.1.2.3/m"), "http://…@10.1.2.3/m"),
            (Target::Absolute("http:///user:password@10.1.2.3"), "http://…@10.1.2.3"),
            (Target::Absolute("http://[user:pass/word@10.1.2.3"), "http://…@10.1.2.3"),
            (Target::Other("user:pass/word@10.1.2.3:443"), "…@10.1.2.3:443"),
            (Target::Other("user:pass://word@10.1.2.3"), "…@10.1.2.3"),
            (Target::Other("/user:password@10.1.2.3"), "…@10.1.2.3"),
            (Target::Origin { path: "//user:password@10.1.2.3/m", query: Some("a") }, "//…@10.1.2.3/m?a"),
            (Target::Origin { path: "//a/b@c", query: None }, "//a/b@c"),
        ] {
            assert_eq!(request("GET", target), format!("GET {expected}"));
        }
    }
}
