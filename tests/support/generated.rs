//! Files and parts of files that tests generate. With `PSYSTRIKE_WRITE=1` in its environment a test writes them.
//! Without, it fails if they are not current.

use std::{
    env, fs,
    sync::{Mutex, PoisonError},
};

use super::{read, repository};

/// Tests run side by side, and several may write to one file.
static FILES: Mutex<()> = Mutex::new(());

/// A whole file.
pub fn file(path: &str, source: &str, generated: &str) {
    let _alone = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    check(path, source, &fs::read_to_string(repository().join(path)).unwrap_or_default(), generated);
}

/// The part of a file between the line `<!-- Generated from SOURCE -->` and the next end of a generated part.
pub fn part(path: &str, source: &str, generated: &str) {
    let begin = format!("<!-- Generated from {source} -->\n\n");
    part_between(path, (&begin, "\n<!-- End of what is generated -->"), generated, source);
}

/// The part between two lines of a file. `source` names the source that it is generated from.
pub fn part_between(path: &str, (begin, end): (&str, &str), generated: &str, source: &str) {
    let _alone = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let text = read(path);
    let (before, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin:?} in {path}"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("no {end:?} in {path}"));
    check(path, source, &text, &[before, begin, generated, end, after].concat());
}

fn check(path: &str, source: &str, current: &str, generated: &str) {
    if env::var_os("PSYSTRIKE_WRITE").is_some() {
        return fs::write(repository().join(path), generated).expect("the file is writable");
    }
    let mut lines = current.lines().zip(generated.lines()).enumerate();
    let differs = lines.find(|(_, (current, generated))| current != generated);
    assert!(
        current == generated,
        "{path} is not what {source} says; run this test with PSYSTRIKE_WRITE=1 to write it. The first difference: \
         {differs:#?}"
    );
}
