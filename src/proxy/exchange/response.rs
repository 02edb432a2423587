//! Handles the pod's response, from its first byte to the end of its body.
//!
//! Decides which bytes are forwarded and which heads are refused. [`http1::body`](crate::http1::body) finds the end of
//! a body.

use std::ops::Range;

use super::{
    states::Exchange,
    transaction::{Response, Transaction},
};
use crate::{
    http1::{
        body::{BodyScanner, Progress, Scan},
        framing::{self, Framing},
        head::{self, ResponseHead, Version},
        lenient::{self, Lenient},
        rewrite::{self, Persistence, ResponseEdit},
    },
    proxy::{
        events::{Context, Event, Output, UpstreamAction},
        outcome::{Failure, Outcome},
        route::{self, Responder, RouteName},
    },
};

/// Maximum number of interim responses (1xx) to one request.
const INTERIM_RESPONSES_MAX: u8 = 8;

impl Transaction {
    /// Handles an event while the body is incomplete.
    #[inline]
    pub(super) fn relaying(
        self: Box<Self>,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            Event::Response(bytes) => self.body(bytes, ctx, out),
            Event::Spliced(bytes) => self.spliced(bytes, ctx, out),
            Event::UpstreamEof { clean } => match self.response.scanner.end_of_connection() {
                // Only TLS has ends that are not clean.
                Ok(()) if !clean => self.broken(truncated(Some("no TLS close_notify")), ctx, out),
                Ok(()) => self.ended(false, out),
                Err(error) => self.broken(Failure::of_body(error), ctx, out),
            },
            Event::UpstreamFailed(error) => self.broken(truncated(error.tls_reason()), ctx, out),
            Event::Timeout { client_stalled: false } => {
                self.broken(Outcome::ResponseBodyTimeout.into(), ctx, out)
            }
            Event::Timeout { client_stalled: true } => self.reset(Outcome::ClientTimeout, ctx, out),
            _ => Exchange::Relaying(self),
        }
    }

    /// Handles bytes of a response.
    #[inline]
    pub(super) fn response(
        mut self: Box<Self>,
        bytes: &mut [u8],
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        if self.is_left_behind(bytes) {
            return self.retry(ctx, out);
        }
        self.first_byte.get_or_insert(ctx.now);
        let look = head::worth_another_look(bytes, self.seen, head::RESPONSE_HEAD_BYTES_MAX);
        self.seen = bytes.len();
        if !look {
            return self.wait();
        }
        let read = head::response(bytes, |head| self.met(&head, ctx, out));
        let read = match read.map_err(Failure::of_response).and_then(Option::transpose) {
            Err(failure) if failure.outcome == Outcome::MalformedResponse => {
                self.response_leniently(bytes, failure, ctx, out)
            }
            read => read,
        };
        match read {
            Ok(None) => self.wait(),
            Ok(Some(Head::Interim)) => {
                self.interim_responses += 1;
                self.seen = 0;
                self.wait()
            }
            Ok(Some(Head::Stale)) => self.retry(ctx, out),
            Ok(Some(Head::Final(head))) => {
                let pass = out.pass.start..head;
                let moved = self.response.follow(&mut bytes[head..]);
                if let Progress::Broken(error) = moved.0.progress {
                    return self.give_up(Failure::of_body(error), ctx, out);
                }
                self.terms = self.terms_now(ctx);
                self.terms.persistent &= !self.response.until_close;
                self.moved(moved, bytes.len() - head, pass, ctx, out)
            }
            Err(failure) => self.give_up(failure, ctx, out),
        }
    }

    /// Classifies a head, and puts its forwarded bytes into `out`.
    fn met(
        &mut self,
        head: &ResponseHead<'_, '_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Result<Head, Failure> {
        match head.status {
            101 => Err(Outcome::SwitchedProtocols.into()),
            100..=199 => self.interim(head, out).map(|()| Head::Interim),
            status if self.is_stale(status) => Ok(Head::Stale),
            status => {
                self.pod_status = Some(status);
                self.head(head, ctx, out).map(|()| Head::Final(head.bytes.len()))
            }
        }
    }

    /// Forwards a head that breaks the grammar, as `failure` describes, if it is still unambiguous.
    fn response_leniently(
        &mut self,
        bytes: &[u8],
        failure: Failure,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Result<Option<Head>, Failure> {
        let (normalised, length) = match lenient::normalise(bytes) {
            Lenient::Head { bytes, length } => (bytes, length),
            Lenient::Partial if bytes.len() < head::RESPONSE_HEAD_BYTES_MAX => return Ok(None),
            Lenient::Partial => return Err(Outcome::ResponseHeadersTooLarge.into()),
            Lenient::Refused => return Err(failure),
        };
        out.head.clear();
        let read = head::response(&normalised, |head| self.met(&head, ctx, out));
        let read = read.map_err(Failure::of_response).and_then(Option::transpose)?;
        match read {
            Some(Head::Final(_)) => {
                if !out.pass.is_empty() {
                    out.head.extend_from_slice(&normalised);
                }
                out.pass = length..length;
                Ok(Some(Head::Final(length)))
            }
            Some(Head::Interim) => {
                out.used = length;
                Ok(Some(Head::Interim))
            }
            read => Ok(read),
        }
    }

    /// Forwards an interim response, unless the client's version lacks them (RFC 9110 section 15.2).
    fn interim(&self, head: &ResponseHead<'_, '_>, out: &mut Output) -> Result<(), Failure> {
        if self.interim_responses == INTERIM_RESPONSES_MAX {
            let detail = Some("too many interim responses");
            return Err(Failure { outcome: Outcome::MalformedResponse, detail });
        }
        out.used = head.bytes.len();
        if self.terms.version == Version::Http11 {
            let edit =
                ResponseEdit { persistence: Persistence::Implied, unchunk: true, location: None, date: None };
            rewrite::response(&mut out.head, head, &edit);
        }
        Ok(())
    }

    /// Forwards the head of the final response, and determines the framing of its body.
    fn head(
        &mut self,
        head: &ResponseHead<'_, '_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let framing = framing::of_response(head, self.terms.to_head).map_err(Failure::of_response_framing)?;
        let old = self.terms.version == Version::Http10;
        let unchunk = old && framing == Framing::Chunked;
        let until_close = unchunk || framing == Framing::UntilClose;
        let persistence = if until_close { Persistence::Close } else { self.terms_now(ctx).persistence() };
        // A client that sent the absolute form follows a `Location` through its proxy.
        let location = head.location().filter(|_| self.route == RouteName::Pods);
        let location = location.and_then(|location| self.location_through_us(location, ctx));
        let date = (!head.is_dated()).then(|| ctx.pages.date());
        // An HTTP/1.0 client gets no Transfer-Encoding even if there is no body.
        let edit = ResponseEdit { persistence, unchunk: old, location, date };
        if edit.is_none(head) {
            out.pass = 0..head.bytes.len();
        } else {
            rewrite::response(&mut out.head, head, &edit);
            out.pass = head.bytes.len()..head.bytes.len();
        }
        (self.outcome, self.status) = (Outcome::Forwarded, head.status);
        self.response = Response {
            scanner: BodyScanner::new(framing),
            unchunk,
            until_close,
            upstream_persists: head.persistent()
                && framing != Framing::UntilClose
                && self.is_sent()
                && (!self.terms.to_head || sends_no_body(head)),
        };
        Ok(())
    }

    /// Rewrites a `Location` to a path of psystrike, if it leads to the same pod.
    fn location_through_us(&self, location: &[u8], ctx: &Context<'_>) -> Option<String> {
        let implied = ctx.settings.pods.implied_scheme(ctx.client);
        let name = self.named.as_ref().map(|pod| &*pod.name);
        route::location_through_us(location, &Responder { peer: self.peer?, name, implied }, self.asked())
    }

    /// Handles bytes of the body.
    pub(super) fn body(
        mut self: Box<Self>,
        bytes: &mut [u8],
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let moved = self.response.follow(bytes);
        self.moved(moved, bytes.len(), 0..0, ctx, out)
    }

    /// Handles spliced bytes, which are unread.
    pub(super) fn spliced(
        mut self: Box<Self>,
        bytes: u64,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let scanned = self.response.scanner.skip_opaque(bytes);
        self.moved((scanned, scanned.bytes), bytes as usize, 0..0, ctx, out)
    }

    /// Forwards the scanned bytes of the body after `pass`, and uses all `available` ones.
    fn moved(
        self: Box<Self>,
        (scanned, kept): (Scan, usize),
        available: usize,
        pass: Range<usize>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        out.pass = pass.start..pass.end + kept;
        out.used = pass.end + available;
        match scanned.progress {
            Progress::More | Progress::Extension => Exchange::Relaying(self),
            // Bytes after the end belong to no response, so the connection is not reused.
            Progress::Ended => self.ended(scanned.bytes == available, out),
            Progress::Broken(error) => self.broken(Failure::of_body(error), ctx, out),
        }
    }

    /// Ends the body; `exactly` is whether no byte followed it.
    pub(super) fn ended(self: Box<Self>, exactly: bool, out: &mut Output) -> Exchange {
        let keep = exactly && self.response.upstream_persists;
        out.upstream = if keep { UpstreamAction::Keep } else { UpstreamAction::Close };
        Exchange::Replying(self)
    }
}

/// Returns whether a response to HEAD shows that no body follows it. Some servers (cheroot, waitress, civetweb) send
/// the body of a GET, which would precede the next response on the connection.
fn sends_no_body(head: &ResponseHead<'_, '_>) -> bool {
    framing::of_response(head, false) == Ok(Framing::Empty)
}

/// Returns the failure for a body that ended too early.
fn truncated(detail: Option<&'static str>) -> Failure {
    Failure { outcome: Outcome::ResponseTruncated, detail }
}

/// The class of a response head.
enum Head {
    /// An interim response (1xx): another one follows.
    Interim,
    /// The final response, and the length of its head.
    Final(usize),
    /// A response to another request.
    Stale,
}
