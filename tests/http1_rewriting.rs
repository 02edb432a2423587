//! Forwarded heads as tables: the received head, and the bytes that are sent instead; and psystrike's own responses.
//!
//! Every head that is sent is parsed again: psystrike accepts what it writes.

#[path = "support/bytes.rs"]
mod bytes;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use bytes::Shown;
use psystrike::http1::field::{Name, Names};
use psystrike::http1::framing::{self, Framing};
use psystrike::http1::head;
use psystrike::http1::local_response::{LocalResponse, TEXT};
use psystrike::http1::rewrite::{self, Host, Persistence, RequestEdit, ResponseEdit};

const POD: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 80));

/// Returns the request head for [`POD`] with a target of these parts.
fn request(bytes: &[u8], target: &[&str]) -> Vec<u8> {
    request_to(POD, bytes, target)
}

fn request_to(pod: SocketAddr, bytes: &[u8], target: &[&str]) -> Vec<u8> {
    edited(RequestEdit { host: Host::Address(pod), without: Names::NONE, with: &[] }, bytes, target)
}

fn edited(edit: RequestEdit<'_>, bytes: &[u8], target: &[&str]) -> Vec<u8> {
    let mut out = b"left alone ".to_vec();
    head::request(bytes, |head| rewrite::request(&mut out, &head, target, &edit))
        .expect("a sound head")
        .expect("a whole head");
    assert!(out.starts_with(b"left alone "), "earlier bytes were changed: {}", Shown(&out));
    out.split_off(b"left alone ".len())
}

#[test]
fn fields_are_removed_replaced_or_added() {
    const CAME: &str = "A: b\r\nauthorization: mine\r\nDate: d\r\nAUTHORIZATION: again\r\n";
    const NONE: Names = Names::NONE;
    const AUTHORIZATION: Names = NONE.with(Name::Authorization);
    type With = &'static [(&'static str, &'static [u8])];
    let rows: [(&str, Names, With, &str); 5] = [
        ("nothing", NONE, &[], CAME),
        ("left out", AUTHORIZATION, &[], "A: b\r\nDate: d\r\n"),
        (
            "replaced",
            AUTHORIZATION,
            &[("Authorization", b"Bearer x")],
            "A: b\r\nDate: d\r\nAuthorization: Bearer x\r\n",
        ),
        ("an absent field", NONE.with(Name::Location), &[], CAME),
        ("several", AUTHORIZATION.with(Name::Date), &[("X", b"y"), ("Z", b"")], "A: b\r\nX: y\r\nZ: \r\n"),
    ];
    for (name, without, with, expected) in rows {
        let bytes = format!("GET /x HTTP/1.1\r\nHost: p\r\n{CAME}\r\n");
        let got = edited(RequestEdit { host: Host::Address(POD), without, with }, bytes.as_bytes(), &["/m"]);
        let expected =
            format!("GET /m HTTP/1.1\r\nHost: 10.0.0.1:80\r\n{expected}Via: 1.1 psystrike\r\n\r\n");
        same(name, bytes.as_bytes(), &got, expected.as_bytes());
    }
}

