//! The state machine of an exchange on a synthetic clock: requests in absolute form, which clients with a `proxy_url`
//! send, are handled like those for `/pods/`.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use psystrike::proxy::{
    events::{UpstreamAction, Wants},
    outcome::{Outcome, UpstreamError},
    peer::Peer,
    route::{Page, RouteName},
};
use states::{KEEP, failure};
use talk::{ANSWER, ASK, ASKED, Talk, ms, pod, reply};

const ASK_PROXY: &str = "GET http://10.1.2.3:8080/metrics HTTP/1.1\r\nHost: 10.1.2.3:8080\r\n\r\n";

fn get(uri: &str, fields: &str) -> String {
    format!("GET {uri} HTTP/1.1\r\nHost: client.example\r\n{fields}\r\n")
}

#[test]
fn the_absolute_form_is_a_scrape() {
    let mut talk = Talk::sending(ASK_PROXY, false);
    talk.sent_all();
    talk.asked(ASKED);
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    let report = talk.flushed().report();
    assert_eq!((report.route, report.outcome, report.status), (RouteName::Proxy, Outcome::Forwarded, 200));
    assert_eq!(report.peer, Some(pod()));
}

#[test]
fn host_and_path_come_from_the_target() {
    for (uri, fields, peer, asked) in [
        ("http://10.1.2.3", "", "10.1.2.3:80", "GET / HTTP/1.1\r\nHost: 10.1.2.3\r\n"),
        ("http://10.1.2.3:80?a=b", "", "10.1.2.3:80", "GET /?a=b HTTP/1.1\r\nHost: 10.1.2.3:80\r\n"),
        ("HTTP://[fd00::A]:8080/m?", "", "[fd00::a]:8080", "GET /m? HTTP/1.1\r\nHost: [fd00::A]:8080\r\n"),
        // Only `/pods/` treats an encoded `?` as a query, and an empty path as `/metrics`.
        ("http://10.1.2.3/m%3Fa=b", "", "10.1.2.3:80", "GET /m%3Fa=b HTTP/1.1\r\nHost: 10.1.2.3\r\n"),
        (
            "http://10.1.2.3/m",
            "Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nAuthorization: mine\r\n",
            "10.1.2.3:80",
            "GET /m HTTP/1.1\r\nHost: 10.1.2.3\r\nAuthorization: mine\r\n",
        ),
    ] {
        let peer: std::net::SocketAddr = peer.parse().expect("an address");
        let mut talk = Talk::new(uri);
        let connect = UpstreamAction::ConnectOther(Peer::new(peer.ip(), peer.port()));
        talk.client(get(uri, fields)).upstream(connect);
        talk.connected(false);
        talk.sent_all();
        talk.asked(&format!("{asked}Via: 1.1 psystrike\r\n\r\n"));
    }
}

#[test]
fn a_location_is_forwarded_unchanged() {
    const REDIRECT: &str =
        "HTTP/1.1 302 Found\r\nDate: x\r\nLocation: http://10.1.2.3:8080/m\r\nContent-Length: 0\r\n\r\n";
    Talk::awaiting(ASK_PROXY, false).pod(REDIRECT).gets(REDIRECT).upstream(KEEP);
    // With `/pods/`, it leads through psystrike.
    let through = REDIRECT.replace("http://10.1.2.3:8080/m", "/pods/10.1.2.3/8080/m");
    Talk::awaiting(ASK, false).pod(REDIRECT).gets(through).upstream(KEEP);
}

#[test]
fn policy_loops_and_deadlines_apply() {
    let via = "Via: 1.1 psystrike\r\n".repeat(3);
    for (uri, fields, outcome, status, reason) in [
        ("http://10.9.0.1:8080/m", "", Outcome::AddressNotAllowed, 403, "destination not allowed"),
        ("http://127.0.0.1:8080/m", "", Outcome::AddressNotAllowed, 403, "destination not allowed"),
        ("http://[::ffff:127.0.0.1]/m", "", Outcome::AddressNotAllowed, 403, "destination not allowed"),
        ("http://10.1.2.3:81/m", "", Outcome::PortNotAllowed, 403, "destination port not allowed"),
        ("http://10.1.2.3:8080/m", &via, Outcome::Loop, 508, "scrape loops through psystrike"),
    ] {
        let mut talk = Talk::new(uri);
        talk.client(get(uri, fields)).whatever();
        let report = talk.flushed().report();
        assert_eq!(
            (report.route, report.outcome, report.status),
            (RouteName::Proxy, outcome, status),
            "{uri}"
        );
        assert!(talk.got.starts_with(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes()), "{uri}");
    }
    let timeout = "X-Prometheus-Scrape-Timeout-Seconds: 1\r\n";
    let mut talk = Talk::awaiting(&get("http://10.1.2.3:8080/metrics", timeout), false);
    let reason = "no response from the pod within 900ms";
    talk.expires(ms(900)).gets(failure(504, reason, "", "900ms")).upstream(UpstreamAction::Close);
}

#[test]
fn psystrikes_own_address_is_a_page_or_a_loop() {
    let own = |path: &str| {
        let mut talk = Talk::connecting(&get(&format!("http://10.1.2.3:8080{path}"), ""));
        talk.pod_fails(UpstreamError::Itself).whatever();
        let got = String::from_utf8(talk.got.clone()).expect("a text");
        let report = talk.flushed().report();
        (got, report.route, report.outcome)
    };
    for (path, page) in
        [("/metrics?a=b", Page::Metrics), ("/healthz", Page::Healthz), ("", Page::Index), ("?a", Page::Index)]
    {
        let reply = reply(200, "OK", "", &format!("{page:?}\n"));
        assert_eq!(own(path), (reply, RouteName::Page(page), Outcome::Page), "{path}");
    }
    for path in ["/pods/10.1.2.3/8080/metrics", "/nowhere", "//healthz"] {
        let reply = failure(508, "scrape loops through psystrike", "", "0ms");
        assert_eq!(own(path), (reply, RouteName::Proxy, Outcome::Loop), "{path}");
    }
}

#[test]
fn both_forms_follow_each_other_on_one_connection() {
    let mut talk = Talk::new("both forms");
    let asks = [ASK_PROXY, ASK, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", ASK_PROXY].concat();
    let mut said = talk.client(asks);
    for (route, connect) in [
        (RouteName::Proxy, UpstreamAction::ConnectOther(pod())),
        (RouteName::Pods, UpstreamAction::Connect(pod())),
    ] {
        drop(said.upstream(connect));
        talk.connected(false);
        talk.sent_all();
        talk.asked(ASKED);
        talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
        said = talk.flushed();
        assert_eq!(said.report().route, route);
    }
    drop(said.gets(reply(200, "OK", "", "Healthz\n")));
    let mut said = talk.flushed();
    assert_eq!(said.report().outcome, Outcome::Page);
    drop(said.upstream(UpstreamAction::ConnectOther(pod())));
    talk.wants(Wants::Connection);
}
