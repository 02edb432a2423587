//! Tunnels whose sides act at random: no byte is lost, doubled or misdirected, and each end is passed on as it
//! happened.

use std::{cell::RefCell, net::SocketAddr, time::Duration};

use psystrike::{
    net::shared::Phase,
    proxy::{outcome::Outcome, timestamp::Timestamp, tunnel::TunnelEnd},
};
use rustix::io::Errno;

use super::{
    bytes::{Random, with_seeds},
    close_of, end_of,
    kernel::{Close, ConnId, Link},
    names::name_of,
    net::Refusal,
    reach_all, seed_count,
    sim::Sim,
};

const SEEDS: u64 = 600;
/// This many seeds reach every case that is counted.
const SEEDS_FOR_ALL: u64 = 300;
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
const IDLE: Duration = Duration::from_secs(8);
/// How long a lookup and connecting may take together.
const PATIENCE: Duration = Duration::from_secs(3);

/// The destination of a tunnel, and the result of connecting to its pod.
#[derive(Clone, Copy)]
struct Destination {
    pod: usize,
    is_named: bool,
    connects: Connects,
}

/// The result of connecting to a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connects {
    AtOnce,
    Later,
    Refused,
    RefusedLater,
    Never,
}

impl Destination {
    const FIRST: Self = Self { pod: 1, is_named: false, connects: Connects::AtOnce };

    fn random(random: &mut Random) -> Self {
        use Connects::{AtOnce, Later, Never, Refused, RefusedLater};
        let connects =
            random.pick(&[AtOnce, AtOnce, AtOnce, AtOnce, Later, Later, Later, Refused, RefusedLater, Never]);
        Self { pod: 1 + random.below(3), is_named: random.one_in(3), connects }
    }

    fn head(self) -> String {
        let host = if self.is_named { name_of(self.pod) } else { format!("10.0.0.{}", self.pod) };
        format!("CONNECT {host}:80 HTTP/1.1\r\nHost: p\r\n\r\n")
    }

    /// Sets the result of the next connection in the simulated kernel.
    fn plan(self, sim: &mut Sim) {
        let link = match self.connects {
            Connects::AtOnce => Ok(Link::Up),
            Connects::Refused => Err(Errno::CONNREFUSED),
            Connects::Later | Connects::RefusedLater | Connects::Never => Ok(Link::Connecting),
        };
        sim.net().connects = [link].into();
    }

    /// The connection to the pod in progress is established, or fails. Returns whether there was one.
    fn resolve(self, sim: &mut Sim) -> bool {
        let link = match self.connects {
            Connects::Later => Link::Up,
            Connects::RefusedLater => Link::Failed(Errno::CONNREFUSED),
            Connects::AtOnce | Connects::Refused | Connects::Never => return false,
        };
        let pods = sim.pods();
        let under_way = pods.into_iter().find(|&pod| sim.net().kernel.conns[pod].link == Link::Connecting);
        under_way.inspect(|&pod| sim.net().kernel.resolve(pod, link)).is_some()
    }

    /// Checks that the outcome in the response follows from the lookup or the connecting.
    fn check_failure(self, sim: &mut Sim, response: &str, asked_at: Timestamp) -> Outcome {
        let outcome = Outcome::ALL
            .iter()
            .find(|it| response.starts_with(&format!("HTTP/1.1 {} {}", it.status(), it.reason())));
        let outcome = *outcome.unwrap_or_else(|| panic!("no outcome: {response}"));
        let is_justified = match self.connects {
            Connects::Refused | Connects::RefusedLater => outcome == Outcome::ConnectionRefused,
            Connects::Never => outcome == Outcome::ConnectTimeout,
            Connects::AtOnce | Connects::Later => false,
        };
        let net = sim.net();
        let fails_to_resolve =
            || self.is_named && net.justifies_lookup_failure(self.pod, outcome, asked_at, PATIENCE);
        assert!(is_justified || fails_to_resolve(), "{outcome:?}");
        outcome
    }
}

/// The bytes of one direction, all of which differ from those of another nearby.
struct Way {
    seed: u32,
    sent: usize,
    got: usize,
    /// Whether its source has closed its sending direction.
    ended: bool,
}

impl Way {
    fn new(random: &mut Random) -> Self {
        Self { seed: random.next() as u32, sent: 0, got: 0, ended: false }
    }

    fn bytes(&self, from: usize, bytes: usize) -> Vec<u8> {
        let byte = |at: usize| ((at as u32 ^ self.seed).wrapping_mul(2_654_435_761) >> 24) as u8;
        (from..from + bytes).map(byte).collect()
    }
}

