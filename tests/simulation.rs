//! The whole worker over simulated sockets and a virtual clock: seeded runs with random clients, pods and faults,
//! and scenes that are played call by call.
//!
//! `PSYSTRIKE_SEEDS` is the number of seeds to run, `PSYSTRIKE_FIRST_SEED` the first of them; `PSYSTRIKE_SEED` runs one
//! alone and prints every step. For a great many, build with optimisation:
//! `PSYSTRIKE_FIRST_SEED=1000000 PSYSTRIKE_SEEDS=100000 cargo test --profile seeds --test simulation whatever`.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/event_loop.rs"]
mod event_loop;
#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/net.rs"]
mod net;
#[path = "simulation/pods.rs"]
mod pods;
#[path = "simulation/sim.rs"]
mod sim;
#[path = "simulation/workers.rs"]
mod workers;

use std::{cell::RefCell, env, time::Duration};

use psystrike::{
    net::shared::Phase,
    proxy::outcome::{OUTCOMES, Outcome},
};
use rustix::io::Errno;

use bytes::{Random, with_seeds};
use kernel::{Close, ConnId, Link};
use net::{Optional, Refusal};
use sim::Sim;

const SEEDS: u64 = 2000;
/// So many seeds meet every outcome there is.
const SEEDS_FOR_ALL: u64 = 1000;

#[test]
fn whatever_happens_clients_get_their_own_pods_answers_or_see_that_they_do_not() {
    let count =
        env::var("PSYSTRIKE_SEEDS").map_or(SEEDS, |count| count.parse().expect("PSYSTRIKE_SEEDS: a number"));
    let met = RefCell::new(([0; OUTCOMES], [0; 5]));
    with_seeds(count, |seed, _| {
        let mut sim = Sim::random(seed, 1);
        let counted = sim.run();
        let (outcomes, others) = &mut *met.borrow_mut();
        outcomes.iter_mut().zip(counted).for_each(|(met, counted)| *met += counted);
        let net = sim.net();
        let counted = [net.reused, net.sent_again, net.poured, net.looks, net.looks_passed_on];
        others.iter_mut().zip(counted).for_each(|(met, counted)| *met += counted);
    });
    let (outcomes, others) = met.into_inner();
    if count >= SEEDS_FOR_ALL && env::var_os("PSYSTRIKE_SEED").is_none() {
        // Nothing drawn asks for these: the grammar of heads has its own tables.
        let elsewhere =
            [Outcome::TargetTooLong, Outcome::TooManyFields, Outcome::NotOriginForm, Outcome::PortNotAllowed];
        for (outcome, met) in Outcome::ALL.iter().zip(outcomes) {
            assert_eq!(met == 0, elsewhere.contains(outcome), "{outcome:?} was met {met} times");
        }
        let least = [1, 1, 1 << 24, 150, 50];
        let enough = others.iter().zip(least).all(|(&met, least)| met >= least);
        assert!(enough, "reused, sent again, bytes poured, looks, looks passed on: {others:?}");
    }
}

/// How long a client waits for a place, and how long one that has a place may say nothing while others wait.
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

/// A client has scraped the first pod once. Gives both connections.
fn scraped(sim: &mut Sim) -> (ConnId, ConnId) {
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = *sim.pods().last().unwrap();
    assert_answer(sim, client, pod);
    (client, pod)
}

/// The pod answers, and the client gets it.
fn assert_answer(sim: &mut Sim, client: ConnId, pod: ConnId) {
    assert!(sim.take(pod).starts_with("GET /m HTTP/1.1\r\n"));
    sim.send(pod, ANSWER);
    assert_eq!(sim.take(client).as_bytes(), ANSWER);
}

fn assert_starts(answer: &str, start: &str) {
    assert!(answer.starts_with(start), "{answer}");
}

/// The client takes all that is there, and ends when it sees the end. Says how the worker closes then.
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

#[test]
fn a_pod_connection_is_used_again_but_not_in_the_turn_that_released_it() {
    let mut sim = sim();
    let (client, pod) = scraped(&mut sim);
    sim.send(client, SCRAPE);
    assert_eq!(sim.pods(), [pod]);
    assert_answer(&mut sim, client, pod);

    let pipelined = [SCRAPE, SCRAPE].concat();
    sim.send(client, &pipelined);
    assert_eq!(sim.pods(), [pod], "the second waits for the first");
    sim.send(pod, ANSWER);
    let [_, other] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    sim.send(pod, b"surplus");
    assert!(!sim.is_held(pod));
    sim.send(other, ANSWER);
    assert_eq!(sim.take(client).as_bytes(), [ANSWER, ANSWER].concat());
}

#[test]
fn an_idle_pod_connection_that_sends_or_ends_is_closed() {
    for ends in [false, true] {
        let mut sim = sim();
        let (client, pod) = scraped(&mut sim);
        if ends {
            sim.net().kernel.peer_end(pod);
        } else {
            sim.net().kernel.peer_send(pod, ANSWER);
        }
        // The client's next request comes with the same events.
        sim.send(client, SCRAPE);
        assert!(!sim.is_held(pod));
        let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
        assert_answer(&mut sim, client, fresh);
    }
}

#[test]
fn a_reused_connection_that_died_is_made_up_for_once_and_unseen() {
    let mut sim = sim();
    let (client, pod) = scraped(&mut sim);
    sim.send(client, SCRAPE);
    sim.net().kernel.peer_reset(pod, false);
    sim.settle();
    assert!(!sim.is_held(pod));
    let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    assert_answer(&mut sim, client, fresh);

    // Reused and lost, and the fresh one lost too: enough.
    sim.send(client, SCRAPE);
    sim.net().kernel.peer_close(fresh);
    sim.settle();
    let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    sim.take(fresh);
    sim.net().kernel.peer_close(fresh);
    sim.settle();
    assert!(sim.pods().is_empty());
    assert_starts(&sim.take(client), "HTTP/1.1 502 pod closed the connection without an answer\r\n");
    assert_eq!(sim.shared.counters(0).retries.get(), 2);

    // Once there is the start of an answer, the scrape is not sent again.
    let (client, pod) = scraped(&mut sim);
    sim.send(client, SCRAPE);
    sim.send(pod, b"HTTP/");
    sim.net().kernel.peer_end(pod);
    sim.settle();
    assert_starts(&sim.take(client), "HTTP/1.1 502 pod closed the connection within its answer's head\r\n");
}

#[test]
fn what_a_reused_connection_says_first_that_answers_nothing_is_made_up_for() {
    const TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    for stale in [&b"body of a HEAD answer\n"[..], TIMEOUT] {
        for cut in [1, 7, stale.len()] {
            let mut sim = sim();
            let (client, pod) = scraped(&mut sim);
            sim.send(client, SCRAPE);
            sim.send(pod, &stale[..cut]);
            if sim.is_held(pod) {
                sim.send(pod, &stale[cut..]);
            }
            assert!(!sim.is_held(pod));
            let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
            assert_answer(&mut sim, client, fresh);
            assert_eq!(sim.shared.counters(0).retries.get(), 1);
        }
    }
}

