//! The forwarders: how each is configured, started on its core, and stopped.
//!
//! Each runs as a child of the harness, and the kernel kills it when the harness exits ([`become_child`]). Its output
//! goes into a file of the scratch directory, which is printed if it fails.

use std::{
    env,
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::{
    baselines::{self, Way},
    cases::Body,
    certificates::Files,
    encryption::{Encryption, Tls},
    haproxy,
    load::{Load, Scrape},
    machine,
    nginx::{self, Tuning},
    setup::{Form, Setup},
    squid, tinyproxy, tunnel_baseline,
};

/// Time limit for a start. nginx has to read thousands of locations.
const START_MAX: Duration = Duration::from_secs(20);
/// Time limit for a stop; then the forwarder is killed.
const END_MAX: Duration = Duration::from_secs(3);
/// The first argument with which this program becomes a forwarder.
const CHILD: &str = "--child";
const BASELINE: &str = "--baseline";
const TUNNEL_BASELINE: &str = "--tunnel-baseline";
/// psystrike's option for how long a response may gather.
const GATHER: &str = "--gather";

/// A kind of forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A psystrike binary, and its `--workers`.
    Psystrike { path: PathBuf, workers: &'static str },
    /// nginx as most users configure it; it pools no pod connections.
    NginxSimple,
    /// nginx with the best settings that were found.
    NginxTuned,
    /// nginx with other settings.
    Nginx(Tuning),
    /// HAProxy with `set-dst`; it pools connections.
    Haproxy,
    /// tinyproxy, which closes the connections to client and pod after each response.
    Tinyproxy,
    /// Squid without a cache; it pools connections.
    Squid,
    /// A baseline.
    Baseline(Way),
    /// A baseline for tunnels.
    TunnelBaseline(Way),
}

/// A forwarder, and its name in the tables.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// How a request names its pod.
    pub(crate) form: Form,
    pub(crate) tls: Tls,
    /// Whether each scrape has a new connection.
    pub(crate) reconnects: bool,
    /// psystrike: whether responses that arrive in small writes may gather before they are read.
    pub(crate) gathers: bool,
}

/// A running forwarder, which accepts connections.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    form: Form,
    /// Whether clients use TLS.
    pub(crate) is_tls: bool,
    /// Whether clients reconnect for every scrape, for example because it closes connections without announcing it.
    closes: bool,
}

impl Kind {
    /// The name of its program; `None` if it is built here.
    fn program(&self) -> Option<&'static str> {
        match self {
            Self::NginxSimple | Self::NginxTuned | Self::Nginx(_) => Some("nginx"),
            Self::Haproxy => Some("haproxy"),
            Self::Tinyproxy => Some("tinyproxy"),
            Self::Squid => Some("squid"),
            Self::Psystrike { .. } | Self::Baseline(_) | Self::TunnelBaseline(_) => None,
        }
    }
}