/// Returns the head of the response to a CONNECT. Time passes only while the worker waits for a lookup or for the pod.
fn response(sim: &mut Sim, client: ConnId, to: Destination) -> Vec<u8> {
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        sim.settle();
        let taken = sim.net().kernel.peer_take(client, 1);
        if taken.is_empty() && !to.resolve(sim) {
            sim.pass_to_next();
        }
        response.extend(taken);
    }
    sim.settle();
    response
}

/// A tunnel, and the actions of its sides.
struct Tunnel {
    /// The client's connection and the pod's.
    sides: [ConnId; 2],
    /// The bytes from the client, and from the pod.
    ways: [Way; 2],
    /// The side that has reset its connection.
    reset_by: Option<usize>,
}

impl Tunnel {
    /// Requests a tunnel. Returns it, or the outcome in the response.
    fn open(sim: &mut Sim, random: &mut Random, to: Destination) -> Result<Self, Outcome> {
        let worker = random.below(sim.workers());
        let rooms = sim.net().random_rooms();
        let pods_rooms = sim.net().random_rooms();
        sim.net().rooms = pods_rooms;
        to.plan(sim);
        let before = sim.pods();
        let asked_at = sim.net().now;
        let client = sim.client_with(worker, rooms);
        let mut ways = [(); 2].map(|()| Way::new(random));
        let early = random.pick(&[0, 0, 1, 300]);
        let head = to.head();
        let request = [head.as_bytes(), &ways[0].bytes(0, early)].concat();
        let mut left = &request[..];
        while !left.is_empty() {
            let sent = sim.net().kernel.peer_send(client, left);
            left = &left[sent..];
            sim.settle();
            if sent == 0 {
                break; // the worker accepts no more now
            }
        }
        ways[0].sent = (request.len() - left.len()).checked_sub(head.len()).expect("the head is sent");
        let response = response(sim, client, to);
        sim.net().connects.clear();
        if !response.starts_with(b"HTTP/1.1 200 ") {
            let outcome = to.check_failure(sim, &String::from_utf8_lossy(&response), asked_at);
            while !sim.take(client).is_empty() {}
            assert_eq!(end_of(sim, client), Some(Close::Fin), "a refusal ends orderly");
            return Err(outcome);
        }
        assert_eq!(response, ESTABLISHED);
        let pod = *sim.pods().iter().find(|pod| !before.contains(pod)).expect("a connection of its own");
        let address = sim.net().kernel.conns[pod].pod;
        assert_eq!(address, Some(SocketAddr::from(([10, 0, 0, to.pod as u8], 80))));
        Ok(Self { sides: [client, pod], ways, reset_by: None })
    }

    /// Returns how psystrike closed each side, if it did.
    fn closes(&self, sim: &Sim) -> [Option<Close>; 2] {
        self.sides.map(|side| close_of(sim, side))
    }

    /// Returns whether a side may still act.
    fn acts(&self, sim: &Sim, side: usize) -> bool {
        let conn = &sim.net().kernel.conns[self.sides[side]];
        self.reset_by.is_none() && !conn.failed && conn.worker_closed.is_none()
    }

    /// One side sends some bytes.
    fn send(&mut self, sim: &mut Sim, side: usize, bytes: usize) {
        let way = &mut self.ways[side];
        if !way.ended {
            let bytes = way.bytes(way.sent, bytes);
            way.sent += sim.net().kernel.peer_send(self.sides[side], &bytes);
        }
    }

    /// One side takes some bytes, which must be the next ones that the other side sent.
    fn take(&mut self, sim: &mut Sim, side: usize, most: usize) -> usize {
        let taken = sim.net().kernel.peer_take(self.sides[side], most);
        let way = &mut self.ways[1 - side];
        assert!(
            taken == way.bytes(way.got, taken.len()),
            "bytes differ from the sent ones after {}",
            way.got
        );
        way.got += taken.len();
        assert!(way.got <= way.sent, "more than was sent");
        taken.len()
    }

    /// One side closes its sending direction.
    fn end(&mut self, sim: &mut Sim, side: usize) {
        if !self.ways[side].ended {
            self.ways[side].ended = true;
            sim.net().kernel.peer_end(self.sides[side]);
        }
    }

    fn act(&mut self, sim: &mut Sim, random: &mut Random) {
        let side = random.below(2);
        if !self.acts(sim, side) {
            return;
        }
        match random.below(40) {
            0 => self.end(sim, side),
            1 if random.one_in(4) => {
                self.reset_by = Some(side);
                sim.net().kernel.peer_reset(self.sides[side], random.one_in(2));
            }
            2..20 => {
                let most = random.pick(&[1, 100, 5_000, 100_000, 600_000]);
                self.send(sim, side, 1 + random.below(most));
            }
            _ => {
                let most = random.pick(&[1, 100, 5_000, 1_000_000]);
                self.take(sim, side, most);
            }
        }
    }

