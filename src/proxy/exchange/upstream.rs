//! The way to the pod: connecting, sending, the wait for an answer, and giving up.
//!
//! Owns what a failure on that way leads to. Which are tried again is [`retry`](super::retry)'s to say; which connection
//! is used, a kept one or a new one, the [`pool`](crate::proxy::pool)'s and [`net::upstreams`](crate::net::upstreams)'s.

use std::time::Duration;

use super::{
    states::Exchange,
    transaction::{ClientTerms, Transaction},
};
use crate::proxy::{
    events::{Context, Event, Output, UpstreamAction},
    outcome::{Failure, Outcome},
    timestamp::Timestamp,
};

impl Transaction {
    /// There is no connection to the pod yet, and this happened.
    #[inline]
    pub(super) fn connecting(
        mut self: Box<Self>,
        until: Timestamp,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            Event::Connected { reused } => {
                self.reused = reused;
                self.wait()
            }
            Event::UpstreamFailed(error) => {
                let within = self.patience().min(ctx.settings.timeouts.connect);
                self.give_up_within(within, Failure::of_connecting(error), ctx, out)
            }
            Event::Timeout { .. } => {
                let out_of_patience = until == self.until;
                let within = if out_of_patience { self.patience() } else { ctx.settings.timeouts.connect };
                self.give_up_within(within, Outcome::ConnectTimeout.into(), ctx, out)
            }
            _ => Exchange::Connecting { transaction: self, until },
        }
    }

    /// The request is not sent whole, and this happened.
    #[inline]
    pub(super) fn sending(
        mut self: Box<Self>,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            Event::Sent(bytes) => {
                self.sent = self.request.len().min(self.sent + bytes);
                self.wait()
            }
            event => self.awaiting(event, ctx, out),
        }
    }

    /// The head of the final response is not whole, and this happened.
    #[inline]
    pub(super) fn awaiting(
        self: Box<Self>,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            Event::Response(bytes) => self.response(bytes, ctx, out),
            Event::UpstreamEof { .. } | Event::UpstreamFailed(_) => self.upstream_lost(ctx, out),
            Event::Timeout { .. } => self.give_up(Outcome::AnswerTimeout.into(), ctx, out),
            _ => self.wait(),
        }
    }

    pub(super) fn connect(self: Box<Self>, ctx: &mut Context<'_>) -> Exchange {
        let until = self.until.min(ctx.now + ctx.settings.timeouts.connect);
        Exchange::Connecting { transaction: self, until }
    }

    /// The wait for an answer. A pod may answer, or begin to, before the request is sent whole.
    pub(super) fn wait(self: Box<Self>) -> Exchange {
        if self.is_sent() { Exchange::Awaiting(self) } else { Exchange::Sending(self) }
    }

    /// Nothing of an answer is sent yet, so the failure can still be told.
    pub(super) fn give_up(
        self: Box<Self>,
        failure: Failure,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let within = self.patience();
        self.give_up_within(within, failure, ctx, out)
    }

    /// The same, of what was to happen in a time of its own.
    pub(super) fn give_up_within(
        mut self: Box<Self>,
        within: Duration,
        failure: Failure,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        out.head.clear();
        out.pass = 0..0;
        out.upstream = UpstreamAction::Close;
        self.terms = self.terms_now(ctx);
        self.fail(failure, within, ctx, out)
    }

    /// A connection stops persisting when the process is about to stop.
    pub(super) fn terms_now(&self, ctx: &mut Context<'_>) -> ClientTerms {
        ClientTerms { persistent: self.terms.persistent && !ctx.draining, ..self.terms }
    }
}
