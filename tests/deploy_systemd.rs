//! The systemd unit: systemd accepts it, it restricts psystrike to little of the machine, and psystrike needs no more.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use support::{
    LIMIT, Scratch, generated,
    markdown::Document,
    pods::{Pod, Then},
    program::Signal,
    psystrike::{BINARY, Psystrike, run as run_psystrike},
    require_programs, require_working,
    shipped::shipped,
};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/psystrike.service");
const DROP_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/tls.conf");
const INSTALLED: &str = "/usr/local/bin/psystrike";

fn unit() -> String {
    fs::read_to_string(UNIT).unwrap_or_else(|error| panic!("{UNIT}: {error}"))
}

/// Returns all values of a setting in the unit.
fn settings(name: &str) -> Vec<String> {
    settings_of(&unit(), name)
}

fn settings_of(text: &str, name: &str) -> Vec<String> {
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

fn setting(name: &str) -> String {
    let values = settings(name);
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    values.into_iter().next().unwrap_or_default()
}

fn seconds(name: &str) -> u64 {
    let value = setting(name);
    let seconds = value.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
    seconds.unwrap_or_else(|| panic!("{name}={value}: whole seconds are expected"))
}

/// Returns the arguments and the environment variables of psystrike.
fn command_line() -> (Vec<String>, Vec<(String, String)>) {
    let start = setting("ExecStart");
    let mut words = start.split(' ').map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some(INSTALLED));
    let variables = settings("Environment");
    let variables = variables.iter().map(|variable| variable.split_once('=').expect("NAME=VALUE"));
    (words.collect(), variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Runs systemd-analyze over the unit as it would be installed, with the real binary in its place.
fn analyze(arguments: &[&str], unit: &str) -> Result<String, String> {
    let scratch = Scratch::new(arguments[0]);
    let file = scratch.write("psystrike.service", &unit.replace(INSTALLED, BINARY));
    let output = Command::new("systemd-analyze").args(arguments).arg(file).output();
    let output = output.expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn systemd_takes_the_unit() {
    if !require_programs(&["systemd-analyze"]) {
        return;
    }
    let verify = ["verify", "--man=no", "--generators=no"];
    // systemd-analyze only warns about unknown settings.
    assert_eq!(analyze(&verify, &unit()), Ok(String::new()));
    let misspelt = unit().replace("ProtectSystem=", "ProtectSystems=");
    assert_ne!(analyze(&verify, &misspelt), Ok(String::new()), "a setting that there is not");
    let absent = unit().replace(INSTALLED, "/nonexistent/psystrike");
    assert!(analyze(&verify, &absent).is_err(), "a program that there is not");
}

#[test]
fn systemd_takes_the_drop_in() {
    if !require_programs(&["systemd-analyze"]) {
        return;
    }
    let drop_in = fs::read_to_string(DROP_IN).expect("it is there");
    let verified = |drop_in: &str| {
        let scratch = Scratch::new("drop-in");
        let unit = scratch.write("psystrike.service", &unit().replace(INSTALLED, BINARY));
        fs::create_dir_all(scratch.path("psystrike.service.d")).expect("a new folder");
        scratch.write("psystrike.service.d/tls.conf", drop_in);
        let mut verify = Command::new("systemd-analyze");
        let output = verify.args(["verify", "--man=no", "--generators=no"]).arg(unit).output();
        String::from_utf8_lossy(&output.expect("systemd-analyze runs").stderr).into_owned()
    };
    assert_eq!(verified(&drop_in), "");
    assert_ne!(verified(&drop_in.replace("LoadCredential=", "LoadCredentials=")), "", "the drop-in is read");
}

/// Each file is a credential, and each credential the value of an option, with which psystrike starts.
#[test]
#[cfg(feature = "tls")]
fn psystrike_starts_with_the_files_of_the_drop_in() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let drop_in = fs::read_to_string(DROP_IN).expect("it is there");
    let scratch = Scratch::new("drop-in-files");
    let names = settings_of(&drop_in, "LoadCredential");
    for name in &names {
        let (name, file) = name.split_once(':').expect("NAME:PATH");
        assert_eq!(file, format!("/etc/{name}"));
        assert!(drop_in.contains(&format!(" {file}\n")), "a command installs {file}");
    }
    support::tls::make_certificate(&scratch.path("psystrike.crt"), &scratch.path("psystrike.key"));
    scratch.write("psystrike.token", "of-a-secret-0123456789");
    let folder = scratch.path("");
    let folder = folder.to_str().expect("a path").trim_end_matches('/');
    let variables: Vec<String> =
        settings_of(&drop_in, "Environment").iter().map(|set| set.replace("%d", folder)).collect();
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|set| set.split_once('=').expect("NAME=VALUE")).collect();
    assert_eq!(variables.len(), names.len());
    let psystrike = Psystrike::start_with_env(&["--allow=127.0.0.0/8"], &variables);
    assert_eq!(psystrike.metric("psystrike_authentication_enabled"), 1.0);
    assert_eq!(psystrike.get("/pods/127.0.0.1/1/metrics").status(), 401);
    assert!(psystrike.get("/metrics").text().contains("expiry_timestamp_seconds{option=\"--tls-cert\"}"));
}

#[test]
fn the_unit_exposes_little() {
    if !require_programs(&["systemd-analyze"]) {
        return;
    }
    // The score is at most 100; lower is better. The rest is for IP, to addresses that the unit cannot know.
    let security = ["security", "--no-pager", "--offline=true", "--threshold=11"];
    let said = analyze(&security, &unit()).unwrap_or_else(|said| panic!("{said}"));
    println!("{said}");
    let open = unit().replace("SystemCallFilter=", "#SystemCallFilter=");
    assert!(analyze(&security, &open).is_err(), "it is told where something is missing");
}

#[test]
fn the_unit_runs_the_binary_as_it_is() {
    let (arguments, variables) = command_line();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut psystrike = Psystrike::start_with_env(&arguments, &variables);
    let given: BTreeMap<_, _> = variables.iter().copied().collect();
    psystrike.wait_for_line(&format!("allow={} deny=", given["PSYSTRIKE_ALLOW"]));
    let clients_max: u64 = given["PSYSTRIKE_CLIENTS_MAX"].parse().expect("a number");
    assert_eq!(psystrike.metric("psystrike_client_connections_max"), clients_max as f64);
    // Every client and its pod, every pooled connection, and psystrike's own few.
    let kept: u64 = given["PSYSTRIKE_UPSTREAMS_IDLE_MAX"].parse().expect("a number");
    let descriptors: u64 = setting("LimitNOFILE").parse().expect("a number");
    assert!(descriptors > 2 * clients_max + kept + 100, "{descriptors} descriptors");
    assert!(psystrike.terminate(LIMIT).success());
    let shutdown_timeout = 30; // the default, which the unit keeps
    assert!(!given.contains_key("PSYSTRIKE_SHUTDOWN_TIMEOUT") && arguments.is_empty());
    assert!(seconds("TimeoutStopSec") > shutdown_timeout);
    assert!(settings("KillSignal").is_empty(), "SIGTERM is the default");
}

/// Generates the figures in deploy/README.md, "systemd", from the unit.
#[test]
fn the_page_has_the_figures_of_the_unit() {
    let unit = unit();
    let (_, needs) = unit.split_once("# Needs systemd ").expect("it says what it needs");
    let version: u32 = needs.split(' ').next().and_then(|version| version.parse().ok()).expect("a number");
    let memory = setting("MemoryMax");
    let mebibytes: u32 = memory.strip_suffix('M').and_then(|number| number.parse().ok()).expect("in MiB");
    let files: u32 = setting("LimitNOFILE").parse().expect("a number");
    let (thousands, rest) = (files / 1000, files % 1000);
    let text = format!(
        "The unit needs systemd {version} or newer, and limits psystrike to {mebibytes} MiB of memory and \
         {thousands},{rest:03} open files.\n"
    );
    generated::part("deploy/README.md", "systemd/psystrike.service", &text);
}

/// The commands of deploy/README.md, "systemd", write a file with which psystrike starts, at the address in
/// Prometheus's configurations.
#[test]
fn psystrike_starts_with_the_file_that_the_page_writes() {
    let page = Document::read("deploy/README.md");
    let blocks = page.blocks();
    let block = blocks.iter().find(|block| block.text.contains("> /etc/psystrike.env")).expect("commands");
    let line = block.text.lines().find(|line| line.ends_with("> /etc/psystrike.env")).expect("a line");
    let scratch = Scratch::new("systemd-env");
    let file = scratch.write("psystrike.env", "");
    let here = line.replace("/etc/psystrike.env", "\"$0\"");
    assert!(Command::new("sh").args(["-euc", &here]).arg(&file).status().expect("sh runs").success());
    let written = fs::read_to_string(&file).expect("it was written");
    let mut variables: BTreeMap<&str, String> = written
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    assert_eq!(variables.len(), written.lines().count(), "{written}");
    let listen = &variables["PSYSTRIKE_LISTEN"];
    let address: SocketAddr = listen.parse().expect("an address");
    assert!(address.ip().is_unspecified(), "{address}");
    for file in ["prometheus.yml", "proxy_url.yml", "relabelling.yml", "clusters.yml", "file_sd.yml"] {
        assert!(
            shipped(file).contains(&format!(".example:{}", address.port())),
            "{file} asks at another port"
        );
    }
    // At a port that is free here.
    variables.insert("PSYSTRIKE_LISTEN", format!("{}", SocketAddr::new(address.ip(), 0)));
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let psystrike = Psystrike::start_with_env(&[], &variables);
    psystrike.wait_for_line("allow=10.42.0.0/16 deny=");
}

/// An address in use may become free later; a wrong option stays wrong.
#[test]
fn it_is_started_again_for_as_long_as_that_can_help() {
    assert_eq!((setting("Restart"), setting("StartLimitIntervalSec")), ("on-failure".into(), "0".into()));
    let unit = unit();
    let (of_unit, _) = unit.split_once("[Service]").expect("sections");
    assert!(of_unit.contains("\nStartLimitIntervalSec=0\n"), "systemd looks for it under [Unit] alone");
    let never: i32 = setting("RestartPreventExitStatus").parse().expect("one status");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("a listener's").to_string();
    let exit_status = |variable| run_psystrike(&[] as &[&str], &[variable]).status.code();
    let in_use = exit_status(("PSYSTRIKE_LISTEN", &taken));
    assert!(in_use.is_some_and(|status| status != 0 && status != never), "{in_use:?}");
    assert_eq!(exit_status(("PSYSTRIKE_TIMEOUT", "0s")), Some(never));
}

/// Returns the system calls of a set, including those of nested sets.
fn calls_of(set: &str) -> BTreeSet<String> {
    let output = Command::new("systemd-analyze").args(["--no-pager", "syscall-filter", set]).output();
    let output = output.expect("systemd-analyze runs");
    let said = String::from_utf8(output.stdout).expect("names are text");
    assert!(output.status.success(), "{set}: {}", String::from_utf8_lossy(&output.stderr));
    let names = said.lines().skip(1).map(str::trim).filter(|name| !name.is_empty() && !name.starts_with('#'));
    names
        .flat_map(|name| if name.starts_with('@') { calls_of(name) } else { [name.to_owned()].into() })
        .collect()
}

/// Returns the calls that `SystemCallFilter` allows: the first list allows, `~` removes calls from it, and some calls
/// are always allowed.
fn allowed_calls() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for filter in settings("SystemCallFilter") {
        let (takes_out, sets) = filter.strip_prefix('~').map_or((false, &*filter), |sets| (true, sets));
        for set in sets.split(' ') {
            let calls = if set.starts_with('@') { calls_of(set) } else { [set.to_owned()].into() };
            allowed = if takes_out { &allowed - &calls } else { &allowed | &calls };
        }
    }
    &allowed | &calls_of("@default")
}

