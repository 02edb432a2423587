//! A client's connection and its state between two runs.
//!
//! Makes no system calls: [`super::transfer`] moves the bytes.

use super::{
    outbox::Outbox,
    slots::Key,
    stream::{Ready, Stream},
    transport::Transport,
};
use crate::proxy::{
    events::{ClientFacts, Side, Wants},
    metrics::Counters,
    session::Session,
    timers::SessionTimers,
    timestamp::Timestamp,
};

/// A response counts as long once this much of it is sent: other clients then run first.
const BULK_BYTES: u64 = 128 * 1024;

/// A client's connection.
#[derive(Debug)]
pub struct Client<S> {
    pub(super) stream: Stream<S>,
    /// What is known about it. Exchanges only read this.
    pub(super) facts: ClientFacts,
    pub(super) session: Session,
    pub(super) upstream: Option<Key>,
    /// Whether the last connection that was opened for it has TLS.
    pub(super) uses_tls_to_pod: bool,
    /// The beginning of a request, or pipelined requests.
    pub(super) input: Box<[u8]>,
    /// Whether the exchange has yet to see `input`.
    pub(super) input_is_new: bool,
    pub(super) outbox: Outbox,
    /// The pod's outbox, in a tunnel.
    pub(super) to_pod: Option<Box<Outbox>>,
    pub(super) timers: SessionTimers,
    pub(super) queued: bool,
    /// Whether it counts towards the limit of clients.
    pub(super) has_place: bool,
    /// Until when it waits for a place; `None`: it does not wait.
    pub(super) waits_until: Option<Timestamp>,
    /// Bytes held for it and its pod, as counted by the budget.
    pub(super) counted: u32,
    /// Whether it waits for room in the buffers; `lacks_room`: as of this turn.
    pub(super) paused: bool,
    pub(super) lacks_room: bool,
    /// Whether the bytes held for it may have changed.
    pub(super) unsettled: bool,
    /// When it connected; `None` after its first response.
    pub(super) silent_since: Option<Timestamp>,
    /// When it last became idle.
    pub(super) idle_since: Timestamp,
}

impl<S: Transport> Client<S> {
    pub(super) fn new(
        stream: Stream<S>,
        facts: ClientFacts,
        session: Session,
        has_place: bool,
        now: Timestamp,
    ) -> Self {
        Self {
            stream,
            facts,
            session,
            upstream: None,
            uses_tls_to_pod: false,
            input: Box::default(),
            input_is_new: false,
            outbox: Outbox::default(),
            to_pod: None,
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

    /// Returns whether it is in the middle of a long response, a tunnel of many bytes, or a TLS handshake.
    pub(super) fn is_bulk(&self) -> bool {
        let to_pod = self.to_pod.as_ref().map_or(0, |outbox| outbox.sent_bytes);
        let is_long = self.outbox.sent_bytes.max(to_pod) >= BULK_BYTES;
        is_long || self.stream.channel().may_be_handshaking() || self.is_handshaking_with_pod()
    }

    /// Returns whether a TLS handshake with its pod is in progress.
    #[inline]
    pub(super) fn is_handshaking_with_pod(&self) -> bool {
        self.uses_tls_to_pod && self.session.wants() == Wants::Connection
    }

    /// Returns whether the client has yet to take bytes that were handed over.
    #[inline]
    pub(super) fn is_stalled(&self) -> bool {
        self.outbox.is_stalled() || self.stream.channel().has_unsent()
    }

    /// Notes what the handshake showed about the client, once it is complete.
    #[inline]
    pub(super) fn note_tls(&mut self, counters: &Counters) {
        let Some(tls) = self.stream.channel().tls() else { return };
        self.unsettled |= tls.held_bytes() > 0;
        if !self.facts.is_encrypted && !tls.is_handshaking() {
            self.facts.is_encrypted = true;
            self.facts.has_proven_itself = tls.has_verified_peer();
            counters.tls_handshakes.add(1);
        }
    }

    /// Returns whether it is stalled or, before a close, has yet to acknowledge bytes in the kernel.
    pub(super) fn is_behind(&self) -> bool {
        let is_tunnel_stalled = self.to_pod.as_ref().is_some_and(|outbox| outbox.is_stalled());
        let may_be_closed = self.session.lingers() || self.session.is_tunnel();
        self.is_stalled() || is_tunnel_stalled || (may_be_closed && self.stream.channel().has_undelivered())
    }

    /// Returns the outbox of a side of its tunnel.
    pub(super) fn outbox_to(&mut self, side: Side) -> &mut Outbox {
        match side {
            Side::Client => &mut self.outbox,
            Side::Pod => self.to_pod.get_or_insert_default(),
        }
    }

    /// Notes that no byte moves in its tunnel: the length of earlier data does not predict that of later data.
    pub(super) fn rest(&mut self) {
        self.outbox.rest();
        if let Some(outbox) = &mut self.to_pod {
            outbox.rest();
        }
    }

    /// Returns whether the client went away while its exchange is in progress.
    pub(super) fn is_gone(&self) -> bool {
        let works = match self.session.wants() {
            // A client that opens a tunnel may end its side first: its end passes to the pod.
            Wants::PasswordCheck | Wants::Connection => !self.session.opens_tunnel(),
            Wants::Send | Wants::Response => true,
            Wants::Flush => self.is_stalled(),
            Wants::Request | Wants::Discard | Wants::Delivery | Wants::Tunnel | Wants::Nothing => false,
        };
        works && self.stream.is_ready(Ready::END)
    }
}
