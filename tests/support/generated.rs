//! Parts of files that tests generate. With `PSYSTRIKE_WRITE=1` in its environment a test writes them. Without, it
//! fails if they are not current.

use std::{env, fs};

use super::{read, repository};

/// Writes the part between two lines of a file, or checks that it is current. `source` is what it is generated from.
pub fn part_between(file: &str, (begin, end): (&str, &str), generated: &str, source: &str) {
    let text = read(file);
    let (before, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin:?} in {file}"));
    let (current, after) = rest.split_once(end).unwrap_or_else(|| panic!("no {end:?} in {file}"));
    if env::var_os("PSYSTRIKE_WRITE").is_some() {
        let text = [before, begin, generated, end, after].concat();
        fs::write(repository().join(file), text).expect("the file is writable");
        return;
    }
    let differs = current.lines().zip(generated.lines()).find(|(current, generated)| current != generated);
    assert!(
        current == generated,
        "{file} is not what {source} says; run this test with PSYSTRIKE_WRITE=1 to write it. The first difference: \
         {differs:#?}"
    );
}
