//! Checks that a request came over TLS if it must, and its credentials, before its target is judged.
//!
//! Owns the outcome of a denial. [`crate::proxy::access`] decides.

use std::time::Duration;

use super::{states::Exchange, transaction::Transaction};
use crate::{
    http1::head::RequestHead,
    proxy::{
        access::Denial,
        events::{Context, Output},
        outcome::{Failure, Outcome},
        route::RouteName,
    },
};

impl Transaction {
    /// Refuses a request over plain HTTP. Its credentials are not checked: the response would show whether a secret is
    /// valid.
    #[cold]
    pub(super) fn refuse_plain(
        mut self: Box<Self>,
        head: &RequestHead<'_, '_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.route = match head.method {
            "CONNECT" => RouteName::Connect,
            _ => RouteName::of(head.target),
        };
        self.terms.persistent = false; // another request on this connection would be refused too
        self.fail(Outcome::HttpsRequired.into(), Duration::ZERO, ctx, out)
    }

    /// Checks the credentials, if the route needs some.
    #[inline]
    pub(super) fn authenticate(
        &mut self,
        head: &RequestHead<'_, '_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if ctx.settings.access.guards(self.route) { self.check_credentials(head, ctx) } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn check_credentials(
        &mut self,
        head: &RequestHead<'_, '_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let denial = match ctx.settings.access.authenticate(head, ctx.client, ctx.attempts, ctx.now) {
            Ok(used_up) => {
                self.used_up = used_up;
                return Ok(());
            }
            Err(denial) => denial,
        };
        let is_to_proxy = matches!(self.route, RouteName::Proxy | RouteName::Connect);
        let (outcome, detail) = match denial {
            Denial::Missing if is_to_proxy => (Outcome::ProxyAuthenticationRequired, None),
            Denial::Missing => (Outcome::AuthenticationRequired, None),
            Denial::Wrong(detail) if is_to_proxy => (Outcome::ProxyAuthenticationFailed, Some(detail)),
            Denial::Wrong(detail) => (Outcome::AuthenticationFailed, Some(detail)),
            Denial::TooManyAttempts => {
                self.terms.persistent = false; // the next guess costs a connection
                (Outcome::TooManyAuthenticationFailures, None)
            }
        };
        Err(Failure { outcome, detail })
    }
}
