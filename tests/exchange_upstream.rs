//! The state machine of an exchange on a synthetic clock: pods that accept no connection, that send no valid response,
//! or none in time; and how long a scrape may take.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use std::time::Duration;

use psystrike::proxy::{
    events::{UpstreamAction, Wants},
    outcome::{Class, Outcome, UpstreamError},
    route::RouteName,
};
use states::{ASK_10, ASK_10_KEEPS, ASK_CLOSES, ASK_HEAD, CLOSE, CLOSES, KEEP, KEEPS, failure, scrape_with};
use talk::{ASK, ASKED, Talk, ms, pod, settings};

// -------------------------------------------------------------------------------------- connecting

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
            Outcome::NoFileDescriptors,
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
            assert_eq!((report.first_byte, report.pod_status), (None, None));
            said.whatever();
            talk.wants(next);
        }
    }
}

#[test]
fn connecting_takes_too_long() {
    // The scrape's time limit, the deadline for connecting, and the time limit in the reason phrase.
    for (timeout, at, within) in
        [("10", 3000, "3s"), ("1", 900, "900ms"), ("3.5", 3000, "3s"), ("3", 2700, "2.7s")]
    {
        let request = scrape_with(timeout);
        let mut talk = Talk::connecting(&request);
        let reason = format!("pod did not accept the connection within {within}");
        talk.expires(ms(at)).gets(failure(504, &reason, "", within)).upstream(CLOSE);
        talk.wants(Wants::Flush);
        // The client then gets extra time to take the response.
        talk.due(ms(at + 10_000).max(patience_of(timeout)));
        talk.flushed().reports(Outcome::ConnectTimeout, 504);
        talk.wants(Wants::Request);
    }
}

/// Returns the time limit that follows from a valid timeout.
fn patience_of(timeout: &str) -> Duration {
    let milliseconds = (timeout.parse::<f64>().expect("a number") * 1000.0) as u64;
    ms(milliseconds - (milliseconds / 10).min(500))
}

// ------------------------------------------------------------------------------- no valid response

/// Invalid responses of pods, before any byte was sent to the client.
const UNSOUND: &[(&str, Outcome, &str)] = &[
    ("X", Outcome::MalformedResponse, "malformed response from the pod: not HTTP/1"),
    (
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        Outcome::MalformedResponse,
        "malformed response from the pod: not HTTP/1",
    ),
    (
        "HTTP/2.0 200 OK\r\n\r\n",
        Outcome::MalformedResponse,
        "malformed response from the pod: neither HTTP/1.1 nor HTTP/1.0",
    ),
    ("HTTP/1.1 099 Low\r\n\r\n", Outcome::MalformedResponse, "malformed response from the pod: status code"),
    ("HTTP/1.1 600 High\r\n\r\n", Outcome::MalformedResponse, "malformed response from the pod: status code"),
    ("HTTP/1.1 200 OK\nno colon\n\n", Outcome::MalformedResponse, "malformed response from the pod: bare LF"),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        Outcome::MalformedResponse,
        "malformed response from the pod: Content-Length repeated",
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Outcome::MalformedResponse,
        "malformed response from the pod: Transfer-Encoding other than chunked",
    ),
    (
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Outcome::MalformedResponse,
        "malformed response from the pod: Transfer-Encoding in HTTP/1.0",
    ),
    (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        Outcome::SwitchedProtocols,
        "unexpected 101 Switching Protocols from the pod",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nup\nX",
        Outcome::MalformedResponseBody,
        "malformed response body from the pod: chunk is longer than its size",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nX",
        Outcome::MalformedResponseBody,
        "malformed response body from the pod: chunk size",
    ),
];

