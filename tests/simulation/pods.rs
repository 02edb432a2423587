//! Pods that answer by a script, which is drawn for each scrape, and break off, stall, lie and close at random.
//!
//! Every body names the scrape that it belongs to, so that a byte that lands in another exchange is seen.

use std::{net::SocketAddr, time::Duration};

use psystrike::proxy::timestamp::Timestamp;
use rustix::io::Errno;

use super::{
    bytes::{Random, Shown},
    clients::SLACK,
    kernel::{ConnId, Link},
    net::{Net, Owner},
};

/// Pods there are, at `10.0.0.1` and on.
const PODS: usize = 3;
const PORT: u16 = 8080;

/// How an answer's body is framed on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Empty,
    Length,
    Chunked,
    UntilClose,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The pod ends its side, or resets, after so many bytes.
    Cut {
        at: usize,
        resets: bool,
    },
    /// The pod falls silent after so many bytes.
    Stall {
        at: usize,
    },
    MalformedHead,
    HeadTooLarge,
    SwitchedProtocols,
    MalformedBody,
}

/// An answer as it was drawn.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) interims: usize,
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Body,
    /// All of it.
    wire: Vec<u8>,
    /// Where its body begins.
    body_at: usize,
    /// The body as it goes on to a client that knows chunks, without extensions,
    goes: Vec<u8>,
    /// and so much of it is sound.
    goes_sound: usize,
    /// So much of the body, as it is on the wire, is sound.
    sound: usize,
    /// What is in the body.
    content: Vec<u8>,
    /// The pod means to use its connection again.
    persists: bool,
    /// It comes before the request was read whole.
    early: bool,
    /// Bytes behind its end, that come with it.
    surplus: &'static [u8],
    fault: Fault,
    /// When the request has to be sent again, all is well.
    heals: bool,
}

/// A request that reached a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) pod: usize,
    /// The pod's connection had given so many bytes before.
    pub(crate) from: usize,
    pub(crate) reused: bool,
}

#[derive(Debug)]
pub(crate) struct Scrape {
    id: usize,
    client: usize,
    /// Which pod.
    pub(crate) peer: usize,
    to_head: bool,
    pub(crate) patience: Duration,
    pub(crate) answer: Answer,
    pub(crate) attempts: Vec<Attempt>,
}

/// A pod's connection.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) conn: ConnId,
    address: SocketAddr,
    opened_at: Timestamp,
    resolves: Option<(Timestamp, Link)>,
    /// Answers that were sent whole.
    served: usize,
    /// The request that is under way, as far as it was written; and where it ends.
    head: Vec<u8>,
    request_end: Option<usize>,
    asked_at: Timestamp,
    /// What it asks for, until it is answered; and how much of the answer is sent.
    scrape: Option<usize>,
    sent: usize,
    /// The request line is here. What it asks for, or what was asked for last.
    known: bool,
    asked: Option<usize>,
    pauses_until: Timestamp,
    /// Where the last answer ends, among all bytes to the worker.
    answer_end: usize,
    reusable: bool,
    /// The turn in which the worker had read all of the last answer.
    released: Option<usize>,
    surplus: &'static [u8],
    surplus_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    /// It closes as soon as another request comes.
    dies: bool,
}

/// What no client may ever see: an answer to nothing.
const SURPLUS: [&[u8]; 4] = [
    b"\r\n",
    b"x",
    b"HTTP/1.1 200 OK\r\nX-Scrape: 999999\r\nContent-Length: 6\r\n\r\npoison",
    b"HTTP/1.1 200",
];

