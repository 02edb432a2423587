//! Which failures are tried again: those of a reused connection that the pod has closed, or on which it says what is no
//! response to this request; once, on a fresh one.
//!
//! Owns that decision. Whatever else fails is told to the client.

use super::{states::Exchange, transaction::Transaction};
use crate::proxy::{
    events::{Context, Output, UpstreamAction},
    outcome::Outcome,
};

/// How every response begins.
const RESPONSE_START: &[u8] = b"HTTP/";

impl Transaction {
    /// Whether it is sent on a reused connection that has not shown yet that it answers this request.
    fn is_unanswered(&self) -> bool {
        self.reused && self.interim_responses == 0 && self.seen < RESPONSE_START.len()
    }

    /// Whether these bytes, the first ones here, are what another response left behind on a reused connection: they came
    /// before the request was sent, or are no beginning of a response, such as a body behind the response to a HEAD
    /// request. They must not become part of this response.
    #[inline]
    pub(super) fn is_left_behind(&self, bytes: &[u8]) -> bool {
        if self.sent == 0 { self.reused } else { self.is_unanswered() && !starts_like_a_response(bytes) }
    }

    /// Whether a response with this status is none to this request. RFC 9110 section 15.5.9: a 408 that is sent to a
    /// connection that idles crosses our request, which may be repeated.
    #[inline]
    pub(super) fn is_stale(&self, status: u16) -> bool {
        status == 408 && self.reused && self.interim_responses == 0
    }

    /// The pod's connection is gone, and the answer's head never was whole.
    pub(super) fn upstream_lost(self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        match self.first_byte {
            // RFC 9112 section 9.3.1: the pod closed the connection as we sent on it.
            _ if self.is_unanswered() => self.retry(ctx, out),
            Some(_) => self.give_up(Outcome::HeadCutShort.into(), ctx, out),
            None => self.give_up(Outcome::NoAnswer.into(), ctx, out),
        }
    }

    /// The reused connection was stale. GET and HEAD are idempotent: the request goes once more, on a fresh one.
    #[cold]
    pub(super) fn retry(mut self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        let Some(peer) = self.peer else { return self.give_up(Outcome::NoAnswer.into(), ctx, out) };
        out.upstream = UpstreamAction::Retry(peer);
        (self.reused, self.sent, self.seen, self.first_byte) = (false, 0, 0, None);
        self.connect(ctx)
    }
}

/// Whether these bytes, the first of a connection's response, may be the beginning of one.
fn starts_like_a_response(bytes: &[u8]) -> bool {
    bytes.iter().zip(RESPONSE_START).all(|(byte, expected)| byte == expected)
}
