//! The state machine: one request, its pod, its answer.
//!
//! Owns every transition of an exchange, and nothing else does. It reads no clock and touches no socket: what
//! happened comes in as an [`Input`], at a time that the caller names, and what is to be done goes out as an
//! [`Output`]. A failure is a transition like any other; where it leads is decided here too.
//!
//! ```text
//! Reading -> Replying (own page, refusal)           -> Reading | Lingering
//! Reading -> Connecting -> Sending -> Awaiting -> Relaying -> Replying -> Reading | Lingering
//! Connecting: refused, timed out                    -> Replying 502, 504
//! Sending | Awaiting: a reused connection died before any byte of an answer -> Connecting (fresh, once)
//! Sending | Awaiting: no answer, or no sound one    -> Replying 502, 504
//! Awaiting: 1xx                                     -> Awaiting
//! Relaying: cut short, malformed, out of time       -> Closed, visibly broken; an end is never faked
//! Replying: out of time                             -> Closed, reset
//! Lingering: the client ended, or time is up        -> Closed
//! any: the client went away                         -> Closed, and the pod's connection with it
//! ```
//!
//! Replying is what is left when every byte of the answer, ours or the pod's, is handed over, and the client has
//! yet to take the last of them. The pod's connection is in the pool or closed by then.

use std::{
    mem,
    ops::Range,
    time::{Duration, Instant, SystemTime},
};

use super::{
    duration::Short,
    outcome::{Failure, Outcome},
    policy::Policy,
    route::{self, Origin, Page, PodTarget, Route, RouteName},
};
use crate::http1::{
    body::{BodyScanner, Scanned, Then},
    field::Name,
    framing::{self, Framing},
    head::{self, AnswerHead, RequestHead, Target, Version},
    reply::{self, Reply},
    rewrite::{self, AnswerEdit, Persistence},
};

/// A scrape that has come through us this often is going in a circle.
const HOPS_MAX: usize = 3;
/// The most interim answers (1xx) to one request.
const INTERIM_ANSWERS_MAX: u8 = 8;
/// How long, and for how many bytes, a connection is read on after our last answer on it. To close it with
/// input unread would reset it, and could destroy that answer before it is read.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Request buffers that are kept for the next requests, and how large they may be.
const SPARE_BUFFERS_MAX: usize = 16;
const SPARE_BUFFER_BYTES_MAX: usize = 4 * 1024;

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which pods may be reached.
    pub policy: Policy,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Whether reports name the request target.
    pub access_log: bool,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A scrape that names no limit of its own, from its head to the last byte of its answer.
    pub scrape: Duration,
    /// The most that a scrape's own limit may ask for.
    pub scrape_max: Duration,
    /// Connecting to a pod.
    pub connect: Duration,
    /// A request's head, from its first byte on; and the silence of a new connection.
    pub header: Duration,
    /// The silence of a client between two requests.
    pub client_idle: Duration,
    /// The silence of a pod's connection that is kept.
    pub upstream_idle: Duration,
}

/// What an exchange can see around it.
pub struct Surroundings<'e> {
    /// The time of this turn.
    pub now: Instant,
    /// The process is about to stop: no connection persists any more.
    pub draining: bool,
    /// What the operator set.
    pub rules: &'e Rules,
    /// Renders our own pages.
    pub pages: &'e dyn Pages,
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
pub enum Input<'b> {
    /// These bytes of a request are here: all that are not used yet.
    Request(&'b [u8]),
    /// The client ended its side, or its connection failed.
    ClientGone,
    /// The client took every byte that was handed over.
    Flushed,
    /// The client sent so many bytes that nobody is going to look at.
    Discarded(usize),
    /// There is a connection to the pod.
    Connected {
        /// It has served before, so it may be closed by now without our knowing.
        reused: bool,
    },
    /// The pod's connection took so many bytes of the request.
    Sent(usize),
    /// These bytes of an answer are here: all that are not used yet.
    Answer(&'b mut [u8]),
    /// The pod ended its side.
    UpstreamEnd,
    /// The pod's connection failed, or there never was one.
    UpstreamFailed(UpstreamError),
    /// The deadline may have passed.
    Tick {
        /// The client has yet to take bytes that were handed over.
        client_stalled: bool,
    },
    /// Whoever idles is to leave.
    Drain,
}

/// Why there is no connection to the pod, or no longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// Nothing listens there.
    Refused,
    /// No way there.
    Unreachable,
    /// The kernel gave up waiting for it.
    TimedOut,
    /// We are out of file descriptors.
    NoDescriptors,
    /// Anything else, a reset above all.
    Other,
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
    /// Request buffers that wait for their next request.
    spare: Vec<Vec<u8>>,
    /// The content of the page that is being rendered.
    page: Vec<u8>,
}

