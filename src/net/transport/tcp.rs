//! TCP over the kernel's sockets, by the cheapest system calls.

use std::{
    ffi::c_int,
    io::{self, ErrorKind, IoSlice, Write},
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use mio::net::TcpStream;
use rustix::{
    ioctl,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::{SockRef, TcpKeepalive};

use super::Transport;

/// How long a request on a pooled connection may be unacknowledged (TCP_USER_TIMEOUT, tcp(7)) before it is sent on a
/// new one: three of Linux's retransmissions on a fast network, after 200, 600 and 1,400 ms.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_millis(1500);
/// A connection idle for this long is probed. With TCP_USER_TIMEOUT it fails if the first probe is not acknowledged
/// before the second is due.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Reads and writes are system calls without libc in between: its wrappers are cancellation points of threads, and
/// entering and leaving those takes a third of the instructions of a call.
impl Transport for TcpStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&*self, into, RecvFlags::empty())?.0)
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&*self, into, RecvFlags::PEEK)?.0)
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut parts = from.iter().filter(|part| !part.is_empty());
        match (parts.next(), parts.next()) {
            // The usual case. send(2) costs the kernel less than writev(2).
            (Some(one), None) => Ok(send(&*self, one, SendFlags::NOSIGNAL)?),
            _ => self.write_vectored(from),
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        // Writable does not mean connected: a failed connection is writable too (connect(2), EINPROGRESS).
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        match self.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn watch(&self) {
        let socket = SockRef::from(self);
        let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL);
        // Where the kernel does not support it, the scrape's deadline detects such a peer.
        let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        let _ = socket.set_tcp_keepalive(&keepalive);
    }

    fn set_low_water(&self, bytes: u32) -> io::Result<()> {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        #[expect(unsafe_code, reason = "no crate sets this option")]
        // SAFETY: SO_RCVLOWAT takes a pointer to an int, and its size.
        let result = unsafe {
            let (bytes, size) = ((&raw const bytes).cast(), size_of::<c_int>() as libc::socklen_t);
            libc::setsockopt(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes, size)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn can_splice(&self) -> bool {
        true
    }

    fn is_end_clean(&self) -> bool {
        true // FIN is TCP's only kind of end
    }

    fn shutdown(&mut self) {
        // Fails if the client has reset the connection, which ends our side as well.
        let _ = TcpStream::shutdown(self, Shutdown::Write);
    }

    fn has_undelivered(&self) -> bool {
        const SIOCOUTQ: u32 = 0x5411; // tcp(7), linux/sockios.h
        #[expect(
            unsafe_code,
            reason = "no crate has this ioctl; it writes an int, which is what the getter is for"
        )]
        // SAFETY: SIOCOUTQ takes a pointer to an int and writes the number of unacknowledged bytes there.
        let bytes = unsafe { ioctl::ioctl(self, ioctl::Getter::<SIOCOUTQ, c_int>::new()) };
        // After a reset the bytes are gone but still counted; such a connection has no peer (getpeername(2)).
        bytes.is_ok_and(|bytes| bytes > 0) && self.peer_addr().is_ok()
    }

    fn reset_on_close(&mut self) {
        // Cannot fail on a TCP socket. If it did, the truncated length would still show after the close that follows.
        let _ = SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }

    fn deliver_within(&self, most: Duration) {
        // TCP_USER_TIMEOUT stays in effect after the close. If setting it fails, the kernel gives up by its own rule
        // (tcp_orphan_retries).
        let _ = SockRef::from(self).set_tcp_user_timeout(Some(most));
    }

    fn peer(&self) -> Option<SocketAddr> {
        let peer = self.peer_addr().ok()?;
        Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    }
}
