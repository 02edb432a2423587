//! The image that the Dockerfile makes is what operators are promised: small, the same each time, and at home under
//! tight limits.
//!
//! The Dockerfile's own commands build the binary, twice, here and not in its base image; buildah makes the image of
//! the Dockerfile with an empty base and that binary; podman runs it. What is left for a machine with a registry: the
//! base image, `rustup target add` inside of it, and the architecture that this machine has not.

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;
use serde_json::Value;
use support::{
    LIMIT, Scratch,
    http::{Client, get},
    pods::{Pod, Then},
    program::Program,
    psystrike::Psystrike,
    require_programs, require_working,
};

const REVISION: &str = "0123456789ab";
const SOURCE: &str = "https://source.example/psystrike";
const IMAGE: &str = "localhost/psystrike:latest";

/// What an image may have, and its container.
const IMAGE_BYTES_MAX: u64 = 1 << 20;
const MEMORY_BYTES: u64 = 16 << 20;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Says it although the test passes: past libtest's capture.
fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

// The Dockerfile

/// An instruction's name and what stands behind it, on one line.
type Instruction = (String, String);

/// The instructions of one stage, its `FROM` first.
type Stage = Vec<Instruction>;

struct Dockerfile {
    /// `ARG`s before the first stage.
    arguments: BTreeMap<String, String>,
    stages: Vec<Stage>,
}

impl Dockerfile {
    fn read() -> Self {
        let text = read("Dockerfile");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let text = lines.join("\n").replace("\\\n", " ");
        let mut file = Self { arguments: BTreeMap::new(), stages: Vec::new() };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?} is no instruction"));
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

    /// The stage that is called `name`, behind all those that it is based on.
    fn stages_to(&self, name: &str, variables: &BTreeMap<String, String>) -> Vec<&Stage> {
        let named = |stage: &&Stage| stage[0].1.ends_with(&format!(" AS {name}"));
        let Some(stage) = self.stages.iter().find(named) else { return Vec::new() };
        let words = stage[0].1.split(' ').filter(|word| !word.starts_with("--"));
        let base = expand(words.clone().next().unwrap_or_default(), variables);
        let mut stages = self.stages_to(&base, variables);
        stages.push(stage);
        stages
    }

    fn last_stage(&self) -> &Stage {
        self.stages.last().expect("it has a stage")
    }
}

fn key_and_value(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.trim_matches('"').to_owned())
}

/// Puts in the values of `$NAME`, as Docker does.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
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

/// Where to and from where a `COPY` copies in the build's context.
fn copy(rest: &str) -> (Vec<&str>, &str) {
    let mut words: Vec<&str> = rest.split(' ').collect();
    let to = words.pop().expect("COPY has arguments");
    (words, to)
}

fn all<'s>(stage: &'s Stage, name: &'s str) -> impl Iterator<Item = &'s str> {
    stage.iter().filter(move |(known, _)| known == name).map(|(_, rest)| rest.as_str())
}

fn only<'s>(stage: &'s Stage, name: &'s str) -> &'s str {
    let found: Vec<&str> = all(stage, name).collect();
    assert_eq!(found.len(), 1, "{name} in {stage:?}");
    found[0]
}

#[test]
fn the_dockerfile_fits_the_rest() {
    let file = Dockerfile::read();
    let rust = &file.arguments["RUST"];
    let release = concat!("rust:", env!("CARGO_PKG_RUST_VERSION"), ".");
    assert!(rust.starts_with(release), "{rust}: the oldest Rust that will do is {release}");

    let all_but_last = &file.stages[..file.stages.len() - 1];
    let copies = all_but_last.iter().flat_map(|stage| all(stage, "COPY"));
    let mut sources: Vec<&str> = copies.flat_map(|rest| copy(rest).0).collect();
    for source in &sources {
        assert!(repository().join(source).exists(), "COPY {source}: there is no such file");
    }
    let dockerignore = read(".dockerignore");
    let mut let_in: Vec<&str> = dockerignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    sources.sort_unstable();
    let_in.sort_unstable();
    assert_eq!(let_in, sources, ".dockerignore lets in what is copied, and nothing else");

    let last = file.last_stage();
    let stage: Vec<&str> = last.iter().map(|(name, _)| name.as_str()).collect();
    assert!(last[0].1 == "scratch" && !stage.contains(&"RUN"), "no shell is there: {stage:?}");
    for (argument, expected) in [("VERSION", env!("CARGO_PKG_VERSION")), ("REVISION", "unknown")] {
        let default = all(last, "ARG").map(key_and_value).find(|(name, _)| name == argument);
        assert_eq!(default, Some((argument.to_owned(), expected.to_owned())));
    }
    assert_eq!(only(last, "COPY"), "--from=build /src/psystrike /psystrike");
    assert_eq!(only(last, "USER"), "65532:65532");
    assert_eq!(only(last, "ENTRYPOINT"), "[\"/psystrike\"]");
    assert!(only(last, "HEALTHCHECK").ends_with(" CMD [\"/psystrike\", \"--healthcheck\"]"));
}