#[test]
fn no_valid_response() {
    let large = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(64 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(257));
    let more = [
        (large.as_str(), Outcome::ResponseHeadersTooLarge, "response headers from the pod over 64 KiB"),
        (&many, Outcome::MalformedResponse, "malformed response from the pod: more than 256 headers"),
    ];
    for &(answer, outcome, reason) in UNSOUND.iter().chain(&more) {
        for sent in [10, ASKED.len()] {
            for (ask, lines, next) in [
                (ASK, "", Wants::Request),
                (ASK_10, CLOSES, Wants::Discard),
                (ASK_10_KEEPS, KEEPS, Wants::Request),
            ] {
                // There is no retry if a reused connection has responded.
                let mut talk = Talk::sending(ask, answer.starts_with("HTTP/"));
                talk.sent(sent);
                talk.pod(answer).gets(failure(502, reason, lines, "0ms")).upstream(CLOSE);
                let mut said = talk.flushed();
                let report = said.report();
                assert_eq!((report.outcome, report.status), (outcome, 502), "{reason}");
                assert_eq!(report.first_byte, Some(ms(0)));
                let is_parsed =
                    outcome == Outcome::MalformedResponseBody || reason.contains("Content-Length");
                let is_parsed = is_parsed || reason.contains("Transfer-Encoding");
                assert_eq!(report.pod_status, is_parsed.then_some(200), "{reason}");
                said.whatever();
                talk.wants(next);
            }
        }
    }
    let mut talk = Talk::awaiting(ASK_HEAD, false);
    let reply = failure(502, "malformed response from the pod: not HTTP/1", "", "0ms");
    let head = &reply[..reply.find("\r\n\r\n").expect("a head") + 4];
    talk.pod("X").gets(head).upstream(CLOSE); // the fields of a response to HEAD do not announce bytes
}

#[test]
fn every_outcome_of_class_pod_has_a_test() {
    let failures = [
        // Tested in exchange_names.rs.
        Outcome::NoSuchName,
        Outcome::LookupFailed,
        Outcome::LookupTimeout,
        Outcome::LookupsFull,
        // Tested in exchange_tls.rs.
        Outcome::CertificateNotTrusted,
        Outcome::TlsFailed,
        Outcome::NoFileDescriptors,
        Outcome::BuffersFull,
        Outcome::ConnectionRefused,
        Outcome::Unreachable,
        Outcome::ConnectFailed,
        Outcome::ConnectTimeout,
        Outcome::NoResponse,
        Outcome::ResponseHeadersTruncated,
        Outcome::ResponseTimeout,
        Outcome::ResponseHeadersTooLarge,
        Outcome::ResponseTruncated,
        Outcome::ResponseBodyTimeout,
    ];
    for outcome in Outcome::ALL.iter().filter(|outcome| outcome.class() == Class::Pod) {
        let met = failures.contains(outcome) || UNSOUND.iter().any(|(_, unsound, _)| unsound == outcome);
        assert!(met, "{outcome:?} has no test here or in these files");
    }
}

#[test]
fn no_response_in_time() {
    let reason = "no response from the pod within 9.5s";
    for (begins, sent) in [("", 0), ("", 10), ("", ASKED.len()), ("HTTP/1.1 200 OK\r\n", ASKED.len())] {
        // There is no retry on a reused connection: no time is left.
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
            assert_eq!((report.outcome, report.status), (Outcome::ResponseTimeout, 504));
            assert_eq!(report.first_byte, (!begins.is_empty()).then_some(ms(5000)));
            talk.wants(Wants::Request);
        }
    }
}

// ------------------------------------------------------------------------------------- time limits

#[test]
fn time_limits_follow_from_prometheus() {
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
        // Limited by --timeout-max.
        ("120.5", 120_000),
        ("120.4", 119_900),
        ("121", 120_000),
        ("1e3", 120_000),
        ("1e15", 120_000),
        ("1e300", 120_000),
        ("18446744073709551616", 120_000),
        // Not numbers, or not usable as a time.
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
fn time_limits_follow_from_the_settings() {
    let mut settings = settings();
    settings.timeouts.scrape = ms(7_000);
    settings.timeouts.scrape_max = ms(8_000);
    settings.timeouts.connect = ms(20_000);
    for (request, patience, within) in
        [(ASK, 7_000, "7s"), (&scrape_with("10"), 8_000, "8s"), (&scrape_with("1"), 900, "900ms")]
    {
        let mut talk = Talk::with_rules(request, settings.clone(), false);
        talk.client(request).upstream(UpstreamAction::Connect(pod()));
        // The scrape's own time limit is reached first.
        let reason = format!("pod did not accept the connection within {within}");
        talk.expires(ms(patience)).gets(failure(504, &reason, "", within)).upstream(CLOSE);
    }
}
