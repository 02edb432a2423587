//! The state machine of an exchange on a synthetic clock: pods that are scraped by HTTPS. Connections carry the TLS
//! profile of their request from step to step, and failures of TLS are reported with their reason.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#![cfg(feature = "tls")]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use std::net::IpAddr;

use psystrike::proxy::{
    events::{ClientAction, Event, UpstreamAction, Wants},
    outcome::{Outcome, UpstreamError},
    peer::Peer,
    pods::{PodScheme, Pods},
    resolver::Answer,
    route::{Destination, PodRoute, PodTarget, Scheme},
    settings::Settings,
    tls_fault::TlsFault,
};
use states::{CLOSE, KEEP, relaying_length, relaying_until_close};
use talk::{ANSWER, ASKED, Talk, ms, pod, reply, settings};

const ASK_TLS: &str = "GET /pods/https:10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\r\n";
const ASK_NAME: &str = "GET /pods/https:web.ns.svc./8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\r\n";

fn talk(name: &str, scheme: PodScheme) -> Talk {
    Talk::with_rules(name, Settings { pods: Pods::new(scheme), ..settings() }, false)
}

/// The pod at this address by TLS, requested by its name or by the address.
fn by_tls(talk: &Talk, ip: &str, name: Option<&str>) -> Peer {
    let plain = Peer::new(ip.parse().expect("an address"), 8080);
    let destination = name.map_or(Destination::Address(plain), |name| Destination::Name(name, 8080));
    let target = PodTarget { path: "/", query: None };
    let route = PodRoute { scheme: Some(Scheme::Https), destination, target, authority: None };
    plain.with_tls(talk.settings.pods.tls_profile(&route, &talk.facts).expect("built with TLS"))
}

fn found(addresses: &[&str]) -> Answer {
    Ok(addresses.iter().map(|ip| ip.parse::<IpAddr>().expect("an address")).collect())
}

fn failure(status: u16, reason: &str, pod: &str) -> String {
    reply(status, reason, "", &format!("{reason} (pod {pod}, after 0ms)\n"))
}

/// A dialogue whose request waits for a connection to the pod by TLS.
#[track_caller]
fn connecting() -> (Talk, Peer) {
    let mut talk = talk(ASK_TLS, PodScheme::Http);
    let peer = by_tls(&talk, "10.1.2.3", None);
    talk.client(ASK_TLS).upstream(UpstreamAction::Connect(peer));
    (talk, peer)
}

