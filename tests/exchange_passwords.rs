//! The state machine of an exchange on a synthetic clock: a request waits until its password is checked, and then goes
//! on as if it had been known.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#![cfg(feature = "web-config")]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use std::sync::Arc;

use psystrike::proxy::{
    access::{
        attempts::FAILURES_MAX,
        bcrypt::PasswordHash,
        checks::Checked,
        tokens::Tokens,
        users::{Users, Verdict},
    },
    events::{ClientAction, Event, UpstreamAction, Wants},
    outcome::{LookupError, Outcome},
    timestamp::Timestamp,
};
use states::{CLOSE, CLOSES, HEALTHZ, KEEP, basic, get};
use talk::{ANSWER, Said, Talk, ms, pod, reply, settings};

/// Of the password `pass!`.
const HASH: &str = "$2b$04$If6bvum7DFjUnE9p2uDeDuB9FHBtjxsfYVbvpSXewPCBc7bgqUl16";
const CHECK: UpstreamAction = UpstreamAction::CheckPassword;
const CONNECT: fn() -> UpstreamAction = || UpstreamAction::Connect(pod());
const PODS: &str = "/pods/10.1.2.3/8080/metrics";
const WRONG: &str = "authentication failed: unknown user or wrong password";

const WWW: &str = "WWW-Authenticate: Basic realm=\"psystrike\"\r\n";
const PROXY: &str = "Proxy-Authenticate: Basic realm=\"psystrike\"\r\n";

fn users(key: u8) -> Arc<Users> {
    let hash = PasswordHash::parse(HASH).expect("a hash");
    Arc::new(Users::new(vec![("alice".to_owned(), hash), ("bob".to_owned(), hash)], [key; 16]))
}

fn talk(name: &str) -> Talk {
    let mut settings = settings();
    settings.access.users = Some(users(1));
    Talk::with_rules(name, settings, false)
}

fn authorized(user: &str, password: &str) -> String {
    format!("Authorization: {}\r\n", basic(user, password))
}

/// A scrape with the right password.
fn scrape() -> String {
    get(PODS, &authorized("alice", "pass!"))
}

/// A request that waits for the check of its password.
#[track_caller]
fn authenticating(request: &str) -> Talk {
    let mut talk = talk(request);
    talk.client(request).upstream(CHECK);
    talk.wants(Wants::PasswordCheck);
    talk
}

/// Checks the password as the thread does, and tells the exchange.
#[track_caller]
fn check(talk: &mut Talk) -> Said {
    let login = talk.exchange.login().expect("a login that waits");
    let is_right = login.check();
    login.remember(is_right, Timestamp::default());
    talk.tell(Event::PasswordChecked(if is_right { Checked::Right } else { Checked::Wrong }))
}

/// Serves a scrape whose pod is being connected to.
#[track_caller]
fn serve(talk: &mut Talk, left: &str) {
    talk.connected(false);
    talk.sent_all();
    talk.asked(&format!("GET /metrics HTTP/1.1\r\nHost: 10.1.2.3:8080\r\n{left}Via: 1.1 psystrike\r\n\r\n"));
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200);
}

#[test]
fn a_right_password_is_checked_once_and_taken_off() {
    let mut talk = authenticating(&scrape());
    assert!(!talk.exchange.idles() && talk.exchange.held_bytes() >= scrape().len());
    check(&mut talk).upstream(CONNECT());
    serve(&mut talk, "");
    talk.client(scrape()).upstream(CONNECT());
    serve(&mut talk, "");
    let of_bob = get(PODS, &(authorized("bob", "pass!") + "X: y\r\n"));
    talk.client(&of_bob).upstream(CHECK);
    check(&mut talk).upstream(CONNECT());
    serve(&mut talk, "X: y\r\n");
}

