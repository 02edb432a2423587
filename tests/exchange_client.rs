//! The state machine of an exchange on a synthetic clock: clients that do not finish a head, that pipeline requests,
//! that do not read their response, or that close the connection; and how and when a client's connection ends.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use bytes::Shown;
use psystrike::proxy::{
    events::{ClientAction, UpstreamAction, Wants},
    outcome::{Outcome, UpstreamError},
    route::RouteName,
};
use states::{
    ASK_10_KEEPS, ASK_CLOSES, Begin, CLOSE, CLOSES, HEALTHZ, KEEP, awaiting_begun, failure, lingering,
    reading_begun, relaying_chunked, relaying_length, relaying_until_close, replying, replying_page,
    replying_refusal, sending_part,
};
use talk::{ANSWER, ASK, ASKED, Talk, ms, pod, reply, settings};

// ------------------------------------------------------------------------------------------- heads

#[test]
fn a_head_that_does_not_end() {
    // The deadline counts from the first byte, however slowly the rest arrives.
    let mut talk = Talk::new("drips");
    talk.due(ms(10_000));
    talk.wait(ms(4000));
    for byte in "GET / HTTP/1.1\r\nHost: a\r\nA".bytes() {
        talk.client([byte]);
        talk.due(ms(14_000));
        talk.wait(ms(100));
    }
    let reason = "request headers not received within 10s";
    talk.expires(ms(14_000)).gets(reply(408, reason, CLOSES, &format!("{reason}\n")));
    talk.wants(Wants::Flush);
    let mut said = talk.flushed();
    let report = said.report();
    assert_eq!((report.route, report.outcome), (RouteName::None, Outcome::RequestTimeout));
    assert_eq!((report.status, report.peer), (408, None));
    drop(said.client(ClientAction::Shutdown));
    assert!(talk.unused().is_empty(), "a part of the head was read as a request");

    // A connection that sends nothing is closed without a response: new, after a request, and turned away.
    let mut talk = Talk::new("silent");
    talk.expires(ms(10_000)).client(ClientAction::Close);
    let mut talk = replying_page();
    talk.flushed().reports(Outcome::Page, 200);
    talk.expires(ms(360_000)).client(ClientAction::Close);
    let mut talk = Talk::with_rules("turned away", settings(), true);
    talk.expires(ms(10_000)).client(ClientAction::Close);
    // The head of a second request has its own time.
    let mut talk = replying_page();
    talk.flushed().reports(Outcome::Page, 200);
    talk.wait(ms(350_000));
    talk.client("G");
    talk.due(ms(360_000));
    talk.after(ms(10_000)).gets(reply(408, reason, CLOSES, &format!("{reason}\n")));
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    // RFC 9112 section 2.2: some clients send an empty line after a body.
    for parts in [&["\r\n"][..], &["\r", "\n"], &["\r\n\r", "\n"], &["\r\n\r\n", "\r", "\n"]] {
        let mut talk = replying_page();
        talk.flushed().reports(Outcome::Page, 200);
        for part in parts {
            talk.client(part);
            assert!(talk.exchange.idles(), "{parts:?}");
            talk.due(ms(360_000));
        }
        assert!(talk.unused().is_empty());
        talk.client("\r");
        talk.client("\nGET /healthz HTTP/1.1\r\nHost: psystrike\r");
        talk.due(ms(10_000));
        talk.client("\n\r\n").gets(reply(200, "OK", "", "Healthz\n"));
    }
    // They do not extend the deadline: a connection that sends nothing else counts as silent.
    let mut talk = Talk::new("empty lines only");
    for _ in 0..50 {
        talk.client("\r\n\r");
        talk.client("\n");
        talk.wait(ms(100));
    }
    talk.expires(ms(10_000)).client(ClientAction::Close);
}

// -------------------------------------------------------------------------------------- pipelining

