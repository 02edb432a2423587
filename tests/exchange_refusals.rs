//! The state machine of an exchange on a synthetic clock: requests that are refused, their responses, and that no pod
//! is contacted. The result does not depend on how the request is split into reads.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use bytes::{Shown, cuts};
use psystrike::proxy::{
    events::{ClientAction, UpstreamAction, Wants},
    outcome::{Class, Outcome},
    route::RouteName,
};
use states::{ASK_10, ASK_10_KEEPS, ASK_CLOSES, ASK_HEAD, CLOSES, HEALTHZ, KEEPS, failure};
use talk::{ASK, Talk, pod, reply, settings};

/// A refused request, the outcome, its reason, and the lines about the connection in the response.
struct Refusal {
    request: String,
    outcome: Outcome,
    status: u16,
    reason: &'static str,
    lines: &'static str,
    turned_away: bool,
}

fn refusals() -> Vec<Refusal> {
    const NONE: &str = "no such page; pods are at /pods/{host}/{port}/{path}";
    const BAD_HOST: &str = "pod host is neither an IP address nor a DNS name";
    const ONLY: &str = "only GET and HEAD are allowed";
    const NO_BODY: &str = "request body not allowed";
    const ALLOW: &str = "Allow: GET, HEAD\r\n";
    const ALLOW_CLOSES: &str = "Allow: GET, HEAD\r\nConnection: close\r\n";
    let request = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let get = |path: &str| request(&format!("GET {path}"), "");
    let via = "Via: 1.1 psystrike\r\n".repeat(3);
    let rows = [
        // If the start of the next request is ambiguous, the connection is closed.
        ("GET\r\n\r\n".into(), Outcome::MalformedRequest, 400, "malformed request: request line", CLOSES),
        ("GET / HTTP/1.1\n\n".into(), Outcome::MalformedRequest, 400, "malformed request: bare LF", CLOSES),
        (
            "GET / HTTP/1.1\r\n\r\n".into(),
            Outcome::MalformedRequest,
            400,
            "malformed request: no Host header",
            CLOSES,
        ),
        (
            request("GET /", "Host: b\r\n"),
            Outcome::MalformedRequest,
            400,
            "malformed request: more than one Host header",
            CLOSES,
        ),
        (get("/#a"), Outcome::MalformedRequest, 400, "malformed request: request target", CLOSES),
        (
            request("GET /", "Content-Length: +1\r\n"),
            Outcome::MalformedRequest,
            400,
            "malformed request: invalid Content-Length",
            CLOSES,
        ),
        (
            request("GET /nowhere", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            Outcome::MalformedRequest,
            400,
            "malformed request: both Content-Length and Transfer-Encoding",
            CLOSES,
        ),
        (
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(),
            Outcome::HttpVersion,
            505,
            "only HTTP/1.1 and HTTP/1.0 are supported",
            CLOSES,
        ),
        (get(&"/a".repeat(9000)), Outcome::UriTooLong, 414, "request target over 16 KiB", CLOSES),
        (
            request("GET /", &format!("A: {}\r\n", "b".repeat(17_000))),
            Outcome::RequestHeadersTooLarge,
            431,
            "request headers over 16 KiB",
            CLOSES,
        ),
        (
            request("GET /", &"A: b\r\n".repeat(100)),
            Outcome::TooManyRequestHeaders,
            431,
            "more than 100 request headers",
            CLOSES,
        ),
        (request("GET /", "Content-Length: 5\r\n"), Outcome::RequestBody, 413, NO_BODY, CLOSES),
        (
            request("HEAD /pods/10.1.2.3/80/", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"),
            Outcome::RequestBody,
            413,
            NO_BODY,
            CLOSES,
        ),
        // Otherwise it persists if the client wants that.
        (request("POST /metrics", ""), Outcome::MethodNotAllowed, 405, ONLY, ALLOW),
        (
            request("POST /metrics", "Content-Length: 5\r\n"),
            Outcome::MethodNotAllowed,
            405,
            ONLY,
            ALLOW_CLOSES,
        ),
        (
            request("DELETE /pods/10.1.2.3/80/", "Connection: close\r\n"),
            Outcome::MethodNotAllowed,
            405,
            ONLY,
            ALLOW_CLOSES,
        ),
        (request("get /", ""), Outcome::MethodNotAllowed, 405, ONLY, ALLOW),
        (request("OPTIONS *", ""), Outcome::MethodNotAllowed, 405, ONLY, ALLOW),
        (request("POST http://10.1.2.3/metrics", ""), Outcome::MethodNotAllowed, 405, ONLY, ALLOW),
        (
            request("GET http://10.1.2.3/metrics", "Content-Length: 5\r\n"),
            Outcome::RequestBody,
            413,
            NO_BODY,
            CLOSES,
        ),
        (get("*"), Outcome::BadTarget, 400, "invalid request target: neither a path nor an http URL", ""),
        (
            get("10.1.2.3:80"),
            Outcome::BadTarget,
            400,
            "invalid request target: neither a path nor an http URL",
            "",
        ),
        (
            get("https://10.1.2.3/m"),
            Outcome::BadTarget,
            400,
            "invalid request target: the scheme is not http",
            "",
        ),
        (
            get("http://a:b@10.1.2.3/m"),
            Outcome::BadTarget,
            400,
            "invalid request target: userinfo not allowed",
            "",
        ),
        (get("http://10.1.2/m"), Outcome::BadHost, 400, BAD_HOST, ""),
        (get("http://10.1.2.3:0/m"), Outcome::BadPort, 400, "pod port is not a number from 1 to 65535", ""),
        (get("/nowhere"), Outcome::NotFound, 404, NONE, ""),
        (request("POST /nowhere", ""), Outcome::NotFound, 404, NONE, ""),
        (request("POST /nowhere", "Content-Length: 5\r\n"), Outcome::NotFound, 404, NONE, CLOSES),
        ("GET /nowhere HTTP/1.0\r\n\r\n".into(), Outcome::NotFound, 404, NONE, CLOSES),
        (
            "GET /nowhere HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into(),
            Outcome::NotFound,
            404,
            NONE,
            KEEPS,
        ),
        (get("/pods/10.1.2/80/"), Outcome::BadHost, 400, BAD_HOST, ""),
        (get("/pods/a..b/80/"), Outcome::BadHost, 400, BAD_HOST, ""),
        (get("/pods/localhost/81/"), Outcome::PortNotAllowed, 403, "destination port not allowed", ""),
        (request("GET /pods/localhost/80/", &via), Outcome::Loop, 508, "scrape loops through psystrike", ""),
        (get("/pods/10.1.2.3/0/"), Outcome::BadPort, 400, "pod port is not a number from 1 to 65535", ""),
        (get("/pods/10.9.0.1/80/"), Outcome::AddressNotAllowed, 403, "destination not allowed", ""),
        (get("/pods/127.0.0.1/80/"), Outcome::AddressNotAllowed, 403, "destination not allowed", ""),
        (get("/pods/10.1.2.3/81/"), Outcome::PortNotAllowed, 403, "destination port not allowed", ""),
        (request("GET /pods/10.1.2.3/80/", &via), Outcome::Loop, 508, "scrape loops through psystrike", ""),
    ];
    let mut refusals: Vec<_> = rows
        .into_iter()
        .map(|(request, outcome, status, reason, lines)| Refusal {
            request,
            outcome,
            status,
            reason,
            lines,
            turned_away: false,
        })
        .collect();
    refusals.extend([ASK, ASK_10_KEEPS].map(|request| Refusal {
        request: request.into(),
        outcome: Outcome::TooManyClients,
        status: 503,
        reason: "too many clients",
        lines: CLOSES,
        turned_away: true,
    }));
    refusals
}

impl Refusal {
    fn reply(&self) -> String {
        let pod = match self.outcome {
            Outcome::AddressNotAllowed | Outcome::PortNotAllowed | Outcome::Loop => {
                let mut segments = self.request.split('/').skip(2);
                let (ip, port) = (segments.next().expect("an address"), segments.next().expect("a port"));
                format!(" (pod {ip}:{port}, after 0ms)")
            }
            _ => String::new(),
        };
        let reply = reply(self.status, self.reason, self.lines, &format!("{}{pod}\n", self.reason));
        match self.request.starts_with("HEAD ") {
            true => reply[..reply.find("\r\n\r\n").expect("a head") + 4].to_owned(),
            false => reply,
        }
    }

    fn talk(&self) -> Talk {
        Talk::with_rules(&self.request, settings(), self.turned_away)
    }
}

#[test]
fn refusals_have_a_reason_and_reach_no_pod() {
    let refusals = refusals();
    // These are tested elsewhere (`exchange_access.rs`, `exchange_client.rs`, `exchange_connect.rs`,
    // `exchange_names.rs`, `exchange_passwords.rs`, `exchange_tls.rs`).
    let elsewhere = [
        Outcome::HttpsRequired,
        Outcome::HttpsNotSupported,
        Outcome::AuthenticationRequired,
        Outcome::AuthenticationFailed,
        Outcome::ProxyAuthenticationRequired,
        Outcome::ProxyAuthenticationFailed,
        Outcome::TooManyAuthenticationFailures,
        Outcome::PasswordChecksFull,
        Outcome::PasswordCheckTimeout,
        Outcome::RequestTimeout,
        Outcome::ConnectNotAllowed,
        Outcome::ConnectPortNotAllowed,
        Outcome::NameNotAllowed,
        Outcome::ResolvedNotAllowed,
    ];
    let is_met = |outcome| elsewhere.contains(&outcome) || refusals.iter().any(|it| it.outcome == outcome);
    for &outcome in Outcome::ALL {
        assert!(
            outcome.class() != Class::Refused || is_met(outcome),
            "{outcome:?} has no test here or in the files above"
        );
    }
    for refusal in &refusals {
        let mut talk = refusal.talk();
        // Another request follows, or bytes that would be one if the first were misread.
        talk.client(refusal.request.clone() + HEALTHZ).gets(refusal.reply());
        talk.wants(Wants::Flush);
        let closes = refusal.lines.contains(CLOSES);
        let mut said = talk.flushed();
        let report = said.report();
        assert_eq!((report.outcome, report.status), (refusal.outcome, refusal.status), "{}", refusal.request);
        if closes {
            drop(said.client(ClientAction::Shutdown));
            talk.wants(Wants::Discard);
            assert!(talk.unused().is_empty(), "it was read as another request");
        } else {
            drop(said.gets(reply(200, "OK", "", "Healthz\n")));
            talk.flushed().reports(Outcome::Page, 200);
        }
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_in_the_build_https_is_refused() {
    for (target, peer) in [
        ("/pods/https:10.1.2.3/8080/metrics", " (pod 10.1.2.3:8080, after 0ms)"),
        ("/pods/https:web.ns.svc/8080/metrics", " (pod web.ns.svc:8080, after 0ms)"),
    ] {
        let mut talk = Talk::new(target);
        let reason = "HTTPS to pods is not supported; this psystrike is built without TLS";
        let expected = reply(501, reason, "", &format!("{reason}{peer}\n"));
        talk.client(format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n\r\n")).gets(expected);
        talk.flushed().reports(Outcome::HttpsNotSupported, 501);
    }
    // Where a request may not lead anyway is said first.
    let mut talk = Talk::new("a forbidden destination");
    talk.client("GET /pods/https:127.0.0.1/8080/m HTTP/1.1\r\nHost: a\r\n\r\n").whatever();
    talk.flushed().reports(Outcome::AddressNotAllowed, 403);
}

#[test]
fn bytes_after_an_invalid_head_are_never_a_request() {
    for head in ["?? ??\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\r\nGET / HTTP/2.0\r\n\r\n"] {
        let mut talk = Talk::new(head);
        talk.client(head.to_owned() + HEALTHZ).whatever();
        assert!(talk.unused().is_empty(), "the bytes after it are used at once");
        talk.flushed().whatever();
        talk.wants(Wants::Discard);
    }
}

#[test]
fn loops() {
    for (via, hops) in [
        ("", 0),
        ("Via: 1.1 psystrike\r\n", 1),
        ("Via: 1.1 psystrike\r\nVia: 1.0 psystrike\r\n", 2),
        ("Via: 1.1 psystrike, 1.1 other, 1.1 PSYSTRIKE (a)\r\n", 2),
        ("Via: 1.1 a, 1.1 b, 1.1 c, 1.1 d\r\n", 0),
        ("Via: 1.1 psystrike, 1.1 psystrike, 1.1 psystrike\r\n", 3),
        ("Via: 1.1 psystrike\r\nvia: 1.1 psystrike, 1.1 x\r\nVIA: 1.1 psystrike\r\n", 3),
        // A Via that Connection lists is not forwarded, but still counts.
        ("Connection: Via\r\nVia: 1.1 psystrike, 1.1 psystrike, 1.1 psystrike\r\n", 3),
    ] {
        let request = format!("GET /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: a\r\n{via}\r\n");
        let mut talk = Talk::new(&request);
        let said = talk.client(&request);
        if hops < 3 {
            drop(said.upstream(UpstreamAction::Connect(pod())));
            continue;
        }
        drop(said.gets(failure(508, "scrape loops through psystrike", "", "0ms")));
        let report = talk.flushed().report();
        assert_eq!((report.route, report.outcome), (RouteName::Pods, Outcome::Loop));
        assert_eq!(report.peer, Some(pod()));
    }
    // psystrike's own pages are not part of a loop.
    let mut talk = Talk::new("a page");
    let via = "Via: 1.1 psystrike\r\n".repeat(3);
    talk.client(format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{via}\r\n")).gets(reply(
        200,
        "OK",
        "",
        "Healthz\n",
    ));
}

#[test]
fn requests_arrive_in_parts_of_any_size() {
    let asks = [ASK, ASK_10, ASK_10_KEEPS, ASK_HEAD, ASK_CLOSES].map(|ask| (ask.to_owned(), false));
    let pages = [HEALTHZ, "\r\n\r\nHEAD / HTTP/1.0\r\n\r\n"].map(|page| (page.to_owned(), false));
    let refusals = refusals().into_iter().map(|refusal| (refusal.request, refusal.turned_away));
    for (request, turned_away) in asks.into_iter().chain(pages).chain(refusals) {
        let hears = |parts: &[&[u8]]| {
            let mut talk = Talk::with_rules(&request, settings(), turned_away);
            let mut upstream = UpstreamAction::None;
            for part in parts {
                let mut said = talk.client(part);
                if said.upstream != UpstreamAction::None {
                    upstream = said.upstream;
                }
                said.bytes.clear();
                said.whatever();
            }
            assert_ne!(talk.exchange.wants(), Wants::Request, "{}", Shown(request.as_bytes()));
            (talk.exchange.unsent().to_vec(), talk.exchange.wants(), upstream, talk.got.clone())
        };
        let bytes = request.as_bytes();
        let whole = hears(&[bytes]);
        for at in cuts(bytes.len()) {
            assert_eq!(hears(&[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
        }
        assert_eq!(hears(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    }
}
