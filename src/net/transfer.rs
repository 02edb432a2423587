//! Moves bytes to one side of a session, either bytes that were read or bytes that pass through a pipe without being
//! copied.
//!
//! Owns the worker's pipe, and counts the bytes sent in the current run. Bytes that a side does not take now stay in
//! its outbox. Never decides whether bytes move, nor which of the two ways they take (`super::runner`), and knows no
//! client, key, slot or worker.
//!
//! The pipe is optional: if the kernel refuses one of its calls, or no descriptor is left for it, bytes are read and
//! written.

use std::io::{self, IoSlice};

use log::warn;

use super::{
    network::Network,
    outbox::Outbox,
    shared::Shared,
    stream::{Received, Stream},
    transport::{
        Transport,
        splice::{Pipe, is_refused},
    },
};
use crate::{http1::head::RESPONSE_HEAD_BYTES_MAX, proxy::metrics::Counter};

/// Maximum number of bytes read at once, except of a long response, and so the maximum held of a read for a slow
/// client. The longest response head fits.
pub const READ_BYTES_MAX: usize = RESPONSE_HEAD_BYTES_MAX;
/// Maximum number of bytes of a long response that are moved at once, and so the maximum held for a slow client: a body
/// of 512 KiB with its head. Once a client did not accept all of a response, or several clients stall, the limit is
/// [`READ_BYTES_MAX`].
pub const PASS_BYTES_MAX: usize = 528 * 1024;
/// From this many stalled clients on, no more than [`READ_BYTES_MAX`] is moved, and held, at once for any client.
const STALLED_AT_LENGTH_MAX: usize = 8;

/// Moves bytes for one session after the other.
#[derive(Debug)]
pub struct Transfer<P> {
    /// Empty between two sessions. Created when the first long body arrives.
    pipe: Option<P>,
    /// Bytes in the pipe while bytes are being moved.
    pub(super) piped: usize,
    /// Bytes taken in the current run.
    pub(super) run_bytes: usize,
    /// Maximum number of bytes that one run may move: fewer while other clients wait.
    pub(super) run_bytes_max: usize,
    /// Number of outboxes that hold bytes.
    pub(super) stalled: usize,
}

impl<P> Transfer<P> {
    /// Creates a transfer whose runs may each move `run_bytes_max` bytes.
    pub(super) fn new(run_bytes_max: usize) -> Self {
        Self { pipe: None, piped: 0, run_bytes: 0, run_bytes_max, stalled: 0 }
    }

    /// Writes `head` and then `bytes`; the outbox holds the bytes that are not accepted now. Returns whether the
    /// connection is still usable.
    pub(super) fn write<S: Transport>(
        &mut self,
        to: &mut Stream<S>,
        outbox: &mut Outbox,
        head: &[u8],
        bytes: &[u8],
        sent: &Counter,
    ) -> bool {
        let all = head.len() + bytes.len();
        if all == 0 {
            return true;
        }
        // Bytes must not overtake those in the outbox.
        let parts = [IoSlice::new(head), IoSlice::new(bytes)];
        let taken = if outbox.is_stalled() { Ok(0) } else { to.write(&parts) };
        let Ok(taken) = taken else { return false };
        if taken < all {
            let mut kept = Vec::with_capacity(all - taken);
            kept.extend_from_slice(&head[taken.min(head.len())..]);
            kept.extend_from_slice(&bytes[taken.saturating_sub(head.len())..]);
            self.keep(outbox, kept);
        }
        self.sent(outbox, taken, sent);
        true
    }

    /// Appends bytes to the outbox.
    pub(super) fn keep(&mut self, outbox: &mut Outbox, bytes: Vec<u8>) {
        self.stalled += usize::from(outbox.keep(bytes));
    }

