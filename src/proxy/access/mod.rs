//! Decides which clients are served: by their address, and by the secret that their requests carry.
//!
//! Owns the order of the checks. It touches no socket and reads no clock or file:
//!
//! - [`clients`]: the addresses that may connect;
//! - [`credentials`]: the credentials in a header, and their grammar;
//! - [`tokens`]: the accepted secrets;
//! - [`attempts`]: how often one address may send a wrong secret.

pub mod attempts;
pub mod clients;
pub mod credentials;
pub mod tokens;

use std::{net::IpAddr, sync::Arc};

use self::{
    attempts::Attempts,
    clients::ClientRanges,
    credentials::{Credentials, DECODED_BYTES_MAX},
    tokens::Tokens,
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
    /// Whether `/` and `/metrics` need credentials too.
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

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It has no credentials.
    Missing,
    /// Its credentials are not accepted.
    Wrong(&'static str),
    /// Its address sent too many wrong secrets. The credentials were not checked.
    TooManyAttempts,
}

impl Access {
    /// Returns whether requests need credentials: a secret, or a certificate.
    pub fn is_authenticated(&self) -> bool {
        self.tokens.is_some() || self.client_certificates
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
                RouteName::Page(Page::Index | Page::Metrics) => self.guards_pages,
                RouteName::Pods | RouteName::Proxy | RouteName::Connect | RouteName::None => true,
            }
    }

    /// Checks the credentials of a request, and returns the headers that must not reach a pod.
    ///
    /// `Proxy-Authorization` is always for psystrike, so it decides alone if it is present. `Authorization` is for
    /// psystrike if it has one of its secrets, and for the pod otherwise.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn authenticate(
        &self,
        head: &RequestHead<'_, '_>,
        client: &ClientFacts,
        attempts: &mut Attempts,
        now: Timestamp,
    ) -> Result<Names, Denial> {
        let Some(tokens) = &self.tokens else {
            let is_accepted = !self.client_certificates || client.has_proven_itself;
            return if is_accepted { Ok(Names::NONE) } else { Err(Denial::Missing) };
        };
        if !client.has_proven_itself {
            let value = deciding_value(head)?;
            let mut buffer = [0; DECODED_BYTES_MAX];
            let credentials = Credentials::parse(value, &mut buffer).map_err(Denial::Wrong)?;
            if !attempts.may_check(client.ip, now) {
                return Err(Denial::TooManyAttempts);
            }
            if !tokens.accept(credentials.secret()) {
                attempts.failed(client.ip, now);
                return Err(Denial::Wrong("unknown secret"));
            }
            attempts.succeeded(client.ip, now);
        }
        let is_used_up = head.fields.values(Name::Authorization).any(|value| is_accepted(value, tokens));
        Ok(if is_used_up { Names::NONE.with(Name::Authorization) } else { Names::NONE })
    }
}

/// Returns whether a request only asks for psystrike's health.
#[cold]
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

fn is_accepted(value: &[u8], tokens: &Tokens) -> bool {
    let mut buffer = [0; DECODED_BYTES_MAX];
    Credentials::parse(value, &mut buffer).is_ok_and(|credentials| tokens.accept(credentials.secret()))
}
