//! Signals, and the end of a worker, as events that one thread can wait for.
//!
//! Signal handlers of our own make SIGTERM work in PID 1 too, whose default is to ignore it, and keep SIGHUP, SIGUSR1
//! and SIGUSR2 from ending the process, which is their default (signal(7)).

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

/// Descriptors that [`Signals`] take: the poll, the waker, two receivers, and a sender for each signal.
pub const DESCRIPTORS: usize = 7;

const SIGNALS: Token = Token(0);
const HANGUPS: Token = Token(1);
const WAKER: Token = Token(2);

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// SIGTERM or SIGINT came.
    Signal,
    /// SIGHUP came: "read your files again".
    Hangup,
    /// A worker ended.
    WorkerEnded,
    /// The time is up.
    Timeout,
}

/// Receives the signals of this process.
#[derive(Debug)]
pub struct Signals {
    poll: Poll,
    events: Events,
    receiver: UnixStream,
    hangups: UnixStream,
    /// A worker's end was heard of, and has not been told yet.
    woken: bool,
    waker: Arc<Waker>,
}

impl Signals {
    /// Takes SIGTERM, SIGINT and SIGHUP over, and has SIGUSR1 and SIGUSR2 do nothing.
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

    /// For a worker to say that it ended.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Waits until something happens; at most until `until`, where there is one.
    ///
    /// # Errors
    /// As `epoll_wait(2)`.
    pub fn wait(&mut self, until: Option<Instant>) -> io::Result<SignalEvent> {
        loop {
            // One byte a signal, one signal a call: two that came at once are still two.
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
