//! How a response gets from a pod's connection to a client's: bytes that are read and written on, and bytes that go
//! through the worker's pipe ([`crate::net::transport::splice`]) and are never copied, or once to be looked at.
//!
//! Of a body of a known length nothing but the head has to be looked at, of one in chunks everything but the inside
//! of large chunks, which still costs one copy instead of two. All that takes more calls than to read and to write,
//! so it is done where the last response, or what there is of this one, was long.
//!
//! To look into the pipe takes a call more than to look into the socket (`MSG_PEEK`) would, and costs less: the
//! kernel acknowledges what has come at the first call on a socket, and again when that has made room, which it does
//! at once where the first call takes the bytes out.
//!
//! Never decides what goes on: that is the exchange's, which is asked before anything does.

use std::{io, mem};

use super::{Move, Runner};
use crate::{
    net::{
        client::Client,
        network::Network,
        stream::{Ready, Received, upstream_error},
        transfer::{PASS_BYTES_MAX, PEEK_BYTES_MAX, READ_BYTES_MAX, refused},
        transport::Transport,
        upstreams::{BULK_BYTES_MIN, ReadMode},
    },
    proxy::{
        events::{Event, Wants},
        outcome::UpstreamError,
    },
};

/// What is looked at of a response whose head is expected to tell the length: it fits in, unless it is a rare one.
const HEAD_BYTES: usize = 1024;

