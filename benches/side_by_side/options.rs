//! What can be asked for on the command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use pico_args::Arguments;

use crate::{
    baselines::Way,
    building,
    cases::{self, Body},
    forwarders::{Forwarder, Kind},
};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
cargo bench --bench side_by_side -- [PART..] [OPTIONS]

Parts (default: processor proxy tunnels memory start, which give a verdict on every target; about 30 minutes)
  all           all that follow, which is what PERF.md holds; about an hour
  processor     processor time per scrape, scrapes/s, MB/s, latency, Pss, for each body
  proxy         the same with requests in absolute form (proxy_url), beside tinyproxy and Squid
  tunnels       processor time per scrape through kept tunnels, Pss of idle ones, and what many leave behind
  memory        Pss: at start, with idle clients, with stalled readers, after churn
  start         from exec to the first forwarded scrape
  syscalls      system calls per scrape (needs strace)
  instructions  user-space instructions per scrape of psystrike (needs valgrind); fails over a limit
  profile       which functions and files those are in (needs valgrind); builds a psystrike with symbols
  growth        processor time per scrape with more pods, more clients, larger bodies
  workers       --workers 1 beside --workers auto, on the cores of forwarder and load together
  nginx         nginx tuned beside other settings of it

Options
  --bodies LIST          of 1k, 16k, 64k, 256k, 1m, 16k-chunked, 256k-chunked and the like [default: these;
                         the proxy part: 16k; the tunnels part: 16k-records]
  --psystrike [NAME=]PATH  another binary of ours; may repeat [default: the release build, and a static
                         musl one where the toolchain can]; the first one is the one that verdicts on
                         processor time and start are about
  --forwarders LIST      only those whose names contain one of these [default: all]
  --rounds N             rounds, in each of which every forwarder has its turn [default: 15]
  --seconds S            how long a turn is [default: 0.5]
  --clients N            kept client connections [default: 64]
  --pods N               pods [default: 200]
  --awake                pods and load never sleep, so that no forwarder pays for waking them: on two
                         cores of a virtual machine that costs microseconds, and hits the slower ones
  --idle N               idle clients, and idle tunnels, each with a pod of its own [default: 8000]
  --churn-seconds S      how long connections come and go in the memory part [default: 600]
  --starts N             starts [default: 50]
  --forwarder-core N     the core of the forwarders [default: 0]
  --load-core N          the core of pods and load [default: 1]
  --svg FILE             draw the processor part [default with all: PERF.svg]
  --profiles FOLDER      keep what callgrind wrote in the instructions part, for callgrind_annotate
";

/// A part of the measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Processor,
    Proxy,
    Tunnels,
    Memory,
    Start,
    Syscalls,
    Instructions,
    Profile,
    Growth,
    Workers,
    Nginx,
}

/// Where PERF.md has its picture.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/PERF.svg");

impl Part {
    /// In the order of PERF.md.
    const ALL: [(&str, Self); 11] = [
        ("processor", Self::Processor),
        ("proxy", Self::Proxy),
        ("tunnels", Self::Tunnels),
        ("memory", Self::Memory),
        ("start", Self::Start),
        ("syscalls", Self::Syscalls),
        ("instructions", Self::Instructions),
        ("profile", Self::Profile),
        ("growth", Self::Growth),
        ("workers", Self::Workers),
        ("nginx", Self::Nginx),
    ];
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, part)| *part);
        part.ok_or_else(|| format!("{text:?}: no such part; see --help"))
    }
}

/// What was asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Run(Box<Options>),
}

/// All that can be set.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) parts: Vec<Part>,
    pub(crate) bodies: Vec<Body>,
    /// The bodies of the proxy part.
    pub(crate) proxy_bodies: Vec<Body>,
    pub(crate) forwarders: Vec<Forwarder>,
    /// The bodies of the tunnels part.
    pub(crate) tunnel_bodies: Vec<Body>,
    /// What the proxy part measures beside psystrike.
    pub(crate) proxies: Vec<Forwarder>,
    pub(crate) rounds: usize,
    pub(crate) turn: Duration,
    pub(crate) clients: usize,
    pub(crate) pods: usize,
    pub(crate) awake: bool,
    pub(crate) idle: usize,
    pub(crate) churn: Duration,
    pub(crate) starts: usize,
    pub(crate) forwarder_core: usize,
    pub(crate) load_core: usize,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) profiles: Option<PathBuf>,
}