impl Answer {
    /// Most of those that may be `long` are, and need no edit on their way.
    fn random(random: &mut Random, id: usize, to_head: bool, long: bool) -> Self {
        const STATUSES: [(u16, &str); 7] = [
            (200, "OK"),
            (200, "OK"),
            (200, "OK"),
            (200, ""),
            (204, "No Content"),
            (304, "Same"),
            (500, "Oh"),
        ];
        const BODIES: [Body; 4] = [Body::Length, Body::Length, Body::Chunked, Body::UntilClose];
        let plain = long && !random.one_in(3);
        let (status, reason) = random.pick(if plain { &STATUSES[..1] } else { &STATUSES });
        let bodiless = matches!(status, 204 | 304);
        let pod10 = !plain && random.one_in(6);
        let mut body = random.pick(if plain { &BODIES[..1] } else { &BODIES });
        if pod10 && body == Body::Chunked {
            body = Body::Length;
        }
        let persists = if pod10 { random.one_in(2) } else { plain || !random.one_in(6) };
        let mut fields = vec![("X-Scrape".to_owned(), id.to_string())];
        let mut field = |name: &str, value: &str| fields.push((name.to_owned(), value.to_owned()));
        if plain || random.one_in(2) {
            field("Date", "Thu, 01 Jan 1970 00:00:00 GMT");
        }
        match (pod10, persists) {
            (false, false) => field("Connection", "close"),
            (true, true) => field("Connection", "keep-alive"),
            _ => {}
        }
        if !plain && random.one_in(8) {
            field("Keep-Alive", "timeout=5");
        }
        field("Content-Type", "text/plain");

        let mut interims = Vec::new();
        let interim_count = if random.one_in(8) && !pod10 && !plain { 1 + random.below(3) } else { 0 };
        for _ in 0..interim_count {
            let filler = "i".repeat(random.pick(&[0, 0, 500, 20_000]));
            interims.extend_from_slice(
                format!("HTTP/1.1 103 Early Hints\r\nX-Scrape: {id}\r\nLink: {filler}\r\n\r\n").as_bytes(),
            );
        }
        let size = match random.below(40) {
            _ if plain || long && random.one_in(2) => 30_000 + random.below(200_000),
            0..10 => 0,
            10..34 => random.below(2000),
            34..38 => random.below(20_000),
            38 => 65_000 + random.below(1000),
            _ => random.below(300_000),
        };
        let mut content = content(id, if bodiless { 0 } else { size });
        let mut wire = Vec::new();
        let mut goes = Vec::new();
        let mut sound = None;
        match body {
            Body::Length if status != 204 => {
                if !plain && random.one_in(12) {
                    // All of the answer in exactly one read.
                    let length =
                        fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
                    let head =
                        format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 65000\r\n\r\n").len() + length;
                    content =
                        self::content(id, if bodiless { 0 } else { 65_536 - head - interims.len() % 60_000 });
                }
                let length = if bodiless { 10 } else { content.len() };
                fields.push(("Content-Length".to_owned(), length.to_string()));
                wire.extend_from_slice(&content);
            }
            Body::Chunked if status != 204 => {
                fields.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
                sound = chunk(random, &content, &mut wire, &mut goes);
            }
            Body::UntilClose => {
                wire.extend_from_slice(&content);
            }
            _ => {}
        }
        if to_head || bodiless {
            wire.clear();
            goes.clear();
            content.clear();
            sound = None;
            // An answer to HEAD has no body, whatever it says.
            body = Body::Empty;
        }
        let malformed_body = sound.is_some();
        if body != Body::Chunked {
            goes.clone_from(&wire);
        }
        let (sound, goes_sound) = sound.unwrap_or((wire.len(), goes.len()));

        let mut whole = interims;
        let mut fault = if malformed_body { Fault::MalformedBody } else { Fault::None };
        let version = if pod10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut head = format!("{version} {status} {reason}\r\n");
        for (name, value) in &fields {
            head += &format!("{name}: {value}\r\n");
        }
        if !malformed_body && random.one_in(16) {
            fault = random.pick(&[
                Fault::MalformedHead,
                Fault::MalformedHead,
                Fault::HeadTooLarge,
                Fault::SwitchedProtocols,
            ]);
            match fault {
                Fault::MalformedHead => match random.below(5) {
                    0 => head = format!("HTTP/1.1 200 OK\r\n folded: {id}\r\n"),
                    1 => head += "Content-Length: 1\r\nContent-Length: 2\r\n",
                    2 => head += "Bare\n",
                    3 => head = format!("HTTP/3.0 200 OK\r\nX-Scrape: {id}\r\n"),
                    _ => head = format!("220 smtp.example ready {id}\r\n"),
                },
                Fault::HeadTooLarge => head += &format!("X-Long: {}\r\n", "l".repeat(64 * 1024)),
                _ => head = format!("HTTP/1.1 101 Switching Protocols\r\nX-Scrape: {id}\r\n"),
            }
        }
        head += "\r\n";
        if fault == Fault::None && random.one_in(12) {
            // What breaks the grammar and means one thing is that thing.
            head = match random.below(3) {
                0 => head.replace("\r\n", "\n"),
                1 => head.replacen("HTTP/1.1 ", "HTTP/1.2  ", 1),
                _ => head.replace("\r\n\r\n", "\r\nAn Odd: \x01\r\n\r\n"),
            };
        }
        whole.extend_from_slice(head.as_bytes());
        let body_at = whole.len();
        whole.extend_from_slice(&wire);

        let mut heals = false;
        if fault == Fault::None && random.one_in(5) {
            let most = if body == Body::UntilClose { body_at } else { whole.len() };
            let at = if random.one_in(4) { 0 } else { random.below(most) };
            fault = match random.below(3) {
                0 => Fault::Stall { at: random.below(whole.len()) },
                // Without a length, an answer may be cut at its very end, but only a reset shows it.
                1 if body == Body::UntilClose => {
                    Fault::Cut { at: random.below(whole.len() + 1), resets: true }
                }
                resets => Fault::Cut { at, resets: resets == 1 },
            };
            heals = matches!(fault, Fault::Cut { at: 0, .. }) && random.one_in(2);
        }
        let surplus = if fault == Fault::None && body != Body::UntilClose && random.one_in(12) {
            random.pick(&SURPLUS)
        } else {
            b""
        };
        let early = random.one_in(12);
        Self {
            interims: interim_count,
            status,
            reason,
            fields,
            body,
            wire: whole,
            body_at,
            goes,
            goes_sound,
            sound,
            content,
            persists: persists && body != Body::UntilClose,
            early,
            surplus,
            fault,
            heals,
        }
    }

