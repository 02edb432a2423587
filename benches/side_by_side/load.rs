//! The load: scrapes like Prometheus, from one thread, as fast as responses arrive or at a pace.
//!
//! Each connection stays open. It sends its next scrape when the last response is complete ([`Load::run`]) or when the
//! scrape is due ([`Load::pace`]). A response that is not 200, incomplete, of another length, or late fails the run.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream as BlockingStream},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream, unix::SourceFd};
use rustix::{
    fs::Timespec,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};

use crate::{answer::Answer, cases::Body, wire::Wire};

/// Time limit for everything here.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(20);
const READ_BYTES: usize = 256 * 1024;
const TIMER: Token = Token(usize::MAX);

/// A scrape: the request, and the expected response.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    pub(crate) request: Vec<u8>,
    pub(crate) status: u16,
    /// The length of the body, if it is known.
    pub(crate) body_bytes: Option<u64>,
}

impl Scrape {
    /// A scrape of this pod, with the headers that Prometheus 2.42 sends.
    pub(crate) fn new(forwarder: SocketAddr, pod: Ipv4Addr, pod_port: u16, body: Body) -> Self {
        Self::of_target(forwarder, &format!("/pods/{pod}/{pod_port}{}", body.path()), 200, Some(body.bytes))
    }

    /// A scrape of an exporter's `/metrics`, whose length is not known.
    pub(crate) fn metrics(forwarder: SocketAddr, pod: SocketAddr) -> Self {
        Self::of_target(forwarder, &format!("/pods/{}/{}/metrics", pod.ip(), pod.port()), 200, None)
    }

    /// The same scrape in absolute form (RFC 9112 section 3.2.2), as Prometheus sends it with `proxy_url`.
    pub(crate) fn absolute(pod: Ipv4Addr, pod_port: u16, body: Body) -> Self {
        let host = SocketAddr::from((pod, pod_port));
        Self::of_target(host, &format!("http://{host}{}", body.path()), 200, Some(body.bytes))
    }

    /// A request for any target.
    pub(crate) fn of_target(host: SocketAddr, target: &str, status: u16, body_bytes: Option<u64>) -> Self {
        let request = format!(
            "GET {target} HTTP/1.1\r\n\
             Host: {host}\r\n\
             User-Agent: Prometheus/2.42.0\r\n\
             Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\
             Accept-Encoding: gzip\r\n\
             X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
        );
        Self { request: request.into_bytes(), status, body_bytes }
    }

    fn check(&self, answer: &Answer) -> Result<(), String> {
        let got = answer.body_bytes();
        match self.body_bytes {
            Some(expected) if got != expected => Err(format!("a body has {got} bytes instead of {expected}")),
            _ => Ok(()),
        }
    }
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After this number of responses.
    Count(u64),
    /// After this time, when the scrapes that have begun are complete.
    Passed(Duration),
}

/// The result of a run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) scrapes: u64,
    pub(crate) body_bytes: u64,
    pub(crate) wall: Duration,
    /// From the write of a request, or from when it was due, to the last byte of its response, in nanoseconds; sorted.
    pub(crate) latencies: Vec<u64>,
}

/// Open connections to one forwarder.
pub(crate) struct Load {
    poll: Poll,
    events: Events,
    forwarder: SocketAddr,
    connections: Vec<Connection>,
    /// Sent in turn, on the next free connection.
    scrapes: Vec<Scrape>,
    next: usize,
    scratch: Box<[u8]>,
    /// The maximum number of scrapes at a time. The longest-idle connection sends the next one.
    under_way_max: usize,
    /// Each connection is a tunnel to the pod of one scrape.
    tunnelled: bool,
    /// Polls instead of sleeping while it waits for responses.
    awake: bool,
    /// Whether the connections use TLS.
    is_tls: bool,
    /// Every response closes its connection, even if it does not announce that.
    reconnect: bool,
}

struct Connection {
    stream: Wire<TcpStream>,
    answer: Answer,
    /// The scrape that is running, and its start. `None`: the connection is idle.
    asked: Option<(usize, Instant)>,
}

impl Load {
    /// Connects.
    pub(crate) fn connect(
        forwarder: SocketAddr,
        clients: usize,
        scrapes: Vec<Scrape>,
        is_tls: bool,
    ) -> Result<Self, String> {
        let failed = |error| format!("connecting to {forwarder}: {error}");
        let mut load = Self::new(forwarder, clients, scrapes).map_err(failed)?;
        load.is_tls = is_tls;
        let connect = |index| load.open(index);
        load.connections = (0..clients).map(connect).collect::<io::Result<_>>().map_err(failed)?;
        Ok(load)
    }

    /// Opens a tunnel to each of these pods. The scrapes are in the same order.
    pub(crate) fn tunnel(
        forwarder: SocketAddr,
        pods: &[SocketAddr],
        under_way_max: usize,
        scrapes: Vec<Scrape>,
    ) -> Result<Self, String> {
        let failed = |error| format!("tunnels through {forwarder}: {error}");
        let mut load = Self::new(forwarder, under_way_max, scrapes).map_err(failed)?;
        load.tunnelled = true;
        for (index, &pod) in pods.iter().enumerate() {
            let stream = tunnel(forwarder, pod)?;
            let stream = Wire::plain(stream);
            load.connections.push(Connection::of(&load.poll, stream, index).map_err(failed)?);
        }
        Ok(load)
    }

