//! The state machine on a synthetic clock: every arrow of the diagram in `proxy/exchange.rs`, every input that
//! a state does not wait for, every deadline, to the nanosecond.
//!
//! A test is a dialogue (`support/talk.rs`). What the exchange puts out and a test does not name fails it.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/talk.rs"]
mod talk;

use std::time::Duration;

use bytes::{Shown, cuts, with_seeds};
use psystrike::proxy::{
    events::{ClientAction, Event, Report, UpstreamAction, Wants},
    outcome::{Class, Outcome, UpstreamError},
    route::{Page, RouteName},
};
use talk::{ANSWER, ASK, ASKED, Said, Talk, ms, pod, reply, settings};

/// Leads a dialogue to where a test begins.
type Begin = fn() -> Talk;

const KEEP: UpstreamAction = UpstreamAction::Keep;
const CLOSE: UpstreamAction = UpstreamAction::Close;
const CLOSES: &str = "Connection: close\r\n";
const KEEPS: &str = "Connection: keep-alive\r\n";

/// A scrape by an HTTP/1.0 client, that keeps its connection or does not.
const ASK_10: &str = "GET /pods/10.1.2.3/8080/metrics HTTP/1.0\r\n\r\n";
const ASK_10_KEEPS: &str = "GET /pods/10.1.2.3/8080/metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
const ASK_HEAD: &str = "HEAD /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\r\n";
const ASK_CLOSES: &str =
    "GET /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\nConnection: close\r\n\r\n";
const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: psystrike\r\n\r\n";

/// How a failure with [`pod`] is told.
fn failure(status: u16, reason: &str, lines: &str, after: &str) -> String {
    reply(status, reason, lines, &format!("{reason} (pod 10.1.2.3:8080, after {after})\n"))
}

/// A scrape whose answer's head, which is these bytes, went on as it came.
fn relaying(head: &str) -> Talk {
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod(head).gets(head);
    talk.wants(Wants::Response);
    talk
}

fn relaying_length() -> Talk {
    relaying("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nu")
}

fn relaying_chunked() -> Talk {
    relaying("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nu")
}

fn relaying_until_close() -> Talk {
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod("HTTP/1.1 200 OK\r\nDate: x\r\n\r\nup\n")
        .gets("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nup\n");
    talk.wants(Wants::Response);
    talk
}

/// The client has an answer of the pod and has yet to take it.
fn replying() -> Talk {
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.wants(Wants::Flush);
    talk
}

fn replying_page() -> Talk {
    let mut talk = Talk::new("a page");
    talk.client(HEALTHZ).gets(reply(200, "OK", "", "Healthz\n"));
    talk.wants(Wants::Flush);
    talk
}

fn replying_refusal() -> Talk {
    let mut talk = Talk::new("a refusal");
    let reason = "malformed request: request line";
    talk.client("?? ??\r\n\r\n").gets(reply(400, reason, CLOSES, &format!("{reason}\n")));
    talk.wants(Wants::Flush);
    talk
}

fn lingering() -> Talk {
    let mut talk = replying_refusal();
    talk.flushed().client(ClientAction::Shutdown).reports(Outcome::MalformedRequest, 400);
    talk.wants(Wants::Discard);
    talk
}

/// The client has ended its side, and not taken all of the answer.
fn lingering_ended() -> Talk {
    let mut talk = lingering();
    talk.client_ended();
    talk.wants(Wants::Delivery);
    talk
}

fn closed() -> Talk {
    let mut talk = lingering();
    talk.client_gone().client(ClientAction::Close);
    talk.wants(Wants::Nothing);
    talk
}

fn reading_begun() -> Talk {
    let mut talk = Talk::new("a head that is not whole");
    talk.client("GET /hea");
    talk.wants(Wants::Request);
    talk
}

fn awaiting_begun() -> Talk {
    let mut talk = Talk::awaiting(ASK, true);
    talk.pod("HTTP/1.1 2");
    talk
}

fn sending_part() -> Talk {
    let mut talk = Talk::sending(ASK, false);
    talk.sent(10);
    talk.wants(Wants::Send);
    talk
}

// ------------------------------------------------------------------------------------- the arrows

#[test]
fn reading_to_replying_to_reading() {
    let mut talk = Talk::new("a page of our own");
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
    let Report { route, outcome, status, peer, duration, first_byte, detail, within, request } = report;
    assert_eq!((route, outcome, status), (RouteName::Page(Page::Healthz), Outcome::Page, 200));
    assert_eq!((peer, duration, first_byte), (None, ms(7), None));
    assert_eq!((detail, within, request), (None, ms(0), None));
    talk.wants(Wants::Request);
    talk.due(ms(17 + 360_000));
    assert!(talk.exchange.idles());
    // The next one begins anew.
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
fn a_scrape_goes_through_every_state_and_tells_its_times() {
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
    let Report { route, outcome, status, peer, duration, first_byte, detail, within, request } = report;
    assert_eq!((route, outcome, status), (RouteName::Pods, Outcome::Forwarded, 200));
    assert_eq!((peer, duration, first_byte), (Some(pod()), ms(200), Some(ms(100))));
    assert_eq!((detail, within, request), (None, ms(0), None));
    talk.wants(Wants::Request);
    talk.due(ms(1200 + 360_000));
}

#[test]
fn no_connection_to_the_pod() {
    for (error, outcome, status, reason) in [
        (UpstreamError::Refused, Outcome::ConnectionRefused, 502, "pod refused the connection"),
        (UpstreamError::Unreachable, Outcome::Unreachable, 502, "pod is unreachable"),
        (
            UpstreamError::TimedOut,
            Outcome::ConnectTimeout,
            504,
            "pod did not accept the connection within 3s",
        ),
        (
            UpstreamError::NoDescriptors,
            Outcome::NoDescriptors,
            503,
            "no file descriptor left for a connection to the pod",
        ),
        (UpstreamError::Other, Outcome::ConnectFailed, 502, "connection to the pod failed"),
    ] {
        for (ask, lines, next) in [
            (ASK, "", Wants::Request),
            (ASK_CLOSES, CLOSES, Wants::Discard),
            (ASK_10, CLOSES, Wants::Discard),
            (ASK_10_KEEPS, KEEPS, Wants::Request),
        ] {
            let mut talk = Talk::connecting(ask);
            talk.wait(ms(250));
            talk.pod_fails(error).gets(failure(status, reason, lines, "250ms")).upstream(CLOSE);
            talk.wants(Wants::Flush);
            talk.wait(ms(50));
            let mut said = talk.flushed();
            let report = said.report();
            assert_eq!((report.route, report.outcome, report.status), (RouteName::Pods, outcome, status));
            assert_eq!((report.peer, report.duration), (Some(pod()), ms(300)));
            assert_eq!(report.first_byte, None);
            said.whatever();
            talk.wants(next);
        }
    }
}

#[test]
fn connecting_takes_too_long() {
    // What the scrape leaves, when connecting ends, and what is said of it.
    for (timeout, at, within) in
        [("10", 3000, "3s"), ("1", 900, "900ms"), ("3.5", 3000, "3s"), ("3", 2700, "2.7s")]
    {
        let request = scrape_with(timeout);
        let mut talk = Talk::connecting(&request);
        let reason = format!("pod did not accept the connection within {within}");
        talk.expires(ms(at)).gets(failure(504, &reason, "", within)).upstream(CLOSE);
        talk.wants(Wants::Flush);
        // Who waited for us so long gets the time to take it.
        talk.due(ms(at + 10_000).max(patience_of(timeout)));
        talk.flushed().reports(Outcome::ConnectTimeout, 504);
        talk.wants(Wants::Request);
    }
}

fn scrape_with(timeout: &str) -> String {
    format!(
        "GET /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\
         X-Prometheus-Scrape-Timeout-Seconds: {timeout}\r\n\r\n"
    )
}

/// What a sensible timeout leaves.
fn patience_of(timeout: &str) -> Duration {
    let milliseconds = (timeout.parse::<f64>().expect("a number") * 1000.0) as u64;
    ms(milliseconds - (milliseconds / 10).min(500))
}

#[test]
fn a_reused_connection_that_died_is_retried_once() {
    let loss = |talk: &mut Talk, ends| match ends {
        true => talk.pod_ends(),
        false => talk.pod_fails(UpstreamError::Other),
    };
    for ends in [true, false] {
        for sent in [0, 10, ASKED.len()] {
            // On a fresh connection, that is it.
            let mut talk = Talk::sending(ASK, false);
            talk.sent(sent);
            let reason = "pod closed the connection without an answer";
            loss(&mut talk, ends).gets(failure(502, reason, "", "0ms")).upstream(CLOSE);
            talk.flushed().reports(Outcome::NoAnswer, 502);

            let mut talk = Talk::sending(ASK, true);
            talk.wait(ms(100));
            talk.sent(sent);
            loss(&mut talk, ends).upstream(UpstreamAction::Retry(pod()));
            talk.wants(Wants::Connection);
            talk.due(ms(3100));
            talk.wait(ms(100));
            talk.connected(false);
            talk.wants(Wants::Send);
            talk.due(ms(30_000));
            talk.sent(5);
            talk.sent_all();
            talk.asked(ASKED); // the whole of it
            talk.wait(ms(100));
            if ends {
                talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
                let report = talk.flushed().report();
                assert_eq!((report.outcome, report.duration), (Outcome::Forwarded, ms(300)));
                assert_eq!(report.first_byte, Some(ms(300)));
            } else {
                loss(&mut talk, ends).gets(failure(502, reason, "", "300ms")).upstream(CLOSE);
                talk.flushed().reports(Outcome::NoAnswer, 502);
            }
            talk.wants(Wants::Request);
        }
    }
}

#[test]
fn a_retry_has_no_more_time_than_the_scrape() {
    let mut talk = Talk::awaiting(&scrape_with("5"), true);
    talk.wait(ms(4000));
    talk.pod_ends().upstream(UpstreamAction::Retry(pod()));
    let reason = "pod did not accept the connection within 4.5s";
    talk.expires(ms(4500)).gets(failure(504, reason, "", "4.5s")).upstream(CLOSE);

    let mut talk = Talk::awaiting(ASK, true);
    talk.pod_ends().upstream(UpstreamAction::Retry(pod()));
    talk.pod_fails(UpstreamError::Refused)
        .gets(failure(502, "pod refused the connection", "", "0ms"))
        .upstream(CLOSE);
}

#[test]
fn once_an_answer_began_nothing_is_retried() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let reason = "pod closed the connection within its answer's head";
    for (reused, answers) in [
        (true, ["HTTP/", "HTTP/1.1 200 OK\r\nA: b", interim]),
        (false, ["H", "HTTP/1.1 200 OK\r\nA: b", interim]),
    ] {
        for sent in [10, ASKED.len()] {
            for answer in answers {
                for error in [None, Some(UpstreamError::Other)] {
                    let mut talk = Talk::sending(ASK, reused);
                    talk.sent(sent);
                    talk.pod(answer).gets(if answer == interim { interim } else { "" });
                    let said = match error {
                        None => talk.pod_ends(),
                        Some(error) => talk.pod_fails(error),
                    };
                    said.gets(failure(502, reason, "", "0ms")).upstream(CLOSE);
                    let report = talk.flushed().report();
                    assert_eq!((report.outcome, report.status), (Outcome::HeadCutShort, 502));
                    assert_eq!(report.first_byte, Some(ms(0)));
                    talk.wants(Wants::Request);
                }
            }
        }
    }
}

