//! The state machine of an exchange on a synthetic clock: pods that requests give by name. Names are resolved, every
//! address is checked, and the allowed ones are tried one after another.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use std::net::IpAddr;

use psystrike::proxy::{
    events::{ClientAction, Event, UpstreamAction, Wants},
    outcome::{LookupError, Outcome, UpstreamError},
    peer::Peer,
    policy::parse_suffix,
    resolver::Answer,
    route::{Page, RouteName},
};
use states::{CLOSE, CLOSES, KEEP};
use talk::{ANSWER, Said, Talk, ms, pod, reply, settings};

const RESOLVE: UpstreamAction = UpstreamAction::Resolve;

/// A scrape of a named pod.
const ASK_NAME: &str = "GET /pods/web.ns.svc/8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\r\n";
const ASKED_NAME: &str = "GET /metrics HTTP/1.1\r\nHost: web.ns.svc:8080\r\nVia: 1.1 psystrike\r\n\r\n";
const ASK_PROXY: &str = "GET http://Web.ns.svc:8080/metrics HTTP/1.1\r\nHost: a\r\n\r\n";

fn found(addresses: &[&str]) -> Answer {
    Ok(addresses.iter().map(|ip| ip.parse::<IpAddr>().expect("an address")).collect())
}

fn at(ip: &str) -> Peer {
    Peer::new(ip.parse().expect("an address"), 8080)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Returns a dialogue whose request waits for the addresses of a name.
#[track_caller]
fn resolving(request: &str) -> Talk {
    let mut talk = Talk::new(request);
    talk.client(request).upstream(RESOLVE);
    talk.wants(Wants::Connection);
    assert!(talk.exchange.name().is_some());
    talk
}

#[track_caller]
fn resolved(talk: &mut Talk, answer: &Answer) -> Said {
    talk.tell(Event::Resolved(answer))
}

/// Returns the response for a failure without an address, or of the pod at an address.
fn failure(status: u16, reason: &str, at: &str, after: &str) -> String {
    reply(status, reason, "", &format!("{reason} (pod web.ns.svc:8080{at}, after {after})\n"))
}

#[test]
fn a_name_is_resolved_and_the_pod_gets_it_as_host() {
    for (request, connect, asked, route) in [
        (ASK_NAME.to_owned(), UpstreamAction::Connect(pod()), ASKED_NAME.to_owned(), RouteName::Pods),
        (
            ASK_PROXY.to_owned(),
            UpstreamAction::ConnectOther(pod()),
            ASKED_NAME.replace("web", "Web"),
            RouteName::Proxy,
        ),
        (
            get("/pods/web.ns.svc./8080"),
            UpstreamAction::Connect(pod()),
            ASKED_NAME.replace(":8080", ".:8080"),
            RouteName::Pods,
        ),
    ] {
        let mut talk = resolving(&request);
        talk.wait(ms(10));
        resolved(&mut talk, &found(&["10.1.2.3"])).upstream(connect);
        assert_eq!((talk.exchange.name(), talk.exchange.wants()), (None, Wants::Connection));
        talk.due(ms(10 + 3000));
        talk.connected(false);
        talk.sent_all();
        talk.asked(&asked);
        talk.due(ms(30_000));
        talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
        let report = talk.flushed().report();
        assert_eq!((report.route, report.outcome, report.peer), (route, Outcome::Forwarded, Some(pod())));
        assert!(report.request.is_some(), "the log must contain the name");
    }
    let mut talk = resolving(&get("http://Web.ns.svc"));
    let port_80 = Peer::new([10, 1, 2, 3].into(), 80);
    resolved(&mut talk, &found(&["10.1.2.3"])).upstream(UpstreamAction::ConnectOther(port_80));
    talk.connected(true);
    talk.sent_all();
    talk.asked("GET / HTTP/1.1\r\nHost: Web.ns.svc\r\nVia: 1.1 psystrike\r\n\r\n");
}

#[test]
fn names_without_addresses_are_reported() {
    for (error, outcome, status, reason) in [
        (LookupError::NoSuchName, Outcome::NoSuchName, 502, "no such name"),
        (LookupError::Failed, Outcome::LookupFailed, 502, "name lookup failed"),
        (LookupError::QueueFull, Outcome::LookupsFull, 503, "too many name lookups are queued"),
    ] {
        let mut talk = resolving(ASK_NAME);
        talk.wait(ms(20));
        resolved(&mut talk, &Err(error)).gets(failure(status, reason, "", "20ms")).upstream(CLOSE);
        let mut said = talk.flushed();
        let report = said.report();
        assert_eq!((report.outcome, report.status, report.peer), (outcome, status, None));
        assert_eq!(report.request.as_deref(), Some("GET /pods/web.ns.svc/8080/metrics"));
        talk.wants(Wants::Request);
    }
}

#[test]
fn a_name_takes_two_seconds_at_most_and_no_longer_than_its_scrape() {
    let with = |timeout: &str| {
        let field = format!("Host: psystrike\r\nX-Prometheus-Scrape-Timeout-Seconds: {timeout}\r\n");
        ASK_NAME.replace("Host: psystrike\r\n", &field)
    };
    for (request, due, within) in [
        (ASK_NAME.to_owned(), 2000, "2s"),
        (with("10"), 2000, "2s"),
        (with("1"), 900, "900ms"),
        (with("0.1"), 90, "90ms"),
    ] {
        let mut talk = resolving(&request);
        let reason = format!("name not resolved within {within}");
        talk.expires(ms(due)).gets(failure(504, &reason, "", within)).upstream(CLOSE);
        talk.flushed().reports(Outcome::LookupTimeout, 504);
        // An answer that arrives now is ignored.
        assert!(!talk.changes(Event::Resolved(&found(&["10.1.2.3"]))));
    }
    // The time for resolving counts towards the scrape's limit.
    let mut talk = resolving(&with("3"));
    talk.wait(ms(1900));
    resolved(&mut talk, &found(&["10.1.2.3"])).upstream(UpstreamAction::Connect(pod()));
    let reason = "pod did not accept the connection within 2.7s";
    talk.expires(ms(2700)).gets(failure(504, reason, " at 10.1.2.3:8080", "2.7s")).upstream(CLOSE);
}

#[test]
fn only_allowed_addresses_are_connected_to() {
    let nothing = "name resolves to no allowed address";
    for (addresses, expected) in [
        (&["10.1.2.3"][..], Some("10.1.2.3")),
        (&["8.8.8.8", "10.1.2.3"], Some("10.1.2.3")),
        (&["10.9.0.1", "127.0.0.1", "169.254.169.254", "fd00::1"], Some("fd00::1")),
        (&["::ffff:10.1.2.3"], Some("10.1.2.3")),
        (&["127.0.0.1", "::1"], None),
        (&["10.9.0.1"], None),
        (&["169.254.169.254"], None),
        (&["fd00:ec2::254"], None),
        (&["::ffff:127.0.0.1"], None),
        (&["0.0.0.0"], None),
        (&["8.8.8.8", "2a00::1"], None),
    ] {
        let mut talk = resolving(ASK_NAME);
        let said = resolved(&mut talk, &found(addresses));
        if let Some(ip) = expected {
            drop(said.upstream(UpstreamAction::Connect(at(ip))));
            // No other address is left to try.
            talk.pod_fails(UpstreamError::Refused).upstream(CLOSE).whatever();
        } else {
            drop(said.gets(failure(403, nothing, "", "0ms")).upstream(CLOSE));
            talk.flushed().reports(Outcome::ResolvedNotAllowed, 403);
        }
    }
}

#[test]
fn names_and_ports_are_checked_before_anything_is_resolved() {
    for (target, suffixes, outcome, reason) in [
        ("/pods/web.ns.svc/81/m", &[][..], Outcome::PortNotAllowed, "destination port not allowed"),
        ("/pods/web.ns.svc/8080/m", &["example"], Outcome::NameNotAllowed, "name not allowed"),
        ("http://web.ns.svc:8080/m", &["example", "ns.sv"], Outcome::NameNotAllowed, "name not allowed"),
    ] {
        let mut settings = settings();
        let suffixes = suffixes.iter().map(|text| parse_suffix(text).expect("a suffix")).collect();
        settings.policy = settings.policy.with_names(suffixes);
        let mut talk = Talk::with_rules(target, settings, false);
        talk.client(get(target)).whatever();
        assert!(talk.got.starts_with(format!("HTTP/1.1 403 {reason}\r\n").as_bytes()), "{target}");
        talk.flushed().reports(outcome, 403);
    }
    let mut settings = settings();
    settings.policy = settings.policy.with_names(vec!["ns.svc".into()]);
    let mut talk = Talk::with_rules("an allowed name", settings, false);
    talk.client(ASK_NAME).upstream(RESOLVE);
}

#[test]
fn the_next_address_is_tried_while_time_is_left() {
    let addresses = found(&["10.1.2.3", "8.8.8.8", "10.1.2.4", "10.1.2.5"]);
    let next = |ip| UpstreamAction::Next(at(ip));
    for error in
        [UpstreamError::Refused, UpstreamError::Unreachable, UpstreamError::TimedOut, UpstreamError::Other]
    {
        let mut talk = resolving(ASK_NAME);
        resolved(&mut talk, &addresses).upstream(UpstreamAction::Connect(pod()));
        talk.wait(ms(100));
        talk.pod_fails(error).upstream(next("10.1.2.4"));
        talk.due(ms(3100));
        talk.pod_fails(error).upstream(next("10.1.2.5"));
        talk.connected(false);
        talk.sent_all();
        talk.asked(ASKED_NAME);
        talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
        assert_eq!(talk.flushed().report().peer, Some(at("10.1.2.5")));
    }
    // The last failure is reported.
    let mut talk = resolving(ASK_NAME);
    resolved(&mut talk, &addresses).upstream(UpstreamAction::Connect(pod()));
    talk.pod_fails(UpstreamError::Refused).upstream(next("10.1.2.4"));
    talk.pod_fails(UpstreamError::Refused).upstream(next("10.1.2.5"));
    let refused = failure(502, "pod refused the connection", " at 10.1.2.5:8080", "0ms");
    talk.pod_fails(UpstreamError::Refused).gets(refused).upstream(CLOSE);
    talk.flushed().reports(Outcome::ConnectionRefused, 502);
    // Each unresponsive address takes one connect timeout; all together take at most the scrape's time limit.
    let with_timeout = ASK_NAME
        .replace("Host: psystrike\r\n", "Host: psystrike\r\nX-Prometheus-Scrape-Timeout-Seconds: 5.5\r\n");
    let mut talk = resolving(&with_timeout);
    resolved(&mut talk, &addresses).upstream(UpstreamAction::Connect(pod()));
    talk.expires(ms(3000)).upstream(next("10.1.2.4"));
    let late = failure(504, "pod did not accept the connection within 5s", " at 10.1.2.4:8080", "5s");
    talk.expires(ms(5000)).gets(late).upstream(CLOSE);
    // Without a descriptor, trying another address is useless.
    let mut talk = resolving(ASK_NAME);
    resolved(&mut talk, &addresses).upstream(UpstreamAction::Connect(pod()));
    talk.pod_fails(UpstreamError::NoDescriptors).upstream(CLOSE).whatever();
    talk.flushed().reports(Outcome::NoFileDescriptors, 503);
}

#[test]
fn a_stale_connection_is_replaced_by_one_to_the_same_address_first() {
    let mut talk = resolving(ASK_NAME);
    resolved(&mut talk, &found(&["10.1.2.3", "10.1.2.4"])).upstream(UpstreamAction::Connect(pod()));
    talk.connected(true);
    talk.sent_all();
    talk.pod_ends().upstream(UpstreamAction::Retry(pod()));
    talk.pod_fails(UpstreamError::Refused).upstream(UpstreamAction::Next(at("10.1.2.4")));
    talk.connected(true);
    talk.sent_all();
    talk.asked(ASKED_NAME);
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200);
}

