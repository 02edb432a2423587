//! The worker's ends of the simulated network: its sockets and pipes. The models observe each call.

use super::*;

impl Network for SimNetwork {
    type Socket = SimSocket;
    type Pipe = SimPipe;

    fn register(&mut self, socket: &mut SimSocket, token: Token) -> io::Result<()> {
        self.net.borrow_mut().kernel.register(socket.id, self.worker, token);
        Ok(())
    }

    fn connect(&mut self, to: SocketAddr, token: Token) -> io::Result<SimSocket> {
        let mut net = self.net.borrow_mut();
        let id = net.connect(self.worker, to)?;
        net.kernel.register(id, self.worker, token);
        net.kernel.conns[id].woken = net.kernel.conns[id].link != Link::Connecting;
        drop(net);
        Ok(self.socket(id))
    }

    fn look_up(&mut self, shared: &Arc<Shared>) {
        self.net.borrow_mut().begin_lookups(shared);
    }

    fn check_passwords(&mut self, shared: &Arc<Shared>) {
        self.net.borrow_mut().begin_checks(shared);
    }

    fn pipe(&mut self) -> io::Result<SimPipe> {
        let net = &mut *self.net.borrow_mut();
        if net.is_out_of_descriptors() || net.chaos.connects && net.random.one_in(4) {
            return Err(Errno::MFILE.into());
        }
        net.refuse(Optional::Pipe)?;
        Ok(SimPipe { net: Rc::clone(&self.net), bytes: Vec::new(), from: None })
    }
}

impl SimNetwork {
    /// The worker's end of a connection.
    pub(crate) fn socket(&self, id: ConnId) -> SimSocket {
        SimSocket { net: Rc::clone(&self.net), id }
    }
}

impl SimSocket {
    /// Takes bytes out of the kernel, by a read or a splice.
    fn take(&self, take: impl FnOnce(&mut Net) -> io::Result<usize>) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        net.before(self.id)?;
        if let Owner::Pod(pod) = net.owners[self.id] {
            net.pod_is_read(pod);
        }
        let result = take(net);
        net.trace(|| format!("read from {}: {result:?}", self.id));
        net.progress |= result.is_ok();
        match net.owners[self.id] {
            Owner::Client(client) => net.client_was_read(client),
            Owner::Pod(pod) => net.pod_was_read(pod),
            Owner::Test => {}
        }
        result
    }
}

/// A pipe with slots of random sizes, which returns its bytes in random portions.
impl Pipe<SimSocket> for SimPipe {
    fn splice_in(&mut self, from: &SimSocket, bytes: usize) -> io::Result<usize> {
        assert!(self.bytes.is_empty(), "bytes of two responses are in the pipe");
        from.net.borrow_mut().refuse(Optional::Fill)?;
        from.take(|net| {
            let most = if net.random.one_in(2) { bytes } else { 1 + net.random.below(bytes) };
            self.bytes = vec![0; most.min(net.kernel.conns[from.id].to_worker.len()).max(1)];
            let result = net.kernel.read(from.id, &mut self.bytes);
            self.bytes.truncate(*result.as_ref().unwrap_or(&0));
            self.from = Some(from.id);
            result
        })
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(self.bytes.len());
        assert!(most > 0, "an empty pipe is peeked at");
        let net = &mut *self.net.borrow_mut();
        net.refuse(Optional::Look)?;
        let bytes = if net.random.one_in(4) { 1 + net.random.below(most) } else { most };
        into[..bytes].copy_from_slice(&self.bytes[..bytes]);
        net.peeks += 1;
        net.peeked = true;
        net.trace(|| format!("peek at {bytes} of {}", self.bytes.len()));
        if let (Some(happens), Some(from)) = (net.behind_peek.take(), self.from) {
            happens(&mut net.kernel, from);
        }
        Ok(bytes)
    }

    fn splice_out(&mut self, into: &SimSocket, bytes: usize) -> io::Result<usize> {
        let net = &mut *into.net.borrow_mut();
        net.before(into.id)?;
        net.refuse(Optional::Pour)?;
        let most = if net.random.one_in(2) { bytes } else { 1 + net.random.below(bytes) };
        let taken = net.kernel.pour(into.id, &self.bytes[..most])?;
        net.trace(|| format!("pour into {} of {most}: {taken}", into.id));
        let rest = self.bytes.split_off(taken);
        let poured = mem::replace(&mut self.bytes, rest);
        net.poured += taken as u64;
        net.peeks_passed_on += u64::from(mem::take(&mut net.peeked));
        net.wrote(into.id, &poured);
        // A complete portion shows nothing about the rest.
        net.kernel.conns[into.id].stalled |= taken < bytes && !self.bytes.is_empty();
        Ok(taken)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(self.bytes.len());
        assert!(most > 0, "an empty pipe is read");
        let net = &mut *self.net.borrow_mut();
        net.peeked = false;
        let bytes = 1 + net.random.below(most);
        into[..bytes].copy_from_slice(&self.bytes[..bytes]);
        self.bytes.drain(..bytes);
        Ok(bytes)
    }
}

impl Transport for SimSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.take(|net| net.kernel.read(self.id, into))
    }

    fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        net.before(self.id)?;
        let result = net.kernel.peek(self.id, into);
        net.trace(|| format!("peek at {}: {result:?}", self.id));
        result
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        net.before(self.id)?;
        let bytes = from.iter().map(|slice| &**slice).collect::<Vec<_>>().concat();
        let result = net.kernel.write(self.id, &bytes);
        net.trace(|| format!("write to {} of {}: {result:?}", self.id, bytes.len()));
        if let Ok(taken) = result {
            net.wrote(self.id, &bytes[..taken]);
        }
        result
    }

    fn connected(&mut self) -> io::Result<bool> {
        let net = &mut *self.net.borrow_mut();
        let result = net.kernel.connected(self.id);
        if let (Err(error), Some(pod)) = (&result, net.kernel.conns[self.id].pod) {
            net.failed_connects.push((pod, connect_outcome(error)));
        }
        result
    }

    fn watch(&self) {
        self.net.borrow_mut().kernel.conns[self.id].watched = true;
    }

    fn set_low_water(&self, bytes: u32) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        net.trace(|| format!("low-water mark of {}: {bytes}", self.id));
        net.kernel.set_low_water(self.id, bytes as usize);
        Ok(())
    }

    fn can_splice(&self) -> bool {
        true
    }

    fn is_end_clean(&self) -> bool {
        true
    }

    fn shutdown(&mut self) {
        let net = &mut *self.net.borrow_mut();
        net.kernel.shutdown(self.id);
        net.trace(|| format!("worker ends {}", self.id));
        match net.owners[self.id] {
            Owner::Test => {}
            Owner::Client(client) => net.client_ended(client),
            Owner::Pod(_) => panic!("only clients' connections are half-closed"),
        }
    }

    fn has_undelivered(&self) -> bool {
        self.net.borrow().kernel.has_undelivered(self.id)
    }

    fn reset_on_close(&mut self) {
        self.net.borrow_mut().kernel.reset_on_close(self.id);
    }

    fn deliver_within(&self, most: Duration) {
        self.net.borrow_mut().kernel.conns[self.id].delivers_within = Some(most);
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        // It is borrowed already only if a test fails within a call.
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.closed(self.id);
        }
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.id)
    }
}
