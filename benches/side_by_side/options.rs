//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use pico_args::Arguments;

use crate::{
    baselines::Way,
    building,
    cases::{self, Body, Framing},
    forwarders::{Forwarder, Kind},
};

/// The text of `--help`.
pub(crate) const HELP: &str = "\
Measures psystrike beside other forwarders, on loopback. Prints Markdown tables.

Usage: cargo bench --bench side_by_side -- [PART..] [OPTIONS]

Parts (default: processor paced proxy tunnels tls memory start, which cover all targets; about 80 minutes)
  all           all parts below; about two hours
  processor     processor time per scrape, scrapes/s, MB/s, latency and Pss, for each body
  paced         every pod once in 15 s, evenly spread, each on its own connection: processor time per scrape,
                latency, Pss, and the kernel's memory for sockets (needs root)
  proxy         the same for requests in absolute form (proxy_url), beside tinyproxy and Squid
  tunnels       processor time per scrape in open tunnels; memory of idle and of closed tunnels
  tls           the same with TLS between clients and forwarder, and between forwarder and pods; processor
                time per new connection; memory of idle TLS connections (needs openssl)
  memory        Pss at start, with idle clients, with clients that stop reading, and after churn
  start         time from exec to the first forwarded scrape
  real          processor time per scrape of node_exporter, and of an exporter in Go with a page of 240 KiB
                (needs prometheus-node-exporter and go)
  syscalls      system calls per scrape (needs strace)
  instructions  user-space instructions per scrape of psystrike (needs valgrind); fails if a limit is
                exceeded by 5 %
  profile       the functions and files that these instructions are in (needs valgrind); builds psystrike
                with symbols
  growth        processor time per scrape with more pods, more clients and larger bodies
  workers       --workers 1 beside --workers auto; forwarder, pods and load share two cores
  nginx         nginx with other settings than those of 'nginx tuned'

Options
  --bodies LIST            bodies to scrape, such as 1k, 16k, 1m, 16k-chunked, 16k-net-http (as Go's net/http sends
                           it), 16k-records [default: 1k,16k,64k,256k,1m,16k-chunked,256k-chunked,16k-net-http,
                           256k-net-http,1m-net-http; proxy: 16k; tunnels: 16k-records]
  --psystrike [NAME=]PATH  psystrike binary to measure; can be repeated; targets for processor time and start
                           apply to the first one [default: the release build, and a static musl build if
                           the musl target is installed]
  --forwarders LIST        measure only forwarders whose name contains one of these words [default: all]
  --rounds N               number of rounds; in each round, every forwarder is measured once [default: 15;
                           paced: 5]
  --seconds S              length of one measurement [default: 0.5]
  --clients N              open client connections [default: 64; 1 for net-http bodies, except in the tunnels
                           part]
  --pods N                 number of pods [default: 200]
  --paced LIST             numbers of pods in the paced part; nginx and HAProxy have 20,000 open files, which is
                           enough for 9,000 [default: 100,1000,9000]
  --paced-seconds S        length of one measurement in the paced part [default: 15, in which each pod
                           is scraped once]
  --awake                  pods and load poll instead of sleeping, so that no forwarder spends time on waking
                           them; on a virtual machine a wake-up costs microseconds
  --idle LIST              numbers of idle clients in the memory part, each with its own pod; the largest is
                           also the number of idle tunnels in the tunnels part [default: 100,1000,8000]
  --churn-seconds S        how long connections are opened and closed in the memory part [default: 600]
  --starts N               number of starts in the start part [default: 50]
  --forwarder-core N       core of the forwarder [default: 0]
  --load-core N            core of pods and load [default: 1]
  --write                  write the measured tables into PERF.md and benches/HISTORY.md, where they have a
                           block for them, and draw PERF.svg if the processor part runs
  --svg FILE               draw the chart of the processor part into another file
  --profiles FOLDER        keep callgrind's files of the instructions part, for callgrind_annotate
  -h, --help               print this help
";

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Processor,
    Paced,
    Proxy,
    Tunnels,
    Tls,
    Memory,
    Start,
    Real,
    Syscalls,
    Instructions,
    Profile,
    Growth,
    Workers,
    Nginx,
}

/// The default parts.
const DEFAULT: [Part; 7] =
    [Part::Processor, Part::Paced, Part::Proxy, Part::Tunnels, Part::Tls, Part::Memory, Part::Start];
/// The default of `--idle`.
const IDLE: [usize; 3] = [100, 1000, 8000];
/// The default of `--paced`.
const PACED: [usize; 3] = [100, 1000, 9000];
/// The documents that `--write` writes into.
const DOCUMENTS: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/PERF.md"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/benches/HISTORY.md"),
];
/// Its chart.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/PERF.svg");

