//! What a request needs from its whole head on, to the end of its answer.
//!
//! Owns the data and what follows from it alone. Never decides what happens next: that is the states' to say.

use std::time::Duration;

use crate::{
    http1::{
        body::{BodyScanner, Progress, Scan},
        head::Version,
        rewrite::Persistence,
    },
    proxy::{outcome::Outcome, peer::Peer, route::RouteName, timestamp::Timestamp},
};

/// The largest buffer of a request that is kept for the next one.
pub(super) const SPARE_REQUEST_BYTES_MAX: usize = 2 * 1024;

/// What the client's side of an answer has to respect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientTerms {
    pub(super) version: Version,
    pub(super) to_head: bool,
    pub(super) persistent: bool,
}

impl ClientTerms {
    /// For a request that could not be read: no other can follow it.
    pub(super) const UNREAD: Self = Self { version: Version::Http11, to_head: false, persistent: false };

    pub(super) fn persistence(self) -> Persistence {
        match self.version {
            _ if !self.persistent => Persistence::Close,
            Version::Http10 => Persistence::KeepAlive,
            Version::Http11 => Persistence::Implied,
        }
    }
}

/// A request from its whole head on, to the end of its answer.
#[derive(Debug)]
pub struct Transaction {
    pub(super) route: RouteName,
    pub(super) terms: ClientTerms,
    pub(super) line: Option<Box<str>>,
    pub(super) peer: Option<Peer>,
    pub(super) started: Timestamp,
    /// When it has taken too long.
    pub(super) until: Timestamp,
    /// The request as the pod gets it. Kept until the answer's head is whole: to be sent again, and for its path.
    pub(super) request: Vec<u8>,
    /// So many bytes of it are sent.
    pub(super) sent: usize,
    pub(super) reused: bool,
    /// When the first byte of an answer was here.
    pub(super) first_byte: Option<Timestamp>,
    /// So many bytes of the answer's head are here and were looked at.
    pub(super) seen: usize,
    pub(super) interim_responses: u8,
    pub(super) response: Response,
    // How it is going to end, if nothing comes between.
    pub(super) outcome: Outcome,
    pub(super) status: u16,
    pub(super) detail: Option<&'static str>,
    pub(super) within: Duration,
}

/// What is to be done with an answer, by its head.
#[derive(Debug)]
pub(crate) struct Response {
    pub(super) scanner: BodyScanner,
    /// The chunked coding is taken off.
    pub(super) unchunk: bool,
    /// The client finds the end of the answer by the end of the connection: only a reset shows a broken one.
    pub(super) until_close: bool,
    /// The pod's connection may serve again if the body ends where it should.
    pub(super) upstream_persists: bool,
}

impl Transaction {
    /// At its beginning `now`, to be over `until` then.
    pub(super) fn new(terms: ClientTerms, now: Timestamp, until: Timestamp) -> Self {
        Self {
            route: RouteName::None,
            terms,
            line: None,
            peer: None,
            started: now,
            until,
            request: Vec::new(),
            sent: 0,
            reused: false,
            first_byte: None,
            seen: 0,
            interim_responses: 0,
            response: Response::NONE,
            outcome: Outcome::Page,
            status: 0,
            detail: None,
            within: Duration::ZERO,
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.request.len()
    }

    /// How long the client waits, from its request's head on.
    pub(super) fn patience(&self) -> Duration {
        self.until.since(self.started)
    }

    /// The path that the pod was asked for, out of the request line that it was sent.
    pub(super) fn asked(&self) -> &str {
        let words = self.request.split(|&byte| byte == b' ');
        let target = words.clone().nth(1).and_then(|word| str::from_utf8(word).ok()).unwrap_or("/");
        target.split('?').next().unwrap_or(target)
    }

    /// Forgets the request, for another one to stand in its place.
    pub(in crate::proxy) fn clear(&mut self) {
        self.request.clear();
        self.request.shrink_to(SPARE_REQUEST_BYTES_MAX);
    }
}

impl Response {
    /// Before there is one.
    pub(super) const NONE: Self = Self {
        scanner: BodyScanner::Length(0),
        unchunk: false,
        until_close: false,
        upstream_persists: false,
    };

    /// Follows a body through `bytes`, and says how many of them, at their start, are then for the client.
    pub(super) fn follow(&mut self, bytes: &mut [u8]) -> (Scan, usize) {
        if self.unchunk {
            return self.scanner.content_to_front(bytes);
        }
        let sound = self.scanner.scan(bytes);
        if sound.progress != Progress::Extension {
            return (sound, sound.bytes);
        }
        let (scanned, kept) = self.scanner.sound_to_front(&mut bytes[sound.bytes..]);
        (Scan { bytes: sound.bytes + scanned.bytes, ..scanned }, sound.bytes + kept)
    }
}
