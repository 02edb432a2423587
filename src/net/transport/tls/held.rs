//! The bytes that wait on a connection with TLS: part of a record, content that was not read yet, and records that the
//! peer's side has no room for.

/// Bytes that wait.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The beginning of a record, or of a handshake message.
    pub(super) incoming: Vec<u8>,
    /// Content, from `content_at` on.
    pub(super) content: Vec<u8>,
    pub(super) content_at: usize,
    /// Records for the peer, from `outgoing_at` on.
    pub(super) outgoing: Vec<u8>,
    pub(super) outgoing_at: usize,
}

impl Held {
    /// Returns the content that waits.
    pub(super) fn content(&self) -> &[u8] {
        &self.content[self.content_at..]
    }

    /// Returns the records that wait.
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.outgoing_at..]
    }

    /// Returns whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.incoming.is_empty() && self.content().is_empty() && self.outgoing().is_empty()
    }
}
