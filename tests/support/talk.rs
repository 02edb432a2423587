//! A dialogue with one exchange on a synthetic clock: the events of the client, the pod and the clock, and the
//! exchange's output after each.
//!
//! Replaces `net/runner`, and keeps its contract: unused input is presented again together with the bytes that follow
//! it, a request only while the exchange waits for one, a response only while the exchange waits for one. Opens no
//! socket and never sleeps. If a test fails while a [`Talk`] exists, the dialogue so far is printed.

#![allow(dead_code)] // each test file uses its own part

use std::{
    fmt::Write,
    mem,
    panic::Location,
    thread,
    time::{Duration, SystemTime},
};

use psystrike::{
    http1::{head::REQUEST_HEAD_BYTES_MAX, local_response::TEXT},
    proxy::{
        access::{Access, attempts::Attempts},
        duration::HumanDuration,
        events::{
            ClientAction, ClientFacts, Context, Event, Output, PageHead, Pages, Report, UpstreamAction, Wants,
        },
        exchange::Exchange,
        outcome::{Outcome, UpstreamError},
        peer::Peer,
        pods::Pods,
        policy::{Policy, Ports},
        recycler::Recycler,
        route::Page,
        settings::{Settings, Timeouts},
        timestamp::Timestamp,
    },
};

use super::bytes::Shown;

/// The constant wall-clock time of the exchange.
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const DATE_SECONDS: u64 = 784_111_777;

/// The pod that [`ASK`] requests.
pub(crate) fn pod() -> Peer {
    Peer::new([10, 1, 2, 3].into(), 8080)
}

/// A scrape.
pub(crate) const ASK: &str = "GET /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\r\n";
/// The request that the pod receives for it.
pub(crate) const ASKED: &str = "GET /metrics HTTP/1.1\r\nHost: 10.1.2.3:8080\r\nVia: 1.1 psystrike\r\n\r\n";
/// A response that is forwarded unchanged.
pub(crate) const ANSWER: &str =
    "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 3\r\n\r\nup\n";

pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The settings of the tests.
pub(crate) fn settings() -> Settings {
    let range = |text: &str| text.parse().expect("a range");
    Settings {
        access: Access::default(),
        policy: Policy::new(
            vec![range("10.0.0.0/8"), range("fd00::/8")],
            vec![range("10.9.0.0/16")],
            "80,8080,9090-9999".parse::<Ports>().expect("ports"),
        ),
        pods: Pods::default(),
        timeouts: Timeouts {
            scrape: ms(30_000),
            scrape_max: ms(120_000),
            connect: ms(3_000),
            header: ms(10_000),
            client_idle: ms(360_000),
            upstream_idle: ms(180_000),
            gather: ms(1),
            tunnel_idle: ms(360_000),
            resolve_ttl: ms(5_000),
        },
        connect_ports: Some("8080,9000-9999".parse().expect("ports")),
        access_log: false,
    }
}

/// Returns a response of psystrike itself. `lines` are at the end of its head.
pub(crate) fn reply(status: u16, reason: &str, lines: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nDate: {DATE}\r\nContent-Type: {TEXT}\r\nContent-Length: {length}\r\n\
         X-Content-Type-Options: nosniff\r\n{lines}\r\n{body}"
    )
}

/// Pages whose content is their name.
struct Names;

impl Pages for Names {
    fn render(&self, page: Page, body: &mut Vec<u8>) -> PageHead {
        assert!(body.is_empty(), "a page begins with an empty body");
        body.extend_from_slice(format!("{page:?}\n").as_bytes());
        PageHead { status: if page == Page::Readyz { 503 } else { 200 }, content_type: TEXT }
    }

    fn date(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(DATE_SECONDS)
    }
}