#[test]
fn the_body_behind_an_answer_to_head_reaches_nobody() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, b"HEAD /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\n\r\n");
    let pod = sim.pods()[0];
    sim.take(pod);
    sim.send(pod, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    assert_starts(&sim.take(client), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n");
    assert!(!sim.is_held(pod), "it may say more");
    sim.send(client, SCRAPE);
    let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    assert_answer(&mut sim, client, fresh);
}

#[test]
fn a_slow_client_slows_its_pod() {
    const BODY: usize = 3_000_000;
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = sim.pods()[0];
    sim.take(pod);
    sim.send(pod, format!("HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {BODY}\r\n\r\n").as_bytes());
    let (mut sent, mut got) = (0, sim.take(client).len());
    let head = got;
    let line = [b'x'; 10_000];
    while got < head + BODY {
        let most = (BODY - sent).min(line.len());
        let more = sim.net().kernel.peer_send(pod, &line[..most]);
        sent += more;
        sim.settle();
        if more < most || sent == BODY {
            let in_kernel = 2 * 64 * 1024;
            assert!(head + sent - got <= in_kernel + 64 * 1024, "{sent} sent, {got} taken");
            let turns = sim.net().turn;
            sim.settle();
            assert_eq!(sim.net().turn, turns, "nobody stirs until the client takes something");
            got += sim.take(client).len();
        }
    }
    assert_eq!(got, head + BODY);
    assert_eq!(sim.count(Outcome::Forwarded), 1);
}

#[test]
fn what_a_pod_says_before_it_reads_waits_for_a_slow_client_too() {
    let mut sim = sim();
    let client = sim.client();
    sim.net().connects.push_back(Ok(Link::Up));
    let long = format!("GET /pods/10.0.0.1/80/{} HTTP/1.1\r\nHost: p\r\n\r\n", "m".repeat(15_000));
    sim.net().rooms = [64 * 1024, 1000];
    sim.send(client, long.as_bytes());
    let pod = sim.pods()[0];
    let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "l".repeat(60_000));
    for _ in 0..5 {
        sim.net().kernel.peer_send(pod, interim.as_bytes());
        sim.settle();
    }
    let net = sim.net();
    let (read, written) =
        (net.kernel.conns[pod].to_worker.taken, net.kernel.conns[client].from_worker.pushed);
    assert!(
        read - written <= 64 * 1024,
        "{read} bytes were read from the pod, {written} written to the client"
    );
}

#[test]
fn when_a_client_goes_its_pod_is_left_at_once() {
    for how in 0..3 {
        for said in [0, 20, ANSWER.len() - 1] {
            let mut sim = sim();
            let client = sim.client();
            sim.send(client, SCRAPE);
            let pod = sim.pods()[0];
            sim.send(pod, &ANSWER[..said]);
            match how {
                0 => sim.net().kernel.peer_end(client),
                1 => sim.net().kernel.peer_close(client),
                _ => sim.net().kernel.peer_reset(client, true),
            }
            sim.turn();
            assert!(!sim.is_held(pod) && !sim.is_held(client));
            assert_eq!(sim.count(Outcome::ClientGone), 1);
        }
    }
    let mut sim = sim();
    sim.net().connects.push_back(Ok(Link::Connecting));
    let client = sim.client();
    sim.send(client, SCRAPE);
    sim.net().kernel.peer_end(client);
    sim.turn();
    assert!(sim.net().kernel.held.is_empty());
}

#[test]
fn the_fault_of_a_pipelined_request_leaves_the_answer_before_it_whole() {
    const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: now\r\n\r\nsome";
    const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 30\r\n\r\nsome";
    for (next, answer) in [(SCRAPE, UNTIL_CLOSE), (SCRAPE, LENGTH), (b"?? ??\r\n\r\n", b"")] {
        // More requests are behind it, unread: a close would be a reset, and overtake what was sent.
        let mut sim = sim();
        let client = sim.client();
        sim.send(client, &[SCRAPE, next, PAGE, PAGE].concat());
        let pod = sim.pods()[0];
        assert!(sim.take(pod).starts_with("GET /m "));
        sim.send(pod, ANSWER);
        if !answer.is_empty() {
            let pod = *sim.pods().last().expect("a connection");
            sim.send(pod, answer);
            sim.net().kernel.peer_reset(pod, false);
            sim.settle();
        }
        // The client is slow to take what it was sent.
        sim.pass(Duration::from_millis(1500));
        let got = sim.take(client);
        assert!(got.as_bytes().starts_with(ANSWER), "{got}");
        assert_eq!(sim.count(Outcome::Forwarded), 1);
    }
}

#[test]
fn a_client_that_is_gone_as_its_pods_body_breaks_is_gone() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = sim.pods()[0];
    sim.send(pod, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    // The write finds out, before any event tells of the reset.
    sim.net().kernel.peer_reset(client, false);
    sim.net().kernel.conns[client].woken = false;
    sim.send(pod, b"1\r\nx\r\nno size\r\n");
    assert!(sim.net().kernel.held.is_empty());
    assert_eq!(sim.count(Outcome::BodyMalformed), 1);
}

#[test]
fn an_idle_pod_connection_gives_its_descriptor_to_a_new_one() {
    let mut sim = sim();
    let (client, pod) = scraped(&mut sim);
    sim.net().fds_max = 2;
    sim.send(client, OTHER_SCRAPE);
    assert!(!sim.is_held(pod));
    let [other] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    assert_answer(&mut sim, client, other);

    // The idle one is used again; where none is idle, there is nothing to give.
    sim.net().fds_max = 3;
    sim.send(client, OTHER_SCRAPE);
    let second = sim.client();
    sim.send(second, SCRAPE);
    assert_starts(&sim.take(second), "HTTP/1.1 503 no file descriptor left for a connection to the pod\r\n");
    assert_answer(&mut sim, client, other);
    sim.send(second, SCRAPE);
    let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    assert_answer(&mut sim, second, fresh);
}

#[test]
fn why_no_connection_came_about_is_told() {
    for (result, answer) in [
        (Err(Errno::CONNREFUSED), "502 pod refused the connection"),
        (Ok(Link::Failed(Errno::CONNREFUSED)), "502 pod refused the connection"),
        (Ok(Link::Failed(Errno::HOSTUNREACH)), "502 pod is unreachable"),
        (Err(Errno::NETUNREACH), "502 pod is unreachable"),
        (Ok(Link::Failed(Errno::TIMEDOUT)), "504 pod did not accept the connection within 500ms"),
        (Ok(Link::Connecting), "504 pod did not accept the connection within 500ms"),
        (Err(Errno::ADDRNOTAVAIL), "502 connection to the pod failed: no local port left"),
        (Err(Errno::NFILE), "503 no file descriptor left for a connection to the pod"),
    ] {
        let mut sim = sim();
        sim.net().connects.push_back(result);
        let client = sim.client();
        sim.send(client, [SCRAPE, PAGE].concat().as_slice());
        sim.pass(Duration::from_millis(500));
        assert_starts(&sim.take(client), &format!("HTTP/1.1 {answer}\r\n"));
        assert_eq!((sim.pods(), sim.is_held(client)), (vec![], true), "{answer}");
        assert_eq!(sim.count(Outcome::Page), 1, "{answer}: the connection persists");
    }
}

#[test]
fn when_all_places_are_taken_the_client_that_idled_longest_goes() {
    let mut sim = Sim::new(1, 3, 100);
    let clients = [(); 3].map(|()| sim.client());
    for client in [1, 0, 2] {
        sim.send(clients[client], PAGE);
    }
    sim.send(clients[1], SCRAPE);
    let new = sim.client();
    assert_eq!(clients.map(|client| sim.is_served(client)), [false, true, true]);
    sim.send(new, SCRAPE);
    let newer = sim.client();
    assert_eq!(clients.map(|client| sim.is_served(client)), [false, true, false]);
    sim.send(newer, SCRAPE);
    assert_eq!(sim.pods().len(), 3);
    assert_eq!(sim.count(Outcome::TooManyClients), 0);
}

#[test]
fn whoever_is_turned_away_is_told_unless_there_are_too_many_of_them() {
    const TURNED_AWAY_MAX: usize = 64;
    let mut sim = Sim::new(1, 1, 100);
    let busy = sim.client();
    sim.send(busy, SCRAPE);
    let turned_away = [(); TURNED_AWAY_MAX].map(|()| sim.client());
    let too_many = sim.client();
    assert!(!sim.is_held(too_many));
    assert_starts(&sim.take(too_many), "HTTP/1.1 503 too many clients\r\n");
    for client in turned_away {
        assert!(sim.is_held(client), "those that came later did not push it out");
        sim.send(client, SCRAPE);
        assert_eq!(sim.take(client), "", "it waits for a place");
    }
    sim.pass(WAIT);
    for client in turned_away {
        assert_starts(&sim.take(client), "HTTP/1.1 503 too many clients\r\n");
        assert!(sim.net().kernel.conns[client].worker_ended);
    }
    // A place that gets free goes to the next who comes, even while those linger.
    let pod = sim.pods()[0];
    assert_answer(&mut sim, busy, pod);
    let next = sim.client();
    assert!(!sim.is_held(busy));
    sim.send(next, PAGE);
    assert_starts(&sim.take(next), "HTTP/1.1 200 OK\r\n");
    sim.pass(Duration::from_secs(2));
    assert_eq!(sim.shared.counters(0).clients.get(), 1);
}

