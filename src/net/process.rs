//! This process's state from the kernel: the standard `process_*` metrics, and the open-files limit.

use std::{fs, io, time::SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::slots::KEYS_FROM;
use crate::proxy::metrics::Process;

/// Unit of the kernel's processor times, in parts of a second: `USER_HZ`, on every architecture that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// The folder with this process's open files, by descriptor number.
const FOLDER: &str = "/proc/self/fd";

/// Reads the metrics of this process; `started` is its start time. Unreadable values are left out, for example without
/// `/proc` or without a free descriptor.
pub fn read(started: SystemTime) -> Process {
    let [stat, status] = ["stat", "status"].map(|name| fs::read_to_string(format!("/proc/self/{name}")));
    let (stat, status) = (stat.unwrap_or_default(), status.unwrap_or_default());
    let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH).ok();
    Process {
        cpu_seconds: ticks(&stat).map(|ticks| ticks as f64 / TICKS_PER_SECOND),
        resident_bytes: bytes(&status, "VmRSS:"),
        virtual_bytes: bytes(&status, "VmSize:"),
        virtual_bytes_max: Some(getrlimit(Resource::As).current.unwrap_or(u64::MAX)),
        open_fds: open_files().ok(),
        max_fds: getrlimit(Resource::Nofile).current,
        start_time_seconds: since_1970.map(|time| time.as_secs_f64()),
        splices: None,
    }
}

/// Parses user and system time, fields 14 and 15 of `/proc/self/stat` (proc_pid_stat(5)). Field 2, the name, may
/// contain anything; counting starts after it, with field 3.
fn ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut times = behind_name.split_ascii_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    times.next()??.checked_add(times.next()??)
}

/// Parses one line of `/proc/self/status` (proc_pid_status(5)): `VmRSS:      1234 kB`.
fn bytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Counts the open files. Since 6.2 the kernel reports the number as the size of their folder (proc(5)); listing tens
/// of thousands of files would delay every connection by milliseconds.
fn open_files() -> io::Result<u64> {
    match fs::metadata(FOLDER)?.len() {
        0 => Ok(fs::read_dir(FOLDER)?.count() as u64),
        files => Ok(files),
    }
}

/// Counts the open descriptors below `limit`, the only numbers that this process may open. Those above it, opened
/// before the limit was set, do not use up these numbers.
pub fn open_files_below(limit: u64) -> u64 {
    const STANDARD_STREAMS: u64 = 3; // std opens those that are closed
    let Ok(files) = fs::read_dir(FOLDER) else { return STANDARD_STREAMS };
    let number = |file: fs::DirEntry| file.file_name().to_str()?.parse::<u64>().ok();
    let below = files.filter_map(|file| number(file.ok()?)).filter(|&number| number < limit);
    (below.count() as u64).saturating_sub(1) // the folder itself is open for this
}

/// Raises the open-files limit as far as permitted, and returns the resulting limit.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // On 32 bits the limit could exceed the number of slots.
    let maximum = maximum.map(|files| files.min(KEYS_FROM as u64));
    if current != maximum {
        // If this fails, the old limit stays and is returned.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_metrics_are_read_from_the_kernel() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        let process = read(started);
        assert_eq!(process.start_time_seconds, Some(1_700_000_000.5));
        assert!(process.cpu_seconds >= Some(0.0), "{process:?}");
        assert!(process.resident_bytes > Some(1 << 16), "{process:?}");
        assert!(process.virtual_bytes >= process.resident_bytes, "{process:?}");
        assert!(process.open_fds > Some(2) && process.open_fds <= process.max_fds, "{process:?}");
    }

    #[test]
    fn processor_time_is_found_after_any_process_name() {
        for (stat, expected) in [
            ("7 (psystrike) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0", Some(200)),
            ("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0", Some(200)),
            ("7 (psystrike) S 1 2 3 4 5 6 7 8 9 10 150", None),
            ("7 (psystrike) S 1 2 3 4 5 6 7 8 9 10 150 x", None),
            ("7", None),
            ("", None),
        ] {
            assert_eq!(ticks(stat), expected, "{stat:?}");
        }
    }

    #[test]
    fn invalid_kilobytes_are_left_out() {
        for (status, expected) in [
            ("Name:\tx\nVmRSS:\t    1234 kB\nVmSize:\t 1 kB\n", Some(1234 * 1024)),
            ("VmRSS:\t1234\n", None),
            ("VmRSS:\tmany kB\n", None),
            ("VmRSS:\t18446744073709551615 kB\n", None),
            ("", None),
        ] {
            assert_eq!(bytes(status, "VmRSS:"), expected, "{status:?}");
        }
    }
}