#[test]
fn psystrike_calls_nothing_that_the_unit_forbids() {
    if !require_programs(&["systemd-analyze"]) || !require_working(&["strace", "-o", "/dev/null", "true"]) {
        return;
    }
    let allowed = allowed_calls();
    assert!(allowed.contains("sendto") && !allowed.contains("mount") && !allowed.contains("setuid"));

    let scratch = Scratch::new("calls");
    let trace = scratch.path("trace");
    // -D: psystrike is the process that is started, and strace follows it to its end.
    let strace = ["strace", "-D", "-f", "-qq", "-o", &trace.display().to_string()];
    let options =
        ["--allow=127.0.0.0/8", "--allow=::1", "--workers=auto", "--access-log", "--connect-timeout=1s"];
    let mut psystrike = Psystrike::start_under(&strace, &options);

    // A full run: responses of every kind and length, pods that fail, a client that does not read for a while,
    // psystrike's own pages, and a shutdown in the middle of a scrape.
    let length = |bytes: usize| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + bytes, b'x');
        answer
    };
    const LONG_BYTES: usize = 4 << 20;
    let short = Pod::answering("127.25.1.1", length(1000), Then::Keep);
    let long = Pod::answering("127.25.1.2", length(LONG_BYTES), Then::Keep);
    let mut chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    (0..20).for_each(|_| chunks.extend(&chunk));
    chunks.extend(b"0\r\n\r\n");
    let chunked = Pod::answering("127.25.1.3", chunks, Then::Keep);
    let until_close = Pod::answering("127.25.1.4", "HTTP/1.0 200 OK\r\n\r\npage", Then::Close);
    let reset = Pod::answering("127.25.1.5", "", Then::Reset);
    for (pod, status, bytes) in [
        (&short, 200, 1000),
        (&short, 200, 1000),
        (&long, 200, LONG_BYTES),
        (&chunked, 200, 20 << 16),
        (&until_close, 200, 4),
        (&reset, 502, 0),
    ] {
        let answer = psystrike.get(&Psystrike::target(pod.address(), "/metrics"));
        assert_eq!(answer.status(), status);
        assert!(answer.body.len() == bytes || status != 200, "{} bytes", answer.body.len());
    }
    let mut client = psystrike.client();
    assert_eq!(client.get("/pods/127.25.1.6/1/metrics").status(), 502);
    assert_eq!(client.get("/pods/::1/1/metrics").status(), 502);
    assert_eq!(client.get("/pods/10.0.0.1/1/metrics").status(), 403);
    for (page, status) in [("/metrics", 200), ("/healthz", 200), ("/readyz", 200), ("/", 200), ("/none", 404)]
    {
        assert_eq!(client.get(page).status(), status, "{page}");
    }
    // The head of a long response on a pooled connection, which the same worker has, is peeked at.
    let mut again = psystrike.client();
    for _ in 0..2 {
        let answer = again.get(&Psystrike::target(long.address(), "/metrics"));
        assert_eq!(answer.body.len(), LONG_BYTES);
    }
    let mut slow = psystrike.client();
    slow.send(support::http::get(&Psystrike::target(long.address(), "/slow")));
    long.wait_for("a scrape", |seen| seen.heads.len() == 4);
    psystrike.signal(Signal::TERM);
    psystrike.wait_for_line("waiting up to");
    assert_eq!(slow.response().expect("it may finish").body.len(), LONG_BYTES);
    assert!(psystrike.wait(Duration::from_secs(60)).success());

    let trace = fs::read_to_string(&trace).expect("strace has written it");
    // `1234 recvfrom(9, ...`; a call that another thread interrupts has an earlier line, marked unfinished.
    let calls = trace.lines().filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('));
    let calls: Vec<(&str, &str)> = calls.filter(|(name, _)| !name.starts_with(['<', '+', '-'])).collect();
    let called: BTreeSet<&str> = calls.iter().map(|(name, _)| *name).collect();
    println!("{called:?}");
    for expected in ["execve", "accept4", "connect", "splice", "tee", "exit_group"] {
        assert!(called.contains(expected), "the life has none of {expected} in it: {called:?}");
    }
    let forbidden: Vec<_> = called.iter().filter(|name| !allowed.contains(**name)).collect();
    assert!(forbidden.is_empty(), "{forbidden:?} of {called:?}");

    // The socket families: RestrictAddressFamilies does not apply to socketpair (systemd.exec(5)).
    let families = setting("RestrictAddressFamilies");
    let families: Vec<&str> = families.split(' ').collect();
    for (_, arguments) in calls.iter().filter(|(name, _)| *name == "socket") {
        let family = arguments.split(',').next().unwrap_or_default();
        assert!(families.contains(&family), "a socket of {family}");
    }
    // MemoryDenyWriteExecute: no memory that is writable and executable, and none that becomes executable.
    assert_eq!(setting("MemoryDenyWriteExecute"), "yes");
    for (name, arguments) in &calls {
        let executable = arguments.contains("PROT_EXEC");
        let forbidden = (*name == "mmap" && executable && arguments.contains("PROT_WRITE"))
            || (["mprotect", "pkey_mprotect"].contains(name) && executable);
        assert!(!forbidden, "{name}({arguments}");
    }
    // ProcSubset=pid: of /proc only processes, and its own at that.
    for (_, arguments) in calls.iter().filter(|(_, arguments)| arguments.contains("\"/proc/")) {
        assert!(arguments.contains("\"/proc/self/"), "{arguments}");
    }
}