#[test]
fn clients_that_wait_get_places_in_the_order_in_which_they_came() {
    let mut sim = Sim::new(1, 1, 100);
    let busy = sim.client();
    sim.send(busy, SCRAPE);
    let pod = sim.pods()[0];
    let [first, gone, second] = [(); 3].map(|()| sim.client());
    for client in [second, first] {
        sim.send(client, PAGE);
        assert_eq!(sim.take(client), "", "it waits for a place");
    }
    sim.net().kernel.peer_close(gone);
    sim.settle();
    assert!(!sim.is_held(gone), "it waits no more");
    sim.pass(WAIT / 2);
    // The answer makes a client idle, and that one makes room at once.
    assert_answer(&mut sim, busy, pod);
    assert_eq!((sim.is_served(busy), sim.is_served(first)), (false, false), "each is the next to make room");
    assert_starts(&sim.take(first), "HTTP/1.1 200 OK\r\n");
    assert_starts(&sim.take(second), "HTTP/1.1 200 OK\r\n");
    assert!(sim.is_held(second));
    assert_eq!(sim.count(Outcome::TooManyClients), 0);
}

#[test]
fn a_wait_that_is_over_takes_no_room_of_another() {
    let mut sim = Sim::new(1, 1, 100);
    let busy = sim.client();
    sim.send(busy, SCRAPE);
    let pod = sim.pods()[0];
    let early = sim.client();
    sim.pass(WAIT / 2);
    let late = sim.client();
    sim.send(late, PAGE);
    sim.pass(WAIT / 2);
    assert_starts(&sim.take(early), "HTTP/1.1 503 too many clients\r\n");
    assert_eq!(sim.take(late), "", "it waits on");
    assert_answer(&mut sim, busy, pod);
    assert_starts(&sim.take(late), "HTTP/1.1 200 OK\r\n");
}

#[test]
fn a_new_client_is_not_closed_for_a_newer_one_before_it_had_time_to_ask() {
    let mut sim = Sim::new(1, 2, 100);
    let silent = sim.client();
    sim.pass(SILENCE / 2);
    let asks = sim.client();
    let waits = sim.client();
    sim.send(waits, PAGE);
    assert!(sim.is_held(silent) && sim.is_held(asks) && sim.take(waits).is_empty());
    // One that has its answer is the first to go, although another one is silent.
    sim.send(asks, PAGE);
    assert_starts(&sim.take(asks), "HTTP/1.1 200 OK\r\n");
    assert_eq!((sim.is_served(asks), sim.is_served(silent)), (false, true));
    assert_starts(&sim.take(waits), "HTTP/1.1 200 OK\r\n");

    // With nobody else to go, the silent one is told when its time is up.
    sim.send(waits, SCRAPE);
    let waits = sim.client();
    sim.send(waits, PAGE);
    sim.pass(SILENCE / 2 - Duration::from_millis(1));
    assert_eq!((sim.take(silent), sim.take(waits)), (String::new(), String::new()));
    sim.pass(Duration::from_millis(1));
    assert_starts(&sim.take(silent), "HTTP/1.1 503 too many clients\r\n");
    assert_starts(&sim.take(waits), "HTTP/1.1 200 OK\r\n");
    // What it asks for then does not destroy what it was told.
    sim.send(silent, PAGE);
    assert_eq!(sim.take(silent), "");
    sim.net().kernel.peer_close(silent);
    sim.settle();
    assert_eq!(close_of(&sim, silent), Some(Close::Fin));

    // In nobody's way, it has the time that a request's head has.
    let silent = sim.client();
    sim.pass(Duration::from_millis(1499));
    assert!(sim.is_held(silent));
    sim.pass(Duration::from_millis(1));
    assert_eq!((sim.take(silent), sim.is_held(silent)), (String::new(), false));
}

#[test]
fn a_client_with_requests_left_to_answer_does_not_idle() {
    const REQUESTS: usize = 30;
    for drains in [false, true] {
        let mut sim = Sim::new(1, 1, 100);
        let client = sim.client();
        sim.net().kernel.peer_send(client, &PAGE.repeat(REQUESTS));
        sim.turn();
        assert!(sim.net().kernel.conns[client].to_worker.is_empty());
        if drains {
            sim.enter(Phase::Closing);
        } else {
            sim.client();
        }
        sim.settle();
        let answers = sim.take(client).matches("HTTP/1.1 200 OK\r\n").count();
        assert!(if drains { answers > 8 } else { answers == REQUESTS }, "{answers} answers");
    }
}

#[test]
fn data_with_an_end_behind_it_is_read_to_that_end() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = sim.pods()[0];
    // The body, and the end, come while the worker sleeps: one event tells of all of it.
    let head = "HTTP/1.1 200 OK\r\nDate: now\r\n\r\n";
    let body = "b".repeat(30_000);
    sim.net().kernel.peer_send(pod, format!("{head}{body}").as_bytes());
    sim.net().kernel.peer_end(pod);
    sim.turn();
    assert!(sim.pods().is_empty());
    let answer = sim.take(client);
    assert!(answer.ends_with(&body) && answer.contains("\r\nConnection: close\r\n"));
    assert!(sim.net().kernel.conns[client].worker_ended);
    assert_eq!(sim.count(Outcome::Forwarded), 1);
}

#[test]
fn an_answer_that_fills_one_read_exactly_is_whole() {
    for over in [0, 1, 2] {
        let mut sim = sim();
        sim.net().rooms = [80 * 1024; 2];
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        let head = "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 65000\r\n\r\n";
        let length = 64 * 1024 - 1 + over - head.len();
        let head = head.replace("65000", &length.to_string());
        let answer = format!("{head}{}", "b".repeat(length));
        sim.send(pod, answer.as_bytes());
        let (first, second) = (sim.take(client), sim.take(client));
        assert_eq!(first + &second, answer);
        sim.send(client, PAGE);
        assert_starts(&sim.take(client), "HTTP/1.1 200 OK\r\n");
    }
}

// Bodies that go on unseen. How much a pipe takes and gives at a time is drawn, so each scene is played often.

const PIPE_SEEDS: std::ops::RangeInclusive<u64> = 1..=16;

/// A head that goes on as it came, and a body of so many bytes, which names its scrape.
fn long_answer(scrape: &str, bytes: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {bytes}\r\n\r\n{}", body(scrape, bytes))
}

/// Bytes of which none can be mistaken for its neighbours, nor for those of another scrape.
fn body(scrape: &str, bytes: usize) -> String {
    let mut body = String::with_capacity(bytes + 40);
    for line in 0.. {
        if body.len() >= bytes {
            break;
        }
        body += &format!("{scrape} line {line}\n");
    }
    body.truncate(bytes);
    body
}

/// Pods whose connections take a long answer at once, or not.
fn sim_with_pipes(seed: u64) -> Sim {
    let sim = Sim::new(seed, 100, 100);
    let room = if seed.is_multiple_of(2) { 1 << 20 } else { 64 * 1024 };
    sim.net().rooms = [room, 64 * 1024];
    sim
}

/// The pod sends all of `bytes` as it gets rid of them, and the client takes what comes. Gives what it got.
fn stream(sim: &mut Sim, pod: ConnId, mut bytes: &[u8], client: ConnId) -> String {
    let mut got = String::new();
    loop {
        let sent = sim.net().kernel.peer_send(pod, bytes);
        bytes = &bytes[sent..];
        sim.settle();
        let taken = sim.take(client);
        got += &taken;
        if sent == 0 && taken.is_empty() {
            assert_eq!(bytes.len(), 0, "left to send");
            return got;
        }
    }
}

/// The client scrapes the first pod, and gets this answer of it, which goes on as it came. Gives the connection.
fn scrape(sim: &mut Sim, client: ConnId, answer: &str) -> ConnId {
    let before = sim.pods();
    sim.send(client, SCRAPE);
    let pod = *sim.pods().iter().find(|pod| !before.contains(pod)).or(before.last()).expect("a connection");
    assert!(sim.take(pod).starts_with("GET /m HTTP/1.1\r\n"));
    assert_same("an answer", &stream(sim, pod, answer.as_bytes(), client), answer);
    sim.pass(Duration::from_millis(1)); // what was kept in the same moment does not serve
    pod
}

