//! The data of a request, from its complete head to the end of its response.
//!
//! Owns the data and values derived from it. The states decide what happens next.

use std::time::Duration;

use super::named_pod::NamedPod;
use crate::{
    http1::{
        body::{BodyScanner, Progress, Scan},
        field::Names,
        head::Version,
        rewrite::Persistence,
    },
    proxy::{access::users::LoginId, outcome::Outcome, peer::Peer, route::RouteName, timestamp::Timestamp},
};

/// Maximum capacity of a request buffer that is reused.
pub(super) const SPARE_REQUEST_BYTES_MAX: usize = 2 * 1024;

/// The constraints of a response that follow from its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientTerms {
    pub(super) version: Version,
    pub(super) to_head: bool,
    pub(super) persistent: bool,
}

impl ClientTerms {
    /// For a request that could not be parsed: no other can follow it.
    pub(super) const UNREAD: Self = Self { version: Version::Http11, to_head: false, persistent: false };

    pub(super) fn persistence(self) -> Persistence {
        match self.version {
            _ if !self.persistent => Persistence::Close,
            Version::Http10 => Persistence::KeepAlive,
            Version::Http11 => Persistence::Implied,
        }
    }
}

/// A request, from its complete head to the end of its response.
#[derive(Debug)]
pub struct Transaction {
    pub(super) route: RouteName,
    pub(super) terms: ClientTerms,
    pub(super) line: Option<Box<str>>,
    pub(super) peer: Option<Peer>,
    /// The pod's name, if the request gives one.
    pub(super) named: Option<Box<NamedPod>>,
    pub(super) started: Timestamp,
    /// The deadline.
    pub(super) until: Timestamp,
    /// The request for the pod. Needed until the response's head is complete, for a retry and for its path.
    pub(super) request: Vec<u8>,
    /// How many bytes of it are sent.
    pub(super) sent: usize,
    /// The login that was checked for this request and is right.
    pub(super) proven: Option<LoginId>,
    /// The headers with psystrike's own secrets, which must not reach the pod.
    pub(super) used_up: Names,
    pub(super) reused: bool,
    /// When the first byte of a response arrived.
    pub(super) first_byte: Option<Timestamp>,
    /// The bytes of an incomplete response head that were already parsed.
    pub(super) seen: usize,
    pub(super) interim_responses: u8,
    pub(super) response: Response,
    // The result, unless another event changes it before the end.
    pub(super) outcome: Outcome,
    pub(super) status: u16,
    /// The status code of the pod's final response, forwarded or not.
    pub(super) pod_status: Option<u16>,
    pub(super) detail: Option<&'static str>,
    pub(super) within: Duration,
}

/// The handling of a response, by its head.
#[derive(Debug)]
pub(crate) struct Response {
    pub(super) scanner: BodyScanner,
    /// The chunked coding is removed.
    pub(super) unchunk: bool,
    /// The response ends with the client's connection: only a reset shows that it is broken.
    pub(super) until_close: bool,
    /// The pod's connection may be reused if the body ends where it should.
    pub(super) upstream_persists: bool,
}

impl Transaction {
    /// Returns a transaction that starts `now` and has the deadline `until`.
    pub(super) fn new(terms: ClientTerms, now: Timestamp, until: Timestamp) -> Self {
        Self {
            route: RouteName::None,
            terms,
            line: None,
            peer: None,
            named: None,
            started: now,
            until,
            request: Vec::new(),
            sent: 0,
            proven: None,
            used_up: Names::NONE,
            reused: false,
            first_byte: None,
            seen: 0,
            interim_responses: 0,
            response: Response::NONE,
            outcome: Outcome::Page,
            status: 0,
            pod_status: None,
            detail: None,
            within: Duration::ZERO,
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.request.len()
    }

    /// Returns the time from the start to the deadline.
    pub(super) fn patience(&self) -> Duration {
        self.until.since(self.started)
    }

    /// Returns the path of the request to the pod, from its request line.
    pub(super) fn asked(&self) -> &str {
        let words = self.request.split(|&byte| byte == b' ');
        let target = words.clone().nth(1).and_then(|word| str::from_utf8(word).ok()).unwrap_or("/");
        target.split('?').next().unwrap_or(target)
    }

    /// Clears the buffer for reuse.
    pub(in crate::proxy) fn clear(&mut self) {
        self.request.clear();
        self.request.shrink_to(SPARE_REQUEST_BYTES_MAX);
    }
}

impl Response {
    /// The value before there is a response.
    pub(super) const NONE: Self = Self {
        scanner: BodyScanner::Length(0),
        unchunk: false,
        until_close: false,
        upstream_persists: false,
    };

    /// Scans a body's `bytes`, and returns how many of them, at their start, are then for the client.
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
