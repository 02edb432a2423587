//! Shared helpers of the tests that run real programs: starting and stopping them, a client and pods that speak raw
//! HTTP/1.1, and the text format of metrics. No file here asserts anything about psystrike itself.
//!
//! Every wait is for an event (a log line, bytes, an end of file) and has a limit; every failure prints what was
//! observed.

// Each test file is a crate of its own and uses its own part of this.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod alloy;
pub mod base64;
#[cfg(feature = "tls")]
pub mod certificates;
pub mod cgroup;
pub mod cluster;
pub mod dashboard;
pub mod dns;
pub mod exposition;
pub mod generated;
pub mod helm;
pub mod http;
pub mod image;
pub mod jobs;
pub mod kubernetes;
pub mod markdown;
pub mod net_http;
pub mod netns;
pub mod nginx;
pub mod podman;
pub mod pods;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod promql;
pub mod psystrike;
pub mod scrapes;
pub mod seed;
pub mod servers;
pub mod shipped;
pub mod skipped;
pub mod tls;
#[cfg(feature = "tls")]
pub mod tls_client;
pub mod tls_pods;

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use skipped::skip;

/// Time limit of tests for events that should happen at once, on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The root folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
pub fn read(file: &str) -> String {
    let path = repository().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether every one of `programs` is installed. If not, the test is skipped ([`skipped::skip`]), and the caller
/// returns.
pub fn require_programs(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        skip(&format!("not installed: {}", missing.join(", ")));
    }
    missing.is_empty()
}

fn is_installed(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file())
}

/// The value of a variable that names a folder. If it is not set, skips as [`require_programs`] does.
pub fn require_variable(name: &str) -> Option<OsString> {
    let value = env::var_os(name);
    if value.is_none() {
        skip(&format!("the variable {name} is not set"));
    }
    value
}

/// Whether the tests run as root, for containers with limits and users that the image names. If not, skips as
/// [`require_programs`] does.
pub fn require_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// Whether this command succeeds here: a program may be installed but not permitted. If not, skips as
/// [`require_programs`] does.
pub fn require_working(command: &[&str]) -> bool {
    if !require_programs(&command[..1]) {
        return false;
    }
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        skip(&format!("not possible here: {}: {}", command.join(" "), why.trim_end()));
    }
    output.status.success()
}

/// Fails unless two sets, or lists without repetitions, have the same elements, and then names only those that differ:
/// those only in the first, and those only in the second. `what` names the comparison.
#[track_caller]
pub fn assert_same<T: Ord + std::fmt::Debug>(
    left: impl IntoIterator<Item = T>,
    right: impl IntoIterator<Item = T>,
    what: &str,
) {
    let (left, right): (BTreeSet<T>, BTreeSet<T>) = (left.into_iter().collect(), right.into_iter().collect());
    let only = |one: &BTreeSet<T>, other: &BTreeSet<T>| {
        one.difference(other).map(|element| format!("\n    {element:?}")).collect::<String>()
    };
    assert!(
        left == right,
        "{what}\n  only in the first:{}\n  only in the second:{}",
        only(&left, &right),
        only(&right, &left)
    );
}

/// Polls `now` until it is `enough`, for values without an event to wait for: `/proc`, a counter. `what` names the
/// value in the failure.
pub fn poll<T: std::fmt::Debug>(what: &str, now: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    poll_within(LIMIT, what, now, enough)
}

pub fn poll_within<T: std::fmt::Debug>(
    limit: Duration,
    what: &str,
    mut now: impl FnMut() -> T,
    enough: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let value = now();
        if enough(&value) {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: still {value:?} after {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the value of `read` once it no longer changes.
pub fn settled<T: Copy + PartialEq + std::fmt::Debug>(what: &str, read: impl Fn() -> T) -> T {
    let mut last = (read(), Instant::now());
    let now = || {
        let now = read();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now, last.1.elapsed())
    };
    poll(what, now, |(_, unchanged)| *unchanged > Duration::from_millis(200)).0
}

/// Writes directly to the standard error, as libtest captures the output of passing tests.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A temporary directory of one test, removed at its end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates the directory. `name` distinguishes it from those of other tests in the same process.
    pub fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir); // of an earlier process with the same id
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("cannot create {}: {e}", dir.display()));
        Self(dir)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.path(file);
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
