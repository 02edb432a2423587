//! Responses that are never read leave no bytes in the kernel.
//!
//! After an orderly close, the unread bytes of a response would stay in the send buffer, up to megabytes for each,
//! where no limit, gauge or descriptor counts them.

mod support;

use std::{
    fs,
    io::Read as _,
    net::{Shutdown, SocketAddr},
    process::Command,
    time::Duration,
};

use support::{
    http::{Client, get},
    netns::in_new_namespace,
    pods::{Pod, Then},
    poll,
    program::Signal,
    psystrike::Psystrike,
};

const CLIENTS: usize = 200;
/// More than the kernel's buffers hold: the kernel tries to deliver a shorter response for the time limit of a scrape.
const BODY: usize = 16 << 20;

/// Returns the unacknowledged bytes of all connections at this address, and the kernel's figures.
fn unsent_bytes(address: SocketAddr) -> (u64, String) {
    let sockets = Command::new("ss").args(["-Htan", "src", &address.to_string()]).output().expect("ss runs");
    let sockets = String::from_utf8(sockets.stdout).expect("text");
    let queued = |line: &str| line.split_whitespace().nth(2).and_then(|bytes| bytes.parse::<u64>().ok());
    // A listener's third column is its backlog.
    let connections = sockets.lines().filter(|line| !line.starts_with("LISTEN"));
    let sockstat = fs::read_to_string("/proc/thread-self/net/sockstat").expect("procfs");
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    (connections.filter_map(queued).sum(), tcp.to_owned())
}

fn long_answers() -> Pod {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n{}", "x".repeat(BODY));
    Pod::answering("10.1.2.3", answer, Then::Keep)
}

/// Reads the first byte of a response, and no more.
fn begin_to_take(client: &Client) {
    assert_eq!(client.stream().read(&mut [0]).expect("an answer"), 1);
}

fn nothing_stays(psystrike: &Psystrike) {
    let clients = || psystrike.metric("psystrike_client_connections");
    poll("the only remaining client", clients, |clients| *clients == 1.0);
    let (bytes, _) =
        poll("bytes in the kernel", || unsent_bytes(psystrike.address()), |(bytes, _)| *bytes < 64 << 10);
    assert!(bytes < 64 << 10);
}

#[test]
fn clients_that_disconnect_without_reading_leave_no_bytes() {
    in_new_namespace(|| {
        let psystrike = Psystrike::start(&["--clients-max", "20"]);
        let pod = long_answers();
        let target = Psystrike::target(pod.address(), "/");
        let gone: Vec<Client> = (0..CLIENTS)
            .map(|_| {
                let mut client = psystrike.client();
                client.send(get(&target));
                begin_to_take(&client);
                client.stream().shutdown(Shutdown::Write).expect("a connection");
                client
            })
            .collect();
        nothing_stays(&psystrike);
        drop(gone);
    });
}

#[test]
fn clients_that_do_not_read_leave_no_bytes_after_their_time_limit() {
    in_new_namespace(|| {
        let psystrike = Psystrike::start(&["--timeout", "1s"]);
        let pod = long_answers();
        let target = Psystrike::target(pod.address(), "/");
        let stalled: Vec<Client> = (0..CLIENTS / 4)
            .map(|_| {
                let mut client = psystrike.client();
                client.send(get(&target));
                begin_to_take(&client);
                client
            })
            .collect();
        nothing_stays(&psystrike);
        drop(stalled);
    });
}

/// Unacknowledged bytes stay counted after a reset (SIOCOUTQ), although they are gone: nothing waits for them.
#[test]
fn clients_that_do_not_wait_for_their_response_leave_no_connection() {
    in_new_namespace(|| {
        let psystrike = Psystrike::start(&[]);
        psystrike.process().stop();
        for _ in 0..200 {
            // The client's end arrives with its requests, and the responses to it cause a reset.
            let mut client = psystrike.client();
            client.send(get("/metrics").repeat(3));
            drop(client);
        }
        psystrike.signal(Signal::CONT);
        nothing_stays(&psystrike);
    });
}

/// A complete response is delivered: a client that reads slowly gets all of it, although its connection is closed.
#[test]
fn a_last_response_reaches_a_slow_client() {
    in_new_namespace(|| {
        let psystrike = Psystrike::start(&[]);
        let pod = Pod::answering(
            "10.1.2.4",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)),
            Then::Keep,
        );
        let mut client = psystrike.client();
        let target = Psystrike::target(pod.address(), "/");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        begin_to_take(&client);
        let forwarded = || psystrike.outcomes("forwarded");
        poll("the outcome", forwarded, |forwarded| *forwarded == 1.0);
        // The test needs more than the two seconds in which a client should end its side.
        std::thread::sleep(Duration::from_millis(2500));
        let mut rest = Vec::new();
        client.stream().read_to_end(&mut rest).expect("no reset");
        assert!(rest.ends_with(b"xxx") && rest.len() > 1_000_000, "{} bytes", rest.len());
    });
}
