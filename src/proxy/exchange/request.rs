//! Turns the bytes of a request into a plan: a page, a pod to connect to, or a refusal.
//!
//! Owns the wait for a head, and the refusals that follow from the head alone. Never writes a response.

use std::{mem, time::Duration};

use super::{
    authenticate::{Obstacle, Proof},
    named_pod::NamedPod,
    states::{Exchange, HOPS_MAX, Reading},
    transaction::{ClientTerms, SPARE_REQUEST_BYTES_MAX, Transaction},
};
use crate::{
    http1::{
        field::Name,
        framing::{self, Framing},
        head::{self, RequestHead, Target},
        rewrite::{self, Host, RequestEdit},
    },
    proxy::{
        events::{Context, Event, Output},
        logged,
        outcome::{Failure, Outcome},
        route::{self, Destination, PodRoute, Route, RouteName},
    },
};

impl Reading {
    /// Handles an event while a request's head is incomplete.
    #[inline]
    pub(super) fn on_event(self, event: Event<'_>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        match event {
            Event::Request(bytes) => self.request(bytes, ctx, out),
            Event::Timeout { .. } if self.begun() => {
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx);
                transaction.fail(Outcome::RequestTimeout.into(), ctx.settings.timeouts.header, ctx, out)
            }
            Event::Timeout { .. } | Event::ClientGone => Exchange::close(out),
            Event::ClientEnded => Exchange::deliver(true, ctx, out),
            Event::TlsFailed => Exchange::deliver_alert(ctx.now, out),
            Event::CloseIfIdle { client_stalled: true } if !self.begun() => {
                Exchange::deliver(false, ctx, out)
            }
            Event::CloseIfIdle { client_stalled: false } if !self.begun() => Exchange::close(out),
            Event::TurnAway if !self.begun() => {
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx);
                transaction.fail(Outcome::TooManyClients.into(), Duration::ZERO, ctx, out)
            }
            _ => Exchange::Reading(self),
        }
    }

    /// Handles bytes of a request.
    pub(super) fn request(self, bytes: &[u8], ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        // RFC 9112 section 2.2: empty lines before a request line are skipped.
        let skipped = 2 * bytes.chunks_exact(2).take_while(|two| two == b"\r\n").count();
        out.used = skipped;
        let bytes = &bytes[skipped..];
        if matches!(bytes, b"" | b"\r") {
            return Exchange::Reading(self); // no byte of a request yet
        }
        if !head::worth_another_look(bytes, self.seen as usize, head::REQUEST_HEAD_BYTES_MAX) {
            return Exchange::Reading(Self { seen: bytes.len() as u32, ..self });
        }
        let next = head::request(bytes, |head| {
            out.used += head.bytes.len();
            self.plan(&head, None, ctx, out)
        });
        match next {
            Ok(Some(next)) => next,
            Ok(None) => {
                let first = ctx.now + ctx.settings.timeouts.header;
                let until = if self.begun() { self.until } else { first };
                Exchange::Reading(Self { until, seen: bytes.len() as u32, ..self })
            }
            Err(error) => {
                out.used = skipped + bytes.len(); // never parsed as another request
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx);
                transaction.fail(Failure::of_request(error), Duration::ZERO, ctx, out)
            }
        }
    }

    /// Decides what to do with a complete head. Whether the connection persists follows from the head, whatever the
    /// outcome of the request: it must be clear where the next request begins. A request that had to wait for a check
    /// of its password comes here again, with the proof.
    pub(super) fn plan(
        self,
        head: &RequestHead<'_, '_>,
        proof: Option<Proof>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let framing = framing::of_request(head);
        let to_head = head.method == "HEAD";
        let persistent = head.persistent() && framing == Ok(Framing::Empty) && !self.turned_away;
        let terms = ClientTerms { version: head.version, to_head, persistent: persistent && !ctx.draining };
        let mut transaction = Transaction::begin(terms, ctx);
        if let Some(proof) = proof {
            transaction.prove(proof);
        }
        let line = || Some(logged::request(head.method, head.target).into());
        if ctx.settings.access_log {
            transaction.line = line();
        }
        if !ctx.client.is_encrypted && ctx.settings.access.refuses_plain(head) {
            transaction.line = line();
            return transaction.refuse_plain(head, ctx, out);
        }
        if let Ok(framing) = framing
            && head.method == "CONNECT"
            && !self.turned_away
        {
            transaction.line = line();
            return transaction.plan_tunnel(head, framing, ctx, out);
        }
        let framing = framing.map_err(|error| Obstacle::Failure(Failure::of_request_framing(error)));
        let route = framing.and_then(|framing| {
            self.check(head, framing, &mut transaction, ctx)?;
            Ok(route::resolve(head.target)?)
        });
        match route {
            Ok(Route::Page(page)) => transaction.page(page, ctx, out),
            Ok(Route::Pod(pod)) => {
                if matches!(pod.destination, Destination::Name(..)) {
                    transaction.line = line();
                }
                transaction.to_pod(head, &pod, ctx, out)
            }
            Err(obstacle) => {
                transaction.line = line();
                transaction.stop(obstacle, head, self.turned_away, ctx, out)
            }
        }
    }

    /// Checks the client, and everything but the details of the target. Records the route.
    fn check(
        self,
        head: &RequestHead<'_, '_>,
        framing: Framing,
        transaction: &mut Transaction,
        ctx: &mut Context<'_>,
    ) -> Result<(), Obstacle> {
        let route = RouteName::of(head.target);
        // Probes and metrics are answered at the client limit too: a restart would not help.
        if self.turned_away && !matches!(route, RouteName::Page(_)) {
            return Err(Outcome::TooManyClients.into());
        }
        transaction.route = route;
        transaction.authenticate(head, ctx)?;
        match (transaction.route, head.target) {
            (RouteName::None, Target::Origin { .. }) => Err(Outcome::NotFound.into()),
            _ if !matches!(head.method, "GET" | "HEAD") => Err(Outcome::MethodNotAllowed.into()),
            _ if framing != Framing::Empty => Err(Outcome::RequestBody.into()),
            _ => Ok(()),
        }
    }
}