impl Forwarder {
    /// A forwarder for requests that name the pod in the path.
    pub(crate) fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            form: Form::Pods,
            tls: Tls::Nowhere,
            reconnects: false,
            gathers: true,
        }
    }

    /// A psystrike binary with one worker.
    pub(crate) fn ours(name: &str, path: PathBuf) -> Self {
        Self::new(name, Kind::Psystrike { path, workers: "1" })
    }

    /// The same for requests in absolute form.
    pub(crate) fn in_absolute_form(self) -> Self {
        Self { form: Form::Absolute, ..self }
    }

    /// The same for scrapes in tunnels.
    pub(crate) fn in_tunnels(self) -> Self {
        Self { form: Form::Tunnel, ..self }
    }

    /// The same with TLS.
    pub(crate) fn with_tls(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }

    /// The same with a new connection for each scrape.
    pub(crate) fn with_new_connections(self) -> Self {
        Self { reconnects: true, ..self }
    }

    /// The same without gathering, if this psystrike can gather.
    pub(crate) fn without_gathering(&self) -> Option<Self> {
        let Kind::Psystrike { path, .. } = &self.kind else { return None };
        let help = Command::new(path).arg("--help").output().ok()?;
        let can = String::from_utf8_lossy(&help.stdout).contains(GATHER);
        can.then(|| Self { name: format!("{} {GATHER} 0", self.name), gathers: false, ..self.clone() })
    }

    /// Whether it is psystrike.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Psystrike { .. })
    }

    /// Whether it is a baseline.
    pub(crate) fn is_baseline(&self) -> bool {
        matches!(self.kind, Kind::Baseline(_) | Kind::TunnelBaseline(_))
    }

    /// Whether its program is installed.
    pub(crate) fn is_installed(&self) -> bool {
        match &self.kind {
            Kind::Psystrike { path, .. } => path.is_file(),
            kind => kind.program().is_none_or(|program| find(program).is_some()),
        }
    }

    /// The Debian package of its program. The package tinyproxy would also install a service.
    pub(crate) fn package(&self) -> Option<&'static str> {
        self.kind.program().map(|program| if program == "tinyproxy" { "tinyproxy-bin" } else { program })
    }

    /// Its version, as it prints it.
    pub(crate) fn version(&self) -> Option<String> {
        let (program, argument) = match &self.kind {
            Kind::Psystrike { path, .. } => (path.clone(), "--version"),
            kind => (find(kind.program()?)?, "-v"),
        };
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        Some(text.lines().next()?.to_owned())
    }

    /// Starts it on a free port, and waits until it accepts connections.
    pub(crate) fn start(&self, setup: &Setup) -> Result<Running, String> {
        let address = free_address()?;
        let command = self.command(address, setup)?;
        let log = self.file(setup, "log");
        let mut child = child(&setup.cores)?;
        child.args(command);
        self.spawn(&mut child, address, &log)
    }

    fn file(&self, setup: &Setup, suffix: &str) -> PathBuf {
        setup.scratch.join(format!("{}.{suffix}", self.name.replace([' ', '/'], "-")))
    }

    /// The program and its arguments.
    pub(crate) fn command(&self, address: SocketAddr, setup: &Setup) -> Result<Vec<OsString>, String> {
        let program = |name: &str| find(name).ok_or_else(|| format!("{name} is not installed"));
        let write = |text: String| {
            let path = self.file(setup, "conf");
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display())).map(|()| path)
        };
        let nginx = |text: String| {
            Ok([program("nginx")?.into(), "-c".into(), write(text)?.into(), "-p".into()]
                .into_iter()
                .chain([setup.scratch.clone().into(), "-e".into(), "stderr".into()])
                .collect())
        };
        let tls = Encryption::of(self.tls, setup)?;
        match &self.kind {
            Kind::Psystrike { path, workers } => Ok(self.psystrike(address, path, workers, &tls)),
            Kind::NginxSimple => nginx(nginx::simple(address, setup)),
            Kind::NginxTuned => nginx(nginx::tuned(address, setup, &nginx::TUNED, &tls)),
            Kind::Nginx(tuning) => nginx(nginx::tuned(address, setup, tuning, &tls)),
            Kind::Haproxy => Ok(vec![
                program("haproxy")?.into(),
                "-db".into(),
                "-f".into(),
                write(haproxy::configuration(address, &tls))?.into(),
            ]),
            Kind::Tinyproxy => {
                let configuration = write(tinyproxy::configuration(address, setup))?;
                Ok(vec![program("tinyproxy")?.into(), "-d".into(), "-c".into(), configuration.into()])
            }
            Kind::Squid => {
                let configuration = write(squid::configuration(address))?;
                Ok(squid::command(&program("squid")?, &configuration))
            }
            Kind::Baseline(way) => {
                let numbers = [setup.pods_port.into(), setup.pods, setup.clients];
                let numbers = numbers.iter().map(|number| OsString::from(number.to_string()));
                Ok([myself()?.into(), BASELINE.into(), way.name().into(), address.to_string().into()]
                    .into_iter()
                    .chain(numbers)
                    .chain([setup.answer_bytes.to_string().into()])
                    .collect())
            }
            Kind::TunnelBaseline(way) => Ok(vec![
                myself()?.into(),
                TUNNEL_BASELINE.into(),
                way.name().into(),
                address.to_string().into(),
            ]),
        }
    }

    fn psystrike(&self, address: SocketAddr, path: &Path, workers: &str, tls: &Encryption) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec![path.into(), "--allow=127.0.0.0/8".into()];
        command.push(format!("--listen={address}").into());
        command.push(format!("--workers={workers}").into());
        if !self.gathers {
            command.push(format!("{GATHER}=0").into());
        }
        if self.form == Form::Tunnel {
            command.push("--allow-connect".into());
        }
        if let Some(Files { certificate, key, .. }) = &tls.certificate {
            command.extend(["--tls-cert".into(), certificate.into(), "--tls-key".into(), key.into()]);
        }
        if tls.to_pods {
            command.extend(["--pod-scheme=https".into(), "--pod-tls-skip-verify".into()]);
        }
        command
    }

    /// Starts `command`, which runs this forwarder, and waits until it accepts connections.
    pub(crate) fn spawn(
        &self,
        command: &mut Command,
        address: SocketAddr,
        log: &Path,
    ) -> Result<Running, String> {
        let file = fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("PSYSTRIKE_") {
                command.env_remove(name);
            }
        }
        let errors = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.map_err(|error| format!("cannot start {}: {error}", self.name))?;
        let closes = self.kind == Kind::Tinyproxy || self.reconnects;
        let is_tls = matches!(self.tls, Tls::Clients(_));
        let mut running = Running { child, address, form: self.form, is_tls, closes };
        let until = Instant::now() + START_MAX;
        while TcpStream::connect(address).is_err() {
            let ended = running.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > until {
                let how = ended.map_or("does not accept connections".to_owned(), |status| status.to_string());
                return Err(format!("{} {how}; its output:\n{}", self.name, end_of(log)));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(running)
    }
}

