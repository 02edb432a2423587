//! Clients that ask at random, and believe nothing that they are told.
//!
//! What the worker writes to a client is judged as it is written, byte by byte and against what the pod sent;
//! what the client does with it, and when, is another matter. A client may go away at any moment.

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
    pods::{Body, Fault, Scrape},
};

/// Turns take some time too.
pub(crate) const SLACK: Duration = Duration::from_millis(20);
/// What the worker gives a client to end its side, after its last answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_TICK: Duration = Duration::from_millis(50);
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// How long a client waits for a place, and how long one that has a place may say nothing while others wait.
const WAIT: Duration = Duration::from_millis(1200);
const SILENCE: Duration = Duration::from_secs(1);
/// What may be kept for a client, beyond what was read at once: a head that grew as it was rewritten.
const KEPT_BYTES_MAX: usize = 528 * 1024 + 1024;

/// Half of what the worker keeps for a client is not seen from outside: how a head changed as it was rewritten. With
/// these bytes more, or fewer, than are seen, a client holds something surely, or possibly.
pub(crate) const HOLDS_SURELY: isize = 2048;
const HOLDS_POSSIBLY: isize = -2048;

/// Where there is so much room, everybody goes on.
const ROOM_MIN: usize = 4 * 1024;

/// What a client asks for.
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
    /// Where it stands in what the client sends: behind empty lines; its head's end; its own.
    start: usize,
    head_end: usize,
    end: usize,
    http10: bool,
    to_head: bool,
    persists: bool,
    /// When the worker had read its first byte, and all of its head.
    begun_at: Option<Timestamp>,
    read_at: Option<Timestamp>,
    /// Interim answers to it.
    interims: usize,
    /// Bytes written to the client since the exchange before was over.
    written: usize,
}

/// What a run's clients, and what they ask for, are drawn by.
#[derive(Clone, Copy)]
pub(crate) struct Draws {
    pub(crate) timeouts: Timeouts,
    /// Most ask plainly for long answers, again and again, of one pod.
    pub(crate) long: bool,
}

/// How a client takes what it gets.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Fast,
    Slow {
        most: usize,
        pause: Duration,
    },
    /// Takes no more, after so many bytes.
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
    /// It waits to be left.
    Never,
}

#[derive(Clone, Copy, Debug)]
enum LeavesHow {
    /// Ends its side, and still reads.
    End,
    Close,
    Reset,
}

/// How far an answer is.
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
    /// The last answer on this connection is over, since then.
    Over(Timestamp),
    /// An answer was broken off, since then.
    Broken(Timestamp),
}

pub(crate) struct Client {
    pub(crate) conn: Option<ConnId>,
    connects_at: Timestamp,
    pub(crate) asks: Vec<Ask>,
    wire: Vec<u8>,
    sent: usize,
    /// So many requests may be on their way at once.
    depth: usize,
    reader: Reader,
    leaves: (LeavesWhen, LeavesHow),
    left: bool,
    /// It took its time to close.
    delayed: bool,
    /// It does nothing before.
    pauses_until: Timestamp,
    parser: Parser,
    pub(crate) answered: usize,
    /// When the last answer was complete, or the connection came to the worker.
    idle_since: Timestamp,
    /// It is known to have a place.
    pub(crate) has_place: bool,
    /// There was no place for it when it came; and it may not have got one since.
    waited: bool,
    waits: bool,
    pub(crate) admitted: bool,
    /// In which turn, and when.
    admitted_in: usize,
    /// Since when the worker has surely, or possibly, held counted bytes for its current exchange; and how many were
    /// answered then.
    holds_since: [Option<Timestamp>; 2],
    held_answered: usize,
    admitted_at: Timestamp,
    /// In which turn it was answered last.
    answered_in: usize,
}

impl Client {
    /// A client, and the scrapes that it is going to ask for, which get numbers from `scrapes` on.
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
        // Some know no measure.
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

    /// Whether bytes of an answer are with it that is not complete.
    fn is_answering(&self) -> bool {
        match &self.parser {
            Parser::Head(head) => !head.is_empty(),
            Parser::PodBody { .. } | Parser::OurBody { .. } => true,
            Parser::Over(_) | Parser::Broken(_) => false,
        }
    }

