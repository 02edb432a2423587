//! Ends exchanges: completely, visibly broken, or by a reset; and waits for the delivery of the last bytes.
//!
//! Owns lingering and the report. Never decides that an exchange failed.

use std::time::Duration;

use super::{
    states::{Exchange, Lingering, Reading},
    transaction::Transaction,
};
use crate::proxy::{
    events::{ClientAction, Context, Event, Output, Report, UpstreamAction},
    outcome::{Failure, Outcome},
    timestamp::Timestamp,
};

/// How long, and for how many bytes, a connection is read after its last response. Closing it with unread input would
/// reset it, and could destroy that response before the client reads it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection that is about to be closed is checked for whether its last response is delivered.
const LINGER_INTERVAL: Duration = Duration::from_millis(50);
const LINGER_BYTES_MAX: u32 = 256 * 1024;

impl Lingering {
    /// Handles an event while the last response is undelivered or the client has not closed its side.
    pub(super) fn on_event(self, event: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        match event {
            Event::Discarded(bytes) if bytes <= self.bytes_left as usize => {
                Exchange::Lingering(Self { bytes_left: self.bytes_left - bytes as u32, ..self })
            }
            Event::ClientEnded => Exchange::Lingering(Self { ended: true, ..self }),
            Event::Timeout { client_stalled } => self.on_timeout(client_stalled, ctx.now, out),
            Event::Discarded(_) | Event::ClientGone => Exchange::close(out),
            _ => Exchange::Lingering(self),
        }
    }

    /// Lingers to `until`, and on to `limit` while the response is undelivered.
    fn until(until: Timestamp, limit: Timestamp) -> Self {
        Self { until, limit: limit.max(until), bytes_left: LINGER_BYTES_MAX, ended: false, resets: false }
    }

    /// Checks the delivery. Closing waits until the response is delivered, to `limit` at most.
    pub(super) fn on_timeout(self, client_stalled: bool, now: Timestamp, out: &mut Output) -> Exchange {
        if client_stalled && now < self.limit {
            return Exchange::Lingering(Self { until: self.limit.min(now + LINGER_INTERVAL), ..self });
        }
        if self.resets {
            out.client = ClientAction::Reset;
            return Exchange::Closed;
        }
        Exchange::close(out)
    }
}

impl Exchange {
    pub(super) fn close(out: &mut Output) -> Self {
        out.client = ClientAction::Close;
        Self::Closed
    }

    /// Waits for the delivery of the last response: at most the time limit of a scrape, or less if other clients wait
    /// for the place.
    pub(super) fn deliver(ended: bool, ctx: &mut Context<'_>, out: &mut Output) -> Self {
        out.client = ClientAction::Shutdown;
        let is_urgent = !ended && !ctx.draining;
        let limit = ctx.now + if is_urgent { LINGER_TIMEOUT } else { ctx.settings.timeouts.scrape };
        Self::Lingering(Lingering { ended, ..Lingering::until(ctx.now + LINGER_INTERVAL, limit) })
    }

    /// Waits until the client has read why TLS failed, while it may still send.
    pub(super) fn deliver_alert(now: Timestamp, out: &mut Output) -> Self {
        out.client = ClientAction::Shutdown;
        Self::Lingering(Lingering::until(now + LINGER_TIMEOUT, now + LINGER_TIMEOUT))
    }
}

impl Transaction {
    /// Handles an event while the client has yet to take output.
    #[inline]
    pub(super) fn replying(
        self: Box<Self>,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            // A timeout may come before the event that the client took all output.
            Event::Flushed | Event::Timeout { client_stalled: false } => self.flushed(ctx, out),
            Event::Timeout { client_stalled: true } => {
                out.client = ClientAction::Reset;
                self.report(Outcome::ClientTimeout, ctx, out);
                Exchange::Closed
            }
            _ => Exchange::Replying(self),
        }
    }

    /// Ends the exchange after the client went away, and closes the pod's connection.
    pub(super) fn client_gone(self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        out.upstream = UpstreamAction::Close;
        self.report(Outcome::ClientClosedRequest, ctx, out);
        Exchange::close(out)
    }

    /// Breaks off a response of which a part is sent, in a way that the client notices.
    pub(super) fn broken(
        mut self: Box<Self>,
        failure: Failure,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.detail = failure.detail;
        self.within = self.patience();
        out.upstream = UpstreamAction::Close;
        // Earlier bytes, such as a previous response, are still delivered before the visible break.
        let limit = ctx.now + LINGER_TIMEOUT;
        let lingering = if self.response.until_close {
            Lingering { resets: true, ended: true, ..Lingering::until(ctx.now, limit) }
        } else {
            out.client = ClientAction::Shutdown;
            Lingering::until(limit, limit)
        };
        self.report(failure.outcome, ctx, out);
        Exchange::Lingering(lingering)
    }

    /// Resets the client's connection: the client did not take the response, and a part of it is sent.
    pub(super) fn reset(
        mut self: Box<Self>,
        outcome: Outcome,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.within = self.patience();
        out.upstream = UpstreamAction::Close;
        out.client = ClientAction::Reset;
        self.report(outcome, ctx, out);
        Exchange::Closed
    }

    /// Ends the exchange after the client took all output.
    pub(super) fn flushed(self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        let Context { now, settings, .. } = *ctx;
        let next = if self.terms.persistent {
            let until = now + settings.timeouts.client_idle;
            Exchange::Reading(Reading { until, seen: 0, turned_away: false })
        } else {
            out.client = ClientAction::Shutdown;
            Exchange::Lingering(Lingering::until(now + LINGER_TIMEOUT, self.until))
        };
        let outcome = self.outcome;
        self.report(outcome, ctx, out);
        next
    }

    /// Reports the end of the exchange, and recycles the transaction.
    pub(super) fn report(mut self: Box<Self>, outcome: Outcome, ctx: &mut Context<'_>, out: &mut Output) {
        let Self { route, status, pod_status, peer, started, first_byte, detail, within, .. } = *self;
        let status = if status == 0 { outcome.status() } else { status };
        let duration = ctx.now.since(started);
        let first_byte = first_byte.map(|at| at.since(started));
        let request = self.line.take();
        out.report = Some(Report {
            route,
            outcome,
            status,
            pod_status,
            peer,
            duration,
            first_byte,
            detail,
            within,
            request,
        });
        ctx.recycler.put_transaction(self);
    }
}
