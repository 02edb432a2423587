//! The state machine: one request, its pod, its answer.
//!
//! Owns every transition of an exchange, and nothing else does. It reads no clock and touches no socket: what
//! happened comes in as an [`Event`], at a time that the caller names, and what is to be done goes out as an
//! [`Output`]. A failure is a transition like any other; where it leads is decided here too.
//!
//! ```text
//! Reading -> Replying (own page, refusal)           -> Reading | Lingering
//! Reading: head out of time                         -> Replying 408
//! Reading: silent while others wait for its place   -> Replying 503
//! Reading: idle too long, drained                   -> Closed
//! Reading -> Connecting -> Sending -> Awaiting -> Relaying -> Replying -> Reading | Lingering
//! Connecting: refused, timed out                    -> Replying 502, 504
//! Sending | Awaiting: a reused connection died or was stale -> Connecting (fresh, once)
//! Sending | Awaiting: no answer, or no sound one    -> Replying 502, 504
//! Sending | Awaiting: 1xx                           -> as it was
//! Sending: an answer before all is sent             -> Relaying
//! Relaying: cut short, malformed, out of time       -> Lingering, visibly broken; an end is never faked
//! Relaying: out of time, and the client is behind   -> Closed
//! Replying: out of time                             -> Closed, reset
//! Lingering: all is delivered, or time is up        -> Closed
//! Reading .. Awaiting: buffers are full             -> Replying 503
//! Relaying: buffers are full                        -> Lingering, visibly broken
//! any: buffers are full, and the client is behind   -> Closed, reset
//! any: the client went away                         -> Closed, and the pod's connection with it
//! ```
//!
//! Replying is what is left when every byte of the answer, ours or the pod's, is handed over, and the client has
//! yet to take the last of them. The pod's connection is in the pool or closed by then.

use std::{mem, ops::Range, time::Duration};

use super::{
    duration::HumanDuration,
    events::{ClientAction, Context, Event, Output, PageHead, Report, UpstreamAction, Wants},
    logged,
    outcome::{Failure, Outcome},
    peer::Origin,
    route::{self, Page, PodTarget, Route, RouteName},
    settings::Settings,
    timestamp::Timestamp,
};
use crate::http1::{
    body::{BodyScanner, Progress, Scan},
    field::Name,
    framing::{self, Framing},
    head::{self, RequestHead, ResponseHead, Target, Version},
    lenient::{self, Lenient},
    local_response::{self, LocalResponse},
    rewrite::{self, Persistence, ResponseEdit},
};

/// A scrape that has come through us this often is going in a circle.
const HOPS_MAX: usize = 3;
/// The most interim answers (1xx) to one request.
const INTERIM_RESPONSES_MAX: u8 = 8;
/// How long, and for how many bytes, a connection is read on after our last answer on it. To close it with
/// input unread would reset it, and could destroy that answer before it is read.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection that is about to be closed is looked at, for whether the last answer on it is delivered.
const LINGER_TICK: Duration = Duration::from_millis(50);
const LINGER_BYTES_MAX: u32 = 256 * 1024;
/// How every answer begins.
const RESPONSE_START: &[u8] = b"HTTP/";
/// The largest buffer of a request that is kept for the next one.
const SPARE_REQUEST_BYTES_MAX: usize = 2 * 1024;

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
    until: Timestamp,
    /// So many bytes of a head are here and were looked at.
    seen: u32,
    turned_away: bool,
}

/// The wait for our last answer to be delivered.
#[derive(Clone, Copy, Debug)]
pub struct Lingering {
    /// When the client is looked at next.
    until: Timestamp,
    /// When it is closed even if it has not taken all.
    limit: Timestamp,
    /// How much more is read.
    bytes_left: u32,
    /// The client has ended its side: nothing more is read.
    ended: bool,
    /// Only a reset shows that the last answer is broken.
    resets: bool,
}

impl Lingering {
    /// For at most as long as `limit` after a whole answer.
    fn until(until: Timestamp, limit: Timestamp) -> Self {
        Self { until, limit: limit.max(until), bytes_left: LINGER_BYTES_MAX, ended: false, resets: false }
    }

    /// It was looked at. An answer that is still being delivered is not destroyed by a close.
    fn tick(self, client_stalled: bool, now: Timestamp, out: &mut Output) -> Exchange {
        if client_stalled && now < self.limit {
            return Exchange::Lingering(Self { until: self.limit.min(now + LINGER_TICK), ..self });
        }
        if self.resets {
            out.client = ClientAction::Reset;
            return Exchange::Closed;
        }
        Exchange::close(out)
    }
}

