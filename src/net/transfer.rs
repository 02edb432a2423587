//! Moves bytes towards a client: those that were read, and those that go through a pipe and are never copied.
//!
//! Owns the worker's pipe, and what was sent in the run that is under way. What the client does not take now is kept
//! with it. Never decides what goes on, nor which of the two ways it goes (`super::runner`), and knows no key, slot or
//! worker.
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
/// it: a body of 512 KiB with its head. Once a client did not take all of a response, or several clients take
/// nothing, it is as little as is read.
pub const PASS_BYTES_MAX: usize = 528 * 1024;
/// The most that is looked at, all of it, at once: a body of 256 KiB with its head and chunks.
pub const PEEK_BYTES_MAX: usize = 272 * 1024;
/// So many clients may take nothing before no more is kept for a client than is read at once.
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::{
        net::{
            shared::tests::shared,
            stream::Ready,
            transport::fake::{Fake, FakeNetwork, FakePipe},
        },
        proxy::{session::Session, timestamp::Timestamp},
    };

    fn client(takes: usize) -> (Client<Fake>, Fake) {
        let fake = Fake::sent(b"");
        fake.0.borrow_mut().takes = takes;
        let shared = shared(1, 1, 1);
        let session = Session::new(Timestamp::default(), &shared.settings(), false);
        let mut stream = Stream::new(fake.clone());
        stream.add_ready(Ready::WRITE);
        (Client::new(stream, session, true, Timestamp::default()), fake)
    }

    fn takes_more(client: &mut Client<Fake>, fake: &Fake, bytes: usize) {
        fake.0.borrow_mut().takes = bytes;
        client.stream.add_ready(Ready::WRITE);
    }

    #[test]
    fn what_is_not_taken_is_kept_and_goes_first() {
        let counters = Counters::default();
        for takes in 0..=10 {
            let (mut client, fake) = client(takes);
            let mut transfer: Transfer<FakePipe> = Transfer::new(1000);
            assert!(transfer.write(&mut client, b"head", b"body", &counters));
            assert_eq!(
                (client.is_stalled(), transfer.stalled),
                (takes < 8, usize::from(takes < 8)),
                "{takes}"
            );
            assert_eq!(transfer.run_bytes, takes.min(8));
            assert!(transfer.write(&mut client, b"", b"more", &counters));
            takes_more(&mut client, &fake, 3);
            assert!(transfer.flush(&mut client, &counters).is_ok());
            takes_more(&mut client, &fake, 100);
            assert!(transfer.flush(&mut client, &counters).is_ok());
            assert_eq!(fake.0.borrow().written, b"headbodymore", "{takes}");
            assert_eq!((client.is_stalled(), transfer.stalled, client.sent_bytes), (false, 0, 12), "{takes}");
        }
    }

    fn in_the_pipe(transfer: &mut Transfer<FakePipe>, client: &Client<Fake>, bytes: &[u8]) {
        let mut from = Stream::new(Fake::sent(bytes));
        from.add_ready(Ready::READ);
        let read = transfer.splice_in(&mut from, client, bytes.len() as u64);
        assert!(matches!(read, Ok(Received::Bytes(all)) if all == bytes.len()));
        assert_eq!(transfer.piped, bytes.len());
    }

    #[test]
    fn bytes_go_through_the_pipe_and_what_is_not_taken_is_kept() {
        let (counters, shared) = (Counters::default(), shared(1, 1, 1));
        for takes in [0, 1, 5, 6, 100] {
            let (mut client, fake) = client(takes);
            let mut transfer = Transfer::new(1000);
            assert!(transfer.has_pipe(&mut FakeNetwork::default(), &shared));
            in_the_pipe(&mut transfer, &client, b"spliced");
            let mut seen = [0; 3];
            assert!(matches!(transfer.peek(&mut seen), Some(Ok(3))));
            assert_eq!(&seen, b"spl", "it stays there");
            assert!(transfer.splice_out(&mut client, 6, &shared, &counters));
            assert_eq!((transfer.piped, client.is_slow), (1, takes < 6), "one byte more than was to go on");
            assert!(transfer.drop_unless_empty() && !transfer.drop_unless_empty());
            takes_more(&mut client, &fake, 100);
            assert!(transfer.flush(&mut client, &counters).is_ok());
            assert_eq!(fake.0.borrow().written, b"splice", "{takes}");
        }
    }

    #[test]
    fn without_a_pipe_or_a_call_there_is_a_way_on() {
        let (counters, shared) = (Counters::default(), shared(1, 1, 1));
        let mut transfer: Transfer<FakePipe> = Transfer::new(1000);
        let mut network = FakeNetwork { has_pipes: false, ..FakeNetwork::default() };
        assert!(!transfer.has_pipe(&mut network, &shared) && shared.splices(), "no descriptor, this time");
        network.has_pipes = true;
        assert!(transfer.has_pipe(&mut network, &shared));

        let (mut client, fake) = client(100);
        in_the_pipe(&mut transfer, &client, b"kept");
        transfer.pipe.as_mut().expect("a pipe").error = Some(ErrorKind::PermissionDenied);
        let error = io::Error::from_raw_os_error(1); // EPERM
        assert!(refused("splice", &error, &shared) && !shared.splices(), "for good");
        assert!(
            !refused("splice", &io::Error::from_raw_os_error(104), &shared),
            "ECONNRESET is the socket's"
        );
        assert!(
            !transfer.splice_out(&mut client, 4, &shared, &counters),
            "an error without a number is the socket's"
        );
        transfer.piped = 0;
        assert!(!transfer.has_pipe(&mut network, &shared), "refused once, it is not tried again");
        assert!(transfer.write(&mut client, b"", b"copied", &counters));
        assert_eq!(fake.0.borrow().written, b"copied");
    }
}
