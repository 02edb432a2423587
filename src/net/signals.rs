//! Signals, and the end of a worker, as events that one thread can wait for.
//!
//! Our own signal handlers make SIGTERM work in PID 1 too, which ignores it by default, and keep SIGHUP, SIGUSR1 and
//! SIGUSR2 from terminating the process, their default action (signal(7)).

use std::{
    io::{self, ErrorKind, Read as _},
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::UnixStream};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
    low_level::pipe,
};

/// Descriptors of [`Signals`]: the poll, the waker, and a receiver and a sender for each of `RECEIVED`.
pub const DESCRIPTORS: usize = 2 + 2 * RECEIVED.len();

/// The signals that are received, and their events.
const RECEIVED: [(i32, SignalEvent); 3] = [
    (SIGTERM, SignalEvent::Signal("SIGTERM")),
    (SIGINT, SignalEvent::Signal("SIGINT")),
    (SIGHUP, SignalEvent::Hangup),
];
const WAKER: Token = Token(RECEIVED.len());

/// The result of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// Received SIGTERM or SIGINT, which this names.
    Signal(&'static str),
    /// Received SIGHUP: reload files.
    Hangup,
    /// A worker ended.
    WorkerEnded,
    /// The time limit was reached.
    Timeout,
}

/// Receives the signals of this process.
#[derive(Debug)]
pub struct Signals {
    poll: Poll,
    events: Events,
    /// In the order of [`RECEIVED`].
    receivers: Vec<UnixStream>,
    /// Whether a worker ended and [`Self::wait`] has yet to return it.
    woken: bool,
    waker: Arc<Waker>,
}

impl Signals {
    /// Installs handlers for SIGTERM, SIGINT and SIGHUP, and ignores SIGUSR1 and SIGUSR2.
    ///
    /// # Errors
    /// As `epoll_create1(2)`, `socketpair(2)` and `sigaction(2)`.
    pub fn receive() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut receivers = Vec::new();
        for (at, (signal, _)) in RECEIVED.into_iter().enumerate() {
            let (mut receiver, sender) = UnixStream::pair()?;
            poll.registry().register(&mut receiver, Token(at), Interest::READABLE)?;
            pipe::register(signal, std::os::unix::net::UnixStream::from(OwnedFd::from(sender)))?;
            receivers.push(receiver);
        }
        for ignored in [SIGUSR1, SIGUSR2] {
            flag::register(ignored, Arc::new(AtomicBool::new(false)))?;
        }
        Ok(Self { poll, events: Events::with_capacity(4), receivers, woken: false, waker })
    }

    /// Returns the waker, with which a worker reports its end.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Waits for an event, at most until `until` if given.
    ///
    /// # Errors
    /// As `epoll_wait(2)`.
    pub fn wait(&mut self, until: Option<Instant>) -> io::Result<SignalEvent> {
        loop {
            // Each signal is one byte and each call reads one byte: two simultaneous signals stay two.
            for (receiver, (_, event)) in self.receivers.iter_mut().zip(RECEIVED) {
                if matches!(receiver.read(&mut [0]), Ok(1)) {
                    return Ok(event);
                }
            }
            if std::mem::take(&mut self.woken) {
                return Ok(SignalEvent::WorkerEnded);
            }
            let timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
            if timeout == Some(Duration::ZERO) {
                return Ok(SignalEvent::Timeout);
            }
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => result?,
            }
            self.woken |= self.events.iter().any(|event| event.token() == WAKER);
        }
    }
}
