//! Drives event loops over the simulated network, on one virtual clock.
//!
//! Each sleeps only where a real event loop would, and wakes only for a reason that would wake that: an event, another
//! worker, or the time that its worker requested. Work that is left undone then hangs forever, and is noticed. The
//! order of several workers' turns is random; a turn is not interrupted by another worker's.

use std::{
    cell::{RefCell, RefMut},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use psystrike::{
    net::{
        shared::{Phase, Shared},
        turn::turn,
        worker::Worker,
    },
    proxy::{
        access::Access,
        metrics::BuildInfo,
        outcome::Outcome,
        pods::Pods,
        policy::{ALLOW_DEFAULT, Policy, Ports, parse_range},
        settings::{Settings, Timeouts},
        timestamp::Timestamp,
    },
};

use super::{
    bytes::Random,
    clients::{Client, Draws},
    event_loop::EventLoop,
    kernel::{ConnId, Link},
    net::{Call, Chaos, Net, Owner, Refusal, SimNetwork},
};

/// The limit of buffered bytes in tests about other limits.
const BUFFERS_MAX: usize = 64 * 1024 * 1024;
/// A limit of buffered bytes that is reached soon.
const TIGHT_BUFFERS_MAX: [usize; 4] = [8 * 1024, 20 * 1024, 64 * 1024, 160 * 1024];
/// More steps than any run needs.
const STEPS_MAX: usize = 400_000;

/// How long the addresses of a name are cached, and failures as well.
pub(crate) const RESOLVE_TTL: Duration = Duration::from_secs(1);

/// For how long bytes gather at most.
pub(crate) const GATHER: Duration = Duration::from_millis(1);

/// The settings.
pub(crate) fn settings() -> Settings {
    let allow = ALLOW_DEFAULT.split(',').map(|range| parse_range(range).unwrap()).collect();
    let seconds = Duration::from_secs;
    Settings {
        access: Access::default(),
        policy: Policy::new(allow, Vec::new(), Ports::all()),
        pods: Pods::default(),
        timeouts: Timeouts {
            scrape: seconds(3),
            scrape_max: seconds(5),
            connect: Duration::from_millis(500),
            header: Duration::from_millis(1500),
            client_idle: seconds(10),
            upstream_idle: seconds(4),
            gather: GATHER,
            tunnel_idle: seconds(8),
            resolve_ttl: RESOLVE_TTL,
        },
        connect_ports: Some(Ports::all()),
        access_log: false,
    }
}

pub(crate) struct Sim {
    /// `None`: it is over.
    event_loops: Vec<Option<EventLoop>>,
    net: Rc<RefCell<Net>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) build_info: BuildInfo,
    /// Random numbers for which worker gets a connection, and which has the next turn. Separate, so that the other
    /// sequences of a seed stay the same.
    spread: Random,
    pub(crate) steps: usize,
}

impl Sim {
    pub(crate) fn new(seed: u64, clients_max: usize, upstreams_idle_max: usize) -> Self {
        Self::with_workers(seed, 1, [clients_max, upstreams_idle_max, BUFFERS_MAX])
    }

    /// Creates a simulation with these limits of clients, pooled pod connections and buffered bytes, of all workers
    /// together.
    pub(crate) fn with_workers(seed: u64, workers: usize, most: [usize; 3]) -> Self {
        let [clients_max, upstreams_idle_max, buffers_max] = most;
        let build_info =
            BuildInfo { version: "0", revision: "0", clients_max, upstreams_idle_max, buffers_max };
        let shared = Arc::new(Shared::new(settings(), build_info, workers));
        let mut net = Net::new(seed, workers, settings());
        net.buffers_max = shared.buffers_max_of_worker();
        let net = Rc::new(RefCell::new(net));
        let of_worker = |worker| EventLoop::new(SimNetwork { net: Rc::clone(&net), worker }, &shared);
        let (event_loops, wakes) = (0..workers).map(of_worker).unzip::<_, _, Vec<_>, _>();
        shared.set_wakes(wakes);
        let event_loops = event_loops.into_iter().map(Some).collect();
        Self { event_loops, net, shared, build_info, spread: Random::new(seed ^ 0x5b4ead), steps: 0 }
    }

