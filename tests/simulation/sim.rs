//! Drives a worker over the simulated network, as the event loop drives it over the real one.
//!
//! Sleeps only where an event loop would, and wakes only for what would wake that: an event, or the time that
//! the worker named. What is then left undone hangs for ever, and is seen.

use std::{
    cell::{RefCell, RefMut},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use psystrike::{
    net::{
        network::Token,
        shared::{Phase, Shared},
        stream::Ready,
        worker::Worker,
    },
    proxy::{
        metrics::{self, BuildInfo},
        outcome::Outcome,
        policy::{ALLOW_DEFAULT, Policy, Ports, parse_range},
        settings::{Settings, Timeouts},
        timestamp::Timestamp,
    },
};

use super::{
    bytes::Random,
    clients::{Client, Draws, HOLDS_SURELY},
    kernel::{ConnId, Link},
    net::{Call, Chaos, Net, Owner, Refusal, SimNetwork},
};

/// Turns in a row that move nothing, although the worker asked for them at once.
const IDLE_TURNS_MAX: usize = 3;
/// What may be held for clients and pods, where a test is about something else.
const BUFFERS_MAX: usize = 64 * 1024 * 1024;
/// What may be held where that is soon too little.
const TIGHT_BUFFERS_MAX: [usize; 4] = [8 * 1024, 20 * 1024, 64 * 1024, 160 * 1024];
/// More than any run needs.
const STEPS_MAX: usize = 400_000;

/// What the operator set.
pub(crate) fn rules() -> Settings {
    let allow = ALLOW_DEFAULT.split(',').map(|range| parse_range(range).unwrap()).collect();
    let seconds = Duration::from_secs;
    Settings {
        policy: Policy::new(allow, Vec::new(), Ports::all()),
        timeouts: Timeouts {
            scrape: seconds(3),
            scrape_max: seconds(5),
            connect: Duration::from_millis(500),
            header: Duration::from_millis(1500),
            client_idle: seconds(10),
            upstream_idle: seconds(4),
        },
        access_log: false,
    }
}

pub(crate) struct Sim {
    worker: Option<Worker<SimNetwork>>,
    pub(crate) network: SimNetwork,
    pub(crate) shared: Arc<Shared>,
    fixed: BuildInfo,
    pub(crate) backlog: VecDeque<ConnId>,
    /// There was no descriptor to accept with.
    rests_until: Option<Timestamp>,
    /// Events of earlier turns.
    stale: Vec<(Token, Ready)>,
    idle_turns: usize,
    pub(crate) steps: usize,
}

impl Sim {
    pub(crate) fn new(seed: u64, clients_max: usize, upstreams_idle_max: usize) -> Self {
        Self::with_buffers(seed, clients_max, upstreams_idle_max, BUFFERS_MAX)
    }

    /// With at most so many bytes that are held for clients and pods.
    pub(crate) fn with_buffers(
        seed: u64,
        clients_max: usize,
        upstreams_idle_max: usize,
        buffers_max: usize,
    ) -> Self {
        let fixed = BuildInfo { version: "0", revision: "0", clients_max, upstreams_idle_max, buffers_max };
        let shared = Arc::new(Shared::new(rules(), fixed, 1));
        let mut net = Net::new(seed, rules());
        net.buffers_max = buffers_max;
        let network = SimNetwork(Rc::new(RefCell::new(net)));
        let worker = Worker::new(network.clone(), Arc::clone(&shared), 0);
        Self {
            worker: Some(worker),
            network,
            shared,
            fixed,
            backlog: VecDeque::new(),
            rests_until: None,
            stale: Vec::new(),
            idle_turns: 0,
            steps: 0,
        }
    }

    /// With clients, pods and faults that are drawn.
    pub(crate) fn random(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let clients_max = random.pick(&[1, 2, 100, 100, 100]);
        let idle_max = random.pick(&[0, 1, 2, 100, 100]);
        // Apart from the rest, so that it changes nothing of what else a seed means.
        let buffers = &mut Random::new(seed ^ 0xb0ff);
        let tight = buffers.one_in(4);
        let buffers_max = if tight { buffers.pick(&TIGHT_BUFFERS_MAX) } else { BUFFERS_MAX };
        let sim = Self::with_buffers(random.next(), clients_max, idle_max, buffers_max);
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
        // Drawn apart, so that the seeds stay what they were.
        let apart = &mut Random::new(seed ^ u64::MAX);
        net.chaos.refuses = apart.one_in(6).then(|| Refusal::random(apart));
        let (now, draws) = (net.now, Draws { timeouts: net.settings.timeouts, long: net.long });
        for client in 0..1 + random.below(5) {
            let client = Client::random(random, now, client, &mut net.scrapes, draws);
            net.clients.push(client);
        }
        drop(net);
        sim
    }

    pub(crate) fn net(&self) -> RefMut<'_, Net> {
        self.network.0.borrow_mut()
    }

    pub(crate) fn worker(&mut self) -> &mut Worker<SimNetwork> {
        self.worker.as_mut().expect("the worker lives")
    }

    /// Runs until all clients have gone, and then until nothing is left. Gives how often each outcome was counted.
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

    /// A client that the test plays has connected.
    pub(crate) fn client(&mut self) -> ConnId {
        let id = self.net().add_conn(Owner::Test, None, Link::Up, [64 * 1024; 2]);
        self.admit(id);
        id
    }

    /// A peer that the test plays sends all of `bytes`, and the worker does what it can.
    pub(crate) fn send(&mut self, id: ConnId, bytes: &[u8]) {
        let sent = self.net().kernel.peer_send(id, bytes);
        assert_eq!(sent, bytes.len(), "there is room");
        self.settle();
    }

    /// A peer that the test plays takes all that is there, and the worker does what it can.
    pub(crate) fn take(&mut self, id: ConnId) -> String {
        let taken = self.net().kernel.peer_take(id, usize::MAX);
        self.settle();
        String::from_utf8(taken).unwrap()
    }

    /// Turns, until the event loop would sleep.
    pub(crate) fn settle(&mut self) {
        while self.net().kernel.has_events() || self.next_wake().is_some_and(|at| at <= self.net().now) {
            self.turn();
        }
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.net().now + time;
        while let Some(at) = self.next_wake().filter(|at| *at <= until) {
            let now = self.net().now.max(at);
            self.net().now = now;
            self.turn();
        }
        let now = self.net().now.max(until);
        self.net().now = now;
    }

    /// The pods' connections that the worker holds.
    pub(crate) fn pods(&self) -> Vec<ConnId> {
        let net = self.net();
        net.kernel.held.iter().copied().filter(|&id| net.kernel.conns[id].pod.is_some()).collect()
    }

    pub(crate) fn is_held(&self, id: ConnId) -> bool {
        self.net().kernel.conns[id].is_held()
    }

    /// Whether the worker holds a connection and has not ended its side: it may linger then.
    pub(crate) fn is_served(&self, id: ConnId) -> bool {
        self.is_held(id) && !self.net().kernel.conns[id].worker_ended
    }

    /// How often an outcome was counted.
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.counted()[outcome as usize]
    }

    /// How often each outcome was counted.
    pub(crate) fn counted(&self) -> Vec<u64> {
        outcomes(self.shared.counters(0), self.fixed)
    }

    /// Goes on to a later phase, as a signal makes the process do.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.net().draining = true;
        self.shared.enter(phase);
    }

    /// One step: peers act, the worker has its turn, or time passes. Says whether all of it is over.
    fn step(&mut self) -> bool {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "this never ends");
        let acts = self.net().random.below(6);
        for _ in 0..acts {
            if !self.peer_acts() {
                break;
            }
        }
        let due = self.next_wake().is_some_and(|at| at <= self.net().now);
        let accepts = !self.backlog.is_empty() && self.rests_until.is_none();
        if due || accepts || self.net().kernel.has_events() {
            // An event loop that is busy finds several events at once.
            if due || self.net().random.below(3) > 0 || !self.peer_acts() {
                self.turn();
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
            clients.chain(pods).min()
        };
        let done = {
            let net = self.net();
            (0..net.clients.len()).all(|client| net.client_is_done(client))
        };
        if done && self.worker().is_idle() {
            return false;
        }
        let next = self.next_wake().into_iter().chain(wakes).min();
        self.sleep_until(next.expect("something is going to happen, or all would be over"));
        true
    }

    /// When the event loop wakes, whatever happens.
    pub(crate) fn next_wake(&mut self) -> Option<Timestamp> {
        let rests_until = self.rests_until;
        self.worker().next_wake().into_iter().chain(rests_until).min()
    }

    fn sleep_until(&mut self, at: Timestamp) {
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
        let connected = (before..net.kernel.conns.len()).collect::<Vec<_>>();
        drop(net);
        self.backlog.extend(connected);
        acted
    }

    /// A turn of the event loop.
    pub(crate) fn turn(&mut self) {
        let events = self.fetch();
        for (token, ready) in events {
            self.net().trace(|| format!("event {token:?} {ready:?}"));
            self.worker().event(token, ready);
        }
        let now = self.net().now;
        self.worker().run_once(now);
        if self.shared.phase() == Phase::Closing {
            self.call(Call::Drain, |worker| worker.drain());
        }
        self.accept();
        self.check_turn();
    }

    /// Fetches events; now and then late, twice, or such that nothing is behind.
    fn fetch(&mut self) -> Vec<(Token, Ready)> {
        let stale = std::mem::take(&mut self.stale);
        let mut guard = self.net();
        let net = &mut *guard;
        net.turn += 1;
        net.progress = false;
        let moved_on = if net.random.one_in(50) { 0 } else { 1 + net.random.below(50_000) };
        net.now = net.now + Duration::from_nanos(moved_on as u64);
        let held = net.kernel.held.clone();
        let mut events = Vec::new();
        for id in held {
            net.kernel.conns[id].calls = 0;
            // A connection that was just registered is told of at once; and see Net::pod_acts.
            let has_surplus = matches!(net.owners[id], Owner::Pod(pod) if net.pod_has_surplus(pod));
            let must_be_told = !net.kernel.conns[id].told || has_surplus;
            if net.chaos.events && !must_be_told && net.random.one_in(10) {
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
        let fetched = events.clone();
        if net.chaos.events {
            // Those that are still there may have something to say by now; those that are gone may not.
            events.extend(stale.into_iter().filter(|(token, _)| {
                !net.kernel.held.iter().any(|&id| net.kernel.token(id) == Some(*token))
            }));
        }
        for at in (1..events.len()).rev() {
            let other = net.random.below(at + 1);
            events.swap(at, other);
        }
        drop(guard);
        self.stale = fetched;
        events
    }

    /// Calls the worker for something else than a turn.
    fn call<T>(&mut self, call: Call, with: impl FnOnce(&mut Worker<SimNetwork>) -> T) -> T {
        self.net().call = call;
        let result = with(self.worker());
        self.net().call = Call::Turn;
        result
    }

    fn accept(&mut self) {
        let now = self.net().now;
        self.rests_until = self.rests_until.filter(|at| *at > now);
        while self.rests_until.is_none() && !self.backlog.is_empty() {
            let full = self.net().is_out_of_descriptors();
            if full {
                if !self.call(Call::Admit, |worker| worker.make_room()) {
                    self.rests_until = Some(now + Duration::from_millis(100));
                }
                continue;
            }
            let id = self.backlog.pop_front().unwrap();
            self.admit(id);
        }
    }

    /// Accepts a connection.
    pub(crate) fn admit(&mut self, id: ConnId) {
        self.net().accepted += 1;
        self.net().progress = true;
        let owner = self.net().owners[id];
        let socket = self.network.socket(id);
        self.call(Call::Admit, |worker| worker.admit(socket));
        if let Owner::Client(client) = owner {
            let waits = self.shared.room().is_wanted();
            self.net().client_is_admitted(client, waits);
        }
    }

    /// What must hold after a turn.
    fn check_turn(&mut self) {
        let wants_more = self.next_wake().is_some_and(|at| at <= self.net().now);
        let waits = self.shared.room().is_wanted();
        let mut net = self.net();
        net.check_room(waits);
        let idle_turns = if net.progress || !wants_more { 0 } else { self.idle_turns + 1 };
        assert!(idle_turns <= IDLE_TURNS_MAX, "the worker spins");
        for client in 0..net.clients.len() {
            net.check_client(client);
        }
        for pod in 0..net.pods.len() {
            net.check_pod(pod);
        }
        let counters = self.shared.counters(0);
        let pods = if net.clients.is_empty() { None } else { Some(net.held_pods()) };
        if let Some(held_pods) = pods {
            let idle = net.idle_pods();
            let clients = net.kernel.held.len() - held_pods;
            let told = [&counters.clients, &counters.upstreams_active, &counters.upstreams_idle];
            let told = told.map(|counter| counter.get() as usize);
            assert_eq!(told[0] + told[1] + told[2], clients + held_pods, "connections that live");
            assert_eq!(told[0], clients, "clients that live");
            if !wants_more {
                assert_eq!(told[1..], [held_pods - idle, idle], "pods that are active, and that idle");
            }
            let held = counters.buffered_bytes.get() as usize;
            let least: usize = net.clients.iter().map(|client| net.client_holds(client, HOLDS_SURELY)).sum();
            let most = self.fixed.buffers_max;
            assert!(
                (least..=most).contains(&held),
                "{held} bytes are held: at least {least}, at most {most}"
            );
            assert!(told[2] <= self.fixed.upstreams_idle_max, "{} pods idle", told[2]);
            let waits = net.clients.iter().filter(|client| {
                client.conn.is_some_and(|conn| {
                    let conn = &net.kernel.conns[conn];
                    client.admitted && conn.is_held() && !conn.end_told
                })
            });
            assert!(told[1] <= waits.count(), "more pods work than clients wait");
            assert_eq!(counters.clients_accepted.get(), net.accepted);
            assert_eq!(counters.upstreams_opened.get(), net.opened);
            assert_eq!(counters.client_sent_bytes.get(), net.bytes_to_clients);
        }
        let buffered = counters.buffered_bytes.get() as usize;
        drop(net);
        self.net().buffered = buffered;
        self.net().note_what_clients_hold();
        self.idle_turns = idle_turns;
    }

    /// What must hold when the event loop goes to sleep and no peer has anything to do.
    fn check_sleep(&mut self) {
        let net = self.net();
        for client in 0..net.clients.len() {
            net.check_client_sleeps_well(client);
        }
        for pod in 0..net.pods.len() {
            net.check_pod_sleeps_well(pod);
        }
    }

    /// All clients have gone. Closes, and checks what is left, and what was counted.
    fn finish(&mut self) -> Vec<u64> {
        self.enter(Phase::Closing);
        assert!(self.worker().is_idle());
        for _ in 0..10_000 {
            let Some(at) = self.next_wake() else { break };
            let now = self.net().now;
            self.sleep_until(at.max(now));
            self.turn();
        }
        assert_eq!(self.next_wake(), None, "nothing is left to wait for");
        let counters = self.shared.counters(0);
        let levels = [&counters.clients, &counters.upstreams_active, &counters.upstreams_idle];
        assert_eq!(levels.map(metrics::Counter::get), [0; 3], "nothing lives");
        assert_eq!(self.net().kernel.held, Vec::<ConnId>::new());
        self.check_outcomes()
    }

    fn check_outcomes(&mut self) -> Vec<u64> {
        let net = self.net();
        let counters = self.shared.counters(0);
        let counted = outcomes(counters, self.fixed);
        let mut others = 0;
        for (&outcome, (&counted, &seen)) in Outcome::ALL.iter().zip(counted.iter().zip(&net.tally)) {
            // What the client did not get whole may count as what it was going to be.
            assert!(counted >= seen, "{outcome:?} {seen} times, and counted {counted} times");
            others += counted - seen;
        }
        let possible = net.unfinished..=net.unfinished + net.unsure;
        assert!(possible.contains(&others), "{others} ended otherwise: {possible:?}: {counted:?}");
        for outcome in [Outcome::Forwarded, Outcome::Page] {
            assert_eq!(counted[outcome as usize], net.tally[outcome as usize], "{outcome:?}");
        }
        let (reused, retries) = (counters.upstreams_reused.get(), counters.retries.get());
        assert!(reused >= net.reused && retries >= net.sent_again && reused >= retries);
        assert!(retries <= net.opened + net.failed_connects.len() as u64 + others, "{retries} retries");
        counted
    }
}

/// How often each outcome was counted.
pub(crate) fn outcomes(counters: &metrics::Counters, fixed: BuildInfo) -> Vec<u64> {
    let mut page = Vec::new();
    metrics::render(&mut page, &[counters], fixed, &metrics::Process::default());
    let page = String::from_utf8(page).unwrap();
    let counts = page.lines().filter_map(|line| line.strip_prefix("psystrike_outcomes_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Ok(mut net) = self.network.0.try_borrow_mut() {
            net.call = Call::Drop;
        }
        // The worker is dropped while the network is still there to see it.
        self.worker = None;
    }
}
