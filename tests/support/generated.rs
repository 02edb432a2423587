//! Files and parts of files that tests generate. With `PSYSTRIKE_WRITE=1` they are written; without, a test fails if
//! they are not current.

use std::{
    env, fs,
    sync::{Mutex, PoisonError},
};

use super::{read, repository};

/// Tests run side by side, and several may write to one file.
static FILES: Mutex<()> = Mutex::new(());

/// A whole file.
pub fn file(path: &str, test: &str, generated: &str) {
    let _alone = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    check(path, test, &fs::read_to_string(repository().join(path)).unwrap_or_default(), generated);
}

/// The part of a file between the line `<!-- Generated from SOURCE -->` and the next end of a generated part.
pub fn part(path: &str, test: &str, source: &str, generated: &str) {
    let _alone = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = format!("<!-- Generated from {source} -->\n");
    let text = read(path);
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no {begin:?} in {path}"));
    let (_, after) = rest.split_once("<!-- End of what is generated -->").expect("the part ends");
    let whole = [before, &begin, "\n", generated, "\n<!-- End of what is generated -->", after].concat();
    check(path, test, &text, &whole);
}

fn check(path: &str, test: &str, current: &str, generated: &str) {
    if env::var_os("PSYSTRIKE_WRITE").is_some() {
        return fs::write(repository().join(path), generated).expect("the file is writable");
    }
    let mut lines = current.lines().zip(generated.lines()).enumerate();
    let differs = lines.find(|(_, (current, generated))| current != generated);
    assert!(
        current == generated,
        "{path} is not current; PSYSTRIKE_WRITE=1 cargo test --test {test} writes it. The first difference: \
         {differs:#?}"
    );
}
