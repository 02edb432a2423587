//! Listening sockets: their creation, and the meaning of each accept error.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use mio::net::{TcpListener, TcpStream};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use socket2::{Domain, Protocol, Socket, Type};

use super::{stream::is_out_of_descriptors, transport::splice::is_refused};
use crate::proxy::timestamp::Timestamp;

/// Length of the accept queue. The kernel caps it at net.core.somaxconn.
pub(super) const BACKLOG: i32 = 4096;
/// How long accepting pauses when no descriptor is left, or after repeated failures. No event reports the end of
/// either.
const REST: Duration = Duration::from_millis(100);

/// Returns the default address to listen on: all addresses of both families, or of IPv4 if the machine has no IPv6.
pub fn default_address() -> SocketAddr {
    const PORT: u16 = 8080;
    match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) {
        Ok(_) => (Ipv6Addr::UNSPECIFIED, PORT).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, PORT).into(),
    }
}

/// Binds `address` once for each worker; the kernel distributes the connections among them. Port 0 becomes the same
/// free port for all.
///
/// # Errors
/// As `bind(2)` and `listen(2)`; also if another socket, of any program, listens on the address.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // With SO_REUSEPORT alone, a second psystrike could take half of the first one's connections unnoticed. The address
    // is therefore bound without it first.
    let alone = listen(address, false)?;
    if workers == 1 {
        return Ok(vec![alone.into_mio()]);
    }
    let address = alone.0.local_addr()?.as_socket().unwrap_or(address);
    drop(alone);
    (0..workers).map(|_| listen(address, true).map(Listening::into_mio)).collect()
}

/// Returns whether a connection to `to` reaches a listener at one of these addresses.
pub fn is_among(listening: &[SocketAddr], to: SocketAddr) -> bool {
    // The kernel takes the unspecified address for loopback.
    let to = match to.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), to.port()),
        _ => to,
    };
    listening.iter().filter(|address| address.port() == to.port()).any(|address| {
        let ip = address.ip().to_canonical();
        ip == to.ip() || ip.is_unspecified() && is_local(to)
    })
}

/// Returns whether an address is local: the kernel connects to a local address from the same address, or from 127.0.0.1
/// to 127.0.0.0/8. Connecting a UDP socket sends nothing. Without a descriptor for it, the answer is yes: a connection
/// to itself must not be opened by chance.
fn is_local(address: SocketAddr) -> bool {
    let from: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    if address.ip().is_loopback() {
        return true;
    }
    let Ok(socket) = UdpSocket::bind((from, 0)) else { return true };
    let source = socket.connect(address).and_then(|()| socket.local_addr());
    source.is_ok_and(|source| source.ip() == address.ip())
}

struct Listening(Socket);

impl Listening {
    fn into_mio(self) -> TcpListener {
        TcpListener::from_std(self.0.into())
    }
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<Listening> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` accepts IPv4 too, regardless of net.ipv6.bindv6only. If the call fails, that setting applies.
        let _ = socket.set_only_v6(false);
    }
    // Allows binding while old connections are in TIME_WAIT. If the call fails, bind(2) reports the consequences.
    let _ = socket.set_reuse_address(true);
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(Listening(socket))
}

/// A listening socket and its readiness.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    ready: bool,
    /// Until when accepting is paused, for lack of descriptors or after repeated failures.
    rests_until: Option<Timestamp>,
}

/// The result of accepting.
pub enum Accept {
    /// A connection, and the client's address if known.
    Connection(TcpStream, Option<IpAddr>),
    /// No connection is waiting.
    Nothing,
    /// A connection failed before it was accepted.
    Failed,
    /// No descriptor or kernel memory is left for it. The connection stays in the queue.
    NoDescriptors,
}

impl Listener {
    /// Wraps a listening socket of unknown readiness.
    pub fn new(socket: TcpListener) -> Self {
        Self { socket, ready: false, rests_until: None }
    }

    /// Returns the socket, for registration.
    pub fn socket_mut(&mut self) -> &mut TcpListener {
        &mut self.socket
    }

    /// Notes a readiness event.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Returns whether there may be connections to accept at `now`.
    pub fn is_ready(&self, now: Timestamp) -> bool {
        self.ready && self.rests_until.is_none_or(|at| at <= now)
    }

    /// Returns when to accept again if it is paused or has not finished: no event reports that.
    pub fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        if self.ready { Some(self.rests_until.unwrap_or(now)) } else { None }
    }

    /// Pauses accepting for a while. Waiting connections stay in the queue.
    pub fn rest(&mut self, now: Timestamp) {
        self.rests_until = Some(now + REST);
    }

    /// Accepts a connection.
    ///
    /// # Errors
    /// Errors that this listener cannot recover from.
    pub fn accept(&mut self) -> io::Result<Accept> {
        self.rests_until = None;
        let error = match accept(&self.socket) {
            Ok((socket, from)) => {
                return Ok(Accept::Connection(socket, from.map(|from| from.ip().to_canonical())));
            }
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => {
                self.ready = false;
                Ok(Accept::Nothing)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => Ok(Accept::NoDescriptors),
            _ if is_out_of_descriptors(&error) => Ok(Accept::NoDescriptors),
            Some(Errno::BADF | Errno::FAULT | Errno::INVAL | Errno::NOTSOCK) => Err(error),
            // accept(2): errors of a connection that failed while it waited are reported here. They concern that
            // connection only, and the next one may be valid.
            _ => Ok(Accept::Failed),
        }
    }
}

/// Accepts a connection as a non-blocking, close-on-exec socket. If accept4(2) is not allowed, it fails without side
/// effects, and three calls replace it.
fn accept(listener: &TcpListener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
    match listener.accept() {
        Err(error) if is_refused(&error) => {}
        accepted => return accepted.map(|(socket, from)| (socket, Some(from))),
    }
    let (socket, from) = rustix::net::acceptfrom(listener)?;
    let _ = fcntl_setfd(&socket, FdFlags::CLOEXEC); // psystrike executes no programs
    ioctl_fionbio(&socket, true)?;
    let from = from.and_then(|from| from.try_into().ok());
    Ok((TcpStream::from_std(socket.into()), from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_reachable_at_its_address_or_at_every_local_one() {
        for (listening, to, expected) in [
            (&[][..], "127.0.0.1:80", false),
            (&["127.0.0.1:80"], "127.0.0.1:80", true),
            (&["127.0.0.1:80"], "127.0.0.1:81", false),
            (&["127.0.0.1:80"], "127.0.0.2:80", false),
            (&["0.0.0.0:80"], "127.0.0.2:80", true),
            (&["0.0.0.0:80"], "127.0.0.2:81", false),
            (&["[::]:80"], "127.0.0.1:80", true),
            (&["[::]:80"], "[::1]:80", true),
            (&["[::ffff:127.0.0.1]:80"], "127.0.0.1:80", true),
            (&["[::]:80"], "192.0.2.1:80", false),
            (&["[::]:80"], "[2001:db8::1]:80", false),
            (&["127.0.0.1:1", "[::1]:80"], "[::1]:80", true),
        ] {
            let parse = |text: &&str| text.parse().expect("an address");
            let listening: Vec<SocketAddr> = listening.iter().map(parse).collect();
            assert_eq!(is_among(&listening, parse(&to)), expected, "{listening:?}, {to}");
        }
    }
}
