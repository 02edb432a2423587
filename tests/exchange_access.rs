//! The state machine of an exchange on a synthetic clock: credentials are checked before the target, and do not reach a
//! pod.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use std::{mem, sync::Arc};

use psystrike::proxy::{
    access::{Access, attempts::FAILURES_MAX, tokens::Tokens},
    events::{ClientAction, ClientFacts, UpstreamAction, Wants},
    outcome::Outcome,
    route::{Page, RouteName},
};
use states::{CLOSES, HEALTHZ, KEEP, basic, get};
use talk::{ANSWER, Talk, ms, pod, reply, settings};

const SECRET: &str = "wombat-4e7d0c58b2";
const OLD_SECRET: &str = "old:wombat-91aa3c";

const WWW: &str =
    "WWW-Authenticate: Bearer realm=\"psystrike\"\r\nWWW-Authenticate: Basic realm=\"psystrike\"\r\n";
const PROXY: &str =
    "Proxy-Authenticate: Bearer realm=\"psystrike\"\r\nProxy-Authenticate: Basic realm=\"psystrike\"\r\n";

fn talk(name: &str) -> Talk {
    let file = format!("# secrets\nnew:{SECRET}\n\n:{OLD_SECRET}\n");
    let mut settings = settings();
    settings.access.tokens = Some(Arc::new(Tokens::parse(file.as_bytes(), [7; 16]).expect("secrets")));
    Talk::with_rules(name, settings, false)
}

const PODS: &str = "/pods/10.1.2.3/8080/metrics";
const ABSOLUTE: &str = "http://10.1.2.3:8080/metrics";

/// Scrapes the pod with these headers, of which only those `left` reach it.
#[track_caller]
fn scrapes(talk: &mut Talk, target: &str, fields: &str, left: &str) {
    let connect = match target {
        PODS => UpstreamAction::Connect(pod()),
        _ => UpstreamAction::ConnectOther(pod()),
    };
    talk.client(get(target, fields)).upstream(connect);
    talk.connected(false);
    talk.sent_all();
    let host = "GET /metrics HTTP/1.1\r\nHost: 10.1.2.3:8080\r\n";
    talk.asked(&format!("{host}{left}Via: 1.1 psystrike\r\n\r\n"));
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200);
}

#[test]
fn every_form_of_a_secret_is_accepted_and_taken_off() {
    let bearer = format!("Bearer {SECRET}");
    let old = format!("bearer {OLD_SECRET}");
    let (with_user, of_nobody) = (basic("prometheus", SECRET), basic("", OLD_SECRET));
    for credentials in [&bearer, &old, &with_user, &of_nobody] {
        for (name, others, left) in [
            ("Authorization", "Accept: */*\r\n", "Accept: */*\r\n"),
            ("Proxy-Authorization", "Accept: */*\r\n", "Accept: */*\r\n"),
            ("PROXY-AUTHORIZATION", "Authorization: Bearer pod\r\n", "Authorization: Bearer pod\r\n"),
            ("proxy-authorization", "authorization: Digest x\r\n", "authorization: Digest x\r\n"),
            // The same secret for both, or a second one: neither is the pod's.
            ("Proxy-Authorization", &format!("Authorization: {bearer}\r\n"), ""),
            ("Proxy-Authorization", &format!("Authorization: {with_user}\r\nX: y\r\n"), "X: y\r\n"),
        ] {
            for target in [PODS, ABSOLUTE] {
                let fields = format!("{name}: {credentials}\r\n{others}");
                scrapes(&mut talk(&fields), target, &fields, left);
            }
        }
    }
}

#[test]
fn a_secret_reaches_no_pod_in_whatever_scheme_it_is_sent() {
    let credentials = format!("Proxy-Authorization: Bearer {SECRET}\r\n");
    let unpadded = basic("ab", SECRET);
    assert!(unpadded.ends_with('='), "{unpadded}");
    for value in [
        SECRET,
        OLD_SECRET,
        &format!("Token {SECRET}"),
        &format!("ApiKey \t {OLD_SECRET}"),
        unpadded.trim_end_matches('='),
    ] {
        let authorization = format!("Authorization: {value}\r\n");
        scrapes(&mut talk(value), PODS, &format!("{credentials}{authorization}"), "");
        // A client with a certificate needs no other credentials.
        let mut proven = talk(value);
        proven.facts.has_proven_itself = true;
        scrapes(&mut proven, PODS, &authorization, "");
    }
    // What only contains a secret is not recognized.
    for value in [format!("Token token={SECRET}"), format!("Bearer pod, Bearer {SECRET}")] {
        let left = format!("Authorization: {value}\r\n");
        scrapes(&mut talk(&value), PODS, &format!("{credentials}{left}"), &left);
    }
}

