//! Long responses that pods send in small portions, over real sockets: they arrive whole, and gather in the kernel.

mod support;

use std::{io, thread, time::Duration};

#[cfg(feature = "tls")]
use support::{Scratch, certificates::Ca, require_programs, tls_pods::TlsPods};
use support::{
    http::Wire,
    net_http::{self, PORTION},
    pods::{Pod, Then},
    psystrike::Psystrike,
};

/// Returns a page whose lines differ.
fn page(bytes: usize) -> String {
    let lines = (0..).map(|line| format!("metric_of_a_long_page{{line=\"{line}\"}} 1\n"));
    lines.flat_map(String::into_bytes).take(bytes).map(char::from).collect()
}

/// Sends a response in portions, as a compressing exporter does.
fn trickle(wire: &mut Wire, response: &str) -> io::Result<()> {
    wire.stream().set_nodelay(true)?;
    for portion in response.as_bytes().chunks(PORTION) {
        wire.send(portion)?;
        thread::sleep(Duration::from_micros(50)); // the time to compress the next one
    }
    Ok(())
}

/// A pod whose page has as many bytes as the request's path says; `/length/N`, `/chunked/N` or `/close/N`.
fn pod(ip: &str) -> Pod {
    Pod::serve(ip, |head, wire| {
        let target = head.target();
        let mut parts = target.split('/').skip(1);
        let (kind, bytes) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let page = page(bytes.parse().expect("a number"));
        match kind {
            "chunked" => trickle(wire, &net_http::response(&page)).map(|()| Then::Keep),
            "length" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
                trickle(wire, &(head + &page)).map(|()| Then::Keep)
            }
            _ => trickle(wire, &format!("HTTP/1.1 200 OK\r\n\r\n{page}")).map(|()| Then::Close),
        }
    })
}

/// Scrapes pages of many lengths, of which each is whole. Returns how many reads were saved.
fn scrape(psystrike: &Psystrike, pod: &Pod) -> f64 {
    let lengths = [300_000, 300_000, 300_500, 295_000, 6_000, 30_000, 600_000, 600_000, 200_000, 1];
    for kind in ["chunked", "length", "close"] {
        for bytes in lengths {
            let target = Psystrike::target(pod.address(), &format!("/{kind}/{bytes}"));
            let mut client = psystrike.client();
            let response = client.get(&target);
            assert!(
                response.body == page(bytes).as_bytes(),
                "{kind}, {bytes}: {} bytes",
                response.body.len()
            );
        }
    }
    psystrike.metric("psystrike_pod_reads_saved_total")
}

#[test]
fn pages_in_portions_gather_and_arrive_whole() {
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8"]);
    let pod = pod("127.35.1.1");
    let saved = scrape(&psystrike, &pod);
    assert!(saved > 0.0, "{saved} reads saved");
    assert_eq!(psystrike.outcomes("forwarded"), 30.0);
}

#[test]
fn without_gathering_no_read_is_saved() {
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8", "--gather", "0"]);
    assert_eq!(scrape(&psystrike, &pod("127.35.1.2")), 0.0);
}

#[cfg(feature = "tls")]
#[test]
fn pages_of_pods_with_tls_gather_and_arrive_whole() {
    if !require_programs(&["go"]) {
        return;
    }
    let scratch = Scratch::new("gathering");
    let ca = Ca::new(&scratch, "ca");
    ca.sign("pod", &["127.35.1.3"]);
    let pods = TlsPods::start(&scratch, &[("tls", "127.35.1.3", "pod")]);
    let [pod] = pods.addresses[..] else { panic!("{:?}", pods.addresses) };
    let psystrike = Psystrike::start(&["--allow=127.0.0.0/8", &format!("--pod-tls-ca={}", ca.file)]);
    for _ in 0..10 {
        let response = psystrike.get(&format!("/pods/https:{}/{}/long", pod.ip(), pod.port()));
        assert!(response.body == page(300_000).as_bytes(), "{} bytes", response.body.len());
    }
    let saved = psystrike.metric("psystrike_pod_reads_saved_total");
    assert!(saved > 0.0, "{saved} reads saved");
    assert_eq!(psystrike.outcomes("forwarded"), 10.0);
}
