//! Which clients are in a TLS handshake, in the order in which they reached its stage.
//!
//! Owns the limit of how many may be. Never touches a connection.

use super::transport::channel::Handshake;
use crate::proxy::lru::LruList;

/// Maximum number of handshakes in progress on one worker. Beyond it, one of them ends.
const HANDSHAKES_MAX: usize = 512;
/// How many bytes of a turn a step of a handshake counts for: with RSA, it takes as long as this many bytes of a long
/// response.
pub(super) const HANDSHAKE_BYTES: usize = 256 * 1024;
/// The same, for a run in which the handshake made no step.
pub(super) const STALLED_BYTES: usize = 16 * 1024;

/// The clients in a handshake, in the order in which they reached its stage.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Those whose first message is incomplete, or whose handshake failed.
    begun: LruList,
    answered: LruList,
    len: usize,
}

impl Handshakes {
    /// Notes how far the handshake of a client is.
    #[inline]
    pub(super) fn note(&mut self, slot: u32, handshake: Handshake) {
        if handshake == Handshake::None && self.len == 0 {
            return; // always, without TLS
        }
        self.note_change(slot, handshake);
    }

    fn note_change(&mut self, slot: u32, handshake: Handshake) {
        let (is_begun, is_answered) = match handshake {
            Handshake::None => (false, false),
            Handshake::Begun | Handshake::Failed => (true, false),
            Handshake::Answered => (false, true),
        };
        for (list, is_in) in [(&mut self.begun, is_begun), (&mut self.answered, is_answered)] {
            match (list.contains(slot), is_in) {
                (false, true) => {
                    list.push(slot);
                    self.len += 1;
                }
                (true, false) => {
                    list.remove(slot);
                    self.len -= 1;
                }
                _ => {}
            }
        }
    }

    /// Returns whether any client is in a handshake.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.len > 0
    }

    /// Returns whether more are in progress than may be.
    #[inline]
    pub(super) fn are_too_many(&self) -> bool {
        self.len > HANDSHAKES_MAX
    }

    /// Returns the client whose handshake is to end: the first of those that `wait` for their clients, and preferably
    /// one that psystrike has not answered. An honest client sends its first message at once, and the next ones a round
    /// trip later, and so is rarely the first that waits.
    pub(super) fn surplus(&self, wait: impl Fn(u32) -> bool) -> Option<u32> {
        let mut all = self.begun.iter().chain(self.answered.iter());
        let first = self.begun.oldest().or(self.answered.oldest());
        all.find(|&slot| wait(slot)).or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::{Handshake::*, *};

    #[test]
    fn those_that_wait_longest_and_cost_least_are_the_surplus() {
        let mut handshakes = Handshakes::default();
        for slot in 0..HANDSHAKES_MAX as u32 {
            handshakes.note(slot, if slot < 100 { Answered } else { Begun });
            handshakes.note(slot, if slot < 100 { Answered } else { Begun });
            assert!(!handshakes.are_too_many(), "{slot}");
        }
        handshakes.note(1000, Answered);
        assert!(handshakes.are_too_many());
        assert_eq!(handshakes.surplus(|_| true), Some(100));
        assert_eq!(handshakes.surplus(|slot| slot != 100), Some(101));
        assert_eq!(handshakes.surplus(|slot| slot < 100), Some(0));
        assert_eq!(handshakes.surplus(|_| false), Some(100));
        handshakes.note(100, Answered); // now the newest
        assert_eq!(handshakes.surplus(|_| true), Some(101));
        for slot in 101..HANDSHAKES_MAX as u32 {
            handshakes.note(slot, None);
            handshakes.note(slot, None);
        }
        assert!(!handshakes.are_too_many());
        assert_eq!(handshakes.surplus(|_| true), Some(0));
        handshakes.note(0, Failed);
        assert_eq!(handshakes.surplus(|_| true), Some(0));
        (0..=1000).for_each(|slot| handshakes.note(slot, None));
        assert_eq!((handshakes.len, handshakes.surplus(|_| true)), (0, Option::None));
    }
}