#[test]
fn a_tunnel_needs_a_secret_too() {
    let connect = |fields: &str| format!("CONNECT 10.1.2.3:8080 HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    for name in ["Proxy-Authorization", "Authorization"] {
        let mut talk = talk(name);
        let request = connect(&format!("{name}: {}\r\n", basic("u", SECRET)));
        talk.client(request).upstream(UpstreamAction::Open(pod()));
        talk.wants(Wants::Connection);
    }
    for (fields, outcome, reason) in [
        ("", Outcome::ProxyAuthenticationRequired, "proxy authentication required"),
        (
            "Proxy-Authorization: Bearer wrong\r\n",
            Outcome::ProxyAuthenticationFailed,
            "proxy authentication failed: unknown secret",
        ),
    ] {
        let mut talk = talk(fields);
        let lines = format!("{PROXY}{CLOSES}");
        talk.client(connect(fields) + HEALTHZ).gets(reply(407, reason, &lines, &format!("{reason}\n")));
        talk.flushed().reports(outcome, 407).client(ClientAction::Shutdown);
        assert!(talk.unused().is_empty(), "what follows is not read as a request");
    }
    let mut refused = talk("even if tunnels are disabled, only a client with a secret learns that");
    refused.settings.connect_ports = None;
    refused.client(connect("")).whatever();
    assert_eq!(refused.flushed().client(ClientAction::Shutdown).report().status, 407);
}

#[test]
fn missing_and_wrong_credentials_differ_and_nothing_else_is_said() {
    let right = format!("Bearer {SECRET}");
    for (fields, detail) in [
        (String::new(), None),
        ("Cookie: a\r\n".to_owned(), None),
        (format!("Authorization: {SECRET}\r\n"), Some("neither Bearer nor Basic")),
        ("Authorization: Bearer \r\n".to_owned(), Some("no token after Bearer")),
        ("Authorization: Basic ?\r\n".to_owned(), Some("malformed Basic credentials")),
        ("Authorization: Bearer wombat\r\n".to_owned(), Some("unknown secret")),
        (format!("Authorization: Bearer {SECRET}x\r\n"), Some("unknown secret")),
        (format!("Authorization: Bearer {}\r\n", &SECRET[1..]), Some("unknown secret")),
        (format!("Authorization: {}\r\n", basic(SECRET, "")), Some("unknown secret")),
        // Only the secret counts, not its line in the file.
        (format!("Authorization: Bearer new:{SECRET}\r\n"), Some("unknown secret")),
        // Proxy-Authorization decides, and only one of each may.
        (format!("Proxy-Authorization: Bearer wombat\r\nAuthorization: {right}\r\n"), Some("unknown secret")),
        (
            format!("Authorization: {right}\r\nAuthorization: {right}\r\n"),
            Some("more than one Authorization header"),
        ),
        (
            format!("Proxy-Authorization: {right}\r\nProxy-Authorization: {right}\r\n"),
            Some("more than one Proxy-Authorization header"),
        ),
    ] {
        for (target, status, lines) in [
            (PODS, 401, WWW),
            ("/pods/127.0.0.1/1/", 401, WWW),
            ("/pods/x/y", 401, WWW),
            ("/nowhere", 401, WWW),
            (ABSOLUTE, 407, PROXY),
            ("http://127.0.0.1:1/", 407, PROXY),
            ("https://10.1.2.3/", 407, PROXY),
        ] {
            let prefix = if status == 407 { "proxy " } else { "" };
            let (outcome, reason) = match (detail, status) {
                (None, 401) => (Outcome::AuthenticationRequired, "authentication required".to_owned()),
                (None, _) => {
                    (Outcome::ProxyAuthenticationRequired, "proxy authentication required".to_owned())
                }
                (Some(detail), 401) => {
                    (Outcome::AuthenticationFailed, format!("{prefix}authentication failed: {detail}"))
                }
                (Some(detail), _) => {
                    (Outcome::ProxyAuthenticationFailed, format!("{prefix}authentication failed: {detail}"))
                }
            };
            let mut talk = talk(&fields);
            let expected = reply(status, &reason, lines, &format!("{reason}\n"));
            talk.client(get(target, &fields)).gets(expected);
            let report = talk.flushed().report();
            assert_eq!((report.outcome, report.status, report.peer), (outcome, status, None), "{fields}");
            talk.wants(Wants::Request);
            let shown = format!("{report:?}");
            assert!(!shown.contains("wombat"), "{shown}");
        }
    }
}

