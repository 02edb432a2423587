//! splice(2) and tee(2): bytes go from socket to socket through a pipe of the kernel's, and can be looked at there.
//!
//! Owns the pipe. A worker has one, which is empty whenever no bytes are being moved: bytes that stay in a pipe
//! would become part of somebody else's answer, so a pipe that cannot be emptied is dropped.
//!
//! All of it is optional: where one of its calls [is refused](is_refused), bytes are read and written from then on.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee},
};

/// The size asked for: what a user without privileges may have (`/proc/sys/fs/pipe-max-size`). It counts slots
/// of a page, and a received segment takes one, however short it is.
const PIPE_BYTES: usize = 1024 * 1024;

/// Whether a call failed because the kernel, or a filter before it (seccomp), does not offer it: what a call on a
/// sound socket never says of the socket.
pub fn is_refused(error: &io::Error) -> bool {
    let refused = [Errno::NOSYS, Errno::INVAL, Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|error| refused.contains(&error))
}

/// Where bytes stand between two sockets. No call waits.
pub trait Pipe<S> {
    /// Moves at most so many bytes in, out of a socket; 0 at its end.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` where nothing is there, or no slot of the pipe is free.
    fn splice_in(&mut self, from: &S, bytes: usize) -> io::Result<usize>;

    /// Shows the first of the bytes that it holds, not always as many as there is room for, and keeps them.
    ///
    /// # Errors
    /// As `tee(2)` and `read(2)`; then it is of no more use.
    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Moves at most so many bytes out, into a socket.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` where the socket takes nothing.
    fn splice_out(&mut self, into: &S, bytes: usize) -> io::Result<usize>;

    /// Reads bytes out.
    ///
    /// # Errors
    /// As `read(2)`.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

/// Descriptors that a [`KernelPipe`] takes.
pub const DESCRIPTORS: usize = 4;

/// A pipe of the kernel's, and another for what is looked at.
#[derive(Debug)]
pub struct KernelPipe {
    reader: OwnedFd,
    writer: OwnedFd,
    look_reader: OwnedFd,
    look_writer: OwnedFd,
}

impl KernelPipe {
    /// An empty one.
    ///
    /// # Errors
    /// As `pipe2(2)`.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let (look_reader, look_writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        for writer in [&writer, &look_writer] {
            // A user who has many pipes may not have a large one; the size it was made with does as well.
            let _ = fcntl_setpipe_size(writer, PIPE_BYTES);
        }
        Ok(Self { reader, writer, look_reader, look_writer })
    }
}

impl<S: AsFd> Pipe<S> for KernelPipe {
    fn splice_in(&mut self, from: &S, bytes: usize) -> io::Result<usize> {
        Ok(splice(from, None, &self.writer, None, bytes, SpliceFlags::NONBLOCK)?)
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = tee(&self.reader, &self.look_writer, into.len(), SpliceFlags::NONBLOCK)?;
        let mut read = 0;
        while read < bytes {
            match rustix::io::read(&self.look_reader, &mut into[read..bytes])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => read += more,
            }
        }
        Ok(bytes)
    }

    fn splice_out(&mut self, into: &S, bytes: usize) -> io::Result<usize> {
        Ok(splice(&self.reader, None, into, None, bytes, SpliceFlags::NONBLOCK)?)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.reader, into)?)
    }
}
