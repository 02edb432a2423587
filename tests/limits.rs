//! Limits of time, size and number. Each is reached through real sockets by more than one peer; the tests check the
//! effect at the limit, that nothing else suffers, and that psystrike recovers afterwards.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use support::{
    LIMIT,
    http::{Client, End, Response, get},
    pods::{Pod, Refusing, Then, Unanswering},
    poll,
    program::Signal,
    psystrike::Psystrike,
    require_working, settled,
};

const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n";
const MIB: u64 = 1 << 20;

/// How long a connection must stay silent to count as persistent.
const QUIET: Duration = Duration::from_millis(50);

fn start(arguments: &[&str]) -> Psystrike {
    Psystrike::start(&[&["--allow", "127.0.0.0/8"], arguments].concat())
}

/// A pod that accepts, reads, and never answers.
fn silent(ip: &str) -> Pod {
    Pod::serve(ip, |_, client| {
        client.take_rest(LIMIT);
        Ok(Then::Close)
    })
}

/// A gate that holds back the responses of a pod until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let (open, changed) = &*self.0;
        let _open = changed.wait_timeout_while(open.lock().unwrap(), LIMIT, |open| !*open).unwrap();
    }
}

/// A pod that responds once its gate is open.
fn gated(ip: &str) -> (Pod, Gate) {
    let gate = Gate::default();
    let of_pod = gate.clone();
    let pod = Pod::serve(ip, move |_, client| {
        of_pod.pass();
        client.send(PAGE).map(|()| Then::Keep)
    });
    (pod, gate)
}

/// Returns a client whose request is sent to the pod.
fn scraping(psystrike: &Psystrike, pod: &Pod) -> Client {
    let before = pod.heads().len();
    let mut client = psystrike.client();
    client.send(get(&Psystrike::target(pod.address(), "/")));
    pod.wait_for("the request", |seen| seen.heads.len() > before);
    client
}

fn scrape_with(psystrike: &Psystrike, pod: SocketAddr, field: &str) -> Response {
    let mut client = psystrike.client();
    client.send(format!("GET {} HTTP/1.1\r\nHost: x\r\n{field}\r\n", Psystrike::target(pod, "/")));
    client.response().expect("a whole answer")
}

// Time

#[test]
fn a_scrape_has_until_its_own_deadline() {
    let psystrike = start(&["--timeout", "200ms", "--timeout-max", "400ms"]);
    let pod = silent("127.23.0.1");
    let cases = [
        ("", "200ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: 0.3\r\n", "270ms"),
        ("x-prometheus-scrape-timeout-seconds:\t0.1 \r\n", "90ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: 10\r\n", "400ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: 1e300\r\n", "400ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: 0\r\n", "200ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: -1\r\n", "200ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: NaN\r\n", "200ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: inf\r\n", "200ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: 10s\r\n", "200ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds:\r\n", "200ms"),
    ];
    thread::scope(|scope| {
        for (field, within) in cases {
            let (psystrike, pod) = (&psystrike, &pod);
            scope.spawn(move || {
                let began = Instant::now();
                let response = scrape_with(psystrike, pod.address(), field);
                let took = began.elapsed();
                assert_eq!(response.status(), 504, "{field:?}");
                assert_eq!(
                    response.reason(),
                    format!("no response from the pod within {within}"),
                    "{field:?}"
                );
                let reported = format!("{} (pod {}, after ", response.reason(), pod.address());
                assert!(response.text().starts_with(&reported), "{response:?}");
                let within = Duration::from_millis(within.trim_end_matches("ms").parse().expect("a number"));
                assert!(took >= within, "{field:?} took {took:?}");
            });
        }
    });
    pod.wait_for("the ends of all its connections", |seen| seen.ended == cases.len());
}

