//! Clients that send random requests, and check every response.
//!
//! Bytes that the worker writes to a client are checked as they are written, byte by byte and against those that the
//! pod sent, independently of when the client reads them. A client may disconnect at any moment.

#[path = "clients_checks.rs"]
mod checks;
#[path = "clients_judge.rs"]
mod judge;

use std::time::Duration;

use psystrike::proxy::{
    budget::{ALLOWANCE_BYTES, RESERVE_BYTES},
    outcome::{Class, Outcome},
    settings::Timeouts,
    timestamp::Timestamp,
};

use super::{
    bytes::{Random, Shown},
    kernel::{Close, ConnId},
    net::{Call, Net, Owner},
    passwords::{PATIENCE_MIN, with_credentials},
    pods::{Body, Fault, Scrape},
};

/// Time that a turn takes.
pub(crate) const SLACK: Duration = Duration::from_millis(20);
/// How long the worker waits for a client to close its side, after its last response.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_TICK: Duration = Duration::from_millis(50);
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// How long a client waits for a place, and how long a client with a place may stay silent while others wait.
const WAIT: Duration = Duration::from_millis(1200);
const SILENCE: Duration = Duration::from_secs(1);
/// Bytes that may be held for a client in addition to those read at once: a head grows when it is rewritten.
const KEPT_BYTES_MAX: usize = 528 * 1024 + 1024;

/// The bytes that the worker holds for a client are not exactly known from outside, as heads change when they are
/// rewritten. With this many more, or fewer, than are known, a client surely, or possibly, holds counted bytes.
pub(crate) const HOLDS_SURELY: isize = 2048;
const HOLDS_POSSIBLY: isize = -2048;

/// With this much room, every session continues.
const ROOM_MIN: usize = 4 * 1024;

/// The target of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Scrape(usize),
    Page,
    Refused(Outcome),
    /// The head never ends.
    Unfinished,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Ask {
    kind: Kind,
    /// Its offsets in the client's bytes: the start after empty lines, the end of its head, its end.
    start: usize,
    head_end: usize,
    end: usize,
    http10: bool,
    to_head: bool,
    persists: bool,
    /// When the worker had read its first byte, and its whole head.
    begun_at: Option<Timestamp>,
    read_at: Option<Timestamp>,
    /// The number of interim responses to it.
    interims: usize,
    /// Bytes written to the client since the exchange before was over.
    written: usize,
}

/// The parameters from which a run's clients and their requests are drawn.
#[derive(Clone, Copy)]
pub(crate) struct Draws {
    pub(crate) timeouts: Timeouts,
    /// Most clients request long responses repeatedly from one pod.
    pub(crate) long: bool,
    /// Requests need a password; the seed of what they have.
    pub(crate) guard: Option<u64>,
}

