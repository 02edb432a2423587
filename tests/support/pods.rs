//! Pods under a test's control: each listens on its own loopback address, responds by a script with one thread for each
//! connection, and records its requests.

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use socket2::{Domain, Socket, Type};

use super::{
    LIMIT,
    http::{End, Head, Wire, reset_when_dropped},
};

/// The action of a pod on the connection after a response.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// Reads the next request.
    Keep,
    Close,
    Reset,
}

/// The requests and connections that have reached a pod so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The heads of all requests, in the order in which they were complete.
    pub heads: Vec<Head>,
    /// Bytes, escaped, of heads that were incomplete when their connection ended.
    pub scraps: Vec<String>,
    /// Connections accepted.
    pub accepted: usize,
    /// Connections that have ended, from either side.
    pub ended: usize,
}

/// A running pod. Its connections end when it is dropped.
pub struct Pod {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    closing: AtomicBool,
    streams: Mutex<Vec<Weak<TcpStream>>>,
}

type Script = dyn Fn(&Head, &mut Wire) -> io::Result<Then> + Send + Sync;

impl Pod {
    /// Serves on a free port of `ip`. `script` writes the response to each request; its errors mean that the other side
    /// closed the connection, and end only that connection.
    pub fn serve(
        ip: &str,
        script: impl Fn(&Head, &mut Wire) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap_or_else(|e| panic!("cannot listen on {ip}: {e}"));
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared::default());
        let script: Arc<Script> = Arc::new(script);
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared, &script))
        };
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Serves the same bytes as the response to every request.
    pub fn answering(ip: &str, answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let answer = answer.into();
        Self::serve(ip, move |_, client| client.send(&answer).map(|()| then))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The requests' heads so far.
    pub fn heads(&self) -> Vec<Head> {
        self.seen().heads
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.seen().accepted
    }

    /// Waits until `enough` holds for what it has seen; `what` names that in the failure.
    pub fn wait_for(&self, what: &str, enough: impl Fn(&Seen) -> bool) -> Seen {
        let waited = {
            let seen = self.shared.seen.lock().unwrap();
            self.shared.changed.wait_timeout_while(seen, LIMIT, |seen| !enough(seen)).unwrap().0.clone()
        };
        let address = self.address;
        assert!(
            enough(&waited),
            "the pod at {address} did not see {what} within {LIMIT:?}; it saw {waited:?}"
        );
        waited
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, LIMIT); // wakes the acceptor
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.shared.streams.lock().unwrap().iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn note(&self, what: impl FnOnce(&mut Seen)) {
        what(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<Script>) {
    for stream in listener.incoming() {
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        let mut client = Wire::new(stream.expect("a pod can accept"));
        // A weak reference, so that the connection closes when the script's thread closes it.
        shared.streams.lock().unwrap().push(Arc::downgrade(client.stream()));
        shared.note(|seen| seen.accepted += 1);
        let (shared, script) = (Arc::clone(shared), Arc::clone(script));
        thread::spawn(move || {
            serve(&mut client, &shared, &*script);
            drop(client);
            shared.note(|seen| seen.ended += 1);
        });
    }
}

fn serve(client: &mut Wire, shared: &Shared, script: &Script) {
    loop {
        let head = match client.take_head() {
            Ok(head) => head,
            Err(End::Open) => continue, // idle for longer than the time limit of a read
            Err(End::Eof | End::Reset) => {
                let (scraps, _) = client.take_rest(LIMIT);
                if !scraps.is_empty() {
                    shared.note(|seen| seen.scraps.push(scraps.escape_ascii().to_string()));
                }
                return;
            }
        };
        shared.note(|seen| seen.heads.push(head.clone()));
        match script(&head, client) {
            Ok(Then::Keep) => (),
            Ok(Then::Reset) => return reset_when_dropped(client.stream()),
            Ok(Then::Close) | Err(_) => return,
        }
    }
}

/// An address that refuses connections as long as this exists: its port is bound, but nothing listens.
pub struct Refusing {
    address: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    pub fn on(ip: &str) -> Self {
        let ip: IpAddr = ip.parse().expect("an IP address");
        let address = SocketAddr::new(ip, 0);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.bind(&address.into()).unwrap_or_else(|e| panic!("cannot bind {ip}: {e}"));
        let address = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("a bound socket's address");
        Self { address, _socket: socket }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An address that does not react to connection attempts as long as this exists: its listener's queue is full, and the
/// kernel drops further packets.
pub struct Unanswering {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl Unanswering {
    pub fn on(ip: &str) -> Self {
        let ip: IpAddr = ip.parse().expect("an IP address");
        let address = SocketAddr::new(ip, 0);
        let socket = || Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        let listener = socket();
        listener.bind(&address.into()).unwrap_or_else(|e| panic!("cannot bind {ip}: {e}"));
        listener.listen(0).expect("a bound socket can listen");
        let bound = listener.local_addr().expect("a bound socket has an address");
        // More connections than there is room for: the later ones stay in progress.
        let queued = (0..4).map(|_| {
            let filler = socket();
            filler.set_nonblocking(true).expect("a socket can be non-blocking");
            let _ = filler.connect(&bound); // in progress
            filler
        });
        let queued = queued.collect();
        let address = bound.as_socket().expect("an IP address");
        Self { address, _listener: listener, _queued: queued }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
