//! The interface between [`super::exchange`] and the code that owns the sockets: events in, outputs out.
//!
//! Makes no decision.

use std::{
    fmt::Display,
    ops::Range,
    time::{Duration, SystemTime},
};

pub use super::access::ClientFacts;
use super::{
    access::{attempts::Attempts, checks::Checked},
    outcome::{Failure, Outcome, UpstreamError},
    peer::Peer,
    recycler::Recycler,
    resolver::Answer,
    route::{Page, RouteName},
    settings::Settings,
    timestamp::Timestamp,
};

/// The surroundings of an exchange.
pub struct Context<'e> {
    /// The time of this turn.
    pub now: Timestamp,
    /// The process is shutting down: no connection persists any more.
    pub draining: bool,
    /// The operator's settings.
    pub settings: &'e Settings,
    /// Renders psystrike's own pages.
    pub pages: &'e dyn Pages,
    /// What is known about the client.
    pub client: &'e ClientFacts,
    /// Wrong secrets of all clients.
    pub attempts: &'e mut Attempts,
    /// Memory for reuse.
    pub recycler: &'e mut Recycler,
}

/// Renders psystrike's own pages.
pub trait Pages {
    /// Appends the content of a page to `body`.
    fn render(&self, page: Page, body: &mut Vec<u8>) -> PageHead;
    /// Returns the time for `Date`.
    fn date(&self) -> SystemTime;
}

/// The status and media type of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHead {
    /// The status code: 200, or 503.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
}

/// A side of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's connection.
    Client,
    /// The pod's connection.
    Pod,
}

impl Side {
    /// Returns the other side.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Pod,
            Self::Pod => Self::Client,
        }
    }
}

/// An event for an exchange.
#[derive(Debug)]
pub enum Event<'b> {
    /// Received bytes of a request: all that are not used yet.
    Request(&'b [u8]),
    /// The client closed its side, or its connection failed.
    ClientGone,
    /// The client took all output.
    Flushed,
    /// The client sent this many bytes, which were discarded.
    Discarded(usize),
    /// The client closed its side, and has yet to take bytes of a response.
    ClientEnded,
    /// TLS with the client failed, and the client has yet to take the alert that says why.
    TlsFailed,
    /// The check of the client's password finished or failed.
    PasswordChecked(Checked),
    /// The lookup of the pod's name finished or failed.
    Resolved(&'b Answer),
    /// The connection to the pod is established.
    Connected {
        /// The connection is from the pool, so the pod may already have closed it.
        reused: bool,
    },
    /// The pod's connection took this many bytes of the request.
    Sent(usize),
    /// Received bytes of a response: all that are not used yet.
    Response(&'b mut [u8]),
    /// This many bytes of a response were spliced unread: they count as the next ones of the body.
    Spliced(u64),
    /// The pod closed its side.
    UpstreamEof {
        /// The pod announced the end. Without that, data may be missing.
        clean: bool,
    },
    /// Connecting to the pod failed, or the connection did.
    UpstreamFailed(UpstreamError),
    /// The deadline may have passed.
    Timeout {
        /// The client has yet to take output. Before a connection is closed, bytes in the kernel count as well.
        client_stalled: bool,
    },
    /// The connection is to be closed if it is idle.
    CloseIfIdle {
        /// The client has yet to take bytes of a response.
        client_stalled: bool,
    },
    /// The buffers of this exchange must be freed: other sessions need the room.
    NoRoom {
        /// The client has yet to take output.
        client_stalled: bool,
    },
    /// Bytes moved through the tunnel.
    Tunnelled,
    /// A side of the tunnel closed its sending direction, and the other side took all that came before.
    TunnelEof(Side),
    /// The connection of a side of the tunnel failed.
    TunnelFailed(Side),
    /// A silent client is to receive a 503 because there are too many clients, and its connection is then closed.
    TurnAway,
}

/// Actions for the caller, in the order of the fields. Belongs to the worker and is reused for each step.
#[derive(Debug, Default)]
pub struct Output {
    /// The number of input bytes used. The rest must be passed again, together with the bytes that follow.
    pub used: usize,
    /// Output for the client: first these bytes,
    pub head: Vec<u8>,
    /// then this range of the input.
    pub pass: Range<usize>,
    /// The action for the pod's connection.
    pub upstream: UpstreamAction,
    /// The action for the client's connection.
    pub client: ClientAction,
    /// The report of the exchange, once it is over.
    pub report: Option<Report>,
}

/// An action for the pod's connection, or before there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamAction {
    /// No action.
    #[default]
    None,
    /// Check [`Exchange::login`](super::exchange::Exchange::login).
    CheckPassword,
    /// Resolve [`Exchange::name`](super::exchange::Exchange::name).
    Resolve,
    /// Take a pooled connection to this pod, or open one.
    Connect(Peer),
    /// As `Connect`, but not to psystrike itself ([`UpstreamError::Itself`]).
    ConnectOther(Peer),
    /// Close it, if there is one, and open another, but not to psystrike itself. It is never pooled.
    Open(Peer),
    /// Close it and open a new one.
    Retry(Peer),
    /// Close it, if there is one, and connect to another address of the pod as in `ConnectOther`.
    Next(Peer),
    /// Return it to the pool.
    Keep,
    /// Close psystrike's side; the pod's is still read.
    Shutdown,
    /// Close it, if there is one.
    Close,
    /// Close it; the kernel still delivers the written bytes.
    CloseDelivering,
    /// Reset it, if there is one.
    Reset,
}

/// An action for the client's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAction {
    /// No action.
    #[default]
    None,
    /// Close psystrike's side; the client's is still read.
    Shutdown,
    /// Close it.
    Close,
    /// Close it; the kernel still delivers the written bytes.
    CloseDelivering,
    /// Reset it, so that the response cannot be mistaken for a complete one.
    Reset,
}