#[test]
fn pipelined_requests_are_answered_in_order() {
    let second = "GET /pods/10.1.2.3/8080/second HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut talk = Talk::new("three, and the beginning of a fourth");
    let said = talk.client(format!("{ASK}\r\n{second}{HEALTHZ}GET /rea"));
    drop(said.upstream(UpstreamAction::Connect(pod())));
    assert_eq!(talk.unused().len(), 2 + second.len() + HEALTHZ.len() + "GET /rea".len());
    talk.connected(false);
    talk.sent_all();
    talk.asked(ASKED);
    talk.client("dy"); // not read while a request is in progress
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.wait(ms(100));
    talk.flushed().reports(Outcome::Forwarded, 200).upstream(UpstreamAction::Connect(pod()));
    talk.due(ms(3100)); // its time limit starts when it is read
    talk.connected(true);
    talk.sent_all();
    talk.asked(&ASKED.replace("/metrics", "/second"));
    talk.pod_ends().upstream(UpstreamAction::Retry(pod()));
    talk.pod_fails(UpstreamError::Refused)
        .gets(failure(502, "pod refused the connection", "", "0ms"))
        .upstream(CLOSE);
    talk.flushed().reports(Outcome::ConnectionRefused, 502).gets(reply(200, "OK", "", "Healthz\n"));
    talk.wait(ms(100));
    talk.flushed().reports(Outcome::Page, 200);
    talk.wants(Wants::Request);
    talk.due(ms(10_200)); // a head has begun
    talk.client("z HTTP/1.1\r\nHost: a\r\n\r\n").gets(reply(503, "Service Unavailable", "", "Readyz\n"));
    talk.flushed().reports(Outcome::Page, 503);
    assert!(talk.unused().is_empty());
    assert!(talk.exchange.idles());

    // After the connection's last response, nothing is read.
    let mut talk = Talk::new("the first is the last");
    talk.client(format!("{ASK_CLOSES}{HEALTHZ}")).upstream(UpstreamAction::Connect(pod()));
    talk.connected(false);
    talk.sent_all();
    let answer = ANSWER.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    talk.pod(ANSWER).gets(answer).upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200).client(ClientAction::Shutdown);
    assert!(talk.unused().is_empty());
    talk.discarded(HEALTHZ.len());
    talk.wants(Wants::Discard);
}

