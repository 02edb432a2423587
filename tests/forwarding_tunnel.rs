//! Tunnels through the sockets of the real binary: bytes that go in at one side come out at the other, and so does the
//! end of each side.

mod support;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use support::{
    LIMIT,
    http::{Client, get},
    poll,
    program::Signal,
    psystrike::Psystrike,
    scrapes::start,
};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

fn psystrike(more: &[&str]) -> Psystrike {
    let arguments = ["--allow", "127.0.0.0/8", "--allow", "::1/128", "--allow-connect"];
    Psystrike::start(&[&arguments, more].concat())
}

fn listen(ip: &str) -> TcpListener {
    TcpListener::bind((ip, 0)).expect("a listener")
}

fn limited(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LIMIT)).expect("it can be set");
    stream.set_write_timeout(Some(LIMIT)).expect("it can be set");
    stream
}

/// Opens a tunnel; returns the client's connection and the pod's. `early` is sent directly after the request.
fn tunnel(psystrike: &Psystrike, pod: &TcpListener, early: &[u8]) -> (TcpStream, TcpStream) {
    let address = pod.local_addr().expect("it has an address");
    let mut client = limited(TcpStream::connect(psystrike.address()).expect("it connects"));
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    client.write_all(&[request.as_bytes(), early].concat()).expect("it is sent");
    let mut response = vec![0; ESTABLISHED.len()];
    client.read_exact(&mut response).expect("a response");
    assert_eq!(response, ESTABLISHED, "{}", response.escape_ascii());
    let (pod, _) = pod.accept().expect("a connection");
    (client, limited(pod))
}

/// Returns bytes without repetition at a short distance.
fn pattern(bytes: usize, seed: u32) -> Vec<u8> {
    let numbers = (seed..).map(|number| number.wrapping_mul(2_654_435_761));
    numbers.flat_map(u32::to_ne_bytes).take(bytes).collect()
}

fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map(|_| all)
}

/// Reads that many bytes.
fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).expect("bytes");
    read
}

#[test]
fn bytes_and_ends_pass_in_both_directions() {
    let psystrike = psystrike(&[]);
    for ip in ["127.24.1.1", "::1"] {
        let pod = listen(ip);
        for bytes in [0, 1, 1000, 100_000, 8 << 20] {
            let early = pattern(bytes.min(1500), 7);
            let (client, pod) = tunnel(&psystrike, &pod, &early);
            let (up, down) = (pattern(bytes, 1), pattern(bytes, 1 << 30));
            let ways = [(client, up.clone()), (pod, down.clone())].map(|(stream, sends)| {
                let mut reads = stream.try_clone().expect("another handle");
                let mut writes = stream;
                let writer = thread::spawn(move || {
                    writes.write_all(&sends)?;
                    writes.shutdown(Shutdown::Write)
                });
                let reader = thread::spawn(move || read_all(&mut reads));
                (writer, reader)
            });
            let [got_down, got_up] = ways.map(|(writer, reader)| {
                writer.join().expect("no panic").expect("all is sent");
                reader.join().expect("no panic").expect("an end in order")
            });
            assert!(got_up == [early, up].concat(), "{ip}, {bytes} bytes to the pod, {} came", got_up.len());
            assert!(got_down == down, "{ip}, {bytes} bytes to the client, {} came", got_down.len());
        }
    }
    poll("tunnels", || psystrike.metric("psystrike_tunnels"), |tunnels| *tunnels == 0.0);
    assert_eq!(psystrike.metric("psystrike_tunnels_ended_total{reason=\"closed\"}"), 10.0);
    assert_eq!(psystrike.metric("psystrike_tunnels_opened_total"), 10.0);
    let bytes = [0, 1, 1000, 100_000, 8 << 20].map(|bytes: usize| bytes as f64);
    let sum: f64 = bytes.iter().sum::<f64>() * 2.0;
    assert_eq!(psystrike.metric("psystrike_tunnel_bytes_total{direction=\"to_client\"}"), sum);
    let early: f64 = bytes.iter().map(|bytes| bytes.min(1500.0)).sum::<f64>() * 2.0;
    assert_eq!(psystrike.metric("psystrike_tunnel_bytes_total{direction=\"to_pod\"}"), sum + early);
    assert_eq!(psystrike.metric("psystrike_requests_total{route=\"connect\",code=\"200\"}"), 10.0);
    assert_eq!(psystrike.metric("psystrike_pod_connections{state=\"idle\"}"), 0.0, "none is pooled");
}

