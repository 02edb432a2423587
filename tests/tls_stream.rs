//! TLS over simulated sockets: seeded runs against rustls with its own buffers and against psystrike itself. Records
//! are cut at any byte, buffers are full at any moment, and connections end at any point.
//!
//! No byte may be lost, changed or invented, an end is clean only if it was announced, and nothing stalls: once no byte
//! is in flight, and each side has run after its events, both have all that was sent.
//!
//! `PSYSTRIKE_SEEDS`, `PSYSTRIKE_FIRST_SEED` and `PSYSTRIKE_SEED` as in tests/simulation.rs.
#![cfg(feature = "tls")]

#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[path = "support/base64.rs"]
mod base64;
#[path = "support/bytes.rs"]
mod bytes;
#[path = "tls_stream/sides.rs"]
mod sides;
#[path = "tls_stream/wire.rs"]
mod wire;

use std::{env, sync::Arc};

use psystrike::net::transport::tls::config::{
    Acceptor, Authorities, ClientAuth, Connector, Identity, PodTls, PodTrust, ServerTls, Versions,
};
use rustls::{RootCertStore, pki_types::PrivateKeyDer, version::TLS12};

use crate::{
    bytes::{Random, with_seeds},
    sides::{End, Ours, Side, Theirs},
    wire::Wire,
};

/// As much as a slow machine runs in a few seconds.
const SEEDS: u64 = 300;

/// Returns DER as PEM (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::encode(der))
}

/// The configurations of all sides.
struct Configs {
    acceptor: Acceptor,
    connector: Connector,
    servers: [Arc<rustls::ServerConfig>; 2],
    clients: [Arc<rustls::ClientConfig>; 2],
}

impl Configs {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["pod".to_owned()]).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        let pem = pem("CERTIFICATE", certificate.der());
        let key_pem = self::pem("PRIVATE KEY", &key.serialize_der());
        let identity = Identity::from_pem(pem.as_bytes(), key_pem.as_bytes()).expect("an identity");
        let tls = ServerTls {
            identity,
            client_auth: ClientAuth::None,
            client_ca: None,
            client_sans: Vec::new(),
            versions: Versions::default(),
        };
        let authorities = Authorities::from_pem(pem.as_bytes()).expect("a CA");
        let pod = PodTls { trust: PodTrust::SignedBy(authorities), name: None, identity: None };
        let both = [rustls::DEFAULT_VERSIONS, &[&TLS12]];
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let servers = both.map(|versions| {
            let builder = rustls::ServerConfig::builder_with_provider(provider());
            let builder = builder.with_protocol_versions(versions).expect("versions").with_no_client_auth();
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            let mut config =
                builder.with_single_cert(vec![certificate.der().clone()], key).expect("a server");
            config.ticketer = rustls::crypto::ring::Ticketer::new().expect("a ticketer");
            config.send_tls13_tickets = 4;
            Arc::new(config)
        });
        let clients = both.map(|versions| {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.der().clone()).expect("a root");
            let builder = rustls::ClientConfig::builder_with_provider(provider());
            let builder = builder.with_protocol_versions(versions).expect("versions");
            Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
        });
        Self {
            acceptor: Acceptor::new(&tls).expect("an acceptor"),
            connector: Connector::new(&pod).expect("a connector"),
            servers,
            clients,
        }
    }

    /// Returns the sides of a connection, at least one of them ours: the client's first.
    fn sides(&self, wire: &Wire, random: &mut Random) -> [Side; 2] {
        let [client, server] = wire.sockets();
        let version = random.below(2);
        let (ours_client, ours_server) = random.pick(&[(true, true), (true, false), (false, true)]);
        let client = match ours_client {
            true => Side::Ours(Box::new(Ours::client(client, &self.connector))),
            false => Side::Theirs(Box::new(Theirs::client(client, &self.clients[version]))),
        };
        let server = match ours_server {
            true => Side::Ours(Box::new(Ours::server(server, &self.acceptor))),
            false => Side::Theirs(Box::new(Theirs::server(server, &self.servers[version]))),
        };
        [client, server]
    }
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Both sides close once they have sent all.
    Close,
    /// The socket of a side ends without an announcement.
    Cut(usize),
    /// The connection is reset.
    Reset,
    /// A byte is changed on its way from a side.
    Corrupt(usize),
}

struct Run {
    wire: Wire,
    sides: [Side; 2],
    fate: Fate,
    /// After how many steps the connection meets its fate.
    fate_in: usize,
    is_met: bool,
    closed: [bool; 2],
}

