//! The `rust-version` of the manifest: this Rust builds psystrike. The tests themselves may need a newer one.

mod support;

use std::{path::Path, process::Command};

use support::{repository, require_working};

#[test]
fn the_oldest_rust_of_the_manifest_builds_psystrike() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    // Installed by .ci/run: a test downloads nothing.
    if !require_working(&["rustup", "run", oldest, "cargo", "--version"]) {
        return;
    }
    let mut cargo = Command::new("rustup");
    cargo.args(["run", oldest, "cargo", "check", "--locked", "--quiet", "--target-dir"]);
    cargo.arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("oldest"));
    let checked = cargo.current_dir(repository()).env_remove("LD_LIBRARY_PATH").output().expect("it starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
