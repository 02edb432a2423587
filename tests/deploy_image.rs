//! The image that the Dockerfile builds is small, reproducible, and runs under tight limits, with TLS and without.
//!
//! The Dockerfile's commands build the binary on this machine instead of in the base image: twice with TLS, and once
//! without. buildah builds the image from an empty base and that binary; podman runs it. Not tested here, for lack of a
//! registry: the base image, `rustup target add` in it, and the other processor architecture.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use procfs::process::Process;
use serde_json::Value;
use support::{
    LIMIT, Scratch,
    dns::{Dns, DnsServer, with_resolv_conf},
    http::{Client, get},
    image::{self, ARCHITECTURE, Dockerfile, IMAGE, REVISION, SOURCE, all, build, copy, key_and_value, only},
    markdown::Document,
    netns::in_new_namespace,
    podman::{Podman, succeed},
    pods::{Pod, Then},
    poll,
    psystrike::Psystrike,
    read, repository, require_working, tell,
};

/// The largest static binaries, with TLS and without: 2.25 MiB and 1 MiB, as the README says.
const BYTES_MAX: u64 = 9 << 18;
const BYTES_MAX_WITHOUT_TLS: u64 = 1 << 20;
/// What an image has beside its binary: its settings, and the headers of its layer.
const IMAGE_BYTES_MORE: u64 = 16 << 10;
/// The memory limit of a container.
const MEMORY_BYTES: u64 = 16 << 20;

#[test]
fn the_dockerfile_matches_the_manifest_and_the_sources() {
    let file = Dockerfile::read();
    let rust = &file.arguments["RUST"];
    let minor = |version: &str| version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        rust.starts_with("rust:1.") && minor(rust) >= minor(oldest),
        "{rust}: Cargo.toml requires {oldest}"
    );

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

/// Two images, built in different folders and with different cargo homes.
fn build_twice(scratch: &Scratch) -> [PathBuf; 2] {
    let cargo_home = image::cargo_home();
    let other_home = scratch.path("another-home");
    std::os::unix::fs::symlink(&cargo_home, &other_home).expect("a link is created");
    let folders = ["first", "second/in/a/deeper/folder"].map(|name| scratch.path(name));
    let began = Instant::now();
    let binaries = thread::scope(|scope| {
        let builds = [(&folders[0], &cargo_home), (&folders[1], &other_home)];
        let builds = builds.map(|(folder, home)| scope.spawn(move || build(folder, home, image::WITH_TLS)));
        builds.map(|build| build.join().expect("it is built"))
    });
    let [first, second] = [0, 1].map(|at: usize| fs::read(&binaries[at]).expect("a binary"));
    assert!(first == second, "two builds of one source differ: {binaries:?}");
    for place in [&cargo_home, &other_home, &folders[0], &folders[1], &repository().to_owned()] {
        let place = place.display().to_string();
        let found = first.windows(place.len()).any(|window| window == place.as_bytes());
        assert!(!found, "the binary contains a path of its build: {place}");
    }
    // The linker gets the arguments of the real src/build.rs.
    let parts = alignments(&first);
    let expected = if cfg!(target_arch = "x86_64") { 16 << 10 } else { 64 << 10 };
    assert!(!parts.is_empty() && parts.iter().all(|bytes| *bytes == expected), "{parts:?}");
    tell(&format!(
        "image: two builds of the binary, the same {} bytes, in {:?}",
        first.len(),
        began.elapsed()
    ));
    binaries
}

/// Returns the alignments of the loaded segments of a 64-bit ELF file (elf(5)).
fn alignments(elf: &[u8]) -> Vec<u64> {
    const LOAD: u64 = 1;
    let number =
        |at: usize, bytes: usize| elf[at..at + bytes].iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
    let index = |at, bytes| usize::try_from(number(at, bytes)).expect("it is within the file");
    let (table, entry_bytes, count) = (index(32, 8), index(54, 2), index(56, 2));
    let entries = (0..count).map(|entry| table + entry * entry_bytes);
    entries.filter(|at| number(*at, 4) == LOAD).map(|at| number(at + 48, 8)).collect()
}