/// What becomes of the pod's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamAction {
    /// Nothing.
    #[default]
    None,
    /// Take a kept one to this pod, or open one.
    Connect(Origin),
    /// Close it and open a fresh one.
    Retry(Origin),
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
    pub origin: Option<Origin>,
    /// From the request's head to the end.
    pub duration: Duration,
    /// From the request's head to the first byte of the pod's answer.
    pub first_byte: Option<Duration>,
    /// The request target, where [`Rules::access_log`] asks for it.
    pub target: Option<Box<str>>,
}

/// What has to become possible for an exchange to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Bytes of a request.
    Request,
    /// A connection to the pod.
    Connection,
    /// To send [`Exchange::unsent`] to the pod. An answer may come before all is sent.
    Send,
    /// Bytes of an answer, or the pod's end.
    Answer,
    /// That the client takes what was handed over.
    Flush,
    /// The client's end; what comes before is discarded.
    Discard,
    /// Nothing. It is over.
    Nothing,
}

/// One request, its pod, its answer; between requests, the wait for the next one.
#[derive(Debug)]
pub enum Exchange {
    /// A request's head is not whole.
    Reading(Reading),
    /// There is no connection to the pod yet.
    Connecting {
        /// The request.
        scrape: Scrape,
        /// When connecting has taken too long.
        until: Instant,
    },
    /// The request is not sent whole.
    Sending(Scrape),
    /// The request is sent; the final answer's head is not whole.
    Awaiting(Scrape),
    /// The answer's body is not whole.
    Relaying(Relay),
    /// All is handed over that the client is to get.
    Replying(Ending),
    /// Our last answer is sent; the client has not ended its side.
    Lingering {
        /// When we no longer wait for it.
        until: Instant,
        /// How much more is read.
        bytes_left: usize,
    },
    /// Over.
    Closed,
}

/// The wait for a request's head.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    until: Instant,
    /// So many bytes of a head are here and were looked at.
    seen: usize,
    turned_away: bool,
}

impl Reading {
    fn begun(self) -> bool {
        self.seen > 0
    }
}

/// What the client's side of an answer has to respect.
#[derive(Clone, Copy, Debug)]
struct Terms {
    version: Version,
    to_head: bool,
    persistent: bool,
}

impl Terms {
    /// For a request that could not be read: no other can follow it.
    const UNREAD: Self = Self { version: Version::Http11, to_head: false, persistent: false };

    fn persistence(self) -> Persistence {
        match self.version {
            _ if !self.persistent => Persistence::Close,
            Version::Http10 => Persistence::KeepAlive,
            Version::Http11 => Persistence::Implied,
        }
    }
}

/// A request on its way to a pod: the owned plan that a parsed head was turned into.
#[derive(Debug)]
pub struct Scrape {
    origin: Origin,
    terms: Terms,
    started: Instant,
    patience: Duration,
    /// The request as the pod gets it. Kept until the answer's head is whole: to be sent again, and for its path.
    request: Vec<u8>,
    /// So many bytes of it are sent.
    sent: usize,
    reused: bool,
    first_byte: Option<Duration>,
    /// So many bytes of the answer's head are here and were looked at.
    seen: usize,
    interim_answers: u8,
    target: Option<Box<str>>,
}

/// An answer on its way to the client.
#[derive(Debug)]
pub struct Relay {
    ending: Ending,
    scanner: BodyScanner,
    /// The chunked coding is taken off.
    unchunk: bool,
    /// The client finds the end of the answer by the end of the connection: only a reset shows a broken one.
    until_close: bool,
    /// The pod's connection may serve again if the body ends where it should.
    upstream_persists: bool,
}

/// How an exchange is going to end, if nothing comes between.
#[derive(Debug)]
pub struct Ending {
    route: RouteName,
    outcome: Outcome,
    status: u16,
    origin: Option<Origin>,
    started: Instant,
    until: Instant,
    first_byte: Option<Duration>,
    terms: Terms,
    target: Option<Box<str>>,
}

