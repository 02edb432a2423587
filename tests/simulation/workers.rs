//! Several workers that share places, wakes, and the shutdown of the process.

use std::{cell::RefCell, time::Duration};

use psystrike::{net::shared::Phase, proxy::outcome::Outcome};

use super::{
    ANSWER, OTHER_SCRAPE, PAGE, SCRAPE, SILENCE, WAIT, assert_answer, assert_starts,
    bytes::with_seeds,
    close_of,
    kernel::{Close, ConnId},
    reach_all, seed_count,
    sim::Sim,
};

const SEEDS: u64 = 600;
/// This many seeds reach every case that is counted.
const SEEDS_FOR_ALL: u64 = 300;
const MANY: usize = 1 << 26;

fn whatever_happens_to(workers: usize) {
    let count = seed_count(SEEDS);
    let met = RefCell::new([0; 5]);
    with_seeds(count, |seed, _| {
        let mut sim = Sim::random(seed, workers);
        let counted = sim.run();
        let net = sim.net();
        let counted = [
            counted[Outcome::Forwarded as usize],
            counted[Outcome::TooManyClients as usize],
            net.reused,
            net.wakes_heard,
            net.places_after_wait,
        ];
        met.borrow_mut().iter_mut().zip(counted).for_each(|(met, counted)| *met += counted);
    });
    let met = met.into_inner();
    if reach_all(count, SEEDS_FOR_ALL) {
        let enough = met.iter().zip([500, 50, 50, 500, 50]).all(|(&met, least)| met >= least);
        assert!(enough, "forwarded, turned away, reused, wakes, places after a wait: {met:?}");
    }
}

#[test]
fn random_runs_of_two_workers_deliver_each_pods_own_responses() {
    whatever_happens_to(2);
}

#[test]
fn random_runs_of_three_workers_deliver_each_pods_own_responses() {
    whatever_happens_to(3);
}

fn sim(workers: usize, clients_max: usize) -> Sim {
    Sim::with_workers(1, workers, [clients_max, 100, MANY])
}

/// A client of this worker has received a page, and is idle.
fn idle_client(sim: &mut Sim, worker: usize) -> ConnId {
    let client = sim.client_of(worker);
    sim.send(client, PAGE);
    assert_starts(&sim.take(client), "HTTP/1.1 200 OK\r\n");
    sim.pass(Duration::from_millis(1));
    client
}

/// A client of this worker waits for its pod.
fn busy_client(sim: &mut Sim, worker: usize) -> (ConnId, ConnId) {
    let client = sim.client_of(worker);
    sim.send(client, SCRAPE);
    (client, *sim.pods().last().expect("a connection"))
}

fn is_woken(sim: &mut Sim, worker: usize) -> bool {
    sim.event_loop(worker).expect("the worker is running").is_woken()
}

#[test]
fn the_longest_idle_client_is_evicted_for_one_of_another_worker() {
    for (own_idles, workers) in [(false, 2), (true, 2), (true, 3)] {
        let mut sim = sim(workers, 2);
        let other = workers - 1;
        let oldest = idle_client(&mut sim, other);
        let own = if own_idles { idle_client(&mut sim, 0) } else { busy_client(&mut sim, 0).0 };
        let began = sim.net().now;
        let new = sim.connect_to(0);
        sim.net().kernel.peer_send(new, PAGE);
        sim.turn_of(0);
        // This worker cannot close it: it adds a wish, and wakes the worker that can.
        assert!(sim.is_served(oldest) && sim.shared.places().is_wanted());
        assert!(is_woken(&mut sim, other) && !is_woken(&mut sim, 0));
        sim.turn_of(other);
        assert!(!sim.is_served(oldest), "the longest-idle client is evicted");
        // The place is handed over, not freed for any client, and the new client's worker is woken to collect it.
        assert!(!sim.shared.places().is_wanted() && !sim.shared.places().take());
        assert!(sim.shared.places().has_granted(0) && is_woken(&mut sim, 0));
        sim.settle();
        assert_starts(&sim.take(new), "HTTP/1.1 200 OK\r\n");
        assert!(sim.net().now < began + WAIT / 100, "the place was handed over late");
        assert!(sim.is_served(own), "a client that was idle for a shorter time was evicted");
        assert_eq!(sim.count(Outcome::TooManyClients), 0);
    }
}

