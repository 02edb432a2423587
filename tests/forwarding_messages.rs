//! Scrapes through the sockets of the real binary, byte for byte: the head that the pod receives, and the head and the
//! body that the client receives, complete or broken.

mod support;

use std::sync::{Arc, Mutex};

use support::{
    LIMIT,
    http::{End, get},
    pods::{Pod, Then},
    psystrike::Psystrike,
    scrapes::{Gate, PAGE, QUIET, echo, start, with_length},
};

// Heads

#[test]
fn the_head_that_a_pod_gets_is_rewritten() {
    let psystrike = start();
    for ip in ["127.22.1.1", "::1"] {
        let pod = echo(ip);
        let address = pod.address();
        let target = Psystrike::target(address, "/metrics?a=b");
        for (request, expected) in [
            (
                format!(
                    "GET {target} HTTP/1.1\r\nhOsT: who:1\r\nUser-Agent: Prometheus/3.0\r\nAccept: a/b;q=0.5\r\n\
                     Accept-Encoding: gzip\r\nAuthorization: Bearer x y\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\
                     Via: 1.1 edge\r\nCookie: a=b\r\nX-Empty:\r\nX-Twice: 1\r\nx-twice:   2 \t\r\n\r\n"
                ),
                format!(
                    "GET /metrics?a=b HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Prometheus/3.0\r\n\
                     Accept: a/b;q=0.5\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer x y\r\n\
                     X-Prometheus-Scrape-Timeout-Seconds: 10\r\nVia: 1.1 edge\r\nCookie: a=b\r\nX-Empty:\r\n\
                     X-Twice: 1\r\nx-twice:   2 \t\r\nVia: 1.1 psystrike\r\n\r\n"
                ),
            ),
            (
                format!(
                    "HEAD {target} HTTP/1.1\r\nHost: who\r\nConnection: keep-alive, X-Hop , ,x-other\r\nX-Hop: 1\r\n\
                     X-OTHER: 2\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\
                     Proxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nExpect: 100-continue\r\n\
                     Content-Length: 0\r\nTrailer: X\r\nAccept: */*\r\n\r\n"
                ),
                format!(
                    "HEAD /metrics?a=b HTTP/1.1\r\nHost: {address}\r\nHTTP2-Settings: AAMA\r\nAccept: */*\r\n\
                     Via: 1.1 psystrike\r\n\r\n"
                ),
            ),
            (
                format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
                format!("GET /metrics?a=b HTTP/1.1\r\nHost: {address}\r\nVia: 1.0 psystrike\r\n\r\n"),
            ),
        ] {
            let mut client = psystrike.client();
            client.send(&request);
            let response = client.response_to(if request.starts_with("HEAD") { "HEAD" } else { "GET" });
            assert_eq!(response.expect("a whole answer").status(), 200, "{request}");
            assert_eq!(pod.heads().last().expect("it came").text(), expected, "for {request}");
        }
    }
}

#[test]
fn path_and_query_reach_the_pod_byte_for_byte() {
    let psystrike = start();
    let pod = echo("127.22.1.2");
    let v6 = echo("::1");
    let v6_port = v6.address().port();
    let base = format!("/pods/127.22.1.2/{}", pod.address().port());
    for (target, expected) in [
        (base.clone(), "/metrics"),
        (format!("{base}?a=b"), "/metrics?a=b"),
        (format!("{base}/"), "/"),
        (format!("{base}/?"), "/?"),
        (format!("{base}//"), "//"),
        (format!("{base}/a/../b/./c"), "/a/../b/./c"),
        (format!("{base}/a%2Fb%2e%2E/%0d%0a%00"), "/a%2Fb%2e%2E/%0d%0a%00"),
        (format!("{base}/m%3Fformat=prometheus"), "/m?format=prometheus"),
        (format!("{base}/m%3fa=%3F"), "/m?a=%3F"),
        (format!("{base}/m%3Fa?b"), "/m%3Fa?b"),
        (format!("{base}/m%3F"), "/m?"),
        (format!("{base}/m?a=%3F&b[]=?/"), "/m?a=%3F&b[]=?/"),
        (format!("{base}/{{}}|^`\"<>\\"), "/{}|^`\"<>\\"),
        (format!("{base}/m;p=1,2:3@4!$&'()*+=~"), "/m;p=1,2:3@4!$&'()*+=~"),
        (format!("{base}/%"), "/%"),
        (format!("{base}/pods/10.0.0.1/80/x"), "/pods/10.0.0.1/80/x"),
        (format!("/pods/::ffff:127.22.1.2/{}/mapped", pod.address().port()), "/mapped"),
        (format!("/pods/::1/{v6_port}/bare"), "/bare"),
        (format!("/pods/[::1]/{v6_port}/brackets"), "/brackets"),
        (format!("/pods/%5B::1%5D/{v6_port}/encoded"), "/encoded"),
        (format!("/pods/%5b0:0::0:1%5d/{v6_port}/long%3Fa"), "/long?a"),
    ] {
        assert_eq!(psystrike.get(&target).text(), expected, "{target}");
    }
    let longest = format!("/{}", "x".repeat(15_000));
    assert_eq!(psystrike.get(&format!("{base}{longest}")).text(), longest, "nearly the longest allowed");
}