#[test]
fn pages_are_open_unless_they_are_guarded_and_probes_always_are() {
    for (path, guards_pages, expected) in [
        ("/healthz", false, 200),
        ("/healthz", true, 200),
        ("/readyz", false, 503),
        ("/readyz", true, 503),
        ("/", false, 200),
        ("/", true, 401),
        ("/metrics", false, 200),
        ("/metrics", true, 401),
        ("/metrics/", false, 401),
    ] {
        // Credentials for an open page are not checked.
        for fields in ["", "Authorization: Bearer wrong\r\n"] {
            let mut talk = talk(path);
            talk.settings.access.guards_pages = guards_pages;
            talk.client(get(path, fields)).whatever();
            assert_eq!(talk.flushed().report().status, expected, "{path}, guarded: {guards_pages}, {fields}");
        }
    }
    let mut talk = talk("/metrics");
    talk.settings.access.guards_pages = true;
    talk.client(get("/metrics", &format!("Authorization: Bearer {SECRET}\r\n"))).whatever();
    talk.flushed().reports(Outcome::Page, 200);
}

#[test]
fn framing_comes_first_and_method_and_body_later() {
    for (request, expected) in [
        (format!("POST {PODS} HTTP/1.1\r\nHost: x\r\n\r\n"), 401),
        (format!("GET {PODS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"), 401),
        (format!("GET {PODS} HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"), 400),
        (format!("GET {PODS} HTTP/1.1\r\n\r\n"), 400),
        (format!("POST {PODS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n\r\n"), 405),
    ] {
        let mut talk = talk(&request);
        talk.client(&request).whatever();
        let mut said = talk.flushed();
        assert_eq!(said.report().status, expected, "{request}");
        // After a body, it is not clear where the next request begins.
        let ends = expected == 400 || request.contains("Content-Length");
        drop(said.client(if ends { ClientAction::Shutdown } else { ClientAction::None }));
    }
}

#[test]
fn a_verified_certificate_is_enough() {
    let mut talk = talk("certificate");
    talk.facts.has_proven_itself = true;
    for (fields, left) in [
        ("".to_owned(), ""),
        ("Authorization: Bearer pod\r\n".to_owned(), "Authorization: Bearer pod\r\n"),
        (format!("Authorization: Bearer {SECRET}\r\n"), ""),
        ("Proxy-Authorization: Bearer wrong\r\n".to_owned(), ""),
    ] {
        scrapes(&mut talk, PODS, &fields, left);
    }
}

#[test]
fn without_secrets_a_verified_certificate_is_required() {
    let mut talk = Talk::new("a certificate and no secrets");
    talk.settings.access.client_certificates = true;
    talk.facts.is_encrypted = true;
    // TLS refuses such clients at the handshake. If one gets here, it is refused as well.
    for (target, status, outcome) in
        [(PODS, 401, Outcome::AuthenticationRequired), (ABSOLUTE, 407, Outcome::ProxyAuthenticationRequired)]
    {
        // Without a challenge: a secret would not be accepted.
        let reason = outcome.reason();
        let expected = reply(status, reason, "", &format!("{reason}\n"));
        talk.client(get(target, "Authorization: Bearer pod\r\n")).gets(expected);
        talk.flushed().reports(outcome, status);
    }
    for page in ["/metrics", "/healthz"] {
        talk.client(get(page, "")).whatever();
        talk.flushed().reports(Outcome::Page, 200);
    }
    talk.facts.has_proven_itself = true;
    let credentials = "Authorization: Bearer pod\r\n";
    scrapes(&mut talk, PODS, credentials, credentials);
}

