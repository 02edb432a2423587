//! Moves a response from a pod's connection to a client's, either read and written, or through the worker's pipe
//! ([`crate::net::transport::splice`]) without being copied.
//!
//! With a Content-Length, only the head has to be examined, so it is peeked at in the pipe. That takes more calls than
//! reading and writing, so it is done only if the last response was long. With chunks, everything but the inside of
//! large chunks has to be examined: it is read, much at once.
//!
//! Peeking into the pipe takes one call more than peeking into the socket (`MSG_PEEK`) would, and still costs less: the
//! kernel acknowledges received bytes at the first call on a socket, and again when that call has made room, which is
//! at once if the first call removes the bytes.
//!
//! Never decides what to forward: the exchange decides that beforehand.

use std::{io, mem};

use super::{Move, Runner};
use crate::{
    net::{
        client::Client,
        network::Network,
        stream::{Ready, Received, upstream_error},
        transfer::{PASS_BYTES_MAX, READ_BYTES_MAX, refused},
        transport::Transport,
        upstreams::{BULK_BYTES_MIN, ReadMode},
    },
    proxy::{
        events::{Event, Wants},
        outcome::UpstreamError,
    },
};

/// How much is peeked at if the head is expected to have a Content-Length: all but rare heads fit.
const HEAD_BYTES: usize = 1024;

