//! The secrets that clients may send, from the text of a file.
//!
//! Owns the format of the file. Keeps only keyed hashes: nothing that is logged, or shown by a debugger's dump of these
//! values, contains a secret. A wrong secret has the hash of a right one with a probability of 2^-128 for each guess.

use std::fmt;

use siphasher::sip128::SipHasher24;

/// Maximum size of the file.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
/// Maximum length of a secret.
pub const SECRET_BYTES_MAX: usize = 1024;
/// Maximum length of a name.
const NAME_BYTES_MAX: usize = 64;
/// Maximum number of secrets.
const TOKENS_MAX: usize = 64;
/// A shorter secret can be guessed unless it is random to the last bit.
pub const SECRET_BYTES_ADVISED: usize = 16;

/// The accepted secrets. `Debug` shows none of them.
pub struct Tokens {
    key: [u8; 16],
    tokens: Box<[Token]>,
    short: usize,
}

struct Token {
    name: Box<str>,
    hash: u128,
}

/// The first fault of a file. It has no part of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of the line, from 1 on; `None`: the whole file.
    pub line: Option<usize>,
    /// The fault.
    pub what: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(self.what),
        }
    }
}

impl Tokens {
    /// Parses a file with one secret a line. The random `key` keeps the hashes of secrets unknown.
    ///
    /// Empty lines and lines that begin with `#` are skipped. The first colon of a line ends the name of its secret. A
    /// secret with a colon needs a name before it, or an empty one: `:a:b` is the secret `a:b`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn parse(text: &[u8], key: [u8; 16]) -> Result<Self, Fault> {
        if text.len() > FILE_BYTES_MAX {
            return Err(Fault { line: None, what: "over 64 KiB" });
        }
        let (mut tokens, mut short) = (Vec::new(), 0);
        for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let fault = |what| Fault { line: Some(at + 1), what };
            let Some((name, secret)) = split(line.trim_ascii()).map_err(fault)? else { continue };
            if tokens.len() == TOKENS_MAX {
                return Err(fault("more than 64 secrets"));
            }
            short += usize::from(secret.len() < SECRET_BYTES_ADVISED);
            tokens.push(Token { name: name.into(), hash: hash(key, secret) });
        }
        if tokens.is_empty() {
            return Err(Fault { line: None, what: "no secret in it" });
        }
        Ok(Self { key, tokens: tokens.into(), short })
    }

    /// Returns whether this secret is accepted. Takes as long for a wrong one as for any other of its length, and looks
    /// at every accepted one.
    pub fn accept(&self, secret: &[u8]) -> bool {
        let hash = hash(self.key, secret);
        self.tokens.iter().fold(false, |any, token| any | (token.hash == hash))
    }

    /// Returns the names of the secrets, in the order of the file. Those without a name are empty.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tokens.iter().map(|token| &*token.name)
    }

    /// Returns how many secrets are shorter than [`SECRET_BYTES_ADVISED`].
    pub fn short(&self) -> usize {
        self.short
    }
}

/// Shows the names only.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Returns the name and the secret of a line; `None` if it has none.
fn split(line: &[u8]) -> Result<Option<(&str, &[u8])>, &'static str> {
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    let colon = line.iter().position(|&byte| byte == b':');
    let (name, secret) = match colon {
        Some(at) => (line[..at].trim_ascii_end(), line[at + 1..].trim_ascii_start()),
        None => (&b""[..], line),
    };
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let name = str::from_utf8(name).ok().filter(|name| name.bytes().all(|byte| fits(&byte)));
    let Some(name) = name.filter(|name| name.len() <= NAME_BYTES_MAX) else {
        return Err("expected a name of at most 64 letters, digits, '-', '.' and '_' before the first ':'; \
                    a secret that contains ':' needs one before it, as in ':SECRET'");
    };
    match secret.len() {
        0 => Err("no secret after the ':'"),
        1..=SECRET_BYTES_MAX if secret.iter().all(u8::is_ascii_graphic) => Ok(Some((name, secret))),
        1..=SECRET_BYTES_MAX => Err("a secret must not contain spaces, control or non-ASCII characters"),
        _ => Err("secret over 1024 bytes"),
    }
}