#[test]
fn a_wrong_password_is_refused_now_and_later() {
    for (user, password) in [("alice", "wrong"), ("mallory", "pass!"), ("", "")] {
        let request = get(PODS, &authorized(user, password));
        let mut talk = authenticating(&request);
        check(&mut talk).gets(reply(401, WRONG, WWW, &format!("{WRONG}\n"))).upstream(CLOSE);
        talk.flushed().reports(Outcome::AuthenticationFailed, 401);
        talk.client(&request).gets(reply(401, WRONG, WWW, &format!("{WRONG}\n")));
        talk.flushed().reports(Outcome::AuthenticationFailed, 401);
        talk.client(scrape()).upstream(CHECK);
    }
    let mut dialogue = talk("no password");
    let reason = "authentication required";
    dialogue.client(get(PODS, "")).gets(reply(401, reason, WWW, &format!("{reason}\n")));
    dialogue.flushed().reports(Outcome::AuthenticationRequired, 401);
    dialogue.client(get(PODS, "Authorization: Bearer pass!\r\n")).gets(reply(
        401,
        WRONG,
        WWW,
        &format!("{WRONG}\n"),
    ));
}

#[test]
fn proxy_requests_and_tunnels_wait_too() {
    let fields =
        format!("Proxy-{}Authorization: {}\r\n", authorized("alice", "pass!"), basic("pod", "pass!"));
    let mut talk = authenticating(&get("http://10.1.2.3:8080/metrics", &fields));
    check(&mut talk).upstream(UpstreamAction::ConnectOther(pod()));
    serve(&mut talk, &format!("Authorization: {}\r\n", basic("pod", "pass!")));
    // The same login for both is not the pod's.
    let both = format!("Proxy-{}{}", authorized("alice", "pass!"), authorized("alice", "pass!"));
    let mut talk = authenticating(&get("http://10.1.2.3:8080/metrics", &both));
    check(&mut talk).upstream(UpstreamAction::ConnectOther(pod()));
    serve(&mut talk, "");

    let connect = |password| {
        let fields = format!("Proxy-{}", authorized("alice", password));
        format!("CONNECT 10.1.2.3:8080 HTTP/1.1\r\nHost: x\r\n{fields}\r\n")
    };
    let mut talk = authenticating(&connect("pass!"));
    assert!(talk.exchange.opens_tunnel(), "the client may end its side");
    check(&mut talk).upstream(UpstreamAction::Open(pod()));
    let mut talk = authenticating(&(connect("wrong") + HEALTHZ));
    let reason = format!("proxy {WRONG}");
    let lines = format!("{PROXY}{CLOSES}");
    check(&mut talk).gets(reply(407, &reason, &lines, &format!("{reason}\n"))).upstream(CLOSE);
    talk.flushed().reports(Outcome::ProxyAuthenticationFailed, 407).client(ClientAction::Shutdown);
    assert!(talk.unused().is_empty(), "what follows is not read as a request");
}

#[test]
fn names_and_refusals_come_after_the_check() {
    for (target, expected) in [
        ("/pods/web.ns.svc/8080/metrics", Err(UpstreamAction::Resolve)),
        ("/pods/10.9.0.1/8080/metrics", Ok((Outcome::AddressNotAllowed, 403))),
        ("/nowhere", Ok((Outcome::NotFound, 404))),
        ("/metrics", Ok((Outcome::Page, 200))),
        ("/", Ok((Outcome::Page, 200))),
    ] {
        let mut talk = authenticating(&get(target, &authorized("alice", "pass!")));
        match expected {
            Err(action) => drop(check(&mut talk).upstream(action)),
            Ok((outcome, status)) => {
                check(&mut talk).whatever();
                talk.flushed().reports(outcome, status);
            }
        }
    }
    let mut talk = authenticating(&get("/pods/web.ns.svc/8080/m", &authorized("alice", "pass!")));
    check(&mut talk).upstream(UpstreamAction::Resolve);
    talk.tell(Event::Resolved(&Err(LookupError::NoSuchName))).whatever();
    talk.flushed().reports(Outcome::NoSuchName, 502);
}