#[test]
fn the_image_is_small_reproducible_and_serves_under_tight_limits() {
    if !image::can_be_made() {
        return;
    }
    let scratch = Scratch::new("image");
    let [first, second] = build_twice(&scratch);
    let podman = Podman::new(&scratch);
    let [one, other] =
        [(&first, "one"), (&second, "other")].map(|(binary, name)| image::make(&podman, binary, name, "oci"));
    assert_eq!(one, other, "two images of one source");
    // OCI's format has no health checks. In Docker's format, buildah writes the name of its build container.
    image::make(&podman, &first, "latest", "docker");
    let layers = |name: &str| podman.inspect("image", name)["RootFS"]["Layers"].clone();
    assert_eq!(layers(IMAGE), layers("localhost/psystrike:one"));
    check_what_is_in_it(&podman, fs::metadata(&first).expect("a binary").len());
    it_serves_under_tight_limits(&podman);
    its_health_is_checked_where_nothing_is_set(&podman);
    it_runs_as_the_page_on_deploying_says(&podman);
    its_binary_resolves_names(&scratch, &first);
}

/// The same Dockerfile builds an image without TLS, which rejects the options for it.
#[test]
fn the_image_without_tls_is_smaller() {
    if !image::can_be_made() {
        return;
    }
    let scratch = Scratch::new("image-without-tls");
    let binary = build(&scratch.path("build"), &image::cargo_home(), image::WITHOUT_TLS);
    let bytes = fs::metadata(&binary).expect("a binary").len();
    tell(&format!("image: without TLS, the binary has {bytes} bytes"));
    assert!(bytes <= BYTES_MAX_WITHOUT_TLS, "{bytes}");
    let podman = Podman::new(&scratch);
    image::make(&podman, &binary, "latest", "docker");
    let run = ["run", "--rm", "--pull", "never", "--network", "none", IMAGE];
    let said = podman.podman(&[&run[..], &["--version"]].concat());
    assert_eq!(said, format!("psystrike {} ({REVISION})", env!("CARGO_PKG_VERSION")));
    let (status, why) = podman.exit_status(&[&run[..], &["--tls-self-signed"]].concat());
    assert!(status == Some(2) && why.contains("built without"), "{status:?} {why}");
}

fn check_what_is_in_it(podman: &Podman<'_>, binary_bytes: u64) {
    let image = podman.inspect("image", IMAGE);
    let bytes = image["Size"].as_u64().expect("it has a size");
    let layers = image["RootFS"]["Layers"].as_array().map(Vec::len);
    tell(&format!("image: {bytes} bytes in {layers:?} layer(s), of which {binary_bytes} are the binary"));
    assert!((binary_bytes..=binary_bytes + IMAGE_BYTES_MORE).contains(&bytes), "{bytes}");
    assert!(binary_bytes <= BYTES_MAX, "{binary_bytes}");
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
    let mut running = image::run(podman, NAME, &network, &["--allow", "127.27.0.2"]);

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
    assert_eq!(running.wait(LIMIT).code(), Some(0), "it was killed: {}", running.stderr());
    let took = began.elapsed();
    tell(&format!("image: it ended {took:?} after `podman stop`"));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(running.stderr().contains("shutdown complete"), "{}", running.stderr());
}

/// The default address, checked at the default URL; with both families of addresses, and without IPv6.
fn its_health_is_checked_where_nothing_is_set(podman: &Podman<'_>) {
    for (name, sysctl) in [("both", "0"), ("no-ipv6", "1")] {
        let sysctl = format!("net.ipv6.conf.all.disable_ipv6={sysctl}");
        let _running = image::run(podman, name, &["--network", "none", "--sysctl", &sysctl], &[]);
        assert_eq!(podman.exit_status(&["healthcheck", "run", name]), (Some(0), String::new()), "{name}");
        podman.podman(&["stop", "--time", "10", name]);
    }
}