impl<N: Network> Runner<'_, N> {
    /// Moves bytes of a response, if there are any.
    pub(super) fn read_response(&mut self, scratch: &mut [u8]) -> Move {
        let opaque = self.client.session.opaque_len();
        let room = self.room_to_read(PASS_BYTES_MAX) as u64;
        let Some(upstream) = self.upstream.as_deref_mut() else { return Move::Nothing };
        let (held, read_mode) = (upstream.input.len(), upstream.read_mode);
        let peeks = read_mode != ReadMode::Read && held == 0;
        // At a mark of urgent data splice(2) says EAGAIN, although there is more behind it.
        let is_urgent = upstream.stream.is_ready(Ready::URGENT);
        if room == 0 {
            let is_readable = upstream.stream.is_ready(Ready::READ);
            return self.pause(is_readable);
        }
        let may_splice = room >= BULK_BYTES_MIN
            && !is_urgent
            && upstream.stream.socket().can_splice()
            && self.client.stream.socket().can_splice();
        let splices = may_splice && (opaque >= BULK_BYTES_MIN || peeks);
        if !splices || !self.tools.transfer.has_pipe(&mut self.tools.network, self.shared) {
            return self.read_bytes(scratch, held, room);
        }
        let most = match read_mode {
            _ if opaque >= BULK_BYTES_MIN => opaque,
            ReadMode::Head => PASS_BYTES_MAX as u64,
            ReadMode::All | ReadMode::Read => PEEK_BYTES_MAX as u64,
        };
        match self.tools.transfer.splice_in(&mut upstream.stream, &self.client.outbox, most.min(room)) {
            Ok(Received::Bytes(bytes)) if opaque >= BULK_BYTES_MIN => self.splice_response(0, bytes),
            Ok(Received::Bytes(bytes)) => self.peek_response(scratch, read_mode, bytes),
            // splice(2) gives nothing at a mark of urgent data too, where the pod has ended its side.
            Ok(Received::Eof { .. }) => self.read_bytes(scratch, held, room),
            Err(error) if refused("splice", &error, self.shared) => self.read_bytes(scratch, held, room),
            read => self.no_response(read),
        }
    }

    /// Reads at most `room` bytes of a response, behind those that are `held` back.
    fn read_bytes(&mut self, scratch: &mut [u8], held: usize, room: u64) -> Move {
        let Some(upstream) = self.upstream.as_deref_mut() else { return Move::Nothing };
        let most = READ_BYTES_MAX.min(held + room as usize);
        let bytes = match upstream.stream.read(&mut scratch[held..most]) {
            Ok(Received::Bytes(bytes)) => held + bytes,
            read => return self.no_response(read),
        };
        let is_full = bytes == READ_BYTES_MAX;
        let moved = self.take_response(&mut scratch[..bytes]);
        let session = &self.client.session;
        if is_full && session.wants() == Wants::Response && !session.has_length() {
            self.set_read_mode(ReadMode::All); // there may well be more
        }
        moved
    }

    /// Bytes of a response are here, behind room for those that were held back.
    fn take_response(&mut self, bytes: &mut [u8]) -> Move {
        if let Some(upstream) = self.upstream.as_deref_mut() {
            let held = mem::take(&mut upstream.input);
            bytes[..held.len()].copy_from_slice(&held);
        }
        self.advance(Event::Response(bytes));
        self.relay(bytes)
    }

    fn set_read_mode(&mut self, read_mode: ReadMode) {
        if let Some(upstream) = self.upstream.as_deref_mut() {
            upstream.read_mode = read_mode;
        }
    }

    /// There were no bytes of a response.
    fn no_response(&mut self, read: io::Result<Received>) -> Move {
        match read {
            Ok(Received::Bytes(_) | Received::NotReady) => Move::Nothing,
            Ok(Received::Eof { clean }) => self.step(Event::UpstreamEof { clean }),
            Err(error) => self.step(Event::UpstreamFailed(upstream_error(&error))),
        }
    }

    /// Delivers what the exchange said of `bytes` of a response, and passes it those that it did not use.
    fn relay(&mut self, mut bytes: &mut [u8]) -> Move {
        loop {
            let used = self.tools.out.used;
            let moved = self.deliver(bytes);
            bytes = &mut bytes[used..];
            // An interim response is used alone, and what follows it may be whole as well.
            if moved != Move::Made || bytes.is_empty() || !self.awaits_response() {
                return moved;
            }
            if used == 0 {
                if let Some(upstream) = self.upstream.as_deref_mut() {
                    upstream.input = (&*bytes).into();
                }
                self.client.unsettled = true;
                return moved;
            }
            self.advance(Event::Response(bytes));
        }
    }

    fn awaits_response(&self) -> bool {
        matches!(self.client.session.wants(), Wants::Response | Wants::Send)
    }

    /// Looks at the beginning of a response of which so many bytes are in the pipe, or at all of them, and has them
    /// go on from there if nothing is to be changed in them and the rest needs no look.
    fn peek_response(&mut self, scratch: &mut [u8], read_mode: ReadMode, piped: usize) -> Move {
        let most = if read_mode == ReadMode::Head { HEAD_BYTES } else { scratch.len() };
        let peeked = match self.tools.transfer.peek::<N::Socket>(&mut scratch[..most.min(piped)]) {
            Some(Ok(bytes)) => Some(bytes),
            Some(Err(error)) => {
                refused("tee", &error, self.shared);
                None
            }
            None => None,
        };
        let known = peeked.unwrap_or(0);
        if read_mode == ReadMode::Head || (piped as u64) < BULK_BYTES_MIN {
            self.set_read_mode(ReadMode::Read); // what follows has no head, and small portions are cheaper to read
        }
        let mut moved = Move::Made;
        if known > 0 {
            self.advance(Event::Response(&mut scratch[..known]));
            let session = &self.client.session;
            let (has_length, ended) = (session.has_length(), session.opaque_len() == 0);
            if self.tools.out.pass == (0..known) && (piped == known || has_length) {
                return self.splice_response(known, if ended { 0 } else { piped - known });
            }
            self.set_read_mode(ReadMode::Read);
            self.tools.transfer.piped -= known; // these go on from here
            moved = self.relay(&mut scratch[..known]);
        }
        moved = self.drain_pipe(scratch, known, moved);
        if peeked.is_none() {
            self.tools.transfer.drop_pipe();
        }
        moved
    }

    /// Has what is in the pipe go on, but for the first `known` bytes, which have: if none of it has to be looked at
    /// from there, else it is read as from the connection that it came from.
    fn drain_pipe(&mut self, scratch: &mut [u8], mut known: usize, mut moved: Move) -> Move {
        while (known > 0 || self.tools.transfer.piped > 0) && moved == Move::Made && self.awaits_response() {
            let piped = self.tools.transfer.piped;
            if known == 0 && self.client.session.opaque_len() >= piped as u64 && !self.client.is_stalled() {
                return self.splice_response(0, piped);
            }
            let held = self.upstream.as_deref().filter(|_| known == 0).map_or(0, |it| it.input.len());
            let room = if known > 0 { &mut scratch[..known] } else { &mut scratch[held..] };
            match self.tools.transfer.read::<N::Socket>(room) {
                Some(Ok(bytes @ 1..)) if known > 0 => known -= bytes,
                Some(Ok(bytes @ 1..)) => {
                    self.tools.transfer.piped -= bytes;
                    moved = self.take_response(&mut scratch[..held + bytes]);
                }
                // They are lost, and with them the response.
                _ => moved = self.step(Event::UpstreamFailed(UpstreamError::Other)),
            }
        }
        self.note_surplus();
        self.tools.transfer.piped += known;
        self.tools.transfer.drop_unless_empty();
        moved
    }

    /// Bytes that the pipe still holds answer nothing, and the connection that they came on is not used again.
    fn note_surplus(&mut self) {
        let has_surplus = self.tools.transfer.piped > 0;
        if let Some(upstream) = self.upstream.as_deref_mut() {
            upstream.has_surplus |= has_surplus;
        }
    }

    /// The pipe holds `known` bytes, of which the exchange said that they go on, and then `more` that nobody has
    /// seen.
    fn splice_response(&mut self, known: usize, more: usize) -> Move {
        let mut bytes = known;
        if more > 0 {
            self.advance(Event::Spliced(more as u64));
            bytes += self.tools.out.pass.len();
        }
        self.tools.out.pass = 0..0; // it says nothing of bytes that are here
        let Client { stream, outbox, .. } = &mut *self.client;
        let sent = &self.counters.client_sent_bytes;
        let delivered = self.tools.transfer.splice_out(stream, outbox, bytes, self.shared, sent);
        self.client.unsettled |= self.client.is_stalled();
        let moved = self.after(delivered);
        self.note_surplus();
        self.tools.transfer.drop_unless_empty();
        moved
    }
}
