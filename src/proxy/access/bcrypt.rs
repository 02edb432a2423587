//! Passwords hashed with bcrypt, as in `basic_auth_users` of a web configuration file.
//!
//! Owns the format of a hash and its check, which takes a tenth of a second and more: it never runs on an event loop.

use blowfish::Blowfish;

/// Highest cost of a hash. Each step doubles the time of a check; at 16 it is several seconds.
pub const COST_MAX: u32 = 16;
const COST_MIN: u32 = 4;
/// Longer passwords are cut to this length, with the zero byte that ends them.
const PASSWORD_BYTES_MAX: usize = 72;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 23;

/// The digits of bcrypt's base64.
const DIGITS: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// The text that is encrypted.
const MAGIC: [u8; 24] = *b"OrpheanBeholderScryDoubt";

/// A hash with its cost and its salt. It has no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordHash {
    cost: u32,
    salt: [u8; SALT_BYTES],
    hash: [u8; HASH_BYTES],
}

impl PasswordHash {
    /// Parses `$2y$10$` with 22 digits of salt and 31 of hash. `$2a$` and `$2b$` are the same for bcrypt's authors, and
    /// have no known differences in today's implementations.
    ///
    /// # Errors
    /// The fault. It has no part of the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected a bcrypt hash of 60 characters, such as $2y$10$...";
        let text = text.as_bytes();
        if text.len() != 60 || !text.is_ascii() {
            return Err(EXPECTED);
        }
        if !matches!(&text[..4], b"$2a$" | b"$2b$" | b"$2y$") || text[6] != b'$' {
            return Err(EXPECTED);
        }
        let digit = |byte: u8| Some(u32::from(byte)).filter(|_| byte.is_ascii_digit()).map(|byte| byte - 48);
        let cost = digit(text[4]).zip(digit(text[5])).map(|(tens, ones)| tens * 10 + ones);
        let cost = cost.filter(|cost| (COST_MIN..=31).contains(cost)).ok_or(EXPECTED)?;
        if cost > COST_MAX {
            return Err(
                "bcrypt cost over 16: a check would take many seconds; hash the password with a cost of 10",
            );
        }
        let salt = decode(&text[7..29]).ok_or(EXPECTED)?;
        let hash = decode(&text[29..]).ok_or(EXPECTED)?;
        Ok(Self { cost, salt, hash })
    }

    /// Returns a hash that no password has, with this cost.
    pub fn unmatched(cost: u32) -> Self {
        Self { cost, salt: [0; SALT_BYTES], hash: [0; HASH_BYTES] }
    }

    /// Returns the cost.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Returns whether a password has this hash. Takes 2^cost steps.
    pub fn verify(&self, password: &[u8]) -> bool {
        let hash = hash(self.cost, &self.salt, password);
        let differences = hash.iter().zip(&self.hash).fold(0, |all, (one, other)| all | (one ^ other));
        differences == 0
    }
}

/// Decodes digits, without the bits that the last one has too many.
fn decode<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (mut bits, mut count, mut at) = (0_u32, 0, 0);
    for digit in digits {
        let value = DIGITS.iter().position(|known| known == digit)?;
        bits = (bits << 6 | value as u32) & 0xffff;
        count += 6;
        if count >= 8 && at < N {
            count -= 8;
            bytes[at] = (bits >> count) as u8;
            at += 1;
        }
    }
    Some(bytes)
}