#[test]
fn plain_http_is_refused_where_tls_is_required() {
    let secrets = talk("secrets").settings.access.tokens.clone();
    let reason = "HTTPS required; this port refuses plain HTTP";
    for (encrypted_only, client_certificates, has_secrets, refuses) in [
        (false, false, false, false),
        (false, false, true, false),
        (false, true, true, false), // either is enough
        (false, true, false, true),
        (true, false, false, true),
        (true, false, true, true),
        (true, true, true, true),
    ] {
        let access = Access {
            encrypted_only,
            client_certificates,
            tokens: secrets.clone().filter(|_| has_secrets),
            ..Access::default()
        };
        let secret = format!("Authorization: Bearer {SECRET}\r\n");
        let cases = [
            (get(PODS, &secret), RouteName::Pods),
            (get(ABSOLUTE, &secret), RouteName::Proxy),
            (get("http://psystrike/healthz", ""), RouteName::Proxy),
            (format!("CONNECT 10.1.2.3:8080 HTTP/1.1\r\nHost: x\r\n{secret}\r\n"), RouteName::Connect),
            (get("/", ""), RouteName::Page(Page::Index)),
            (get("/metrics", ""), RouteName::Page(Page::Metrics)),
            (get("/healthz/", ""), RouteName::None),
            (get("/healthz", "").replace("GET", "POST"), RouteName::Page(Page::Healthz)),
        ];
        for (request, route) in cases {
            let mut plain = Talk::new(&request);
            plain.settings.access = access.clone();
            let said = plain.client(request.clone() + HEALTHZ);
            if !refuses {
                assert!(!said.bytes.starts_with(b"HTTP/1.1 400"), "{request}");
                said.whatever();
                continue;
            }
            drop(said.gets(reply(400, reason, CLOSES, &format!("{reason}\n"))));
            let mut said = plain.flushed().client(ClientAction::Shutdown);
            let report = said.report();
            assert_eq!((report.outcome, report.route), (Outcome::HttpsRequired, route), "{request}");
            assert!(report.request.is_some() && plain.unused().is_empty(), "{request}");

            let mut encrypted = Talk::new(&request);
            encrypted.settings.access = access.clone();
            encrypted.facts.is_encrypted = true;
            encrypted.facts.has_proven_itself = client_certificates;
            let said = encrypted.client(&request);
            assert!(!said.bytes.starts_with(b"HTTP/1.1 400"), "{request}");
            said.whatever();
        }
        for (method, path) in [("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/readyz")] {
            let mut talk = Talk::new(path);
            talk.settings.access = access.clone();
            talk.client(get(path, "").replace("GET", method)).whatever();
            assert_eq!(talk.flushed().report().outcome, Outcome::Page, "{method} {path}");
            talk.wants(Wants::Request);
        }
    }
}

#[test]
fn over_plain_http_nothing_about_a_secret_is_learnt() {
    let [right, wrong] = [SECRET, "wrong"].map(|secret| {
        let mut talk = talk(secret);
        talk.settings.access.encrypted_only = true;
        talk.client(get(PODS, &format!("Authorization: Bearer {secret}\r\n"))).whatever();
        mem::take(&mut talk.got)
    });
    assert_eq!(right, wrong);
}

#[test]
fn guessing_is_slowed_and_correct_clients_of_the_same_address_are_not() {
    let wrong = get(PODS, "Authorization: Bearer wrong\r\n");
    let right = get(PODS, &format!("Authorization: Bearer {SECRET}\r\n"));
    let missing = get(PODS, "");
    let status = |talk: &mut Talk, request: &str| {
        talk.client(request).whatever();
        talk.flushed().report().status
    };
    let mut dialogue = talk("guesses");
    for _ in 0..FAILURES_MAX {
        assert_eq!(status(&mut dialogue, &missing), 401, "no guess, so it is not counted");
        assert_eq!(status(&mut dialogue, &wrong), 401);
    }
    assert_eq!(status(&mut dialogue, &missing), 401);
    let reason = "too many authentication failures";
    let lines = format!("Retry-After: 1\r\n{CLOSES}");
    // A correct secret is not checked either: otherwise the limit would not slow guesses.
    dialogue.client(&right).gets(reply(429, reason, &lines, &format!("{reason}\n")));
    let said = dialogue.flushed().client(ClientAction::Shutdown);
    drop(said.reports(Outcome::TooManyAuthenticationFailures, 429));

    let mut dialogue = talk("a correct client first");
    scrapes(&mut dialogue, PODS, &format!("Authorization: Bearer {SECRET}\r\n"), "");
    for _ in 0..10 * FAILURES_MAX {
        assert_eq!(status(&mut dialogue, &wrong), 401);
    }
    dialogue.client(&right).upstream(UpstreamAction::Connect(pod()));

    let mut dialogue = talk("a second later, and from elsewhere");
    for _ in 0..FAILURES_MAX {
        assert_eq!(status(&mut dialogue, &wrong), 401);
    }
    dialogue.facts = ClientFacts { ip: Some([192, 0, 2, 2].into()), ..dialogue.facts };
    assert_eq!(status(&mut dialogue, &wrong), 401, "another address");
    dialogue.facts = ClientFacts { ip: Some([192, 0, 2, 1].into()), ..dialogue.facts };
    dialogue.after(ms(1000)).whatever();
    dialogue.client(&right).upstream(UpstreamAction::Connect(pod()));
}

#[test]
fn without_tokens_nothing_is_checked_or_taken_off() {
    let mut talk = Talk::new("off");
    talk.settings.access.guards_pages = true;
    let fields = format!("Authorization: Bearer {SECRET}\r\nProxy-Authorization: Bearer {SECRET}\r\n");
    scrapes(&mut talk, PODS, &fields, &format!("Authorization: Bearer {SECRET}\r\n"));
}