    fn take_all(&mut self, sim: &mut Sim) {
        loop {
            sim.settle();
            let taken: usize = [0, 1].map(|side| self.take(sim, side, usize::MAX)).iter().sum();
            if taken == 0 {
                break;
            }
        }
    }

    /// Both sides take all bytes, and then close. No byte may be missing, unless a side was reset.
    fn finish(&mut self, sim: &mut Sim) {
        for side in [0, 1] {
            if self.acts(sim, side) {
                self.end(sim, side);
            }
            self.take_all(sim);
            if self.reset_by.is_none() {
                let other = sim.net().kernel.conns[self.sides[1 - side]].worker_ended;
                assert!(other, "an end is passed on after the last byte, while the other direction is open");
            }
        }
        sim.pass(Duration::from_millis(60)); // the worker checks periodically whether both have taken all bytes
        let closes = self.closes(sim);
        if let Some(side) = self.reset_by {
            // If both had ended and all bytes were delivered, a reset comes too late to be noticed.
            let way = &self.ways[side];
            let is_late = self.ways.iter().all(|way| way.ended) && way.got == way.sent;
            let is_seen = closes[1 - side] == Some(Close::Reset);
            assert!(
                closes[side].is_some() && (is_seen || is_late && closes[1 - side].is_some()),
                "{closes:?}"
            );
            return;
        }
        assert_eq!(closes, [Some(Close::Fin); 2], "an orderly end");
        for way in &self.ways {
            assert_eq!((way.got, way.ended), (way.sent, true), "all bytes, and the end");
        }
    }
}

impl Tunnel {
    /// In every case: an orderly end follows the last byte; otherwise the side was reset.
    fn check_end(&mut self, sim: &mut Sim) {
        for side in [0, 1] {
            while self.take(sim, side, usize::MAX) > 0 {}
            let close = self.closes(sim)[side];
            let way = &self.ways[1 - side];
            let is_whole = way.got == way.sent;
            assert!(
                close == Some(Close::Reset) || close.is_some() && (is_whole || self.reset_by.is_some()),
                "side {side} got {} of {} bytes, and then {close:?}; ended {:?}",
                way.got,
                way.sent,
                self.ways.each_ref().map(|way| way.ended),
            );
        }
    }
}

fn tunnels_whatever_happens(seed: u64, random: &mut Random) -> [u64; 5] {
    let workers = random.pick(&[1, 1, 2]);
    let mut sim = Sim::with_workers(seed, workers, [100, 100, 1 << 26]);
    {
        let mut net = sim.net();
        net.chaos.interrupts = random.one_in(2);
        net.chaos.events = random.one_in(2);
        net.chaos.refuses = random.one_in(6).then(|| Refusal::random(random));
        net.long = random.one_in(3);
    }
    let (mut tunnels, mut refused, mut named) = (Vec::new(), 0, 0);
    for _ in 0..1 + random.below(3) {
        let to = Destination::random(random);
        match Tunnel::open(&mut sim, random, to) {
            Ok(tunnel) => {
                tunnels.push(tunnel);
                named += u64::from(to.is_named);
            }
            Err(_) => refused += 1,
        }
    }
    let acts = if tunnels.is_empty() { 0 } else { random.pick(&[10, 100, 400]) };
    for _ in 0..acts {
        let nth = random.below(tunnels.len());
        tunnels[nth].act(&mut sim, random);
        if random.one_in(3) {
            sim.turn_of_any();
        }
    }
    // From separate random numbers, so that the other sequences of a seed stay the same.
    match Random::new(seed ^ 0x1d1e).below(8) {
        0 => {
            sim.settle();
            sim.pass(3 * IDLE); // events may come late
        }
        1 => {
            sim.settle();
            sim.enter(Phase::Closing);
            sim.pass(Duration::from_secs(3));
            tunnels.iter_mut().for_each(|tunnel| tunnel.take_all(&mut sim));
            sim.pass(Duration::from_secs(3));
        }
        _ => tunnels.iter_mut().for_each(|tunnel| tunnel.finish(&mut sim)),
    }
    tunnels.iter_mut().for_each(|tunnel| tunnel.check_end(&mut sim));
    assert!(sim.net().kernel.held.is_empty(), "a connection is still open");
    let counters: Vec<_> = (0..workers).map(|worker| sim.shared.counters(worker)).collect();
    let sum = |count: fn(&psystrike::proxy::metrics::Counters) -> u64| -> u64 {
        counters.iter().map(|counters| count(counters)).fold(0, u64::wrapping_add)
    };
    assert_eq!((sum(|it| it.tunnels.get()), sum(|it| it.buffered_bytes.get())), (0, 0));
    let down: usize = tunnels.iter().map(|tunnel| tunnel.ways[1].got).sum();
    assert!(sum(|it| it.tunnel_to_clients.get()) >= down as u64, "the counters miss bytes");
    let resets = tunnels.iter().filter(|tunnel| tunnel.reset_by.is_some()).count();
    let spliced = sim.net().poured;
    [down as u64, resets as u64, spliced, named, refused]
}