/// The result of an exchange, for counters and log.
#[derive(Debug)]
pub struct Report {
    /// The route of the request.
    pub route: RouteName,
    /// The outcome.
    pub outcome: Outcome,
    /// The status code that was sent, or would have been.
    pub status: u16,
    /// The status code of the pod's final response, if its head arrived, whether or not it was forwarded.
    pub pod_status: Option<u16>,
    /// The pod, if the request named one.
    pub peer: Option<Peer>,
    /// The time from the request's head to the end.
    pub duration: Duration,
    /// The time from the request's head to the first byte of the pod's response.
    pub first_byte: Option<Duration>,
    /// Details of the failure, where known.
    pub detail: Option<&'static str>,
    /// The time limit that was exceeded, if one was.
    pub within: Duration,
    /// Method and target, if [`Settings::access_log`] is set, the request was refused, or it gives the pod by name; cut
    /// if they are long.
    pub request: Option<Box<str>>,
}

impl Report {
    /// Displays the outcome as the reason phrase for the client.
    pub fn phrase(&self) -> impl Display {
        Failure { outcome: self.outcome, detail: self.detail }.phrase(self.within)
    }
}

/// The condition that an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Bytes of a request.
    Request,
    /// The check of the client's password.
    PasswordCheck,
    /// The connection to the pod, or first its address.
    Connection,
    /// Room to send [`Exchange::unsent`](super::exchange::Exchange::unsent) to the pod. The response may begin before
    /// all is sent.
    Send,
    /// Bytes of a response, or the end of the pod's connection.
    Response,
    /// The client to take all output.
    Flush,
    /// The client to close its side; bytes before that are discarded.
    Discard,
    /// The client to take the bytes in the kernel. Nothing is read; the next timeout checks it.
    Delivery,
    /// Bytes, or the end, of either side of a tunnel, and room for them on the other side.
    Tunnel,
    /// Nothing: the session is over.
    Nothing,
}

impl Output {
    /// Returns whether there is an action besides moving bytes.
    pub fn has_action(&self) -> bool {
        self.upstream != UpstreamAction::None || self.client != ClientAction::None || self.report.is_some()
    }

    /// Clears the output for the next step.
    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.head.clear();
        self.pass = 0..0;
        self.upstream = UpstreamAction::None;
        self.client = ClientAction::None;
        self.report = None;
    }
}