/// Runs the page's command with this image, without a published port, and with the number of processes that a test may
/// have.
fn it_runs_as_the_page_on_deploying_says(podman: &Podman<'_>) {
    let blocks = Document::read("deploy/README.md").blocks();
    let block =
        blocks.iter().find(|block| block.text.starts_with("podman run ")).expect("it has the command");
    let named = block.text.split_whitespace().find(|word| word.contains("/psystrike:")).expect("an image");
    podman.podman(&["tag", IMAGE, named]);
    let command = block.text.replace("podman run ", "\"$0\" run --pull never --ulimit nproc=4096:4096 ");
    let publish = "--publish 31000:8080";
    assert!(command.contains(publish), "{command}");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &command.replace(publish, "--network none")])
        .arg(podman.command("podman").get_program());
    succeed(&mut shell);
    let health = || podman.exit_status(&["healthcheck", "run", "psystrike"]);
    poll("its health", health, |(status, _)| *status == Some(0));
    let memory = &podman.inspect("container", "psystrike")["HostConfig"]["Memory"];
    assert_eq!(*memory, 32 << 20, "{command}");
    podman.podman(&["stop", "--time", "10", "psystrike"]);
    assert_eq!(podman.inspect("container", "psystrike")["State"]["ExitCode"], 0);
}

/// The static binary has a resolver of its own, musl's.
fn its_binary_resolves_names(scratch: &Scratch, binary: &Path) {
    if !require_working(&["unshare", "--mount", "true"]) {
        return;
    }
    in_new_namespace(|| {
        let dns = DnsServer::start(
            "10.53.0.1",
            vec![
                (
                    "web.ns.svc.cluster.local",
                    Dns::Addresses(vec![[10, 60, 0, 1].into(), [10, 60, 0, 2].into()]),
                ),
                ("empty.example", Dns::Addresses(Vec::new())),
                ("failing.example", Dns::ServerFailure),
                ("silent.example", Dns::Silence),
            ],
        );
        let search = "search svc.cluster.local cluster.local\noptions ndots:5\n";
        let wrapper = with_resolv_conf(scratch, &format!("nameserver 10.53.0.1\n{search}"));
        let wrapper = wrapper.each_ref().map(String::as_str);
        let psystrike = Psystrike::start_binary_under(binary, &wrapper, &["--allow", "10.60.0.0/30"]);
        let pod = Pod::answering("10.60.0.2", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep);
        for (host, status, reason) in [
            ("web.ns", 200, "OK"), // 10.60.0.1 refuses
            ("gone.example", 502, "no such name"),
            ("empty.example", 502, "no such name"),
            ("failing.example", 504, "name not resolved within 2s"), // musl queries again
            ("silent.example", 504, "name not resolved within 2s"),
        ] {
            let response = psystrike.get(&format!("/pods/{host}/{}/m", pod.address().port()));
            assert_eq!((response.status(), response.reason().as_str()), (status, reason), "{host}");
        }
        assert_eq!((dns.queries("web.ns.svc.cluster.local"), dns.queries("web.ns")), (1, 0));
    });
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

    /// Returns the content of the first of `files` that exists.
    fn try_read(&self, controller: &str, files: &[&str]) -> Option<String> {
        let folder = self.0.get(controller).or_else(|| self.0.get(""))?;
        let text = files.iter().find_map(|file| fs::read_to_string(folder.join(file)).ok())?;
        Some(text.trim().to_owned())
    }

    fn read(&self, controller: &str, files: &[&str]) -> String {
        self.try_read(controller, files).unwrap_or_else(|| panic!("none of {files:?} in {:?}", self.0))
    }
}