#[test]
fn one_direction_continues_after_the_other_has_ended() {
    let psystrike = psystrike(&[]);
    let pod = listen("127.24.1.2");
    for client_first in [true, false] {
        let (client, pod) = tunnel(&psystrike, &pod, b"");
        let (mut first, mut second) = if client_first { (client, pod) } else { (pod, client) };
        first.write_all(b"last words").expect("it is sent");
        first.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(read_all(&mut second).expect("an end in order"), b"last words");
        for _ in 0..3 {
            second.write_all(b"more").expect("it is sent");
            assert_eq!(read(&mut first, 4), b"more");
        }
        drop(second);
        assert_eq!(read_all(&mut first).expect("an end in order"), b"");
    }
    poll("tunnels", || psystrike.metric("psystrike_tunnels"), |tunnels| *tunnels == 0.0);
}

#[test]
fn a_reset_passes_as_a_reset() {
    let psystrike = psystrike(&[]);
    let pod = listen("127.24.1.3");
    for (client_resets, reason) in [(true, "client_failed"), (false, "pod_failed")] {
        let (client, pod) = tunnel(&psystrike, &pod, b"");
        let (resets, mut other) = if client_resets { (client, pod) } else { (pod, client) };
        socket2::SockRef::from(&resets).set_linger(Some(Duration::ZERO)).expect("it can be set");
        drop(resets);
        let error = read_all(&mut other).expect_err("no end in order");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let metric = format!("psystrike_tunnels_ended_total{{reason=\"{reason}\"}}");
        poll("ended", || psystrike.metric(&metric), |ended| *ended == 1.0);
    }
}

