//! Requests through the sockets of the real binary, byte for byte, for which no pod is contacted: refused requests,
//! loops, and psystrike's own pages.

mod support;

use support::{
    LIMIT,
    http::End,
    psystrike::Psystrike,
    scrapes::{QUIET, echo, start},
};

/// Returns the number of responses in these bytes, by their status lines. No page of these tests contains one.
fn answers(bytes: &[u8]) -> usize {
    bytes.windows(7).filter(|window| window == b"HTTP/1.").count()
}

const BAD_HOST: &str = "pod host is neither an IP address nor a DNS name";

/// Rejected requests after which the start of the next one is unambiguous. `{pod}` stands for a pod that must not be
/// contacted.
const REFUSED_AND_KEPT: &[(&str, u16, &str)] = &[
    ("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no such page; pods are at /pods/{host}/{port}/{path}"),
    ("GET /pods HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no such page; pods are at /pods/{host}/{port}/{path}"),
    (
        "GET /pods/127.22.3.1 HTTP/1.1\r\nHost: x\r\n\r\n",
        404,
        "no such page; pods are at /pods/{host}/{port}/{path}",
    ),
    (
        "POST /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        404,
        "no such page; pods are at /pods/{host}/{port}/{path}",
    ),
    ("POST {pod} HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("get {pod} HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("PUT /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405, "only GET and HEAD are allowed"),
    (
        "GET https://127.22.3.1/m HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "invalid request target: the scheme is not http",
    ),
    (
        "GET http://x@127.22.3.1/m HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "invalid request target: userinfo not allowed",
    ),
    ("GET http://0x7f.1/m HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET http://127.22.3.1:/m HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod port is not a number from 1 to 65535"),
    ("GET /pods/127.1/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET /pods/2130706433/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET /pods/0177.0.0.1/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET /pods/0x7f.0.0.1/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET /pods/fe80::1%25lo/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET /pods//80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET /pods/local..host/80/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, BAD_HOST),
    ("GET /pods/127.22.3.1/0/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod port is not a number from 1 to 65535"),
    (
        "GET /pods/127.22.3.1/65536/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    (
        "GET /pods/127.22.3.1/080/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    (
        "GET /pods/127.22.3.1/+80/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    (
        "GET /pods/127.22.3.1/http/ HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "pod port is not a number from 1 to 65535",
    ),
    ("GET /pods/127.22.3.1// HTTP/1.1\r\nHost: x\r\n\r\n", 400, "pod port is not a number from 1 to 65535"),
    ("GET {denied} HTTP/1.1\r\nHost: x\r\n\r\n", 403, "destination not allowed"),
    ("GET /pods/127.22.3.1/1/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, "destination port not allowed"),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nVia: 1.1 psystrike, 1.1 psystrike, 1.1 psystrike\r\n\r\n",
        508,
        "scrape loops through psystrike",
    ),
];

/// Rejected requests after which the connection is closed: the bytes after them are ambiguous or useless.
const REFUSED_AND_CLOSED: &[(&str, u16, &str)] = &[
    (
        "CONNECT 127.22.3.1:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        403,
        "CONNECT is disabled; --allow-connect enables it",
    ),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413, "request body not allowed"),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        413,
        "request body not allowed",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        413,
        "request body not allowed",
    ),
    (
        "POST {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        405,
        "only GET and HEAD are allowed",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed request: both Content-Length and Transfer-Encoding",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        400,
        "malformed request: Content-Length repeated",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n",
        400,
        "malformed request: invalid Content-Length",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 0\r\n\r\n",
        400,
        "malformed request: invalid Content-Length",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        400,
        "malformed request: Transfer-Encoding other than chunked",
    ),
    (
        "GET {pod} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed request: Transfer-Encoding in HTTP/1.0",
    ),
    (
        "GET {pod} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
        400,
        "malformed request: header name",
    ),
    ("GET {pod} HTTP/1.1\r\n\r\n", 400, "malformed request: no Host header"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, "malformed request: more than one Host header"),
    ("GET {pod} HTTP/1.1\r\nHost: x y\r\n\r\n", 400, "malformed request: Host header"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nX: y\r\n folded\r\n\r\n", 400, "malformed request: header "),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n", 400, "malformed request: header name"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400, "malformed request: header value"),
    ("GET {pod} HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", 400, "malformed request: "),
    ("GET {pod} HTTP/1.1\nHost: x\n\n", 400, "malformed request: bare LF"),
    ("GET {pod}#x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request target"),
    ("GET {pod}\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request "),
    ("GET {pod}é HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request "),
    ("GET  {pod} HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: "),
    ("GET {pod} b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed request: request line"),
    ("GET {pod}\r\n\r\n", 400, "malformed request: "),
    ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", 400, "malformed request: "),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "only HTTP/1.1 and HTTP/1.0 are supported"),
    ("GET {pod} HTTP/1.2\r\nHost: x\r\n\r\n", 505, "only HTTP/1.1 and HTTP/1.0 are supported"),
];

#[test]
fn a_refusal_has_a_reason_and_contacts_no_pod() {
    let pod = echo("127.22.3.1");
    let denied = echo("127.22.3.2");
    let ports = format!("{},{}", pod.address().port(), denied.address().port());
    let psystrike =
        Psystrike::start(&["--allow", "127.22.3.0/24", "--deny", "127.22.3.2/32", "--allow-ports", &ports]);
    let (to_pod, to_denied) =
        (Psystrike::target(pod.address(), "/x"), Psystrike::target(denied.address(), "/x"));
    let cases = REFUSED_AND_KEPT.iter().map(|case| (case, true));
    for (&(request, status, reason), kept) in cases.chain(REFUSED_AND_CLOSED.iter().map(|case| (case, false)))
    {
        let request = request.replace("{pod}", &to_pod).replace("{denied}", &to_denied);
        let mut client = psystrike.client();
        // The same write contains a complete request that could be smuggled.
        client.send(format!("{request}GET {to_pod}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"));
        let response = client.response().unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"));
        assert_eq!(response.status(), status, "{request:?}: {response:?}");
        assert!(response.reason().starts_with(reason), "{request:?}: {response:?}");
        let body = response.text();
        assert!(
            body.starts_with(&response.reason()) && body.lines().count() == 1,
            "{request:?}: {response:?}"
        );
        assert!(body.ends_with('\n'), "{response:?}");
        assert_eq!(response.head.field("Content-Type").as_deref(), Some("text/plain; charset=utf-8"));
        let allow = (status == 405).then(|| "GET, HEAD".to_owned());
        assert_eq!(response.head.field("Allow"), allow, "{request:?}: {response:?}");
        if kept {
            assert_eq!(response.head.field("Connection"), None, "{request:?}");
            assert_eq!(client.response().expect("the next request's").text(), "/x/smuggled", "{request:?}");
        } else {
            assert_eq!(response.head.values("Connection"), ["close"], "{request:?}");
            let (bytes, end) = client.rest(LIMIT);
            assert_eq!((answers(&bytes), end), (0, End::Eof), "{request:?}: {}", bytes.escape_ascii());
        }
    }
    let refused = REFUSED_AND_KEPT.len();
    assert_eq!(
        pod.heads().len(),
        refused,
        "the pod received more than the requests after them: {:?}",
        pod.seen()
    );
    assert!(pod.heads().iter().all(|head| head.target() == "/x/smuggled"));
    assert_eq!(denied.connections(), 0);
}

#[test]
fn a_refused_body_of_any_length_leaves_the_response_readable() {
    let psystrike = start();
    let pod = echo("127.22.3.3");
    let target = Psystrike::target(pod.address(), "/");
    for length in [1, 10_000, 200_000] {
        let mut client = psystrike.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"));
        client.send(vec![b'G'; length]);
        let response = client.response().unwrap_or_else(|broken| panic!("{length}: {broken:?}"));
        assert_eq!(response.status(), 413);
        assert_eq!(client.end(), End::Eof, "{length}");
    }
    assert_eq!(pod.connections(), 0);
}

#[test]
fn a_refused_head_request_gets_no_body() {
    let psystrike = start();
    let mut client = psystrike.client();
    for target in ["/nowhere", "/pods/x/1/", "/pods/10.0.0.1/1/"] {
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let response = client.response_to("HEAD").expect("a whole answer");
        assert!(response.status() >= 400, "{target}");
        assert_ne!(response.head.field("Content-Length").as_deref(), Some("0"), "what a GET would get");
    }
    assert_eq!(client.rest(QUIET), (vec![], End::Open));
}

#[test]
fn no_wide_range_opens_a_special_address() {
    let psystrike = Psystrike::start(&["--allow", "0.0.0.0/0", "--allow", "::/0"]);
    let mut client = psystrike.client();
    for host in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "169.254.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "100.100.100.200",
        "::",
        "::1",
        "[::1]",
        "%5B::1%5D",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "fd00:a9fe:a9fe::1",
        "fd00:100::100:200",
        "168.63.129.16",
        "192.0.0.192",
        "64:ff9b:1:a9fe:a9:fe00::",
        "2001:db8::5efe:7f00:1",
        "FD00:0EC2:0::254",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::7f00:1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::",
        "2001:0:102:304::5601:5601",
    ] {
        let response = client.get(&format!("/pods/{host}/80/metrics"));
        assert_eq!(
            (response.status(), response.reason().as_str()),
            (403, "destination not allowed"),
            "{host}"
        );
    }
    assert_eq!(psystrike.metric("psystrike_pod_connections_opened_total"), 0.0, "no packet was sent");
    let refusals = psystrike.metric("psystrike_refusals_total{reason=\"address_not_allowed\"}");
    assert_eq!(refusals, 39.0, "each refusal is counted");
}

