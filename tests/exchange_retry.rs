//! The state machine of an exchange on a synthetic clock: a scrape on a reused connection that turns out to be stale is
//! retried once, on a new connection, and never after its response has begun.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use bytes::cuts;
use psystrike::proxy::{
    events::{UpstreamAction, Wants},
    outcome::{Outcome, UpstreamError},
};
use states::{CLOSE, KEEP, failure, scrape_with};
use talk::{ANSWER, ASK, ASKED, Talk, ms, pod};

#[test]
fn a_reused_connection_that_died_is_retried_once() {
    let loss = |talk: &mut Talk, ends| match ends {
        true => talk.pod_ends(),
        false => talk.pod_fails(UpstreamError::Other),
    };
    for ends in [true, false] {
        for sent in [0, 10, ASKED.len()] {
            // On a new connection, there is no retry.
            let mut talk = Talk::sending(ASK, false);
            talk.sent(sent);
            let reason = "pod closed the connection without a response";
            loss(&mut talk, ends).gets(failure(502, reason, "", "0ms")).upstream(CLOSE);
            talk.flushed().reports(Outcome::NoResponse, 502);

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
            talk.asked(ASKED); // the whole request again
            talk.wait(ms(100));
            if ends {
                talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
                let report = talk.flushed().report();
                assert_eq!((report.outcome, report.duration), (Outcome::Forwarded, ms(300)));
                assert_eq!(report.first_byte, Some(ms(300)));
            } else {
                loss(&mut talk, ends).gets(failure(502, reason, "", "300ms")).upstream(CLOSE);
                talk.flushed().reports(Outcome::NoResponse, 502);
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
fn nothing_is_retried_after_a_response_has_begun() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let reason = "pod closed the connection before the end of the response headers";
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
                    assert_eq!((report.outcome, report.status), (Outcome::ResponseHeadersTruncated, 502));
                    assert_eq!(report.first_byte, Some(ms(0)));
                    talk.wants(Wants::Request);
                }
            }
        }
    }
}

#[test]
fn bytes_on_a_reused_connection_before_the_request_are_not_its_response() {
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
    // On a new connection, early bytes can only be for this request: a busy pod may respond before it reads.
    let busy = "HTTP/1.1 503 Busy\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
    let mut talk = Talk::sending(ASK, false);
    talk.pod(busy).gets(busy).upstream(CLOSE);
    talk.flushed().reports(Outcome::Forwarded, 503);
}

/// Bytes that a pod sends after its response to HEAD, or to announce that it closes an idle connection.
#[test]
fn stale_first_bytes_on_a_reused_connection_cause_one_retry() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
    for stale in ["up 1\n", "X", "HTTP-", "HHTTP/1.1 200 OK\r\n\r\n", "\r\n", "\0", timeout] {
        for cut in cuts(stale.len()) {
            let mut talk = Talk::awaiting(ASK, true);
            talk.wait(ms(100));
            let (first, rest) = stale.split_at(cut);
            let mut retried = false;
            for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
                if retried {
                    break; // the connection is closed
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
                // On a new connection, it is the response to this request.
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
    // Not after an interim response, which belonged to this request.
    let mut talk = Talk::awaiting(ASK, true);
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    talk.pod(interim).gets(interim);
    talk.pod("X")
        .gets(failure(502, "malformed response from the pod: not HTTP/1", "", "0ms"))
        .upstream(CLOSE);
    let mut talk = Talk::awaiting(ASK, true);
    talk.pod(interim).gets(interim);
    talk.pod(timeout).gets(timeout).upstream(KEEP);
}
