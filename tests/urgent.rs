//! Urgent data (MSG_OOB, tcp(7)): a read ends at its mark, and the bytes after the mark are still read at once.

mod support;

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;
use support::{
    http::Client,
    pods::{Pod, Then},
    psystrike::Psystrike,
};

/// All bytes, an urgent byte and all remaining bytes arrive together.
fn send_around_urgent_byte(stream: &TcpStream, before: &[u8], behind: &[u8]) {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
    (&*stream).write_all(before).expect("sent");
    assert_eq!(socket.send_out_of_band(b"!").expect("sent"), 1);
    (&*stream).write_all(behind).expect("sent");
}

#[test]
fn a_request_with_urgent_data_is_answered_at_once() {
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8", "--header-timeout", "60s"]);
    let pod = Pod::answering("127.29.1.1", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n", Then::Keep);
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", Psystrike::target(pod.address(), "/"));
    let begun = Instant::now();
    for at in [1, 20, request.len() - 1] {
        for _ in 0..20 {
            let mut client = Client::connect(psystrike.address());
            let (before, behind) = request.as_bytes().split_at(at);
            send_around_urgent_byte(client.stream(), before, behind);
            assert_eq!(client.response().expect("a whole answer").text(), "up 1\n", "urgent at {at}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_body_with_urgent_data_is_forwarded_at_once() {
    const BODY: usize = 300_000;
    let psystrike = Psystrike::start(&["--allow", "127.0.0.0/8"]);
    let listener = TcpListener::bind("127.29.1.2:0").expect("a port");
    let pod = listener.local_addr().expect("an address");
    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{BODY:x}\r\n");
    let cases: Vec<(&str, &str, usize)> = [(&length[..], ""), (&chunked[..], "\r\n0\r\n\r\n")]
        .into_iter()
        .flat_map(|(head, end)| [100, 5_000, 70_000, 200_000, BODY - 1].map(|at| (head, end, at)))
        .collect();
    let answers = cases.len();
    thread::scope(|scope| {
        scope.spawn(|| {
            for &(head, end, at) in &cases {
                let (stream, _) = listener.accept().expect("a connection");
                let mut wire = support::http::Wire::new(stream);
                wire.take_head().expect("a request");
                let body = [head.as_bytes(), &vec![b'x'; BODY], end.as_bytes()].concat();
                let (before, behind) = body.split_at(head.len() + at);
                send_around_urgent_byte(wire.stream(), before, behind);
            }
        });
        let begun = Instant::now();
        for (head, _, at) in &cases {
            let response = psystrike.get(&Psystrike::target(pod, "/"));
            assert_eq!(response.text().len(), BODY, "urgent at {at} after {head:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{answers} answers took {:?}", begun.elapsed());
    });
}
