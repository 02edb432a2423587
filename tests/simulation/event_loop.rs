//! One event loop over the simulated network: the steps of a turn, in the order of production.
//!
//! Owns a worker, its listener's backlog, and the events that epoll has reported. Its sockets are simulated; its waker
//! is a real one, on a poll that has no other source and never sleeps, so that a forgotten wake is noticed.

use std::{collections::VecDeque, io, mem, sync::Arc, time::Duration};

use mio::{Events, Poll, Token as MioToken, Waker};
use psystrike::{
    net::{
        network::Token,
        shared::{Phase, Shared, Wake},
        stream::Ready,
        turn::Steps,
        worker::Worker,
    },
    proxy::timestamp::Timestamp,
};

use super::{
    kernel::{ConnId, Link},
    net::{Call, Net, Owner, SimNetwork},
};

/// Events fetched at once: so few that a turn needs several fetches.
const EVENTS_MAX: usize = 3;
/// How long a listener pauses when no descriptor is left.
const REST: Duration = Duration::from_millis(100);

pub(crate) struct EventLoop {
    worker: Worker<SimNetwork>,
    network: SimNetwork,
    shared: Arc<Shared>,
    index: usize,
    /// A poll for the waker only.
    poll: Poll,
    wakes: Events,
    is_woken: bool,
    /// Connections that wait to be accepted.
    backlog: VecDeque<ConnId>,
    listens: bool,
    /// Whether no descriptor was left to accept with.
    rests_until: Option<Timestamp>,
    /// Events that are fetched in this turn.
    events: VecDeque<(Token, Ready)>,
    /// Events of the previous turn.
    stale: Vec<(Token, Ready)>,
    now: Timestamp,
    /// The time that it requested when it went to sleep, which later events do not change. `None`: a test has called
    /// the worker since.
    sleeps_until: Option<Option<Timestamp>>,
    /// Turns in a row that moved nothing, although the worker requested them.
    pub(crate) idle_turns: usize,
}

impl EventLoop {
    /// Creates the event loop of the worker with this index, and its waker.
    pub(crate) fn new(network: SimNetwork, shared: &Arc<Shared>) -> (Self, Wake) {
        let poll = Poll::new().expect("a poll");
        let wake = Arc::new(Waker::new(poll.registry(), MioToken(0)).expect("a waker"));
        let index = network.worker;
        let event_loop = Self {
            worker: Worker::new(network.clone(), Arc::clone(shared), index),
            network,
            shared: Arc::clone(shared),
            index,
            poll,
            wakes: Events::with_capacity(1),
            is_woken: false,
            backlog: VecDeque::new(),
            listens: true,
            rests_until: None,
            events: VecDeque::new(),
            stale: Vec::new(),
            now: Timestamp::default(),
            sleeps_until: None,
            idle_turns: 0,
        };
        (event_loop, wake)
    }

    /// Returns the worker, for a call other than a turn.
    pub(crate) fn worker(&mut self) -> &mut Worker<SimNetwork> {
        self.sleeps_until = None;
        &mut self.worker
    }

    pub(crate) fn has_no_clients(&self) -> bool {
        self.worker.is_idle()
    }

    pub(crate) fn listens(&self) -> bool {
        self.listens
    }

    /// A connection waits to be accepted.
    pub(crate) fn connect(&mut self, id: ConnId) {
        self.backlog.push_back(id);
    }

    /// Returns when it wakes, if no event comes before.
    pub(crate) fn next_wake(&mut self) -> Option<Timestamp> {
        let rests_until = self.rests_until;
        let worker = &self.worker;
        *self.sleeps_until.get_or_insert_with(|| worker.next_wake().into_iter().chain(rests_until).min())
    }

    /// Returns whether it was woken by another thread.
    pub(crate) fn is_woken(&mut self) -> bool {
        self.poll.poll(&mut self.wakes, Some(Duration::ZERO)).expect("the waker can be polled");
        self.is_woken |= !self.wakes.is_empty();
        self.is_woken
    }

