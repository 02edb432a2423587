//! Puts the revision that is being built into `PSYSTRIKE_REVISION`: what the environment says (an image build
//! has no `.git`), else what git says, else `unknown`. And lays the static binary out for little memory.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=PSYSTRIKE_REVISION");
    // Both change with a commit. One that is missing has cargo look each time, as before a first commit.
    for path in ["HEAD", "logs/HEAD"].iter().filter_map(|path| git(&["rev-parse", "--git-path", path])) {
        println!("cargo::rerun-if-changed={path}");
    }
    let revision = env::var("PSYSTRIKE_REVISION")
        .ok()
        .filter(|r| !r.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PSYSTRIKE_REVISION={revision}");
    // The kernel maps a binary in aligned pieces of 64 KiB around what is touched. Where its parts begin on such a
    // piece, fewer of them are, some 40 KiB at start. On aarch64 they do anyway.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "musl") {
        // Two arguments, as C compilers and bare linkers alike take them; `-Wl,` is for the former only.
        println!("cargo::rustc-link-arg-bins=-z");
        println!("cargo::rustc-link-arg-bins=max-page-size=65536");
    }
}

/// What git says, where this is built in a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
