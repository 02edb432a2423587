//! The machine: the core of a thread, and the resources of a forwarder as the kernel reports them.
//!
//! A forwarder is a process with all its threads and all its descendants.

use std::{fs, time::Duration};

use procfs::{
    CurrentSI, KernelStats, ProcError, ProcResult,
    process::{Process, Task},
};
use rustix::{
    process::{Pid, Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

/// Pins this thread, and the threads and processes that it starts later, to these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<(), String> {
    pin_thread(None, cores)
}

/// Pins all threads of this process to these cores.
pub(crate) fn pin_all(cores: &[usize]) -> Result<(), String> {
    let threads = Process::myself().and_then(|process| process.tasks()?.collect::<ProcResult<Vec<_>>>());
    let threads = threads.map_err(|error| format!("threads of this process: {error}"))?;
    threads.iter().try_for_each(|thread| pin_thread(Pid::from_raw(thread.tid), cores))
}

fn pin_thread(thread: Option<Pid>, cores: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(thread, &set).map_err(|error| format!("cannot pin to cores {cores:?}: {error}"))
}

/// Raises the limit on open files to its maximum, which it returns.
pub(crate) fn raise_open_files() -> Result<u64, String> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|error| format!("cannot raise the limit on open files: {error}"))?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Processor {
    /// User and system time, in the scheduler's nanoseconds.
    pub(crate) time: Duration,
    /// Counted by the clock tick: coarse, used only for the share of user time.
    user_ticks: u64,
    system_ticks: u64,
}

impl Processor {
    /// The time that was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            time: self.time.saturating_sub(before.time),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
        }
    }

    /// The share of user code, from 0 to 1.
    pub(crate) fn user_share(self) -> f64 {
        self.user_ticks as f64 / (self.user_ticks + self.system_ticks).max(1) as f64
    }
}

/// The processor time that a process and its descendants have used.
///
/// Only running threads have nanoseconds of their own. The process's total includes threads that have ended, but is
/// rounded down to ticks, so it exceeds the sum of the running threads only if threads with a tick or more have ended.
pub(crate) fn processor(root: Pid) -> Result<Processor, String> {
    let mut used = Processor::default();
    of_all(root, |process| {
        let total = process.stat()?;
        let running = of_threads(process, |thread| Ok(thread.schedstat()?.sum_exec_runtime))?;
        let running = Duration::from_nanos(running.into_iter().sum());
        used.time += running.max(ticks(total.utime + total.stime));
        used.user_ticks += total.utime;
        used.system_ticks += total.stime;
        Ok(())
    })?;
    Ok(used)
}

/// The use of a core, counted by the clock tick.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Core {
    pub(crate) busy: Duration,
    /// Time that the hypervisor gave to other machines.
    pub(crate) stolen: Duration,
}

/// The use of a core since the machine started.
pub(crate) fn core(number: usize) -> Result<Core, String> {
    let stats = KernelStats::current().map_err(|error| format!("/proc/stat: {error}"))?;
    let core = stats.cpu_time.get(number).ok_or_else(|| format!("no core {number}"))?;
    let interrupts = core.irq.unwrap_or(0) + core.softirq.unwrap_or(0);
    let busy = ticks(core.user + core.nice + core.system + interrupts);
    Ok(Core { busy, stolen: ticks(core.steal.unwrap_or(0)) })
}

/// The proportional set size of a process and its descendants.
pub(crate) fn pss_bytes(root: Pid) -> Result<u64, String> {
    let mut bytes = 0;
    of_all(root, |process| {
        let rollup = process.smaps_rollup()?.memory_map_rollup;
        bytes += rollup.iter().filter_map(|map| map.extension.map.get("Pss")).sum::<u64>();
        Ok(())
    })?;
    Ok(bytes)
}

/// The kernel's memory for one TCP connection of a process that waits for it with epoll, without data in buffers.
/// `None` if it can't be read, for example without root.
pub(crate) fn connection_bytes() -> Option<f64> {
    const CACHES: [&str; 5] = ["TCP", "sock_inode_cache", "dentry", "filp", "eventpoll_epi"];
    let slabs = fs::read_to_string("/proc/slabinfo").ok()?;
    let object = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        // name, objects in use, all objects, bytes of an object, objects of a slab, pages of a slab, ...
        CACHES.contains(fields.first()?).then_some(number(5)? * procfs::page_size() as f64 / number(4)?)
    };
    let objects: Vec<f64> = slabs.lines().filter_map(object).collect();
    (objects.len() == CACHES.len()).then(|| objects.iter().sum())
}

/// The number of open files of a process and its descendants.
pub(crate) fn open_files(root: Pid) -> Result<usize, String> {
    let mut files = 0;
    of_all(root, |process| {
        files += process.fd_count()?;
        Ok(())
    })?;
    Ok(files)
}

/// A process and its descendants.
pub(crate) fn processes(root: Pid) -> Result<Vec<i32>, String> {
    let mut processes = Vec::new();
    of_all(root, |process| {
        processes.push(process.pid());
        Ok(())
    })?;
    Ok(processes)
}

/// Whether a process is being traced.
pub(crate) fn is_traced(process: i32) -> Result<bool, String> {
    let status = Process::new(process).and_then(|process| process.status());
    Ok(status.map_err(|error| format!("cannot read process {process}: {error}"))?.tracerpid != 0)
}

fn of_all(root: Pid, mut visit: impl FnMut(&Process) -> ProcResult<()>) -> Result<(), String> {
    let mut waiting = vec![root.as_raw_pid()];
    while let Some(pid) = waiting.pop() {
        let read = |error| format!("cannot read process {pid}: {error}");
        let process = Process::new(pid).map_err(read)?;
        visit(&process).map_err(read)?;
        waiting.extend(children(&process).map_err(read)?);
    }
    Ok(())
}

fn children(process: &Process) -> ProcResult<Vec<i32>> {
    let children = of_threads(process, Task::children)?;
    Ok(children.into_iter().flatten().map(|pid| pid as i32).collect())
}

/// Reads a value for every thread of a process, except those that exit meanwhile.
fn of_threads<T>(process: &Process, read: impl Fn(&Task) -> ProcResult<T>) -> ProcResult<Vec<T>> {
    let mut found = Vec::new();
    for thread in process.tasks()? {
        match thread.and_then(|thread| read(&thread)) {
            Err(ProcError::NotFound(_)) => {}
            result => found.push(result?),
        }
    }
    Ok(found)
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64)
}
