//! Decides which failures are retried: those of a reused connection that the pod has closed, or on which it sends bytes
//! that are no response to this request. They are retried once, on a new connection.
//!
//! Every other failure is reported to the client.

use super::{states::Exchange, transaction::Transaction};
use crate::proxy::{
    events::{Context, Output, UpstreamAction},
    outcome::{Failure, Outcome, UpstreamError},
};

/// The first bytes of every response.
const RESPONSE_START: &[u8] = b"HTTP/";

impl Transaction {
    /// Returns whether the request is on a reused connection and no response to it has begun.
    fn is_unanswered(&self) -> bool {
        self.reused && self.interim_responses == 0 && self.seen < RESPONSE_START.len()
    }

    /// Returns whether these first bytes on a reused connection are left over from another response: they came before
    /// the request was sent, or do not begin a response, such as a body after the response to a HEAD request. They
    /// must not become part of this response.
    #[inline]
    pub(super) fn is_left_behind(&self, bytes: &[u8]) -> bool {
        if self.sent == 0 { self.reused } else { self.is_unanswered() && !starts_like_a_response(bytes) }
    }

    /// Returns whether a response with this status does not belong to this request. RFC 9110 section 15.5.9: a 408 sent
    /// on an idle connection may cross the request, which may then be repeated.
    #[inline]
    pub(super) fn is_stale(&self, status: u16) -> bool {
        status == 408 && self.reused && self.interim_responses == 0
    }

    /// Handles the loss of the pod's connection before the response's head was complete.
    pub(super) fn upstream_lost(
        self: Box<Self>,
        error: Option<UpstreamError>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let failure = match (self.first_byte, error) {
            // RFC 9112 section 9.3.1: the pod closed the connection while the request was sent.
            _ if self.is_unanswered() => return self.retry(ctx, out),
            (Some(_), error) => Failure {
                outcome: Outcome::ResponseHeadersTruncated,
                detail: error.and_then(UpstreamError::tls_reason),
            },
            // RFC 8446 appendix E.1.2: that a pod rejects psystrike's certificate may arrive after the handshake.
            (None, Some(UpstreamError::Tls(fault))) => Failure::of_tls(fault),
            (None, _) => Outcome::NoResponse.into(),
        };
        self.give_up(failure, ctx, out)
    }

    /// Sends the request once more on a new connection, as the reused one was stale: GET and HEAD are idempotent.
    pub(super) fn retry(mut self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        let Some(peer) = self.peer else { return self.give_up(Outcome::NoResponse.into(), ctx, out) };
        out.upstream = UpstreamAction::Retry(peer);
        (self.reused, self.sent, self.seen, self.first_byte) = (false, 0, 0, None);
        self.connect(ctx)
    }
}

/// Returns whether the first bytes on a connection may begin a response.
fn starts_like_a_response(bytes: &[u8]) -> bool {
    bytes.iter().zip(RESPONSE_START).all(|(byte, expected)| byte == expected)
}
