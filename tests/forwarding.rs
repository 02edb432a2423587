//! Scrapes through the real binary's sockets, byte for byte: what the pod gets, what the client gets, and what
//! becomes of both connections. Pods and clients here are right, wrong, slow, rude and hostile.

mod support;

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use support::{
    LIMIT,
    http::{Client, End, get},
    pods::{Pod, Refusing, Then},
    poll,
    program::Signal,
    psystrike::Psystrike,
};

const PAGE: &str = "# TYPE up gauge\nup 1\n";

/// How long a connection has to stay silent to count as kept.
const QUIET: Duration = Duration::from_millis(50);

fn start() -> Psystrike {
    Psystrike::start(&["--allow", "127.0.0.0/8", "--allow", "::1/128"])
}

fn with_length(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn in_chunks(body: &str) -> String {
    let (first, second) = body.split_at(body.len() / 2);
    let chunks = [first, second].map(|part| format!("{:x}\r\n{part}\r\n", part.len())).concat();
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

/// A pod whose page names the target that it was asked for.
fn echo(ip: &str) -> Pod {
    Pod::serve(ip, |head, client| client.send(with_length(&head.target())).map(|()| Then::Keep))
}

/// A pod that says nothing until the other side ends the connection.
fn silent(ip: &str) -> Pod {
    Pod::serve(ip, |_, client| {
        client.take_rest(LIMIT);
        Ok(Then::Close)
    })
}

/// Something that a pod's script waits for before it goes on.
struct Gate(Mutex<Receiver<()>>);

impl Gate {
    fn new() -> (Sender<()>, Self) {
        let (opener, receiver) = channel();
        (opener, Self(Mutex::new(receiver)))
    }

    fn pass(&self) {
        // Where nobody opens it any more, the test has ended.
        let _ = self.0.lock().unwrap().recv_timeout(LIMIT);
    }
}

/// How many answers these bytes are, by their status lines. No page of these tests has one.
fn answers(bytes: &[u8]) -> usize {
    bytes.windows(7).filter(|window| window == b"HTTP/1.").count()
}

// Connections

#[test]
fn connections_are_kept_on_both_sides() {
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
fn a_client_keeps_its_connection_whatever_the_pod_does_with_its_own() {
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
            // Only then is the next scrape sure not to meet it.
            pod.wait_for("the end of its connection", |seen| seen.ended == scrape);
        }
        assert_eq!(pod.seen().heads.len(), 5, "{answer:?}: none was sent twice");
    }
}

#[test]
fn what_only_its_end_ends_costs_the_client_its_connection() {
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
        requests += "\r\n"; // RFC 9112 section 2.2: to be skipped
        requests += &get("/nowhere");
        expected.push((404, String::new()));
    }
    let mut client = psystrike.client();
    client.send(&requests);
    slow.wait_for("the first request", |seen| seen.heads.len() == 1);
    assert!(other.heads().is_empty(), "who stands behind it waits");
    (0..6).for_each(|_| opener.send(()).expect("the pod lives"));
    for (at, (status, body)) in expected.into_iter().enumerate() {
        let response = client.response().unwrap_or_else(|broken| panic!("answer {at}: {broken:?}"));
        assert_eq!(response.status(), status, "answer {at}: {response:?}");
        if !body.is_empty() {
            assert_eq!(response.text(), body, "answer {at}");
        }
    }
    assert_eq!(client.rest(QUIET), (vec![], End::Open), "no answer more");
}

