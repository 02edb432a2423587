//! A kernel with simulated TCP connections, as epoll reports them to mio: edge-triggered.
//!
//! A connection wakes its registration when bytes or an end arrive, when it fails or is established, and when there is
//! room again after a short write. An event has the state at the time when it is fetched. Calls that a kernel would not
//! allow, and behaviour that a caller must not rely on, panic here.

use std::{io, net::SocketAddr, time::Duration};

use psystrike::net::{network::Token, stream::Ready};
use rustix::io::Errno;

/// The number of a connection, in the order of their creation.
pub(crate) type ConnId = usize;

/// The bytes in the kernel in one direction.
pub(crate) struct Pipe {
    bytes: Vec<u8>,
    start: usize,
    room_max: usize,
    /// The total numbers of bytes that came in and went out.
    pub(crate) pushed: usize,
    pub(crate) taken: usize,
}

impl Pipe {
    fn new(room_max: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, room_max, pushed: 0, taken: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn room(&self) -> usize {
        self.room_max - self.len()
    }

    /// Linux calls a socket writable when a third of its buffer is free.
    fn is_roomy(&self) -> bool {
        3 * self.room() >= self.room_max
    }

    fn push(&mut self, bytes: &[u8]) -> usize {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        let taken = bytes.len().min(self.room());
        self.bytes.extend_from_slice(&bytes[..taken]);
        self.pushed += taken;
        taken
    }

    fn take(&mut self, most: usize) -> &[u8] {
        let from = self.start;
        self.start += most.min(self.len());
        self.taken += self.start - from;
        &self.bytes[from..self.start]
    }

    fn show(&self, most: usize) -> &[u8] {
        &self.bytes[self.start..][..most.min(self.len())]
    }

    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.start + len);
    }
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Connecting,
    Up,
    /// It was never established.
    Failed(Errno),
}

/// How the worker closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    Fin,
    Reset,
}

/// A connection between the worker and a peer.
pub(crate) struct Conn {
    /// The pod that it leads to; `None` for a client's connection.
    pub(crate) pod: Option<SocketAddr>,
    /// The worker that has accepted or opened it.
    pub(crate) worker: Option<usize>,
    token: Option<Token>,
    pub(crate) link: Link,
    pub(crate) to_worker: Pipe,
    pub(crate) from_worker: Pipe,
    /// The peer has closed its sending direction.
    pub(crate) peer_ended: bool,
    /// The peer has closed its socket: bytes sent to it cause a reset.
    pub(crate) peer_closed: bool,
    /// The connection failed; the worker's calls return the error.
    pub(crate) failed: bool,
    failure_reported: bool,
    /// The worker has closed its sending direction.
    pub(crate) worker_ended: bool,
    pub(crate) worker_closed: Option<Close>,
    reset_on_close: bool,
    /// The kernel limits the time for delivering the remaining bytes.
    pub(crate) delivers_within: Option<Duration>,
    /// The kernel detects that the peer vanishes.
    pub(crate) watched: bool,
    /// Below this number of bytes, it is not reported readable.
    pub(crate) low_water: usize,
    /// A write was short since the last event about room.
    pub(crate) blocked: bool,
    /// The worker's last write was short: the worker holds the rest.
    pub(crate) stalled: bool,
    /// There is an event to fetch.
    pub(crate) woken: bool,
    /// An event of it was fetched; and one with its end.
    pub(crate) reported: bool,
    pub(crate) end_reported: bool,
    /// An event reported it readable, or writable, and no call has failed with EAGAIN since.
    pub(crate) may: Ready,
    /// The worker's calls on it in this turn.
    pub(crate) calls: usize,
}

impl Conn {
    fn new(pod: Option<SocketAddr>, link: Link, rooms: [usize; 2]) -> Self {
        Self {
            pod,
            worker: None,
            token: None,
            link,
            to_worker: Pipe::new(rooms[0]),
            from_worker: Pipe::new(rooms[1]),
            peer_ended: false,
            peer_closed: false,
            failed: false,
            failure_reported: false,
            worker_ended: false,
            worker_closed: None,
            reset_on_close: false,
            delivers_within: None,
            watched: false,
            low_water: 1,
            blocked: false,
            stalled: false,
            woken: false,
            reported: false,
            end_reported: false,
            // A new connection accepts a first write before any event.
            may: if link == Link::Up { Ready::WRITE } else { Ready::NONE },
            calls: 0,
        }
    }

    /// Returns whether the worker has its end open.
    pub(crate) fn is_held(&self) -> bool {
        self.worker_closed.is_none()
    }

    /// Returns whether a read returns bytes, an end or a failure.
    pub(crate) fn has_news(&self) -> bool {
        !self.to_worker.is_empty() || self.peer_ended || self.failed
    }

    /// Returns whether it is reported readable.
    pub(crate) fn is_readable(&self) -> bool {
        let has_enough = self.to_worker.len() >= self.low_water || self.to_worker.room() == 0;
        has_enough || self.peer_ended || self.failed
    }