#[test]
fn requests() {
    // Between the constant lines: the received fields after Host, and the forwarded fields after Host.
    let rows = [
        ("none", "", ""),
        (
            "a scrape's fields, in their order and letters",
            "User-Agent: Prometheus/2.42.0\r\nAccept: a;q=0.5,b\r\naccept-encoding: gzip\r\n\
             X-Prometheus-Scrape-Timeout-Seconds: 10\r\nAUTHORIZATION: Bearer x\r\nCookie: a=b\r\n",
            "User-Agent: Prometheus/2.42.0\r\nAccept: a;q=0.5,b\r\naccept-encoding: gzip\r\n\
             X-Prometheus-Scrape-Timeout-Seconds: 10\r\nAUTHORIZATION: Bearer x\r\nCookie: a=b\r\n",
        ),
        (
            "repeated fields stay as many",
            "A: b\r\nC: d\r\nA: e\r\na: f\r\n",
            "A: b\r\nC: d\r\nA: e\r\na: f\r\n",
        ),
        ("white space as it came", "A:b\r\nC: \t d \t\r\nE:\r\n", "A:b\r\nC: \t d \t\r\nE:\r\n"),
        ("Connection", "Connection: keep-alive\r\nA: b\r\nconnection: close\r\n", "A: b\r\n"),
        (
            "hop by hop whatever Connection says",
            "Keep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\
             Proxy-Authorization: x\r\nProxy-Connection: keep-alive\r\nproxy-anything: y\r\nProxyless: z\r\n\
             Proxy: http://10.0.0.9\r\npROXY: a\r\n",
            "Proxyless: z\r\n",
        ),
        (
            "fields that Connection lists, wherever they stand",
            "X-Before: a\r\nConnection: x-before , X-BEHIND,,close\r\nX-Behind: b\r\nX-Before: c\r\nX-Befor: d\r\n",
            "X-Befor: d\r\n",
        ),
        (
            "fields that a second Connection lists",
            "Connection: a\r\nConnection: b, HTTP2-Settings\r\nA: 1\r\nB: 2\r\nHTTP2-Settings: x\r\nC: 3\r\n",
            "C: 3\r\n",
        ),
        ("Connection lists what is not there", "Connection: x\r\nA: b\r\n", "A: b\r\n"),
        ("Connection lists parts of names", "Connection: A-, -B, A B\r\nA-B: c\r\n", "A-B: c\r\n"),
        (
            "Connection cannot take the content's fields",
            "Connection: Content-Type, Content-Encoding\r\nContent-Type: a\r\nContent-Encoding: b\r\n",
            "Content-Type: a\r\nContent-Encoding: b\r\n",
        ),
        // RFC 9110 section 7.6.1 has no exception for these. They are sent even if listed.
        ("Connection takes Authorization", "Connection: Authorization\r\nAuthorization: x\r\n", ""),
        (
            "Connection lists Host, Connection, Via",
            "Connection: Host, Connection, Via\r\nA: b\r\n",
            "A: b\r\n",
        ),
        (
            "no framing field",
            "Content-Length: 0\r\nTrailer: A\r\nContent-Language: b\r\n",
            "Content-Language: b\r\n",
        ),
        ("listed framing field", "Connection: Content-Length\r\nContent-Length: 0\r\n", ""),
        ("a body's coding", "Transfer-Encoding: chunked\r\nA: b\r\n", "A: b\r\n"),
        ("an existing Via", "Via: 1.0 fred, 1.1 p (c)\r\nA: b\r\n", "Via: 1.0 fred, 1.1 p (c)\r\nA: b\r\n"),
        ("our own Via", "Via: 1.1 psystrike\r\n", "Via: 1.1 psystrike\r\n"),
        ("not ASCII", "A: \u{e9}\r\n", "A: \u{e9}\r\n"),
    ];
    for (name, came, goes) in rows {
        for method in ["GET", "HEAD"] {
            let lines = [
                ("1.1", format!("{method} /pods/pod/80/a?b HTTP/1.1\r\nhost: client's\r\n{came}\r\n")),
                ("1.1", format!("\r\n{method} /pods/pod/80/a?b HTTP/1.1\r\n{came}Host:\r\n\r\n")),
                ("1.0", format!("{method} /pods/pod/80/a?b HTTP/1.0\r\n{came}\r\n")),
            ];
            for (version, bytes) in lines {
                // HTTP/1.0 has no transfer coding, but rewriting does not check that.
                let got = request(bytes.as_bytes(), &["/a", "?", "b"]);
                let expected = format!(
                    "{method} /a?b HTTP/1.1\r\nHost: 10.0.0.1:80\r\n{goes}Via: {version} psystrike\r\n\r\n"
                );
                same(name, bytes.as_bytes(), &got, expected.as_bytes());
                read_again(name, &got);
            }
        }
    }
}

/// The pod receives one request without a body, and no bytes after it.
fn read_again(name: &str, sent: &[u8]) {
    let read = head::request(sent, |head| (head.bytes.len(), framing::of_request(&head), head.connection));
    let (length, framing, connection) = read.expect(name).expect(name);
    assert_eq!((length, framing), (sent.len(), Ok(Framing::Empty)), "{name}: {}", Shown(sent));
    assert!(!connection.present, "{name}: {}", Shown(sent));
}

#[test]
fn targets() {
    let rows: &[(&[&str], &str)] = &[
        (&["/metrics"], "/metrics"),
        (&["/"], "/"),
        (&["/a", "?", "b=c"], "/a?b=c"),
        (&["/a%2Fb%0d%0a", "?", "", "c"], "/a%2Fb%0d%0a?c"),
        (&["", "/a"], "/a"),
    ];
    for (parts, expected) in rows {
        let bytes = b"GET /pods/pod/80/x HTTP/1.1\r\nHost: h\r\n\r\n";
        let got = request(bytes, parts);
        let expected = format!("GET {expected} HTTP/1.1\r\nHost: 10.0.0.1:80\r\nVia: 1.1 psystrike\r\n\r\n");
        same(&format!("{parts:?}"), bytes, &got, expected.as_bytes());
        read_again("target", &got);
    }
}

