//! The state machine of an exchange on a synthetic clock: a request in every state of the diagram in
//! `proxy/exchange/mod.rs`, its report, and every event that a state does not wait for.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use psystrike::proxy::{
    access::checks::Checked,
    events::{ClientAction, Event, Report, UpstreamAction, Wants},
    outcome::{LookupError, Outcome, UpstreamError},
    route::{Page, RouteName},
};
use states::{
    Begin, CLOSES, HEALTHZ, KEEP, KEEPS, awaiting_begun, closed, lingering, lingering_ended, reading_begun,
    relaying_chunked, relaying_length, relaying_unchunked, relaying_until_close, replying, replying_page,
    replying_refusal, resolving, sending_part,
};
use talk::{ANSWER, ASK, ASKED, Said, Talk, ms, pod, reply, settings};

#[test]
fn reading_to_replying_to_reading() {
    let mut talk = Talk::new("one of psystrike's pages");
    talk.wants(Wants::Request);
    assert!(talk.exchange.idles());
    talk.wait(ms(5));
    talk.client("GET /hea");
    assert!(!talk.exchange.idles());
    talk.wait(ms(5));
    talk.client("lthz HTTP/1.1\r\nHost: psystrike\r\n\r\n").gets(reply(200, "OK", "", "Healthz\n"));
    talk.wants(Wants::Flush);
    talk.due(ms(10 + 30_000));
    assert!(!talk.exchange.idles());
    talk.wait(ms(7));
    let report = talk.flushed().report();
    let Report { route, outcome, status, pod_status, peer, duration, first_byte, detail, within, request } =
        report;
    assert_eq!((route, outcome, status), (RouteName::Page(Page::Healthz), Outcome::Page, 200));
    assert_eq!((pod_status, peer, duration, first_byte), (None, None, ms(7), None));
    assert_eq!((detail, within, request), (None, ms(0), None));
    talk.wants(Wants::Request);
    talk.due(ms(17 + 360_000));
    assert!(talk.exchange.idles());
    // The next request starts from the beginning.
    talk.client(HEALTHZ).gets(reply(200, "OK", "", "Healthz\n"));
    talk.flushed().reports(Outcome::Page, 200);
}

#[test]
fn pages() {
    let index = reply(200, "OK", "", "Index\n");
    let described = &index[..index.len() - "Index\n".len()];
    for (request, expected, page, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", index.as_str(), Page::Index, 200),
        ("GET /?a=b HTTP/1.1\r\nHost: a\r\n\r\n", index.as_str(), Page::Index, 200),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", described, Page::Index, 200),
        ("GET /metrics HTTP/1.0\r\n\r\n", &reply(200, "OK", CLOSES, "Metrics\n"), Page::Metrics, 200),
        (
            "GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            &reply(200, "OK", KEEPS, "Healthz\n"),
            Page::Healthz,
            200,
        ),
        (
            "GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            &reply(503, "Service Unavailable", CLOSES, "Readyz\n"),
            Page::Readyz,
            503,
        ),
    ] {
        let mut talk = Talk::new(request);
        talk.client(request).gets(expected);
        let mut said = talk.flushed();
        let report = said.report();
        assert_eq!((report.route, report.outcome), (RouteName::Page(page), Outcome::Page));
        assert_eq!(report.status, status);
        let closes = expected.contains(CLOSES);
        let action = if closes { ClientAction::Shutdown } else { ClientAction::None };
        drop(said.client(action));
        talk.wants(if closes { Wants::Discard } else { Wants::Request });
    }
}

