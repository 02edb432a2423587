//! Connections to pods: opened, pooled, and closed.
//!
//! Decides which connection a scrape uses, except for the order of the pool ([`crate::proxy::pool`]), and whether a
//! connection may be pooled. Moves no bytes, and knows clients only by their keys.

use std::{io, mem, time::Duration};

use log::debug;

use super::{
    gather::{Gather, ShortReads},
    network::{Network, Token},
    slots::{Key, Slots},
    stream::{Ready, Received, Stream, is_out_of_descriptors},
    transport::Transport,
};
use crate::proxy::{metrics::Counters, peer::Peer, pool::Pool, session::Session, timestamp::Timestamp};

/// Size from which splicing is cheaper than reading and writing.
pub(super) const BULK_BYTES_MIN: u64 = 32 * 1024;

/// How a response is read, according to what came before on the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Read it.
    #[default]
    Read,
    /// Peek at a head's length, and splice the rest: a long body with a Content-Length is expected.
    Head,
    /// Read much at once: a long body in chunks is expected or under way.
    Long,
}

impl ReadMode {
    /// Returns the mode for the next response on a connection, after one of `bytes` bytes.
    pub(super) fn after(session: &Session, bytes: u64) -> Self {
        match () {
            () if bytes < BULK_BYTES_MIN => Self::Read,
            () if session.has_length() => Self::Head,
            () => Self::Long,
        }
    }
}

/// What the last response on a connection shows about the next one.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastResponse {
    /// How to read the next one.
    pub(super) read_mode: ReadMode,
    /// Its length, as sent to the client.
    pub(super) bytes: u64,
}

/// A pod's connection.
#[derive(Debug)]
pub struct Upstream<S> {
    pub(super) stream: Stream<S>,
    pub(super) peer: Peer,
    /// The client it serves. `None`: it is in the pool.
    pub(super) client: Option<Key>,
    /// The beginning of a response's head.
    pub(super) input: Box<[u8]>,
    pub(super) read_mode: ReadMode,
    /// Whether bytes came after the end of a response, or before the first request: it cannot be reused.
    pub(super) has_surplus: bool,
    /// Whether it leads to this process. That is checked only when a connection is opened, so it is not pooled.
    pub(super) is_to_itself: bool,
    /// Whether the kernel detects that the pod vanishes ([`Transport::watch`]).
    is_watched: bool,
    /// Counts reads of the current response.
    pub(super) short_reads: ShortReads,
    /// How responses gather, if they do.
    pub(super) gather: Option<Box<Gather>>,
}

impl<S: Transport> Upstream<S> {
    fn new(socket: S, peer: Peer, client: Key) -> Self {
        Self {
            stream: Stream::new(socket),
            peer,
            client: Some(client),
            input: Box::default(),
            read_mode: ReadMode::default(),
            has_surplus: false,
            is_to_itself: false,
            is_watched: false,
            short_reads: ShortReads::default(),
            gather: None,
        }
    }
}

impl<S: Transport> Upstream<S> {
    /// Notes that it is established. A response that arrives before any request would move all later ones by one.
    pub(super) fn on_connected(&mut self) {
        if self.stream.channel().tls().is_some() {
            self.stream.add_ready(Ready::READ); // what a handshake has read brings no event
        }
        self.has_surplus |= !self.is_at_rest();
    }

    /// Notes that a response is complete.
    fn end_response(&mut self, response: LastResponse) {
        self.read_mode = response.read_mode;
        self.short_reads = ShortReads::default();
        if let Some(mark) = self.gather.as_mut().and_then(|gather| gather.end(response.bytes)) {
            // Below the old mark, bytes that belong to no response would cause no event.
            self.has_surplus |= self.stream.channel().set_low_water(mark).is_err();
        }
    }

    /// Returns whether it has nothing for us. If a read may find something, only a peek shows whether it does: over
    /// TLS, what arrived may be a session ticket (RFC 8446 section 4.6.1).
    fn is_at_rest(&mut self) -> bool {
        matches!(self.stream.peek(&mut [0]), Ok(Received::NotReady))
            && self.stream.channel().held_bytes() == 0
    }
}