/// The dialogue.
pub(crate) struct Talk {
    pub(crate) settings: Settings,
    pub(crate) draining: bool,
    /// What is known about the client.
    pub(crate) facts: ClientFacts,
    pub(crate) exchange: Exchange,
    out: Output,
    pub(crate) attempts: Attempts,
    recycler: Recycler,
    begin: Timestamp,
    now: Timestamp,
    /// Bytes that the client sent and that are not read yet.
    wire: Vec<u8>,
    /// Bytes that were read from the client and not used yet.
    request: Vec<u8>,
    /// Whether these bytes are not presented yet.
    request_is_new: bool,
    /// Bytes that were read from the pod and not used yet.
    answer: Vec<u8>,
    /// The bytes that the pod received on its current connection.
    sent: Vec<u8>,
    /// All bytes that the client received.
    pub(crate) got: Vec<u8>,
    dialogue: String,
}

impl Drop for Talk {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the dialogue so far:\n{}", self.dialogue);
        }
    }
}

impl Talk {
    /// Begins with a new connection. `name` is the title of the dialogue.
    pub(crate) fn new(name: &str) -> Self {
        Self::with_rules(name, settings(), false)
    }

    pub(crate) fn with_rules(name: &str, settings: Settings, turned_away: bool) -> Self {
        let now = Timestamp::default();
        Self {
            exchange: Exchange::new(now, &settings, turned_away),
            settings,
            draining: false,
            facts: ClientFacts { ip: Some([192, 0, 2, 1].into()), ..ClientFacts::default() },
            out: Output::default(),
            attempts: Attempts::default(),
            recycler: Recycler::default(),
            begin: now,
            now,
            wire: Vec::new(),
            request: Vec::new(),
            request_is_new: false,
            answer: Vec::new(),
            sent: Vec::new(),
            got: Vec::new(),
            dialogue: format!("  {name}\n"),
        }
    }

    /// A connection whose request waits for a connection to the pod.
    #[track_caller]
    pub(crate) fn connecting(request: &str) -> Self {
        let mut talk = Self::new(request);
        let is_absolute = request.split(' ').nth(1).is_some_and(|target| target.starts_with("http:"));
        let connect = if is_absolute { UpstreamAction::ConnectOther } else { UpstreamAction::Connect };
        talk.client(request).upstream(connect(pod()));
        talk.wants(Wants::Connection);
        talk
    }

    /// A connection whose request is not sent yet.
    #[track_caller]
    pub(crate) fn sending(request: &str, reused: bool) -> Self {
        let mut talk = Self::connecting(request);
        talk.connected(reused);
        talk.wants(Wants::Send);
        talk
    }

    /// A connection whose request is sent.
    #[track_caller]
    pub(crate) fn awaiting(request: &str, reused: bool) -> Self {
        let mut talk = Self::sending(request, reused);
        talk.sent_all();
        talk.wants(Wants::Response);
        talk
    }

    /// The client sends `bytes`.
    #[track_caller]
    pub(crate) fn client(&mut self, bytes: impl AsRef<[u8]>) -> Said {
        let mut said = Said::new();
        let bytes = bytes.as_ref();
        let _ = writeln!(self.dialogue, "{} client: {}", self.time(), Shown(bytes));
        self.wire.extend_from_slice(bytes);
        self.read_request(&mut said);
        said
    }

    /// Reads the client's bytes as long as the exchange waits for a request, up to the longest head at a time.
    fn read_request(&mut self, said: &mut Said) {
        while self.exchange.wants() == Wants::Request && (self.request_is_new || !self.wire.is_empty()) {
            let room = REQUEST_HEAD_BYTES_MAX - self.request.len();
            if !mem::take(&mut self.request_is_new) {
                let read = room.min(self.wire.len());
                assert!(read > 0, "a full buffer that is not used would wait forever");
                self.request.extend(self.wire.drain(..read));
            }
            let bytes = mem::take(&mut self.request);
            self.advance(Event::Request(&bytes));
            self.request = bytes[self.out.used..].to_vec();
            self.request_is_new = self.exchange.wants() != Wants::Request && !self.request.is_empty();
            self.collect(&[], said);
        }
    }

