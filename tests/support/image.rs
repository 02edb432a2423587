//! Builds the image of the Dockerfile without its base image: the Dockerfile's commands build the binary, buildah
//! builds the image from an empty base and that binary, and podman runs it.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    LIMIT,
    podman::{Podman, succeed},
    program::Program,
    read, repository, require_programs, require_root, require_working,
};

pub const REVISION: &str = "0123456789ab";
pub const SOURCE: &str = "https://source.example/psystrike";
pub const IMAGE: &str = "localhost/psystrike:latest";

/// The name of an instruction and its arguments, on one line.
pub type Instruction = (String, String);

/// The instructions of one stage, its `FROM` first.
pub type Stage = Vec<Instruction>;

pub struct Dockerfile {
    /// `ARG`s before the first stage.
    pub arguments: BTreeMap<String, String>,
    pub stages: Vec<Stage>,
}

impl Dockerfile {
    pub fn read() -> Self {
        let text = read("Dockerfile");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let text = lines.join("\n").replace("\\\n", " ");
        let mut file = Self { arguments: BTreeMap::new(), stages: Vec::new() };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, rest) =
                line.split_once(' ').unwrap_or_else(|| panic!("{line:?} is not an instruction"));
            let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
            match (name, file.stages.last_mut()) {
                ("FROM", _) => file.stages.push(vec![(name.to_owned(), rest)]),
                ("ARG", None) => file.arguments.extend([key_and_value(&rest)]),
                (_, Some(stage)) => stage.push((name.to_owned(), rest)),
                (_, None) => panic!("{line:?} before any FROM"),
            }
        }
        file
    }

    /// Returns the stage `name`, after all stages that it is based on.
    pub fn stages_to(&self, name: &str, variables: &BTreeMap<String, String>) -> Vec<&Stage> {
        let named = |stage: &&Stage| stage[0].1.ends_with(&format!(" AS {name}"));
        let Some(stage) = self.stages.iter().find(named) else { return Vec::new() };
        let words = stage[0].1.split(' ').filter(|word| !word.starts_with("--"));
        let base = expand(words.clone().next().unwrap_or_default(), variables);
        let mut stages = self.stages_to(&base, variables);
        stages.push(stage);
        stages
    }

    pub fn last_stage(&self) -> &Stage {
        self.stages.last().expect("it has a stage")
    }
}

pub fn key_and_value(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.trim_matches('"').to_owned())
}

/// Replaces `$NAME` by its value, as Docker does.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut parts = text.split('$');
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let length = part.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let (name, rest) = part.split_at(length);
        expanded += variables.get(name).unwrap_or_else(|| panic!("${name} in {text:?} is not set"));
        expanded += rest;
    }
    expanded
}

/// Returns destination and sources of a `COPY` from the build context.
pub fn copy(rest: &str) -> (Vec<&str>, &str) {
    let mut words: Vec<&str> = rest.split(' ').collect();
    let to = words.pop().expect("COPY has arguments");
    (words, to)
}

pub fn all<'s>(stage: &'s Stage, name: &'s str) -> impl Iterator<Item = &'s str> {
    stage.iter().filter(move |(known, _)| known == name).map(|(_, rest)| rest.as_str())
}

pub fn only<'s>(stage: &'s Stage, name: &'s str) -> &'s str {
    let found: Vec<&str> = all(stage, name).collect();
    assert_eq!(found.len(), 1, "{name} in {stage:?}");
    found[0]
}

/// Returns this machine's architecture, in the terms of Docker and of Rust.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
pub const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" };

/// The values of the Dockerfile's `FEATURES`.
pub const WITH_TLS: &str = "";
pub const WITHOUT_TLS: &str = "none";

/// The value for the features with which this test is built.
pub const AS_THIS_TEST: &str = if cfg!(feature = "tls") { WITH_TLS } else { WITHOUT_TLS };

