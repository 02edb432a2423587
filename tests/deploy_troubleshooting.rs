//! deploy/troubleshooting.md, "Exporters and clients that need care": a real nginx compresses for psystrike only with
//! the page's lines, and an exporter that serves one connection at a time is scraped only as the page says.

mod support;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use support::{
    Scratch,
    http::{Client, Head},
    markdown::Document,
    nginx::Nginx,
    psystrike::Psystrike,
    require_programs,
};

/// Requests a page as Prometheus does: it accepts gzip.
fn head_with_gzip(server: SocketAddr, target: &str) -> Head {
    let mut client = Client::connect(server);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: pod\r\nAccept-Encoding: gzip\r\n\r\n"));
    client.response().expect("a whole response").head
}

#[test]
fn nginx_compresses_for_psystrike_with_the_lines_of_the_page() {
    if !require_programs(&["nginx"]) {
        return;
    }
    let blocks = Document::read("deploy/troubleshooting.md").blocks();
    let lines = &blocks.iter().find(|block| block.language == "nginx").expect("the lines").text;
    let usual: String = lines.lines().filter(|line| !line.contains("gzip_proxied")).collect();
    assert!(usual.contains("gzip on;") && usual.len() < lines.len(), "{lines}");

    let psystrike = Psystrike::start(&["--allow", "127.12.0.0/16"]);
    for (http, compresses) in [(&usual, false), (lines, true)] {
        let scratch = Scratch::new("troubleshooting-nginx");
        scratch.write("metrics", &"requests_total{path=\"/\"} 1\n".repeat(100));
        let root = format!("default_type text/plain; root {};", scratch.path("").display());
        let nginx = Nginx::start(&scratch, http, &root);
        let encoding = |server, target: &str| head_with_gzip(server, target).field("content-encoding");
        assert_eq!(encoding(nginx.address, "/metrics").as_deref(), Some("gzip"), "direct: {http}");
        let through = encoding(psystrike.address(), &Psystrike::target(nginx.address, "/metrics"));
        assert_eq!(through.as_deref(), compresses.then_some("gzip"), "through psystrike: {http}");
    }
}

/// Serves one connection until it ends, and only then accepts the next one.
fn serve_one_connection_at_a_time() -> SocketAddr {
    let listener = TcpListener::bind("127.12.0.3:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer_all(stream))));
    address
}

fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte)? > 0 {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n")?;
        }
    }
    Ok(())
}

/// Scrapes it on this many connections, of which each may lead to another worker, until a scrape fails.
fn scrape_all(psystrike: &Psystrike, exporter: SocketAddr) -> (u16, String) {
    const CONNECTIONS: usize = 40;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: psystrike\r\nX-Prometheus-Scrape-Timeout-Seconds: 3\r\n\r\n",
        Psystrike::target(exporter, "/metrics")
    );
    let scrape = |_| {
        let mut client = psystrike.client();
        client.send(&request);
        let response = client.response().expect("a whole response");
        (response.status(), response.head.reason())
    };
    let mut responses = (0..CONNECTIONS).map(scrape);
    responses.find(|(status, _)| *status != 200).unwrap_or((200, String::new()))
}

#[test]
fn an_exporter_that_serves_one_connection_at_a_time_needs_one_worker() {
    let scraped_by = |options: &[&str]| {
        let psystrike = Psystrike::start(&[&["--allow", "127.12.0.0/16"], options].concat());
        scrape_all(&psystrike, serve_one_connection_at_a_time())
    };
    assert_eq!(scraped_by(&[]).0, 200, "one worker is the default");
    let (status, reason) = scraped_by(&["--workers", "4"]);
    let page = Document::read("deploy/troubleshooting.md");
    let section = page.section("An exporter that serves one connection at a time");
    let shown = format!("{status} {reason}");
    let named = section.code_spans().into_iter().find(|span| span.ends_with('…')).expect("the reason");
    assert!(shown.starts_with(named.trim_end_matches('…')), "{shown:?}, but the page has {named:?}");
    assert_eq!(scraped_by(&["--workers", "4", "--upstreams-idle-max", "0"]).0, 200, "without pooling");
}
