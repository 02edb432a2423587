//! The order of the steps in one turn of an event loop.
//!
//! Owns nothing. The event loop over a real poll and the one in the simulation both run [`turn`], so that tests over
//! simulated sockets run in the order of production.

use std::io;

/// Fetches in one turn: enough for an event of each of 64 Ki connections, at 256 a fetch.
const FETCHES_MAX: usize = 256;

/// The steps of an event loop's turn.
pub trait Steps {
    /// Fetches events and passes them to their connections. The first fetch of a turn may sleep. Returns whether more
    /// events may wait.
    ///
    /// # Errors
    /// As `epoll_wait(2)`.
    fn on_events(&mut self, is_first: bool) -> io::Result<bool>;

    /// Runs every connection that can make progress.
    fn run(&mut self);

    /// Ends some of the stalled sessions if the memory is nearly used up.
    fn relieve(&mut self);

    /// Returns whether the process is closing and accepts no more new connections.
    fn is_closing(&self) -> bool;

    /// Closes the idle clients, because the process is closing.
    fn drain(&mut self);

    /// Accepts connections.
    ///
    /// # Errors
    /// Errors of `accept4(2)` that this event loop cannot recover from.
    fn accept(&mut self) -> io::Result<()>;

    /// Accepts the last connections and closes the listeners. Later calls do nothing.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    fn accept_last(&mut self) -> io::Result<()>;

    /// Returns whether a closing process has nothing left to do: no client is left, or clients are not waited for.
    fn is_over(&self) -> bool;

    /// Ends the turn.
    fn end(&mut self);
}

/// Runs one turn. Returns whether another one follows: none does after the last exchange of a closing process.
///
/// # Errors
/// Errors that this event loop cannot recover from.
pub fn turn(steps: &mut impl Steps) -> io::Result<bool> {
    // All events are fetched before any client runs. Otherwise a pooled pod connection whose event has yet to be
    // fetched would count as usable. Every fetched event has to be handled: it does not come again (edge-triggered,
    // epoll(7)).
    for fetch in 0..FETCHES_MAX {
        if !steps.on_events(fetch == 0)? {
            break;
        }
    }
    steps.run();
    steps.relieve();
    let mut goes_on = true;
    if steps.is_closing() {
        // In this order: a client accepted only now gets a turn to send a request.
        steps.drain();
        steps.accept_last()?;
        goes_on = !steps.is_over();
    } else {
        steps.accept()?;
    }
    steps.end();
    Ok(goes_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records its steps.
    #[derive(Default)]
    struct Recorder {
        /// Number of fetches that return as many events as fit.
        full_fetches: usize,
        is_closing: bool,
        is_over: bool,
        /// The step that fails.
        fails: &'static str,
        trace: Vec<&'static str>,
    }

    impl Recorder {
        fn note(&mut self, step: &'static str) -> io::Result<()> {
            self.trace.push(step);
            if self.fails == step { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }

    impl Steps for Recorder {
        fn on_events(&mut self, is_first: bool) -> io::Result<bool> {
            self.note(if is_first { "sleep" } else { "fetch" })?;
            let is_full = self.full_fetches > 0;
            self.full_fetches = self.full_fetches.saturating_sub(1);
            Ok(is_full)
        }

        fn run(&mut self) {
            self.trace.push("run");
        }

        fn relieve(&mut self) {
            self.trace.push("relieve");
        }

        fn is_closing(&self) -> bool {
            self.is_closing
        }

        fn drain(&mut self) {
            self.trace.push("drain");
        }

        fn accept(&mut self) -> io::Result<()> {
            self.note("accept")
        }

        fn accept_last(&mut self) -> io::Result<()> {
            self.note("accept last")
        }

        fn is_over(&self) -> bool {
            self.is_over
        }

        fn end(&mut self) {
            self.trace.push("end");
        }
    }

    #[test]
    fn events_are_fetched_before_clients_run_and_accepts_come_last() {
        let closing = |is_over| Recorder { is_closing: true, is_over, ..Recorder::default() };
        let failing = |fails| Recorder { fails, ..Recorder::default() };
        for (mut recorder, goes_on, expected) in [
            (Recorder::default(), Some(true), &["sleep", "run", "relieve", "accept", "end"][..]),
            (
                Recorder { full_fetches: 2, is_over: true, ..Recorder::default() },
                Some(true),
                &["sleep", "fetch", "fetch", "run", "relieve", "accept", "end"],
            ),
            (closing(false), Some(true), &["sleep", "run", "relieve", "drain", "accept last", "end"]),
            (closing(true), Some(false), &["sleep", "run", "relieve", "drain", "accept last", "end"]),
            (failing("sleep"), None, &["sleep"]),
            (failing("accept"), None, &["sleep", "run", "relieve", "accept"]),
        ] {
            assert_eq!((turn(&mut recorder).ok(), &*recorder.trace), (goes_on, expected));
        }
    }

    #[test]
    fn a_turn_ends_however_many_events_arrive() {
        for (full_fetches, fetches) in
            [(0, 1), (1, 2), (3, 4), (FETCHES_MAX, FETCHES_MAX), (usize::MAX, FETCHES_MAX)]
        {
            let mut recorder = Recorder { full_fetches, ..Recorder::default() };
            assert!(turn(&mut recorder).is_ok());
            let ran_at = recorder.trace.iter().position(|&step| step == "run");
            assert_eq!(ran_at, Some(fetches), "{full_fetches} full fetches");
        }
    }
}