    /// Returns whether its time has come.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = self.net().now;
        self.next_wake().is_some_and(|at| at <= now)
    }

    /// Returns whether it is awake.
    pub(crate) fn is_ready(&mut self) -> bool {
        let accepts = !self.backlog.is_empty() && self.rests_until.is_none();
        accepts || self.is_due() || self.is_woken() || self.net().kernel.has_events(self.index)
    }

    /// Ends its turn, and goes to sleep.
    pub(crate) fn sleep(&mut self) {
        self.sleeps_until = None;
        self.next_wake();
    }

    fn net(&self) -> std::cell::RefMut<'_, Net> {
        self.network.net.borrow_mut()
    }

    /// Fetches events; sometimes late, twice, or without a cause.
    fn fetch(&mut self) -> Vec<(Token, Ready)> {
        let stale = mem::take(&mut self.stale);
        let mut guard = self.network.net.borrow_mut();
        let net = &mut *guard;
        net.begin_turn(self.index);
        let held: Vec<_> = net.kernel.held_by(self.index).collect();
        let mut events = Vec::new();
        for id in held {
            net.kernel.conns[id].calls = 0;
            // Events of newly registered connections are never late; see also Net::pod_acts.
            let has_surplus = matches!(net.owners[id], Owner::Pod(pod) if net.pod_has_surplus(pod));
            let must_be_reported = !net.kernel.conns[id].reported || has_surplus;
            if net.chaos.events && !must_be_reported && net.random.one_in(10) {
                continue;
            }
            events.extend(net.kernel.fetch(id));
            if net.chaos.events && net.random.one_in(40) {
                let ready = net.random.pick(&[Ready::READ, Ready::WRITE, Ready::READ.with(Ready::WRITE)]);
                let connects = net.kernel.conns[id].link == Link::Connecting;
                let ready = if connects { Ready::WRITE } else { ready };
                net.kernel.conns[id].may = net.kernel.conns[id].may.with(ready);
                events.extend(net.kernel.token(id).map(|token| (token, ready)));
            }
        }
        self.stale.clone_from(&events);
        if net.chaos.events {
            // Open connections may have become ready by now; closed ones cannot.
            events.extend(stale.into_iter().filter(|(token, _)| {
                !net.kernel.held_by(self.index).any(|id| net.kernel.token(id) == Some(*token))
            }));
        }
        for at in (1..events.len()).rev() {
            let other = net.random.below(at + 1);
            events.swap(at, other);
        }
        events
    }

    /// Calls the worker for an action other than a turn.
    fn call<T>(&mut self, call: Call, with: impl FnOnce(&mut Worker<SimNetwork>) -> T) -> T {
        self.net().call = call;
        let result = with(self.worker());
        self.net().call = Call::Turn;
        result
    }

    /// Accepts a connection.
    pub(crate) fn admit(&mut self, id: ConnId) {
        self.net().accepted += 1;
        self.net().progress = true;
        let owner = self.net().owners[id];
        let socket = self.network.socket(id);
        self.call(Call::Admit, |worker| worker.admit(socket, None));
        if let Owner::Client(client) = owner {
            let waits = self.shared.places().is_wanted();
            self.net().client_is_admitted(client, waits);
        }
    }
}

impl Steps for EventLoop {
    fn on_events(&mut self, is_first: bool) -> io::Result<bool> {
        if is_first {
            // The cause of the wake is handled with the events.
            let is_woken = self.is_woken();
            self.net().wakes_heard += u64::from(is_woken);
            self.is_woken = false;
            self.events = self.fetch().into();
            let now = self.net().now;
            self.now = now;
        }
        for _ in 0..EVENTS_MAX {
            let Some((token, ready)) = self.events.pop_front() else { return Ok(false) };
            self.net().trace(|| format!("event {token:?} {ready:?}"));
            self.worker.event(token, ready);
        }
        Ok(true)
    }

    fn run(&mut self) {
        self.worker.run_once(self.now);
    }

    fn relieve(&mut self) {
        let is_short = self.net().is_short_of_memory;
        if is_short {
            self.worker.relieve();
        }
    }

    fn is_closing(&self) -> bool {
        self.shared.phase() == Phase::Closing
    }

    fn drain(&mut self) {
        self.call(Call::Drain, Worker::drain);
    }

    fn accept(&mut self) -> io::Result<()> {
        let now = self.now;
        self.rests_until = self.rests_until.filter(|at| *at > now);
        while self.rests_until.is_none() && !self.backlog.is_empty() {
            let full = self.net().is_out_of_descriptors();
            if full {
                if !self.call(Call::Admit, Worker::make_room) {
                    self.rests_until = Some(now + REST);
                }
                continue;
            }
            let id = self.backlog.pop_front().expect("one waits");
            self.admit(id);
        }
        Ok(())
    }

    fn accept_last(&mut self) -> io::Result<()> {
        self.rests_until = None;
        self.accept()?;
        (self.rests_until, self.listens) = (None, false);
        let left = mem::take(&mut self.backlog);
        left.into_iter().for_each(|id| self.net().kernel.refuse(id));
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.worker.is_idle()
    }

    fn end(&mut self) {
        assert!(self.events.is_empty(), "fetched events were not handled");
    }
}
