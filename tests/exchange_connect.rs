//! The state machine of an exchange on a synthetic clock: CONNECT, from the request to a tunnel or a refusal.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use psystrike::proxy::{
    events::{ClientAction, UpstreamAction, Wants},
    outcome::{Outcome, UpstreamError},
    route::RouteName,
};
use states::{CLOSES, HEALTHZ, failure};
use talk::{Talk, ms, pod, reply, settings};

const CONNECT: &str = "CONNECT 10.1.2.3:8080 HTTP/1.1\r\nHost: 10.1.2.3:8080\r\n\r\n";
const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

fn connect(target: &str, fields: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n")
}

fn connecting() -> Talk {
    let mut talk = Talk::new("CONNECT");
    talk.client(CONNECT).upstream(UpstreamAction::Open(pod()));
    talk.wants(Wants::Connection);
    talk
}

#[test]
fn a_connection_of_its_own_becomes_a_tunnel() {
    let mut talk = Talk::new("CONNECT");
    let fields = "Proxy-Authorization: Basic eA==\r\nUser-Agent: Go-http-client/1.1\r\n";
    // Bytes after the head are for the pod, even if they look like a request.
    let request = connect("10.1.2.3:8080", fields) + HEALTHZ;
    talk.client(request).upstream(UpstreamAction::Open(pod()));
    let mut said = talk.connected(false);
    let report = said.report();
    drop(said.gets(ESTABLISHED));
    assert_eq!((report.route, report.outcome, report.status), (RouteName::Connect, Outcome::Tunnel, 200));
    assert_eq!((report.peer, report.request.as_deref()), (Some(pod()), Some("CONNECT 10.1.2.3:8080")));
    assert_eq!(talk.unused(), HEALTHZ.as_bytes(), "it was read as a request");
    talk.wants(Wants::Tunnel);
    talk.due(ms(360_000));
}

#[test]
fn without_the_option_it_is_refused_and_the_option_is_named() {
    let mut settings = settings();
    settings.connect_ports = None;
    let mut talk = Talk::with_rules("CONNECT", settings, false);
    let reason = "CONNECT is disabled; --allow-connect enables it";
    talk.client(CONNECT.to_owned() + HEALTHZ).gets(reply(403, reason, CLOSES, &format!("{reason}\n")));
    let mut said = talk.flushed();
    let report = said.report();
    drop(said.client(ClientAction::Shutdown));
    assert!(talk.unused().is_empty(), "bytes after a refused CONNECT were read as a request");
    assert_eq!(
        (report.route, report.outcome, report.peer),
        (RouteName::Connect, Outcome::ConnectNotAllowed, None)
    );
}

#[test]
fn destinations_are_checked_as_for_scrapes_and_ports_once_more() {
    let via = "Via: 1.1 psystrike\r\n".repeat(3);
    for (target, fields, outcome, reason) in [
        ("10.9.0.1:8080", "", Outcome::AddressNotAllowed, "destination not allowed"),
        ("127.0.0.1:8080", "", Outcome::AddressNotAllowed, "destination not allowed"),
        ("[::ffff:127.0.0.1]:8080", "", Outcome::AddressNotAllowed, "destination not allowed"),
        ("10.1.2.3:443", "", Outcome::PortNotAllowed, "destination port not allowed"),
        ("10.1.2.3:80", "", Outcome::ConnectPortNotAllowed, "destination port not allowed for CONNECT"),
        ("10.1.2.3:8080", &*via, Outcome::Loop, "scrape loops through psystrike"),
        ("10.1.2.3", "", Outcome::BadPort, "pod port is not a number from 1 to 65535"),
        ("10.1.2.3:0", "", Outcome::BadPort, "pod port is not a number from 1 to 65535"),
        ("10.1.2:80", "", Outcome::BadHost, "pod host is neither an IP address nor a DNS name"),
        ("fd00::1:8080", "", Outcome::BadHost, "pod host is neither an IP address nor a DNS name"),
    ] {
        let mut talk = Talk::new(target);
        talk.client(connect(target, fields)).whatever();
        let mut said = talk.flushed();
        let report = said.report();
        drop(said.client(ClientAction::Shutdown));
        assert_eq!((report.route, report.outcome), (RouteName::Connect, outcome), "{target}");
        let line = format!("HTTP/1.1 {} {reason}\r\n", outcome.status());
        assert!(talk.got.starts_with(line.as_bytes()), "{target}");
    }
    for (target, reason) in [
        ("http://10.1.2.3:8080/", "invalid request target: expected host:port"),
        ("/10.1.2.3:8080", "invalid request target: expected host:port"),
        ("a@10.1.2.3:8080", "invalid request target: userinfo not allowed"),
    ] {
        let mut talk = Talk::new(target);
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        talk.client(request).gets(reply(400, reason, CLOSES, &format!("{reason}\n")));
        talk.flushed().reports(Outcome::BadTarget, 400).client(ClientAction::Shutdown);
    }
    // A CONNECT request has no content (RFC 9110 section 9.3.6).
    let mut talk = Talk::new("content");
    let request = connect("10.1.2.3:8080", "Content-Length: 5\r\n");
    talk.client(request).gets(reply(413, "request body not allowed", CLOSES, "request body not allowed\n"));
}

#[test]
fn failures_before_the_tunnel_are_reported_as_for_scrapes() {
    for (error, status, reason) in [
        (UpstreamError::Refused, 502, "pod refused the connection"),
        (UpstreamError::Unreachable, 502, "pod is unreachable"),
        (UpstreamError::Itself, 508, "scrape loops through psystrike"),
    ] {
        let mut talk = connecting();
        talk.pod_fails(error).gets(failure(status, reason, CLOSES, "0ms")).upstream(UpstreamAction::Close);
        let outcome = talk.flushed().client(ClientAction::Shutdown).report().outcome;
        assert_eq!(outcome.status(), status);
    }
    let mut talk = connecting();
    let reason = "pod did not accept the connection within 3s";
    talk.expires(ms(3_000)).gets(failure(504, reason, CLOSES, "3s")).upstream(UpstreamAction::Close);
    let mut talk = connecting();
    talk.client_gone().whatever();
    talk.wants(Wants::Nothing);
}
