//! The program: parses arguments, starts the workers, and runs the process from start to exit status.
//!
//! If one worker ends early, the process ends: a partly working psystrike that looks healthy is worse than none.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use log::{error, info, warn};
use psystrike::{
    config::{
        self, Command, Config,
        access::{joined, log_access},
        files::Reloads,
    },
    healthcheck::Page,
    limits::Limits,
    logging,
    net::{
        cgroup::{self, Pressure},
        event_loop::EventLoop,
        listener, process,
        shared::{Phase, Shared, Wake},
        signals::{SignalEvent, Signals},
    },
    proxy::{duration::HumanDuration, metrics::BuildInfo, settings::Settings},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REVISION: &str = env!("PSYSTRIKE_REVISION");

/// Stack of a worker's thread. Parsing the fields of a response's head needs most of it.
const WORKER_STACK_BYTES: usize = 256 * 1024;

/// How long an exiting process waits for its workers to end their turn, which takes milliseconds.
const ABORTED_WITHIN: Duration = Duration::from_millis(200);

/// Exit statuses.
const RUN_TIME: u8 = 1;
const USAGE: u8 = 2;
/// A second signal ended the process before it finished: 128 + SIGTERM, as shells report it.
const ENDED_AT_ONCE: u8 = 128 + 15;

fn main() -> ExitCode {
    let config = match config::from_process() {
        Ok(Command::Help) => return print(&config::help()),
        Ok(Command::Version) => return print(&format!("psystrike {VERSION} ({REVISION})\n")),
        Ok(Command::Healthcheck(page)) => return healthcheck(&page),
        Ok(Command::Serve(config)) => config,
        Err(error) => {
            logging::fatal(config::log_format_from_process(), &error);
            return USAGE.into();
        }
    };
    match serve(&config) {
        Ok(status) => status.into(),
        Err(error) => {
            logging::flush();
            logging::fatal(config.log_format, &error);
            RUN_TIME.into()
        }
    }
}

/// Prints to standard output. `print!` would panic if the reader is gone.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::print_error(&error);
            RUN_TIME.into()
        }
    }
}

fn healthcheck(page: &Page) -> ExitCode {
    match page.check() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            logging::print_error(&why);
            RUN_TIME.into()
        }
    }
}

/// Serves until a signal ends it, and returns the exit status.
fn serve(config: &Config) -> Result<u8, String> {
    logging::init(config.log_format, config.log_level, config.settings.access_log)
        .map_err(|error| format!("cannot start the log thread: {error}"))?;
    let pressure = Pressure::watch(); // opened here so that its descriptor is counted below
    let open_files = process::raise_open_files();
    let needed = config.open_files_min(process::open_files_below(open_files));
    if open_files < needed {
        return Err(format!(
            "the open-files limit of {open_files} is too low: at least {needed} are needed to serve a scrape with \
             {} worker(s) (ulimit -n, or LimitNOFILE in a systemd unit)",
            config.workers
        ));
    }
    let limits = Limits::new(config, open_files, cgroup::memory_limit());
    let signals = Signals::receive().map_err(|error| format!("cannot install signal handlers: {error}"))?;
    let build_info = BuildInfo {
        version: VERSION,
        revision: REVISION,
        clients_max: limits.clients.most,
        upstreams_idle_max: limits.upstreams_idle.most,
        buffers_max: limits.buffers.most,
    };
    let shared = Arc::new(Shared::new(config.settings.clone(), build_info, config.workers));
    if let Some(pressure) = pressure {
        shared.set_pressure(pressure);
    }
    let mut reloads = Reloads::default();
    let mut certificates = config.access_files.load(&shared, &mut reloads)?;
    certificates.extend(config.tls.load(&config.listen, &shared, &mut reloads)?);
    shared.set_certificates(certificates);
    shared.set_reloads(reloads.statuses());
    let running = start(config, &shared, &signals)?;
    config.warnings.iter().for_each(|message| warn!("{message}"));
    // Only a warning: a Service named `psystrike-x` may set such a variable by accident.
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    config::unknown_variables(variables).iter().for_each(|message| warn!("{message}"));
    let [clients_max, upstreams_idle_max, buffers_max] = &limits.described();
    info!(
        version = VERSION, revision = REVISION, workers = config.workers, clients_max:%, upstreams_idle_max:%,
        buffers_max:%;
        "psystrike started"
    );
    log_destinations(&config.settings);
    log_access(&shared.settings().access, shared.listens_beyond_loopback());
    let mut waiting = Waiting { signals, reloads };
    let status = supervise(config, &shared, &mut waiting, &running);
    abort(&shared, &mut waiting.signals, &running);
    logging::flush();
    status
}

fn log_destinations(settings: &Settings) {
    let policy = &settings.policy;
    let (allow, deny, ports) = (joined(policy.allow()), joined(policy.deny()), policy.ports());
    let names = if policy.names().is_empty() { "any".to_owned() } else { policy.names().join(",") };
    let connect = settings.connect_ports.as_ref().map_or("off".to_owned(), ToString::to_string);
    info!(allow:%, deny:%, ports:%, names:%, connect_ports:% = connect; "allowed destinations");
}

