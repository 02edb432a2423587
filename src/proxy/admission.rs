//! Which clients give their place when there are more than there may be, and how long the others wait for one.
//!
//! Owns the order: the client that has idled longest between two requests goes first, whichever worker has it, as its
//! next request can be sent again on another connection; then one that has asked for nothing since it connected, once
//! it has had the time to. Clients with a request under way stay. Knows clients by their slot, and touches none; places
//! are counted and handed over in [`crate::net::places`].

use std::time::Duration;

use super::{lru::LruList, timestamp::Timestamp};

/// Clients of one worker without a place, which wait for one or are told that there is none. More are told and closed
/// at once.
const WITHOUT_PLACE_MAX: usize = 64;
/// How long a new connection may say nothing before its place goes to a client that waits, or before it is closed
/// when the process ends.
pub const SILENCE: Duration = Duration::from_secs(1);
/// How long a client waits for a place: until those that were silent when it came have had their time, and a little.
pub const WAIT: Duration = Duration::from_millis(1200);

/// The clients of one worker, as far as their places are concerned.
#[derive(Debug, Default)]
pub struct Admission {
    /// Clients between two requests.
    idle: LruList,
    /// Clients that have asked for nothing yet.
    silent: LruList,
    without_place: usize,
}

/// What a worker does for a client that waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Another worker has the client that gives its place, and is woken.
    Other(usize),
    /// This client gives its place.
    Client(u32),
    /// None does, by now.
    Nobody,
}

impl Admission {
    /// Notes whether a client idles, as one that is silent or between two requests. Says whether it has begun to.
    pub fn note(&mut self, slot: u32, idles: bool, is_silent: bool) -> bool {
        let list = if is_silent { &mut self.silent } else { &mut self.idle };
        if !idles {
            list.remove(slot);
        } else if !list.contains(slot) {
            list.push(slot);
            return true;
        }
        false
    }

    /// A client is gone.
    pub fn forget(&mut self, slot: u32) {
        self.idle.remove(slot);
        self.silent.remove(slot);
    }

    /// A client has no place.
    pub fn add_without_place(&mut self) {
        self.without_place += 1;
    }

    /// A client that had no place got one, or is gone.
    pub fn remove_without_place(&mut self) {
        self.without_place -= 1;
    }

    /// Whether a client has no place.
    pub fn has_without_place(&self) -> bool {
        self.without_place > 0
    }

    /// Whether more clients are without a place than may wait.
    pub fn is_overrun(&self) -> bool {
        self.without_place > WITHOUT_PLACE_MAX
    }

    /// Whether one more client may be without a place, to take its last response.
    pub fn may_linger(&self) -> bool {
        self.without_place < WITHOUT_PLACE_MAX
    }

    /// The client that has idled longest between two requests.
    pub fn longest_idle(&self) -> Option<u32> {
        self.idle.oldest()
    }

    /// The client that has been silent longest.
    pub fn longest_silent(&self) -> Option<u32> {
        self.silent.oldest()
    }

    /// Which client gives its place to one that waits: `own` is this worker, `longest_idle` the one with the client that
    /// has idled longest, and `silent_since` when [`longest_silent`](Self::longest_silent) connected.
    pub fn next_eviction(
        &self,
        own: usize,
        longest_idle: Option<usize>,
        silent_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Eviction {
        let gives = match longest_idle {
            Some(other) if other != own => return Eviction::Other(other),
            Some(_) => self.longest_idle(),
            None => self.longest_silent().filter(|_| is_silent_for_too_long(silent_since, now)),
        };
        gives.map_or(Eviction::Nobody, Eviction::Client)
    }
}

/// Whether a client that has been silent since then has had its time.
pub fn is_silent_for_too_long(since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|since| since + SILENCE <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_client_gives_its_place_first_and_a_silent_one_after_its_time() {
        let start = Timestamp::default();
        let since = Some(start);
        let early = start + SILENCE / 2;
        let late = start + SILENCE;
        // Which clients idle here, and which are silent; where the longest idle one is; when; which gives its place.
        for (idle, silent, longest_idle, now, expected) in [
            (&[][..], &[][..], None, late, Eviction::Nobody),
            (&[3, 5], &[], Some(0), early, Eviction::Client(3)),
            (&[3, 5], &[], Some(1), early, Eviction::Other(1)),
            (&[], &[7], Some(1), late, Eviction::Other(1)),
            (&[3], &[7], Some(0), late, Eviction::Client(3)),
            (&[], &[7, 9], None, early, Eviction::Nobody),
            (&[], &[7, 9], None, late, Eviction::Client(7)),
            // It was shown to the others, and is gone since.
            (&[], &[7], Some(0), late, Eviction::Nobody),
        ] {
            let mut admission = Admission::default();
            idle.iter().for_each(|&slot| assert!(admission.note(slot, true, false)));
            silent.iter().for_each(|&slot| assert!(admission.note(slot, true, true)));
            let got = admission.next_eviction(0, longest_idle, since, now);
            assert_eq!(got, expected, "idle {idle:?}, silent {silent:?}, {longest_idle:?}");
        }
    }

    #[test]
    fn a_client_keeps_its_turn_until_it_does_something() {
        let mut admission = Admission::default();
        assert!(admission.note(1, true, false) && admission.note(2, true, false));
        assert!(!admission.note(1, true, false), "it has idled since before");
        assert_eq!(admission.longest_idle(), Some(1));
        assert!(!admission.note(1, false, false));
        assert!(admission.note(1, true, false), "it idles anew");
        assert_eq!(admission.longest_idle(), Some(2));
        admission.forget(2);
        assert_eq!((admission.longest_idle(), admission.longest_silent()), (Some(1), None));
    }

    #[test]
    fn so_many_wait_without_a_place_and_no_more() {
        let mut admission = Admission::default();
        for _ in 0..WITHOUT_PLACE_MAX {
            assert!(admission.may_linger() && !admission.is_overrun());
            admission.add_without_place();
        }
        assert!(admission.has_without_place() && !admission.may_linger() && !admission.is_overrun());
        admission.add_without_place();
        assert!(admission.is_overrun());
        admission.remove_without_place();
        assert!(!admission.is_overrun());
    }
}
