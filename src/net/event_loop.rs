//! One event loop: turns mio's readiness into turns of a worker.
//!
//! Owns the poll, the listeners, the alarm and the waker. [`super::turn`] decides the order of a turn. The worker
//! decides what an event means for a connection.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Registry, Token as MioToken, Waker,
    net::{TcpListener, TcpStream},
};

use super::{
    alarm::Alarm,
    listener::{Accept, BACKLOG, Listener},
    network::{Network, Token},
    offload,
    shared::{Phase, Shared, Wake},
    slots::KEYS_FROM,
    stream::Ready,
    transport::splice::KernelPipe,
    turn::{Steps, turn},
    worker::{SOON, Worker},
};
use crate::proxy::timestamp::Timestamp;

/// Descriptors of an event loop besides its listeners: the poll, its registry's copy, the waker, and the alarm.
pub const DESCRIPTORS: usize = 4;

/// Least time between two checks of the memory pressure. Only turns with stalled sessions check it.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(20);
/// Events per fetch.
const EVENTS_MAX: usize = 256;
/// Connections accepted from a listener in one turn, so that existing connections get their turn.
const ACCEPTS_MAX: usize = 64;
/// Tokens below are listeners', tokens above are connections'.
const WAKER: MioToken = MioToken(KEYS_FROM - 1);
const ALARM: MioToken = MioToken(KEYS_FROM - 2);

/// An event loop and its worker.
pub struct EventLoop {
    poll: Poll,
    alarm: Alarm,
    listeners: Vec<Listener>,
    worker: Worker<Mio>,
    events: Events,
    /// The time of this turn's last fetch.
    now: Timestamp,
    shared: Arc<Shared>,
    index: usize,
    /// When the memory pressure may be checked next.
    pressure_next: Timestamp,
}

impl EventLoop {
    /// Creates the event loop of the worker with this index, and its waker.
    ///
    /// # Errors
    /// As `epoll_create1(2)`, `eventfd(2)`, `timerfd_create(2)` and `epoll_ctl(2)`.
    pub fn new(shared: Arc<Shared>, index: usize, listeners: Vec<TcpListener>) -> io::Result<(Self, Wake)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let mut listeners: Vec<_> = listeners.into_iter().map(Listener::new).collect();
        for (token, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener.socket_mut(), MioToken(token), Interest::READABLE)?;
        }
        let network = Mio { registry: poll.registry().try_clone()? };
        let worker = Worker::new(network, Arc::clone(&shared), index);
        let events = Events::with_capacity(EVENTS_MAX);
        let (now, pressure_next) = (Timestamp::default(), Timestamp::default());
        Ok((Self { poll, alarm, listeners, worker, events, now, shared, index, pressure_next }, waker))
    }

    /// Serves until the process is closing and the last exchange is over, or aborts them.
    ///
    /// # Errors
    /// Errors that this event loop cannot recover from.
    pub fn run(mut self) -> io::Result<()> {
        self.now = self.shared.now();
        let result = loop {
            match turn(&mut self) {
                Ok(true) => {}
                end => break end.map(drop),
            }
        };
        self.worker.log_suppressed();
        result
    }

    /// Returns how long the poll may sleep; `None`: until an event, which may be the alarm.
    fn timeout(&mut self) -> io::Result<Option<Duration>> {
        let next = self.listeners.iter().filter_map(|listener| listener.next_wake(self.now));
        let next = next.chain(self.worker.next_wake()).min();
        let Some(at) = next else { return Ok(None) };
        if at > self.now && self.alarm.covers(at) {
            return Ok(None);
        }
        // A near deadline counts from the start of the last turn, unless that turn may have taken long.
        let is_exact = self.worker.took_long() || at > self.now + SOON;
        let from = if is_exact { self.shared.now() } else { self.now };
        let sleep = at.since(from);
        if sleep <= SOON {
            return Ok(Some(sleep));
        }
        self.alarm.set(at, from)?;
        Ok(None)
    }

    fn fetch(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()), // there are no events then
            result => result,
        }
    }

    /// Accepts waiting connections from each listener, up to a limit.
    fn accept_ready(&mut self) -> io::Result<()> {
        let now = self.now;
        for listener in self.listeners.iter_mut().filter(|listener| listener.is_ready(now)) {
            let mut failed = 0;
            for _ in 0..ACCEPTS_MAX {
                match listener.accept()? {
                    Accept::Connection(socket, from) => self.worker.admit(socket, from),
                    Accept::Nothing => break,
                    Accept::Failed => failed += 1,
                    Accept::NoDescriptors if self.worker.make_room() => {}
                    Accept::NoDescriptors => {
                        self.worker.report_no_descriptors();
                        listener.rest(now);
                        break;
                    }
                }
            }
            if failed == ACCEPTS_MAX {
                listener.rest(now);
            }
        }
        Ok(())
    }
}