    /// Returns whether the peer is gone, as far as the kernel knows.
    pub(crate) fn peer_left(&self) -> bool {
        self.peer_ended || self.peer_closed || self.failed
    }

    fn ready(&self) -> Ready {
        let all = Ready::READ.with(Ready::WRITE).with(Ready::END).with(Ready::FAILED);
        match self.link {
            Link::Connecting => return Ready::NONE,
            Link::Failed(_) => return all,
            Link::Up if self.failed => return all,
            Link::Up => {}
        }
        let mut ready = Ready::NONE;
        if self.is_readable() {
            ready = ready.with(Ready::READ);
        }
        if self.peer_ended {
            ready = ready.with(Ready::END);
        }
        if self.from_worker.is_roomy() {
            ready = ready.with(Ready::WRITE);
        }
        ready
    }

    fn wake(&mut self) {
        self.woken = self.token.is_some() && self.is_held();
    }
}

/// All connections, and the events of epoll.
#[derive(Default)]
pub(crate) struct Kernel {
    pub(crate) conns: Vec<Conn>,
    /// The connections that the workers have open.
    pub(crate) held: Vec<ConnId>,
}

/// The actions of peers.
impl Kernel {
    pub(crate) fn open(&mut self, pod: Option<SocketAddr>, link: Link, rooms: [usize; 2]) -> ConnId {
        self.conns.push(Conn::new(pod, link, rooms));
        self.conns.len() - 1
    }

    /// The connection is established, or fails.
    pub(crate) fn resolve(&mut self, id: ConnId, link: Link) {
        let conn = &mut self.conns[id];
        assert_eq!(conn.link, Link::Connecting, "connection {id}");
        conn.link = link;
        conn.wake();
    }

    /// Sends as many of `bytes` as there is room for, and returns their number. A closed worker's end is not noticed.
    pub(crate) fn peer_send(&mut self, id: ConnId, bytes: &[u8]) -> usize {
        let conn = &mut self.conns[id];
        assert!(!conn.peer_ended && conn.link == Link::Up, "connection {id}");
        if !conn.is_held() || conn.failed {
            conn.failed = true;
            return bytes.len();
        }
        let sent = conn.to_worker.push(bytes);
        if sent > 0 && conn.is_readable() {
            conn.wake();
        }
        sent
    }

    /// Takes at most this many bytes that the worker sent.
    pub(crate) fn peer_take(&mut self, id: ConnId, most: usize) -> Vec<u8> {
        let conn = &mut self.conns[id];
        let bytes = conn.from_worker.take(most).to_vec();
        if conn.blocked && conn.from_worker.is_roomy() {
            conn.blocked = false;
            conn.wake();
        }
        bytes
    }

    /// The peer closes its sending direction, and can still receive.
    pub(crate) fn peer_end(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        conn.peer_ended = true;
        conn.wake();
    }

    /// The peer closes its socket. With bytes unread there, that resets.
    pub(crate) fn peer_close(&mut self, id: ConnId) {
        if !self.conns[id].from_worker.is_empty() {
            return self.peer_reset(id, false);
        }
        let conn = &mut self.conns[id];
        conn.peer_closed = true;
        self.peer_end(id);
    }

    /// The peer resets the connection; its unread bytes may be lost.
    pub(crate) fn peer_reset(&mut self, id: ConnId, loses_sent: bool) {
        let conn = &mut self.conns[id];
        (conn.failed, conn.peer_ended, conn.peer_closed) = (true, true, true);
        conn.from_worker.truncate(0);
        if loses_sent {
            conn.to_worker.truncate(0);
        }
        conn.wake();
    }
}

/// The calls of the worker's sockets.
impl Kernel {
    pub(crate) fn register(&mut self, id: ConnId, worker: usize, token: Token) {
        let conn = &mut self.conns[id];
        conn.worker = Some(worker);
        assert!(conn.token.is_none(), "connection {id} is registered twice");
        conn.token = Some(token);
        self.held.push(id);
        conn.woken = true; // an existing state causes an event too
    }

    pub(crate) fn read(&mut self, id: ConnId, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.peek(id, into)?;
        self.conns[id].to_worker.take(bytes);
        Ok(bytes)
    }

    pub(crate) fn peek(&mut self, id: ConnId, into: &mut [u8]) -> io::Result<usize> {
        let conn = &mut self.conns[id];
        assert!(conn.is_held() && conn.link == Link::Up, "read from {id}: {:?}", conn.link);
        assert!(!into.is_empty(), "an empty read could be taken for the end");
        let may_have_bytes = conn.may.has(Ready::READ) || conn.low_water > 1;
        assert!(may_have_bytes, "a read from {id} that is known to return EAGAIN");
        if !conn.to_worker.is_empty() {
            conn.may = conn.may.with(Ready::READ); // there may be more below the mark
            let bytes = conn.to_worker.show(into.len());
            into[..bytes.len()].copy_from_slice(bytes);
            return Ok(bytes.len());
        }
        if conn.failed && !conn.failure_reported {
            conn.failure_reported = true;
            return Err(Errno::CONNRESET.into());
        }
        if conn.peer_ended {
            return Ok(0);
        }
        conn.may = conn.may.without(Ready::READ);
        Err(Errno::AGAIN.into())
    }