    /// Returns the client's bytes that the exchange did not use.
    pub(crate) fn unused(&self) -> Vec<u8> {
        [&self.request[..], &self.wire].concat()
    }

    /// The buffers of the exchange are needed for other sessions, whether or not the client has yet to take output.
    #[track_caller]
    pub(crate) fn no_room(&mut self, client_stalled: bool) -> Said {
        self.tell(Event::NoRoom { client_stalled })
    }

    /// The client ends its side, or its connection fails.
    #[track_caller]
    pub(crate) fn client_gone(&mut self) -> Said {
        self.tell(Event::ClientGone)
    }

    /// The client took all output. Its next request is then processed, if it has arrived.
    #[track_caller]
    pub(crate) fn flushed(&mut self) -> Said {
        let mut said = self.tell(Event::Flushed);
        self.read_request(&mut said);
        said
    }

    #[track_caller]
    pub(crate) fn connected(&mut self, reused: bool) -> Said {
        self.tell(Event::Connected { reused })
    }

    /// The pod's connection takes this many bytes of the request.
    #[track_caller]
    pub(crate) fn sent(&mut self, bytes: usize) -> Said {
        self.sent.extend_from_slice(&self.exchange.unsent()[..bytes]);
        self.tell(Event::Sent(bytes))
    }

    #[track_caller]
    pub(crate) fn sent_all(&mut self) -> Said {
        self.sent(self.exchange.unsent().len())
    }

    /// The bytes that the pod received on its current connection.
    #[track_caller]
    pub(crate) fn asked(&self, expected: &str) {
        assert_eq!(self.sent.escape_ascii().to_string(), expected.escape_default().to_string());
    }

    /// The pod sends `bytes`.
    #[track_caller]
    pub(crate) fn pod(&mut self, bytes: impl AsRef<[u8]>) -> Said {
        let mut said = Said::new();
        let _ = writeln!(self.dialogue, "{} pod: {}", self.time(), Shown(bytes.as_ref()));
        self.answer.extend_from_slice(bytes.as_ref());
        while !self.answer.is_empty() && matches!(self.exchange.wants(), Wants::Response | Wants::Send) {
            let mut bytes = mem::take(&mut self.answer);
            self.advance(Event::Response(&mut bytes));
            let used = self.out.used;
            self.answer = bytes[used..].to_vec();
            self.collect(&bytes, &mut said);
            if used == 0 {
                break;
            }
        }
        said
    }

    /// The pod sends this many bytes, which are forwarded unread as far as they belong to the body.
    #[track_caller]
    pub(crate) fn passed(&mut self, bytes: u64) -> Said {
        let mut said = Said::new();
        let most = self.exchange.opaque_len();
        assert!(self.answer.is_empty(), "unread bytes after buffered ones");
        self.advance(Event::Spliced(bytes));
        let Output { used, head, pass, .. } = &self.out;
        assert_eq!((head.len(), *used as u64), (0, bytes), "all of it is used, and no byte is added");
        assert_eq!((pass.start, pass.len() as u64), (0, bytes.min(most)), "the forwarded bytes");
        self.out.pass = 0..0; // the bytes are not in memory
        self.collect(&[], &mut said);
        said
    }

    #[track_caller]
    pub(crate) fn pod_ends(&mut self) -> Said {
        self.tell(Event::UpstreamEof { clean: true })
    }

    /// The pod's connection ends uncleanly: the pod did not announce the end.
    #[track_caller]
    pub(crate) fn pod_stops(&mut self) -> Said {
        self.tell(Event::UpstreamEof { clean: false })
    }

    #[track_caller]
    pub(crate) fn pod_fails(&mut self, error: UpstreamError) -> Said {
        self.tell(Event::UpstreamFailed(error))
    }

    #[track_caller]
    pub(crate) fn discarded(&mut self, bytes: usize) -> Said {
        self.tell(Event::Discarded(bytes))
    }

