//! Moves a request from a client's connection to its pod's, for which it waits.
//!
//! Never decides where to: the exchange does.

use std::{io::IoSlice, mem};

use super::{Move, Runner};
use crate::{
    http1::head::REQUEST_HEAD_BYTES_MAX,
    net::{
        network::Network,
        stream::{Ready, Received, upstream_error},
        transport::{Transport, tls::fault::cause_of},
    },
    proxy::{
        budget::{ALLOWANCE_BYTES, REWRITE_BYTES},
        events::{Event, Wants},
    },
};

/// Size up to which a request, with everything held for it, is within each session's allowance.
const SETTLED_BYTES_MAX: usize = ALLOWANCE_BYTES - REWRITE_BYTES;

impl<N: Network> Runner<'_, N> {
    /// Pauses reading from the client, for lack of room.
    fn pause_client(&mut self) -> Move {
        self.pause(self.client.stream.is_ready(Ready::READ))
    }

    pub(super) fn read_request(&mut self, scratch: &mut [u8]) -> Move {
        let room = self.room_to_read(REQUEST_HEAD_BYTES_MAX);
        let held = self.client.input.len();
        let read = if mem::take(&mut self.client.input_is_new) {
            Ok(Received::Bytes(0))
        } else if room == 0 {
            return self.pause_client();
        } else {
            self.client.stream.read(&mut scratch[held..REQUEST_HEAD_BYTES_MAX.min(held + room)])
        };
        self.client.note_tls(self.counters);
        let bytes = match read {
            Ok(Received::Bytes(bytes)) => &mut scratch[..held + bytes],
            Ok(Received::NotReady) => return Move::Nothing,
            Ok(Received::Eof { .. }) if self.client.stream.channel().has_undelivered() => {
                return self.step(Event::ClientEnded);
            }
            Err(error) if cause_of(&error).is_some() => return self.step(Event::TlsFailed),
            Ok(Received::Eof { .. }) | Err(_) => return self.step(Event::ClientGone),
        };
        bytes[..held].copy_from_slice(&self.client.input);
        self.advance(Event::Request(bytes));
        let rest = &bytes[self.tools.out.used..];
        let client = &mut *self.client;
        client.unsettled |= !rest.is_empty() || bytes.len() > SETTLED_BYTES_MAX;
        client.input = rest.into();
        client.input_is_new = client.session.wants() != Wants::Request && !rest.is_empty();
        self.deliver(&[])
    }

    pub(super) fn await_connection(&mut self) -> Move {
        let Some(upstream) = &mut self.upstream else { return Move::Nothing };
        if !upstream.stream.is_ready(Ready::WRITE) {
            return Move::Nothing;
        }
        match upstream.stream.channel_mut().connected() {
            Ok(true) => {
                upstream.on_connected();
                self.step(Event::Connected { reused: false })
            }
            Ok(false) => {
                self.client.unsettled |= upstream.stream.channel().held_bytes() > 0;
                Move::Nothing
            }
            Err(error) => self.step(Event::UpstreamFailed(upstream_error(&error))),
        }
    }

    pub(super) fn send(&mut self, scratch: &mut [u8]) -> Move {
        let Some(upstream) = &mut self.upstream else { return Move::Nothing };
        match upstream.stream.write(&[IoSlice::new(self.client.session.unsent())]) {
            // A pod may respond before it has read the whole request, and then stop reading.
            Ok(0) if self.client.is_stalled() => Move::Nothing,
            Ok(0) => self.read_response(scratch),
            Ok(bytes) => self.step(Event::Sent(bytes)),
            Err(error) => self.step(Event::UpstreamFailed(upstream_error(&error))),
        }
    }
}