impl Transaction {
    pub(super) fn begin(terms: ClientTerms, ctx: &mut Context<'_>) -> Box<Self> {
        let until = ctx.now + ctx.settings.timeouts.scrape;
        let mut transaction =
            ctx.recycler.take_transaction().unwrap_or_else(|| Box::new(Self::new(terms, ctx.now, until)));
        let request = mem::take(&mut transaction.request);
        *transaction = Self { request, ..Self::new(terms, ctx.now, until) };
        transaction
    }

    /// Records a destination, and checks whether it may be reached: as an address, or before it is resolved.
    #[inline]
    pub(super) fn authorize(
        &mut self,
        head: &RequestHead<'_, '_>,
        destination: Destination<'_>,
        ctx: &Context<'_>,
    ) -> Result<(), Outcome> {
        let judged = match destination {
            Destination::Address(peer) => {
                self.peer = Some(peer);
                ctx.settings.policy.authorize(peer)
            }
            Destination::Name(name, port) => self.authorize_name(name, port, ctx),
        };
        if head.hops() < HOPS_MAX { judged } else { Err(Outcome::Loop) }
    }

    fn authorize_name(&mut self, name: &str, port: u16, ctx: &Context<'_>) -> Result<(), Outcome> {
        self.named = Some(Box::new(NamedPod::new(name, port)));
        ctx.settings.policy.authorize_name(name, port)
    }

    /// Connects to a pod, or resolves its name first, if the policy allows it.
    #[inline]
    fn to_pod(
        mut self: Box<Self>,
        head: &RequestHead<'_, '_>,
        pod: &PodRoute<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let tls = self.authorize(head, pod.destination, ctx);
        let tls = match tls.and_then(|()| ctx.settings.pods.tls_profile(pod, ctx.client)) {
            Ok(tls) => tls,
            Err(outcome) => return self.fail(outcome.into(), Duration::ZERO, ctx, out),
        };
        match pod.destination {
            Destination::Address(peer) => {
                let peer = peer.with_tls(tls);
                self.peer = Some(peer);
                let host = pod.authority.map_or(Host::Address(peer.socket_addr()), Host::Authority);
                self.write_request(head, pod, host, ctx);
                self.connect_to(peer, ctx, out)
            }
            Destination::Name(..) => {
                if let Some(named) = &mut self.named {
                    named.tls = tls;
                }
                self.to_name(head, pod, ctx, out)
            }
        }
    }

    /// Resolves the name of a pod, to connect to one of its addresses.
    fn to_name(
        mut self: Box<Self>,
        head: &RequestHead<'_, '_>,
        pod: &PodRoute<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let by_name = self.named.as_ref().map(ToString::to_string).unwrap_or_default();
        self.write_request(head, pod, Host::Authority(pod.authority.unwrap_or(&by_name)), ctx);
        self.resolve(ctx, out)
    }

    /// Writes the request for the pod, and sets the deadline.
    #[inline]
    fn write_request(
        &mut self,
        head: &RequestHead<'_, '_>,
        pod: &PodRoute<'_>,
        host: Host<'_>,
        ctx: &mut Context<'_>,
    ) {
        self.until = self.started + ctx.settings.timeouts.patience(head.first(Name::ScrapeTimeout));
        let edit = RequestEdit { host, without: self.used_up, with: &[] };
        rewrite::request(&mut self.request, head, &pod.target.parts(), &edit);
        self.request.shrink_to(SPARE_REQUEST_BYTES_MAX);
    }
}