/// The pod connections of one worker.
pub struct Upstreams<S> {
    slots: Slots<Upstream<S>>,
    pool: Pool,
}

impl<S: Transport> Upstreams<S> {
    /// Creates an empty set, with the pool for its idle connections.
    pub(super) fn new(pool: Pool) -> Self {
        Self { slots: Slots::default(), pool }
    }

    /// Returns the connection, unless it is gone.
    pub(super) fn get(&self, key: Key) -> Option<&Upstream<S>> {
        self.slots.get(key)
    }

    /// Returns the connection, unless it is gone.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Upstream<S>> {
        self.slots.get_mut(key)
    }

    /// Takes a connection to the pod from the pool, for this client.
    pub(super) fn reuse(
        &mut self,
        peer: Peer,
        client: Key,
        now: Timestamp,
        counters: &Counters,
    ) -> Option<Key> {
        let pooled = self.pool.take(peer, now).and_then(|slot| self.slots.key_at(slot))?;
        self.slots.get_mut(pooled)?.client = Some(client);
        debug!(pod:% = peer; "reusing a pooled connection");
        counters.upstreams_idle.sub(1);
        counters.upstreams_active.add(1);
        counters.upstreams_reused.add(1);
        Some(pooled)
    }

    /// Opens a connection to the pod, for this client. If no descriptor is left, pooled connections are closed to free
    /// one.
    ///
    /// # Errors
    /// As [`Network::connect`].
    pub(super) fn open<N: Network<Socket = S>>(
        &mut self,
        network: &mut N,
        peer: Peer,
        client: Key,
        counters: &Counters,
    ) -> io::Result<Key> {
        loop {
            let opened = self.slots.try_insert(|key| {
                let socket = network.connect(peer.socket_addr(), Token::Upstream(key))?;
                Ok(Upstream::new(socket, peer, client))
            });
            match opened {
                Ok(key) => {
                    debug!(pod:% = peer; "opening a connection");
                    counters.upstreams_opened.add(1);
                    counters.upstreams_active.add(1);
                    return Ok(key);
                }
                Err(error) if is_out_of_descriptors(&error) && self.close_oldest(counters) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts a connection into the pool if it is at rest and can be reused; otherwise closes it.
    pub(super) fn pool(&mut self, key: Key, response: LastResponse, now: Timestamp, counters: &Counters) {
        let Some(upstream) = self.slots.get_mut(key) else { return };
        upstream.client = None;
        upstream.end_response(response);
        let peer = upstream.peer;
        let rested = !upstream.has_surplus && !upstream.is_to_itself && upstream.is_at_rest();
        // Only once, when first pooled: a new connection may take as long as its scrape's time limit.
        if rested && !mem::replace(&mut upstream.is_watched, true) {
            upstream.stream.channel().watch();
        }
        // Anything left to read is either bytes that belong to no response, or the end of the pod's side.
        if !rested {
            return self.close(key, counters);
        }
        debug!(pod:% = peer; "connection returned to the pool");
        counters.upstreams_active.sub(1);
        counters.upstreams_idle.add(1);
        self.pool.put(key.slot(), peer, now);
        if let Some(surplus) = self.pool.surplus() {
            self.close_pooled(surplus, counters);
        }
    }

    /// Closes a connection that serves a client.
    pub(super) fn close(&mut self, key: Key, counters: &Counters) {
        if let Some(upstream) = self.slots.remove(key) {
            upstream.stream.close();
            counters.upstreams_active.sub(1);
        }
    }

    /// Closes a connection; the kernel still delivers the written bytes.
    pub(super) fn close_delivering(&mut self, key: Key, within: Duration, counters: &Counters) {
        if let Some(upstream) = self.slots.remove(key) {
            upstream.stream.close_delivering(within);
            counters.upstreams_active.sub(1);
        }
    }

    /// Adds readiness to a connection. Returns the client it serves. A readable pooled connection is closed: it has
    /// ended, or sent bytes that must not count as the next scrape's response.
    pub(super) fn on_ready(&mut self, key: Key, ready: Ready, counters: &Counters) -> Option<Key> {
        let upstream = self.slots.get_mut(key)?;
        upstream.stream.add_ready(ready);
        let client = upstream.client;
        let has_tls = upstream.stream.channel().tls().is_some();
        if client.is_none() && ready.has(Ready::READ) && !(has_tls && upstream.is_at_rest()) {
            self.close_pooled(key.slot(), counters);
        }
        client
    }

    fn close_pooled(&mut self, slot: u32, counters: &Counters) {
        self.pool.remove(slot);
        if let Some(key) = self.slots.key_at(slot) {
            self.slots.remove(key).into_iter().for_each(|upstream| upstream.stream.close());
            counters.upstreams_idle.sub(1);
        }
    }

    /// Closes the connection that has been pooled longest. Returns whether there was one.
    pub(super) fn close_oldest(&mut self, counters: &Counters) -> bool {
        let oldest = self.pool.oldest();
        if let Some(slot) = oldest {
            self.close_pooled(slot, counters);
        }
        oldest.is_some()
    }

    /// Closes connections that have been pooled for too long.
    pub(super) fn close_expired(&mut self, now: Timestamp, counters: &Counters) {
        while let Some(slot) = self.pool.expired(now) {
            self.close_pooled(slot, counters);
        }
    }

    /// Returns when the next connection has been pooled for too long.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.pool.next_expiry()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::transport::fake::{Fake, FakeNetwork};

    fn pod(last: u8) -> Peer {
        Peer::new([10, 0, 0, last].into(), 80)
    }

    fn client() -> Key {
        Key::from_bits(crate::net::slots::KEYS_FROM)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default() + Duration::from_secs(seconds)
    }

    fn upstreams(idle_max: usize) -> Upstreams<Fake> {
        Upstreams::new(Pool::new(idle_max, Duration::from_secs(60)))
    }

    fn counted(counters: &Counters) -> [u64; 4] {
        let Counters { upstreams_opened, upstreams_active, upstreams_idle, upstreams_reused, .. } = counters;
        [upstreams_opened, upstreams_active, upstreams_idle, upstreams_reused].map(|counter| counter.get())
    }

    #[test]
    fn an_idle_connection_is_pooled_and_reused() {
        let (mut network, counters, mut upstreams) =
            (FakeNetwork::default(), Counters::default(), upstreams(8));
        let key = upstreams.open(&mut network, pod(1), client(), &counters).expect("opened");
        assert_eq!(counted(&counters), [1, 1, 0, 0]);
        upstreams.get_mut(key).expect("the upstream exists").on_connected();
        upstreams.pool(key, LastResponse { read_mode: ReadMode::Head, bytes: 40_000 }, at(1), &counters);
        assert_eq!(network.opened[0].1.0.borrow().calls, ["watch"], "watched when pooled, and not before");
        assert_eq!(counted(&counters), [1, 0, 1, 0]);
        assert_eq!(upstreams.reuse(pod(2), client(), at(2), &counters), None, "a connection to another pod");
        assert_eq!(upstreams.reuse(pod(1), client(), at(1), &counters), None, "pooled in this turn");
        assert_eq!(upstreams.reuse(pod(1), client(), at(2), &counters), Some(key));
        assert_eq!(counted(&counters), [1, 1, 0, 1]);
        let upstream = upstreams.get(key).expect("the upstream exists");
        assert_eq!((upstream.client, upstream.read_mode), (Some(client()), ReadMode::Head));
        upstreams.pool(key, LastResponse::default(), at(3), &counters);
        assert_eq!(network.opened[0].1.0.borrow().calls, ["watch"], "it is watched already");
        assert_eq!(upstreams.reuse(pod(1), client(), at(4), &counters), Some(key));
        upstreams.close(key, &counters);
        assert!(upstreams.get(key).is_none());
        assert_eq!(counted(&counters), [1, 0, 0, 2]);
    }

    #[test]
    fn a_connection_with_unread_bytes_or_an_end_is_not_pooled() {
        type Spoil = fn(&mut Upstream<Fake>, &Fake);
        let spoils: [(&str, Spoil); 4] = [
            ("bytes stayed in the pipe", |upstream, _| upstream.has_surplus = true),
            ("a response came before the request", |upstream, fake| {
                fake.0.borrow_mut().incoming.push_back(b'x');
                upstream.stream.add_ready(Ready::READ);
                upstream.on_connected();
                assert!(matches!(upstream.stream.read(&mut [0; 8]), Ok(Received::Bytes(1))));
            }),
            ("bytes can be read", |upstream, fake| {
                fake.0.borrow_mut().incoming.push_back(b'x');
                upstream.stream.add_ready(Ready::READ);
            }),
            ("the pod has closed it", |upstream, fake| {
                fake.0.borrow_mut().ended = true;
                upstream.stream.add_ready(Ready::READ.with(Ready::END));
            }),
        ];
        for (name, spoil) in spoils {
            let (mut network, counters, mut upstreams) =
                (FakeNetwork::default(), Counters::default(), upstreams(8));
            let key = upstreams.open(&mut network, pod(1), client(), &counters).expect("opened");
            spoil(upstreams.get_mut(key).expect("the upstream exists"), &network.opened[0].1);
            upstreams.pool(key, LastResponse::default(), at(1), &counters);
            assert!(upstreams.get(key).is_none(), "{name}");
            assert_eq!(counted(&counters), [1, 0, 0, 0], "{name}");
        }
    }

    #[test]
    fn a_readable_pooled_connection_is_closed() {
        let (mut network, counters, mut upstreams) =
            (FakeNetwork::default(), Counters::default(), upstreams(8));
        let key = upstreams.open(&mut network, pod(1), client(), &counters).expect("opened");
        assert_eq!(upstreams.on_ready(key, Ready::READ, &counters), Some(client()));
        assert!(upstreams.get(key).is_some(), "a connection with a client is not closed");
        upstreams.pool(key, LastResponse::default(), at(1), &counters);
        assert_eq!(upstreams.on_ready(key, Ready::WRITE, &counters), None);
        assert!(upstreams.get(key).is_some());
        assert_eq!(upstreams.on_ready(key, Ready::READ, &counters), None);
        assert!(upstreams.get(key).is_none());
        assert_eq!(counted(&counters), [1, 0, 0, 0]);
    }

    #[test]
    fn without_a_descriptor_the_longest_pooled_connection_is_closed() {
        let (mut network, counters, mut upstreams) =
            (FakeNetwork { descriptors: 2, ..FakeNetwork::default() }, Counters::default(), upstreams(8));
        let keys = [1, 2].map(|last| {
            let key = upstreams.open(&mut network, pod(last), client(), &counters).expect("opened");
            upstreams.pool(key, LastResponse::default(), at(last.into()), &counters);
            key
        });
        let error = upstreams
            .open(&mut network, pod(3), client(), &counters)
            .expect_err("no descriptor becomes free");
        assert!(is_out_of_descriptors(&error));
        assert!(
            keys.iter().all(|key| upstreams.get(*key).is_none()),
            "both are closed, although no descriptor became free"
        );
        network.descriptors = 1;
        assert!(upstreams.open(&mut network, pod(3), client(), &counters).is_ok());
        assert_eq!(counted(&counters), [3, 1, 0, 0]);
    }

    #[test]
    fn pooled_connections_are_closed_at_the_limit_and_when_they_expire() {
        let (mut network, counters, mut upstreams) =
            (FakeNetwork::default(), Counters::default(), upstreams(3));
        let keys = [1, 2, 3, 4].map(|last| {
            let key = upstreams.open(&mut network, pod(last), client(), &counters).expect("opened");
            upstreams.pool(key, LastResponse::default(), at(last.into()), &counters);
            key
        });
        let alive = |upstreams: &Upstreams<Fake>| keys.map(|key| upstreams.get(key).is_some());
        assert_eq!(alive(&upstreams), [false, true, true, true]);
        assert_eq!(upstreams.next_expiry(), Some(at(62)));
        upstreams.close_expired(at(63), &counters);
        assert_eq!(alive(&upstreams), [false, false, false, true], "all expired ones are closed");
        assert!(upstreams.close_oldest(&counters) && !upstreams.close_oldest(&counters));
        assert_eq!(counted(&counters), [4, 0, 0, 0]);
    }
}
