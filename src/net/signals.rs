//! Signals, and the end of a worker, as events that one thread can wait for.
//!
//! Our own signal handlers make SIGTERM work in PID 1 too, which ignores it by default, and keep SIGHUP, SIGUSR1 and
//! SIGUSR2 from terminating the process, their default action (signal(7)).

use std::{
    io::{self, ErrorKind, Read as _},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::UnixStream};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
    low_level::pipe,
};

/// Descriptors of [`Signals`]: the poll, the waker, two receivers, and a sender for each of SIGTERM, SIGINT and SIGHUP.
pub const DESCRIPTORS: usize = 7;

const SIGNALS: Token = Token(0);
const HANGUPS: Token = Token(1);
const WAKER: Token = Token(2);

/// The result of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// Received SIGTERM or SIGINT.
    Signal,
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
    receiver: UnixStream,
    hangups: UnixStream,
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
        let pair = |token| -> io::Result<_> {
            let (mut receiver, sender) = UnixStream::pair()?;
            poll.registry().register(&mut receiver, token, Interest::READABLE)?;
            Ok((receiver, std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(sender))))
        };
        let ((receiver, sender), (hangups, hangup_sender)) = (pair(SIGNALS)?, pair(HANGUPS)?);
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        pipe::register(SIGTERM, sender.try_clone()?)?;
        pipe::register(SIGINT, sender)?;
        pipe::register(SIGHUP, hangup_sender)?;
        for ignored in [SIGUSR1, SIGUSR2] {
            flag::register(ignored, Arc::new(AtomicBool::new(false)))?;
        }
        Ok(Self { poll, events: Events::with_capacity(4), receiver, hangups, woken: false, waker })
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
            if matches!(self.receiver.read(&mut [0]), Ok(1)) {
                return Ok(SignalEvent::Signal);
            }
            if matches!(self.hangups.read(&mut [0]), Ok(1)) {
                return Ok(SignalEvent::Hangup);
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
