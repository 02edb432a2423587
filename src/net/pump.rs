//! Moves the bytes of one exchange until nothing moves or its turn is over.
//!
//! Asks the exchange what it wants, does it if a socket is ready for it, and tells the exchange what came of it.
//! Bytes are read into the worker's scratch buffer and written on from there; those of a long body, once its head
//! is known, go through the worker's pipe ([`super::relay`]). Only what the other side does not take now is kept
//! with its connection; while any is, its source is not read.

use std::{io::IoSlice, mem};

use log::{debug, trace};

use super::{
    relay::ReadMode,
    slots::Key,
    stream::{Ready, Received, Socket, Stream, is_out_of_descriptors, upstream_error},
    worker::{Network, Token, Worker},
};
use crate::{
    http1::head::{REQUEST_HEAD_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX},
    proxy::{
        budget::{ALLOWANCE_BYTES, REWRITE_BYTES},
        events::{ClientAction, Context, Event, UpstreamAction, Wants},
        exchange::Exchange,
        outcome::{Class, UpstreamError},
        peer::Origin,
        timers::TimerSlot,
        timestamp::Timestamp,
    },
};

/// The most that is read at once, and so the most that is kept of it for a client that does not take it. The longest
/// head of an answer fits in.
pub const READ_BYTES_MAX: usize = RESPONSE_HEAD_BYTES_MAX;
/// The worker's buffer: what is looked at, at most. It takes no memory as far as nobody has used it.
pub const SCRATCH_BYTES: usize = super::relay::LOOK_BYTES_MAX;
/// A request that is so short, and all that is kept of it, is within what each session may hold.
const SETTLED_BYTES_MAX: usize = ALLOWANCE_BYTES - REWRITE_BYTES;
/// Reads, writes and transitions in one turn, so that one exchange does not starve the others.
const MOVES_MAX: usize = 16;
/// An answer of which so much is sent is a long one: others go first.
const BULK_BYTES: u64 = 128 * 1024;

/// A client's connection.
#[derive(Debug)]
pub struct Client<S> {
    pub(super) stream: Stream<S>,
    pub(super) exchange: Exchange,
    pub(super) upstream: Option<Key>,
    /// The beginning of a request, or requests that wait for their turn.
    pub(super) input: Box<[u8]>,
    /// The exchange has not seen `input` yet.
    pub(super) input_is_new: bool,
    pub(super) outbox: Option<Box<Outbox>>,
    /// It did not take at once all that it was sent of this answer.
    pub(super) is_slow: bool,
    /// Sent since the last exchange was over.
    sent_bytes: u64,
    pub(super) timer: TimerSlot,
    pub(super) queued: bool,
    /// It counts towards the most clients there may be.
    pub(super) has_place: bool,
    /// Until then it waits for a place.
    pub(super) waits_until: Option<Timestamp>,
    /// What it and its pod hold, as far as the budget counts it.
    pub(super) counted: u32,
    /// It waits for room in the buffers; and so it does as of this turn.
    pub(super) paused: bool,
    pub(super) lacks_room: bool,
    /// What is kept for it may have changed.
    pub(super) unsettled: bool,
    /// When it connected, if it has had no answer yet.
    pub(super) silent_since: Option<Timestamp>,
    /// When it began to idle, if it does.
    pub(super) idle_since: Timestamp,
}

/// What a client has yet to take: some bytes, always.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) bytes: Vec<u8>,
    pub(super) taken: usize,
}

/// A pod's connection.
#[derive(Debug)]
pub struct Upstream<S> {
    pub(super) stream: Stream<S>,
    origin: Origin,
    /// Whom it serves. Nobody: it is kept in the pool.
    pub(super) client: Option<Key>,
    /// The beginning of an answer's head.
    pub(super) input: Box<[u8]>,
    pub(super) meets: ReadMode,
    /// The kernel watches for the pod's vanishing ([`Socket::watch`]).
    is_watched: bool,
}

impl<S: Socket> Client<S> {
    pub(super) fn new(stream: Stream<S>, exchange: Exchange, has_place: bool, now: Timestamp) -> Self {
        Self {
            stream,
            exchange,
            upstream: None,
            input: Box::default(),
            input_is_new: false,
            outbox: None,
            is_slow: false,
            sent_bytes: 0,
            timer: TimerSlot::default(),
            queued: false,
            has_place,
            waits_until: None,
            counted: 0,
            paused: false,
            lacks_room: false,
            unsettled: false,
            silent_since: Some(now),
            idle_since: now,
        }
    }

    /// Whether it is in the middle of a long answer.
    pub(super) fn is_bulk(&self) -> bool {
        self.sent_bytes >= BULK_BYTES
    }

