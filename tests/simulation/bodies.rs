//! Shared helpers of the scenes with long bodies. How many bytes a pipe takes at a time is random, so each scene is
//! played often.

use std::time::Duration;

use super::{SCRAPE, kernel::ConnId, sim::Sim};

pub(crate) const PIPE_SEEDS: std::ops::RangeInclusive<u64> = 1..=16;

/// Returns a head that is forwarded unchanged, and a body of this many bytes, which names its scrape.
pub(crate) fn long_answer(scrape: &str, bytes: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: {bytes}\r\n\r\n{}", body(scrape, bytes))
}

/// Returns bytes that differ from their neighbours and from those of other scrapes.
pub(crate) fn body(scrape: &str, bytes: usize) -> String {
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

/// Pods whose connections hold a long response at once, or not.
pub(crate) fn sim_with_pipes(seed: u64) -> Sim {
    let sim = Sim::new(seed, 100, 100);
    let room = if seed.is_multiple_of(2) { 1 << 20 } else { 64 * 1024 };
    sim.net().rooms = [room, 64 * 1024];
    sim
}

/// The pod sends all of `bytes` as far as there is room, and the client reads them. Returns the client's bytes.
pub(crate) fn stream(sim: &mut Sim, pod: ConnId, mut bytes: &[u8], client: ConnId) -> String {
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

/// The client scrapes the first pod, and receives this response unchanged. Returns the pod's connection.
pub(crate) fn scrape(sim: &mut Sim, client: ConnId, answer: &str) -> ConnId {
    let before = sim.pods();
    sim.send(client, SCRAPE);
    let pod = *sim.pods().iter().find(|pod| !before.contains(pod)).or(before.last()).expect("a connection");
    assert!(sim.take(pod).starts_with("GET /m HTTP/1.1\r\n"));
    assert_same("an answer", &stream(sim, pod, answer.as_bytes(), client), answer);
    sim.pass(Duration::from_millis(1)); // a connection pooled at this time is not reused
    pod
}

#[track_caller]
pub(crate) fn assert_same(what: &str, got: &str, expected: &str) {
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

/// A client has scraped the first pod, whose response was long. Returns both connections.
pub(crate) fn scraped_long(sim: &mut Sim) -> (ConnId, ConnId) {
    let client = sim.client();
    let pod = scrape(sim, client, &long_answer("first", 40_000));
    assert_eq!(sim.pods(), [pod], "the connection is pooled");
    (client, pod)
}