    fn new(forwarder: SocketAddr, under_way_max: usize, scrapes: Vec<Scrape>) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(256),
            forwarder,
            connections: Vec::new(),
            scrapes,
            next: 0,
            scratch: vec![0; READ_BYTES].into(),
            under_way_max,
            tunnelled: false,
            is_tls: false,
            awake: false,
            reconnect: false,
        })
    }

    fn open(&self, index: usize) -> io::Result<Connection> {
        let stream = BlockingStream::connect_timeout(&self.forwarder, STALL_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL_MAX))?;
        Connection::of(&self.poll, over(stream, self.is_tls)?, index)
    }

    /// Sets whether it polls instead of sleeping while it waits for responses.
    pub(crate) fn keep_awake(&mut self, awake: bool) {
        self.awake = awake;
    }

    /// Makes it reconnect for every scrape, for a forwarder that closes connections without announcing it.
    pub(crate) fn reconnect(&mut self, reconnect: bool) {
        self.reconnect = reconnect;
    }

    /// Scrapes on all connections. With `compare`, checks every byte of every body against it.
    pub(crate) fn run(&mut self, until: Until, compare: Option<&[u8]>) -> Result<Run, String> {
        let began = Instant::now();
        let mut run = Run::default();
        let mut begun = 0;
        let mut go_on = |now: Instant| match until {
            Until::Count(count) => {
                begun += 1;
                begun <= count
            }
            Until::Passed(duration) => now - began < duration,
        };
        let mut idle: VecDeque<usize> = (0..self.connections.len()).collect();
        let clients = idle.len();
        let mut last_event = began;
        loop {
            while clients - idle.len() < self.under_way_max && !idle.is_empty() && go_on(Instant::now()) {
                let Some(index) = idle.pop_front() else { break };
                self.ask(index, Instant::now())?;
            }
            if idle.len() == clients {
                break;
            }
            let timeout = if self.awake { Duration::ZERO } else { STALL_MAX };
            match self.poll.poll(&mut self.events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(|error| format!("poll: {error}"))?,
            }
            if self.events.is_empty() {
                if last_event.elapsed() >= STALL_MAX {
                    return Err(format!("no response within {STALL_MAX:?}"));
                }
                thread::yield_now(); // to the pods, which have the same core
                continue;
            }
            last_event = Instant::now();
            let answered: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            for index in answered {
                if self.read(index, &mut run, compare)? {
                    idle.push_back(index);
                    if go_on(Instant::now())
                        && let Some(next) = idle.pop_front()
                    {
                        self.ask(next, Instant::now())?;
                    }
                }
            }
        }
        run.wall = began.elapsed();
        run.latencies.sort_unstable();
        Ok(run)
    }

    /// Limits the number of scrapes at a time in [`Self::run`].
    pub(crate) fn limit(&mut self, under_way_max: usize) {
        self.under_way_max = under_way_max;
    }

    /// Scrapes on each connection once in this interval, evenly spread, whether the scrapes before are complete or not.
    /// Latency counts from when a scrape is due, so a delay of the load's own counts as well.
    pub(crate) fn pace(&mut self, interval: Duration, length: Duration) -> Result<Run, String> {
        let failed = |error: io::Error| format!("pacing: {error}");
        let timer = Timer::new(&self.poll).map_err(failed)?;
        let connections = self.connections.len() as u32;
        let gap = interval / connections;
        let count = (length.as_nanos() / gap.as_nanos().max(1)) as u32;
        let mut run = Run::default();
        let mut begun = 0;
        let began = Instant::now();
        while run.scrapes < u64::from(count) {
            while begun < count {
                let due = began + gap * begun;
                let wait = due.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    timer.set(wait).map_err(failed)?;
                    break;
                }
                self.ask((begun % connections) as usize, due)?;
                begun += 1;
            }
            match self.poll.poll(&mut self.events, Some(STALL_MAX)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(failed)?,
            }
            if self.events.is_empty() {
                return Err(format!("no response within {STALL_MAX:?}"));
            }
            let tokens: Vec<Token> = self.events.iter().map(mio::event::Event::token).collect();
            for token in tokens.into_iter().filter(|token| *token != TIMER) {
                self.read(token.0, &mut run, None)?;
            }
        }
        run.wall = began.elapsed();
        run.latencies.sort_unstable();
        Ok(run)
    }

    /// Sends the next scrape. Its latency counts from `since`.
    fn ask(&mut self, index: usize, since: Instant) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let scrape = if self.tunnelled { index } else { self.next };
        self.next = (self.next + 1) % self.scrapes.len();
        let request = &self.scrapes[scrape].request;
        if connection.asked.replace((scrape, since)).is_some() {
            return Err("a scrape is not complete when the next one is due".to_owned());
        }
        match connection.stream.write(request) {
            Ok(bytes) if bytes == request.len() => Ok(()),
            // A request is far smaller than a socket buffer, which is otherwise empty.
            written => Err(format!("a request was not written completely: {written:?}")),
        }
    }

    /// Reads the available bytes. Returns whether the response is complete.
    fn read(&mut self, index: usize, run: &mut Run, compare: Option<&[u8]>) -> Result<bool, String> {
        let connection = &mut self.connections[index];
        let Some((scrape, asked)) = connection.asked else {
            return Ok(false); // the first event, or the forwarder closed it, which the next write shows
        };
        loop {
            let bytes = match connection.stream.read(&mut self.scratch) {
                Ok(0) => return Err(connection.cut_short()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(format!("reading a response: {error}")),
            };
            connection.answer.feed(&self.scratch[..bytes], compare)?;
            if connection.answer.is_whole() {
                break;
            }
            if bytes < self.scratch.len() && !connection.stream.is_tls() {
                return Ok(false);
            }
        }
        self.scrapes[scrape].check(&connection.answer)?;
        run.scrapes += 1;
        run.body_bytes += connection.answer.body_bytes();
        run.latencies.push(asked.elapsed().as_nanos() as u64);
        connection.asked = None;
        if connection.answer.closes() || self.reconnect {
            // Some forwarders close a connection after a number of requests.
            self.connections[index] = self.open(index).map_err(|error| format!("reconnecting: {error}"))?;
        }
        self.connections[index].answer.clear();
        Ok(true)
    }
}

