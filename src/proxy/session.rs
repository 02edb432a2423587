//! What a client's connection is doing: an exchange, one after the other. A tunnel comes to stand beside it, for good.
//!
//! Owns which of them it is, and passes on what happens. Never decides for either.

use super::{
    events::{Context, Event, Output, Wants},
    exchange::Exchange,
    settings::Settings,
    timestamp::Timestamp,
};

/// What a client's connection is doing.
#[derive(Debug)]
pub enum Session {
    /// Requests and responses.
    Exchange(Exchange),
}

impl Session {
    /// Waits for a new connection's first request ([`Exchange::new`]).
    pub fn new(now: Timestamp, settings: &Settings, turned_away: bool) -> Self {
        Self::Exchange(Exchange::new(now, settings, turned_away))
    }

    /// What has to become possible for it to go on.
    #[inline]
    pub fn wants(&self) -> Wants {
        let Self::Exchange(exchange) = self;
        exchange.wants()
    }

    /// When [`Event::Timeout`] is due, if nothing happens before.
    #[inline]
    pub fn deadline(&self) -> Option<Timestamp> {
        let Self::Exchange(exchange) = self;
        exchange.deadline()
    }

    /// Whether the client idles ([`Exchange::idles`]).
    #[inline]
    pub fn idles(&self) -> bool {
        let Self::Exchange(exchange) = self;
        exchange.idles()
    }

    /// Whether it waits for our last response to be delivered.
    #[inline]
    pub fn lingers(&self) -> bool {
        let Self::Exchange(exchange) = self;
        exchange.lingers()
    }

    /// What is left to send to the pod.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        let Self::Exchange(exchange) = self;
        exchange.unsent()
    }

    /// How many bytes it holds for the pod.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        let Self::Exchange(exchange) = self;
        exchange.held_bytes()
    }

    /// How many of the next bytes from the pod may go on unseen ([`Exchange::opaque_len`]).
    #[inline]
    pub fn opaque_len(&self) -> u64 {
        let Self::Exchange(exchange) = self;
        exchange.opaque_len()
    }

    /// Whether the response that is on its way, or just went, told the length of its body.
    #[inline]
    pub fn has_length(&self) -> bool {
        let Self::Exchange(exchange) = self;
        exchange.has_length()
    }

    /// Goes on with what happened ([`Exchange::step`]).
    #[inline]
    pub fn on_event(&mut self, event: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) {
        let Self::Exchange(exchange) = self;
        let before = std::mem::replace(exchange, Exchange::Closed);
        *exchange = before.step(event, ctx, out);
    }
}
