//! The connections of one event loop: where they live, when they are due, which are kept.
//!
//! Owns every connection of its worker, the deadlines, the pool and the queue of those that can go on. Bytes
//! move in [`super::pump`], clients come and go in [`super::admission`]; readiness and time come from whoever drives it, which is [`super::event_loop`] or a
//! simulation.

use std::{fmt::Display, io, net::SocketAddr, sync::Arc};

use log::{debug, info, warn};

use super::{
    pump::{self, Client, Upstream},
    relay::PASS_BYTES_MAX,
    run_queue::RunQueue,
    shared::{Phase, Shared},
    slots::{Key, Slots},
    splice::Pipe,
    stream::{Ready, Socket},
};
use crate::proxy::{
    budget::Budget,
    duration::HumanDuration,
    events::{Event, Output, Report},
    log_rate::LogRate,
    logged,
    lru::LruList,
    metrics::Counters,
    outcome::{Class, Outcome},
    pool::Pool,
    recycler::Recycler,
    route::RouteName,
    timers::Timers,
    timestamp::Timestamp,
};

/// The most that is sent in one turn of long answers: what is copied in about a quarter of a millisecond, so that new
/// events do not wait for longer. While others have something to do, each of these clients is sent one portion, as long
/// as a pipe takes, and the rest waits for its next turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;
/// So many clients in one turn, each with as much as it may move, take less than a millisecond.
const SHORT_TURN_RUNS: usize = 3;

/// The target of the access log's lines, which no level holds back.
pub const ACCESS_LOG: &str = "access";
/// How much of a request is logged where it was refused.
const LOGGED_BYTES_MAX: usize = 200;

/// Where sockets come from.
pub trait Network {
    /// What a connection is made of.
    type Socket: Socket;
    /// What bytes go through from one of them to another.
    type Pipe: Pipe<Self::Socket>;

    /// Has a client's socket report its readiness under `token`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    fn register(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// Begins a connection, which reports its readiness under `token`.
    ///
    /// # Errors
    /// Why it cannot even begin.
    fn connect(&mut self, to: SocketAddr, token: Token) -> io::Result<Self::Socket>;

    /// Makes a pipe.
    ///
    /// # Errors
    /// As `pipe2(2)`.
    fn pipe(&mut self) -> io::Result<Self::Pipe>;
}

/// Whose readiness an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A client's connection.
    Client(Key),
    /// A pod's connection.
    Upstream(Key),
}

impl Token {
    const UPSTREAM: usize = 1 << (usize::BITS - 1);

    /// The token as an event carries it.
    pub fn to_bits(self) -> usize {
        match self {
            Self::Client(key) => key.to_bits(),
            Self::Upstream(key) => key.to_bits() | Self::UPSTREAM,
        }
    }

    /// The token out of an event.
    pub fn from_bits(bits: usize) -> Self {
        let key = Key::from_bits(bits & !Self::UPSTREAM);
        if bits & Self::UPSTREAM == 0 { Self::Client(key) } else { Self::Upstream(key) }
    }
}

/// The connections of one event loop.
pub struct Worker<N: Network> {
    pub(super) network: N,
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    /// There is no other worker.
    pub(super) is_alone: bool,
    pub(super) now: Timestamp,
    pub(super) clients: Slots<Client<N::Socket>>,
    pub(super) upstreams: Slots<Upstream<N::Socket>>,
    pub(super) pool: Pool,
    /// Clients between two requests.
    pub(super) idle_clients: LruList,
    /// Clients that have asked for nothing yet.
    pub(super) silent_clients: LruList,
    pub(super) timers: Timers<Key>,
    runnable: RunQueue,
    took_long: bool,
    /// Bytes that clients took in the run that is under way.
    pub(super) run_bytes: usize,
    /// The most that one run may move: less while others wait.
    pub(super) run_bytes_max: usize,
    /// Clients without a place.
    pub(super) turned_away: usize,
    log_rate: LogRate,
    /// What is read goes here first: one buffer for all connections, so that none needs its own.
    pub(super) scratch: Box<[u8]>,
    /// Empty, and made when the first long body comes.
    pub(super) pipe: Option<N::Pipe>,
    /// What it holds while bytes are being moved.
    pub(super) piped: usize,
    /// Clients for which bytes are kept.
    pub(super) stalled: usize,
    /// What is kept, in bytes.
    pub(super) budget: Budget,
    pub(super) out: Output,
    pub(super) recycler: Recycler,
}