#[test]
fn a_scrape_passes_every_state_and_reports_its_times() {
    let mut talk = Talk::new("a scrape");
    talk.wait(ms(1000));
    talk.client(ASK).upstream(UpstreamAction::Connect(pod()));
    talk.wants(Wants::Connection);
    talk.due(ms(1000 + 3000));
    talk.wait(ms(10));
    talk.connected(false);
    talk.wants(Wants::Send);
    talk.due(ms(1000 + 30_000));
    talk.wait(ms(10));
    talk.sent(20);
    talk.wants(Wants::Send);
    talk.sent(0);
    talk.wants(Wants::Send);
    talk.sent_all();
    talk.asked(ASKED);
    talk.wants(Wants::Response);
    talk.due(ms(1000 + 30_000));
    talk.wait(ms(80));
    talk.pod("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Le");
    talk.wants(Wants::Response);
    talk.wait(ms(30));
    talk.pod("ngth: 10\r\n\r\n").gets("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 10\r\n\r\n");
    talk.due(ms(1000 + 30_000));
    talk.wait(ms(30));
    talk.pod("01234").gets("01234");
    talk.wants(Wants::Response);
    talk.wait(ms(30));
    talk.pod("56789").gets("56789").upstream(KEEP);
    talk.wants(Wants::Flush);
    talk.due(ms(1000 + 30_000));
    talk.wait(ms(10));
    let report = talk.flushed().report();
    let Report { route, outcome, status, pod_status, peer, duration, first_byte, detail, within, request } =
        report;
    assert_eq!((route, outcome, status), (RouteName::Pods, Outcome::Forwarded, 200));
    let expected = (Some(200), Some(pod()), ms(200), Some(ms(100)));
    assert_eq!((pod_status, peer, duration, first_byte), expected);
    assert_eq!((detail, within, request), (None, ms(0), None));
    talk.wants(Wants::Request);
    talk.due(ms(1200 + 360_000));
}

