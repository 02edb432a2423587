//! Sets `PSYSTRIKE_REVISION` to the revision being built: the environment variable if set (an image build has no
//! `.git`), else the commit that git reports, else `unknown`. Also aligns the static binary's segments to save memory.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=PSYSTRIKE_REVISION");
    // Both change with a commit. If one is missing, as before the first commit, cargo reruns this script on every
    // build.
    for path in ["HEAD", "logs/HEAD"].iter().filter_map(|path| git(&["rev-parse", "--git-path", path])) {
        println!("cargo::rerun-if-changed={path}");
    }
    let revision = env::var("PSYSTRIKE_REVISION")
        .ok()
        .filter(|r| !r.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PSYSTRIKE_REVISION={revision}");
    // The kernel maps a binary in aligned 64 KiB pieces around each touched page. Segments that start on such a
    // boundary need fewer pieces, which saves some 40 KiB at start. On aarch64 they start there anyway.
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "musl") {
        // Two arguments, which C compilers and bare linkers both accept; only compilers accept `-Wl,`.
        println!("cargo::rustc-link-arg-bins=-z");
        println!("cargo::rustc-link-arg-bins=max-page-size=65536");
    }
}

/// Runs git and returns its output; `None` outside a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
