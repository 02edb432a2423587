//! Handles CONNECT (RFC 9110 section 9.3.6): from a request to an open tunnel.
//!
//! Owns the rules for CONNECT in addition to those for every destination, and the response. The open tunnel is handled
//! by [`crate::proxy::tunnel`].

use super::{authenticate::Obstacle, states::Exchange, transaction::Transaction};
use crate::{
    http1::{framing::Framing, head::RequestHead},
    proxy::{
        events::{Context, Output},
        outcome::Outcome,
        route::{self, Destination, RouteName},
        tunnel::Tunnel,
    },
};

/// A response without framing fields: the bytes after it come from the pod (RFC 9110 section 9.3.6).
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

impl Transaction {
    /// Handles a CONNECT request: opens a connection of its own to the pod, or refuses the request.
    pub(super) fn plan_tunnel(
        mut self: Box<Self>,
        head: &RequestHead<'_, '_>,
        framing: Framing,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.route = RouteName::Connect;
        // If the request is refused, the bytes after it must not be parsed as another request.
        self.terms.persistent = false;
        match self.authorize_tunnel(head, framing, ctx) {
            Ok(Destination::Address(peer)) => self.connect_to(peer, ctx, out),
            Ok(Destination::Name(..)) => self.resolve(ctx, out),
            Err(obstacle) => self.stop(obstacle, head, false, ctx, out),
        }
    }

    /// Checks the client, and everything that can be checked before a name is resolved. Records the destination.
    fn authorize_tunnel<'a>(
        &mut self,
        head: &RequestHead<'_, 'a>,
        framing: Framing,
        ctx: &mut Context<'_>,
    ) -> Result<Destination<'a>, Obstacle> {
        self.authenticate(head, ctx)?;
        let Some(ports) = &ctx.settings.connect_ports else { return Err(Outcome::ConnectNotAllowed.into()) };
        if framing != Framing::Empty {
            return Err(Outcome::RequestBody.into());
        }
        let destination = route::resolve_connect(head.target)?;
        self.authorize(head, destination, ctx)?;
        if !ports.contain(destination.port()) {
            return Err(Outcome::ConnectPortNotAllowed.into());
        }
        Ok(destination)
    }

    /// Opens the tunnel once its connection is established.
    pub(super) fn open_tunnel(mut self: Box<Self>, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        self.status = Outcome::Tunnel.status();
        out.head.extend_from_slice(ESTABLISHED);
        self.report(Outcome::Tunnel, ctx, out);
        Exchange::Tunnel(Tunnel::new(ctx.now, ctx.settings.timeouts.tunnel_idle))
    }
}
