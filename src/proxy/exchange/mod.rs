//! The state machine of one request, its pod and its response.
//!
//! Owns every transition of an exchange. It reads no clock and touches no socket: an [`Event`] comes in with a time
//! from the caller, and an [`Output`] goes out with the actions. A failure is a transition like any other, and is
//! handled here too.
//!
//! ```text
//! Reading -> Replying (own page, refusal)                 -> Reading | Lingering
//! Reading: head incomplete in time                        -> Replying 408
//! Reading: turned away, too many clients                  -> Replying 503
//! Reading: idle timeout                                   -> Closed
//! Reading: drained, or idle longest                       -> Closed | Lingering
//! Reading: TLS with the client failed                     -> Lingering
//! Reading -> Authenticating (password to be checked)      -> Reading, with the same request: right
//! Authenticating: wrong, timed out, queue full            -> Replying 401, 407, 503
//! Reading -> Connecting -> Sending -> Awaiting -> Relaying -> Replying -> Reading | Lingering
//! Reading -> Resolving (pod given by name)                -> Connecting
//! Resolving: no such name, timed out, nothing allowed     -> Replying 502, 504, 403
//! Connecting: refused, timed out                          -> Connecting (next address) | Replying 502, 504
//! Sending | Awaiting: reused connection closed or stale   -> Connecting (new, once)
//! Sending | Awaiting: no valid response                   -> Replying 502, 504
//! Sending | Awaiting: 1xx                                 -> unchanged
//! Sending: response before all is sent                    -> Relaying
//! Relaying: cut short, malformed, timed out               -> Lingering, visibly broken; an end is never faked
//! Relaying: timed out, client stalled                     -> Closed, reset
//! Replying: timed out                                     -> Closed, reset
//! Lingering: delivered, timed out, buffers full           -> Closed
//! Reading | Authenticating .. Awaiting: buffers full      -> Replying 503
//! Relaying: buffers full                                  -> Lingering, visibly broken
//! Replying: buffers full                                  -> Lingering
//! Authenticating .. Replying: buffers full, client stalled -> Closed, reset
//! any: client gone                                        -> Closed, and the pod's connection with it
//! ```
//!
//! In Replying, the whole response, psystrike's or the pod's, has been output, and the client has yet to take the last
//! bytes. The pod's connection is already pooled or closed.

mod authenticate;
mod connect;
mod end;
mod local;
mod named_pod;
mod request;
mod resolving;
mod response;
mod retry;
mod states;
pub(super) mod transaction;
mod upstream;

use std::time::Duration;

use self::transaction::ClientTerms;
pub use self::{
    states::{Exchange, Held, Lingering, Reading},
    transaction::Transaction,
};
use super::{
    events::{Context, Event, Output},
    outcome::Outcome,
};

impl Exchange {
    /// Handles an event. An event that a state does not wait for changes nothing.
    pub fn step(self, input: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) -> Self {
        out.clear();
        match (self, input) {
            (state, Event::Timeout { .. }) if state.deadline().is_none_or(|at| ctx.now < at) => state,
            (state @ (Self::Closed | Self::Tunnel(_)), _) => state,
            (state, Event::NoRoom { client_stalled }) => state.free_buffers(client_stalled, ctx, out),
            (
                Self::Resolving { transaction, .. }
                | Self::Connecting { transaction, .. }
                | Self::Sending(transaction)
                | Self::Awaiting(transaction)
                | Self::Relaying(transaction)
                | Self::Replying(transaction),
                Event::ClientGone,
            ) => transaction.client_gone(ctx, out),
            (Self::Authenticating { held, .. }, Event::ClientGone) => held.transaction.client_gone(ctx, out),
            (Self::Reading(reading), event) => reading.on_event(event, ctx, out),
            (Self::Authenticating { held, login }, event) => held.authenticating(login, event, ctx, out),
            (Self::Resolving { transaction, until }, event) => transaction.resolving(until, event, ctx, out),
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

    /// Frees all buffers of the exchange. The client gets a response if none has begun.
    fn free_buffers(self, client_stalled: bool, ctx: &mut Context<'_>, out: &mut Output) -> Self {
        let outcome = Outcome::BuffersFull;
        match self {
            // As there: the request has been read, and nothing is sent yet.
            Self::Authenticating { held, .. } => {
                Self::Awaiting(held.transaction).free_buffers(client_stalled, ctx, out)
            }
            // Something of a request has arrived, although it may not have been read, or not decrypted.
            Self::Reading(_) => {
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx);
                transaction.fail(outcome.into(), Duration::ZERO, ctx, out)
            }
            Self::Resolving { mut transaction, .. }
            | Self::Connecting { mut transaction, .. }
            | Self::Sending(mut transaction)
            | Self::Awaiting(mut transaction)
                if !client_stalled =>
            {
                // Further requests that the client sent are discarded too.
                transaction.terms.persistent = false;
                transaction.clear();
                transaction.give_up(outcome.into(), ctx, out)
            }
            Self::Replying(mut transaction) if !client_stalled => {
                transaction.terms.persistent = false;
                transaction.flushed(ctx, out)
            }
            Self::Resolving { transaction, .. }
            | Self::Connecting { transaction, .. }
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
            Self::Lingering(_) | Self::Tunnel(_) | Self::Closed => Self::close(out),
        }
    }
}
