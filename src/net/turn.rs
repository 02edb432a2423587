//! The order of what happens in one turn of an event loop.
//!
//! Owns nothing. The event loop over a real poll and the one of the simulation both run [`turn`], so that a test over
//! simulated sockets meets the order that production has.

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

    /// Lets every connection that can go on do so.
    fn run(&mut self);

    /// Ends some of the stalled clients, if the memory is nearly used up.
    fn relieve(&mut self);

    /// Whether the process takes no new connections any more.
    fn is_closing(&self) -> bool;

    /// Closes the clients that idle, because the process closes.
    fn drain(&mut self);

    /// Accepts connections.
    ///
    /// # Errors
    /// Those of `accept4(2)` that leave no hope for this event loop.
    fn accept(&mut self) -> io::Result<()>;

    /// Accepts the last connections, and then no more. Does nothing from the second time on.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    fn accept_last(&mut self) -> io::Result<()>;

    /// Whether no client is left.
    fn is_idle(&self) -> bool;

    /// The turn is over.
    fn end(&mut self);
}

/// One turn. Returns whether another one follows: after the last exchange of a process that closes, none does.
///
/// # Errors
/// Those that leave no hope for this event loop.
pub fn turn(steps: &mut impl Steps) -> io::Result<bool> {
    // All that is known is heard before anybody goes on: a kept pod connection whose event has yet to be fetched would
    // pass for one that has said nothing. An event that is fetched and not heard would be lost: it does not come again
    // (edge-triggered, epoll(7)).
    for fetch in 0..FETCHES_MAX {
        if !steps.on_events(fetch == 0)? {
            break;
        }
    }
    steps.run();
    steps.relieve();
    let mut goes_on = true;
    if steps.is_closing() {
        // In this order: a client that is accepted only now has a turn to say something.
        steps.drain();
        steps.accept_last()?;
        goes_on = !steps.is_idle();
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
        /// So many fetches find as many events as they can take.
        full_fetches: usize,
        is_closing: bool,
        is_idle: bool,
        /// This step fails.
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
            self.note(if is_first { "sleep" } else { "hear" })?;
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

        fn is_idle(&self) -> bool {
            self.is_idle
        }

        fn end(&mut self) {
            self.trace.push("end");
        }
    }

    #[test]
    fn all_events_are_heard_before_anybody_runs_and_new_clients_come_last() {
        let closing = |is_idle| Recorder { is_closing: true, is_idle, ..Recorder::default() };
        let failing = |fails| Recorder { fails, ..Recorder::default() };
        for (mut recorder, goes_on, expected) in [
            (Recorder::default(), Some(true), &["sleep", "run", "relieve", "accept", "end"][..]),
            (
                Recorder { full_fetches: 2, is_idle: true, ..Recorder::default() },
                Some(true),
                &["sleep", "hear", "hear", "run", "relieve", "accept", "end"],
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
    fn one_turn_has_an_end_however_many_events_come() {
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