#[test]
fn responses_are_forwarded_unchanged_except_for_hop_by_hop_fields() {
    let psystrike = start();
    let passes = "HTTP/1.1 418 I'm a  teapot\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                  content-TYPE:text/plain; version=0.0.4 \r\nContent-Encoding: gzip\r\nX-Twice: 1\r\nx-twice: 2\r\n\
                  Set-Cookie: a=b\r\nContent-Length: 3\r\n\r\n\x1f\u{b}x";
    let edited = "HTTP/1.0 200\r\nDate: then\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                  Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok";
    for (answer, expected) in [
        (passes, passes),
        (edited, "HTTP/1.1 200 \r\nDate: then\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let pod = Pod::answering("127.22.1.3", answer, Then::Keep);
        let mut client = psystrike.client();
        client.send(get(&Psystrike::target(pod.address(), "/")));
        let (bytes, end) = client.rest(QUIET);
        assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end), (expected, End::Open));
    }
    let pod = Pod::answering("127.22.1.4", with_length(PAGE), Then::Keep);
    let date = psystrike.get(&Psystrike::target(pod.address(), "/")).head.field("Date");
    assert!(
        date.is_some_and(|date| date.ends_with(" GMT")),
        "a response without Date gets one (RFC 9110 section 6.6.1)"
    );
}

#[test]
fn a_location_on_the_same_pod_leads_through_psystrike() {
    let psystrike = start();
    for ip in ["127.22.1.5", "::1"] {
        let location = Arc::new(Mutex::new(String::new()));
        let given = location.clone();
        let pod = Pod::serve(ip, move |head, client| {
            let answer = match head.target().as_str() {
                "/old/page" => {
                    let location = given.lock().unwrap().clone();
                    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
                }
                target => with_length(target),
            };
            client.send(answer).map(|()| Then::Keep)
        });
        let address = pod.address();
        for (location_given, leads_to) in [
            ("/new?a=b", Some("/new?a=b")),
            (&format!("http://{address}/new"), Some("/new")),
            (&format!("//{address}/new"), Some("/new")),
            ("new", Some("/old/new")),
            ("../../../new", Some("/new")),
            ("?q", Some("/old/page?q")),
            ("http://127.9.9.9/new", None),
        ] {
            *location.lock().unwrap() = location_given.to_owned();
            let response = psystrike.get(&Psystrike::target(address, "/old/page"));
            let shown = response.head.field("Location").expect("the response has a Location");
            match leads_to {
                None => assert_eq!(shown, location_given, "a foreign Location was changed"),
                Some(page) => {
                    assert_eq!(psystrike.get(&shown).text(), page, "{location_given} became {shown}")
                }
            }
        }
        *location.lock().unwrap() = format!("https://{address}/new");
        let response = psystrike.get(&Psystrike::target(address, "/old/page"));
        let leads_to = format!("/pods/https:{ip}/{}/new", address.port());
        assert_eq!(response.head.field("Location"), Some(leads_to));
    }
}

// Bodies

