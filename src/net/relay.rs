//! How an answer gets from a pod's connection to a client's: bytes that are read and written on, and bytes that go
//! through the worker's pipe ([`super::splice`]) and are never copied, or once to be looked at.
//!
//! Of a body of a known length nothing but the head has to be looked at, of one in chunks everything but the inside
//! of large chunks, which still costs one copy instead of two. All that takes more calls than to read and to write,
//! so it is done where the last answer, or what there is of this one, was long.
//!
//! To look into the pipe takes a call more than to look into the socket (`MSG_PEEK`) would, and costs less: the
//! kernel acknowledges what has come at the first call on a socket, and again when that has made room, which it does
//! at once where the first call takes the bytes out.
//!
//! Never decides what goes on: that is the exchange's, which is asked before anything does.

use std::{io, mem};

use log::warn;

use super::{
    pump::{Client, Outbox, READ_BYTES_MAX},
    slots::Key,
    splice::{Pipe, is_refused},
    stream::{Ready, Received, upstream_error},
    worker::{Network, Worker},
};
use crate::proxy::{
    events::{Event, Wants},
    exchange::Exchange,
    outcome::UpstreamError,
};

/// From so many bytes on it is cheaper to look and have them go through the pipe than to read and write them.
const BULK_BYTES_MIN: u64 = 32 * 1024;
/// The most that goes through the pipe at once, and so the most that is ever kept for a client that does not take
/// it: a body of 512 KiB with its head. Once a client did not take all of an answer, or so many clients take nothing,
/// it is as little as is read.
pub const PASS_BYTES_MAX: usize = 528 * 1024;
const STALLED_AT_LENGTH_MAX: usize = 8;
/// The most that is looked at, all of it, at once: a body of 256 KiB with its head and chunks.
pub const LOOK_BYTES_MAX: usize = 272 * 1024;
/// What is looked at of an answer whose head is expected to tell the length: it fits in, unless it is a rare one.
const HEAD_BYTES: usize = 1024;

/// How bytes of an answer are met, by what came before on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// They are read.
    #[default]
    Read,
    /// They are looked at as far as a head goes: a long body of a known length is expected.
    Head,
    /// They are looked at, all of them: a long body in chunks is expected, or under way.
    All,
}

impl ReadMode {
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
    pub(super) fn read_response(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        let Some(client) = self.clients.get(key) else { return false };
        let unseen = client.exchange.opaque_len();
        let Some(upstream) = self.upstream_of(key) else { return false };
        let (held, meets) = (upstream.input.len(), upstream.meets);
        let looks = meets != ReadMode::Read && held == 0;
        // At a mark of urgent data splice(2) says EAGAIN, although there is more behind it.
        let is_urgent = upstream.stream.is_ready(Ready::URGENT);
        let room = self.room_to_read(key, PASS_BYTES_MAX) as u64;
        if room == 0 {
            return self.pause_upstream(key);
        }
        let may_splice = room >= BULK_BYTES_MIN && !is_urgent;
        if may_splice && (unseen >= BULK_BYTES_MIN || looks) && self.has_pipe() {
            let most = match meets {
                _ if unseen >= BULK_BYTES_MIN => unseen,
                ReadMode::Head => PASS_BYTES_MAX as u64,
                ReadMode::All | ReadMode::Read => LOOK_BYTES_MAX as u64,
            };
            let most = most.min(room);
            match self.fill_pipe(key, most) {
                Ok(Received::Bytes(bytes)) if unseen >= BULK_BYTES_MIN => self.splice_response(key, 0, bytes),
                Ok(Received::Bytes(bytes)) => self.peek_response(key, scratch, meets, bytes),
                // splice(2) gives nothing at a mark of urgent data too, where the pod has ended its side.
                Ok(Received::Eof) => return self.read_bytes(key, scratch, held, room),
                Err(error) if self.is_refused("splice", &error) => {
                    return self.read_bytes(key, scratch, held, room);
                }
                read => return self.no_response(key, read),
            }
            return true;
        }
        self.read_bytes(key, scratch, held, room)
    }

