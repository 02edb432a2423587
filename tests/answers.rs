//! Odd responses of pods: what Go's client, and thus Prometheus, accepts from a pod also arrives through psystrike.
//!
//! A table of responses. Each is served by a real pod to Go's net/http (`answers/oracle.go`) and to psystrike: whole,
//! byte by byte, and cut. Status and body are the same, or both refuse the response; where they differ, the row gives
//! the reason. A strict parser (`answers/strict.rs`), which accepts one spelling of everything, reads the responses
//! that psystrike forwards.

#[path = "answers/strict.rs"]
mod strict;
mod support;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use support::{
    LIMIT, base64,
    http::{Client, End, Wire, get},
    pods::{Pod, Then as Next},
    psystrike::Psystrike,
    repository, require_programs, require_working,
};

/// The expected handling of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// As Go handles it: the same status and body, or refused.
    AsGo,
    /// Refused, although Go accepts it, for this reason.
    Refused(&'static str),
    /// Accepted, although Go refuses it, for this reason.
    Taken(&'static str),
}

use Rule::{AsGo, Refused, Taken};

const TWO_READERS: &str = "parsers disagree on where its end is";
const OLDER_GO: &str = "older Go accepts control bytes in values; replaced by spaces, they are unambiguous";
const NOT_A_SCRAPE: &str = "no scrape succeeds with this status";
const OTHER_PROTOCOL: &str = "the bytes after the head are of another protocol";

/// Complete heads, with the body `up 1\n` after them.
const HEADS: &[(&str, Rule)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    // Line ends.
    ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", AsGo),
    ("HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n", AsGo),
    ("HTTP/1.1 200 OK\r\nA: b\rContent-Length: 5\r\n\r\n", Taken(OLDER_GO)),
    ("HTTP/1.1 200 OK\r\nA: b\r\r\nContent-Length: 5\r\n\r\n", Taken(OLDER_GO)),
    ("HTTP/1.1 200 OK\rContent-Length: 5\r\r", AsGo),
    ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    // Versions.
    ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.9 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.10 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\n", Refused("another major version has another form")),
    ("HTTP/3.0 200 OK\r\nContent-Length: 5\r\n\r\n", Refused("another major version has another form")),
    ("HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\n", Refused("another major version has another form")),
    ("http/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("ICY 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("220 smtp.example ready\r\n\r\n", AsGo),
    ("SSH-2.0-OpenSSH_9.2\r\n\r\n", AsGo),
    // Statuses.
    ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1    200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200  OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1\t200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 \t200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 \x0c200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200\tOK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 +20 OK\r\nContent-Length: 5\r\n\r\n", Refused(NOT_A_SCRAPE)),
    ("HTTP/1.1 -20 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 099 Low\r\nContent-Length: 5\r\n\r\n", Refused(NOT_A_SCRAPE)),
    ("HTTP/1.1 600 High\r\nContent-Length: 5\r\n\r\n", Refused(NOT_A_SCRAPE)),
    ("HTTP/1.1 999 High\r\nContent-Length: 5\r\n\r\n", Refused(NOT_A_SCRAPE)),
    ("HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 \x01\x02\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 \u{e9}\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 101 Switching\r\nContent-Length: 5\r\n\r\n", Refused(OTHER_PROTOCOL)),
    ("HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\n", Refused("NUL ends a text for many readers")),
    // Names.
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nAn Odd Name: x\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX : y\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX\t: y\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n: y\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nno colon\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX\x01: y\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX\0: y\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX(y): z\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\u{e9}: z\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n", Refused(TWO_READERS)),
    ("HTTP/1.1 200 OK\r\nContent Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent- Length: 5\r\n\r\n", Refused(TWO_READERS)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding : gzip\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n", Refused(TWO_READERS)),
    // Values.
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\x01b\r\n\r\n", Taken(OLDER_GO)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \x7f\r\n\r\n", Taken(OLDER_GO)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: \x01gzip\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \x1b[0m\r\n\r\n", Taken(OLDER_GO)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\0b\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \u{e9}\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX:\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX:\t y \t\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\x0b\r\n\r\n", Taken(OLDER_GO)),
    // Folded lines.
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\r\n b\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\r\n\tb\r\n  c\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX:\r\n b\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n 5\r\n\r\n", Refused(TWO_READERS)),
    // Lengths.
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length:5 \r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 05\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 05\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5.0\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\x01\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: \x0c5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\n\r\n", AsGo),
    ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", AsGo),
    // Transfer codings, with a body that uses none of them.
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", AsGo),
    // Connection.
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close, Content-Length\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x\r\nConnection: y\r\nX: z\r\n\r\n", AsGo),
    ("HTTP/1.1 103 Early\r\nLink: x\n\nHTTP/1.1 200 OK\nContent-Length: 5\n\n", AsGo),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", AsGo),
];

/// Bodies in chunks.
const CHUNKED: &[(&str, Rule)] = &[
    ("5\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5 \r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5\t \r\nup 1\n\r\n0 \r\n\r\n", AsGo),
    ("5        \r\nup 1\n\r\n0   \r\n\r\n", AsGo),
    (" 5\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5;a=b\r\nup 1\n\r\n0;c\r\n\r\n", AsGo),
    ("5;a=b \r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5 ;a=b\r\nup 1\n\r\n0\r\n\r\n", Taken("RFC 9112 section 7.1.1 allows white space there")),
    ("5;\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5; a = b\r\nup 1\n\r\n0; c\r\n\r\n", AsGo),
    ("5;a=\"b;c\"\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5;a=\"b\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5;a=\0\r\nup 1\n\r\n0;\x7f\r\n\r\n", AsGo),
    ("5;a\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5 \nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5\0\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5;a=\x01\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("00005\r\nup 1\n\r\n000\r\n\r\n", AsGo),
    ("00000000000000005\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5\r\nup 1\n\n0\r\n\r\n", AsGo),
    ("5\r\nup 1\n\r\n0\n\r\n", AsGo),
    ("5\r\nup 1\n\r\n0\r\n\n", AsGo),
    ("5\r\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5;a\rb\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5x\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("0x5\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("-5\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("4\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("6\r\nup 1\n\r\n0\r\n\r\n", AsGo),
    ("5\r\nup 1\n\r\n", AsGo),
    ("5\r\nup 1\n\r\n0\r\n", AsGo),
    ("5\r\nup 1\n\r\n0\r\nA: b\r\n\r\n", AsGo),
    ("5\r\nup 1\n\r\n0\r\nA: b\nC: d\r\n\r\n", Refused("a bare LF in trailer fields: no server sends one")),
    ("5\r\nup 1\n\r\n0\r\nno colon\r\n\r\n", AsGo),
    ("5\r\nup 1\n\r\n0\r\n folded\r\n\r\n", AsGo),
    ("5\r\nup 1\n\r\n0\r\nA : b\r\n\r\n", Refused("white space in a trailer's name: no server sends it")),
    ("0\r\n\r\n", AsGo),
];

/// Heads with `chunked`, and the body in chunks after them.
const CODED_HEADS: &[(&str, Rule)] = &[
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 999\r\nTransfer-Encoding: chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", AsGo),
    ("HTTP/1.2 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, chunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", AsGo),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", Refused(TWO_READERS)),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Refused(TWO_READERS)),
];

struct Row {
    answer: Vec<u8>,
    rule: Rule,
}

fn rows() -> Vec<Row> {
    let row = |parts: &[&str], rule| Row { answer: parts.concat().into_bytes(), rule };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let many = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: {}\r\n\r\n", "a,".repeat(1000));
    let fields = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{}\r\n", "X: y\r\n".repeat(256));
    let folds = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n{}\r\n", " z\r\n".repeat(256));
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: {}\r\n\r\n", "y".repeat(70_000));
    let mut rows: Vec<Row> = HEADS.iter().map(|&(head, rule)| row(&[head, "up 1\n"], rule)).collect();
    rows.push(row(&[&many, "up 1\n"], AsGo));
    rows.push(row(&[&fields, "up 1\n"], Refused("more than 256 fields are over a limit")));
    rows.push(row(&[&folds, "up 1\n"], Refused("more than 256 lines are over a limit")));
    rows.push(row(&[&long, "up 1\n"], Refused("a head over 64 KiB is over a limit")));
    rows.extend(CHUNKED.iter().map(|&(body, rule)| row(&[chunked, body], rule)));
    rows.extend(CODED_HEADS.iter().map(|&(head, rule)| row(&[head, "5\r\nup 1\n\r\n0\r\n\r\n"], rule)));
    rows
}

/// A status and a body, or the reason why there are none.
type Outcome = Result<(u16, Vec<u8>), String>;

fn by_go(rows: &[Row]) -> Vec<Outcome> {
    let mut command = Command::new("go");
    command.arg("run").arg(repository().join("tests/answers/oracle.go")).env("GOTOOLCHAIN", "local");
    command.env_remove("GODEBUG");
    let mut go = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("go runs");
    let mut stdin = go.stdin.take().expect("a pipe");
    for row in rows {
        writeln!(stdin, "{}", base64::encode(&row.answer)).expect("it reads");
    }
    drop(stdin);
    let output = go.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the oracle failed");
    let lines = String::from_utf8(output.stdout).expect("text");
    let outcome = |line: &str| match line.split_once(' ').expect("two words") {
        ("error", why) => Err(why.to_owned()),
        (status, body) => Ok((status.parse().expect("a status"), base64::decode(body))),
    };
    lines.lines().map(outcome).collect()
}

/// The response that a client of psystrike receives, parsed strictly.
fn strictly(bytes: &[u8], end: End) -> Outcome {
    let end = if end == End::Eof { Ok(()) } else { Err(format!("{end:?}")) };
    let (mut answer, mut rest) = strict::answer(bytes, &end)?;
    while answer.status < 200 {
        (answer, rest) = strict::answer(rest, &end)?;
    }
    assert!(answer.is_last && rest.is_empty(), "the request had Connection: close: {}", bytes.escape_ascii());
    Ok((answer.status, answer.body))
}

fn through_psystrike(psystrike: &Psystrike, pod: &Pod) -> Outcome {
    let mut client = Client::connect(psystrike.address());
    client.send(
        get(&Psystrike::target(pod.address(), "/")).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
    );
    let (bytes, end) = client.rest(LIMIT);
    match strictly(&bytes, end) {
        Ok((502, body)) => Err(String::from_utf8_lossy(&body).into_owned()),
        // Every forwarded byte is valid: a refusal is a 502 or a truncated response.
        Err(why) => {
            assert_eq!(why, strict::CUT_SHORT, "{}", bytes.escape_ascii());
            Err(why)
        }
        outcome => outcome,
    }
}

#[test]
fn responses_that_gos_client_accepts_are_forwarded() {
    let is_new =
        "go version | grep -E 'go1[.](2[6-9]|[3-9][0-9])' || { echo 'older than Go 1.26' >&2; exit 1; }";
    if !require_programs(&["go"]) || !require_working(&["sh", "-c", is_new]) {
        return;
    }
    let rows = rows();
    assert!(rows.len() > 120, "{} rows", rows.len());
    let by_go = by_go(&rows);
    assert_eq!(by_go.len(), rows.len());
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8"]);
    let mut wrong = Vec::new();
    for (row, go) in rows.iter().zip(&by_go) {
        let cuts = [row.answer.len(), 1, 7, 40];
        for cut in cuts {
            if cut == 1 && row.answer.len() > 5_000 {
                continue;
            }
            let answer = row.answer.clone();
            let pod = Pod::serve("127.30.1.1", move |_, client: &mut Wire| {
                for part in answer.chunks(cut) {
                    client.send(part)?;
                }
                Ok(Next::Close)
            });
            let ours = through_psystrike(&psystrike, &pod);
            let right = match row.rule {
                AsGo => match (go, &ours) {
                    (Ok(go), Ok(ours)) => go == ours,
                    (Err(_), Err(_)) => true,
                    _ => false,
                },
                Refused(_) => go.is_ok() && ours.is_err(),
                Taken(_) => go.is_err() && ours.is_ok(),
            };
            if !right {
                let answer: String = row.answer.escape_ascii().to_string().chars().take(200).collect();
                wrong.push(format!("{answer}\n  by {cut}, {:?}\n  Go:   {go:?}\n  ours: {ours:?}", row.rule));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// Long bodies go through a pipe: the second one on a connection before all of it is read. Chunk extensions are not
/// forwarded there either.
#[test]
fn no_extension_of_a_long_body_is_forwarded() {
    let mut content = Vec::new();
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let sizes = [70_000, 1, 300_000, 4096, 16_384, 200_000, 7];
    for (index, size) in sizes.into_iter().cycle().take(40).enumerate() {
        let extension = &b" \t  ;a="[..index % 7];
        let data: Vec<u8> = (0..size).map(|at| b"0 \r\n5;"[(at + index) % 6]).collect();
        answer.extend_from_slice(format!("{size:x}").as_bytes());
        answer.extend_from_slice(&[extension, b"\r\n", &data, b"\r\n"].concat());
        content.extend_from_slice(&data);
    }
    answer.extend_from_slice(b"0  \r\n\r\n");
    let pod = Pod::answering("127.30.1.2", answer, Next::Keep);
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8"]);
    for _ in 0..4 {
        let (status, body) = through_psystrike(&psystrike, &pod).expect("a valid response");
        assert!(status == 200 && body == content, "{status} and {} bytes", body.len());
    }
    assert_eq!(pod.connections(), 1, "its connection is reused");
}