#[test]
fn what_a_kept_connection_says_before_it_is_asked_answers_nothing() {
    for stale in [ANSWER, "HTTP/1.1 408 Request Timeout\r\nDate: x\r\nContent-Length: 0\r\n\r\n", "H"] {
        let mut talk = Talk::sending(ASK, true);
        talk.pod(stale).upstream(UpstreamAction::Retry(pod()));
        talk.wants(Wants::Connection);
        talk.connected(false);
        talk.sent_all();
        talk.asked(ASKED);
        talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
        talk.flushed().reports(Outcome::Forwarded, 200);
    }
    // A fresh one has nothing to say to anybody else: a pod that is too busy to listen may tell us so.
    let busy = "HTTP/1.1 503 Busy\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
    let mut talk = Talk::sending(ASK, false);
    talk.pod(busy).gets(busy).upstream(CLOSE);
    talk.flushed().reports(Outcome::Forwarded, 503);
}

/// What a pod sends behind its answer to HEAD, or to say that it closes a connection that idles.
#[test]
fn what_a_reused_connection_says_first_that_answers_nothing_is_retried_once() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
    for stale in ["up 1\n", "X", "HTTP-", "HHTTP/1.1 200 OK\r\n\r\n", "\r\n", "\0", timeout] {
        for cut in cuts(stale.len()) {
            let mut talk = Talk::awaiting(ASK, true);
            talk.wait(ms(100));
            let (first, rest) = stale.split_at(cut);
            let mut retried = false;
            for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
                if retried {
                    break; // its connection is closed
                }
                let said = talk.pod(part);
                retried = said.upstream == UpstreamAction::Retry(pod());
                said.whatever();
            }
            assert!(retried, "{stale:?} cut at {cut}");
            talk.wants(Wants::Connection);
            talk.wait(ms(100));
            talk.connected(false);
            talk.sent_all();
            talk.asked(ASKED);
            talk.wait(ms(100));
            if stale == timeout {
                // On a fresh connection it is what the pod says to this request.
                talk.pod(timeout).gets(timeout).upstream(KEEP);
                talk.flushed().reports(Outcome::Forwarded, 408);
            } else {
                talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
                let report = talk.flushed().report();
                assert_eq!((report.outcome, report.first_byte), (Outcome::Forwarded, Some(ms(300))));
            }
        }
    }
    // A connection that ends where a status line could begin is stale as well.
    for begin in ["H", "HTTP"] {
        let mut talk = Talk::awaiting(ASK, true);
        talk.pod(begin);
        talk.pod_ends().upstream(UpstreamAction::Retry(pod()));
        talk.connected(false);
        talk.sent_all();
        talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
        talk.flushed().reports(Outcome::Forwarded, 200);
    }
    // Not behind an interim answer, which was for this request.
    let mut talk = Talk::awaiting(ASK, true);
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    talk.pod(interim).gets(interim);
    talk.pod("X").gets(failure(502, "malformed answer from the pod: not HTTP/1", "", "0ms")).upstream(CLOSE);
    let mut talk = Talk::awaiting(ASK, true);
    talk.pod(interim).gets(interim);
    talk.pod(timeout).gets(timeout).upstream(KEEP);
}

/// cheroot, waitress and civetweb send the body of a GET behind their answer to HEAD.
#[test]
fn a_connection_is_pooled_after_head_only_where_no_body_can_follow() {
    for (head, pooled) in [
        ("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n", KEEP),
        ("HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", KEEP),
        ("HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 9\r\n\r\n", KEEP),
        ("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\n", CLOSE),
        ("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n", CLOSE),
        ("HTTP/1.1 200 OK\r\nDate: x\r\n\r\n", CLOSE),
    ] {
        let mut talk = Talk::awaiting(ASK_HEAD, false);
        talk.pod(head).gets(head).upstream(pooled);
        talk.flushed().reports(Outcome::Forwarded, head[9..12].parse().expect("a status"));
        talk.wants(Wants::Request);
    }
}

/// What pods do that is no answer, before anything was sent to the client.
const UNSOUND: &[(&str, Outcome, &str)] = &[
    ("X", Outcome::MalformedAnswer, "malformed answer from the pod: not HTTP/1"),
    ("\r\nHTTP/1.1 200 OK\r\n\r\n", Outcome::MalformedAnswer, "malformed answer from the pod: not HTTP/1"),
    (
        "HTTP/2.0 200 OK\r\n\r\n",
        Outcome::MalformedAnswer,
        "malformed answer from the pod: neither HTTP/1.1 nor HTTP/1.0",
    ),
    ("HTTP/1.1 099 Low\r\n\r\n", Outcome::MalformedAnswer, "malformed answer from the pod: status code"),
    ("HTTP/1.1 600 High\r\n\r\n", Outcome::MalformedAnswer, "malformed answer from the pod: status code"),
    ("HTTP/1.1 200 OK\nno colon\n\n", Outcome::MalformedAnswer, "malformed answer from the pod: bare LF"),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        Outcome::MalformedAnswer,
        "malformed answer from the pod: Content-Length repeated",
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Outcome::MalformedAnswer,
        "malformed answer from the pod: Transfer-Encoding other than chunked",
    ),
    (
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Outcome::MalformedAnswer,
        "malformed answer from the pod: Transfer-Encoding in HTTP/1.0",
    ),
    (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        Outcome::SwitchedProtocols,
        "pod switched protocols unasked",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nup\nX",
        Outcome::BodyMalformed,
        "malformed body from the pod: chunk is longer than its size",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nX",
        Outcome::BodyMalformed,
        "malformed body from the pod: chunk size",
    ),
];