#[test]
fn the_scheme_decides_which_connection_is_used() {
    use PodScheme::{Client, Http, Https};
    for (target, scheme, [plain, encrypted]) in [
        ("/pods/https:10.1.2.3/8080/metrics", Http, [true, true]),
        ("/pods/http:10.1.2.3/8080/metrics", Https, [false, false]),
        ("/pods/10.1.2.3/8080/metrics", Http, [false, false]),
        ("/pods/10.1.2.3/8080/metrics", Https, [true, true]),
        ("/pods/10.1.2.3/8080/metrics", Client, [false, true]),
        ("http://10.1.2.3:8080/metrics", Https, [false, false]),
        ("http://10.1.2.3:8080/metrics", Client, [false, false]),
    ] {
        for (is_encrypted, by) in [(false, plain), (true, encrypted)] {
            let mut talk = talk(target, scheme);
            talk.facts.is_encrypted = is_encrypted;
            let peer = if by { by_tls(&talk, "10.1.2.3", None) } else { pod() };
            let connect = match target.starts_with('/') {
                true => UpstreamAction::Connect(peer),
                false => UpstreamAction::ConnectOther(peer),
            };
            talk.client(format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n\r\n")).upstream(connect);
            talk.connected(false);
            talk.sent_all();
            talk.asked(ASKED); // the same request
            talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
            assert_eq!(talk.flushed().report().peer, Some(peer));
        }
    }
}

#[test]
fn a_tunnel_has_no_tls_of_psystrike() {
    let mut talk = talk("CONNECT", PodScheme::Https);
    talk.client("CONNECT 10.1.2.3:8080 HTTP/1.1\r\nHost: a\r\n\r\n").upstream(UpstreamAction::Open(pod()));
    assert_eq!(talk.exchange.server_name(), None);
}

#[test]
fn failures_of_tls_before_a_response_are_reported_with_their_reason() {
    for &fault in TlsFault::ALL {
        let (outcome, reason) = match fault.is_trust() {
            true => (Outcome::CertificateNotTrusted, "pod's certificate is not trusted"),
            false => (Outcome::TlsFailed, "TLS connection to the pod failed"),
        };
        let expected = failure(502, &format!("{reason}: {}", fault.reason()), "10.1.2.3:8080");
        let (mut talk, _) = connecting();
        talk.pod_fails(UpstreamError::Tls(fault)).gets(&expected).upstream(CLOSE);
        talk.flushed().reports(outcome, 502);
        // A pod may reject psystrike's certificate after the handshake.
        let (mut talk, _) = connecting();
        talk.connected(false);
        talk.sent_all();
        talk.pod_fails(UpstreamError::Tls(fault)).gets(&expected).upstream(CLOSE);
        talk.flushed().reports(outcome, 502);
    }
    let (mut talk, _) = connecting();
    let reason = "pod did not accept the connection: no complete TLS handshake within 3s";
    let late = reply(504, reason, "", &format!("{reason} (pod 10.1.2.3:8080, after 3s)\n"));
    talk.expires(ms(3000)).gets(late).upstream(CLOSE);
    talk.flushed().reports(Outcome::ConnectTimeout, 504);
}

#[test]
fn a_failure_of_tls_within_a_response_gives_its_reason_to_the_log() {
    const FAULT: UpstreamError = UpstreamError::Tls(TlsFault::Protocol);
    let (mut talk, _) = connecting();
    talk.connected(false);
    talk.sent_all();
    talk.pod("HTTP/1.1 200");
    let reason = "pod closed the connection before the end of the response headers: protocol error";
    talk.pod_fails(FAULT).gets(failure(502, reason, "10.1.2.3:8080")).upstream(CLOSE);
    talk.flushed().reports(Outcome::ResponseHeadersTruncated, 502);
    for mut talk in [relaying_length(), relaying_until_close()] {
        let mut said = talk.pod_fails(FAULT).upstream(CLOSE);
        let report = said.report();
        let expected = (Outcome::ResponseTruncated, Some("protocol error"));
        assert_eq!((report.outcome, report.detail), expected);
        said.whatever();
    }
}

#[test]
fn a_stale_connection_is_replaced_by_one_of_the_same_profile() {
    for error in [UpstreamError::Other, UpstreamError::Tls(TlsFault::Protocol)] {
        let (mut talk, peer) = connecting();
        talk.connected(true);
        talk.sent_all();
        talk.pod_fails(error).upstream(UpstreamAction::Retry(peer));
        talk.connected(false);
        talk.sent_all();
        talk.asked(ASKED);
        talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
        talk.flushed().reports(Outcome::Forwarded, 200);
    }
}

/// A dialogue whose request waits for a connection to the first of three addresses by TLS.
#[track_caller]
fn connecting_by_name() -> (Talk, [Peer; 3]) {
    let mut talk = talk(ASK_NAME, PodScheme::Http);
    let addresses = ["10.1.2.3", "10.1.2.4", "10.1.2.5"];
    let peers = addresses.map(|ip| by_tls(&talk, ip, Some("web.ns.svc")));
    talk.client(ASK_NAME).upstream(UpstreamAction::Resolve);
    assert_eq!(talk.exchange.server_name(), None, "no connection is opened yet");
    talk.tell(Event::Resolved(&found(&addresses))).upstream(UpstreamAction::Connect(peers[0]));
    assert_eq!(talk.exchange.server_name(), Some("web.ns.svc"));
    (talk, peers)
}

#[test]
fn every_address_of_a_name_is_connected_to_with_the_names_profile() {
    let (mut talk, [first, second, third]) = connecting_by_name();
    assert_ne!(first, by_tls(&talk, "10.1.2.3", None), "another name to verify");
    talk.pod_fails(UpstreamError::Refused).upstream(UpstreamAction::Next(second));
    // Not every address may lead to a port with TLS.
    talk.pod_fails(UpstreamError::Tls(TlsFault::NotTls)).upstream(UpstreamAction::Next(third));
    assert_eq!(talk.exchange.server_name(), Some("web.ns.svc"));
    talk.connected(true);
    talk.sent_all();
    talk.pod_ends().upstream(UpstreamAction::Retry(third));
    assert_eq!(talk.exchange.server_name(), Some("web.ns.svc"));
    talk.connected(false);
    talk.wants(Wants::Send);
    talk.sent_all();
    talk.asked("GET /metrics HTTP/1.1\r\nHost: web.ns.svc.:8080\r\nVia: 1.1 psystrike\r\n\r\n");
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200);
}