impl Part {
    /// In the order of the help.
    const ALL: [(&str, Self); 14] = [
        ("processor", Self::Processor),
        ("paced", Self::Paced),
        ("proxy", Self::Proxy),
        ("tunnels", Self::Tunnels),
        ("tls", Self::Tls),
        ("memory", Self::Memory),
        ("start", Self::Start),
        ("real", Self::Real),
        ("syscalls", Self::Syscalls),
        ("instructions", Self::Instructions),
        ("profile", Self::Profile),
        ("growth", Self::Growth),
        ("workers", Self::Workers),
        ("nginx", Self::Nginx),
    ];
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, part)| *part == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, part)| *part);
        part.ok_or_else(|| format!("unknown part {text:?}; see --help"))
    }
}

/// The parsed command line.
#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Run(Box<Options>),
}

/// All options.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) parts: Vec<Part>,
    pub(crate) bodies: Vec<Body>,
    /// The bodies of the proxy part.
    pub(crate) proxy_bodies: Vec<Body>,
    pub(crate) forwarders: Vec<Forwarder>,
    /// The bodies of the tunnels part.
    pub(crate) tunnel_bodies: Vec<Body>,
    /// The proxies that the proxy part measures beside psystrike.
    pub(crate) proxies: Vec<Forwarder>,
    pub(crate) rounds: usize,
    pub(crate) paced_rounds: usize,
    pub(crate) turn: Duration,
    pub(crate) clients: usize,
    /// Clients of bodies that are sent as net/http does.
    net_http_clients: usize,
    pub(crate) pods: usize,
    /// Numbers of pods in the paced part, ascending.
    pub(crate) paced: Vec<usize>,
    pub(crate) paced_turn: Duration,
    pub(crate) awake: bool,
    /// Numbers of idle clients, ascending.
    pub(crate) idle: Vec<usize>,
    pub(crate) churn: Duration,
    pub(crate) starts: usize,
    pub(crate) forwarder_core: usize,
    pub(crate) load_core: usize,
    pub(crate) documents: Vec<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) profiles: Option<PathBuf>,
}

impl Options {
    /// The largest number of idle clients.
    pub(crate) fn idle_max(&self) -> usize {
        self.idle.last().copied().unwrap_or_default()
    }

    /// The number of clients that scrape this body. The default for net/http is 1, so that the pod does not write far
    /// ahead of the forwarder.
    pub(crate) fn clients_of(&self, body: Body) -> usize {
        if body.framing == Framing::NetHttp { self.net_http_clients } else { self.clients }
    }

    pub(crate) fn from_process() -> Result<Asked, String> {
        read(Arguments::from_env())
    }
}

fn read(mut arguments: Arguments) -> Result<Asked, String> {
    if arguments.contains(["-h", "--help"]) {
        return Ok(Asked::Help);
    }
    arguments.contains("--bench"); // cargo passes it to every benchmark
    let wrong = |error: pico_args::Error| error.to_string();
    let bodies = list(&mut arguments, "--bodies")?;
    let bodies = bodies.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
    let bodies_or = |default: &[Body]| if bodies.is_empty() { default.to_vec() } else { bodies.clone() };
    let (proxy_bodies, tunnel_bodies) = (bodies_or(&[cases::length(16)]), bodies_or(&[cases::records(16)]));
    let bodies = bodies_or(&cases::ALL);
    let binaries: Vec<String> = arguments.values_from_str("--psystrike").map_err(wrong)?;
    let only = list(&mut arguments, "--forwarders")?;
    let mut forwarders =
        if binaries.is_empty() { built() } else { binaries.iter().map(|text| named(text)).collect() };
    forwarders.extend(others());
    let mut proxies = proxies();
    for forwarders in [&mut forwarders, &mut proxies] {
        forwarders.retain(|forwarder| {
            only.is_empty() || only.iter().any(|part| forwarder.name.contains(part.as_str()))
        });
    }
    let rounds = given(&mut arguments, "--rounds", 1000)?;
    let turn = seconds(&mut arguments, "--seconds", 0.5, 60.0)?;
    let clients = given(&mut arguments, "--clients", 4000)?;
    let pods = given(&mut arguments, "--pods", 4000)?.unwrap_or(200);
    let awake = arguments.contains("--awake");
    let idle = numbers(&mut arguments, "--idle", &IDLE)?;
    let paced = numbers(&mut arguments, "--paced", &PACED)?;
    let paced_turn = seconds(&mut arguments, "--paced-seconds", 15.0, 3600.0)?;
    let churn = seconds(&mut arguments, "--churn-seconds", 600.0, 3600.0)?;
    let starts = given(&mut arguments, "--starts", 1000)?.unwrap_or(50);
    let core = |arguments: &mut Arguments, option, default| {
        let core = arguments.opt_value_from_str(option).map_err(wrong)?.unwrap_or(default);
        if core < 1024 { Ok(core) } else { Err(format!("{option} {core}: no such core")) }
    };
    let forwarder_core = core(&mut arguments, "--forwarder-core", 0)?;
    let load_core = core(&mut arguments, "--load-core", 1)?;
    let write = arguments.contains("--write");
    let svg = arguments.opt_value_from_str("--svg").map_err(wrong)?.or(write.then(|| CHART.into()));
    let profiles = arguments.opt_value_from_str("--profiles").map_err(wrong)?;
    let parts: Vec<String> =
        arguments.finish().iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let parts = match &parts[..] {
        [] => DEFAULT.to_vec(),
        [all] if all == "all" => Part::ALL.map(|(_, part)| part).to_vec(),
        some => some.iter().map(|part| part.parse()).collect::<Result<_, _>>()?,
    };
    Ok(Asked::Run(Box::new(Options {
        parts,
        bodies,
        proxy_bodies,
        tunnel_bodies,
        forwarders,
        proxies,
        rounds: rounds.unwrap_or(15),
        paced_rounds: rounds.unwrap_or(5),
        turn,
        clients: clients.unwrap_or(64),
        net_http_clients: clients.unwrap_or(1),
        pods,
        paced,
        paced_turn,
        awake,
        idle,
        churn,
        starts,
        forwarder_core,
        load_core,
        documents: if write { DOCUMENTS.map(PathBuf::from).to_vec() } else { Vec::new() },
        svg,
        profiles,
    })))
}