    /// Keeps what it did not take.
    pub(super) fn keep(&mut self, outbox: Outbox) {
        self.outbox = Some(Box::new(outbox));
        self.unsettled = true;
        self.is_slow = true;
    }

    /// Whether the client has yet to take bytes that were handed over.
    pub(super) fn is_stalled(&self) -> bool {
        self.outbox.is_some()
    }

    /// The same, and before it is closed, of bytes in the kernel too.
    pub(super) fn is_behind(&self) -> bool {
        self.is_stalled() || (self.exchange.lingers() && self.stream.socket().has_undelivered())
    }

    /// Whether the client went away while somebody works for it.
    fn is_gone(&self) -> bool {
        let works = match self.exchange.wants() {
            Wants::Connection | Wants::Send | Wants::Response => true,
            Wants::Flush => self.is_stalled(),
            Wants::Request | Wants::Discard | Wants::Delivery | Wants::Nothing => false,
        };
        works && self.stream.is_ready(Ready::END)
    }
}

impl<N: Network> Worker<N> {
    /// Moves the bytes of a client's exchange. Says whether it could go on at once.
    pub(super) fn pump(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        self.run_bytes = 0;
        for _ in 0..MOVES_MAX {
            if self.run_bytes >= self.run_bytes_max {
                return true;
            }
            if !self.flush(key) {
                return false;
            }
            let Some(client) = self.clients.get_mut(key) else { return false };
            let moved = match client.exchange.wants() {
                _ if client.is_gone() => self.step(key, Event::ClientGone, &[]),
                Wants::Request => self.read_request(key, scratch),
                Wants::Connection => self.await_connection(key),
                Wants::Send => self.send(key, scratch),
                Wants::Response if client.is_stalled() => false,
                Wants::Response => self.read_response(key, scratch),
                Wants::Flush if client.is_stalled() => false,
                Wants::Flush => self.step(key, Event::Flushed, &[]),
                Wants::Discard => self.discard(key, scratch),
                Wants::Delivery | Wants::Nothing => false,
            };
            if !moved {
                return false;
            }
        }
        true
    }

    /// Tells the exchange what happened, and does what it says. `bytes` are those of the input, if it had any.
    /// Always moves something: says so for the caller to pass on.
    pub(super) fn step(&mut self, key: Key, input: Event<'_>, bytes: &[u8]) -> bool {
        self.advance(key, input);
        self.apply(key, bytes);
        true
    }

    /// The exchange's next state; what it says is in `self.out`.
    pub(super) fn advance(&mut self, key: Key, input: Event<'_>) {
        let mut ctx = Context {
            now: self.now,
            draining: self.is_draining(),
            settings: self.shared.settings(),
            pages: &*self.shared,
            recycler: &mut self.recycler,
        };
        if let Some(client) = self.clients.get_mut(key) {
            trace!("client {}: {:?}", key.slot(), client.exchange.wants());
            let exchange = mem::replace(&mut client.exchange, Exchange::Closed);
            client.exchange = exchange.step(input, &mut ctx, &mut self.out);
        }
    }

    /// Does what `self.out` says: bytes first, then the pod's connection, then the client's.
    pub(super) fn apply(&mut self, key: Key, bytes: &[u8]) {
        if !self.out.is_silent() {
            let delivered = self.deliver(key, bytes);
            self.act(key, delivered);
        }
    }

