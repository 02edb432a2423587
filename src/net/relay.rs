//! How an answer gets from a pod's connection to a client's: bytes that are read and written on, and bytes that go
//! through the worker's pipe ([`super::splice`]) and are never copied.
//!
//! What goes through the pipe is known before it does: of a body of a known length nothing but the head has to be
//! looked at, of one in chunks everything, which still costs one copy instead of two. To look (`MSG_PEEK`) takes a
//! call more than to read, so it is done where the last answer, or what there is of this one, was long.
//!
//! Never decides what goes on: that is the exchange's, which is asked before anything does.

use std::io;

use super::{
    pump::{Outbox, SCRATCH_BYTES},
    slots::Key,
    splice::Pipe,
    stream::{Read, upstream_error},
    worker::{Network, Worker},
};
use crate::proxy::{
    dialogue::{Input, Wants},
    exchange::Exchange,
    outcome::UpstreamError,
};

/// From so many bytes on it is cheaper to look and have them go through the pipe than to read and write them.
const BULK_BYTES_MIN: u64 = 32 * 1024;
/// The most that goes through the pipe at once, and so the most that is ever kept for a client that does not take
/// it: a body of 256 KiB with its head. Once a client did not take all of an answer, it is as little as is read.
const PASS_BYTES_MAX: usize = 272 * 1024;
/// What is looked at of an answer whose head is expected to tell the length: it fits in, unless it is a rare one.
const HEAD_BYTES: usize = 1024;

/// How bytes of an answer are met, by what came before on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Meets {
    /// They are read.
    #[default]
    Read,
    /// They are looked at as far as a head goes: a long body of a known length is expected.
    Head,
    /// They are looked at, all of them: a long body in chunks is expected, or under way.
    All,
}

impl Meets {
    /// For the next answer on a connection, after one of so many bytes.
    pub(super) fn after(exchange: &Exchange, bytes: u64) -> Self {
        match () {
            () if bytes < BULK_BYTES_MIN => Self::Read,
            () if exchange.has_length() => Self::Head,
            () => Self::All,
        }
    }
}

impl<N: Network> Worker<N> {
    /// Moves bytes of an answer, if there are any. Says whether anything moved.
    pub(super) fn read_answer(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        let Some(client) = self.clients.get(key) else { return false };
        let unseen = client.exchange.unseen();
        if unseen >= BULK_BYTES_MIN && self.has_pipe() {
            return match self.fill_pipe(key, unseen) {
                Ok(Read::Bytes(bytes)) => self.pour_answer(key, 0, bytes),
                read => self.no_answer(key, read),
            };
        }
        let Some(upstream) = self.upstream_of(key) else { return false };
        let held = upstream.input.len();
        match upstream.meets {
            Meets::Head if held == 0 => return self.look_at_answer(key, &mut scratch[..HEAD_BYTES]),
            Meets::All if held == 0 => return self.look_at_answer(key, scratch),
            _ => {}
        }
        let bytes = match upstream.stream.read(&mut scratch[held..]) {
            Ok(Read::Bytes(bytes)) => held + bytes,
            read => return self.no_answer(key, read),
        };
        scratch[..held].copy_from_slice(&upstream.input);
        upstream.input = Box::default();
        self.advance(key, Input::Answer(&mut scratch[..bytes]));
        let has_length = self.clients.get(key).is_some_and(|client| client.exchange.has_length());
        if bytes == scratch.len() && !has_length {
            self.meet(key, Meets::All); // there may well be more
        }
        self.relay(key, &mut scratch[..bytes])
    }

    fn meet(&mut self, key: Key, meets: Meets) {
        if let Some(upstream) = self.upstream_of(key) {
            upstream.meets = meets;
        }
    }

    /// There were no bytes of an answer.
    fn no_answer(&mut self, key: Key, read: io::Result<Read>) -> bool {
        match read {
            Ok(Read::Bytes(_) | Read::NotReady) => false,
            Ok(Read::End) => self.step(key, Input::UpstreamEnd, &[]),
            Err(error) => self.step(key, Input::UpstreamFailed(upstream_error(&error)), &[]),
        }
    }

    /// Does what the exchange said of `bytes` of an answer, and tells it of those that it did not use.
    fn relay(&mut self, key: Key, mut bytes: &mut [u8]) -> bool {
        loop {
            let used = self.out.used;
            self.apply(key, bytes);
            bytes = &mut bytes[used..];
            // An interim answer is used alone, and what follows it may be whole as well.
            let wants = self.clients.get(key).map(|client| client.exchange.wants());
            if bytes.is_empty() || !matches!(wants, Some(Wants::Answer | Wants::Send)) {
                return true;
            }
            if used == 0 {
                if let Some(upstream) = self.upstream_of(key) {
                    upstream.input = (&*bytes).into();
                }
                return true;
            }
            self.advance(key, Input::Answer(bytes));
        }
    }

