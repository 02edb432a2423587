//! Replays the corpus of the fuzz targets (tests/fuzz): every input that once passed its checks still passes.

#[path = "fuzz/checks.rs"]
mod checks;

use std::{fs, path::Path};

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a folder that can be listed").path();
        let bytes = fs::read(&path).expect("a file that can be read");
        let shown = Shown(&path);
        check(&bytes);
        drop(shown);
        replayed += 1;
    }
    assert!(replayed >= 10, "{target}: only {replayed} inputs");
}

/// Names the file if a check panics.
struct Shown<'p>(&'p Path);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing input: {}", self.0.display());
        }
    }
}

#[test]
fn request_heads() {
    replay("request_head", checks::request_head);
}

#[test]
fn response_heads() {
    replay("response_head", checks::response_head);
}

#[test]
fn bodies() {
    replay("body", checks::body);
}

#[test]
fn rewriting() {
    replay("rewrite", checks::rewrite);
}

#[test]
fn routes() {
    replay("route", checks::route);
}

#[test]
fn destinations() {
    replay("destinations", checks::destinations);
}

#[test]
fn credentials() {
    replay("credentials", checks::credentials);
}

#[cfg(feature = "web-config")]
#[test]
fn web_configurations() {
    replay("web_config", checks::web_config);
}

#[test]
fn configurations() {
    replay("config", checks::config);
}