#[test]
fn a_name_that_is_psystrikes_own_is_a_page_or_a_loop() {
    for (path, outcome, route) in
        [("/healthz", Outcome::Page, RouteName::Page(Page::Healthz)), ("/m", Outcome::Loop, RouteName::Proxy)]
    {
        let mut talk = resolving(&get(&format!("http://web.ns.svc:8080{path}")));
        resolved(&mut talk, &found(&["10.1.2.3", "10.1.2.4"])).upstream(UpstreamAction::ConnectOther(pod()));
        talk.pod_fails(UpstreamError::Itself).whatever();
        let report = talk.flushed().report();
        assert_eq!((report.outcome, report.route), (outcome, route), "{path}");
    }
}

#[test]
fn a_location_leads_to_the_same_pod() {
    let redirect = |location: &str| {
        format!("HTTP/1.1 302 Found\r\nDate: x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
    };
    for (location, through) in [
        ("/m", "/pods/web.ns.svc/8080/m"),
        ("http://web.ns.svc:8080/m", "/pods/web.ns.svc/8080/m"),
        ("http://10.1.2.3:8080/m", "/pods/10.1.2.3/8080/m"),
        ("http://elsewhere.ns.svc:8080/m", "http://elsewhere.ns.svc:8080/m"),
    ] {
        for (request, expected) in [(ASK_NAME, through), (ASK_PROXY, location)] {
            let mut talk = resolving(request);
            resolved(&mut talk, &found(&["10.1.2.3"])).whatever();
            talk.connected(false);
            talk.sent_all();
            talk.pod(redirect(location)).gets(redirect(expected)).upstream(KEEP);
            talk.flushed().reports(Outcome::Forwarded, 302);
        }
    }
}

#[test]
fn while_a_name_is_resolved_its_client_may_leave_or_be_ended() {
    let mut talk = resolving(ASK_NAME);
    talk.client_gone().upstream(CLOSE).client(ClientAction::Close).reports(Outcome::ClientClosedRequest, 499);

    let mut talk = resolving(ASK_NAME);
    let reason = "buffer limit reached; this scrape held buffers longest";
    let full = reply(503, reason, CLOSES, &format!("{reason} (pod web.ns.svc:8080, after 0ms)\n"));
    talk.no_room(false).gets(full).upstream(CLOSE);

    let mut talk = resolving(ASK_NAME);
    talk.no_room(true).upstream(CLOSE).client(ClientAction::Reset).reports(Outcome::BuffersFull, 503);

    for input in [
        Event::Connected { reused: true },
        Event::UpstreamFailed(UpstreamError::Refused),
        Event::UpstreamEof { clean: true },
        Event::Sent(1),
        Event::Flushed,
        Event::Timeout { client_stalled: false },
        Event::CloseIfIdle { client_stalled: false },
        Event::TurnAway,
    ] {
        assert!(!resolving(ASK_NAME).changes(input));
    }
}

#[test]
fn a_request_by_address_never_waits_for_a_name() {
    let states: [fn() -> Talk; 4] = [
        || Talk::new("reading"),
        || Talk::connecting(talk::ASK),
        || Talk::awaiting(talk::ASK, true),
        states::replying,
    ];
    for state in states {
        let mut talk = state();
        assert_eq!(talk.exchange.name(), None);
        assert!(!talk.changes(Event::Resolved(&found(&["10.1.2.4"]))));
    }
}

#[test]
fn a_tunnel_goes_to_an_allowed_address_of_its_name() {
    let mut talk = resolving("CONNECT web.ns.svc:8080 HTTP/1.1\r\nHost: web.ns.svc:8080\r\n\r\n");
    let answer = found(&["10.9.0.1", "127.0.0.1", "10.1.2.4", "10.1.2.3"]);
    resolved(&mut talk, &answer).upstream(UpstreamAction::Open(at("10.1.2.4")));
    talk.pod_fails(UpstreamError::Refused).upstream(UpstreamAction::Open(pod()));
    let mut said = talk.connected(false);
    let report = said.report();
    drop(said.gets("HTTP/1.1 200 Connection established\r\n\r\n"));
    assert_eq!((report.route, report.outcome), (RouteName::Connect, Outcome::Tunnel));
    assert_eq!((report.peer, report.request.as_deref()), (Some(pod()), Some("CONNECT web.ns.svc:8080")));
    talk.wants(Wants::Tunnel);
}

#[test]
fn names_of_tunnels_are_checked_before_they_are_resolved() {
    let mut rules = settings();
    rules.policy = rules.policy.with_names(vec![parse_suffix("svc").expect("a suffix")]);
    for (target, outcome) in [
        ("web.ns.svc:80", Outcome::ConnectPortNotAllowed),
        ("web.ns.svc:443", Outcome::PortNotAllowed),
        ("web.example:8080", Outcome::NameNotAllowed),
        ("web.ns.svc", Outcome::BadPort),
    ] {
        let mut talk = Talk::with_rules(target, rules.clone(), false);
        talk.client(format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n")).whatever();
        let mut said = talk.flushed();
        assert_eq!((said.report().outcome, outcome.status() / 100), (outcome, 4), "{target}");
        drop(said.client(ClientAction::Shutdown));
    }
    let mut talk = resolving("CONNECT web.ns.svc:8080 HTTP/1.1\r\nHost: a\r\n\r\n");
    resolved(&mut talk, &found(&["127.0.0.1"])).whatever();
    assert_eq!(talk.flushed().client(ClientAction::Shutdown).report().outcome, Outcome::ResolvedNotAllowed);
}
