//! The memory limit at which the kernel kills this process: the lowest among its cgroup and that cgroup's ancestors.
//! Supports cgroups v1 and v2; containers mount their own part of the tree as if it were all of it.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Values from this on mean that there is no limit: without one, version 1 reports the largest number of bytes in whole
/// pages.
const NO_LIMIT: u64 = 1 << 60;

/// More than `memory.stat` has ever had before the lines that are read here.
const STAT_BYTES: usize = 4096;

/// Returns the memory limit in bytes. `None`: no limit, or it cannot be read.
pub fn memory_limit() -> Option<u64> {
    limit_and_folder().map(|(limit, _)| limit)
}

fn limit_and_folder() -> Option<(u64, PathBuf)> {
    let [mounts, own] = ["mountinfo", "cgroup"].map(|name| fs::read_to_string(format!("/proc/self/{name}")));
    least(&mounts.ok()?, &own.ok()?, |file| fs::read_to_string(file).ok())
}

/// Compares the memory that the kernel cannot reclaim, including socket buffers, with the limit: only such memory leads
/// to an OOM kill. Supports cgroups v2 only, as v1 does not count socket buffers towards its limit.
#[derive(Debug)]
pub struct Pressure {
    stat: File,
    limit: u64,
}

impl Pressure {
    /// Watches the cgroup that has the [`memory_limit`]. `None` without a limit, or with version 1. Uses one
    /// descriptor.
    pub fn watch() -> Option<Self> {
        let (limit, folder) = limit_and_folder()?;
        let stat = File::open(folder.join("memory.stat")).ok()?;
        let pressure = Self { stat, limit };
        pressure.bytes().map(|_| pressure)
    }

    /// Returns whether more than seven eighths of the limit are in use.
    pub fn is_high(&self) -> bool {
        self.bytes().is_some_and(|bytes| bytes > self.limit / 8 * 7)
    }

    fn bytes(&self) -> Option<u64> {
        let mut text = [0; STAT_BYTES];
        let read = self.stat.read_at(&mut text, 0).ok()?;
        let text = &text[..read];
        let whole = text.iter().rposition(|&byte| byte == b'\n')?;
        unreclaimable(str::from_utf8(&text[..whole]).ok()?)
    }
}

/// Adds up the unreclaimable parts of `memory.stat` (Documentation/admin-guide/cgroup-v2.rst): `anon`, `sock` and,
/// since 5.18, `kernel`. Excludes pages of files, which can be read again. `None` for version 1, which has no such
/// lines.
fn unreclaimable(stat: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let value = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse::<u64>().ok())
    };
    Some(bytes("anon")? + bytes("sock")? + bytes("kernel").unwrap_or(0))
}

/// Returns the lowest limit by `/proc/self/mountinfo` (proc_pid_mountinfo(5)) and `/proc/self/cgroup` (cgroups(7)).
fn least(mounts: &str, own: &str, read: impl Fn(&Path) -> Option<String>) -> Option<(u64, PathBuf)> {
    let files = mounts.lines().filter_map(|mount| folder(mount, own)).flat_map(|(top, folder, file)| {
        let folders: Vec<PathBuf> = folder
            .ancestors()
            .take_while(|above| above.starts_with(&top))
            .map(|above| above.join(file))
            .collect();
        folders
    });
    // `max` does not parse.
    let limits =
        files.filter_map(|file| Some((read(&file)?.trim().parse().ok()?, file.parent()?.to_owned())));
    limits.filter(|(limit, _): &(u64, _)| *limit < NO_LIMIT).min()
}

