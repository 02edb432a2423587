//! The deadlines of a worker's sessions: fires the timers that are due.
//!
//! [`crate::proxy::timers`] keeps them in order, and the exchange decides what an expired one means.

use std::time::Duration;

use super::Worker;
use crate::{
    net::network::Network,
    proxy::{events::Event, timers::Timer, timestamp::Timestamp},
};

/// A deadline this near limits the event loop's sleep, unless the alarm rings before it anyway. For a later one, the
/// alarm is set.
///
/// Each scrape leaves an entry whose deadline has moved away. These are put off before they are near, many in one turn,
/// so that the event loop neither wakes for each of them nor limits its sleep.
pub const SOON: Duration = Duration::from_millis(200);
/// Maximum number of entries that are fired, put off or discarded in one turn. The rest are handled in the next turn.
const HANDLED_MAX: usize = 64;

impl<N: Network> Worker<N> {
    /// Fires the timers that are due.
    #[inline]
    pub(super) fn fire_timers(&mut self, now: Timestamp, scratch: &mut [u8]) {
        if self.timers.next().is_some_and(|at| at <= now + SOON) {
            self.handle_timers(now, scratch); // rarely
        }
    }

    fn handle_timers(&mut self, now: Timestamp, scratch: &mut [u8]) {
        for _ in 0..HANDLED_MAX {
            let clients = &self.clients;
            let until = |key| clients.get(key).and_then(|client| client.session.deadline());
            let is_stale = |key, at| until(key).is_none_or(|until| until > at);
            let next = self
                .timers
                .pop_if(|key, timer, at| at <= now || timer == Timer::Exchange && is_stale(key, at));
            let Some((key, timer, at)) = next else { return };
            let Some(client) = self.clients.get_mut(key) else { continue };
            if !client.timers.fire(timer, at) {
                continue;
            }
            let until = client.session.deadline();
            if timer == Timer::Exchange && until.is_none_or(|until| until > now) {
                until.into_iter().for_each(|until| self.timers.arm(key, timer, &mut client.timers, until));
                continue;
            }
            let waits = client.waits_until.is_some();
            let client_stalled = self.is_behind(key);
            if timer == Timer::Exchange && !waits {
                self.step(key, Event::Timeout { client_stalled });
            }
            self.run(key, scratch);
        }
    }
}