impl Run {
    fn new(configs: &Configs, random: &mut Random) -> Self {
        let wire = Wire::new(random);
        let mut sides = configs.sides(&wire, random);
        for side in &mut sides {
            let most = random.pick(&[1, 50, 500, 5_000, 5_000, 40_000, 150_000]);
            side.traffic().to_send = (0..random.below(most)).map(|_| random.byte()).collect();
        }
        let cut = random.below(2);
        let fate = random.pick(&[Fate::Close, Fate::Close, Fate::Cut(cut), Fate::Reset, Fate::Corrupt(cut)]);
        let most = random.pick(&[3, 30, 300]);
        let fate_in = random.below(most);
        Self { wire, sides, fate, fate_in, is_met: false, closed: [false; 2] }
    }

    /// Runs until nothing moves.
    fn run(&mut self, random: &mut Random) {
        for step in 0.. {
            assert!(step < 1_000_000, "it never ends");
            if step >= self.fate_in && !self.is_met {
                self.meet_fate(random);
            }
            let first = random.below(2);
            let mut moved = false;
            for side in [first, 1 - first] {
                moved |= !random.one_in(3) && self.wire.deliver(side, random);
                let events = self.wire.take_events(side);
                if events != psystrike::net::stream::Ready::NONE || self.sides[side].yields() {
                    self.sides[side].run(events, random);
                    moved = true;
                }
                assert!(self.sides[side].held_bytes() < 400_000, "{}", self.sides[side].held_bytes());
                moved |= self.close(side);
            }
            if !moved && ![0, 1].map(|side| self.wire.deliver(side, random)).contains(&true) {
                return;
            }
        }
    }

    fn meet_fate(&mut self, random: &mut Random) {
        match self.fate {
            Fate::Close => self.is_met = true,
            Fate::Cut(side) => {
                self.sides[side].socket().end();
                self.is_met = true;
            }
            Fate::Reset => {
                self.wire.reset();
                self.is_met = true;
            }
            Fate::Corrupt(side) => self.is_met = self.wire.corrupt(side, random),
        }
    }

    /// Closes a side that has sent all. Returns whether it did.
    fn close(&mut self, side: usize) -> bool {
        let traffic = self.sides[side].traffic();
        let is_done = traffic.is_open && traffic.sent == traffic.to_send.len();
        if self.closed[side] || !is_done || traffic.end == Some(End::Failed) {
            return false;
        }
        self.closed[side] = self.sides[side].close();
        self.closed[side]
    }

    fn check(&mut self) {
        let Self { fate, is_met, .. } = *self;
        let [client, server] = &mut self.sides;
        for (from, to) in [(0, 1), (1, 0)] {
            let [from_side, to_side] =
                if from == 0 { [&mut *client, &mut *server] } else { [&mut *server, &mut *client] };
            let is_ours = matches!(to_side, Side::Ours(_));
            let (sent, received) = (from_side.traffic(), to_side.traffic());
            // With another first byte, it is not taken for TLS.
            let is_prefix = sent.to_send.starts_with(&received.received) || !received.is_open;
            assert!(is_prefix, "{fate:?}: what {to} received is not what {from} sent");
            let is_whole = received.received.len() == sent.to_send.len();
            if received.end == Some(End::Clean) && received.is_open {
                assert!(is_whole, "{fate:?}: a clean end after {} bytes", received.received.len());
            }
            if fate == Fate::Close || !is_met {
                assert!(is_whole, "stalled: {to} has {} of {}", received.received.len(), sent.to_send.len());
                assert_eq!(received.end, Some(End::Clean), "{to}");
            } else if fate == Fate::Reset || (fate == Fate::Cut(from) && is_ours) {
                assert!(received.end.is_some(), "{fate:?}: {to} does not know of the end");
            }
        }
    }
}

#[test]
fn random_connections_lose_no_byte_and_end_visibly() {
    let configs = Configs::new();
    let count = env::var("PSYSTRIKE_SEEDS").ok().map(|count| count.parse().expect("a number"));
    with_seeds(count.unwrap_or(SEEDS), |_, random| {
        let mut run = Run::new(&configs, random);
        run.run(random);
        run.check();
    });
}

/// A read goes on until there is content, so a peer that sends none could hold the event loop.
#[test]
fn a_pod_that_sends_only_session_tickets_is_cut_off() {
    let configs = Configs::new();
    for (tickets, expected) in [(8, None), (240, Some(End::Failed))] {
        let mut random = Random::new(1);
        let mut run = Run::new(&configs, &mut random);
        let [client, server] = run.wire.sockets();
        let mut config = (*configs.servers[0]).clone();
        config.send_tls13_tickets = tickets;
        run.sides = [
            Side::Ours(Box::new(Ours::client(client, &configs.connector))),
            Side::Theirs(Box::new(Theirs::server(server, &Arc::new(config)))),
        ];
        run.fate = Fate::Close;
        run.closed = [true; 2]; // neither side closes
        run.run(&mut random);
        assert_eq!(run.sides[0].traffic().end, expected, "{tickets} tickets");
    }
}