#[test]
fn prometheus_sees_our_reason_before_its_own_timeout() {
    let psystrike = start(&[]);
    let pod = silent("127.23.0.2");
    let began = Instant::now();
    let response = scrape_with(&psystrike, pod.address(), "X-Prometheus-Scrape-Timeout-Seconds: 1\r\n");
    assert_eq!(response.reason(), "no response from the pod within 900ms");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn the_deadline_covers_a_slow_body() {
    let psystrike = start(&["--timeout", "300ms"]);
    for (head, end) in [
        ("Content-Length: 1000000\r\n", None),
        ("Transfer-Encoding: chunked\r\n", None),
        ("", Some(End::Reset)), // an orderly end would make it look complete
    ] {
        let pod = Pod::serve("127.23.0.3", move |_, client| {
            client.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n"))?;
            let drop = if head.starts_with('T') { "1\r\nx\r\n" } else { "x" };
            loop {
                client.send(drop)?;
                thread::sleep(Duration::from_millis(5)); // the slow bytes are the subject
            }
        });
        let mut client = psystrike.client();
        client.send(get(&Psystrike::target(pod.address(), "/")));
        let broken = client.response().expect_err("it never ends");
        assert_eq!(broken.head.map(|head| head.status()), Some(200));
        assert_ne!(broken.end, End::Open, "{head:?}");
        if let Some(end) = end {
            assert_eq!(broken.end, end, "{head:?}");
        }
        pod.wait_for("the end of its connection", |seen| seen.ended == 1);
    }
    assert_eq!(psystrike.outcomes("response_body_timeout"), 3.0);
}

#[test]
fn the_deadline_covers_a_slow_response_head() {
    let psystrike = start(&["--timeout", "200ms"]);
    let pod = Pod::serve("127.23.0.4", |_, client| {
        client.send("HTTP/1.1 200 OK\r\n")?;
        loop {
            client.send("X: y\r\n")?;
            thread::sleep(Duration::from_millis(5)); // the slow bytes are the subject
        }
    });
    let response = psystrike.get(&Psystrike::target(pod.address(), "/"));
    assert_eq!(
        (response.status(), response.reason().as_str()),
        (504, "no response from the pod within 200ms")
    );
}

#[test]
fn connecting_has_its_own_timeout_within_the_scrape_s() {
    let psystrike = start(&["--connect-timeout", "200ms"]);
    let pod = Unanswering::on("127.23.0.5");
    for (field, within) in [
        ("", "200ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: 0.1\r\n", "90ms"),
        ("X-Prometheus-Scrape-Timeout-Seconds: 9\r\n", "200ms"),
    ] {
        let response = scrape_with(&psystrike, pod.address(), field);
        let reason = format!("pod did not accept the connection within {within}");
        assert_eq!((response.status(), response.reason()), (504, reason), "{field:?}");
    }
    let mut client = psystrike.client();
    client.send(get(&Psystrike::target(pod.address(), "/")));
    client.finish_sending();
    assert_eq!(client.end(), End::Eof);
    poll(
        "clients that disconnected during connecting",
        || psystrike.outcomes("client_closed_request"),
        |gone| *gone == 1.0,
    );
}

#[test]
fn a_slow_turn_does_not_put_a_deadline_off() {
    const INJECT: &str = "inject=recvfrom:delay_exit=1s:when=1"; // of each thread: the worker's first read
    if !require_working(&["strace", "-o", "/dev/null", "-e", INJECT, "true"]) {
        return;
    }
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", INJECT];
    let psystrike = Psystrike::start_under(&strace, &["--allow", "127.0.0.0/8", "--header-timeout", "2s"]);
    let start = Instant::now();
    let mut client = psystrike.client();
    client.send("GET / HTTP/1.1\r\n");
    assert_eq!(client.response().expect("a response").status(), 408);
    let took = start.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_millis(2700)).contains(&took), "{took:?}");
}

#[test]
fn silent_and_slow_clients_are_closed() {
    let psystrike = start(&["--header-timeout", "300ms", "--client-idle-timeout", "200ms"]);
    // The bytes sent first; the bytes then sent repeatedly; the expected status.
    let cases: [(&str, &str, Option<u16>); 8] = [
        ("", "", None),
        ("", "\r\n", None),
        ("\r\n", "", None),
        ("G", "", Some(408)),
        ("GET / HTTP/1.1\r\n", "X: y\r\n", Some(408)),
        ("GET /", "x", Some(408)),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "", None),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n", "X: y\r\n", Some(408)),
    ];
    thread::scope(|scope| {
        for (first, then, status) in cases {
            let psystrike = &psystrike;
            scope.spawn(move || {
                let began = Instant::now();
                let mut client = psystrike.client();
                client.send(first);
                if first.starts_with("GET /healthz") {
                    client.response().expect("a whole answer");
                }
                client.stream().set_read_timeout(Some(Duration::from_millis(5))).expect("it can be set");
                loop {
                    match client.stream().peek(&mut [0]) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        _ => break,
                    }
                    assert!(began.elapsed() < LIMIT, "{first:?}, {then:?}: the connection is not closed");
                    let _ = client.try_send(then);
                }
                let took = began.elapsed();
                client.stream().set_read_timeout(Some(LIMIT)).expect("it can be set");
                let got = client.response();
                assert_eq!(got.as_ref().ok().map(Response::status), status, "{first:?}, {then:?}: {got:?}");
                let (rest, end) = client.rest(LIMIT);
                assert!(rest.is_empty() && end != End::Open, "{first:?}, {then:?}: {end:?}");
                let least = Duration::from_millis(if status.is_some() { 300 } else { 200 });
                assert!(took >= least, "{first:?}, {then:?}: closed after {took:?}");
            });
        }
    });
    poll("clients", || psystrike.metric("psystrike_client_connections"), |clients| *clients == 1.0);
}