#[test]
fn a_scrape_in_a_loop_is_refused() {
    let psystrike = start();
    let nested = |times: usize| Psystrike::target(psystrike.address(), "").repeat(times);
    for times in 0..=3 {
        let response = psystrike.get(&format!("{}/healthz", nested(times)));
        assert_eq!(response.text(), "ok\n", "{times} times");
    }
    for times in [4, 5, 40] {
        let response = psystrike.get(&format!("{}/healthz", nested(times)));
        assert_eq!((response.status(), response.reason().as_str()), (508, "scrape loops through psystrike"));
    }
    let opened = psystrike.metric("psystrike_pod_connections_opened_total");
    // 0 + 1 + 2 + 3 for the scrapes that arrive, and 3 for each refused one: connections to itself are not pooled.
    assert_eq!(opened, 15.0, "connections to itself");
}

#[test]
fn own_pages_answer_get_and_head() {
    let psystrike = start();
    let mut client = psystrike.client();
    for (page, content_type, part) in [
        ("/", "text/html; charset=utf-8", "/pods/10.1.2.3/8080/metrics"),
        ("/healthz", "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", "text/plain; charset=utf-8", "ok\n"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "psystrike_build_info{"),
        ("/healthz?a=b", "text/plain; charset=utf-8", "ok\n"),
    ] {
        let response = client.get(page);
        assert_eq!((response.status(), response.reason().as_str()), (200, "OK"), "{page}");
        assert_eq!(response.head.field("Content-Type").as_deref(), Some(content_type), "{page}");
        assert!(response.text().contains(part), "{page}: {response:?}");

        client.send(format!("HEAD {page} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let head = client.response_to("HEAD").expect("a whole answer");
        assert_eq!(head.status(), 200, "{page}");
        if page != "/metrics" {
            assert_eq!(head.head.field("Content-Length"), response.head.field("Content-Length"), "{page}");
        }

        client.send(format!("DELETE {page} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let refused = client.response().expect("a whole answer");
        assert_eq!(
            (refused.status(), refused.head.field("Allow").as_deref()),
            (405, Some("GET, HEAD")),
            "{page}"
        );
    }
    assert!(client.get("/").text().contains(env!("CARGO_PKG_VERSION")));
    for page in ["/healthz/", "/Healthz", "//", "/metrics/x", "/podsx/1/2"] {
        assert_eq!(client.get(page).status(), 404, "{page}");
    }
}

#[test]
fn the_page_at_the_root_shows_the_policy_in_effect() {
    let open = ["--allow-connect", "--connect-ports=443,6443"];
    let narrow = [
        "--allow-clients=127.0.0.1,10.0.0.0/8",
        "--deny=127.22.3.0/24,fd00::/8",
        "--allow-ports=80-90,443",
        "--allow-names=svc,example.com",
    ];
    for (arguments, rows) in [
        (&[][..], ["any", "off", "127.22.0.0/16", "none", "1-65535", "any", "off"]),
        (
            &[&open[..], &narrow[..]].concat(),
            [
                "127.0.0.1/32, 10.0.0.0/8",
                "off",
                "127.22.0.0/16",
                "127.22.3.0/24, fd00::/8",
                "80-90,443",
                "svc, example.com",
                "to ports 443,6443",
            ],
        ),
    ] {
        let page = Psystrike::start(&[&["--allow=127.22.0.0/16"][..], arguments].concat()).get("/").text();
        let shown: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_suffix("</td></tr>")?.rsplit_once("<td>"))
            .map(|(_, value)| value)
            .collect();
        assert_eq!(shown, rows, "{page}");
        for part in ["href=\"/metrics\"", "href=\"/healthz\"", "href=\"/readyz\"", "proxy_url: http://"] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
    }
}