#[test]
fn unexpected_events_change_nothing() {
    type Told = (&'static str, fn(&mut Talk) -> bool);
    let inputs: &[Told] = &[
        ("resolved", |talk| talk.changes(Event::Resolved(&Err(LookupError::NoSuchName)))),
        ("password checked", |talk| talk.changes(Event::PasswordChecked(Checked::Right))),
        ("password checked", |talk| talk.changes(Event::PasswordChecked(Checked::Not))),
        ("request", |talk| talk.changes(Event::Request(HEALTHZ.as_bytes()))),
        ("client gone", |talk| talk.changes(Event::ClientGone)),
        ("flushed", |talk| talk.changes(Event::Flushed)),
        ("discarded", |talk| talk.changes(Event::Discarded(1))),
        ("connected", |talk| talk.changes(Event::Connected { reused: false })),
        ("connected", |talk| talk.changes(Event::Connected { reused: true })),
        ("sent", |talk| talk.changes(Event::Sent(1))),
        ("answer", |talk| talk.changes(Event::Response(&mut ANSWER.as_bytes().to_vec()))),
        ("passed", |talk| talk.changes(Event::Spliced(1))),
        ("end", |talk| talk.changes(Event::UpstreamEof { clean: true })),
        ("failed", |talk| talk.changes(Event::UpstreamFailed(UpstreamError::Other))),
        ("failed", |talk| talk.changes(Event::UpstreamFailed(UpstreamError::Refused))),
        ("drain", |talk| talk.changes(Event::CloseIfIdle { client_stalled: false })),
        ("the client's end", |talk| talk.changes(Event::ClientEnded)),
        ("no tls", |talk| talk.changes(Event::TlsFailed)),
        ("turn away", |talk| talk.changes(Event::TurnAway)),
        ("early", |talk| talk.changes(Event::Timeout { client_stalled: false })),
        ("early", |talk| talk.changes(Event::Timeout { client_stalled: true })),
        ("late", |talk| {
            talk.wait(ms(24 * 3600 * 1000));
            talk.changes(Event::Timeout { client_stalled: false })
        }),
        ("late", |talk| {
            talk.wait(ms(24 * 3600 * 1000));
            talk.changes(Event::Timeout { client_stalled: true })
        }),
    ];
    // Each state, and the events that it waits for.
    type State = (&'static str, Begin, &'static [&'static str]);
    let answer = &["client gone", "answer", "end", "failed", "late"];
    let relay = &["client gone", "answer", "passed", "end", "failed", "late"];
    let send = &["client gone", "sent", "answer", "end", "failed", "late"];
    let states: &[State] = &[
        (
            "new",
            || Talk::new("new"),
            &["request", "client gone", "the client's end", "no tls", "drain", "turn away", "late"],
        ),
        (
            "turned away",
            || Talk::with_rules("turned away", settings(), true),
            &["request", "client gone", "the client's end", "no tls", "drain", "turn away", "late"],
        ),
        ("reading", reading_begun, &["request", "client gone", "the client's end", "no tls", "late"]),
        ("resolving", resolving, &["client gone", "resolved", "late"]),
        ("connecting", || Talk::connecting(ASK), &["client gone", "connected", "failed", "late"]),
        ("sending", || Talk::sending(ASK, false), send),
        ("sending, reused", || Talk::sending(ASK, true), send),
        ("sending, partly sent", sending_part, send),
        ("awaiting", || Talk::awaiting(ASK, false), answer),
        ("awaiting, reused", || Talk::awaiting(ASK, true), answer),
        ("awaiting, begun", awaiting_begun, answer),
        ("relaying, length", relaying_length, relay),
        ("relaying, chunked", relaying_chunked, relay),
        ("relaying, until close", relaying_until_close, relay),
        ("relaying, unchunked", relaying_unchunked, relay),
        ("replying", replying, &["client gone", "flushed", "late"]),
        ("replying, page", replying_page, &["client gone", "flushed", "late"]),
        ("replying, refusal", replying_refusal, &["client gone", "flushed", "late"]),
        ("lingering", lingering, &["client gone", "the client's end", "discarded", "late"]),
        ("lingering, ended", lingering_ended, &["client gone", "discarded", "late"]),
        ("closed", closed, &[]),
    ];
    for (name, state, waits_for) in states {
        for (input, tell) in inputs {
            let mut talk = state();
            let expected = waits_for.contains(input);
            assert_eq!(tell(&mut talk), expected, "{name}: {input}");
        }
    }
}

#[test]
fn reports_have_the_request_for_the_access_log_and_for_refusals() {
    const ALWAYS: bool = true;
    const IF_ASKED: bool = false;
    for (request, expected, always) in [
        (
            "GET /pods/10.1.2.3/8080/m?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /pods/10.1.2.3/8080/m?a=b",
            IF_ASKED,
        ),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "GET /healthz", IF_ASKED),
        ("GET /nowhere? HTTP/1.1\r\nHost: a\r\n\r\n", "GET /nowhere?", ALWAYS),
        ("GET http://a:0/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a:0/b", ALWAYS),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS *", ALWAYS),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", "GET /", ALWAYS),
        ("GET /pods/10.1.2.3/x/m HTTP/1.1\r\nHost: a\r\n\r\n", "GET /pods/10.1.2.3/x/m", ALWAYS),
        ("HEAD /pods/10.9.0.1/80/m HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /pods/10.9.0.1/80/m", IF_ASKED),
        ("GET / HTTP/1.1\r\n\r\n", "", IF_ASKED),
    ] {
        for access_log in [true, false] {
            let mut settings = settings();
            settings.access_log = access_log;
            let mut talk = Talk::with_rules(request, settings, false);
            talk.client(request).whatever();
            if talk.exchange.wants() == Wants::Connection {
                talk.connected(false);
                talk.sent_all();
                talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
            }
            let mut said = talk.flushed();
            let expected = Some(expected).filter(|text| !text.is_empty() && (always || access_log));
            assert_eq!(said.report().request.as_deref(), expected, "{request}");
            said.whatever();
        }
    }
    // For every way of ending.
    let mut settings = settings();
    settings.access_log = true;
    let ends: &[fn(&mut Talk) -> Said] = &[
        |talk| talk.client_gone(),
        |talk| {
            talk.after(ms(30_000)).whatever();
            talk.flushed()
        },
        |talk| {
            talk.pod(&ANSWER[..ANSWER.len() - 1]).whatever();
            talk.pod_ends()
        },
    ];
    for end in ends {
        let mut talk = Talk::with_rules("every way of ending", settings.clone(), false);
        talk.client(ASK).upstream(UpstreamAction::Connect(pod()));
        talk.connected(false);
        talk.sent_all();
        let mut said = end(&mut talk);
        assert_eq!(said.report().request.as_deref(), Some("GET /pods/10.1.2.3/8080/metrics"));
        said.whatever();
    }
}
