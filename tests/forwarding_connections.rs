//! Scrapes through the sockets of the real binary, byte for byte: which connections persist on both sides, which
//! requests are retried, and that each client gets the response to its own request. Pods and clients are correct,
//! faulty, slow and hostile.

mod support;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread,
};

use support::{
    LIMIT,
    http::{Client, End, get},
    pods::{Pod, Refusing, Then},
    poll,
    program::Signal,
    psystrike::Psystrike,
    scrapes::{Gate, PAGE, QUIET, echo, in_chunks, start, with_length},
};

/// A pod that sends nothing until the other side closes the connection.
fn silent(ip: &str) -> Pod {
    Pod::serve(ip, |_, client| {
        client.take_rest(LIMIT);
        Ok(Then::Close)
    })
}

#[test]
fn connections_persist_on_both_sides() {
    let psystrike = start();
    for answer in [
        with_length(PAGE),
        with_length(""),
        in_chunks(PAGE),
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nup 1\n".into(),
        "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".into(),
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{}", with_length(PAGE)),
    ] {
        let pod = Pod::answering("127.22.0.1", answer.as_str(), Then::Keep);
        let target = Psystrike::target(pod.address(), "/metrics");
        let mut client = psystrike.client();
        for _ in 0..20 {
            let response = client.get(&target);
            assert_eq!(response.head.field("Connection"), None, "{response:?}");
        }
        assert_eq!(client.rest(QUIET), (vec![], End::Open), "{answer:?}: the client's connection is kept");
        psystrike.get(&target);
        let seen = pod.seen();
        assert_eq!((seen.accepted, seen.heads.len(), seen.ended), (1, 21, 0), "{answer:?}: {seen:?}");
    }
}

#[test]
fn a_client_connection_persists_independently_of_the_pods() {
    let psystrike = start();
    for (answer, then) in [
        (with_length(PAGE), Then::Close),
        (in_chunks(PAGE), Then::Close),
        (format!("{}surplus", with_length(PAGE)), Then::Keep),
        (format!("{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies", with_length(PAGE)), Then::Keep),
        (format!("{}\r\n", in_chunks(PAGE)), Then::Keep),
        (with_length(PAGE).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), Then::Keep),
        (with_length(PAGE).replace("HTTP/1.1", "HTTP/1.0"), Then::Keep),
    ] {
        let pod = Pod::answering("127.22.0.2", answer.as_str(), then);
        let target = Psystrike::target(pod.address(), "/metrics");
        let mut client = psystrike.client();
        for scrape in 1..=5 {
            let response = client.get(&target);
            assert_eq!(response.text(), PAGE, "scrape {scrape} of {answer:?}");
            assert_eq!(response.head.field("Connection"), None, "{response:?}");
            // Only then does the next scrape certainly not use it.
            pod.wait_for("the end of its connection", |seen| seen.ended == scrape);
        }
        assert_eq!(pod.seen().heads.len(), 5, "{answer:?}: a request was sent twice");
    }
}

