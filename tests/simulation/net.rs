//! The simulated network: the worker's view of the kernel, and the models that observe the worker's calls.
//!
//! Owns the virtual clock, the random numbers and the faults. Its peers are models ([`super::clients`],
//! [`super::pods`]), or the test itself, which then plays them call by call.

#[path = "sockets.rs"]
mod sockets;

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    mem,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use psystrike::{
    net::{
        network::{Network, Token},
        shared::Shared,
        stream::upstream_error,
        transport::{Transport, splice::Pipe},
    },
    proxy::{
        outcome::{OUTCOMES, Outcome, UpstreamError},
        timestamp::Timestamp,
    },
};
use rustix::io::Errno;

use super::{
    bytes::Random,
    clients::Client,
    kernel::{Close, ConnId, Kernel, Link},
    names::{self, Resolver},
    passwords::Checker,
    pods::{Pod, Scrape},
};

/// Maximum number of calls on one socket in one turn. A run makes 16 moves, a turn runs a client at most twice (an
/// event and a deadline), and a move is at most a write and a read, with an interruption now and then.
const CALLS_MAX: usize = 160;

/// The random faults.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chaos {
    /// Peers act during the worker's turn: on average at one in this many of its calls. 0: never.
    pub(crate) mid_turn: usize,
    /// Calls are interrupted.
    pub(crate) interrupts: bool,
    /// Events come late, twice, for connections that are gone, or for no reason.
    pub(crate) events: bool,
    /// The kernel refuses one of the calls that move bytes through pipes, from one of them on.
    pub(crate) refuses: Option<Refusal>,
    /// Connections fail to be established.
    pub(crate) connects: bool,
}

/// The owner of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Test,
    Client(usize),
    Pod(usize),
}

/// A call that the kernel refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Optional {
    Pipe,
    Fill,
    Look,
    Pour,
}

/// A call that fails with an error, from some call on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) call: Optional,
    pub(crate) error: Errno,
    pub(crate) after: usize,
}

impl Refusal {
    pub(crate) const ERRORS: [Errno; 4] = [Errno::NOSYS, Errno::INVAL, Errno::PERM, Errno::OPNOTSUPP];

    pub(crate) fn random(random: &mut Random) -> Self {
        let call = random.pick(&[Optional::Pipe, Optional::Fill, Optional::Look, Optional::Pour]);
        Self { call, error: random.pick(&Self::ERRORS), after: random.below(6) }
    }
}

/// The reason for a call of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Turn,
    /// A connection is accepted, or room is made for it: idle clients may be closed.
    Admit,
    Drain,
    /// It is dropped.
    Drop,
}

pub(crate) struct Net {
    pub(crate) kernel: Kernel,
    pub(crate) owners: Vec<Owner>,
    pub(crate) random: Random,
    pub(crate) chaos: Chaos,
    pub(crate) now: Timestamp,
    /// The number of turns, and the last turn of each worker.
    pub(crate) turn: usize,
    pub(crate) turns: Vec<usize>,
    pub(crate) call: Call,
    /// The process is about to stop.
    pub(crate) draining: bool,
    pub(crate) fds_max: usize,
    /// The kernel's buffer sizes of connections to pods that the test plays, to the worker and from it.
    pub(crate) rooms: [usize; 2],
    /// The results of the next connects. After the last, connections are established at once.
    pub(crate) connects: VecDeque<Result<Link, Errno>>,
    /// Bytes moved, or connections came or went, in this turn.
    pub(crate) progress: bool,
    pub(crate) opened: u64,
    pub(crate) reused: u64,
    pub(crate) sent_again: u64,
    /// Clients' connections that were accepted.
    pub(crate) accepted: u64,
    /// Wakes that workers noticed; and clients that got a place after waiting.
    pub(crate) wakes_heard: u64,
    pub(crate) places_after_wait: u64,
    /// Complete responses, by outcome; and exchanges that ended otherwise.
    pub(crate) tally: [u64; OUTCOMES],
    pub(crate) unfinished: u64,
    /// Clients that disconnected, and may have been refused before.
    pub(crate) unsure: u64,
    pub(crate) bytes_to_clients: u64,
    /// Peeks at the beginning of a response; those whose response then went through a pipe from its first byte; and the
    /// bytes that went from pipes to clients.
    pub(crate) peeks: u64,
    pub(crate) peeks_passed_on: u64,
    pub(crate) poured: u64,
    /// If the last call was a peek: its connection, and the number of bytes.
    peeked: bool,
    /// The action directly after the next peek.
    pub(crate) behind_peek: Option<fn(&mut Kernel, ConnId)>,
    /// Failed connects that no response has reported yet.
    pub(crate) failed_connects: Vec<(SocketAddr, Outcome)>,
    pub(crate) clients: Vec<Client>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) scrapes: Vec<Scrape>,
    pub(crate) resolver: Resolver,
    pub(crate) passwords: Checker,
    pub(crate) settings: psystrike::proxy::settings::Settings,
    /// Each worker's limit of buffered bytes.
    pub(crate) buffers_max: usize,
    /// Each worker's gauge of buffered bytes.
    pub(crate) buffered: Vec<usize>,
    /// The memory is nearly used up.
    pub(crate) is_short_of_memory: bool,
    /// Most bodies are long.
    pub(crate) long: bool,
    pub(crate) traced: bool,
}