    /// Reads at most `room` bytes of an answer, behind those that are `held` back.
    fn read_bytes(&mut self, key: Key, scratch: &mut [u8], held: usize, room: u64) -> bool {
        let Some(upstream) = self.upstream_of(key) else { return false };
        let most = READ_BYTES_MAX.min(held + room as usize);
        let bytes = match upstream.stream.read(&mut scratch[held..most]) {
            Ok(Received::Bytes(bytes)) => held + bytes,
            read => return self.no_response(key, read),
        };
        let is_full = bytes == READ_BYTES_MAX;
        self.take_response(key, &mut scratch[..bytes]);
        let is_coded =
            |client: &Client<_>| client.exchange.wants() == Wants::Response && !client.exchange.has_length();
        if is_full && self.clients.get(key).is_some_and(is_coded) {
            self.meet(key, ReadMode::All); // there may well be more
        }
        true
    }

    /// Bytes of an answer are here, behind room for those that were held back.
    fn take_response(&mut self, key: Key, bytes: &mut [u8]) {
        if let Some(upstream) = self.upstream_of(key) {
            let held = mem::take(&mut upstream.input);
            bytes[..held.len()].copy_from_slice(&held);
        }
        self.advance(key, Event::Response(bytes));
        self.relay(key, bytes);
    }

    fn meet(&mut self, key: Key, meets: ReadMode) {
        if let Some(upstream) = self.upstream_of(key) {
            upstream.meets = meets;
        }
    }

    /// There were no bytes of an answer.
    fn no_response(&mut self, key: Key, read: io::Result<Received>) -> bool {
        match read {
            Ok(Received::Bytes(_) | Received::NotReady) => false,
            Ok(Received::Eof) => self.step(key, Event::UpstreamEof, &[]),
            Err(error) => self.step(key, Event::UpstreamFailed(upstream_error(&error)), &[]),
        }
    }

    /// Does what the exchange said of `bytes` of an answer, and tells it of those that it did not use.
    fn relay(&mut self, key: Key, mut bytes: &mut [u8]) {
        loop {
            let used = self.out.used;
            self.apply(key, bytes);
            bytes = &mut bytes[used..];
            // An interim answer is used alone, and what follows it may be whole as well.
            if bytes.is_empty() || !self.awaits_response(key) {
                return;
            }
            if used == 0 {
                if let Some(upstream) = self.upstream_of(key) {
                    upstream.input = (&*bytes).into();
                }
                if let Some(client) = self.clients.get_mut(key) {
                    client.unsettled = true;
                }
                return;
            }
            self.advance(key, Event::Response(bytes));
        }
    }

    fn awaits_response(&self, key: Key) -> bool {
        let wants = self.clients.get(key).map(|client| client.exchange.wants());
        matches!(wants, Some(Wants::Response | Wants::Send))
    }

    /// Looks at the beginning of an answer of which so many bytes are in the pipe, or at all of them, and has them
    /// go on from there if nothing is to be changed in them and the rest needs no look.
    fn peek_response(&mut self, key: Key, scratch: &mut [u8], meets: ReadMode, filled: usize) {
        let look = if meets == ReadMode::Head { HEAD_BYTES } else { scratch.len() };
        let looked = match self.pipe.as_mut().map(|pipe| pipe.peek(&mut scratch[..look.min(filled)])) {
            Some(Ok(bytes)) => Some(bytes),
            Some(Err(error)) => {
                self.is_refused("tee", &error);
                None
            }
            None => None,
        };
        let known = looked.unwrap_or(0);
        if meets == ReadMode::Head || (filled as u64) < BULK_BYTES_MIN {
            self.meet(key, ReadMode::Read); // what follows has no head, and small portions are cheaper to read
        }
        if known > 0 {
            self.advance(key, Event::Response(&mut scratch[..known]));
            let Some(client) = self.clients.get(key) else { return };
            let (has_length, ended) = (client.exchange.has_length(), client.exchange.opaque_len() == 0);
            if self.out.pass == (0..known) && (filled == known || has_length) {
                return self.splice_response(key, known, if ended { 0 } else { filled - known });
            }
            self.meet(key, ReadMode::Read);
            self.piped -= known; // these go on from here
            self.relay(key, &mut scratch[..known]);
        }
        self.drain_pipe(key, scratch, known);
        if looked.is_none() {
            self.pipe = None;
        }
    }