impl Steps for EventLoop {
    fn on_events(&mut self, is_first: bool) -> io::Result<bool> {
        let timeout = if is_first { self.timeout()? } else { Some(Duration::ZERO) };
        self.fetch(timeout)?;
        self.now = self.shared.now();
        self.shared.turn_begins(self.index, self.now);
        for event in &self.events {
            match event.token() {
                WAKER => {}
                ALARM => self.alarm.rang(),
                MioToken(listener) if listener < self.listeners.len() => self.listeners[listener].set_ready(),
                MioToken(bits) => self.worker.event(Token::from_bits(bits), ready(event)),
            }
        }
        Ok(self.events.iter().count() >= EVENTS_MAX)
    }

    fn run(&mut self) {
        self.worker.run_once(self.now);
    }

    fn relieve(&mut self) {
        if self.worker.stalled() > 0 && self.now >= self.pressure_next {
            self.pressure_next = self.now + PRESSURE_INTERVAL;
            if self.shared.is_short_of_memory() {
                self.worker.relieve();
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.shared.phase() >= Phase::Closing
    }

    fn drain(&mut self) {
        self.worker.drain();
    }

    fn accept(&mut self) -> io::Result<()> {
        let now = self.now;
        let is_any_ready = self.listeners.iter().any(|listener| listener.is_ready(now));
        if is_any_ready { self.accept_ready() } else { Ok(()) } // most turns have none
    }

    /// Accepts the connections in the backlog before closing the listeners: a close would reset them.
    fn accept_last(&mut self) -> io::Result<()> {
        self.listeners.iter_mut().for_each(Listener::set_ready);
        for _ in 0..=BACKLOG.unsigned_abs() as usize / ACCEPTS_MAX {
            self.accept_ready()?;
            if !self.listeners.iter().any(|listener| listener.is_ready(self.now)) {
                break;
            }
        }
        self.listeners.clear();
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.worker.is_idle() || self.shared.phase() == Phase::Aborting
    }

    fn end(&mut self) {
        self.shared.turn_ends(self.index);
    }
}

fn ready(event: &mio::event::Event) -> Ready {
    let add = |ready: Ready, is: bool, what: Ready| if is { ready.with(what) } else { ready };
    // A failed connection is ready for everything: the next call returns the error.
    let failed = event.is_error();
    let ended = event.is_read_closed() || failed;
    let ready = add(Ready::NONE, event.is_readable() || ended, Ready::READ);
    let ready = add(ready, event.is_writable() || failed, Ready::WRITE);
    let ready = add(ready, event.is_priority(), Ready::URGENT);
    let ready = add(ready, failed, Ready::FAILED);
    add(ready, ended, Ready::END)
}

/// Real sockets, registered with a real poll.
pub struct Mio {
    registry: Registry,
}

impl Network for Mio {
    type Socket = TcpStream;
    type Pipe = KernelPipe;

    fn register(&mut self, socket: &mut TcpStream, token: Token) -> io::Result<()> {
        // A head and the first bytes of a body go out in one write, which leaves nothing for Nagle's algorithm to
        // gather. If setting it fails, responses are at most a little later.
        let _ = socket.set_nodelay(true);
        let token = MioToken(token.to_bits());
        self.registry.register(socket, token, Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY)
    }

    fn connect(&mut self, to: SocketAddr, token: Token) -> io::Result<TcpStream> {
        let mut socket = TcpStream::connect(to)?;
        self.register(&mut socket, token)?;
        Ok(socket)
    }

    fn pipe(&mut self) -> io::Result<KernelPipe> {
        KernelPipe::new()
    }

    fn look_up(&mut self, shared: &Arc<Shared>) {
        offload::start(shared);
    }

    fn check_passwords(&mut self, shared: &Arc<Shared>) {
        offload::start_checking(shared);
    }
}
