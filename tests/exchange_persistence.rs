//! The state machine of an exchange on a synthetic clock: every way in which a response is forwarded, and which
//! connections persist after it. The result does not depend on how the response is split into reads, and a truncated
//! response never looks complete.
//!
//! Each test is a dialogue (`support/talk.rs`). Output of the exchange that a test does not expect fails the test.

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/states.rs"]
mod states;
#[path = "support/talk.rs"]
mod talk;

use bytes::{cuts, with_seeds};
use psystrike::proxy::{
    events::{ClientAction, Event, UpstreamAction, Wants},
    outcome::Outcome,
};
use states::{ASK_10, ASK_10_KEEPS, ASK_CLOSES, ASK_HEAD, CLOSE, KEEP};
use talk::{ANSWER, ASK, ASKED, Said, Talk, ms};

/// The expected forwarding of a response that arrives in one piece.
struct Way {
    ask: &'static str,
    answer: &'static str,
    /// The pod closes its side after it.
    ends: bool,
    gets: &'static str,
    upstream: UpstreamAction,
    /// The client's connection persists.
    persists: bool,
}

const WAYS: &[Way] = &[
    Way { ask: ASK, answer: ANSWER, ends: false, gets: ANSWER, upstream: KEEP, persists: true },
    // The pod's connection, by the pod's own version and Connection field:
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
    // Bytes after the end belong to no response.
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
    // Responses without a body, whatever their fields are.
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
    // Chunked, with extensions and trailers.
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
    // The client's connection, by the client's own version and Connection field:
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
    // HTTP/1.0 has no chunked coding: the client gets the content alone, until close. The pod's connection is
    // unaffected.
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
    // After interim responses.
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
    // A redirect to the same pod leads through psystrike.
    Way {
        ask: ASK,
        answer: "HTTP/1.1 302 Found\r\nDate: x\r\nlocation: /m?a=b\r\nContent-Length: 3\r\n\r\nup\n",
        ends: false,
        gets: "HTTP/1.1 302 Found\r\nDate: x\r\nlocation: /pods/10.1.2.3/8080/m?a=b\r\n\
               Content-Length: 3\r\n\r\nup\n",
        upstream: KEEP,
        persists: true,
    },
    // No date, no reason phrase, hop-by-hop fields: the body is unaffected.
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
fn a_pod_that_did_not_get_the_whole_request_gets_no_other() {
    // A pod may respond early; how it then reads the rest of the request is unknown.
    for sent in [1, ASKED.len() - 1, ASKED.len()] {
        for parts in [&[ANSWER][..], &["HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\n", "up\n"]] {
            let mut talk = Talk::sending(ASK, false);
            talk.sent(sent);
            let (last, first) = parts.split_last().expect("a part");
            for part in first {
                talk.pod(part).gets(part);
                talk.wants(Wants::Response);
                talk.tell(Event::Sent(5)); // ignored: no more of the request is sent
            }
            let keep = if sent == ASKED.len() { KEEP } else { CLOSE };
            talk.pod(last).gets(last).upstream(keep);
            talk.flushed().reports(Outcome::Forwarded, 200);
            talk.wants(Wants::Request);
        }
    }
}

/// cheroot, waitress and civetweb send the body of a GET after their response to HEAD.
#[test]
fn a_connection_is_pooled_after_head_only_if_no_body_can_follow() {
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

// ---------------------------------------------------------------------- bytes in parts of any size

/// The result of a response: the client's bytes, the actions on both connections, and the report.
#[derive(Debug, PartialEq)]
struct Heard {
    got: Vec<u8>,
    upstream: UpstreamAction,
    client: ClientAction,
    outcome: Outcome,
    status: u16,
}

/// The pod responds to `ask` in these parts, and then closes its side if it `ends` or the exchange still waits for it.
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
            assert_eq!(heard.upstream, UpstreamAction::None, "the pod's connection has one final action");
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
fn responses_arrive_in_parts_of_any_size() {
    for way in WAYS {
        // Surplus bytes that arrive separately reach an idle connection, which has no exchange.
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
fn a_truncated_response_never_looks_complete() {
    // Every response, cut by the pod after each of its bytes.
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
                    // psystrike's own response, after the forwarded interim responses.
                    Outcome::NoResponse | Outcome::ResponseHeadersTruncated => {
                        assert_eq!(heard.status, 502, "{context}");
                        assert!(got.ends_with(b"after 0ms)\n") || way.ask.starts_with("HEAD"), "{context}");
                    }
                    // Visibly truncated: a part, and then an abort.
                    Outcome::ResponseTruncated => {
                        let until_close = String::from_utf8_lossy(got)
                            .contains("\r\nConnection: close\r\n\r\n")
                            && !String::from_utf8_lossy(got).contains("Content-Length");
                        let action = if until_close { ClientAction::Reset } else { ClientAction::Shutdown };
                        assert_eq!(*client, action, "{context}");
                        assert!(whole.got.starts_with(got), "{context}");
                        assert!(until_close || got.len() < whole.got.len(), "{context}");
                    }
                    // All of it was received, except for surplus bytes; or it ends with the connection.
                    Outcome::Forwarded if way.ends => assert!(whole.got.starts_with(got), "{context}"),
                    Outcome::Forwarded => assert_eq!(*got, whole.got, "{context}"),
                    _ => panic!("{context}"),
                }
            }
        }
    }
}

#[test]
fn a_malformed_body_is_never_completed() {
    // The body, its valid part on the wire, and its valid content.
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
                assert_eq!(
                    (heard.outcome, heard.upstream),
                    (Outcome::MalformedResponseBody, CLOSE),
                    "{answer:?}"
                );
                if heard.status == 502 {
                    // The head came together with the fault, so a 502 was still possible.
                    assert!(heard.got.starts_with(b"HTTP/1.1 502 malformed response body from the pod: "));
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
