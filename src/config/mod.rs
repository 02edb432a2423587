//! Parses arguments and `PSYSTRIKE_*` variables into a [`Config`].
//!
//! Owns every option: its name, its default, its allowed values. Applies none of them.

mod help;

use std::{env, ffi::OsString, fmt, net::SocketAddr, str::FromStr, thread, time::Duration};

use ipnet::IpNet;
use log::LevelFilter;
use pico_args::Arguments;

pub use self::help::HELP;
use crate::{
    healthcheck::Page,
    net::{event_loop, listener, signals},
    proxy::{
        budget::SHARE_MIN,
        duration,
        policy::{self, Policy, Ports},
        settings::{Settings, Timeouts},
        size::{self, Exact},
    },
};

/// The most workers: more than the cores of any machine that psystrike is meant for.
const WORKERS_MAX: usize = 256;

/// Options without an environment variable.
const WITHOUT_VARIABLE: [&str; 3] = ["--healthcheck", "--help", "--version"];

/// What to run, by the command line.
#[derive(Debug)]
pub enum Command {
    /// Print [`HELP`].
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
    /// Number of event loops.
    pub workers: usize,
    /// Settings that exchanges use.
    pub settings: Settings,
    /// Limit of client connections, if set.
    pub clients_max: Option<usize>,
    /// Limit of pooled pod connections, if set.
    pub upstreams_idle_max: Option<usize>,
    /// Limit of bytes held for clients and pods, if set.
    pub buffers_max: Option<u64>,
    /// How long to continue serving after SIGTERM.
    pub shutdown_delay: Duration,
    /// How long to let running scrapes finish after that.
    pub shutdown_timeout: Duration,
    /// Log level.
    pub log_level: LevelFilter,
}

impl Config {
    /// Returns the least open-files limit that can serve one scrape at a time, with `open` files open at the start.
    pub fn open_files_min(&self, open: u64) -> u64 {
        // Each worker needs its own: it cannot close a pod connection pooled by another worker.
        let pod = 1;
        let worker = event_loop::DESCRIPTORS + self.listen.len().max(1) + pod;
        let client = 1;
        open + (signals::DESCRIPTORS + self.workers * worker + client) as u64
    }
}

/// What is wrong with the options, in one line.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where option values come from.
struct Source<V> {
    arguments: Arguments,
    variable: V,
}