#[test]
fn a_worker_that_frees_a_place_wakes_the_next_that_has_to() {
    let mut sim = sim(3, 2);
    let older = idle_client(&mut sim, 2);
    let younger = idle_client(&mut sim, 1);
    let waiting = [(); 2].map(|()| sim.connect_to(0));
    waiting.iter().for_each(|&client| assert_eq!(sim.net().kernel.peer_send(client, PAGE), PAGE.len()));
    sim.turn_of(0);
    // It checks first, does not have the longest-idle client, and sleeps again.
    sim.turn_of(1);
    assert!(sim.is_served(younger) && !is_woken(&mut sim, 1));
    sim.turn_of(2);
    assert!(!sim.is_served(older) && is_woken(&mut sim, 1));
    sim.settle();
    assert!(!sim.is_served(younger));
    for client in waiting {
        assert_starts(&sim.take(client), "HTTP/1.1 200 OK\r\n");
    }
}

#[test]
fn a_client_that_becomes_idle_is_evicted_for_one_of_another_worker() {
    let mut sim = sim(2, 1);
    let (busy, pod) = busy_client(&mut sim, 1);
    let waits = sim.client_of(0);
    sim.send(waits, PAGE);
    assert_eq!(sim.take(waits), "", "nobody idles");
    sim.pass(WAIT / 2);
    assert_answer(&mut sim, busy, pod);
    assert!(!sim.is_served(busy));
    assert_starts(&sim.take(waits), "HTTP/1.1 200 OK\r\n");
}

#[test]
fn a_freed_place_goes_to_a_client_that_waits_at_another_worker() {
    let mut sim = sim(2, 1);
    let (busy, _) = busy_client(&mut sim, 1);
    let waits = sim.client_of(0);
    sim.send(waits, PAGE);
    sim.net().kernel.peer_close(busy);
    sim.turn_of(1);
    assert!(!sim.is_held(busy) && is_woken(&mut sim, 0));
    sim.settle();
    assert_starts(&sim.take(waits), "HTTP/1.1 200 OK\r\n");
}

#[test]
fn clients_that_wait_at_several_workers_get_places_in_order() {
    let mut sim = sim(3, 1);
    let (busy, pod) = busy_client(&mut sim, 2);
    let waiting = [1, 0, 2, 1].map(|worker| {
        let client = sim.client_of(worker);
        sim.send(client, OTHER_SCRAPE);
        client
    });
    assert_answer(&mut sim, busy, pod);
    for (nth, &client) in waiting.iter().enumerate() {
        let [pod] = sim.pods().into_iter().filter(|&pod| sim.asks(pod)).collect::<Vec<_>>()[..] else {
            panic!("one has a place, and sends a request")
        };
        let unread = waiting.map(|client| !sim.net().kernel.conns[client].to_worker.is_empty());
        assert_eq!(unread, [0, 1, 2, 3].map(|other| other > nth), "a waiting client was read");
        assert_answer(&mut sim, client, pod);
    }
    assert_eq!(sim.count(Outcome::TooManyClients), 0);
}

#[test]
fn a_silent_client_is_evicted_in_time_for_one_of_another_worker() {
    let mut sim = sim(2, 1);
    let silent = sim.client_of(1);
    sim.settle();
    let began = sim.net().now;
    let waits = sim.client_of(0);
    sim.send(waits, PAGE);
    // The other worker is informed of the wish, so it wakes at the end of the grace time.
    sim.pass(SILENCE - Duration::from_millis(10));
    assert_eq!((sim.take(silent), sim.take(waits)), (String::new(), String::new()));
    sim.pass(Duration::from_millis(20));
    assert_starts(&sim.take(silent), "HTTP/1.1 503 too many clients\r\n");
    assert_starts(&sim.take(waits), "HTTP/1.1 200 OK\r\n");
    assert!(sim.net().now < began + WAIT);
}