impl Exchange {
    /// The wait for a new connection's first request. One that is `turned_away` gets no other answer than that
    /// there are too many clients.
    pub fn new(now: Instant, rules: &Rules, turned_away: bool) -> Self {
        Self::Reading(Reading { until: now + rules.timeouts.header, seen: 0, turned_away })
    }

    /// What has to become possible for it to go on.
    pub fn wants(&self) -> Wants {
        match self {
            Self::Reading(_) => Wants::Request,
            Self::Connecting { .. } => Wants::Connection,
            Self::Sending(_) => Wants::Send,
            Self::Awaiting(_) | Self::Relaying(_) => Wants::Answer,
            Self::Replying(_) => Wants::Flush,
            Self::Lingering { .. } => Wants::Discard,
            Self::Closed => Wants::Nothing,
        }
    }

    /// When [`Input::Tick`] is due, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Reading(Reading { until, .. })
            | Self::Connecting { until, .. }
            | Self::Relaying(Relay { ending: Ending { until, .. }, .. })
            | Self::Replying(Ending { until, .. })
            | Self::Lingering { until, .. } => Some(*until),
            Self::Sending(scrape) | Self::Awaiting(scrape) => Some(scrape.until()),
            Self::Closed => None,
        }
    }

    /// Whether the client idles: no byte of a request is here, and none of an answer is due.
    pub fn idles(&self) -> bool {
        matches!(self, Self::Reading(Reading { seen: 0, .. }))
    }

    /// What is left to send to the pod.
    pub fn unsent(&self) -> &[u8] {
        match self {
            Self::Sending(scrape) => &scrape.request[scrape.sent..],
            _ => &[],
        }
    }

    /// Goes on with what happened. An input that a state does not wait for changes nothing.
    pub fn step(self, input: Input<'_>, around: &Surroundings<'_>, out: &mut Output) -> Self {
        out.clear();
        match (self, input) {
            (state, Input::Tick { .. }) if state.deadline().is_none_or(|at| around.now < at) => state,
            (Self::Closed, _) => Self::Closed,

            (Self::Reading(reading), Input::Request(bytes)) => reading.request(bytes, around, out),
            (Self::Reading(reading), Input::Tick { .. }) if reading.begun() => {
                let ending = Ending::refused(Terms::UNREAD, around);
                ending.fail(Outcome::HeadTimeout.into(), around.rules.timeouts.header, around, out)
            }
            (Self::Reading(_), Input::Tick { .. } | Input::ClientGone) => Self::close(out),
            (Self::Reading(reading), Input::Drain) if !reading.begun() => Self::close(out),

            (Self::Connecting { mut scrape, .. }, Input::Connected { reused }) => {
                scrape.reused = reused;
                scrape.wait()
            }
            (Self::Connecting { scrape, .. }, Input::UpstreamFailed(error)) => {
                let within = scrape.patience.min(around.rules.timeouts.connect);
                scrape.fail(Outcome::of_connecting(error).into(), within, around, out)
            }
            (Self::Connecting { scrape, until }, Input::Tick { .. }) if until < scrape.until() => {
                scrape.fail(Outcome::ConnectTimeout.into(), around.rules.timeouts.connect, around, out)
            }
            (Self::Connecting { scrape, .. }, Input::Tick { .. }) => {
                let within = scrape.patience;
                scrape.fail(Outcome::ConnectTimeout.into(), within, around, out)
            }

            (Self::Sending(mut scrape), Input::Sent(bytes)) => {
                scrape.sent = scrape.request.len().min(scrape.sent + bytes);
                scrape.wait()
            }
            // What a kept connection said before it was asked answers nothing. It must not become part of this.
            (Self::Sending(scrape), Input::Answer(_)) if scrape.reused && scrape.sent == 0 => {
                scrape.lost(around, out)
            }
            (Self::Sending(scrape) | Self::Awaiting(scrape), Input::Answer(bytes)) => {
                scrape.answer(bytes, around, out)
            }
            (
                Self::Sending(scrape) | Self::Awaiting(scrape),
                Input::UpstreamEnd | Input::UpstreamFailed(_),
            ) => scrape.lost(around, out),
            (Self::Sending(scrape) | Self::Awaiting(scrape), Input::Tick { .. }) => {
                let within = scrape.patience;
                scrape.fail(Outcome::AnswerTimeout.into(), within, around, out)
            }

            (Self::Relaying(relay), Input::Answer(bytes)) => relay.body(bytes, 0..0, around, out),
            (Self::Relaying(relay), Input::UpstreamEnd) => match relay.scanner.end_of_connection() {
                Ok(()) => relay.ended(false, out),
                Err(error) => relay.broken(Failure::of_body(error).outcome, around, out),
            },
            (Self::Relaying(relay), Input::UpstreamFailed(_)) => {
                relay.broken(Outcome::BodyCutShort, around, out)
            }
            (Self::Relaying(relay), Input::Tick { client_stalled }) => {
                let late = if client_stalled { Outcome::ClientTimeout } else { Outcome::BodyTimeout };
                relay.broken(late, around, out)
            }

            // A tick may come before the word that the client took all of it.
            (Self::Replying(ending), Input::Flushed | Input::Tick { client_stalled: false }) => {
                ending.flushed(around, out)
            }
            (Self::Replying(ending), Input::Tick { client_stalled: true }) => {
                out.client = ClientAction::Reset;
                out.report = Some(ending.report(Outcome::ClientTimeout, around.now));
                Self::Closed
            }

            (Self::Lingering { until, bytes_left }, Input::Discarded(bytes)) if bytes <= bytes_left => {
                Self::Lingering { until, bytes_left: bytes_left - bytes }
            }
            (Self::Lingering { .. }, Input::Discarded(_) | Input::Tick { .. } | Input::ClientGone) => {
                Self::close(out)
            }

            (Self::Connecting { scrape, .. }, Input::ClientGone)
            | (Self::Sending(scrape) | Self::Awaiting(scrape), Input::ClientGone) => {
                scrape.ending(0, Persistence::Close, out).client_gone(around, out)
            }
            (Self::Relaying(Relay { ending, .. }) | Self::Replying(ending), Input::ClientGone) => {
                ending.client_gone(around, out)
            }

            (state, _) => state,
        }
    }

    fn close(out: &mut Output) -> Self {
        out.client = ClientAction::Close;
        Self::Closed
    }
}