#[track_caller]
fn assert_same(what: &str, got: &str, expected: &str) {
    if got != expected {
        let at = got.bytes().zip(expected.bytes()).take_while(|(got, expected)| got == expected).count();
        let show = |text: &str| text.as_bytes()[at..text.len().min(at + 60)].escape_ascii().to_string();
        panic!(
            "{what}: {} bytes, not {}; from {at} on {:?}, not {:?}",
            got.len(),
            expected.len(),
            show(got),
            show(expected)
        );
    }
}

/// A client has scraped the first pod, whose answer was long. Gives both connections.
fn scraped_long(sim: &mut Sim) -> (ConnId, ConnId) {
    let client = sim.client();
    let pod = scrape(sim, client, &long_answer("first", 40_000));
    assert_eq!(sim.pods(), [pod], "it is kept");
    (client, pod)
}

#[test]
fn a_long_answer_on_a_kept_connection_is_looked_at_and_passed_on() {
    let mut seen = [0; 3];
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        assert_eq!(sim.net().looks, 0, "nothing is known of a new connection");
        for (at, bytes) in [32_768, 33_900, 65_536, 300_000, 1_000_000, 40_000].into_iter().enumerate() {
            let answer = long_answer(&format!("scrape {at}"), bytes);
            assert_eq!(scrape(&mut sim, client, &answer), pod, "it serves again");
        }
        assert_eq!((sim.pods(), sim.count(Outcome::Forwarded)), (vec![pod], 7));
        let net = sim.net();
        assert_eq!(net.looks, 6, "one for each of those behind a long one");
        [net.looks, net.looks_passed_on, net.poured]
            .iter()
            .zip(&mut seen)
            .for_each(|(seen, sum)| *sum += seen);
    }
    assert!(seen.iter().all(|&seen| seen > 0), "looks, those that were passed on, bytes poured: {seen:?}");
}

/// What came of an answer.
#[derive(Debug, PartialEq, Eq)]
struct CameOf {
    got: String,
    client: Option<Close>,
    client_ended: bool,
    pod_is_kept: bool,
    outcomes: Vec<u64>,
}

/// A client asks, and the pod answers in these parts, and then ends its side if it `ends`; on a new connection, or
/// on one that was kept after a long answer.
fn came_of(seed: u64, is_kept: bool, ask: &[u8], parts: &[&[u8]], ends: bool) -> CameOf {
    let mut sim = sim_with_pipes(seed);
    let client = if is_kept { scraped_long(&mut sim).0 } else { sim.client() };
    let before = sim.counted();
    sim.send(client, ask);
    let [pod] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    sim.take(pod);
    let mut got = String::new();
    for part in parts {
        // Where it is closed before it has said all, the rest is lost.
        if sim.is_held(pod) {
            got += &stream(&mut sim, pod, part, client);
        }
    }
    if ends && sim.is_held(pod) {
        sim.net().kernel.peer_end(pod);
        sim.settle();
    }
    got += &sim.take(client);
    let outcomes = sim.counted().iter().zip(before).map(|(now, before)| now - before).collect();
    if got.starts_with("HTTP/1.1 502 ") {
        got.truncate(got.find("\r\n").expect("a line")); // its body tells how long it took
    }
    let (head, rest) = got.split_once("\r\n\r\n").unwrap_or((&got, ""));
    // The date of ours is that of another moment.
    let lines = head.split("\r\n").filter(|line| !line.starts_with("Date: ") || *line == "Date: now");
    let got = lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n" + rest;
    let client_ended = sim.net().kernel.conns[client].worker_ended;
    CameOf { got, client: close_of(&sim, client), client_ended, pod_is_kept: sim.is_held(pod), outcomes }
}

#[test]
fn whatever_comes_behind_a_long_answer_is_read_as_on_a_new_connection() {
    const HEAD: &[u8] = b"HEAD /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\n\r\n";
    const OLD: &[u8] = b"GET /pods/10.0.0.1/80/m HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    const CLOSES: &[u8] = b"GET /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n";
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\nDate: now\r\n{fields}\r\n");
    let long = |bytes| long_answer("second", bytes);
    let chunk = |bytes| format!("{bytes:x}\r\n{}\r\n", body("second", bytes));
    let chunked = |chunks: &str| head("Transfer-Encoding: chunked\r\n") + chunks;
    // A head of so many bytes, which goes on as it came.
    let head_of = |bytes: usize, length: usize| {
        let start = head(&format!("Content-Length: {length}\r\nX: \r\n"));
        let filler = "f".repeat(bytes - start.len());
        let head = start.replace("X: ", &format!("X: {filler}"));
        assert_eq!(head.len(), bytes);
        head + &body("second", length)
    };
    let answers = [
        ("long", long(40_000)),
        ("long enough", long(32_768)),
        ("too short by a byte", long(32_767)),
        ("long enough but for what is looked at", long(33_000)),
        ("long, behind what is looked at", long(34_000)),
        ("short", long(5)),
        ("as long as what is looked at", long(1024 - long(100).len() + 100)),
        ("empty", long(0)),
        ("no body", "HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n".into()),
        ("not modified", "HTTP/1.1 304 Same\r\nDate: now\r\nContent-Length: 40000\r\n\r\n".into()),
        ("no date", long(40_000).replace("Date: now\r\n", "")),
        ("keeps", long(40_000).replace("Date: now\r\n", "Date: now\r\nConnection: keep-alive\r\n")),
        ("closes", long(40_000).replace("Date: now\r\n", "Date: now\r\nConnection: close\r\n")),
        ("HTTP/1.0", long(40_000).replace("HTTP/1.1", "HTTP/1.0")),
        (
            "redirect",
            long(40_000).replace("200 OK", "302 Found").replace("now\r\n", "now\r\nLocation: /n\r\n"),
        ),
        ("chunked, short", chunked("3\r\nup\n\r\n0\r\n\r\n")),
        ("chunked, long", chunked(&(chunk(40_000) + &chunk(33_000) + "0\r\nA: b\r\n\r\n"))),
        ("chunked, a short one and a long one", chunked(&(chunk(10) + &chunk(50_000) + "0\r\n\r\n"))),
        ("chunked, malformed behind a long one", chunked(&(chunk(40_000) + "nonsense\r\n"))),
        ("chunked, a long one that is longer", chunked(&chunk(40_000).replace("9c40", "9c3f"))),
        ("chunked, malformed at once", chunked("nonsense\r\n")),
        ("interim", "HTTP/1.1 103 Hm\r\nLink: </>\r\n\r\n".to_owned() + &long(40_000)),
        ("two interim", "HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Hm\r\n\r\n".to_owned() + &long(40_000)),
        (
            "a long interim",
            format!("HTTP/1.1 103 Hm\r\nLink: {}\r\n\r\n", "l".repeat(20_000)) + &long(40_000),
        ),
        ("a head of a look but a byte", head_of(1023, 40_000)),
        ("a head of a look", head_of(1024, 40_000)),
        ("a head of a look and a byte", head_of(1025, 40_000)),
        ("a head of two looks", head_of(2048, 40_000)),
        ("a head of 60 KB", head_of(60_000, 40_000)),
        ("until close", head("") + &body("second", 200_000)),
        ("until close, short", head("") + "up\n"),
        ("malformed", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n".into()),
        ("another protocol", "HTTP/1.1 101 Go\r\n\r\n".into()),
        ("two lengths", long(40_000).replace("Date: now\r\n", "Content-Length: 1\r\n")),
        ("bytes behind a long one", long(40_000) + "HTTP/1.1 200 OK\r\n\r\n"),
        ("a byte behind a long one", long(40_000) + "x"),
        ("bytes behind a short one", long(5) + "HTTP/1.1 200 OK\r\n\r\n"),
        ("bytes behind one that fills a look", long(1024 - long(100).len() + 100) + "x"),
    ];
    for (name, answer) in &answers {
        for (ask, asks) in [(SCRAPE, "GET"), (HEAD, "HEAD"), (OLD, "HTTP/1.0"), (CLOSES, "closes")] {
            let head_end = answer.find("\r\n\r\n").expect("a head") + 4;
            let answer = match asks {
                "HEAD" if !name.contains("interim") && !name.contains("behind") => &answer[..head_end],
                _ => answer.as_str(),
            };
            let bytes = answer.as_bytes();
            let ends = name.contains("until close");
            let at_most = |at: usize| at.min(bytes.len());
            let all = [0, 1, head_end - 1, head_end, head_end + 1, 1023, 1024, 1025, bytes.len() - 1];
            let cuts = if asks == "GET" { &all[..] } else { &[0, head_end, 1024] };
            for (at, &cut) in cuts.iter().enumerate() {
                let parts = [&bytes[..at_most(cut)], &bytes[at_most(cut)..]];
                let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                let seed = at as u64;
                let fresh = came_of(seed, false, ask, &parts, ends);
                let kept = came_of(seed, true, ask, &parts, ends);
                let cut = format!("{name}, {asks}, cut at {cut}");
                if fresh.outcomes[Outcome::BodyMalformed as usize] > 0 {
                    // Whether its head had gone on by then, and how much else, is a matter of how it was read.
                    let is_sound = kept.got.starts_with("HTTP/1.1 502 ") || answer.starts_with(&kept.got);
                    assert!(is_sound || asks != "GET", "{cut}: {}", kept.got);
                    assert_eq!((kept.pod_is_kept, kept.outcomes), (false, fresh.outcomes), "{cut}");
                    continue;
                }
                assert_same(&cut, &kept.got, &fresh.got);
                let rest = |of: CameOf| CameOf { got: String::new(), ..of };
                assert_eq!(rest(kept), rest(fresh), "{cut}");
            }
        }
    }
}

#[test]
fn a_long_answer_that_drips_is_whole() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        let answer = long_answer("second", 33_000);
        sim.send(client, SCRAPE);
        let mut got = String::new();
        let step = [1, 3, 100][seed as usize % 3];
        for part in answer.as_bytes().chunks(step) {
            sim.send(pod, part);
            if seed.is_multiple_of(4) {
                got += &sim.take(client); // else it takes all of it at last
            }
        }
        got += &sim.take(client);
        assert_same(&format!("seed {seed}"), &got, &answer);
        assert_eq!(sim.pods(), [pod]);
    }
}