#[test]
fn random_tunnels_lose_double_or_misdirect_no_byte() {
    let count = seed_count(SEEDS);
    let met = RefCell::new([0; 5]);
    with_seeds(count, |seed, random| {
        let counted = tunnels_whatever_happens(seed, random);
        met.borrow_mut().iter_mut().zip(counted).for_each(|(met, counted)| *met += counted);
    });
    let met = met.into_inner();
    if reach_all(count, SEEDS_FOR_ALL) {
        let enough = met.iter().zip([1 << 24, 30, 1 << 20, 50, 50]).all(|(&met, least)| met >= least);
        assert!(enough, "bytes to clients, resets, bytes spliced, names, refusals: {met:?}");
    }
}

fn tunnel(sim: &mut Sim) -> Tunnel {
    Tunnel::open(sim, &mut Random::new(1), Destination::FIRST).expect("it opens")
}

#[test]
fn a_silent_tunnel_is_closed_after_the_idle_timeout() {
    let mut sim = Sim::new(1, 100, 100);
    let mut silent = tunnel(&mut sim);
    sim.pass(IDLE - Duration::from_secs(1));
    silent.send(&mut sim, 0, 10);
    sim.settle();
    sim.pass(IDLE - Duration::from_millis(1));
    assert!(sim.is_held(silent.sides[0]) && sim.is_held(silent.sides[1]));
    assert_eq!(silent.take(&mut sim, 1, usize::MAX), silent.ways[0].sent);
    sim.pass(Duration::from_millis(10));
    assert!(sim.net().kernel.held.is_empty());
    assert_eq!(silent.closes(&sim), [Some(Close::Fin); 2]);
}

#[test]
fn the_longest_silent_tunnel_is_evicted_for_a_new_client() {
    let mut sim = Sim::new(1, 2, 100);
    let mut used = tunnel(&mut sim);
    let mut silent = tunnel(&mut sim);
    silent.take_all(&mut sim);
    sim.pass(Duration::from_millis(600));
    used.send(&mut sim, 1, 10);
    sim.settle();
    sim.pass(Duration::from_millis(600));
    let client = sim.client();
    sim.send(client, super::PAGE);
    super::assert_starts(&sim.take(client), "HTTP/1.1 200 OK\r\n");
    assert!(!sim.is_held(silent.sides[0]) && !sim.is_held(silent.sides[1]) && sim.is_held(used.sides[0]));
    assert_eq!(silent.closes(&sim)[0], Some(Close::Fin));
    assert_eq!(used.take(&mut sim, 0, 100), 10);
    // The other tunnel is in use, and the new client has a response in progress: none is evicted.
    used.send(&mut sim, 0, 10);
    sim.settle();
    sim.send(client, super::SCRAPE);
    let next = sim.client();
    sim.send(next, super::SCRAPE);
    sim.pass(Duration::from_millis(900));
    assert!(sim.is_held(used.sides[0]) && sim.take(next).is_empty(), "a byte moved a moment ago");
    sim.pass(Duration::from_millis(200));
    assert!(!sim.is_held(used.sides[0]));
}

#[test]
fn a_tunnel_that_ends_with_undelivered_bytes_is_reset() {
    let mut sim = Sim::new(1, 100, 100);
    let mut stalled = tunnel(&mut sim);
    stalled.send(&mut sim, 1, 1 << 22); // its client reads nothing
    sim.settle();
    sim.pass(IDLE + Duration::from_secs(1));
    assert_eq!(stalled.closes(&sim), [Some(Close::Reset); 2]);
}

#[test]
fn an_active_tunnel_survives_the_start_of_shutdown() {
    let mut sim = Sim::new(1, 100, 100);
    let mut used = tunnel(&mut sim);
    let mut silent = tunnel(&mut sim);
    silent.take_all(&mut sim);
    sim.pass(Duration::from_millis(900));
    used.send(&mut sim, 1, 10);
    sim.settle();
    sim.enter(Phase::Closing);
    sim.settle();
    assert!(sim.is_held(silent.sides[0]), "not yet");
    sim.pass(Duration::from_millis(200));
    assert!(!sim.is_held(silent.sides[0]) && sim.is_held(used.sides[0]));
    sim.pass(Duration::from_secs(2));
    assert!(sim.is_held(used.sides[0]), "its client has not read all bytes");
    used.take_all(&mut sim);
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.event_loops().count(), 0, "the last one ends the process");
    assert_eq!(TunnelEnd::ALL.len(), 7);
}