/// Parses the arguments (without the program's name), and the variables of options that no argument sets.
///
/// # Errors
/// [`UsageError`], for the first error found.
#[cold]
pub fn parse(
    mut arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, UsageError> {
    let healthcheck = take_healthcheck(&mut arguments);
    let mut arguments = Arguments::from_vec(arguments);
    if arguments.contains(["-h", "--help"]) {
        return Ok(Command::Help);
    }
    if arguments.contains(["-V", "--version"]) {
        return Ok(Command::Version);
    }
    let mut source = Source { arguments, variable };
    let listen = source.list("--listen", &[], address)?;
    let workers = source.one("--workers", 1, workers)?;
    let (policy, timeouts) = (policy(&mut source)?, timeouts(&mut source)?);
    let connect_ports = connect_ports(&mut source)?;
    let clients_max = source.one("--clients-max", None, |text| count(text, 1).map(Some))?;
    let upstreams_idle_max = source.one("--upstreams-idle-max", None, |text| count(text, 0).map(Some))?;
    let buffers_max = source.one("--buffers-max", None, |text| buffers(text, workers).map(Some))?;
    let shutdown_delay = source.one("--shutdown-delay", Duration::ZERO, duration::parse)?;
    let shutdown_timeout = source.one("--shutdown-timeout", Duration::from_secs(30), duration::parse)?;
    let log_level = source.one("--log-level", LevelFilter::Info, log_level)?;
    let access_log = source.flag("--access-log")?;
    refuse_unknown(source.arguments)?;
    if let Some(url) = healthcheck {
        let page = match url {
            Some(url) => read_value("--healthcheck", &url, Page::from_str)?,
            None => {
                let address = listen.first().copied().unwrap_or_else(listener::default_address);
                Page::healthz(address)
                    .map_err(|why| UsageError(format!("--healthcheck at {address}: {why}")))?
            }
        };
        return Ok(Command::Healthcheck(page));
    }
    let settings = Settings { policy, timeouts, connect_ports, access_log };
    Ok(Command::Serve(Box::new(Config {
        listen,
        workers,
        settings,
        clients_max,
        upstreams_idle_max,
        buffers_max,
        shutdown_delay,
        shutdown_timeout,
        log_level,
    })))
}

/// Reads the options for allowed destinations.
#[cold]
fn policy<V: Fn(&str) -> Option<OsString>>(source: &mut Source<V>) -> Result<Policy, UsageError> {
    let allow_default: Vec<IpNet> =
        policy::ALLOW_DEFAULT.split(',').filter_map(|range| range.parse().ok()).collect();
    let policy = Policy::new(
        source.list("--allow", &allow_default, policy::parse_range)?,
        source.list("--deny", &[], policy::parse_range)?,
        source.one("--allow-ports", Ports::all(), Ports::from_str)?,
    );
    Ok(policy.with_names(source.list("--allow-names", &[], policy::parse_suffix)?))
}

/// Reads the options for CONNECT.
#[cold]
fn connect_ports<V: Fn(&str) -> Option<OsString>>(
    source: &mut Source<V>,
) -> Result<Option<Ports>, UsageError> {
    let allowed = source.flag("--allow-connect")?;
    let ports = source.one("--connect-ports", None, |text| Ports::from_str(text).map(Some))?;
    match ports {
        Some(_) if !allowed => Err(UsageError("--connect-ports: requires --allow-connect".to_owned())),
        ports => Ok(allowed.then(|| ports.unwrap_or_else(Ports::all))),
    }
}

/// Reads the options for time limits.
#[cold]
fn timeouts<V: Fn(&str) -> Option<OsString>>(source: &mut Source<V>) -> Result<Timeouts, UsageError> {
    let seconds = Duration::from_secs;
    Ok(Timeouts {
        scrape: source.one("--timeout", seconds(30), positive)?,
        scrape_max: source.one("--timeout-max", seconds(120), positive)?,
        connect: source.one("--connect-timeout", seconds(3), positive)?,
        header: source.one("--header-timeout", seconds(10), positive)?,
        client_idle: source.one("--client-idle-timeout", seconds(360), positive)?,
        upstream_idle: source.one("--upstream-idle-timeout", seconds(180), positive)?,
        tunnel_idle: source.one("--tunnel-idle-timeout", seconds(360), positive)?,
        resolve_ttl: source.one("--resolve-ttl", seconds(5), duration::parse)?,
    })
}

/// Rejects the arguments left after all options were read.
#[cold]
fn refuse_unknown(arguments: Arguments) -> Result<(), UsageError> {
    if let Some(unknown) = arguments.finish().first() {
        let unknown = unknown.to_string_lossy();
        let unknown = unknown.escape_debug();
        let why = if unknown.to_string().starts_with("--access-log=") {
            "takes no value"
        } else {
            "unknown, or given more than once"
        };
        return Err(UsageError(format!("{unknown}: {why}; see psystrike --help")));
    }
    Ok(())
}

/// Runs [`parse`] on the arguments and environment of this process.
///
/// # Errors
/// As [`parse`].
#[cold]
pub fn from_process() -> Result<Command, UsageError> {
    parse(env::args_os().skip(1).collect(), |name| env::var_os(name))
}

/// Returns the names among these variables that look like an option's but belong to none, such as misspelled ones.
/// Ignores the variables that Kubernetes sets for a Service named psystrike or psystrike-something.
#[cold]
pub fn misspelled(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let options = HELP.lines().filter_map(|line| line.trim_start().split([' ', '[']).next());
    let has_variable = |option: &&str| option.starts_with("--") && !WITHOUT_VARIABLE.contains(option);
    let known: Vec<String> = options.filter(has_variable).map(variable_name).collect();
    // https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    let of_a_service = |name: &str, value: &str| {
        let port = name.contains("_PORT")
            && (value.contains("://") || name.contains("_TCP") || name.contains("_UDP"));
        port || name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT")
    };
    let unknown = variables.filter(|(name, value)| {
        name.starts_with("PSYSTRIKE_") && !known.contains(name) && !of_a_service(name, value)
    });
    unknown.map(|(name, _)| name).collect()
}

impl<V: Fn(&str) -> Option<OsString>> Source<V> {
    /// Returns the values given for an option, and the name they were given under: the option's, or else the
    /// variable's. An empty variable counts as not set, as templates leave variables empty.
    ///
    /// Unknown variables change nothing ([`misspelled`]).
    #[cold]
    fn texts(&mut self, option: &'static str) -> Result<(Vec<String>, String), UsageError> {
        let given = self.arguments.values_from_fn(option, |text| Ok::<_, &str>(text.to_owned()));
        let given = given.map_err(|error| match error {
            pico_args::Error::NonUtf8Argument => UsageError(format!("{option}: the value is not UTF-8")),
            _ => UsageError(format!("{option}: a value has to follow")),
        })?;
        let variable = variable_name(option);
        match (self.variable)(&variable) {
            Some(text) if given.is_empty() && !text.is_empty() => match text.into_string() {
                Ok(text) => Ok((vec![text], variable)),
                Err(text) => Err(UsageError(format!("{variable} {text:?}: is not UTF-8"))),
            },
            _ => Ok((given, option.to_owned())),
        }
    }

