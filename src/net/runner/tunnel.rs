//! Moves bytes through a tunnel: read and written, or through the worker's pipe if there are many.
//!
//! The two directions are independent of each other. Bytes that a side does not accept now are held in its outbox;
//! while it holds any, the other side is not read. Never examines the bytes.

use std::mem;

use super::{Move, Runner};
use crate::{
    net::{
        client::Client,
        network::Network,
        outbox::Outbox,
        stream::{Ready, Received, Stream},
        transfer::{PASS_BYTES_MAX, READ_BYTES_MAX, refused},
        transport::Transport,
        upstreams::{BULK_BYTES_MIN, Upstream},
    },
    proxy::{
        events::{Event, Side},
        metrics::{Counter, Counters},
    },
};

/// The result of an attempt to move bytes in one direction.
enum Moved {
    /// No byte.
    Nothing,
    /// Some bytes.
    Bytes,
    /// The source closed its sending direction.
    Eof,
    /// The connection of this side failed.
    Failed(Side),
}

/// One direction of a tunnel.
struct Direction<'c, S> {
    source: &'c mut Stream<S>,
    sink: &'c mut Stream<S>,
    /// Bytes that the sink has yet to accept.
    outbox: &'c mut Outbox,
    /// Counts the bytes that the sink accepted.
    sent: &'c Counter,
}

impl<'c, S> Direction<'c, S> {
    fn from(
        source: Side,
        client: &'c mut Client<S>,
        upstream: &'c mut Upstream<S>,
        counters: &'c Counters,
    ) -> Self {
        let Client { stream, outbox, to_pod, .. } = client;
        let pod = &mut upstream.stream;
        match source {
            Side::Client => Self {
                source: stream,
                sink: pod,
                outbox: to_pod.get_or_insert_default(),
                sent: &counters.tunnel_to_pods,
            },
            Side::Pod => Self { source: pod, sink: stream, outbox, sent: &counters.client_sent_bytes },
        }
    }
}

