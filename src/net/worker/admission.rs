//! How clients enter a worker, and which clients leave when the limit is reached.
//!
//! A client that finds all places taken waits for one for a limited time ([`crate::net::places`]).
//! [`crate::proxy::admission`] decides which client gives up its place and how long the others wait; this file
//! performs it. A client closed for its silence first gets a response with the reason.

use std::{io, mem, net::IpAddr, time::Duration};

use super::Worker;
use crate::{
    net::{
        client::Client,
        network::{Network, Token},
        places::Wish,
        slots::Key,
        stream::{Ready, Stream},
        transport::{Transport, channel::Handshake},
    },
    proxy::{
        admission::{Eviction, SILENCE, WAIT, is_silent_for_too_long},
        events::{ClientFacts, Event},
        outcome::Outcome,
        session::Session,
        timers::Timer,
        timestamp::Timestamp,
        tls_fault::TlsFault,
        tunnel::Tunnel,
    },
};

/// How soon a worker checks again whether to make room when another worker has to do so first.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long the kernel tries to deliver the response to a client that is closed at once.
const REJECTION_DELIVERED_WITHIN: Duration = Duration::from_secs(2);

impl<N: Network> Worker<N> {
    /// Accepts a new client from this address, or closes its connection if the address is not allowed.
    pub fn admit(&mut self, socket: N::Socket, from: Option<IpAddr>) {
        if !self.tools.settings.access.clients.allow(from) {
            return self.refuse(socket, from);
        }
        self.counters().clients_accepted.add(1);
        let has_place = self.try_acquire();
        let mut stream = Stream::of_client(socket, self.tools.settings.tls().acceptor.as_ref());
        let session = Session::new(self.tools.now, &self.tools.settings, !has_place);
        let deadline = session.deadline();
        let facts = ClientFacts { ip: from, ..ClientFacts::default() };
        let (network, now) = (&mut self.tools.network, self.tools.now);
        let inserted = self.clients.try_insert(|key| {
            network.register(stream.socket_mut(), Token::Client(key))?;
            Ok::<_, io::Error>(Client::new(stream, facts, session, has_place, now))
        });
        match inserted {
            Ok(key) => {
                self.counters().clients.add(1);
                if !has_place {
                    self.admission.add_without_place();
                }
                if let (Some(client), Some(at)) = (self.clients.get_mut(key), deadline) {
                    self.timers.arm(key, Timer::Exchange, &mut client.timers, at);
                }
                // Its request may have arrived: it does not count as idle before a read has shown that it has not.
                self.enqueue(key);
                if self.admission.is_overrun() && !has_place {
                    self.turn_away_at_once(key);
                } else if !has_place {
                    self.request_eviction(key);
                }
            }
            Err(error) => {
                if has_place {
                    self.give_place_back();
                }
                self.journal.trouble(
                    Outcome::NoFileDescriptors,
                    self.tools.now,
                    format_args!("cannot register a client: {error}"),
                );
            }
        }
    }

    /// Closes a connection before it takes a place or a slot.
    fn refuse(&mut self, socket: N::Socket, from: Option<IpAddr>) {
        drop(socket);
        self.counters().clients_refused.add(1);
        self.journal.refused_client(from, self.tools.now);
    }

    /// Takes a place for a client: a free one, or the longest-idle client's, if that client is on this worker.
    fn try_acquire(&mut self) -> bool {
        let places = self.shared.places();
        if places.take() {
            return true;
        }
        let is_here = self.is_alone || places.longest_idle() == Some(self.index);
        let oldest = self.oldest_idle().filter(|_| is_here && !places.is_wanted());
        oldest.is_some_and(|key| {
            self.close_idle(key);
            self.show_idle();
            self.shared.places().take()
        })
    }