/// One worker's handle of the network that the workers and their test share.
#[derive(Clone)]
pub(crate) struct SimNetwork {
    pub(crate) net: Rc<RefCell<Net>>,
    pub(crate) worker: usize,
}

/// A pipe of the worker's.
pub(crate) struct SimPipe {
    net: Rc<RefCell<Net>>,
    bytes: Vec<u8>,
    /// Whose connection they came from.
    from: Option<ConnId>,
}

/// A socket of the worker.
pub(crate) struct SimSocket {
    net: Rc<RefCell<Net>>,
    pub(crate) id: ConnId,
}

impl Net {
    pub(crate) fn new(seed: u64, workers: usize, settings: psystrike::proxy::settings::Settings) -> Self {
        Self {
            kernel: Kernel::default(),
            owners: Vec::new(),
            random: Random::new(seed),
            chaos: Chaos::default(),
            now: Timestamp::default(),
            turn: 0,
            turns: vec![0; workers],
            call: Call::Turn,
            draining: false,
            fds_max: usize::MAX,
            rooms: [64 * 1024; 2],
            connects: VecDeque::new(),
            progress: false,
            opened: 0,
            reused: 0,
            sent_again: 0,
            accepted: 0,
            wakes_heard: 0,
            places_after_wait: 0,
            tally: [0; OUTCOMES],
            unfinished: 0,
            unsure: 0,
            bytes_to_clients: 0,
            peeks: 0,
            peeks_passed_on: 0,
            poured: 0,
            peeked: false,
            behind_peek: None,
            failed_connects: Vec::new(),
            clients: Vec::new(),
            pods: Vec::new(),
            scrapes: Vec::new(),
            resolver: Resolver::new(seed),
            passwords: Checker::new(seed),
            settings,
            buffers_max: usize::MAX,
            buffered: vec![0; workers],
            is_short_of_memory: false,
            long: false,
            traced: std::env::var_os("PSYSTRIKE_SEED").is_some(),
        }
    }