#[test]
fn many_small_requests_and_one_with_the_longest_head() {
    // More bytes than one read returns.
    let mut talk = Talk::new("1000 requests");
    let page = reply(200, "OK", "", "Healthz\n");
    talk.client(HEALTHZ.repeat(1000)).gets(&page);
    for _ in 1..1000 {
        talk.flushed().reports(Outcome::Page, 200).gets(&page);
    }
    talk.flushed().reports(Outcome::Page, 200);
    assert!(talk.exchange.idles());

    let fill = 16 * 1024 - "GET /healthz HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n".len();
    let head = |fill: usize| format!("GET /healthz HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "b".repeat(fill));
    let mut talk = Talk::new("the longest head, after empty lines");
    talk.client("\r\n".repeat(20_000) + &head(fill) + HEALTHZ).gets(&page);
    talk.flushed().reports(Outcome::Page, 200).gets(&page);
    let mut talk = Talk::new("one byte more");
    let reason = "request headers over 16 KiB";
    talk.client(head(fill + 1)).gets(reply(431, reason, CLOSES, &format!("{reason}\n")));
}

// ------------------------------------------------------------------------------ responses not read

#[test]
fn a_response_that_is_not_read_in_time_is_reset() {
    let rows: &[(Begin, u64, u16)] =
        &[(replying, 30_000, 200), (replying_page, 30_000, 200), (replying_refusal, 30_000, 400)];
    for &(replying, at, status) in rows {
        let mut talk = replying();
        let said = talk.expires_stalled(ms(at)).client(ClientAction::Reset);
        said.reports(Outcome::ClientTimeout, status);
        talk.wants(Wants::Nothing);
    }
    // A client gets extra time to take a late failure.
    let mut talk = Talk::awaiting(ASK, false);
    talk.after(ms(30_000))
        .gets(failure(504, "no response from the pod within 30s", "", "30s"))
        .upstream(CLOSE);
    talk.expires_stalled(ms(40_000)).client(ClientAction::Reset).reports(Outcome::ClientTimeout, 504);
}

#[test]
fn a_response_that_was_read_in_time_is_not_reset() {
    // The timeout comes before the event that all output was taken.
    for (stalled, outcome) in [(false, Outcome::Forwarded), (true, Outcome::ClientTimeout)] {
        let mut talk = replying();
        talk.wait(ms(29_999));
        let said = if stalled { talk.after_stalled(ms(1)) } else { talk.after(ms(1)) };
        let action = if stalled { ClientAction::Reset } else { ClientAction::None };
        said.client(action).reports(outcome, 200);
        talk.wants(if stalled { Wants::Nothing } else { Wants::Request });
    }
}

#[test]
fn when_a_client_disconnects_the_pods_connection_is_closed() {
    let rows: &[(Begin, u16, bool)] = &[
        (|| Talk::connecting(ASK), 499, false),
        (|| Talk::sending(ASK, true), 499, false),
        (sending_part, 499, false),
        (|| Talk::awaiting(ASK, true), 499, false),
        (awaiting_begun, 499, true),
        (relaying_length, 200, true),
        (relaying_chunked, 200, true),
        (relaying_until_close, 200, true),
        (replying, 200, true),
    ];
    for &(state, status, begun) in rows {
        let mut talk = state();
        talk.wait(ms(40));
        let mut said = talk.client_gone();
        let report = said.report();
        assert_eq!((report.route, report.outcome), (RouteName::Pods, Outcome::ClientClosedRequest));
        assert_eq!((report.status, report.peer), (status, Some(pod())));
        assert_eq!((report.duration, report.first_byte.is_some()), (ms(40), begun));
        drop(said.upstream(CLOSE).client(ClientAction::Close));
        talk.wants(Wants::Nothing);
    }
    for state in [replying_page, replying_refusal] {
        let mut talk = state();
        let mut said = talk.client_gone();
        assert_eq!(said.report().outcome, Outcome::ClientClosedRequest);
        drop(said.upstream(CLOSE).client(ClientAction::Close));
    }
    // Between requests and within a head, no exchange is in progress to report.
    for mut talk in [Talk::new("new"), reading_begun(), lingering()] {
        talk.client_gone().client(ClientAction::Close);
        talk.wants(Wants::Nothing);
    }
}

#[test]
fn an_exchange_ended_for_room_gets_a_503_or_is_visibly_broken() {
    let reason = Outcome::BuffersFull.reason();
    for state in
        [|| Talk::connecting(ASK), sending_part, || Talk::awaiting(ASK, true), awaiting_begun] as [Begin; 4]
    {
        let mut talk = state();
        talk.no_room(false).gets(failure(503, reason, CLOSES, "0ms")).upstream(CLOSE);
        assert_eq!(
            talk.exchange.held_bytes().min(4096),
            talk.exchange.held_bytes(),
            "more than 4 KiB are held"
        );
        let mut said = talk.flushed();
        let report = said.report();
        assert_eq!(
            (report.route, report.outcome, report.status),
            (RouteName::Pods, Outcome::BuffersFull, 503)
        );
        drop(said.client(ClientAction::Shutdown));
    }
    // A client that reads nothing is reset. One that reads gets the bytes sent before, and notices that they are
    // incomplete.
    for (state, status, stalled, action, wants) in [
        (awaiting_begun as Begin, 503, true, ClientAction::Reset, Wants::Nothing),
        (relaying_length, 200, true, ClientAction::Reset, Wants::Nothing),
        (relaying_length, 200, false, ClientAction::Shutdown, Wants::Discard),
        (relaying_until_close, 200, false, ClientAction::None, Wants::Delivery),
        (replying, 200, true, ClientAction::Reset, Wants::Nothing),
    ] {
        let mut talk = state();
        let mut said = talk.no_room(stalled);
        let report = said.report();
        assert_eq!((report.outcome, report.status), (Outcome::BuffersFull, status));
        drop(said.upstream(CLOSE).client(action));
        talk.wants(wants);
    }
    // A response that is completely output is delivered, but the connection then ends.
    let mut talk = replying();
    talk.no_room(false).reports(Outcome::Forwarded, 200).client(ClientAction::Shutdown);
    talk.wants(Wants::Discard);
    // A request may have arrived of which nothing is read, or decrypted.
    for mut talk in [reading_begun(), Talk::new("new")] {
        talk.no_room(false).gets(reply(503, reason, CLOSES, &format!("{reason}\n")));
        talk.flushed().client(ClientAction::Shutdown).reports(Outcome::BuffersFull, 503);
    }
    let mut talk = lingering();
    talk.no_room(false).client(ClientAction::Close);
    talk.wants(Wants::Nothing);
}

// ------------------------------------------------------------------------------- the last response

#[test]
fn lingering_ends() {
    let close = ClientAction::Close;
    let mut talk = lingering();
    talk.expires(ms(2000)).client(close);
    let mut talk = lingering();
    talk.client_gone().client(close);
    let mut talk = lingering();
    talk.drain(); // lingering continues during shutdown: the response must be readable
    talk.due(ms(2000));
    // Received bytes are discarded, up to a limit, and do not extend the deadline.
    let mut talk = lingering();
    talk.wait(ms(1000));
    for _ in 0..4 {
        talk.discarded(64 * 1024);
        talk.due(ms(2000));
    }
    talk.discarded(0);
    talk.discarded(1).client(close);
    let mut talk = lingering();
    talk.discarded(256 * 1024 + 1).client(close);
    talk.wants(Wants::Nothing);
}

#[test]
fn a_last_response_is_delivered_before_its_connection_closes() {
    // Whether or not the client has ended its side, delivery is checked every 50 ms.
    for ends in [true, false] {
        let mut talk = lingering();
        if ends {
            talk.client_ended();
            talk.wants(Wants::Delivery);
        }
        talk.after_stalled(ms(2000));
        for _ in 0..20 {
            talk.after_stalled(ms(50));
        }
        talk.after(ms(50)).client(ClientAction::Close);
        talk.wants(Wants::Nothing);
    }
    // At most for the time limit of a scrape. (The close is a reset then: src/net/stream.rs.)
    let mut talk = lingering();
    talk.after_stalled(ms(29_999));
    talk.expires_stalled(ms(30_000)).client(ClientAction::Close);
    // Further bytes of the client are still discarded.
    let mut talk = lingering();
    talk.after_stalled(ms(10_000));
    talk.wants(Wants::Discard);
    talk.discarded(1000);
}

#[test]
fn a_client_that_ends_between_requests_still_gets_the_last_response() {
    let mut talk = replying();
    talk.flushed().reports(Outcome::Forwarded, 200);
    talk.client_ended().client(ClientAction::Shutdown);
    talk.wants(Wants::Delivery);
    talk.after_stalled(ms(50));
    talk.after(ms(50)).client(ClientAction::Close);
    talk.wants(Wants::Nothing);
}

// ---------------------------------------------------------------------------------------- draining

#[test]
fn draining() {
    // During shutdown, every response whose head is not sent yet has Connection: close.
    let closes = |answer: &str| answer.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    let states: &[Begin] = &[
        || Talk::new("draining"),
        || Talk::connecting(ASK),
        || Talk::sending(ASK, true),
        || Talk::awaiting(ASK, true),
    ];
    for state in states {
        let mut talk = state();
        talk.draining = true;
        if talk.exchange.wants() == Wants::Request {
            talk.client(ASK).upstream(UpstreamAction::Connect(pod()));
        }
        if talk.exchange.wants() == Wants::Connection {
            talk.connected(false);
        }
        if talk.exchange.wants() == Wants::Send {
            talk.sent_all();
        }
        talk.drain();
        talk.pod(ANSWER).gets(closes(ANSWER)).upstream(KEEP);
        talk.drain();
        talk.flushed().client(ClientAction::Shutdown).reports(Outcome::Forwarded, 200);
        talk.wants(Wants::Discard);
    }
    // This includes failures, pages and refusals.
    let mut talk = Talk::connecting(ASK_10_KEEPS);
    talk.draining = true;
    talk.pod_fails(UpstreamError::Refused)
        .gets(failure(502, "pod refused the connection", CLOSES, "0ms"))
        .upstream(CLOSE);
    for request in [HEALTHZ, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut talk = Talk::new(request);
        talk.draining = true;
        let said = talk.client(request);
        assert!(String::from_utf8_lossy(&said.bytes).contains(CLOSES), "{}", Shown(&said.bytes));
        said.whatever();
        let mut said = talk.flushed();
        said.report();
        drop(said.client(ClientAction::Shutdown));
    }
    // A head that was already sent cannot have it; once idle, the connection is closed.
    let mut talk = relaying_length();
    talk.draining = true;
    talk.drain();
    talk.pod("p\n").gets("p\n").upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200);
    talk.wants(Wants::Request);
    talk.drain().client(ClientAction::Close);
    // A request that has begun is still answered.
    let mut talk = reading_begun();
    talk.draining = true;
    talk.drain();
    talk.client("lthz HTTP/1.1\r\nHost: a\r\n\r\n").gets(reply(200, "OK", CLOSES, "Healthz\n"));
}
