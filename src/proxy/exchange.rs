//! The state machine: one request, its pod, its answer.
//!
//! Owns every transition of an exchange, and nothing else does. It reads no clock and touches no socket: what
//! happened comes in as an [`Input`], at a time that the caller names, and what is to be done goes out as an
//! [`Output`]. A failure is a transition like any other; where it leads is decided here too.
//!
//! ```text
//! Reading -> Replying (own page, refusal)           -> Reading | Lingering
//! Reading: head out of time                         -> Replying 408
//! Reading: idle too long, drained                   -> Closed
//! Reading -> Connecting -> Sending -> Awaiting -> Relaying -> Replying -> Reading | Lingering
//! Connecting: refused, timed out                    -> Replying 502, 504
//! Sending | Awaiting: a reused connection died before any byte of an answer -> Connecting (fresh, once)
//! Sending | Awaiting: no answer, or no sound one    -> Replying 502, 504
//! Sending | Awaiting: 1xx                           -> as it was
//! Sending: an answer before all is sent             -> Relaying
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
    time::{Duration, Instant},
};

use super::{
    dialogue::{ClientAction, Input, Output, PageHead, Report, Surroundings, UpstreamAction, Wants},
    duration::Short,
    outcome::{Failure, Outcome},
    route::{self, Origin, Page, PodTarget, Route, RouteName},
    rules::Rules,
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
    line: Option<Box<str>>,
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
    detail: Option<&'static str>,
    within: Duration,
    line: Option<Box<str>>,
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
                scrape.fail(Failure::of_connecting(error), within, around, out)
            }
            (Self::Connecting { scrape, until }, Input::Tick { .. }) => {
                let out_of_patience = until == scrape.until();
                let within = if out_of_patience { scrape.patience } else { around.rules.timeouts.connect };
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

            (Self::Relaying(relay), Input::Answer(bytes)) => relay.body(bytes, around, out),
            (Self::Relaying(relay), Input::UpstreamEnd) => match relay.scanner.end_of_connection() {
                Ok(()) => relay.ended(false, out),
                Err(error) => relay.broken(Failure::of_body(error), around, out),
            },
            (Self::Relaying(relay), Input::UpstreamFailed(_)) => {
                relay.broken(Outcome::BodyCutShort.into(), around, out)
            }
            (Self::Relaying(relay), Input::Tick { client_stalled }) => {
                let late = if client_stalled { Outcome::ClientTimeout } else { Outcome::BodyTimeout };
                relay.broken(late.into(), around, out)
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
        let next = head::request(bytes, |head| {
            out.used += head.bytes.len();
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
        let line = || Some(format!("{} {}", head.method, head.target).into());
        if around.rules.access_log {
            ending.line = line();
        }
        let route = framing.map_err(Failure::of_request_framing).and_then(|framing| {
            let asked = self.check(head, framing, &mut ending);
            asked.and_then(|(path, query)| route::resolve(path, query)).map_err(Failure::from)
        });
        match route {
            Ok(Route::Page(page)) => ending.page(page, around, out),
            Ok(Route::Pod { origin, target }) => {
                ending.origin = Some(origin);
                let judged = if head.hops() < HOPS_MAX { Ok(()) } else { Err(Outcome::Loop) };
                match judged.and_then(|()| around.rules.policy.judge(origin)) {
                    Ok(()) => Scrape::start(head, origin, target, terms, ending.line, around, out),
                    Err(outcome) => ending.fail(outcome.into(), Duration::ZERO, around, out),
                }
            }
            Err(failure) => {
                ending.line = line();
                ending.fail(failure, Duration::ZERO, around, out)
            }
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

impl Scrape {
    fn start(
        head: &RequestHead<'_, '_>,
        origin: Origin,
        target: PodTarget<'_>,
        terms: Terms,
        line: Option<Box<str>>,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        let timeouts = around.rules.timeouts;
        let mut request = out.spare.pop().unwrap_or_default();
        rewrite::request(&mut request, head, &target.parts(), origin.socket_addr());
        let scrape = Self {
            origin,
            terms,
            started: around.now,
            patience: timeouts.patience(head.first(Name::ScrapeTimeout)),
            request,
            sent: 0,
            reused: false,
            first_byte: None,
            seen: 0,
            interim_answers: 0,
            line,
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

    /// Nothing of an answer is sent yet, so the failure can still be told.
    fn fail(
        self,
        failure: Failure,
        within: Duration,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        out.head.clear();
        out.pass = 0..0;
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
        let Self { origin, started, first_byte, line, request, .. } = self;
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
            detail: None,
            within: Duration::ZERO,
            line,
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
                let AnswerPlan { status, bytes: head, framing, unchunk, until_close, persistence, persists } =
                    read;
                let mut scanner = BodyScanner::new(framing);
                let pass = out.pass.start..head;
                let moved = follow(&mut scanner, &mut bytes[head..], unchunk);
                if let Then::Broken(error) = moved.0.then {
                    return self.fail(Failure::of_body(error), within, around, out);
                }
                let upstream_persists = persists && self.is_sent();
                let ending = self.ending(status, persistence, out);
                let relay = Relay { ending, scanner, unchunk, until_close, upstream_persists };
                relay.moved(moved, bytes.len() - head, pass, around, out)
            }
            Err(failure) => self.fail(failure, within, around, out),
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
        let unchunk = version == Version::Http10 && framing == Framing::Chunked;
        let until_close = unchunk || framing == Framing::UntilClose;
        let persistence = if until_close { Persistence::Close } else { self.persistence(around) };
        let location = head
            .location()
            .and_then(|location| route::location_through_us(location, self.origin, self.asked()));
        let date = (!head.is_dated()).then(|| around.pages.date());
        // Where there is no body, an HTTP/1.0 client is told of no chunks either.
        let edit = AnswerEdit { persistence, unchunk: version == Version::Http10, location, date };
        if edit.is_none(head) {
            out.pass = 0..head.bytes.len();
        } else {
            rewrite::answer(&mut out.head, head, &edit);
            out.pass = head.bytes.len()..head.bytes.len();
        }
        let persists = head.persistent() && framing != Framing::UntilClose;
        let bytes = head.bytes.len();
        Ok(AnswerPlan { status: head.status, bytes, framing, unchunk, persistence, persists, until_close })
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
    /// The chunked coding is taken off.
    unchunk: bool,
    persistence: Persistence,
    /// The pod's connection persists.
    persists: bool,
    until_close: bool,
}

/// Follows a body through `bytes`, and says how many of them, at their start, are then for the client.
fn follow(scanner: &mut BodyScanner, bytes: &mut [u8], unchunk: bool) -> (Scanned, usize) {
    if unchunk {
        return scanner.content_to_front(bytes);
    }
    let scanned = scanner.scan(bytes);
    (scanned, scanned.bytes)
}

impl Relay {
    /// Bytes of the body are here.
    fn body(mut self, bytes: &mut [u8], around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        let moved = follow(&mut self.scanner, bytes, self.unchunk);
        self.moved(moved, bytes.len(), 0..0, around, out)
    }

    /// `moved` of `available` bytes belong to the body; they stand behind `pass`, which goes on with them.
    fn moved(
        self,
        (scanned, kept): (Scanned, usize),
        available: usize,
        pass: Range<usize>,
        around: &Surroundings<'_>,
        out: &mut Output,
    ) -> Exchange {
        out.pass = pass.start..pass.end + kept;
        out.used = pass.end + available;
        match scanned.then {
            Then::More => Exchange::Relaying(self),
            // Bytes behind the end are an answer to nothing. The connection they came on is not used again.
            Then::Ended => self.ended(scanned.bytes == available, out),
            Then::Broken(error) => self.broken(Failure::of_body(error), around, out),
        }
    }

    /// The body ended; `exactly`: and nothing came after it.
    fn ended(self, exactly: bool, out: &mut Output) -> Exchange {
        let keep = exactly && self.upstream_persists;
        out.upstream = if keep { UpstreamAction::Keep } else { UpstreamAction::Close };
        Exchange::Replying(self.ending)
    }

    /// The answer is not going to be whole, and part of it is sent: the client must see it.
    fn broken(mut self, failure: Failure, around: &Surroundings<'_>, out: &mut Output) -> Exchange {
        self.ending.detail = failure.detail;
        self.ending.within = self.ending.until.saturating_duration_since(self.ending.started);
        out.upstream = UpstreamAction::Close;
        out.client = if self.until_close { ClientAction::Reset } else { ClientAction::Close };
        out.report = Some(self.ending.report(failure.outcome, around.now));
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
            detail: None,
            within: Duration::ZERO,
            line: None,
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
        self.detail = failure.detail;
        self.within = within;
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
        let Self { route, status, origin, started, first_byte, detail, within, line, .. } = self;
        let status = if status == 0 { outcome.status() } else { status };
        let duration = now.saturating_duration_since(started);
        Report { route, outcome, status, origin, duration, first_byte, detail, within, request: line }
    }
}
