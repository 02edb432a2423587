//! Base64 (RFC 4648 section 4), for bytes that are passed through a pipe as a line.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes bytes.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let sixth = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > three.len() { '=' } else { sixth.into() });
        }
    }
    text
}

/// Decodes the output of [`encode`].
pub fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let value = |byte: &u8| ALPHABET.iter().position(|known| known == byte).expect("base64") as u32;
        let bits = four.iter().fold(0, |bits, byte| bits << 6 | value(byte)) << (6 * (4 - four.len()));
        bytes.extend(bits.to_be_bytes()[1..four.len()].iter());
    }
    bytes
}