#[test]
fn a_client_that_gets_no_place_gets_503_although_other_workers_have_clients() {
    let mut sim = sim(2, 2);
    let others = [busy_client(&mut sim, 1), busy_client(&mut sim, 1)];
    for (request, response) in [(SCRAPE, "HTTP/1.1 503 too many clients\r\n"), (PAGE, "HTTP/1.1 200 OK\r\n")]
    {
        let waits = sim.client_of(0);
        sim.send(waits, request);
        sim.pass(WAIT);
        assert_starts(&sim.take(waits), response);
    }
    assert!(!sim.shared.places().is_stirred());
    for (client, pod) in others {
        assert_answer(&mut sim, client, pod);
        assert!(sim.is_served(client), "no client waits any more");
    }
}

#[test]
fn a_place_for_a_client_that_is_gone_goes_to_the_next() {
    let mut sim = sim(2, 1);
    let (busy, _) = busy_client(&mut sim, 1);
    let gone = sim.client_of(0);
    let next = sim.client_of(1);
    sim.net().kernel.peer_send(next, PAGE);
    // Its worker does not know yet that it is gone when the place is handed over.
    sim.net().kernel.peer_close(gone);
    sim.net().kernel.peer_close(busy);
    sim.turn_of(1);
    assert!(sim.shared.places().has_granted(0));
    sim.settle();
    assert!(!sim.is_held(gone));
    assert_starts(&sim.take(next), "HTTP/1.1 200 OK\r\n");
}

#[test]
fn each_worker_accepts_until_it_closes_and_ends_with_its_last_client() {
    let mut sim = sim(3, 100);
    let (busy, pod) = busy_client(&mut sim, 0);
    let idle = idle_client(&mut sim, 1);
    let last = sim.connect_to(2);
    sim.net().kernel.peer_send(last, PAGE);
    sim.enter(Phase::Closing);
    assert!([0, 1, 2].into_iter().all(|worker| is_woken(&mut sim, worker)));
    sim.settle();
    assert!(!sim.is_served(idle));
    assert_eq!(close_of(&sim, idle), Some(Close::Fin));
    assert!(sim.event_loop(1).is_none(), "a worker without clients has not ended");
    assert_starts(&sim.take(last), "HTTP/1.1 200 OK\r\n");
    sim.net().kernel.peer_close(last);
    sim.settle();
    assert!(sim.event_loop(2).is_none());
    assert!(sim.event_loop(0).is_some_and(|event_loop| !event_loop.listens()));
    sim.send(pod, ANSWER);
    let answer = sim.take(busy);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nConnection: close\r\n"));
    sim.net().kernel.peer_close(busy);
    sim.settle();
    assert_eq!(sim.event_loops().count(), 0);
    assert!(sim.net().kernel.held.is_empty(), "a pooled pod connection is open");
}

#[test]
fn workers_pool_connections_up_to_their_shares() {
    let mut sim = Sim::with_workers(1, 2, [100, 3, MANY]);
    let busy = [0, 1].map(|worker| [(); 3].map(|()| busy_client(&mut sim, worker)));
    for (client, pod) in busy.into_iter().flatten() {
        assert_answer(&mut sim, client, pod);
    }
    let kept = [0, 1].map(|worker| sim.shared.counters(worker).upstreams_idle.get());
    assert_eq!((kept, sim.pods().len()), ([2, 1], 3));
    // A pooled connection serves only the clients of its own worker.
    sim.pass(Duration::from_millis(1));
    let before = sim.pods();
    let busy = [(); 2].map(|()| busy_client(&mut sim, 1).1);
    assert_eq!(sim.pods().len(), 4);
    assert_eq!(busy.map(|pod| before.contains(&pod)).iter().filter(|&&kept| kept).count(), 1);
}
