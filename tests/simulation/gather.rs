//! Long responses that arrive in small portions: they gather in the kernel, for a short time.

use std::time::Duration;

use psystrike::proxy::outcome::Outcome;

use super::{
    SCRAPE,
    bodies::{assert_same, body, long_answer, scrape},
    kernel::ConnId,
    net_http::{self, PORTION},
    sim::{GATHER, Sim, settings},
};

/// A response to a scrape with this target, as Go's net/http sends it.
fn chunked_answer(scrape: &str, bytes: usize) -> String {
    net_http::response(&body(scrape, bytes))
}

/// A response on its way.
struct Trickle {
    sim: Sim,
    client: ConnId,
    pod: ConnId,
    answer: String,
    sent: usize,
    got: String,
}

impl Trickle {
    /// A client scrapes a pod, on its pooled connection if it has one.
    fn new(mut sim: Sim, client: ConnId, answer: String) -> Self {
        sim.net().rooms = [1 << 20, 1 << 20];
        sim.send(client, SCRAPE);
        let [pod] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
        sim.take(pod);
        Self { sim, client, pod, answer, sent: 0, got: String::new() }
    }

    /// The pod sends the next portion. Returns whether the client has received all that was sent.
    fn send_portion(&mut self) -> bool {
        let portion = self.answer.as_bytes()[self.sent..].chunks(PORTION).next().expect("more to send");
        self.sim.send(self.pod, portion);
        self.sent += portion.len();
        self.has_all()
    }

    fn has_all(&mut self) -> bool {
        self.got += &self.sim.take(self.client);
        self.got.len() == self.sent
    }

    /// Sends the rest, a portion after each pause. Returns the number of portions that the client has not received at
    /// once.
    fn send_rest(&mut self, pause: Duration) -> usize {
        let mut late = 0;
        while self.sent < self.answer.len() {
            late += usize::from(!self.send_portion());
            self.sim.pass(pause);
        }
        late
    }

    /// Checks that the response is complete, and that the connection is pooled.
    #[track_caller]
    fn complete(mut self) -> Sim {
        self.has_all();
        assert_same("the response", &self.got, &self.answer);
        assert_eq!(self.sim.pods(), [self.pod], "it is pooled");
        let low_water = self.sim.net().kernel.conns[self.pod].low_water;
        assert_eq!(low_water, 1, "any byte causes an event on a pooled connection");
        self.sim.pass(Duration::from_millis(1)); // a connection pooled at this time is not reused
        self.sim
    }
}

fn saved(sim: &Sim) -> u64 {
    sim.shared.counters(0).reads_saved.get()
}

#[test]
fn a_short_response_never_waits() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    let mut trickle = Trickle::new(sim, client, chunked_answer("short", 24_000));
    assert_eq!(trickle.send_rest(Duration::ZERO), 0);
    trickle.complete();
}

#[test]
fn the_rest_of_a_long_response_waits_for_a_look_or_the_mark() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    let mut trickle = Trickle::new(sim, client, chunked_answer("long", 400_000));
    while trickle.sent < 24 * 1024 {
        assert!(trickle.send_portion(), "{} bytes", trickle.sent);
    }
    assert!(!trickle.send_portion() && !trickle.send_portion(), "they gather");
    trickle.sim.pass(GATHER);
    assert!(trickle.has_all(), "it looked");
    assert_eq!(saved(&trickle.sim), 1, "two portions in one read");
    let from = trickle.sent;
    while !trickle.send_portion() {}
    assert_eq!(trickle.sent - from, 256 * 1024, "the mark");
    assert_eq!(saved(&trickle.sim), 1 + 63);
    trickle.send_rest(Duration::ZERO);
    trickle.sim.pass(GATHER);
    trickle.complete();
}

#[test]
fn a_response_as_long_as_the_last_one_is_complete_at_once() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    for bytes in [300_000, 300_000, 299_000, 303_000] {
        let mut trickle = Trickle::new(sim, client, chunked_answer("again", bytes));
        let before = saved(&trickle.sim);
        assert!(trickle.send_rest(Duration::ZERO) > 40, "portions gather");
        if before == 0 {
            trickle.sim.pass(GATHER); // the first one
        }
        assert!(trickle.has_all(), "{bytes} bytes");
        assert!(saved(&trickle.sim) > before + 40);
        sim = trickle.complete();
    }
}

#[test]
fn a_short_response_waits_for_a_look_only_after_two_long_ones() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    for (bytes, waits) in
        [(300_000, true), (6_000, false), (300_000, true), (300_000, true), (6_000, true), (6_000, false)]
    {
        let mut trickle = Trickle::new(sim, client, chunked_answer("page", bytes));
        let late = trickle.send_rest(Duration::ZERO);
        assert_eq!(late > 0, waits, "{bytes} bytes");
        trickle.sim.pass(GATHER);
        sim = trickle.complete();
    }
}

