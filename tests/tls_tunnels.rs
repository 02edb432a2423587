//! Tunnels inside TLS, as with `proxy_url: https://`.
#![cfg(feature = "tls")]

mod support;

use std::{
    io::Write as _,
    net::TcpListener,
    time::{Duration, Instant},
};

use rustls::version::TLS13;
use support::{
    Scratch,
    certificates::Ca,
    psystrike::Psystrike,
    tls_client::{TlsClient, trusting},
};

const LIMIT: f64 = (1 << 20) as f64;

/// TLS takes bytes from the pod that the client does not accept: they wait as records.
#[test]
fn bytes_that_wait_for_a_stalled_client_are_counted_and_limited() {
    let scratch = Scratch::new("tls-tunnels");
    let ca = Ca::new(&scratch, "ca");
    let server = ca.sign("server", &["127.0.0.1"]);
    let [certificate, key] = server.options("--tls");
    let arguments = ["--allow=127.0.0.0/8", "--allow-connect", "--buffers-max=1MiB", &certificate, &key];
    let psystrike = Psystrike::start(&arguments);
    let config = trusting(&ca.file, &[&TLS13]);
    let pod = TcpListener::bind("127.24.2.1:0").expect("a listener");
    let address = pod.local_addr().expect("an address");
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut client = TlsClient::connect(psystrike.address(), &config).expect("a handshake");
        client.send(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n")).expect("sent");
        let (pod, _) = pod.accept().expect("a connection");
        pod.set_nonblocking(true).expect("it can be set");
        stalled.push((client, pod));
    }
    let all = vec![7; 1 << 20];
    let (began, mut most) = (Instant::now(), 0.0_f64);
    while began.elapsed() < Duration::from_secs(2) {
        stalled.iter_mut().for_each(|(_, pod)| drop(pod.write(&all)));
        most = most.max(psystrike.metric("psystrike_buffered_bytes"));
    }
    assert!(most > 100_000.0 && most <= LIMIT, "{most} bytes are held");
    assert_eq!(psystrike.get("/healthz").status(), 200, "others are served");
}
