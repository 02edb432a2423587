//! Files that are read again when they change, such as secrets and certificates.
//!
//! Owns when a file counts as changed, and what happens if its new content cannot be used: the old one stays in effect,
//! the log says why, and a gauge says that. Never knows what the content means.
//!
//! A file is checked by what its path leads to, every few seconds. Kubernetes replaces the files of a Secret by
//! replacing a symbolic link to their folder, which an inotify watch of the file would not see.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use log::{info, warn};

use crate::proxy::metrics::ReloadStatus;

/// How often files are checked.
const INTERVAL: Duration = Duration::from_secs(3);

/// Uses the contents of files, in the order of their paths, and returns a description of them for the log. If it fails,
/// it has changed nothing. Neither the description nor the error may have anything secret.
pub type Apply = Box<dyn FnMut(&[Vec<u8>]) -> Result<String, String>>;

/// As [`Apply`], for files that are known only from the content of another. Its errors name the file.
pub type ApplyAny = Box<dyn FnMut(&mut FileReader<'_>) -> Result<String, String>>;

/// All files that are read again when they change.
#[derive(Default)]
pub struct Reloads {
    all: Vec<Reload>,
    checked: Option<Instant>,
}

/// The files that are used together, such as a certificate and its key.
struct Reload {
    files: Vec<WatchedFile>,
    bytes_max: usize,
    apply: ApplyAny,
    status: Arc<ReloadStatus>,
    /// The error that was logged last, while it lasts.
    error: Option<String>,
}

impl Reloads {
    /// Reads the files of an option for the first time, and watches them from now on.
    ///
    /// # Errors
    /// The option, the file and the fault.
    pub fn load(
        &mut self,
        option: &'static str,
        paths: &[PathBuf],
        bytes_max: usize,
        mut apply: Apply,
    ) -> Result<(), String> {
        let paths = paths.to_vec();
        let apply = move |reader: &mut FileReader<'_>| {
            let mut contents = Vec::with_capacity(paths.len());
            for path in &paths {
                contents.push(reader.read(path)?);
            }
            let paths = || paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
            apply(&contents).map_err(|error| format!("{}: {error}", paths().join(", ")))
        };
        self.load_any(option, bytes_max, Box::new(apply))
    }

    /// As [`Self::load`], for all files that `apply` reads.
    ///
    /// # Errors
    /// The option, the file and the fault.
    pub fn load_any(
        &mut self,
        option: &'static str,
        bytes_max: usize,
        apply: ApplyAny,
    ) -> Result<(), String> {
        let status = Arc::new(ReloadStatus::new(option));
        let mut reload = Reload { files: Vec::new(), bytes_max, apply, status, error: None };
        let description = reload.load(true).map_err(|error| format!("{option} {error}"))?;
        reload.succeeded(&description);
        self.all.push(reload);
        self.checked = Some(Instant::now());
        Ok(())
    }

    /// Returns the state of each option's files, for `/metrics`.
    pub fn statuses(&self) -> Vec<Arc<ReloadStatus>> {
        self.all.iter().map(|reload| Arc::clone(&reload.status)).collect()
    }

    /// Returns when [`Self::check`] is due. `None`: there are no files.
    pub fn next_check(&self) -> Option<Instant> {
        self.checked.map(|at| at + INTERVAL)
    }

    /// Reads the files that changed.
    pub fn check(&mut self) {
        self.checked = self.checked.map(|_| Instant::now());
        self.all.iter_mut().filter(|reload| reload.has_changed()).for_each(Reload::reload);
    }

    /// Reads all files, changed or not.
    pub fn reload(&mut self) {
        self.all.iter_mut().for_each(|reload| {
            reload.error = None; // who asks for it gets an answer
            reload.reload();
        });
    }

    /// Returns whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Reload {
    /// Returns whether a file changed, or the last attempt failed: the reason may have been temporary.
    fn has_changed(&self) -> bool {
        self.error.is_some() || self.files.iter().any(WatchedFile::has_changed)
    }

    /// Reads the files. The first reading may wait for the writer of a pipe; nothing later may wait.
    fn load(&mut self, may_wait: bool) -> Result<String, String> {
        self.files.clear();
        let mut reader = FileReader { files: &mut self.files, bytes_max: self.bytes_max, may_wait };
        (self.apply)(&mut reader)
    }

    fn reload(&mut self) {
        if self.files.iter().any(|file| is_special(&file.path)) {
            return;
        }
        match self.load(false) {
            Ok(description) => self.succeeded(&description),
            Err(error) => self.failed(error),
        }
    }

    fn succeeded(&mut self, description: &str) {
        self.error = None;
        self.status.succeeded(SystemTime::now());
        info!(option = self.status.option(); "read {description}");
    }

    fn failed(&mut self, error: String) {
        self.status.failed();
        if self.error.as_ref() != Some(&error) {
            warn!(option = self.status.option(); "cannot reload; the old content stays in effect: {error}");
            self.error = Some(error);
        }
    }
}

/// A file, and the version of it that was read; `None` if it could not be read.
struct WatchedFile {
    path: PathBuf,
    version: Option<Version>,
}

/// Reads files that are watched from then on.
pub struct FileReader<'r> {
    files: &'r mut Vec<WatchedFile>,
    bytes_max: usize,
    may_wait: bool,
}