#[test]
fn probes_need_no_password() {
    let mut talk = talk("a probe");
    talk.client(HEALTHZ).gets(reply(200, "OK", "", "Healthz\n"));
    talk.flushed().reports(Outcome::Page, 200);
}

#[test]
fn a_secret_or_a_password_is_enough_and_a_certificate_is_not() {
    let mut dialogue = talk("a secret, too");
    dialogue.settings.access.tokens = Some(Arc::new(Tokens::parse(b"wombat", [7; 16]).expect("a secret")));
    for fields in ["Authorization: Bearer wombat\r\n".to_owned(), authorized("prometheus", "wombat")] {
        dialogue.client(get(PODS, &fields)).upstream(CONNECT());
        serve(&mut dialogue, "");
    }
    dialogue.client(scrape()).upstream(CHECK);
    check(&mut dialogue).upstream(CONNECT());
    serve(&mut dialogue, "");
    let reason = "authentication required";
    let both = format!("WWW-Authenticate: Bearer realm=\"psystrike\"\r\n{WWW}");
    dialogue.client(get(PODS, "")).gets(reply(401, reason, &both, &format!("{reason}\n")));

    for certificates in [false, true] {
        let mut talk = talk("a certificate");
        (talk.facts.is_encrypted, talk.facts.has_proven_itself) = (true, true);
        talk.settings.access.client_certificates = certificates;
        talk.client(get(PODS, "")).whatever();
        talk.flushed().reports(Outcome::AuthenticationRequired, 401);
        talk.client(scrape()).upstream(CHECK);
        check(&mut talk).upstream(CONNECT());
        serve(&mut talk, "");
    }
    let mut talk = talk("no certificate, although it is required");
    talk.facts.is_encrypted = true;
    talk.settings.access.client_certificates = true;
    talk.client(scrape()).whatever();
    talk.flushed().reports(Outcome::AuthenticationRequired, 401);
}

#[test]
fn the_time_limit_is_that_of_the_scrape() {
    let timeout = "X-Prometheus-Scrape-Timeout-Seconds: 10\r\n";
    let request = get(PODS, &(authorized("alice", "pass!") + timeout));
    let mut late = authenticating(&request);
    let reason = "password not checked within 9.5s";
    let body = format!("{reason}\n");
    late.expires(ms(9_500)).gets(reply(503, reason, "", &body)).upstream(CLOSE);
    late.flushed().reports(Outcome::PasswordCheckTimeout, 503);

    let mut talk = authenticating(&request);
    talk.wait(ms(1_000));
    check(&mut talk).upstream(CONNECT());
    talk.due(ms(4_000));
    talk.connected(false);
    talk.due(ms(9_500));
    talk.sent_all();
    talk.wait(ms(1_000));
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    let report = talk.flushed().report();
    assert_eq!((report.duration, report.first_byte), (ms(2_000), Some(ms(2_000))), "the wait counts");
}

#[test]
fn a_full_queue_is_a_refusal() {
    let mut talk = authenticating(&scrape());
    let reason = "too many passwords are waiting to be checked";
    let said = talk.tell(Event::PasswordChecked(Checked::Not));
    said.gets(reply(503, reason, CLOSES, &format!("{reason}\n"))).upstream(CLOSE);
    talk.flushed().reports(Outcome::PasswordChecksFull, 503).client(ClientAction::Shutdown);
}

#[test]
fn a_client_that_leaves_and_full_buffers_end_the_wait() {
    let mut talk = authenticating(&scrape());
    talk.client_gone().upstream(CLOSE).client(ClientAction::Close).reports(Outcome::ClientClosedRequest, 499);
    talk.wants(Wants::Nothing);
    let mut talk = authenticating(&scrape());
    talk.no_room(false).upstream(CLOSE).whatever();
    talk.flushed().reports(Outcome::BuffersFull, 503).client(ClientAction::Shutdown);
    let mut talk = authenticating(&scrape());
    let said = talk.no_room(true).upstream(CLOSE).client(ClientAction::Reset);
    said.reports(Outcome::BuffersFull, 503);
}

