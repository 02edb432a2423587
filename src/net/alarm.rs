//! Wakes an event loop at a time, however often something else wakes it before.
//!
//! For a wait with a time limit, the kernel adds a timer and removes it, which is a tenth of what a scrape costs that
//! finds the event loop asleep (benches/HISTORY.md). An alarm is set once, and rings once. It is set again only for an
//! earlier time, so it may ring too early: the event loop then sets it for the next deadline.
//!
//! Owns a timerfd(2). [`super::event_loop`] decides when, and has the clock.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::proxy::timestamp::Timestamp;

/// An alarm.
pub(super) struct Alarm {
    timer: OwnedFd,
    /// When it rings; [`Timestamp::MAX`]: never.
    at: Timestamp,
}

impl Alarm {
    /// Creates an alarm that rings as a readable event with this token. It needs no read: mio's events are
    /// edge-triggered, and each expiry is a new edge.
    ///
    /// # Errors
    /// As `timerfd_create(2)` and `epoll_ctl(2)`.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, at: Timestamp::MAX })
    }

    /// Returns whether it rings at this time or before.
    #[inline]
    pub(super) fn covers(&self, at: Timestamp) -> bool {
        self.at <= at
    }

    /// Sets it to ring at this time, which it does not cover.
    ///
    /// # Errors
    /// As `timerfd_settime(2)`.
    pub(super) fn set(&mut self, at: Timestamp, now: Timestamp) -> io::Result<()> {
        // Zero would disarm it.
        let after = at.since(now).max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.at = at;
        Ok(())
    }

    /// Notes that it rang.
    pub(super) fn rang(&mut self) {
        self.at = Timestamp::MAX;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mio::{Events, Poll};

    use super::*;

    const TOKEN: Token = Token(7);

    #[test]
    fn it_rings_at_each_time_that_is_set_and_never_before() {
        let mut poll = Poll::new().expect("a poll");
        let mut alarm = Alarm::new(poll.registry(), TOKEN).expect("an alarm");
        let mut events = Events::with_capacity(8);
        let start = Instant::now();
        let since_start = |elapsed: Duration| Timestamp::default() + elapsed;
        // The second of each two replaces the first; no ring is read.
        for times in [&[5][..], &[60_000, 10], &[15], &[60_000, 0]] {
            for &milliseconds in times {
                let at = since_start(Duration::from_millis(milliseconds));
                assert!(!alarm.covers(at));
                alarm.set(at, since_start(start.elapsed())).expect("it is set");
                assert!(alarm.covers(at) && alarm.covers(at + Duration::from_secs(1)));
            }
            poll.poll(&mut events, Some(Duration::from_secs(30))).expect("it polls");
            assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [TOKEN], "{times:?}");
            assert!(start.elapsed() >= Duration::from_millis(times[times.len() - 1]), "{times:?}");
            alarm.rang();
        }
        poll.poll(&mut events, Some(Duration::from_millis(1))).expect("it polls");
        assert!(events.is_empty(), "each rings once");
    }
}
