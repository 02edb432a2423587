//! The simulated network: what the worker sees of the kernel, and whom the kernel tells of the worker's calls.
//!
//! Owns the virtual clock, the random numbers and the faults. Its peers are models ([`super::clients`],
//! [`super::pods`]), or the test itself, which then plays them call by call.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    mem,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use psystrike::{
    net::{
        network::{Network, Token},
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
    pods::{Pod, Scrape},
};

/// The most calls on one socket in one turn. A pump makes 16 moves, a turn pumps a client at most twice (an
/// event and a deadline), and a move is at most a write and a read, with an interruption now and then.
const CALLS_MAX: usize = 160;

/// What goes wrong at random.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chaos {
    /// Peers act while the worker is in its turn: at one in so many of its calls. 0: never.
    pub(crate) mid_turn: usize,
    /// Calls are interrupted.
    pub(crate) interrupts: bool,
    /// Events come late, twice, for connections that are gone, or for no reason.
    pub(crate) events: bool,
    /// The kernel refuses one of the calls that move bytes through pipes, from one of them on.
    pub(crate) refuses: Option<Refusal>,
    /// Connections fail to come about.
    pub(crate) connects: bool,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Test,
    Client(usize),
    Pod(usize),
}

/// A call that the kernel does not offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Optional {
    Pipe,
    Fill,
    Look,
    Pour,
}

/// A call that is refused with an error, once it was made so often.
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

/// What the worker is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Turn,
    /// Somebody is accepted, or room is made for it: who idles may be closed.
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
    /// How many turns there were, and which of them was the last of each worker.
    pub(crate) turn: usize,
    pub(crate) turns: Vec<usize>,
    pub(crate) call: Call,
    /// The process is about to stop.
    pub(crate) draining: bool,
    pub(crate) fds_max: usize,
    /// What the kernel holds of connections to pods that the test plays, to the worker and from it.
    pub(crate) rooms: [usize; 2],
    /// What connects come to. When there are no more, they come about at once.
    pub(crate) connects: VecDeque<Result<Link, Errno>>,
    /// Bytes moved, or connections came or went, in this turn.
    pub(crate) progress: bool,
    pub(crate) opened: u64,
    pub(crate) reused: u64,
    pub(crate) sent_again: u64,
    /// Clients' connections that were accepted.
    pub(crate) accepted: u64,
    /// Wakes that workers heard; and clients that got a place after they had waited.
    pub(crate) wakes_heard: u64,
    pub(crate) places_after_wait: u64,
    /// Complete answers, by outcome; and exchanges that ended otherwise.
    pub(crate) tally: [u64; OUTCOMES],
    pub(crate) unfinished: u64,
    /// Clients that went away, and may have been refused before.
    pub(crate) unsure: u64,
    pub(crate) bytes_to_clients: u64,
    /// Looks at the beginning of an answer; those of them whose answer then went on by a pipe from its first byte;
    /// and bytes that pipes gave to clients.
    pub(crate) looks: u64,
    pub(crate) looks_passed_on: u64,
    pub(crate) poured: u64,
    /// What the last call was, if a look: at what, and how much it showed.
    looked: bool,
    /// Happens right behind the next look.
    pub(crate) behind_look: Option<fn(&mut Kernel, ConnId)>,
    /// Connects that failed, and of which no client was told yet.
    pub(crate) failed_connects: Vec<(SocketAddr, Outcome)>,
    pub(crate) clients: Vec<Client>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) scrapes: Vec<Scrape>,
    pub(crate) settings: psystrike::proxy::settings::Settings,
    /// The most that each worker may hold for others.
    pub(crate) buffers_max: usize,
    /// What each says that it holds.
    pub(crate) buffered: Vec<usize>,
    /// The memory is nearly used up.
    pub(crate) is_short_of_memory: bool,
    /// Most bodies are long.
    pub(crate) long: bool,
    pub(crate) traced: bool,
}