#[test]
fn a_reset_ends_the_other_side_even_if_that_reads_nothing() {
    let psystrike = psystrike(&[]);
    let pod = listen("127.24.1.4");
    let (mut client, mut pod) = tunnel(&psystrike, &pod, b"");
    // As many bytes as the buffers on the path hold.
    pod.set_nonblocking(true).expect("it can be set");
    let all = pattern(1 << 20, 3);
    let quiet = Duration::from_millis(300);
    let mut last = Instant::now();
    while last.elapsed() < quiet {
        match pod.write(&all) {
            Ok(_) => last = Instant::now(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    socket2::SockRef::from(&pod).set_linger(Some(Duration::ZERO)).expect("it can be set");
    drop(pod);
    poll("tunnels", || psystrike.metric("psystrike_tunnels"), |tunnels| *tunnels == 0.0);
    assert_eq!(psystrike.metric("psystrike_buffered_bytes"), 0.0, "nothing is kept for it");
    let error = read_all(&mut client).expect_err("no end in order");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_silent_tunnel_ends_in_time_and_bytes_postpone_that() {
    let psystrike = psystrike(&["--tunnel-idle-timeout", "600ms"]);
    let pod = listen("127.24.1.5");
    let (mut client, mut pod) = tunnel(&psystrike, &pod, b"");
    let mut last = Instant::now();
    for turn in 0..6 {
        let (from, to) = if turn % 2 == 0 { (&mut client, &mut pod) } else { (&mut pod, &mut client) };
        thread::sleep(Duration::from_millis(200)); // each pause is shorter than the timeout; their sum is longer
        last = Instant::now();
        from.write_all(b"x").expect("it is sent");
        assert_eq!(read(to, 1), b"x");
    }
    assert_eq!(read_all(&mut client).expect("an end in order"), b"");
    assert!(last.elapsed() >= Duration::from_millis(550), "after {:?}", last.elapsed());
    assert_eq!(read_all(&mut pod).expect("an end in order"), b"");
    assert_eq!(psystrike.metric("psystrike_tunnels_ended_total{reason=\"idle\"}"), 1.0);
}

#[test]
fn what_cannot_be_tunnelled_is_refused_with_a_reason() {
    let psystrike = psystrike(&["--connect-ports", "1-65000", "--deny", "127.66.0.0/16"]);
    let free = listen("127.24.1.6").local_addr().expect("an address");
    let own = psystrike.address();
    let connect = |target: SocketAddr| {
        let mut client = psystrike.client();
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        let response = client.response().expect("a whole answer");
        (response.status(), response.reason())
    };
    for (target, status, reason) in [
        (free, 502, "pod refused the connection"),
        (own, 508, "scrape loops through psystrike"),
        ("127.66.0.1:80".parse().expect("an address"), 403, "destination not allowed"),
        ("127.24.1.6:65001".parse().expect("an address"), 403, "destination port not allowed for CONNECT"),
    ] {
        assert_eq!(connect(target), (status, reason.to_owned()), "{target}");
    }
    assert_eq!(psystrike.metric("psystrike_tunnels_opened_total"), 0.0);
    let off = start();
    let mut client = off.client();
    client.send(format!("CONNECT {free} HTTP/1.1\r\nHost: {free}\r\n\r\n"));
    let response = client.response().expect("a whole answer");
    assert_eq!(
        (response.status(), response.reason().as_str()),
        (403, "CONNECT is disabled; --allow-connect enables it")
    );
}

#[test]
fn at_the_end_of_the_process_silent_tunnels_end_at_once_and_others_go_on() {
    let mut psystrike = psystrike(&["--shutdown-timeout", "20s"]);
    let pod = listen("127.24.1.7");
    let (mut silent, _silent_pod) = tunnel(&psystrike, &pod, b"");
    thread::sleep(Duration::from_millis(1100)); // long enough to count as silent
    let (mut busy, mut busy_pod) = tunnel(&psystrike, &pod, b"");
    let began = Instant::now();
    psystrike.signal(Signal::TERM);
    assert_eq!(read_all(&mut silent).expect("an end in order"), b"");
    assert!(began.elapsed() < Duration::from_millis(900), "after {:?}", began.elapsed());
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(400));
        busy_pod.write_all(b"x").expect("it is sent");
        assert_eq!(read(&mut busy, 1), b"x", "it is in use");
    }
    drop(busy_pod);
    assert_eq!(read_all(&mut busy).expect("an end in order"), b"");
    drop(busy);
    assert!(psystrike.wait(LIMIT).success());
}

#[test]
fn a_tunnel_whose_client_reads_nothing_holds_little() {
    let psystrike = psystrike(&["--buffers-max", "1MiB"]);
    let pod = listen("127.24.1.8");
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let (client, pod) = tunnel(&psystrike, &pod, b"");
        pod.set_nonblocking(true).expect("it can be set");
        stalled.push((client, pod));
    }
    let all = pattern(1 << 20, 3);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        stalled.iter_mut().for_each(|(_, pod)| drop(pod.write(&all)));
        let held = psystrike.metric("psystrike_buffered_bytes");
        assert!(held <= f64::from(1 << 20), "{held} bytes are held");
    }
    assert_eq!(psystrike.get("/healthz").status(), 200, "others are served");
}

#[test]
fn a_client_may_end_its_side_before_the_tunnel_is_open() {
    let psystrike = psystrike(&[]);
    let pod = listen("127.0.0.1");
    let port = pod.local_addr().expect("it has an address").port();
    let mut client = limited(TcpStream::connect(psystrike.address()).expect("it connects"));
    // The name has to be resolved first.
    let request = format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost\r\n\r\nhello");
    client.write_all(request.as_bytes()).expect("it is sent");
    client.shutdown(Shutdown::Write).expect("it can be ended");
    let mut pod = limited(pod.accept().expect("a connection").0);
    assert_eq!(read_all(&mut pod).expect("an end in order"), b"hello");
    pod.write_all(b"bye").expect("it is sent");
    drop(pod);
    assert_eq!(read_all(&mut client).expect("an end in order"), [ESTABLISHED, b"bye"].concat());
}