    /// Whether the end of the client's connection is the end of the answer.
    pub(crate) fn ends_by_close(&self, to_http10: bool) -> bool {
        self.body == Body::UntilClose || (to_http10 && self.body == Body::Chunked)
    }

    /// What a client may get of the body, and how long all of it is.
    pub(crate) fn as_seen_by(&self, http10: bool) -> (&[u8], usize) {
        let never = |whole| if self.fault == Fault::MalformedBody { usize::MAX } else { whole };
        if http10 && self.body == Body::Chunked {
            return (&self.content, never(self.content.len()));
        }
        (&self.goes[..self.goes_sound], never(self.goes.len()))
    }
}

/// Lines that name their scrape and their number.
fn content(id: usize, size: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(size + 80);
    for line in 0.. {
        if content.len() >= size {
            break;
        }
        let text = format!("scrape_{id}_line_{line} {:-<60}\n", line);
        content.extend_from_slice(text.as_bytes());
    }
    content.truncate(size);
    content
}

/// The chunked coding of `content`, as it comes and as it goes on; if it is malformed, how much of both is sound.
fn chunk(
    random: &mut Random,
    content: &[u8],
    wire: &mut Vec<u8>,
    goes: &mut Vec<u8>,
) -> Option<(usize, usize)> {
    let malformed = random.one_in(4);
    let breaks_at = random.below(content.len() + 1);
    let mut at = 0;
    loop {
        let largest = if content.len() < 3000 { random.pick(&[3, 100, 3000]) } else { 40_000 };
        let size = (1 + random.below(largest)).min(content.len() - at);
        if malformed && at + size >= breaks_at {
            break;
        }
        let extension = random.pick(&["", "", "", "", ";name=\"value\"", "  ", "\t;a"]);
        wire.extend_from_slice(format!("{size:x}{extension}\r\n").as_bytes());
        goes.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        let rest = if size > 0 {
            [&content[at..at + size], b"\r\n"].concat()
        } else {
            let trailer = if random.one_in(4) { "X-Trailer: 1\r\n" } else { "" };
            format!("{trailer}\r\n").into()
        };
        wire.extend_from_slice(&rest);
        goes.extend_from_slice(&rest);
        if size == 0 {
            return None;
        }
        at += size;
    }
    // A chunk that is longer than its size, or a size that is none.
    if random.one_in(2) && at < content.len() {
        for coded in [&mut *wire, &mut *goes] {
            coded.extend_from_slice(b"1\r\n");
            coded.push(content[at]);
        }
    }
    let sound = (wire.len(), goes.len());
    for coded in [wire, goes] {
        coded.extend_from_slice(b"zz\r\n0\r\n\r\n");
    }
    Some(sound)
}

