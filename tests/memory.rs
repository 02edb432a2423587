//! A memory cgroup: the memory that stalled peers use is limited, the kernel never kills psystrike, and ordinary
//! scrapes continue.

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use support::{
    LIMIT,
    cgroup::Cgroup,
    http::get,
    pods::{Pod, Then},
    poll,
    psystrike::Psystrike,
};

const MIB: u64 = 1 << 20;
const LIMIT_BYTES: u64 = 16 * MIB;
const ORDINARY_BYTES: usize = 100_000;
/// The number of attacking peers.
const ATTACKERS: usize = 500;
const SCRAPES_MIN: usize = 30;
/// Time limit for an ordinary scrape during the attack, on a busy machine.
const SLOW: Duration = Duration::from_secs(3);

/// Starts psystrike in a memory cgroup.
fn start_in(group: &Cgroup, arguments: &[&str]) -> Psystrike {
    let wrapper = group.wrapper();
    let arguments = [&["--allow", "127.0.0.0/8"], arguments].concat();
    Psystrike::start_under(&wrapper.each_ref().map(String::as_str), &arguments)
}

/// Scrapes an ordinary pod repeatedly during `attack`; every scrape must be complete and in time. Returns their number.
fn scraping_beside(psystrike: &Psystrike, ip: &str, attack: impl FnOnce()) -> usize {
    let body = "x".repeat(ORDINARY_BYTES);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {ORDINARY_BYTES}\r\n\r\n{body}");
    let pod = Pod::answering(ip, answer, Then::Keep);
    let mut client = psystrike.client();
    let target = Psystrike::target(pod.address(), "/metrics");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            while scrapes < SCRAPES_MIN || !over.load(Ordering::SeqCst) {
                let began = Instant::now();
                let response = client.get(&target);
                assert_eq!((response.status(), response.body.len()), (200, ORDINARY_BYTES), "{scrapes}");
                assert!(began.elapsed() < SLOW, "scrape {scrapes} took {:?}", began.elapsed());
                scrapes += 1;
            }
            scrapes
        });
        attack();
        over.store(true, Ordering::SeqCst);
        scraper.join().expect("every scrape is complete")
    })
}

/// Checks the state after an attack: no process was killed, and the budget was not exceeded.
fn assert_survived(what: &str, group: &Cgroup, psystrike: &Psystrike, scrapes: usize) {
    let peak = group.peak() as f64 / MIB as f64;
    assert_eq!(group.kills(), 0, "{what}");
    assert_eq!(psystrike.get("/healthz").status(), 200);
    let (held, most) =
        (psystrike.metric("psystrike_buffered_bytes"), psystrike.metric("psystrike_buffered_bytes_max"));
    let (pauses, ended) = (psystrike.metric("psystrike_pauses_total"), psystrike.outcomes("buffers_full"));
    support::tell(&format!(
        "{what}: peak {peak:.1} MiB, {held} of {most} bytes held, {pauses} pauses, {ended} ended, {scrapes} ordinary \
         scrapes beside"
    ));
    assert!(held <= most, "{what}: {held} bytes are held, of {most}");
}

/// A pod that sends the beginning of a response head, of this many bytes, and nothing more. Counts these heads.
struct SlowHeads {
    address: SocketAddr,
    begun: Arc<AtomicUsize>,
    _acceptor: JoinHandle<()>,
}

impl SlowHeads {
    fn on(ip: &str, bytes: usize) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("an address to listen on");
        let address = listener.local_addr().expect("an address");
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let head = format!("HTTP/1.1 200 OK\r\nX-Slow: {}", "s".repeat(bytes - 25));
        let acceptor = thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let asked = stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0);
                if asked && stream.write_all(head.as_bytes()).is_ok() {
                    counter.fetch_add(1, Ordering::SeqCst);
                    kept.push(stream);
                }
            }
        });
        Self { address, begun, _acceptor: acceptor }
    }
}

/// Returns a connection with the smallest buffers that the kernel allows.
fn stingy(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a buffer size can be set");
    socket.connect(&to.into()).expect("a connection");
    socket.into()
}

fn write_what_goes(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_write_timeout(Some(LIMIT)).expect("a time limit");
    let _ = stream.write_all(bytes); // a client that is turned away or ended accepts no more
}

