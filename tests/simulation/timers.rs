//! The deadlines of many clients: a worker wakes for those that are due, and not for those of scrapes that are over.

use std::time::Duration;

use super::{assert_answer, kernel::ConnId, scraped, sim, sim::Sim};

const CLIENTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(5);
/// How long a client may idle in the simulation.
const IDLE: Duration = Duration::from_secs(10);

/// Clients that each scrape the first pod twice, one after the other.
fn clients_after_scrapes(sim: &mut Sim) -> Vec<ConnId> {
    let scrape = |_| {
        sim.pass(PAUSE);
        scraped(sim)
    };
    let connections: Vec<_> = (0..CLIENTS).map(scrape).collect();
    for &(client, pod) in &connections {
        sim.pass(PAUSE);
        sim.send(client, super::SCRAPE);
        assert_answer(sim, client, pod);
    }
    connections.into_iter().map(|(client, _)| client).collect()
}

#[test]
fn a_worker_does_not_wake_for_each_scrape_that_is_over() {
    let mut sim = sim();
    let clients = clients_after_scrapes(&mut sim);
    // Somewhat earlier than the first of them is closed.
    let wakes = sim.pass(IDLE - PAUSE * 2 * CLIENTS as u32);
    assert!((1..=8).contains(&wakes), "{wakes} wakes for {CLIENTS} clients");
    assert!(clients.iter().all(|&client| sim.is_held(client)));
}

#[test]
fn each_client_is_closed_when_it_has_idled_for_long_enough() {
    let mut sim = sim();
    let clients = clients_after_scrapes(&mut sim);
    sim.pass(IDLE - PAUSE * CLIENTS as u32);
    for (nth, &client) in clients.iter().enumerate() {
        assert!(sim.is_held(client), "client {nth} may idle longer");
        sim.pass(PAUSE);
        assert!(!sim.is_served(client), "client {nth} has idled for {IDLE:?}");
    }
}

#[test]
fn a_deadline_that_has_moved_away_is_put_off_before_it_is_near() {
    let mut sim = sim();
    clients_after_scrapes(&mut sim);
    let next = sim.next_wake().expect("a deadline");
    let until_near = next.since(sim.net().now) - Duration::from_millis(150);
    sim.pass(until_near);
    sim.turn();
    assert!(sim.next_wake() > Some(next), "a wait with a time limit follows");
}

#[test]
fn a_turn_handles_64_of_the_timers_that_are_due() {
    let mut sim = Sim::new(1, CLIENTS, CLIENTS);
    let clients: Vec<_> = (0..CLIENTS).map(|_| sim.client()).collect();
    sim.settle();
    let due = sim.next_wake().expect("their deadline for a request");
    sim.net().now = due + Duration::from_millis(1);
    for closed in [64, CLIENTS] {
        assert!(sim.next_wake().is_some_and(|at| at <= due), "it is awake");
        sim.turn();
        assert_eq!(clients.iter().filter(|&&client| !sim.is_served(client)).count(), closed);
    }
}
