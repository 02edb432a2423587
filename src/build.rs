//! Puts the revision that is being built into `PSYSTRIKE_REVISION`: what the environment says (an image build
//! has no `.git`), else what git says, else `unknown`.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=PSYSTRIKE_REVISION");
    for changes_with_a_commit in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(changes_with_a_commit).exists() {
            println!("cargo::rerun-if-changed={changes_with_a_commit}");
        }
    }
    let revision = env::var("PSYSTRIKE_REVISION")
        .ok()
        .filter(|r| !r.is_empty())
        .or_else(git_revision)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PSYSTRIKE_REVISION={revision}");
}

fn git_revision() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