/// How a client reads its responses.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Fast,
    Slow {
        most: usize,
        pause: Duration,
    },
    /// Stops reading after this many bytes.
    Stuck {
        after: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum LeavesWhen {
    Answers(usize),
    Taken(usize),
    Sent(usize),
    At(Timestamp),
    /// It waits for the worker to close.
    Never,
}

#[derive(Clone, Copy, Debug)]
enum LeavesHow {
    /// Closes its side, and still reads.
    End,
    Close,
    Reset,
}

/// The progress of a response.
#[derive(Debug)]
enum Parser {
    Head(Vec<u8>),
    PodBody {
        scrape: usize,
        got: usize,
        closes: bool,
    },
    OurBody {
        outcome: Outcome,
        left: usize,
        closes: bool,
    },
    /// The last response on this connection ended at this time.
    Over(Timestamp),
    /// A response was broken off at this time.
    Broken(Timestamp),
}

pub(crate) struct Client {
    pub(crate) conn: Option<ConnId>,
    connects_at: Timestamp,
    pub(crate) asks: Vec<Ask>,
    wire: Vec<u8>,
    sent: usize,
    /// The maximum number of pipelined requests.
    depth: usize,
    reader: Reader,
    leaves: (LeavesWhen, LeavesHow),
    left: bool,
    /// It took long to close.
    delayed: bool,
    /// It does nothing before this time.
    pauses_until: Timestamp,
    parser: Parser,
    pub(crate) answered: usize,
    /// When the last response was complete, or the worker accepted the connection.
    idle_since: Timestamp,
    /// Whether it is known to have a place.
    pub(crate) has_place: bool,
    /// Whether there was no place when it connected, and it may still have none.
    waited: bool,
    waits: bool,
    pub(crate) admitted: bool,
    /// In which turn, and when.
    admitted_in: usize,
    /// Since when the worker has surely, or possibly, held counted bytes for its current exchange; and the number of
    /// responses before that.
    holds_since: [Option<Timestamp>; 2],
    held_answered: usize,
    admitted_at: Timestamp,
    /// The turn of its last response.
    answered_in: usize,
}

impl Client {
    /// Creates a client, and the scrapes that it is going to request, with numbers from `scrapes` on.
    pub(crate) fn random(
        random: &mut Random,
        now: Timestamp,
        client: usize,
        scrapes: &mut Vec<Scrape>,
        draws: Draws,
    ) -> Self {
        let mut wire = Vec::new();
        let mut asks = Vec::new();
        let scraping = draws.long || !random.one_in(8);
        // Some clients pipeline many requests.
        let floods = random.one_in(if scraping { 60 } else { 3 });
        let depth = if floods { 40 } else { random.pick(&[1, 1, 1, 2, 5]) };
        let count = if floods { 40 } else { 1 + random.below(if draws.long { 12 } else { 6 }) };
        for _ in 0..count {
            let ask = Ask::random(random, &mut wire, client, scraping, scrapes, draws);
            let last = ask.kind == Kind::Unfinished;
            asks.push(ask);
            if last {
                break;
            }
        }
        let reader = match random.below(8) {
            0 => Reader::Slow {
                most: random.pick(&[500, 5000, 70_000]),
                pause: Duration::from_millis(random.pick(&[1, 50, 300])),
            },
            1 => Reader::Stuck { after: random.below(3000) },
            _ => Reader::Fast,
        };
        let when = match random.below(12) {
            0 => LeavesWhen::Taken(random.below(3000)),
            1 => LeavesWhen::Sent(random.below(wire.len() + 1)),
            2 => LeavesWhen::At(now + Duration::from_millis(random.below(4000) as u64)),
            3 => LeavesWhen::Answers(random.below(asks.len())),
            4 => LeavesWhen::Never,
            _ => LeavesWhen::Answers(asks.len()),
        };
        let how = random.pick(&[LeavesHow::End, LeavesHow::Close, LeavesHow::Close, LeavesHow::Reset]);
        Self {
            conn: None,
            connects_at: now + Duration::from_millis(random.pick(&[0, 0, 0, 100, 3000])),
            asks,
            wire,
            sent: 0,
            depth,
            reader,
            leaves: (when, how),
            left: false,
            delayed: false,
            pauses_until: now,
            parser: Parser::Head(Vec::new()),
            answered: 0,
            idle_since: now,
            has_place: false,
            waited: false,
            waits: false,
            admitted: false,
            admitted_in: 0,
            holds_since: [None; 2],
            held_answered: 0,
            admitted_at: now,
            answered_in: 0,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.parser, Parser::Over(_) | Parser::Broken(_))
    }

    /// Returns whether it has bytes of an incomplete response.
    fn is_answering(&self) -> bool {
        match &self.parser {
            Parser::Head(head) => !head.is_empty(),
            Parser::PodBody { .. } | Parser::OurBody { .. } => true,
            Parser::Over(_) | Parser::Broken(_) => false,
        }
    }

    /// Returns the request whose response is next.
    fn current(&self) -> Option<&Ask> {
        self.asks.get(self.answered).filter(|_| !self.is_over())
    }

    /// When the worker had all of the current request, and nothing else to do for this client.
    fn exchange_since(&self) -> Option<Timestamp> {
        self.current().and_then(|ask| ask.read_at).map(|read_at| read_at.max(self.idle_since))
    }
}

impl Ask {
    fn random(
        random: &mut Random,
        wire: &mut Vec<u8>,
        client: usize,
        scraping: bool,
        scrapes: &mut Vec<Scrape>,
        Draws { timeouts, long, guard }: Draws,
    ) -> Self {
        if random.one_in(10) {
            wire.extend_from_slice(b"\r\n"); // RFC 9112 section 2.2
        }
        let start = wire.len();
        let plain = long && !random.one_in(4);
        let http10 = !plain && random.one_in(6);
        let to_head = !plain && random.one_in(6);
        let mut persists = if http10 { random.one_in(2) } else { plain || !random.one_in(8) };
        let mut method = if to_head { "HEAD" } else { "GET" };
        let mut version = if http10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut fields = match (http10, persists) {
            (false, false) => "Connection: close\r\n",
            (true, true) => "Connection: keep-alive\r\n",
            _ => "",
        }
        .to_owned();
        let mut body = "";
        let (kind, target) = match if plain { 15 } else { random.below(16) } {
            3.. if !scraping => (Kind::Page, "/healthz".to_owned()),
            0 => (Kind::Page, random.pick(&["/healthz", "/readyz", "/"]).to_owned()),
            1 => {
                let (outcome, target) = random.pick(&[
                    (Outcome::NotFound, "/nowhere"),
                    (Outcome::BadHost, "/pods/10.0.0/80/s/0"),
                    (Outcome::BadHost, "/pods/local..host/80/s/0"),
                    (Outcome::BadPort, "/pods/10.0.0.1/0/s/0"),
                    (Outcome::AddressNotAllowed, "/pods/127.0.0.1/80/s/0"),
                    (Outcome::AddressNotAllowed, "/pods/192.0.2.1/80/s/0"),
                    (Outcome::Loop, "/pods/10.0.0.1/8080/s/0"),
                    (Outcome::MethodNotAllowed, "/pods/10.0.0.1/8080/s/0"),
                    (Outcome::RequestBody, "/pods/10.0.0.1/8080/s/0"),
                    (Outcome::RequestBody, "/metrics"),
                    (Outcome::MalformedRequest, "/metrics"),
                    (Outcome::HttpVersion, "/metrics"),
                    (Outcome::RequestHeadersTooLarge, "/metrics"),
                ]);
                match outcome {
                    Outcome::Loop => fields += "Via: 1.1 psystrike, 1.1 psystrike, 1.1 psystrike\r\n",
                    Outcome::MethodNotAllowed => method = "DELETE",
                    Outcome::RequestBody => {
                        fields += "Content-Length: 50\r\n";
                        body = "GET /pods/10.0.0.1/8080/s/0 HTTP/1.1\r\nHost: p\r\n\r\n...";
                        body = &body[..50];
                        persists = false;
                    }
                    Outcome::MalformedRequest => {
                        fields += "No colon\r\n";
                        persists = false;
                    }
                    Outcome::HttpVersion => {
                        version = "HTTP/2.0";
                        persists = false;
                    }
                    Outcome::RequestHeadersTooLarge => {
                        fields += &format!("X-Long: {}\r\n", "x".repeat(16 * 1024));
                        persists = false;
                    }
                    _ => {}
                }
                (Kind::Refused(outcome), target.to_owned())
            }
            2 if random.one_in(2) => (Kind::Unfinished, "/healthz".to_owned()),
            _ => {
                let id = scrapes.len();
                let (patience, field) = random_patience(random, timeouts);
                fields += field;
                let scrape = Scrape::random(random, id, client, to_head, patience, long);
                // Not random, so that each seed keeps its meaning.
                let host = scrape.host();
                let target = match id % 3 {
                    0 => format!("http://{host}:8080/s/{id}"),
                    _ => format!("/pods/{host}/8080/s/{id}"),
                };
                scrapes.push(scrape);
                (Kind::Scrape(id), target)
            }
        };
        let number = (client << 32 | start) as u64;
        let kind = guard.map_or(kind, |seed| with_credentials(seed ^ number, kind, &target, &mut fields));
        // These heads are refused before their method is known, so the response has a body even for HEAD.
        let unread = matches!(
            kind,
            Kind::Refused(Outcome::MalformedRequest | Outcome::HttpVersion | Outcome::RequestHeadersTooLarge)
                | Kind::Unfinished
        );
        let to_head = method == "HEAD" && !unread;
        if !http10 || random.one_in(2) {
            fields += "Host: psystrike\r\n";
        }
        wire.extend_from_slice(format!("{method} {target} {version}\r\n{fields}").as_bytes());
        if kind != Kind::Unfinished {
            wire.extend_from_slice(b"\r\n");
        } else if random.one_in(2) {
            wire.truncate(start + 1 + random.below(wire.len() - start));
        }
        let head_end = wire.len();
        wire.extend_from_slice(body.as_bytes());
        let persists = persists && kind != Kind::Unfinished;
        let (http10, end) = (http10 && !unread, wire.len());
        let head_end = if kind == Kind::Unfinished { usize::MAX } else { head_end };
        let (begun_at, read_at) = (None, None);
        Self {
            kind,
            start,
            head_end,
            end,
            http10,
            to_head,
            persists,
            begun_at,
            read_at,
            interims: 0,
            written: 0,
        }
    }
}

/// Returns the time limit of a scrape, and the field with it.
fn random_patience(random: &mut Random, timeouts: Timeouts) -> (Duration, &'static str) {
    let (milliseconds, field) = random.pick(&[
        (None, ""),
        (None, ""),
        (None, "X-Prometheus-Scrape-Timeout-Seconds: soon\r\n"),
        (Some(900), "X-Prometheus-Scrape-Timeout-Seconds: 1\r\n"),
        (Some(270), "X-Prometheus-Scrape-Timeout-Seconds: 0.3\r\n"),
        (Some(99_000), "X-Prometheus-Scrape-Timeout-Seconds: 99.5\r\n"),
    ]);
    let patience = milliseconds
        .map(Duration::from_millis)
        .map_or(timeouts.scrape, |patience| patience.min(timeouts.scrape_max));
    (patience, field)
}

/// The actions of clients.
impl Net {
    /// Performs one of the possible actions of a client. Returns whether there was one.
    pub(crate) fn client_acts(&mut self, client: usize, now: Timestamp, mid_turn: bool) -> bool {
        let this = &self.clients[client];
        let Some(conn) = this.conn else { return !mid_turn && self.client_connects(client, now) };
        if now < this.pauses_until || self.kernel.conns[conn].peer_closed {
            return false;
        }
        if self.client_leaves(client, conn, now) {
            return true;
        }
        let takes_first = self.random.one_in(2);
        (takes_first && self.client_takes(client, conn, now))
            || self.client_sends(client, conn, now)
            || (!takes_first && self.client_takes(client, conn, now))
    }

    fn client_connects(&mut self, client: usize, now: Timestamp) -> bool {
        if now < self.clients[client].connects_at {
            return false;
        }
        let rooms = self.random_rooms();
        let conn = self.add_conn(Owner::Client(client), None, super::kernel::Link::Up, rooms);
        self.clients[client].conn = Some(conn);
        self.trace(|| format!("client {client} connects as {conn}: {:?}", self.clients[client].leaves));
        true
    }

    fn client_leaves(&mut self, client: usize, conn: ConnId, now: Timestamp) -> bool {
        let this = &self.clients[client];
        let at = &self.kernel.conns[conn];
        // It sees the worker's end, or a reset.
        if at.worker_ended && at.from_worker.is_empty() {
            // Sometimes it closes late.
            if !this.delayed && self.random.one_in(6) {
                let pause = Duration::from_millis(self.random.pick(&[10, 1000, 3000]));
                let this = &mut self.clients[client];
                (this.delayed, this.pauses_until) = (true, now + pause);
            } else {
                self.trace(|| format!("client {client} closes"));
                self.clients[client].left = true;
                self.kernel.peer_close(conn);
            }
            return true;
        }
        let (when, how) = this.leaves;
        let due = match when {
            LeavesWhen::Answers(count) => this.answered >= count && at.from_worker.is_empty(),
            LeavesWhen::Taken(bytes) => at.from_worker.taken >= bytes,
            LeavesWhen::Sent(bytes) => this.sent >= bytes,
            LeavesWhen::At(at) => now >= at,
            LeavesWhen::Never => false,
        };
        if !due || this.left {
            return false;
        }
        self.trace(|| format!("client {client} leaves: {how:?}"));
        self.clients[client].left = true;
        match how {
            LeavesHow::End => self.kernel.peer_end(conn),
            LeavesHow::Close => self.kernel.peer_close(conn),
            LeavesHow::Reset => {
                let loses_sent = self.random.one_in(2);
                self.kernel.peer_reset(conn, loses_sent);
            }
        }
        true
    }

    fn client_takes(&mut self, client: usize, conn: ConnId, now: Timestamp) -> bool {
        let at = &self.kernel.conns[conn];
        let most = match self.clients[client].reader {
            Reader::Fast => 1 << 20,
            Reader::Slow { most, .. } => most,
            // It leaves the rest unread until the worker closes, and then leaves too.
            Reader::Stuck { after } if at.is_held() => after.saturating_sub(at.from_worker.taken),
            Reader::Stuck { .. } => 1 << 20,
        };
        if at.from_worker.is_empty() || most == 0 {
            return false;
        }
        let most = if self.random.one_in(2) { most } else { 1 + self.random.below(most) };
        let taken = self.kernel.peer_take(conn, most).len();
        self.trace(|| format!("client {client} takes {taken}"));
        if let Reader::Slow { pause, .. } = self.clients[client].reader {
            self.clients[client].pauses_until = now + pause;
        }
        true
    }

    fn client_sends(&mut self, client: usize, conn: ConnId, now: Timestamp) -> bool {
        let this = &self.clients[client];
        let at = &self.kernel.conns[conn];
        let taken_all = at.from_worker.is_empty();
        let allowed = this.answered + this.depth - usize::from(!taken_all);
        let end = match allowed.checked_sub(1) {
            Some(last) => this.asks.get(last).map_or(this.wire.len(), |ask| ask.end),
            None => 0,
        };
        if at.peer_ended || this.sent >= end || at.to_worker.room() == 0 {
            return false;
        }
        let left = &this.wire[this.sent..end];
        let most = self.random.pick(&[1, 30, 1000, 1 << 20, 1 << 20, 1 << 20]);
        let bytes = &left[..left.len().min(most)];
        let sent = self.kernel.peer_send(conn, bytes);
        self.clients[client].sent += sent;
        self.trace(|| format!("client {client} sends {sent}"));
        if self.random.one_in(20) {
            let pause = Duration::from_millis(self.random.pick(&[5, 200, 1500]));
            self.clients[client].pauses_until = now + pause;
        }
        true
    }

    /// Returns when a client's next action is due, if it is not due now.
    pub(crate) fn client_wakes(&self, client: usize) -> Option<Timestamp> {
        let this = &self.clients[client];
        let Some(conn) = this.conn else { return Some(this.connects_at) };
        if self.kernel.conns[conn].peer_closed {
            return None;
        }
        let leaves = match this.leaves.0 {
            LeavesWhen::At(at) if !this.left => Some(at),
            _ => None,
        };
        [Some(this.pauses_until), leaves].into_iter().flatten().filter(|at| *at > self.now).min()
    }

    /// Returns whether a client is done: it is gone, and the worker has noticed that, or never noticed the client.
    pub(crate) fn client_is_done(&self, client: usize) -> bool {
        self.clients[client].conn.is_some_and(|conn| {
            let conn = &self.kernel.conns[conn];
            !conn.is_held() && conn.peer_closed
        })
    }
}