impl Reading {
    fn begun(self) -> bool {
        self.seen > 0
    }
}

/// What the client's side of an answer has to respect.
#[derive(Clone, Copy, Debug)]
struct ClientTerms {
    version: Version,
    to_head: bool,
    persistent: bool,
}

impl ClientTerms {
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

/// A request from its whole head on, to the end of its answer.
#[derive(Debug)]
pub struct Transaction {
    route: RouteName,
    terms: ClientTerms,
    line: Option<Box<str>>,
    origin: Option<Origin>,
    started: Timestamp,
    /// When it has taken too long.
    until: Timestamp,
    /// The request as the pod gets it. Kept until the answer's head is whole: to be sent again, and for its path.
    request: Vec<u8>,
    /// So many bytes of it are sent.
    sent: usize,
    reused: bool,
    /// When the first byte of an answer was here.
    first_byte: Option<Timestamp>,
    /// So many bytes of the answer's head are here and were looked at.
    seen: usize,
    interim_responses: u8,
    response: Response,
    // How it is going to end, if nothing comes between.
    outcome: Outcome,
    status: u16,
    detail: Option<&'static str>,
    within: Duration,
}

/// What is to be done with an answer, by its head.
#[derive(Debug)]
struct Response {
    scanner: BodyScanner,
    /// The chunked coding is taken off.
    unchunk: bool,
    /// The client finds the end of the answer by the end of the connection: only a reset shows a broken one.
    until_close: bool,
    /// The pod's connection may serve again if the body ends where it should.
    upstream_persists: bool,
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

    /// When [`Event::Timeout`] is due, if nothing happens before.
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
    /// comes in as [`Event::Spliced`].
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

    /// Goes on with what happened. An input that a state does not wait for changes nothing.
    pub fn step(self, input: Event<'_>, ctx: &Context<'_>, out: &mut Output) -> Self {
        out.clear();
        match (self, input) {
            (state, Event::Timeout { .. }) if state.deadline().is_none_or(|at| ctx.now < at) => state,
            (Self::Closed, _) => Self::Closed,

            (Self::Reading(reading), Event::Request(bytes)) => reading.request(bytes, ctx, out),
            (Self::Reading(reading), Event::Timeout { .. }) if reading.begun() => {
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx, out);
                transaction.fail(Outcome::HeadTimeout.into(), ctx.settings.timeouts.header, ctx, out)
            }
            (Self::Reading(_), Event::Timeout { .. } | Event::ClientGone) => Self::close(out),
            (Self::Reading(_), Event::ClientEnded) => Self::deliver(true, ctx, out),
            (Self::Reading(reading), Event::CloseIfIdle { client_stalled }) if !reading.begun() => {
                if client_stalled {
                    Self::deliver(false, ctx, out)
                } else {
                    Self::close(out)
                }
            }
            (Self::Reading(reading), Event::TurnAway) if !reading.begun() => {
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx, out);
                transaction.fail(Outcome::TooManyClients.into(), Duration::ZERO, ctx, out)
            }

            (Self::Connecting { mut transaction, .. }, Event::Connected { reused }) => {
                transaction.reused = reused;
                transaction.wait()
            }
            (Self::Connecting { transaction, .. }, Event::UpstreamFailed(error)) => {
                let within = transaction.patience().min(ctx.settings.timeouts.connect);
                transaction.give_up_within(within, Failure::of_connecting(error), ctx, out)
            }
            (Self::Connecting { transaction, until }, Event::Timeout { .. }) => {
                let out_of_patience = until == transaction.until;
                let within =
                    if out_of_patience { transaction.patience() } else { ctx.settings.timeouts.connect };
                transaction.give_up_within(within, Outcome::ConnectTimeout.into(), ctx, out)
            }