impl Scrape {
    pub(crate) fn random(
        random: &mut Random,
        id: usize,
        client: usize,
        to_head: bool,
        patience: Duration,
        long: bool,
    ) -> Self {
        let peer = 1 + if long { 0 } else { random.below(PODS) };
        let answer = Answer::random(random, id, to_head, long);
        Self { id, client, peer, to_head, patience, answer, attempts: Vec::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, self.peer as u8], PORT))
    }

    /// What is wrong with the answer that the last attempt got.
    pub(crate) fn fault(&self) -> Fault {
        if self.answer.heals && self.attempts.len() > 1 { Fault::None } else { self.answer.fault }
    }

    /// Whether the pod sent all of the answer, without a fault.
    pub(crate) fn is_whole(&self) -> bool {
        self.fault() == Fault::None && !self.attempts.is_empty()
    }

    /// Whether the worker read the head of the final answer whole. From there on, it can tell of a failure only by
    /// breaking off.
    pub(crate) fn is_head_read(&self, net: &Net) -> bool {
        let is_sound =
            !matches!(self.fault(), Fault::MalformedHead | Fault::HeadTooLarge | Fault::SwitchedProtocols);
        is_sound && self.answer_bytes_read(net).is_some_and(|read| read >= self.answer.body_at)
    }

    /// Whether the worker read what is malformed in the body.
    pub(crate) fn is_read_beyond_sound(&self, net: &Net) -> bool {
        let sound = self.answer.body_at + self.answer.sound;
        self.answer_bytes_read(net).is_some_and(|read| read > sound)
    }

    /// How much the worker read of the answer. `None`: nothing was asked for yet.
    pub(crate) fn answer_bytes_read(&self, net: &Net) -> Option<usize> {
        let Attempt { pod, from, .. } = self.attempts.last()?;
        let read = net.kernel.conns[net.pods[*pod].conn].to_worker.taken - from;
        Some(read.min(self.answer.wire.len()))
    }
}

impl Pod {
    /// The last request was written whole, and is answered.
    fn awaits_request(&mut self) {
        self.head.clear();
        (self.request_end, self.known) = (None, false);
    }
}

/// What pods do.
impl Net {
    /// What a connect comes to.
    pub(crate) fn random_connect(&mut self, to: SocketAddr) -> Result<(Link, Pod), Errno> {
        let now = self.now;
        let random = &mut self.random;
        if self.chaos.connects && random.one_in(40) {
            return Err(random.pick(&[
                Errno::CONNREFUSED,
                Errno::NETUNREACH,
                Errno::ADDRNOTAVAIL,
                Errno::MFILE,
            ]));
        }
        let at_once = random.one_in(4);
        let milliseconds = random.pick(&[0, 0, 0, 0, 1, 1, 50, 50, 450, 3000]);
        let mut link = Link::Up;
        if self.chaos.connects && random.one_in(12) {
            link = Link::Failed(random.pick(&[
                Errno::CONNREFUSED,
                Errno::HOSTUNREACH,
                Errno::TIMEDOUT,
                Errno::CONNRESET,
            ]));
        }
        let resolves = if at_once { None } else { Some((now + Duration::from_millis(milliseconds), link)) };
        let pod = Pod {
            conn: 0,
            address: to,
            opened_at: now,
            resolves,
            served: 0,
            head: Vec::new(),
            request_end: None,
            asked_at: now,
            scrape: None,
            sent: 0,
            known: false,
            asked: None,
            pauses_until: now,
            answer_end: 0,
            reusable: false,
            released: None,
            surplus: b"",
            surplus_at: None,
            ends_at: None,
            dies: false,
        };
        Ok((if at_once { Link::Up } else { Link::Connecting }, pod))
    }

