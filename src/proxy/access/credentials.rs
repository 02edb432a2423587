//! Parses the credentials of a request (RFC 9110 section 11.4).
//!
//! Owns the grammar of `Authorization` and `Proxy-Authorization`, as far as psystrike understands it. Never decides
//! whether credentials are accepted.

use std::fmt;

use base64ct::{Base64Unpadded, Encoding};

use super::tokens::SECRET_BYTES_MAX;

/// Maximum length of a decoded user name and password, with the colon between them.
pub const DECODED_BYTES_MAX: usize = SECRET_BYTES_MAX + 512;

/// The credentials of a request. `Debug` shows none of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credentials<'b> {
    /// `Bearer` (RFC 6750 section 2.1).
    Bearer(&'b [u8]),
    /// `Basic` (RFC 7617).
    Basic {
        /// The user name.
        user: &'b [u8],
        /// The password.
        password: &'b [u8],
    },
}

impl<'b> Credentials<'b> {
    /// Parses the value of a header. `buffer` is for decoded bytes.
    ///
    /// # Errors
    /// The fault. It has no part of the value.
    pub fn parse(value: &'b [u8], buffer: &'b mut [u8; DECODED_BYTES_MAX]) -> Result<Self, &'static str> {
        let (scheme, rest) = split_scheme(value);
        if scheme.eq_ignore_ascii_case(b"Bearer") {
            return if rest.is_empty() { Err("no token after Bearer") } else { Ok(Self::Bearer(rest)) };
        }
        if !scheme.eq_ignore_ascii_case(b"Basic") {
            return Err("neither Bearer nor Basic");
        }
        let digits = rest.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
        let decoded =
            Base64Unpadded::decode(&rest[..digits], buffer).map_err(|_| "malformed Basic credentials")?;
        // RFC 7617 section 2: a user name has no colon, a password may have some.
        let colon = decoded.iter().position(|&byte| byte == b':').ok_or("malformed Basic credentials")?;
        Ok(Self::Basic { user: &decoded[..colon], password: &decoded[colon + 1..] })
    }

    /// Returns the secret: the token, or the password of any user.
    pub fn secret(self) -> &'b [u8] {
        match self {
            Self::Bearer(secret) | Self::Basic { password: secret, .. } => secret,
        }
    }
}

/// Splits the value of a header into the name of the scheme and what follows it.
pub fn split_scheme(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    (scheme, rest.trim_ascii())
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(..)",
            Self::Basic { .. } => "Basic(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_are_parsed_and_no_others() {
        const MALFORMED: Result<(&[u8], &[u8]), &str> = Err("malformed Basic credentials");
        const NO_TOKEN: Result<(&[u8], &[u8]), &str> = Err("no token after Bearer");
        const OTHER: Result<(&[u8], &[u8]), &str> = Err("neither Bearer nor Basic");
        let long = format!("Basic {}", "AAAA".repeat(DECODED_BYTES_MAX / 3 + 1));
        for (value, expected) in [
            ("Bearer abc", Ok((&b""[..], &b"abc"[..]))),
            ("bearer abc", Ok((b"", b"abc"))),
            ("BEARER   a=b~ ", Ok((b"", b"a=b~"))),
            ("Bearer a b", Ok((b"", b"a b"))),
            ("Bearer", NO_TOKEN),
            ("Bearer ", NO_TOKEN),
            ("Basic dTpw", Ok((b"u", b"p"))),
            ("basic  dTpw", Ok((b"u", b"p"))),
            ("Basic dTpwOnE=", Ok((b"u", b"p:q"))),
            ("Basic dTpwOnE", Ok((b"u", b"p:q"))),
            ("Basic OnA=", Ok((b"", b"p"))),
            ("Basic dTo=", Ok((b"u", b""))),
            ("Basic Og==", Ok((b"", b""))),
            ("Basic dXA=", MALFORMED),     // no colon
            ("Basic dTpwOnF=", MALFORMED), // bits behind the last byte
            ("Basic dTpw dTpw", MALFORMED),
            ("Basic -_-_", MALFORMED), // of another alphabet
            ("Basic", MALFORMED),
            (long.as_str(), MALFORMED),
            ("Digest username=\"u\"", OTHER),
            ("Bearerabc", OTHER),
            ("dTpw", OTHER),
            ("", OTHER),
        ] {
            let mut buffer = [0; DECODED_BYTES_MAX];
            let parsed = Credentials::parse(value.as_bytes(), &mut buffer);
            let got = parsed.map(|parsed| match parsed {
                Credentials::Bearer(secret) => (&b""[..], secret),
                Credentials::Basic { user, password } => (user, password),
            });
            assert_eq!(got, expected, "{value}");
        }
    }

    #[test]
    fn nothing_of_them_is_shown() {
        for (credentials, expected) in [
            (Credentials::Bearer(b"wombat"), "Bearer(..)"),
            (Credentials::Basic { user: b"wombat", password: b"wombat" }, "Basic(..)"),
        ] {
            assert_eq!(format!("{credentials:?}"), expected);
        }
    }
}
