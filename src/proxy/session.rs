//! The protocol on a client's connection: HTTP exchanges, one after another. Tunnels are to become a second variant.
//!
//! Owns the choice of protocol, and passes events on. Never decides for either.

use super::{
    events::{Context, Event, Output, Wants},
    exchange::Exchange,
    settings::Settings,
    timestamp::Timestamp,
};

/// The protocol on a client's connection.
#[derive(Debug)]
pub enum Session {
    /// HTTP requests and responses.
    Exchange(Exchange),
}

impl Session {
    /// Waits for the first request of a new connection ([`Exchange::new`]).
    pub fn new(now: Timestamp, settings: &Settings, turned_away: bool) -> Self {
        Self::Exchange(Exchange::new(now, settings, turned_away))
    }

    /// Returns the condition that the session waits for.
    #[inline]
    pub fn wants(&self) -> Wants {
        let Self::Exchange(exchange) = self;
        exchange.wants()
    }

    /// Returns when [`Event::Timeout`] is due, if nothing happens before.
    #[inline]
    pub fn deadline(&self) -> Option<Timestamp> {
        let Self::Exchange(exchange) = self;
        exchange.deadline()
    }

    /// Returns whether the client is idle ([`Exchange::idles`]).
    #[inline]
    pub fn idles(&self) -> bool {
        let Self::Exchange(exchange) = self;
        exchange.idles()
    }

    /// Returns whether the session waits for the delivery of its last response.
    #[inline]
    pub fn lingers(&self) -> bool {
        let Self::Exchange(exchange) = self;
        exchange.lingers()
    }

    /// Returns the bytes that are still to be sent to the pod.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        let Self::Exchange(exchange) = self;
        exchange.unsent()
    }

    /// Returns how many bytes are buffered for the pod.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        let Self::Exchange(exchange) = self;
        exchange.held_bytes()
    }

    /// Returns how many of the next bytes from the pod may be forwarded unread ([`Exchange::opaque_len`]).
    #[inline]
    pub fn opaque_len(&self) -> u64 {
        let Self::Exchange(exchange) = self;
        exchange.opaque_len()
    }

    /// Returns whether the current or last response has a body of known length.
    #[inline]
    pub fn has_length(&self) -> bool {
        let Self::Exchange(exchange) = self;
        exchange.has_length()
    }

    /// Handles an event ([`Exchange::step`]).
    #[inline]
    pub fn on_event(&mut self, event: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) {
        let Self::Exchange(exchange) = self;
        let before = std::mem::replace(exchange, Exchange::Closed);
        *exchange = before.step(event, ctx, out);
    }
}