/// Runs the Dockerfile's stage `build` in `folder`, and returns the binary. Commands, variables and compilers are the
/// Dockerfile's. Only `apt-get` and `rustup` are not run: if rustup cannot fetch std for musl, `MUSL_RUSTC` names a
/// compiler that has it.
pub fn build(folder: &Path, cargo_home: &Path, features: &str) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder is created");
    let file = Dockerfile::read();
    let mut variables = file.arguments.clone();
    variables.insert("TARGETARCH".to_owned(), ARCHITECTURE.to_owned());
    variables.insert("CARGO_HOME".to_owned(), cargo_home.display().to_string());
    // The toolchain that built this test is already installed.
    let mut environment = BTreeMap::from([("CARGO_NET_OFFLINE".to_owned(), "true".to_owned())]);
    environment
        .extend(variables.get_key_value("CARGO_HOME").map(|(name, value)| (name.clone(), value.clone())));
    environment.extend(env::var("MUSL_RUSTC").map(|rustc| ("RUSTC".to_owned(), rustc)));
    let stages = file.stages_to("build", &variables);
    assert_eq!(stages.len(), 2, "a toolchain stage and a build stage");

    let mut said = Vec::new();
    for (name, rest) in stages.into_iter().flatten() {
        match name.as_str() {
            "FROM" | "WORKDIR" => {}
            "ARG" => {
                let (name, default) = key_and_value(rest);
                let value = match name.as_str() {
                    "REVISION" => REVISION.to_owned(),
                    "FEATURES" => features.to_owned(),
                    _ => default,
                };
                environment.insert(name, value);
            }
            "ENV" => {
                let set: Vec<_> =
                    rest.split(' ').map(|one| key_and_value(&expand(one, &variables))).collect();
                environment.extend(set.clone());
                variables.extend(set);
            }
            "COPY" => {
                let (sources, to) = copy(rest);
                for source in sources {
                    let from = repository().join(source);
                    let to = if to.ends_with('/') { folder.join(to).join(source) } else { folder.join(to) };
                    copy_with_age(&from, &to);
                }
            }
            "RUN" if ["apt-get update ", "rustup target add "].iter().any(|tool| rest.starts_with(tool)) => {}
            "RUN" => {
                let output = shell(rest, folder, &environment);
                said.extend(rest.contains("cargo build ").then_some(output));
            }
            _ => panic!("{name} {rest}: not supported here"),
        }
    }
    let compiled = |at: usize| {
        let lines = said[at].lines().filter_map(|line| line.trim().strip_prefix("Compiling "));
        lines.map(|line| line.split(' ').next().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(said.len(), 2, "dependencies, and psystrike");
    assert!(compiled(0).contains(&"mio"), "{}", said[0]);
    assert_eq!(compiled(0).contains(&"rustls"), features == WITH_TLS, "{}", said[0]);
    assert_eq!(compiled(1), ["psystrike"], "no dependency is built again for a change of the source");
    folder.join("psystrike")
}

/// Copies a file or a folder as Docker does: with its modification time, on which cargo relies.
pub fn copy_with_age(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder is created");
        for entry in fs::read_dir(from).expect("a folder can be read") {
            let name = entry.expect("a folder can be read").file_name();
            copy_with_age(&from.join(&name), &to.join(&name));
        }
        return;
    }
    fs::copy(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
    let changed = fs::metadata(from).and_then(|metadata| metadata.modified()).expect("files have a time");
    let copy = fs::File::options().write(true).open(to).expect("it was just written");
    copy.set_modified(changed).expect("a time can be set");
}

/// Runs a command as `RUN` does, and returns its output.
pub fn shell(command: &str, folder: &Path, environment: &BTreeMap<String, String>) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let of_another_build = [
            "CARGO_TARGET_",
            "CARGO_BUILD_",
            "CARGO_PROFILE_",
            "CARGO_ENCODED_",
            "RUSTC",
            "RUSTFLAGS",
            "PSYSTRIKE_",
        ];
        if of_another_build.iter().any(|prefix| name.starts_with(prefix)) {
            shell.env_remove(name);
        }
    }
    succeed(shell.envs(environment)).1
}

/// Builds the image of the Dockerfile with this binary and an empty base image, in which no command can run. Returns
/// its digest.
pub fn make(podman: &Podman<'_>, binary: &Path, name: &str, format: &str) -> String {
    let context = podman.scratch.path(&format!("context-of-{name}"));
    fs::create_dir_all(&context).expect("a folder is created");
    for source in ["Cargo.toml", "Cargo.lock", ".cargo", "src"] {
        copy_with_age(&repository().join(source), &context.join(source));
    }
    copy_with_age(binary, &context.join("psystrike"));
    fs::write(context.join(".dockerignore"), read(".dockerignore") + "!psystrike\n")
        .expect("it can be written");
    let mut without_run = String::from("ARG RUST=scratch\n");
    for stage in Dockerfile::read().stages {
        let runs = all(&stage, "RUN").count();
        let kept = stage.iter().filter(|(name, _)| name != "RUN");
        for (name, rest) in kept {
            // BuildKit sets this variable by itself; buildah 1.28 does not.
            let rest = if name == "FROM" { &rest.replace("$TARGETARCH", ARCHITECTURE) } else { rest };
            without_run += &format!("{name} {rest}\n");
        }
        if runs > 0 {
            without_run += "COPY psystrike ./\n";
        }
    }
    fs::write(context.join("Dockerfile"), without_run).expect("it can be written");
    let mut buildah = podman.command("buildah");
    let id = podman.scratch.path(&format!("id-of-{name}"));
    buildah.args(["bud", "--isolation", "chroot", "--format", format, "--timestamp", "0"]);
    buildah.args([
        "--build-arg",
        &format!("REVISION={REVISION}"),
        "--build-arg",
        &format!("SOURCE={SOURCE}"),
    ]);
    buildah.args(["--tag", &format!("localhost/psystrike:{name}"), "--iidfile"]).arg(&id).arg(&context);
    succeed(&mut buildah);
    fs::read_to_string(id).expect("buildah names the image")
}

/// Runs a container of the image under an operator's limits.
pub fn run(podman: &Podman<'_>, name: &str, network: &[&str], arguments: &[&str]) -> Program {
    let limits = [
        &["run", "--name", name, "--pull", "never", "--memory", "16m", "--memory-swap", "16m"][..],
        &["--cpus", "0.5", "--pids-limit", "32", "--read-only", "--read-only-tmpfs=false"],
        &["--cap-drop", "all", "--security-opt", "no-new-privileges"],
    ];
    let mut run = podman.command("podman");
    run.args(limits.concat()).args(network).arg(IMAGE).args(arguments);
    let program = Program::start(&mut run);
    program.wait_for_line("msg=listening", LIMIT);
    program
}

/// Returns whether this machine has the necessary programs. If not, prints that the test is skipped.
pub fn can_be_made() -> bool {
    const HAS_STD: &str = "test -d \"$(${MUSL_RUSTC:-rustc} --print target-libdir --target \"$0\")\" \
                           || { echo \"no std for $0: rustup target add $0\" >&2; false; }";
    require_root()
        && require_programs(&["podman", "buildah", "runc"])
        && require_working(&["sh", "-c", HAS_STD, TARGET])
}

/// Returns the folder of cargo's downloads.
pub fn cargo_home() -> PathBuf {
    let home = |name| env::var_os(name).map(PathBuf::from);
    home("CARGO_HOME").or_else(|| Some(home("HOME")?.join(".cargo"))).expect("cargo has a home")
}
