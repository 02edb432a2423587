//! What an exchange is told, and what it says: the words between [`super::exchange`] and whoever has the sockets.
//!
//! Owns no decision.

use std::{
    fmt::Display,
    ops::Range,
    time::{Duration, SystemTime},
};

use super::{
    outcome::{Failure, Outcome, UpstreamError},
    peer::Peer,
    recycler::Recycler,
    route::{Page, RouteName},
    settings::Settings,
    timestamp::Timestamp,
};

/// What an exchange can see around it.
pub struct Context<'e> {
    /// The time of this turn.
    pub now: Timestamp,
    /// The process is about to stop: no connection persists any more.
    pub draining: bool,
    /// What the operator set.
    pub settings: &'e Settings,
    /// Renders our own pages.
    pub pages: &'e dyn Pages,
    /// Memory to be used again.
    pub recycler: &'e mut Recycler,
}

/// Renders our own pages.
pub trait Pages {
    /// Appends the content of a page to `body`.
    fn render(&self, page: Page, body: &mut Vec<u8>) -> PageHead;
    /// The time for `Date`.
    fn date(&self) -> SystemTime;
}

/// How a page is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHead {
    /// The status code: 200, or 503.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'b> {
    /// These bytes of a request are here: all that are not used yet.
    Request(&'b [u8]),
    /// The client ended its side, or its connection failed.
    ClientGone,
    /// The client took every byte that was handed over.
    Flushed,
    /// The client sent so many bytes that nobody is going to look at.
    Discarded(usize),
    /// The client ended its side, and has yet to take bytes of an answer.
    ClientEnded,
    /// There is a connection to the pod.
    Connected {
        /// It has served before, so it may be closed by now without our knowing.
        reused: bool,
    },
    /// The pod's connection took so many bytes of the request.
    Sent(usize),
    /// These bytes of an answer are here: all that are not used yet.
    Response(&'b mut [u8]),
    /// So many bytes of an answer are here, and nobody looks at them: they are taken for what comes next.
    Spliced(u64),
    /// The pod ended its side.
    UpstreamEof {
        /// It said so, and did not just stop.
        clean: bool,
    },
    /// The pod's connection failed, or there never was one.
    UpstreamFailed(UpstreamError),
    /// The deadline may have passed.
    Timeout {
        /// The client has yet to take bytes that were handed over. Before a connection is closed, those in the kernel
        /// count as well.
        client_stalled: bool,
    },
    /// Whoever idles is to leave.
    CloseIfIdle {
        /// The client has yet to take bytes of an answer.
        client_stalled: bool,
    },
    /// What is held for this exchange has to go: others need the room.
    NoRoom {
        /// The client has yet to take bytes that were handed over.
        client_stalled: bool,
    },
    /// A client that has yet to ask for something is told that there are too many, and is to leave.
    TurnAway,
}

/// What is to be done, in the order of the fields. Belongs to the worker and is used again for each step.
#[derive(Debug, Default)]
pub struct Output {
    /// So many bytes of the input are used. The rest is to come again, with what follows it.
    pub used: usize,
    /// For the client: bytes of ours,
    pub head: Vec<u8>,
    /// and then these of the input.
    pub pass: Range<usize>,
    /// What becomes of the pod's connection.
    pub upstream: UpstreamAction,
    /// What becomes of the client's.
    pub client: ClientAction,
    /// The exchange is over, this way.
    pub report: Option<Report>,
}

/// What becomes of the pod's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamAction {
    /// Nothing.
    #[default]
    None,
    /// Take a kept one to this pod, or open one.
    Connect(Peer),
    /// Close it and open a fresh one.
    Retry(Peer),
    /// It may serve again.
    Keep,
    /// Close it, if there is one.
    Close,
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAction {
    /// Nothing.
    #[default]
    None,
    /// End our side; theirs is still read.
    Shutdown,
    /// Close it.
    Close,
    /// Reset it, so that what was sent cannot be taken for whole.
    Reset,
}

/// How an exchange went, for counters and log.
#[derive(Debug)]
pub struct Report {
    /// The route it took.
    pub route: RouteName,
    /// How it ended.
    pub outcome: Outcome,
    /// The status code that was sent, or would have been.
    pub status: u16,
    /// The pod, where it came to one.
    pub peer: Option<Peer>,
    /// From the request's head to the end.
    pub duration: Duration,
    /// From the request's head to the first byte of the pod's answer.
    pub first_byte: Option<Duration>,
    /// What exactly was wrong, where more is known than the outcome says.
    pub detail: Option<&'static str>,
    /// Within which time something was to happen, where it did not.
    pub within: Duration,
    /// Method and target, where [`Settings::access_log`] asks for it or the request was refused; cut where they are long.
    pub request: Option<Box<str>>,
}

impl Report {
    /// Displays the outcome as the client saw it, in words.
    pub fn phrase(&self) -> impl Display {
        Failure { outcome: self.outcome, detail: self.detail }.phrase(self.within)
    }
}

/// What has to become possible for an exchange to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Bytes of a request.
    Request,
    /// A connection to the pod.
    Connection,
    /// To send [`Exchange::unsent`](super::exchange::Exchange::unsent) to the pod. An answer may come before all is sent.
    Send,
    /// Bytes of an answer, or the pod's end.
    Response,
    /// That the client takes what was handed over.
    Flush,
    /// The client's end; what comes before is discarded.
    Discard,
    /// That the client takes what is in the kernel. Nothing is read; the next timeout tells.
    Delivery,
    /// Nothing. It is over.
    Nothing,
}

impl Output {
    /// Whether anything is to be done beyond bytes.
    pub fn has_action(&self) -> bool {
        self.upstream != UpstreamAction::None || self.client != ClientAction::None || self.report.is_some()
    }

    /// Forgets what was said, for the next step.
    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.head.clear();
        self.pass = 0..0;
        self.upstream = UpstreamAction::None;
        self.client = ClientAction::None;
        self.report = None;
    }
}
