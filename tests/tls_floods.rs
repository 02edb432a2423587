//! Floods of TLS handshakes: 10,000 clients that stall or drip in one, and one client that makes psystrike sign with
//! RSA all the time. Scrapes go on meanwhile, with TLS and without.
#![cfg(feature = "tls")]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName, version::TLS13};
use socket2::{Domain, Socket, Type};
use support::{
    LIMIT, Scratch,
    certificates::{Ca, Files, Flaw},
    http::Client,
    poll_within,
    psystrike::Psystrike,
    require_programs,
    scrapes::echo,
    settled,
    tls_client::{TlsClient, trusting},
};

const ATTACKERS: usize = 10_000;
/// How many attackers whose connection was closed may come back in one pass, and how long a pass takes.
const BACK_MAX: usize = 200;
const PASS: Duration = Duration::from_millis(100);
const PASSES: usize = 40;
/// The most memory that they may take: a slot of 300 bytes each, and 6 KiB for each of 512 handshakes, twice over.
const MEMORY_MAX: u64 = 12 << 20;

fn start(server: &Files, arguments: &[&str]) -> Psystrike {
    let [certificate, key] = server.options("--tls");
    let given = ["--allow=127.0.0.0/8", &certificate, &key];
    Psystrike::start(&[&given, arguments].concat())
}

/// Returns the first message of a client's handshake.
fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("written");
    hello
}

/// Returns the p50 and the p99 of a scrape, and how many there were.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration, usize) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100], times.len())
}

/// A way to scrape, and the times of its scrapes.
type Times = Vec<(&'static str, Vec<Duration>)>;

/// Scrapes in every way until `during` returns: each scrape must succeed.
fn scraping(psystrike: &Psystrike, target: &str, config: &Arc<ClientConfig>, during: impl FnOnce()) -> Times {
    let is_over = AtomicBool::new(false);
    let address = psystrike.address();
    let timed = |scrape: &mut dyn FnMut()| {
        let mut times = Vec::new();
        while times.len() < 20 || !is_over.load(SeqCst) {
            let began = Instant::now();
            scrape();
            times.push(began.elapsed());
            thread::sleep(Duration::from_millis(2)); // a pace
        }
        times
    };
    let connect = || TlsClient::connect(address, config).expect("a handshake");
    thread::scope(|scope| {
        let plain = scope.spawn(|| {
            let mut client = Client::connect(address);
            timed(&mut || assert_eq!(client.get(target).status(), 200))
        });
        let encrypted = scope.spawn(|| {
            let mut client = connect();
            timed(&mut || assert_eq!(client.get(target).expect("a response").0, 200))
        });
        let new_plain =
            scope.spawn(|| timed(&mut || assert_eq!(Client::connect(address).get(target).status(), 200)));
        let new_encrypted =
            scope.spawn(|| timed(&mut || assert_eq!(connect().get(target).expect("a response").0, 200)));
        during();
        is_over.store(true, SeqCst);
        [("plain", plain), ("TLS", encrypted), ("new plain", new_plain), ("new TLS", new_encrypted)]
            .map(|(name, scraper)| (name, scraper.join().expect("every scrape succeeds")))
            .into()
    })
}

/// A connection that stalls in its handshake.
struct Attacker {
    from: Ipv4Addr,
    /// The bytes that are sent at once, and those that follow one by one.
    at_once: usize,
    drips: bool,
    sent: usize,
    socket: Option<TcpStream>,
}

impl Attacker {
    fn new(number: usize, hello: &[u8]) -> Self {
        let [.., high, low] = (number as u32 / 40).to_be_bytes(); // 40 from each address
        // Few send all of the first message: what its answer costs delays all that follow, and not only here.
        let (at_once, drips) = match number % 10 {
            0..3 => (0, false),
            3..6 => (hello.len() / 2, false),
            6..9 => (1, true),
            _ => (hello.len(), false),
        };
        Self { from: Ipv4Addr::new(127, 90, high, low.max(1)), at_once, drips, sent: 0, socket: None }
    }

    /// Connects, and sends the first bytes.
    fn connect(&mut self, to: SocketAddr, hello: &[u8]) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&SocketAddrV4::new(self.from, 0).into()).expect("an address");
        socket.connect(&to.into()).expect("a connection");
        let mut socket = TcpStream::from(socket);
        let _ = socket.write_all(&hello[..self.at_once]);
        socket.set_nonblocking(true).expect("an option");
        (self.socket, self.sent) = (Some(socket), self.at_once);
    }

    /// Sends the next byte, if it drips. Returns whether the connection is still open.
    fn go_on(&mut self, hello: &[u8]) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        if self.drips && self.sent < hello.len() - 1 {
            let _ = socket.write(&hello[self.sent..=self.sent]);
            self.sent += 1;
        }
        match socket.read(&mut [0; 4096]) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Opens all connections, and then goes on. Returns how many connections were opened, and how many were open at the
