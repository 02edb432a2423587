//! The baselines: the minimum that a forwarder on sockets costs.
//!
//! They parse nothing. Bytes from a client go to the longest-idle pod connection, and bytes from there go back, until
//! the client sends again. There are more pod connections than pods or clients, so that every scrape finds one, as in a
//! forwarder that parses requests.
//!
//! One moves a response with read and write, the other with splice(2) through a pipe. The second gets the length of a
//! response as an argument; a forwarder knows it from `Content-Length`. This saves the call that finds nothing.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    mem,
    net::{SocketAddr, TcpStream as BlockingStream},
    os::fd::OwnedFd,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use slab::Slab;

use crate::pods;

/// Holds a complete response of up to 256 KiB with its header. Smaller buffers take more calls, and larger ones do not
/// fit into the core's own cache.
const SCRATCH_BYTES: usize = (256 + 4) * 1024;
/// The maximum for unprivileged processes. The kernel moves no more at once than fits into the pipe.
pub(crate) const PIPE_BYTES: usize = 1024 * 1024;
/// Pod connections beyond the number of pods or clients, whichever is larger. A client keeps one until its next scrape.
const SPARE: usize = 64;
const LISTENER: Token = Token(usize::MAX - 1);
/// Tokens of pods start here; those of clients are below.
const POD: usize = 1 << 32;

/// How a response is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ReadWrite,
    Splice,
}

impl Way {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "read-write",
            Self::Splice => "splice",
        }
    }

    /// The way with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::ReadWrite, Self::Splice].into_iter().find(|way| way.name() == name)
    }
}

/// The settings of a baseline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) way: Way,
    pub(crate) listen: SocketAddr,
    pub(crate) pods_port: u16,
    pub(crate) pods: usize,
    pub(crate) clients: usize,
    /// The length of every response, header and body.
    pub(crate) answer_bytes: u64,
}

/// Runs a baseline until it is killed.
pub(crate) fn run(setup: Setup) -> io::Result<()> {
    let poll = Poll::new()?;
    let mut pods = Vec::new();
    for number in 0..setup.pods.max(setup.clients) + SPARE {
        let address = SocketAddr::from((pods::address(number % setup.pods), setup.pods_port));
        let stream = BlockingStream::connect(address)?;
        let mut stream = prepared(stream)?;
        poll.registry().register(&mut stream, Token(POD + number), Interest::READABLE)?;
        pods.push(Pod { stream, client: None, readable: false });
    }
    let mut listener = TcpListener::bind(setup.listen)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let resting = (0..pods.len()).collect();
    let scratch = vec![0; SCRATCH_BYTES].into();
    Baseline { setup, poll, listener, pods, resting, clients: Slab::new(), pipes: Vec::new(), scratch }
        .serve()
}

fn prepared(stream: BlockingStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}

struct Baseline {
    setup: Setup,
    poll: Poll,
    listener: TcpListener,
    pods: Vec<Pod>,
    resting: VecDeque<usize>,
    clients: Slab<Client>,
    /// Empty ones.
    pipes: Vec<Pipe>,
    scratch: Box<[u8]>,
}

struct Pod {
    stream: TcpStream,
    client: Option<usize>,
    readable: bool,
}

struct Client {
    stream: TcpStream,
    pod: Option<usize>,
    writable: bool,
    kept: Kept,
    /// The bytes of the response that the pod has yet to send.
    answer_left: u64,
}

/// Bytes that the client has yet to read.
enum Kept {
    Nothing,
    Bytes { bytes: Vec<u8>, taken: usize },
    Piped { pipe: Pipe, bytes: usize },
}

pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Pipe {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&writer, PIPE_BYTES)?;
        Ok(Self { reader, writer })
    }
}