#[test]
fn no_sound_answer() {
    let large = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(64 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(257));
    let more = [
        (large.as_str(), Outcome::AnswerHeadTooLarge, "answer head from the pod over 64 KiB"),
        (&many, Outcome::MalformedAnswer, "malformed answer from the pod: more than 256 fields"),
    ];
    for &(answer, outcome, reason) in UNSOUND.iter().chain(&more) {
        for sent in [10, ASKED.len()] {
            for (ask, lines, next) in [
                (ASK, "", Wants::Request),
                (ASK_10, CLOSES, Wants::Discard),
                (ASK_10_KEEPS, KEEPS, Wants::Request),
            ] {
                // A reused connection is not tried again if it did answer.
                let mut talk = Talk::sending(ask, answer.starts_with("HTTP/"));
                talk.sent(sent);
                talk.pod(answer).gets(failure(502, reason, lines, "0ms")).upstream(CLOSE);
                let mut said = talk.flushed();
                let report = said.report();
                assert_eq!((report.outcome, report.status), (outcome, 502), "{reason}");
                assert_eq!(report.first_byte, Some(ms(0)));
                said.whatever();
                talk.wants(next);
            }
        }
    }
    let mut talk = Talk::awaiting(ASK_HEAD, false);
    let reply = failure(502, "malformed answer from the pod: not HTTP/1", "", "0ms");
    let head = &reply[..reply.find("\r\n\r\n").expect("a head") + 4];
    talk.pod("X").gets(head).upstream(CLOSE); // the body of a HEAD's answer is described only
}

#[test]
fn every_outcome_of_class_pod_is_met_in_these_tests() {
    let failures = [
        Outcome::NoDescriptors,
        Outcome::BuffersFull,
        Outcome::ConnectionRefused,
        Outcome::Unreachable,
        Outcome::ConnectFailed,
        Outcome::ConnectTimeout,
        Outcome::NoAnswer,
        Outcome::HeadCutShort,
        Outcome::AnswerTimeout,
        Outcome::AnswerHeadTooLarge,
        Outcome::BodyCutShort,
        Outcome::BodyTimeout,
    ];
    for outcome in Outcome::ALL.iter().filter(|outcome| outcome.class() == Class::Pod) {
        let met = failures.contains(outcome) || UNSOUND.iter().any(|(_, unsound, _)| unsound == outcome);
        assert!(met, "{outcome:?} is new: where is its test?");
    }
}

#[test]
fn no_answer_in_time() {
    let reason = "no answer from the pod within 9.5s";
    for (begins, sent) in [("", 0), ("", 10), ("", ASKED.len()), ("HTTP/1.1 200 OK\r\n", ASKED.len())] {
        // A reused connection is not tried again: there is no time left.
        for reused in [true, false] {
            let mut talk = Talk::sending(&scrape_with("10"), reused);
            talk.sent(sent);
            talk.wait(ms(5000));
            if !begins.is_empty() {
                drop(talk.pod(begins));
            }
            talk.expires(ms(9500)).gets(failure(504, reason, "", "9.5s")).upstream(CLOSE);
            talk.wants(Wants::Flush);
            talk.due(ms(19_500));
            let report = talk.flushed().report();
            assert_eq!((report.outcome, report.status), (Outcome::AnswerTimeout, 504));
            assert_eq!(report.first_byte, (!begins.is_empty()).then_some(ms(5000)));
            talk.wants(Wants::Request);
        }
    }
}

#[test]
fn interim_responses() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    // To whoever can read it, at once, and without what is not for it; hidden from the others.
    let came = "HTTP/1.1 100 Continue\r\nConnection: X, close\r\nX: y\r\nContent-Length: 9\r\nA: b\r\n\r\n";
    let goes = "HTTP/1.1 100 Continue\r\nA: b\r\n\r\n";
    for (ask, sees, next) in [(ASK, true, KEEP), (ASK_HEAD, true, KEEP), (ASK_10_KEEPS, false, KEEP)] {
        let mut talk = Talk::sending(ask, false);
        talk.sent(5);
        talk.pod(interim).gets(if sees { interim } else { "" });
        talk.wants(Wants::Send);
        talk.sent_all();
        talk.wants(Wants::Response);
        talk.wait(ms(5));
        talk.pod(came).gets(if sees { goes } else { "" });
        talk.wants(Wants::Response);
        talk.due(ms(30_000)); // it wins no time
        talk.pod("HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n")
            .gets(match sees {
                true => "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
                false => "HTTP/1.1 204 No Content\r\nDate: x\r\nConnection: keep-alive\r\n\r\n",
            })
            .upstream(next);
        let report = talk.flushed().report();
        assert_eq!((report.status, report.first_byte), (204, Some(ms(0))));
    }
    // All at once, and no more than eight.
    for (count, ask) in [(8, ASK), (9, ASK), (8, ASK_10_KEEPS), (9, ASK_10_KEEPS)] {
        let seen = if ask == ASK { interim.repeat(8) } else { String::new() };
        let lines = if ask == ASK { "" } else { KEEPS };
        let mut talk = Talk::awaiting(ask, false);
        let said = talk.pod(interim.repeat(count) + ANSWER);
        if count == 8 {
            let answer = ANSWER.replace("\r\n\r\n", &format!("\r\n{lines}\r\n"));
            said.gets(seen + &answer).upstream(KEEP);
            talk.flushed().reports(Outcome::Forwarded, 200);
        } else {
            let reason = "malformed answer from the pod: too many interim answers";
            said.gets(seen + &failure(502, reason, lines, "0ms")).upstream(CLOSE);
            talk.flushed().reports(Outcome::MalformedAnswer, 502);
        }
        talk.wants(Wants::Request);
    }
    // An interim answer is none: what follows may still be no answer, or come too late.
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod(interim).gets(interim);
    talk.expires(ms(30_000))
        .gets(failure(504, "no answer from the pod within 30s", "", "30s"))
        .upstream(CLOSE);
    talk.flushed().reports(Outcome::AnswerTimeout, 504);
    talk.wants(Wants::Request);
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n")
        .gets(
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned()
                + &failure(502, "pod switched protocols unasked", "", "0ms"),
        )
        .upstream(CLOSE);
}

/// What happens shows as this outcome, and to the client by this action: a reset comes when all that was sent before is
/// delivered.
fn breaks_off(talk: &mut Talk, breaks: fn(&mut Talk) -> Said, outcome: Outcome, action: ClientAction) {
    let said = breaks(talk).upstream(CLOSE);
    match (outcome, action) {
        (Outcome::ClientGone, _) => drop(said.client(ClientAction::Close).reports(outcome, 200)),
        // It had its time.
        (Outcome::ClientTimeout, _) => drop(said.client(ClientAction::Reset).reports(outcome, 200)),
        (_, ClientAction::Reset) => {
            drop(said.reports(outcome, 200));
            talk.wants(Wants::Delivery);
            talk.after_stalled(ms(0));
            for _ in 0..5 {
                talk.after_stalled(ms(50));
            }
            drop(talk.after(ms(50)).client(ClientAction::Reset));
        }
        (_, action) => {
            drop(said.client(action).reports(outcome, 200));
            talk.wants(Wants::Discard);
            drop(talk.client_gone().client(ClientAction::Close));
        }
    }
    talk.wants(Wants::Nothing);
}

#[test]
fn what_breaks_behind_the_head_is_seen_to_be_broken() {
    type Break = fn(&mut Talk) -> Said;
    let cut: &[(Break, Outcome)] = &[
        (|talk| talk.pod_ends(), Outcome::BodyCutShort),
        (|talk| talk.pod_fails(UpstreamError::Other), Outcome::BodyCutShort),
        (|talk| talk.pod_stops(), Outcome::BodyCutShort),
        (|talk| talk.expires(ms(30_000)), Outcome::BodyTimeout),
        (|talk| talk.expires_stalled(ms(30_000)), Outcome::ClientTimeout),
        (|talk| talk.client_gone(), Outcome::ClientGone),
    ];
    let rows: &[(&str, Begin, ClientAction)] = &[
        ("length", relaying_length, ClientAction::Shutdown),
        ("chunked", relaying_chunked, ClientAction::Shutdown),
        // There, an orderly close would be an end.
        ("until close", relaying_until_close, ClientAction::Reset),
        ("HTTP/1.0, unchunked", relaying_unchunked, ClientAction::Reset),
    ];
    for &(name, relaying, action) in rows {
        for (index, &(breaks, outcome)) in cut.iter().enumerate() {
            if name == "until close" && index == 0 {
                continue; // this is its end
            }
            let mut talk = relaying();
            breaks_off(&mut talk, breaks, outcome, action);
        }
    }
    // What breaks the coding: the sound bytes before it go on, and nothing after them.
    for (came, goes) in [
        ("p\nX", "p\n"),
        ("p\n\r\n3\n", "p\n\r\n3"),
        ("p\n\r\n-", "p\n\r\n"),
        ("p\n\r\n0\r\nA b\r\n\r\n", "p\n\r\n0\r\nA"),
    ] {
        let mut talk = relaying_chunked();
        let said = talk.pod(came).gets(goes).upstream(CLOSE).client(ClientAction::Shutdown);
        said.reports(Outcome::BodyMalformed, 200);
    }
    let mut talk = relaying_unchunked();
    talk.pod("p\nX").gets("p\n").upstream(CLOSE).reports(Outcome::BodyMalformed, 200);
    talk.after(ms(0)).client(ClientAction::Reset);
}

