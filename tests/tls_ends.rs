//! Bodies that end with the connection, with TLS on both sides: only an end that was announced (close_notify, RFC 8446
//! section 6.1) completes one, and psystrike announces its own end only then. Pods and a client of Python's ssl, and
//! `openssl s_server`.
#![cfg(feature = "tls")]

mod support;

use std::{net::SocketAddr, process::Command};

use support::{
    LIMIT, Scratch, certificates::Ca, http::End, program::Program, psystrike::Psystrike, repository,
    require_programs,
};

/// The size of the page of tls_ends.py.
const PAGE_BYTES: usize = 36_000;

fn script() -> Command {
    let mut command = Command::new("python3");
    command.arg(repository().join("tests/support/tls_ends.py"));
    command
}

/// Returns the address of a program that logs its port.
fn pod(scratch: &Scratch, ip: &str) -> (Program, SocketAddr) {
    let program = Program::start(script().arg("pod").arg(scratch.path("")).arg(ip));
    let line = program.wait_for_line("listening on port", LIMIT);
    let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port");
    (program, SocketAddr::new(ip.parse().expect("an address"), port))
}

fn start(ca: &Ca) -> Psystrike {
    let [certificate, key] = ca.sign("psystrike", &["127.0.0.1"]).options("--tls");
    let trust = format!("--pod-tls-ca={}", ca.file);
    Psystrike::start(&["--allow=127.0.0.0/8", "--access-log", &trust, &certificate, &key])
}

fn path(pod: SocketAddr, path: &str) -> String {
    format!("/pods/https:{}/{}{path}", pod.ip(), pod.port())
}

#[test]
fn a_body_is_complete_only_if_its_end_is_announced() {
    if !require_programs(&["python3"]) {
        return;
    }
    let scratch = Scratch::new("tls-ends");
    let ca = Ca::new(&scratch, "ca");
    ca.sign("pod", &["127.32.0.1"]);
    let (_program, pod) = pod(&scratch, "127.32.0.1");
    let psystrike = start(&ca);
    for (target, body, end) in [
        ("/announced", PAGE_BYTES, End::Eof),
        ("/silent", PAGE_BYTES, End::Reset),
        ("/announced", PAGE_BYTES, End::Eof),
    ] {
        let mut client = psystrike.client();
        client.send(format!("GET {} HTTP/1.0\r\n\r\n", path(pod, target)));
        let (received, ended) = client.rest(LIMIT);
        let head = received.windows(4).position(|it| it == b"\r\n\r\n").map_or(0, |at| at + 4);
        // A reset may destroy bytes that the client has yet to read.
        let is_whole = received.len() - head == body;
        assert!(
            ended == end && (is_whole || end == End::Reset),
            "{target}: {} bytes, {ended:?}",
            received.len()
        );
    }
    psystrike.wait_for_line("no TLS close_notify");
    assert_eq!(psystrike.outcomes("response_truncated"), 1.0);
    assert_eq!(psystrike.outcomes("forwarded"), 2.0);
}

#[test]
fn psystrike_announces_the_end_of_complete_bodies_only() {
    if !require_programs(&["python3"]) {
        return;
    }
    let scratch = Scratch::new("tls-own-ends");
    let ca = Ca::new(&scratch, "ca");
    ca.sign("pod", &["127.32.0.2"]);
    let (_program, pod) = pod(&scratch, "127.32.0.2");
    let psystrike = start(&ca);
    let targets = ["/announced", "/silent", "/cut", "/announced"];
    let urls = targets.map(|target| format!("https://{}{}", psystrike.address(), path(pod, target)));
    let output = script().arg("client").arg(&ca.file).args(&urls).output().expect("python3 runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<(&str, &str)> = printed.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(lines.len(), 4, "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let whole = PAGE_BYTES.to_string();
    assert_eq!((lines[0], lines[3]), ((&*whole, "announced"), (&*whole, "announced")), "{printed}");
    for line in &lines[1..3] {
        assert!(["ConnectionResetError", "SSLEOFError"].contains(&line.1), "{printed}");
    }
    assert_eq!(psystrike.outcomes("response_truncated"), 2.0);
}

#[test]
fn bodies_of_openssl_s_server_are_complete() {
    if !require_programs(&["openssl", "python3"]) {
        return;
    }
    let scratch = Scratch::new("tls-s-server");
    let ca = Ca::new(&scratch, "ca");
    let files = ca.sign("pod", &["127.32.0.3"]);
    scratch.write("metrics", &"pod_up 1\n".repeat(4000));
    let psystrike = start(&ca);
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.32.0.3:0", "-WWW", version, "-cert", &files.certificate]);
        command.args(["-key", &files.key]).current_dir(scratch.path(""));
        let server = Program::start(&mut command);
        let pod = server.process().wait_for_listeners(1)[0];
        let url = format!("https://{}{}", psystrike.address(), path(pod, "/metrics"));
        let output = script().arg("client").arg(&ca.file).arg(&url).output().expect("python3 runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(printed, format!("{PAGE_BYTES} announced\n"), "{version}: {}", psystrike.stderr());
    }
}
