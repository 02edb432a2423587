//! Shared helpers of the forwarding tests (`tests/forwarding_*.rs`): a psystrike that forwards to this machine's own
//! addresses, responses in either framing, and pods that send them.

use std::{
    sync::{
        Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use super::{
    LIMIT,
    pods::{Pod, Then},
    psystrike::Psystrike,
};

pub const PAGE: &str = "# TYPE up gauge\nup 1\n";

/// How long a connection must stay silent to count as persistent.
pub const QUIET: Duration = Duration::from_millis(50);

pub fn start() -> Psystrike {
    Psystrike::start(&["--allow", "127.0.0.0/8", "--allow", "::1/128"])
}

pub fn with_length(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub fn in_chunks(body: &str) -> String {
    let (first, second) = body.split_at(body.len() / 2);
    let chunks = [first, second].map(|part| format!("{:x}\r\n{part}\r\n", part.len())).concat();
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

/// A pod whose page is the request target.
pub fn echo(ip: &str) -> Pod {
    Pod::serve(ip, |head, client| client.send(with_length(&head.target())).map(|()| Then::Keep))
}

/// An event that a pod's script waits for before it continues.
pub struct Gate(Mutex<Receiver<()>>);

impl Gate {
    pub fn new() -> (Sender<()>, Self) {
        let (opener, receiver) = channel();
        (opener, Self(Mutex::new(receiver)))
    }

    pub fn pass(&self) {
        // If the sender is dropped, the test has ended.
        let _ = self.0.lock().unwrap().recv_timeout(LIMIT);
    }
}