// The binary

/// This machine's architecture, as Docker and as Rust call it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" };

/// Does in `folder` what the Dockerfile does in its stage `build`, and gives the binary. The commands and their
/// variables are the Dockerfile's, and so is the linker. Only its `apt-get` and `rustup` are left to the machine: where
/// rustup cannot fetch std for musl, `MUSL_RUSTC` names a compiler that has one.
fn build(folder: &Path, cargo_home: &Path) -> PathBuf {
    let file = Dockerfile::read();
    let mut variables = file.arguments.clone();
    variables.insert("TARGETARCH".to_owned(), ARCHITECTURE.to_owned());
    variables.insert("CARGO_HOME".to_owned(), cargo_home.display().to_string());
    // What this test was built from is there already.
    let mut environment = BTreeMap::from([("CARGO_NET_OFFLINE".to_owned(), "true".to_owned())]);
    environment
        .extend(variables.get_key_value("CARGO_HOME").map(|(name, value)| (name.clone(), value.clone())));
    environment.extend(env::var("MUSL_RUSTC").map(|rustc| ("RUSTC".to_owned(), rustc)));
    let stages = file.stages_to("build", &variables);
    assert_eq!(stages.len(), 2, "a toolchain, and what is built with it");

    let mut said = Vec::new();
    for (name, rest) in stages.into_iter().flatten() {
        match name.as_str() {
            "FROM" | "WORKDIR" => {}
            "ARG" => {
                let (name, default) = key_and_value(rest);
                let given = (name == "REVISION").then(|| REVISION.to_owned());
                environment.insert(name, given.unwrap_or(default));
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
            "RUN" => said.push(shell(rest, folder, &environment)),
            _ => panic!("{name} {rest}: not known here"),
        }
    }
    let compiled = |at: usize| {
        let lines = said[at].lines().filter_map(|line| line.trim().strip_prefix("Compiling "));
        lines.map(|line| line.split(' ').next().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(said.len(), 2, "dependencies, and psystrike");
    assert!(compiled(0).contains(&"mio"), "{}", said[0]);
    assert_eq!(compiled(1), ["psystrike"], "no dependency is built again for a change of the source");
    folder.join("psystrike")
}

/// Copies a file or a folder as Docker does: with the time of its last change, by which cargo goes.
fn copy_with_age(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder can be made");
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

/// Runs a command as `RUN` does, and gives what it said.
fn shell(command: &str, folder: &Path, environment: &BTreeMap<String, String>) -> String {
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

/// Runs a command, which must succeed; gives its stdout and stderr.
fn succeed(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    (stdout.trim_end().to_owned(), stderr)
}

/// Two of it, built in different folders and with different folders of cargo's own.
fn build_twice(scratch: &Scratch) -> [PathBuf; 2] {
    let home = |name| env::var_os(name).map(PathBuf::from);
    let cargo_home =
        home("CARGO_HOME").or_else(|| Some(home("HOME")?.join(".cargo"))).expect("cargo has a home");
    let other_home = scratch.path("another-home");
    std::os::unix::fs::symlink(&cargo_home, &other_home).expect("a link can be made");
    let folders = ["first", "second/in/a/deeper/folder"].map(|name| scratch.path(name));
    folders.iter().for_each(|folder| fs::create_dir_all(folder).expect("a folder can be made"));
    let began = Instant::now();
    let binaries = thread::scope(|scope| {
        let builds = [(&folders[0], &cargo_home), (&folders[1], &other_home)];
        let builds = builds.map(|(folder, home)| scope.spawn(move || build(folder, home)));
        builds.map(|build| build.join().expect("it is built"))
    });
    let [first, second] = [0, 1].map(|at: usize| fs::read(&binaries[at]).expect("a binary"));
    assert!(first == second, "two builds of one source differ: {binaries:?}");
    for place in [&cargo_home, &other_home, &folders[0], &folders[1], &repository().to_owned()] {
        let place = place.display().to_string();
        let found = first.windows(place.len()).any(|window| window == place.as_bytes());
        assert!(!found, "the binary tells where it was built: {place}");
    }
    // What src/build.rs asks of the linker is asked of this one, and by the real src/build.rs.
    let parts = alignments(&first);
    assert!(!parts.is_empty() && parts.iter().all(|bytes| *bytes == 64 << 10), "{parts:?}");
    tell(&format!(
        "image: two builds of the binary, the same {} bytes, in {:?}",
        first.len(),
        began.elapsed()
    ));
    binaries
}

/// How the parts of a 64-bit ELF file are aligned that are loaded (elf(5)).
fn alignments(elf: &[u8]) -> Vec<u64> {
    const LOAD: u64 = 1;
    let number =
        |at: usize, bytes: usize| elf[at..at + bytes].iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
    let index = |at, bytes| usize::try_from(number(at, bytes)).expect("it is within the file");
    let (table, entry_bytes, count) = (index(32, 8), index(54, 2), index(56, 2));
    let entries = (0..count).map(|entry| table + entry * entry_bytes);
    entries.filter(|at| number(*at, 4) == LOAD).map(|at| number(at + 48, 8)).collect()
}

// The image

/// Podman and buildah with storage of the test's own. Ends the containers before the storage goes.
struct Podman<'s> {
    scratch: &'s Scratch,
    /// Podman takes no long path for what it keeps while containers run.
    run: PathBuf,
}

impl<'s> Podman<'s> {
    fn new(scratch: &'s Scratch) -> Self {
        // runc, because crun wants no hybrid of cgroups v1 and v2; no systemd, because there may be none.
        let configuration = "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=4096:4096\"]\n\
                             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        scratch.write("containers.conf", configuration);
        let run = env::temp_dir().join(format!("psystrike-{}", std::process::id()));
        Self { scratch, run }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("CONTAINERS_CONF", self.scratch.path("containers.conf"));
        command.env("DISABLE_HC_SYSTEMD", "true"); // the test runs health checks, no timer does
        command.args(["--storage-driver", "vfs"]);
        command.arg("--root").arg(self.scratch.path("storage")).arg("--runroot").arg(&self.run);
        if program == "podman" {
            command.arg("--tmpdir").arg(self.run.join("libpod"));
        }
        command
    }

    fn podman(&self, arguments: &[&str]) -> String {
        succeed(self.command("podman").args(arguments)).0
    }

    fn inspect(&self, kind: &str, name: &str) -> Value {
        let said = self.podman(&["inspect", "--type", kind, name]);
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        said[0].clone()
    }

    /// Makes the image of the Dockerfile with this binary: with an empty base image, in which no command can run. Gives
    /// its digest.
    fn build(&self, binary: &Path, name: &str, format: &str) -> String {
        let context = self.scratch.path(&format!("context-of-{name}"));
        fs::create_dir_all(&context).expect("a folder can be made");
        for source in ["Cargo.toml", "Cargo.lock", "src"] {
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
                // BuildKit knows this by itself here; buildah 1.28 does not.
                let rest = if name == "FROM" { &rest.replace("$TARGETARCH", ARCHITECTURE) } else { rest };
                without_run += &format!("{name} {rest}\n");
            }
            if runs > 0 {
                without_run += "COPY psystrike ./\n";
            }
        }
        fs::write(context.join("Dockerfile"), without_run).expect("it can be written");
        let mut buildah = self.command("buildah");
        let id = self.scratch.path(&format!("id-of-{name}"));
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

    /// Runs a container of it under an operator's limits.
    fn run(&self, name: &str, network: &[&str], arguments: &[&str]) -> Program {
        let limits = [
            &["run", "--name", name, "--pull", "never", "--memory", "16m", "--memory-swap", "16m"][..],
            &["--cpus", "0.5", "--pids-limit", "32", "--read-only", "--read-only-tmpfs=false"],
            &["--cap-drop", "all", "--security-opt", "no-new-privileges"],
        ];
        let mut run = self.command("podman");
        run.args(limits.concat()).args(network).arg(IMAGE).args(arguments);
        let program = Program::start(&mut run);
        program.wait_for_line("listening on", LIMIT);
        program
    }

    fn exit_status(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command("podman").args(arguments).output().expect("podman starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = self.command("podman").args(["rm", "--all", "--force", "--time", "0"]).output();
        let _ = fs::remove_dir_all(&self.run);
    }
}

#[test]
fn the_image_is_small_the_same_each_time_and_serves_under_tight_limits() {
    const HAS_STD: &str = "test -d \"$(${MUSL_RUSTC:-rustc} --print target-libdir --target \"$0\")\" \
                           || { echo \"no std for $0: rustup target add $0\" >&2; false; }";
    if !require_programs(&["podman", "buildah", "runc"]) || !require_working(&["sh", "-c", HAS_STD, TARGET]) {
        return;
    }
    let scratch = Scratch::new("image");
    let [first, second] = build_twice(&scratch);
    let podman = Podman::new(&scratch);
    let [one, other] =
        [(&first, "one"), (&second, "other")].map(|(binary, name)| podman.build(binary, name, "oci"));
    assert_eq!(one, other, "two images of one source");
    // The OCI's format has no health checks; into Docker's buildah writes the name of the container it builds in.
    podman.build(&first, "latest", "docker");
    let layers = |name: &str| podman.inspect("image", name)["RootFS"]["Layers"].clone();
    assert_eq!(layers(IMAGE), layers("localhost/psystrike:one"));
    check_what_is_in_it(&podman, fs::metadata(&first).expect("a binary").len());
    it_serves_under_tight_limits(&podman);
    its_health_is_checked_where_nothing_is_set(&podman);
}

fn check_what_is_in_it(podman: &Podman<'_>, binary_bytes: u64) {
    let image = podman.inspect("image", IMAGE);
    let bytes = image["Size"].as_u64().expect("it has a size");
    let layers = image["RootFS"]["Layers"].as_array().map(Vec::len);
    tell(&format!("image: {bytes} bytes in {layers:?} layer(s), of which {binary_bytes} are the binary"));
    assert!((binary_bytes..=IMAGE_BYTES_MAX).contains(&bytes), "{bytes}");
    assert_eq!(layers, Some(1), "{image:#}");
    for (at, expected) in [
        ("/Config/User", "65532:65532"),
        ("/Config/Entrypoint/0", "/psystrike"),
        ("/Config/Labels/org.opencontainers.image.title", "psystrike"),
        ("/Config/Labels/org.opencontainers.image.description", env!("CARGO_PKG_DESCRIPTION")),
        ("/Config/Labels/org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
        ("/Config/Labels/org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
        ("/Config/Labels/org.opencontainers.image.revision", REVISION),
        ("/Config/Labels/org.opencontainers.image.source", SOURCE),
        ("/Architecture", ARCHITECTURE),
        ("/Created", "1970-01-01T00:00:00Z"),
    ] {
        assert_eq!(image.pointer(at).and_then(Value::as_str), Some(expected), "{at} in {image:#}");
    }
    let said = podman.podman(&["run", "--rm", "--pull", "never", "--network", "none", IMAGE, "--version"]);
    assert_eq!(said, format!("psystrike {} ({REVISION})", env!("CARGO_PKG_VERSION")));
}

fn it_serves_under_tight_limits(podman: &Podman<'_>) {
    const NAME: &str = "serves";
    let address = "127.27.0.1:8080".parse().expect("an address");
    let network = ["--network", "host", "--env", "PSYSTRIKE_LISTEN=127.27.0.1:8080"];
    let mut running = podman.run(NAME, &network, &["--allow", "127.27.0.2"]);

    let page = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 256 << 10, "x".repeat(256 << 10));
    let pod = Pod::answering("127.27.0.2", page, Then::Keep);
    let target = Psystrike::target(pod.address(), "/metrics");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
    for _ in 0..5 {
        clients.iter_mut().for_each(|client| client.send(get(&target)));
        for client in &mut clients {
            let response = client.response().expect("a whole answer");
            assert_eq!((response.status(), response.body.len()), (200, 256 << 10));
        }
    }

    assert_eq!(podman.exit_status(&["healthcheck", "run", NAME]), (Some(0), String::new()));
    let exec = |url: &str| podman.exit_status(&["exec", NAME, "/psystrike", "--healthcheck", url]);
    assert_eq!(exec("http://127.27.0.1:8080/readyz").0, Some(0));
    let (status, why) = exec("http://127.27.0.1:8080/missing");
    assert!(status == Some(1) && why.contains("status 404"), "{status:?} {why}");

    let pid = podman.inspect("container", NAME)["State"]["Pid"].as_i64().expect("it runs");
    let process = Process::new(pid.try_into().expect("a process number")).expect("it runs");
    let status = process.status().expect("it runs");
    assert_eq!((status.euid, status.egid), (65532, 65532));
    assert_eq!((status.capeff, status.capbnd, status.nonewprivs), (0, Some(0), Some(1)));
    let mounts = process.mountinfo().expect("it has mounts");
    let root = mounts.iter().find(|mount| mount.mount_point == Path::new("/")).expect("it has a root");
    assert!(root.mount_options.contains_key("ro"), "{root:?}");
    let cgroup = Cgroup::of(&process);
    assert_eq!(cgroup.read("memory", &["memory.limit_in_bytes", "memory.max"]), MEMORY_BYTES.to_string());
    assert_eq!(cgroup.read("pids", &["pids.max"]), "32");
    let half_a_core = cgroup.read("cpu", &["cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(half_a_core.split(' ').next(), Some("50000"), "of 100000");
    let memory = |files| -> u64 { cgroup.read("memory", files).parse().expect("a number of bytes") };
    let used = memory(&["memory.usage_in_bytes", "memory.current"]);
    let peak = cgroup.try_read("memory", &["memory.max_usage_in_bytes", "memory.peak"]);
    let pss = process
        .smaps_rollup()
        .ok()
        .and_then(|all| all.memory_map_rollup.0[0].extension.map.get("Pss").copied());
    tell(&format!(
        "image: after 100 scrapes of 256 KiB by 20 clients its cgroup has {} KiB in use, at most {} KiB so far, of \
         16384; the process is {} KiB resident, {} KiB by Pss",
        used >> 10,
        peak.and_then(|bytes| bytes.parse::<u64>().ok())
            .map_or("unknown".to_owned(), |bytes| (bytes >> 10).to_string()),
        status.vmrss.unwrap_or_default(),
        pss.map_or("unknown".to_owned(), |bytes| (bytes >> 10).to_string()),
    ));
    assert!(used < MEMORY_BYTES, "{used}");

    let began = Instant::now();
    podman.podman(&["stop", "--time", "10", NAME]);
    assert_eq!(running.wait(LIMIT).code(), Some(0), "it was not killed: {}", running.stderr());
    let took = began.elapsed();
    tell(&format!("image: it ended {took:?} after `podman stop`"));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(running.stderr().contains("all is finished"), "{}", running.stderr());
}

/// The default address, checked at the default URL; with both families of addresses, and without IPv6.
fn its_health_is_checked_where_nothing_is_set(podman: &Podman<'_>) {
    for (name, sysctl) in [("both", "0"), ("no-ipv6", "1")] {
        let sysctl = format!("net.ipv6.conf.all.disable_ipv6={sysctl}");
        let _running = podman.run(name, &["--network", "none", "--sysctl", &sysctl], &[]);
        assert_eq!(podman.exit_status(&["healthcheck", "run", name]), (Some(0), String::new()), "{name}");
        podman.podman(&["stop", "--time", "10", name]);
    }
}

/// Where the kernel keeps a process's limits: one folder (v2), or one for each controller (v1).
struct Cgroup(BTreeMap<String, PathBuf>);

impl Cgroup {
    fn of(process: &Process) -> Self {
        let cgroups = process.cgroups().expect("every process has some");
        let folders = cgroups.into_iter().flat_map(|cgroup| {
            let path = cgroup.pathname.trim_start_matches('/').to_owned();
            let controllers = if cgroup.hierarchy == 0 { vec![String::new()] } else { cgroup.controllers };
            let joined = controllers.join(",");
            controllers.into_iter().map(move |controller| {
                let v1 =
                    [&controller, &joined].map(|name| Path::new("/sys/fs/cgroup").join(name).join(&path));
                let [alone, together] = v1;
                (controller, if alone.exists() { alone } else { together })
            })
        });
        Self(folders.collect())
    }

    /// What stands in the first of `files` that is there.
    fn try_read(&self, controller: &str, files: &[&str]) -> Option<String> {
        let folder = self.0.get(controller).or_else(|| self.0.get(""))?;
        let text = files.iter().find_map(|file| fs::read_to_string(folder.join(file)).ok())?;
        Some(text.trim().to_owned())
    }

    fn read(&self, controller: &str, files: &[&str]) -> String {
        self.try_read(controller, files).unwrap_or_else(|| panic!("none of {files:?} in {:?}", self.0))
    }
}