#[test]
fn the_limits_follow_from_the_cgroups_memory() {
    let Some(group) = Cgroup::with_memory(LIMIT_BYTES) else { return };
    let psystrike = start_in(&group, &[]);
    psystrike.wait_for_line(
        "clients_max=\"320 (from the cgroup's memory limit)\" \
         upstreams_idle_max=\"932 (from the cgroup's memory limit)\" \
         buffers_max=\"4MiB (from the cgroup's memory limit)\"",
    );
    for (metric, most) in [
        ("psystrike_client_connections_max", 320.0),
        ("psystrike_pod_connections_idle_max", 932.0),
        ("psystrike_buffered_bytes_max", 4.0 * MIB as f64),
    ] {
        assert_eq!(psystrike.metric(metric), most, "{metric}");
    }
    let psystrike = start_in(&group, &["--buffers-max", "1MiB", "--workers", "2"]);
    psystrike.wait_for_line("workers=2 clients_max=\"320 (from the cgroup's memory limit)\"");
    psystrike.wait_for_line("buffers_max=\"1MiB (configured)\"");
}

#[test]
fn pods_that_never_end_their_heads() {
    let Some(group) = Cgroup::with_memory(LIMIT_BYTES) else { return };
    let psystrike = start_in(&group, &["--clients-max", "600"]);
    let slow = SlowHeads::on("127.40.0.1", 64 * 1024 - 100);
    let request = get(&Psystrike::target(slow.address, "/"));
    let mut clients = Vec::new();
    let scrapes = scraping_beside(&psystrike, "127.40.0.2", || {
        for _ in 0..ATTACKERS {
            let mut client = TcpStream::connect(psystrike.address()).expect("a connection");
            write_what_goes(&mut client, request.as_bytes());
            clients.push(client);
        }
        let begun = || slow.begun.load(Ordering::SeqCst);
        poll("heads that begin", begun, |begun| *begun == ATTACKERS);
        let ended = || psystrike.outcomes("buffers_full");
        poll("scrapes ended for room", ended, |ended| *ended > 10.0);
    });
    assert_survived("slow heads of pods", &group, &psystrike, scrapes);
    // The first ones have held buffers longest, and receive the reason.
    let first = &mut clients[0];
    let mut start = [0; 80];
    first.set_read_timeout(Some(LIMIT)).expect("a time limit");
    first.read_exact(&mut start).expect("a response");
    let start = String::from_utf8_lossy(&start);
    assert!(
        start.starts_with("HTTP/1.1 503 buffer limit reached; this scrape held buffers longest"),
        "{start}"
    );
}

#[test]
fn clients_that_never_end_their_heads() {
    let Some(group) = Cgroup::with_memory(LIMIT_BYTES) else { return };
    let psystrike = start_in(&group, &["--clients-max", "1100"]);
    let head = format!("GET /healthz HTTP/1.1\r\nX-Slow: {}", "s".repeat(15_000));
    let mut clients = Vec::new();
    let scrapes = scraping_beside(&psystrike, "127.40.0.3", || {
        for _ in 0..1000 {
            let mut client = TcpStream::connect(psystrike.address()).expect("a connection");
            write_what_goes(&mut client, head.as_bytes());
            clients.push(client);
        }
        let paused = || psystrike.metric("psystrike_pauses_total") + psystrike.outcomes("buffers_full");
        poll("clients that are paused or ended", paused, |paused| *paused > 100.0);
    });
    assert_survived("slow heads of clients", &group, &psystrike, scrapes);
}

#[test]
fn clients_that_do_not_read() {
    let Some(group) = Cgroup::with_memory(2 * LIMIT_BYTES) else { return };
    let psystrike = start_in(&group, &["--clients-max", "1000"]);
    // More than the kernel's buffers hold.
    let body = "y".repeat(8 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let pod = Pod::answering("127.40.0.4", answer, Then::Keep);
    let request = get(&Psystrike::target(pod.address(), "/"));
    let mut clients = Vec::new();
    let scrapes = scraping_beside(&psystrike, "127.40.0.5", || {
        for _ in 0..990 {
            let mut client = stingy(psystrike.address());
            write_what_goes(&mut client, request.as_bytes());
            clients.push(client);
        }
        pod.wait_for("all requests", |seen| seen.heads.len() == 990);
        support::settled("the buffered bytes", || psystrike.metric("psystrike_buffered_bytes") as u64);
    });
    assert_survived("stalled readers", &group, &psystrike, scrapes);
}