    /// Writes the bytes in the outbox.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn flush<S: Transport>(
        &mut self,
        to: &mut Stream<S>,
        outbox: &mut Outbox,
        sent: &Counter,
    ) -> io::Result<()> {
        to.flush()?;
        if !outbox.is_stalled() {
            return Ok(());
        }
        let taken = to.write(&[IoSlice::new(outbox.waiting())])?;
        self.stalled -= usize::from(outbox.take(taken));
        self.sent(outbox, taken, sent);
        Ok(())
    }

    /// Drops the bytes in the outbox.
    pub(super) fn forget(&mut self, outbox: &mut Outbox) {
        self.stalled -= usize::from(outbox.clear());
    }

    /// Counts bytes that were taken.
    fn sent(&mut self, outbox: &mut Outbox, bytes: usize, sent: &Counter) {
        outbox.sent_bytes += bytes as u64;
        self.run_bytes += bytes;
        sent.add(bytes as u64);
    }

    /// Provides an empty pipe. Returns whether there is one.
    pub(super) fn has_pipe<N: Network<Pipe = P>>(&mut self, network: &mut N, shared: &Shared) -> bool {
        self.drop_unless_empty();
        if !shared.splices() {
            self.pipe = None;
        } else if self.pipe.is_none() {
            // Without a descriptor for a pipe, bytes are read and written.
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

    /// Drops the pipe if bytes stayed in it: they have no recipient. Returns whether it did.
    pub(super) fn drop_unless_empty(&mut self) -> bool {
        let holds = self.piped > 0;
        if holds {
            (self.pipe, self.piped) = (None, 0);
        }
        holds
    }

    /// Drops the pipe, which is no longer usable.
    pub(super) fn drop_pipe(&mut self) {
        self.pipe = None;
    }

    /// Returns the maximum number of bytes of a long response, destined for this outbox's side, to move at once.
    pub(super) fn long_max(&self, outbox: &Outbox) -> usize {
        let may_be_kept = self.stalled < STALLED_AT_LENGTH_MAX;
        if may_be_kept && !outbox.is_slow { PASS_BYTES_MAX } else { READ_BYTES_MAX }
    }

    /// Moves at most `most` bytes, destined for this outbox's side, into the pipe, which exists and is empty.
    ///
    /// # Errors
    /// The connection failed, or the kernel does not offer the call.
    pub(super) fn splice_in<S: Transport>(
        &mut self,
        from: &mut Stream<S>,
        outbox: &Outbox,
        most: u64,
    ) -> io::Result<Received>
    where
        P: Pipe<S>,
    {
        let bytes_max = self.long_max(outbox);
        let Some(pipe) = &mut self.pipe else { return Ok(Received::NotReady) };
        let read = from.splice_in(pipe, most.min(bytes_max as u64) as usize);
        if let Ok(Received::Bytes(bytes)) = read {
            self.piped = bytes;
        }
        read
    }

    /// Peeks at the first bytes in the pipe.
    ///
    /// # Errors
    /// As [`Pipe::peek`].
    pub(super) fn peek<S>(&mut self, into: &mut [u8]) -> Option<io::Result<usize>>
    where
        P: Pipe<S>,
    {
        self.pipe.as_mut().map(|pipe| pipe.peek(into))
    }

    /// Reads bytes from the pipe.
    pub(super) fn read<S>(&mut self, into: &mut [u8]) -> Option<io::Result<usize>>
    where
        P: Pipe<S>,
    {
        self.pipe.as_mut().map(|pipe| pipe.read(into))
    }

    /// Sends the first `bytes` bytes in the pipe; the outbox holds the bytes that are not accepted now. Returns whether
    /// the connection is still usable.
    pub(super) fn splice_out<S: Transport>(
        &mut self,
        to: &mut Stream<S>,
        outbox: &mut Outbox,
        bytes: usize,
        shared: &Shared,
        sent: &Counter,
    ) -> bool
    where
        P: Pipe<S>,
    {
        let Some(pipe) = &mut self.pipe else { return true };
        let taken = match to.splice_out(pipe, bytes) {
            Ok(taken) => taken,
            Err(error) if refused("splice", &error, shared) => 0, // the outbox is written at the next move
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
            self.stalled += usize::from(outbox.keep(kept));
        }
        self.sent(outbox, taken, sent);
        true
    }
}

/// Returns whether the error means that the kernel does not offer the call at all. If so, no worker uses pipes from now
/// on.
pub(super) fn refused(call: &str, error: &io::Error, shared: &Shared) -> bool {
    let refused = is_refused(error);
    if refused && shared.stop_splicing() {
        warn!("{call}(2) is not available ({error}); copying long responses from now on");
    }
    refused
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::net::{
        shared::tests::shared,
        stream::Ready,
        transport::fake::{Fake, FakeNetwork, FakePipe},
    };

    /// One side of a session.
    struct Side {
        stream: Stream<Fake>,
        outbox: Outbox,
        fake: Fake,
        sent: Counter,
    }

    impl Side {
        /// Creates a side that `takes` this many bytes.
        fn new(takes: usize) -> Self {
            let fake = Fake::sent(b"");
            let stream = Stream::new(fake.clone());
            let mut side = Self { stream, outbox: Outbox::default(), fake, sent: Counter::default() };
            side.takes(takes);
            side
        }

        fn takes(&mut self, bytes: usize) {
            self.fake.0.borrow_mut().takes = bytes;
            self.stream.add_ready(Ready::WRITE);
        }

        fn write(&mut self, transfer: &mut Transfer<FakePipe>, head: &[u8], bytes: &[u8]) -> bool {
            transfer.write(&mut self.stream, &mut self.outbox, head, bytes, &self.sent)
        }

        fn flush(&mut self, transfer: &mut Transfer<FakePipe>) {
            transfer.flush(&mut self.stream, &mut self.outbox, &self.sent).expect("the connection is open");
        }

        fn splice_out(&mut self, transfer: &mut Transfer<FakePipe>, bytes: usize, shared: &Shared) -> bool {
            transfer.splice_out(&mut self.stream, &mut self.outbox, bytes, shared, &self.sent)
        }

        fn written(&self) -> Vec<u8> {
            self.fake.0.borrow().written.clone()
        }
    }

    #[test]
    fn bytes_that_are_not_accepted_are_kept_and_sent_first() {
        for takes in 0..=10 {
            let mut side = Side::new(takes);
            let mut transfer = Transfer::new(1000);
            assert!(side.write(&mut transfer, b"head", b"body"));
            let stalls = takes < 8;
            assert_eq!(
                (side.outbox.is_stalled(), transfer.stalled),
                (stalls, usize::from(stalls)),
                "{takes}"
            );
            assert_eq!(transfer.run_bytes, takes.min(8));
            side.takes(100);
            assert!(side.write(&mut transfer, b"", b"more"));
            assert_eq!(side.outbox.is_stalled(), stalls, "bytes overtook those in the outbox");
            side.takes(3);
            side.flush(&mut transfer);
            side.takes(100);
            side.flush(&mut transfer);
            assert_eq!(side.written(), b"headbodymore", "{takes}");
            let sent = (side.outbox.sent_bytes, side.sent.get(), transfer.run_bytes);
            assert_eq!(
                (side.outbox.is_stalled(), transfer.stalled, sent),
                (false, 0, (12, 12, 12)),
                "{takes}"
            );
        }
    }

    #[test]
    fn kept_bytes_can_be_dropped() {
        let mut side = Side::new(1);
        let mut transfer = Transfer::new(1000);
        assert!(side.write(&mut transfer, b"head", b""));
        assert_eq!((side.outbox.waiting(), transfer.stalled), (&b"ead"[..], 1));
        transfer.forget(&mut side.outbox);
        transfer.forget(&mut side.outbox);
        assert_eq!((side.outbox.held_bytes(), transfer.stalled), (0, 0));
    }

    /// Moves bytes, destined for this outbox's side, into the pipe. Returns how many.
    fn splice_in(transfer: &mut Transfer<FakePipe>, outbox: &Outbox, bytes: &[u8]) -> usize {
        let mut from = Stream::new(Fake::sent(bytes));
        from.add_ready(Ready::READ);
        assert!(transfer.splice_in(&mut from, outbox, bytes.len() as u64).is_ok());
        transfer.piped
    }

    #[test]
    fn spliced_bytes_that_are_not_accepted_are_kept() {
        let shared = shared(1, 1, 1);
        for takes in [0, 1, 5, 6, 100] {
            let mut side = Side::new(takes);
            let mut transfer = Transfer::new(1000);
            assert!(transfer.has_pipe(&mut FakeNetwork::default(), &shared));
            assert_eq!(splice_in(&mut transfer, &side.outbox, b"spliced"), 7);
            let mut seen = [0; 3];
            assert!(matches!(transfer.peek(&mut seen), Some(Ok(3))));
            assert_eq!(&seen, b"spl", "a peek removes nothing");
            assert!(side.splice_out(&mut transfer, 6, &shared));
            assert_eq!(
                (transfer.piped, side.outbox.is_slow),
                (1, takes < 6),
                "one byte more than was to be forwarded"
            );
            assert!(transfer.drop_unless_empty() && !transfer.drop_unless_empty());
            side.takes(100);
            side.flush(&mut transfer);
            assert_eq!(side.written(), b"splice", "{takes}");
        }
    }

    #[test]
    fn slow_sides_and_many_stalled_ones_get_one_read_at_a_time() {
        let shared = shared(1, 1, 1);
        let long = vec![0; PASS_BYTES_MAX + 1];
        for (is_slow, stalled, expected) in [
            (false, 0, PASS_BYTES_MAX),
            (false, STALLED_AT_LENGTH_MAX - 1, PASS_BYTES_MAX),
            (false, STALLED_AT_LENGTH_MAX, READ_BYTES_MAX),
            (true, 0, READ_BYTES_MAX),
        ] {
            let mut transfer = Transfer::new(1000);
            transfer.stalled = stalled;
            assert!(transfer.has_pipe(&mut FakeNetwork::default(), &shared));
            let mut outbox = Outbox::default();
            outbox.is_slow = is_slow;
            assert_eq!(splice_in(&mut transfer, &outbox, &long), expected, "{is_slow}, {stalled}");
        }
    }

    #[test]
    fn bytes_are_copied_without_a_pipe_or_its_calls() {
        let shared = shared(1, 1, 1);
        let mut transfer: Transfer<FakePipe> = Transfer::new(1000);
        let mut network = FakeNetwork { has_pipes: false, ..FakeNetwork::default() };
        assert!(
            !transfer.has_pipe(&mut network, &shared) && shared.splices(),
            "without a descriptor, for this response only"
        );
        network.has_pipes = true;
        assert!(transfer.has_pipe(&mut network, &shared));

        let mut side = Side::new(100);
        assert_eq!(splice_in(&mut transfer, &side.outbox, b"kept"), 4);
        transfer.pipe.as_mut().expect("a pipe").error = Some(ErrorKind::PermissionDenied);
        let error = io::Error::from_raw_os_error(1); // EPERM
        assert!(
            refused("splice", &error, &shared) && !shared.splices(),
            "after a refusal, for all responses"
        );
        assert!(
            !refused("splice", &io::Error::from_raw_os_error(104), &shared),
            "ECONNRESET concerns the socket"
        );
        assert!(!side.splice_out(&mut transfer, 4, &shared), "an error without a number concerns the socket");
        transfer.piped = 0;
        assert!(!transfer.has_pipe(&mut network, &shared), "a refused call was tried again");
        assert!(side.write(&mut transfer, b"", b"copied"));
        assert_eq!(side.written(), b"copied");
    }
}