impl Reading {
    /// Bytes of a request are here.
    fn request(self, bytes: &[u8], around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        // RFC 9112 section 2.2: empty lines before a request line are skipped.
        let skipped = 2 * bytes.chunks_exact(2).take_while(|two| two == b"\r\n").count();
        out.used = skipped;
        let bytes = &bytes[skipped..];
        if matches!(bytes, b"" | b"\r") {
            return Exchange::Reading(self); // no byte of a request yet
        }
        if !head::worth_another_look(bytes, self.seen, head::REQUEST_HEAD_BYTES_MAX) {
            return Exchange::Reading(Self { seen: bytes.len(), ..self });
        }
        let next = head::request(bytes, |head, length| {
            out.used += length;
            self.plan(&head, around, out)
        });
        match next {
            Ok(Some(next)) => next,
            Ok(None) => {
                let first = around.now + around.rules.timeouts.header;
                let until = if self.begun() { self.until } else { first };
                Exchange::Reading(Self { until, seen: bytes.len(), ..self })
            }
            Err(error) => {
                out.used = skipped + bytes.len(); // whatever it was, it is not read as another request
                let ending = Ending::refused(Terms::UNREAD, around);
                ending.fail(Failure::of_request(error), Duration::ZERO, around, out)
            }
        }
    }

    /// Turns a whole head into what is to be done. What is said of it here is the same for every refusal: it
    /// keeps the connection, unless it is unclear where the next request begins.
    fn plan(self, head: &RequestHead<'_, '_>, around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        let framing = framing::of_request(head);
        let to_head = head.method == "HEAD";
        let persistent = head.persistent() && framing == Ok(Framing::Empty) && !self.turned_away;
        let terms = Terms { version: head.version, to_head, persistent: persistent && !around.draining };
        let mut ending = Ending::refused(terms, around);
        if around.rules.access_log {
            ending.target = Some(target_text(head.target).into());
        }
        let allowed = framing
            .map_err(Failure::of_request_framing)
            .and_then(|framing| self.check(head, framing, &mut ending).map_err(Failure::from));
        let (path, query) = match allowed {
            Ok(target) => target,
            Err(failure) => return ending.fail(failure, Duration::ZERO, around, out),
        };
        match route::resolve(path, query) {
            Ok(Route::Page(page)) => ending.page(page, around, out),
            Ok(Route::Pod { origin, target }) => {
                ending.origin = Some(origin);
                let judged = if head.hops() < HOPS_MAX { Ok(()) } else { Err(Outcome::Loop) };
                match judged.and_then(|()| around.rules.policy.judge(origin)) {
                    Ok(()) => Scrape::start(head, origin, target, terms, ending.target, around, out),
                    Err(outcome) => ending.fail(outcome.into(), Duration::ZERO, around, out),
                }
            }
            Err(outcome) => ending.fail(outcome.into(), Duration::ZERO, around, out),
        }
    }

