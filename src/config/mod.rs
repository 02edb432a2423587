//! Parses arguments and `PSYSTRIKE_*` variables into a [`Config`].
//!
//! Owns the meaning of option values. The table of options is in [`options`]. Does not apply them.

pub mod access;
mod arguments;
pub mod files;
mod help;
pub mod options;
mod pods;
mod random_key;
mod source;
mod timeouts;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub mod tls;
#[cfg(feature = "web-config")]
pub mod web;
#[cfg(not(feature = "web-config"))]
#[path = "no_web.rs"]
pub mod web;

use std::{env, ffi::OsString, net::SocketAddr, str::FromStr, thread, time::Duration};

use log::LevelFilter;
use pico_args::Arguments;

use self::{
    access::AccessFiles,
    options::Opt,
    pods::pods,
    source::{Source, read_value, similar, suggestion},
    timeouts::timeouts,
    tls::TlsOptions,
};
pub use self::{help::help, source::UsageError};
use crate::{
    healthcheck::Page,
    logging::LogFormat,
    net::{event_loop, listener, signals},
    proxy::{
        budget::SHARE_MIN,
        duration,
        policy::{self, Policy, Ports},
        settings::Settings,
        size::{self, Exact},
    },
};

/// Maximum number of workers: more than the cores of any machine that psystrike is meant for.
const WORKERS_MAX: usize = 256;

/// The action that the command line requests.
#[derive(Debug)]
pub enum Command {
    /// Print [`help()`].
    Help,
    /// Print the version.
    Version,
    /// Query this page of a running psystrike.
    Healthcheck(Page),
    /// Serve.
    Serve(Box<Config>),
}

/// All options of a serving psystrike.
#[derive(Debug)]
pub struct Config {
    /// Addresses to listen on. Empty: the default address.
    pub listen: Vec<SocketAddr>,
    /// The name of the option or variable that they come from, for error messages.
    pub listen_name: String,
    /// Number of event loops.
    pub workers: usize,
    /// The files of the options for access control, to be read into the settings.
    pub access_files: AccessFiles,
    /// The options for TLS, whose files are to be read as well.
    pub tls: TlsOptions,
    /// Settings that exchanges use.
    pub settings: Settings,
    /// Limit of client connections, if set.
    pub clients_max: Option<usize>,
    /// Limit of pooled pod connections, if set.
    pub upstreams_idle_max: Option<usize>,
    /// Limit of bytes buffered for clients and pods, if set.
    pub buffers_max: Option<u64>,
    /// How long to continue serving after SIGTERM.
    pub shutdown_delay: Duration,
    /// How long to let running scrapes finish after that.
    pub shutdown_timeout: Duration,
    /// Log level.
    pub log_level: LevelFilter,
    /// Log format.
    pub log_format: LogFormat,
    /// Warnings about options that are valid but likely to be a mistake.
    pub warnings: Vec<String>,
}

impl Config {
    /// Returns whether clients may use HTTPS. Web configuration files are not read yet.
    pub fn serves_tls(&self) -> bool {
        self.tls.serves_clients() || self.access_files.web.is_some()
    }

    /// Returns the least open-files limit that can serve one scrape at a time, with `open` files open at the start.
    pub fn open_files_min(&self, open: u64) -> u64 {
        // Each worker needs its own: it cannot close a pod connection pooled by another worker.
        let pod = 1;
        let worker = event_loop::DESCRIPTORS + self.listen.len().max(1) + pod;
        let client = 1;
        open + (signals::DESCRIPTORS + self.workers * worker + client) as u64
    }
}