    fn request_eviction(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key) {
            client.waits_until = Some(self.tools.now + WAIT);
        }
        let granted = self.shared.places().wish(Wish { worker: self.index, client: key });
        self.wake(granted);
        self.make_room_for_wishes();
        if self.shared.places().is_wanted() {
            self.shared.wake_others(self.index); // they may have clients that are silent for too long
        }
    }

    /// Wakes the worker that got a place, unless it is this one, which checks by itself.
    fn wake(&self, granted: Option<usize>) {
        if let Some(other) = granted.filter(|&worker| worker != self.index) {
            self.shared.wake(other);
        }
    }

    fn give_place_back(&self) {
        self.wake(self.shared.places().give_back());
    }

    /// Gives collected places to the clients of this worker that wait for them.
    pub(super) fn collect_places(&mut self) {
        while let Some(key) = self.shared.places().collect(self.index) {
            let waits = |client: &&mut Client<_>| client.waits_until.is_some();
            let Some(client) = self.clients.get_mut(key).filter(waits) else {
                self.give_place_back(); // the client is gone, or stopped waiting just before
                continue;
            };
            client.waits_until = None;
            client.has_place = true;
            client.session = Session::new(self.tools.now, &self.tools.settings, false);
            self.admission.remove_without_place();
            self.enqueue(key);
        }
    }

    /// Returns whether a client waits for a place. Only clients without a place do.
    pub(super) fn waits_for_place(&self, key: Key) -> bool {
        self.clients.get(key).is_some_and(|client| client.waits_until.is_some())
    }

    /// Returns whether a client's wait is over: it has a place, its time is up, or it has ended its side.
    pub(super) fn wait_is_over(&mut self, key: Key) -> bool {
        let now = self.tools.now;
        let goes_on = |client: &Client<_>| match client.waits_until {
            Some(at) if now < at && !client.stream.is_ready(Ready::END) => Some(at),
            _ => None,
        };
        let Some(client) = self.clients.get_mut(key) else { return true };
        if let Some(at) = goes_on(client) {
            self.timers.arm(key, Timer::Place, &mut client.timers, at);
            return false;
        }
        self.collect_places();
        if let Some(client) = self.clients.get_mut(key).filter(|client| client.waits_until.is_some()) {
            client.waits_until = None;
            client.session = Session::new(now, &self.tools.settings, true);
            self.shared.places().withdraw(Wish { worker: self.index, client: key });
        }
        true
    }

    /// Turns away a client that got no place in time and has sent nothing, without waiting for its request. In a TLS
    /// handshake it could not read the response.
    pub(super) fn turn_away_if_silent(&mut self, key: Key) {
        let is_silent = |client: &Client<N::Socket>| {
            let says_nothing =
                client.session.idles() && client.stream.channel().handshake() == Handshake::None;
            !client.has_place && says_nothing && !client.queued
        };
        if self.clients.get(key).is_some_and(is_silent) {
            self.step(key, Event::TurnAway);
            self.enqueue(key);
        }
    }

    /// Makes room for waiting clients of all workers, as long as that is this worker's turn. Then gives the places that
    /// became available to the waiting clients of this worker.
    pub(super) fn make_room_for_wishes(&mut self) {
        self.show_idle();
        while self.shared.places().is_wanted() {
            let longest_idle = self.shared.places().longest_idle();
            let gives = match self.admission.next_eviction(
                self.index,
                longest_idle,
                self.silent_since(),
                self.tools.now,
            ) {
                Eviction::Client(slot) => self.clients.key_at(slot),
                Eviction::None => None,
                Eviction::Other(worker) => {
                    self.shared.wake(worker);
                    None
                }
            };
            let Some(gives) = gives else { break };
            let Some(wish) = self.shared.places().next_wish() else { break };
            self.take_place_from(gives);
            let worker = self.shared.places().hand_over(wish);
            self.wake(Some(worker));
            self.show_idle();
        }
        self.collect_places();
    }

    /// Closes an idle client, or starts to turn a silent one away. Its place stays taken.
    fn take_place_from(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.has_place = false;
        self.admission.add_without_place();
        if client.silent_since.is_none() {
            return self.close_idle(key);
        }
        self.admission.note(key.slot(), false, true);
        self.step(key, Event::TurnAway);
        if self.admission.is_overrun() {
            self.close_rejected(key);
        } else {
            self.enqueue(key);
        }
    }

    /// Closes an idle client. If it has yet to receive its last response, it may do so without a place.
    fn close_idle(&mut self, key: Key) {
        let may_linger = self.admission.may_linger();
        let is_behind = |client: &Client<N::Socket>| match client.session.is_tunnel() {
            true => self.is_behind(key),
            false => may_linger && client.stream.channel().has_undelivered(),
        };
        let client_stalled = self.clients.get(key).is_some_and(is_behind);
        self.step(key, Event::CloseIfIdle { client_stalled });
        let Some(client) = self.clients.get_mut(key) else { return };
        self.admission.note(key.slot(), false, false);
        if mem::take(&mut client.has_place) {
            self.admission.add_without_place();
            self.give_place_back();
        }
        self.enqueue(key);
    }

    /// Sends a new client a response that there are too many clients, and closes it. A later request may be answered
    /// with a reset, which destroys no response that the client's kernel has received.
    fn turn_away_at_once(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key) {
            client.stream.add_ready(Ready::WRITE); // the response fits into a new connection's send buffer
        }
        self.step(key, Event::TurnAway);
        self.close_rejected(key);
    }

    /// Closes a client that was just turned away, whether or not all of the response was sent.
    fn close_rejected(&mut self, key: Key) {
        self.step(key, Event::Flushed);
        if let Some(client) = self.take_client(key) {
            client.stream.close_delivering(REJECTION_DELIVERED_WITHIN);
        }
    }

    /// Publishes since when this worker's longest-idle client has been idle.
    fn show_idle(&self) {
        let oldest = self.oldest_idle().and_then(|key| self.clients.get(key));
        self.shared.places().show_idle(self.index, oldest.map(|client| client.idle_since));
    }

    fn longest_idle(&self) -> Option<Key> {
        self.admission.longest_idle().and_then(|slot| self.clients.key_at(slot))
    }

    /// Returns from when on the longest-idle client may be closed, if it is a tunnel.
    fn quiet_at(&self) -> Option<Timestamp> {
        self.clients.get(self.longest_idle()?)?.session.tunnel().map(Tunnel::quiet_at)
    }

    /// Returns the longest-idle client. If that is a tunnel in which a byte moved a moment ago, there is none.
    fn oldest_idle(&self) -> Option<Key> {
        self.longest_idle().filter(|_| self.quiet_at().is_none_or(|at| at <= self.tools.now))
    }

    fn longest_silent(&self) -> Option<Key> {
        self.admission.longest_silent().and_then(|slot| self.clients.key_at(slot))
    }

    /// Returns since when the longest-silent client has been silent.
    fn silent_since(&self) -> Option<Timestamp> {
        self.clients.get(self.longest_silent()?)?.silent_since
    }

    /// Returns the longest-silent client, if it has been silent for too long.
    fn oldest_silent(&self) -> Option<Key> {
        self.longest_silent().filter(|_| is_silent_for_too_long(self.silent_since(), self.tools.now))
    }

    /// Returns when this worker has to check on clients that wait for places, if nothing happens before.
    pub(super) fn next_room(&self) -> Option<Timestamp> {
        let places = self.shared.places();
        if places.has_granted(self.index) {
            return Some(self.tools.now);
        }
        let ends = [self.silent_since().map(|since| since + SILENCE), self.quiet_at()];
        let ends = ends.into_iter().flatten().min().filter(|_| places.is_wanted());
        ends.map(|at| at.max(self.tools.now + LOOK_AGAIN))
    }

    /// Frees a descriptor by closing a pooled pod connection, or else an idle client, or else a client that has been
    /// silent for too long. Returns whether it did.
    pub fn make_room(&mut self) -> bool {
        if self.close_oldest_upstream() {
            return true;
        }
        let (idle, silent) = (self.oldest_idle(), self.oldest_silent());
        match (idle, silent) {
            (Some(key), _) => {
                let is_tunnel = self.clients.get(key).is_some_and(|client| client.session.is_tunnel());
                let client_stalled = is_tunnel && self.is_behind(key);
                self.step(key, Event::CloseIfIdle { client_stalled });
            }
            (None, Some(key)) => {
                self.step(key, Event::TurnAway);
                self.close_rejected(key);
            }
            (None, None) => {}
        }
        idle.or(silent).is_some_and(|key| self.clients.get(key).is_none())
    }

    /// Closes the idle clients when the process is closing. A connection accepted at the last moment may still send a
    /// request, and a client that waits for a place still gets it or is turned away.
    pub fn drain(&mut self) {
        let keys: Vec<_> = self.clients.keys().collect();
        for key in keys {
            if self.clients.get(key).is_some_and(|client| client.session.is_tunnel()) {
                self.drain_tunnel(key);
                continue;
            }
            let Some(client) = self.clients.get_mut(key) else { continue };
            // A client that may have sent a request is read first; a waiting one is not closed yet.
            if client.queued || client.stream.is_ready(Ready::READ) || client.waits_until.is_some() {
                continue;
            }
            match client.silent_since.map(|since| since + SILENCE).filter(|&until| self.tools.now < until) {
                Some(until) => self.timers.arm(key, Timer::Silence, &mut client.timers, until),
                None if client.session.idles() && client.stream.channel().may_be_handshaking() => {
                    self.end_handshake(key, TlsFault::Shutdown);
                }
                None if client.session.idles() => {
                    let client_stalled = client.stream.channel().has_undelivered();
                    self.step(key, Event::CloseIfIdle { client_stalled });
                    self.enqueue(key); // it may linger
                }
                None => {}
            }
        }
        self.show_idle();
    }

    /// Closes a silent tunnel; other tunnels are closed once they are silent.
    fn drain_tunnel(&mut self, key: Key) {
        let client_stalled = self.is_behind(key);
        self.step(key, Event::CloseIfIdle { client_stalled });
        let Some(client) = self.clients.get_mut(key) else { return };
        if let Some(at) = client.session.deadline() {
            self.timers.arm(key, Timer::Exchange, &mut client.timers, at);
        }
    }

    /// Releases the place of a client that is gone, or withdraws its wish for one.
    pub(super) fn leave(&mut self, key: Key, client: &Client<N::Socket>) {
        self.admission.forget(key.slot());
        if client.waits_until.is_some() {
            self.shared.places().withdraw(Wish { worker: self.index, client: key });
        }
        match client.has_place {
            true => self.give_place_back(),
            false => self.admission.remove_without_place(),
        }
    }
}