#[test]
fn a_response_until_close_closes_the_clients_connection() {
    let psystrike = start();
    for version in ["1.0", "1.1"] {
        let pod =
            Pod::answering("127.22.0.3", format!("HTTP/{version} 200 OK\r\nX: y\r\n\r\n{PAGE}"), Then::Close);
        let mut client = psystrike.client();
        let response = client.get(&Psystrike::target(pod.address(), "/"));
        assert!(response.until_close, "{response:?}");
        assert_eq!(
            (response.text().as_str(), response.head.values("Connection")),
            (PAGE, vec!["close".into()])
        );
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let psystrike = start();
    let (one, other) = (echo("127.22.0.4"), echo("127.22.0.5"));
    let (opener, gate) = Gate::new();
    let slow = Pod::serve("127.22.0.6", move |head, client| {
        gate.pass();
        client.send(with_length(&head.target())).map(|()| Then::Keep)
    });
    let dead = Refusing::on("127.22.0.7");
    let mut requests = String::new();
    let mut expected = Vec::new();
    for round in 0..6 {
        for (pod, path) in [(&one, "one"), (&slow, "slow"), (&other, "other"), (&one, "one-again")] {
            let path = format!("/{path}/{round}");
            requests += &get(&Psystrike::target(pod.address(), &path));
            expected.push((200, path));
        }
        requests += &get("/healthz");
        expected.push((200, "ok\n".into()));
        requests += &get(&Psystrike::target(dead.address(), "/"));
        expected.push((502, String::new()));
        requests += "\r\n"; // RFC 9112 section 2.2: skipped
        requests += &get("/nowhere");
        expected.push((404, String::new()));
    }
    let mut client = psystrike.client();
    client.send(&requests);
    slow.wait_for("the first request", |seen| seen.heads.len() == 1);
    assert!(other.heads().is_empty(), "a pipelined request does not overtake");
    (0..6).for_each(|_| opener.send(()).expect("the pod lives"));
    for (at, (status, body)) in expected.into_iter().enumerate() {
        let response = client.response().unwrap_or_else(|broken| panic!("answer {at}: {broken:?}"));
        assert_eq!(response.status(), status, "answer {at}: {response:?}");
        if !body.is_empty() {
            assert_eq!(response.text(), body, "answer {at}");
        }
    }
    assert_eq!(client.rest(QUIET), (vec![], End::Open), "no further response");
}

#[test]
fn requests_and_responses_may_be_slow() {
    let psystrike = start();
    let answers =
        [with_length(PAGE), in_chunks(PAGE), "HTTP/1.1 103 Hm\r\n\r\n".to_owned() + &in_chunks(PAGE)];
    for answer in answers {
        let pod = Pod::serve("127.22.0.8", move |_, client| {
            answer.bytes().try_for_each(|byte| client.send([byte])).map(|()| Then::Keep)
        });
        let mut client = psystrike.client();
        let request = get(&Psystrike::target(pod.address(), "/metrics"));
        for _ in 0..2 {
            request.bytes().for_each(|byte| client.send([byte]));
            assert_eq!(client.response().expect("a whole answer").text(), PAGE);
        }
        assert_eq!(pod.connections(), 1);
    }
}

#[test]
fn a_closed_idle_connection_is_replaced_unnoticed() {
    let psystrike = start();
    // Noticed while the connection is idle: the next scrape uses a new one.
    let pod = Pod::answering("127.22.0.9", with_length(PAGE), Then::Close);
    let target = Psystrike::target(pod.address(), "/metrics");
    let mut client = psystrike.client();
    for scrape in 1..=3 {
        assert_eq!(client.get(&target).text(), PAGE);
        pod.wait_for("the end of its connection", |seen| seen.ended == scrape);
    }
    assert_eq!(psystrike.metric("psystrike_retries_total"), 0.0);

    // Noticed only after the next scrape was sent: it is sent once more.
    for (rudely, then) in [(false, Then::Close), (true, Then::Reset)] {
        let count = AtomicUsize::new(0);
        let pod = Pod::serve("127.22.0.10", move |_, client| match count.fetch_add(1, Ordering::SeqCst) {
            1 => Ok(then),
            _ => client.send(with_length(PAGE)).map(|()| Then::Keep),
        });
        let target = Psystrike::target(pod.address(), "/metrics");
        for _ in 0..3 {
            assert_eq!(client.get(&target).text(), PAGE, "rudely: {rudely}");
        }
        let seen = pod.seen();
        assert_eq!((seen.accepted, seen.heads.len()), (2, 4), "rudely: {rudely}; {seen:?}");
    }
    assert_eq!(psystrike.metric("psystrike_retries_total"), 2.0);
}

#[test]
fn a_scrape_is_sent_at_most_twice_and_never_after_a_byte_of_a_response() {
    const NO_ANSWER: &str = "pod closed the connection without a response";
    const CUT_HEAD: &str = "pod closed the connection before the end of the response headers";
    let psystrike = start();
    for (first, later, then, heads, reason) in [
        (with_length(PAGE), "", Then::Close, 3, NO_ANSWER),
        (with_length(PAGE), "", Then::Reset, 3, NO_ANSWER),
        (with_length(PAGE), "HTTP/1.1 2", Then::Close, 2, CUT_HEAD),
        (with_length(PAGE), "HTTP/1.1 103 Hm\r\n\r\n", Then::Close, 2, CUT_HEAD),
        (String::new(), "", Then::Close, 2, NO_ANSWER),
    ] {
        let count = AtomicUsize::new(0);
        let case = format!("{first:?}, then {later:?} and {then:?}");
        let keeps = !first.is_empty();
        let pod = Pod::serve("127.22.0.11", move |_, client| match count.fetch_add(1, Ordering::SeqCst) {
            0 if keeps => client.send(&first).map(|()| Then::Keep),
            _ => client.send(later).map(|()| then),
        });
        let target = Psystrike::target(pod.address(), "/metrics");
        let mut client = psystrike.client();
        let first = client.get(&target);
        assert_eq!(first.status(), if keeps { 200 } else { 502 }, "{case}: {first:?}");
        let second = client.get(&target);
        assert_eq!((second.status(), second.reason().as_str()), (502, reason), "{case}: {second:?}");
        assert_eq!(pod.heads().len(), heads, "{case}");
    }
}

#[test]
fn bytes_on_an_idle_connection_become_no_response() {
    let psystrike = start();
    let (opener, gate) = Gate::new();
    let gate = Arc::new(gate);
    let pod = Pod::serve("127.22.0.12", move |head, client| {
        client.send(with_length(&head.target()))?;
        let (gate, stream) = (gate.clone(), client.stream().clone());
        thread::spawn(move || {
            gate.pass();
            let _ = (&*stream).write_all(with_length("a lie").as_bytes());
        });
        Ok(Then::Keep)
    });
    let mut client = psystrike.client();
    for scrape in 1..=5 {
        let path = format!("/{scrape}");
        assert_eq!(client.get(&Psystrike::target(pod.address(), &path)).text(), path);
        opener.send(()).expect("the pod lives");
        pod.wait_for("the end of its connection", |seen| seen.ended == scrape);
    }
    assert_eq!(pod.connections(), 5);
}

#[test]
fn a_forged_response_at_the_time_of_the_next_request_is_not_its_response() {
    let psystrike = start();
    let (opener, gate) = Gate::new();
    let (lied, has_lied) = channel();
    let pod = Pod::serve("127.22.0.13", move |head, client| {
        client.send(with_length(&head.target()))?;
        if head.target() == "/first" {
            gate.pass();
            client.send(with_length("a lie"))?;
            lied.send(()).expect("the test receives it");
        }
        Ok(Then::Keep)
    });
    let mut client = psystrike.client();
    client.get(&Psystrike::target(pod.address(), "/first"));
    let mut crowd: Vec<_> = (0..400).map(|_| psystrike.client()).collect();
    crowd.iter_mut().for_each(|client| assert_eq!(client.get("/healthz").status(), 200));
    // All events are waiting when it wakes, more than one fetch returns: the request's first, the forged response's
    // last.
    psystrike.process().stop();
    client.send(get(&Psystrike::target(pod.address(), "/second")));
    crowd.iter_mut().for_each(|client| client.send(get("/healthz")));
    opener.send(()).expect("the pod lives");
    has_lied.recv_timeout(LIMIT).expect("the pod lies");
    psystrike.signal(Signal::CONT);
    assert_eq!(client.response().expect("a whole answer").text(), "/second");
}

#[test]
fn when_a_client_disconnects_the_pod_s_connection_closes_at_once() {
    let psystrike = start();
    let awaiting = silent("127.22.0.14");
    let relaying = Pod::serve("127.22.0.15", |_, client| {
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")?;
        client.take_rest(LIMIT);
        Ok(Then::Close)
    });
    let half_close = |mut client: Client| {
        client.finish_sending();
        assert_ne!(client.rest(LIMIT).1, End::Open);
    };
    let leave: &[(&str, &dyn Fn(Client))] =
        &[("closes", &drop), ("resets", &Client::reset), ("half-closes", &half_close)];
    let mut gone = 0;
    for (pod, begun) in [(&awaiting, false), (&relaying, true)] {
        for (ended, (how, leave)) in leave.iter().enumerate() {
            let mut client = psystrike.client();
            client.send(get(&Psystrike::target(pod.address(), "/")));
            pod.wait_for("a request", |seen| seen.heads.len() == ended + 1);
            if begun {
                client.stream().peek(&mut [0]).expect("the answer begins");
            }
            leave(client);
            let what = format!("the end of its connection when the client {how}");
            pod.wait_for(&what, |seen| seen.ended == ended + 1);
            gone += 1;
        }
    }
    poll(
        "scrapes that ended this way",
        || psystrike.outcomes("client_closed_request"),
        |count| *count == f64::from(gone),
    );
    let active = || psystrike.metric("psystrike_pod_connections{state=\"active\"}");
    assert_eq!(active(), 0.0);
}

#[test]
fn a_client_that_sends_close_gets_it_back_and_the_pod_s_connection_persists() {
    let psystrike = start();
    let pod = Pod::answering("127.22.0.16", with_length(PAGE), Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    for (version, fields) in
        [("1.1", "Connection: close\r\n"), ("1.1", "Connection: x, CLOSE\r\n"), ("1.0", "")]
    {
        let mut client = psystrike.client();
        // Requests after it are not answered.
        client.send(format!("GET {target} HTTP/{version}\r\nHost: x\r\n{fields}\r\n{}", get("/healthz")));
        let response = client.response().expect("a whole answer");
        assert_eq!(
            (response.text().as_str(), response.head.values("Connection")),
            (PAGE, vec!["close".into()])
        );
        assert_eq!(client.end(), End::Eof, "HTTP/{version} with {fields:?}");
    }
    assert_eq!(pod.connections(), 1);
}

#[test]
fn many_concurrent_clients_each_get_their_own_response() {
    const CLIENTS: usize = 16;
    const SCRAPES: usize = 60;
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8", "--workers", "2"]);
    let in_turn = AtomicUsize::new(0);
    // Each response has another framing, and some close the connection.
    let pods: Vec<_> = (0..4)
        .map(|_| {
            let in_turn = AtomicUsize::new(in_turn.fetch_add(1, Ordering::SeqCst));
            Pod::serve("127.22.0.17", move |head, client| {
                let body = head.target().repeat(20);
                let (answer, then) = match in_turn.fetch_add(1, Ordering::SeqCst) % 7 {
                    0 | 1 => (with_length(&body), Then::Keep),
                    2 => (with_length(&body), Then::Close),
                    3 => (format!("HTTP/1.1 200 OK\r\n\r\n{body}"), Then::Close),
                    4 => (with_length(&body) + &with_length("a lie"), Then::Keep),
                    _ => (in_chunks(&body), Then::Keep),
                };
                client.send(answer).map(|()| then)
            })
        })
        .collect();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (psystrike, pods) = (&psystrike, &pods);
            scope.spawn(move || {
                let mut client = psystrike.client();
                for scrape in 0..SCRAPES {
                    let path = format!("/{number}/{scrape}/{}", "x".repeat(scrape * 7 % 50));
                    let target = Psystrike::target(pods[(number + scrape) % pods.len()].address(), &path);
                    if scrape % 10 == 9 {
                        // One client disconnects in the middle.
                        let mut rude = psystrike.client();
                        rude.send(get(&target));
                        rude.reset();
                    }
                    let response = client.get(&target);
                    assert_eq!(response.text(), path.repeat(20), "{target}");
                    if response.until_close {
                        client = psystrike.client();
                    }
                }
            });
        }
    });
}