#[test]
fn the_end_of_a_body_with_a_length_never_waits() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    let mut trickle = Trickle::new(sim, client, long_answer("length", 300_000));
    assert!(trickle.send_rest(Duration::ZERO) > 40, "portions gather");
    trickle.complete();
}

#[test]
fn a_slow_pod_is_read_at_once() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    let mut trickle = Trickle::new(sim, client, chunked_answer("slow", 200_000));
    let late = trickle.send_rest(GATHER * 2);
    assert_eq!(late, 2, "after five looks that found less than two portions");
    trickle.complete();
}

#[test]
fn without_gathering_every_portion_is_forwarded_at_once() {
    let mut sim = super::sim();
    let mut settings = settings();
    settings.timeouts.gather = Duration::ZERO;
    sim.shared.swap_settings(settings);
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    let mut trickle = Trickle::new(sim, client, chunked_answer("long", 200_000));
    assert_eq!(trickle.send_rest(Duration::ZERO), 0);
    trickle.complete();
}

#[test]
fn the_end_of_a_connection_does_not_wait() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    let until_close = format!("HTTP/1.1 200 OK\r\nDate: now\r\n\r\n{}", body("long", 100_000));
    let mut trickle = Trickle::new(sim, client, until_close);
    trickle.send_rest(Duration::ZERO);
    let end = trickle.answer[trickle.answer.len() - 1000..].to_owned();
    assert!(!trickle.got.ends_with(&end), "the last portions gather");
    let pod = trickle.pod;
    trickle.sim.net().kernel.peer_end(pod);
    trickle.sim.settle();
    trickle.has_all();
    assert!(trickle.got.ends_with(&end) && !trickle.sim.is_held(pod));
    assert_eq!(trickle.sim.count(Outcome::Forwarded), 1);
}

#[test]
fn stray_bytes_close_the_connection_after_a_response_that_gathered() {
    let mut sim = super::sim();
    let client = sim.client_with(0, [64 * 1024, 1 << 20]);
    let mut trickle = Trickle::new(sim, client, chunked_answer("long", 200_000));
    trickle.send_rest(Duration::ZERO);
    trickle.sim.pass(GATHER);
    let pod = trickle.pod;
    let mut sim = trickle.complete();
    sim.send(pod, b"x");
    assert!(!sim.is_held(pod));
    scrape(&mut sim, client, &long_answer("next", 1000));
}

#[test]
fn only_so_many_responses_gather_at_a_time() {
    let mut sim = Sim::with_workers(1, 1, [100, 100, 6 << 20]); // three
    sim.net().rooms = [1 << 20, 1 << 20];
    let answer = chunked_answer("long", 100_000);
    let scrapes = [1, 2, 3, 4, 5].map(|pod| {
        let client = sim.client();
        sim.send(client, format!("GET /pods/10.0.0.{pod}/80/m HTTP/1.1\r\nHost: p\r\n\r\n").as_bytes());
        let pod = *sim.pods().last().expect("a connection");
        sim.take(pod);
        (client, pod)
    });
    for portion in answer.as_bytes()[..7 * PORTION].chunks(PORTION) {
        scrapes.iter().for_each(|&(_, pod)| sim.send(pod, portion));
    }
    let received =
        |sim: &mut Sim| scrapes.map(|(client, _)| sim.net().kernel.conns[client].from_worker.pushed);
    let [some, all] = [6 * PORTION, 7 * PORTION];
    assert_eq!(received(&mut sim), [some, some, some, all, all]);
    sim.pass(GATHER);
    assert_eq!(received(&mut sim), [all; 5]);
}

#[test]
fn other_events_count_as_no_read() {
    let mut sim = super::sim();
    let client = sim.client();
    let mut trickle = Trickle::new(sim, client, long_answer("long", 100_000));
    let first = trickle.answer.as_bytes()[..30_000].to_vec();
    trickle.sim.send(trickle.pod, &first);
    trickle.sent = first.len();
    assert!(trickle.has_all());
    for byte in SCRAPE[..10].chunks(1) {
        trickle.sim.send(client, byte); // a pipelined request
    }
    assert!(trickle.send_portion() && trickle.send_portion(), "the second and the third read");
}

#[test]
fn the_reads_of_each_response_count() {
    let mut sim = super::sim();
    let client = sim.client();
    for _ in 0..3 {
        let mut trickle = Trickle::new(sim, client, chunked_answer("three reads", 30_000));
        let portions: Vec<usize> = vec![10_000, 26_000, trickle.answer.len()];
        for end in portions {
            let portion = trickle.answer.as_bytes()[trickle.sent..end].to_vec();
            trickle.sim.send(trickle.pod, &portion);
            trickle.sent = end;
            assert!(trickle.has_all(), "{end} bytes");
        }
        sim = trickle.complete();
    }
}
