//! Places for the clients of one worker, and what happens to them during shutdown.

use std::time::Duration;

use psystrike::{net::shared::Phase, proxy::outcome::Outcome};

use super::{
    PAGE, SCRAPE, SILENCE, WAIT, assert_answer, assert_starts, close_of, kernel::Close, sim, sim::Sim,
};

#[test]
fn when_all_places_are_taken_the_longest_idle_client_is_evicted() {
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
fn clients_turned_away_get_503_unless_there_are_too_many() {
    const TURNED_AWAY_MAX: usize = 64;
    let mut sim = Sim::new(1, 1, 100);
    let busy = sim.client();
    sim.send(busy, SCRAPE);
    let turned_away = [(); TURNED_AWAY_MAX].map(|()| sim.client());
    let too_many = sim.client();
    assert!(!sim.is_held(too_many));
    assert_starts(&sim.take(too_many), "HTTP/1.1 503 too many clients\r\n");
    for client in turned_away {
        assert!(sim.is_held(client), "later ones did not evict it");
        sim.send(client, SCRAPE);
        assert_eq!(sim.take(client), "", "it waits for a place");
    }
    sim.pass(WAIT);
    for client in turned_away {
        assert_starts(&sim.take(client), "HTTP/1.1 503 too many clients\r\n");
        assert!(sim.net().kernel.conns[client].worker_ended);
    }
    // A place that becomes free goes to the next client, even while those linger.
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
fn waiting_clients_get_places_in_order() {
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
    assert!(!sim.is_held(gone), "it does not wait any more");
    sim.pass(WAIT / 2);
    // The response makes a client idle, and it is evicted at once.
    assert_answer(&mut sim, busy, pod);
    assert_eq!((sim.is_served(busy), sim.is_served(first)), (false, false), "each is evicted in turn");
    assert_starts(&sim.take(first), "HTTP/1.1 200 OK\r\n");
    assert_starts(&sim.take(second), "HTTP/1.1 200 OK\r\n");
    assert!(sim.is_held(second));
    assert_eq!(sim.count(Outcome::TooManyClients), 0);
}

#[test]
fn an_ended_wait_takes_no_place_of_another() {
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
fn a_new_client_has_a_grace_time_before_it_is_closed_for_a_newer_one() {
    let mut sim = Sim::new(1, 2, 100);
    let silent = sim.client();
    sim.pass(SILENCE / 2);
    let asks = sim.client();
    let waits = sim.client();
    sim.send(waits, PAGE);
    assert!(sim.is_held(silent) && sim.is_held(asks) && sim.take(waits).is_empty());
    // An idle client is evicted first, although another one is silent.
    sim.send(asks, PAGE);
    assert_starts(&sim.take(asks), "HTTP/1.1 200 OK\r\n");
    assert_eq!((sim.is_served(asks), sim.is_served(silent)), (false, true));
    assert_starts(&sim.take(waits), "HTTP/1.1 200 OK\r\n");

    // If no client is idle, the silent one gets a 503 after the grace time.
    sim.send(waits, SCRAPE);
    let waits = sim.client();
    sim.send(waits, PAGE);
    sim.pass(SILENCE / 2 - Duration::from_millis(1));
    assert_eq!((sim.take(silent), sim.take(waits)), (String::new(), String::new()));
    sim.pass(Duration::from_millis(1));
    assert_starts(&sim.take(silent), "HTTP/1.1 503 too many clients\r\n");
    assert_starts(&sim.take(waits), "HTTP/1.1 200 OK\r\n");
    // Its later request does not destroy the response.
    sim.send(silent, PAGE);
    assert_eq!(sim.take(silent), "");
    sim.net().kernel.peer_close(silent);
    sim.settle();
    assert_eq!(close_of(&sim, silent), Some(Close::Fin));

    // If no other client waits, it has the time limit of a request's head.
    let silent = sim.client();
    sim.pass(Duration::from_millis(1499));
    assert!(sim.is_held(silent));
    sim.pass(Duration::from_millis(1));
    assert_eq!((sim.take(silent), sim.is_held(silent)), (String::new(), false));
}

#[test]
fn a_client_with_pending_requests_is_not_idle() {
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
fn a_client_accepted_during_shutdown_may_send_a_request() {
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
