//! Pod connections: reused, replaced, closed, and the consequences of having none.

use std::time::Duration;

use psystrike::proxy::outcome::Outcome;
use rustix::io::Errno;

use super::{ANSWER, OTHER_SCRAPE, PAGE, SCRAPE, assert_answer, assert_starts, kernel::Link, scraped, sim};

#[test]
fn a_pod_connection_is_reused_but_not_in_the_turn_that_released_it() {
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
        // The client's next request arrives with the same events.
        sim.send(client, SCRAPE);
        assert!(!sim.is_held(pod));
        let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
        assert_answer(&mut sim, client, fresh);
    }
}

#[test]
fn a_lost_reused_connection_is_replaced_once_and_unnoticed() {
    let mut sim = sim();
    let (client, pod) = scraped(&mut sim);
    sim.send(client, SCRAPE);
    sim.net().kernel.peer_reset(pod, false);
    sim.settle();
    assert!(!sim.is_held(pod));
    let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    assert_answer(&mut sim, client, fresh);

    // A reused connection was lost, and the new one too: no further retry.
    sim.send(client, SCRAPE);
    sim.net().kernel.peer_close(fresh);
    sim.settle();
    let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    sim.take(fresh);
    sim.net().kernel.peer_close(fresh);
    sim.settle();
    assert!(sim.pods().is_empty());
    assert_starts(&sim.take(client), "HTTP/1.1 502 pod closed the connection without a response\r\n");
    assert_eq!(sim.shared.counters(0).retries.get(), 2);

    // Once a response has begun, the scrape is not retried.
    let (client, pod) = scraped(&mut sim);
    sim.send(client, SCRAPE);
    sim.send(pod, b"HTTP/");
    sim.net().kernel.peer_end(pod);
    sim.settle();
    assert_starts(
        &sim.take(client),
        "HTTP/1.1 502 pod closed the connection before the end of the response headers\r\n",
    );
}

#[test]
fn stale_bytes_on_a_reused_connection_cause_a_retry() {
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
fn a_body_after_a_response_to_head_is_dropped() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, b"HEAD /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\n\r\n");
    let pod = sim.pods()[0];
    sim.take(pod);
    sim.send(pod, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    assert_starts(&sim.take(client), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n");
    assert!(!sim.is_held(pod), "it may send more");
    sim.send(client, SCRAPE);
    let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    assert_answer(&mut sim, client, fresh);
}

#[test]
fn an_idle_pod_connection_is_closed_to_free_a_descriptor() {
    let mut sim = sim();
    let (client, pod) = scraped(&mut sim);
    sim.net().fds_max = 2;
    sim.send(client, OTHER_SCRAPE);
    assert!(!sim.is_held(pod));
    let [other] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    assert_answer(&mut sim, client, other);

    // The idle one is reused; if none is idle, no descriptor can be freed.
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
fn connection_failures_are_reported_with_their_reason() {
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