            (Self::Sending(mut transaction), Event::Sent(bytes)) => {
                transaction.sent = transaction.request.len().min(transaction.sent + bytes);
                transaction.wait()
            }
            // What a kept connection said before it was asked answers nothing. It must not become part of this.
            (Self::Sending(transaction), Event::Response(_))
                if transaction.reused && transaction.sent == 0 =>
            {
                transaction.retry(ctx, out)
            }
            (Self::Sending(transaction) | Self::Awaiting(transaction), Event::Response(bytes)) => {
                transaction.response(bytes, ctx, out)
            }
            (
                Self::Sending(transaction) | Self::Awaiting(transaction),
                Event::UpstreamEof | Event::UpstreamFailed(_),
            ) => transaction.upstream_lost(ctx, out),
            (Self::Sending(transaction) | Self::Awaiting(transaction), Event::Timeout { .. }) => {
                transaction.give_up(Outcome::AnswerTimeout.into(), ctx, out)
            }

            (Self::Relaying(transaction), Event::Response(bytes)) => transaction.body(bytes, ctx, out),
            (Self::Relaying(transaction), Event::Spliced(bytes)) => transaction.spliced(bytes, ctx, out),
            (Self::Relaying(transaction), Event::UpstreamEof) => {
                match transaction.response.scanner.end_of_connection() {
                    Ok(()) => transaction.ended(false, out),
                    Err(error) => transaction.broken(Failure::of_body(error), ctx, out),
                }
            }
            (Self::Relaying(transaction), Event::UpstreamFailed(_)) => {
                transaction.broken(Outcome::BodyCutShort.into(), ctx, out)
            }
            (Self::Relaying(transaction), Event::Timeout { client_stalled: false }) => {
                transaction.broken(Outcome::BodyTimeout.into(), ctx, out)
            }
            (Self::Relaying(transaction), Event::Timeout { client_stalled: true }) => {
                transaction.reset(Outcome::ClientTimeout, ctx, out)
            }

            // A tick may come before the word that the client took all of it.
            (Self::Replying(transaction), Event::Flushed | Event::Timeout { client_stalled: false }) => {
                transaction.flushed(ctx, out)
            }
            (Self::Replying(transaction), Event::Timeout { client_stalled: true }) => {
                out.client = ClientAction::Reset;
                transaction.report(Outcome::ClientTimeout, ctx, out);
                Self::Closed
            }

            (Self::Lingering(lingering), Event::Discarded(bytes))
                if bytes <= lingering.bytes_left as usize =>
            {
                Self::Lingering(Lingering { bytes_left: lingering.bytes_left - bytes as u32, ..lingering })
            }
            (Self::Lingering(lingering), Event::ClientEnded) => {
                Self::Lingering(Lingering { ended: true, ..lingering })
            }
            (Self::Lingering(lingering), Event::Timeout { client_stalled }) => {
                lingering.tick(client_stalled, ctx.now, out)
            }
            (Self::Lingering(_), Event::Discarded(_) | Event::ClientGone) => Self::close(out),

            (state, Event::NoRoom { client_stalled }) => state.give_way(client_stalled, ctx, out),

            (
                Self::Connecting { transaction, .. }
                | Self::Sending(transaction)
                | Self::Awaiting(transaction)
                | Self::Relaying(transaction)
                | Self::Replying(transaction),
                Event::ClientGone,
            ) => {
                out.upstream = UpstreamAction::Close;
                transaction.report(Outcome::ClientGone, ctx, out);
                Self::close(out)
            }

            (state, _) => state,
        }
    }

    /// Nothing may be held for it any more. Where nothing of an answer is on its way, the client is told.
    fn give_way(self, client_stalled: bool, ctx: &Context<'_>, out: &mut Output) -> Self {
        let outcome = Outcome::BuffersFull;
        match self {
            Self::Reading(reading) if reading.begun() => {
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx, out);
                transaction.fail(outcome.into(), Duration::ZERO, ctx, out)
            }
            Self::Connecting { mut transaction, .. }
            | Self::Sending(mut transaction)
            | Self::Awaiting(mut transaction)
                if !client_stalled =>
            {
                // What the client sent beyond this request goes too.
                transaction.terms.persistent = false;
                transaction.clear();
                transaction.give_up(outcome.into(), ctx, out)
            }
            Self::Replying(mut transaction) if !client_stalled => {
                transaction.terms.persistent = false;
                transaction.flushed(ctx, out)
            }
            Self::Connecting { transaction, .. }
            | Self::Sending(transaction)
            | Self::Awaiting(transaction)
            | Self::Relaying(transaction)
            | Self::Replying(transaction) => {
                if client_stalled {
                    transaction.reset(outcome, ctx, out)
                } else {
                    transaction.broken(outcome.into(), ctx, out)
                }
            }
            Self::Reading(_) | Self::Lingering(_) | Self::Closed => Self::close(out),
        }
    }

    fn close(out: &mut Output) -> Self {
        out.client = ClientAction::Close;
        Self::Closed
    }

    /// Waits for the last answer to be delivered: no longer than for a scrape, and where others wait for the place,
    /// not for that long.
    #[cold]
    fn deliver(ended: bool, ctx: &Context<'_>, out: &mut Output) -> Self {
        out.client = ClientAction::Shutdown;
        let is_urgent = !ended && !ctx.draining;
        let limit = ctx.now + if is_urgent { LINGER_TIMEOUT } else { ctx.settings.timeouts.scrape };
        Self::Lingering(Lingering { ended, ..Lingering::until(ctx.now + LINGER_TICK, limit) })
    }
}