#[test]
fn a_draining_process_serves_it_as_the_last_request() {
    let mut talk = authenticating(&scrape());
    talk.draining = true;
    check(&mut talk).upstream(CONNECT());
    talk.connected(false);
    talk.sent_all();
    talk.pod(ANSWER).whatever();
    talk.flushed().reports(Outcome::Forwarded, 200).client(ClientAction::Shutdown);
}

#[test]
fn a_changed_file_means_another_check() {
    let mut talk = authenticating(&scrape());
    talk.settings.access.users = Some(users(2));
    talk.wait(ms(1_000));
    check(&mut talk).upstream(CHECK);
    talk.wants(Wants::PasswordCheck);
    talk.due(ms(30_000));
    check(&mut talk).upstream(CONNECT());
    serve(&mut talk, "");
    // A user who is gone by then.
    let mut talk = authenticating(&scrape());
    let hash = PasswordHash::parse(HASH).expect("a hash");
    talk.settings.access.users = Some(Arc::new(Users::new(vec![("bob".to_owned(), hash)], [3; 16])));
    check(&mut talk).upstream(CHECK);
    check(&mut talk).whatever();
    talk.flushed().reports(Outcome::AuthenticationFailed, 401);
    // No user any more.
    let mut talk = authenticating(&scrape());
    talk.settings.access.users = None;
    check(&mut talk).upstream(CONNECT());
    serve(&mut talk, &authorized("alice", "pass!"));
}

#[test]
fn another_password_does_not_count_while_one_waits() {
    let mut talk = authenticating(&(scrape() + &get(PODS, &authorized("alice", "wrong"))));
    assert!(!talk.unused().is_empty());
    check(&mut talk).upstream(CONNECT());
    talk.connected(false);
    talk.sent_all();
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200).upstream(CHECK);
}

#[test]
fn wrong_passwords_are_limited_for_an_address() {
    let mut talk = talk("guesses");
    for number in 0..FAILURES_MAX {
        talk.client(get(PODS, &authorized("alice", &number.to_string()))).upstream(CHECK);
        check(&mut talk).whatever();
        talk.flushed().reports(Outcome::AuthenticationFailed, 401);
    }
    talk.client(scrape()).whatever();
    talk.flushed().reports(Outcome::TooManyAuthenticationFailures, 429).client(ClientAction::Shutdown);
}

#[test]
fn a_right_password_is_accepted_although_others_were_wrong_meanwhile() {
    let mut talk = authenticating(&scrape());
    let address = talk.facts.ip;
    (0..FAILURES_MAX).for_each(|_| talk.attempts.failed(address, Timestamp::default()));
    check(&mut talk).upstream(CONNECT());
    serve(&mut talk, "");
}

#[test]
fn other_events_do_not_end_the_wait() {
    let inputs: [fn(&mut Talk) -> bool; 9] = [
        |talk| talk.changes(Event::Resolved(&Err(LookupError::NoSuchName))),
        |talk| talk.changes(Event::Request(HEALTHZ.as_bytes())),
        |talk| talk.changes(Event::Flushed),
        |talk| talk.changes(Event::Discarded(1)),
        |talk| talk.changes(Event::Connected { reused: true }),
        |talk| talk.changes(Event::UpstreamEof { clean: true }),
        |talk| talk.changes(Event::CloseIfIdle { client_stalled: false }),
        |talk| talk.changes(Event::TurnAway),
        |talk| talk.changes(Event::Timeout { client_stalled: false }),
    ];
    let mut talk = authenticating(&scrape());
    for (at, input) in inputs.iter().enumerate() {
        assert!(!input(&mut talk), "{at}");
    }
    check(&mut talk).upstream(CONNECT());
    let known = users(1);
    assert!(matches!(known.judge(b"alice", b"pass!", None, Timestamp::default()), Verdict::Unchecked(_)));
}