    pub(crate) fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.pour(id, bytes)?;
        if taken < bytes.len() {
            let conn = &mut self.conns[id];
            conn.may = conn.may.without(Ready::WRITE);
        }
        Ok(taken)
    }

    /// As a write, but a short count does not mean that there is no more room: only the next call shows that.
    pub(crate) fn pour(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let conn = &mut self.conns[id];
        assert!(conn.is_held() && conn.link == Link::Up, "write to {id}: {:?}", conn.link);
        assert!(!bytes.is_empty() && !conn.worker_ended, "write to {id} after its end");
        assert!(conn.may.has(Ready::WRITE), "a write to {id} that is known to return EAGAIN");
        if conn.failed {
            let error = if conn.failure_reported { Errno::PIPE } else { Errno::CONNRESET };
            conn.failure_reported = true;
            return Err(error.into());
        }
        if conn.peer_closed {
            // The bytes are lost, and cause a reset.
            (conn.failed, conn.stalled) = (true, false);
            conn.wake();
            return Ok(bytes.len());
        }
        let taken = conn.from_worker.push(bytes);
        conn.stalled = taken < bytes.len();
        if conn.stalled {
            conn.blocked = true;
        }
        if taken > 0 {
            return Ok(taken);
        }
        conn.may = conn.may.without(Ready::WRITE);
        Err(Errno::AGAIN.into())
    }

    pub(crate) fn connected(&mut self, id: ConnId) -> io::Result<bool> {
        let conn = &mut self.conns[id];
        match conn.link {
            Link::Connecting => Ok(false),
            Link::Failed(error) => Err(error.into()),
            Link::Up if conn.failed && !conn.failure_reported => {
                conn.failure_reported = true;
                Err(Errno::CONNRESET.into())
            }
            Link::Up => Ok(true),
        }
    }

    pub(crate) fn set_low_water(&mut self, id: ConnId, bytes: usize) {
        let conn = &mut self.conns[id];
        assert!(conn.is_held() && conn.low_water != bytes, "connection {id}: {bytes}");
        conn.low_water = bytes;
        if conn.is_readable() {
            conn.wake();
        }
    }

    pub(crate) fn shutdown(&mut self, id: ConnId) {
        self.conns[id].worker_ended = true;
    }

    pub(crate) fn has_undelivered(&self, id: ConnId) -> bool {
        let conn = &self.conns[id];
        !conn.from_worker.is_empty() && !conn.failed
    }

    pub(crate) fn reset_on_close(&mut self, id: ConnId) {
        self.conns[id].reset_on_close = true;
    }

    /// Closes the worker's end. `loss` decides how many of the bytes that the peer has not taken are lost, if bytes can
    /// be lost.
    pub(crate) fn close(&mut self, id: ConnId, loss: impl FnOnce(usize) -> usize) -> Close {
        self.held.retain(|&held| held != id);
        let conn = &mut self.conns[id];
        assert!(conn.is_held(), "connection {id} is closed twice");
        let close = if conn.reset_on_close || !conn.to_worker.is_empty() { Close::Reset } else { Close::Fin };
        conn.worker_closed = Some(close);
        conn.worker_ended = true;
        conn.woken = false;
        if close == Close::Reset {
            let left = conn.from_worker.len();
            conn.from_worker.truncate(left - loss(left + 1).min(left));
        }
        close
    }

    /// Fetches the event of a connection, if there is one.
    pub(crate) fn fetch(&mut self, id: ConnId) -> Option<(Token, Ready)> {
        let conn = &mut self.conns[id];
        let token = conn.token.filter(|_| std::mem::take(&mut conn.woken))?;
        let ready = conn.ready();
        conn.may = conn.may.with(ready);
        conn.reported = true;
        conn.end_reported |= ready.has(Ready::END);
        // A registration that found no room gets an event once there is room.
        conn.blocked |= conn.link == Link::Up && !ready.has(Ready::WRITE);
        (ready != Ready::NONE).then_some((token, ready))
    }

    pub(crate) fn token(&self, id: ConnId) -> Option<Token> {
        self.conns[id].token
    }

    pub(crate) fn has_events(&self, worker: usize) -> bool {
        self.held_by(worker).any(|id| self.conns[id].woken)
    }

    /// Returns the connections that a worker has open.
    pub(crate) fn held_by(&self, worker: usize) -> impl Iterator<Item = ConnId> {
        self.held.iter().copied().filter(move |&id| self.conns[id].worker == Some(worker))
    }

    /// The connection is never accepted: its listener is closed.
    pub(crate) fn refuse(&mut self, id: ConnId) {
        self.peer_reset(id, true);
        let conn = &mut self.conns[id];
        (conn.worker_ended, conn.worker_closed, conn.woken) = (true, Some(Close::Reset), false);
    }
}