impl<N: Network> Worker<N> {
    /// A worker without connections.
    pub fn new(network: N, shared: Arc<Shared>, index: usize) -> Self {
        let idle_max = shared.upstreams_idle_max_of_worker(index);
        let budget = Budget::new(shared.buffers_max_of_worker());
        Self {
            network,
            pool: Pool::new(idle_max, shared.settings().timeouts.upstream_idle),
            is_alone: shared.room().workers() == 1,
            shared,
            index,
            now: Timestamp::default(),
            clients: Slots::default(),
            upstreams: Slots::default(),
            idle_clients: LruList::default(),
            silent_clients: LruList::default(),
            timers: Timers::default(),
            runnable: RunQueue::default(),
            took_long: false,
            run_bytes: 0,
            run_bytes_max: TURN_BYTES_MAX,
            turned_away: 0,
            log_rate: LogRate::default(),
            scratch: vec![0; pump::SCRATCH_BYTES].into(),
            pipe: None,
            piped: 0,
            stalled: 0,
            budget,
            out: Output::default(),
            recycler: Recycler::default(),
        }
    }

    /// An event: notes what it tells, and who can go on.
    pub fn event(&mut self, token: Token, ready: Ready) {
        let client = match token {
            Token::Client(key) => key,
            Token::Upstream(key) => {
                let Some(upstream) = self.upstreams.get_mut(key) else { return };
                upstream.stream.add_ready(ready);
                match upstream.client {
                    Some(client) => return self.enqueue(client),
                    // A kept connection has nothing to say. If it ended, it is of no use; if it sent something,
                    // that must not be taken for the answer to the next scrape.
                    None if ready.has(Ready::READ) => return self.close_idle_upstream(key.slot()),
                    None => return,
                }
            }
        };
        if let Some(known) = self.clients.get_mut(client) {
            known.stream.add_ready(ready);
            self.enqueue(client);
        }
    }