impl Connection {
    fn of(poll: &Poll, stream: Wire<BlockingStream>, index: usize) -> io::Result<Self> {
        stream.socket.set_nonblocking(true)?;
        let mut stream = stream.map(TcpStream::from_std);
        poll.registry().register(&mut stream.socket, Token(index), Interest::READABLE)?;
        Ok(Self { stream, answer: Answer::with_status(200), asked: None })
    }

    fn cut_short(&self) -> String {
        format!("a response was truncated after {} bytes of its body", self.answer.body_bytes())
    }
}

/// A timer that ends a poll. The poll's own time limit is rounded up to milliseconds.
struct Timer(OwnedFd);

impl Timer {
    fn new(poll: &Poll) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Self(timer))
    }

    fn set(&self, wait: Duration) -> io::Result<()> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let once = Itimerspec { it_interval: never, it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

/// A blocking connection for single scrapes.
pub(crate) fn connect(forwarder: SocketAddr) -> Result<BlockingStream, String> {
    let failed = |error| format!("connecting to {forwarder}: {error}");
    let stream = BlockingStream::connect_timeout(&forwarder, STALL_MAX).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(STALL_MAX)).map_err(failed)?;
    stream.set_write_timeout(Some(STALL_MAX)).map_err(failed)?;
    Ok(stream)
}

/// A blocking connection for single scrapes, with TLS or without.
pub(crate) fn client(forwarder: SocketAddr, is_tls: bool) -> Result<Wire<BlockingStream>, String> {
    over(connect(forwarder)?, is_tls).map_err(|error| format!("a handshake with {forwarder}: {error}"))
}

fn over(stream: BlockingStream, is_tls: bool) -> io::Result<Wire<BlockingStream>> {
    let mut wire = if is_tls { Wire::client(stream).map_err(io::Error::other)? } else { Wire::plain(stream) };
    wire.shake_hands()?;
    Ok(wire)
}

/// A blocking connection through a tunnel to a pod.
pub(crate) fn tunnel(forwarder: SocketAddr, pod: SocketAddr) -> Result<BlockingStream, String> {
    const ESTABLISHED: &[u8] = b"HTTP/1.1 200 ";
    let failed = |error| format!("a tunnel to {pod}: {error}");
    let mut stream = connect(forwarder)?;
    let request = format!("CONNECT {pod} HTTP/1.1\r\nHost: {pod}\r\nUser-Agent: Go-http-client/1.1\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0]; // not a byte of the tunnel itself
        stream.read_exact(&mut byte).map_err(failed)?;
        head.push(byte[0]);
    }
    if head.starts_with(ESTABLISHED) { Ok(stream) } else { Err(format!("{pod}: {}", head.escape_ascii())) }
}

/// Scrapes once on such a connection. Returns the length of the response, header and body.
pub(crate) fn scrape(stream: &mut (impl Read + Write), scrape: &Scrape) -> Result<u64, String> {
    stream.write_all(&scrape.request).map_err(|error| format!("sending a request: {error}"))?;
    let mut answer = Answer::with_status(scrape.status);
    let mut scratch = vec![0; READ_BYTES];
    let mut all = 0;
    while !answer.is_whole() {
        match stream.read(&mut scratch) {
            Ok(0) => return Err("a response was truncated".to_owned()),
            Ok(bytes) => {
                answer.feed(&scratch[..bytes], None)?;
                all += bytes as u64;
            }
            Err(error) => return Err(format!("reading a response: {error}")),
        }
    }
    scrape.check(&answer).map(|()| all)
}
