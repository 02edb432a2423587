//! Starting points of the dialogues with an exchange (`tests/exchange_*.rs`): requests of clients, and an exchange in
//! each of its states.

#![allow(dead_code)] // each test file uses its own part

use base64ct::{Base64, Encoding};
use psystrike::proxy::{
    events::{ClientAction, UpstreamAction, Wants},
    outcome::Outcome,
};

use super::talk::{ANSWER, ASK, Talk, reply};

/// Brings a dialogue into the state in which a test begins.
pub(crate) type Begin = fn() -> Talk;

pub(crate) const KEEP: UpstreamAction = UpstreamAction::Keep;
pub(crate) const CLOSE: UpstreamAction = UpstreamAction::Close;
pub(crate) const CLOSES: &str = "Connection: close\r\n";
pub(crate) const KEEPS: &str = "Connection: keep-alive\r\n";

/// A scrape by an HTTP/1.0 client, with or without a persistent connection.
pub(crate) const ASK_10: &str = "GET /pods/10.1.2.3/8080/metrics HTTP/1.0\r\n\r\n";
pub(crate) const ASK_10_KEEPS: &str =
    "GET /pods/10.1.2.3/8080/metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
pub(crate) const ASK_HEAD: &str = "HEAD /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\r\n";
pub(crate) const ASK_CLOSES: &str =
    "GET /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\nConnection: close\r\n\r\n";
pub(crate) const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: psystrike\r\n\r\n";

/// Returns the response for a failure of [`pod`](super::talk::pod).
pub(crate) fn failure(status: u16, reason: &str, lines: &str, after: &str) -> String {
    reply(status, reason, lines, &format!("{reason} (pod 10.1.2.3:8080, after {after})\n"))
}

/// Returns a request with these headers.
pub(crate) fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n{fields}\r\n")
}

/// Returns credentials (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    let mut buffer = [0; 128];
    let pair = format!("{user}:{password}");
    format!("Basic {}", Base64::encode(pair.as_bytes(), &mut buffer).expect("it fits"))
}

pub(crate) fn scrape_with(timeout: &str) -> String {
    format!(
        "GET /pods/10.1.2.3/8080/metrics HTTP/1.1\r\nHost: psystrike\r\n\
         X-Prometheus-Scrape-Timeout-Seconds: {timeout}\r\n\r\n"
    )
}

/// A scrape whose response head, these bytes, was forwarded unchanged.
pub(crate) fn relaying(head: &str) -> Talk {
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod(head).gets(head);
    talk.wants(Wants::Response);
    talk
}

pub(crate) fn relaying_length() -> Talk {
    relaying("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nu")
}

pub(crate) fn relaying_chunked() -> Talk {
    relaying("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nu")
}

pub(crate) fn relaying_until_close() -> Talk {
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod("HTTP/1.1 200 OK\r\nDate: x\r\n\r\nup\n")
        .gets("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nup\n");
    talk.wants(Wants::Response);
    talk
}

pub(crate) fn relaying_unchunked() -> Talk {
    let mut talk = Talk::awaiting(ASK_10_KEEPS, false);
    talk.pod("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3\r\nu")
        .gets("HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\nu");
    talk
}

/// The pod's response was output, and the client has yet to take it.
pub(crate) fn replying() -> Talk {
    let mut talk = Talk::awaiting(ASK, false);
    talk.pod(ANSWER).gets(ANSWER).upstream(KEEP);
    talk.wants(Wants::Flush);
    talk
}

pub(crate) fn replying_page() -> Talk {
    let mut talk = Talk::new("a page");
    talk.client(HEALTHZ).gets(reply(200, "OK", "", "Healthz\n"));
    talk.wants(Wants::Flush);
    talk
}

pub(crate) fn replying_refusal() -> Talk {
    let mut talk = Talk::new("a refusal");
    let reason = "malformed request: request line";
    talk.client("?? ??\r\n\r\n").gets(reply(400, reason, CLOSES, &format!("{reason}\n")));
    talk.wants(Wants::Flush);
    talk
}

pub(crate) fn lingering() -> Talk {
    let mut talk = replying_refusal();
    talk.flushed().client(ClientAction::Shutdown).reports(Outcome::MalformedRequest, 400);
    talk.wants(Wants::Discard);
    talk
}

/// The client has closed its side, and has not taken all of the response.
pub(crate) fn lingering_ended() -> Talk {
    let mut talk = lingering();
    talk.client_ended();
    talk.wants(Wants::Delivery);
    talk
}

pub(crate) fn closed() -> Talk {
    let mut talk = lingering();
    talk.client_gone().client(ClientAction::Close);
    talk.wants(Wants::Nothing);
    talk
}

pub(crate) fn reading_begun() -> Talk {
    let mut talk = Talk::new("a head that is not whole");
    talk.client("GET /hea");
    talk.wants(Wants::Request);
    talk
}

pub(crate) fn awaiting_begun() -> Talk {
    let mut talk = Talk::awaiting(ASK, true);
    talk.pod("HTTP/1.1 2");
    talk
}

pub(crate) fn resolving() -> Talk {
    let mut talk = Talk::new("a pod's name");
    talk.client("GET /pods/web.ns.svc/8080/m HTTP/1.1\r\nHost: a\r\n\r\n").upstream(UpstreamAction::Resolve);
    talk.wants(Wants::Connection);
    talk
}

pub(crate) fn sending_part() -> Talk {
    let mut talk = Talk::sending(ASK, false);
    talk.sent(10);
    talk.wants(Wants::Send);
    talk
}