#[test]
fn bytes_behind_a_long_body_close_the_connection_and_reach_nobody() {
    for surplus in ["x", "\r\n", ANSWER_TEXT, &long_answer("poison", 50_000)] {
        // They come with the answer; when it is whole, but before any turn has shown that; when it idles; or in
        // portions, of which the first ends in them.
        for how in 0..4 {
            for seed in PIPE_SEEDS {
                let mut sim = sim_with_pipes(seed);
                let (client, pod) = scraped_long(&mut sim);
                let answer = long_answer("second", 40_000);
                sim.send(client, SCRAPE);
                sim.take(pod);
                let got = match how {
                    0 => {
                        let all = answer.clone() + surplus;
                        sim.net().kernel.peer_send(pod, all.as_bytes());
                        sim.settle();
                        sim.take(client)
                    }
                    1 => {
                        sim.net().kernel.peer_send(pod, answer.as_bytes());
                        sim.net().behind_look = Some(|kernel, pod| {
                            kernel.peer_send(pod, b"surplus");
                        });
                        sim.settle();
                        sim.take(client)
                    }
                    2 => {
                        let got = stream(&mut sim, pod, answer.as_bytes(), client);
                        sim.net().kernel.peer_send(pod, surplus.as_bytes());
                        // The next request comes with the same events.
                        sim.send(client, SCRAPE);
                        got
                    }
                    _ => {
                        let (first, second) = answer.split_at(answer.len() - 10_000);
                        let got = stream(&mut sim, pod, first.as_bytes(), client);
                        got + &stream(&mut sim, pod, (second.to_owned() + surplus).as_bytes(), client)
                    }
                };
                assert_same(&format!("seed {seed}"), &got, &answer);
                assert!(!sim.is_held(pod), "{surplus:.20?} in way {how} with seed {seed}: it is kept");
                if how != 2 {
                    sim.send(client, SCRAPE);
                }
                let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
                assert_answer(&mut sim, client, fresh);
            }
        }
    }
}

const ANSWER_TEXT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies";