#[test]
fn requests_and_answers_may_drip() {
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
fn a_pod_that_closed_its_idle_connection_is_not_noticed() {
    let psystrike = start();
    // Noticed while it idles: a fresh connection from the start.
    let pod = Pod::answering("127.22.0.9", with_length(PAGE), Then::Close);
    let target = Psystrike::target(pod.address(), "/metrics");
    let mut client = psystrike.client();
    for scrape in 1..=3 {
        assert_eq!(client.get(&target).text(), PAGE);
        pod.wait_for("the end of its connection", |seen| seen.ended == scrape);
    }
    assert_eq!(psystrike.metric("psystrike_retries_total"), 0.0);

    // Noticed only when the next scrape is on its way: that one is sent once more.
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
fn a_scrape_is_sent_at_most_twice_and_never_after_a_byte_of_an_answer() {
    const NO_ANSWER: &str = "pod closed the connection without an answer";
    const CUT_HEAD: &str = "pod closed the connection within its answer's head";
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
fn what_a_pod_says_on_an_idle_connection_becomes_nobody_s_answer() {
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
fn a_lie_and_the_next_request_at_once_are_not_taken_for_each_other() {
    let psystrike = start();
    let (opener, gate) = Gate::new();
    let (lied, has_lied) = channel();
    let pod = Pod::serve("127.22.0.13", move |head, client| {
        client.send(with_length(&head.target()))?;
        if head.target() == "/first" {
            gate.pass();
            client.send(with_length("a lie"))?;
            lied.send(()).expect("the test waits for it");
        }
        Ok(Then::Keep)
    });
    let mut client = psystrike.client();
    client.get(&Psystrike::target(pod.address(), "/first"));
    let mut crowd: Vec<_> = (0..400).map(|_| psystrike.client()).collect();
    crowd.iter_mut().for_each(|client| assert_eq!(client.get("/healthz").status(), 200));
    // All is there when it wakes up, more than it fetches at once: the request first, the lie last.
    psystrike.process().stop();
    client.send(get(&Psystrike::target(pod.address(), "/second")));
    crowd.iter_mut().for_each(|client| client.send(get("/healthz")));
    opener.send(()).expect("the pod lives");
    has_lied.recv_timeout(LIMIT).expect("the pod lies");
    psystrike.signal(Signal::CONT);
    assert_eq!(client.response().expect("a whole answer").text(), "/second");
}

#[test]
fn when_the_client_goes_the_pod_s_connection_goes_at_once() {
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
    poll("scrapes that ended so", || psystrike.outcomes("client_gone"), |count| *count == f64::from(gone));
    let active = || psystrike.metric("psystrike_pod_connections{state=\"active\"}");
    assert_eq!(active(), 0.0);
}

#[test]
fn a_client_that_asks_to_close_is_told_and_closed_and_the_pod_s_connection_is_kept() {
    let psystrike = start();
    let pod = Pod::answering("127.22.0.16", with_length(PAGE), Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    for (version, fields) in
        [("1.1", "Connection: close\r\n"), ("1.1", "Connection: x, CLOSE\r\n"), ("1.0", "")]
    {
        let mut client = psystrike.client();
        // What comes behind it is not answered any more.
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
fn of_many_at_once_each_gets_its_own() {
    const CLIENTS: usize = 16;
    const SCRAPES: usize = 60;
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8", "--workers", "2"]);
    let in_turn = AtomicUsize::new(0);
    // Each answers in another framing every time, and now and then closes the connection.
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
                        // One that goes away in the middle of it.
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

// Heads

#[test]
fn the_head_that_a_pod_gets_is_ours() {
    let psystrike = start();
    for ip in ["127.22.1.1", "::1"] {
        let pod = echo(ip);
        let address = pod.address();
        let target = Psystrike::target(address, "/metrics?a=b");
        for (request, expected) in [
            (
                format!(
                    "GET {target} HTTP/1.1\r\nhOsT: who:1\r\nUser-Agent: Prometheus/3.0\r\nAccept: a/b;q=0.5\r\n\
                     Accept-Encoding: gzip\r\nAuthorization: Bearer x y\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\
                     Via: 1.1 edge\r\nCookie: a=b\r\nX-Empty:\r\nX-Twice: 1\r\nx-twice:   2 \t\r\n\r\n"
                ),
                format!(
                    "GET /metrics?a=b HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Prometheus/3.0\r\nAccept: a/b;q=0.5\r\n\
                     Accept-Encoding: gzip\r\nAuthorization: Bearer x y\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\
                     Via: 1.1 edge\r\nCookie: a=b\r\nX-Empty:\r\nX-Twice: 1\r\nx-twice:   2 \t\r\nVia: 1.1 psystrike\r\n\r\n"
                ),
            ),
            (
                format!(
                    "HEAD {target} HTTP/1.1\r\nHost: who\r\nConnection: keep-alive, X-Hop , ,x-other\r\nX-Hop: 1\r\n\
                     X-OTHER: 2\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\
                     Proxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nExpect: 100-continue\r\n\
                     Content-Length: 0\r\nTrailer: X\r\nAccept: */*\r\n\r\n"
                ),
                format!(
                    "HEAD /metrics?a=b HTTP/1.1\r\nHost: {address}\r\nHTTP2-Settings: AAMA\r\nAccept: */*\r\n\
                     Via: 1.1 psystrike\r\n\r\n"
                ),
            ),
            (
                format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
                format!("GET /metrics?a=b HTTP/1.1\r\nHost: {address}\r\nVia: 1.0 psystrike\r\n\r\n"),
            ),
        ] {
            let mut client = psystrike.client();
            client.send(&request);
            let response = client.response_to(if request.starts_with("HEAD") { "HEAD" } else { "GET" });
            assert_eq!(response.expect("a whole answer").status(), 200, "{request}");
            assert_eq!(pod.heads().last().expect("it came").text(), expected, "for {request}");
        }
    }
}

#[test]
fn path_and_query_reach_the_pod_byte_for_byte() {
    let psystrike = start();
    let pod = echo("127.22.1.2");
    let v6 = echo("::1");
    let v6_port = v6.address().port();
    let base = format!("/pods/127.22.1.2/{}", pod.address().port());
    for (target, expected) in [
        (base.clone(), "/metrics"),
        (format!("{base}?a=b"), "/metrics?a=b"),
        (format!("{base}/"), "/"),
        (format!("{base}/?"), "/?"),
        (format!("{base}//"), "//"),
        (format!("{base}/a/../b/./c"), "/a/../b/./c"),
        (format!("{base}/a%2Fb%2e%2E/%0d%0a%00"), "/a%2Fb%2e%2E/%0d%0a%00"),
        (format!("{base}/m%3Fformat=prometheus"), "/m?format=prometheus"),
        (format!("{base}/m%3fa=%3F"), "/m?a=%3F"),
        (format!("{base}/m%3Fa?b"), "/m%3Fa?b"),
        (format!("{base}/m%3F"), "/m?"),
        (format!("{base}/m?a=%3F&b[]=?/"), "/m?a=%3F&b[]=?/"),
        (format!("{base}/{{}}|^`\"<>\\"), "/{}|^`\"<>\\"),
        (format!("{base}/m;p=1,2:3@4!$&'()*+=~"), "/m;p=1,2:3@4!$&'()*+=~"),
        (format!("{base}/%"), "/%"),
        (format!("{base}/pods/10.0.0.1/80/x"), "/pods/10.0.0.1/80/x"),
        (format!("/pods/::ffff:127.22.1.2/{}/mapped", pod.address().port()), "/mapped"),
        (format!("/pods/::1/{v6_port}/bare"), "/bare"),
        (format!("/pods/[::1]/{v6_port}/brackets"), "/brackets"),
        (format!("/pods/%5B::1%5D/{v6_port}/encoded"), "/encoded"),
        (format!("/pods/%5b0:0::0:1%5d/{v6_port}/long%3Fa"), "/long?a"),
    ] {
        assert_eq!(psystrike.get(&target).text(), expected, "{target}");
    }
    let longest = format!("/{}", "x".repeat(15_000));
    assert_eq!(
        psystrike.get(&format!("{base}{longest}")).text(),
        longest,
        "the longest that is allowed, nearly"
    );
}

#[test]
fn answers_pass_as_they_came_but_for_what_ends_here() {
    let psystrike = start();
    let passes = "HTTP/1.1 418 I'm a  teapot\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-TYPE:text/plain; version=0.0.4 \r\n\
                  Content-Encoding: gzip\r\nX-Twice: 1\r\nx-twice: 2\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\n\r\n\x1f\u{b}x";
    let edited = "HTTP/1.0 200\r\nDate: then\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nUpgrade: h2c\r\n\
                  Proxy-Authenticate: Basic\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok";
    for (answer, expected) in [
        (passes, passes),
        (edited, "HTTP/1.1 200 \r\nDate: then\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let pod = Pod::answering("127.22.1.3", answer, Then::Keep);
        let mut client = psystrike.client();
        client.send(get(&Psystrike::target(pod.address(), "/")));
        let (bytes, end) = client.rest(QUIET);
        assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end), (expected, End::Open));
    }
    let pod = Pod::answering("127.22.1.4", with_length(PAGE), Then::Keep);
    let date = psystrike.get(&Psystrike::target(pod.address(), "/")).head.field("Date");
    assert!(
        date.is_some_and(|date| date.ends_with(" GMT")),
        "an undated answer is dated (RFC 9110 section 6.6.1)"
    );
}

#[test]
fn a_location_into_the_pod_leads_back_through_us() {
    let psystrike = start();
    for ip in ["127.22.1.5", "::1"] {
        let location = Arc::new(Mutex::new(String::new()));
        let given = location.clone();
        let pod = Pod::serve(ip, move |head, client| {
            let answer = match head.target().as_str() {
                "/old/page" => {
                    let location = given.lock().unwrap().clone();
                    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
                }
                target => with_length(target),
            };
            client.send(answer).map(|()| Then::Keep)
        });
        let address = pod.address();
        for (location_given, leads_to) in [
            ("/new?a=b", Some("/new?a=b")),
            (&format!("http://{address}/new"), Some("/new")),
            (&format!("//{address}/new"), Some("/new")),
            ("new", Some("/old/new")),
            ("../../../new", Some("/new")),
            ("?q", Some("/old/page?q")),
            ("http://127.9.9.9/new", None),
            (&format!("https://{address}/new"), None),
        ] {
            *location.lock().unwrap() = location_given.to_owned();
            let response = psystrike.get(&Psystrike::target(address, "/old/page"));
            let shown = response.head.field("Location").expect("it is there");
            match leads_to {
                None => assert_eq!(shown, location_given, "not ours to change"),
                Some(page) => {
                    assert_eq!(psystrike.get(&shown).text(), page, "{location_given} became {shown}")
                }
            }
        }
    }
}

// Bodies

#[test]
fn each_framing_passes_to_each_client() {
    let psystrike = start();
    let trailers = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                    2;a=b;c=\"d\"\r\nup\r\n003\r\n 1\n\r\n000\r\nX-Sum: 1\r\nX-Other:\r\n\r\n";
    // The answer; its body for HTTP/1.1 and 1.0, with and without its coding; whether its end is the connection's.
    for (answer, then, coded, body, until_close) in [
        (with_length("up 1\n"), Then::Keep, "up 1\n", "up 1\n", false),
        (with_length(""), Then::Keep, "", "", false),
        (
            trailers.to_owned(),
            Then::Keep,
            "2\r\nup\r\n003\r\n 1\n\r\n000\r\nX-Sum: 1\r\nX-Other:\r\n\r\n", // without the extension
            "up 1\n",
            false,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nup 1\n".into(), Then::Close, "up 1\n", "up 1\n", true),
        ("HTTP/1.0 200 OK\r\n\r\nup 1\n".into(), Then::Close, "up 1\n", "up 1\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n".into(), Then::Close, "", "", true),
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), Then::Keep, "", "", false),
        ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n".into(), Then::Keep, "", "", false),
        ("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n".into(), Then::Keep, "", "", false),
        (
            "HTTP/1.1 103 Hm\r\nLink: </>\r\n\r\n".to_owned() + &with_length("up 1\n"),
            Then::Keep,
            "up 1\n",
            "up 1\n",
            false,
        ),
    ] {
        let is_chunked = coded != body;
        let has_interim = answer.contains(" 103 ");
        let pod = Pod::answering("127.22.2.1", answer.as_str(), then);
        let target = Psystrike::target(pod.address(), "/");

        let mut client = psystrike.client();
        let response = client.get(&target);
        assert_eq!((response.text().as_str(), response.until_close), (body, until_close), "{answer:?}");
        assert_eq!(
            response.coded_body.escape_ascii().to_string(),
            coded.as_bytes().escape_ascii().to_string()
        );
        assert_eq!(response.interim.len(), usize::from(has_interim), "{response:?}");
        assert_eq!(response.head.values("Trailer").len(), usize::from(is_chunked), "{response:?}");
        let end = client.rest(QUIET);
        assert_eq!(end, (vec![], if until_close { End::Eof } else { End::Open }), "{answer:?}");

        for (fields, keeps) in [("", false), ("Connection: keep-alive\r\n", true)] {
            let mut client = psystrike.client();
            client.send(format!("GET {target} HTTP/1.0\r\n{fields}\r\n"));
            let response = client.response().expect("a whole answer");
            let keeps = keeps && !until_close && !is_chunked;
            assert_eq!(response.text(), body, "{answer:?} for HTTP/1.0 with {fields:?}");
            assert_eq!(response.interim, [], "no 1xx for HTTP/1.0 (RFC 9110 section 15.2)");
            assert_eq!(response.head.field("Transfer-Encoding"), None, "{response:?}");
            assert_eq!(response.head.field("Trailer"), None, "{response:?}");
            let connection = if keeps { "keep-alive" } else { "close" };
            assert_eq!(response.head.values("Connection"), [connection], "{response:?}");
            let end = client.rest(QUIET);
            assert_eq!(end, (vec![], if keeps { End::Open } else { End::Eof }), "{answer:?} with {fields:?}");
        }
    }
}

#[test]
fn an_answer_to_head_has_no_body_whatever_its_fields_say() {
    let psystrike = start();
    for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n", ""] {
        let pod = Pod::answering("127.22.2.2", format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), Then::Keep);
        let target = Psystrike::target(pod.address(), "/");
        let mut client = psystrike.client();
        for _ in 0..3 {
            client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let response = client.response_to("HEAD").expect("a whole answer");
            let (name, value) = fields.trim_end().split_once(": ").unwrap_or_default();
            assert_eq!(response.head.field(name).unwrap_or_default(), value, "{response:?}");
        }
        assert_eq!(client.rest(QUIET), (vec![], End::Open), "{fields:?}");
        assert!(pod.heads().iter().all(|head| head.method() == "HEAD"));
        // Some pods send a body all the same, a moment later, and the next answer must not begin with it.
        let connections = if fields == "Content-Length: 0\r\n" { 1 } else { 3 };
        assert_eq!(pod.connections(), connections, "{fields:?}");
    }
    // A pod that sends one all the same: it is nobody's answer.
    let pod = Pod::answering("127.22.2.3", with_length(PAGE), Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    let mut client = psystrike.client();
    client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    client.response_to("HEAD").expect("a whole answer");
    pod.wait_for("the end of its connection", |seen| seen.ended == 1);
    assert_eq!(client.get(&target).text(), PAGE);
}

#[test]
fn a_broken_body_is_broken_for_the_client_too() {
    let psystrike = start();
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let (length, chunked) = (head("Content-Length: 9\r\n"), head("Transfer-Encoding: chunked\r\n"));
    // What comes first; what comes when the client has that; how the pod ends; the body's sound bytes; whether
    // only a reset can show that it is broken.
    for (first, later, then, sound, only_reset) in [
        (length.clone() + "up", " 1", Then::Close, "up 1", false),
        (length.clone() + "up", " 1", Then::Reset, "up 1", false),
        (length.clone(), "", Then::Close, "", false),
        (chunked.clone() + "4\r\nup 1", "", Then::Close, "4\r\nup 1", false),
        (chunked.clone() + "4\r\nup 1\r\n", "", Then::Close, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1\r\n", "0\r\n", Then::Close, "4\r\nup 1\r\n0\r\n", false),
        (
            chunked.clone() + "4\r\nup 1\r\n",
            "0\r\nX: y\r\n",
            Then::Close,
            "4\r\nup 1\r\n0\r\nX: y\r\n",
            false,
        ),
        (chunked.clone() + "4\r\nup 1\r\n", "", Then::Reset, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1\r\n", "nonsense", Then::Keep, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1\r\n", "-1\r\n", Then::Keep, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1", "2\r\n", Then::Keep, "4\r\nup 1", false),
        (
            chunked.clone() + "4\r\nup 1\r\n",
            "10000000000000000\r\n",
            Then::Keep,
            "4\r\nup 1\r\n1000000000000000",
            false,
        ),
        (head("") + "up 1\n", "up", Then::Reset, "up 1\nup", true),
    ] {
        for version in ["1.1", "1.0"] {
            let (opener, gate) = Gate::new();
            let case = format!("{first:?}, {later:?}, {then:?}, for HTTP/{version}");
            let first_bytes = first.clone();
            let pod = Pod::serve("127.22.2.4", move |_, client| {
                client.send(&first_bytes)?;
                gate.pass();
                client.send(later)?;
                if let Then::Keep = then {
                    client.take_rest(LIMIT);
                }
                Ok(then)
            });
            let mut client = psystrike.client();
            let target = Psystrike::target(pod.address(), "/");
            // A second request waits behind it, and must not be answered.
            let request = format!("GET {target} HTTP/{version}\r\nHost: x\r\n\r\n");
            client.send(request + &get("/healthz"));
            client.stream().peek(&mut [0]).expect("the answer begins");
            opener.send(()).expect("the pod lives");
            let (bytes, end) = client.rest(LIMIT);
            let text = String::from_utf8_lossy(&bytes);
            let (_, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{case}: {text:?}"));
            let is_chunked = first.contains("chunked");
            if version == "1.0" && is_chunked {
                assert!("up 1".starts_with(body), "{case}: {body:?}");
            } else if let Then::Reset = then {
                assert!(sound.starts_with(body), "{case}: {body:?}"); // a reset overtakes what it follows
            } else {
                assert!(sound.starts_with(body) && body.len() + 16 >= sound.len(), "{case}: {body:?}");
            }
            assert_ne!(end, End::Open, "{case}");
            if only_reset || (version == "1.0" && is_chunked) {
                assert_eq!(end, End::Reset, "{case}: an end in order would pass it off as whole");
            }
            pod.wait_for("the end of its connection", |seen| seen.ended == 1);
        }
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_a_502() {
    let psystrike = start();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (answer, reason) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "malformed answer from the pod: not HTTP/1"),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", "malformed answer from the pod: not HTTP/1"),
        ("HTTP/2 200 OK\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.1 99 Low\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.1 099 Low\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.1 600 High\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.1 200 OK\nX\n\n", "malformed answer from the pod: bare LF"),
        ("HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.1 200 OK\r\n folded\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", "malformed answer from the pod"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "malformed answer from the pod",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx", "malformed answer from the pod"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nx", "malformed answer from the pod"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", "malformed answer from the pod"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "malformed answer from the pod"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "pod switched protocols unasked"),
        (&"HTTP/1.1 103 Hm\r\n\r\n".repeat(9), "malformed answer from the pod: too many interim answers"),
        (&format!("{chunked}x\r\n"), "malformed body from the pod"),
        (&format!("{chunked}\r\n"), "malformed body from the pod"),
    ] {
        let pod = Pod::answering("127.22.2.5", answer, Then::Keep);
        let mut client = psystrike.client();
        let response = client.get(&Psystrike::target(pod.address(), "/"));
        assert_eq!(response.status(), 502, "{answer:?}: {response:?}");
        assert!(response.reason().starts_with(reason), "{answer:?}: {response:?}");
        let told = format!("{} (pod {}, after ", response.reason(), pod.address());
        assert!(response.text().starts_with(&told) && response.text().lines().count() == 1, "{response:?}");
        assert_eq!(client.get("/healthz").status(), 200, "the client's connection is not to blame");
        pod.wait_for("the end of its connection", |seen| seen.ended == 1);
    }
}

// Refusals

/// Refused requests that leave it clear where the next one begins: `{pod}` stands for a pod that must not hear of
/// it.
const REFUSED_AND_KEPT: &[(&str, u16, &str)] = &[
    ("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no such page: ask for /pods/{ip}/{port}/{path}"),
    ("GET /pods HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no such page: ask for /pods/{ip}/{port}/{path}"),
    (
        "GET /pods/127.22.3.1 HTTP/1.1\r\nHost: x\r\n\r\n",
        404,
        "no such page: ask for /pods/{ip}/{port}/{path}",
    ),
    ("POST /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no such page: ask for /pods/{ip}/{port}/{path}"),
    ("POST {pod} HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("get {pod} HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("PUT /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("CONNECT 127.22.3.1:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("GET http://x{pod} HTTP/1.1\r\nHost: x\r\n\r\n", 421, "not a proxy: ask for /pods/{ip}/{port}/{path}"),
    ("GET /pods/127.1/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod address is not an IP address"),
    ("GET /pods/2130706433/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod address is not an IP address"),
    ("GET /pods/0177.0.0.1/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod address is not an IP address"),
    ("GET /pods/0x7f.0.0.1/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod address is not an IP address"),
    ("GET /pods/fe80::1%25lo/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod address is not an IP address"),
    ("GET /pods//80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod address is not an IP address"),
    (
        "GET /pods/localhost/80/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod names are not resolved: give the pod's IP address",
    ),
    ("GET /pods/127.22.3.1/0/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod port is not a number from 1 to 65535"),
    (
        "GET /pods/127.22.3.1/65536/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    (
        "GET /pods/127.22.3.1/080/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    (
        "GET /pods/127.22.3.1/+80/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    (
        "GET /pods/127.22.3.1/http/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    ("GET /pods/127.22.3.1// HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod port is not a number from 1 to 65535"),
    ("GET {denied} HTTP/1.1\r\nHost: x\r\n\r\n", 403, "destination not allowed"),
    ("GET /pods/127.22.3.1/1/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, "destination port not allowed"),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nVia: 1.1 psystrike, 1.1 psystrike, 1.1 psystrike\r\n\r\n",
        508,
        "scrape loops through psystrike",
    ),
];

/// Refused requests after which the connection ends: it is unclear, or of no use, what follows them.
const REFUSED_AND_CLOSED: &[(&str, u16, &str)] = &[
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413, "a scrape has no body"),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        413,
        "a scrape has no body",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        413,
        "a scrape has no body",
    ),
    (
        "POST {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        405,
        "only GET and HEAD are allowed",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed request: Content-Length beside Transfer-Encoding",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        400,
        "malformed request: Content-Length repeated",
    ),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n", 400, "malformed request: Content-Length"),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 0\r\n\r\n",
        400,
        "malformed request: Content-Length",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        400,
        "malformed request: Transfer-Encoding other than chunked",
    ),
    (
        "GET {pod} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed request: Transfer-Encoding in HTTP/1.0",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
        400,
        "malformed request: field name",
    ),
    ("GET {pod} HTTP/1.1\r\n\r\n", 400, "malformed request: no Host"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, "malformed request: more than one Host"),
    ("GET {pod} HTTP/1.1\r\nHost: x y\r\n\r\n", 400, "malformed request: Host"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nX: y\r\n folded\r\n\r\n", 400, "malformed request: field "),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n", 400, "malformed request: field name"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400, "malformed request: field value"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400, "malformed request: "),
    ("GET {pod} HTTP/1.1\nHost: x\n\n", 400, "malformed request: bare LF"),
    ("GET {pod}#x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request target"),
    ("GET {pod}\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request "),
    ("GET {pod}é HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request "),
    ("GET  {pod} HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: "),
    ("GET {pod} b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request line"),
    ("GET {pod}\r\n\r\n", 400, "malformed request: "),
    ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", 400, "malformed request: "),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "only HTTP/1.1 and HTTP/1.0 are spoken here"),
    ("GET {pod} HTTP/1.2\r\nHost: x\r\n\r\n", 505, "only HTTP/1.1 and HTTP/1.0 are spoken here"),
];

#[test]
fn a_refusal_says_why_and_no_pod_hears_of_it() {
    let pod = echo("127.22.3.1");
    let denied = echo("127.22.3.2");
    let ports = format!("{},{}", pod.address().port(), denied.address().port());
    let psystrike =
        Psystrike::start(&["--allow", "127.22.3.0/24", "--deny", "127.22.3.2/32", "--allow-ports", &ports]);
    let (to_pod, to_denied) =
        (Psystrike::target(pod.address(), "/x"), Psystrike::target(denied.address(), "/x"));
    let cases = REFUSED_AND_KEPT.iter().map(|case| (case, true));
    for (&(request, status, reason), kept) in cases.chain(REFUSED_AND_CLOSED.iter().map(|case| (case, false)))
    {
        let request = request.replace("{pod}", &to_pod).replace("{denied}", &to_denied);
        let mut client = psystrike.client();
        // In the same write comes what could be smuggled: a whole request.
        client.send(format!("{request}GET {to_pod}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"));
        let response = client.response().unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"));
        assert_eq!(response.status(), status, "{request:?}: {response:?}");
        assert!(response.reason().starts_with(reason), "{request:?}: {response:?}");
        let body = response.text();
        assert!(
            body.starts_with(&response.reason()) && body.lines().count() == 1,
            "{request:?}: {response:?}"
        );
        assert!(body.ends_with('\n'), "{response:?}");
        assert_eq!(response.head.field("Content-Type").as_deref(), Some("text/plain; charset=utf-8"));
        let allow = (status == 405).then(|| "GET, HEAD".to_owned());
        assert_eq!(response.head.field("Allow"), allow, "{request:?}: {response:?}");
        if kept {
            assert_eq!(response.head.field("Connection"), None, "{request:?}");
            assert_eq!(client.response().expect("the next request's").text(), "/x/smuggled", "{request:?}");
        } else {
            assert_eq!(response.head.values("Connection"), ["close"], "{request:?}");
            let (bytes, end) = client.rest(LIMIT);
            assert_eq!((answers(&bytes), end), (0, End::Eof), "{request:?}: {}", bytes.escape_ascii());
        }
    }
    let refused = REFUSED_AND_KEPT.len();
    assert_eq!(pod.heads().len(), refused, "only the requests behind them: {:?}", pod.seen());
    assert!(pod.heads().iter().all(|head| head.target() == "/x/smuggled"));
    assert_eq!(denied.connections(), 0);
}

#[test]
fn a_refused_body_of_any_length_leaves_the_answer_readable() {
    let psystrike = start();
    let pod = echo("127.22.3.3");
    let target = Psystrike::target(pod.address(), "/");
    for length in [1, 10_000, 200_000] {
        let mut client = psystrike.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"));
        client.send(vec![b'G'; length]);
        let response = client.response().unwrap_or_else(|broken| panic!("{length}: {broken:?}"));
        assert_eq!(response.status(), 413);
        assert_eq!(client.end(), End::Eof, "{length}");
    }
    assert_eq!(pod.connections(), 0);
}

#[test]
fn a_refusal_of_head_has_no_body() {
    let psystrike = start();
    let mut client = psystrike.client();
    for target in ["/nowhere", "/pods/x/1/", "/pods/10.0.0.1/1/"] {
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let response = client.response_to("HEAD").expect("a whole answer");
        assert!(response.status() >= 400, "{target}");
        assert_ne!(response.head.field("Content-Length").as_deref(), Some("0"), "what a GET would get");
    }
    assert_eq!(client.rest(QUIET), (vec![], End::Open));
}

#[test]
fn no_wide_range_opens_a_special_address() {
    let psystrike = Psystrike::start(&["--allow", "0.0.0.0/0", "--allow", "::/0"]);
    let mut client = psystrike.client();
    for host in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "169.254.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "100.100.100.200",
        "::",
        "::1",
        "[::1]",
        "%5B::1%5D",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "fd00:a9fe:a9fe::1",
        "fd00:100::100:200",
        "168.63.129.16",
        "192.0.0.192",
        "64:ff9b:1:a9fe:a9:fe00::",
        "2001:db8::5efe:7f00:1",
        "FD00:0EC2:0::254",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::7f00:1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::",
        "2001:0:102:304::5601:5601",
    ] {
        let response = client.get(&format!("/pods/{host}/80/metrics"));
        assert_eq!(
            (response.status(), response.reason().as_str()),
            (403, "destination not allowed"),
            "{host}"
        );
    }
    assert_eq!(psystrike.metric("psystrike_pod_connections_opened_total"), 0.0, "no packet was sent");
    let refusals = psystrike.metric("psystrike_refusals_total{reason=\"address_not_allowed\"}");
    assert_eq!(refusals, 39.0, "each is counted");
}

#[test]
fn a_scrape_that_goes_in_a_circle_is_broken_off() {
    let psystrike = start();
    let nested = |times: usize| Psystrike::target(psystrike.address(), "").repeat(times);
    for times in 0..=3 {
        let response = psystrike.get(&format!("{}/healthz", nested(times)));
        assert_eq!(response.text(), "ok\n", "{times} times");
    }
    for times in [4, 5, 40] {
        let response = psystrike.get(&format!("{}/healthz", nested(times)));
        assert_eq!((response.status(), response.reason().as_str()), (508, "scrape loops through psystrike"));
    }
    let opened = psystrike.metric("psystrike_pod_connections_opened_total");
    assert!(opened <= 9.0, "{opened} connections to itself");
}

#[test]
fn pages_of_our_own_answer_get_and_head() {
    let psystrike = start();
    let mut client = psystrike.client();
    for (page, content_type, part) in [
        ("/", "text/html; charset=utf-8", "/pods/{ip}/{port}/{path}"),
        ("/healthz", "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", "text/plain; charset=utf-8", "ok\n"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "psystrike_build_info{"),
        ("/healthz?a=b", "text/plain; charset=utf-8", "ok\n"),
    ] {
        let response = client.get(page);
        assert_eq!((response.status(), response.reason().as_str()), (200, "OK"), "{page}");
        assert_eq!(response.head.field("Content-Type").as_deref(), Some(content_type), "{page}");
        assert!(response.text().contains(part), "{page}: {response:?}");

        client.send(format!("HEAD {page} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let head = client.response_to("HEAD").expect("a whole answer");
        assert_eq!(head.status(), 200, "{page}");
        if page != "/metrics" {
            assert_eq!(head.head.field("Content-Length"), response.head.field("Content-Length"), "{page}");
        }

        client.send(format!("DELETE {page} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let refused = client.response().expect("a whole answer");
        assert_eq!(
            (refused.status(), refused.head.field("Allow").as_deref()),
            (405, Some("GET, HEAD")),
            "{page}"
        );
    }
    assert!(client.get("/").text().contains(env!("CARGO_PKG_VERSION")));
    for page in ["/healthz/", "/Healthz", "//", "/metrics/x", "/podsx/1/2"] {
        assert_eq!(client.get(page).status(), 404, "{page}");
    }
}