impl Reading {
    /// Bytes of a request are here.
    fn request(self, bytes: &[u8], ctx: &Context<'_>, out: &mut Output) -> Exchange {
        // RFC 9112 section 2.2: empty lines before a request line are skipped.
        let skipped = 2 * bytes.chunks_exact(2).take_while(|two| two == b"\r\n").count();
        out.used = skipped;
        let bytes = &bytes[skipped..];
        if matches!(bytes, b"" | b"\r") {
            return Exchange::Reading(self); // no byte of a request yet
        }
        if !head::worth_another_look(bytes, self.seen as usize, head::REQUEST_HEAD_BYTES_MAX) {
            return Exchange::Reading(Self { seen: bytes.len() as u32, ..self });
        }
        let next = head::request(bytes, |head| {
            out.used += head.bytes.len();
            self.plan(&head, ctx, out)
        });
        match next {
            Ok(Some(next)) => next,
            Ok(None) => {
                let first = ctx.now + ctx.settings.timeouts.header;
                let until = if self.begun() { self.until } else { first };
                Exchange::Reading(Self { until, seen: bytes.len() as u32, ..self })
            }
            Err(error) => {
                out.used = skipped + bytes.len(); // whatever it was, it is not read as another request
                let transaction = Transaction::begin(ClientTerms::UNREAD, ctx, out);
                transaction.fail(Failure::of_request(error), Duration::ZERO, ctx, out)
            }
        }
    }

    /// Turns a whole head into what is to be done. What is said of it here is the same for every refusal: it
    /// keeps the connection, unless it is unclear where the next request begins.
    fn plan(self, head: &RequestHead<'_, '_>, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        let framing = framing::of_request(head);
        let to_head = head.method == "HEAD";
        let persistent = head.persistent() && framing == Ok(Framing::Empty) && !self.turned_away;
        let terms = ClientTerms { version: head.version, to_head, persistent: persistent && !ctx.draining };
        let mut transaction = Transaction::begin(terms, ctx, out);
        let line = || Some(logged::request(head.method, head.target).into());
        if ctx.settings.access_log {
            transaction.line = line();
        }
        let route = framing.map_err(Failure::of_request_framing).and_then(|framing| {
            let asked = self.check(head, framing, &mut transaction);
            asked.and_then(|(path, query)| route::resolve(path, query)).map_err(Failure::from)
        });
        match route {
            Ok(Route::Page(page)) => transaction.page(page, ctx, out),
            Ok(Route::Pod { origin, target }) => {
                transaction.origin = Some(origin);
                let judged = if head.hops() < HOPS_MAX { Ok(()) } else { Err(Outcome::Loop) };
                match judged.and_then(|()| ctx.settings.policy.authorize(origin)) {
                    Ok(()) => transaction.start(head, origin, target, ctx, out),
                    Err(outcome) => transaction.fail(outcome.into(), Duration::ZERO, ctx, out),
                }
            }
            Err(failure) => {
                transaction.line = line();
                transaction.fail(failure, Duration::ZERO, ctx, out)
            }
        }
    }