    /// The request that is to be answered next.
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
        Draws { timeouts, long }: Draws,
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
                    (Outcome::HostName, "/pods/localhost/80/s/0"),
                    (Outcome::BadPort, "/pods/10.0.0.1/0/s/0"),
                    (Outcome::AddressNotAllowed, "/pods/127.0.0.1/80/s/0"),
                    (Outcome::AddressNotAllowed, "/pods/192.0.2.1/80/s/0"),
                    (Outcome::Loop, "/pods/10.0.0.1/8080/s/0"),
                    (Outcome::Method, "/pods/10.0.0.1/8080/s/0"),
                    (Outcome::Body, "/pods/10.0.0.1/8080/s/0"),
                    (Outcome::Body, "/metrics"),
                    (Outcome::MalformedRequest, "/metrics"),
                    (Outcome::Version, "/metrics"),
                    (Outcome::HeadTooLarge, "/metrics"),
                ]);
                match outcome {
                    Outcome::Loop => fields += "Via: 1.1 psystrike, 1.1 psystrike, 1.1 psystrike\r\n",
                    Outcome::Method => method = "DELETE",
                    Outcome::Body => {
                        fields += "Content-Length: 50\r\n";
                        body = "GET /pods/10.0.0.1/8080/s/0 HTTP/1.1\r\nHost: p\r\n\r\n...";
                        body = &body[..50];
                        persists = false;
                    }
                    Outcome::MalformedRequest => {
                        fields += "No colon\r\n";
                        persists = false;
                    }
                    Outcome::Version => {
                        version = "HTTP/2.0";
                        persists = false;
                    }
                    Outcome::HeadTooLarge => {
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
                let target = format!("/pods/10.0.0.{}/8080/s/{id}", scrape.peer);
                scrapes.push(scrape);
                (Kind::Scrape(id), target)
            }
        };
        // The head that is too large is refused before its method is known; so is no HEAD, nor are the others.
        let unread = matches!(
            kind,
            Kind::Refused(Outcome::MalformedRequest | Outcome::Version | Outcome::HeadTooLarge)
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

/// How long a scrape may take, and the field that says so.
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

/// What a client does.
impl Net {
    /// A client does one of the things that it can. Says whether it could do any.
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
            // Now and then it takes its time to close.
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
            // What it does not take, nobody takes; but when it is left, it goes.
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

    /// When a client is going to do something that it does not do now.
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

    /// Whether a client is done: it has gone, and the worker has seen it, or never did.
    pub(crate) fn client_is_done(&self, client: usize) -> bool {
        self.clients[client].conn.is_some_and(|conn| {
            let conn = &self.kernel.conns[conn];
            !conn.is_held() && conn.peer_closed
        })
    }
}

/// What the worker does to a client.
impl Net {
    /// The worker read what the client sent.
    pub(crate) fn client_was_read(&mut self, client: usize) {
        let now = self.now;
        let this = &mut self.clients[client];
        let Some(conn) = this.conn else { return };
        let conn = &self.kernel.conns[conn];
        let read = conn.to_worker.taken;
        if this.waits && now < this.admitted_at + WAIT && !conn.end_told {
            (this.waits, this.has_place) = (false, true); // nothing is read from one that waits
            self.places_after_wait += 1;
        }
        for ask in this.asks.iter_mut().skip(this.answered) {
            if read > ask.start {
                ask.begun_at.get_or_insert(now);
            }
            if read >= ask.head_end {
                ask.read_at.get_or_insert(now);
            }
        }
    }

    /// The worker wrote to the client.
    pub(crate) fn client_got(&mut self, client: usize, bytes: &[u8]) {
        self.bytes_to_clients += bytes.len() as u64;
        let answered = self.clients[client].answered;
        if let Some(ask) = self.clients[client].asks.get_mut(answered) {
            ask.written += bytes.len();
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match &mut self.clients[client].parser {
                Parser::Over(_) | Parser::Broken(_) => {
                    panic!("client {client}: bytes behind its last answer: {}", Shown(rest))
                }
                Parser::Head(head) => {
                    let held = head.len();
                    head.extend_from_slice(rest);
                    // Only what is new is searched.
                    let from = held.saturating_sub(3);
                    match end_of_head(&head[from..]).map(|at| from + at) {
                        None => &[],
                        Some(at) => {
                            let mut head = std::mem::take(head);
                            head.truncate(at);
                            let rest = &rest[at - held..];
                            self.client_got_head(client, &head);
                            rest
                        }
                    }
                }
                &mut Parser::PodBody { scrape, ref mut got, closes } => {
                    let at = *got;
                    let ask = &self.clients[client].asks[self.clients[client].answered];
                    let answer = &self.scrapes[scrape].answer;
                    let (content, whole) = answer.as_seen_by(ask.http10);
                    let most = if answer.ends_by_close(ask.http10) { usize::MAX } else { whole - at };
                    let (bytes, rest) = rest.split_at(rest.len().min(most));
                    let expected = content.get(at..at + bytes.len());
                    assert!(
                        expected == Some(bytes),
                        "client {client}: other bytes in scrape {scrape} from {at} of {} on: {} instead of {}",
                        content.len(),
                        Shown(bytes),
                        Shown(&content[at.min(content.len())..(at + bytes.len()).min(content.len())]),
                    );
                    let done = at + bytes.len() == whole && !answer.ends_by_close(ask.http10);
                    if let Parser::PodBody { got, .. } = &mut self.clients[client].parser {
                        *got += bytes.len();
                    }
                    if done {
                        self.client_answered(client, Outcome::Forwarded, closes);
                    }
                    rest
                }
                &mut Parser::OurBody { outcome, left, closes } => {
                    let (bytes, rest) = rest.split_at(rest.len().min(left));
                    self.clients[client].parser =
                        Parser::OurBody { outcome, left: left - bytes.len(), closes };
                    if left == bytes.len() {
                        self.client_answered(client, outcome, closes);
                    }
                    rest
                }
            };
        }
    }

    fn client_got_head(&mut self, client: usize, bytes: &[u8]) {
        let head = Head::parse(bytes);
        self.trace(|| format!("client {client} gets {} {}", head.status, head.reason));
        let this = &self.clients[client];
        let Some(ask) = this.current() else { panic!("client {client}: an answer to nothing: {head:?}") };
        let closes = head.one("connection") == Some("close");
        match head.one("x-scrape") {
            Some(named) => {
                assert_eq!(ask.kind, Kind::Scrape(named.parse().unwrap()), "client {client}: {head:?}");
                let Kind::Scrape(id) = ask.kind else { return };
                self.client_got_pods_head(client, id, &head, closes);
            }
            None => self.client_got_our_head(client, &head, closes),
        }
    }

    fn client_got_pods_head(&mut self, client: usize, id: usize, head: &Head<'_>, closes: bool) {
        let draining = self.draining;
        let this = &mut self.clients[client];
        let ask = &mut this.asks[this.answered];
        let answer = &self.scrapes[id].answer;
        if (100..200).contains(&head.status) {
            assert!(!ask.http10 && ask.interims < answer.interims, "client {client}: {head:?}");
            ask.interims += 1;
            this.parser = Parser::Head(Vec::new());
            return;
        }
        assert!(ask.http10 || ask.interims == answer.interims, "client {client}: lacks an interim answer");
        assert_eq!((head.status, head.reason), (answer.status, answer.reason), "client {client}");
        let unchunk = ask.http10 && answer.body == Body::Chunked;
        let expected = answer.fields.iter().filter(|(name, _)| match name.as_str() {
            "Connection" | "Keep-Alive" => false,
            "Transfer-Encoding" => !ask.http10,
            _ => true,
        });
        let expected: Vec<_> = expected.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let dated = answer.fields.iter().any(|(name, _)| name == "Date");
        let got: Vec<_> = head
            .fields
            .iter()
            .filter(|(name, _)| *name != "Connection" && (dated || *name != "Date"))
            .collect();
        assert!(got.iter().copied().eq(expected.iter()), "client {client}: {got:?}, not {expected:?}");
        assert!(head.one("date").is_some(), "client {client}: {head:?}");
        let until_close = answer.ends_by_close(ask.http10);
        assert_eq!(until_close, answer.body == Body::UntilClose || unchunk);
        let must_close = !ask.persists || until_close;
        assert!(closes == must_close || (closes && draining), "client {client}, scrape {id}: {head:?}");
        if ask.http10 && !closes {
            assert_eq!(head.one("connection"), Some("keep-alive"), "client {client}");
        }
        let (_, whole) = answer.as_seen_by(ask.http10);
        this.parser = Parser::PodBody { scrape: id, got: 0, closes };
        if whole == 0 && !until_close {
            self.client_answered(client, Outcome::Forwarded, closes);
        }
    }

    fn client_got_our_head(&mut self, client: usize, head: &Head<'_>, closes: bool) {
        let this = &self.clients[client];
        let ask = &this.asks[this.answered];
        let outcome = match (head.status, head.reason) {
            (200, "OK") | (503, "Service Unavailable") => Outcome::Page,
            (status, reason) => {
                let is =
                    |outcome: &&Outcome| outcome.status() == status && reason.starts_with(outcome.reason());
                let all = Outcome::ALL.iter().filter(is);
                *all.max_by_key(|outcome| outcome.reason().len()).unwrap_or_else(|| panic!("{head:?}"))
            }
        };
        let (mut unasked, mut closes_expected) = (false, !ask.persists);
        match (ask.kind, outcome) {
            (_, Outcome::TooManyClients) => {
                let conn = &self.kernel.conns[this.conn.unwrap()];
                let in_vain = this.waits && (self.now >= this.admitted_at + WAIT || conn.peer_left());
                let silent = this.answered == 0 && ask.begun_at.is_none();
                let in_the_way = silent && self.now >= this.admitted_at + SILENCE;
                assert!(in_vain || in_the_way, "client {client}: {head:?} too early");
                (unasked, closes_expected) = (ask.begun_at.is_none(), true);
            }
            (_, Outcome::BuffersFull) => {
                self.justify_end_for_room(client);
                closes_expected = true;
            }
            (_, Outcome::HeadTimeout) => {
                let begun_at = ask.begun_at.expect("a request had begun").max(this.idle_since);
                assert!(
                    self.now >= begun_at + self.settings.timeouts.header,
                    "client {client}: {head:?} too early"
                );
                assert!(ask.read_at.is_none(), "client {client}: its head was here");
                closes_expected = true;
            }
            (Kind::Page, Outcome::Page) => {}
            (Kind::Refused(refused), outcome) if outcome == refused => {}
            (Kind::Scrape(id), outcome) if outcome.class() == Class::Pod => {
                self.justify_failure(client, id, outcome);
            }
            (kind, _) => panic!("client {client}: {kind:?} was answered by {head:?}"),
        }
        let this = &self.clients[client];
        let ask = &this.asks[this.answered];
        assert!(closes == closes_expected || (closes && self.draining), "client {client}: {head:?}");
        let unread =
            outcome == Outcome::HeadTimeout || outcome == Outcome::BuffersFull && ask.read_at.is_none();
        let to_head = ask.to_head && !unread && !unasked;
        let length: usize = head.one("content-length").unwrap().parse().unwrap();
        let left = if to_head { 0 } else { length };
        self.clients[client].parser = Parser::OurBody { outcome, left, closes };
        if left == 0 {
            self.client_answered(client, outcome, closes);
        }
    }

    /// An answer is complete.
    fn client_answered(&mut self, client: usize, outcome: Outcome, closes: bool) {
        self.trace(|| format!("client {client} is answered: {outcome:?}"));
        if let (Outcome::Forwarded, Kind::Scrape(id)) =
            (outcome, self.clients[client].asks[self.clients[client].answered].kind)
        {
            assert!(self.scrapes[id].is_whole(), "scrape {id} was never whole");
        }
        self.tally[outcome as usize] += 1;
        let (now, turn) = (self.now, self.turn);
        let this = &mut self.clients[client];
        this.answered += 1;
        this.answered_in = turn;
        this.idle_since = now;
        this.parser = if closes { Parser::Over(now) } else { Parser::Head(Vec::new()) };
    }

    /// The worker ended its side of a client's connection.
    pub(crate) fn client_ended(&mut self, client: usize) {
        let this = &self.clients[client];
        match this.parser {
            Parser::Over(_) => return,
            Parser::PodBody { scrape, got, .. } => {
                let http10 = this.asks[this.answered].http10;
                if self.scrapes[scrape].answer.ends_by_close(http10) {
                    return self.client_answer_ended(client, scrape, got);
                }
            }
            _ => {}
        }
        if this.is_answering() || this.exchange_since().is_some() {
            self.unfinished += 1;
            if !self.client_left(client) {
                self.justify_break(client);
            }
        } else {
            let is_wanted = self.call == Call::Admit || self.clients.iter().any(|other| other.waits);
            let makes_room = this.answered > 0 && is_wanted;
            let ends = self.client_left(client) || self.call == Call::Drain || makes_room;
            assert!(ends, "client {client}: ended between requests");
        }
        self.clients[client].parser = Parser::Broken(self.now);
    }

    /// An answer ended with the connection.
    fn client_answer_ended(&mut self, client: usize, scrape: usize, got: usize) {
        let this = &self.clients[client];
        let http10 = this.asks[this.answered].http10;
        let answer = &self.scrapes[scrape].answer;
        assert!(answer.ends_by_close(http10), "client {client}: scrape {scrape} ends in the middle");
        let (content, whole) = answer.as_seen_by(http10);
        assert_eq!((got, whole), (content.len(), got), "client {client}: scrape {scrape} ends too early");
        self.client_answered(client, Outcome::Forwarded, true);
    }

    /// The worker closed a client's connection.
    pub(crate) fn client_closed(&mut self, client: usize, close: Close) {
        if self.call == Call::Drop {
            return;
        }
        if let (Parser::PodBody { scrape, got, .. }, Close::Fin) = (&self.clients[client].parser, close) {
            let (scrape, got) = (*scrape, *got);
            let http10 = self.clients[client].asks[self.clients[client].answered].http10;
            let left = self.client_left(client);
            if self.scrapes[scrape].answer.ends_by_close(http10) && !left {
                // Whoever sees this takes the answer for whole.
                self.client_answer_ended(client, scrape, got);
            }
        }
        let now = self.now;
        let this = &self.clients[client];
        let conn = &self.kernel.conns[this.conn.unwrap()];
        let read = conn.to_worker.taken;
        if let Parser::Over(since) = this.parser {
            let patient = now < since + LINGER && self.call != Call::Drain;
            let loses = close == Close::Reset && !conn.from_worker.is_empty() && !conn.peer_left();
            let sent_much = this.wire.len() > LINGER_BYTES_MAX;
            assert!(!(patient && loses) || sent_much, "client {client}: reset destroys its last answer");
            return;
        }
        if let Parser::Broken(_) = this.parser {
            return;
        }
        let begun = this.current().is_some_and(|ask| read > ask.start);
        let in_exchange = this.is_answering() || this.exchange_since().is_some();
        self.unfinished += u64::from(in_exchange);
        if self.client_left(client) {
            self.unsure += u64::from(begun && !in_exchange);
            return;
        }
        if in_exchange {
            return self.justify_break(client);
        }
        if begun && self.call == Call::Turn {
            // It takes no answer, not even that its head came too late, or is none.
            let begun_at = this.current().and_then(|ask| ask.begun_at).unwrap().max(this.idle_since);
            self.unsure += 1;
            if now < begun_at + self.settings.timeouts.header {
                self.justify_end_for_room(client);
            }
            return;
        }
        assert!(!begun, "client {client}: closed within a request's head");
        match self.call {
            // One that has yet to be answered is to be told why.
            Call::Admit => assert!(this.answered > 0, "client {client}: closed without a word"),
            // What a new connection has to say takes it a moment.
            Call::Drain => assert!(
                this.answered > 0 || now >= this.admitted_at + SILENCE,
                "client {client}: accepted, and closed unheard"
            ),
            Call::Drop => {}
            Call::Turn if this.answered > 0 && self.clients.iter().any(|other| other.waits) => {}
            Call::Turn => {
                let timeouts = self.settings.timeouts;
                let patience = if this.answered == 0 { timeouts.header } else { timeouts.client_idle };
                assert!(now >= this.idle_since + patience, "client {client}: closed without a reason");
            }
        }
    }

    fn client_left(&self, client: usize) -> bool {
        let conn = self.clients[client].conn.unwrap();
        self.kernel.conns[conn].peer_left()
    }

    /// Why a scrape was answered with a failure of the pod's.
    fn justify_failure(&mut self, client: usize, id: usize, outcome: Outcome) {
        let scrape = &self.scrapes[id];
        let conn = |pod: usize| &self.kernel.conns[self.pods[pod].conn];
        let last = scrape.attempts.last();
        let got = |attempt: &super::pods::Attempt| conn(attempt.pod).to_worker.taken - attempt.from;
        let lost = last.filter(|attempt| conn(attempt.pod).peer_left());
        let since = self.clients[client].exchange_since().expect("a request was read");
        let late = self.now >= since + scrape.patience;
        let fault = scrape.fault();
        let justified = match outcome {
            // On a connection that was used before, this is not the end of it.
            Outcome::NoAnswer => lost.is_none_or(|last| {
                got(last) == 0 && (!last.reused || self.pod_lost_unasked(scrape.address(), last.pod))
            }),
            Outcome::HeadCutShort => lost.is_some_and(|last| got(last) > 0),
            Outcome::MalformedAnswer => fault == Fault::MalformedHead,
            Outcome::SwitchedProtocols => fault == Fault::SwitchedProtocols,
            Outcome::AnswerHeadTooLarge => fault == Fault::HeadTooLarge,
            Outcome::BodyMalformed => fault == Fault::MalformedBody,
            Outcome::AnswerTimeout => late,
            Outcome::ConnectTimeout if self.now >= since + self.settings.timeouts.connect || late => true,
            _ => {
                let to = scrape.address();
                let failed = self.failed_connects.iter().position(|failed| *failed == (to, outcome));
                failed.map(|at| self.failed_connects.swap_remove(at)).is_some()
            }
        };
        assert!(justified, "client {client}: {outcome:?} for scrape {id}, with {fault:?}, {:?}", last);
    }

    /// Why an answer was broken off.
    fn justify_break(&self, client: usize) {
        let this = &self.clients[client];
        let ask = this.current().unwrap();
        // An answer to a part of a request tells that it is wrong, or late.
        let whole = this.exchange_since();
        let since = whole.or(ask.begun_at).expect("a request was begun").max(this.idle_since);
        let patience = match ask.kind {
            Kind::Scrape(id) if whole.is_some() && (this.has_place || this.waits) => {
                let scrape = &self.scrapes[id];
                let last = scrape.attempts.last().map(|attempt| self.pods[attempt.pod].conn);
                let lost = last.is_some_and(|conn| self.kernel.conns[conn].peer_left());
                // The worker may be in the body while a slow client has yet to take what precedes it.
                let malformed = scrape.fault() == Fault::MalformedBody && scrape.is_read_beyond_sound(self);
                if malformed || (lost && scrape.is_head_read(self)) {
                    return;
                }
                // If it waited in vain, it did not take what it was told of that.
                if this.waited { scrape.patience.min(self.settings.timeouts.scrape) } else { scrape.patience }
            }
            _ => self.settings.timeouts.scrape.min(self.settings.timeouts.header),
        };
        if self.now < since + patience {
            assert!(self.is_tight(), "client {client}: {:?} broken off without a reason", ask.kind);
            self.justify_end_for_room(client);
        }
    }
}

/// What the worker holds for clients.
impl Net {
    /// So many counted bytes are held for a client and its pod: of those that are seen, all but `unseen` and what is
    /// free for everybody.
    pub(crate) fn client_holds(&self, client: &Client, unseen: isize) -> usize {
        let Some(conn) = client.conn.filter(|_| client.admitted && !client.is_over()) else { return 0 };
        let conn = &self.kernel.conns[conn];
        let Some(ask) = client.current().filter(|_| conn.is_held()) else { return 0 };
        let read = conn.to_worker.taken;
        let begins = if client.exchange_since().is_some() { ask.head_end } else { ask.start };
        // What is refused, or answered before it is whole, is not kept.
        let refused = matches!(ask.kind, Kind::Refused(_)) || ask.written > 0 || conn.stalled;
        if client.exchange_since().is_none() && refused {
            return 0;
        }
        // To an HTTP/1.0 client not everything goes on; and what a lost pod said may be given up.
        let kept = match ask.kind {
            Kind::Scrape(id) if !ask.http10 && client.exchange_since().is_some() => {
                let scrape = &self.scrapes[id];
                let last = scrape.attempts.last().map(|attempt| self.pods[attempt.pod].conn);
                let held = last.is_some_and(|conn| self.kernel.conns[conn].is_held());
                let read = scrape.answer_bytes_read(self).filter(|_| held).unwrap_or(0);
                read.saturating_sub(ask.written)
            }
            _ => 0,
        };
        // What it sent beyond its request goes when it is ended for room, and may before all of that is written.
        let waits = if ask.written == 0 && !conn.stalled { read.saturating_sub(begins) } else { 0 };
        let seen = waits + kept;
        seen.saturating_sub(ALLOWANCE_BYTES).saturating_add_signed(-unseen.min(seen as isize))
    }

    fn is_tight(&self) -> bool {
        self.buffers_max < 1 << 20
    }

    /// Notes who holds something now, and since when.
    pub(crate) fn note_what_clients_hold(&mut self) {
        if !self.is_tight() {
            return;
        }
        for client in 0..self.clients.len() {
            let holds = [HOLDS_SURELY, HOLDS_POSSIBLY]
                .map(|unseen| self.client_holds(&self.clients[client], unseen) > 0);
            let now = self.now;
            let this = &mut self.clients[client];
            if this.held_answered != this.answered {
                (this.held_answered, this.holds_since) = (this.answered, [None; 2]);
            }
            for (since, holds) in this.holds_since.iter_mut().zip(holds) {
                *since = if holds { Some(since.unwrap_or(now)) } else { None };
            }
        }
    }

    /// Why a client was ended although it did nothing wrong, and in time: others needed room, and nobody had held
    /// bytes for longer.
    fn justify_end_for_room(&self, client: usize) {
        assert!(self.is_tight(), "client {client}: ended for room that there is");
        let possibly = self.clients[client].holds_since[1];
        let worker = |client: &Client| client.conn.and_then(|conn| self.kernel.conns[conn].worker);
        let here = worker(&self.clients[client]);
        // Several may be ended in one turn.
        let lives = |known: &&Client| {
            let held = known.conn.is_some_and(|conn| self.kernel.conns[conn].is_held());
            held && worker(known) == here && !known.is_over() && known.held_answered == known.answered
        };
        for (other, known) in self.clients.iter().enumerate().filter(|(_, known)| lives(known)) {
            if let (Some(possibly), Some(surely)) = (possibly, known.holds_since[0]) {
                assert!(surely + SLACK >= possibly, "client {client} ended for room: {other} held longer");
            }
        }
    }

    /// Whether a worker has so little room that some are not read from.
    pub(crate) fn is_full(&self, worker: Option<usize>) -> bool {
        let common = self.buffers_max - RESERVE_BYTES.min(self.buffers_max / 2);
        self.is_tight() && worker.is_some_and(|worker| self.buffered[worker] + ROOM_MIN > common)
    }
}

/// What must hold between turns.
impl Net {
    /// How many clients are known to have a place, and to be served.
    pub(crate) fn places_taken(&self) -> usize {
        let has_place = |client: &&Client| {
            let conn = client.conn.filter(|_| client.has_place && !client.is_over());
            conn.map(|conn| &self.kernel.conns[conn]).is_some_and(|conn| conn.is_held() && !conn.worker_ended)
        };
        self.clients.iter().filter(has_place).count()
    }

    pub(crate) fn check_client(&self, client: usize) {
        let this = &self.clients[client];
        let Some(conn) = this.conn.filter(|_| this.admitted) else { return };
        let conn = &self.kernel.conns[conn];
        if !conn.is_held() {
            return;
        }
        let Timeouts { header, client_idle, scrape, scrape_max, .. } = self.settings.timeouts;
        let read = conn.to_worker.taken;
        let due = match (&this.parser, this.current()) {
            // It may be delivered for as long as a scrape may take.
            (Parser::Over(since), _) => *since + LINGER.max(scrape.max(scrape_max) + header) + LINGER_TICK,
            (Parser::Broken(since), _) => *since + LINGER.max(scrape) + LINGER_TICK,
            (_, None) => this.idle_since + client_idle,
            (_, Some(ask)) => match (ask.kind, this.exchange_since(), ask.begun_at) {
                (Kind::Scrape(id), Some(since), _) if this.has_place || this.waits => {
                    let scrape = &self.scrapes[id];
                    let read = scrape.answer_bytes_read(self);
                    // To an HTTP/1.0 client not everything goes on.
                    if let Some(read) = read.filter(|_| !ask.http10) {
                        let kept = read.saturating_sub(ask.written);
                        assert!(kept <= KEPT_BYTES_MAX, "client {client}: {kept} bytes are kept for it");
                    }
                    // A failure is still told to a client that takes it slowly, and what came before a break delivered.
                    since + scrape.patience + header.max(LINGER) + LINGER_TICK
                }
                (_, Some(since), _) => since + scrape + header,
                (_, None, Some(begun_at)) => begun_at.max(this.idle_since) + header + scrape.max(header),
                (_, None, None) if this.answered == 0 && read == 0 => this.idle_since + header,
                (_, None, None) => this.idle_since + client_idle,
            },
        };
        let late = self.now.since(if this.waited { due + WAIT } else { due });
        assert!(late <= SLACK, "client {client} hangs by {late:?}: {:?}", this.current());
    }

    /// With nothing left to tell the worker: it must not sleep on what it could do.
    pub(crate) fn check_client_sleeps_well(&self, client: usize) {
        let this = &self.clients[client];
        let Some(conn) = this.conn.filter(|_| this.admitted) else { return };
        let conn = &self.kernel.conns[conn];
        if !conn.is_held() {
            return;
        }
        if let (Some(ask), Some(_)) = (this.current(), this.exchange_since()) {
            let waits = matches!(ask.kind, Kind::Scrape(_)) || conn.stalled;
            assert!(waits, "the worker sleeps on a request of client {client}: {ask:?}");
        }
        if !conn.has_news() {
            return;
        }
        let delivers = this.is_over() && (conn.peer_ended || !conn.from_worker.is_empty());
        let waits = this.waits && self.now < this.admitted_at + WAIT && !conn.end_told;
        let busy =
            this.exchange_since().is_some() || this.is_answering() || conn.stalled || delivers || waits;
        assert!(busy || self.is_full(conn.worker), "the worker sleeps on what client {client} sent");
    }

    /// Whether a client is only waiting to ask something more, and holds a place.
    fn client_idles(&self, client: &Client) -> bool {
        let Some(conn) = client.conn.filter(|_| client.admitted && client.has_place) else { return false };
        let conn = &self.kernel.conns[conn];
        let asks = client.current().is_some_and(|ask| conn.to_worker.taken > ask.start);
        // The worker may hear of what it did last in a turn only in the next one.
        let turn = conn.worker.map_or(0, |worker| self.turns[worker]);
        let heard = client.admitted_in < turn && client.answered > 0 && client.answered_in < turn;
        heard && conn.is_held() && !client.is_over() && !client.is_answering() && !conn.stalled && !asks
    }

    /// A client was accepted.
    pub(crate) fn client_is_admitted(&mut self, client: usize, waits: bool) {
        let now = self.now;
        let this = &mut self.clients[client];
        (this.admitted, this.has_place, this.idle_since) = (true, !waits, now);
        (this.waited, this.waits) = (waits, waits);
        (this.admitted_in, this.admitted_at) = (self.turn, now);
        self.check_room(waits, self.turns.len() == 1);
    }

    /// Whether anybody `waits` for a place. Nobody may while another one idles, once all workers have heard of it.
    pub(crate) fn check_room(&mut self, waits: bool, have_heard: bool) {
        let idles = self.clients.iter().any(|client| self.client_idles(client));
        assert!(!waits || !idles || !have_heard, "a client waits for a place although another one idles");
        for client in self.clients.iter_mut().filter(|client| client.waits && !waits) {
            let conn = &self.kernel.conns[client.conn.unwrap()];
            if self.now < client.admitted_at + WAIT && !conn.peer_left() {
                (client.waits, client.has_place) = (false, true);
                self.places_after_wait += 1;
            }
        }
    }
}

/// Where a head ends, behind its empty line. (std's search in strings is fast even in a debug build.)
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += 1 + bytes[at..].iter().position(|&byte| byte == b'\n')?;
        if bytes[..at].ends_with(b"\r\n\r\n") {
            return Some(at);
        }
    }
}

/// An answer's head, as strict as it gets.
#[derive(Debug)]
struct Head<'b> {
    status: u16,
    reason: &'b str,
    fields: Vec<(&'b str, &'b str)>,
}

impl<'b> Head<'b> {
    fn parse(bytes: &'b [u8]) -> Self {
        let parts = str::from_utf8(bytes).ok().and_then(|text| {
            let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
            let (status, reason) = lines.next()?.strip_prefix("HTTP/1.1 ")?.split_once(' ')?;
            let fields = lines.map(|line| line.split_once(": ")).collect::<Option<Vec<_>>>()?;
            Some((status, reason, fields))
        });
        let Some((status, reason, fields)) = parts else { panic!("no head of an answer: {}", Shown(bytes)) };
        Self { status: status.parse().unwrap(), reason, fields }
    }

    /// The value of the only field of this name.
    fn one(&self, name: &str) -> Option<&'b str> {
        let mut all = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = all.next();
        assert!(all.next().is_none(), "more than one {name}: {self:?}");
        first.map(|(_, value)| *value)
    }
}
