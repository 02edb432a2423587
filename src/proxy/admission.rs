//! Decides which clients give up their places when the limit is reached, and how long other clients wait for a place.
//!
//! Owns the order. First comes the client that has been idle longest, on any worker: between two requests, or with a
//! tunnel in which no byte moves. Its next request can be sent again on another connection. Then comes the client that
//! has been silent longest since it connected, after a grace time. Clients with a request in progress stay. Clients are
//! identified by their slots and not touched here; [`crate::net::places`] counts and hands over the places.

use std::time::Duration;

use super::{lru::LruList, timestamp::Timestamp};

/// Maximum number of clients of one worker without a place, which wait for one or are being turned away. Further
/// clients are turned away and closed at once.
const WITHOUT_PLACE_MAX: usize = 64;
/// How long a new connection may stay silent before its place goes to a waiting client, or before shutdown closes it.
pub const SILENCE: Duration = Duration::from_secs(1);
/// How long a client waits for a place: a little longer than the grace time of the clients that were already silent.
pub const WAIT: Duration = Duration::from_millis(1200);

/// The clients of one worker that are idle, silent or without a place.
#[derive(Debug, Default)]
pub struct Admission {
    /// Clients between two requests, and tunnels.
    idle: LruList,
    /// Clients that have sent nothing yet.
    silent: LruList,
    without_place: usize,
}

/// The action of a worker for a client that waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Wake this other worker, which has the longest-idle client.
    Other(usize),
    /// Take the place of this client.
    Client(u32),
    /// Wait: no client can give up its place yet.
    None,
}

impl Admission {
    /// Records whether a client is idle: silent, or between two requests. Returns whether it has just become idle.
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

    /// Removes a client that is gone.
    pub fn forget(&mut self, slot: u32) {
        self.idle.remove(slot);
        self.silent.remove(slot);
    }

    /// Counts a client without a place.
    pub fn add_without_place(&mut self) {
        self.without_place += 1;
    }

    /// Counts a client that got a place or is gone.
    pub fn remove_without_place(&mut self) {
        self.without_place -= 1;
    }

    /// Returns whether any client is without a place.
    pub fn has_without_place(&self) -> bool {
        self.without_place > 0
    }

    /// Returns whether more clients than allowed are without a place.
    pub fn is_overrun(&self) -> bool {
        self.without_place > WITHOUT_PLACE_MAX
    }

    /// Returns whether one more client may be without a place, to receive its last response.
    pub fn may_linger(&self) -> bool {
        self.without_place < WITHOUT_PLACE_MAX
    }

    /// Returns the client that has been idle longest.
    pub fn longest_idle(&self) -> Option<u32> {
        self.idle.oldest()
    }

    /// Returns the client that has been silent longest.
    pub fn longest_silent(&self) -> Option<u32> {
        self.silent.oldest()
    }

    /// Returns how a waiting client can get a place: `own` is this worker, `longest_idle` the worker with the
    /// longest-idle client, and `silent_since` the time at which [`longest_silent`](Self::longest_silent) connected.
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
        gives.map_or(Eviction::None, Eviction::Client)
    }
}

/// Returns whether the grace time of a client that has been silent since `since` is over.
pub fn is_silent_for_too_long(since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|since| since + SILENCE <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_client_is_evicted_first_and_a_silent_one_after_the_grace_time() {
        let start = Timestamp::default();
        let since = Some(start);
        let early = start + SILENCE / 2;
        let late = start + SILENCE;
        // Idle clients here, silent clients here, the worker with the longest-idle client, the time, the expected
        // eviction.
        for (idle, silent, longest_idle, now, expected) in [
            (&[][..], &[][..], None, late, Eviction::None),
            (&[3, 5], &[], Some(0), early, Eviction::Client(3)),
            (&[3, 5], &[], Some(1), early, Eviction::Other(1)),
            (&[], &[7], Some(1), late, Eviction::Other(1)),
            (&[3], &[7], Some(0), late, Eviction::Client(3)),
            (&[], &[7, 9], None, early, Eviction::None),
            (&[], &[7, 9], None, late, Eviction::Client(7)),
            // The client is gone, but still published to the other workers.
            (&[], &[7], Some(0), late, Eviction::None),
        ] {
            let mut admission = Admission::default();
            idle.iter().for_each(|&slot| assert!(admission.note(slot, true, false)));
            silent.iter().for_each(|&slot| assert!(admission.note(slot, true, true)));
            let got = admission.next_eviction(0, longest_idle, since, now);
            assert_eq!(got, expected, "idle {idle:?}, silent {silent:?}, {longest_idle:?}");
        }
    }

    #[test]
    fn a_client_keeps_its_position_until_it_is_active() {
        let mut admission = Admission::default();
        assert!(admission.note(1, true, false) && admission.note(2, true, false));
        assert!(!admission.note(1, true, false), "it was idle before");
        assert_eq!(admission.longest_idle(), Some(1));
        assert!(!admission.note(1, false, false));
        assert!(admission.note(1, true, false), "it became idle again");
        assert_eq!(admission.longest_idle(), Some(2));
        admission.forget(2);
        assert_eq!((admission.longest_idle(), admission.longest_silent()), (Some(1), None));
    }

    #[test]
    fn clients_without_a_place_are_limited() {
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