#[test]
fn each_framing_is_forwarded_to_each_client() {
    let psystrike = start();
    let trailers = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                    2;a=b;c=\"d\"\r\nup\r\n003\r\n 1\n\r\n000\r\nX-Sum: 1\r\nX-Other:\r\n\r\n";
    // The response; its body for HTTP/1.1 and HTTP/1.0, with and without the coding; whether it ends with the
    // connection.
    for (answer, then, coded, body, until_close) in [
        (with_length("up 1\n"), Then::Keep, "up 1\n", "up 1\n", false),
        (with_length(""), Then::Keep, "", "", false),
        (
            trailers.to_owned(),
            Then::Keep,
            "2\r\nup\r\n003\r\n 1\n\r\n000\r\nX-Sum: 1\r\nX-Other:\r\n\r\n", // without the extension
            "up 1\n",
            false,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nup 1\n".into(), Then::Close, "up 1\n", "up 1\n", true),
        ("HTTP/1.0 200 OK\r\n\r\nup 1\n".into(), Then::Close, "up 1\n", "up 1\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n".into(), Then::Close, "", "", true),
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), Then::Keep, "", "", false),
        ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n".into(), Then::Keep, "", "", false),
        ("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n".into(), Then::Keep, "", "", false),
        (
            "HTTP/1.1 103 Hm\r\nLink: </>\r\n\r\n".to_owned() + &with_length("up 1\n"),
            Then::Keep,
            "up 1\n",
            "up 1\n",
            false,
        ),
    ] {
        let is_chunked = coded != body;
        let has_interim = answer.contains(" 103 ");
        let pod = Pod::answering("127.22.2.1", answer.as_str(), then);
        let target = Psystrike::target(pod.address(), "/");

        let mut client = psystrike.client();
        let response = client.get(&target);
        assert_eq!((response.text().as_str(), response.until_close), (body, until_close), "{answer:?}");
        assert_eq!(
            response.coded_body.escape_ascii().to_string(),
            coded.as_bytes().escape_ascii().to_string()
        );
        assert_eq!(response.interim.len(), usize::from(has_interim), "{response:?}");
        assert_eq!(response.head.values("Trailer").len(), usize::from(is_chunked), "{response:?}");
        let end = client.rest(QUIET);
        assert_eq!(end, (vec![], if until_close { End::Eof } else { End::Open }), "{answer:?}");

        for (fields, keeps) in [("", false), ("Connection: keep-alive\r\n", true)] {
            let mut client = psystrike.client();
            client.send(format!("GET {target} HTTP/1.0\r\n{fields}\r\n"));
            let response = client.response().expect("a whole answer");
            let keeps = keeps && !until_close && !is_chunked;
            assert_eq!(response.text(), body, "{answer:?} for HTTP/1.0 with {fields:?}");
            assert_eq!(response.interim, [], "no 1xx for HTTP/1.0 (RFC 9110 section 15.2)");
            assert_eq!(response.head.field("Transfer-Encoding"), None, "{response:?}");
            assert_eq!(response.head.field("Trailer"), None, "{response:?}");
            let connection = if keeps { "keep-alive" } else { "close" };
            assert_eq!(response.head.values("Connection"), [connection], "{response:?}");
            let end = client.rest(QUIET);
            assert_eq!(end, (vec![], if keeps { End::Open } else { End::Eof }), "{answer:?} with {fields:?}");
        }
    }
}

#[test]
fn a_response_to_head_has_no_body_whatever_its_fields() {
    let psystrike = start();
    for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n", ""] {
        let pod = Pod::answering("127.22.2.2", format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), Then::Keep);
        let target = Psystrike::target(pod.address(), "/");
        let mut client = psystrike.client();
        for _ in 0..3 {
            client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let response = client.response_to("HEAD").expect("a whole answer");
            let (name, value) = fields.trim_end().split_once(": ").unwrap_or_default();
            assert_eq!(response.head.field(name).unwrap_or_default(), value, "{response:?}");
        }
        assert_eq!(client.rest(QUIET), (vec![], End::Open), "{fields:?}");
        assert!(pod.heads().iter().all(|head| head.method() == "HEAD"));
        // Some pods send a body nevertheless, a moment later. The next response must not begin with it.
        let connections = if fields == "Content-Length: 0\r\n" { 1 } else { 3 };
        assert_eq!(pod.connections(), connections, "{fields:?}");
    }
    // A pod that sends a body nevertheless: it belongs to no response.
    let pod = Pod::answering("127.22.2.3", with_length(PAGE), Then::Keep);
    let target = Psystrike::target(pod.address(), "/");
    let mut client = psystrike.client();
    client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    client.response_to("HEAD").expect("a whole answer");
    pod.wait_for("the end of its connection", |seen| seen.ended == 1);
    assert_eq!(client.get(&target).text(), PAGE);
}

