//! splice(2) and tee(2): move bytes between sockets through a kernel pipe, and copy bytes from it.
//!
//! Owns the pipe. A worker has one, which is empty whenever no bytes are being moved. Bytes left in a pipe would become
//! part of another client's response, so a pipe that cannot be emptied is dropped.
//!
//! All of it is optional: if one of its calls [is refused](is_refused), bytes are read and written from then on.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee},
};

/// Requested pipe size: the limit for unprivileged users (`/proc/sys/fs/pipe-max-size`). It counts slots of one page,
/// and a received segment takes one slot, however short it is.
const PIPE_BYTES: usize = 1024 * 1024;

/// Returns whether a call failed because the kernel, or a filter before it (seccomp), does not offer it. On a sound
/// socket, these errors never concern the socket.
pub fn is_refused(error: &io::Error) -> bool {
    let refused = [Errno::NOSYS, Errno::INVAL, Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|error| refused.contains(&error))
}

/// Holds bytes between two sockets. No call blocks.
pub trait Pipe<S> {
    /// Moves at most `bytes` bytes in from a socket; returns 0 at its end.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` if there are no bytes, or no slot of the pipe is free.
    fn splice_in(&mut self, from: &S, bytes: usize) -> io::Result<usize>;

    /// Copies the first bytes without removing them, and sometimes fewer than there is room for.
    ///
    /// # Errors
    /// As `tee(2)` and `read(2)`; the pipe is unusable then.
    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Moves at most `bytes` bytes out to a socket.
    ///
    /// # Errors
    /// As `splice(2)`; `WouldBlock` if the socket accepts none.
    fn splice_out(&mut self, into: &S, bytes: usize) -> io::Result<usize>;

    /// Reads and removes bytes.
    ///
    /// # Errors
    /// As `read(2)`.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

/// Descriptors of a [`KernelPipe`].
pub const DESCRIPTORS: usize = 4;

/// A kernel pipe, and a second one to peek through.
#[derive(Debug)]
pub struct KernelPipe {
    reader: OwnedFd,
    writer: OwnedFd,
    look_reader: OwnedFd,
    look_writer: OwnedFd,
}

impl KernelPipe {
    /// Creates an empty pipe.
    ///
    /// # Errors
    /// As `pipe2(2)`.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let (look_reader, look_writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        for writer in [&writer, &look_writer] {
            // A user with many pipes may be refused a large one; the default size works as well.
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