/// `Host` is the pod's address in std's spelling, which is the canonical one.
#[test]
fn hosts() {
    for pod in [
        "0.0.0.0:0",
        "9.10.99.100:9",
        "10.1.2.3:8080",
        "101.110.200.209:10000",
        "255.255.255.255:65535",
        "[fd00::1]:80",
        "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        "[::ffff:10.1.2.3]:443",
    ] {
        let bytes = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
        let got = request_to(pod.parse().unwrap(), bytes, &["/"]);
        let expected = format!("GET / HTTP/1.1\r\nHost: {pod}\r\nVia: 1.1 psystrike\r\n\r\n");
        same(pod, bytes, &got, expected.as_bytes());
        read_again(pod, &got);
    }
}

#[test]
fn hops() {
    for (name, fields, expected) in [
        ("none", "", 0),
        ("others", "Via: 1.1 a, 1.0 b\r\n", 0),
        ("ours", "Via: 1.1 psystrike\r\n", 1),
        ("ours among others", "Via: 1.1 a, 1.1 psystrike, 1.0 Psystrike (x)\r\nA: 1.1 psystrike\r\n", 2),
        ("in several fields", "Via: 1.1 psystrike\r\nVia: 1.0 b\r\nvia: 1.1 psystrike\r\n", 2),
        ("listed in Connection", "Connection: Via\r\nVia: 1.1 psystrike\r\n", 1),
    ] {
        let bytes = format!("GET / HTTP/1.0\r\n{fields}\r\n");
        let got = head::request(bytes.as_bytes(), |head| head.hops());
        assert_eq!(got, Ok(Some(expected)), "{name}: {}", Shown(bytes.as_bytes()));
    }
    // Each pass through psystrike adds one.
    let mut bytes = b"GET / HTTP/1.0\r\n\r\n".to_vec();
    for times in 1..5 {
        bytes = request(&bytes, &["/"]);
        assert_eq!(head::request(&bytes, |head| head.hops()), Ok(Some(times)), "{}", Shown(&bytes));
    }
}

const AS_IT_CAME: ResponseEdit =
    ResponseEdit { persistence: Persistence::Implied, unchunk: false, location: None, date: None };
const CLOSE: ResponseEdit = ResponseEdit { persistence: Persistence::Close, ..AS_IT_CAME };
const KEEP_ALIVE: ResponseEdit = ResponseEdit { persistence: Persistence::KeepAlive, ..AS_IT_CAME };
const UNCHUNK: ResponseEdit =
    ResponseEdit { persistence: Persistence::Close, unchunk: true, location: None, date: None };

fn located(location: &str) -> ResponseEdit {
    ResponseEdit { location: Some(location.to_owned()), ..AS_IT_CAME }
}

/// Returns whether the head may be forwarded unchanged, and the rewritten head.
fn answer(bytes: &[u8], edit: &ResponseEdit) -> (bool, Vec<u8>) {
    let mut out = b"left alone ".to_vec();
    let none = head::response(bytes, |head| {
        rewrite::response(&mut out, &head, edit);
        edit.is_none(&head)
    });
    assert!(out.starts_with(b"left alone "), "earlier bytes were changed: {}", Shown(&out));
    (none.expect("a sound head").expect("a whole head"), out.split_off(b"left alone ".len()))
}

