//! Bytes buffered for clients and pods, and which session ends when the limit is reached.

use std::time::Duration;

use psystrike::proxy::outcome::Outcome;

use super::{
    OTHER_SCRAPE, PAGE, SCRAPE, assert_answer, assert_starts,
    bodies::{PIPE_SEEDS, long_answer, scrape},
    close_of,
    kernel::{Close, ConnId},
    sim,
    sim::Sim,
};

const SHARE: usize = 256 * 1024;
/// The share without the reserve for the session that has held bytes longest.
const COMMON: usize = SHARE - 64 * 1024;
const GRACE: Duration = Duration::from_millis(100);

fn buffered(sim: &Sim) -> usize {
    sim.shared.counters(0).buffered_bytes.get() as usize
}

/// A new client scrapes a pod, which sends the beginning of a head, of this many bytes.
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
    assert_eq!(sim.shared.counters(0).pauses.get(), 2, "three and a part fit");
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
    assert_eq!(sim.count(Outcome::BuffersFull), 0, "ended before the grace time");
    sim.pass(GRACE / 2);
    // The one that stalled longest gets a 503, and makes room for the others.
    assert_eq!(sim.count(Outcome::BuffersFull), 1);
    let (first, pod) = slow[0];
    assert_starts(
        &sim.take(first),
        "HTTP/1.1 503 buffer limit reached; this scrape held buffers longest\r\n",
    );
    assert!(!sim.is_held(pod) && sim.net().kernel.conns[first].worker_ended);
    assert!(buffered(&sim) <= SHARE, "{}", buffered(&sim));
    others(&mut sim);
    sim.pass(GRACE);
    // The last three fit, and are not ended.
    sim.pass(10 * GRACE);
    assert_eq!((sim.count(Outcome::BuffersFull), sim.pods().len()), (2, 4));
    assert!(buffered(&sim) <= SHARE, "{}", buffered(&sim));
    for (_, pod) in &slow[2..] {
        sim.send(*pod, b"\r\nContent-Length: 0\r\n\r\n");
    }
    assert_eq!((sim.count(Outcome::Forwarded), buffered(&sim)), (5, 0));
}

#[test]
fn a_head_that_waits_for_room_is_forwarded_once_there_is_some() {
    let mut sim = Sim::with_workers(1, 1, [100, 100, SHARE]);
    let slow: Vec<_> = (0..4).map(|_| slow_head(&mut sim, 60_000)).collect();
    let (waits, pod) = slow[3];
    sim.send(pod, b"\r\nContent-Length: 3\r\n\r\nok\n");
    assert_eq!(sim.take(waits), "", "without room, its head is not forwarded");
    // Another head ends in time.
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
        "HTTP/1.1 503 buffer limit reached; this scrape held buffers longest\r\n",
    );
    assert!(sim.net().kernel.conns[slow[0]].worker_ended, "further bytes are not another request");
    // All that were not ended for room by then time out: none waits forever.
    sim.pass(Duration::from_secs(4));
    let (gave_way, late) = (sim.count(Outcome::BuffersFull), sim.count(Outcome::RequestTimeout));
    assert!(gave_way > 3 && gave_way + late == 30, "{gave_way} were ended for room, {late} timed out");
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
        // No session waits for their bytes, so they are not ended, and another scrape gets its whole response.
        sim.pass(5 * GRACE);
        assert_eq!(sim.count(Outcome::BuffersFull), 0);
        let beside = sim.client();
        scrape(&mut sim, beside, &long_answer("beside", 300_000));
        // A session whose head needs more room gets it from the client that stalled longest, whose response is visibly
        // broken.
        let (client, pod) = slow_head(&mut sim, 30_000);
        sim.pass(2 * GRACE);
        sim.send(pod, b"\r\nContent-Length: 3\r\n\r\nok\n");
        assert!(sim.take(client).ends_with("ok\n"), "seed {seed}");
        // The reserve that the first one had used has to become free as well.
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
fn under_memory_pressure_the_longest_stalled_are_ended() {
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