#[test]
fn a_pod_that_goes_within_a_long_body_leaves_it_visibly_broken() {
    let chunk = format!(
        "HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n9c40\r\n{}",
        body("chunk", 40_000)
    );
    let until_close = format!("HTTP/1.1 200 OK\r\nDate: now\r\n\r\n{}", body("until close", 40_000));
    for (answer, expected) in [
        (long_answer("length", 40_000), Close::Fin),
        (chunk, Close::Fin),
        (until_close, Close::Reset), // an end in order would pass it off as whole
    ] {
        for how in 0..4 {
            for said in [0, 1, 200, 1024, 35_000, 39_000] {
                for seed in PIPE_SEEDS.step_by(5) {
                    let is_end = expected == Close::Reset && how == 0;
                    if is_end {
                        continue; // that is how it ends
                    }
                    let mut sim = sim_with_pipes(seed);
                    let (client, pod) = scraped_long(&mut sim);
                    sim.send(client, SCRAPE);
                    sim.take(pod);
                    let head = answer.find("\r\n\r\n").expect("a head") + 4;
                    let said = &answer[..(head + said).min(answer.len() - 1)];
                    let mut got = String::new();
                    if how == 3 {
                        // Between the look and what follows it.
                        sim.net().kernel.peer_send(pod, said.as_bytes());
                        sim.net().behind_look = Some(|kernel, pod| kernel.peer_reset(pod, true));
                    } else {
                        got += &stream(&mut sim, pod, said.as_bytes(), client);
                    }
                    match how {
                        0 => sim.net().kernel.peer_end(pod),
                        1 => sim.net().kernel.peer_reset(pod, false),
                        2 => sim.net().kernel.peer_reset(pod, true),
                        _ => {}
                    }
                    sim.settle();
                    got += &sim.take(client);
                    let case = format!("{said:.60?} ({} bytes), how {how}, seed {seed}", said.len());
                    // A reset overtakes what it follows.
                    let (_, got) = got.split_once("\r\n\r\n").unwrap_or(("", ""));
                    assert!(said[head..].starts_with(got), "{case}");
                    let shows = expected == Close::Fin && how != 3;
                    assert!(!shows || said[head..].len() == got.len(), "{case}");
                    assert_eq!(end_of(&mut sim, client), Some(expected), "{case}");
                    assert_eq!((sim.pods(), sim.count(Outcome::BodyCutShort)), (vec![], 1), "{case}");
                    // Nothing of it is left in the way of others.
                    let client = sim.client();
                    scrape(&mut sim, client, &long_answer("after", 40_000));
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_long_body_may_come_with_its_pods_end() {
    for seed in PIPE_SEEDS {
        for ends in [false, true] {
            let mut sim = sim_with_pipes(seed);
            let (client, pod) = scraped_long(&mut sim);
            let answer = if ends {
                long_answer("until close", 50_000).replace("Content-Length: 50000", "X: y")
            } else {
                long_answer("length", 50_000)
            };
            sim.send(client, SCRAPE);
            sim.net().kernel.peer_send(pod, answer.as_bytes());
            sim.net().kernel.peer_end(pod);
            sim.turn();
            sim.settle();
            let got = sim.take(client);
            assert_same(&format!("seed {seed}"), &got.replace("Connection: close\r\n", ""), &answer);
            assert_eq!((sim.pods(), sim.count(Outcome::Forwarded)), (vec![], 2));
            assert_eq!(sim.is_held(client), !ends || sim.net().kernel.conns[client].worker_ended);
        }
    }
}

#[test]
fn when_a_client_goes_within_a_long_body_nothing_of_it_is_left() {
    for seed in PIPE_SEEDS {
        for how in 0..4 {
            let mut sim = sim_with_pipes(seed);
            let (client, pod) = scraped_long(&mut sim);
            let other = sim.client();
            sim.send(client, SCRAPE);
            let answer = long_answer("second", 900_000);
            // More than it takes: the rest waits for it.
            sim.net().kernel.peer_send(pod, &answer.as_bytes()[..60_000]);
            if seed.is_multiple_of(3) {
                sim.settle();
                // So much of it that not all of the rest is kept for the client either.
                sim.net().kernel.peer_send(pod, &answer.as_bytes()[60_000..]);
                sim.settle();
            }
            let gone = ["end", "close", "reset", "reset, unseen"][how];
            match how {
                0 => sim.net().kernel.peer_end(client),
                1 => sim.net().kernel.peer_close(client),
                2 => sim.net().kernel.peer_reset(client, true),
                _ => {
                    // The pour finds out, before any event tells of the reset.
                    sim.net().kernel.peer_reset(client, false);
                    sim.net().kernel.conns[client].woken = false;
                }
            }
            sim.settle();
            sim.settle();
            if how == 3 && sim.is_held(client) {
                // There was nothing to pour.
                sim.net().kernel.conns[client].woken = true;
                sim.settle();
            }
            assert!(!sim.is_held(pod) && !sim.is_held(client), "{gone}, seed {seed}");
            assert_eq!(sim.count(Outcome::ClientGone), 1, "{gone}, seed {seed}");
            let pod = scrape(&mut sim, other, &long_answer("other", 100_000));
            assert_eq!(scrape(&mut sim, other, &long_answer("another", 100_000)), pod);
        }
    }
}

#[test]
fn a_client_that_stalls_within_a_long_body_gets_the_rest_later() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        sim.send(client, SCRAPE);
        sim.take(pod);
        let answer = long_answer("second", 900_000);
        let mut left = answer.as_bytes();
        // It takes nothing until nothing moves any more, then some, and so on.
        let mut kept_max = 528 * 1024;
        let mut got = Vec::new();
        for round in 0.. {
            loop {
                let sent = sim.net().kernel.peer_send(pod, left);
                left = &left[sent..];
                sim.settle();
                if sent == 0 {
                    break;
                }
            }
            let net = sim.net();
            let (read, written) =
                (net.kernel.conns[pod].to_worker.taken, net.kernel.conns[client].from_worker.pushed);
            let kept = read - written;
            assert!(kept <= kept_max, "{kept} bytes are kept for it, of at most {kept_max}");
            if kept <= 64 * 1024 {
                kept_max = 64 * 1024; // once it was slow, no more is taken for it than is read at once
            }
            drop(net);
            let turns = sim.net().turn;
            sim.settle();
            assert_eq!(sim.net().turn, turns, "nobody stirs until the client takes something");
            let most = [1, 30_000, 64 * 1024, 5][round % 4];
            let taken = sim.net().kernel.peer_take(client, most);
            sim.settle();
            if taken.is_empty() {
                break;
            }
            got.extend_from_slice(&taken);
        }
        assert_same(&format!("seed {seed}"), &String::from_utf8(got).expect("text"), &answer);
        assert_eq!((sim.pods(), sim.count(Outcome::Forwarded)), (vec![pod], 2));
        scrape(&mut sim, client, &long_answer("third", 50_000));
    }
}

#[test]
fn a_client_that_stalls_within_a_long_body_for_too_long_is_given_up() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        sim.send(client, SCRAPE);
        let answer = long_answer("second", 900_000);
        let sent = sim.net().kernel.peer_send(pod, answer.as_bytes());
        sim.settle();
        sim.net().kernel.peer_send(pod, &answer.as_bytes()[sent..]);
        sim.settle();
        sim.pass(Duration::from_millis(2900));
        assert!(sim.is_held(client) && sim.is_held(pod), "it has its time");
        sim.pass(Duration::from_millis(200));
        assert!(!sim.is_held(client) && !sim.is_held(pod));
        assert_eq!(sim.count(Outcome::ClientTimeout), 1);
        // A pod that stalls is another matter.
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        sim.send(pod, &answer.as_bytes()[..40_000]);
        sim.take(client);
        sim.pass(Duration::from_millis(3100));
        assert!(!sim.is_held(pod));
        assert_eq!(end_of(&mut sim, client), Some(Close::Fin));
        assert_eq!((sim.count(Outcome::BodyTimeout), sim.count(Outcome::ClientTimeout)), (1, 1));
    }
}

const SHARE: usize = 256 * 1024;
/// All of it but for what is left to the one that holds something longest.
const COMMON: usize = SHARE - 64 * 1024;
const GRACE: Duration = Duration::from_millis(100);

fn buffered(sim: &Sim) -> usize {
    sim.shared.counters(0).buffered_bytes.get() as usize
}

/// A pod is asked by a client of its own, and says the beginning of a head of so many bytes.
fn slow_head(sim: &mut Sim, bytes: usize) -> (ConnId, ConnId) {
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = *sim.pods().last().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nX-Slow: {}", "s".repeat(bytes - 25));
    sim.send(pod, head.as_bytes());
    (client, pod)
}

#[test]
fn heads_of_pods_that_never_end_hold_no_more_than_the_budget() {
    let mut sim = Sim::with_workers(1, 1, [100, 100, SHARE]);
    let slow: Vec<_> = (0..5).map(|_| slow_head(&mut sim, 60_000)).collect();
    assert!(buffered(&sim) <= SHARE && buffered(&sim) > COMMON - 8 * 1024, "{}", buffered(&sim));
    assert_eq!(sim.shared.counters(0).pauses.get(), 2, "three and a part fit in");
    let others = |sim: &mut Sim| {
        let client = sim.client();
        sim.send(client, OTHER_SCRAPE);
        let pod = *sim.pods().last().unwrap();
        assert_answer(sim, client, pod);
        sim.net().kernel.peer_close(client);
        sim.settle();
    };
    others(&mut sim);
    sim.pass(GRACE / 2);
    assert_eq!(sim.count(Outcome::BuffersFull), 0, "there is a grace");
    sim.pass(GRACE / 2);
    // The one that stalled longest is told, and makes room for what waits.
    assert_eq!(sim.count(Outcome::BuffersFull), 1);
    let (first, pod) = slow[0];
    assert_starts(
        &sim.take(first),
        "HTTP/1.1 503 psystrike's buffers are full, and this scrape stalled longest\r\n",
    );
    assert!(!sim.is_held(pod) && sim.net().kernel.conns[first].worker_ended);
    assert!(buffered(&sim) <= SHARE, "{}", buffered(&sim));
    others(&mut sim);
    sim.pass(GRACE);
    // The last three fit in, and have their time.
    sim.pass(10 * GRACE);
    assert_eq!((sim.count(Outcome::BuffersFull), sim.pods().len()), (2, 4));
    assert!(buffered(&sim) <= SHARE, "{}", buffered(&sim));
    for (_, pod) in &slow[2..] {
        sim.send(*pod, b"\r\nContent-Length: 0\r\n\r\n");
    }
    assert_eq!((sim.count(Outcome::Forwarded), buffered(&sim)), (5, 0));
}

#[test]
fn a_head_that_waits_for_room_is_whole_when_there_is_some() {
    let mut sim = Sim::with_workers(1, 1, [100, 100, SHARE]);
    let slow: Vec<_> = (0..4).map(|_| slow_head(&mut sim, 60_000)).collect();
    let (waits, pod) = slow[3];
    sim.send(pod, b"\r\nContent-Length: 3\r\n\r\nok\n");
    assert_eq!(sim.take(waits), "", "there is no room for its head");
    // Another one's ends in time.
    sim.send(slow[0].1, b"\r\nContent-Length: 0\r\n\r\n");
    let answer = sim.take(waits);
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"),
        "{} {answer:.100}",
        answer.len()
    );
    sim.pass(10 * GRACE);
    assert_eq!((sim.count(Outcome::Forwarded), sim.count(Outcome::BuffersFull)), (2, 0));
}

