//! How much memory the kernel grants this process before it kills it: the limit of its cgroup, or of one above that,
//! whichever is least. Both versions of cgroups; containers mount their own part of the tree as if it were all of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Limits from here on are none: version 1 has the largest number of pages there is where nothing was set.
const NO_LIMIT: u64 = 1 << 60;

/// The memory limit in bytes. `None`: there is none, or it cannot be read.
#[cold]
pub fn memory_limit() -> Option<u64> {
    let [mounts, own] = ["mountinfo", "cgroup"].map(|name| fs::read_to_string(format!("/proc/self/{name}")));
    least(&mounts.ok()?, &own.ok()?, |file| fs::read_to_string(file).ok())
}

/// The least limit by `/proc/self/mountinfo` (proc_pid_mountinfo(5)) and `/proc/self/cgroup` (cgroups(7)).
fn least(mounts: &str, own: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let files = mounts.lines().filter_map(|mount| folder(mount, own)).flat_map(|(top, folder, file)| {
        let folders: Vec<PathBuf> = folder
            .ancestors()
            .take_while(|above| above.starts_with(&top))
            .map(|above| above.join(file))
            .collect();
        folders
    });
    let limits = files.filter_map(|file| read(&file)?.trim().parse().ok()); // `max` is no number
    limits.filter(|&limit: &u64| limit < NO_LIMIT).min()
}

/// For one mount, if it has the memory of cgroups: where it is, where our own cgroup is below it, and the name of the
/// file with its limit.
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
    // Where only a part of the tree is mounted, and that is not above us, its top is what we see of our own.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let folder = top.join(below);
    Some((top, folder, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_up_is_found() {
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
            assert_eq!(least(mounts, own, read), expected, "{mounts} with {own}");
        }
    }
}
