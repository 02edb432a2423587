//! A client's connection, and what is kept for it between two runs.
//!
//! Owns no call on a socket: bytes move in [`super::transfer`].

use super::{
    outbox::Outbox,
    slots::Key,
    stream::{Ready, Stream},
    transport::Transport,
};
use crate::proxy::{events::Wants, session::Session, timers::SessionTimers, timestamp::Timestamp};

/// An answer of which so much is sent is a long one: others go first.
const BULK_BYTES: u64 = 128 * 1024;

/// A client's connection.
#[derive(Debug)]
pub struct Client<S> {
    pub(super) stream: Stream<S>,
    pub(super) session: Session,
    pub(super) upstream: Option<Key>,
    /// The beginning of a request, or requests that wait for their turn.
    pub(super) input: Box<[u8]>,
    /// The exchange has not seen `input` yet.
    pub(super) input_is_new: bool,
    pub(super) outbox: Outbox,
    pub(super) timers: SessionTimers,
    pub(super) queued: bool,
    /// It counts towards the most clients there may be.
    pub(super) has_place: bool,
    /// Until then it waits for a place.
    pub(super) waits_until: Option<Timestamp>,
    /// What it and its pod hold, as far as the budget counts it.
    pub(super) counted: u32,
    /// It waits for room in the buffers; and so it does as of this turn.
    pub(super) paused: bool,
    pub(super) lacks_room: bool,
    /// What is kept for it may have changed.
    pub(super) unsettled: bool,
    /// When it connected, if it has had no answer yet.
    pub(super) silent_since: Option<Timestamp>,
    /// When it began to idle, if it does.
    pub(super) idle_since: Timestamp,
}

impl<S: Transport> Client<S> {
    pub(super) fn new(stream: Stream<S>, session: Session, has_place: bool, now: Timestamp) -> Self {
        Self {
            stream,
            session,
            upstream: None,
            input: Box::default(),
            input_is_new: false,
            outbox: Outbox::default(),
            timers: SessionTimers::default(),
            queued: false,
            has_place,
            waits_until: None,
            counted: 0,
            paused: false,
            lacks_room: false,
            unsettled: false,
            silent_since: Some(now),
            idle_since: now,
        }
    }

    /// Whether it is in the middle of a long answer.
    pub(super) fn is_bulk(&self) -> bool {
        self.outbox.sent_bytes >= BULK_BYTES
    }

    /// Whether the client has yet to take bytes that were handed over.
    pub(super) fn is_stalled(&self) -> bool {
        self.outbox.is_stalled()
    }

    /// The same, and before it is closed, of bytes in the kernel too.
    pub(super) fn is_behind(&self) -> bool {
        self.is_stalled() || (self.session.lingers() && self.stream.socket().has_undelivered())
    }

    /// Whether the client went away while somebody works for it.
    pub(super) fn is_gone(&self) -> bool {
        let works = match self.session.wants() {
            Wants::Connection | Wants::Send | Wants::Response => true,
            Wants::Flush => self.is_stalled(),
            Wants::Request | Wants::Discard | Wants::Delivery | Wants::Nothing => false,
        };
        works && self.stream.is_ready(Ready::END)
    }
}