    #[track_caller]
    pub(crate) fn drain(&mut self) -> Said {
        self.tell(Event::CloseIfIdle { client_stalled: false })
    }

    #[track_caller]
    pub(crate) fn client_ended(&mut self) -> Said {
        self.tell(Event::ClientEnded)
    }

    /// Time passes without an event.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Time passes until a timeout event. The client has taken all output.
    #[track_caller]
    pub(crate) fn after(&mut self, time: Duration) -> Said {
        self.wait(time);
        self.tell(Event::Timeout { client_stalled: false })
    }

    /// Time passes until a timeout event. The client has yet to take output.
    #[track_caller]
    pub(crate) fn after_stalled(&mut self, time: Duration) -> Said {
        self.wait(time);
        self.tell(Event::Timeout { client_stalled: true })
    }

    /// Nothing happens until the deadline, which is `at` after the beginning of the dialogue.
    #[track_caller]
    pub(crate) fn expires(&mut self, at: Duration) -> Said {
        self.due(at);
        let left = (self.begin + at).since(self.now);
        self.after(left.saturating_sub(Duration::from_nanos(1)));
        let left = (self.begin + at).since(self.now);
        self.after(left)
    }

    /// As [`expires`](Self::expires), while the client has yet to take output.
    #[track_caller]
    pub(crate) fn expires_stalled(&mut self, at: Duration) -> Said {
        self.due(at);
        let left = (self.begin + at).since(self.now);
        self.after_stalled(left.saturating_sub(Duration::from_nanos(1)));
        let left = (self.begin + at).since(self.now);
        self.after_stalled(left)
    }

    /// Checks the deadline, as the time since the beginning of the dialogue.
    #[track_caller]
    pub(crate) fn due(&self, at: Duration) {
        let deadline = self.exchange.deadline().map(|deadline| deadline.since(self.begin));
        assert_eq!(deadline, Some(at), "the deadline");
    }

    #[track_caller]
    pub(crate) fn wants(&self, expected: Wants) {
        assert_eq!(self.exchange.wants(), expected);
        assert_eq!(
            self.exchange.deadline().is_none(),
            expected == Wants::Nothing,
            "deadlines but at the end"
        );
        assert_eq!(self.exchange.unsent().is_empty(), expected != Wants::Send, "unsent bytes");
    }

    /// Returns whether `input` changes the exchange or causes output.
    pub(crate) fn changes(&mut self, input: Event<'_>) -> bool {
        let before = format!("{:?}", self.exchange);
        self.advance(input);
        let Output { used, head, pass, upstream, client, report, .. } = &self.out;
        let silent = (*used, head.len(), pass.len()) == (0, 0, 0)
            && (*upstream, *client) == (UpstreamAction::None, ClientAction::None)
            && report.is_none();
        !silent || before != format!("{:?}", self.exchange)
    }

    /// Passes an event without bytes.
    #[track_caller]
    pub(crate) fn tell(&mut self, input: Event<'_>) -> Said {
        let mut said = Said::new();
        self.advance(input);
        self.collect(&[], &mut said);
        said
    }

    fn time(&self) -> String {
        format!("{:>9}", HumanDuration(self.now.since(self.begin)).to_string())
    }

    fn advance(&mut self, input: Event<'_>) {
        let described = match &input {
            Event::Request(bytes) => format!("Request({} bytes)", bytes.len()),
            Event::Response(bytes) => format!("Answer({} bytes)", bytes.len()),
            other => format!("{other:?}"),
        };
        let _ = writeln!(self.dialogue, "{} {described}", self.time());
        let mut ctx = Context {
            now: self.now,
            draining: self.draining,
            settings: &self.settings,
            pages: &Names,
            client: &self.facts,
            attempts: &mut self.attempts,
            recycler: &mut self.recycler,
        };
        let was_over = self.exchange.wants() == Wants::Nothing;
        let exchange = mem::replace(&mut self.exchange, Exchange::Closed);
        self.exchange = exchange.step(input, &mut ctx, &mut self.out);
        let ends = matches!(self.out.client, ClientAction::Close | ClientAction::Reset);
        let is_over = self.exchange.wants() == Wants::Nothing;
        assert_eq!(
            ends,
            is_over && !was_over,
            "the client's connection is closed once, and the exchange then ends"
        );
    }

