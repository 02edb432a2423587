//! Resolves the name of a pod, and tries its addresses one after another.
//!
//! Decides which addresses are tried, and until when. A name is resolved once for a request, and only its authorized
//! addresses are connected to.

use std::time::Duration;

use super::{states::Exchange, transaction::Transaction};
use crate::proxy::{
    events::{Context, Event, Output, UpstreamAction},
    outcome::{Failure, Outcome},
    peer::Peer,
    resolver::Answer,
    route::RouteName,
    timestamp::Timestamp,
};

/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

impl Transaction {
    /// Requests the addresses of the pod's name.
    pub(super) fn resolve(self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        out.upstream = UpstreamAction::Resolve;
        let until = self.until.min(ctx.now + RESOLVE_TIMEOUT);
        Exchange::Resolving { transaction: self, until }
    }

    /// Handles an event while the addresses of the pod's name are not known.
    pub(super) fn resolving(
        self: Box<Self>,
        until: Timestamp,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        match event {
            Event::Resolved(answer) => self.resolved(answer, ctx, out),
            Event::Timeout { .. } => {
                let within = self.patience().min(RESOLVE_TIMEOUT);
                self.give_up_within(within, Outcome::LookupTimeout.into(), ctx, out)
            }
            _ => Exchange::Resolving { transaction: self, until },
        }
    }

    fn resolved(mut self: Box<Self>, answer: &Answer, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        let addresses = match answer {
            Ok(addresses) => addresses,
            Err(error) => return self.give_up(Failure::of_lookup(*error), ctx, out),
        };
        let mut first = None;
        if let Some(pod) = self.named.as_deref_mut() {
            pod.set_addresses(addresses, &ctx.settings.policy);
            first = pod.next_address();
        }
        let Some(peer) = first else {
            return self.give_up(Outcome::ResolvedNotAllowed.into(), ctx, out);
        };
        self.peer = Some(peer);
        self.connect_to(peer, ctx, out)
    }

    /// Returns the next address of the pod's name, if there is one and time is left.
    pub(super) fn next_address(&mut self, now: Timestamp) -> Option<Peer> {
        self.named.as_deref_mut().filter(|_| now < self.until)?.next_address()
    }

    /// Connects to another address of the pod's name, as the last one could not be connected to.
    pub(super) fn connect_next(
        mut self: Box<Self>,
        peer: Peer,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.peer = Some(peer);
        let for_tunnel = self.route == RouteName::Connect;
        out.upstream = if for_tunnel { UpstreamAction::Open(peer) } else { UpstreamAction::Next(peer) };
        self.connect(ctx)
    }
}