impl Options {
    pub(crate) fn from_process() -> Result<Asked, String> {
        read(Arguments::from_env())
    }
}

fn read(mut arguments: Arguments) -> Result<Asked, String> {
    if arguments.contains(["-h", "--help"]) {
        return Ok(Asked::Help);
    }
    arguments.contains("--bench"); // what cargo says to every bench
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
    let rounds = number(&mut arguments, "--rounds", 15, 1000)?;
    let turn = seconds(&mut arguments, "--seconds", 0.5, 60.0)?;
    let clients = number(&mut arguments, "--clients", 64, 4000)?;
    let pods = number(&mut arguments, "--pods", 200, 4000)?;
    let awake = arguments.contains("--awake");
    let idle = number(&mut arguments, "--idle", 8000, 50_000)?;
    let churn = seconds(&mut arguments, "--churn-seconds", 600.0, 3600.0)?;
    let starts = number(&mut arguments, "--starts", 50, 1000)?;
    let core = |arguments: &mut Arguments, option, default| {
        let core = arguments.opt_value_from_str(option).map_err(wrong)?.unwrap_or(default);
        if core < 1024 { Ok(core) } else { Err(format!("{option} {core}: there is no such core")) }
    };
    let forwarder_core = core(&mut arguments, "--forwarder-core", 0)?;
    let load_core = core(&mut arguments, "--load-core", 1)?;
    let mut svg = arguments.opt_value_from_str("--svg").map_err(wrong)?;
    let profiles = arguments.opt_value_from_str("--profiles").map_err(wrong)?;
    let parts: Vec<String> =
        arguments.finish().iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let parts = match &parts[..] {
        [] => vec![Part::Processor, Part::Proxy, Part::Tunnels, Part::Memory, Part::Start],
        [all] if all == "all" => {
            svg.get_or_insert_with(|| PICTURE.into());
            Part::ALL.map(|(_, part)| part).to_vec()
        }
        some => some.iter().map(|part| part.parse()).collect::<Result<_, _>>()?,
    };
    Ok(Asked::Run(Box::new(Options {
        parts,
        bodies,
        proxy_bodies,
        tunnel_bodies,
        forwarders,
        proxies,
        rounds,
        turn,
        clients,
        pods,
        awake,
        idle,
        churn,
        starts,
        forwarder_core,
        load_core,
        svg,
        profiles,
    })))
}

fn list(arguments: &mut Arguments, option: &'static str) -> Result<Vec<String>, String> {
    let text: Option<String> = arguments.opt_value_from_str(option).map_err(|error| error.to_string())?;
    Ok(text.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect())
}

fn number(
    arguments: &mut Arguments,
    option: &'static str,
    default: usize,
    max: usize,
) -> Result<usize, String> {
    let given = arguments.opt_value_from_str(option).map_err(|error| error.to_string())?;
    match given.unwrap_or(default) {
        number if (1..=max).contains(&number) => Ok(number),
        number => Err(format!("{option} {number}: a number from 1 to {max} is allowed")),
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
        seconds => Err(format!("{option} {seconds}: more than 0 and at most {max} is allowed")),
    }
}

/// The release build that cargo makes for every bench, and the static one.
fn built() -> Vec<Forwarder> {
    let mut built = vec![Forwarder::ours("psystrike", env!("CARGO_BIN_EXE_psystrike").into())];
    match building::static_musl() {
        Ok(musl) => built.push(Forwarder::ours("psystrike musl", musl)),
        Err(error) => println!("NOT MEASURED: psystrike musl, which cannot be built here: {error}\n"),
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