    /// The path and query of a request that may ask for what stands there. Notes the route it takes.
    fn check<'b>(
        self,
        head: &RequestHead<'b, '_>,
        framing: Framing,
        ending: &mut Ending,
    ) -> Result<(&'b str, Option<&'b str>), Outcome> {
        if self.turned_away {
            return Err(Outcome::TooManyClients);
        }
        let is_allowed = matches!(head.method, "GET" | "HEAD");
        match head.target {
            Target::Origin { path, query } => {
                ending.route = route::name(path);
                match ending.route {
                    RouteName::None => Err(Outcome::NotFound),
                    _ if !is_allowed => Err(Outcome::Method),
                    _ if framing != Framing::Empty => Err(Outcome::Body),
                    _ => Ok((path, query)),
                }
            }
            _ if !is_allowed => Err(Outcome::Method),
            // RFC 9112 section 3.2.2 has servers take the absolute form; but what is sent so to us is meant for
            // a proxy (`proxy_url`), and our own page must not pass for another host's.
            Target::Absolute(_) | Target::Other(_) => Err(Outcome::NotOriginForm),
        }
    }
}

fn target_text(target: Target<'_>) -> String {
    match target {
        Target::Origin { path, query: Some(query) } => format!("{path}?{query}"),
        Target::Origin { path: text, query: None } | Target::Absolute(text) | Target::Other(text) => {
            text.to_owned()
        }
    }
}

impl Scrape {
    fn start(
        head: &RequestHead<'_, '_>,
        origin: Origin,
        target: PodTarget<'_>,
        terms: Terms,
        logged: Option<Box<str>>,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        let timeouts = around.rules.timeouts;
        let mut request = out.spare.pop().unwrap_or_default();
        rewrite::request(&mut request, head, &target.parts(), origin);
        let scrape = Self {
            origin,
            terms,
            started: around.now,
            patience: patience(head.first(Name::ScrapeTimeout), timeouts),
            request,
            sent: 0,
            reused: false,
            first_byte: None,
            seen: 0,
            interim_answers: 0,
            target: logged,
        };
        out.upstream = UpstreamAction::Connect(origin);
        scrape.connect(around)
    }

    fn connect(self, around: &Surroundings<'_>) -> Exchange {
        let until = self.until().min(around.now + around.rules.timeouts.connect);
        Exchange::Connecting { scrape: self, until }
    }

    /// The wait for an answer. A pod may answer, or begin to, before the request is sent whole.
    fn wait(self) -> Exchange {
        if self.is_sent() { Exchange::Awaiting(self) } else { Exchange::Sending(self) }
    }

    fn is_sent(&self) -> bool {
        self.sent == self.request.len()
    }

    fn until(&self) -> Instant {
        self.started + self.patience
    }

    /// The path that the pod was asked for, out of the request line that it was sent.
    fn asked(&self) -> &str {
        let words = self.request.split(|&byte| byte == b' ');
        let target = words.clone().nth(1).and_then(|word| str::from_utf8(word).ok()).unwrap_or("/");
        target.split('?').next().unwrap_or(target)
    }

    fn begun(&self) -> bool {
        self.first_byte.is_some()
    }

    /// The pod's connection is gone, and the answer's head never was whole.
    fn lost(mut self, around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        let within = self.patience;
        if self.begun() {
            return self.fail(Outcome::HeadCutShort.into(), within, around, out);
        }
        if !mem::take(&mut self.reused) {
            return self.fail(Outcome::NoAnswer.into(), within, around, out);
        }
        // RFC 9112 section 9.3.1: the pod closed the connection as we sent on it. GET and HEAD are idempotent.
        out.upstream = UpstreamAction::Retry(self.origin);
        self.sent = 0;
        self.connect(around)
    }