    /// Creates a simulation with random clients, pods and faults.
    pub(crate) fn random(seed: u64, workers: usize) -> Self {
        let random = &mut Random::new(seed);
        let mut clients_max = random.pick(&[1, 2, 100, 100, 100]);
        let idle_max = random.pick(&[0, 1, 2, 100, 100]);
        // From separate random numbers, so that the other sequences of a seed stay the same.
        let buffers = &mut Random::new(seed ^ 0xb0ff);
        let tight = buffers.one_in(4);
        let buffers_max = if tight { buffers.pick(&TIGHT_BUFFERS_MAX) * workers } else { BUFFERS_MAX };
        let crowd = &mut Random::new(seed ^ 0xc40d);
        let more = if workers > 1 { crowd.below(5) } else { 0 };
        if workers > 1 {
            clients_max = crowd.pick(&[1, 2, 2, 3, 100]);
        }
        let sim = Self::with_workers(random.next(), workers, [clients_max, idle_max, buffers_max]);
        let mut net = sim.net();
        net.chaos = Chaos {
            mid_turn: random.pick(&[0, 8, 2]),
            interrupts: random.one_in(2),
            events: random.one_in(2),
            connects: random.one_in(2),
            refuses: None,
        };
        if random.one_in(6) {
            net.fds_max = 3 + random.below(6);
        }
        net.long = random.one_in(4);
        // Drawn separately, so that the other sequences of a seed stay the same.
        let apart = &mut Random::new(seed ^ u64::MAX);
        net.chaos.refuses = apart.one_in(6).then(|| Refusal::random(apart));
        // The bytes of requests that wait are not known to the models.
        let guard = (!tight && apart.one_in(3)).then_some(seed ^ 0x6a4d);
        if guard.is_some() {
            net.change_users(&sim.shared);
        }
        let guard = guard.filter(|_| net.passwords.is_needed());
        let (now, draws) = (net.now, Draws { timeouts: net.settings.timeouts, long: net.long, guard });
        for client in 0..1 + random.below(5) + more {
            let client = Client::random(random, now, client, &mut net.scrapes, draws);
            net.clients.push(client);
        }
        drop(net);
        sim
    }