/// Binds every address and then starts the workers. Returns the number of running workers.
fn start(config: &Config, shared: &Arc<Shared>, signals: &Signals) -> Result<Arc<AtomicUsize>, String> {
    let default = [listener::default_address()];
    let addresses: &[SocketAddr] = if config.listen.is_empty() { &default } else { &config.listen };
    let mut of_workers: Vec<Vec<_>> = (0..config.workers).map(|_| Vec::new()).collect();
    let mut listening = Vec::new();
    for &address in addresses {
        let bound = listener::bind(address, config.workers);
        let bound =
            bound.map_err(|error| format!("{} {address}: cannot listen: {error}", config.listen_name))?;
        let address = bound.first().and_then(|listener| listener.local_addr().ok()).unwrap_or(address);
        info!(address:%; "listening");
        listening.push(address);
        of_workers.iter_mut().zip(bound).for_each(|(worker, listener)| worker.push(listener));
    }
    shared.set_listening(listening);
    let running = Arc::new(AtomicUsize::new(config.workers));
    let start = |(index, listeners)| {
        let (event_loop, wake) = EventLoop::new(Arc::clone(shared), index, listeners)?;
        let ended = Ended { running: Arc::clone(&running), supervisor: signals.waker() };
        let run = move || {
            let _ended = ended;
            if let Err(error) = event_loop.run() {
                error!(worker = index; "worker failed: {error}");
            }
        };
        let thread = thread::Builder::new().name(format!("worker-{index}")).stack_size(WORKER_STACK_BYTES);
        thread.spawn(run)?;
        Ok(wake)
    };
    let wakes = of_workers.into_iter().enumerate().map(start).collect::<std::io::Result<_>>();
    let wakes = wakes.map_err(|error| format!("cannot start a worker: {error}"))?;
    shared.set_wakes(wakes);
    Ok(running)
}

/// Wakes the supervisor when a worker ends, even by a panic.
struct Ended {
    running: Arc<AtomicUsize>,
    supervisor: Wake,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
        // Fails only after the supervisor is gone, when there is nothing left to wake.
        let _ = self.supervisor.wake();
    }
}

/// What happens while the workers serve: signals, and changes of files.
struct Waiting {
    signals: Signals,
    reloads: Reloads,
}

impl Waiting {
    /// Waits for an event other than SIGHUP, at most until `until` if given. Reads files meanwhile.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<SignalEvent> {
        loop {
            let next = [until, self.reloads.next_check()].into_iter().flatten().min();
            match self.signals.wait(next)? {
                SignalEvent::Hangup if self.reloads.is_empty() => {
                    info!("received SIGHUP; there are no files to reload");
                }
                SignalEvent::Hangup => {
                    info!("received SIGHUP; reading files again");
                    self.reloads.reload();
                }
                SignalEvent::Timeout if until != next => self.reloads.check(),
                event => return Ok(event),
            }
        }
    }
}

/// Waits for a signal, then shuts the process down.
fn supervise(
    config: &Config,
    shared: &Shared,
    waiting: &mut Waiting,
    running: &AtomicUsize,
) -> Result<u8, String> {
    let mut wait = |until| waiting.wait(until).map_err(|error| format!("cannot wait for signals: {error}"));
    let enter = |phase| {
        shared.enter(phase);
        shared.wake_all().map_err(|error| format!("cannot wake the workers: {error}"))
    };
    let SignalEvent::Signal(signal) = wait(None)? else {
        return Err("a worker failed; exiting".to_owned());
    };
    match config.shutdown_delay {
        Duration::ZERO => info!("received {signal}; /readyz now returns 503"),
        delay => {
            let delay = HumanDuration(delay);
            info!("received {signal}; /readyz now returns 503, serving for another {delay}");
        }
    }
    enter(Phase::Draining)?;
    let until = Instant::now() + config.shutdown_delay;
    while Instant::now() < until {
        match wait(Some(until))? {
            SignalEvent::Signal(signal) => return Ok(exit_at_once(signal)),
            SignalEvent::WorkerEnded => return Err("a worker failed during shutdown".to_owned()),
            SignalEvent::Timeout | SignalEvent::Hangup => {}
        }
    }

    info!("waiting up to {} for running scrapes", HumanDuration(config.shutdown_timeout));
    enter(Phase::Closing)?;
    let until = Instant::now() + config.shutdown_timeout;
    while running.load(Ordering::Acquire) > 0 {
        match wait(Some(until))? {
            SignalEvent::Signal(signal) => return Ok(exit_at_once(signal)),
            SignalEvent::WorkerEnded | SignalEvent::Hangup => {}
            SignalEvent::Timeout => {
                warn!("shutdown timeout reached; aborting remaining scrapes");
                return Ok(0);
            }
        }
    }
    info!("shutdown complete");
    Ok(0)
}

/// Ends the workers that still run, so that they log how many lines they suppressed. A stuck worker is not waited for.
fn abort(shared: &Shared, signals: &mut Signals, running: &AtomicUsize) {
    shared.enter(Phase::Aborting);
    let until = Instant::now() + ABORTED_WITHIN;
    let mut waits = shared.wake_all().is_ok();
    while waits && running.load(Ordering::Acquire) > 0 {
        waits = matches!(signals.wait(Some(until)), Ok(SignalEvent::WorkerEnded | SignalEvent::Hangup));
    }
}

/// Logs a second signal, and returns the exit status.
fn exit_at_once(signal: &str) -> u8 {
    warn!("received {signal} during shutdown; exiting at once");
    ENDED_AT_ONCE
}
