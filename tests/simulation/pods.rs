//! Pods that respond by a random script, and break off, stall, violate the protocol and close at random.
//!
//! Every body names its scrape, so that a byte in the wrong exchange is noticed.

#[path = "pods_act.rs"]
mod act;

use std::{net::SocketAddr, time::Duration};

use psystrike::proxy::timestamp::Timestamp;
use rustix::io::Errno;

use super::{
    bytes::{Random, Shown},
    clients::SLACK,
    kernel::{ConnId, Link},
    names,
    net::{Net, Owner},
};

/// The number of pods, from `10.0.0.1` on.
const PODS: usize = 3;
const PORT: u16 = 8080;

/// The framing of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Empty,
    Length,
    Chunked,
    UntilClose,
}

/// The fault of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The pod closes its side, or resets, after this many bytes.
    Cut {
        at: usize,
        resets: bool,
    },
    /// The pod stops sending after this many bytes.
    Stall {
        at: usize,
    },
    MalformedHead,
    HeadTooLarge,
    SwitchedProtocols,
    MalformedBody,
}

/// A random response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) interims: usize,
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Body,
    /// Its bytes.
    wire: Vec<u8>,
    /// The offset of its body.
    body_at: usize,
    /// The body as forwarded to a client that supports chunks, without extensions.
    goes: Vec<u8>,
    /// The number of valid bytes of it.
    goes_sound: usize,
    /// The number of valid bytes of the body on the wire.
    sound: usize,
    /// The content of the body.
    content: Vec<u8>,
    /// Whether the pod's connection persists.
    persists: bool,
    /// Whether it is sent before the request is read completely.
    early: bool,
    /// Bytes after its end that are sent with it.
    surplus: &'static [u8],
    fault: Fault,
    /// Whether the response to a retry is without a fault.
    heals: bool,
}

/// A request that reached a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) pod: usize,
    /// The number of bytes that the pod's connection had sent before.
    pub(crate) from: usize,
    pub(crate) reused: bool,
}

#[derive(Debug)]
pub(crate) struct Scrape {
    id: usize,
    client: usize,
    /// The pod.
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
    /// The number of responses that were sent completely.
    served: usize,
    /// The bytes of the current request that were written; and its end.
    head: Vec<u8>,
    request_end: Option<usize>,
    asked_at: Timestamp,
    /// Its scrape, until the response is sent; and the number of sent bytes of the response.
    scrape: Option<usize>,
    sent: usize,
    /// Since when sent bytes are unread.
    unread_since: Option<Timestamp>,
    /// Its scrape once the request line has arrived, or the previous scrape.
    known: bool,
    asked: Option<usize>,
    pauses_until: Timestamp,
    /// The end of the last response, as an offset in all bytes to the worker.
    answer_end: usize,
    reusable: bool,
    /// The turn in which the worker had read all of the last response.
    released: Option<usize>,
    surplus: &'static [u8],
    surplus_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    /// It closes as soon as another request arrives.
    dies: bool,
}

/// A response to no request, which no client may ever receive.
const SURPLUS: [&[u8]; 4] = [
    b"\r\n",
    b"x",
    b"HTTP/1.1 200 OK\r\nX-Scrape: 999999\r\nContent-Length: 6\r\n\r\npoison",
    b"HTTP/1.1 200",
];

impl Answer {
    /// Draws a response. With `long`, most bodies are long, and heads need no edit.
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
                    // All of the response in exactly one read.
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
            // A response to HEAD has no body, whatever its fields are.
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
            // An unambiguous head that breaks the grammar is forwarded.
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
                // A response until close may be cut at its very end, but only a reset shows it.
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

    /// Returns whether the response ends with the client's connection.
    pub(crate) fn ends_by_close(&self, to_http10: bool) -> bool {
        self.body == Body::UntilClose || (to_http10 && self.body == Body::Chunked)
    }

    /// Returns the bytes of the body that a client may receive, and its full length.
    pub(crate) fn as_seen_by(&self, http10: bool) -> (&[u8], usize) {
        let never = |whole| if self.fault == Fault::MalformedBody { usize::MAX } else { whole };
        if http10 && self.body == Body::Chunked {
            return (&self.content, never(self.content.len()));
        }
        (&self.goes[..self.goes_sound], never(self.goes.len()))
    }
}

/// Returns lines with the number of their scrape and their own.
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

/// Returns the chunked coding of `content`, as sent and as forwarded; if it is malformed, the valid lengths of both.
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
    // A chunk that is longer than its size, or an invalid size.
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

    /// Returns whether the request gives its pod by name. Not random, so that the other sequences of a seed stay the
    /// same.
    pub(crate) fn is_named(&self) -> bool {
        self.id % 5 == 4
    }

    /// Returns its pod's name or address.
    pub(crate) fn host(&self) -> String {
        if self.is_named() { names::name_of(self.peer) } else { format!("10.0.0.{}", self.peer) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, self.peer as u8], PORT))
    }

    /// Returns the fault of the response to the last attempt.
    pub(crate) fn fault(&self) -> Fault {
        if self.answer.heals && self.attempts.len() > 1 { Fault::None } else { self.answer.fault }
    }

    /// Returns whether the pod sent all of the response, without a fault.
    pub(crate) fn is_whole(&self) -> bool {
        self.fault() == Fault::None && !self.attempts.is_empty()
    }

    /// Returns whether the worker read the complete head of the final response. From then on, it can report a failure
    /// only by breaking off.
    pub(crate) fn is_head_read(&self, net: &Net) -> bool {
        let is_sound =
            !matches!(self.fault(), Fault::MalformedHead | Fault::HeadTooLarge | Fault::SwitchedProtocols);
        is_sound && self.answer_bytes_read(net).is_some_and(|read| read >= self.answer.body_at)
    }

    /// Returns whether the worker read the malformed bytes of the body.
    pub(crate) fn is_read_beyond_sound(&self, net: &Net) -> bool {
        let sound = self.answer.body_at + self.answer.sound;
        self.answer_bytes_read(net).is_some_and(|read| read > sound)
    }

    /// Returns how many bytes of the response the worker read. `None`: no request was sent yet.
    pub(crate) fn answer_bytes_read(&self, net: &Net) -> Option<usize> {
        let Attempt { pod, from, .. } = self.attempts.last()?;
        let read = net.kernel.conns[net.pods[*pod].conn].to_worker.taken - from;
        Some(read.min(self.answer.wire.len()))
    }
}

impl Pod {
    /// Notes that the last request was written completely and its response was sent.
    fn awaits_request(&mut self) {
        self.head.clear();
        (self.request_end, self.known) = (None, false);
    }
}
