//! The state machine: one request, its pod, its answer.
//!
//! Owns every transition of an exchange, and nothing else does. It reads no clock and touches no socket: what
//! happened comes in as an [`Event`], at a time that the caller names, and what is to be done goes out as an
//! [`Output`]. A failure is a transition like any other; where it leads is decided here too.
//!
//! ```text
//! Reading -> Replying (own page, refusal)           -> Reading | Lingering
//! Reading: head out of time                         -> Replying 408
//! Reading: silent while others wait for its place   -> Replying 503
//! Reading: idle too long, drained                   -> Closed
//! Reading -> Connecting -> Sending -> Awaiting -> Relaying -> Replying -> Reading | Lingering
//! Connecting: refused, timed out                    -> Replying 502, 504
//! Sending | Awaiting: a reused connection died or was stale -> Connecting (fresh, once)
//! Sending | Awaiting: no answer, or no sound one    -> Replying 502, 504
//! Sending | Awaiting: 1xx                           -> as it was
//! Sending: an answer before all is sent             -> Relaying
//! Relaying: cut short, malformed, out of time       -> Lingering, visibly broken; an end is never faked
//! Relaying: out of time, and the client is behind   -> Closed
//! Replying: out of time                             -> Closed, reset
//! Lingering: all is delivered, or time is up        -> Closed
//! Reading .. Awaiting: buffers are full             -> Replying 503
//! Relaying: buffers are full                        -> Lingering, visibly broken
//! any: buffers are full, and the client is behind   -> Closed, reset
//! any: the client went away                         -> Closed, and the pod's connection with it
//! ```
//!
//! Replying is what is left when every byte of the answer, ours or the pod's, is handed over, and the client has
//! yet to take the last of them. The pod's connection is in the pool or closed by then.

mod end;
mod local;
mod request;
mod response;
mod retry;
mod states;
pub(super) mod transaction;
mod upstream;

use std::time::Duration;

use self::transaction::ClientTerms;
pub use self::{
    states::{Exchange, Lingering, Reading},
    transaction::Transaction,
};
use super::{
    events::{Context, Event, Output},
    outcome::Outcome,
};

impl Exchange {
    /// Goes on with what happened. An input that a state does not wait for changes nothing.
    pub fn step(self, input: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) -> Self {
        out.clear();
        match (self, input) {
            (state, Event::Timeout { .. }) if state.deadline().is_none_or(|at| ctx.now < at) => state,
            (Self::Closed, _) => Self::Closed,
            (state, Event::NoRoom { client_stalled }) => state.give_way(client_stalled, ctx, out),
            (
                Self::Connecting { transaction, .. }
                | Self::Sending(transaction)
                | Self::Awaiting(transaction)
                | Self::Relaying(transaction)
                | Self::Replying(transaction),
                Event::ClientGone,
            ) => transaction.client_gone(ctx, out),
            (Self::Reading(reading), event) => reading.on_event(event, ctx, out),
            (Self::Connecting { transaction, until }, event) => {
                transaction.connecting(until, event, ctx, out)
            }
            (Self::Sending(transaction), event) => transaction.sending(event, ctx, out),
            (Self::Awaiting(transaction), event) => transaction.awaiting(event, ctx, out),
            (Self::Relaying(transaction), event) => transaction.relaying(event, ctx, out),
            (Self::Replying(transaction), event) => transaction.replying(event, ctx, out),
            (Self::Lingering(lingering), event) => lingering.on_event(event, ctx, out),
        }
    }

    /// Nothing may be held for it any more. Where nothing of an answer is on its way, the client is told.
    #[cold]
    fn give_way(self, client_stalled: bool, ctx: &mut Context<'_>, out: &mut Output) -> Self {
        let outcome = Outcome::BuffersFull;
        match self {
            Self::Reading(reading) if reading.begun() => {
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx);
                transaction.fail(outcome.into(), Duration::ZERO, ctx, out)
            }
            Self::Connecting { mut transaction, .. }
            | Self::Sending(mut transaction)
            | Self::Awaiting(mut transaction)
                if !client_stalled =>
            {
                // What the client sent beyond this request goes too.
                transaction.terms.persistent = false;
                transaction.clear();
                transaction.give_up(outcome.into(), ctx, out)
            }
            Self::Replying(mut transaction) if !client_stalled => {
                transaction.terms.persistent = false;
                transaction.flushed(ctx, out)
            }
            Self::Connecting { transaction, .. }
            | Self::Sending(transaction)
            | Self::Awaiting(transaction)
            | Self::Relaying(transaction)
            | Self::Replying(transaction) => {
                if client_stalled {
                    transaction.reset(outcome, ctx, out)
                } else {
                    transaction.broken(outcome.into(), ctx, out)
                }
            }
            Self::Reading(_) | Self::Lingering(_) | Self::Closed => Self::close(out),
        }
    }
}