/// Parses the arguments (without the program's name), and the variables of options that no argument sets.
///
/// # Errors
/// [`UsageError`], for the first error found.
pub fn parse(
    mut arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, UsageError> {
    let healthcheck = arguments::take_healthcheck(&mut arguments);
    arguments.iter_mut().for_each(arguments::spell_as_here);
    let mut arguments = Arguments::from_vec(arguments);
    if arguments.contains(["-h", Opt::Help.name()]) {
        return Ok(Command::Help);
    }
    if arguments.contains(["-V", Opt::Version.name()]) {
        return Ok(Command::Version);
    }
    let mut source = Source::new(arguments, variable);
    let listen = source.list(Opt::Listen, address)?;
    let workers = source.one(Opt::Workers, workers)?;
    let tls = tls::tls(&mut source)?;
    let (access, access_files) = access::access(&mut source, &tls)?;
    let (policy, pods, timeouts) = (policy(&mut source)?, pods(&mut source)?, timeouts(&mut source)?);
    let connect_ports = connect_ports(&mut source, policy.ports())?;
    let warnings = timeouts::warnings(&source, &timeouts, connect_ports.is_some());
    let clients_max = source.optional(Opt::ClientsMax, |text| count(text, 1))?;
    let upstreams_idle_max = source.optional(Opt::UpstreamsIdleMax, |text| count(text, 0))?;
    let buffers_max = source.optional(Opt::BuffersMax, |text| buffers(text, workers))?;
    let shutdown_delay = source.one(Opt::ShutdownDelay, duration::parse)?;
    let shutdown_timeout = source.one(Opt::ShutdownTimeout, duration::parse)?;
    let log_level = source.one(Opt::LogLevel, log_level)?;
    let log_format = source.one(Opt::LogFormat, LogFormat::from_str)?;
    let access_log = source.flag(Opt::AccessLog)?;
    let listen_name = source.name(Opt::Listen);
    source.finish()?;
    if let Some(url) = healthcheck {
        let page = match url {
            Some(url) => read_value(Opt::Healthcheck.name(), &url, Page::from_str)?,
            None => {
                let address = listen.first().copied().unwrap_or_else(listener::default_address);
                Page::healthz(address)
                    .map_err(|why| UsageError(format!("--healthcheck at {address}: {why}")))?
            }
        };
        return Ok(Command::Healthcheck(page));
    }
    let settings = Settings { access, policy, pods, timeouts, connect_ports, access_log };
    Ok(Command::Serve(Box::new(Config {
        listen,
        listen_name,
        workers,
        access_files,
        tls,
        settings,
        clients_max,
        upstreams_idle_max,
        buffers_max,
        shutdown_delay,
        shutdown_timeout,
        log_level,
        log_format,
        warnings,
    })))
}

/// Reads the options for allowed destinations.
fn policy<V: Fn(&str) -> Option<OsString>>(source: &mut Source<V>) -> Result<Policy, UsageError> {
    let policy = Policy::new(
        source.list(Opt::Allow, policy::parse_range)?,
        source.list(Opt::Deny, policy::parse_range)?,
        source.one(Opt::AllowPorts, Ports::from_str)?,
    );
    Ok(policy.with_names(source.list(Opt::AllowNames, policy::parse_suffix)?))
}

/// Reads the options for CONNECT.
fn connect_ports<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
    allowed_ports: &Ports,
) -> Result<Option<Ports>, UsageError> {
    let allowed = source.flag(Opt::AllowConnect)?;
    let ports = source.optional(Opt::ConnectPorts, Ports::from_str)?;
    match ports {
        Some(_) if !allowed => Err(source.requires(Opt::ConnectPorts, &[Opt::AllowConnect])),
        Some(ports) if !ports.overlap(allowed_ports) => {
            let (name, allowed) = (source.name(Opt::ConnectPorts), source.name(Opt::AllowPorts));
            Err(UsageError(format!("{name} {ports}: none of these ports is in {allowed} {allowed_ports}")))
        }
        ports => Ok(allowed.then(|| ports.unwrap_or_else(Ports::all))),
    }
}

/// Runs [`parse`] on the arguments and environment of this process.
///
/// # Errors
/// As [`parse`].
pub fn from_process() -> Result<Command, UsageError> {
    parse(env::args_os().skip(1).collect(), |name| env::var_os(name))
}

/// Returns the log format for errors of [`from_process`]: the configured one, or the default if its value is invalid.
pub fn log_format_from_process() -> LogFormat {
    let arguments = Arguments::from_vec(env::args_os().skip(1).collect());
    let mut source = Source::new(arguments, |name: &str| env::var_os(name));
    source.one(Opt::LogFormat, LogFormat::from_str).unwrap_or_default()
}

/// Returns a warning for each `PSYSTRIKE_*` variable that belongs to no option, for example because it is misspelled.
/// Ignores the variables that Kubernetes sets for a Service named psystrike or psystrike-something.
pub fn unknown_variables(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let known: Vec<String> = Opt::ALL.iter().filter_map(|option| option.variable()).collect();
    // https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    let of_a_service = |name: &str, value: &str| {
        let port = name.contains("_PORT")
            && (value.contains("://") || name.contains("_TCP") || name.contains("_UDP"));
        port || name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT")
    };
    let unknown = variables.filter(|(name, value)| {
        name.starts_with("PSYSTRIKE_") && !known.contains(name) && !of_a_service(name, value)
    });
    let message = |(name, _): (String, String)| {
        let suggestion = suggestion(similar(&name, known.iter().cloned()));
        format!("ignoring unknown environment variable {name}; {suggestion}")
    };
    unknown.map(message).collect()
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an IP address with a port: 0.0.0.0:8080 or [::]:8080")
}