fn relaying_unchunked() -> Talk {
    let mut talk = Talk::awaiting(ASK_10_KEEPS, false);
    talk.pod("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3\r\nu")
        .gets("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nu");
    talk
}

#[test]
fn an_answer_that_is_not_taken_in_time_is_reset() {
    let rows: &[(Begin, u64, u16)] =
        &[(replying, 30_000, 200), (replying_page, 30_000, 200), (replying_refusal, 30_000, 400)];
    for &(replying, at, status) in rows {
        let mut talk = replying();
        let said = talk.expires_stalled(ms(at)).client(ClientAction::Reset);
        said.reports(Outcome::ClientTimeout, status);
        talk.wants(Wants::Nothing);
    }
    // A failure that came late is waited for longer.
    let mut talk = Talk::awaiting(ASK, false);
    talk.after(ms(30_000)).gets(failure(504, "no answer from the pod within 30s", "", "30s")).upstream(CLOSE);
    talk.expires_stalled(ms(40_000)).client(ClientAction::Reset).reports(Outcome::ClientTimeout, 504);
}

#[test]
fn an_answer_that_was_taken_in_time_is_not_reset() {
    // The worker's turn was over before it could say so.
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
fn lingering_ends() {
    let close = ClientAction::Close;
    let mut talk = lingering();
    talk.expires(ms(2000)).client(close);
    let mut talk = lingering();
    talk.client_gone().client(close);
    let mut talk = lingering();
    talk.drain(); // at the process's end too: what was refused there is to be read as well
    talk.due(ms(2000));
    // What comes is read, up to a bound, and wins no time.
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
fn a_client_that_goes_away_takes_the_pods_connection_with_it() {
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
        assert_eq!((report.route, report.outcome), (RouteName::Pods, Outcome::ClientGone));
        assert_eq!((report.status, report.peer), (status, Some(pod())));
        assert_eq!((report.duration, report.first_byte.is_some()), (ms(40), begun));
        drop(said.upstream(CLOSE).client(ClientAction::Close));
        talk.wants(Wants::Nothing);
    }
    for state in [replying_page, replying_refusal] {
        let mut talk = state();
        let mut said = talk.client_gone();
        assert_eq!(said.report().outcome, Outcome::ClientGone);
        drop(said.upstream(CLOSE).client(ClientAction::Close));
    }
    // Between requests, and within one's head, nobody worked for it.
    for mut talk in [Talk::new("new"), reading_begun(), lingering()] {
        talk.client_gone().client(ClientAction::Close);
        talk.wants(Wants::Nothing);
    }
}

#[test]
fn for_room_that_others_need_it_is_told_or_visibly_broken() {
    let reason = Outcome::BuffersFull.reason();
    for state in
        [|| Talk::connecting(ASK), sending_part, || Talk::awaiting(ASK, true), awaiting_begun] as [Begin; 4]
    {
        let mut talk = state();
        talk.no_room(false).gets(failure(503, reason, CLOSES, "0ms")).upstream(CLOSE);
        assert_eq!(
            talk.exchange.held_bytes().min(4096),
            talk.exchange.held_bytes(),
            "nothing to speak of is held"
        );
        let mut said = talk.flushed();
        let report = said.report();
        assert_eq!(
            (report.route, report.outcome, report.status),
            (RouteName::Pods, Outcome::BuffersFull, 503)
        );
        drop(said.client(ClientAction::Shutdown));
    }
    // A client that takes nothing is not told. One that does gets what was sent before, and sees that it is not all.
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
    // What is handed over whole is whole, but no other request follows.
    let mut talk = replying();
    talk.no_room(false).reports(Outcome::Forwarded, 200).client(ClientAction::Shutdown);
    talk.wants(Wants::Discard);
    let mut talk = reading_begun();
    talk.no_room(false).gets(reply(503, reason, CLOSES, &format!("{reason}\n")));
    talk.flushed().client(ClientAction::Shutdown).reports(Outcome::BuffersFull, 503);
    for mut talk in [Talk::new("new"), lingering()] {
        talk.no_room(false).client(ClientAction::Close);
        talk.wants(Wants::Nothing);
    }
}

#[test]
fn a_head_that_does_not_end() {
    // However it drips, from its first byte on.
    let mut talk = Talk::new("drips");
    talk.due(ms(10_000));
    talk.wait(ms(4000));
    for byte in "GET / HTTP/1.1\r\nHost: a\r\nA".bytes() {
        talk.client([byte]);
        talk.due(ms(14_000));
        talk.wait(ms(100));
    }
    let reason = "request head not complete within 10s";
    talk.expires(ms(14_000)).gets(reply(408, reason, CLOSES, &format!("{reason}\n")));
    talk.wants(Wants::Flush);
    let mut said = talk.flushed();
    let report = said.report();
    assert_eq!((report.route, report.outcome), (RouteName::None, Outcome::HeadTimeout));
    assert_eq!((report.status, report.peer), (408, None));
    drop(said.client(ClientAction::Shutdown));
    assert!(talk.unused().is_empty(), "what came of the head is not read as a request");

    // A connection that says nothing is closed without a word: new, after a request, and turned away.
    let mut talk = Talk::new("says nothing");
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
fn empty_lines_before_a_request_are_no_request() {
    // RFC 9112 section 2.2, of clients that send one behind a body.
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
    // They win no time: a connection that sends nothing else is closed as one that sends nothing.
    let mut talk = Talk::new("empty lines only");
    for _ in 0..50 {
        talk.client("\r\n\r");
        talk.client("\n");
        talk.wait(ms(100));
    }
    talk.expires(ms(10_000)).client(ClientAction::Close);
}

// --------------------------------------------------------------------------------- the last answer

#[test]
fn a_last_answer_is_delivered_before_its_connection_closes() {
    // Behind it the client's end, or nothing at all: looked at every 50 ms, until it is delivered.
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
    // No longer than the scrape may take. (The close is a reset then: src/net/stream.rs.)
    let mut talk = lingering();
    talk.after_stalled(ms(29_999));
    talk.expires_stalled(ms(30_000)).client(ClientAction::Close);
    // What is sent on is read all the while.
    let mut talk = lingering();
    talk.after_stalled(ms(10_000));
    talk.wants(Wants::Discard);
    talk.discarded(1000);
}

#[test]
fn a_broken_answer_waits_no_longer_than_two_seconds() {
    let mut talk = relaying_until_close();
    talk.pod_fails(UpstreamError::Other).upstream(CLOSE).reports(Outcome::BodyCutShort, 200);
    talk.after_stalled(ms(1999));
    talk.expires_stalled(ms(2000)).client(ClientAction::Reset);
    talk.wants(Wants::Nothing);

    let mut talk = relaying_length();
    talk.pod_ends().upstream(CLOSE).client(ClientAction::Shutdown).reports(Outcome::BodyCutShort, 200);
    talk.expires_stalled(ms(2000)).client(ClientAction::Close);
    talk.wants(Wants::Nothing);
}

#[test]
fn who_ends_between_requests_still_gets_the_answer_before() {
    let mut talk = replying();
    talk.flushed().reports(Outcome::Forwarded, 200);
    talk.client_ended().client(ClientAction::Shutdown);
    talk.wants(Wants::Delivery);
    talk.after_stalled(ms(50));
    talk.after(ms(50)).client(ClientAction::Close);
    talk.wants(Wants::Nothing);
}

// ---------------------------------------------------------------------------- what changes nothing

#[test]
fn what_a_state_does_not_wait_for_changes_nothing() {
    type Told = (&'static str, fn(&mut Talk) -> bool);
    let inputs: &[Told] = &[
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
    // Each state, and all that it waits for.
    type State = (&'static str, Begin, &'static [&'static str]);
    let answer = &["client gone", "answer", "end", "failed", "late"];
    let relay = &["client gone", "answer", "passed", "end", "failed", "late"];
    let send = &["client gone", "sent", "answer", "end", "failed", "late"];
    let states: &[State] = &[
        (
            "new",
            || Talk::new("new"),
            &["request", "client gone", "the client's end", "drain", "turn away", "late"],
        ),
        (
            "turned away",
            || Talk::with_rules("turned away", settings(), true),
            &["request", "client gone", "the client's end", "drain", "turn away", "late"],
        ),
        ("reading", reading_begun, &["request", "client gone", "the client's end", "late"]),
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

// ------------------------------------------------------------------------- what nobody looks at

/// A long body, and the head that announces it; it goes on as it came.
const LONG: u64 = 100_000;

fn long_head(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nDate: x\r\n{fields}\r\n")
}

fn relaying_long() -> Talk {
    relaying(&long_head("Content-Length: 100000\r\n"))
}

/// In the data of a chunk of 64 KiB.
fn relaying_long_chunk() -> Talk {
    relaying(&(long_head("Transfer-Encoding: chunked\r\n") + "10000\r\n"))
}

#[test]
fn what_nobody_looked_at_counts_as_what_was_read() {
    // More of it, and exactly the end: the pod's connection is kept, and so is the client's.
    for portions in [&[LONG][..], &[1, LONG - 1], &[LONG - 1, 1], &[30_000, 30_000, 40_000]] {
        let mut talk = relaying_long();
        let mut left = LONG;
        for &portion in &portions[..portions.len() - 1] {
            talk.passed(portion);
            left -= portion;
            assert_eq!(talk.exchange.opaque_len(), left);
            talk.wants(Wants::Response);
            talk.due(ms(30_000));
        }
        talk.wait(ms(7));
        talk.passed(left).upstream(KEEP);
        talk.wants(Wants::Flush);
        talk.due(ms(30_000));
        let report = talk.flushed().report();
        assert_eq!((report.outcome, report.status, report.duration), (Outcome::Forwarded, 200, ms(7)));
        talk.client(HEALTHZ).gets(reply(200, "OK", "", "Healthz\n"));
    }
    // Looked at and not, in turn.
    let mut talk = relaying_long();
    talk.passed(LONG - 20);
    talk.pod("0123456789").gets("0123456789");
    talk.passed(7);
    talk.pod("abc").gets("abc").upstream(KEEP);

    let mut talk = relaying_long_chunk();
    talk.passed(65_535);
    assert_eq!(talk.exchange.opaque_len(), 1);
    talk.passed(1);
    assert_eq!(talk.exchange.opaque_len(), 0, "the line's end is to be looked at");
    talk.pod("\r\n8000\r\n").gets("\r\n8000\r\n");
    assert_eq!(talk.exchange.opaque_len(), 32_768);
    talk.passed(32_768);
    talk.pod("\r\n0\r\n\r\n").gets("\r\n0\r\n\r\n").upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200);

    let mut talk = relaying_until_close();
    for portion in [1, 1 << 20, 1 << 40] {
        talk.passed(portion);
        assert_eq!(talk.exchange.opaque_len(), u64::MAX);
    }
    talk.pod_ends().upstream(CLOSE);
    talk.flushed().client(ClientAction::Shutdown).reports(Outcome::Forwarded, 200);
}

#[test]
fn a_pod_that_will_not_persist_is_closed_behind_what_nobody_looked_at() {
    let mut talk = Talk::awaiting(ASK, false);
    let head = long_head("Connection: close\r\nContent-Length: 100000\r\n");
    talk.pod(head).gets(long_head("Content-Length: 100000\r\n"));
    talk.passed(LONG).upstream(CLOSE);
    talk.flushed().reports(Outcome::Forwarded, 200);

    // Nor is one that did not read the whole request.
    let mut talk = sending_part();
    let head = long_head("Content-Length: 100000\r\n");
    talk.pod(&head).gets(&head);
    talk.passed(LONG).upstream(CLOSE);
}

#[test]
fn more_than_there_is_to_a_body_is_taken_for_bytes_behind_it() {
    let mut talk = relaying_long();
    talk.passed(LONG + 1).upstream(CLOSE);
    talk.wants(Wants::Flush);
    talk.flushed().reports(Outcome::Forwarded, 200);
}

#[test]
fn what_breaks_behind_what_nobody_looked_at_is_seen_to_be_broken() {
    type Break = fn(&mut Talk) -> Said;
    let cut: &[(Break, Outcome)] = &[
        (|talk| talk.pod_ends(), Outcome::BodyCutShort),
        (|talk| talk.pod_fails(UpstreamError::Other), Outcome::BodyCutShort),
        (|talk| talk.expires(ms(30_000)), Outcome::BodyTimeout),
        (|talk| talk.expires_stalled(ms(30_000)), Outcome::ClientTimeout),
        (|talk| talk.client_gone(), Outcome::ClientGone),
    ];
    let rows: &[(&str, Begin, &[u64], ClientAction)] = &[
        ("length", relaying_long, &[1, LONG - 1], ClientAction::Shutdown),
        ("chunked, in data and behind it", relaying_long_chunk, &[1, 65_535, 65_536], ClientAction::Shutdown),
        ("until close", relaying_until_close, &[1, LONG], ClientAction::Reset),
    ];
    for &(name, relaying, passed, action) in rows {
        for (index, &(breaks, outcome)) in cut.iter().enumerate() {
            for &bytes in passed {
                if name == "until close" && index == 0 {
                    continue; // this is its end
                }
                let mut talk = relaying();
                talk.passed(bytes);
                breaks_off(&mut talk, breaks, outcome, action);
            }
        }
    }
    // What breaks the coding, behind data that nobody looked at.
    let mut talk = relaying_long_chunk();
    talk.passed(65_536);
    let said = talk.pod("X\r\n0\r\n\r\n").upstream(CLOSE).client(ClientAction::Shutdown);
    said.reports(Outcome::BodyMalformed, 200);
}

#[test]
fn what_may_go_on_unseen_and_what_has_a_length() {
    // Where the coding is taken off, each byte has to be looked at: nothing may go on unseen.
    let unchunked_long = || {
        let mut talk = Talk::awaiting(ASK_10_KEEPS, false);
        talk.pod(long_head("Transfer-Encoding: chunked\r\n") + "10000\r\nu")
            .gets("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nu");
        talk
    };
    let old_length = || {
        let mut talk = Talk::awaiting(ASK_10_KEEPS, false);
        talk.pod(long_head("Content-Length: 100000\r\n") + "u")
            .gets(long_head("Content-Length: 100000\r\nConnection: keep-alive\r\n") + "u");
        talk
    };
    let replying_long = || {
        let mut talk = relaying_long();
        talk.passed(LONG).upstream(KEEP);
        talk
    };
    let reading_again = || {
        let mut talk = relaying_long();
        talk.passed(LONG).upstream(KEEP);
        talk.flushed().reports(Outcome::Forwarded, 200);
        talk
    };
    let to_head = || {
        let mut talk = Talk::awaiting(ASK_HEAD, false);
        let head = long_head("Content-Length: 100000\r\n");
        talk.pod(&head).gets(&head).upstream(CLOSE);
        talk
    };
    let not_modified = || {
        let mut talk = Talk::awaiting(ASK, false);
        let head = "HTTP/1.1 304 Same\r\nDate: x\r\nContent-Length: 100000\r\n\r\n";
        talk.pod(head).gets(head).upstream(KEEP);
        talk
    };
    let interim = || {
        let mut talk = Talk::awaiting(ASK, false);
        let head = "HTTP/1.1 103 Hm\r\nContent-Length: 100000\r\n\r\n";
        talk.pod(head).gets("HTTP/1.1 103 Hm\r\n\r\n");
        talk
    };
    let a_length = || relaying(&long_head("Content-Length: 32767\r\n"));
    type Row<'r> = (&'r str, &'r dyn Fn() -> Talk, u64, bool);
    let rows: &[Row<'_>] = &[
        ("new", &|| Talk::new("new"), 0, false),
        ("reading", &reading_begun, 0, false),
        ("connecting", &|| Talk::connecting(ASK), 0, false),
        ("sending", &|| Talk::sending(ASK, true), 0, false),
        ("awaiting", &|| Talk::awaiting(ASK, true), 0, false),
        ("awaiting, begun", &awaiting_begun, 0, false),
        ("awaiting, behind an interim answer", &interim, 0, false),
        ("relaying, length", &relaying_length, 2, true),
        ("relaying, long", &relaying_long, LONG, true),
        ("relaying, a length", &a_length, 32_767, true),
        ("relaying, long, HTTP/1.0", &old_length, LONG - 1, true),
        ("relaying, chunked", &relaying_chunked, 2, false),
        ("relaying, a long chunk", &relaying_long_chunk, 65_536, false),
        ("relaying, until close", &relaying_until_close, u64::MAX, false),
        ("relaying, unchunked", &relaying_unchunked, 0, false),
        ("relaying, unchunked, a long chunk", &unchunked_long, 0, false),
        ("replying", &replying, 0, true),
        ("replying, long", &replying_long, 0, true),
        ("replying, to HEAD", &to_head, 0, true),
        ("replying, not modified", &not_modified, 0, true),
        ("replying, page", &replying_page, 0, true),
        ("reading again, after a long one", &reading_again, 0, false),
        ("lingering", &lingering, 0, false),
        ("closed", &closed, 0, false),
    ];
    for (name, state, unseen, has_length) in rows {
        let talk = state();
        assert_eq!(
            (talk.exchange.opaque_len(), talk.exchange.has_length()),
            (*unseen, *has_length),
            "{name}"
        );
    }
}

// --------------------------------------------------------------------------------------- patience

#[test]
fn how_long_prometheus_leaves_us() {
    for (timeout, patience) in [
        // The margin: a tenth, at most half a second.
        ("10", 9_500),
        ("5", 4_500),
        ("4", 3_600),
        ("1", 900),
        ("0.5", 450),
        (".5", 450),
        ("5.", 4_500),
        ("1e1", 9_500),
        (" \t10 ", 9_500),
        ("15.000000", 14_500),
        // At most so much.
        ("120.5", 120_000),
        ("120.4", 119_900),
        ("121", 120_000),
        ("1e3", 120_000),
        ("1e15", 120_000),
        ("1e300", 120_000),
        ("18446744073709551616", 120_000),
        // No numbers, or none that means a time.
        ("0", 30_000),
        ("0.0", 30_000),
        ("-0", 30_000),
        ("-1", 30_000),
        ("-1e300", 30_000),
        ("inf", 30_000),
        ("-inf", 30_000),
        ("infinity", 30_000),
        ("1e400", 30_000),
        ("nan", 30_000),
        ("NaN", 30_000),
        ("", 30_000),
        ("ten", 30_000),
        ("10s", 30_000),
        ("10 10", 30_000),
        ("10,10", 30_000),
        ("0x10", 30_000),
        ("1_0", 30_000),
        ("\u{664}", 30_000),
    ] {
        let mut talk = Talk::connecting(&scrape_with(timeout));
        talk.due(ms(patience.min(3_000)));
        talk.connected(false);
        talk.due(ms(patience));
        talk.sent_all();
        talk.due(ms(patience));
        talk.pod("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\n").whatever();
        talk.due(ms(patience));
        talk.pod("up\n").gets("up\n").upstream(KEEP);
        talk.due(ms(patience));
    }
}

#[test]
fn the_limits_are_the_operators() {
    let mut settings = settings();
    settings.timeouts.scrape = ms(7_000);
    settings.timeouts.scrape_max = ms(8_000);
    settings.timeouts.connect = ms(20_000);
    for (request, patience, within) in
        [(ASK, 7_000, "7s"), (&scrape_with("10"), 8_000, "8s"), (&scrape_with("1"), 900, "900ms")]
    {
        let mut talk = Talk::with_rules(request, settings.clone(), false);
        talk.client(request).upstream(UpstreamAction::Connect(pod()));
        // The scrape's own time is over first.
        let reason = format!("pod did not accept the connection within {within}");
        talk.expires(ms(patience)).gets(failure(504, &reason, "", within)).upstream(CLOSE);
    }
}

// -------------------------------------------------------------------------------------- persistence

/// How a scrape's answer goes on, in one piece.
struct Way {
    ask: &'static str,
    answer: &'static str,
    /// The pod ends its side behind it.
    ends: bool,
    gets: &'static str,
    upstream: UpstreamAction,
    /// The client's connection persists.
    persists: bool,
}

const WAYS: &[Way] = &[
    Way { ask: ASK, answer: ANSWER, ends: false, gets: ANSWER, upstream: KEEP, persists: true },
    // The pod's connection. Its own wish, in its own version:
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: a, CLOSE\r\nContent-Length: 0\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.0 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.0 200 OK\r\nDate: x\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        upstream: KEEP,
        persists: true,
    },
    // Bytes behind the end are an answer to nothing.
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\nH",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nup\n\r\n0\r\n\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nup\n\r\n0\r\n\r\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK_HEAD,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 3\r\n\r\n",
        upstream: CLOSE,
        persists: true,
    },
    // Until close: neither persists.
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nKeep-Alive: timeout=5\r\n\r\nup\n",
        ends: true,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nup\n",
        upstream: CLOSE,
        persists: false,
    },
    Way {
        ask: ASK_10_KEEPS,
        answer: "HTTP/1.0 200 OK\r\nDate: x\r\nConnection: keep-alive\r\n\r\n",
        ends: true,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\n",
        upstream: CLOSE,
        persists: false,
    },
    // Answers without a body, whatever they say of one.
    Way {
        ask: ASK_HEAD,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK_HEAD,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        upstream: CLOSE,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.1 204 No Content\r\nDate: x\r\nContent-Length: 3\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
        upstream: KEEP,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 3\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 3\r\n\r\n",
        upstream: KEEP,
        persists: true,
    },
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
        upstream: KEEP,
        persists: true,
    },
    // Chunked, with all that belongs to it.
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nTrailer: B\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2;a=\"b\"\r\nup\r\n01\r\n\n\r\n000\r\nB: c\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nTrailer: B\r\nTransfer-Encoding: chunked\r\n\r\n\
               2\r\nup\r\n01\r\n\n\r\n000\r\nB: c\r\n\r\n",
        upstream: KEEP,
        persists: true,
    },
    // The client's connection. Its own wish, in its own version:
    Way {
        ask: ASK_CLOSES,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nup\n",
        upstream: KEEP,
        persists: false,
    },
    Way {
        ask: ASK_10,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nup\n",
        upstream: KEEP,
        persists: false,
    },
    Way {
        ask: ASK_10_KEEPS,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nup\n",
        upstream: KEEP,
        persists: true,
    },
    // HTTP/1.0 knows no chunks: the content alone, until the connection's end. The pod need not know.
    Way {
        ask: ASK_10_KEEPS,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nTrailer: B\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2;a=\"b\"\r\nup\r\n1\r\n\n\r\n0\r\nB: c\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nup\n",
        upstream: KEEP,
        persists: false,
    },
    Way {
        ask: ASK_10,
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\n",
        upstream: KEEP,
        persists: false,
    },
    Way {
        ask: "HEAD /pods/10.1.2.3/8080/metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        answer: "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: keep-alive\r\n\r\n",
        upstream: CLOSE,
        persists: true,
    },
    // Behind interim answers.
    Way {
        ask: ASK,
        answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
                 HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
               HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nup\n",
        upstream: KEEP,
        persists: true,
    },
    Way {
        ask: ASK_10,
        answer: "HTTP/1.1 100 Continue\r\n\r\n\
                 HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nup\n\r\n0\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nup\n",
        upstream: KEEP,
        persists: false,
    },
    // Where the pod redirects to itself, the way leads through us.
    Way {
        ask: ASK,
        answer: "HTTP/1.1 302 Found\r\nDate: x\r\nlocation: /m?a=b\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 302 Found\r\nDate: x\r\nlocation: /pods/10.1.2.3/8080/m?a=b\r\n\
               Content-Length: 3\r\n\r\nup\n",
        upstream: KEEP,
        persists: true,
    },
    // No date, an odd version, fields that end here: none of it touches the body.
    Way {
        ask: ASK,
        answer: "HTTP/1.1 200\r\nA:b\r\nProxy-X: y\r\nConnection: C\r\nC: d\r\n\
                 Content-Length: 5\r\n\r\n\x00\r\n\r\n",
        ends: false,
        gets: "HTTP/1.1 200 \r\nA:b\r\nContent-Length: 5\r\n\
               Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n\x00\r\n\r\n",
        upstream: KEEP,
        persists: true,
    },
];

#[test]
fn which_connections_persist() {
    for way in WAYS {
        let mut talk = Talk::awaiting(way.ask, false);
        let said = talk.pod(way.answer).gets(way.gets);
        match way.ends {
            true => {
                drop(said);
                drop(talk.pod_ends().upstream(way.upstream));
            }
            false => drop(said.upstream(way.upstream)),
        }
        talk.wants(Wants::Flush);
        let mut said = talk.flushed();
        assert_eq!(said.report().outcome, Outcome::Forwarded);
        let action = if way.persists { ClientAction::None } else { ClientAction::Shutdown };
        drop(said.client(action));
        talk.wants(if way.persists { Wants::Request } else { Wants::Discard });
    }
}

#[test]
fn a_pod_that_did_not_get_the_whole_request_is_not_asked_another() {
    // It may answer before; but what it then makes of the rest is not known.
    for sent in [1, ASKED.len() - 1, ASKED.len()] {
        for parts in [&[ANSWER][..], &["HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\n", "up\n"]] {
            let mut talk = Talk::sending(ASK, false);
            talk.sent(sent);
            let (last, first) = parts.split_last().expect("a part");
            for part in first {
                talk.pod(part).gets(part);
                talk.wants(Wants::Response);
                talk.tell(Event::Sent(5)); // nobody sends on
            }
            let keep = if sent == ASKED.len() { KEEP } else { CLOSE };
            talk.pod(last).gets(last).upstream(keep);
            talk.flushed().reports(Outcome::Forwarded, 200);
            talk.wants(Wants::Request);
        }
    }
}

// ---------------------------------------------------------------------------------------- draining

#[test]
fn draining() {
    // From the moment it begins, every answer whose head is still to come says that it is the last.
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
    // Also the failures, the pages and the refusals.
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
    // A head that went out before cannot say it any more; who idles then is told to leave.
    let mut talk = relaying_length();
    talk.draining = true;
    talk.drain();
    talk.pod("p\n").gets("p\n").upstream(KEEP);
    talk.flushed().reports(Outcome::Forwarded, 200);
    talk.wants(Wants::Request);
    talk.drain().client(ClientAction::Close);
    // A request that has begun is not cut off.
    let mut talk = reading_begun();
    talk.draining = true;
    talk.drain();
    talk.client("lthz HTTP/1.1\r\nHost: a\r\n\r\n").gets(reply(200, "OK", CLOSES, "Healthz\n"));
}

// ---------------------------------------------------------------------------------------- redirects

#[test]
fn redirects_lead_back_through_us() {
    for (asked, location, expected) in [
        ("/a/b?c=d", "e", "/pods/10.1.2.3/8080/a/e"),
        ("/a/b?c=d", "?e", "/pods/10.1.2.3/8080/a/b?e"),
        ("/a/b?c=/../d/", "../e/", "/pods/10.1.2.3/8080/e/"),
        ("/a/b%3Fc/d", "e", "/pods/10.1.2.3/8080/a/e"), // what was encoded is the query here
        ("", "/m/", "/pods/10.1.2.3/8080/m/"),
        ("", "m/", "/pods/10.1.2.3/8080/m/"),
        ("", "http://10.1.2.3:8080/login?to=/x#y", "/pods/10.1.2.3/8080/login?to=/x#y"),
        ("", "//10.1.2.3:8080", "/pods/10.1.2.3/8080/"),
        ("", "http://10.1.2.3/m", "http://10.1.2.3/m"),
        ("", "https://10.1.2.3:8080/m", "https://10.1.2.3:8080/m"),
        ("", "http://10.1.2.4:8080/m", "http://10.1.2.4:8080/m"),
        ("", "#x", "#x"),
    ] {
        let ask = format!("GET /pods/10.1.2.3/8080{asked} HTTP/1.1\r\nHost: psystrike\r\n\r\n");
        let answer = |to: &str| {
            format!("HTTP/1.1 301 Moved\r\nDate: x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        };
        // Whether it is asked once or, after a retry, again.
        for reused in [false, true] {
            let mut talk = Talk::awaiting(&ask, reused);
            if reused {
                talk.pod_ends().upstream(UpstreamAction::Retry(pod()));
                talk.connected(false);
                talk.sent_all();
            }
            talk.pod(answer(location)).gets(answer(expected)).upstream(KEEP);
            talk.flushed().reports(Outcome::Forwarded, 301);
        }
    }
}

// ---------------------------------------------------------------------------------------- reporting

#[test]
fn reports_name_the_request_for_the_access_log_and_where_it_was_refused() {
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
        ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a/b", ALWAYS),
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
    // Whichever way it ends.
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
        let mut talk = Talk::with_rules("however it ends", settings.clone(), false);
        talk.client(ASK).upstream(UpstreamAction::Connect(pod()));
        talk.connected(false);
        talk.sent_all();
        let mut said = end(&mut talk);
        assert_eq!(said.report().request.as_deref(), Some("GET /pods/10.1.2.3/8080/metrics"));
        said.whatever();
    }
}

// ----------------------------------------------------------------------------------------- refusals

/// What is refused: the request, the outcome, its reason, and what the answer says of the connection.
struct Refusal {
    request: String,
    outcome: Outcome,
    status: u16,
    reason: &'static str,
    lines: &'static str,
    turned_away: bool,
}

fn refusals() -> Vec<Refusal> {
    const PROXY: &str = "not a proxy: ask for /pods/{ip}/{port}/{path}";
    const NONE: &str = "no such page: ask for /pods/{ip}/{port}/{path}";
    const ONLY: &str = "only GET and HEAD are allowed";
    const NO_BODY: &str = "a scrape has no body";
    const ALLOW: &str = "Allow: GET, HEAD\r\n";
    const ALLOW_CLOSES: &str = "Allow: GET, HEAD\r\nConnection: close\r\n";
    let request = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let get = |path: &str| request(&format!("GET {path}"), "");
    let via = "Via: 1.1 psystrike\r\n".repeat(3);
    let rows = [
        // Where it is unclear where the next request begins, none follows.
        ("GET\r\n\r\n".into(), Outcome::MalformedRequest, 400, "malformed request: request line", CLOSES),
        ("GET / HTTP/1.1\n\n".into(), Outcome::MalformedRequest, 400, "malformed request: bare LF", CLOSES),
        (
            "GET / HTTP/1.1\r\n\r\n".into(),
            Outcome::MalformedRequest,
            400,
            "malformed request: no Host",
            CLOSES,
        ),
        (
            request("GET /", "Host: b\r\n"),
            Outcome::MalformedRequest,
            400,
            "malformed request: more than one Host",
            CLOSES,
        ),
        (get("/#a"), Outcome::MalformedRequest, 400, "malformed request: request target", CLOSES),
        (
            request("GET /", "Content-Length: +1\r\n"),
            Outcome::MalformedRequest,
            400,
            "malformed request: Content-Length",
            CLOSES,
        ),
        (
            request("GET /nowhere", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            Outcome::MalformedRequest,
            400,
            "malformed request: Content-Length beside Transfer-Encoding",
            CLOSES,
        ),
        (
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(),
            Outcome::Version,
            505,
            "only HTTP/1.1 and HTTP/1.0 are spoken here",
            CLOSES,
        ),
        (get(&"/a".repeat(9000)), Outcome::TargetTooLong, 414, "request target over 16 KiB", CLOSES),
        (
            request("GET /", &format!("A: {}\r\n", "b".repeat(17_000))),
            Outcome::HeadTooLarge,
            431,
            "request head over 16 KiB",
            CLOSES,
        ),
        (
            request("GET /", &"A: b\r\n".repeat(100)),
            Outcome::TooManyFields,
            431,
            "request head over 100 fields",
            CLOSES,
        ),
        (request("GET /", "Content-Length: 5\r\n"), Outcome::Body, 413, NO_BODY, CLOSES),
        (
            request("HEAD /pods/10.1.2.3/80/", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"),
            Outcome::Body,
            413,
            NO_BODY,
            CLOSES,
        ),
        // Elsewhere it does, if the client likes.
        (request("POST /metrics", ""), Outcome::Method, 405, ONLY, ALLOW),
        (request("POST /metrics", "Content-Length: 5\r\n"), Outcome::Method, 405, ONLY, ALLOW_CLOSES),
        (
            request("DELETE /pods/10.1.2.3/80/", "Connection: close\r\n"),
            Outcome::Method,
            405,
            ONLY,
            ALLOW_CLOSES,
        ),
        (request("get /", ""), Outcome::Method, 405, ONLY, ALLOW),
        (request("OPTIONS *", ""), Outcome::Method, 405, ONLY, ALLOW),
        (request("CONNECT a:80", ""), Outcome::Method, 405, ONLY, ALLOW),
        (get("http://10.1.2.3/metrics"), Outcome::NotOriginForm, 421, PROXY, ""),
        (get("*"), Outcome::NotOriginForm, 421, PROXY, ""),
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
        (get("/pods/10.1.2/80/"), Outcome::BadHost, 400, "pod address is not an IP address", ""),
        (
            get("/pods/localhost/80/"),
            Outcome::HostName,
            400,
            "pod names are not resolved: give the pod's IP address",
            "",
        ),
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
    refusals.extend([HEALTHZ, ASK, ASK_10_KEEPS].map(|request| Refusal {
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
fn refusals_say_what_is_wrong_and_reach_no_pod() {
    let refusals = refusals();
    let is_met = |outcome| outcome == Outcome::HeadTimeout || refusals.iter().any(|it| it.outcome == outcome);
    for &outcome in Outcome::ALL {
        assert!(
            outcome.class() != Class::Refused || is_met(outcome),
            "{outcome:?} is new: where is its test?"
        );
    }
    for refusal in &refusals {
        let mut talk = refusal.talk();
        // Behind it stands another request, or what would be one if the first were misread.
        talk.client(refusal.request.clone() + HEALTHZ).gets(refusal.reply());
        talk.wants(Wants::Flush);
        let closes = refusal.lines.contains(CLOSES);
        let mut said = talk.flushed();
        let report = said.report();
        assert_eq!((report.outcome, report.status), (refusal.outcome, refusal.status), "{}", refusal.request);
        if closes {
            drop(said.client(ClientAction::Shutdown));
            talk.wants(Wants::Discard);
            assert!(talk.unused().is_empty(), "nothing of it is read as another request");
        } else {
            drop(said.gets(reply(200, "OK", "", "Healthz\n")));
            talk.flushed().reports(Outcome::Page, 200);
        }
    }
}

#[test]
fn behind_a_head_that_cannot_be_read_nothing_is_a_request() {
    for head in ["?? ??\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\r\nGET / HTTP/2.0\r\n\r\n"] {
        let mut talk = Talk::new(head);
        talk.client(head.to_owned() + HEALTHZ).whatever();
        assert!(talk.unused().is_empty(), "used at once, not only when the connection ends");
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
        // What Connection lists does not go on, and still counts.
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
    // A page of our own is no step of a loop.
    let mut talk = Talk::new("a page");
    let via = "Via: 1.1 psystrike\r\n".repeat(3);
    talk.client(format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{via}\r\n")).gets(reply(
        200,
        "OK",
        "",
        "Healthz\n",
    ));
}

// --------------------------------------------------------------------------------------- pipelining

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
    talk.client("dy"); // who goes on meanwhile is not heard yet
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.wait(ms(100));
    talk.flushed().reports(Outcome::Forwarded, 200).upstream(UpstreamAction::Connect(pod()));
    talk.due(ms(3100)); // its time begins as it is read
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

    // Behind an answer that is the connection's last, nothing is read.
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
fn many_small_requests_and_one_of_the_longest_head() {
    // More than is read at once.
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
    let mut talk = Talk::new("the longest head, behind empty lines");
    talk.client("\r\n".repeat(20_000) + &head(fill) + HEALTHZ).gets(&page);
    talk.flushed().reports(Outcome::Page, 200).gets(&page);
    let mut talk = Talk::new("one byte more");
    let reason = "request head over 16 KiB";
    talk.client(head(fill + 1)).gets(reply(431, reason, CLOSES, &format!("{reason}\n")));
}

// --------------------------------------------------------------------------- bytes in any portions

#[test]
fn requests_come_in_any_portions() {
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

/// What comes of an answer: the client's bytes, what becomes of both connections, and the report.
#[derive(Debug, PartialEq)]
struct Heard {
    got: Vec<u8>,
    upstream: UpstreamAction,
    client: ClientAction,
    outcome: Outcome,
    status: u16,
}

/// The pod answers `ask` in these parts, and then ends its side if it `ends` or is still waited for.
fn hears(ask: &str, parts: &[&[u8]], ends: bool) -> Heard {
    let mut talk = Talk::awaiting(ask, false);
    let mut heard = Heard {
        got: Vec::new(),
        upstream: UpstreamAction::None,
        client: ClientAction::None,
        outcome: Outcome::Page,
        status: 0,
    };
    let mut note = |said: &mut Said| {
        said.bytes.clear();
        if said.upstream != UpstreamAction::None {
            assert_eq!(heard.upstream, UpstreamAction::None, "the pod's connection is done with once");
            heard.upstream = std::mem::take(&mut said.upstream);
        }
        if said.client != ClientAction::None {
            heard.client = std::mem::take(&mut said.client);
        }
        if let Some(report) = said.report.take() {
            (heard.outcome, heard.status) = (report.outcome, report.status);
        }
    };
    for part in parts {
        note(&mut talk.pod(part));
    }
    if ends {
        note(&mut talk.pod_ends());
    }
    match talk.exchange.wants() {
        Wants::Flush => note(&mut talk.flushed()),
        Wants::Delivery => note(&mut talk.after(ms(0))),
        _ => {}
    }
    heard.got = talk.got.clone();
    heard
}

#[test]
fn answers_come_in_any_portions() {
    for way in WAYS {
        // Surplus bytes that come on their own find an idle connection, which is not for the exchange to see.
        let surplus = way.upstream == CLOSE && {
            let shorter = &way.answer[..way.answer.len() - 1];
            hears(way.ask, &[shorter.as_bytes()], false).outcome == Outcome::Forwarded
        };
        let bytes = way.answer.as_bytes();
        let whole = hears(way.ask, &[bytes], way.ends);
        assert_eq!(whole.outcome, Outcome::Forwarded, "{}", way.answer);
        assert_eq!(whole.got, way.gets.as_bytes(), "{}", way.answer);
        let same = |parts: &[&[u8]], how: &str| {
            let mut heard = hears(way.ask, parts, way.ends);
            if surplus && heard.upstream == KEEP {
                heard.upstream = CLOSE;
            }
            assert_eq!(heard, whole, "{}: {how}", way.answer);
        };
        for at in cuts(bytes.len()) {
            let parts: Vec<_> =
                [&bytes[..at], &bytes[at..]].into_iter().filter(|it| !it.is_empty()).collect();
            same(&parts, &format!("cut at {at}"));
        }
        same(&bytes.chunks(1).collect::<Vec<_>>(), "byte by byte");
        with_seeds(20, |seed, random| same(&random.parts(bytes), &format!("seed {seed}")));
    }
}

#[test]
fn an_end_is_never_faked() {
    // Every answer, ended by the pod after every byte of it.
    for way in WAYS {
        let whole = hears(way.ask, &[way.answer.as_bytes()], true);
        for end in 0..way.answer.len() {
            for chunk in [1, way.answer.len()] {
                let parts: Vec<_> = way.answer.as_bytes()[..end].chunks(chunk).collect();
                let heard = hears(way.ask, &parts, true);
                let Heard { got, client, outcome, .. } = &heard;
                let context = format!("{:?}, {end} bytes of it, by {chunk}: {heard:?}", way.answer);
                assert!(heard.upstream == CLOSE || *outcome == Outcome::Forwarded, "{context}");
                match outcome {
                    // A reply of ours, behind whatever interim answers went on.
                    Outcome::NoAnswer | Outcome::HeadCutShort => {
                        assert_eq!(heard.status, 502, "{context}");
                        assert!(got.ends_with(b"after 0ms)\n") || way.ask.starts_with("HEAD"), "{context}");
                    }
                    // Seen to be cut: no more than a part, and broken off.
                    Outcome::BodyCutShort => {
                        let until_close = String::from_utf8_lossy(got)
                            .contains("\r\nConnection: close\r\n\r\n")
                            && !String::from_utf8_lossy(got).contains("Content-Length");
                        let action = if until_close { ClientAction::Reset } else { ClientAction::Shutdown };
                        assert_eq!(*client, action, "{context}");
                        assert!(whole.got.starts_with(got), "{context}");
                        assert!(until_close || got.len() < whole.got.len(), "{context}");
                    }
                    // All of it was there, but for surplus bytes; or its end is the connection's.
                    Outcome::Forwarded if way.ends => assert!(whole.got.starts_with(got), "{context}"),
                    Outcome::Forwarded => assert_eq!(*got, whole.got, "{context}"),
                    _ => panic!("{context}"),
                }
            }
        }
    }
}

#[test]
fn a_broken_answer_is_never_completed() {
    // The answer, what of it is sound, and how the client is broken off.
    let chunked = "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let unchunked = "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\n";
    for (body, sound, content) in [
        ("3\r\nup\nX\r\n0\r\n\r\n", "3\r\nup\n", "up\n"),
        ("3\r\nup\n\r\n\r\n0\r\n\r\n", "3\r\nup\n\r\n", "up\n"),
        ("3\r\nup\n\r\n0\n\n", "3\r\nup\n\r\n0", "up\n"),
        ("3\r\nup\n\r\n0\r\nA b\r\n\r\n", "3\r\nup\n\r\n0\r\nA", "up\n"),
        ("3 x\r\nup\n\r\n0\r\n\r\n", "3", ""),
    ] {
        for (ask, head, sound, action) in [
            (ASK, chunked, sound, ClientAction::Shutdown),
            (ASK_10_KEEPS, unchunked, content, ClientAction::Reset),
        ] {
            let answer = format!("{chunked}{body}");
            let sound = format!("{head}{sound}");
            let check = |parts: &[&[u8]]| {
                let heard = hears(ask, parts, false);
                assert_eq!((heard.outcome, heard.upstream), (Outcome::BodyMalformed, CLOSE), "{answer:?}");
                if heard.status == 502 {
                    // Its head came with its fault: there was still time to tell.
                    assert!(heard.got.starts_with(b"HTTP/1.1 502 malformed body from the pod: "));
                    assert_eq!(heard.client, ClientAction::None);
                } else {
                    assert_eq!((heard.status, heard.client), (200, action), "{answer:?}");
                    assert_eq!(heard.got, sound.as_bytes(), "{answer:?}");
                }
            };
            let bytes = answer.as_bytes();
            check(&[bytes]);
            for at in 1..bytes.len() {
                check(&[&bytes[..at], &bytes[at..]]);
            }
            check(&bytes.chunks(1).collect::<Vec<_>>());
        }
    }
}
