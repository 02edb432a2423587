//! The states of an exchange.
//!
//! Owns what each one holds, and what follows from it alone: what it waits for, and until when. Never decides where a
//! state leads.

use super::transaction::Transaction;
use crate::{
    http1::body::BodyScanner,
    proxy::{events::Wants, settings::Settings, timestamp::Timestamp},
};

/// One request, its pod, its answer; between requests, the wait for the next one.
///
/// Small while nothing is asked: what a request needs stands in its [`Transaction`], which goes from state to state as
/// one pointer, and is used again for other requests.
#[derive(Debug)]
pub enum Exchange {
    /// A request's head is not whole.
    Reading(Reading),
    /// There is no connection to the pod yet.
    Connecting {
        /// The request.
        transaction: Box<Transaction>,
        /// When connecting has taken too long.
        until: Timestamp,
    },
    /// The request is not sent whole.
    Sending(Box<Transaction>),
    /// The request is sent; the final answer's head is not whole.
    Awaiting(Box<Transaction>),
    /// The answer's body is not whole.
    Relaying(Box<Transaction>),
    /// All is handed over that the client is to get.
    Replying(Box<Transaction>),
    /// Our last answer is sent; the client has not taken all of it, or not ended its side.
    Lingering(Lingering),
    /// Over.
    Closed,
}

/// The wait for a request's head.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub(super) until: Timestamp,
    /// So many bytes of a head are here and were looked at.
    pub(super) seen: u32,
    pub(super) turned_away: bool,
}

/// The wait for our last answer to be delivered.
#[derive(Clone, Copy, Debug)]
pub struct Lingering {
    /// When the client is looked at next.
    pub(super) until: Timestamp,
    /// When it is closed even if it has not taken all.
    pub(super) limit: Timestamp,
    /// How much more is read.
    pub(super) bytes_left: u32,
    /// The client has ended its side: nothing more is read.
    pub(super) ended: bool,
    /// Only a reset shows that the last answer is broken.
    pub(super) resets: bool,
}

impl Exchange {
    /// The wait for a new connection's first request. One that is `turned_away` gets no other answer than that
    /// there are too many clients.
    pub fn new(now: Timestamp, settings: &Settings, turned_away: bool) -> Self {
        Self::Reading(Reading { until: now + settings.timeouts.header, seen: 0, turned_away })
    }

    /// What has to become possible for it to go on.
    pub fn wants(&self) -> Wants {
        match self {
            Self::Reading(_) => Wants::Request,
            Self::Connecting { .. } => Wants::Connection,
            Self::Sending(_) => Wants::Send,
            Self::Awaiting(_) | Self::Relaying(_) => Wants::Response,
            Self::Replying(_) => Wants::Flush,
            Self::Lingering(Lingering { ended: false, .. }) => Wants::Discard,
            Self::Lingering(_) => Wants::Delivery,
            Self::Closed => Wants::Nothing,
        }
    }

    /// When [`Event::Timeout`](crate::proxy::events::Event::Timeout) is due, if nothing happens before.
    pub fn deadline(&self) -> Option<Timestamp> {
        match self {
            Self::Reading(Reading { until, .. })
            | Self::Connecting { until, .. }
            | Self::Lingering(Lingering { until, .. }) => Some(*until),
            Self::Sending(transaction)
            | Self::Awaiting(transaction)
            | Self::Relaying(transaction)
            | Self::Replying(transaction) => Some(transaction.until),
            Self::Closed => None,
        }
    }

    /// Whether the client idles: no byte of a request is here, and none of an answer is due.
    pub fn idles(&self) -> bool {
        matches!(self, Self::Reading(Reading { seen: 0, .. }))
    }

    /// Whether it waits for our last answer to be delivered.
    pub fn lingers(&self) -> bool {
        matches!(self, Self::Lingering(_))
    }

    /// What is left to send to the pod.
    pub fn unsent(&self) -> &[u8] {
        match self {
            Self::Sending(transaction) => &transaction.request[transaction.sent..],
            _ => &[],
        }
    }

    /// How many bytes it holds for the pod.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Reading(_) | Self::Lingering(_) | Self::Closed => 0,
            Self::Connecting { transaction, .. }
            | Self::Sending(transaction)
            | Self::Awaiting(transaction)
            | Self::Relaying(transaction)
            | Self::Replying(transaction) => transaction.request.capacity(),
        }
    }

    /// How many of the next bytes of an answer may go on to the client without being looked at. What went on so
    /// comes in as [`Event::Spliced`](crate::proxy::events::Event::Spliced).
    pub fn opaque_len(&self) -> u64 {
        match self {
            Self::Relaying(transaction) if !transaction.response.unchunk => {
                transaction.response.scanner.opaque_len()
            }
            _ => 0,
        }
    }

    /// Whether the answer that is on its way, or just went, told the length of its body.
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
