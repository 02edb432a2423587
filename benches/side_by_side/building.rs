//! Builds psystrike in other ways than the release build, which cargo makes for every benchmark.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The static binary. Fails if the toolchain lacks the target.
pub(crate) fn static_musl() -> Result<PathBuf, String> {
    let target = format!("{}-unknown-linux-musl", env::consts::ARCH);
    build(&target_folder(), &["--target", &target], &[])?;
    Ok(target_folder().join(target).join("release/psystrike"))
}

/// The exporter in benches/exporter, in this folder. Fails if Go is not installed.
pub(crate) fn exporter(folder: &Path) -> Result<PathBuf, String> {
    let binary = folder.join("exporter");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/exporter/exporter.go");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&binary).arg(source).env("GOTOOLCHAIN", "local");
    let output = go.output().map_err(|error| format!("go: {error}"))?;
    if output.status.success() { Ok(binary) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}

/// The release build with symbols, in its own folder.
pub(crate) fn with_symbols() -> Result<PathBuf, String> {
    let folder = target_folder().join("symbols");
    let left_in =
        [("CARGO_PROFILE_RELEASE_STRIP", "none"), ("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")];
    build(&folder, &[], &left_in)?;
    Ok(folder.join("release/psystrike"))
}

/// The target folder of this build.
fn target_folder() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_psystrike")).ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
}

fn build(target: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--locked", "--bin", "psystrike"]).args(arguments);
    cargo
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .envs(variables.iter().copied());
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find(|line| line.starts_with("error")).unwrap_or("cargo build failed");
    if output.status.success() { Ok(()) } else { Err(error.to_owned()) }
}
