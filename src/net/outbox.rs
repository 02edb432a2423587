//! The bytes that one side of a session has yet to accept, and whether it accepted earlier ones without delay.
//!
//! Owns no socket: [`super::transfer`] moves the bytes.

/// Bytes on their way to one side.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Bytes not taken yet; never empty.
    kept: Option<Box<Kept>>,
    /// Whether the side once took less of this response than it was sent.
    pub(super) is_slow: bool,
    /// Whether much data is expected, so that it goes through the pipe.
    pub(super) is_long: bool,
    /// Bytes sent since the last exchange ended.
    pub(super) sent_bytes: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    taken: usize,
}

impl Outbox {
    /// Returns whether the side has yet to take bytes that were handed over.
    pub(super) fn is_stalled(&self) -> bool {
        self.kept.is_some()
    }

    /// Returns the bytes that wait.
    pub(super) fn waiting(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], |kept| &kept.bytes[kept.taken..])
    }

    /// Returns the memory they hold, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.bytes.capacity())
    }

    /// Appends bytes that the side did not accept. Returns whether none waited before.
    pub(super) fn keep(&mut self, bytes: Vec<u8>) -> bool {
        self.is_slow = true;
        if let Some(kept) = &mut self.kept {
            kept.bytes.reserve_exact(bytes.len());
            kept.bytes.extend_from_slice(&bytes);
            return false;
        }
        self.kept = Some(Box::new(Kept { bytes, taken: 0 }));
        true
    }

    /// Removes bytes that the side took. Returns whether none are left.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        kept.taken += bytes;
        let is_empty = kept.taken == kept.bytes.len();
        if is_empty {
            self.kept = None; // frees its memory
        }
        is_empty
    }

    /// Drops the bytes that wait. Returns whether there were any.
    pub(super) fn clear(&mut self) -> bool {
        self.kept.take().is_some()
    }

    /// Forgets whether the side was slow to accept earlier data, unless some of it waits.
    pub(super) fn rest(&mut self) {
        if !self.is_stalled() {
            (self.is_slow, self.is_long, self.sent_bytes) = (false, false, 0);
        }
    }
}