    pub(crate) fn net(&self) -> RefMut<'_, Net> {
        self.net.borrow_mut()
    }

    pub(crate) fn workers(&self) -> usize {
        self.event_loops.len()
    }

    /// Returns the event loop of a worker, unless it has ended.
    pub(crate) fn event_loop(&mut self, worker: usize) -> Option<&mut EventLoop> {
        self.event_loops[worker].as_mut()
    }

    /// Returns the event loops that have not ended.
    pub(crate) fn event_loops(&mut self) -> impl Iterator<Item = &mut EventLoop> {
        self.event_loops.iter_mut().flatten()
    }

    /// Returns the first worker, for a call other than a turn.
    pub(crate) fn worker(&mut self) -> &mut Worker<SimNetwork> {
        self.event_loop(0).expect("the worker is running").worker()
    }

    /// Runs until all clients are gone, and then until nothing is left. Returns how often each outcome was counted.
    pub(crate) fn run(&mut self) -> Vec<u64> {
        let stops_early = self.net().random.one_in(6);
        let stops_at = self.net().random.below(60);
        loop {
            if stops_early && self.steps > stops_at {
                let chance = self.net().random.below(60);
                match chance {
                    0 => self.enter(Phase::Closing),
                    1 | 2 => self.enter(Phase::Draining),
                    _ => {}
                }
            }
            if !self.step() {
                break;
            }
        }
        self.finish()
    }

    /// A client that the test plays has connected, and the first worker accepts it.
    pub(crate) fn client(&mut self) -> ConnId {
        self.client_of(0)
    }

    /// A client that the test plays has connected, and this worker accepts it.
    pub(crate) fn client_of(&mut self, worker: usize) -> ConnId {
        let id = self.net().add_conn(Owner::Test, None, Link::Up, [64 * 1024; 2]);
        self.admit(worker, id);
        id
    }

    /// The same, with these buffer sizes in each direction: to the worker, and from it.
    pub(crate) fn client_with(&mut self, worker: usize, rooms: [usize; 2]) -> ConnId {
        let id = self.net().add_conn(Owner::Test, None, Link::Up, rooms);
        self.admit(worker, id);
        id
    }

    /// A client that the test plays connects, and waits to be accepted by this worker.
    pub(crate) fn connect_to(&mut self, worker: usize) -> ConnId {
        let id = self.net().add_conn(Owner::Test, None, Link::Up, [64 * 1024; 2]);
        self.event_loop(worker).expect("the worker is running").connect(id);
        id
    }

    /// A worker accepts a connection.
    pub(crate) fn admit(&mut self, worker: usize, id: ConnId) {
        self.event_loop(worker).expect("the worker is running").admit(id);
    }

    /// A peer that the test plays sends all of `bytes`, and the workers run.
    pub(crate) fn send(&mut self, id: ConnId, bytes: &[u8]) {
        let sent = self.net().kernel.peer_send(id, bytes);
        assert_eq!(sent, bytes.len(), "the kernel has room");
        self.settle();
    }

    /// A peer that the test plays takes all available bytes, and the workers run.
    pub(crate) fn take(&mut self, id: ConnId) -> String {
        let taken = self.net().kernel.peer_take(id, usize::MAX);
        self.settle();
        String::from_utf8(taken).unwrap()
    }

    /// Runs turns until all event loops would sleep.
    pub(crate) fn settle(&mut self) {
        while self.turn_of_any() {}
    }

    /// Time passes. Returns the number of turns for which event loops woke.
    pub(crate) fn pass(&mut self, time: Duration) -> usize {
        let until = self.net().now + time;
        let mut turns = 0;
        while let Some(at) = self.next_wake().filter(|at| *at <= until) {
            let now = self.net().now.max(at);
            self.net().now = now;
            self.turn_of_any();
            turns += 1;
        }
        let now = self.net().now.max(until);
        self.net().now = now;
        turns
    }

    /// Time passes until an event loop wakes or a lookup ends, and the workers run.
    pub(crate) fn pass_to_next(&mut self) {
        let wakes = self.next_wake();
        let next = wakes.into_iter().chain(self.net().next_offloaded_end()).min();
        let mut net = self.net.borrow_mut();
        net.now = net.now.max(next.expect("an event is due"));
        net.run_offloaded(&self.shared);
        drop(net);
        self.settle();
    }

    /// Returns the pod connections that the workers have open.
    pub(crate) fn pods(&self) -> Vec<ConnId> {
        let net = self.net();
        net.kernel.held.iter().copied().filter(|&id| net.kernel.conns[id].pod.is_some()).collect()
    }

    /// Returns whether a pod that the test plays has bytes to read.
    pub(crate) fn asks(&self, pod: ConnId) -> bool {
        !self.net().kernel.conns[pod].from_worker.is_empty()
    }

    pub(crate) fn is_held(&self, id: ConnId) -> bool {
        self.net().kernel.conns[id].is_held()
    }

    /// Returns whether a worker has a connection open and has not closed its own side; otherwise it may linger.
    pub(crate) fn is_served(&self, id: ConnId) -> bool {
        self.is_held(id) && !self.net().kernel.conns[id].worker_ended
    }

    /// Returns how often an outcome was counted.
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.counted()[outcome as usize]
    }

    /// Enters a later phase, as the process does after a signal.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.net().draining = true;
        self.shared.enter(phase);
        self.shared.wake_all().expect("all are woken");
    }

    /// Performs one step: peers act, a worker has its turn, or time passes. Returns whether the run is over.
    fn step(&mut self) -> bool {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "the run does not end");
        let acts = self.net().random.below(6);
        for _ in 0..acts {
            if !self.peer_acts() {
                break;
            }
        }
        self.net.borrow_mut().run_offloaded(&self.shared);
        if let Some(worker) = self.next_ready() {
            // A busy event loop finds several events at once.
            let due = self.event_loops().any(EventLoop::is_due);
            if due || self.net().random.below(3) > 0 || !self.peer_acts() {
                self.turn_of(worker);
            }
            return true;
        }
        if self.peer_acts() {
            return true;
        }
        self.check_sleep();
        let wakes = {
            let net = self.net();
            let clients = (0..net.clients.len()).filter_map(|client| net.client_wakes(client));
            let pods = (0..net.pods.len()).filter_map(|pod| net.pod_wakes(pod));
            clients.chain(pods).chain(net.next_offloaded_end()).min()
        };
        let done = {
            let net = self.net();
            (0..net.clients.len()).all(|client| net.client_is_done(client))
        };
        if done && self.event_loops().all(|event_loop| event_loop.has_no_clients()) {
            return false;
        }
        let next = self.next_wake().into_iter().chain(wakes).min();
        self.sleep_until(next.expect("an event is due, or the run would be over"));
        true
    }

    /// Returns when an event loop wakes at the latest.
    pub(crate) fn next_wake(&mut self) -> Option<Timestamp> {
        self.event_loops().filter_map(EventLoop::next_wake).min()
    }

    pub(crate) fn sleep_until(&mut self, at: Timestamp) {
        let mut net = self.net();
        let late = Duration::from_nanos(net.random.below(1_000_000) as u64);
        assert!(at >= net.now, "time passes");
        net.now = at + late;
        net.trace(|| format!("---- {late:?} late"));
    }

    fn peer_acts(&mut self) -> bool {
        let mut net = self.net();
        let before = net.kernel.conns.len();
        let acted = net.act(false);
        let connected = before..net.kernel.conns.len();
        drop(net);
        connected.for_each(|id| self.connect(id));
        acted
    }

    /// A client has connected: any listening worker gets it, as with SO_REUSEPORT, or none.
    fn connect(&mut self, id: ConnId) {
        let mut listening: Vec<_> =
            self.event_loops.iter_mut().flatten().filter(|one| one.listens()).collect();
        let nth = if listening.len() > 1 { self.spread.below(listening.len()) } else { 0 };
        match listening.get_mut(nth) {
            Some(event_loop) => event_loop.connect(id),
            None => self.net.borrow_mut().kernel.refuse(id),
        }
    }

    /// Returns one of the workers that are awake.
    fn next_ready(&mut self) -> Option<usize> {
        let loops = self.event_loops.iter_mut().enumerate();
        let mut ready = Vec::new();
        for (worker, event_loop) in loops {
            if event_loop.as_mut().is_some_and(EventLoop::is_ready) {
                ready.push(worker);
            }
        }
        let nth = if ready.len() > 1 { self.spread.below(ready.len()) } else { 0 };
        ready.get(nth).copied()
    }

    /// A turn of the first worker.
    pub(crate) fn turn(&mut self) {
        self.turn_of(0);
    }

    /// Runs a turn of one of the workers that are awake. Returns whether there was one.
    pub(crate) fn turn_of_any(&mut self) -> bool {
        let ready = self.next_ready();
        ready.inspect(|&worker| self.turn_of(worker)).is_some()
    }

    /// A turn of a worker's event loop.
    pub(crate) fn turn_of(&mut self, worker: usize) {
        let event_loop = self.event_loops[worker].as_mut().expect("the worker is running");
        if turn(event_loop).expect("the event loop does not fail") {
            event_loop.sleep();
        } else {
            self.net().call = Call::Drop;
            self.event_loops[worker] = None;
            self.net().call = Call::Turn;
        }
        self.check_turn(worker);
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.call = Call::Drop;
        }
        // The workers are dropped first, so that the network observes it.
        self.event_loops.clear();
    }
}