    fn fail(
        self,
        failure: Failure,
        within: Duration,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        let persistence = self.persistence(around);
        let ending = self.ending(0, persistence, out);
        out.upstream = UpstreamAction::Close;
        ending.fail(failure, within, around, out)
    }

    /// What is said about the client's connection, as long as the answer's framing lets it persist.
    fn persistence(&self, around: &Surroundings<'_>) -> Persistence {
        Terms { persistent: self.terms.persistent && !around.draining, ..self.terms }.persistence()
    }

    fn ending(self, status: u16, persistence: Persistence, out: &mut Output) -> Ending {
        let until = self.until();
        let terms = Terms { persistent: persistence.persists(), ..self.terms };
        let Self { origin, started, first_byte, target, request, .. } = self;
        out.recycle(request);
        Ending {
            route: RouteName::Pods,
            outcome: Outcome::Forwarded,
            status,
            origin: Some(origin),
            started,
            until,
            first_byte,
            terms,
            target,
        }
    }

    /// Bytes of an answer are here.
    fn answer(mut self, bytes: &mut [u8], around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        let first_byte = around.now.saturating_duration_since(self.started);
        self.first_byte.get_or_insert(first_byte);
        let look = head::worth_another_look(bytes, self.seen, head::ANSWER_HEAD_BYTES_MAX);
        self.seen = bytes.len();
        if !look {
            return self.wait();
        }
        let read = head::answer(bytes, |head| match head.status {
            101 => Err(Outcome::SwitchedProtocols.into()),
            100..=199 => self.interim(&head, out),
            _ => self.head(&head, around, out).map(AnswerRead::Final),
        });
        let within = self.patience;
        match read.map_err(Failure::of_answer).and_then(Option::transpose) {
            Ok(None) => self.wait(),
            Ok(Some(AnswerRead::Interim)) => {
                self.interim_answers += 1;
                self.seen = 0;
                self.wait()
            }
            Ok(Some(AnswerRead::Final(read))) => {
                let AnswerPlan { status, bytes: head, framing, persistence, persists, until_close } = read;
                let unchunk = framing == Framing::Chunked && self.terms.version == Version::Http10;
                let mut scanner = BodyScanner::new(framing);
                let pass = out.pass.start..head;
                let first = Moved::through(&mut scanner, &mut bytes[head..], unchunk);
                if let Then::Broken(error) = first.scanned.then {
                    out.head.clear(); // nothing is sent yet, so the failure can still be told
                    out.pass = 0..0;
                    return self.fail(Failure::of_body(error), within, around, out);
                }
                let upstream_persists = persists && self.is_sent();
                let ending = self.ending(status, persistence, out);
                let relay = Relay { ending, scanner, unchunk, until_close, upstream_persists };
                relay.moved(first, bytes.len() - head, pass, around, out)
            }
            Err(failure) => {
                out.head.clear();
                out.pass = 0..0;
                self.fail(failure, within, around, out)
            }
        }
    }

    /// An interim answer goes on to whoever can read it (RFC 9110 section 15.2).
    fn interim(&self, head: &AnswerHead<'_, '_>, out: &mut Output) -> Result<AnswerRead, Failure> {
        if self.interim_answers == INTERIM_ANSWERS_MAX {
            let detail = Some("too many interim answers");
            return Err(Failure { outcome: Outcome::MalformedAnswer, detail });
        }
        out.used = head.bytes.len();
        if self.terms.version == Version::Http11 {
            let edit =
                AnswerEdit { persistence: Persistence::Implied, unchunk: true, location: None, date: None };
            rewrite::answer(&mut out.head, head, &edit);
        }
        Ok(AnswerRead::Interim)
    }

