//! Long bodies through the real binary, which the kernel moves from socket to socket: every byte arrives, and no other
//! byte does, even if peers are slow, stop, break the framing or disconnect.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;
use support::{
    LIMIT,
    http::{Client, End, get},
    pods::{Pod, Then},
    poll,
    program::Signal,
    psystrike::Psystrike,
    settled,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How long a connection must stay silent to count as persistent.
const QUIET: Duration = Duration::from_millis(50);

fn start(arguments: &[&str]) -> Psystrike {
    Psystrike::start(&[&["--allow", "127.0.0.0/8"], arguments].concat())
}

/// Bytes in which no two words nearby can be mistaken for each other, nor for those of another `seed`.
fn body(seed: u32, bytes: usize) -> Vec<u8> {
    let words = (0..(bytes as u32).div_ceil(4)).map(|at| (at ^ seed << 24).wrapping_mul(2_654_435_761));
    let mut body: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    body.truncate(bytes);
    body
}

#[track_caller]
fn assert_same(what: &str, got: &[u8], expected: &[u8]) {
    if got != expected {
        let at = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
        panic!("{what}: {} bytes instead of {}, the same up to byte {at}", got.len(), expected.len());
    }
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    /// In one chunk.
    Chunk,
    UntilClose,
}

/// A response that is forwarded unchanged.
fn answer(framing: Framing, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let (field, before, behind) = match framing {
        Framing::Length => (format!("Content-Length: {length}\r\n"), String::new(), ""),
        Framing::Chunk => {
            ("Transfer-Encoding: chunked\r\n".into(), format!("{length:x}\r\n"), "\r\n0\r\n\r\n")
        }
        Framing::UntilClose => (String::new(), String::new(), ""),
    };
    let head = format!("HTTP/1.1 200 OK\r\nDate: then\r\n{field}\r\n{before}");
    [head.as_bytes(), body, behind.as_bytes()].concat()
}

/// A pod that responds to `/name` with the bytes of this name, and to `HEAD` with the head only. A body without a
/// length ends with its connection.
fn pod_with(ip: &str, answers: Vec<(&'static str, Vec<u8>)>) -> Pod {
    Pod::serve(ip, move |head, client| {
        let target = head.target();
        let (_, answer) = answers.iter().find(|(known, _)| target[1..] == **known).expect("a known name");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        client.send(if head.method() == "HEAD" { &answer[..end] } else { answer })?;
        let framed =
            answer.windows(9).take(4 * KIB).any(|nine| nine == b"\nContent-" || nine == b"\nTransfer");
        Ok(if framed || head.method() == "HEAD" { Then::Keep } else { Then::Close })
    })
}

/// A client with small buffers in the kernel.
fn slow_client(psystrike: &Psystrike) -> Client {
    let client = psystrike.client();
    SockRef::from(client.stream()).set_recv_buffer_size(64 * KIB).expect("it can be set");
    client
}

#[test]
fn every_byte_in_every_framing_to_every_client() {
    let psystrike = start(&[]);
    for framing in [Framing::Length, Framing::Chunk, Framing::UntilClose] {
        for length in [32 * KIB - 1, 32 * KIB, 64 * KIB, 256 * KIB, MIB, 3 * MIB + 1] {
            let body = body(1, length);
            let pod = pod_with("127.25.0.1", vec![("m", answer(framing, &body))]);
            let target = Psystrike::target(pod.address(), "/m");
            for slow in [false, true] {
                let what = format!("{framing:?}, {length} bytes, slow: {slow}");
                let connect = || if slow { slow_client(&psystrike) } else { psystrike.client() };
                let mut client = connect();
                for round in 0..3 {
                    let response = client.get(&target);
                    assert_same(&format!("{what}, round {round}"), &response.body, &body);
                    if framing == Framing::UntilClose {
                        assert_eq!(client.end(), End::Eof, "{what}");
                        client = connect();
                    } else {
                        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
                        assert_eq!(client.response_to("HEAD").expect("a head").status(), 200, "{what}");
                    }
                }
                assert_eq!(client.rest(QUIET), (vec![], End::Open), "{what}: a byte after the response");
                let mut old = connect();
                for _ in 0..2 {
                    old.send(format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
                    let response = old.response().expect("a whole answer");
                    assert_same(&format!("{what}, for HTTP/1.0"), &response.body, &body);
                    if framing != Framing::Length {
                        old = connect();
                    }
                }
            }
            let seen = pod.seen();
            if framing != Framing::UntilClose {
                // After HEAD, a connection is not reused, because a body may follow nevertheless.
                let heads = seen.heads.iter().filter(|head| head.method() == "HEAD").count();
                assert_eq!(seen.accepted, 1 + heads, "{framing:?}, {length} bytes: its connection is kept");
            }
        }
    }
}

/// All pairs of responses on one connection: the first one must not affect how the second one is forwarded.
#[test]
fn responses_of_all_kinds_in_any_order_on_persistent_connections() {
    let psystrike = start(&[]);
    let long = |seed| answer(Framing::Length, &body(seed, 40 * KIB));
    let with = |seed, instead_of_date: &str| {
        let text =
            |bytes: &[u8]| bytes.windows(12).position(|at| at == b"Date: then\r\n").expect("it stands there");
        let bytes = long(seed);
        let at = text(&bytes);
        [&bytes[..at], instead_of_date.as_bytes(), &bytes[at + 12..]].concat()
    };
    let filler = "f".repeat(3000);
    let answers = vec![
        ("long", long(1)),
        ("longer", answer(Framing::Length, &body(2, 400 * KIB))),
        ("short", answer(Framing::Length, b"up 1\n")),
        ("empty", answer(Framing::Length, b"")),
        ("undated", with(3, "")),
        ("keeps", with(4, "Date: then\r\nConnection: keep-alive\r\n")),
        ("a-long-head", with(5, &format!("Date: then\r\nX-Filler: {filler}\r\n"))),
        ("chunked", answer(Framing::Chunk, b"up 1\n")),
        ("a-long-chunk", answer(Framing::Chunk, &body(6, 100 * KIB))),
        ("interim", [b"HTTP/1.1 103 Hm\r\nLink: </>\r\n\r\n".to_vec(), long(7)].concat()),
        ("nothing", b"HTTP/1.1 304 Same\r\nDate: then\r\nContent-Length: 40960\r\n\r\n".to_vec()),
    ];
    let pod = pod_with("127.25.0.2", answers.clone());
    let mut client = psystrike.client();
    let mut scrape = |name: &str, answer: &[u8], method: &str| {
        let target = Psystrike::target(pod.address(), &format!("/{name}"));
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let response =
            client.response_to(method).unwrap_or_else(|broken| panic!("{method} {name}: {broken:?}"));
        if method == "GET" {
            assert!(answer.ends_with(&response.coded_body), "{name}: other bytes");
            let head = answer.len() - response.coded_body.len();
            assert!(
                answer[..head].ends_with(b"\r\n\r\n"),
                "{name}: fewer bytes: {}",
                response.coded_body.len()
            );
        }
    };
    for (first, first_answer) in &answers {
        for (second, second_answer) in &answers {
            for method in ["GET", "HEAD"] {
                if *second == "interim" && method == "HEAD" {
                    continue; // the pod would send only the interim response
                }
                scrape(first, first_answer, "GET");
                scrape(second, second_answer, method);
            }
        }
    }
    // After HEAD, a connection is not reused, because a body may follow nevertheless, unless the response rules that
    // out.
    let rules_out = |target: &str| matches!(target, "/empty" | "/nothing");
    let heads =
        pod.heads().iter().filter(|head| head.method() == "HEAD" && !rules_out(&head.target())).count();
    pod.wait_for("the ends of its connections", |seen| seen.ended >= heads);
    let seen = pod.seen();
    assert_eq!((seen.accepted, seen.ended), (1 + heads, heads), "its connection is kept");
    assert_eq!(client.rest(QUIET), (vec![], End::Open), "a byte after the response");
}

#[test]
fn a_body_in_segments_of_a_byte_overfills_no_pipe() {
    const SEGMENTS: usize = 3_000; // a pipe has 256 slots, or 16
    let psystrike = start(&[]);
    let body = body(1, 200 * KIB);
    let answer = answer(Framing::Length, &body);
    let sent = Arc::new(AtomicUsize::new(0));
    let (count, bytes) = (sent.clone(), answer);
    let pod = Pod::serve("127.25.0.3", move |head, client| {
        let single = if head.target() == "/drips" { SEGMENTS } else { 0 };
        for byte in &bytes[..single] {
            client.send([*byte])?;
            count.fetch_add(1, Ordering::SeqCst);
        }
        client.send(&bytes[single..]).map(|()| Then::Keep)
    });
    let target = |path| Psystrike::target(pod.address(), path);
    let mut client = psystrike.client();
    assert_same("at once", &client.get(&target("/")).body, &body);
    for round in 1..=2 {
        // The segments accumulate while psystrike is stopped.
        let asked = pod.heads().len();
        client.send(get(&target("/drips")));
        pod.wait_for("the request", |seen| seen.heads.len() > asked);
        psystrike.process().stop();
        let all = round * SEGMENTS;
        let piled_up = Instant::now() + LIMIT / 20;
        let enough = |sent: &usize| *sent == all || Instant::now() > piled_up; // or until the buffers are full
        poll("segments", || sent.load(Ordering::SeqCst), enough);
        psystrike.signal(Signal::CONT);
        assert_same("in segments of a byte", &client.response().expect("a whole answer").body, &body);
    }
    assert_eq!(pod.connections(), 1);
}

#[test]
fn bytes_after_a_long_body_close_the_pods_connection_and_are_dropped() {
    const LIES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies";
    let psystrike = start(&[]);
    let body = body(1, 100 * KIB);
    let whole = answer(Framing::Length, &body);
    for surplus in [LIES.to_vec(), b"x".to_vec(), answer(Framing::Length, &vec![b'!'; 100 * KIB])] {
        for apart in [false, true] {
            let (whole, surplus) = (whole.clone(), surplus.clone());
            let pod = Pod::serve("127.25.0.4", move |head, client| {
                if head.target() == "/sound" {
                    return client.send(&whole).map(|()| Then::Keep);
                }
                if apart {
                    client.send(&whole)?;
                    let _ = client.send(&surplus); // the connection may be closed by now
                    client.take_rest(LIMIT);
                    return Ok(Then::Close);
                }
                client.send([whole.as_slice(), &surplus].concat()).map(|()| Then::Keep)
            });
            let mut client = psystrike.client();
            for round in 1..=4 {
                for path in ["/sound", "/lies"] {
                    let response = client.get(&Psystrike::target(pod.address(), path));
                    assert_same(path, &response.body, &body);
                }
                // Only then does the next scrape certainly not use it.
                pod.wait_for("the end of its connection", |seen| seen.ended == round);
            }
            assert_eq!(client.rest(QUIET), (vec![], End::Open), "a byte after the response");
            assert_eq!(pod.heads().len(), 8, "a request was sent twice");
        }
    }
}

#[test]
fn a_pod_that_disconnects_within_a_long_body_leaves_it_visibly_broken() {
    let psystrike = start(&[]);
    let body = body(1, MIB);
    for framing in [Framing::Length, Framing::Chunk, Framing::UntilClose] {
        for then in [Then::Close, Then::Reset] {
            if framing == Framing::UntilClose && matches!(then, Then::Close) {
                continue; // a regular end of this body
            }
            let what = format!("{framing:?}, {then:?}");
            let (whole, cut) = (answer(Framing::Length, &body), answer(framing, &body));
            let (open, gate) = channel();
            let gate = Mutex::new(gate);
            let pod = Pod::serve("127.25.0.5", move |head, client| {
                if head.target() == "/sound" {
                    return client.send(&whole).map(|()| Then::Keep);
                }
                client.send(&cut[..cut.len() / 2])?;
                // A reset may overtake earlier bytes.
                let _ = gate.lock().expect("no other thread failed").recv_timeout(LIMIT);
                Ok(then)
            });
            let target = |path| Psystrike::target(pod.address(), path);
            for kept in [false, true] {
                let mut client = psystrike.client();
                if kept {
                    assert_same(&what, &client.get(&target("/sound")).body, &body);
                }
                // A second request is pipelined, and must not be answered.
                client.send(get(&target("/cut")) + &get("/healthz"));
                client.stream().peek(&mut [0]).expect("the answer begins");
                open.send(()).expect("the pod lives");
                let (bytes, end) = client.rest(LIMIT);
                let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
                let coded = &bytes[head..];
                let expected = match framing {
                    Framing::Chunk => [&b"100000\r\n"[..], &body].concat(),
                    _ => body.clone(),
                };
                assert!(expected.starts_with(coded), "{what}, kept: {kept}: other bytes");
                assert!(coded.len() < expected.len() * 3 / 4, "{what}, kept: {kept}: {} bytes", coded.len());
                assert_ne!(end, End::Open, "{what}, kept: {kept}");
                if framing == Framing::UntilClose {
                    assert_eq!(end, End::Reset, "{what}: an orderly end would make it look complete");
                }
            }
            pod.wait_for("the ends of its connections", |seen| seen.ended == seen.accepted);
        }
    }
}

#[test]
fn bytes_forwarded_unread_are_counted_and_logged() {
    const SCRAPES: usize = 3;
    let psystrike = start(&["--access-log"]);
    let answer = answer(Framing::Length, &body(1, 300 * KIB));
    let pod = pod_with("127.25.0.11", vec![("m", answer.clone())]);
    let mut client = psystrike.client();
    let counted = || psystrike.metric("psystrike_client_sent_bytes_total");
    let (first, second) = (counted(), counted());
    for _ in 0..SCRAPES {
        client.get(&Psystrike::target(pod.address(), "/m"));
    }
    psystrike.wait_for_lines(&format!("outcome=forwarded bytes={} ", answer.len()), SCRAPES);
    // Each page of counters is counted in the next one.
    let pages = 2.0 * (second - first);
    let bytes = counted() - second - (SCRAPES * answer.len()) as f64;
    assert!((0.0..pages).contains(&bytes), "{bytes} bytes are too many");
}

// Clients that stop

const LONG: usize = 64 * MIB;

/// A pod with a long body, which counts the bytes that it has sent so far.
fn endless(ip: &str) -> (Pod, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let piece = body(1, MIB);
    let pod = Pod::serve(ip, move |_, client| {
        client.send(format!("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: {LONG}\r\n\r\n"))?;
        client.stream().set_write_timeout(None)?;
        for _ in 0..LONG / piece.len() {
            for part in piece.chunks(64 * KIB) {
                client.send(part)?;
                count.fetch_add(part.len(), Ordering::SeqCst);
            }
        }
        Ok(Then::Keep)
    });
    (pod, sent)
}

/// Reads this many bytes of the body, from offset `at` on, and checks each.
fn read_body(mut stream: &TcpStream, from: usize, to: usize, piece: &[u8]) {
    let mut buffer = vec![0; 256 * KIB];
    let mut at = from;
    while at < to {
        let most = buffer.len().min(to - at).min(piece.len() - at % piece.len());
        let read = stream.read(&mut buffer[..most]).unwrap_or_else(|e| panic!("at byte {at}: {e}"));
        assert!(read > 0, "it ends at byte {at}");
        assert_same(&format!("from byte {at} on"), &buffer[..read], &piece[at % piece.len()..][..read]);
        at += read;
    }
}

/// Reads the head of a response, and not a byte more.
fn read_head(mut stream: &TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("a head"), 1, "it ends within its head");
        head.push(byte[0]);
    }
}

#[test]
fn clients_that_pause_in_the_middle_get_every_byte() {
    const CLIENTS: usize = 64;
    // The cost of clients that stop: the bytes of one read that they did not accept. The first few are sent more.
    const KEPT_MAX: usize = 8 * 528 * KIB + (CLIENTS - 8) * 64 * KIB;
    let psystrike = start(&["--timeout", "120s"]);
    let (pod, sent) = endless("127.25.0.6");
    let target = Psystrike::target(pod.address(), "/");
    let piece = body(1, MIB);
    psystrike.get("/metrics");
    let before = psystrike.process().resident_bytes();
    let clients: Vec<_> = (0..CLIENTS).map(|_| slow_client(&psystrike)).collect();
    for (at, client) in clients.iter().enumerate() {
        let mut stream = client.stream();
        stream.write_all(get(&target).as_bytes()).expect("it is sent");
        read_head(stream);
        read_body(stream, 0, at * 50_000, &piece);
    }
    settled("how much was sent", || sent.load(Ordering::SeqCst));
    let grown = (psystrike.process().resident_bytes() as usize).saturating_sub(before as usize);
    assert!(grown < KEPT_MAX + 2 * MIB, "for {CLIENTS} clients it grew by {} KiB", grown / KIB);
    assert_eq!(psystrike.get("/healthz").status(), 200, "others are served");
    thread::scope(|scope| {
        for (at, client) in clients.iter().enumerate() {
            let piece = &piece;
            scope.spawn(move || read_body(client.stream(), at * 50_000, LONG, piece));
        }
    });
    for mut client in clients {
        assert_eq!(
            client.get("/healthz").status(),
            200,
            "a byte after the response, and its connection is kept"
        );
    }
    assert_eq!((pod.connections(), pod.seen().ended), (CLIENTS, 0), "the pods' connections persist");
}

/// Scrapes by clients that read nothing, until the time limit of their scrapes ends them. Returns whether each had
/// filled all buffers before: a busy machine may need longer.
fn clients_that_stop(timeout: &str, pod_ip: &str) -> bool {
    const CLIENTS: usize = 48;
    let psystrike = start(&["--timeout", timeout]);
    let (pod, _) = endless(pod_ip);
    let target = Psystrike::target(pod.address(), "/");
    psystrike.get("/metrics");
    let before = psystrike.process().resident_bytes();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| slow_client(&psystrike)).collect();
    clients.iter_mut().for_each(|client| client.send(get(&target)));
    pod.wait_for("the ends of its connections", |seen| seen.ended == CLIENTS);
    for client in &mut clients {
        let (bytes, end) = client.rest(LIMIT);
        assert!(bytes.len() < LONG - 100_000 && end != End::Open, "{} bytes, {end:?}", bytes.len());
    }
    let [stopped, late] = ["client_timeout", "response_body_timeout"].map(|it| psystrike.outcomes(it));
    assert_eq!(stopped + late, CLIENTS as f64, "{stopped} because of the client");
    assert_eq!(psystrike.metric("psystrike_client_connections"), 1.0, "only the one that asks");
    let grown = psystrike.process().resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "afterwards it is larger by {} KiB", grown >> 10);
    late == 0.0
}

