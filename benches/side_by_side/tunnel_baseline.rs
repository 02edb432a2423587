//! The baselines of a tunnel: the minimum cost of moving bytes both ways between two sockets.
//!
//! A baseline reads the destination from a CONNECT request, connects, responds with 200, and then only moves bytes. It
//! has no limits, timeouts, counters, half-closed connections or urgent data. It blocks while a tunnel opens, because
//! that is not measured.
//!
//! One moves bytes with splice(2) through a pipe, the other with read and write. Neither makes a call that finds
//! nothing: if a call returns fewer bytes than requested, and than the pipe holds, the socket is empty, and more bytes
//! cause an event.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream as BlockingStream},
    os::fd::OwnedFd,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use rustix::{
    io::Errno,
    pipe::{SpliceFlags, splice},
};
use slab::Slab;

use crate::{
    baselines::{PIPE_BYTES, Pipe, Way},
    pods,
};

const LISTENER: Token = Token(usize::MAX - 1);
/// The size of psystrike's reads.
const SCRATCH_BYTES: usize = 64 * 1024;
/// A pipe of 1 MiB has 256 slots, one for each segment. On loopback, this many bytes never fill them.
const SURELY_FIT_BYTES: usize = 128 * 1024;
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// Runs a baseline until it is killed.
pub(crate) fn run(way: Way, listen: SocketAddr) -> io::Result<()> {
    let poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut baseline =
        Baseline { way, poll, ends: Slab::new(), pipes: Vec::new(), scratch: [0; SCRATCH_BYTES].into() };
    let mut events = Events::with_capacity(256);
    loop {
        match baseline.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            match event.token() {
                LISTENER => baseline.accept(&listener)?,
                Token(end) => baseline.event(end, event.is_readable(), event.is_writable())?,
            }
        }
    }
}

struct Baseline {
    way: Way,
    poll: Poll,
    ends: Slab<End>,
    /// Empty ones.
    pipes: Vec<Pipe>,
    scratch: Box<[u8]>,
}

/// One end of a tunnel.
struct End {
    stream: TcpStream,
    other: usize,
    readable: bool,
    writable: bool,
    /// Bytes that it has yet to read.
    kept: Option<Kept>,
}

enum Kept {
    Bytes { bytes: Vec<u8>, taken: usize },
    Piped { pipe: Pipe, bytes: usize },
}

impl Baseline {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Some(client) = pods::accept(listener)? {
            let mut client = BlockingStream::from(OwnedFd::from(client));
            client.set_nonblocking(false)?;
            let Some(address) = destination(&mut client)? else { continue };
            let pod = BlockingStream::connect(address)?;
            pod.set_nodelay(true)?;
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            let (client, pod) = (self.add(client)?, self.add(pod)?);
            (self.ends[client].other, self.ends[pod].other) = (pod, client);
        }
        Ok(())
    }

    fn add(&mut self, stream: BlockingStream) -> io::Result<usize> {
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let entry = self.ends.vacant_entry();
        let (key, both) = (entry.key(), Interest::READABLE | Interest::WRITABLE);
        self.poll.registry().register(&mut stream, Token(key), both)?;
        entry.insert(End { stream, other: 0, readable: false, writable: true, kept: None });
        Ok(key)
    }

    fn event(&mut self, key: usize, readable: bool, writable: bool) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(key) else { return Ok(()) };
        end.readable |= readable;
        end.writable |= writable;
        let (other, holds_up) = (end.other, end.kept.is_some());
        let goes_on = (!readable || self.pump(key, other)?) && (!holds_up || self.pump(other, key)?);
        if !goes_on {
            self.ends.remove(key);
            self.ends.remove(other);
        }
        Ok(())
    }

    /// Moves bytes until a socket would block. Returns whether more may come.
    fn pump(&mut self, from: usize, to: usize) -> io::Result<bool> {
        let Some((source, sink)) = self.ends.get2_mut(from, to) else { return Ok(true) };
        while sink.take(&mut self.pipes)? && source.readable {
            let bytes = match self.way {
                Way::ReadWrite => sink.copy_from(source, &mut self.scratch),
                Way::Splice => sink.splice_from(source, &mut self.pipes),
            };
            match bytes {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => source.readable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl End {
    /// Writes pending bytes to it. Returns whether none are left.
    fn take(&mut self, pipes: &mut Vec<Pipe>) -> io::Result<bool> {
        while let Some(kept) = &mut self.kept
            && self.writable
        {
            let result = match kept {
                Kept::Bytes { bytes, taken } => {
                    self.stream.write(&bytes[*taken..]).inspect(|more| *taken += more)
                }
                Kept::Piped { pipe, bytes } => splice(&pipe.reader, None, &self.stream, None, *bytes, FLAGS)
                    .inspect(|more| *bytes -= more)
                    .map_err(io::Error::from),
            };
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
            match self.kept.take() {
                Some(Kept::Piped { pipe, bytes: 0 }) => pipes.push(pipe),
                Some(Kept::Bytes { bytes, taken }) if taken == bytes.len() => {}
                kept => self.kept = kept,
            }
        }
        Ok(self.kept.is_none())
    }

    fn copy_from(&mut self, source: &mut Self, scratch: &mut [u8]) -> io::Result<usize> {
        let bytes = source.stream.read(scratch)?;
        source.readable = bytes == scratch.len();
        let taken = match self.stream.write(&scratch[..bytes]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            result => result?,
        };
        if taken < bytes {
            self.writable = false;
            self.kept = Some(Kept::Bytes { bytes: scratch[taken..bytes].to_vec(), taken: 0 });
        }
        Ok(bytes)
    }

    fn splice_from(&mut self, source: &mut Self, pipes: &mut Vec<Pipe>) -> io::Result<usize> {
        let pipe = pipes.pop().map_or_else(Pipe::new, Ok)?;
        let result = splice(&source.stream, None, &pipe.writer, None, PIPE_BYTES, FLAGS);
        match result {
            Ok(bytes) => {
                source.readable = bytes >= SURELY_FIT_BYTES;
                self.kept = Some(Kept::Piped { pipe, bytes });
            }
            Err(Errno::AGAIN) => pipes.push(pipe),
            Err(_) => {}
        }
        Ok(result?)
    }
}

/// The destination of a client's CONNECT request; `None` if it sends none.
fn destination(client: &mut BlockingStream) -> io::Result<Option<SocketAddr>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read(&mut byte)? == 0 {
            return Ok(None); // it only checked whether the baseline listens
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let address = head.split(' ').nth(1).and_then(|address| address.parse().ok());
    address.map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
}
