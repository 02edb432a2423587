//! Requests in absolute form through the real binary's sockets, as clients with a `proxy_url` send them.

mod support;

use support::{
    http::{Response, get},
    pods::{Pod, Then},
    psystrike::Psystrike,
    scrapes::{PAGE, echo, start, with_length},
};

#[test]
fn the_host_that_a_pod_gets_is_that_of_the_target() {
    let psystrike = start();
    for ip in ["127.22.4.1", "::1"] {
        let pod = echo(ip);
        let address = pod.address();
        let mut client = psystrike.client();
        client.send(format!(
            "GET http://{address}/metrics?a=b HTTP/1.1\r\nHost: elsewhere.example\r\nAccept: a/b;q=0.5\r\n\
             Authorization: Bearer x\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\n\r\n"
        ));
        assert_eq!(client.response().expect("a whole answer").status(), 200);
        assert_eq!(
            pod.heads().last().expect("it came").text(),
            format!(
                "GET /metrics?a=b HTTP/1.1\r\nHost: {address}\r\nAccept: a/b;q=0.5\r\nAuthorization: Bearer x\r\n\
                 Via: 1.1 psystrike\r\n\r\n"
            )
        );
    }
}

#[test]
fn both_forms_share_connections_metrics_and_the_log() {
    let psystrike = Psystrike::start(&["--allow", "127.22.0.0/16", "--access-log"]);
    let pod = Pod::answering("127.22.4.2", with_length(PAGE), Then::Keep);
    let mut client = psystrike.client();
    let absolute = get(&format!("http://{}/metrics", pod.address()));
    let path = get(&Psystrike::target(pod.address(), "/metrics"));
    let is_page = |response: &Response| (response.status(), response.text().as_str()) == (200, PAGE);
    for request in [&absolute, &path, &absolute] {
        client.send(request);
        assert!(is_page(&client.response().expect("a whole answer")));
    }
    for (metric, expected) in [
        ("psystrike_requests_total{route=\"proxy\",code=\"200\"}", 2.0),
        ("psystrike_requests_total{route=\"/pods\",code=\"200\"}", 1.0),
        ("psystrike_pod_connections_opened_total", 1.0),
        ("psystrike_scrape_duration_seconds_count", 3.0),
    ] {
        assert_eq!(psystrike.metric(metric), expected, "{metric}");
    }
    client.send([path.as_str(), &absolute, &path].concat()); // pipelined
    for _ in 0..3 {
        assert!(is_page(&client.response().expect("a whole answer")));
    }
    let line = psystrike.wait_for_line("http://127.22.4.2");
    assert!(line.contains("request=\"GET http://127.22.4.2:") && line.contains("status=200"), "{line}");

    client.send(get("http://name:secret@127.22.4.2/metrics"));
    assert_eq!(client.response().expect("a whole answer").status(), 400);
    let line = psystrike.wait_for_line("userinfo");
    assert!(line.contains("http://…@127.22.4.2/metrics") && !line.contains("secret"), "{line}");
}

#[test]
fn psystrikes_own_address_is_answered_without_a_connection_to_itself() {
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let psystrike = Psystrike::start(&["--listen", listen, "--allow", "127.0.0.0/8"]);
        let port = psystrike.address().port();
        let own = if listen.starts_with("127") { "127.0.0.1" } else { "127.3.4.5" };
        let response = psystrike.get(&format!("http://{own}:{port}/healthz"));
        assert_eq!((response.status(), response.text().as_str()), (200, "ok\n"), "{listen}");
        for path in ["/pods/127.0.0.1/80/metrics", "/nowhere"] {
            let response = psystrike.get(&format!("http://{own}:{port}{path}"));
            assert_eq!(
                (response.status(), response.reason().as_str()),
                (508, "scrape loops through psystrike"),
                "{listen} {path}"
            );
        }
        assert_eq!(psystrike.metric("psystrike_pod_connections_opened_total"), 0.0, "{listen}");

        // By path, psystrike may scrape itself like a pod, but that connection is not pooled.
        for _ in 0..2 {
            assert_eq!(psystrike.get(&format!("/pods/{own}/{port}/healthz")).text(), "ok\n", "{listen}");
        }
        assert_eq!(psystrike.metric("psystrike_pod_connections{state=\"idle\"}"), 0.0, "{listen}");
        assert_eq!(psystrike.get(&format!("http://{own}:{port}/nowhere")).status(), 508, "{listen}");
        assert_eq!(psystrike.metric("psystrike_pod_connections_opened_total"), 2.0, "{listen}");
    }
}