#[test]
fn a_client_that_stops_for_too_long_is_closed_and_its_memory_freed() {
    let is_counted = ["2s", "4s", "8s"].iter().any(|timeout| clients_that_stop(timeout, "127.25.0.7"));
    assert!(is_counted, "clients that read nothing do not count as client_timeout");
}

#[test]
fn a_client_that_disconnects_in_the_middle_affects_no_other() {
    let psystrike = start(&[]);
    let (pod, _) = endless("127.25.0.8");
    let whole = body(2, 300 * KIB);
    let sound = pod_with("127.25.0.9", vec![("m", answer(Framing::Length, &whole))]);
    let mut other = psystrike.client();
    for round in 1..=20 {
        let client = slow_client(&psystrike);
        let mut stream = client.stream();
        stream.write_all(get(&Psystrike::target(pod.address(), "/")).as_bytes()).expect("it is sent");
        read_head(client.stream());
        // Unread bytes in its receive buffer make its close a reset.
        if round % 2 == 0 {
            client.reset()
        } else {
            drop(client)
        }
        let response = other.get(&Psystrike::target(sound.address(), "/m"));
        assert_same("another's", &response.body, &whole);
        pod.wait_for("the end of its connection", |seen| seen.ended == round);
    }
    assert_eq!(psystrike.outcomes("client_closed_request"), 20.0);
    assert_eq!(sound.connections(), 1);
}

