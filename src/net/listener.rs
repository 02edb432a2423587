//! Listening sockets: how they are made, and what each error of accept means.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use mio::net::{TcpListener, TcpStream};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use socket2::{Domain, Protocol, Socket, Type};

use super::{stream::is_out_of_descriptors, transport::splice::is_refused};
use crate::proxy::timestamp::Timestamp;

/// How many connections may wait to be accepted. The kernel caps it at net.core.somaxconn.
pub(super) const BACKLOG: i32 = 4096;
/// How long accepting rests when there is no descriptor left. Nothing tells when there is one again.
const REST: Duration = Duration::from_millis(100);

/// Where clients connect if nothing is said: all addresses of both families, or of IPv4 where the machine has
/// no IPv6.
#[cold]
pub fn default_address() -> SocketAddr {
    const PORT: u16 = 8080;
    match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) {
        Ok(_) => (Ipv6Addr::UNSPECIFIED, PORT).into(),
        Err(_) => (Ipv4Addr::UNSPECIFIED, PORT).into(),
    }
}

/// Binds `address` once for each worker; the kernel spreads the connections over them. Port 0 becomes the same
/// free port for all.
///
/// # Errors
/// As `bind(2)` and `listen(2)`. An address that somebody listens on already is one, whoever that is.
#[cold]
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would let a second psystrike take half of the first one's connections unnoticed. So the
    // address is tried without it first.
    let alone = listen(address, false)?;
    if workers == 1 {
        return Ok(vec![alone.into_mio()]);
    }
    let address = alone.0.local_addr()?.as_socket().unwrap_or(address);
    drop(alone);
    (0..workers).map(|_| listen(address, true).map(Listening::into_mio)).collect()
}

struct Listening(Socket);

impl Listening {
    fn into_mio(self) -> TcpListener {
        TcpListener::from_std(self.0.into())
    }
}

#[cold]
fn listen(address: SocketAddr, shared: bool) -> io::Result<Listening> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever net.ipv6.bindv6only says. Where this is refused, that decides.
        let _ = socket.set_only_v6(false);
    }
    // Bind although old connections are in TIME_WAIT. Where this is refused, bind(2) says what comes of it.
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
    /// There was no descriptor left; accepting goes on then.
    rests_until: Option<Timestamp>,
}

/// What accepting came to.
pub enum Accept {
    /// A connection.
    Connection(TcpStream),
    /// None is there.
    Nothing,
    /// One failed before it was accepted.
    Failed,
    /// There is no descriptor for it. The connection waits on.
    NoDescriptors,
}

impl Listener {
    /// A listener of which nothing is known yet.
    pub fn new(socket: TcpListener) -> Self {
        Self { socket, ready: false, rests_until: None }
    }

    /// The socket, to have it registered.
    pub fn socket_mut(&mut self) -> &mut TcpListener {
        &mut self.socket
    }

    /// An event told of it.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Whether there may be something to accept at `now`.
    pub fn is_ready(&self, now: Timestamp) -> bool {
        self.ready && self.rests_until.is_none_or(|at| at <= now)
    }

    /// When accepting goes on, if it rests or has not finished: events do not tell.
    pub fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        if self.ready { Some(self.rests_until.unwrap_or(now)) } else { None }
    }

    /// Leaves the connections that wait where they are, for a while.
    pub fn rest(&mut self, now: Timestamp) {
        self.rests_until = Some(now + REST);
    }

    /// Accepts a connection.
    ///
    /// # Errors
    /// Those that leave no hope for this listener.
    pub fn accept(&mut self) -> io::Result<Accept> {
        self.rests_until = None;
        let error = match accept(&self.socket) {
            Ok(socket) => return Ok(Accept::Connection(socket)),
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
            // accept(2): a connection that failed while it waited reports its own errors here. They are its
            // business, and the next one may be sound.
            _ => Ok(Accept::Failed),
        }
    }
}

/// Accepts a connection whose calls do not wait, and that no other program inherits. Where accept4(2) is refused, which
/// says so at once, it takes three calls instead of one.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    match listener.accept() {
        Err(error) if is_refused(&error) => {}
        accepted => return accepted.map(|(socket, _)| socket),
    }
    let socket = rustix::net::accept(listener)?;
    let _ = fcntl_setfd(&socket, FdFlags::CLOEXEC); // nothing is executed
    ioctl_fionbio(&socket, true)?;
    Ok(TcpStream::from_std(socket.into()))
}
