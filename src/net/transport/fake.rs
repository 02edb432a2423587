//! A transport, a pipe and a network without a kernel, for tests of code that moves bytes.
//!
//! Owns no decision: behaves as the test sets it, and records calls.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{Transport, splice::Pipe};
use crate::net::{
    network::{Network, Token},
    shared::Shared,
};

/// The other side of a [`Fake`], controlled by the test.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Bytes sent but not yet read.
    pub(crate) incoming: VecDeque<u8>,
    /// Whether the side ended after these bytes.
    pub(crate) ended: bool,
    /// Whether that end is not authentic.
    pub(crate) unclean: bool,
    /// Whether every write fails.
    pub(crate) is_broken: bool,
    /// Whether its bytes cannot go through a pipe.
    pub(crate) is_opaque: bool,
    /// How many more bytes it takes.
    pub(crate) takes: usize,
    /// Bytes taken.
    pub(crate) written: Vec<u8>,
    /// Calls that change the socket other than by reading or writing.
    pub(crate) calls: Vec<&'static str>,
}

/// A connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(pub(crate) Rc<RefCell<State>>);

impl Fake {
    /// Creates a connection that takes any number of bytes and has sent these.
    pub(crate) fn sent(bytes: &[u8]) -> Self {
        let state =
            State { incoming: bytes.iter().copied().collect(), takes: usize::MAX, ..State::default() };
        Self(Rc::new(RefCell::new(state)))
    }

    fn copy(&self, into: &mut [u8]) -> io::Result<usize> {
        let state = self.0.borrow();
        if state.incoming.is_empty() && !state.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let bytes = state.incoming.len().min(into.len());
        into.iter_mut().zip(&state.incoming).for_each(|(into, byte)| *into = *byte);
        Ok(bytes)
    }

    fn called(&self, name: &'static str) {
        self.0.borrow_mut().calls.push(name);
    }
}

impl Transport for Fake {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.copy(into)?;
        self.0.borrow_mut().incoming.drain(..bytes);
        Ok(bytes)
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.copy(into)
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        if state.is_broken {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let all: Vec<u8> = from.iter().flat_map(|part| part.iter().copied()).collect();
        let taken = all.len().min(state.takes);
        if taken == 0 && !all.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.takes -= taken;
        state.written.extend(&all[..taken]);
        Ok(taken)
    }

    fn connected(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn watch(&self) {
        self.called("watch");
    }

    fn set_low_water(&self, bytes: u32) -> io::Result<()> {
        self.called(if bytes == 1 { "any byte" } else { "gather" });
        Ok(())
    }

    fn can_splice(&self) -> bool {
        !self.0.borrow().is_opaque
    }

    fn is_end_clean(&self) -> bool {
        !self.0.borrow().unclean
    }

    fn shutdown(&mut self) {
        self.called("shutdown");
    }

    fn has_undelivered(&self) -> bool {
        false
    }

    fn reset_on_close(&mut self) {
        self.called("reset");
    }

    fn deliver_within(&self, _most: Duration) {
        self.called("deliver");
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

/// A pipe. If set, `error` fails every call but `read`.
#[derive(Debug, Default)]
pub(crate) struct FakePipe {
    bytes: VecDeque<u8>,
    pub(crate) error: Option<ErrorKind>,
}

impl FakePipe {
    fn check(&self) -> io::Result<()> {
        self.error.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Pipe<Fake> for FakePipe {
    fn splice_in(&mut self, from: &Fake, bytes: usize) -> io::Result<usize> {
        self.check()?;
        let mut portion = vec![0; bytes.min(1 << 20)];
        let read = from.clone().read(&mut portion)?;
        self.bytes.extend(&portion[..read]);
        Ok(read)
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        into.iter_mut().zip(&self.bytes).for_each(|(into, byte)| *into = *byte);
        Ok(into.len().min(self.bytes.len()))
    }

    fn splice_out(&mut self, into: &Fake, bytes: usize) -> io::Result<usize> {
        self.check()?;
        let portion: Vec<u8> = self.bytes.iter().copied().take(bytes).collect();
        let taken = into.clone().write(&[IoSlice::new(&portion)])?;
        self.bytes.drain(..taken);
        Ok(taken)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = into.len().min(self.bytes.len());
        into.iter_mut().zip(self.bytes.drain(..bytes)).for_each(|(into, byte)| *into = byte);
        Ok(bytes)
    }
}

/// Opens as many connections as there are descriptors.
#[derive(Debug)]
pub(crate) struct FakeNetwork {
    /// How many connections may still be opened.
    pub(crate) descriptors: usize,
    /// Connections that were opened.
    pub(crate) opened: Vec<(SocketAddr, Fake)>,
    /// The `error` of each new pipe. Without `has_pipes`, creating one fails.
    pub(crate) pipe_error: Option<ErrorKind>,
    pub(crate) has_pipes: bool,
    /// Number of pipes created.
    pub(crate) pipes_made: usize,
}

impl Default for FakeNetwork {
    fn default() -> Self {
        Self { descriptors: usize::MAX, opened: Vec::new(), pipe_error: None, has_pipes: true, pipes_made: 0 }
    }
}

impl Network for FakeNetwork {
    type Socket = Fake;
    type Pipe = FakePipe;

    fn register(&mut self, _: &mut Fake, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn connect(&mut self, to: SocketAddr, _: Token) -> io::Result<Fake> {
        const EMFILE: i32 = 24;
        if self.descriptors == 0 {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.descriptors -= 1;
        let fake = Fake::sent(b"");
        self.opened.push((to, fake.clone()));
        Ok(fake)
    }

    fn look_up(&mut self, _: &Arc<Shared>) {}

    fn check_passwords(&mut self, _: &Arc<Shared>) {}

    fn pipe(&mut self) -> io::Result<FakePipe> {
        const EMFILE: i32 = 24;
        if !self.has_pipes {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.pipes_made += 1;
        Ok(FakePipe { error: self.pipe_error, ..FakePipe::default() })
    }
}
