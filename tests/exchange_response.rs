//! The state machine of an exchange on a synthetic clock: responses that are forwarded. Interim responses, responses
//! that break after their head, redirects, and bodies that are forwarded unread (`splice`).
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use psystrike::proxy::{
    events::{ClientAction, UpstreamAction, Wants},
    outcome::{Outcome, UpstreamError},
};
use states::{
    ASK_10_KEEPS, ASK_HEAD, Begin, CLOSE, HEALTHZ, KEEP, KEEPS, awaiting_begun, closed, failure, lingering,
    reading_begun, relaying, relaying_chunked, relaying_length, relaying_unchunked, relaying_until_close,
    replying, replying_page, sending_part,
};
use talk::{ANSWER, ASK, Said, Talk, ms, pod, reply};

#[test]
fn interim_responses() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    // An HTTP/1.1 client gets it at once, without hop-by-hop and framing fields; an HTTP/1.0 client does not get it.
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
        talk.due(ms(30_000)); // the deadline does not change
        talk.pod("HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n")
            .gets(match sees {
                true => "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
                false => "HTTP/1.1 204 No Content\r\nDate: x\r\nConnection: keep-alive\r\n\r\n",
            })
            .upstream(next);
        let report = talk.flushed().report();
        assert_eq!((report.status, report.first_byte), (204, Some(ms(0))));
    }
    // All in one read; at most eight are accepted.
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
            let reason = "malformed response from the pod: too many interim responses";
            said.gets(seen + &failure(502, reason, lines, "0ms")).upstream(CLOSE);
            talk.flushed().reports(Outcome::MalformedResponse, 502);
        }
        talk.wants(Wants::Request);
    }
    // An interim response is not final: the final one may still be invalid or late.
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod(interim).gets(interim);
    talk.expires(ms(30_000))
        .gets(failure(504, "no response from the pod within 30s", "", "30s"))
        .upstream(CLOSE);
    talk.flushed().reports(Outcome::ResponseTimeout, 504);
    talk.wants(Wants::Request);
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n")
        .gets(
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned()
                + &failure(502, "unexpected 101 Switching Protocols from the pod", "", "0ms"),
        )
        .upstream(CLOSE);
}