impl<N: Network> Runner<'_, N> {
    /// Moves bytes of a tunnel, if there are any, in both directions.
    pub(super) fn tunnel(&mut self, scratch: &mut [u8]) -> Move {
        let mut moved = Move::Nothing;
        for from in [Side::Client, Side::Pod] {
            let event = match self.move_from(from, scratch) {
                Moved::Nothing => continue,
                Moved::Bytes => Event::Tunnelled,
                Moved::Eof => Event::TunnelEof(from),
                Moved::Failed(side) => Event::TunnelFailed(side),
            };
            moved = self.step(event);
            if moved != Move::Made {
                return moved;
            }
        }
        if moved == Move::Nothing {
            self.client.rest();
        }
        moved
    }

    fn move_from(&mut self, from: Side, scratch: &mut [u8]) -> Moved {
        let moved = self.flush_to(from.other());
        if !matches!(moved, Moved::Nothing) {
            return moved;
        }
        let room = self.room_to_read(PASS_BYTES_MAX);
        let Some(source) = self.stream_of(from) else { return Moved::Nothing };
        let (is_failed, is_readable) = (source.is_ready(Ready::FAILED), source.is_ready(Ready::READ));
        if self.is_stalled(from.other()) || !self.client.session.reads_from(from) {
            // Bytes that it holds for the other side are lost with it, as by a reset without a tunnel.
            return if is_failed { Moved::Failed(from) } else { Moved::Nothing };
        }
        if room == 0 {
            self.pause(is_readable);
            return Moved::Nothing;
        }
        let moved = match self.splice_from(from, room) {
            Some(moved) => moved,
            None => self.copy_from(from, &mut scratch[..room.min(READ_BYTES_MAX)]),
        };
        self.client.unsettled |= self.is_stalled(from.other());
        moved
    }

    /// Returns whether a side has yet to take bytes: those that TLS has encrypted, or those in its outbox.
    #[inline]
    fn is_stalled(&mut self, side: Side) -> bool {
        let has_unsent = self.stream_of(side).is_some_and(|stream| stream.channel().has_unsent());
        has_unsent || self.client.outbox_to(side).is_stalled()
    }

    /// Writes the bytes in a side's outbox.
    fn flush_to(&mut self, to: Side) -> Moved {
        let Self { client, upstream, tools, counters, .. } = self;
        let Some(upstream) = upstream.as_deref_mut() else { return Moved::Nothing };
        if to == Side::Pod && !client.input.is_empty() {
            // Bytes after the CONNECT request.
            client.input_is_new = false;
            let bytes = mem::take(&mut client.input).into_vec();
            tools.transfer.keep(client.outbox_to(to), bytes);
        }
        let Direction { sink, outbox, sent, .. } = Direction::from(to.other(), client, upstream, counters);
        if !outbox.is_stalled() {
            return if sink.flush().is_ok() { Moved::Nothing } else { Moved::Failed(to) };
        }
        let before = outbox.sent_bytes;
        match tools.transfer.flush(sink, outbox, sent) {
            Err(_) => Moved::Failed(to),
            Ok(()) if outbox.sent_bytes > before => Moved::Bytes,
            Ok(()) => Moved::Nothing,
        }
    }

    /// Reads bytes from one side, and writes them to the other.
    fn copy_from(&mut self, from: Side, scratch: &mut [u8]) -> Moved {
        let Self { client, upstream, tools, counters, .. } = self;
        let Some(upstream) = upstream.as_deref_mut() else { return Moved::Nothing };
        let Direction { source, sink, outbox, sent } = Direction::from(from, client, upstream, counters);
        let bytes = match source.read(scratch) {
            Ok(Received::Bytes(bytes)) => bytes,
            Ok(Received::NotReady) => return Moved::Nothing,
            Ok(Received::Eof { .. }) => return Moved::Eof,
            Err(_) => return Moved::Failed(from),
        };
        outbox.is_long = bytes == READ_BYTES_MAX;
        if from == Side::Pod {
            counters.tunnel_to_clients.add(bytes as u64);
        }
        if tools.transfer.write(sink, outbox, &[], &scratch[..bytes], sent) {
            Moved::Bytes
        } else {
            Moved::Failed(from.other())
        }
    }

    /// Moves bytes through the pipe, if many are expected and both sides can. `None`: they have to be copied.
    fn splice_from(&mut self, from: Side, room: usize) -> Option<Moved> {
        let Self { client, upstream, tools, counters, shared, .. } = self;
        let upstream = upstream.as_deref_mut()?;
        let Direction { source, sink, outbox, sent } = Direction::from(from, client, upstream, counters);
        let can_splice = source.channel().can_splice() && sink.channel().can_splice();
        // At a mark of urgent data splice(2) returns EAGAIN, although there is more after it.
        let is_urgent = source.is_ready(Ready::URGENT);
        if !outbox.is_long || !can_splice || is_urgent || !tools.transfer.has_pipe(&mut tools.network, shared)
        {
            return None;
        }
        let bytes = match tools.transfer.splice_in(source, outbox, room as u64) {
            Ok(Received::Bytes(bytes)) => bytes,
            Ok(Received::NotReady) => return Some(Moved::Nothing),
            Ok(Received::Eof { .. }) => return Some(Moved::Eof),
            Err(error) if refused("splice", &error, shared) => return None,
            Err(_) => return Some(Moved::Failed(from)),
        };
        outbox.is_long = bytes as u64 >= BULK_BYTES_MIN;
        if from == Side::Pod {
            counters.tunnel_to_clients.add(bytes as u64);
        }
        let holds = tools.transfer.splice_out(sink, outbox, bytes, shared, sent);
        tools.transfer.drop_unless_empty();
        Some(if holds { Moved::Bytes } else { Moved::Failed(from.other()) })
    }
}
