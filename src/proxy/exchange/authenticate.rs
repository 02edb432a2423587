//! Checks the credentials of a request, before its target is judged.
//!
//! Owns the outcome of a denial. [`crate::proxy::access`] decides.

use super::transaction::Transaction;
use crate::{
    http1::head::RequestHead,
    proxy::{
        access::Denial,
        events::Context,
        outcome::{Failure, Outcome},
        route::RouteName,
    },
};

impl Transaction {
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
