//! What the kernel says of this process: the standard `process_*` metrics, and the open-files limit.

use procfs::{ProcError, WithCurrentSystemInfo, process::Process as Procfs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proxy::metrics::Process;

/// Reads what `/proc` says. What cannot be read is left out, as where there is no `/proc` or no descriptor left.
pub fn read() -> Process {
    let mut process = Process { max_fds: getrlimit(Resource::Nofile).current, ..Process::default() };
    process.virtual_bytes_max = Some(getrlimit(Resource::As).current.unwrap_or(u64::MAX));
    // Best effort: everything else on the page is worth having without it.
    let _ = read_procfs(&mut process);
    process
}

fn read_procfs(process: &mut Process) -> Result<(), ProcError> {
    let myself = Procfs::myself()?;
    let stat = myself.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    process.cpu_seconds = Some((stat.utime + stat.stime) as f64 / ticks);
    process.resident_bytes = Some(stat.rss_bytes().get());
    process.virtual_bytes = Some(stat.vsize);
    process.start_time_seconds = Some(procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks);
    process.open_fds = Some(open_files(&myself)?);
    Ok(())
}

/// How many files are open. Since 6.2 the kernel says so in the size of the folder that lists them (proc(5)); to
/// list tens of thousands of them would keep every connection waiting for milliseconds.
fn open_files(myself: &Procfs) -> Result<u64, ProcError> {
    match std::fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len()) {
        0 => Ok(myself.fd_count()? as u64),
        files => Ok(files),
    }
}

/// Raises the open-files limit as far as this process may, and says how many files it may have open then.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // A refusal leaves the limit as it is, which is then what counts.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
