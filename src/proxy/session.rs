//! The protocol on a client's connection: HTTP exchanges, one after another, and after a CONNECT a tunnel.
//!
//! Owns the choice of protocol, and passes events on. Makes no decision of either protocol.

use super::{
    access::users::Login,
    events::{Context, Event, Output, Side, Wants},
    exchange::Exchange,
    settings::Settings,
    timestamp::Timestamp,
    tunnel::Tunnel,
};

/// The protocol on a client's connection.
#[derive(Debug)]
pub enum Session {
    /// HTTP requests and responses.
    Exchange(Exchange),
    /// A tunnel, after CONNECT. It never returns to HTTP.
    Tunnel(Tunnel),
}

impl Session {
    /// Waits for the first request of a new connection ([`Exchange::new`]).
    pub fn new(now: Timestamp, settings: &Settings, turned_away: bool) -> Self {
        Self::Exchange(Exchange::new(now, settings, turned_away))
    }

    /// Returns the condition that the session waits for.
    #[inline]
    pub fn wants(&self) -> Wants {
        match self {
            Self::Exchange(exchange) => exchange.wants(),
            Self::Tunnel(tunnel) if tunnel.is_over() => Wants::Nothing,
            Self::Tunnel(_) => Wants::Tunnel,
        }
    }

    /// Returns when [`Event::Timeout`] is due, if nothing happens before.
    #[inline]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Exchange(exchange) => exchange.deadline(),
            Self::Tunnel(tunnel) => tunnel.deadline(),
        }
    }

    /// Returns whether the client is idle ([`Exchange::idles`]). In a tunnel it never is.
    #[inline]
    pub fn idles(&self) -> bool {
        matches!(self, Self::Exchange(exchange) if exchange.idles())
    }

    /// Returns whether the session may be closed in favour of others: between two requests, or as a tunnel in which no
    /// byte moves.
    #[inline]
    pub fn rests(&self) -> bool {
        match self {
            Self::Exchange(exchange) => exchange.idles(),
            Self::Tunnel(tunnel) => !tunnel.is_over(),
        }
    }

    /// Returns whether the session waits for the delivery of its last response.
    #[inline]
    pub fn lingers(&self) -> bool {
        matches!(self, Self::Exchange(exchange) if exchange.lingers())
    }

    /// Returns the tunnel, if it is one.
    #[inline]
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match self {
            Self::Exchange(_) => None,
            Self::Tunnel(tunnel) => Some(tunnel),
        }
    }

    /// Returns whether it is a tunnel.
    #[inline]
    pub fn is_tunnel(&self) -> bool {
        self.tunnel().is_some()
    }

    /// Returns whether the session is about to become a tunnel.
    pub fn opens_tunnel(&self) -> bool {
        matches!(self, Self::Exchange(exchange) if exchange.opens_tunnel())
    }

    /// Returns whether a side of a tunnel may still send bytes.
    pub fn reads_from(&self, side: Side) -> bool {
        matches!(self, Self::Tunnel(tunnel) if tunnel.reads_from(side))
    }

    /// Returns the login whose check the session waits for.
    pub fn login(&self) -> Option<&Login> {
        match self {
            Self::Exchange(exchange) => exchange.login(),
            Self::Tunnel(_) => None,
        }
    }

    /// Returns the name whose addresses the session waits for.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Exchange(exchange) => exchange.name(),
            Self::Tunnel(_) => None,
        }
    }

    /// Returns the name of the pod to which a connection is opened ([`Exchange::server_name`]).
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Self::Exchange(exchange) => exchange.server_name(),
            Self::Tunnel(_) => None,
        }
    }

    /// Returns the bytes that are still to be sent to the pod.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        match self {
            Self::Exchange(exchange) => exchange.unsent(),
            Self::Tunnel(_) => &[],
        }
    }

    /// Returns how many bytes are buffered for the pod.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Exchange(exchange) => exchange.held_bytes(),
            Self::Tunnel(_) => 0,
        }
    }

    /// Returns how many of the next bytes from the pod may be forwarded unread ([`Exchange::opaque_len`]).
    #[inline]
    pub fn opaque_len(&self) -> u64 {
        match self {
            Self::Exchange(exchange) => exchange.opaque_len(),
            Self::Tunnel(_) => 0,
        }
    }

    /// Returns whether the current or last response has a body of known length.
    #[inline]
    pub fn has_length(&self) -> bool {
        matches!(self, Self::Exchange(exchange) if exchange.has_length())
    }

    /// Handles an event ([`Exchange::step`], [`Tunnel::on_event`]).
    #[inline]
    pub fn on_event(&mut self, event: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) {
        match self {
            Self::Exchange(exchange) => {
                let before = std::mem::replace(exchange, Exchange::Closed);
                match before.step(event, ctx, out) {
                    Exchange::Tunnel(tunnel) => *self = Self::Tunnel(tunnel),
                    next => *exchange = next,
                }
            }
            Self::Tunnel(tunnel) => tunnel.on_event(event, ctx, out),
        }
    }
}
