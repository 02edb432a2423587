//! One event loop: mio's readiness in, turns of a worker out.
//!
//! Owns the poll, the listeners and the waker. What an event means to a connection is the worker's to say.

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
    listener::{Accept, BACKLOG, Listener},
    network::{Network, Token},
    shared::{Phase, Shared, Wake},
    slots::KEYS_FROM,
    stream::Ready,
    transport::splice::KernelPipe,
    worker::Worker,
};
use crate::proxy::timestamp::Timestamp;

/// Descriptors that an event loop takes beside its listeners: the poll, its registry's own, and the waker.
pub const DESCRIPTORS: usize = 3;

/// How often it is looked whether the memory is nearly used up, while sessions stall and something happens.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(20);
/// Events fetched at once.
const EVENTS_MAX: usize = 256;
/// Fetches in one turn: enough for an event of each of 64 Ki connections.
const FETCHES_MAX: usize = 256;
/// Connections accepted in one turn, so that those that are there get theirs.
const ACCEPTS_MAX: usize = 64;
/// Listeners have the tokens below, connections those above.
const WAKER: MioToken = MioToken(KEYS_FROM - 1);

/// An event loop and what it serves.
pub struct EventLoop {
    poll: Poll,
    listeners: Vec<Listener>,
    worker: Worker<Mio>,
    shared: Arc<Shared>,
    index: usize,
    /// When the next look at the memory is due, where sessions stall.
    pressure_next: Timestamp,
}

impl EventLoop {
    /// The event loop of the worker with this index, and how to wake it.
    ///
    /// # Errors
    /// As `epoll_create1(2)` and its like.
    pub fn new(shared: Arc<Shared>, index: usize, listeners: Vec<TcpListener>) -> io::Result<(Self, Wake)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listeners: Vec<_> = listeners.into_iter().map(Listener::new).collect();
        for (token, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener.socket_mut(), MioToken(token), Interest::READABLE)?;
        }
        let network = Mio { registry: poll.registry().try_clone()? };
        let worker = Worker::new(network, Arc::clone(&shared), index);
        let pressure_next = Timestamp::default();
        Ok((Self { poll, listeners, worker, shared, index, pressure_next }, waker))
    }

    /// Serves until the process closes and the last exchange is over.
    ///
    /// # Errors
    /// Those that leave no hope for this event loop.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut now = self.shared.now();
        loop {
            let next = self.listeners.iter().filter_map(|listener| listener.next_wake(now));
            let next = next.chain(self.worker.next_wake()).min();
            // From when the last turn began, unless it may have taken its time.
            let from = if self.worker.took_long() { self.shared.now() } else { now };
            let mut timeout = next.map(|at| at.since(from));
            // All that is known is heard before anybody goes on: a kept pod connection whose event has yet to
            // be fetched would pass for one that has said nothing.
            until_heard(|| {
                self.fetch(&mut events, timeout)?;
                timeout = Some(Duration::ZERO);
                now = self.shared.now();
                self.shared.turn_begins(self.index, now);
                events.iter().for_each(|event| self.on_event(event));
                Ok(events.iter().count())
            })?;
            self.worker.run_once(now);
            if self.worker.stalled() > 0 && now >= self.pressure_next {
                self.pressure_next = now + PRESSURE_INTERVAL;
                if self.shared.is_short_of_memory() {
                    self.worker.relieve();
                }
            }
            if self.shared.phase() == Phase::Closing {
                // In this order: who is accepted only now has a turn to say something.
                self.worker.drain();
                self.close_listeners(now)?;
                if self.worker.is_idle() {
                    self.shared.turn_ends(self.index);
                    return Ok(());
                }
            } else {
                self.accept(now)?;
            }
            self.shared.turn_ends(self.index);
        }
    }

    fn fetch(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()), // then there are none
            result => result,
        }
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        match event.token() {
            WAKER => {}
            MioToken(listener) if listener < self.listeners.len() => self.listeners[listener].set_ready(),
            MioToken(bits) => self.worker.event(Token::from_bits(bits), ready(event)),
        }
    }

    /// Accepts what waits, a bounded number of connections.
    fn accept(&mut self, now: Timestamp) -> io::Result<()> {
        for listener in self.listeners.iter_mut().filter(|listener| listener.is_ready(now)) {
            let mut failed = 0;
            for _ in 0..ACCEPTS_MAX {
                match listener.accept()? {
                    Accept::Connection(socket) => self.worker.admit(socket),
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

    /// Accepts the last connections that were made, which closing would reset, and then no more.
    fn close_listeners(&mut self, now: Timestamp) -> io::Result<()> {
        self.listeners.iter_mut().for_each(Listener::set_ready);
        for _ in 0..=BACKLOG.unsigned_abs() as usize / ACCEPTS_MAX {
            self.accept(now)?;
            if !self.listeners.iter().any(|listener| listener.is_ready(now)) {
                break;
            }
        }
        self.listeners.clear();
        Ok(())
    }
}

/// Has events fetched and heard until there are none left, or enough for one turn. An event that is fetched and not
/// heard would be lost: it does not come again (edge-triggered, epoll(7)).
fn until_heard(mut fetch_and_hear: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    for _ in 0..FETCHES_MAX {
        if fetch_and_hear()? < EVENTS_MAX {
            break;
        }
    }
    Ok(())
}

fn ready(event: &mio::event::Event) -> Ready {
    let add = |ready: Ready, is: bool, what: Ready| if is { ready.with(what) } else { ready };
    // A failed connection is ready for everything: the next call tells of the failure.
    let failed = event.is_error();
    let ended = event.is_read_closed() || failed;
    let ready = add(Ready::NONE, event.is_readable() || ended, Ready::READ);
    let ready = add(ready, event.is_writable() || failed, Ready::WRITE);
    let ready = add(ready, event.is_priority(), Ready::URGENT);
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
        // A head and the first bytes of a body go out in one write; there is nothing to gather (Nagle). Where this is
        // refused, answers are a little later at most.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_fetched_is_heard_and_one_turn_has_an_end() {
        for (waiting, fetches) in [
            (0, 1),
            (EVENTS_MAX - 1, 1),
            (EVENTS_MAX, 2),
            (3 * EVENTS_MAX + 1, 4),
            (FETCHES_MAX * EVENTS_MAX, FETCHES_MAX),
            (usize::MAX, FETCHES_MAX),
        ] {
            let (mut left, mut fetched) = (waiting, 0);
            until_heard(|| {
                let events = left.min(EVENTS_MAX);
                left -= events;
                fetched += 1;
                Ok(events)
            })
            .expect("no error");
            assert_eq!(fetched, fetches, "of {waiting} events");
            assert!(left == 0 || fetched == FETCHES_MAX, "{left} of {waiting} events wait for nothing");
        }
    }
}