/// Parses one mount. If it has the memory controller, returns its mount point, the folder of our own cgroup below it,
/// and the name of the file with the limit.
fn folder(mount: &str, own: &str) -> Option<(PathBuf, PathBuf, &'static str)> {
    let (mount, kind) = mount.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (kind, options) = (kind.next()?, kind.nth(1)?);
    let (file, controller) = match kind {
        "cgroup2" => ("memory.max", ""),
        "cgroup" if options.split(',').any(|option| option == "memory") => {
            ("memory.limit_in_bytes", "memory")
        }
        _ => return None,
    };
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|known| known == controller).then_some(path)
    })?;
    let mut words = mount.split(' ').skip(3);
    let (root, top) = (words.next()?, PathBuf::from(words.next()?));
    // Where only a part of the tree is mounted and that part does not contain our cgroup, its top is our own.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let folder = top.join(below);
    Some((top, folder, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_a_cgroup_and_its_ancestors_is_found() {
        const TWO: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        const ONE: &str = "\
            36 25 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            37 25 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        const PART: &str = "37 25 0:32 /docker/1f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let two = "/sys/fs/cgroup/";
        let one = "/sys/fs/cgroup/memory/";
        for (mounts, own, files, expected) in [
            (TWO, "0::/", &[(two, "memory.max", "33554432\n")][..], Some(33_554_432)),
            (TWO, "0::/", &[(two, "memory.max", "max\n")], None),
            (TWO, "0::/", &[], None),
            (
                TWO,
                "0::/a/b",
                &[("/sys/fs/cgroup/a/b/", "memory.max", "200"), (two, "memory.max", "900")],
                Some(200),
            ),
            (
                TWO,
                "0::/a/b",
                &[("/sys/fs/cgroup/a/b/", "memory.max", "max"), ("/sys/fs/cgroup/a/", "memory.max", "70")],
                Some(70),
            ),
            (
                ONE,
                "4:memory:/a\n1:cpu:/",
                &[
                    ("/sys/fs/cgroup/memory/a/", "memory.limit_in_bytes", "800"),
                    (one, "memory.limit_in_bytes", "9223372036854771712"),
                ],
                Some(800),
            ),
            (ONE, "4:memory:/", &[(one, "memory.limit_in_bytes", "9223372036854771712")], None),
            (ONE, "4:cpu,memory:/", &[(one, "memory.limit_in_bytes", "17")], Some(17)),
            (ONE, "1:cpu:/", &[(one, "memory.limit_in_bytes", "17")], None),
            (PART, "4:memory:/docker/1f", &[(one, "memory.limit_in_bytes", "500")], Some(500)),
            (
                PART,
                "4:memory:/docker/1f/in",
                &[
                    ("/sys/fs/cgroup/memory/in/", "memory.limit_in_bytes", "5"),
                    (one, "memory.limit_in_bytes", "500"),
                ],
                Some(5),
            ),
            (PART, "4:memory:/", &[(one, "memory.limit_in_bytes", "500")], Some(500)),
            ("nonsense", "0::/", &[(two, "memory.max", "1")], None),
        ] {
            let read = |file: &Path| {
                let known = |(folder, name, _): &&(&str, &str, &str)| Path::new(folder).join(name) == file;
                files.iter().find(known).map(|(_, _, text)| (*text).to_owned())
            };
            let found = least(mounts, own, read);
            assert_eq!(found.as_ref().map(|(limit, _)| *limit), expected, "{mounts} with {own}");
            let at = |(limit, folder): (u64, PathBuf)| {
                files
                    .iter()
                    .any(|(known, _, text)| folder == Path::new(known) && text.trim() == limit.to_string())
            };
            assert!(found.is_none_or(at), "{mounts} with {own}: the folder is that of the limit");
        }
    }

    #[test]
    fn socket_buffers_are_counted_and_file_pages_are_not() {
        for (stat, expected) in [
            ("anon 100\nfile 7000\nkernel 30\nkernel_stack 9\npercpu 1\nsock 5\nshmem 0", Some(135)),
            ("anon 100\nfile 7000\nkernel_stack 9\nsock 5", Some(105)),
            ("cache 1\nrss 100\nmapped_file 3", None),
            ("", None),
        ] {
            assert_eq!(unreclaimable(stat), expected, "{stat:?}");
        }
    }
}
