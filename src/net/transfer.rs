//! Moves bytes towards a client: those that were read, and those that go through a pipe and are never copied.
//!
//! Owns the worker's pipe, and what was sent in the run that is under way. What the client does not take now is kept
//! with it. Never decides what goes on, and knows no key, slot or worker.
//!
//! The pipe is optional: where the kernel refuses one of its calls, or there is no descriptor for it, bytes are read and
//! written.

use std::io::{self, IoSlice};

use log::warn;

use super::{
    client::{Client, Outbox},
    network::Network,
    shared::Shared,
    stream::{Received, Stream},
    transport::{
        Transport,
        splice::{Pipe, is_refused},
    },
};
use crate::{http1::head::RESPONSE_HEAD_BYTES_MAX, proxy::metrics::Counters};

/// The most that is read at once, and so the most that is kept of it for a client that does not take it. The longest
/// head of a response fits in.
pub const READ_BYTES_MAX: usize = RESPONSE_HEAD_BYTES_MAX;
/// The most that goes through the pipe at once, and so the most that is ever kept for a client that does not take
/// it: a body of 512 KiB with its head. Once a client did not take all of a response, or so many clients take nothing,
/// it is as little as is read.
pub const PASS_BYTES_MAX: usize = 528 * 1024;
const STALLED_AT_LENGTH_MAX: usize = 8;

/// Moves bytes, one session's after the other's.
#[derive(Debug)]
pub struct Transfer<P> {
    /// Empty between two sessions, and made when the first long body comes.
    pipe: Option<P>,
    /// What it holds while bytes are being moved.
    pub(super) piped: usize,
    /// Bytes that the client took in the run that is under way.
    pub(super) run_bytes: usize,
    /// The most that one run may move: less while others wait.
    pub(super) run_bytes_max: usize,
    /// Clients for which bytes are kept.
    pub(super) stalled: usize,
}

impl<P> Transfer<P> {
    /// Nothing is being moved; a run may move so many bytes.
    pub(super) fn new(run_bytes_max: usize) -> Self {
        Self { pipe: None, piped: 0, run_bytes: 0, run_bytes_max, stalled: 0 }
    }

    /// Writes `head` and then `bytes` to the client; what is not taken now is kept. Says whether the connection still
    /// holds.
    pub(super) fn write<S: Transport>(
        &mut self,
        client: &mut Client<S>,
        head: &[u8],
        bytes: &[u8],
        counters: &Counters,
    ) -> bool {
        let parts = [IoSlice::new(head), IoSlice::new(bytes)];
        let all = head.len() + bytes.len();
        if all == 0 {
            return true;
        }
        // Behind what waits, everything waits.
        let taken = if client.is_stalled() { Ok(0) } else { client.stream.write(&parts) };
        let Ok(taken) = taken else { return false };
        if taken < all {
            if !client.is_stalled() {
                client.keep(Outbox { bytes: Vec::new(), taken: 0 });
                self.stalled += 1;
            }
            let Some(outbox) = &mut client.outbox else { return true };
            outbox.bytes.reserve_exact(all - taken);
            let mut skip = taken;
            for part in &parts {
                let skipped = skip.min(part.len());
                outbox.bytes.extend_from_slice(&part[skipped..]);
                skip -= skipped;
            }
        }
        self.sent(client, taken, counters);
        true
    }

