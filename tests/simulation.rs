//! The whole worker over simulated sockets and a virtual clock: seeded runs with random clients, pods and faults, and
//! scenes that a test plays call by call.
//!
//! `PSYSTRIKE_SEEDS` is the number of seeds to run, `PSYSTRIKE_FIRST_SEED` the first of them; `PSYSTRIKE_SEED` runs a
//! single one and prints every step. For a large number, build with optimisation: `PSYSTRIKE_FIRST_SEED=1000000
//! PSYSTRIKE_SEEDS=100000 cargo test --profile seeds --test simulation random`.

#[path = "simulation/answers.rs"]
mod answers;
#[path = "simulation/bodies.rs"]
mod bodies;
#[path = "simulation/buffers.rs"]
mod buffers;
#[path = "support/bytes.rs"]
mod bytes;
#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/event_loop.rs"]
mod event_loop;
#[path = "simulation/gather.rs"]
mod gather;
#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/long_bodies.rs"]
mod long_bodies;
#[path = "simulation/names.rs"]
mod names;
#[path = "simulation/net.rs"]
mod net;
#[path = "support/net_http.rs"]
mod net_http;
#[path = "simulation/passwords.rs"]
mod passwords;
#[path = "simulation/pipes.rs"]
mod pipes;
#[path = "simulation/places.rs"]
mod places;
#[path = "simulation/pods.rs"]
mod pods;
#[path = "simulation/sim.rs"]
mod sim;
#[path = "simulation/timers.rs"]
mod timers;
#[path = "simulation/tunnels.rs"]
mod tunnels;
#[path = "simulation/upstreams.rs"]
mod upstreams;
#[path = "simulation/workers.rs"]
mod workers;

use std::{cell::RefCell, env, time::Duration};

use psystrike::proxy::outcome::{OUTCOMES, Outcome};

use bytes::with_seeds;
use kernel::{Close, ConnId};
use sim::Sim;

const SEEDS: u64 = 2000;
/// This many seeds reach every outcome.
const SEEDS_FOR_ALL: u64 = 1000;

/// Returns how many seeds to run.
fn seed_count(default: u64) -> u64 {
    env::var("PSYSTRIKE_SEEDS").map_or(default, |count| count.parse().expect("PSYSTRIKE_SEEDS: a number"))
}

/// Returns whether so many seeds reach everything that is counted. A single one does not.
fn reach_all(count: u64, least: u64) -> bool {
    count >= least && env::var_os("PSYSTRIKE_SEED").is_none()
}

#[test]
fn random_runs_deliver_each_pods_own_responses_or_visible_failures() {
    let count = seed_count(SEEDS);
    let met = RefCell::new(([0; OUTCOMES], [0; 6]));
    with_seeds(count, |seed, _| {
        let mut sim = Sim::random(seed, 1);
        let counted = sim.run();
        let (outcomes, others) = &mut *met.borrow_mut();
        outcomes.iter_mut().zip(counted).for_each(|(met, counted)| *met += counted);
        let net = sim.net();
        let saved = sim.shared.counters(0).reads_saved.get();
        let counted = [net.reused, net.sent_again, net.poured, net.peeks, net.peeks_passed_on, saved];
        others.iter_mut().zip(counted).for_each(|(met, counted)| *met += counted);
    });
    let (outcomes, others) = met.into_inner();
    if reach_all(count, SEEDS_FOR_ALL) {
        // No random request causes these: the grammar of heads has its own tables.
        let elsewhere = [
            Outcome::UriTooLong,
            Outcome::TooManyRequestHeaders,
            Outcome::HttpsRequired,
            Outcome::HttpsNotSupported,
            Outcome::CertificateNotTrusted,
            Outcome::TlsFailed,
            Outcome::TooManyAuthenticationFailures,
            Outcome::PasswordChecksFull,
            Outcome::BadTarget,
            Outcome::PortNotAllowed,
            Outcome::Tunnel,
            Outcome::ConnectNotAllowed,
            Outcome::ConnectPortNotAllowed,
            Outcome::NameNotAllowed,
            Outcome::LookupsFull,
        ];
        let of_passwords = [
            Outcome::AuthenticationRequired,
            Outcome::AuthenticationFailed,
            Outcome::ProxyAuthenticationRequired,
            Outcome::ProxyAuthenticationFailed,
            Outcome::PasswordCheckTimeout,
        ];
        let has_passwords = cfg!(feature = "web-config");
        for (outcome, met) in Outcome::ALL.iter().zip(outcomes) {
            let is_elsewhere =
                elsewhere.contains(outcome) || of_passwords.contains(outcome) && !has_passwords;
            assert_eq!(met == 0, is_elsewhere, "{outcome:?} was met {met} times");
        }
        let least = [1, 1, 1 << 24, 150, 50, 20];
        let enough = others.iter().zip(least).all(|(&met, least)| met >= least);
        assert!(enough, "reused, retried, bytes spliced, peeks, peeks then spliced, reads saved: {others:?}");
    }
}

/// How long a client waits for a place, and how long a client with a place may stay silent while others wait.
const WAIT: Duration = Duration::from_millis(1200);
const SILENCE: Duration = Duration::from_secs(1);

const SCRAPE: &[u8] = b"GET /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\n\r\n";
const OTHER_SCRAPE: &[u8] = b"GET /pods/10.0.0.2/80/m HTTP/1.1\r\nHost: p\r\n\r\n";
const PAGE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: p\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 3\r\n\r\nok\n";

fn sim() -> Sim {
    Sim::new(1, 100, 100)
}

/// A client has scraped the first pod once. Returns both connections.
fn scraped(sim: &mut Sim) -> (ConnId, ConnId) {
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = *sim.pods().last().unwrap();
    assert_answer(sim, client, pod);
    (client, pod)
}

/// The pod responds, and the client receives the response.
fn assert_answer(sim: &mut Sim, client: ConnId, pod: ConnId) {
    assert!(sim.take(pod).starts_with("GET /m HTTP/1.1\r\n"));
    sim.send(pod, ANSWER);
    assert_eq!(sim.take(client).as_bytes(), ANSWER);
}

fn assert_starts(answer: &str, start: &str) {
    assert!(answer.starts_with(start), "{answer}");
}

/// The client reads all bytes, and closes when it sees the end. Returns how the worker closes then.
fn end_of(sim: &mut Sim, client: ConnId) -> Option<Close> {
    sim.take(client);
    sim.pass(Duration::from_millis(100));
    if sim.net().kernel.conns[client].worker_ended && sim.is_held(client) {
        sim.net().kernel.peer_end(client);
        sim.settle();
    }
    close_of(sim, client)
}

fn close_of(sim: &Sim, id: ConnId) -> Option<Close> {
    sim.net().kernel.conns[id].worker_closed
}
