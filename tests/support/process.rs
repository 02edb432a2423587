//! The kernel's figures about a process, from `/proc`: time, memory, descriptors, threads.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Child,
    time::Duration,
};

use procfs::{
    ProcError, WithCurrentSystemInfo,
    process::{FDTarget, ProcState, Process as Procfs, Status, Task},
};
use rustix::process::{Pid, Signal, kill_process};

use super::poll;

/// A process that is running, or has ended and is not reaped yet.
#[derive(Clone, Copy, Debug)]
pub struct Process(i32);

impl Process {
    pub fn of(child: &Child) -> Self {
        Self(child.id().cast_signed())
    }

    fn read<T>(self, what: impl FnOnce(&Procfs) -> Result<T, ProcError>) -> T {
        let read = Procfs::new(self.0).and_then(|process| what(&process));
        read.unwrap_or_else(|e| panic!("cannot read /proc of {self:?}: {e}"))
    }

    fn tasks(self) -> Vec<Task> {
        self.read(|process| process.tasks()?.collect())
    }

    pub fn signal(self, signal: Signal) {
        let pid = Pid::from_raw(self.0).expect("a process has a number");
        kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot send {signal:?} to {self:?}: {e}"));
    }

    /// Stops it, and waits until it is stopped. [`Signal::CONT`] continues it.
    pub fn stop(self) {
        self.signal(Signal::STOP);
        let states =
            || self.tasks().iter().map(|task| task.stat()?.state()).collect::<Result<Vec<_>, _>>().ok();
        poll("the states of a process's threads", states, |states| {
            states.as_ref().is_some_and(|states| states.iter().all(|state| *state == ProcState::Stopped))
        });
    }

    /// Waits until it has a child process, and returns the only one.
    pub fn child(self) -> Self {
        let children = || -> Vec<i32> {
            let children = self.tasks().into_iter().filter_map(|task| task.children().ok());
            children.flatten().map(u32::cast_signed).collect()
        };
        Self(poll("the children of a process", children, |children| children.len() == 1)[0])
    }

    /// Returns the processor time of all its threads.
    pub fn cpu(self) -> Duration {
        let stat = self.read(Procfs::stat);
        Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    }

    /// Its resident memory.
    pub fn resident_bytes(self) -> u64 {
        self.read(Procfs::stat).rss_bytes().get()
    }

    /// Returns its anonymous resident memory, counted page by page: [`Self::resident_bytes`] may deviate by 100 KiB, as
    /// the kernel updates it in batches.
    pub fn anonymous_bytes(self) -> u64 {
        let maps = self.read(Procfs::smaps_rollup).memory_map_rollup;
        maps.iter().filter_map(|map| map.extension.map.get("Anonymous")).sum()
    }

    pub fn status(self) -> Status {
        self.read(Procfs::status)
    }

    /// Returns how often its threads have blocked so far.
    pub fn waits(self) -> u64 {
        let waits = self.tasks().into_iter().filter_map(|task| task.status().ok()?.voluntary_ctxt_switches);
        waits.sum()
    }

    /// Returns the root of the file system in the process's mount namespace.
    pub fn root(self) -> PathBuf {
        format!("/proc/{}/root", self.0).into()
    }

    /// The names of its threads.
    pub fn threads(self) -> Vec<String> {
        self.tasks().iter().filter_map(|task| Some(task.stat().ok()?.comm)).collect()
    }

    /// Waits until [`Self::listens_on`] has this many addresses.
    pub fn wait_for_listeners(self, count: usize) -> Vec<SocketAddr> {
        poll("listening sockets of a process", || self.listens_on(), |sockets| sockets.len() >= count)
    }

    /// The addresses on which it listens for TCP connections, one for each socket.
    pub fn listens_on(self) -> Vec<SocketAddr> {
        let open: Vec<_> = self.read(|process| process.fd()?.map(|fd| Ok(fd?.target)).collect());
        let is_its =
            |inode: u64| open.iter().any(|target| matches!(target, FDTarget::Socket(of) if *of == inode));
        let its = ["tcp", "tcp6"].map(|table| listening(self, table));
        its.into_iter().flatten().filter(|(_, inode)| is_its(*inode)).map(|(address, _)| address).collect()
    }
}

/// The listening sockets in a table of a process's network namespace, and their inodes.
///
/// The kernel writes these first, and only they are read: the rest can be many thousands.
fn listening(process: Process, table: &str) -> Vec<(SocketAddr, u64)> {
    const LISTEN: &str = "0A";
    let path = format!("/proc/{}/net/{table}", process.0);
    let Ok(file) = File::open(path) else { return Vec::new() }; // a machine without IPv6
    let lines = BufReader::new(file).lines().skip(1).map(|line| line.expect("a line of text"));
    let sockets = lines.map_while(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[3] == LISTEN).then(|| (address(words[1]), words[9].parse().expect("an inode is a number")))
    });
    sockets.collect()
}

/// An address like `0100007F:1F90`: words in the machine's byte order, and the port.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').expect("an address has a port");
    let number = |digits| u32::from_str_radix(digits, 16).expect("hexadecimal digits");
    let bytes: Vec<u8> =
        (0..ip.len()).step_by(8).flat_map(|at| number(&ip[at..at + 8]).to_ne_bytes()).collect();
    let ip: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(bytes.as_slice()).expect("16 bytes").into(),
    };
    SocketAddr::new(ip, u16::from_str_radix(port, 16).expect("hexadecimal digits"))
}