#[test]
fn a_certificate_that_is_not_trusted_is_not_hidden_by_another_address() {
    for &fault in TlsFault::ALL {
        let (mut talk, [_, second, _]) = connecting_by_name();
        let said = talk.pod_fails(UpstreamError::Tls(fault));
        if !fault.is_trust() {
            drop(said.upstream(UpstreamAction::Next(second)));
            continue;
        }
        let reason = format!("pod's certificate is not trusted: {}", fault.reason());
        drop(said.gets(failure(502, &reason, "web.ns.svc.:8080 at 10.1.2.3:8080")).upstream(CLOSE));
        talk.flushed().reports(Outcome::CertificateNotTrusted, 502);
    }
}

#[test]
fn an_end_without_close_notify_breaks_only_a_body_that_ends_with_the_connection() {
    let mut talk = relaying_until_close();
    let mut said = talk.pod_stops().upstream(CLOSE);
    let report = said.report();
    assert_eq!((report.outcome, report.detail), (Outcome::ResponseTruncated, Some("no TLS close_notify")));
    talk.after(ms(0)).client(ClientAction::Reset);

    let mut talk = relaying_length();
    talk.pod("p\n").gets("p\n").upstream(KEEP);
    assert!(!talk.changes(Event::UpstreamEof { clean: false }), "the body is complete");
    talk.flushed().reports(Outcome::Forwarded, 200);
}

#[test]
fn a_client_with_which_tls_fails_has_time_to_read_the_alert() {
    let mut talk = Talk::new("an alert");
    talk.tell(Event::TlsFailed).client(ClientAction::Shutdown);
    talk.wants(Wants::Discard);
    talk.due(ms(2000));
    talk.discarded(1000);
    talk.client_gone().client(ClientAction::Close);
    talk.wants(Wants::Nothing);
}

#[test]
fn redirects_keep_the_scheme() {
    let redirect = |location: &str| {
        format!("HTTP/1.1 302 Found\r\nDate: x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
    };
    for (location, scheme, expected) in [
        ("/m", PodScheme::Http, "/pods/https:10.1.2.3/8080/m"),
        ("https://10.1.2.3:8080/m", PodScheme::Http, "/pods/https:10.1.2.3/8080/m"),
        ("http://10.1.2.3:8080/m", PodScheme::Http, "/pods/10.1.2.3/8080/m"),
        ("/m", PodScheme::Https, "/pods/10.1.2.3/8080/m"),
        ("http://10.1.2.3:8080/m", PodScheme::Https, "/pods/http:10.1.2.3/8080/m"),
        // This client is not encrypted.
        ("/m", PodScheme::Client, "/pods/https:10.1.2.3/8080/m"),
        ("https://10.1.2.3/m", PodScheme::Http, "https://10.1.2.3/m"),
    ] {
        let mut talk = talk(location, scheme);
        let peer = by_tls(&talk, "10.1.2.3", None);
        talk.client(ASK_TLS).upstream(UpstreamAction::Connect(peer));
        talk.connected(false);
        talk.sent_all();
        talk.pod(redirect(location)).gets(redirect(expected)).upstream(KEEP);
        talk.flushed().reports(Outcome::Forwarded, 302);
    }
}
