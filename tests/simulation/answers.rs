//! Responses: slow ones, broken ones, and those of clients that disconnect or send more requests.

use std::time::Duration;

use psystrike::proxy::outcome::Outcome;

use super::{
    ANSWER, PAGE, SCRAPE, assert_starts, close_of, end_of,
    kernel::{Close, Link},
    sim,
};

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
            assert_eq!(sim.net().turn, turns, "a turn ran although the client read nothing");
            got += sim.take(client).len();
        }
    }
    assert_eq!(got, head + BODY);
    assert_eq!(sim.count(Outcome::Forwarded), 1);
}

#[test]
fn an_early_response_waits_for_a_slow_client_too() {
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
fn when_a_client_disconnects_its_pods_connection_closes_at_once() {
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
            assert_eq!(sim.count(Outcome::ClientClosedRequest), 1);
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
fn a_failed_pipelined_request_leaves_the_response_before_it_complete() {
    const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: now\r\n\r\nsome";
    const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 30\r\n\r\nsome";
    for (next, answer) in [(SCRAPE, UNTIL_CLOSE), (SCRAPE, LENGTH), (b"?? ??\r\n\r\n", b"")] {
        // More requests follow, unread: a close would be a reset, and could overtake sent bytes.
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
        // The client is slow to read.
        sim.pass(Duration::from_millis(1500));
        let got = sim.take(client);
        assert!(got.as_bytes().starts_with(ANSWER), "{got}");
        assert_eq!(sim.count(Outcome::Forwarded), 1);
    }
}

#[test]
fn a_client_that_is_gone_when_its_pods_body_breaks_is_removed() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = sim.pods()[0];
    sim.send(pod, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    // The write finds the reset before an event reports it.
    sim.net().kernel.peer_reset(client, false);
    sim.net().kernel.conns[client].woken = false;
    sim.send(pod, b"1\r\nx\r\nno size\r\n");
    assert!(sim.net().kernel.held.is_empty());
    assert_eq!(sim.count(Outcome::MalformedResponseBody), 1);
}

#[test]
fn data_followed_by_an_end_is_read_completely() {
    let mut sim = sim();
    let client = sim.client();
    sim.send(client, SCRAPE);
    let pod = sim.pods()[0];
    // The body and the end arrive while the worker sleeps: one event reports all of it.
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
fn a_response_that_fills_one_read_exactly_is_complete() {
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
fn requests_followed_by_an_end_are_answered_except_for_scrapes() {
    let mut sim = sim();
    let client = sim.client();
    sim.net().kernel.peer_send(client, &PAGE.repeat(10));
    sim.net().kernel.peer_end(client);
    sim.settle();
    assert_eq!(close_of(&sim, client), None, "the responses are not read yet");
    assert_eq!(sim.take(client).matches("HTTP/1.1 200 OK\r\n").count(), 10);
    assert_eq!(end_of(&mut sim, client), Some(Close::Fin));

    // A client that has ended its side does not wait for a scrape.
    let client = sim.client();
    sim.net().kernel.peer_send(client, &[PAGE, SCRAPE, PAGE].concat());
    sim.net().kernel.peer_end(client);
    sim.settle();
    assert_eq!(sim.take(client).matches("HTTP/1.1 200 OK\r\n").count(), 1);
    assert_eq!((sim.pods(), sim.is_held(client)), (vec![], false));
    assert_eq!(sim.count(Outcome::ClientClosedRequest), 1);
}

#[test]
fn later_bytes_of_a_refused_client_do_not_destroy_the_refusal() {
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
fn a_broken_response_is_visibly_broken() {
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
        assert_eq!(close_of(&sim, client), None, "earlier bytes are still delivered");
        assert_eq!(end_of(&mut sim, client), Some(expected));
        assert_eq!((sim.pods(), sim.count(Outcome::ResponseTruncated)), (vec![], 1));

        // A client that does not read gets some time, and then no bytes are left in the kernel.
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

        // A timeout has the same result.
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        sim.send(pod, answer);
        sim.pass(Duration::from_secs(3));
        assert_eq!(end_of(&mut sim, client), Some(expected));
        assert_eq!((sim.pods(), sim.count(Outcome::ResponseBodyTimeout)), (vec![], 1));
    }
}
