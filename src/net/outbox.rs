//! What one side of a session has yet to take, and how it took what was sent to it before.
//!
//! Owns no socket: [`super::transfer`] moves the bytes.

/// Bytes on their way to one side.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// What is not taken yet: some bytes, always.
    kept: Option<Box<Kept>>,
    /// The side did not take at once all that it was sent of this answer.
    pub(super) is_slow: bool,
    /// Sent since the last exchange was over.
    pub(super) sent_bytes: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    taken: usize,
}

impl Outbox {
    /// Whether the side has yet to take bytes that were handed over.
    pub(super) fn is_stalled(&self) -> bool {
        self.kept.is_some()
    }

    /// The bytes that wait.
    pub(super) fn waiting(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], |kept| &kept.bytes[kept.taken..])
    }

    /// How much memory they hold, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.bytes.capacity())
    }

    /// Keeps what was not taken, behind what waits. Says whether nothing did.
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

    /// The side took so many of the bytes that wait. Says whether none are left.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        kept.taken += bytes;
        let is_empty = kept.taken == kept.bytes.len();
        if is_empty {
            self.kept = None; // one that is empty holds no memory
        }
        is_empty
    }

    /// Forgets what waits. Says whether anything did.
    pub(super) fn clear(&mut self) -> bool {
        self.kept.take().is_some()
    }
}