#[test]
fn urgent_data_within_a_long_body_delays_no_other_client() {
    let psystrike = start(&["--timeout", "1s"]);
    let body = body(1, 300 * KIB);
    let whole = answer(Framing::Length, &body);
    let pod = Pod::serve("127.25.0.10", move |head, client| {
        if head.target() == "/sound" {
            return client.send(&whole).map(|()| Then::Keep);
        }
        client.send(&whole[..100 * KIB])?;
        SockRef::from(&**client.stream()).send_out_of_band(b"!")?;
        client.send(&whole[100 * KIB..])?;
        Ok(Then::Keep)
    });
    let target = |path| Psystrike::target(pod.address(), path);
    for _ in 0..2 {
        let mut client = psystrike.client();
        assert_same("without", &client.get(&target("/sound")).body, &body);
        let before = psystrike.process().cpu();
        client.send(get(&target("/urgent")));
        assert_same("another's", &psystrike.get(&target("/sound")).body, &body);
        // The byte itself is out of band (tcp(7)): no part of the body.
        assert_same("the body around it", &client.response().expect("a whole answer").body, &body);
        let cpu = psystrike.process().cpu() - before;
        assert!(cpu < Duration::from_millis(500), "it took {cpu:?} of processor time");
    }
}

/// splice(2) returns 0 at the mark, as at an end; and the end may have arrived as well.
#[test]
fn urgent_data_is_not_an_end() {
    let psystrike = start(&["--timeout", "1s"]);
    let body = body(2, 300 * KIB);
    let whole = answer(Framing::UntilClose, &body);
    let pod = Pod::serve("127.25.0.11", move |_, client| {
        client.send(&whole[..100 * KIB])?;
        SockRef::from(&**client.stream()).send_out_of_band(b"!")?;
        client.send(&whole[100 * KIB..])?;
        Ok(Then::Close)
    });
    for _ in 0..3 {
        let response = psystrike.get(&Psystrike::target(pod.address(), "/"));
        assert_same("the body around it", &response.body, &body);
    }
}
