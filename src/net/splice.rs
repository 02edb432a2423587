//! splice(2): bytes go from socket to socket through a pipe of the kernel's, and never through us.
//!
//! Owns the pipe. A worker has one, which is empty whenever no bytes are being moved: bytes that stay in a pipe
//! would become part of somebody else's answer, so a pipe that cannot be emptied is dropped.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The size asked for: what a user without privileges may have (`/proc/sys/fs/pipe-max-size`). It counts slots
/// of a page, and a received segment takes one, however short it is.
const PIPE_BYTES: usize = 1024 * 1024;

/// Where bytes stand between two sockets. No call waits.
pub trait Pipe<S> {
    /// Moves at most so many bytes in, out of a socket; 0 at its end.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` where nothing is there, or no slot of the pipe is free.
    fn fill(&mut self, from: &S, bytes: usize) -> io::Result<usize>;

    /// Moves at most so many bytes out, into a socket.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` where the socket takes nothing.
    fn pour(&mut self, into: &S, bytes: usize) -> io::Result<usize>;

    /// Reads bytes out.
    ///
    /// # Errors
    /// As `read(2)`.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

/// A pipe of the kernel's.
#[derive(Debug)]
pub struct KernelPipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl KernelPipe {
    /// An empty one.
    ///
    /// # Errors
    /// As `pipe2(2)`.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // A user who has many pipes may not have a large one; the size it was made with does as well.
        let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
        Ok(Self { reader, writer })
    }
}

impl<S: AsFd> Pipe<S> for KernelPipe {
    fn fill(&mut self, from: &S, bytes: usize) -> io::Result<usize> {
        Ok(splice(from, None, &self.writer, None, bytes, SpliceFlags::NONBLOCK)?)
    }

    fn pour(&mut self, into: &S, bytes: usize) -> io::Result<usize> {
        Ok(splice(&self.reader, None, into, None, bytes, SpliceFlags::NONBLOCK)?)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.reader, into)?)
    }
}