fn hash(key: [u8; 16], secret: &[u8]) -> u128 {
    SipHasher24::new_with_key(&key).hash(secret).as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];

    #[test]
    fn each_line_has_a_secret_and_may_have_a_name() {
        let long = "x".repeat(SECRET_BYTES_MAX);
        let named = format!("a.B_c-9:{long}");
        for (text, names, accepted, refused) in [
            ("abc", &[""][..], &["abc"][..], &["ab", "abcd", "", "ABC"][..]),
            ("abc\n", &[""], &["abc"], &["abc\n"]),
            ("  abc \r\n\r\n", &[""], &["abc"], &["abc ", "abc\r"]),
            ("# a comment\n\n  # b:c\nabc\n", &[""], &["abc"], &["b:c", "c", "# a comment"]),
            ("one:abc\ntwo: def\nghi\n", &["one", "two", ""], &["abc", "def", "ghi"], &["one:abc", "one"]),
            // The first colon ends the name, whatever follows.
            ("one:a:b", &["one"], &["a:b"], &["b", "one:a:b"]),
            (":a:b", &[""], &["a:b"], &["b", ":a:b"]),
            (":#a", &[""], &["#a"], &["a"]),
            ("one:#a", &["one"], &["#a"], &[""]),
            ("one:old\none:new", &["one", "one"], &["old", "new"], &[]),
            ("a=/+~!\"%", &[""], &["a=/+~!\"%"], &[]),
            (&long, &[""], &[&long], &[&long[1..]]),
            (&named, &["a.B_c-9"], &[&long], &[]),
        ] {
            let tokens =
                Tokens::parse(text.as_bytes(), KEY).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(tokens.names().collect::<Vec<_>>(), names, "{text}");
            for (secrets, expected) in [(accepted, true), (refused, false)] {
                for secret in secrets {
                    assert_eq!(tokens.accept(secret.as_bytes()), expected, "{text}: {secret}");
                }
            }
        }
    }

    #[test]
    fn a_fault_names_its_line_and_nothing_of_the_secret() {
        let (long, name) = ("w".repeat(SECRET_BYTES_MAX + 1), "w".repeat(NAME_BYTES_MAX + 1) + ":w");
        let (many, large) = ("w\n".repeat(TOKENS_MAX + 1), "\n".repeat(FILE_BYTES_MAX + 1));
        for (text, expected) in [
            ("", "no secret in it"),
            ("\n# wombat\n \n", "no secret in it"),
            (&large, "over 64 KiB"),
            (&many, "line 65: more than 64 secrets"),
            (&long, "line 1: secret over 1024 bytes"),
            ("ok\n\nwom:", "line 3: no secret after the ':'"),
            (":", "line 1: no secret after the ':'"),
            ("w w", "line 1: a secret must not contain spaces, control or non-ASCII characters"),
            ("w\u{e9}", "line 1: a secret must not contain spaces, control or non-ASCII characters"),
            ("w\tw", "line 1: a secret must not contain spaces, control or non-ASCII characters"),
            ("w/w:w", "line 1: expected a name"),
            ("w w:w", "line 1: expected a name"),
            (&name, "line 1: expected a name"),
        ] {
            let fault = Tokens::parse(text.as_bytes(), KEY).expect_err(text).to_string();
            assert!(fault.starts_with(expected), "{text:?}: {fault}");
        }
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let tokens = Tokens::parse(b"one:wombat-wombat\nsecond", KEY).expect("secrets");
        assert_eq!(format!("{tokens:?}"), r#"["one", ""]"#);
        assert_eq!(tokens.short(), 2);
    }

    #[test]
    fn another_key_gives_other_hashes() {
        let hashes = [KEY, [8; 16]].map(|key| Tokens::parse(b"abc", key).expect("a secret").tokens[0].hash);
        assert_ne!(hashes[0], hashes[1]);
    }
}