    /// The final answer's head: what goes on of it, and how its body is framed.
    fn head(
        &self,
        head: &AnswerHead<'_, '_>,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Result<AnswerPlan, Failure> {
        let Terms { version, to_head, .. } = self.terms;
        let framing = framing::of_answer(head, to_head).map_err(Failure::of_answer_framing)?;
        let unchunk = version == Version::Http10;
        let until_close = framing == Framing::UntilClose || (unchunk && framing == Framing::Chunked);
        let persistence = if until_close { Persistence::Close } else { self.persistence(around) };
        let location = head
            .location()
            .and_then(|location| route::location_through_us(location, self.origin, self.asked()));
        let date = (!head.is_dated()).then(|| around.pages.date());
        let edit = AnswerEdit { persistence, unchunk, location, date };
        if edit.is_none(head) {
            out.pass = 0..head.bytes.len();
        } else {
            rewrite::answer(&mut out.head, head, &edit);
            out.pass = head.bytes.len()..head.bytes.len();
        }
        let persists = head.persistent() && framing != Framing::UntilClose;
        let bytes = head.bytes.len();
        Ok(AnswerPlan { status: head.status, bytes, framing, persistence, persists, until_close })
    }
}

/// What a whole head of an answer turned out to be.
enum AnswerRead {
    Interim,
    Final(AnswerPlan),
}

/// What is to be done with an answer, by its head.
struct AnswerPlan {
    status: u16,
    /// The length of the head.
    bytes: usize,
    framing: Framing,
    persistence: Persistence,
    /// The pod's connection persists.
    persists: bool,
    until_close: bool,
}

/// Bytes that went through a scanner.
struct Moved {
    scanned: Scanned,
    /// So many of them, at the start, are for the client.
    kept: usize,
}

impl Moved {
    /// Follows the body through `bytes`; with `unchunk`, moves its content together at their start.
    fn through(scanner: &mut BodyScanner, bytes: &mut [u8], unchunk: bool) -> Self {
        if !unchunk {
            let scanned = scanner.scan(bytes);
            return Self { scanned, kept: scanned.bytes };
        }
        let (mut at, mut kept) = (0, 0);
        let broken = loop {
            if at == bytes.len() || scanner.ended() {
                break None;
            }
            match scanner.piece(&bytes[at..]) {
                Ok(piece) => {
                    if piece.content {
                        bytes.copy_within(at..at + piece.bytes, kept);
                        kept += piece.bytes;
                    }
                    at += piece.bytes;
                }
                Err(error) => break Some(error),
            }
        };
        let then = match broken {
            Some(error) => Then::Broken(error),
            None if scanner.ended() => Then::Ended,
            None => Then::More,
        };
        Self { scanned: Scanned { bytes: at, then }, kept }
    }
}

impl Relay {
    /// Bytes of the body are here.
    fn body(
        mut self,
        bytes: &mut [u8],
        pass: Range<usize>,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        let moved = Moved::through(&mut self.scanner, bytes, self.unchunk);
        self.moved(moved, bytes.len(), pass, around, out)
    }

    /// `moved` of `available` bytes belong to the body; they stand behind `pass`, which goes on with them.
    fn moved(
        self,
        moved: Moved,
        available: usize,
        pass: Range<usize>,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        let Moved { scanned, kept } = moved;
        out.pass = pass.start..pass.end + kept;
        out.used = pass.end + available;
        match scanned.then {
            Then::More => Exchange::Relaying(self),
            // Bytes behind the end are an answer to nothing. The connection they came on is not used again.
            Then::Ended => self.ended(scanned.bytes == available, out),
            Then::Broken(error) => self.broken(Failure::of_body(error).outcome, around, out),
        }
    }

    /// The body ended; `exactly`: and nothing came after it.
    fn ended(self, exactly: bool, out: &mut Output) -> Exchange {
        let keep = exactly && self.upstream_persists;
        out.upstream = if keep { UpstreamAction::Keep } else { UpstreamAction::Close };
        Exchange::Replying(self.ending)
    }

    /// The answer is not going to be whole, and part of it is sent: the client must see it.
    fn broken(self, outcome: Outcome, around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        out.upstream = UpstreamAction::Close;
        out.client = if self.until_close { ClientAction::Reset } else { ClientAction::Close };
        out.report = Some(self.ending.report(outcome, around.now));
        Exchange::Closed
    }
}

impl Ending {
    /// A request that came to no pod, so far.
    fn refused(terms: Terms, around: &Surroundings<'_>) -> Self {
        Self {
            route: RouteName::None,
            outcome: Outcome::Page,
            status: 0,
            origin: None,
            started: around.now,
            until: around.now + around.rules.timeouts.scrape,
            first_byte: None,
            terms,
            target: None,
        }
    }