/// A network that the workers and their test share, as one of the workers has it.
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
            looks: 0,
            looks_passed_on: 0,
            poured: 0,
            looked: false,
            behind_look: None,
            failed_connects: Vec::new(),
            clients: Vec::new(),
            pods: Vec::new(),
            scrapes: Vec::new(),
            settings,
            buffers_max: usize::MAX,
            buffered: vec![0; workers],
            is_short_of_memory: false,
            long: false,
            traced: std::env::var_os("PSYSTRIKE_SEED").is_some(),
        }
    }

    /// With a single seed, says what happens.
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

    /// Whether the kernel refuses this call.
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

    /// Before a call of the worker: what else happens in the world at that moment.
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
                // While any pod connection idles at the worker, it has to give its descriptor.
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
            Owner::Pod(pod) => self.pod_got(pod, bytes),
        }
    }

    fn closed(&mut self, id: ConnId) {
        let random = &mut self.random;
        let undelivered = self.kernel.has_undelivered(id);
        let close = self.kernel.close(id, |end| random.below(end));
        let is_orphan = undelivered && close == Close::Fin && self.call != Call::Drop;
        assert!(!is_orphan, "{id} is closed with bytes in the kernel that nobody may ever take");
        self.progress = true;
        self.trace(|| format!("worker closes {id}, {:?}'s: {close:?}", self.owners[id]));
        match self.owners[id] {
            Owner::Test => {}
            Owner::Client(client) => self.client_closed(client, close),
            Owner::Pod(pod) => self.pod_closed(pod),
        }
    }

    /// A random peer does something at random. Says whether any could.
    pub(crate) fn act(&mut self, mid_turn: bool) -> bool {
        let now = self.now;
        let (clients, pods) = (self.clients.len(), self.pods.len());
        if clients + pods == 0 {
            return false;
        }
        // Round from a random one on, so that all get their turn.
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

/// What the error of a connect means, in the words of the answer that tells of it.
pub(crate) fn connect_outcome(error: &io::Error) -> Outcome {
    match upstream_error(error) {
        UpstreamError::Refused => Outcome::ConnectionRefused,
        UpstreamError::Unreachable => Outcome::Unreachable,
        UpstreamError::TimedOut => Outcome::ConnectTimeout,
        UpstreamError::NoDescriptors => Outcome::NoDescriptors,
        UpstreamError::NoLocalPort | UpstreamError::Forbidden | UpstreamError::Other => {
            Outcome::ConnectFailed
        }
    }
}

impl Network for SimNetwork {
    type Socket = SimSocket;
    type Pipe = SimPipe;

    fn register(&mut self, socket: &mut SimSocket, token: Token) -> io::Result<()> {
        self.net.borrow_mut().kernel.register(socket.id, self.worker, token);
        Ok(())
    }

    fn connect(&mut self, to: SocketAddr, token: Token) -> io::Result<SimSocket> {
        let mut net = self.net.borrow_mut();
        let id = net.connect(self.worker, to)?;
        net.kernel.register(id, self.worker, token);
        net.kernel.conns[id].woken = net.kernel.conns[id].link != Link::Connecting;
        drop(net);
        Ok(self.socket(id))
    }

    fn pipe(&mut self) -> io::Result<SimPipe> {
        let net = &mut *self.net.borrow_mut();
        if net.is_out_of_descriptors() || net.chaos.connects && net.random.one_in(4) {
            return Err(Errno::MFILE.into());
        }
        net.refuse(Optional::Pipe)?;
        Ok(SimPipe { net: Rc::clone(&self.net), bytes: Vec::new(), from: None })
    }
}

impl SimNetwork {
    /// The worker's end of a connection.
    pub(crate) fn socket(&self, id: ConnId) -> SimSocket {
        SimSocket { net: Rc::clone(&self.net), id }
    }
}

impl SimSocket {
    /// Takes bytes out of the kernel, one way or the other.
    fn take(&self, take: impl FnOnce(&mut Net) -> io::Result<usize>) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        net.before(self.id)?;
        if let Owner::Pod(pod) = net.owners[self.id] {
            net.pod_is_read(pod);
        }
        let result = take(net);
        net.trace(|| format!("read from {}: {result:?}", self.id));
        net.progress |= result.is_ok();
        match net.owners[self.id] {
            Owner::Client(client) => net.client_was_read(client),
            Owner::Pod(pod) => net.pod_was_read(pod),
            Owner::Test => {}
        }
        result
    }
}

