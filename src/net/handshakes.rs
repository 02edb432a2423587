//! Which clients are in a TLS handshake, in the order in which they began.
//!
//! Owns the limit of how many may be. Never touches a connection.

use crate::proxy::lru::LruList;

/// Maximum number of handshakes in progress on one worker. One that begins beyond it ends the one that began first: an
/// honest client takes a round trip or two, and so is never the first among this many.
const HANDSHAKES_MAX: usize = 512;
/// How many bytes of a turn a handshake counts for: with RSA, it takes as long as this many bytes of a long response.
pub(super) const HANDSHAKE_BYTES: usize = 256 * 1024;

/// The clients in a handshake, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    order: LruList,
    len: usize,
}

impl Handshakes {
    /// Notes whether a client is in a handshake.
    #[inline]
    pub(super) fn note(&mut self, slot: u32, shakes_hands: bool) {
        if !shakes_hands && self.len == 0 {
            return; // always, without TLS
        }
        match (self.order.contains(slot), shakes_hands) {
            (false, true) => {
                self.order.push(slot);
                self.len += 1;
            }
            (true, false) => {
                self.order.remove(slot);
                self.len -= 1;
            }
            _ => {}
        }
    }

    /// Returns the client that began first, if there are too many.
    #[inline]
    pub(super) fn surplus(&self) -> Option<u32> {
        if self.len > HANDSHAKES_MAX { self.order.oldest() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_too_many_handshakes_is_the_surplus() {
        let mut handshakes = Handshakes::default();
        for slot in 0..HANDSHAKES_MAX as u32 {
            handshakes.note(slot, true);
            handshakes.note(slot, true);
            assert_eq!(handshakes.surplus(), None, "{slot}");
        }
        handshakes.note(1000, true);
        assert_eq!(handshakes.surplus(), Some(0));
        handshakes.note(0, false);
        handshakes.note(0, false);
        assert_eq!(handshakes.surplus(), None);
        handshakes.note(1001, true);
        assert_eq!(handshakes.surplus(), Some(1));
    }
}
