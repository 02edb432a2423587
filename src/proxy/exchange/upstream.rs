//! Connects to the pod, sends the request, waits for a response, and gives up.
//!
//! Owns the consequences of failures before a response. [`retry`](super::retry) decides which of them are retried;
//! [`pool`](crate::proxy::pool) and [`net::upstreams`](crate::net::upstreams) choose between a pooled and a new
//! connection.

use std::time::Duration;

use super::{
    states::Exchange,
    transaction::{ClientTerms, Transaction},
};
use crate::proxy::{
    events::{Context, Event, Output, UpstreamAction},
    outcome::{Failure, Outcome, UpstreamError},
    peer::Peer,
    route::{Page, RouteName},
    timestamp::Timestamp,
};

impl Transaction {
    /// Handles an event while the connection to the pod is not established.
    #[inline]
    pub(super) fn connecting(
        mut self: Box<Self>,
        until: Timestamp,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            Event::Connected { .. } if self.route == RouteName::Connect => self.open_tunnel(ctx, out),
            Event::Connected { reused } => {
                self.reused = reused;
                self.wait()
            }
            Event::UpstreamFailed(UpstreamError::Itself) => self.own_page(ctx, out),
            Event::UpstreamFailed(error) => {
                let next = if is_final(error) { None } else { self.next_address(ctx.now) };
                if let Some(peer) = next {
                    return self.connect_next(peer, ctx, out);
                }
                let within = self.patience().min(ctx.settings.timeouts.connect);
                self.give_up_within(within, Failure::of_connecting(error), ctx, out)
            }
            Event::Timeout { .. } => {
                if let Some(peer) = self.next_address(ctx.now) {
                    return self.connect_next(peer, ctx, out);
                }
                let out_of_patience = until == self.until;
                let within = if out_of_patience { self.patience() } else { ctx.settings.timeouts.connect };
                let outcome = Outcome::ConnectTimeout;
                let has_tls = self.peer.is_some_and(|peer| peer.tls().is_some());
                let detail = has_tls.then_some("no complete TLS handshake");
                self.give_up_within(within, Failure { outcome, detail }, ctx, out)
            }
            _ => Exchange::Connecting { transaction: self, until },
        }
    }

    /// Handles an event while the request is not completely sent.
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

    /// Handles an event while the head of the final response is incomplete.
    #[inline]
    pub(super) fn awaiting(
        self: Box<Self>,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            Event::Response(bytes) => self.response(bytes, ctx, out),
            Event::UpstreamEof { .. } => self.upstream_lost(None, ctx, out),
            Event::UpstreamFailed(error) => self.upstream_lost(Some(error), ctx, out),
            Event::Timeout { .. } => self.give_up(Outcome::ResponseTimeout.into(), ctx, out),
            _ => self.wait(),
        }
    }

    /// Handles a target at psystrike's own address, without a connection to itself: a page, or a loop.
    fn own_page(mut self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        match Page::at(self.asked()).filter(|_| self.route == RouteName::Proxy) {
            Some(page) => {
                self.route = RouteName::Page(page);
                self.page(page, ctx, out)
            }
            None => self.give_up(Outcome::Loop.into(), ctx, out),
        }
    }

    /// Connects to the pod in the way that the request's route requires.
    #[inline]
    pub(super) fn connect_to(
        self: Box<Self>,
        peer: Peer,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        out.upstream = match self.route {
            RouteName::Connect => UpstreamAction::Open(peer),
            // A path may lead to psystrike itself. A proxy request to its own address is answered without a connection.
            RouteName::Proxy => UpstreamAction::ConnectOther(peer),
            _ => UpstreamAction::Connect(peer),
        };
        self.connect(ctx)
    }

    pub(super) fn connect(self: Box<Self>, ctx: &mut Context<'_>) -> Exchange {
        let until = self.until.min(ctx.now + ctx.settings.timeouts.connect);
        Exchange::Connecting { transaction: self, until }
    }

    /// Waits for a response. A pod may begin it before the request is completely sent.
    pub(super) fn wait(self: Box<Self>) -> Exchange {
        if self.is_sent() { Exchange::Awaiting(self) } else { Exchange::Sending(self) }
    }

    /// Responds with a failure, as no byte of a final response is sent yet.
    pub(super) fn give_up(
        self: Box<Self>,
        failure: Failure,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let within = self.patience();
        self.give_up_within(within, failure, ctx, out)
    }

    /// Responds with a failure that has its own time limit.
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

    /// Returns the client's terms, without persistence if the process is shutting down.
    pub(super) fn terms_now(&self, ctx: &mut Context<'_>) -> ClientTerms {
        ClientTerms { persistent: self.terms.persistent && !ctx.draining, ..self.terms }
    }
}

/// Returns whether no other address of the pod's name is tried after this error.
fn is_final(error: UpstreamError) -> bool {
    match error {
        UpstreamError::NoDescriptors => true, // another address needs one too
        // The name leads to a pod that cannot prove that it is the requested one: to try others would hide that.
        UpstreamError::Tls(fault) => fault.is_trust(),
        _ => false,
    }
}