#[test]
fn heads_of_clients_that_never_end_hold_no_more_than_the_budget() {
    let mut sim = Sim::with_workers(1, 1, [100, 100, SHARE]);
    let head = format!("GET /healthz HTTP/1.1\r\nX-Slow: {}", "s".repeat(15_000));
    let slow: Vec<_> = (0..30)
        .map(|_| {
            let client = sim.client();
            sim.send(client, head.as_bytes());
            client
        })
        .collect();
    assert!(buffered(&sim) <= SHARE && buffered(&sim) > COMMON - 8 * 1024, "{}", buffered(&sim));
    let quick = sim.client();
    sim.send(quick, PAGE);
    assert_starts(&sim.take(quick), "HTTP/1.1 200 OK\r\n");
    sim.pass(GRACE);
    assert_starts(
        &sim.take(slow[0]),
        "HTTP/1.1 503 psystrike's buffers are full, and this scrape stalled longest\r\n",
    );
    assert!(sim.net().kernel.conns[slow[0]].worker_ended, "what it says further is no other request");
    // All that have not given way by then are out of time: none waits for ever.
    sim.pass(Duration::from_secs(4));
    let (gave_way, late) = (sim.count(Outcome::BuffersFull), sim.count(Outcome::HeadTimeout));
    assert!(gave_way > 3 && gave_way + late == 30, "{gave_way} gave way, {late} were late");
    assert_eq!(buffered(&sim), 0);
}

#[test]
fn clients_that_do_not_read_hold_no_more_than_the_budget() {
    for seed in PIPE_SEEDS {
        let mut sim = Sim::with_workers(seed, 1, [100, 100, SHARE]);
        let answer = long_answer("stalled", 900_000);
        let stalled: Vec<_> = (0..12)
            .map(|_| {
                let client = sim.client();
                sim.send(client, SCRAPE);
                let pod = *sim.pods().last().unwrap();
                let mut left = answer.as_bytes();
                while sim.is_held(pod) {
                    let sent = sim.net().kernel.peer_send(pod, left);
                    left = &left[sent..];
                    sim.settle();
                    if sent == 0 {
                        break;
                    }
                }
                (client, pod)
            })
            .collect();
        assert!(buffered(&sim) <= SHARE, "{} bytes, seed {seed}", buffered(&sim));
        // Nobody waits for what they hold: they are left alone, and a scrape beside them gets all it asks for.
        sim.pass(5 * GRACE);
        assert_eq!(sim.count(Outcome::BuffersFull), 0);
        let beside = sim.client();
        scrape(&mut sim, beside, &long_answer("beside", 300_000));
        // One whose head needs more room gets it from the client that stalled longest, whose answer shows that it broke.
        let (client, pod) = slow_head(&mut sim, 30_000);
        sim.pass(2 * GRACE);
        sim.send(pod, b"\r\nContent-Length: 3\r\n\r\nok\n");
        assert!(sim.take(client).ends_with("ok\n"), "seed {seed}");
        // The reserve that the first one had used has to be free again too.
        let ended = sim.count(Outcome::BuffersFull) as usize;
        assert!((1..=2).contains(&ended), "{ended} ended, seed {seed}");
        assert_eq!(close_of(&sim, stalled[0].0), Some(Close::Reset));
        assert!(
            stalled[ended..].iter().all(|&(client, pod)| sim.is_held(client) && sim.is_held(pod)),
            "seed {seed}"
        );
        assert!(buffered(&sim) <= SHARE, "{} bytes, seed {seed}", buffered(&sim));
    }
}

#[test]
fn short_of_memory_those_that_stalled_longest_go() {
    let mut sim = sim();
    let quick = sim.client();
    sim.send(quick, PAGE);
    sim.take(quick);
    let answer = long_answer("stalled", 900_000);
    let stalled: Vec<_> = (0..9)
        .map(|_| {
            let client = sim.client();
            sim.send(client, SCRAPE);
            let pod = *sim.pods().last().unwrap();
            let mut left = answer.as_bytes();
            while sim.worker().stalled() == 0 || !left.is_empty() {
                let sent = sim.net().kernel.peer_send(pod, left);
                left = &left[sent..];
                sim.settle();
                if sent == 0 {
                    break;
                }
            }
            client
        })
        .collect();
    assert_eq!(sim.worker().stalled(), 9);
    sim.net().is_short_of_memory = true;
    sim.turn();
    sim.net().is_short_of_memory = false;
    assert_eq!(sim.count(Outcome::BuffersFull), 2, "one in eight, rounded up");
    let ended = stalled.iter().map(|&client| close_of(&sim, client));
    let ended: Vec<_> = ended.collect();
    assert!(
        ended[..2].iter().all(|close| *close == Some(Close::Reset)) && ended[2..].iter().all(Option::is_none)
    );
    sim.send(quick, PAGE);
    assert_starts(&sim.take(quick), "HTTP/1.1 200 OK\r\n");
}

/// The kernel has all of a long answer, and room for it at the client: nothing but the worker itself ends its run.
#[test]
fn long_answers_take_turns_and_short_ones_go_first() {
    const MIB: usize = 1 << 20;
    const BODY: usize = 24 * MIB;
    let mut sim = sim();
    sim.net().rooms = [64 * MIB; 2];
    let begin = |sim: &mut Sim| {
        let client = sim.net().add_conn(net::Owner::Test, None, Link::Up, [64 * MIB; 2]);
        sim.admit(0, client);
        sim.net().kernel.peer_send(client, SCRAPE);
        let pods = sim.pods().len();
        (0..6).for_each(|_| sim.turn());
        let pod = sim.pods()[pods];
        assert!(!sim.net().kernel.peer_take(pod, usize::MAX).is_empty(), "it was asked");
        sim.net().kernel.peer_send(pod, long_answer("bulk", BODY).as_bytes());
        client
    };
    let sent = |sim: &Sim, client: ConnId| sim.net().kernel.conns[client].from_worker.pushed;
    // One alone is sent at most so much in a turn, before which new events are heard.
    let first = begin(&mut sim);
    let mut turns = 0;
    while sent(&sim, first) < BODY / 4 {
        let before = sent(&sim, first);
        sim.turn();
        let moved = sent(&sim, first) - before;
        assert!(moved <= 2 * MIB, "{moved} bytes in a turn");
        turns += 1;
    }
    assert!(turns >= 4, "{turns}");
    // Several take turns, and none gets far ahead.
    let [second, third] = [begin(&mut sim), begin(&mut sim)];
    let all = [first, second, third];
    for _ in 0..6 {
        let before = all.map(|client| sent(&sim, client));
        let page = sim.client();
        sim.net().kernel.peer_send(page, PAGE);
        sim.turn();
        let answer = sim.net().kernel.peer_take(page, usize::MAX);
        assert_starts(&String::from_utf8_lossy(&answer), "HTTP/1.1 200 OK\r\n");
        let moved: Vec<_> =
            all.iter().zip(before).map(|(&client, before)| sent(&sim, client) - before).collect();
        assert!(moved.iter().sum::<usize>() <= 3 * MIB, "{moved:?}");
        assert!(moved.iter().all(|&moved| moved <= MIB + MIB / 8), "{moved:?}");
    }
    sim.settle();
    for client in all {
        let taken = sim.take(client);
        assert_same("a long answer", &taken, &long_answer("bulk", BODY));
    }
}

#[test]
fn without_a_descriptor_for_a_pipe_a_long_answer_goes_on() {
    for from in 0..3 {
        let mut sim = sim_with_pipes(1);
        let client = sim.client();
        sim.net().fds_max = if from == 0 { 2 } else { usize::MAX };
        for at in 0..6 {
            if at == from {
                // That there was one before helps: it is kept.
                sim.net().fds_max = 2;
            }
            let pod = scrape(&mut sim, client, &long_answer(&format!("scrape {at}"), 200_000));
            assert_eq!(sim.pods(), [pod]);
        }
        assert_eq!(sim.count(Outcome::Forwarded), 6);
        assert_eq!(sim.net().poured > 0, from > 0);
        let poured = sim.net().poured;
        // As soon as there is one again, there is a pipe again.
        sim.net().fds_max = usize::MAX;
        scrape(&mut sim, client, &long_answer("at last", 200_000));
        assert!(sim.net().poured > poured);
    }
}

