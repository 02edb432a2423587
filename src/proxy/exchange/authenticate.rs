//! Checks that a request came over TLS if it must, and its credentials, before its target is judged.
//!
//! Owns the outcome of a denial, and the wait for the check of a password: the head of the request is kept, and planned
//! again once the password proved right. [`crate::proxy::access`] decides.

use std::time::Duration;

use super::{
    states::{Exchange, Held, Reading},
    transaction::Transaction,
};
use crate::{
    http1::{
        field::Name,
        head::{self, RequestHead},
    },
    proxy::{
        access::{
            Denial,
            checks::Checked,
            users::{Login, LoginId},
        },
        events::{Context, Event, Output, UpstreamAction},
        outcome::{Failure, Outcome},
        route::RouteName,
        timestamp::Timestamp,
    },
};

/// The reason why a request cannot be planned to its end.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// It is refused.
    Failure(Failure),
    /// Its password has to be checked first.
    Unchecked(Login),
}

impl From<Failure> for Obstacle {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Outcome> for Obstacle {
    fn from(outcome: Outcome) -> Self {
        Self::Failure(outcome.into())
    }
}

/// The proof that a password is right, and since when and until when its request waited for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    login: LoginId,
    started: Timestamp,
    until: Timestamp,
}

impl Transaction {
    /// Refuses a request over plain HTTP. Its credentials are not checked: the response would show whether a secret is
    /// valid.
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
    ) -> Result<(), Obstacle> {
        if ctx.settings.access.guards(self.route) { self.check_credentials(head, ctx) } else { Ok(()) }
    }

    #[inline(never)]
    fn check_credentials(
        &mut self,
        head: &RequestHead<'_, '_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Obstacle> {
        let access = &ctx.settings.access;
        match access.authenticate(head, ctx.client, self.proven, ctx.attempts, ctx.now) {
            Ok(used_up) => {
                self.used_up = used_up;
                Ok(())
            }
            Err(Denial::Unchecked(login)) => Err(Obstacle::Unchecked(login)),
            Err(Denial::Missing) => Err(self.unauthenticated(None).into()),
            Err(Denial::Wrong(detail)) => Err(self.unauthenticated(Some(detail)).into()),
            Err(Denial::TooManyAttempts) => {
                self.terms.persistent = false; // the next guess costs a connection
                Err(Outcome::TooManyAuthenticationFailures.into())
            }
        }
    }

    /// Returns the failure of a request without credentials, or with wrong ones.
    fn unauthenticated(&self, detail: Option<&'static str>) -> Failure {
        let is_to_proxy = matches!(self.route, RouteName::Proxy | RouteName::Connect);
        let outcome = match (is_to_proxy, detail) {
            (true, None) => Outcome::ProxyAuthenticationRequired,
            (false, None) => Outcome::AuthenticationRequired,
            (true, Some(_)) => Outcome::ProxyAuthenticationFailed,
            (false, Some(_)) => Outcome::AuthenticationFailed,
        };
        Failure { outcome, detail }
    }

    /// Refuses a request, or waits for the check of its password.
    pub(super) fn stop(
        mut self: Box<Self>,
        obstacle: Obstacle,
        head: &RequestHead<'_, '_>,
        turned_away: bool,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let login = match obstacle {
            Obstacle::Failure(failure) => return self.fail(failure, Duration::ZERO, ctx, out),
            Obstacle::Unchecked(login) => login,
        };
        if self.proven.is_none() {
            self.until = self.started + ctx.settings.timeouts.patience(head.first(Name::ScrapeTimeout));
        }
        out.upstream = UpstreamAction::CheckPassword;
        let held = Held { transaction: self, head: head.bytes.into(), turned_away };
        Exchange::Authenticating { held: Box::new(held), login }
    }

    /// Continues a request that waited for the check of its password.
    pub(super) fn prove(&mut self, proof: Proof) {
        self.proven = Some(proof.login);
        (self.started, self.until) = (proof.started, proof.until);
    }
}

impl Held {
    /// Handles an event while the password is not checked.
    pub(super) fn authenticating(
        self: Box<Self>,
        login: Login,
        event: Event<'_>,
        ctx: &mut Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        let Self { mut transaction, .. } = match event {
            Event::PasswordChecked(Checked::Right) => return self.plan_again(login.id(), ctx, out),
            Event::PasswordChecked(_) | Event::Timeout { .. } => *self,
            _ => return Exchange::Authenticating { held: self, login },
        };
        let within = transaction.patience();
        let failure = match event {
            Event::PasswordChecked(Checked::Wrong) => {
                ctx.attempts.failed(ctx.client.ip, ctx.now);
                transaction.unauthenticated(Some(ctx.settings.access.why_wrong()))
            }
            Event::Timeout { .. } => Outcome::PasswordCheckTimeout.into(),
            _ => {
                transaction.terms.persistent = false; // the next attempt costs a connection
                Outcome::PasswordChecksFull.into()
            }
        };
        transaction.give_up_within(within, failure, ctx, out)
    }

    /// Plans the request now that its password is known to be right. The settings may have changed meanwhile: then the
    /// password may have to be checked again.
    fn plan_again(self, login: LoginId, ctx: &mut Context<'_>, out: &mut Output) -> Exchange {
        let Self { transaction, head, turned_away } = self;
        let proof = Proof { login, started: transaction.started, until: transaction.until };
        ctx.recycler.put_transaction(transaction);
        let reading = Reading { until: proof.until, seen: 0, turned_away };
        let planned = head::request(&head, |head| reading.plan(&head, Some(proof), ctx, out));
        planned.ok().flatten().unwrap_or(Exchange::Closed)
    }
}
