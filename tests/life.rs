//! The life of the real process: how it ends by signals, and that resources do not accumulate.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Condvar, Mutex, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

use support::{
    LIMIT, Scratch,
    http::{Client, End, get},
    pods::{Pod, Then},
    poll,
    program::Signal,
    psystrike::Psystrike,
    require_working,
};

const PAGE: &str = "HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 5\r\n\r\nup 1\n";

/// The exit status after a second signal.
const ENDED_AT_ONCE: Option<i32> = Some(143);

fn start(arguments: &[&str]) -> Psystrike {
    Psystrike::start(&[&["--allow", "127.0.0.0/8"], arguments].concat())
}

/// A pod that begins its response, and completes it on request.
struct Slow {
    pod: Pod,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Slow {
    /// Sends `first` at once, and `then` after [`Self::go_on`].
    fn new(ip: &str, first: &'static str, then: &'static str) -> Self {
        let gate = Arc::<(Mutex<bool>, Condvar)>::default();
        let of_pod = gate.clone();
        let pod = Pod::serve(ip, move |_, client| {
            client.send(first)?;
            let (open, changed) = &*of_pod;
            drop(changed.wait_timeout_while(open.lock().unwrap(), LIMIT, |open| !*open).unwrap());
            client.send(then).map(|()| Then::Keep)
        });
        Self { pod, gate }
    }

    fn go_on(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    fn target(&self) -> String {
        Psystrike::target(self.pod.address(), "/")
    }

    /// A client whose scrape is under way.
    fn scraping(&self, psystrike: &Psystrike) -> Client {
        let before = self.pod.heads().len();
        let mut client = psystrike.client();
        client.send(get(&self.target()));
        self.pod.wait_for("the request", |seen| seen.heads.len() > before);
        client
    }
}

fn wait_until_refused(address: SocketAddr) {
    poll(
        "a connection where nobody listens any more",
        || TcpStream::connect(address).is_ok(),
        |connected| !connected,
    );
}

// Signals

#[test]
fn either_signal_ends_an_idle_process_at_once() {
    for workers in ["1", "3"] {
        for signal in [Signal::TERM, Signal::INT] {
            let mut psystrike = start(&["--workers", workers]);
            let pod = Pod::answering("127.24.0.1", PAGE, Then::Keep);
            let target = Psystrike::target(pod.address(), "/");
            let mut clients: Vec<_> = (0..8).map(|_| psystrike.client()).collect();
            clients.iter_mut().for_each(|client| assert_eq!(client.get(&target).status(), 200));
            let mut fresh = psystrike.client();
            psystrike.signal(signal);
            let status = psystrike.wait(LIMIT);
            assert_eq!(status.code(), Some(0), "{signal:?}");
            clients.iter_mut().for_each(|client| assert_eq!(client.end(), End::Eof));
            assert_eq!(fresh.end(), End::Eof, "a connection that never sent anything");
            pod.wait_for("the ends of its connections", |seen| seen.ended == seen.accepted);
            assert!(psystrike.stderr().contains("shutdown complete"), "{}", psystrike.stderr());
        }
    }
}

#[test]
fn a_running_scrape_finishes_with_connection_close() {
    let mut psystrike = start(&[]);
    let not_begun = Slow::new("127.24.0.2", "", PAGE);
    let begun = Slow::new("127.24.0.3", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup", " 1\n");
    let mut scrape = not_begun.scraping(&psystrike);
    let mut long = begun.scraping(&psystrike);
    long.stream().peek(&mut [0]).expect("the answer begins");
    let mut two = not_begun.scraping(&psystrike);
    two.send(get("/healthz"));

    psystrike.signal(Signal::TERM);
    wait_until_refused(psystrike.address());
    not_begun.go_on();
    begun.go_on();
    let response = scrape.response().expect("a complete response");
    assert_eq!((response.status(), response.head.values("Connection")), (200, vec!["close".into()]));
    assert_eq!(scrape.end(), End::Eof);
    assert_eq!(long.response().expect("a complete response").text(), "up 1\n");
    assert_eq!(long.end(), End::Eof);
    assert_eq!(two.response().expect("a complete response").head.values("Connection"), ["close"]);
    assert_eq!(two.rest(LIMIT).0, b"", "the second is not answered after that");
    assert_eq!(psystrike.wait(LIMIT).code(), Some(0));
}

#[test]
fn during_the_delay_all_are_served_with_connection_close() {
    let mut psystrike = start(&["--shutdown-delay", "700ms"]);
    let pod = Pod::answering("127.24.0.4", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    let mut kept = psystrike.client();
    assert_eq!(kept.get(&target).head.field("Connection"), None);
    let mut idle = psystrike.client();
    idle.get("/healthz");
    let began = Instant::now();
    psystrike.signal(Signal::TERM);
    poll("/readyz", || psystrike.get("/readyz").status(), |status| *status == 503);

    let readiness = psystrike.get("/readyz");
    assert_eq!(
        (readiness.reason().as_str(), readiness.text().as_str()),
        ("Service Unavailable", "shutting down\n")
    );
    for (mut client, page, status) in [
        (kept, target.as_str(), 200),
        (psystrike.client(), &target, 200),
        (psystrike.client(), "/healthz", 200),
        (psystrike.client(), "/metrics", 200),
        (psystrike.client(), "/nowhere", 404),
    ] {
        let response = client.get(page);
        assert_eq!(
            (response.status(), response.head.values("Connection")),
            (status, vec!["close".into()]),
            "{page}"
        );
        assert_eq!(client.end(), End::Eof, "{page}");
    }
    let mut old = psystrike.client();
    old.send(format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    assert_eq!(old.response().expect("a whole answer").head.values("Connection"), ["close"]);
    assert_eq!(idle.rest(Duration::from_millis(1)), (vec![], End::Open), "an idle client is not closed yet");

    assert_eq!(psystrike.wait(LIMIT).code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(idle.end(), End::Eof);
}

#[test]
fn scrapes_that_do_not_finish_in_time_are_aborted() {
    let mut psystrike = start(&["--shutdown-timeout", "300ms"]);
    let slow = Slow::new("127.24.0.5", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup", " 1\n");
    let mut client = slow.scraping(&psystrike);
    let began = Instant::now();
    let status = psystrike.terminate(LIMIT);
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    let broken = client.response().expect_err("the response was aborted");
    assert_ne!(broken.end, End::Open);
    assert!(psystrike.stderr().contains("shutdown timeout reached"), "{}", psystrike.stderr());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (arguments, wait_for) in [
        (&["--shutdown-delay", "1h"][..], "/readyz now returns 503"),
        (&["--shutdown-timeout", "1h"], "waiting up to"),
    ] {
        for (second, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
            let mut psystrike = start(arguments);
            let slow = Slow::new("127.24.0.6", "", PAGE);
            let mut client = slow.scraping(&psystrike);
            psystrike.signal(Signal::TERM);
            psystrike.wait_for_line(wait_for);
            psystrike.signal(second);
            assert_eq!(psystrike.wait(LIMIT).code(), ENDED_AT_ONCE, "{arguments:?}, {second:?}");
            let logged = format!("received {name} during shutdown; exiting at once");
            assert!(psystrike.stderr().contains(&logged), "{logged:?} in {}", psystrike.stderr());
            assert_ne!(client.rest(LIMIT).1, End::Open);
        }
    }
}

#[test]
fn connections_before_the_signal_are_answered() {
    // Connections and requests that are not accepted yet when the signal arrives.
    for workers in ["1", "2"] {
        let mut psystrike = start(&["--workers", workers]);
        let pod = Pod::answering("127.24.0.7", PAGE, Then::Keep);
        let request = get(&Psystrike::target(pod.address(), "/"));
        psystrike.process().stop();
        let mut clients: Vec<_> = (0..300).map(|_| psystrike.client()).collect();
        clients.iter_mut().for_each(|client| client.send(&request));
        psystrike.signal(Signal::TERM);
        psystrike.signal(Signal::CONT);
        for (at, client) in clients.iter_mut().enumerate() {
            let response = client.response();
            let response =
                response.unwrap_or_else(|broken| panic!("client {at} of {workers} workers: {broken:?}"));
            assert_eq!(response.status(), 200);
        }
        drop(clients);
        assert_eq!(psystrike.wait(LIMIT).code(), Some(0));
    }
}

#[test]
fn a_last_moment_connection_may_still_send_a_request() {
    for workers in ["1", "2"] {
        let mut psystrike = start(&["--workers", workers]);
        let pod = Pod::answering("127.24.0.10", PAGE, Then::Keep);
        let request = get(&Psystrike::target(pod.address(), "/"));
        psystrike.process().stop();
        let mut clients: Vec<_> = (0..50).map(|_| psystrike.client()).collect();
        psystrike.signal(Signal::TERM);
        psystrike.signal(Signal::CONT);
        psystrike.wait_for_line("waiting up to");
        wait_until_refused(psystrike.address());
        let (mut asks, mut silent) = (clients.split_off(25), clients);
        for (at, client) in asks.iter_mut().enumerate() {
            client.send(&request);
            let response = client.response().unwrap_or_else(|broken| panic!("client {at}: {broken:?}"));
            assert_eq!((response.status(), response.head.values("Connection")), (200, vec!["close".into()]));
        }
        drop(asks);
        silent.iter_mut().for_each(|client| assert_eq!(client.end(), End::Eof));
        assert_eq!(psystrike.wait(LIMIT).code(), Some(0));
        assert!(psystrike.stderr().contains("shutdown complete"), "{}", psystrike.stderr());
    }
}

#[test]
fn as_process_1_it_ends_by_a_signal_too() {
    const UNSHARE: &[&str] = &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    if !require_working(&[UNSHARE, &["true"]].concat()) {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let mut psystrike = Psystrike::start_under(UNSHARE, &["--allow", "127.0.0.0/8"]);
        let first = psystrike.process().child();
        assert_eq!(
            first.status().nspid.and_then(|ids| ids.last().copied()),
            Some(1),
            "it is process 1 of its namespace"
        );
        let slow = Slow::new("127.24.0.8", "", PAGE);
        let mut client = slow.scraping(&psystrike);
        first.signal(signal);
        psystrike.wait_for_line("waiting up to");
        slow.go_on();
        assert_eq!(client.response().expect("a complete response").status(), 200);
        assert_eq!(psystrike.wait(LIMIT).code(), Some(0), "{signal:?}");
    }
}

#[test]
fn other_signals_do_not_end_it() {
    let mut psystrike = start(&[]);
    for signal in [Signal::PIPE, Signal::CHILD, Signal::WINCH, Signal::URG] {
        psystrike.signal(signal);
        assert_eq!(psystrike.get("/healthz").status(), 200, "after {signal:?}");
    }
    assert_eq!(psystrike.terminate(LIMIT).code(), Some(0));
}

#[test]
fn sighup_is_logged_and_sigusr1_and_sigusr2_are_ignored() {
    let mut psystrike = start(&["--shutdown-delay", "1h"]);
    let pod = Pod::answering("127.24.1.9", PAGE, Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    for signal in [Signal::USR1, Signal::HUP, Signal::USR2, Signal::HUP] {
        psystrike.signal(signal);
        assert_eq!(psystrike.get(&target).status(), 200, "after {signal:?}");
    }
    const RELOAD: &str = "received SIGHUP; there are no files to reload";
    psystrike.wait_for_lines(RELOAD, 2);
    // Nor do these signals end it early during shutdown.
    psystrike.signal(Signal::TERM);
    psystrike.wait_for_line("received SIGTERM");
    psystrike.signal(Signal::HUP);
    psystrike.wait_for_lines(RELOAD, 3);
    assert_eq!(psystrike.get(&target).status(), 200);
    assert_eq!(psystrike.terminate(LIMIT).code(), Some(143));
}

// Cost

#[test]
fn closed_clients_leave_no_resources() {
    const CLIENTS: usize = 300;
    let psystrike = start(&["--upstreams-idle-max", "8"]);
    let pod = Pod::answering("127.24.2.1", PAGE, Then::Keep);
    let silent = Slow::new("127.24.2.2", "", "");
    let target = Psystrike::target(pod.address(), "/");
    let churn = || {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| psystrike.client()).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            match at % 5 {
                0 => client.send("GET /x HTTP/1.1\r\n"),
                1 => client.send(get(&silent.target())),
                2 => client.send(format!("{}{}", get(&target), get(&target))),
                3 => assert_eq!(client.get(&target).status(), 200),
                _ => {}
            }
        }
        for (at, client) in clients.into_iter().enumerate() {
            if at % 2 == 0 { client.reset() } else { drop(client) }
        }
        let clients = || psystrike.metric("psystrike_client_connections");
        poll("clients", clients, |clients| *clients == 1.0);
        let active = || psystrike.metric("psystrike_pod_connections{state=\"active\"}");
        poll("pod connections in use", active, |active| *active == 0.0);
        (psystrike.process().resident_bytes(), psystrike.metric("process_open_fds"))
    };
    let (memory, files) = churn();
    let later = [churn(), churn(), churn()];
    for (memory_later, files_later) in later {
        assert!(memory_later < memory + (1 << 20), "resident memory: {memory}, then {later:?}");
        assert!(files_later <= files + 8.0, "open files: {files}, then {later:?}");
    }
}

#[test]
fn an_idle_process_does_nothing() {
    let psystrike = start(&["--client-idle-timeout", "1h"]);
    let pod = Pod::answering("127.24.2.3", PAGE, Then::Keep);
    let mut clients: Vec<_> = (0..50).map(|_| psystrike.client()).collect();
    for client in &mut clients {
        client.get(&Psystrike::target(pod.address(), "/"));
    }
    let before = psystrike.process().waits();
    thread::sleep(Duration::from_millis(300)); // the test checks that nothing happens
    let woken = psystrike.process().waits() - before;
    assert!(woken <= 1, "it woke up {woken} times in 300ms");
}

/// Scrapes this often on one connection, of a pod with a persistent connection, and counts the system calls in between,
/// including those for the response to `/readyz?begins`. `under_way` is called in every scrape, before the response is
/// read.
fn calls_of_scrapes(
    name: &str,
    pod: &Pod,
    scrapes: usize,
    under_way: impl Fn(&mut Client),
) -> Option<BTreeMap<String, usize>> {
    if !require_working(&["strace", "-o", "/dev/null", "true"]) {
        return None;
    }
    let scratch = Scratch::new(name);
    let trace = scratch.path("trace");
    let strace = ["strace", "-f", "-qq", "-o", &trace.display().to_string()];
    let mut psystrike = Psystrike::start_under(&strace, &["--allow", "127.0.0.0/8"]);
    let target = Psystrike::target(pod.address(), "/");
    let mut client = psystrike.client();
    let scrape = |client: &mut Client| {
        client.send(get(&target));
        under_way(client);
        assert_eq!(client.response().expect("a whole answer").status(), 200);
    };
    (0..20).for_each(|_| scrape(&mut client));
    client.get("/readyz?begins");
    (0..scrapes).for_each(|_| scrape(&mut client));
    client.get("/readyz?ends");
    psystrike.process().child().signal(Signal::TERM);
    assert!(psystrike.wait(LIMIT).success());

    let trace = fs::read_to_string(&trace).expect("strace has written it");
    let between = trace.lines().skip_while(|line| !line.contains("GET /readyz?begins")).skip(1);
    let between = between.take_while(|line| !line.contains("GET /readyz?ends"));
    let mut calls = BTreeMap::<String, usize>::new();
    for line in between {
        // `1234 recvfrom(9, ...`; a call that another thread interrupts is counted at its first line.
        let call = line.split_whitespace().nth(1).and_then(|call| call.split_once('('));
        if let Some((call, _)) = call.filter(|(name, _)| !name.starts_with(['<', '+', '-'])) {
            let of_body = if line.contains(", \"xxx") { OF_BODY } else { "" };
            *calls.entry(format!("{call}{of_body}")).or_default() += 1;
        }
        // `epoll_wait(4, [{...}], 256, -1) = 1` waits for events, however long that takes.
        let arguments = line.rsplit_once("], ").map(|(_, arguments)| arguments.split([',', ')']));
        let limit = arguments.and_then(|mut arguments| arguments.nth(1));
        if line.contains("epoll_") && line.contains(") = ") && limit != Some(" -1") {
            *calls.entry(LIMITED_WAIT.to_owned()).or_default() += 1;
        }
    }
    Some(calls)
}

/// Removes the calls with these names, and returns their number.
fn take(calls: &mut BTreeMap<String, usize>, names: &[&str]) -> usize {
    names.iter().filter_map(|name| calls.remove(*name)).sum()
}

/// The suffix of the name of a call whose bytes are those of a body of `x`, without a head before them.
const OF_BODY: &str = " of a body";
const READ_BODY: &[&str] = &["recvfrom of a body", "read of a body"];
const WRITTEN_BODY: &[&str] = &["sendto of a body"];
const READS: &[&str] = &["recvfrom", "read", "readv"];
const WRITES: &[&str] = &["sendto", "write", "writev", "sendmsg"];
const WAITS: &[&str] = &["epoll_wait", "epoll_pwait"];
/// A wait with a time limit, for which the kernel adds and removes a timer.
const LIMITED_WAIT: &str = "wait with a time limit";

#[test]
fn a_scrape_on_persistent_connections_takes_two_reads_two_writes_and_two_waits() {
    const SCRAPES: usize = 200;
    let pod = Pod::answering("127.24.2.4", PAGE, Then::Keep);
    let Some(all) = calls_of_scrapes("system-calls", &pod, SCRAPES, |_| ()) else { return };
    let mut others = all.clone();
    let [reads, writes, waits] = [READS, WRITES, WAITS].map(|names| take(&mut others, names));
    let most = 2 * SCRAPES + 2;
    assert!((2 * SCRAPES..=most).contains(&reads), "{all:?}");
    assert!((2 * SCRAPES..=most).contains(&writes), "{all:?}");
    assert!(waits <= most + SCRAPES / 20, "{all:?}");
    assert!(others.values().sum::<usize>() <= 2, "{all:?}");
}

#[test]
fn a_long_scrape_on_persistent_connections_takes_a_peek_and_two_splices_more() {
    const SCRAPES: usize = 200;
    const BODY: usize = 64 << 10;
    let head = format!("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: {BODY}\r\n\r\n");
    let pod = Pod::answering("127.24.2.5", head + &"x".repeat(BODY), Then::Keep);
    let Some(all) = calls_of_scrapes("system-calls-long", &pod, SCRAPES, |_| ()) else { return };
    let mut others = all.clone();
    let [read, written] = [READ_BODY, WRITTEN_BODY].map(|names| take(&mut others, names));
    let [reads, writes, waits] = [READS, WRITES, WAITS].map(|names| take(&mut others, names));
    let [splices, tees] = ["splice", "tee"].map(|name| take(&mut others, &[name]));
    // The reads are those of the request, of the head in the pipe, and one after the response's end. If the kernel has
    // only a part of the response at first, the rest takes two more splices, or three if one finds nothing. A short
    // rest takes a read and a write instead, as the next test shows.
    let in_parts = SCRAPES / 4;
    assert!((3 * SCRAPES..=3 * SCRAPES + 2 + in_parts).contains(&(reads + read)), "{all:?}");
    assert!(read <= in_parts && written <= read, "{all:?}");
    assert!((SCRAPES..=SCRAPES + 2).contains(&writes), "{all:?}");
    assert!((SCRAPES..=SCRAPES + 2).contains(&tees), "{all:?}");
    assert!((2 * SCRAPES..=2 * SCRAPES + 3 * in_parts).contains(&splices), "{all:?}");
    assert!(waits <= 2 * SCRAPES + 2 + SCRAPES / 20 + 2 * in_parts, "{all:?}");
    assert!(others.values().sum::<usize>() <= 2, "{all:?}");
}

#[test]
fn a_short_rest_of_a_long_response_is_read_and_written() {
    const SCRAPES: usize = 50;
    const BODY: usize = 64 << 10;
    for (rest, is_short) in [(16 << 10, true), (40 << 10, false)] {
        let head = format!("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: {BODY}\r\n\r\n");
        let first = head + &"x".repeat(BODY - rest);
        let length = first.len();
        let (has_come, come) = channel();
        let come = Mutex::new(come);
        let pod = Pod::serve("127.24.2.6", move |_, client| {
            client.send(&first)?;
            come.lock().unwrap().recv_timeout(LIMIT).expect("the first part comes");
            client.send("x".repeat(rest)).map(|()| Then::Keep)
        });
        let under_way = |client: &mut Client| {
            let mut first = vec![0; length];
            let peeked = || client.stream().peek(&mut first).expect("it is connected");
            poll("the first part of an answer", peeked, |bytes| *bytes == length);
            has_come.send(()).expect("the pod receives it");
        };
        let Some(all) = calls_of_scrapes("system-calls-in-parts", &pod, SCRAPES, under_way) else { return };
        let mut others = all.clone();
        let bodies = [READ_BODY, WRITTEN_BODY].map(|names| take(&mut others, names));
        let [writes, splices] = [WRITES, &["splice"]].map(|names| take(&mut others, names));
        let expected = if is_short { [SCRAPES; 2] } else { [0; 2] };
        assert_eq!(bodies, expected, "{rest}: {all:?}");
        assert!((SCRAPES..=SCRAPES + 2).contains(&writes), "{rest}: {all:?}");
        // Two for each part of the response. If the second part is long, one more finds that it has not arrived yet.
        let expected = if is_short { 2 * SCRAPES..=2 * SCRAPES } else { 4 * SCRAPES..=5 * SCRAPES };
        assert!(expected.contains(&splices), "{rest}: {all:?}");
    }
}