/// Hashes a password ("A Future-Adaptable Password Scheme", Provos and Mazières, section 5).
fn hash(cost: u32, salt: &[u8; SALT_BYTES], password: &[u8]) -> [u8; HASH_BYTES] {
    let mut key = Vec::with_capacity(PASSWORD_BYTES_MAX + 1);
    key.extend_from_slice(&password[..password.len().min(PASSWORD_BYTES_MAX)]);
    key.push(0);
    key.truncate(PASSWORD_BYTES_MAX);
    let mut state = Blowfish::bc_init_state();
    state.salted_expand_key(salt, &key);
    for _ in 0..1_u32 << cost {
        state.bc_expand_key(&key);
        state.bc_expand_key(salt);
    }
    let mut hash = [0; 24];
    for (from, to) in MAGIC.chunks_exact(8).zip(hash.chunks_exact_mut(8)) {
        let half = |bytes: &[u8]| bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
        let mut words = [half(&from[..4]), half(&from[4..])];
        for _ in 0..64 {
            words = state.bc_encrypt(words);
        }
        to[..4].copy_from_slice(&words[0].to_be_bytes());
        to[4..].copy_from_slice(&words[1].to_be_bytes());
    }
    let mut cut = [0; HASH_BYTES];
    cut.copy_from_slice(&hash[..HASH_BYTES]);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with crypt(3) of libxcrypt, as far as they are not those of OpenBSD and Openwall.
    const KNOWN: [(&str, &[u8]); 8] = [
        ("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", b""),
        ("$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", b"a"),
        ("$2b$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i", b"abc"),
        ("$2a$06$.rCVZVOThsIa97pEDOxvGuRRgzG64bvtJ0938xuqzv18d3ZpQhstC", b"abcdefghijklmnopqrstuvwxyz"),
        ("$2y$05$If6bvum7DFjUnE9p2uDeDubrLBIANF6VYM3n063FENRdMYHjvN0Am", &[b'x'; 71]),
        ("$2y$05$If6bvum7DFjUnE9p2uDeDuaMMaJfgu1QFTXAzQmyQA/N52zp.Rzeu", &[b'x'; 72]),
        ("$2y$05$If6bvum7DFjUnE9p2uDeDuaMMaJfgu1QFTXAzQmyQA/N52zp.Rzeu", &[b'x'; 80]),
        ("$2y$05$If6bvum7DFjUnE9p2uDeDuwa5TAOKLSsQcYy5aUhH5oZbtFwLdIby", b"\xe9\xff"),
    ];

    #[test]
    fn known_hashes_are_verified() {
        for (text, password) in KNOWN {
            let hash = PasswordHash::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert!(hash.verify(password), "{text}");
            // Beyond 72 bytes nothing counts.
            let longer = [password, b"x"].concat();
            assert_eq!(hash.verify(&longer), password.len() >= PASSWORD_BYTES_MAX, "{text}");
            assert!(
                !hash.verify(password.get(1..).unwrap_or(b"x")) || password.len() > PASSWORD_BYTES_MAX,
                "{text}"
            );
            assert!(!PasswordHash::unmatched(4).verify(password));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let known = KNOWN[0].0;
        let at = |at: usize, new: &str| format!("{}{new}{}", &known[..at], &known[at + new.len()..]);
        const EXPECTED: &str = "expected a bcrypt hash of 60 characters";
        for (text, expected) in [
            (String::new(), EXPECTED),
            ("wombat".to_owned(), EXPECTED),
            (known[..59].to_owned(), EXPECTED),
            (format!("{known}x"), EXPECTED),
            (at(2, "x"), EXPECTED),
            (at(2, "c"), EXPECTED),
            (at(1, "1"), EXPECTED),
            (at(6, "/"), EXPECTED),
            (at(4, "03"), EXPECTED),
            (at(4, "32"), EXPECTED),
            (at(4, "x6"), EXPECTED),
            (at(4, "17"), "bcrypt cost over 16"),
            (at(4, "31"), "bcrypt cost over 16"),
            (at(7, "="), EXPECTED),
            (at(30, "+"), EXPECTED),
            (at(30, "\u{e9}"), EXPECTED),
        ] {
            let fault = PasswordHash::parse(&text).err().unwrap_or_else(|| panic!("{text} is accepted"));
            assert!(fault.starts_with(expected), "{text}: {fault}");
        }
        assert!(PasswordHash::parse(&at(4, "16")).is_ok_and(|hash| hash.cost() == 16));
    }
}