#[test]
fn a_broken_body_is_visibly_broken_for_the_client() {
    let psystrike = start();
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let (length, chunked) = (head("Content-Length: 9\r\n"), head("Transfer-Encoding: chunked\r\n"));
    // The first part; the part that follows once the client has that; how the pod ends; the valid bytes of the body;
    // whether only a reset can show that it is broken.
    for (first, later, then, sound, only_reset) in [
        (length.clone() + "up", " 1", Then::Close, "up 1", false),
        (length.clone() + "up", " 1", Then::Reset, "up 1", false),
        (length.clone(), "", Then::Close, "", false),
        (chunked.clone() + "4\r\nup 1", "", Then::Close, "4\r\nup 1", false),
        (chunked.clone() + "4\r\nup 1\r\n", "", Then::Close, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1\r\n", "0\r\n", Then::Close, "4\r\nup 1\r\n0\r\n", false),
        (
            chunked.clone() + "4\r\nup 1\r\n",
            "0\r\nX: y\r\n",
            Then::Close,
            "4\r\nup 1\r\n0\r\nX: y\r\n",
            false,
        ),
        (chunked.clone() + "4\r\nup 1\r\n", "", Then::Reset, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1\r\n", "nonsense", Then::Keep, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1\r\n", "-1\r\n", Then::Keep, "4\r\nup 1\r\n", false),
        (chunked.clone() + "4\r\nup 1", "2\r\n", Then::Keep, "4\r\nup 1", false),
        (
            chunked.clone() + "4\r\nup 1\r\n",
            "10000000000000000\r\n",
            Then::Keep,
            "4\r\nup 1\r\n1000000000000000",
            false,
        ),
        (head("") + "up 1\n", "up", Then::Reset, "up 1\nup", true),
    ] {
        for version in ["1.1", "1.0"] {
            let (opener, gate) = Gate::new();
            let case = format!("{first:?}, {later:?}, {then:?}, for HTTP/{version}");
            let first_bytes = first.clone();
            let pod = Pod::serve("127.22.2.4", move |_, client| {
                client.send(&first_bytes)?;
                gate.pass();
                client.send(later)?;
                if let Then::Keep = then {
                    client.take_rest(LIMIT);
                }
                Ok(then)
            });
            let mut client = psystrike.client();
            let target = Psystrike::target(pod.address(), "/");
            // A second request is pipelined, and must not be answered.
            let request = format!("GET {target} HTTP/{version}\r\nHost: x\r\n\r\n");
            client.send(request + &get("/healthz"));
            client.stream().peek(&mut [0]).expect("the answer begins");
            opener.send(()).expect("the pod lives");
            let (bytes, end) = client.rest(LIMIT);
            let text = String::from_utf8_lossy(&bytes);
            let (_, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{case}: {text:?}"));
            let is_chunked = first.contains("chunked");
            if version == "1.0" && is_chunked {
                assert!("up 1".starts_with(body), "{case}: {body:?}");
            } else if let Then::Reset = then {
                assert!(sound.starts_with(body), "{case}: {body:?}"); // a reset may overtake earlier bytes
            } else {
                assert!(sound.starts_with(body) && body.len() + 16 >= sound.len(), "{case}: {body:?}");
            }
            assert_ne!(end, End::Open, "{case}");
            if only_reset || (version == "1.0" && is_chunked) {
                assert_eq!(end, End::Reset, "{case}: an orderly end would make it look complete");
            }
            pod.wait_for("the end of its connection", |seen| seen.ended == 1);
        }
    }
}

#[test]
fn an_invalid_response_becomes_a_502() {
    let psystrike = start();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (answer, reason) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "malformed response from the pod: not HTTP/1"),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", "malformed response from the pod: not HTTP/1"),
        ("HTTP/2 200 OK\r\n\r\n", "malformed response from the pod"),
        ("HTTP/1.1 99 Low\r\n\r\n", "malformed response from the pod"),
        ("HTTP/1.1 099 Low\r\n\r\n", "malformed response from the pod"),
        ("HTTP/1.1 600 High\r\n\r\n", "malformed response from the pod"),
        ("HTTP/1.1 200 OK\nX\n\n", "malformed response from the pod: bare LF"),
        ("HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n", "malformed response from the pod"),
        ("HTTP/1.1 200 OK\r\n folded\r\n\r\n", "malformed response from the pod"),
        ("HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", "malformed response from the pod"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            "malformed response from the pod",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx", "malformed response from the pod"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nx",
            "malformed response from the pod",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", "malformed response from the pod"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "malformed response from the pod"),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "malformed response from the pod"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
            "unexpected 101 Switching Protocols from the pod",
        ),
        (&"HTTP/1.1 103 Hm\r\n\r\n".repeat(9), "malformed response from the pod: too many interim responses"),
        (&format!("{chunked}x\r\n"), "malformed response body from the pod"),
        (&format!("{chunked}\r\n"), "malformed response body from the pod"),
    ] {
        let pod = Pod::answering("127.22.2.5", answer, Then::Keep);
        let mut client = psystrike.client();
        let response = client.get(&Psystrike::target(pod.address(), "/"));
        assert_eq!(response.status(), 502, "{answer:?}: {response:?}");
        assert!(response.reason().starts_with(reason), "{answer:?}: {response:?}");
        let reported = format!("{} (pod {}, after ", response.reason(), pod.address());
        assert!(
            response.text().starts_with(&reported) && response.text().lines().count() == 1,
            "{response:?}"
        );
        assert_eq!(client.get("/healthz").status(), 200, "the client's connection is not to blame");
        pod.wait_for("the end of its connection", |seen| seen.ended == 1);
    }
}
