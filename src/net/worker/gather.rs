//! Looks for bytes of responses that gather in the kernel.
//!
//! [`crate::net::runner`] decides when. Never reads: a look makes the session read.

use super::Worker;
use crate::net::{network::Network, stream::Ready};

impl<N: Network> Worker<N> {
    /// Makes the sessions read whose looks are due.
    #[inline]
    pub(super) fn look(&mut self, scratch: &mut [u8]) {
        if self.tools.looks.next().is_some() {
            self.look_at_each(scratch); // rarely
        }
    }

    fn look_at_each(&mut self, scratch: &mut [u8]) {
        while let Some((due, key)) = self.tools.looks.pop_due(self.tools.now) {
            let Some(upstream) = self.upstreams.get_mut(key) else { continue };
            if upstream.gather.as_ref().is_none_or(|gather| gather.due() != due) {
                continue; // bytes came first
            }
            upstream.stream.add_ready(Ready::READ);
            if let Some(client) = upstream.client {
                self.run(client, scratch);
            }
        }
        let upstreams = &self.upstreams;
        self.tools.looks.remove_stale(|due, key| {
            let gather = upstreams.get(key).and_then(|upstream| upstream.gather.as_ref());
            gather.is_some_and(|gather| gather.due() == due)
        });
    }
}