    #[cold]
    fn one<T, E: fmt::Display>(
        &mut self,
        option: &'static str,
        default: T,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, UsageError> {
        let (texts, name) = self.texts(option)?;
        match texts.as_slice() {
            [] => Ok(default),
            [text] => read_value(&name, text, read),
            _ => Err(UsageError(format!("{name}: given more than once"))),
        }
    }

    #[cold]
    fn list<T: Clone, E: fmt::Display>(
        &mut self,
        option: &'static str,
        default: &[T],
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, UsageError> {
        let (texts, name) = self.texts(option)?;
        if texts.is_empty() {
            return Ok(default.to_vec());
        }
        let values = texts.iter().flat_map(|text| text.split(','));
        values.map(|text| read_value(&name, text.trim(), &read)).collect()
    }

    #[cold]
    fn flag(&mut self, option: &'static str) -> Result<bool, UsageError> {
        let variable = variable_name(option);
        let by_variable = match (self.variable)(&variable).filter(|text| !text.is_empty()) {
            None => false,
            Some(text) => read_value(&variable, &text.to_string_lossy(), |text| match text {
                "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err("true or false is allowed"),
            })?,
        };
        Ok(self.arguments.contains(option) || by_variable)
    }
}

/// Removes `--healthcheck` from the arguments, and the URL after it or after its `=`. (In pico-args an option either
/// always has a value or never.)
#[cold]
fn take_healthcheck(arguments: &mut Vec<OsString>) -> Option<Option<String>> {
    const NAME: &str = "--healthcheck";
    let text = |argument: &OsString| argument.to_string_lossy().into_owned();
    let at = arguments.iter().position(|argument| text(argument).split('=').next() == Some(NAME))?;
    if let Some((_, url)) = text(&arguments.remove(at)).split_once('=') {
        return Some(Some(url.to_owned()));
    }
    let url = arguments.get(at).map(text).filter(|next| !next.starts_with('-'));
    Some(url.inspect(|_| drop(arguments.remove(at))))
}

#[cold]
fn variable_name(option: &str) -> String {
    format!("PSYSTRIKE_{}", option.trim_start_matches('-').replace('-', "_").to_ascii_uppercase())
}

/// Parses one value. The error names the option, the value, and what is allowed.
#[cold]
fn read_value<T, E: fmt::Display>(
    name: &str,
    text: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<T, UsageError> {
    read(text).map_err(|allowed| UsageError(format!("{name} {text:?}: {allowed}")))
}

#[cold]
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "an IP address with a port is allowed: 0.0.0.0:8080 or [::]:8080")
}

#[cold]
fn workers(text: &str) -> Result<usize, &'static str> {
    if text == "auto" {
        // std reads the cgroup's CPU quota (v1 and v2) and the affinity mask.
        return Ok(thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX));
    }
    let workers = text.parse().ok().filter(|workers| (1..=WORKERS_MAX).contains(workers));
    workers.ok_or("a number from 1 to 256, or auto, is allowed")
}

#[cold]
fn positive(text: &str) -> Result<Duration, &'static str> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("a duration above zero is allowed: 500ms, 3s, 2m"),
        duration => duration,
    }
}

#[cold]
fn count(text: &str, min: usize) -> Result<usize, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (min..=1_000_000).contains(number));
    number.ok_or_else(|| format!("a number from {min} to 1000000 is allowed"))
}

/// Parses a size. Every worker's share has to hold the longest head of a response.
#[cold]
fn buffers(text: &str, workers: usize) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    let least = (workers * SHARE_MIN) as u64;
    if bytes < least {
        return Err(format!("at least {} is needed with {workers} worker(s)", Exact(least)));
    }
    Ok(bytes)
}

#[cold]
fn log_level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse().map_err(|_| "off, error, warn, info, debug or trace is allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(resolve_ttl.as_secs(), 5);
        assert_eq!(config.settings.connect_ports, None, "CONNECT is off");
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
            (&["--connect-ports", "443"], &[], &["--connect-ports", "requires --allow-connect"]),
            (&["--allow-connect", "--connect-ports", "0"], &[], &["--connect-ports", "\"0\"", "1 to 65535"]),
            (&["--timeout", "0s"], &[], &["--timeout", "\"0s\"", "above zero"]),
            (&["--timeout"], &[], &["--timeout", "value"]),
            (&["--timeout", "1s", "--timeout", "2s"], &[], &["--timeout", "more than once"]),
            (&[], &[("PSYSTRIKE_TIMEOUT", "x")], &["PSYSTRIKE_TIMEOUT", "\"x\"", "500ms"]),
            (&["--listen", "8080"], &[], &["--listen", "\"8080\"", "0.0.0.0:8080"]),
            (&["--allow", "10.0.0.1/8"], &[], &["--allow", "\"10.0.0.1/8\"", "10.0.0.0/8 is the range"]),
            (&["--deny", "pods"], &[], &["--deny", "\"pods\"", "10.0.0.0/8"]),
            (&["--allow", "10.0.0.0/8,"], &[], &["--allow", "\"\"", "10.0.0.0/8"]),
            (&["--allow-ports", "0"], &[], &["--allow-ports", "\"0\"", "1 to 65535"]),
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
            (&["--nonsense"], &[], &["--nonsense", "unknown"]),
            (&["nonsense"], &[], &["nonsense", "unknown"]),
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
        assert!(HELP.lines().count() <= 80, "a screen or two");
        assert!(HELP.lines().all(|line| line.len() <= 96), "on any terminal");
    }
}