#[test]
fn responses_that_are_forwarded_unchanged() {
    let rows = [
        ("plain", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"),
        ("no fields", "HTTP/1.1 500 \r\n\r\n"),
        ("gzip in chunks", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("trailer fields", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n"),
        ("two cookies", "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nB: c\r\nSet-Cookie: d\r\n\r\n"),
        ("Via and Date", "HTTP/1.1 200 OK\r\nVia: 1.1 a\r\nDate: x\r\nServer: y\r\n\r\n"),
        ("a Location", "HTTP/1.1 302 F\r\nLocation: http://elsewhere/\r\n\r\n"),
        ("not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n"),
        ("words that are not ASCII", "HTTP/1.1 200 d'accord \u{e9}\r\nA: \u{e9}\r\n\r\n"),
    ];
    for (name, bytes) in rows {
        let (none, rewritten) = answer(bytes.as_bytes(), &AS_IT_CAME);
        assert!(none, "{name}: {} needs an edit", Shown(bytes.as_bytes()));
        same(name, bytes.as_bytes(), &rewritten, bytes.as_bytes());
        let (none, _) = answer(bytes.as_bytes(), &CLOSE);
        assert!(!none, "{name}: Connection: close is an edit");
    }
}

#[test]
fn responses_that_are_edited() {
    let rows = [
        (
            "close",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            CLOSE,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        ),
        (
            "keep-alive for a 1.0 client",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            KEEP_ALIVE,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
        ),
        (
            "a pod that closes",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "a pod that keeps, a client that goes",
            "HTTP/1.1 200 OK\r\nconnection:keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\n",
            CLOSE,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        ),
        (
            "a pod of 1.0",
            "HTTP/1.0 200 OK\r\nA:b\r\n\r\n",
            CLOSE,
            "HTTP/1.1 200 OK\r\nA:b\r\nConnection: close\r\n\r\n",
        ),
        (
            "a pod of 1.0 that keeps",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        ("odd reason phrases", "HTTP/1.0 200  a\tb \r\n\r\n", AS_IT_CAME, "HTTP/1.1 200  a\tb \r\n\r\n"),
        // RFC 9112 section 4: the space is sent even without a reason phrase.
        ("no reason phrase", "HTTP/1.1 200\r\nA: b\r\n\r\n", AS_IT_CAME, "HTTP/1.1 200 \r\nA: b\r\n\r\n"),
        ("no reason phrase in 1.0", "HTTP/1.0 200\r\n\r\n", AS_IT_CAME, "HTTP/1.1 200 \r\n\r\n"),
        (
            "hop by hop",
            "HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nUpgrade: h2c\r\nProxy-Authenticate: y\r\nTE: z\r\nA: b\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
        ),
        (
            "hop by hop by one field only",
            "HTTP/1.1 200 OK\r\nupgrade: h2c\r\nA: b\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
        ),
        (
            "fields that Connection lists",
            "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\nConnection: c, Set-Cookie\r\nSet-Cookie: e\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
        ),
        (
            "Connection cannot take the body's fields",
            "HTTP/1.1 200 OK\r\nConnection: content-length, content-type, content-encoding\r\n\
             Content-Length: 5\r\nContent-Type: a\r\nContent-Encoding: b\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: a\r\nContent-Encoding: b\r\n\r\n",
        ),
        (
            "Connection cannot take the coding",
            "HTTP/1.1 200 OK\r\nConnection: transfer-encoding, trailer\r\nTransfer-Encoding: chunked\r\n\
             Trailer: A\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n",
        ),
        (
            "the coding taken off",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\nContent-Type: a\r\n\r\n",
            UNCHUNK,
            "HTTP/1.1 200 OK\r\nContent-Type: a\r\nConnection: close\r\n\r\n",
        ),
        (
            "a Location that leads through psystrike",
            "HTTP/1.1 302 Found\r\nA: b\r\nlocation: /login\r\nC: d\r\n\r\n",
            located("/pods/10.0.0.1/80/login"),
            "HTTP/1.1 302 Found\r\nA: b\r\nlocation: /pods/10.0.0.1/80/login\r\nC: d\r\n\r\n",
        ),
        (
            "a Location that Connection lists",
            "HTTP/1.1 302 Found\r\nConnection: Location\r\nLocation: /login\r\n\r\n",
            located("/pods/10.0.0.1/80/login"),
            "HTTP/1.1 302 Found\r\n\r\n",
        ),
        (
            "fields repeated, in their order",
            "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nB: c\r\nset-cookie: d\r\nB: e\r\nSet-Cookie: a\r\n\r\n",
            CLOSE,
            "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nB: c\r\nset-cookie: d\r\nB: e\r\nSet-Cookie: a\r\n\
             Connection: close\r\n\r\n",
        ),
        // RFC 9112 section 6.1 and RFC 9110 section 8.6: not to be sent with 1xx and 204.
        (
            "a coding of no content",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\nB: c\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 204 No Content\r\nTrailer: A\r\nB: c\r\n\r\n",
        ),
        (
            "a length of no content",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nB: c\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 204 No Content\r\nB: c\r\n\r\n",
        ),
        (
            "a length of an interim answer",
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nLink: a\r\n\r\n",
            AS_IT_CAME,
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
        ),
    ];
    for (name, bytes, edit, expected) in rows {
        // The bytes after the head are the body, which rewriting does not touch.
        let with_body = [bytes.as_bytes(), b"Connection: x\r\n\r\n\n"].concat();
        for came in [bytes.as_bytes(), &with_body] {
            let (none, got) = answer(came, &edit);
            same(name, came, &got, expected.as_bytes());
            assert!(!none, "{name}: {} does need an edit", Shown(came));
        }
        let read = head::response(expected.as_bytes(), |head| (head.bytes.len(), head.persistent()));
        let persists = edit.persistence.persists();
        assert_eq!(read, Ok(Some((expected.len(), persists))), "{name}: {}", Shown(expected.as_bytes()));
    }
}

/// If a head may be forwarded unchanged, rewriting it changes nothing; and a rewritten head needs no second edit.
#[test]
fn an_edited_response_needs_no_edit() {
    for bytes in [
        "HTTP/1.0 200\r\nA:b\r\nConnection: c, keep-alive\r\nC: d\r\nKeep-Alive: x\r\nContent-Length:5\r\n\r\n",
        "HTTP/1.1 204 \r\nConnection:\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302\r\nProxy-X: y\r\nLocation:\t/a \r\n\r\n",
    ] {
        let (none, once) = answer(bytes.as_bytes(), &AS_IT_CAME);
        assert!(!none, "{}", Shown(bytes.as_bytes()));
        let (none, twice) = answer(&once, &AS_IT_CAME);
        assert!(none, "{}", Shown(&once));
        same("written again", &once, &twice, &once);
    }
}

#[test]
fn locations() {
    for (name, fields, expected) in [
        ("none", "A: b\r\n", None),
        ("one", "A: b\r\nLOCATION: /c\r\n", Some("/c")),
        ("an empty one", "Location:\r\n", Some("")),
        ("two", "Location: /c\r\nlocation: /d\r\n", None),
        ("twice the same", "Location: /c\r\nLocation: /c\r\n", None),
        ("another field", "Content-Location: /c\r\n", None),
    ] {
        let bytes = format!("HTTP/1.1 302 Found\r\n{fields}\r\n");
        let got = head::response(bytes.as_bytes(), |head| head.location().map(<[u8]>::to_vec));
        let expected = expected.map(|location| location.as_bytes().to_vec());
        assert_eq!(got, Ok(Some(expected)), "{name}: {}", Shown(bytes.as_bytes()));
    }
}

#[test]
fn replies() {
    let base = |persistence, to_head, fields| LocalResponse {
        status: 502,
        reason: format_args!("pod refused the connection"),
        content_type: TEXT,
        fields,
        body: b"pod 10.0.0.1:80 refused the connection after 3ms\n",
        persistence,
        to_head,
        date: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
    };
    let start = "HTTP/1.1 502 pod refused the connection\r\nDate: Sun, 09 Sep 2001 01:46:40 GMT\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: 49\r\n\
                 X-Content-Type-Options: nosniff\r\n";
    let body = "pod 10.0.0.1:80 refused the connection after 3ms\n";
    for (name, persistence, to_head, further, lines) in [
        ("stays", Persistence::Implied, false, &[][..], ""),
        ("stays for 1.0", Persistence::KeepAlive, false, &[][..], "Connection: keep-alive\r\n"),
        ("ends", Persistence::Close, false, &[][..], "Connection: close\r\n"),
        ("to HEAD", Persistence::Implied, true, &[], ""),
        ("to HEAD, and ends", Persistence::Close, true, &[], "Connection: close\r\n"),
        (
            "with Allow",
            Persistence::Close,
            false,
            &[("Allow", "GET, HEAD")],
            "Allow: GET, HEAD\r\nConnection: close\r\n",
        ),
        (
            "with several",
            Persistence::Implied,
            false,
            &[("Retry-After", "1"), ("X-A", "b")],
            "Retry-After: 1\r\nX-A: b\r\n",
        ),
    ] {
        let mut got = b"before".to_vec();
        base(persistence, to_head, further).write(&mut got);
        let got = got.strip_prefix(b"before").expect("earlier bytes are unchanged");
        let head = format!("{start}{lines}\r\n");
        let expected = if to_head { head.clone() } else { format!("{head}{body}") };
        same(name, b"", got, expected.as_bytes());
        let read = head::response(got, |head| (head.bytes.len(), framing::of_response(&head, to_head)));
        let framing = if to_head { Framing::Empty } else { Framing::Length(body.len() as u64) };
        assert_eq!(read, Ok(Some((head.len(), Ok(framing)))), "{name}: {}", Shown(got));
    }
}

fn same(name: &str, came: &[u8], got: &[u8], expected: &[u8]) {
    assert!(
        got == expected,
        "{name}: {}\n expected: {}\n      got: {}",
        Shown(came),
        Shown(expected),
        Shown(got)
    );
}