impl FileReader<'_> {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The file and the fault.
    #[inline(never)]
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let read = if self.may_wait || !is_special(path) {
            read(path, self.bytes_max)
        } else {
            Err(io::Error::other("not a regular file"))
        };
        let (content, version) = match read {
            Ok((content, version)) => (Ok(content), Some(version)),
            Err(error) => (Err(format!("{}: {error}", path.display())), None),
        };
        self.files.push(WatchedFile { path: path.to_owned(), version });
        content
    }
}

/// Tells two versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl WatchedFile {
    fn has_changed(&self) -> bool {
        version(&self.path).ok() != self.version
    }
}

/// Returns whether the path leads to a pipe or a device, which has no versions.
fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Reads a whole file. If it changes meanwhile, the next check sees that.
fn read(path: &Path, bytes_max: usize) -> io::Result<(Vec<u8>, Version)> {
    let file = File::open(path)?;
    let opened = Version::of(&file.metadata()?);
    let mut content = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut content)?;
    if content.len() > bytes_max {
        return Err(io::Error::other(format!("over {bytes_max} bytes")));
    }
    Ok((content, opened))
}

/// Returns the version of the file that a path leads to.
fn version(path: &Path) -> io::Result<Version> {
    path.metadata().map(|metadata| Version::of(&metadata))
}

#[cfg(test)]
mod tests {
    use std::{env, fs, os::unix::fs::symlink, process, sync::Mutex};

    use super::*;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("psystrike-files-{name}-{}", process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// What was applied, in order. A content that begins with `!` is refused.
    type Applied = Arc<Mutex<Vec<String>>>;

    fn loaded(paths: &[PathBuf]) -> Result<(Reloads, Applied), String> {
        let applied = Applied::default();
        let log = Arc::clone(&applied);
        let apply = move |contents: &[Vec<u8>]| {
            let text = String::from_utf8(contents.join(&b'|')).expect("a text");
            if text.starts_with('!') {
                return Err("refused".to_owned());
            }
            log.lock().expect("a lock").push(text);
            Ok("it".to_owned())
        };
        let mut reloads = Reloads::default();
        reloads.load("--file", paths, 16, Box::new(apply))?;
        Ok((reloads, applied))
    }

    fn applied(applied: &Applied) -> String {
        applied.lock().expect("a lock").join(" ")
    }

    #[test]
    fn every_way_to_change_a_file_is_seen_once() {
        let folder = Folder::new("ways");
        let path = |name: &str| folder.0.join(name);
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(path(version)).expect("a folder");
            fs::write(path(version).join("token"), text).expect("written");
        }
        symlink("v1", path("..data")).expect("a link");
        symlink("..data/token", path("token")).expect("a link");
        let (mut reloads, log) = loaded(&[path("token")]).expect("loaded");
        reloads.check();
        assert_eq!(applied(&log), "one", "nothing changed");
        // As Kubernetes does it.
        symlink("v2", path("..new")).expect("a link");
        fs::rename(path("..new"), path("..data")).expect("renamed");
        reloads.check();
        reloads.check();
        assert_eq!(applied(&log), "one two");
        fs::write(path("v2/token"), "three").expect("written");
        reloads.check();
        fs::write(path("v2/new"), "four").expect("written");
        fs::rename(path("v2/new"), path("v2/token")).expect("renamed");
        reloads.check();
        reloads.check();
        assert_eq!(applied(&log), "one two three four");
        reloads.reload();
        assert_eq!(applied(&log), "one two three four four", "asked for");
    }

    #[test]
    fn what_cannot_be_used_changes_nothing_until_it_can() {
        let folder = Folder::new("faults");
        let path = folder.0.join("token");
        fs::write(&path, "one").expect("written");
        let (mut reloads, log) = loaded(std::slice::from_ref(&path)).expect("loaded");
        let status = Arc::clone(&reloads.statuses()[0]);
        let mut check = |expected: bool, why: &str| {
            reloads.check();
            assert_eq!(status.is_successful(), expected, "{why}");
        };
        check(true, "unchanged");
        fs::write(&path, "!").expect("written");
        check(false, "refused");
        fs::write(&path, "x".repeat(17)).expect("written");
        check(false, "too long");
        fs::remove_file(&path).expect("removed");
        check(false, "missing");
        fs::create_dir(&path).expect("a folder");
        check(false, "no file");
        fs::remove_dir(&path).expect("removed");
        fs::write(&path, "two").expect("written");
        check(true, "back");
        assert_eq!(applied(&log), "one two");
    }

    #[test]
    fn files_of_one_option_are_read_together() {
        let folder = Folder::new("pair");
        let paths = ["certificate", "key"].map(|name| folder.0.join(name));
        paths.iter().for_each(|path| fs::write(path, "a").expect("written"));
        let (mut reloads, log) = loaded(&paths).expect("loaded");
        fs::write(&paths[1], "bb").expect("written");
        reloads.check();
        assert_eq!(applied(&log), "a|a a|bb");
    }

    #[test]
    fn the_first_reading_has_to_succeed() {
        let folder = Folder::new("first");
        let path = folder.0.join("token");
        let error = |paths: &[PathBuf]| loaded(paths).err().expect("an error");
        let shown = path.display();
        let missing = format!("--file {shown}: No such file or directory (os error 2)");
        assert_eq!(error(std::slice::from_ref(&path)), missing);
        fs::write(&path, "!").expect("written");
        assert_eq!(error(std::slice::from_ref(&path)), format!("--file {shown}: refused"));
    }
}
