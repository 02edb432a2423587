//! Podman and buildah, with their own settings and storage for each test.

use std::{
    env, fs,
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

use super::Scratch;

/// Runs a command, which must succeed; returns its stdout and stderr.
pub fn succeed(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    (stdout.trim_end().to_owned(), stderr)
}

/// Podman and buildah. When dropped, ends the pods and containers before their storage is removed.
pub struct Podman<'s> {
    pub scratch: &'s Scratch,
    /// A short path: podman accepts no long one for the state of running containers.
    run: PathBuf,
}

impl<'s> Podman<'s> {
    pub fn new(scratch: &'s Scratch) -> Self {
        // runc, because crun wants no hybrid of cgroups v1 and v2; no systemd, because there may be none.
        let configuration = "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=4096:4096\"]\n\
                             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        let configuration = scratch.write("containers.conf", configuration);
        let run = env::temp_dir().join(format!("psystrike-{}", std::process::id()));
        // Wrapper programs, so that scripts can call them too. The test runs health checks itself, instead of a systemd
        // timer.
        for (program, more) in
            [("podman", format!("--tmpdir {}/libpod", run.display())), ("buildah", String::new())]
        {
            let script = format!(
                "#!/bin/sh\nexport CONTAINERS_CONF={} DISABLE_HC_SYSTEMD=true\n\
                 exec {program} --storage-driver vfs --root {} --runroot {} {more} \"$@\"\n",
                configuration.display(),
                scratch.path("storage").display(),
                run.display()
            );
            let path = scratch.write(&own(program), &script);
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("the file is writable");
        }
        Self { scratch, run }
    }

    /// Returns one of the two programs. A script with the scratch folder in its `PATH` calls them `own-podman` and
    /// `own-buildah`.
    pub fn command(&self, program: &str) -> Command {
        Command::new(self.scratch.path(&own(program)))
    }

    pub fn podman(&self, arguments: &[&str]) -> String {
        succeed(self.command("podman").args(arguments)).0
    }

    pub fn inspect(&self, kind: &str, name: &str) -> Value {
        let said = self.podman(&["inspect", "--type", kind, name]);
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        said[0].clone()
    }

    pub fn exit_status(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command("podman").args(arguments).output().expect("podman starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        for all in [&["pod", "rm"][..], &["rm"]] {
            let _ = self.command("podman").args(all).args(["--all", "--force", "--time", "0"]).output();
        }
        let _ = fs::remove_dir_all(&self.run);
    }
}

fn own(program: &str) -> String {
    format!("own-{program}")
}