fn workers(text: &str) -> Result<usize, &'static str> {
    if text == "auto" {
        // std reads the cgroup's CPU quota (v1 and v2) and the affinity mask.
        return Ok(thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX));
    }
    let workers = text.parse().ok().filter(|workers| (1..=WORKERS_MAX).contains(workers));
    workers.ok_or("expected a number from 1 to 256, or auto")
}

fn count(text: &str, min: usize) -> Result<usize, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (min..=1_000_000).contains(number));
    number.ok_or_else(|| format!("expected a number from {min} to 1000000"))
}

/// Parses a size. Each worker's share must hold the longest response head.
fn buffers(text: &str, workers: usize) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    let least = (workers * SHARE_MIN) as u64;
    if bytes < least {
        return Err(format!("expected at least {} for {workers} worker(s)", Exact(least)));
    }
    Ok(bytes)
}

fn log_level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse().map_err(|_| "expected off, error, warn, info, debug or trace")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{pods::PodScheme, settings::Timeouts};

    fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Box<Config>, String> {
        let arguments = arguments.iter().map(OsString::from).collect();
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| text.into());
        match parse(arguments, variable) {
            Ok(Command::Serve(config)) => Ok(config),
            Ok(other) => Err(format!("{other:?}")),
            Err(UsageError(error)) => Err(error),
        }
    }

    #[test]
    fn the_option_wins_over_the_variable() {
        let variables = [
            ("PSYSTRIKE_CONNECT_TIMEOUT", "7s"),
            ("PSYSTRIKE_TIMEOUT", "8s"),
            ("PSYSTRIKE_ALLOW", "127.0.0.0/8, ::1/128"),
            ("PSYSTRIKE_DENY", ""),
            ("PSYSTRIKE_ACCESS_LOG", "true"),
            ("PSYSTRIKE_PORT", "tcp://10.0.0.1:8080"),
            ("PSYSTRIKE_SERVICE_HOST", "10.0.0.1"),
        ];
        let config = config(&["--timeout=9s", "--listen", "127.0.0.1:0", "--listen", "[::1]:1"], &variables);
        let config = config.unwrap();
        assert_eq!(config.settings.timeouts.connect, Duration::from_secs(7));
        assert_eq!(config.settings.timeouts.scrape, Duration::from_secs(9));
        assert_eq!(config.settings.policy.allow().len(), 2);
        assert_eq!(config.settings.policy.deny(), []);
        assert!(config.settings.access_log);
        assert_eq!(config.listen, ["127.0.0.1:0".parse().unwrap(), "[::1]:1".parse().unwrap()]);
    }

    #[test]
    fn the_defaults_are_what_help_says() {
        let config = config(&[], &[]).unwrap();
        let Timeouts { scrape, scrape_max, connect, header, .. } = config.settings.timeouts;
        let Timeouts { client_idle, upstream_idle, tunnel_idle, resolve_ttl, .. } = config.settings.timeouts;
        let idle = [client_idle, upstream_idle, tunnel_idle];
        assert_eq!([scrape, scrape_max, connect, header].map(|limit| limit.as_secs()), [30, 120, 3, 10]);
        assert_eq!(idle.map(|limit| limit.as_secs()), [360, 180, 360]);
        assert_eq!((resolve_ttl.as_secs(), config.settings.timeouts.gather.as_millis()), (5, 1));
        assert_eq!(config.settings.connect_ports, None, "CONNECT is off");
        assert_eq!(config.settings.pods.scheme, PodScheme::Http);
        assert_eq!(config.settings.policy.allow().len(), 5);
        assert_eq!(config.settings.policy.ports().to_string(), "1-65535");
        assert!(config.settings.policy.names().is_empty());
        assert_eq!((config.workers, config.log_level), (1, LevelFilter::Info));
        assert!(!config.settings.access_log);
        let limits = (config.clients_max, config.upstreams_idle_max, config.buffers_max);
        assert_eq!(limits, (None, None, None), "they follow from the surroundings");
        assert_eq!(config.shutdown_delay, Duration::ZERO);
        assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
    }

    #[test]
    fn lists_may_end_with_a_comma() {
        let deny = [("PSYSTRIKE_DENY", "10.0.0.0/9,10.1.0.0/16,")];
        let config = config(&["--allow=10.0.0.0/8,", "--allow-ports", "80,"], &deny);
        let policy = config.unwrap().settings.policy;
        assert_eq!((policy.allow().len(), policy.deny().len()), (1, 2));
        assert_eq!(policy.ports().to_string(), "80");
    }

    #[test]
    fn the_default_of_timeout_is_at_most_timeout_max() {
        let timeouts = |arguments| config(arguments, &[]).unwrap().settings.timeouts;
        assert_eq!(timeouts(&["--timeout-max=10s"]).scrape, Duration::from_secs(10));
        assert_eq!(timeouts(&["--timeout-max=3m", "--timeout=3m"]).scrape, Duration::from_secs(180));
    }

    #[test]
    fn the_default_of_connect_timeout_is_at_most_timeout_max() {
        let connect = |arguments| config(arguments, &[]).unwrap().settings.timeouts.connect;
        assert_eq!(connect(&["--timeout-max=2s"]), Duration::from_secs(2));
        assert_eq!(connect(&["--timeout-max=2s", "--connect-timeout=2s"]), Duration::from_secs(2));
    }

    #[test]
    fn idle_timeouts_that_are_not_longer_than_prometheus_keeps_connections_are_warned_of() {
        let variable = [("PSYSTRIKE_CLIENT_IDLE_TIMEOUT", "5m")];
        for (arguments, variables, expected) in [
            (&[][..], &[][..], &[][..]),
            (&["--client-idle-timeout=5m1s", "--allow-connect"], &[], &[]),
            (&["--client-idle-timeout=1m"], &[], &["--client-idle-timeout 60s: "]),
            (&[], &variable, &["PSYSTRIKE_CLIENT_IDLE_TIMEOUT 300s: "]),
            (&["--tunnel-idle-timeout=1m"], &[], &[]),
            (&["--tunnel-idle-timeout=1m", "--allow-connect"], &[], &["--tunnel-idle-timeout 60s: "]),
        ] {
            let warnings = config(arguments, variables).unwrap().warnings;
            let expected: Vec<_> =
                expected.iter().map(|name| format!("{name}{}", timeouts::TOO_SHORT)).collect();
            assert_eq!(warnings, expected, "{arguments:?} {variables:?}");
        }
    }

    #[test]
    fn unknown_variables_are_named_with_the_one_that_was_meant() {
        for (name, value, expected) in [
            ("PSYSTRIKE_TIMOUT", "3s", "PSYSTRIKE_TIMOUT; did you mean PSYSTRIKE_TIMEOUT?"),
            ("PSYSTRIKE_NONSENSE", "", "PSYSTRIKE_NONSENSE; see psystrike --help"),
            ("PSYSTRIKE_HELP", "", "PSYSTRIKE_HELP; see psystrike --help"),
            ("PSYSTRIKE_TIMEOUT", "3s", ""),
            ("PSYSTRIKE_PORT", "tcp://10.0.0.1:8080", ""),
            ("PATH", "/bin", ""),
        ] {
            let messages = unknown_variables([(name.to_owned(), value.to_owned())].into_iter());
            let expected =
                (!expected.is_empty()).then(|| format!("ignoring unknown environment variable {expected}"));
            assert_eq!(messages, Vec::from_iter(expected), "{name}");
        }
    }

    #[test]
    fn connect_is_allowed_to_all_ports_or_to_some() {
        for (arguments, expected) in [
            (&["--allow-connect"][..], "1-65535"),
            (&["--allow-connect", "--connect-ports=443,8443"], "443,8443"),
            (&["--connect-ports=443", "--allow-connect"], "443"),
        ] {
            let ports = config(arguments, &[]).unwrap().settings.connect_ports;
            assert_eq!(ports.map(|ports| ports.to_string()).as_deref(), Some(expected), "{arguments:?}");
        }
    }

    #[test]
    fn what_is_wrong_names_option_value_and_what_is_allowed() {
        for (arguments, variables, expected) in [
            (&["--timeout", "9"][..], &[][..], &["--timeout", "\"9\"", "500ms"][..]),
            (
                &["--allow-connect", "--connect-ports=443", "--allow-ports", "80,8080"],
                &[],
                &["--connect-ports 443: none of these ports is in --allow-ports 80,8080"],
            ),
            (&["--connect-ports", "443"], &[], &["--connect-ports requires --allow-connect"]),
            (&["--allow-connect", "--connect-ports", "0"], &[], &["--connect-ports", "\"0\"", "1 to 65535"]),
            (&["--timeout", "0s"], &[], &["--timeout", "\"0s\"", "above zero"]),
            (&["--timeout"], &[], &["--timeout requires a value"]),
            (&["--timeout", "1s", "--timeout", "2s"], &[], &["--timeout", "more than once"]),
            (&[], &[("PSYSTRIKE_TIMEOUT", "x")], &["PSYSTRIKE_TIMEOUT", "\"x\"", "500ms"]),
            (&["--listen", "8080"], &[], &["--listen", "\"8080\"", "0.0.0.0:8080"]),
            (&["--allow", "10.0.0.1/8"], &[], &["--allow", "\"10.0.0.1/8\"", "did you mean 10.0.0.0/8?"]),
            (&["--deny", "pods"], &[], &["--deny", "\"pods\"", "10.0.0.0/8"]),
            (&["--allow", "10.0.0.0/8,,"], &[], &["--allow", "\"\"", "10.0.0.0/8"]),
            (&["--allow", ","], &[], &["--allow", "\"\"", "10.0.0.0/8"]),
            (
                &[],
                &[("PSYSTRIKE_TIMEOUT", "3m")],
                &["PSYSTRIKE_TIMEOUT 180s is longer than --timeout-max 120s"],
            ),
            (
                &[],
                &[("PSYSTRIKE_CONNECT_PORTS", "80")],
                &["PSYSTRIKE_CONNECT_PORTS requires --allow-connect"],
            ),
            (&["--log-format", "xml"], &[], &["--log-format", "\"xml\"", "logfmt, json or plain"]),
            (&["--timeout", "3m"], &[], &["--timeout 180s is longer than --timeout-max 120s"]),
            (
                &["--timeout", "5s", "--timeout-max=4s"],
                &[],
                &["--timeout 5s is longer than --timeout-max 4s"],
            ),
            (&["--connect-timeout=2m1s"], &[], &["--connect-timeout 121s is longer than --timeout-max 120s"]),
            (
                &["--timeout-max=2s"],
                &[("PSYSTRIKE_CONNECT_TIMEOUT", "3s")],
                &["PSYSTRIKE_CONNECT_TIMEOUT 3s is longer than --timeout-max 2s"],
            ),
            (&["--allow-ports", "0"], &[], &["--allow-ports", "\"0\"", "1 to 65535"]),
            (&["--pod-scheme", "HTTPS"], &[], &["--pod-scheme", "\"HTTPS\"", "expected http"]),
            (&["--allow-names", "*.svc"], &[], &["--allow-names", "\"*.svc\"", "svc.cluster.local"]),
            (&["--resolve-ttl", "5"], &[], &["--resolve-ttl", "\"5\"", "500ms"]),
            (&["--workers", "0"], &[], &["--workers", "\"0\"", "1 to 256", "auto"]),
            (&["--clients-max", "0"], &[], &["--clients-max", "\"0\"", "from 1"]),
            (&["--upstreams-idle-max", "-1"], &[], &["--upstreams-idle-max", "\"-1\"", "from 0"]),
            (&["--buffers-max", "8M"], &[], &["--buffers-max", "\"8M\"", "8MiB"]),
            (&["--buffers-max", "64KiB"], &[], &["--buffers-max", "\"64KiB\"", "at least 128KiB"]),
            (&["--buffers-max", "1MiB", "--workers=9"], &[], &["--buffers-max", "at least 1152KiB"]),
            (&["--log-level", "loud"], &[], &["--log-level", "\"loud\"", "debug"]),
            (&[], &[("PSYSTRIKE_ACCESS_LOG", "yes")], &["PSYSTRIKE_ACCESS_LOG", "\"yes\"", "true"]),
            (&["--nonsense"], &[], &["--nonsense: unknown option; see psystrike --help"]),
            (&["--timout=3s"], &[], &["--timout=3s: unknown option; did you mean --timeout?"]),
            (&["--listne=x"], &[], &["--listne=x: unknown option; did you mean --listen?"]),
            (&["--client-max", "9"], &[], &["--client-max: unknown option; did you mean --clients-max?"]),
            (&["nonsense"], &[], &["nonsense: unexpected argument; see psystrike --help"]),
            (&["--access-log=true"], &[], &["--access-log takes no value"]),
            (&["--access-log", "--access-log"], &[], &["--access-log: given more than once"]),
        ] {
            let error = config(arguments, variables).map(|_| ()).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
            for part in expected {
                assert!(error.contains(part), "{arguments:?} {variables:?}: {error:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn help_fits_and_names_every_option() {
        let help = help();
        assert!(help.lines().count() <= 150, "a few screens:\n{help}");
        assert!(help.lines().all(|line| line.len() <= 96), "on any terminal:\n{help}");
        assert!(Opt::ALL.iter().all(|option| help.contains(&format!("{} ", option.name()))), "{help}");
    }
}
