//! A memory cgroup of a test, version 1 or 2, for a program that runs under a limit.
//!
//! A process enters the group by a shell that writes its own process id into it and then executes the program: all
//! memory of the program is counted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{poll, skipped::skip};

/// The version, which determines the files of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group with a limit. Removed when dropped, which waits for its processes to end.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    version: Version,
}

impl Cgroup {
    /// Creates a group with a memory limit in bytes, without swap. `None` if that is not possible: the test is then
    /// skipped as by [`super::require_programs`].
    pub fn with_memory(bytes: u64) -> Option<Self> {
        let made = parents().into_iter().map(|(parent, version)| Self::make(&parent, version, bytes));
        let mut errors = Vec::new();
        for made in made {
            match made {
                Ok(group) => return Some(group),
                Err(error) => errors.push(error),
            }
        }
        skip(&format!("cannot create a memory cgroup: {}", errors.join("; ")));
        None
    }

    fn make(parent: &Path, version: Version, bytes: u64) -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("psystrike-test-{}-{number}", std::process::id()));
        if version == Version::Two {
            // Fails where the parent has processes, or delegates nothing to us.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let group = Self { folder, version };
        let (limit, swap) = match version {
            Version::One => ("memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", bytes.to_string())),
            Version::Two => ("memory.max", ("memory.swap.max", "0".to_owned())),
        };
        group.write(limit, &bytes.to_string())?;
        let _ = group.write(swap.0, &swap.1); // a kernel without swap accounting has no such file
        Ok(group)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn read(&self, file: &str) -> String {
        let path = self.folder.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Returns a command that enters the group and then executes the program in the arguments after it, for
    /// [`super::psystrike::Psystrike::start_under`].
    pub fn wrapper(&self) -> [String; 3] {
        let procs = self.folder.join("cgroup.procs");
        let enter = format!("echo $$ > '{}' && exec \"$0\" \"$@\"", procs.display());
        ["sh".to_owned(), "-c".to_owned(), enter]
    }

    /// Returns the current memory of the group in bytes, including the kernel's memory for it. Version 1 does not count
    /// the contents of socket buffers here.
    pub fn usage(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        number(&self.read(file))
    }

    /// Returns the maximum memory that it used. Kernels before 5.19 do not have it for version 2.
    pub fn peak(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        number(&self.read(file))
    }

    /// Returns how many of its processes the OOM killer killed.
    pub fn kills(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = self.read(file);
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.map_or(0, number)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let folder = &self.folder;
        if std::thread::panicking() {
            let _ = fs::remove_dir(folder);
            return;
        }
        // A process that has just ended may still be in it.
        let removed = || fs::remove_dir(folder).map_err(|error| error.to_string());
        poll("the end of a cgroup", removed, Result::is_ok).expect("it is removed");
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|error| panic!("{text:?} is not a number: {error}"))
}

/// Folders in which a group can be created: the test's own group, and that of the whole machine.
fn parents() -> Vec<(PathBuf, Version)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    for mount in mounts.lines() {
        let words: Vec<&str> = mount.split(' ').collect();
        let [_, at, kind, options, ..] = words[..] else { continue };
        let version = match kind {
            "cgroup" if options.split(',').any(|option| option == "memory") => Version::One,
            "cgroup2" => Version::Two,
            _ => continue,
        };
        // proc_pid_cgroup(5): hierarchy:controllers:path, and for version 2 no controllers.
        let path = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_it = match version {
                Version::One => controllers.split(',').any(|controller| controller == "memory"),
                Version::Two => controllers.is_empty(),
            };
            is_it.then_some(path)
        });
        let at = Path::new(at);
        if let Some(path) = path.map(|path| path.trim_start_matches('/')).filter(|path| !path.is_empty()) {
            parents.push((at.join(path), version));
        }
        parents.push((at.to_owned(), version));
    }
    parents
}