/// The expected outcome, and the action by which the client notices it: a reset follows once all earlier bytes are
/// delivered.
fn breaks_off(talk: &mut Talk, breaks: fn(&mut Talk) -> Said, outcome: Outcome, action: ClientAction) {
    let said = breaks(talk).upstream(CLOSE);
    match (outcome, action) {
        (Outcome::ClientClosedRequest, _) => drop(said.client(ClientAction::Close).reports(outcome, 200)),
        // The client's time is over, so it is reset at once.
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
fn a_response_that_breaks_after_its_head_is_visibly_broken() {
    type Break = fn(&mut Talk) -> Said;
    let cut: &[(Break, Outcome)] = &[
        (|talk| talk.pod_ends(), Outcome::ResponseTruncated),
        (|talk| talk.pod_fails(UpstreamError::Other), Outcome::ResponseTruncated),
        (|talk| talk.pod_stops(), Outcome::ResponseTruncated),
        (|talk| talk.expires(ms(30_000)), Outcome::ResponseBodyTimeout),
        (|talk| talk.expires_stalled(ms(30_000)), Outcome::ClientTimeout),
        (|talk| talk.client_gone(), Outcome::ClientClosedRequest),
    ];
    let rows: &[(&str, Begin, ClientAction)] = &[
        ("length", relaying_length, ClientAction::Shutdown),
        ("chunked", relaying_chunked, ClientAction::Shutdown),
        // Here, an orderly close would look like the end.
        ("until close", relaying_until_close, ClientAction::Reset),
        ("HTTP/1.0, unchunked", relaying_unchunked, ClientAction::Reset),
    ];
    for &(name, relaying, action) in rows {
        for (index, &(breaks, outcome)) in cut.iter().enumerate() {
            if name == "until close" && index == 0 {
                continue; // a regular end of this body
            }
            let mut talk = relaying();
            breaks_off(&mut talk, breaks, outcome, action);
        }
    }
    // A malformed coding: the valid bytes before it are forwarded, and none after them.
    for (came, goes) in [
        ("p\nX", "p\n"),
        ("p\n\r\n3\n", "p\n\r\n3"),
        ("p\n\r\n-", "p\n\r\n"),
        ("p\n\r\n0\r\nA b\r\n\r\n", "p\n\r\n0\r\nA"),
    ] {
        let mut talk = relaying_chunked();
        let said = talk.pod(came).gets(goes).upstream(CLOSE).client(ClientAction::Shutdown);
        said.reports(Outcome::MalformedResponseBody, 200);
    }
    let mut talk = relaying_unchunked();
    talk.pod("p\nX").gets("p\n").upstream(CLOSE).reports(Outcome::MalformedResponseBody, 200);
    talk.after(ms(0)).client(ClientAction::Reset);
}

#[test]
fn a_broken_response_waits_at_most_two_seconds() {
    let mut talk = relaying_until_close();
    talk.pod_fails(UpstreamError::Other).upstream(CLOSE).reports(Outcome::ResponseTruncated, 200);
    talk.after_stalled(ms(1999));
    talk.expires_stalled(ms(2000)).client(ClientAction::Reset);
    talk.wants(Wants::Nothing);

    let mut talk = relaying_length();
    talk.pod_ends().upstream(CLOSE).client(ClientAction::Shutdown).reports(Outcome::ResponseTruncated, 200);
    talk.expires_stalled(ms(2000)).client(ClientAction::Close);
    talk.wants(Wants::Nothing);
}

#[test]
fn redirects_lead_through_psystrike() {
    for (asked, location, expected) in [
        ("/a/b?c=d", "e", "/pods/10.1.2.3/8080/a/e"),
        ("/a/b?c=d", "?e", "/pods/10.1.2.3/8080/a/b?e"),
        ("/a/b?c=/../d/", "../e/", "/pods/10.1.2.3/8080/e/"),
        ("/a/b%3Fc/d", "e", "/pods/10.1.2.3/8080/a/e"), // the encoded part is the query here
        ("", "/m/", "/pods/10.1.2.3/8080/m/"),
        ("", "m/", "/pods/10.1.2.3/8080/m/"),
        ("", "http://10.1.2.3:8080/login?to=/x#y", "/pods/10.1.2.3/8080/login?to=/x#y"),
        ("", "//10.1.2.3:8080", "/pods/10.1.2.3/8080/"),
        ("", "http://10.1.2.3/m", "http://10.1.2.3/m"),
        ("", "https://10.1.2.3:8080/m", "/pods/https:10.1.2.3/8080/m"),
        ("", "https://10.1.2.3/m", "https://10.1.2.3/m"),
        ("", "http://10.1.2.4:8080/m", "http://10.1.2.4:8080/m"),
        ("", "#x", "#x"),
    ] {
        let ask = format!("GET /pods/10.1.2.3/8080{asked} HTTP/1.1\r\nHost: psystrike\r\n\r\n");
        let answer = |to: &str| {
            format!("HTTP/1.1 301 Moved\r\nDate: x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        };
        // At the first attempt, and after a retry.
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

// -------------------------------------------------------------------------- bytes forwarded unread

/// A long body, and its head, which is forwarded unchanged.
const LONG: u64 = 100_000;

fn long_head(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nDate: x\r\n{fields}\r\n")
}

fn relaying_long() -> Talk {
    relaying(&long_head("Content-Length: 100000\r\n"))
}

/// Within the data of a chunk of 64 KiB.
fn relaying_long_chunk() -> Talk {
    relaying(&(long_head("Transfer-Encoding: chunked\r\n") + "10000\r\n"))
}

#[test]
fn bytes_forwarded_unread_count_as_read_ones() {
    // Unread bytes up to exactly the end: both connections persist.
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
    // Read and unread bytes in turn.
    let mut talk = relaying_long();
    talk.passed(LONG - 20);
    talk.pod("0123456789").gets("0123456789");
    talk.passed(7);
    talk.pod("abc").gets("abc").upstream(KEEP);

    let mut talk = relaying_long_chunk();
    talk.passed(65_535);
    assert_eq!(talk.exchange.opaque_len(), 1);
    talk.passed(1);
    assert_eq!(talk.exchange.opaque_len(), 0, "the line end has to be read");
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
fn a_pod_that_closes_is_closed_after_bytes_forwarded_unread() {
    let mut talk = Talk::awaiting(ASK, false);
    let head = long_head("Connection: close\r\nContent-Length: 100000\r\n");
    talk.pod(head).gets(long_head("Content-Length: 100000\r\n"));
    talk.passed(LONG).upstream(CLOSE);
    talk.flushed().reports(Outcome::Forwarded, 200);

    // A connection on which the request was not completely sent is not pooled either.
    let mut talk = sending_part();
    let head = long_head("Content-Length: 100000\r\n");
    talk.pod(&head).gets(&head);
    talk.passed(LONG).upstream(CLOSE);
}

#[test]
fn unread_bytes_beyond_the_body_are_surplus() {
    let mut talk = relaying_long();
    talk.passed(LONG + 1).upstream(CLOSE);
    talk.wants(Wants::Flush);
    talk.flushed().reports(Outcome::Forwarded, 200);
}

#[test]
fn a_response_that_breaks_after_unread_bytes_is_visibly_broken() {
    type Break = fn(&mut Talk) -> Said;
    let cut: &[(Break, Outcome)] = &[
        (|talk| talk.pod_ends(), Outcome::ResponseTruncated),
        (|talk| talk.pod_fails(UpstreamError::Other), Outcome::ResponseTruncated),
        (|talk| talk.pod_stops(), Outcome::ResponseTruncated),
        (|talk| talk.expires(ms(30_000)), Outcome::ResponseBodyTimeout),
        (|talk| talk.expires_stalled(ms(30_000)), Outcome::ClientTimeout),
        (|talk| talk.client_gone(), Outcome::ClientClosedRequest),
    ];
    let rows: &[(&str, Begin, &[u64], ClientAction)] = &[
        ("length", relaying_long, &[1, LONG - 1], ClientAction::Shutdown),
        ("chunked, in data and after it", relaying_long_chunk, &[1, 65_535, 65_536], ClientAction::Shutdown),
        ("until close", relaying_until_close, &[1, LONG], ClientAction::Reset),
    ];
    for &(name, relaying, passed, action) in rows {
        for (index, &(breaks, outcome)) in cut.iter().enumerate() {
            for &bytes in passed {
                if name == "until close" && index == 0 {
                    continue; // a regular end of this body
                }
                let mut talk = relaying();
                talk.passed(bytes);
                breaks_off(&mut talk, breaks, outcome, action);
            }
        }
    }
    // A malformed coding after data that was forwarded unread.
    let mut talk = relaying_long_chunk();
    talk.passed(65_536);
    let said = talk.pod("X\r\n0\r\n\r\n").upstream(CLOSE).client(ClientAction::Shutdown);
    said.reports(Outcome::MalformedResponseBody, 200);
}

#[test]
fn opaque_lengths_and_known_lengths_by_state() {
    // If the coding is removed, each byte has to be read: none may be forwarded unread.
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
        ("awaiting, after an interim response", &interim, 0, false),
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