    /// Does what `self.out` says beyond bytes. Where they could not be `delivered`, the client is gone.
    ///
    /// Some of it leads to the next step at once, which says something else: whatever is needed later is taken out
    /// of `self.out` before that.
    pub(super) fn act(&mut self, key: Key, delivered: bool) {
        let (upstream, action, report) = (self.out.upstream, self.out.client, self.out.report.take());
        if let (Some(report), Some(client)) = (report, self.clients.get_mut(key)) {
            let sent_bytes = mem::take(&mut client.sent_bytes);
            client.is_slow = false;
            if client.counted > 0 {
                self.budget.renew(key.slot());
            }
            // If it idles, it does so from now on.
            let list = match client.silent_since.take() {
                None => &mut self.idle_clients,
                Some(_) => &mut self.silent_clients,
            };
            list.remove(key.slot());
            let is_named = report.request.is_some() || report.outcome.class() != Class::Answered;
            let peer = is_named.then(|| client.stream.socket().peer()).flatten();
            self.record(&report, peer, sent_bytes);
        }
        match upstream {
            UpstreamAction::None => {}
            UpstreamAction::Keep => self.keep_upstream(key),
            UpstreamAction::Close => self.close_upstream(key),
            UpstreamAction::Connect(origin) => self.connect(key, origin),
            UpstreamAction::Retry(origin) => {
                debug!("{origin}: the pooled connection was closed or stale; retrying on a new one");
                self.counters().retries.add(1);
                self.close_upstream(key);
                self.open(key, origin);
            }
        }
        match action {
            ClientAction::None => {}
            ClientAction::Shutdown => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.stream.socket().shutdown();
                    client.input = Box::default();
                    self.stalled -= usize::from(client.outbox.take().is_some());
                    client.unsettled = true;
                }
            }
            ClientAction::Close => self.remove_client(key),
            ClientAction::Reset => {
                if let Some(client) = self.clients.get(key) {
                    client.stream.socket().reset_on_close();
                }
                self.remove_client(key);
            }
        }
        // Unless it was closed just now.
        if !delivered && self.clients.get(key).is_some() {
            self.step(key, Event::ClientGone, &[]);
        }
    }

    /// Writes what the exchange has for the client; what is not taken now is kept. Says whether the connection
    /// still holds.
    fn deliver(&mut self, key: Key, bytes: &[u8]) -> bool {
        let parts = [IoSlice::new(&self.out.head), IoSlice::new(&bytes[self.out.pass.clone()])];
        let all = parts[0].len() + parts[1].len();
        if all == 0 {
            return true;
        }
        let Some(client) = self.clients.get_mut(key) else { return true };
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
        self.sent(key, taken);
        true
    }

    /// Writes what is kept for the client. Says whether there still is a client.
    fn flush(&mut self, key: Key) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        let Some(outbox) = &mut client.outbox else { return true };
        match client.stream.write(&[IoSlice::new(&outbox.bytes[outbox.taken..])]) {
            Ok(taken) => {
                outbox.taken += taken;
                if outbox.taken == outbox.bytes.len() {
                    client.outbox = None; // one that is empty holds no memory
                    self.stalled -= 1;
                }
                self.sent(key, taken);
                true
            }
            Err(_) => !self.step(key, Event::ClientGone, &[]),
        }
    }

    /// Counts bytes that the client took.
    pub(super) fn sent(&mut self, key: Key, bytes: usize) {
        if let Some(client) = self.clients.get_mut(key) {
            client.sent_bytes += bytes as u64;
        }
        self.run_bytes += bytes;
        self.counters().client_sent_bytes.add(bytes as u64);
    }

    fn read_request(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        let room = self.room_to_read(key, REQUEST_HEAD_BYTES_MAX);
        let Some(client) = self.clients.get_mut(key) else { return false };
        let held = client.input.len();
        let read = if mem::take(&mut client.input_is_new) {
            Ok(Received::Bytes(0))
        } else if room == 0 {
            return self.pause_client(key);
        } else {
            client.stream.read(&mut scratch[held..REQUEST_HEAD_BYTES_MAX.min(held + room)])
        };
        let bytes = match read {
            Ok(Received::Bytes(bytes)) => &mut scratch[..held + bytes],
            Ok(Received::NotReady) => return false,
            Ok(Received::Eof) if client.stream.socket().has_undelivered() => {
                return self.step(key, Event::ClientEnded, &[]);
            }
            Ok(Received::Eof) | Err(_) => return self.step(key, Event::ClientGone, &[]),
        };
        bytes[..held].copy_from_slice(&client.input);
        self.advance(key, Event::Request(bytes));
        let rest = &bytes[self.out.used..];
        if let Some(client) = self.clients.get_mut(key) {
            client.unsettled |= !rest.is_empty() || bytes.len() > SETTLED_BYTES_MAX;
            client.input = rest.into();
            client.input_is_new = client.exchange.wants() != Wants::Request && !rest.is_empty();
        }
        self.apply(key, &[]);
        true
    }

    fn await_connection(&mut self, key: Key) -> bool {
        let Some(upstream) = self.upstream_of(key) else { return false };
        if !upstream.stream.is_ready(Ready::WRITE) {
            return false;
        }
        match upstream.stream.socket().connected() {
            Ok(true) => self.step(key, Event::Connected { reused: false }, &[]),
            Ok(false) => false,
            Err(error) => self.step(key, Event::UpstreamFailed(upstream_error(&error)), &[]),
        }
    }

    fn send(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        let Some(client) = self.clients.get(key) else { return false };
        let Some(upstream) = client.upstream.and_then(|upstream| self.upstreams.get_mut(upstream)) else {
            return false;
        };
        match upstream.stream.write(&[IoSlice::new(client.exchange.unsent())]) {
            // A pod may answer before it has read all, and then read no more.
            Ok(0) if client.is_stalled() => false,
            Ok(0) => self.read_response(key, scratch),
            Ok(bytes) => self.step(key, Event::Sent(bytes), &[]),
            Err(_) => self.step(key, Event::UpstreamFailed(UpstreamError::Other), &[]),
        }
    }

    fn discard(&mut self, key: Key, scratch: &mut [u8]) -> bool {
        let Some(client) = self.clients.get_mut(key) else { return false };
        match client.stream.read(&mut scratch[..READ_BYTES_MAX]) {
            Ok(Received::Bytes(bytes)) => self.step(key, Event::Discarded(bytes), &[]),
            Ok(Received::NotReady) => false,
            Ok(Received::Eof) if client.stream.socket().has_undelivered() => {
                self.step(key, Event::ClientEnded, &[])
            }
            Ok(Received::Eof) | Err(_) => self.step(key, Event::ClientGone, &[]),
        }
    }

    pub(super) fn upstream_of(&mut self, key: Key) -> Option<&mut Upstream<N::Socket>> {
        let upstream = self.clients.get(key)?.upstream?;
        self.upstreams.get_mut(upstream)
    }

    /// Takes a kept connection to the pod, or opens one.
    fn connect(&mut self, key: Key, origin: Origin) {
        let kept = self.pool.take(origin, self.now).and_then(|slot| self.upstreams.key_at(slot));
        let Some(kept) = kept else { return self.open(key, origin) };
        if let (Some(client), Some(upstream)) = (self.clients.get_mut(key), self.upstreams.get_mut(kept)) {
            client.upstream = Some(kept);
            upstream.client = Some(key);
        }
        debug!("{origin}: a kept connection serves again");
        let counters = self.counters();
        counters.upstreams_idle.sub(1);
        counters.upstreams_active.add(1);
        counters.upstreams_reused.add(1);
        self.step(key, Event::Connected { reused: true }, &[]);
    }

    /// Opens a connection to the pod. Where there is no descriptor for it, kept connections give theirs.
    fn open(&mut self, key: Key, origin: Origin) {
        let error = loop {
            let network = &mut self.network;
            let opened = self.upstreams.try_insert(|upstream| {
                let socket = network.connect(origin.socket_addr(), Token::Upstream(upstream))?;
                Ok(Upstream {
                    stream: Stream::new(socket),
                    origin,
                    client: Some(key),
                    input: Box::default(),
                    meets: ReadMode::default(),
                    is_watched: false,
                })
            });
            match opened {
                Ok(upstream) => {
                    debug!("{origin}: a connection is opened");
                    if let Some(client) = self.clients.get_mut(key) {
                        client.upstream = Some(upstream);
                    }
                    let counters = self.counters();
                    counters.upstreams_opened.add(1);
                    counters.upstreams_active.add(1);
                    return;
                }
                Err(error) if is_out_of_descriptors(&error) && self.close_oldest_upstream() => {}
                Err(error) => break error,
            }
        };
        self.step(key, Event::UpstreamFailed(upstream_error(&error)), &[]);
    }

    /// Puts the pod's connection into the pool, if nothing more is to be expected of it than to serve again.
    fn keep_upstream(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let Some(upstream) = client.upstream.take() else { return };
        let Some(kept) = self.upstreams.get_mut(upstream) else { return };
        kept.client = None;
        kept.meets = ReadMode::after(&client.exchange, client.sent_bytes);
        let origin = kept.origin;
        // Where the end of the body is not known to be the end of what is there, somebody has to look.
        let rested = self.piped == 0 && matches!(kept.stream.peek(&mut [0]), Ok(Received::NotReady));
        // Once, and not before it is pooled: a new connection may take its time, within the scrape's.
        if rested && !mem::replace(&mut kept.is_watched, true) {
            kept.stream.socket().watch();
        }
        self.counters().upstreams_active.sub(1);
        // Where more may be there to be read, it is bytes that answer nothing, or the pod's end.
        if !rested {
            self.upstreams.remove(upstream).into_iter().for_each(|upstream| upstream.stream.close());
            return;
        }
        debug!("{origin}: the connection is kept");
        self.counters().upstreams_idle.add(1);
        self.pool.put(upstream.slot(), origin, self.now);
        if let Some(surplus) = self.pool.surplus() {
            self.close_idle_upstream(surplus);
        }
    }

    fn close_upstream(&mut self, key: Key) {
        let upstream = self.clients.get_mut(key).and_then(|client| client.upstream.take());
        if let Some(upstream) = upstream.and_then(|upstream| self.upstreams.remove(upstream)) {
            upstream.stream.close();
            self.counters().upstreams_active.sub(1);
        }
    }
}