    /// Has what is in the pipe go on, but for the first `known` bytes, which have: if none of it has to be looked at
    /// from there, else it is read as from the connection that it came from.
    fn drain_pipe(&mut self, key: Key, scratch: &mut [u8], mut known: usize) {
        while (known > 0 || self.piped > 0) && self.awaits_response(key) {
            let Some(client) = self.clients.get(key) else { break };
            if known == 0 && client.exchange.opaque_len() >= self.piped as u64 && !client.is_stalled() {
                return self.splice_response(key, 0, self.piped);
            }
            let held =
                self.upstream_of(key).filter(|_| known == 0).map_or(0, |upstream| upstream.input.len());
            let room = if known > 0 { &mut scratch[..known] } else { &mut scratch[held..] };
            match self.pipe.as_mut().map(|pipe| pipe.read(room)) {
                Some(Ok(bytes @ 1..)) if known > 0 => known -= bytes,
                Some(Ok(bytes @ 1..)) => {
                    self.piped -= bytes;
                    self.take_response(key, &mut scratch[..held + bytes]);
                }
                // They are lost, and with them the answer.
                _ => {
                    self.step(key, Event::UpstreamFailed(UpstreamError::Other), &[]);
                }
            }
        }
        self.piped += known;
        self.drop_unless_empty();
    }

    /// Bytes that stay in the pipe are for nobody.
    fn drop_unless_empty(&mut self) {
        if self.piped > 0 {
            (self.pipe, self.piped) = (None, 0);
        }
    }

    /// Whether there is a pipe, which is empty.
    fn has_pipe(&mut self) -> bool {
        self.drop_unless_empty();
        if !self.shared.splices() {
            self.pipe = None;
        } else if self.pipe.is_none() {
            // Where there is no descriptor for one, bytes are read and written.
            self.pipe = match self.network.pipe() {
                Ok(pipe) => Some(pipe),
                Err(error) => {
                    self.is_refused("pipe2", &error);
                    None
                }
            };
        }
        self.pipe.is_some()
    }

    /// Whether the kernel does not offer a call at all. Then no worker goes through pipes from now on.
    fn is_refused(&self, call: &str, error: &io::Error) -> bool {
        let refused = is_refused(error);
        if refused && self.shared.stop_splicing() {
            warn!("{call}(2) is not available here ({error}); long answers are copied from now on");
        }
        refused
    }

    /// Takes at most so many bytes of an answer into the pipe, which is there and empty.
    fn fill_pipe(&mut self, key: Key, most: u64) -> io::Result<Received> {
        let may_be_kept = self.stalled < STALLED_AT_LENGTH_MAX;
        let Some(client) = self.clients.get(key) else { return Ok(Received::NotReady) };
        let bytes_max = if may_be_kept && !client.is_slow { PASS_BYTES_MAX } else { READ_BYTES_MAX };
        let upstream = client.upstream.and_then(|upstream| self.upstreams.get_mut(upstream));
        let (Some(upstream), Some(pipe)) = (upstream, &mut self.pipe) else { return Ok(Received::NotReady) };
        let read = upstream.stream.splice_in(pipe, most.min(bytes_max as u64) as usize);
        if let Ok(Received::Bytes(bytes)) = read {
            self.piped = bytes;
        }
        read
    }

    /// The pipe holds `known` bytes, of which the exchange said that they go on, and then `more` that nobody has
    /// seen.
    fn splice_response(&mut self, key: Key, known: usize, more: usize) {
        let mut bytes = known;
        if more > 0 {
            self.advance(key, Event::Spliced(more as u64));
            bytes += self.out.pass.len();
        }
        self.out.pass = 0..0; // it says nothing of bytes that are here
        let delivered = self.deliver_from_pipe(key, bytes);
        self.act(key, delivered);
        self.drop_unless_empty();
    }

    /// Has the client take the first `bytes` of those that the pipe holds; what it does not take now is kept. Says
    /// whether the connection still holds.
    fn deliver_from_pipe(&mut self, key: Key, bytes: usize) -> bool {
        let (Some(client), Some(pipe)) = (self.clients.get_mut(key), &mut self.pipe) else { return true };
        let poured = client.stream.splice_out(pipe, bytes);
        let taken = match poured {
            Ok(taken) => taken,
            Err(error) if self.is_refused("splice", &error) => 0, // what is kept goes on at the next move
            Err(_) => return false,
        };
        let (Some(client), Some(pipe)) = (self.clients.get_mut(key), &mut self.pipe) else { return true };
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
        self.sent(key, taken);
        true
    }
}
