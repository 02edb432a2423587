//! Lets the rest of a response that arrives in small portions gather in the kernel.
//!
//! [`crate::net::gather`] decides for how long. Never reads.

use super::Runner;
use crate::{
    net::{network::Network, stream::Ready, transport::Transport},
    proxy::events::Wants,
};

impl<N: Network> Runner<'_, N> {
    /// Decides how the session waits for the rest of a response, if it does.
    #[inline]
    pub(super) fn wait_for_rest(&mut self) {
        if self.client.outbox.sent_bytes > 0 && self.client.session.wants() == Wants::Response {
            self.gather();
        }
    }

    fn gather(&mut self) {
        let within = self.tools.settings.timeouts.gather;
        let Some(upstream) = self.upstream.as_deref_mut() else { return };
        if self.client.is_stalled() || upstream.stream.is_ready(Ready::READ) {
            return;
        }
        let bytes = self.client.outbox.sent_bytes;
        if upstream.gather.is_none() && self.tools.transfer.run_bytes > 0 && !within.is_zero() {
            upstream.gather = upstream.short_reads.count(bytes).map(Box::new);
        }
        let Some(gather) = &mut upstream.gather else { return };
        // Of chunks, the number that follows is unknown. What TLS holds of a record has arrived already.
        let session = &self.client.session;
        let left = if session.has_length() { session.opaque_len() } else { u64::MAX };
        let left = left.saturating_sub(upstream.stream.channel().held_bytes() as u64);
        let wait = gather.wait(bytes, left, self.tools.now, within);
        self.counters.reads_saved.add(wait.saved);
        let set = |mark| upstream.stream.channel().set_low_water(mark).is_ok();
        let look = wait.look.zip(self.client.upstream);
        let waits = wait.mark.is_none_or(set) && look.is_none_or(|(at, of)| self.tools.looks.add(at, of));
        if !waits {
            gather.stop().mark.map(set);
        }
    }
}
