//! Why psystrike ends TLS with a client, as `/metrics` and the log report it: the buffers are full, or it shuts down.
#![cfg(feature = "tls")]

mod support;

use std::{io::Write, net::TcpStream};

use rustls::version::{TLS12, TLS13};
use support::{
    LIMIT, Scratch,
    certificates::Ca,
    poll,
    program::Signal,
    psystrike::Psystrike,
    tls_client::{TlsClient, trusting},
};

/// Clients that together need more than the buffers have.
const CLIENTS: usize = 24;
/// What each of them sends of a message or a record that it never completes.
const PART_BYTES: usize = 12_000;

fn start(ca: &Ca) -> Psystrike {
    let [certificate, key] = ca.sign("psystrike", &["127.0.0.1"]).options("--tls");
    Psystrike::start(&["--workers=1", "--buffers-max=128KiB", &certificate, &key])
}

fn failures(psystrike: &Psystrike, reason: &str) -> f64 {
    psystrike.metric(&format!("psystrike_tls_failures_total{{reason=\"{reason}\"}}"))
}

/// Returns the beginning of a long first message of a handshake (RFC 8446 sections 4 and 5.1).
fn part_of_a_hello(bytes: usize) -> Vec<u8> {
    let mut part = vec![22, 3, 1, 64, 0, 1, 0, 63, 252, 3, 3];
    part.resize(bytes, 7);
    part
}

#[test]
fn handshakes_that_fill_the_buffers_are_ended_for_this_reason() {
    let scratch = Scratch::new("tls-full-handshakes");
    let psystrike = start(&Ca::new(&scratch, "ca"));
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(psystrike.address()).expect("a connection");
            client.write_all(&part_of_a_hello(PART_BYTES)).expect("sent");
            client
        })
        .collect();
    let ended = poll("ended handshakes", || failures(&psystrike, "buffers_full"), |ended| *ended > 2.0);
    psystrike.wait_for_line("TLS with a client failed: buffer limit reached");
    assert_eq!(failures(&psystrike, "timeout"), 0.0);
    assert_eq!(psystrike.outcomes("buffers_full"), 0.0, "no request was sent");
    assert!(ended < clients.len() as f64, "{ended}");
}

#[test]
fn requests_in_parts_of_a_record_that_fill_the_buffers_are_counted() {
    for version in [&TLS12, &TLS13] {
        let scratch = Scratch::new("tls-full-records");
        let ca = Ca::new(&scratch, "ca");
        let psystrike = start(&ca);
        let config = trusting(&ca.file, &[version]);
        let head = format!("GET /healthz HTTP/1.1\r\nX-Slow: {}", "s".repeat(15_000));
        let clients: Vec<TlsClient> = (0..CLIENTS)
            .map(|_| {
                let mut client = TlsClient::connect(psystrike.address(), &config).expect("a handshake");
                let record = client.encrypt(head.as_bytes());
                client.socket().write_all(&record[..PART_BYTES]).expect("sent");
                client
            })
            .collect();
        let ended = || psystrike.outcomes("buffers_full");
        poll("ended requests", ended, |ended| *ended > 2.0);
        assert_eq!(failures(&psystrike, "buffers_full"), 0.0, "TLS itself did not fail");
        drop(clients);
    }
}

#[test]
fn a_handshake_that_a_shutdown_ends_has_not_timed_out() {
    let scratch = Scratch::new("tls-shutdown");
    let mut psystrike = start(&Ca::new(&scratch, "ca"));
    let mut client = TcpStream::connect(psystrike.address()).expect("a connection");
    client.write_all(&part_of_a_hello(100)).expect("sent");
    let begun = || psystrike.metric("psystrike_client_connections");
    poll("the client's connection", begun, |clients| *clients >= 2.0); // and that of /metrics
    psystrike.signal(Signal::TERM);
    psystrike.wait_for_line("reason=shutdown");
    assert!(psystrike.wait(LIMIT).success());
    assert!(!psystrike.stderr().contains("reason=timeout"), "{}", psystrike.stderr());
}