    /// Looks at an answer, and has it go through the pipe if it is long and nothing is to be changed in it.
    fn look_at_answer(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        let Some(upstream) = self.upstream_of(key) else { return false };
        let bytes = match upstream.stream.peek(scratch) {
            Ok(Read::Bytes(bytes)) => &mut scratch[..bytes],
            read => return self.no_answer(key, read),
        };
        if upstream.meets == Meets::Head {
            upstream.meets = Meets::Read; // what follows has no head
        }
        self.advance(key, Input::Answer(bytes));
        let known = bytes.len();
        let unseen = self.clients.get(key).map_or(0, |client| client.exchange.unseen());
        let all = unseen.saturating_add(known as u64);
        let mut filled = 0;
        if all >= BULK_BYTES_MIN && self.out.pass == (0..known) {
            if let Ok(Read::Bytes(bytes)) = self.fill_pipe(key, all) {
                filled = bytes;
            }
            if let Some(more) = filled.checked_sub(known) {
                return self.pour_answer(key, known, more);
            }
            self.pipe = None; // what little came is here as well
        }
        // What was looked at is taken for read, so it has to be taken out.
        self.meet(key, Meets::Read);
        let mut left = known - filled;
        while let Some(upstream) = self.upstream_of(key).filter(|_| left > 0) {
            let Ok(Read::Bytes(skipped)) = upstream.stream.skip(&mut bytes[known - left..]) else { break };
            left -= skipped;
        }
        self.relay(key, bytes);
        // Where it could not be, the connection failed just now; it may say so only once.
        let waits = self.clients.get(key).is_some_and(|client| client.exchange.wants() == Wants::Answer);
        if left > 0 && waits {
            return self.step(key, Input::UpstreamFailed(UpstreamError::Other), &[]);
        }
        true
    }

    /// Whether there is a pipe, which is empty.
    fn has_pipe(&mut self) -> bool {
        if self.pipe.is_none() {
            // Where there is no descriptor for one, bytes are read and written.
            self.pipe = self.network.pipe().ok();
        }
        self.pipe.is_some()
    }

    fn fill_pipe(&mut self, key: Key, most: u64) -> io::Result<Read> {
        if !self.has_pipe() {
            return Ok(Read::NotReady);
        }
        let Some(client) = self.clients.get(key) else { return Ok(Read::NotReady) };
        let bytes_max = if client.is_slow { SCRATCH_BYTES } else { PASS_BYTES_MAX };
        let upstream = client.upstream.and_then(|upstream| self.upstreams.get_mut(upstream));
        let (Some(upstream), Some(pipe)) = (upstream, &mut self.pipe) else { return Ok(Read::NotReady) };
        upstream.stream.fill(pipe, most.min(bytes_max as u64) as usize)
    }

    /// The pipe holds `known` bytes, of which the exchange said that they go on, and then `more` that nobody has
    /// seen.
    fn pour_answer(&mut self, key: Key, known: usize, more: usize) -> bool {
        let mut bytes = known;
        if more > 0 {
            self.advance(key, Input::Passed(more as u64));
            bytes += self.out.pass.len();
        }
        self.out.pass = 0..0; // it says nothing of bytes that are here
        let delivered = self.deliver_from_pipe(key, bytes, known + more);
        self.act(key, delivered);
        true
    }

    /// Has the client take the first `bytes` of those that the pipe holds; what it does not take now is kept. Says
    /// whether the connection still holds.
    fn deliver_from_pipe(&mut self, key: Key, bytes: usize, held: usize) -> bool {
        let (Some(client), Some(mut pipe)) = (self.clients.get_mut(key), self.pipe.take()) else {
            return true;
        };
        let Ok(taken) = client.stream.pour(&mut pipe, bytes) else { return false };
        if taken < bytes {
            let mut kept = vec![0; bytes - taken];
            let mut at = 0;
            while at < kept.len() {
                match pipe.read(&mut kept[at..]) {
                    Ok(read @ 1..) => at += read,
                    _ => return false,
                }
            }
            client.outbox = Some(Box::new(Outbox { bytes: kept, taken: 0 }));
            client.is_slow = true;
        }
        // One that holds bytes which nobody is to have is not used again.
        self.pipe = (bytes == held).then_some(pipe);
        self.sent(key, taken);
        true
    }
}
