//! Random keys for hashes.

/// Returns a key that no other process knows. std gets its own from the kernel.
pub(super) fn random_key() -> [u8; 16] {
    use std::hash::{BuildHasher as _, RandomState};
    let [first, second] = [0_u8, 1].map(|half| RandomState::new().hash_one(half).to_ne_bytes());
    let mut key = [0; 16];
    key[..8].copy_from_slice(&first);
    key[8..].copy_from_slice(&second);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ() {
        let [one, two] = [random_key(), random_key()];
        assert!(one != two && one[..8] != one[8..]);
    }
}