    pub(super) fn enqueue(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key).filter(|client| !client.queued) {
            client.queued = true;
            self.runnable.push(key, client.is_bulk());
        }
    }

    /// A turn: everybody who can go on goes on for a bounded while, and what is due happens.
    pub fn run_once(&mut self, now: Timestamp) {
        self.now = now;
        let mut scratch = std::mem::take(&mut self.scratch);
        self.run_queued(&mut scratch);
        while let Some((key, at)) = self.timers.pop_due(now) {
            let Some(client) = self.clients.get_mut(key) else { continue };
            if client.timer.fire(at) {
                let client_stalled = client.is_behind();
                if client.waits_until.is_none() {
                    self.step(key, Event::Timeout { client_stalled }, &[]);
                }
                self.run(key, &mut scratch);
            }
        }
        self.make_room_in_buffers(&mut scratch);
        self.scratch = scratch;
        while let Some(slot) = self.pool.expired(now) {
            self.close_idle_upstream(slot);
        }
        if !self.is_alone || self.shared.room().is_stirred() {
            self.make_room_for_wishes();
        }
        let clients = &self.clients;
        self.timers.sweep(clients.len(), |key| clients.get(key).map(|client| client.timer));
    }

    /// Runs those who have little to do, all of them, and then those who have much, as far as a turn goes. The others
    /// of these go on in the next turn, before which new events are heard.
    fn run_queued(&mut self, scratch: &mut [u8]) {
        let (short, bulk) = self.runnable.len();
        self.took_long = short + bulk > SHORT_TURN_RUNS;
        let is_alone = short + bulk <= 1;
        self.run_bytes_max = if is_alone { TURN_BYTES_MAX } else { PASS_BYTES_MAX };
        for _ in 0..short {
            let Some(key) = self.runnable.pop_short() else { break };
            self.run_next(key, scratch);
        }
        let mut left = TURN_BYTES_MAX;
        for _ in 0..bulk {
            if left == 0 {
                break;
            }
            let Some(key) = self.runnable.pop_bulk() else { break };
            self.run_next(key, scratch);
            left = left.saturating_sub(self.run_bytes);
        }
    }

    /// Whether the last turn may have taken more than the millisecond that a poll is coarse by.
    pub fn took_long(&self) -> bool {
        self.took_long
    }

    fn run_next(&mut self, key: Key, scratch: &mut [u8]) {
        if let Some(client) = self.clients.get_mut(key) {
            client.queued = false;
            self.run(key, scratch);
        }
    }

    pub(super) fn run(&mut self, key: Key, scratch: &mut [u8]) {
        let waits = self.turned_away > 0 && self.waits_for_place(key);
        if waits && !self.wait_is_over(key) {
            return;
        }
        if self.pump(key, scratch) {
            self.enqueue(key);
        }
        if waits {
            self.turn_away_if_silent(key);
        }
        let Some(mut client) = self.clients.get_mut(key) else { return };
        if client.unsettled {
            self.settle(key, scratch);
            let Some(settled) = self.clients.get_mut(key) else { return };
            client = settled;
        }
        if let Some(at) = client.exchange.deadline() {
            self.timers.arm(key, &mut client.timer, at);
        }
        // One that is turned away has no place to give to another; one that is queued is in the middle of things.
        let idles = client.exchange.idles() && client.has_place && !client.queued;
        let list = match client.silent_since {
            None => &mut self.idle_clients,
            Some(_) => &mut self.silent_clients,
        };
        if !idles {
            list.remove(key.slot());
        } else if !list.contains(key.slot()) {
            client.idle_since = self.now;
            list.push(key.slot());
        }
    }

    /// When the next turn is due, if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if !self.runnable.is_empty() {
            return Some(self.now);
        }
        let mut next = [self.timers.next(), self.pool.next_expiry()].into_iter().flatten().min();
        if self.budget.is_tight() {
            next = next.into_iter().chain(self.budget.next_wake()).min();
        }
        if self.shared.room().is_stirred() {
            next = next.into_iter().chain(self.next_room()).min();
        }
        next
    }

    /// Closes the pod connection that has been kept longest. Says whether there was one.
    pub(super) fn close_oldest_upstream(&mut self) -> bool {
        let oldest = self.pool.oldest();
        if let Some(slot) = oldest {
            self.close_idle_upstream(slot);
        }
        oldest.is_some()
    }

    /// Logs, at a bounded rate, that there is no descriptor left to accept a connection with.
    pub fn report_no_descriptors(&mut self) {
        let about = "no file descriptor left: clients wait to be accepted";
        self.log_trouble(Outcome::NoDescriptors, about);
    }

    /// Whether no client is left.
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    /// Forgets and closes a kept pod connection.
    pub(super) fn close_idle_upstream(&mut self, slot: u32) {
        self.pool.remove(slot);
        if let Some(key) = self.upstreams.key_at(slot) {
            self.upstreams.remove(key).into_iter().for_each(|upstream| upstream.stream.close());
            self.counters().upstreams_idle.sub(1);
        }
    }

    /// Forgets and closes a client's connection.
    pub(super) fn remove_client(&mut self, key: Key) {
        let Some(client) = self.clients.remove(key) else { return };
        self.stalled -= usize::from(client.is_stalled());
        self.forget_held(key.slot(), &client);
        self.counters().clients.sub(1);
        self.leave(key, &client);
        client.stream.close();
    }

    pub(super) fn counters(&self) -> &Counters {
        self.shared.counters(self.index)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.shared.phase() != Phase::Serving
    }

    /// Counts and logs an exchange that is over.
    pub(super) fn record(&mut self, report: &Report, peer: Option<SocketAddr>, sent_bytes: u64) {
        self.counters().record(report);
        let Report { route, outcome, status, duration, .. } = report;
        let access_log = self.shared.settings().access_log && *route == RouteName::Pods;
        if outcome.class() == Class::Client {
            debug!("{}: pod {:?}", outcome.reason(), report.origin);
        }
        let trouble = matches!(outcome.class(), Class::Pod | Class::Refused);
        if !access_log && !trouble {
            return;
        }
        let client = peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        let request = report.request.as_deref().unwrap_or("-");
        if access_log {
            info!(
                target: ACCESS_LOG,
                "client={client} request={request:?} code={status} outcome={} bytes={sent_bytes} seconds={:.6}",
                outcome.label(),
                duration.as_secs_f64()
            );
        }
        if trouble {
            let phrase = report.phrase();
            let after = HumanDuration(*duration);
            match report.origin {
                Some(pod) => self.log_trouble(*outcome, format_args!("{phrase}: pod {pod}, after {after}")),
                None => {
                    let request = logged::cut(request, LOGGED_BYTES_MAX);
                    self.log_trouble(
                        *outcome,
                        format_args!("{phrase}: client {client}, request {request:?}"),
                    );
                }
            }
        }
    }

    /// Logs what went wrong, at a bounded rate.
    pub(super) fn log_trouble(&mut self, outcome: Outcome, about: impl Display) {
        let label = outcome.label();
        match self.log_rate.admit(outcome, self.now) {
            None => {}
            Some(0) => warn!("{about} (outcome={label})"),
            Some(more) => warn!("{about} (outcome={label}; {more} more since the last such line)"),
        }
    }
}