impl<N: Network> Runner<'_, N> {
    /// Moves bytes of a response, if there are any.
    pub(super) fn read_response(&mut self, scratch: &mut [u8]) -> Move {
        let opaque = self.client.session.opaque_len();
        let room = self.room_to_read(PASS_BYTES_MAX) as u64;
        let Some(upstream) = self.upstream.as_deref_mut() else { return Move::Nothing };
        if let Err(error) = upstream.stream.flush() {
            return self.step(Event::UpstreamFailed(upstream_error(&error))); // the end of the request
        }
        let (held, read_mode) = (upstream.input.len(), upstream.read_mode);
        let peeks = read_mode == ReadMode::Head && held == 0;
        // At a mark of urgent data splice(2) returns EAGAIN, although there is more after it.
        let is_urgent = upstream.stream.is_ready(Ready::URGENT);
        if room == 0 {
            let is_readable = upstream.stream.is_ready(Ready::READ);
            return self.pause(is_readable);
        }
        let may_splice = room >= BULK_BYTES_MIN
            && !is_urgent
            && upstream.stream.channel().can_splice()
            && self.client.stream.channel().can_splice();
        let splices = may_splice && (opaque >= BULK_BYTES_MIN || peeks);
        if !splices || !self.tools.transfer.has_pipe(&mut self.tools.network, self.shared) {
            return self.read_bytes(scratch, held, room);
        }
        let most = if opaque >= BULK_BYTES_MIN { opaque } else { PASS_BYTES_MAX as u64 };
        match self.tools.transfer.splice_in(&mut upstream.stream, &self.client.outbox, most.min(room)) {
            Ok(Received::Bytes(bytes)) if opaque >= BULK_BYTES_MIN => self.splice_response(0, bytes),
            Ok(Received::Bytes(bytes)) => self.peek_response(scratch, bytes),
            // At a mark of urgent data, splice(2) also returns 0 if the pod has ended its side.
            Ok(Received::Eof { .. }) => self.read_bytes(scratch, held, room),
            Err(error) if refused("splice", &error, self.shared) => self.read_bytes(scratch, held, room),
            read => self.no_response(read),
        }
    }

    /// Reads at most `room` bytes of a response, after the `held` ones.
    fn read_bytes(&mut self, scratch: &mut [u8], held: usize, room: u64) -> Move {
        let Some(upstream) = self.upstream.as_deref_mut() else { return Move::Nothing };
        let is_long = upstream.read_mode == ReadMode::Long && upstream.stream.channel().can_splice();
        let bytes_max =
            if is_long { self.tools.transfer.long_max(&self.client.outbox) } else { READ_BYTES_MAX };
        let most = bytes_max.min(held + room as usize);
        let bytes = match upstream.stream.read(&mut scratch[held..most]) {
            Ok(Received::Bytes(bytes)) => held + bytes,
            read => return self.no_response(read),
        };
        self.client.unsettled |= upstream.stream.channel().held_bytes() > 0;
        let is_full = bytes == READ_BYTES_MAX;
        let moved = self.take_response(&mut scratch[..bytes]);
        let session = &self.client.session;
        if is_full && session.wants() == Wants::Response && !session.has_length() {
            self.set_read_mode(ReadMode::Long); // more may well follow
        }
        moved
    }

    /// Processes bytes of a response, which follow a gap for those held.
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

    /// Handles a read that returned no bytes of a response.
    fn no_response(&mut self, read: io::Result<Received>) -> Move {
        match read {
            Ok(Received::Bytes(_) | Received::NotReady) => Move::Nothing,
            Ok(Received::Eof { clean }) => self.step(Event::UpstreamEof { clean }),
            Err(error) => self.step(Event::UpstreamFailed(upstream_error(&error))),
        }
    }

    /// Writes the part of `bytes` that the exchange forwards, and passes the unused bytes to the exchange again.
    fn relay(&mut self, mut bytes: &mut [u8]) -> Move {
        loop {
            let used = self.tools.out.used;
            let moved = self.deliver(bytes);
            bytes = &mut bytes[used..];
            // An interim response (RFC 9110 section 15.2) is used alone, and the next response may be complete as well.
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

    /// Peeks at the beginning of a response with `piped` bytes in the pipe. Forwards them from there if they are
    /// unchanged and the rest need not be examined.
    fn peek_response(&mut self, scratch: &mut [u8], piped: usize) -> Move {
        let peeked = match self.tools.transfer.peek::<N::Socket>(&mut scratch[..HEAD_BYTES.min(piped)]) {
            Some(Ok(bytes)) => Some(bytes),
            Some(Err(error)) => {
                refused("tee", &error, self.shared);
                None
            }
            None => None,
        };
        let known = peeked.unwrap_or(0);
        self.set_read_mode(ReadMode::Read); // the rest has no head
        let mut moved = Move::Made;
        if known > 0 {
            self.advance(Event::Response(&mut scratch[..known]));
            let session = &self.client.session;
            let (has_length, ended) = (session.has_length(), session.opaque_len() == 0);
            if self.tools.out.pass == (0..known) && (piped == known || has_length) {
                return self.splice_response(known, if ended { 0 } else { piped - known });
            }
            self.tools.transfer.piped -= known; // forwarded from the scratch buffer
            moved = self.relay(&mut scratch[..known]);
        }
        moved = self.drain_pipe(scratch, known, moved);
        if peeked.is_none() {
            self.tools.transfer.drop_pipe();
        }
        moved
    }

    /// Forwards the pipe's contents, except for the first `known` bytes, which are forwarded already. Splices them if
    /// none have to be examined; else reads them like bytes from the connection.
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
                // The bytes are lost, and the response with them.
                _ => moved = self.step(Event::UpstreamFailed(UpstreamError::Other)),
            }
        }
        self.note_surplus();
        self.tools.transfer.piped += known;
        self.tools.transfer.drop_unless_empty();
        moved
    }

    /// Notes bytes that are still in the pipe: they belong to no response, so their connection is not reused.
    fn note_surplus(&mut self) {
        let has_surplus = self.tools.transfer.piped > 0;
        if let Some(upstream) = self.upstream.as_deref_mut() {
            upstream.has_surplus |= has_surplus;
        }
    }

    /// Forwards `known` bytes in the pipe, as decided by the exchange, and then `more` that were not examined.
    fn splice_response(&mut self, known: usize, more: usize) -> Move {
        let mut bytes = known;
        if more > 0 {
            self.advance(Event::Spliced(more as u64));
            bytes += self.tools.out.pass.len();
        }
        self.tools.out.pass = 0..0; // not a range of bytes in the scratch buffer
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