    /// A pod does what it can do next. Says whether it could do anything.
    pub(crate) fn pod_acts(&mut self, pod: usize, now: Timestamp, mid_turn: bool) -> bool {
        let this = &mut self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if let Some((at, link)) = this.resolves {
            if now < at || !conn.is_held() {
                return false;
            }
            this.resolves = None;
            self.kernel.resolve(this.conn, link);
            self.trace(|| format!("pod {pod} connects: {link:?}"));
            return true;
        }
        if conn.link != Link::Up || conn.peer_ended || now < this.pauses_until {
            return false;
        }
        if !conn.is_held() {
            // What is left is sent into the void, which shows.
            self.pod_leaves(pod, false);
            return true;
        }
        if this.dies && !this.head.is_empty() {
            let resets = self.random.one_in(2);
            self.pod_leaves(pod, resets);
            return true;
        }
        let early = this.scrape.is_some_and(|id| self.scrapes[id].answer.early);
        if !conn.from_worker.is_empty() && !early {
            let most = 1 + self.random.below(2000);
            self.kernel.peer_take(this.conn, most);
            return true;
        }
        let is_read = this.request_end.is_some_and(|end| conn.from_worker.taken >= end);
        if let Some(id) = this.scrape {
            return (is_read || early) && self.pod_answers(pod, id, now);
        }
        // An idle connection that another request is on its way to gets no surplus: that, nobody can tell from
        // the beginning of an answer.
        let rests = this.released.is_some_and(|turn| turn < self.turn) && mid_turn;
        if let Some(at) = this.surplus_at.filter(|at| *at <= now && this.head.is_empty() && !rests) {
            let sent = self.kernel.peer_send(this.conn, this.surplus);
            this.surplus = &this.surplus[sent..];
            this.surplus_at = Some(at).filter(|_| !this.surplus.is_empty());
            self.trace(|| format!("pod {pod} sends {sent} surplus bytes"));
            return sent > 0;
        }
        if this.ends_at.is_some_and(|at| at <= now) {
            let resets = self.random.one_in(6);
            self.pod_leaves(pod, resets);
            return true;
        }
        false
    }

    fn pod_leaves(&mut self, pod: usize, resets: bool) {
        self.trace(|| format!("pod {pod} {}", if resets { "resets" } else { "ends" }));
        let conn = self.pods[pod].conn;
        if resets {
            let loses_sent = self.random.one_in(2);
            self.kernel.peer_reset(conn, loses_sent);
        } else if self.random.one_in(2) {
            self.kernel.peer_end(conn);
        } else {
            self.kernel.peer_close(conn);
        }
    }

    fn pod_answers(&mut self, pod: usize, id: usize, now: Timestamp) -> bool {
        let scrape = &self.scrapes[id];
        let (answer, fault) = (&scrape.answer, scrape.fault());
        let this = &mut self.pods[pod];
        let stop = match fault {
            Fault::Cut { at, .. } | Fault::Stall { at } => at,
            _ => answer.wire.len(),
        };
        if this.sent < stop {
            let most = self.random.pick(&[1, 50, 2000, 1 << 20, 1 << 20, 1 << 20]);
            let end = stop.min(this.sent + most);
            let mut bytes = answer.wire[this.sent..end].to_vec();
            if end == answer.wire.len() {
                bytes.extend_from_slice(answer.surplus);
            }
            let sent = self.kernel.peer_send(this.conn, &bytes);
            if sent == 0 {
                return false;
            }
            let left_over = (this.sent + sent).saturating_sub(answer.wire.len());
            this.sent += sent - left_over;
            if this.sent < answer.wire.len() {
                if self.random.one_in(16) {
                    this.pauses_until = now + Duration::from_millis(self.random.pick(&[1, 20, 200]));
                }
                self.trace(|| format!("pod {pod} answers {sent} bytes of scrape {id}"));
                return true;
            }
            this.surplus = &answer.surplus[left_over..];
            this.surplus_at = Some(now).filter(|_| !this.surplus.is_empty());
        } else if let Fault::Cut { resets, .. } = fault {
            self.pod_leaves(pod, resets);
            return true;
        } else {
            return false; // it stalls
        }
        self.trace(|| format!("pod {pod} has answered scrape {id}: {fault:?}"));
        if matches!(fault, Fault::Cut { .. }) {
            return true; // at its very end
        }
        self.pod_answered(pod, id, now);
        true
    }

    /// A pod sent all of an answer. What it is going to do next is decided now.
    fn pod_answered(&mut self, pod: usize, id: usize, now: Timestamp) {
        let answer = &self.scrapes[id].answer;
        let whole = self.scrapes[id].is_whole();
        let this = &mut self.pods[pod];
        let pushed = self.kernel.conns[this.conn].to_worker.pushed;
        this.answer_end = pushed - (answer.surplus.len() - this.surplus.len());
        this.served += 1;
        this.reusable = answer.persists && whole;
        this.released = None;
        (this.scrape, this.sent) = (None, 0);
        if this.request_end.is_some() {
            this.awaits_request();
        }
        let soon = |random: &mut Random| now + Duration::from_millis(random.pick(&[0, 0, 10, 700]));
        if answer.body == Body::UntilClose || (!answer.persists && self.random.one_in(2)) {
            this.ends_at = Some(soon(&mut self.random));
            return;
        }
        if !this.reusable {
            return;
        }
        match self.random.below(12) {
            0 => this.ends_at = Some(soon(&mut self.random)),
            1 if this.surplus.is_empty() => {
                this.surplus = self.random.pick(&SURPLUS);
                this.surplus_at = Some(soon(&mut self.random));
            }
            2 | 3 => this.dies = true,
            _ => {}
        }
    }

