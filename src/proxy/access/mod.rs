//! Decides which clients are served: by their address, and by the secret or the password that their requests carry.
//!
//! Owns the order of the checks. It touches no socket and reads no clock or file:
//!
//! - [`clients`]: the addresses that may connect;
//! - [`credentials`]: the credentials in a header, and their grammar;
//! - [`tokens`]: the accepted secrets;
//! - [`users`]: the users of a web configuration file, and what is known about their passwords;
//! - `bcrypt`: how their passwords are hashed;
//! - [`checks`]: the passwords that wait for a check;
//! - [`attempts`]: how often one address may send a wrong secret.

pub mod attempts;
#[cfg(feature = "web-config")]
pub mod bcrypt;
pub mod checks;
pub mod clients;
pub mod credentials;
pub mod tokens;
#[cfg(feature = "web-config")]
pub mod users;
#[cfg(not(feature = "web-config"))]
#[path = "no_users.rs"]
pub mod users;

use std::{net::IpAddr, sync::Arc};

use self::{
    attempts::Attempts,
    clients::ClientRanges,
    credentials::{Credentials, DECODED_BYTES_MAX, split_scheme},
    tokens::Tokens,
    users::{Login, LoginId, Users, Verdict},
};
use super::{
    route::{Page, RouteName},
    timestamp::Timestamp,
};
use crate::http1::{
    field::{Name, Names},
    head::RequestHead,
};

/// Which clients are served. The default: all.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The addresses that may connect.
    pub clients: ClientRanges,
    /// The accepted secrets, if any.
    pub tokens: Option<Arc<Tokens>>,
    /// The users of a web configuration file, if any. Their passwords are needed in addition to a certificate.
    pub users: Option<Arc<Users>>,
    /// Whether `/` and `/metrics` need credentials too. With users they always do, as those of exporters.
    pub guards_pages: bool,
    /// Whether a client's verified certificate counts as credentials.
    pub client_certificates: bool,
    /// Whether the operator requires TLS.
    pub encrypted_only: bool,
}

/// What is known about a client, apart from its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// Its address, if known. IPv4-mapped addresses are converted to IPv4.
    pub ip: Option<IpAddr>,
    /// Whether its connection is encrypted.
    pub is_encrypted: bool,
    /// Whether it presented a certificate that was verified, which counts as credentials.
    pub has_proven_itself: bool,
}

/// The reason why a request is refused, or has to wait.
#[derive(Debug)]
pub enum Denial {
    /// It has no credentials.
    Missing,
    /// Its credentials are not accepted.
    Wrong(&'static str),
    /// Its address sent too many wrong secrets. The credentials were not checked.
    TooManyAttempts,
    /// Its password has to be checked first.
    Unchecked(Login),
}

impl Access {
    /// Returns whether requests need credentials: a secret, or a certificate.
    pub fn is_authenticated(&self) -> bool {
        self.tokens.is_some() || self.users.is_some() || self.client_certificates
    }

    /// Returns whether any client that connects can scrape.
    pub fn is_unrestricted(&self) -> bool {
        self.clients.is_any() && !self.is_authenticated()
    }

    /// Returns whether requests over plain HTTP are refused, except probes. Without secrets, certificates are the only
    /// credentials, and plain HTTP has none.
    pub fn is_encrypted_only(&self) -> bool {
        self.encrypted_only || self.client_certificates && self.tokens.is_none()
    }

    /// Returns whether this request is refused if it came over plain HTTP. Probes are exempt: kubelets and load
    /// balancers have no certificate for psystrike, and many cannot verify its own.
    #[inline]
    pub fn refuses_plain(&self, head: &RequestHead<'_, '_>) -> bool {
        self.is_encrypted_only() && !is_probe(head)
    }

    /// Returns whether requests on this route need credentials.
    #[inline]
    pub fn guards(&self, route: RouteName) -> bool {
        self.is_authenticated()
            && match route {
                RouteName::Page(Page::Healthz | Page::Readyz) => false,
                RouteName::Page(Page::Index | Page::Metrics) => self.guards_pages || self.users.is_some(),
                RouteName::Pods | RouteName::Proxy | RouteName::Connect | RouteName::None => true,
            }
    }