#[test]
fn where_the_kernel_refuses_pipes_long_answers_are_copied() {
    for seed in PIPE_SEEDS {
        for call in [Optional::Pipe, Optional::Fill, Optional::Look, Optional::Pour] {
            for (nth, error) in Refusal::ERRORS.into_iter().enumerate() {
                let mut sim = sim_with_pipes(seed);
                let after = if call == Optional::Pipe { 0 } else { nth };
                sim.net().chaos.refuses = Some(Refusal { call, error, after });
                let client = sim.client();
                for at in 0..8 {
                    scrape(&mut sim, client, &long_answer(&format!("scrape {at}"), 200_000));
                }
                let case = format!("{call:?}: {error} after {after}, seed {seed}");
                assert!(!sim.shared.splices(), "{case}");
                assert_eq!(sim.count(Outcome::Forwarded), 8, "{case}");
                let poured = sim.net().poured;
                // Once and for good.
                sim.net().chaos.refuses = None;
                scrape(&mut sim, client, &long_answer("at last", 200_000));
                assert_eq!(sim.net().poured, poured, "{case}");
            }
        }
    }
}

#[test]
fn a_pod_that_fails_within_a_long_body_fails_alone() {
    let mut sim = sim_with_pipes(1);
    let (client, pod) = scraped_long(&mut sim);
    sim.send(client, SCRAPE);
    sim.send(pod, &long_answer("second", 900_000).as_bytes()[..40_000]);
    sim.take(client);
    sim.net().kernel.peer_reset(pod, true);
    sim.settle();
    assert_eq!((sim.count(Outcome::BodyCutShort), sim.shared.splices()), (1, true));
}

#[test]
fn long_bodies_of_two_clients_in_turn_do_not_mix() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        sim.net().rooms = [20_000, 4096];
        let clients = [(); 2].map(|()| sim.client());
        for round in 0..3 {
            sim.pass(Duration::from_millis(1));
            clients.iter().for_each(|&client| sim.send(client, SCRAPE));
            let pods: [ConnId; 2] = sim.pods().try_into().expect("two connections");
            let answers = [0, 1].map(|pod| long_answer(&format!("round {round} pod {pod}"), 150_000));
            pods.iter().for_each(|&pod| drop(sim.take(pod)));
            let mut left = [answers[0].as_bytes(), answers[1].as_bytes()];
            let mut got = [String::new(), String::new()];
            let mut random = Random::new(seed);
            while !left.concat().is_empty() {
                let at = random.below(2);
                let most = random.pick(&[1, 1000, 7000, 20_000]).min(left[at].len());
                let sent = sim.net().kernel.peer_send(pods[at], &left[at][..most]);
                left[at] = &left[at][sent..];
                if random.one_in(2) {
                    sim.settle();
                }
                if random.one_in(3) {
                    let at = random.below(2);
                    got[at] += &sim.take(clients[at]);
                }
            }
            sim.settle();
            while clients.iter().any(|&client| !sim.net().kernel.conns[client].from_worker.is_empty()) {
                (0..2).for_each(|at| got[at] += &sim.take(clients[at]));
            }
            // Which of the connections got which of the requests is not for us to know.
            got.sort_by_key(|got| !got.contains("pod 0"));
            got.iter()
                .zip(&answers)
                .for_each(|(got, answer)| assert_same(&format!("seed {seed}"), got, answer));
        }
        assert_eq!((sim.pods().len(), sim.count(Outcome::Forwarded)), (2, 6));
    }
}

#[test]
fn a_pod_that_answers_at_length_before_it_has_read_is_not_kept() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        sim.net().rooms = [1 << 20, 1000];
        let (client, pod) = scraped_long(&mut sim);
        let long = format!("GET /pods/10.0.0.1/80/{} HTTP/1.1\r\nHost: p\r\n\r\n", "m".repeat(15_000));
        sim.send(client, long.as_bytes());
        let answer = long_answer("early", 200_000);
        let got = stream(&mut sim, pod, answer.as_bytes(), client);
        assert_same(&format!("seed {seed}"), &got, &answer);
        assert_eq!((sim.pods(), sim.is_held(client)), (vec![], true));
    }
}

#[test]
fn requests_with_an_end_behind_them_are_answered_but_for_scrapes() {
    let mut sim = sim();
    let client = sim.client();
    sim.net().kernel.peer_send(client, &PAGE.repeat(10));
    sim.net().kernel.peer_end(client);
    sim.settle();
    assert_eq!(close_of(&sim, client), None, "it has yet to take them");
    assert_eq!(sim.take(client).matches("HTTP/1.1 200 OK\r\n").count(), 10);
    assert_eq!(end_of(&mut sim, client), Some(Close::Fin));

    // Whoever ended its side does not wait for what takes its time.
    let client = sim.client();
    sim.net().kernel.peer_send(client, &[PAGE, SCRAPE, PAGE].concat());
    sim.net().kernel.peer_end(client);
    sim.settle();
    assert_eq!(sim.take(client).matches("HTTP/1.1 200 OK\r\n").count(), 1);
    assert_eq!((sim.pods(), sim.is_held(client)), (vec![], false));
    assert_eq!(sim.count(Outcome::ClientGone), 1);
}

#[test]
fn what_a_refused_client_still_sends_does_not_destroy_the_refusal() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, b"POST /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\nContent-Length: 100000\r\n\r\n");
    sim.send(client, &[b'x'; 60_000]);
    assert!(sim.net().kernel.conns[client].worker_ended && sim.is_held(client));
    sim.send(client, &[b'x'; 40_000]);
    assert_starts(&sim.take(client), "HTTP/1.1 405 ");
    sim.net().kernel.peer_close(client);
    sim.settle();
    assert_eq!(close_of(&sim, client), Some(Close::Fin));
}

#[test]
fn half_an_empty_line_begins_no_request() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, PAGE);
    sim.take(client);
    sim.send(client, b"\r");
    sim.send(client, b"\n");
    sim.pass(Duration::from_secs(5));
    assert_eq!((sim.take(client), sim.is_held(client)), (String::new(), true));
    sim.send(client, PAGE);
    assert_starts(&sim.take(client), "HTTP/1.1 200 OK\r\n");
}

#[test]
fn a_client_that_is_accepted_as_the_process_closes_is_heard() {
    let mut sim = sim();
    let [talks, says_nothing, speaks_later] = [(); 3].map(|()| sim.connect_to(0));
    sim.net().kernel.peer_send(talks, PAGE);
    sim.enter(Phase::Closing);
    sim.settle();
    assert_starts(&sim.take(talks), "HTTP/1.1 200 OK\r\n");
    sim.pass(SILENCE - Duration::from_millis(1));
    assert!(sim.is_held(says_nothing));
    sim.send(speaks_later, PAGE);
    assert_starts(&sim.take(speaks_later), "HTTP/1.1 200 OK\r\n");
    assert!(sim.event_loop(0).is_some_and(|event_loop| !event_loop.listens()));
    sim.pass(Duration::from_millis(1));
    assert!(!sim.is_held(says_nothing));
    assert_eq!(close_of(&sim, says_nothing), Some(Close::Fin));
}

#[test]
fn a_broken_answer_shows() {
    const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nsome";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n";
    const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nsome";
    for (answer, resets, expected) in [
        (LENGTH, false, Close::Fin),
        (LENGTH, true, Close::Fin),
        (CHUNKED, false, Close::Fin),
        (CHUNKED, true, Close::Fin),
        (UNTIL_CLOSE, true, Close::Reset),
    ] {
        let mut sim = sim();
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        sim.send(pod, answer);
        if resets {
            sim.net().kernel.peer_reset(pod, false);
        } else {
            sim.net().kernel.peer_end(pod);
        }
        sim.settle();
        assert_eq!(close_of(&sim, client), None, "what was sent before is still delivered");
        assert_eq!(end_of(&mut sim, client), Some(expected));
        assert_eq!((sim.pods(), sim.count(Outcome::BodyCutShort)), (vec![], 1));

        // A client that does not take it is waited for, and then nothing is left in the kernel.
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        sim.send(pod, answer);
        sim.net().kernel.peer_reset(pod, false);
        sim.settle();
        sim.pass(Duration::from_millis(1900));
        assert_eq!(close_of(&sim, client), None);
        sim.pass(Duration::from_millis(200));
        assert_eq!(close_of(&sim, client), Some(Close::Reset));

        // Out of time is no better.
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        sim.send(pod, answer);
        sim.pass(Duration::from_secs(3));
        assert_eq!(end_of(&mut sim, client), Some(expected));
        assert_eq!((sim.pods(), sim.count(Outcome::BodyTimeout)), (vec![], 1));
    }
}