    /// The path and query of a request that may ask for what stands there. Notes the route it takes.
    fn check<'b>(
        self,
        head: &RequestHead<'b, '_>,
        framing: Framing,
        transaction: &mut Transaction,
    ) -> Result<(&'b str, Option<&'b str>), Outcome> {
        if self.turned_away {
            return Err(Outcome::TooManyClients);
        }
        let is_allowed = matches!(head.method, "GET" | "HEAD");
        match head.target {
            Target::Origin { path, query } => {
                transaction.route = route::name(path);
                match transaction.route {
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

/// On the way to the pod.
impl Transaction {
    fn begin(terms: ClientTerms, ctx: &Context<'_>, out: &mut Output) -> Box<Self> {
        let mut transaction = out.spare.pop().unwrap_or_else(|| Box::new(Self::new(terms, ctx)));
        let request = mem::take(&mut transaction.request);
        *transaction = Self { request, ..Self::new(terms, ctx) };
        transaction
    }

    fn new(terms: ClientTerms, ctx: &Context<'_>) -> Self {
        Self {
            route: RouteName::None,
            terms,
            line: None,
            origin: None,
            started: ctx.now,
            until: ctx.now + ctx.settings.timeouts.scrape,
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

    fn start(
        mut self: Box<Self>,
        head: &RequestHead<'_, '_>,
        origin: Origin,
        target: PodTarget<'_>,
        ctx: &Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.until = self.started + ctx.settings.timeouts.patience(head.first(Name::ScrapeTimeout));
        rewrite::request(&mut self.request, head, &target.parts(), origin.socket_addr());
        self.request.shrink_to(SPARE_REQUEST_BYTES_MAX);
        out.upstream = UpstreamAction::Connect(origin);
        self.connect(ctx)
    }

    fn connect(self: Box<Self>, ctx: &Context<'_>) -> Exchange {
        let until = self.until.min(ctx.now + ctx.settings.timeouts.connect);
        Exchange::Connecting { transaction: self, until }
    }

    /// The wait for an answer. A pod may answer, or begin to, before the request is sent whole.
    fn wait(self: Box<Self>) -> Exchange {
        if self.is_sent() { Exchange::Awaiting(self) } else { Exchange::Sending(self) }
    }

    fn is_sent(&self) -> bool {
        self.sent == self.request.len()
    }

    /// How long the client waits, from its request's head on.
    fn patience(&self) -> Duration {
        self.until.since(self.started)
    }

    /// The path that the pod was asked for, out of the request line that it was sent.
    fn asked(&self) -> &str {
        let words = self.request.split(|&byte| byte == b' ');
        let target = words.clone().nth(1).and_then(|word| str::from_utf8(word).ok()).unwrap_or("/");
        target.split('?').next().unwrap_or(target)
    }

    /// Whether it is sent on a reused connection that has not shown yet that it answers this request.
    fn is_unanswered(&self) -> bool {
        self.reused && self.interim_responses == 0 && self.seen < RESPONSE_START.len()
    }

    /// The pod's connection is gone, and the answer's head never was whole.
    fn upstream_lost(self: Box<Self>, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        match self.first_byte {
            // RFC 9112 section 9.3.1: the pod closed the connection as we sent on it.
            _ if self.is_unanswered() => self.retry(ctx, out),
            Some(_) => self.give_up(Outcome::HeadCutShort.into(), ctx, out),
            None => self.give_up(Outcome::NoAnswer.into(), ctx, out),
        }
    }

    /// The reused connection was stale. GET and HEAD are idempotent: the request goes once more, on a fresh one.
    #[cold]
    fn retry(mut self: Box<Self>, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        let Some(origin) = self.origin else { return self.give_up(Outcome::NoAnswer.into(), ctx, out) };
        out.upstream = UpstreamAction::Retry(origin);
        (self.reused, self.sent, self.seen, self.first_byte) = (false, 0, 0, None);
        self.connect(ctx)
    }

    /// Nothing of an answer is sent yet, so the failure can still be told.
    fn give_up(self: Box<Self>, failure: Failure, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        let within = self.patience();
        self.give_up_within(within, failure, ctx, out)
    }

    /// The same, of what was to happen in a time of its own.
    fn give_up_within(
        mut self: Box<Self>,
        within: Duration,
        failure: Failure,
        ctx: &Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        out.head.clear();
        out.pass = 0..0;
        out.upstream = UpstreamAction::Close;
        self.terms = self.terms_now(ctx);
        self.fail(failure, within, ctx, out)
    }

    /// A connection stops persisting when the process is about to stop.
    fn terms_now(&self, ctx: &Context<'_>) -> ClientTerms {
        ClientTerms { persistent: self.terms.persistent && !ctx.draining, ..self.terms }
    }

    /// Bytes of an answer are here.
    fn response(mut self: Box<Self>, bytes: &mut [u8], ctx: &Context<'_>, out: &mut Output) -> Exchange {
        // What another answer left behind, such as a body behind the answer to a HEAD request, is not for this one.
        if self.is_unanswered() && !starts_like_a_response(bytes) {
            return self.retry(ctx, out);
        }
        self.first_byte.get_or_insert(ctx.now);
        let look = head::worth_another_look(bytes, self.seen, head::RESPONSE_HEAD_BYTES_MAX);
        self.seen = bytes.len();
        if !look {
            return self.wait();
        }
        let read = head::response(bytes, |head| self.met(&head, ctx, out));
        let read = match read.map_err(Failure::of_response).and_then(Option::transpose) {
            Err(failure) if failure.outcome == Outcome::MalformedAnswer => {
                self.response_leniently(bytes, failure, ctx, out)
            }
            read => read,
        };
        match read {
            Ok(None) => self.wait(),
            Ok(Some(Head::Interim)) => {
                self.interim_responses += 1;
                self.seen = 0;
                self.wait()
            }
            Ok(Some(Head::Stale)) => self.retry(ctx, out),
            Ok(Some(Head::Final(head))) => {
                let pass = out.pass.start..head;
                let moved = self.response.follow(&mut bytes[head..]);
                if let Progress::Broken(error) = moved.0.then {
                    return self.give_up(Failure::of_body(error), ctx, out);
                }
                self.terms = self.terms_now(ctx);
                self.terms.persistent &= !self.response.until_close;
                self.moved(moved, bytes.len() - head, pass, ctx, out)
            }
            Err(failure) => self.give_up(failure, ctx, out),
        }
    }

    /// What a head turns out to be. What goes on of it is in `out`.
    fn met(
        &mut self,
        head: &ResponseHead<'_, '_>,
        ctx: &Context<'_>,
        out: &mut Output,
    ) -> Result<Head, Failure> {
        match head.status {
            101 => Err(Outcome::SwitchedProtocols.into()),
            100..=199 => self.interim(head, out).map(|()| Head::Interim),
            // RFC 9110 section 15.5.9: sent to a connection that idles, it crossed our request, which may be repeated.
            408 if self.reused && self.interim_responses == 0 => Ok(Head::Stale),
            _ => self.head(head, ctx, out).map(|()| Head::Final(head.bytes.len())),
        }
    }

    /// A head that breaks the grammar, as this `failure` says, may still mean one thing. Then that goes on.
    #[cold]
    fn response_leniently(
        &mut self,
        bytes: &[u8],
        failure: Failure,
        ctx: &Context<'_>,
        out: &mut Output,
    ) -> Result<Option<Head>, Failure> {
        let (normalised, length) = match lenient::normalise(bytes) {
            Lenient::Head { bytes, length } => (bytes, length),
            Lenient::Partial if bytes.len() < head::RESPONSE_HEAD_BYTES_MAX => return Ok(None),
            Lenient::Partial => return Err(Outcome::AnswerHeadTooLarge.into()),
            Lenient::Refused => return Err(failure),
        };
        out.head.clear();
        let read = head::response(&normalised, |head| self.met(&head, ctx, out));
        let read = read.map_err(Failure::of_response).and_then(Option::transpose)?;
        match read {
            Some(Head::Final(_)) => {
                if !out.pass.is_empty() {
                    out.head.extend_from_slice(&normalised);
                }
                out.pass = length..length;
                Ok(Some(Head::Final(length)))
            }
            Some(Head::Interim) => {
                out.used = length;
                Ok(Some(Head::Interim))
            }
            read => Ok(read),
        }
    }

    /// An interim answer goes on to whoever can read it (RFC 9110 section 15.2).
    fn interim(&self, head: &ResponseHead<'_, '_>, out: &mut Output) -> Result<(), Failure> {
        if self.interim_responses == INTERIM_RESPONSES_MAX {
            let detail = Some("too many interim answers");
            return Err(Failure { outcome: Outcome::MalformedAnswer, detail });
        }
        out.used = head.bytes.len();
        if self.terms.version == Version::Http11 {
            let edit =
                ResponseEdit { persistence: Persistence::Implied, unchunk: true, location: None, date: None };
            rewrite::response(&mut out.head, head, &edit);
        }
        Ok(())
    }

    /// The final answer's head: what goes on of it, and how its body is framed.
    fn head(
        &mut self,
        head: &ResponseHead<'_, '_>,
        ctx: &Context<'_>,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let framing = framing::of_response(head, self.terms.to_head).map_err(Failure::of_response_framing)?;
        let old = self.terms.version == Version::Http10;
        let unchunk = old && framing == Framing::Chunked;
        let until_close = unchunk || framing == Framing::UntilClose;
        let persistence = if until_close { Persistence::Close } else { self.terms_now(ctx).persistence() };
        let location = head.location().zip(self.origin);
        let location = location
            .and_then(|(location, origin)| route::location_through_us(location, origin, self.asked()));
        let date = (!head.is_dated()).then(|| ctx.pages.date());
        // Where there is no body, an HTTP/1.0 client is told of no chunks either.
        let edit = ResponseEdit { persistence, unchunk: old, location, date };
        if edit.is_none(head) {
            out.pass = 0..head.bytes.len();
        } else {
            rewrite::response(&mut out.head, head, &edit);
            out.pass = head.bytes.len()..head.bytes.len();
        }
        (self.outcome, self.status) = (Outcome::Forwarded, head.status);
        self.response = Response {
            scanner: BodyScanner::new(framing),
            unchunk,
            until_close,
            upstream_persists: head.persistent()
                && framing != Framing::UntilClose
                && self.is_sent()
                && (!self.terms.to_head || sends_no_body(head)),
        };
        Ok(())
    }
}

/// Whether an answer to HEAD shows that no body follows it. Some servers (cheroot, waitress, civetweb) send the body of
/// a GET, which the next request on the connection would meet.
#[cold]
fn sends_no_body(head: &ResponseHead<'_, '_>) -> bool {
    framing::of_response(head, false) == Ok(Framing::Empty)
}

/// Whether these bytes, the first of a connection's answer, may be the beginning of one.
fn starts_like_a_response(bytes: &[u8]) -> bool {
    bytes.iter().zip(RESPONSE_START).all(|(byte, expected)| byte == expected)
}

/// What the head of an answer turned out to be.
enum Head {
    /// 1xx: another one follows.
    Interim,
    /// Of so many bytes.
    Final(usize),
    /// No answer to this request.
    Stale,
}

impl Response {
    /// Before there is one.
    const NONE: Self = Self {
        scanner: BodyScanner::Length(0),
        unchunk: false,
        until_close: false,
        upstream_persists: false,
    };

    /// Follows a body through `bytes`, and says how many of them, at their start, are then for the client.
    fn follow(&mut self, bytes: &mut [u8]) -> (Scan, usize) {
        if self.unchunk {
            return self.scanner.content_to_front(bytes);
        }
        let sound = self.scanner.scan(bytes);
        if sound.then != Progress::Extension {
            return (sound, sound.bytes);
        }
        let (scanned, kept) = self.scanner.sound_to_front(&mut bytes[sound.bytes..]);
        (Scan { bytes: sound.bytes + scanned.bytes, ..scanned }, sound.bytes + kept)
    }
}

/// On the way back to the client.
impl Transaction {
    /// Bytes of the body are here.
    fn body(mut self: Box<Self>, bytes: &mut [u8], ctx: &Context<'_>, out: &mut Output) -> Exchange {
        let moved = self.response.follow(bytes);
        self.moved(moved, bytes.len(), 0..0, ctx, out)
    }

    /// So many bytes came that nobody looked at.
    fn spliced(mut self: Box<Self>, bytes: u64, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        let scanned = self.response.scanner.skip_opaque(bytes);
        self.moved((scanned, scanned.bytes), bytes as usize, 0..0, ctx, out)
    }

    /// `moved` of `available` bytes belong to the body; they stand behind `pass`, which goes on with them.
    fn moved(
        self: Box<Self>,
        (scanned, kept): (Scan, usize),
        available: usize,
        pass: Range<usize>,
        ctx: &Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        out.pass = pass.start..pass.end + kept;
        out.used = pass.end + available;
        match scanned.then {
            Progress::More | Progress::Extension => Exchange::Relaying(self),
            // Bytes behind the end are an answer to nothing. The connection they came on is not used again.
            Progress::Ended => self.ended(scanned.bytes == available, out),
            Progress::Broken(error) => self.broken(Failure::of_body(error), ctx, out),
        }
    }

    /// The body ended; `exactly`: and nothing came after it.
    fn ended(self: Box<Self>, exactly: bool, out: &mut Output) -> Exchange {
        let keep = exactly && self.response.upstream_persists;
        out.upstream = if keep { UpstreamAction::Keep } else { UpstreamAction::Close };
        Exchange::Replying(self)
    }

    /// The answer is not going to be whole, and part of it is sent: the client must see it.
    fn broken(mut self: Box<Self>, failure: Failure, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        self.detail = failure.detail;
        self.within = self.patience();
        out.upstream = UpstreamAction::Close;
        // What was sent before, another answer above all, is still delivered: first this, then the end that shows.
        let limit = ctx.now + LINGER_TIMEOUT;
        let lingering = if self.response.until_close {
            Lingering { resets: true, ended: true, ..Lingering::until(ctx.now, limit) }
        } else {
            out.client = ClientAction::Shutdown;
            Lingering::until(limit, limit)
        };
        self.report(failure.outcome, ctx, out);
        Exchange::Lingering(lingering)
    }

    /// The client did not take its answer, and part of it is sent.
    fn reset(mut self: Box<Self>, outcome: Outcome, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        self.within = self.patience();
        out.upstream = UpstreamAction::Close;
        out.client = ClientAction::Reset;
        self.report(outcome, ctx, out);
        Exchange::Closed
    }

    /// Replies with a page of our own.
    fn page(mut self: Box<Self>, page: Page, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        let mut body = mem::take(&mut out.page);
        let PageHead { status, content_type } = ctx.pages.render(page, &mut body);
        self.status = status;
        let reason = if status == 200 { "OK" } else { "Service Unavailable" };
        let persistence = self.terms.persistence();
        let to_head = self.terms.to_head;
        let date = ctx.pages.date();
        LocalResponse { status, reason, content_type, allow: None, body: &body, persistence, to_head, date }
            .write(&mut out.head);
        body.clear();
        out.page = body;
        Exchange::Replying(self)
    }

    /// Replies with what went wrong: in one line, and the same in the reason phrase, which is what Prometheus
    /// shows.
    fn fail(
        mut self: Box<Self>,
        failure: Failure,
        within: Duration,
        ctx: &Context<'_>,
        out: &mut Output,
    ) -> Exchange {
        self.outcome = failure.outcome;
        self.detail = failure.detail;
        self.within = within;
        self.status = failure.outcome.status();
        // A client that gets no answer before our deadline may still take this one.
        self.until = self.until.max(ctx.now + ctx.settings.timeouts.header);
        let reason = failure.phrase(within).to_string();
        let after = HumanDuration(ctx.now.since(self.started));
        let body = match self.origin {
            Some(pod) => format!("{reason} (pod {pod}, after {after})\n"),
            None => format!("{reason}\n"),
        };
        LocalResponse {
            status: self.status,
            reason,
            content_type: local_response::TEXT,
            allow: (failure.outcome == Outcome::Method).then_some("GET, HEAD"),
            body: body.as_bytes(),
            persistence: self.terms.persistence(),
            to_head: self.terms.to_head,
            date: ctx.pages.date(),
        }
        .write(&mut out.head);
        Exchange::Replying(self)
    }

    /// The client took all of it.
    fn flushed(self: Box<Self>, ctx: &Context<'_>, out: &mut Output) -> Exchange {
        let Context { now, settings, .. } = *ctx;
        let next = if self.terms.persistent {
            let until = now + settings.timeouts.client_idle;
            Exchange::Reading(Reading { until, seen: 0, turned_away: false })
        } else {
            out.client = ClientAction::Shutdown;
            Exchange::Lingering(Lingering::until(now + LINGER_TIMEOUT, self.until))
        };
        let outcome = self.outcome;
        self.report(outcome, ctx, out);
        next
    }

    /// It is over, this way.
    fn report(mut self: Box<Self>, outcome: Outcome, ctx: &Context<'_>, out: &mut Output) {
        let Self { route, status, origin, started, first_byte, detail, within, .. } = *self;
        let status = if status == 0 { outcome.status() } else { status };
        let duration = ctx.now.since(started);
        let first_byte = first_byte.map(|at| at.since(started));
        let request = self.line.take();
        out.report =
            Some(Report { route, outcome, status, origin, duration, first_byte, detail, within, request });
        out.recycle(self);
    }

    /// Forgets the request, for another one to stand in its place.
    pub(super) fn clear(&mut self) {
        self.request.clear();
        self.request.shrink_to(SPARE_REQUEST_BYTES_MAX);
    }
}
