//! The states of an exchange.
//!
//! Owns their data, and the condition and deadline that each one waits for. Never decides on transitions.

use super::transaction::Transaction;
use crate::{
    http1::body::BodyScanner,
    proxy::{
        access::users::Login, events::Wants, route::RouteName, settings::Settings, timestamp::Timestamp,
        tunnel::Tunnel,
    },
};

/// A request that has passed through psystrike this often is in a loop.
pub(super) const HOPS_MAX: usize = 3;

/// One request, its pod and its response; between requests, the wait for the next one.
///
/// Small between requests: a request's data is in its [`Transaction`], which moves from state to state as one pointer
/// and is reused for other requests.
#[derive(Debug)]
pub enum Exchange {
    /// A request's head is incomplete.
    Reading(Reading),
    /// The client's password is not checked yet.
    Authenticating {
        /// The request.
        held: Box<Held>,
        /// The user name and the password.
        login: Login,
    },
    /// The addresses of the pod's name are not known yet.
    Resolving {
        /// The request.
        transaction: Box<Transaction>,
        /// The deadline for resolving.
        until: Timestamp,
    },
    /// The connection to the pod is not established yet.
    Connecting {
        /// The request.
        transaction: Box<Transaction>,
        /// The deadline for connecting.
        until: Timestamp,
    },
    /// The request is not completely sent.
    Sending(Box<Transaction>),
    /// The request is sent; the head of the final response is incomplete.
    Awaiting(Box<Transaction>),
    /// The response's body is incomplete.
    Relaying(Box<Transaction>),
    /// The whole response has been output; the client has yet to take some of it.
    Replying(Box<Transaction>),
    /// The last response is sent; the client has not taken all of it, or has not closed its side.
    Lingering(Lingering),
    /// The connection has become a tunnel: this exchange was its last.
    Tunnel(Tunnel),
    /// The exchange is over.
    Closed,
}

/// The wait for a request's head.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub(super) until: Timestamp,
    /// The bytes of an incomplete head that were already parsed.
    pub(super) seen: u32,
    pub(super) turned_away: bool,
}

/// A request whose password is not checked yet.
#[derive(Debug)]
pub struct Held {
    pub(super) transaction: Box<Transaction>,
    pub(super) head: Box<[u8]>,
    /// As in [`Reading`].
    pub(super) turned_away: bool,
}

/// The wait for the delivery of the last response.
#[derive(Clone, Copy, Debug)]
pub struct Lingering {
    /// The time of the next check.
    pub(super) until: Timestamp,
    /// The time at which the connection is closed even if the response is undelivered.
    pub(super) limit: Timestamp,
    /// How many more bytes are read.
    pub(super) bytes_left: u32,
    /// The client has closed its side: nothing more is read.
    pub(super) ended: bool,
    /// The last response is broken, and only a reset shows it.
    pub(super) resets: bool,
}

impl Exchange {
    /// Waits for the first request of a new connection. If it is `turned_away`, the response is one of
    /// psystrike's own pages, or a 503 because there are too many clients.
    pub fn new(now: Timestamp, settings: &Settings, turned_away: bool) -> Self {
        Self::Reading(Reading { until: now + settings.timeouts.header, seen: 0, turned_away })
    }

    /// Returns the condition that the exchange waits for.
    pub fn wants(&self) -> Wants {
        match self {
            Self::Reading(_) => Wants::Request,
            Self::Authenticating { .. } => Wants::PasswordCheck,
            Self::Resolving { .. } | Self::Connecting { .. } => Wants::Connection,
            Self::Sending(_) => Wants::Send,
            Self::Awaiting(_) | Self::Relaying(_) => Wants::Response,
            Self::Replying(_) => Wants::Flush,
            Self::Lingering(Lingering { ended: false, .. }) => Wants::Discard,
            Self::Lingering(_) => Wants::Delivery,
            Self::Tunnel(_) => Wants::Tunnel,
            Self::Closed => Wants::Nothing,
        }
    }

    /// Returns when [`Event::Timeout`](crate::proxy::events::Event::Timeout) is due, if nothing happens before.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Reading(Reading { until, .. })
            | Self::Resolving { until, .. }
            | Self::Connecting { until, .. }
            | Self::Lingering(Lingering { until, .. }) => Some(*until),
            Self::Authenticating { held, .. } => Some(held.transaction.until),
            Self::Sending(transaction)
            | Self::Awaiting(transaction)
            | Self::Relaying(transaction)
            | Self::Replying(transaction) => Some(transaction.until),
            Self::Tunnel(tunnel) => tunnel.deadline(),
            Self::Closed => None,
        }
    }

    /// Returns whether the client is idle: no byte of a request has arrived, and no response is due.
    pub fn idles(&self) -> bool {
        matches!(self, Self::Reading(Reading { seen: 0, .. }))
    }

    /// Returns whether the exchange waits for the delivery of its last response.
    pub fn lingers(&self) -> bool {
        matches!(self, Self::Lingering(_))
    }

    /// Returns whether the exchange waits for the connection of a tunnel.
    pub fn opens_tunnel(&self) -> bool {
        match self {
            Self::Authenticating { held, .. } => held.transaction.route == RouteName::Connect,
            Self::Resolving { transaction, .. } | Self::Connecting { transaction, .. } => {
                transaction.route == RouteName::Connect
            }
            _ => false,
        }
    }

    /// Returns the login whose check the exchange waits for.
    pub fn login(&self) -> Option<&Login> {
        match self {
            Self::Authenticating { login, .. } => Some(login),
            _ => None,
        }
    }

    /// Returns the name whose addresses the exchange waits for.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Resolving { transaction, .. } => transaction.named.as_ref().map(|pod| &*pod.name),
            _ => None,
        }
    }

    /// Returns the name of the pod to which a connection is opened, if the request gives one, without a trailing dot.
    pub fn server_name(&self) -> Option<&str> {
        let Self::Connecting { transaction, .. } = self else { return None };
        let name = &*transaction.named.as_ref()?.name;
        Some(name.strip_suffix('.').unwrap_or(name))
    }

    /// Returns the bytes that are still to be sent to the pod.
    pub fn unsent(&self) -> &[u8] {
        match self {
            Self::Sending(transaction) => &transaction.request[transaction.sent..],
            _ => &[],
        }
    }

    /// Returns how many bytes are buffered for the pod, or of a request that waits.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Reading(_) | Self::Lingering(_) | Self::Tunnel(_) | Self::Closed => 0,
            Self::Authenticating { held, .. } => held.head.len(),
            Self::Resolving { transaction, .. }
            | Self::Connecting { transaction, .. }
            | Self::Sending(transaction)
            | Self::Awaiting(transaction)
            | Self::Relaying(transaction)
            | Self::Replying(transaction) => transaction.request.capacity(),
        }
    }

    /// Returns how many of the next bytes of a response may be forwarded unread. They come in as
    /// [`Event::Spliced`](crate::proxy::events::Event::Spliced).
    pub fn opaque_len(&self) -> u64 {
        match self {
            Self::Relaying(transaction) if !transaction.response.unchunk => {
                transaction.response.scanner.opaque_len()
            }
            _ => 0,
        }
    }

    /// Returns whether the current or last response has a body of known length.
    pub fn has_length(&self) -> bool {
        let (Self::Relaying(transaction) | Self::Replying(transaction)) = self else { return false };
        matches!(transaction.response.scanner, BodyScanner::Length(_))
    }
}

impl Reading {
    pub(super) fn begun(self) -> bool {
        self.seen > 0
    }
}
