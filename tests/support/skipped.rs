//! Tests that are skipped: each prints `SKIPPED name: reason` past libtest's capture, and is noted in a file of this
//! run, from which the last test file (tests/zz_skipped.rs) prints all of them and their number.
//!
//! A run is one process of Cargo's: the parent of all test programs, known by its id and its start time.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    thread,
};

use procfs::process::Process;

use super::tell;

/// If this variable is `1`, a test that would be skipped fails.
const REQUIRE_ALL: &str = "PSYSTRIKE_REQUIRE_ALL";

/// Names test files that may be skipped even then, because .ci/run could not download what they need.
const MAY_SKIP: &str = "PSYSTRIKE_MAY_SKIP";

/// Reports that the test that calls this is skipped, for the caller to return.
pub fn skip(why: &str) {
    let line = format!("{}: {}", test(), why.replace('\n', " "));
    let may_skip = env::var(MAY_SKIP).unwrap_or_default();
    let is_required = env::var(REQUIRE_ALL).as_deref() == Ok("1");
    let is_exempt = may_skip.split(' ').any(|file| line.starts_with(&format!("{file}::")));
    assert!(!is_required || is_exempt, "{line}: {REQUIRE_ALL}=1 requires this test");
    tell(&format!("SKIPPED {line}"));
    let notes = notes();
    fs::create_dir_all(notes.parent().expect("a folder")).expect("the build folder is writable");
    let file = OpenOptions::new().create(true).append(true).open(notes);
    // One call, so that lines of several tests do not mix.
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("it is writable");
}

/// The program, and the test in it: libtest names its threads by the tests. (With `--test-threads=1` it has none.)
fn test() -> String {
    let program = env::current_exe().expect("a test runs from a file");
    let stem = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let file = stem.rsplit_once('-').map_or(stem.as_str(), |(file, _hash)| file);
    match thread::current().name() {
        Some(test) if test != "main" => format!("{file}::{test}"),
        _ => file.to_owned(),
    }
}

/// The file of this run.
fn notes() -> PathBuf {
    let parent = i32::try_from(parent_id()).expect("a process id");
    let since = Process::new(parent).and_then(|parent| parent.stat()).map_or(0, |stat| stat.starttime);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped").join(format!("{parent}-{since}"))
}

/// Returns the skipped tests of this run, each with its reasons, and removes the file.
pub fn take() -> BTreeMap<String, Vec<String>> {
    let notes = notes();
    let lines = fs::read_to_string(&notes).unwrap_or_default();
    // Also removes files of earlier runs that were interrupted.
    for entry in notes.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let runs = name.split('-').next().is_some_and(|id| Path::new("/proc").join(id).exists());
        if entry.path() == notes || !runs {
            let _ = fs::remove_file(entry.path());
        }
    }
    let mut skipped = BTreeMap::<String, Vec<String>>::new();
    for (test, why) in lines.lines().filter_map(|line| line.split_once(": ")) {
        let reasons = skipped.entry(test.to_owned()).or_default();
        if !reasons.iter().any(|known| known == why) {
            reasons.push(why.to_owned());
        }
    }
    skipped
}