fn list(arguments: &mut Arguments, option: &'static str) -> Result<Vec<String>, String> {
    let text: Option<String> = arguments.opt_value_from_str(option).map_err(|error| error.to_string())?;
    Ok(text.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect())
}

/// Numbers of pods or clients, ascending.
fn numbers(arguments: &mut Arguments, option: &'static str, default: &[usize]) -> Result<Vec<usize>, String> {
    let given = list(arguments, option)?;
    if given.is_empty() {
        return Ok(default.to_vec());
    }
    let wrong = || format!("{option} {}: expected numbers from 1 to 50000", given.join(","));
    let numbers = given.iter().map(|text| text.parse().ok().filter(|number| (1..=50_000).contains(number)));
    let mut numbers = numbers.collect::<Option<Vec<usize>>>().ok_or_else(wrong)?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// A number, if this option is given.
fn given(arguments: &mut Arguments, option: &'static str, max: usize) -> Result<Option<usize>, String> {
    match arguments.opt_value_from_str(option).map_err(|error| error.to_string())? {
        Some(number) if !(1..=max).contains(&number) => {
            Err(format!("{option} {number}: expected a number from 1 to {max}"))
        }
        number => Ok(number),
    }
}

fn seconds(
    arguments: &mut Arguments,
    option: &'static str,
    default: f64,
    max: f64,
) -> Result<Duration, String> {
    let given = arguments.opt_value_from_str(option).map_err(|error| error.to_string())?;
    match given.unwrap_or(default) {
        seconds if seconds > 0.0 && seconds <= max => Ok(Duration::from_secs_f64(seconds)),
        seconds => Err(format!("{option} {seconds}: expected more than 0 and at most {max}")),
    }
}

/// The release build that cargo makes for every benchmark, and the static one.
fn built() -> Vec<Forwarder> {
    let mut built = vec![Forwarder::ours("psystrike", env!("CARGO_BIN_EXE_psystrike").into())];
    match building::static_musl() {
        Ok(musl) => built.push(Forwarder::ours("psystrike musl", musl)),
        Err(error) => println!("NOT MEASURED: psystrike musl cannot be built: {error}\n"),
    }
    built
}

fn named(text: &str) -> Forwarder {
    let (name, path) = text.split_once('=').unwrap_or(("psystrike", text));
    Forwarder::ours(name, path.into())
}

fn others() -> impl Iterator<Item = Forwarder> {
    [
        ("baseline read/write", Kind::Baseline(Way::ReadWrite)),
        ("baseline splice", Kind::Baseline(Way::Splice)),
        ("nginx tuned", Kind::NginxTuned),
        ("nginx simple", Kind::NginxSimple),
        ("haproxy", Kind::Haproxy),
    ]
    .into_iter()
    .map(|(name, kind)| Forwarder::new(name, kind))
}

fn proxies() -> Vec<Forwarder> {
    let proxies = [("tinyproxy", Kind::Tinyproxy), ("squid", Kind::Squid)];
    proxies.into_iter().map(|(name, kind)| Forwarder::new(name, kind).in_absolute_form()).collect()
}