    /// When a pod is going to do something that it does not do now.
    pub(crate) fn pod_wakes(&self, pod: usize) -> Option<Timestamp> {
        let this = &self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if !conn.is_held() || conn.peer_ended {
            return None;
        }
        let resolves = this.resolves.map(|(at, _)| at);
        let all = [resolves, Some(this.pauses_until), this.surplus_at, this.ends_at];
        all.into_iter().flatten().filter(|at| *at > self.now).min()
    }
}

/// What the worker does to pods.
impl Net {
    /// The worker wrote to a pod.
    pub(crate) fn pod_got(&mut self, pod: usize, bytes: &[u8]) {
        if self.pods[pod].head.is_empty() {
            self.pod_is_asked(pod);
        }
        let this = &mut self.pods[pod];
        assert!(this.request_end.is_none(), "pod {pod}: bytes behind a request: {}", Shown(bytes));
        this.head.extend_from_slice(bytes);
        if !this.known {
            self.pod_reads_request_line(pod);
        }
        let this = &mut self.pods[pod];
        if this.head.ends_with(b"\r\n\r\n") {
            this.request_end = Some(self.kernel.conns[this.conn].from_worker.pushed);
            let head = String::from_utf8(this.head.clone()).unwrap();
            let lines: Vec<_> = head.trim_end().split("\r\n").collect();
            assert_eq!(lines[1], format!("Host: {}", this.address), "pod {pod}");
            assert!(lines.last().unwrap().ends_with(" psystrike"), "pod {pod}: {head}");
            if this.scrape.is_none() {
                this.awaits_request(); // the answer came before
            }
            assert!(!head.contains("\r\nConnection") && !head.contains("\r\n\r\n\r\n"), "pod {pod}: {head}");
        }
    }

    /// The first bytes of a request.
    fn pod_is_asked(&mut self, pod: usize) {
        let now = self.now;
        let this = &mut self.pods[pod];
        this.asked_at = now;
        if this.served == 0 {
            return;
        }
        let conn = &self.kernel.conns[this.conn];
        let released = this.released.expect("the last answer was read to its end");
        assert!(conn.watched, "pod {pod} is used again, and would be waited for if it had vanished");
        assert!(this.reusable && this.scrape.is_none(), "pod {pod} is used again");
        assert!(released < self.turn, "pod {pod} is used again in the turn that released it");
        assert_eq!(
            conn.to_worker.pushed, this.answer_end,
            "pod {pod} is used again in spite of surplus bytes"
        );
        this.surplus_at = None;
        self.reused += 1;
    }

    fn pod_reads_request_line(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        let Some(end) = this.head.windows(2).position(|two| two == b"\r\n") else { return };
        let line = str::from_utf8(&this.head[..end]).unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let [method, target, "HTTP/1.1"] = words[..] else { panic!("pod {pod} is asked {line:?}") };
        let id: usize = target.strip_prefix("/s/").unwrap().parse().unwrap();
        let scrape = &mut self.scrapes[id];
        assert_eq!((method == "HEAD", scrape.address()), (scrape.to_head, this.address), "{line}");
        let conn = &self.kernel.conns[this.conn];
        let attempt = Attempt { pod, from: conn.to_worker.taken, reused: this.served > 0 };
        scrape.attempts.push(attempt);
        this.known = true;
        (this.scrape, this.asked) = (Some(scrape.id), Some(scrape.id));
        if let [first, _] = scrape.attempts[..] {
            let conn = &self.kernel.conns[self.pods[first.pod].conn];
            assert!(first.reused && !attempt.reused, "scrape {id} is sent again without need");
            let read = &scrape.answer.wire[..conn.to_worker.taken - first.from];
            let stale = !read.iter().zip(b"HTTP/").all(|(read, expected)| read == expected);
            assert!(stale || read.len() < 5, "scrape {id} is sent again, and was answered");
            assert!(
                (stale || conn.peer_left()) && !conn.is_held(),
                "scrape {id} is sent again while it may be answered"
            );
            self.sent_again += 1;
        }
        assert!(scrape.attempts.len() <= 2, "scrape {id} is sent again and again");
        self.trace(|| format!("pod {pod} is asked for scrape {id}"));
    }