    /// Writes what is kept for the client.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn flush<S: Transport>(
        &mut self,
        client: &mut Client<S>,
        counters: &Counters,
    ) -> io::Result<()> {
        let Some(outbox) = &mut client.outbox else { return Ok(()) };
        let taken = client.stream.write(&[IoSlice::new(&outbox.bytes[outbox.taken..])])?;
        outbox.taken += taken;
        if outbox.taken == outbox.bytes.len() {
            client.outbox = None; // one that is empty holds no memory
            self.stalled -= 1;
        }
        self.sent(client, taken, counters);
        Ok(())
    }

    /// Counts bytes that the client took.
    fn sent<S>(&mut self, client: &mut Client<S>, bytes: usize, counters: &Counters) {
        client.sent_bytes += bytes as u64;
        self.run_bytes += bytes;
        counters.client_sent_bytes.add(bytes as u64);
    }

    /// Whether there is a pipe, which is empty.
    pub(super) fn has_pipe<N: Network<Pipe = P>>(&mut self, network: &mut N, shared: &Shared) -> bool {
        self.drop_unless_empty();
        if !shared.splices() {
            self.pipe = None;
        } else if self.pipe.is_none() {
            // Where there is no descriptor for one, bytes are read and written.
            self.pipe = match network.pipe() {
                Ok(pipe) => Some(pipe),
                Err(error) => {
                    refused("pipe2", &error, shared);
                    None
                }
            };
        }
        self.pipe.is_some()
    }

    /// Drops the pipe if bytes stayed in it: they are for nobody. Says whether it did.
    pub(super) fn drop_unless_empty(&mut self) -> bool {
        let holds = self.piped > 0;
        if holds {
            (self.pipe, self.piped) = (None, 0);
        }
        holds
    }

    /// Drops the pipe, which is of no more use.
    pub(super) fn drop_pipe(&mut self) {
        self.pipe = None;
    }

    /// Takes at most so many bytes for this client into the pipe, which is there and empty.
    ///
    /// # Errors
    /// The connection failed, or the kernel does not offer the call.
    pub(super) fn splice_in<S: Transport>(
        &mut self,
        from: &mut Stream<S>,
        client: &Client<S>,
        most: u64,
    ) -> io::Result<Received>
    where
        P: Pipe<S>,
    {
        let may_be_kept = self.stalled < STALLED_AT_LENGTH_MAX;
        let bytes_max = if may_be_kept && !client.is_slow { PASS_BYTES_MAX } else { READ_BYTES_MAX };
        let Some(pipe) = &mut self.pipe else { return Ok(Received::NotReady) };
        let read = from.splice_in(pipe, most.min(bytes_max as u64) as usize);
        if let Ok(Received::Bytes(bytes)) = read {
            self.piped = bytes;
        }
        read
    }

    /// Shows the first bytes that the pipe holds, and keeps them.
    ///
    /// # Errors
    /// As [`Pipe::peek`].
    pub(super) fn peek<S>(&mut self, into: &mut [u8]) -> Option<io::Result<usize>>
    where
        P: Pipe<S>,
    {
        self.pipe.as_mut().map(|pipe| pipe.peek(into))
    }

    /// Reads bytes out of the pipe.
    pub(super) fn read<S>(&mut self, into: &mut [u8]) -> Option<io::Result<usize>>
    where
        P: Pipe<S>,
    {
        self.pipe.as_mut().map(|pipe| pipe.read(into))
    }

    /// Has the client take the first `bytes` of those that the pipe holds; what it does not take now is kept. Says
    /// whether the connection still holds.
    pub(super) fn splice_out<S: Transport>(
        &mut self,
        client: &mut Client<S>,
        bytes: usize,
        shared: &Shared,
        counters: &Counters,
    ) -> bool
    where
        P: Pipe<S>,
    {
        let Some(pipe) = &mut self.pipe else { return true };
        let taken = match client.stream.splice_out(pipe, bytes) {
            Ok(taken) => taken,
            Err(error) if refused("splice", &error, shared) => 0, // what is kept goes on at the next move
            Err(_) => return false,
        };
        self.piped -= taken;
        if taken < bytes {
            let mut kept = vec![0; bytes - taken];
            let mut at = 0;
            while at < kept.len() {
                match pipe.read(&mut kept[at..]) {
                    Ok(read @ 1..) => at += read,
                    _ => return false,
                }
            }
            self.piped -= at;
            client.keep(Outbox { bytes: kept, taken: 0 });
            self.stalled += 1;
        }
        self.sent(client, taken, counters);
        true
    }
}

/// Whether the kernel does not offer a call at all. Then no worker goes through pipes from now on.
pub(super) fn refused(call: &str, error: &io::Error, shared: &Shared) -> bool {
    let refused = is_refused(error);
    if refused && shared.stop_splicing() {
        warn!("{call}(2) is not available here ({error}); long answers are copied from now on");
    }
    refused
}