/// No limit counts the bytes that the kernel holds for a closed connection.
#[test]
fn a_tunnel_whose_sides_have_ended_counts_until_both_have_taken_all_bytes() {
    let psystrike = psystrike(&[]);
    let pod = listen("127.24.1.13");
    let (mut client, mut pod) = tunnel(&psystrike, &pod, b"");
    let all = pattern(1 << 20, 5);
    let sent = thread::spawn({
        let all = all.clone();
        move || pod.write_all(&all).map(|()| drop(pod))
    });
    client.shutdown(Shutdown::Write).expect("it can be ended");
    poll(
        "bytes",
        || psystrike.metric("psystrike_tunnel_bytes_total{direction=\"to_client\"}"),
        |bytes| *bytes > 2e5,
    );
    thread::sleep(Duration::from_millis(300)); // the test checks that nothing happens
    assert_eq!(psystrike.metric("psystrike_tunnels"), 1.0);
    assert!(read_all(&mut client).expect("an end in order") == all);
    sent.join().expect("it ends").expect("it is sent");
    poll("tunnels", || psystrike.metric("psystrike_tunnels"), |tunnels| *tunnels == 0.0);
}

#[test]
fn idle_tunnels_give_their_places_to_scrapes_probes_and_other_tunnels() {
    let psystrike = psystrike(&["--clients-max", "3"]);
    let pod = listen("127.24.1.12");
    let mut tunnels: Vec<_> = (0..3).map(|_| tunnel(&psystrike, &pod, b"")).collect();
    for _ in 0..3 {
        assert_eq!(psystrike.get("/healthz").status(), 200);
        let (_, mut evicted) = tunnels.remove(0);
        assert_eq!(read_all(&mut evicted).expect("an end in order"), b"");
        tunnels.push(tunnel(&psystrike, &pod, b""));
    }
    let evicted = psystrike.metric("psystrike_tunnels_ended_total{reason=\"evicted\"}");
    assert!((3.0..7.0).contains(&evicted), "{evicted}");
}

#[test]
fn scrapes_and_tunnels_stand_beside_each_other() {
    let psystrike = psystrike(&["--access-log"]);
    let pod = listen("127.24.1.9");
    let mut scraper = Client::connect(psystrike.address());
    let address = pod.local_addr().expect("it has an address");
    let (mut client, pod) = tunnel(&psystrike, &pod, b"");
    scraper.send(get("/healthz"));
    assert_eq!(scraper.response().expect("a whole answer").status(), 200);
    let line = psystrike.wait_for_line("CONNECT");
    let opened = format!(" pod={address} request=\"CONNECT {address}\" status=200 outcome=tunnel ");
    assert!(line.contains(&opened), "{line}");
    drop(pod);
    assert_eq!(read_all(&mut client).expect("an end in order"), b"");
    drop(client);
    let line = psystrike.wait_for_line("tunnel closed");
    let closed = format!(" pod={address} end=closed duration_seconds=0.");
    assert!(line.contains(&closed), "{line}");
}

#[test]
fn closed_tunnels_leave_no_resources() {
    let psystrike = psystrike(&[]);
    let pod = listen("127.24.1.10");
    let churn = |tunnels: usize| {
        for _ in 0..tunnels {
            let (mut client, mut pod) = tunnel(&psystrike, &pod, b"early");
            assert_eq!(read(&mut pod, 5), b"early");
            pod.write_all(&[b'x'; 3000]).expect("it is sent");
            read(&mut client, 3000);
        }
        poll("tunnels that end", || psystrike.metric("psystrike_tunnels"), |open| *open == 0.0);
        psystrike.process().anonymous_bytes()
    };
    // After these, all memory that is reused has been allocated.
    let bytes = churn(500);
    let files = psystrike.metric("process_open_fds");
    let grown = churn(2000).saturating_sub(bytes);
    poll("open files", || psystrike.metric("process_open_fds"), |open| *open <= files);
    assert!(grown <= 64 * 1024, "it has grown by {grown} bytes");
}