/// end.
fn attack(
    attackers: &mut [Attacker],
    to: SocketAddr,
    hello: &[u8],
    passes: usize,
    mut watch: impl FnMut(),
) -> (usize, usize) {
    let mut opened = 0;
    for attacker in &mut *attackers {
        attacker.connect(to, hello);
        opened += 1;
    }
    watch();
    let mut open = 0;
    for _ in 0..passes {
        let next = Instant::now() + PASS;
        let mut back = 0;
        open = 0;
        for attacker in &mut *attackers {
            if attacker.go_on(hello) {
                open += 1;
            } else if back < BACK_MAX {
                back += 1;
                attacker.connect(to, hello);
            }
        }
        opened += back;
        watch();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    (opened, open)
}

#[test]
fn clients_that_stall_in_a_handshake_change_nothing_for_scrapes() {
    let scratch = Scratch::new("tls-stalls");
    let ca = Ca::new(&scratch, "ca");
    let psystrike = start(&ca.sign("psystrike", &["127.0.0.1"]), &["--clients-max=14000"]);
    let pod = echo("127.34.0.1");
    let target = Psystrike::target(pod.address(), "/metrics");
    let config = trusting(&ca.file, &[&TLS13]);
    let hello = client_hello(&config);
    let before = scraping(&psystrike, &target, &config, || thread::sleep(Duration::from_secs(1)));
    let idle_bytes = settled("memory", || psystrike.process().anonymous_bytes());

    let mut attackers: Vec<Attacker> = (0..ATTACKERS).map(|number| Attacker::new(number, &hello)).collect();
    let (mut peak, mut counts) = (0, (0, 0));
    let during = scraping(&psystrike, &target, &config, || {
        counts = attack(&mut attackers, psystrike.address(), &hello, PASSES, || {
            peak = peak.max(psystrike.process().anonymous_bytes());
        });
    });
    let too_many = psystrike.metric("psystrike_tls_failures_total{reason=\"too_many\"}");
    drop(attackers);
    let clients = || psystrike.metric("psystrike_client_connections");
    poll_within(2 * LIMIT, "clients that are gone", clients, |clients| *clients <= 1.0);
    assert_eq!(psystrike.metric("psystrike_buffered_bytes"), 0.0);
    // The freed memory is used again.
    let mut attackers: Vec<Attacker> = (0..ATTACKERS).map(|number| Attacker::new(number, &hello)).collect();
    attack(&mut attackers, psystrike.address(), &hello, 5, || {});
    let again_bytes = settled("memory", || psystrike.process().anonymous_bytes());
    drop(attackers);

    support::tell(&format!(
        "{} connections, {} open at the end, {too_many} ended as too many; {} KiB before, {} KiB at most, {} KiB \
         after another flood",
        counts.0,
        counts.1,
        idle_bytes >> 10,
        peak >> 10,
        again_bytes >> 10
    ));
    for ((name, before), (_, during)) in before.into_iter().zip(during) {
        let (before, during) = (percentiles(before), percentiles(during));
        support::tell(&format!(
            "{name}: p50 {:?} p99 {:?} of {} scrapes; beside {ATTACKERS} stalled handshakes p50 {:?} p99 {:?} of {}",
            before.0, before.1, before.2, during.0, during.1, during.2
        ));
        assert!(during.0 < 5 * before.0 + Duration::from_millis(20), "{name}: the median");
        // A new client with TLS waits for the handshakes of those that came before it, all at once at the beginning.
        let most = Duration::from_millis(if name == "new TLS" { 10_000 } else { 400 });
        assert!(during.1 < 5 * before.1 + most, "{name}: the 99th percentile");
    }
    assert!(too_many > 1000.0, "{too_many}");
    assert!(peak < idle_bytes + MEMORY_MAX, "{} KiB", peak >> 10);
    assert!(again_bytes < peak + (2 << 20), "{} KiB", again_bytes >> 10);
}

#[test]
fn a_flood_of_handshakes_with_rsa_delays_scrapes_little() {
    /// Handshakes of the attacker at a time.
    const AT_ONCE: usize = 32;
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-rsa");
    let ca = Ca::new(&scratch, "ca");
    let make = "openssl genrsa 2048 | openssl pkcs8 -topk8 -nocrypt -outform DER";
    let made = Command::new("sh").args(["-c", make]).output().expect("sh runs");
    let key = made.stdout;
    let key = rcgen::KeyPair::try_from(&key[..]).expect("a key");
    let psystrike = start(&ca.sign_key("psystrike", &["127.0.0.1"], Flaw::None, &key), &[]);
    let pod = echo("127.34.0.2");
    let target = Psystrike::target(pod.address(), "/metrics");
    let config = trusting(&ca.file, &[&TLS13]);
    let hello = client_hello(&config);
    let before = scraping(&psystrike, &target, &config, || thread::sleep(Duration::from_secs(1)));
    let mut signed = 0;
    let began = Instant::now();
    let during = scraping(&psystrike, &target, &config, || {
        while began.elapsed() < Duration::from_secs(3) {
            let connect = || TcpStream::connect(psystrike.address()).expect("a connection");
            let mut sockets: Vec<TcpStream> = (0..AT_ONCE).map(|_| connect()).collect();
            for socket in &mut sockets {
                socket.write_all(&hello).expect("sent");
            }
            for mut socket in sockets {
                // The server's messages include its signature.
                assert!(socket.read(&mut [0; 4096]).expect("a response") > 0);
                signed += 1;
            }
        }
    });
    support::tell(&format!("{:.0} signatures a second", signed as f64 / began.elapsed().as_secs_f64()));
    for ((name, before), (_, during)) in before.into_iter().zip(during) {
        let (before, during) = (percentiles(before), percentiles(during));
        support::tell(&format!(
            "{name}: p50 {:?} p99 {:?} of {} scrapes; beside the flood p50 {:?} p99 {:?} of {}",
            before.0, before.1, before.2, during.0, during.1, during.2
        ));
        // A scrape takes a few turns, each of which may have some handshakes.
        let is_new = name == "new TLS"; // its handshake waits for its turn among the others
        let most = Duration::from_millis(if is_new { 400 } else { 60 });
        assert!(during.0 < before.0 + most, "{name}: the median");
    }
}