    /// Checks the credentials of a request, and returns the headers that must not reach a pod. `proven` is a login that
    /// was just checked and is right.
    ///
    /// `Proxy-Authorization` is always for psystrike, so it decides alone if it is present. `Authorization` is for
    /// psystrike if it has one of its secrets or a login that is known to be right, and for the pod otherwise.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn authenticate(
        &self,
        head: &RequestHead<'_, '_>,
        client: &ClientFacts,
        proven: Option<LoginId>,
        attempts: &mut Attempts,
        now: Timestamp,
    ) -> Result<Names, Denial> {
        let judge = |credentials: Credentials<'_>| self.judge(credentials, client, proven, now);
        let is_alone = self.tokens.is_none() || self.users.is_some();
        if self.client_certificates && is_alone && !client.has_proven_itself {
            return Err(Denial::Missing); // without TLS, a client cannot present a certificate
        }
        let is_enough = client.has_proven_itself || self.tokens.is_none();
        if self.users.is_some() || !is_enough {
            let value = deciding_value(head)?;
            let mut buffer = [0; DECODED_BYTES_MAX];
            let credentials = Credentials::parse(value, &mut buffer).map_err(Denial::Wrong)?;
            if proven.is_none() && !attempts.may_check(client.ip, now) {
                return Err(Denial::TooManyAttempts);
            }
            match judge(credentials) {
                Verdict::Right => attempts.succeeded(client.ip, now),
                Verdict::Wrong => {
                    attempts.failed(client.ip, now);
                    return Err(Denial::Wrong(self.why_wrong()));
                }
                Verdict::Unchecked(login) => return Err(Denial::Unchecked(login)),
            }
        }
        let is_accepted = |value| {
            let mut buffer = [0; DECODED_BYTES_MAX];
            // A secret must not reach the pod without a scheme or in an unknown one either.
            let bare = [value, split_scheme(value).1].map(Credentials::Bearer);
            let parsed = Credentials::parse(value, &mut buffer);
            bare.into_iter().chain(parsed.ok()).any(|it| matches!(judge(it), Verdict::Right))
        };
        let is_used_up = head.fields.values(Name::Authorization).any(is_accepted);
        Ok(if is_used_up { Names::NONE.with(Name::Authorization) } else { Names::NONE })
    }

    /// Returns what is known about credentials. `proven` is a login that was just checked and is right.
    fn judge(
        &self,
        credentials: Credentials<'_>,
        client: &ClientFacts,
        proven: Option<LoginId>,
        now: Timestamp,
    ) -> Verdict {
        if self.tokens.as_ref().is_some_and(|tokens| tokens.accept(credentials.secret())) {
            return Verdict::Right;
        }
        match (&self.users, credentials) {
            (Some(users), Credentials::Basic { user, password }) => {
                if proven.is_some_and(|proven| proven == users.id(user, password)) {
                    return Verdict::Right;
                }
                users.judge(user, password, client.ip, now)
            }
            _ => Verdict::Wrong,
        }
    }

    /// Returns the detail of a refusal because of wrong credentials.
    pub fn why_wrong(&self) -> &'static str {
        match (&self.tokens, &self.users) {
            (Some(_), None) => "unknown secret",
            _ => "unknown user or wrong password",
        }
    }
}

/// Returns whether a request only asks for psystrike's health.
fn is_probe(head: &RequestHead<'_, '_>) -> bool {
    matches!(head.method, "GET" | "HEAD")
        && matches!(RouteName::of(head.target), RouteName::Page(Page::Healthz | Page::Readyz))
}

/// Returns the value with the credentials for psystrike.
fn deciding_value<'b>(head: &RequestHead<'b, '_>) -> Result<&'b [u8], Denial> {
    for (name, is_repeated) in [
        ("Proxy-Authorization", "more than one Proxy-Authorization header"),
        ("Authorization", "more than one Authorization header"),
    ] {
        let mut values = head.fields.values_of(name);
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => return Err(Denial::Wrong(is_repeated)), // each would be an attempt
            (Some(value), None) => return Ok(value),
            (None, _) => {}
        }
    }
    Err(Denial::Missing)
}