    /// Performs the exchange's output, and adds it to `said`. `bytes` are those of the input.
    fn collect(&mut self, bytes: &[u8], said: &mut Said) {
        let Output { used, head, pass, upstream, client, report, .. } = &mut self.out;
        let passed = &bytes[pass.clone()];
        let _ = writeln!(
            self.dialogue,
            "          -> used {used}, client gets {} + {}, {upstream:?}, {client:?}, {report:?}; wants {:?}",
            Shown(head),
            Shown(passed),
            self.exchange.wants(),
        );
        said.bytes.extend_from_slice(head);
        said.bytes.extend_from_slice(passed);
        self.got.extend_from_slice(head);
        self.got.extend_from_slice(passed);
        if *upstream != UpstreamAction::None {
            assert_eq!(said.upstream, UpstreamAction::None, "one action at a time");
            said.upstream = *upstream;
            self.sent.clear();
            self.answer.clear();
        }
        if *client != ClientAction::None {
            assert_eq!(said.client, ClientAction::None, "one action at a time");
            said.client = *client;
            self.request.clear();
            self.wire.clear();
        }
        if let Some(report) = report.take() {
            assert!(said.report.is_none(), "one report at a time");
            said.report = Some(report);
        }
    }
}

/// The output of the exchange. A test must check all of it: output that is left when this is dropped was not expected.
pub(crate) struct Said {
    pub(crate) bytes: Vec<u8>,
    pub(crate) upstream: UpstreamAction,
    pub(crate) client: ClientAction,
    pub(crate) report: Option<Report>,
    at: &'static Location<'static>,
}

impl Said {
    #[track_caller]
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            upstream: UpstreamAction::None,
            client: ClientAction::None,
            report: None,
            at: Location::caller(),
        }
    }

    /// Checks that the client receives exactly these bytes.
    #[track_caller]
    pub(crate) fn gets(mut self, expected: impl AsRef<[u8]>) -> Self {
        let bytes = mem::take(&mut self.bytes);
        assert!(bytes == expected.as_ref(), "{}\ninstead of\n{}", Shown(&bytes), Shown(expected.as_ref()));
        self
    }

    #[track_caller]
    pub(crate) fn upstream(mut self, expected: UpstreamAction) -> Self {
        assert_eq!(mem::take(&mut self.upstream), expected);
        self
    }

    #[track_caller]
    pub(crate) fn client(mut self, expected: ClientAction) -> Self {
        assert_eq!(mem::take(&mut self.client), expected);
        self
    }

    #[track_caller]
    pub(crate) fn reports(mut self, outcome: Outcome, status: u16) -> Self {
        let report = self.report.take().expect("a report");
        assert_eq!((report.outcome, report.status), (outcome, status));
        self
    }

    /// Returns the report, to check its details.
    #[track_caller]
    pub(crate) fn report(&mut self) -> Report {
        self.report.take().expect("a report")
    }

    /// Ignores the rest of the output.
    pub(crate) fn whatever(mut self) {
        self.take();
    }

    fn take(&mut self) -> (Vec<u8>, UpstreamAction, ClientAction, Option<Report>) {
        let Self { bytes, upstream, client, report, .. } = self;
        (mem::take(bytes), mem::take(upstream), mem::take(client), report.take())
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        let (bytes, upstream, client, report) = self.take();
        let silent = bytes.is_empty()
            && (upstream, client) == (UpstreamAction::None, ClientAction::None)
            && report.is_none();
        if !silent && !thread::panicking() {
            let bytes = Shown(&bytes);
            panic!("at {}: not expected: client gets {bytes}, {upstream:?}, {client:?}, {report:?}", self.at);
        }
    }
}