    /// Prints an action, if a single seed is run.
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            let worker = self.turns.iter().position(|&turn| turn == self.turn).unwrap_or_default();
            eprintln!("turn {:4} of {worker}: {}", self.turn, what());
        }
    }

    pub(crate) fn add_conn(
        &mut self,
        owner: Owner,
        pod: Option<SocketAddr>,
        link: Link,
        rooms: [usize; 2],
    ) -> ConnId {
        self.owners.push(owner);
        self.kernel.open(pod, link, rooms)
    }

    /// Returns whether the kernel refuses this call.
    fn refuse(&mut self, call: Optional) -> io::Result<()> {
        match &mut self.chaos.refuses {
            Some(Refusal { call: known, error, after: 0 }) if *known == call => Err((*error).into()),
            Some(Refusal { call: known, after, .. }) if *known == call => {
                *after -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Performs, before a call of the worker, the other events of that moment.
    fn before(&mut self, id: ConnId) -> io::Result<()> {
        let calls = &mut self.kernel.conns[id].calls;
        *calls += 1;
        assert!(*calls <= CALLS_MAX, "the worker spins on connection {id}");
        if self.chaos.mid_turn > 0 && self.random.one_in(self.chaos.mid_turn) {
            self.act(true);
        }
        if self.chaos.interrupts && self.random.one_in(40) {
            return Err(Errno::INTR.into());
        }
        Ok(())
    }

    fn connect(&mut self, worker: usize, to: SocketAddr) -> Result<ConnId, Errno> {
        if names::refuses(to) {
            return Err(Errno::CONNREFUSED); // another address follows
        }
        let result = self.decide_connect(to);
        match result {
            Ok((link, pod)) => {
                let rooms = if pod.is_some() { self.random_rooms() } else { self.rooms };
                let owner = if pod.is_some() { Owner::Pod(self.pods.len()) } else { Owner::Test };
                let id = self.add_conn(owner, Some(to), link, rooms);
                if let Some(mut pod) = pod {
                    pod.conn = id;
                    self.pods.push(pod);
                }
                self.trace(|| format!("connect to {to} as {id}: {link:?}"));
                self.opened += 1;
                self.progress = true;
                Ok(id)
            }
            Err(error) => {
                self.trace(|| format!("no connect to {to}: {error}"));
                // While the worker has an idle pod connection, it has to close that to free a descriptor.
                if error != Errno::MFILE || self.idle_pods(worker) == 0 {
                    self.failed_connects.push((to, connect_outcome(&error.into())));
                }
                Err(error)
            }
        }
    }

    fn decide_connect(&mut self, to: SocketAddr) -> Result<(Link, Option<Pod>), Errno> {
        if self.is_out_of_descriptors() {
            return Err(Errno::MFILE);
        }
        if let Some(planned) = self.connects.pop_front() {
            return Ok((planned?, None));
        }
        if self.clients.is_empty() {
            return Ok((Link::Up, None));
        }
        self.random_connect(to).map(|(link, pod)| (link, Some(pod)))
    }

    /// A worker's turn begins, a moment later.
    pub(crate) fn begin_turn(&mut self, worker: usize) {
        self.turn += 1;
        self.turns[worker] = self.turn;
        self.progress = false;
        let moved_on = if self.random.one_in(50) { 0 } else { 1 + self.random.below(50_000) };
        self.now = self.now + Duration::from_nanos(moved_on as u64);
    }

    pub(crate) fn is_out_of_descriptors(&self) -> bool {
        self.kernel.held.len() >= self.fds_max
    }

    pub(crate) fn random_rooms(&mut self) -> [usize; 2] {
        const ROOMS: [usize; 9] =
            [64, 300, 2000, 4096, 16 * 1024, 64 * 1024, 80 * 1024, 256 * 1024, 1024 * 1024];
        let rooms = if self.long { &ROOMS[4..] } else { &ROOMS[..8] };
        [self.random.pick(rooms), self.random.pick(rooms)]
    }

    fn wrote(&mut self, id: ConnId, bytes: &[u8]) {
        self.progress = true;
        match self.owners[id] {
            Owner::Test => {}
            Owner::Client(client) => self.client_got(client, bytes),
            Owner::Pod(pod) => {
                let low_water = self.kernel.conns[id].low_water;
                assert_eq!(low_water, 1, "a request on {id}, where stray bytes cause no event");
                self.pod_got(pod, bytes);
            }
        }
    }

    fn closed(&mut self, id: ConnId) {
        let random = &mut self.random;
        let undelivered = self.kernel.has_undelivered(id);
        let close = self.kernel.close(id, |end| random.below(end));
        let is_given_up = self.kernel.conns[id].delivers_within.is_some();
        let is_orphan = undelivered && close == Close::Fin && !is_given_up && self.call != Call::Drop;
        assert!(!is_orphan, "{id} is closed with bytes in the kernel that may never be read");
        self.progress = true;
        self.trace(|| format!("worker closes {id}, {:?}'s: {close:?}", self.owners[id]));
        match self.owners[id] {
            Owner::Test => {}
            Owner::Client(client) => self.client_closed(client, close),
            Owner::Pod(pod) => self.pod_closed(pod),
        }
    }

    /// A random peer performs a random action. Returns whether any could.
    pub(crate) fn act(&mut self, mid_turn: bool) -> bool {
        let now = self.now;
        let (clients, pods) = (self.clients.len(), self.pods.len());
        if clients + pods == 0 {
            return false;
        }
        // In turn, starting with a random one.
        let first = self.random.below(clients + pods);
        for at in 0..clients + pods {
            let actor = (first + at) % (clients + pods);
            let acted = match actor.checked_sub(clients) {
                None => self.client_acts(actor, now, mid_turn),
                Some(pod) => self.pod_acts(pod, now, mid_turn),
            };
            if acted {
                return true;
            }
        }
        false
    }
}

/// Returns the reason phrase for the error of a connect.
pub(crate) fn connect_outcome(error: &io::Error) -> Outcome {
    match upstream_error(error) {
        UpstreamError::Refused => Outcome::ConnectionRefused,
        UpstreamError::Unreachable => Outcome::Unreachable,
        UpstreamError::TimedOut => Outcome::ConnectTimeout,
        UpstreamError::NoDescriptors => Outcome::NoFileDescriptors,
        UpstreamError::NoLocalPort | UpstreamError::Forbidden | UpstreamError::Other => {
            Outcome::ConnectFailed
        }
        UpstreamError::Itself | UpstreamError::Tls(_) => unreachable!("not an error of connect"),
    }
}
