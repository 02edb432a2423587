//! Prints the skipped tests at the end of `cargo test`: Cargo runs test files in the order of their names, and this is
//! the last.

mod support;

use std::fs;

use support::{repository, skipped, tell};

#[test]
fn the_skipped_tests_are_listed() {
    let files = fs::read_dir(repository().join("tests")).expect("the folder of the tests");
    let names = files.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let last = names.filter(|name| name.ends_with(".rs")).max();
    assert_eq!(
        last.as_deref(),
        Some("zz_skipped.rs"),
        "it runs after this file, so its skipped tests are not counted"
    );

    let skipped = skipped::take();
    for (test, reasons) in &skipped {
        tell(&format!("SKIPPED {test}: {}", reasons.join("; ")));
    }
    tell(&format!("SKIPPED in total: {}", skipped.len()));
}
