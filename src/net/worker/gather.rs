//! Looks for bytes of responses that gather in the kernel.
//!
//! [`crate::net::runner`] decides when. Never reads: a look lets the session run, in its turn.

use super::Worker;
use crate::net::{network::Network, stream::Ready};

impl<N: Network> Worker<N> {
    /// Queues the clients of responses whose looks are due.
    #[inline]
    pub(super) fn look(&mut self) {
        if self.tools.looks.next().is_some() {
            self.look_at_each(); // rarely
        }
    }

    fn look_at_each(&mut self) {
        while let Some((due, key)) = self.tools.looks.pop_due(self.tools.now) {
            let Some(upstream) = self.upstreams.get_mut(key) else { continue };
            if upstream.gather.as_ref().is_some_and(|gather| gather.needs(due)) {
                upstream.stream.add_ready(Ready::READ);
                upstream.client.into_iter().for_each(|client| self.enqueue(client));
            }
        }
    }

    /// Forgets the next looks that are no longer needed, so that the worker does not wake for them.
    #[inline]
    pub(super) fn forget_stale_looks(&mut self) {
        let upstreams = &self.upstreams;
        self.tools.looks.remove_stale(|due, key| {
            let gather = upstreams.get(key).and_then(|upstream| upstream.gather.as_ref());
            gather.is_some_and(|gather| gather.needs(due))
        });
    }
}