#[test]
fn an_idle_pooled_connection_is_closed() {
    let psystrike = start(&["--upstream-idle-timeout", "200ms"]);
    let pod = Pod::answering("127.23.0.6", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    let mut client = psystrike.client();
    let began = Instant::now();
    client.get(&target);
    pod.wait_for("its connection's end", |seen| seen.ended == 1);
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(psystrike.metric("psystrike_pod_connections{state=\"idle\"}"), 0.0);
    client.get(&target);
    assert_eq!(pod.connections(), 2);
}

// Size

#[test]
fn request_heads_are_limited() {
    let psystrike = start(&[]);
    let pod = Pod::serve("127.23.1.1", |head, client| {
        let answer = format!("HTTP/1.1 200 OK\r\nX-Length: {}\r\nContent-Length: 0\r\n\r\n", head.raw.len());
        client.send(answer).map(|()| Then::Keep)
    });
    let target = Psystrike::target(pod.address(), "/");
    let with_fields = |fields: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let of_length = |length: usize| {
        let padding = length - with_fields("X: \r\n").len();
        with_fields(&format!("X: {}\r\n", "x".repeat(padding)))
    };
    let long_target =
        |length: usize| format!("GET {target}{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(length));
    const LARGE: &str = "request headers over 16 KiB";
    const MANY: &str = "more than 100 request headers";
    const LONG: &str = "request target over 16 KiB";
    let kib_16 = 16 << 10;
    for (what, request, status, reason) in [
        ("a head of 16 KiB", of_length(kib_16), 200, "OK"),
        ("one byte more", of_length(kib_16 + 1), 431, LARGE),
        ("much more", of_length(10 * kib_16), 431, LARGE),
        ("no end of it", of_length(4 * kib_16).trim_end().into(), 431, LARGE),
        ("100 fields", with_fields(&"X: y\r\n".repeat(99)), 200, "OK"),
        ("101 fields", with_fields(&"X: y\r\n".repeat(100)), 431, MANY),
        ("thousands of fields", with_fields(&"X:\r\n".repeat(2000)), 431, MANY),
        ("a long target", long_target(15_000), 200, "OK"),
        ("a longer target", long_target(kib_16), 414, LONG),
        ("a target without an end", "GET /".to_owned() + &"x".repeat(3 * kib_16), 414, LONG),
        ("a method without an end", "G".repeat(3 * kib_16), 414, LONG),
    ] {
        let mut client = psystrike.client();
        let _ = client.try_send(&request); // the rest may be refused
        let response = client.response().unwrap_or_else(|broken| panic!("{what}: {broken:?}"));
        assert_eq!((response.status(), response.reason().as_str()), (status, reason), "{what}");
        if status != 200 {
            assert_eq!(response.head.values("Connection"), ["close"], "{what}");
            client.finish_sending();
            assert_eq!(client.end(), End::Eof, "{what}");
        }
    }
    assert_eq!(pod.heads().len(), 3, "a refused request reached the pod");
}

#[test]
fn response_heads_are_limited() {
    let psystrike = start(&[]);
    let with_fields = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 5\r\n\r\nup 1\n");
    let of_length = |length: usize| {
        let padding = length + 5 - with_fields("X: \r\n").len();
        with_fields(&format!("X: {}\r\n", "x".repeat(padding)))
    };
    const LARGE: &str = "response headers from the pod over 64 KiB";
    let kib_64 = 64 << 10;
    for (what, answer, status, reason) in [
        ("a head of 64 KiB", of_length(kib_64), 200, "OK"),
        ("one byte more", of_length(kib_64 + 1), 502, LARGE),
        ("no end of it", of_length(10 * kib_64), 502, LARGE),
        ("a status line without an end", "HTTP/1.1 200 ".to_owned() + &"x".repeat(2 * kib_64), 502, LARGE),
        ("256 fields", with_fields(&"X: y\r\n".repeat(255)), 200, "OK"),
        (
            "257 fields",
            with_fields(&"X: y\r\n".repeat(256)),
            502,
            "malformed response from the pod: more than 256 headers",
        ),
    ] {
        let pod = Pod::answering("127.23.1.2", answer, Then::Keep);
        let mut client = psystrike.client();
        for _ in 0..2 {
            let response = client.get(&Psystrike::target(pod.address(), "/"));
            assert_eq!((response.status(), response.reason().as_str()), (status, reason), "{what}");
        }
        assert_eq!(pod.connections(), if status == 200 { 1 } else { 2 }, "{what}");
    }
}

/// A pod with a long body, which counts the bytes that it has sent so far.
fn long(ip: &str) -> (Pod, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let pod = Pod::serve(ip, move |_, client| {
        client.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"))?;
        client.stream().set_write_timeout(None)?;
        let pieces = pattern();
        for _ in 0..LONG / MIB {
            let mut left = pieces.as_slice();
            while !left.is_empty() {
                let taken = (&**client.stream()).write(left)?;
                count.fetch_add(taken as u64, Ordering::SeqCst);
                left = &left[taken..];
            }
        }
        Ok(Then::Keep)
    });
    (pod, sent)
}

const LONG: u64 = 64 * MIB;

/// A mebibyte in which no two bytes nearby can be mistaken for each other.
fn pattern() -> Vec<u8> {
    (0..MIB as u32 / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_ne_bytes()).collect()
}

/// A client with a small receive buffer that requested the long body and read only its head.
fn stalled(psystrike: &Psystrike, pod: &Pod) -> Client {
    let mut client = psystrike.client();
    socket2::SockRef::from(client.stream()).set_recv_buffer_size(64 << 10).expect("it can be set");
    client.send(get(&Psystrike::target(pod.address(), "/")));
    client.stream().peek(&mut [0]).expect("the answer begins");
    client
}

#[test]
fn a_client_that_stops_reading_pauses_the_pod_and_costs_little_memory() {
    const CLIENTS: u64 = 16;
    let psystrike = start(&[]);
    let (pod, sent) = long("127.23.1.3");
    psystrike.get("/metrics");
    let before = psystrike.process().resident_bytes();

    let mut clients: Vec<_> = (0..CLIENTS).map(|_| stalled(&psystrike, &pod)).collect();
    let sent_then = settled("how much was sent", || sent.load(Ordering::SeqCst));
    let grown = psystrike.process().resident_bytes().saturating_sub(before);
    // Only the kernel's buffers and one read of 64 KiB for each are between them.
    assert!(sent_then < CLIENTS * 24 * MIB, "{} MiB were sent", sent_then / MIB);
    assert!(grown < CLIENTS * MIB / 4, "for {CLIENTS} clients it grew by {} KiB", grown >> 10);
    assert_eq!(psystrike.get("/healthz").status(), 200, "others are served");

    let mut goes_on = clients.pop().expect("there are some");
    let response = goes_on.response().expect("a whole answer");
    let pattern = pattern();
    assert_eq!(response.body.len() as u64, LONG);
    assert!(
        response.body.chunks(pattern.len()).all(|piece| piece == pattern),
        "the body differs from the sent one"
    );
    assert_eq!(goes_on.rest(QUIET), (vec![], End::Open));

    drop(clients);
    let left = usize::try_from(CLIENTS - 1).expect("a small number");
    pod.wait_for("the ends of the others' connections", |seen| seen.ended >= left);
    let grown = psystrike.process().resident_bytes().saturating_sub(before);
    assert!(grown < 4 * MIB, "afterwards it is larger by {} KiB", grown >> 10);
}

#[test]
fn a_client_that_does_not_read_is_closed_at_the_deadline() {
    let psystrike = start(&["--timeout", "1s"]);
    let (pod, _) = long("127.23.1.4");
    let mut client = stalled(&psystrike, &pod);
    pod.wait_for("the end of its connection", |seen| seen.ended == 1);
    let broken = client.response().expect_err("it was broken off");
    assert_ne!(broken.end, End::Open, "{broken:?}");
    assert_eq!(psystrike.outcomes("client_timeout"), 1.0);
    assert_eq!(psystrike.metric("psystrike_client_connections"), 1.0, "only the one that asks");
}

#[test]
fn a_client_that_pipelines_and_never_reads_costs_little_memory() {
    const REQUESTS: usize = 6_000; // some megabytes of answers: more than the kernel buffers
    let psystrike = start(&[]);
    psystrike.get("/metrics");
    let before = psystrike.process().resident_bytes();
    let client = psystrike.client();
    let mut asking = client.stream().try_clone().expect("a descriptor more");
    let requests = get("/").repeat(REQUESTS);
    let page = psystrike.get("/").text();
    thread::scope(|scope| {
        scope.spawn(move || asking.write_all(requests.as_bytes()).expect("the requests are read in the end"));
        // It stops reading when its responses are not read, and then sleeps.
        let cpu = || psystrike.process().cpu();
        let mut last = (cpu(), Instant::now());
        let rests = || {
            let now = cpu();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed()
        };
        poll("how long it sleeps", rests, |rests| *rests > Duration::from_millis(200));
        let grown = psystrike.process().resident_bytes().saturating_sub(before);
        assert!(grown < MIB, "it grew by {} KiB", grown >> 10);
        assert_eq!(psystrike.get("/healthz").status(), 200, "others are served");
        let mut client = client;
        for at in 0..REQUESTS {
            assert_eq!(client.response().expect("a whole answer").text(), page, "answer {at}");
        }
    });
}

/// Long downloads take turns, and short scrapes run first: they take not much longer than through an otherwise idle
/// process, measured at the same time.
#[test]
fn scrapes_during_long_downloads_take_little_longer() {
    const DOWNLOADS: usize = 30;
    const SCRAPES: usize = 150;
    let [busy, idle] = [start(&[]), start(&[])];
    let endless = Pod::serve("127.23.1.5", |_, client| {
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
        let piece = vec![b'x'; 1 << 18];
        loop {
            client.send(&piece)?;
        }
    });
    let pod = Pod::answering("127.23.1.6", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..DOWNLOADS {
            scope.spawn(|| {
                let mut greedy = busy.client();
                greedy.send(get(&Psystrike::target(endless.address(), "/")));
                let mut sink = vec![0; 1 << 16];
                while !stop.load(Ordering::SeqCst) {
                    assert!(greedy.stream().read(&mut sink).expect("it goes on") > 0);
                }
            });
        }
        let sent = || busy.metric("psystrike_client_sent_bytes_total");
        poll("bytes of downloads", sent, |sent| *sent > 2e8);
        let from = (sent(), Instant::now());
        let mut clients = [busy.client(), idle.client()];
        let mut times = [vec![], vec![]];
        for _ in 0..SCRAPES {
            for (client, times) in clients.iter_mut().zip(&mut times) {
                let began = Instant::now();
                assert_eq!(client.get(&target).status(), 200);
                times.push(began.elapsed());
            }
        }
        let megabytes = (sent() - from.0) / from.1.elapsed().as_secs_f64() / 1e6;
        stop.store(true, Ordering::SeqCst);
        let [(busy, busy_p99), (idle, idle_p99)] = times.map(|mut times| {
            times.sort();
            (times[SCRAPES / 2], times[SCRAPES * 99 / 100])
        });
        support::tell(&format!(
            "beside downloads p50 {busy:?} p99 {busy_p99:?}, without p50 {idle:?} p99 {idle_p99:?}; downloads \
             {megabytes:.0} MB/s"
        ));
        assert!(busy < 2 * idle + Duration::from_millis(4), "{busy:?} beside downloads, {idle:?} without");
    });
}

// Number

#[test]
fn at_the_limit_the_longest_idle_client_is_closed() {
    let psystrike = start(&["--clients-max", "3"]);
    let [mut a, mut b, mut c] = [(); 3].map(|()| psystrike.client());
    for client in [&mut a, &mut b, &mut c] {
        client.get("/healthz");
    }
    a.get("/healthz");
    let mut d = psystrike.client();
    assert_eq!(d.get("/healthz").status(), 200);
    assert_eq!(b.end(), End::Eof, "the longest-idle client is closed");
    for client in [&mut a, &mut c, &mut d] {
        assert_eq!(client.get("/healthz").status(), 200);
    }
}

#[test]
fn at_the_limit_without_idle_clients_a_new_one_gets_503() {
    let psystrike = start(&["--clients-max", "2", "--header-timeout", "1m"]);
    let (pod, gate) = gated("127.23.2.1");
    let mut busy: Vec<_> = (0..2).map(|_| scraping(&psystrike, &pod)).collect();
    let too_many = (503, "too many clients");
    for (request, expected) in [
        (get(&Psystrike::target(pod.address(), "/")), too_many),
        (get(&format!("http://{}/", pod.address())), too_many),
        ("nonsense\r\n\r\n".into(), (400, "malformed request: request line")),
        // Probes and metrics are still answered.
        (get("/healthz"), (200, "OK")),
        (get("/readyz"), (200, "OK")),
        (get("/metrics"), (200, "OK")),
    ] {
        let mut client = psystrike.client();
        client.send(&request);
        client.send(get("/readyz"));
        let response = client.response().expect("a whole answer");
        assert_eq!((response.status(), response.reason().as_str()), expected, "{request:?}");
        assert_eq!(response.head.values("Connection"), ["close"]);
        assert_eq!(client.end(), End::Eof);
    }
    assert_eq!(pod.heads().len(), 2);

    // A silent client does not block others.
    let silent = psystrike.client();
    gate.open();
    for client in &mut busy {
        assert_eq!(client.response().expect("a response").status(), 200);
    }
    assert_eq!(psystrike.get("/healthz").status(), 200, "there are two that idle");
    drop(silent);

    drop(busy);
    for _ in 0..5 {
        let mut clients: Vec<_> = (0..2).map(|_| psystrike.client()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/healthz").status(), 200));
    }
}

#[test]
fn an_idle_client_on_any_worker_is_closed_for_a_new_one() {
    let psystrike = start(&["--clients-max", "1", "--workers", "2"]);
    let mut idle = psystrike.client();
    assert_eq!(idle.get("/healthz").status(), 200);
    // The kernel distributes the connections; with this many, both cases occur.
    for nth in 0..30 {
        let mut next = psystrike.client();
        assert_eq!(next.get("/healthz").status(), 200, "client {nth}");
        assert_eq!(idle.end(), End::Eof, "client {nth}");
        idle = next;
    }
    // If no client is idle, no place becomes free.
    let (pod, gate) = gated("127.23.2.3");
    let mut busy = scraping(&psystrike, &pod);
    for nth in 0..3 {
        assert_eq!(psystrike.get(&Psystrike::target(pod.address(), "/")).status(), 503, "client {nth}");
    }
    gate.open();
    assert_eq!(busy.response().expect("a response").status(), 200);
}

#[test]
fn at_the_limit_clients_that_send_a_moment_later_are_answered() {
    const CLIENTS: usize = 8;
    const TRIES: usize = 60;
    for workers in ["1", "2", "3"] {
        let psystrike = start(&["--clients-max", "4", "--workers", workers]);
        let pod = Pod::answering("127.23.2.9", PAGE, Then::Keep);
        let target = Psystrike::target(pod.address(), "/");
        let ask = || {
            let mut client = psystrike.client();
            thread::sleep(Duration::from_millis(5)); // the pause is the subject
            // It may be turned away during the pause.
            let _ = client.try_send(get(&target));
            client.response().map(|response| response.status())
        };
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..CLIENTS).map(|_| scope.spawn(|| (0..TRIES).map(|_| ask()).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
        });
        let count =
            |status| answers.iter().filter(|answer| matches!(answer, Ok(known) if *known == status)).count();
        let (answered, rejected) = (count(200), count(503));
        assert_eq!(
            answered + rejected,
            CLIENTS * TRIES,
            "of {workers} workers: some were closed without a response: {answers:?}"
        );
        assert!(rejected <= CLIENTS * TRIES / 50, "of {workers} workers: {rejected} were turned away");
    }
}

#[test]
fn at_the_limit_silent_clients_get_503_and_are_closed() {
    for workers in ["1", "2"] {
        let psystrike = start(&["--clients-max", "5", "--workers", workers]);
        let (pod, gate) = gated("127.23.2.10");
        let began = Instant::now();
        let mut silent: Vec<_> = (0..4).map(|_| psystrike.client()).collect();
        poll("clients", || psystrike.metric("psystrike_client_connections"), |clients| *clients == 5.0);
        let mut busy = scraping(&psystrike, &pod);
        let mut asks: Vec<_> = (0..4).map(|_| psystrike.client()).collect();
        asks.iter_mut().for_each(|client| client.send(get("/healthz")));
        for client in &mut asks {
            assert_eq!(client.response().expect("a whole answer").status(), 200);
        }
        assert!(
            began.elapsed() >= Duration::from_secs(1),
            "silent clients were closed before their grace time"
        );
        // The first one that was answered may have been closed for the next.
        let rejected = silent.iter_mut().filter(|client| {
            client.stream().set_read_timeout(Some(QUIET)).expect("it can be set");
            client.stream().peek(&mut [0]).is_ok()
        });
        let rejected: Vec<_> = rejected.collect();
        assert!(!rejected.is_empty());
        for client in rejected {
            client.stream().set_read_timeout(Some(LIMIT)).expect("it can be set");
            let response = client.response().expect("a whole answer");
            assert_eq!((response.status(), response.reason().as_str()), (503, "too many clients"));
            assert_eq!(client.end(), End::Eof);
        }
        gate.open();
        assert_eq!(busy.response().expect("a response").status(), 200);
    }
}

#[test]
fn the_longest_idle_client_on_any_worker_is_closed_first() {
    const CLIENTS: usize = 12;
    let psystrike = start(&["--clients-max", "12", "--workers", "3"]);
    let client = || {
        let mut client = psystrike.client();
        assert_eq!(client.get("/healthz").status(), 200);
        client
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
    // No matter which workers accept the new ones.
    for nth in 0..2 * CLIENTS {
        clients.push(client());
        assert_eq!(clients.remove(0).end(), End::Eof, "client {nth}");
    }
    for client in &mut clients {
        assert_eq!(client.get("/healthz").status(), 200);
    }
}

#[test]
fn far_beyond_the_limit_no_client_waits_forever() {
    let psystrike = start(&["--clients-max", "1"]);
    let (pod, gate) = gated("127.23.2.2");
    let mut busy = scraping(&psystrike, &pod);
    let mut turned_away: Vec<_> = (0..200).map(|_| psystrike.client()).collect();
    for client in &mut turned_away {
        let target = Psystrike::target(pod.address(), "/");
        let _ = client.try_send(get(&target)); // many are closed already
    }
    let answers = turned_away.iter_mut().map(|client| match client.response() {
        Ok(response) => {
            assert_eq!(response.status(), 503);
            1
        }
        Err(broken) => {
            assert_ne!(broken.end, End::Open, "{broken:?}");
            0
        }
    });
    let rejected: usize = answers.sum();
    // Later requests may be answered by a reset, which should not destroy the response.
    assert!(rejected >= 190, "only {rejected} received the reason");
    gate.open();
    assert_eq!(busy.response().expect("a response").status(), 200);
    drop((busy, turned_away));
    poll("clients", || psystrike.metric("psystrike_client_connections"), |clients| *clients == 1.0);
}

#[test]
fn a_client_turned_away_at_once_gets_503_without_a_reset() {
    let psystrike = start(&["--clients-max", "1"]);
    let (pod, gate) = gated("127.23.2.12");
    let mut busy = scraping(&psystrike, &pod);
    psystrike.process().stop();
    let mut turned_away: Vec<_> = (0..100).map(|_| psystrike.client()).collect();
    for client in &turned_away {
        // As with a distant client, no acknowledgement has arrived when the connection is closed.
        socket2::SockRef::from(client.stream()).set_tcp_quickack(false).expect("it can be set");
    }
    psystrike.signal(Signal::CONT);
    for client in &mut turned_away {
        assert_eq!(client.response().expect("a whole answer").status(), 503);
        assert_eq!(client.end(), End::Eof);
        // Only this shows a reset after the end.
        assert!(client.stream().take_error().expect("it can be read").is_none());
    }
    gate.open();
    assert_eq!(busy.response().expect("a response").status(), 200);
}

#[test]
fn clients_that_connect_at_once_are_answered_or_get_503() {
    let psystrike = start(&["--clients-max", "4"]);
    let pod = Pod::answering("127.23.2.3", PAGE, Then::Keep);
    // All of them have connected and sent requests before any is accepted.
    psystrike.process().stop();
    let mut clients: Vec<_> = (0..20).map(|_| psystrike.client()).collect();
    clients.iter_mut().for_each(|client| client.send(get(&Psystrike::target(pod.address(), "/"))));
    psystrike.signal(Signal::CONT);
    let statuses = clients.iter_mut().map(|client| {
        let response = client.response();
        response.unwrap_or_else(|broken| panic!("neither a response nor a 503: {broken:?}")).status()
    });
    let statuses: Vec<_> = statuses.collect();
    assert!(statuses.iter().filter(|status| **status == 200).count() >= 4, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
}

#[test]
fn pooled_connections_are_limited_and_the_least_recently_used_is_closed() {
    let psystrike = start(&["--upstreams-idle-max", "2"]);
    let pods = ["127.23.2.4", "127.23.2.5", "127.23.2.6"].map(|ip| Pod::answering(ip, PAGE, Then::Keep));
    let mut client = psystrike.client();
    let mut scrape = |pod: usize| client.get(&Psystrike::target(pods[pod].address(), "/")).status();
    for pod in [0, 1, 0, 2] {
        assert_eq!(scrape(pod), 200);
    }
    pods[1].wait_for("the end of its connection", |seen| seen.ended == 1);
    assert_eq!([scrape(0), scrape(2), scrape(1)], [200; 3]);
    pods[0].wait_for("the end of its connection", |seen| seen.ended == 1);
    assert_eq!([0, 1, 2].map(|pod| pods[pod].connections()), [1, 2, 1]);
    assert_eq!(psystrike.metric("psystrike_pod_connections{state=\"idle\"}"), 2.0);
}

/// Few enough that some scrapes use all of them.
const OPEN_FILES: usize = 40;

fn start_with_few_files(arguments: &[&str]) -> Psystrike {
    let arguments = [&["--allow", "127.0.0.0/8", "--clients-max", "1000"], arguments].concat();
    Psystrike::start_with_open_files(OPEN_FILES, &arguments)
}

#[test]
fn without_descriptors_it_neither_spins_nor_hangs_and_recovers() {
    let psystrike = start_with_few_files(&["--header-timeout", "1m"]);
    let (pod, gate) = gated("127.23.2.7");
    let target = Psystrike::target(pod.address(), "/");
    let mut scrapes: Vec<_> = (0..5).map(|_| scraping(&psystrike, &pod)).collect();
    // None of these is idle: each has sent the beginning of a request.
    let begin = |_| {
        let mut client = psystrike.client();
        client.send(format!("GET {target} HTTP/1.1\r\n"));
        client
    };
    let mut begun: Vec<_> = (0..2 * OPEN_FILES).map(begin).collect();
    psystrike.wait_for_line("no file descriptor left");

    // The test checks that psystrike does nothing in this time, so it sleeps.
    let cpu = psystrike.process().cpu();
    thread::sleep(Duration::from_millis(500));
    let cpu = psystrike.process().cpu() - cpu;
    assert!(cpu < Duration::from_millis(120), "it spins: {cpu:?} in 500ms");

    // The first ones were accepted, and no descriptor is left for their pod.
    for client in &mut begun[..3] {
        client.send("Host: x\r\n\r\n");
        let response = client.response().expect("a whole answer");
        let reason = "no file descriptor left for a connection to the pod".to_owned();
        assert_eq!((response.status(), response.reason()), (503, reason));
    }
    gate.open();
    for client in &mut scrapes {
        assert_eq!(client.response().expect("a response").status(), 200);
    }
    drop((begun, scrapes));
    for _ in 0..50 {
        assert_eq!(psystrike.get(&target).status(), 200);
    }
    poll("clients", || psystrike.metric("psystrike_client_connections"), |clients| *clients == 1.0);
}

#[test]
fn without_descriptors_idle_connections_are_closed() {
    let psystrike = start_with_few_files(&[]);
    // More pooled pod connections than there are descriptors.
    let pods: Vec<_> = (0..OPEN_FILES).map(|_| Pod::answering("127.23.2.8", PAGE, Then::Keep)).collect();
    let mut client = psystrike.client();
    for pod in &pods {
        assert_eq!(client.get(&Psystrike::target(pod.address(), "/")).status(), 200);
    }
    // Then as many idle clients, one after another, because each has to be served.
    let mut clients = Vec::new();
    for _ in 0..2 * OPEN_FILES {
        let mut client = psystrike.client();
        assert_eq!(client.get("/healthz").status(), 200);
        clients.push(client);
    }
    let mut last = clients.pop().expect("there are some");
    assert_eq!(last.get(&Psystrike::target(pods[0].address(), "/")).status(), 200);
}

// Log

#[test]
fn many_failures_do_not_flood_the_log() {
    const SCRAPES: usize = 1000;
    let mut psystrike = start(&[]);
    let dead = Refusing::on("127.23.3.1");
    let target = Psystrike::target(dead.address(), "/");
    let mut client = psystrike.client();
    for _ in 0..SCRAPES {
        assert_eq!(client.get(&target).status(), 502);
    }
    for _ in 0..SCRAPES {
        assert_eq!(client.get("/pods/10.0.0.1/1/").status(), 403);
    }
    assert_eq!(psystrike.outcomes("connection_refused"), SCRAPES as f64);
    assert!(psystrike.terminate(LIMIT).success());
    let log = psystrike.stderr();
    let about: Vec<_> = log.lines().filter(|line| line.contains("pod refused the connection")).collect();
    assert!((1..5).contains(&about.len()), "{about:?}");
    assert!(about[0].contains(&dead.address().to_string()), "{about:?}");
    assert!(log.lines().count() < 20, "{log}");
}

#[test]
fn the_access_log_has_one_line_per_scrape_and_only_if_enabled() {
    let pod = Pod::answering("127.23.3.2", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), "/metrics?a=%22b");
    for (arguments, expected) in [(&["--access-log"][..], 10), (&[], 0)] {
        let mut psystrike = start(arguments);
        let mut client = psystrike.client();
        let peer = client.stream().local_addr().expect("it is connected");
        for _ in 0..10 {
            assert_eq!(client.get(&target).status(), 200);
            assert_eq!(client.get("/healthz").status(), 200);
        }
        drop(client);
        assert!(psystrike.terminate(LIMIT).success());
        let log = psystrike.stderr();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&format!("client={peer} "))).collect();
        assert_eq!(lines.len(), expected, "{log}");
        let scrapes = lines.iter().filter(|line| {
            line.contains(&format!("request=\"GET {target}\""))
                && line.contains("status=200 outcome=forwarded")
        });
        assert_eq!(scrapes.count(), expected, "{log}");
    }
}

#[test]
fn a_client_cannot_forge_log_lines() {
    let mut psystrike = start(&["--access-log"]);
    let mut client = psystrike.client();
    client.send("GET /\"x\\\x1b[2J HTTP/1.1\r\nHost: x\r\n\r\n");
    client.response().expect("a response with the reason");
    let mut client = psystrike.client();
    client.get("/pods/\"code=200\\n/1/m");
    assert!(psystrike.terminate(LIMIT).success());
    let log = psystrike.stderr();
    assert!(!log.contains('\x1b'), "{log}");
    assert!(log.contains(r#"request="GET /pods/\"code=200\\n/1/m" status=400"#), "{log}");
}