impl Running {
    /// Its process. Descendants belong to it.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Connects the clients.
    pub(crate) fn load(&self, setup: &Setup, body: Body) -> Result<Load, String> {
        let scrapes = setup.scrapes(self.address, self.form, body);
        if self.form == Form::Tunnel {
            let pods: Vec<SocketAddr> = (0..setup.pods).map(|number| setup.pod(number)).collect();
            return Load::tunnel(self.address, &pods, setup.clients, scrapes);
        }
        self.scrapes(setup, scrapes)
    }

    /// Connects the clients for these scrapes.
    pub(crate) fn scrapes(&self, setup: &Setup, scrapes: Vec<Scrape>) -> Result<Load, String> {
        let mut load = Load::connect(self.address, setup.clients, scrapes, self.is_tls)?;
        load.reconnect(self.closes);
        Ok(load)
    }

    /// Sends SIGTERM, and waits until it exits.
    pub(crate) fn end(&mut self, within: Duration) -> Option<ExitStatus> {
        // Fails if it has exited already.
        let _ = kill_process(self.pid(), Signal::TERM);
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Clients are still connected. psystrike waits for running scrapes only, but HAProxy waits for all clients.
        if self.end(END_MAX).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Begins a command for a program on these cores, which ends when this process ends. Add the program and its arguments.
pub(crate) fn child(cores: &[usize]) -> Result<Command, String> {
    let mut child = Command::new(myself()?);
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    child.arg(CHILD).arg(cores.join(","));
    Ok(child)
}

/// Becomes a forwarder if the command line requests it. It then returns only on failure, with the error.
pub(crate) fn become_child() -> Option<String> {
    let mut arguments = env::args_os().skip(1);
    match arguments.next()?.to_str()? {
        CHILD => {
            // The kernel kills it when the harness exits, for any reason, and its own children when it exits.
            if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
                return Some(error.to_string());
            }
            let cores = arguments.next()?;
            let cores: Option<Vec<usize>> =
                cores.to_str()?.split(',').map(|core| core.parse().ok()).collect();
            if let Err(error) = machine::pin(&cores?) {
                return Some(error);
            }
            let error = Command::new(arguments.next()?).args(arguments).exec();
            Some(error.to_string())
        }
        BASELINE => Some(match baseline_setup(arguments) {
            Some(setup) => format!("{setup:?}: {:?}", baselines::run(setup)),
            None => "invalid arguments for a baseline".to_owned(),
        }),
        TUNNEL_BASELINE => Some(match tunnel_baseline_setup(arguments) {
            Some((way, listen)) => format!("{:?}", tunnel_baseline::run(way, listen)),
            None => "invalid arguments for a baseline".to_owned(),
        }),
        _ => None,
    }
}

fn baseline_setup(arguments: impl Iterator<Item = OsString>) -> Option<baselines::Setup> {
    let arguments: Vec<String> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
    let [way, listen, pods_port, pods, clients, answer_bytes] = arguments.try_into().ok()?;
    Some(baselines::Setup {
        way: Way::named(&way)?,
        listen: listen.parse().ok()?,
        pods_port: pods_port.parse().ok()?,
        pods: pods.parse().ok()?,
        clients: clients.parse().ok()?,
        answer_bytes: answer_bytes.parse().ok()?,
    })
}

fn tunnel_baseline_setup(mut arguments: impl Iterator<Item = OsString>) -> Option<(Way, SocketAddr)> {
    let way = Way::named(arguments.next()?.to_str()?)?;
    Some((way, arguments.next()?.to_str()?.parse().ok()?))
}

fn myself() -> Result<PathBuf, String> {
    env::current_exe().map_err(|error| format!("path of this program: {error}"))
}

/// The path of a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs servers in folders that only root has in PATH.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// An address that is free at the moment.
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port: {error}"))
}

fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