/// A pipe whose slots are of any size, and which gives up its bytes in any portions.
impl Pipe<SimSocket> for SimPipe {
    fn splice_in(&mut self, from: &SimSocket, bytes: usize) -> io::Result<usize> {
        assert!(self.bytes.is_empty(), "bytes of one answer meet those of another");
        from.net.borrow_mut().refuse(Optional::Fill)?;
        from.take(|net| {
            let most = if net.random.one_in(2) { bytes } else { 1 + net.random.below(bytes) };
            self.bytes = vec![0; most.min(net.kernel.conns[from.id].to_worker.len()).max(1)];
            let result = net.kernel.read(from.id, &mut self.bytes);
            self.bytes.truncate(*result.as_ref().unwrap_or(&0));
            self.from = Some(from.id);
            result
        })
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(self.bytes.len());
        assert!(most > 0, "a look into an empty pipe");
        let net = &mut *self.net.borrow_mut();
        net.refuse(Optional::Look)?;
        let bytes = if net.random.one_in(4) { 1 + net.random.below(most) } else { most };
        into[..bytes].copy_from_slice(&self.bytes[..bytes]);
        net.looks += 1;
        net.looked = true;
        net.trace(|| format!("look at {bytes} of {}", self.bytes.len()));
        if let (Some(happens), Some(from)) = (net.behind_look.take(), self.from) {
            happens(&mut net.kernel, from);
        }
        Ok(bytes)
    }

    fn splice_out(&mut self, into: &SimSocket, bytes: usize) -> io::Result<usize> {
        let net = &mut *into.net.borrow_mut();
        net.before(into.id)?;
        net.refuse(Optional::Pour)?;
        let most = if net.random.one_in(2) { bytes } else { 1 + net.random.below(bytes) };
        let taken = net.kernel.pour(into.id, &self.bytes[..most])?;
        net.trace(|| format!("pour into {} of {most}: {taken}", into.id));
        let rest = self.bytes.split_off(taken);
        let poured = mem::replace(&mut self.bytes, rest);
        net.poured += taken as u64;
        net.looks_passed_on += u64::from(mem::take(&mut net.looked));
        net.wrote(into.id, &poured);
        // A portion that was taken whole says nothing of the rest.
        net.kernel.conns[into.id].stalled |= taken < bytes && !self.bytes.is_empty();
        Ok(taken)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(self.bytes.len());
        assert!(most > 0, "an empty pipe is read");
        let net = &mut *self.net.borrow_mut();
        net.looked = false;
        let bytes = 1 + net.random.below(most);
        into[..bytes].copy_from_slice(&self.bytes[..bytes]);
        self.bytes.drain(..bytes);
        Ok(bytes)
    }
}

impl Transport for SimSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.take(|net| net.kernel.read(self.id, into))
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        net.before(self.id)?;
        let result = net.kernel.peek(self.id, into);
        net.trace(|| format!("look at {}: {result:?}", self.id));
        result
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        net.before(self.id)?;
        let bytes = from.iter().map(|slice| &**slice).collect::<Vec<_>>().concat();
        let result = net.kernel.write(self.id, &bytes);
        net.trace(|| format!("write to {} of {}: {result:?}", self.id, bytes.len()));
        if let Ok(taken) = result {
            net.wrote(self.id, &bytes[..taken]);
        }
        result
    }

    fn connected(&self) -> io::Result<bool> {
        let net = &mut *self.net.borrow_mut();
        let result = net.kernel.connected(self.id);
        if let (Err(error), Some(pod)) = (&result, net.kernel.conns[self.id].pod) {
            net.failed_connects.push((pod, connect_outcome(error)));
        }
        result
    }

    fn watch(&self) {
        self.net.borrow_mut().kernel.conns[self.id].watched = true;
    }

    fn is_end_clean(&self) -> bool {
        true
    }

    fn shutdown(&self) {
        let net = &mut *self.net.borrow_mut();
        net.kernel.shutdown(self.id);
        net.trace(|| format!("worker ends {}", self.id));
        match net.owners[self.id] {
            Owner::Test => {}
            Owner::Client(client) => net.client_ended(client),
            Owner::Pod(_) => panic!("only clients' connections are closed half"),
        }
    }

    fn has_undelivered(&self) -> bool {
        self.net.borrow().kernel.has_undelivered(self.id)
    }

    fn reset_on_close(&self) {
        self.net.borrow_mut().kernel.reset_on_close(self.id);
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        // It is borrowed only where a test fails within a call.
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.closed(self.id);
        }
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.id)
    }
}
