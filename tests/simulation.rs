//! The whole worker over simulated sockets and a virtual clock: seeded runs with random clients, pods and faults,
//! and scenes that are played call by call.
//!
//! `PSYSTRIKE_SEEDS` is how many seeds are run; `PSYSTRIKE_SEED` runs one of them alone, and tells of every step.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/net.rs"]
mod net;
#[path = "simulation/pods.rs"]
mod pods;
#[path = "simulation/sim.rs"]
mod sim;

use std::{cell::RefCell, env, time::Duration};

use psystrike::{
    net::shared::Phase,
    proxy::outcome::{OUTCOMES, Outcome},
};
use rustix::io::Errno;

use bytes::with_seeds;
use kernel::{Close, ConnId, Link};
use sim::Sim;

const SEEDS: u64 = 2000;
/// So many seeds meet every outcome there is.
const SEEDS_FOR_ALL: u64 = 1000;

#[test]
fn whatever_happens_clients_get_their_own_pods_answers_or_see_that_they_do_not() {
    let count =
        env::var("PSYSTRIKE_SEEDS").map_or(SEEDS, |count| count.parse().expect("PSYSTRIKE_SEEDS: a number"));
    let met = RefCell::new(([0; OUTCOMES], [0; 2]));
    with_seeds(count, |seed, _| {
        let mut sim = Sim::random(seed);
        let counted = sim.run();
        let (outcomes, [reused, retries]) = &mut *met.borrow_mut();
        outcomes.iter_mut().zip(counted).for_each(|(met, counted)| *met += counted);
        *reused += sim.net().reused;
        *retries += sim.net().sent_again;
    });
    let (outcomes, others) = met.into_inner();
    if count >= SEEDS_FOR_ALL && env::var_os("PSYSTRIKE_SEED").is_none() {
        // Nothing drawn asks for these: the grammar of heads has its own tables.
        let elsewhere =
            [Outcome::TargetTooLong, Outcome::TooManyFields, Outcome::NotOriginForm, Outcome::PortNotAllowed];
        for (outcome, met) in Outcome::ALL.iter().zip(outcomes) {
            assert_eq!(met == 0, elsewhere.contains(outcome), "{outcome:?} was met {met} times");
        }
        assert!(others.iter().all(|&met| met > 0), "reused, sent again: {others:?}");
    }
}

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

    // Once there is a byte of an answer, the scrape is not sent again.
    let (client, pod) = scraped(&mut sim);
    sim.send(client, SCRAPE);
    sim.send(pod, b"H");
    sim.net().kernel.peer_end(pod);
    sim.settle();
    assert_starts(&sim.take(client), "HTTP/1.1 502 pod closed the connection within its answer's head\r\n");
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
    assert_eq!(clients.map(|client| sim.is_held(client)), [false, true, true]);
    sim.send(new, SCRAPE);
    let newer = sim.client();
    assert_eq!(clients.map(|client| sim.is_held(client)), [false, true, false]);
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
    for client in turned_away {
        assert!(sim.is_held(client), "those that came later did not push it out");
        sim.send(client, SCRAPE);
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

#[test]
fn requests_with_an_end_behind_them_are_answered_but_for_scrapes() {
    let mut sim = sim();
    let client = sim.client();
    sim.net().kernel.peer_send(client, &PAGE.repeat(10));
    sim.net().kernel.peer_end(client);
    sim.settle();
    assert_eq!(sim.take(client).matches("HTTP/1.1 200 OK\r\n").count(), 10);
    assert_eq!(close_of(&sim, client), Some(Close::Fin));

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
    sim.enter(Phase::Closing);
    let talks = sim.net().add_conn(net::Owner::Test, None, Link::Up, [4096; 2]);
    sim.net().kernel.peer_send(talks, PAGE);
    sim.admit(talks);
    let says_nothing = sim.client();
    sim.worker().drain();
    sim.settle();
    assert!(!sim.is_held(says_nothing));
    assert_starts(&sim.take(talks), "HTTP/1.1 200 OK\r\n");
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
        assert_eq!(close_of(&sim, client), Some(expected));
        assert_eq!((sim.pods(), sim.count(Outcome::BodyCutShort)), (vec![], 1));

        // Out of time is no better.
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        sim.send(pod, answer);
        sim.pass(Duration::from_secs(3));
        assert_eq!(close_of(&sim, client), Some(expected));
        assert_eq!((sim.pods(), sim.count(Outcome::BodyTimeout)), (vec![], 1));
    }
}
