//! Sets `PSYSTRIKE_REVISION` to the revision being built: the environment variable if set (an image build has no
//! `.git`), or else the commit that git reports, or else `unknown`. Also aligns and orders parts of the static
//! binary, to save memory.

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
    // At a page fault, the kernel maps the page and its neighbours, in aligned blocks of 64 KiB. The start of a segment
    // decides how many of these pages are never used. On x86_64 these boundaries cost less memory at start than 4 KiB
    // or 64 KiB (PERF.md). On aarch64 the linker's default stays: kernels may have pages of 64 KiB there.
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|is| is == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        // Two arguments, which C compilers and bare linkers both accept; only compilers accept `-Wl,`.
        println!("cargo::rustc-link-arg-bins=-z");
        println!("cargo::rustc-link-arg-bins=max-page-size=16384");
        if env::var_os("CARGO_FEATURE_TLS").is_some() {
            println!("cargo::rerun-if-changed=src/tls.ld");
            println!("cargo::rustc-link-arg-bins=-T");
            println!("cargo::rustc-link-arg-bins={}/src/tls.ld", env!("CARGO_MANIFEST_DIR"));
        }
    }
}

/// Runs git and returns its output; `None` outside a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