impl Baseline {
    fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(pod) if pod >= POD => {
                        let pod = &mut self.pods[pod - POD];
                        pod.readable = true;
                        if let Some(client) = pod.client {
                            self.answer(client)?;
                        }
                    }
                    Token(client) => self.client(client, event.is_readable(), event.is_writable())?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(mut stream) = pods::accept(&self.listener)? {
            let entry = self.clients.vacant_entry();
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(entry.key()), both)?;
            let kept = Kept::Nothing;
            entry.insert(Client { stream, pod: None, writable: true, kept, answer_left: 0 });
        }
        Ok(())
    }

    fn client(&mut self, index: usize, readable: bool, writable: bool) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        client.writable |= writable;
        if readable && client.answer_left == 0 {
            match client.stream.read(&mut self.scratch) {
                Ok(0) => {
                    let pod = client.pod;
                    self.clients.remove(index);
                    self.rest(pod);
                    return Ok(());
                }
                Ok(bytes) => return self.request(index, bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.answer(index)
    }

    /// The first `bytes` of the scratch buffer are a request.
    fn request(&mut self, index: usize, bytes: usize) -> io::Result<()> {
        let chosen = self.resting.pop_front().ok_or(ErrorKind::QuotaExceeded)?;
        let client = &mut self.clients[index];
        let before = client.pod.replace(chosen);
        client.answer_left = self.setup.answer_bytes;
        self.pods[chosen].client = Some(index);
        self.rest(before);
        let written = self.pods[chosen].stream.write(&self.scratch[..bytes])?;
        if written == bytes { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    fn rest(&mut self, pod: Option<usize>) {
        if let Some(pod) = pod {
            self.pods[pod].client = None;
            self.resting.push_back(pod);
        }
    }

    fn answer(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        let Some(pod) = client.pod else { return Ok(()) };
        let pod = &mut self.pods[pod];
        while client.take()? {
            if let Kept::Piped { pipe, .. } = mem::replace(&mut client.kept, Kept::Nothing) {
                self.pipes.push(pipe);
            }
            if !pod.readable || client.answer_left == 0 {
                return Ok(());
            }
            let moved = match self.setup.way {
                Way::ReadWrite => client.copy_from(pod, &mut self.scratch)?,
                Way::Splice => {
                    let pipe = self.pipes.pop().map_or_else(Pipe::new, Ok)?;
                    client.splice_from(pod, pipe)?
                }
            };
            client.answer_left = client.answer_left.checked_sub(moved).ok_or(ErrorKind::InvalidData)?;
            // One event may stand for the complete response. The next event is for the next response.
            pod.readable &= client.answer_left > 0;
        }
        Ok(())
    }
}

impl Client {
    /// Writes pending bytes to the client. Returns whether none are left.
    fn take(&mut self) -> io::Result<bool> {
        while self.writable {
            let result = match &mut self.kept {
                Kept::Nothing | Kept::Piped { bytes: 0, .. } => return Ok(true),
                Kept::Bytes { bytes, taken } => {
                    self.stream.write(&bytes[*taken..]).inspect(|more| *taken += more)
                }
                Kept::Piped { pipe, bytes } => {
                    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                    let spliced = splice(&pipe.reader, None, &self.stream, None, *bytes, flags);
                    spliced.inspect(|more| *bytes -= more).map_err(io::Error::from)
                }
            };
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
            if matches!(&self.kept, Kept::Bytes { bytes, taken } if *taken == bytes.len()) {
                self.kept = Kept::Nothing;
            }
        }
        Ok(matches!(self.kept, Kept::Nothing | Kept::Piped { bytes: 0, .. }))
    }

    fn copy_from(&mut self, pod: &mut Pod, scratch: &mut [u8]) -> io::Result<u64> {
        let bytes = match pod.stream.read(scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        pod.readable = bytes == scratch.len();
        let taken = match self.stream.write(&scratch[..bytes]) {
            _ if bytes == 0 => 0,
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if taken < bytes {
            self.writable = false;
            self.kept = Kept::Bytes { bytes: scratch[taken..bytes].to_vec(), taken: 0 };
        }
        Ok(bytes as u64)
    }

    fn splice_from(&mut self, pod: &mut Pod, pipe: Pipe) -> io::Result<u64> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let bytes = match splice(&pod.stream, None, &pipe.writer, None, self.answer_left as usize, flags) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => bytes,
            Err(Errno::AGAIN) => {
                pod.readable = false;
                0
            }
            Err(error) => return Err(error.into()),
        };
        self.kept = Kept::Piped { pipe, bytes };
        Ok(bytes as u64)
    }
}