    /// The worker is about to read from a pod.
    pub(crate) fn pod_is_read(&self, pod: usize) {
        let Some(client) = self.pods[pod].asked.map(|id| self.scrapes[id].client) else { return };
        let conn = &self.kernel.conns[self.clients[client].conn.unwrap()];
        assert!(!conn.stalled || !conn.is_held(), "pod {pod} is read while client {client} takes nothing");
    }

    pub(crate) fn pod_was_read(&mut self, pod: usize) {
        let this = &mut self.pods[pod];
        if this.served > 0 && self.kernel.conns[this.conn].to_worker.taken >= this.answer_end {
            this.released.get_or_insert(self.turn);
        }
    }

    pub(crate) fn pod_closed(&mut self, pod: usize) {
        self.pods[pod].surplus_at = None;
    }

    /// Whether a pod's connection is kept: its last answer was read, and nothing was asked for since.
    fn pod_idles(&self, pod: &Pod) -> bool {
        let conn = &self.kernel.conns[pod.conn];
        conn.is_held() && pod.reusable && pod.head.is_empty() && pod.released.is_some()
    }

    /// How many pod connections a worker keeps.
    pub(crate) fn idle_pods(&self, worker: usize) -> usize {
        let of_worker = |pod: &&Pod| self.kernel.conns[pod.conn].worker == Some(worker);
        self.pods.iter().filter(of_worker).filter(|pod| self.pod_idles(pod)).count()
    }

    /// How many pod connections a worker has.
    pub(crate) fn held_pods(&self, worker: usize) -> usize {
        self.kernel.held_by(worker).filter(|&id| matches!(self.owners[id], Owner::Pod(_))).count()
    }

    /// Whether a connection to `address` that is newer than `than` was lost before anything was asked for on it.
    pub(crate) fn pod_lost_unasked(&self, address: SocketAddr, than: usize) -> bool {
        self.pods[than + 1..].iter().any(|pod| {
            pod.address == address && pod.asked.is_none() && self.kernel.conns[pod.conn].peer_left()
        })
    }

    /// Whether surplus bytes wait for the worker: no event may tell of them late.
    pub(crate) fn pod_has_surplus(&self, pod: usize) -> bool {
        let this = &self.pods[pod];
        this.served > 0
            && self.kernel.conns[this.conn].to_worker.pushed > this.answer_end
            && this.scrape.is_none()
    }
}

/// What must hold between turns.
impl Net {
    pub(crate) fn check_pod(&self, pod: usize) {
        let this = &self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if !conn.is_held() {
            return;
        }
        if self.pod_idles(this) {
            let told = conn.has_news() && !conn.woken;
            assert!(!told, "pod {pod} idles although it {}", if conn.peer_ended { "ended" } else { "sent" });
            return;
        }
        if conn.link != Link::Up || this.head.is_empty() && this.served == 0 {
            let late = self.now > this.opened_at + self.settings.timeouts.connect + SLACK;
            assert!(!late, "pod {pod} is connected to for ever");
        }
        let Some(scrape) = this.asked.map(|id| &self.scrapes[id]) else { return };
        let late = self.now > this.asked_at + scrape.patience + SLACK;
        assert!(!late, "scrape {} is answered for ever", scrape.id);
        let client = &self.clients[scrape.client];
        let client = &self.kernel.conns[client.conn.unwrap()];
        assert!(client.is_held() && !client.end_told, "pod {pod} works on although its client has gone");
    }

    /// With nothing left to tell the worker: it must not sleep on what it could do.
    pub(crate) fn check_pod_sleeps_well(&self, pod: usize) {
        let this = &self.pods[pod];
        let conn = &self.kernel.conns[this.conn];
        if !conn.is_held() || conn.link != Link::Up {
            return;
        }
        assert!(this.served > 0 || !this.head.is_empty(), "the worker sleeps and does not ask pod {pod}");
        let Some(id) = this.asked else { return };
        let client = &self.kernel.conns[self.clients[self.scrapes[id].client].conn.unwrap()];
        // Where there is no room, it sleeps for a while, and then somebody gives way.
        assert!(
            !conn.has_news() || client.stalled || self.is_full(conn.worker),
            "the worker sleeps on an answer of pod {pod}"
        );
    }
}
