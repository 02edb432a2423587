//! Which failures are tried again: those of a reused connection that the pod has closed or left stale, once, on a fresh
//! one.
//!
//! Owns that decision. Whatever else fails is told to the client.

use super::{
    states::Exchange,
    transaction::{RESPONSE_START, Transaction},
};
use crate::proxy::{
    events::{Context, Output, UpstreamAction},
    outcome::Outcome,
};

impl Transaction {
    /// Whether it is sent on a reused connection that has not shown yet that it answers this request.
    pub(super) fn is_unanswered(&self) -> bool {
        self.reused && self.interim_responses == 0 && self.seen < RESPONSE_START.len()
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