    /// Replies with a page of our own.
    fn page(mut self, page: Page, around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        let mut body = mem::take(&mut out.page);
        let PageHead { status, content_type } = around.pages.render(page, &mut body);
        self.status = status;
        let reason = if status == 200 { "OK" } else { "Service Unavailable" };
        let persistence = self.terms.persistence();
        let to_head = self.terms.to_head;
        let date = around.pages.date();
        Reply { status, reason, content_type, allow: None, body: &body, persistence, to_head, date }
            .write(&mut out.head);
        body.clear();
        out.page = body;
        Exchange::Replying(self)
    }

    /// Replies with what went wrong: in one line, and the same in the reason phrase, which is what Prometheus
    /// shows.
    fn fail(
        mut self,
        failure: Failure,
        within: Duration,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.outcome = failure.outcome;
        self.status = failure.outcome.status();
        // A client that gets no answer before our deadline may still take this one.
        self.until = self.until.max(around.now + around.rules.timeouts.header);
        let reason = failure.phrase(within).to_string();
        let after = Short(around.now.saturating_duration_since(self.started));
        let body = match self.origin {
            Some(pod) => format!("{reason} (pod {pod}, after {after})\n"),
            None => format!("{reason}\n"),
        };
        Reply {
            status: self.status,
            reason,
            content_type: reply::TEXT,
            allow: (failure.outcome == Outcome::Method).then_some("GET, HEAD"),
            body: body.as_bytes(),
            persistence: self.terms.persistence(),
            to_head: self.terms.to_head,
            date: around.pages.date(),
        }
        .write(&mut out.head);
        Exchange::Replying(self)
    }

    /// The client took all of it.
    fn flushed(self, around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        let Surroundings { now, rules, .. } = *around;
        let next = if self.terms.persistent {
            let until = now + rules.timeouts.client_idle;
            Exchange::Reading(Reading { until, seen: 0, turned_away: false })
        } else {
            out.client = ClientAction::Shutdown;
            Exchange::Lingering { until: now + LINGER_TIMEOUT, bytes_left: LINGER_BYTES_MAX }
        };
        let outcome = self.outcome;
        out.report = Some(self.report(outcome, now));
        next
    }

    fn client_gone(self, around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        out.upstream = UpstreamAction::Close;
        out.client = ClientAction::Close;
        out.report = Some(self.report(Outcome::ClientGone, around.now));
        Exchange::Closed
    }

    fn report(self, outcome: Outcome, now: Instant) -> Report {
        let Self { route, status, origin, started, first_byte, target, .. } = self;
        let status = if status == 0 { outcome.status() } else { status };
        let duration = now.saturating_duration_since(started);
        Report { route, outcome, status, origin, duration, first_byte, target }
    }
}

impl Outcome {
    /// What it means that no connection to the pod came about.
    fn of_connecting(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Refused => Self::ConnectionRefused,
            UpstreamError::Unreachable => Self::Unreachable,
            UpstreamError::TimedOut => Self::ConnectTimeout,
            UpstreamError::NoDescriptors => Self::NoDescriptors,
            UpstreamError::Other => Self::ConnectFailed,
        }
    }
}

impl Output {
    fn clear(&mut self) {
        self.used = 0;
        self.head.clear();
        self.pass = 0..0;
        self.upstream = UpstreamAction::None;
        self.client = ClientAction::None;
        self.report = None;
    }

    /// Keeps a request's buffer for another one.
    fn recycle(&mut self, mut request: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && request.capacity() <= SPARE_BUFFER_BYTES_MAX {
            request.clear();
            self.spare.push(request);
        }
    }
}

/// How long Prometheus leaves us: what it says it is going to wait, less a margin so that it shows our reason
/// and not its own. A value that is no positive number is ignored.
fn patience(scrape_timeout: Option<&[u8]>, timeouts: Timeouts) -> Duration {
    const MARGIN_MAX: f64 = 0.5;
    let seconds = scrape_timeout
        .and_then(|value| str::from_utf8(value).ok())
        .and_then(|value| value.parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0);
    match seconds {
        None => timeouts.scrape,
        Some(seconds) => Duration::try_from_secs_f64(seconds - MARGIN_MAX.min(seconds / 10.0))
            .map_or(timeouts.scrape_max, |patience| patience.min(timeouts.scrape_max)),
    }
}
