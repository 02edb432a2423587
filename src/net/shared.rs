//! State that the workers of a process share: settings, counters, and the phase of the process.
//!
//! Locks guard only wishes for a place ([`super::places`]), name lookups, checks of passwords, and settings while they
//! are swapped. Each worker writes its own counters, and any thread reads them.

use std::{
    io,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use mio::Waker;

use super::{
    cgroup::Pressure,
    listener,
    lookups::Lookups,
    passwords::PasswordChecks,
    places::Places,
    process,
    transport::tls::config::{Acceptor, Connector},
};
use crate::proxy::{
    metrics::{BuildInfo, CertificateExpiry, Counters, Process, ReloadStatus, State},
    pages::ServerStatus,
    peer::Peer,
    settings::Settings,
    timestamp::Timestamp,
};

/// A worker that has been in one turn for this long is stuck. A turn takes milliseconds.
const TURN_MAX: Duration = Duration::from_secs(10);

/// The phases of a process, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It still serves but stops soon: `/readyz` returns 503, and no connection persists.
    Draining,
    /// It accepts no new connections, and finishes running exchanges.
    Closing,
    /// It exits, and does not finish running exchanges.
    Aborting,
}

/// State of one worker that the others read. Alone on its cache lines, so that counting does not slow the others.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerShare {
    counters: Counters,
    /// Start of the turn under way, in milliseconds since the start of the process; 0: the worker sleeps.
    turn_began: AtomicU64,
}

/// TLS as configured. Without the feature `tls`, nothing is.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// For clients; `None`: they use plain HTTP.
    pub acceptor: Option<Acceptor>,
    /// For pods; `None`: none is reached by HTTPS.
    pub connector: Option<Connector>,
}

/// What changes while psystrike runs.
#[derive(Clone, Debug)]
struct Live {
    settings: Arc<Settings>,
    tls: Tls,
}

/// State that the workers share.
#[derive(Debug)]
pub struct Shared {
    /// Replaced as a whole, never modified in place.
    live: Mutex<Arc<Live>>,
    /// How often it was replaced.
    settings_swaps: AtomicUsize,
    build_info: BuildInfo,
    started: Instant,
    started_at: SystemTime,
    phase: AtomicU8,
    places: Places,
    lookups: Lookups,
    passwords: PasswordChecks,
    /// Whether the kernel is still assumed to offer splice(2) and tee(2).
    splices: AtomicBool,
    workers: Box<[WorkerShare]>,
    wakes: OnceLock<Vec<Wake>>,
    pressure: OnceLock<Pressure>,
    /// The addresses of all listeners.
    listening: OnceLock<Vec<SocketAddr>>,
    /// The files that are read again when they change.
    reloads: OnceLock<Vec<Arc<ReloadStatus>>>,
    /// The certificates in use for TLS.
    certificates: OnceLock<Vec<Arc<CertificateExpiry>>>,
}

/// The settings at one moment.
#[derive(Clone, Debug)]
pub struct SettingsSnapshot {
    live: Arc<Live>,
    swaps: usize,
}

impl Deref for SettingsSnapshot {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.live.settings
    }
}

impl SettingsSnapshot {
    /// Returns TLS as configured.
    pub fn tls(&self) -> &Tls {
        &self.live.tls
    }
}

/// Wakes an event loop from another thread, to check the shared state.
pub type Wake = Arc<Waker>;

impl Shared {
    /// Creates the shared state of that many `workers`.
    pub fn new(settings: Settings, build_info: BuildInfo, workers: usize) -> Self {
        Self {
            live: Mutex::new(Arc::new(Live { settings: Arc::new(settings), tls: Tls::default() })),
            settings_swaps: AtomicUsize::new(0),
            build_info,
            started: Instant::now(),
            started_at: SystemTime::now(),
            phase: AtomicU8::new(Phase::Serving as u8),
            splices: AtomicBool::new(true),
            places: Places::new(build_info.clients_max, workers),
            lookups: Lookups::default(),
            passwords: PasswordChecks::default(),
            wakes: OnceLock::new(),
            pressure: OnceLock::new(),
            listening: OnceLock::new(),
            reloads: OnceLock::new(),
            certificates: OnceLock::new(),
            workers: (0..workers).map(|_| WorkerShare::default()).collect(),
        }
    }

    /// Returns the time since the start of the process.
    pub fn now(&self) -> Timestamp {
        Timestamp::default() + self.started.elapsed()
    }

    /// Returns the operator's settings as a snapshot, which a worker uses for a whole turn.
    pub fn settings(&self) -> SettingsSnapshot {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        SettingsSnapshot { live: Arc::clone(&live), swaps: self.settings_swaps.load(Ordering::Acquire) }
    }

    /// Replaces the snapshot if there is a newer one.
    pub fn refresh(&self, snapshot: &mut SettingsSnapshot) {
        if snapshot.swaps != self.settings_swaps.load(Ordering::Acquire) {
            *snapshot = self.settings();
        }
    }

    /// Replaces the settings; workers use them from their next turn on. Settings read once at the start (the pool's
    /// time limit) stay.
    pub fn swap_settings(&self, settings: Settings) {
        self.swap(|live| live.settings = Arc::new(settings));
    }

    /// Changes TLS, and the settings that belong to it, for connections from the workers' next turn on.
    pub fn swap_tls(&self, change: impl FnOnce(&mut Tls, &mut Settings)) {
        self.swap(|live| {
            let mut settings = (*live.settings).clone();
            change(&mut live.tls, &mut settings);
            live.settings = Arc::new(settings);
        });
    }

    fn swap(&self, change: impl FnOnce(&mut Live)) {
        let mut current = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = (**current).clone();
        change(&mut live);
        *current = Arc::new(live);
        self.settings_swaps.fetch_add(1, Ordering::Release);
    }

    /// Returns this worker's limit of pooled pod connections. The limits of all workers add up to the process's.
    pub fn upstreams_idle_max_of_worker(&self, worker: usize) -> usize {
        let (most, workers) = (self.build_info.upstreams_idle_max, self.workers.len());
        most / workers + usize::from(worker < most % workers)
    }

    /// Returns each worker's limit of held bytes.
    pub fn buffers_max_of_worker(&self) -> usize {
        self.build_info.buffers_max / self.workers.len()
    }

    /// Returns the counters of one worker.
    pub fn counters(&self, worker: usize) -> &Counters {
        &self.workers[worker].counters
    }

    /// Returns the current phase.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            2 => Phase::Closing,
            _ => Phase::Aborting,
        }
    }

    /// Enters a later phase. The workers have to be woken to see it.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Returns the places for clients.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Returns the name lookups.
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// Returns the checks of passwords.
    pub fn passwords(&self) -> &PasswordChecks {
        &self.passwords
    }

    /// Returns whether long responses with a length, and large chunks, go through pipes, with splice(2) and tee(2).
    pub fn splices(&self) -> bool {
        self.splices.load(Ordering::Relaxed)
    }

    /// Stops sending responses through pipes, for good. Returns whether they went through pipes until now.
    pub fn stop_splicing(&self) -> bool {
        self.splices.swap(false, Ordering::Relaxed)
    }

    /// Sets the wakers of the workers, in their order. Called once, after all of them are created.
    pub fn set_wakes(&self, wakes: Vec<Wake>) {
        let _ = self.wakes.set(wakes); // a second call changes nothing
    }

    /// Sets the addresses of all listeners, once.
    pub fn set_listening(&self, addresses: Vec<SocketAddr>) {
        let _ = self.listening.set(addresses);
    }

    /// Returns whether a listener can be reached from other machines.
    pub fn listens_beyond_loopback(&self) -> bool {
        self.listening.get().into_iter().flatten().any(|address| !address.ip().to_canonical().is_loopback())
    }

    /// Sets the files that are read again when they change, once.
    pub fn set_reloads(&self, reloads: Vec<Arc<ReloadStatus>>) {
        let _ = self.reloads.set(reloads); // a second call changes nothing
    }

    /// Sets the certificates in use for TLS, once.
    pub fn set_certificates(&self, certificates: Vec<Arc<CertificateExpiry>>) {
        let _ = self.certificates.set(certificates); // a second call changes nothing
    }

    /// Returns whether a connection to `peer` would reach this process.
    pub fn listens_at(&self, peer: Peer) -> bool {
        self.listening.get().is_some_and(|addresses| listener::is_among(addresses, peer.socket_addr()))
    }

    /// Sets the source of memory pressure. Called once, if there is a memory limit.
    pub fn set_pressure(&self, pressure: Pressure) {
        let _ = self.pressure.set(pressure); // a second call changes nothing
    }

    /// Returns whether the process is about to run out of memory.
    pub fn is_short_of_memory(&self) -> bool {
        self.pressure.get().is_some_and(Pressure::is_high)
    }

    /// Wakes all workers.
    ///
    /// # Errors
    /// As `write(2)` to an eventfd.
    pub fn wake_all(&self) -> io::Result<()> {
        self.wakes.get().into_iter().flatten().try_for_each(|wake| wake.wake())
    }

    /// Wakes one worker. Ignores failures, as anything that waits for the worker has a time limit.
    pub fn wake(&self, worker: usize) {
        if let Some(wake) = self.wakes.get().and_then(|wakes| wakes.get(worker)) {
            let _ = wake.wake();
        }
    }

    /// Wakes all workers but one.
    pub fn wake_others(&self, worker: usize) {
        (0..self.workers.len()).filter(|&other| other != worker).for_each(|other| self.wake(other));
    }

    /// Notes that a worker's turn begins.
    pub fn turn_begins(&self, worker: usize, now: Timestamp) {
        let milliseconds = now.since(Timestamp::default()).as_millis() as u64;
        self.workers[worker].turn_began.store(milliseconds.max(1), Ordering::Relaxed);
    }

    /// Notes that a worker's turn is over; the worker sleeps until an event.
    pub fn turn_ends(&self, worker: usize) {
        self.workers[worker].turn_began.store(0, Ordering::Relaxed);
    }
}

impl ServerStatus for Shared {
    fn is_serving(&self) -> bool {
        self.phase() == Phase::Serving
    }

    fn stuck_worker(&self) -> Option<usize> {
        let now = self.now();
        self.workers.iter().position(|worker| match worker.turn_began.load(Ordering::Relaxed) {
            0 => false,
            began => now > Timestamp::default() + Duration::from_millis(began) + TURN_MAX,
        })
    }

    fn all_counters(&self) -> Vec<&Counters> {
        self.workers.iter().map(|worker| &worker.counters).collect()
    }

    fn build_info(&self) -> BuildInfo {
        self.build_info
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&Shared::settings(self).live.settings)
    }

    fn process(&self) -> Process {
        Process { splices: Some(self.splices()), ..process::read(self.started_at) }
    }

    fn state(&self) -> State {
        State {
            is_authenticated: self.settings().access.is_authenticated(),
            is_unrestricted: self.listens_beyond_loopback() && self.settings().access.is_unrestricted(),
            reloads: self.reloads.get().cloned().unwrap_or_default(),
            certificates: self.certificates.get().cloned().unwrap_or_default(),
        }
    }

    fn date(&self) -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::proxy::{
        access::Access,
        pods::Pods,
        policy::{Policy, Ports},
        settings::Timeouts,
    };

    pub(in crate::net) fn shared(clients_max: usize, upstreams_idle_max: usize, workers: usize) -> Shared {
        let second = Duration::from_secs(1);
        let settings = Settings {
            access: Access::default(),
            policy: Policy::new(vec!["127.0.0.0/8".parse().unwrap()], Vec::new(), Ports::all()),
            pods: Pods::default(),
            timeouts: Timeouts {
                scrape: second,
                scrape_max: second,
                connect: second,
                header: second,
                client_idle: second,
                upstream_idle: second,
                gather: Duration::from_millis(1),
                tunnel_idle: Duration::from_secs(9),
                resolve_ttl: second,
            },
            connect_ports: None,
            access_log: false,
        };
        Shared::new(
            settings,
            BuildInfo { version: "", revision: "", clients_max, upstreams_idle_max, buffers_max: 0 },
            workers,
        )
    }

    #[test]
    fn the_limit_of_pooled_connections_is_divided_exactly() {
        for (most, expected) in [
            (0, &[0][..]),
            (0, &[0, 0, 0]),
            (1, &[1]),
            (3, &[1, 1, 1]),
            (4, &[2, 1, 1]),
            (11, &[3, 3, 3, 2]),
            (16_384, &[8192, 8192]),
        ] {
            let shared = shared(1, most, expected.len());
            let workers = 0..expected.len();
            let parts: Vec<_> = workers.map(|worker| shared.upstreams_idle_max_of_worker(worker)).collect();
            assert_eq!(parts, expected, "{most}");
        }
    }

    #[test]
    fn new_settings_are_seen_at_the_next_refresh() {
        let shared = shared(1, 1, 1);
        let mut snapshot = shared.settings();
        let before = snapshot.clone();
        shared.refresh(&mut snapshot);
        assert!(!snapshot.access_log, "nothing was swapped");
        shared.swap_settings(Settings { access_log: true, ..(*snapshot).clone() });
        assert!(!snapshot.access_log, "the settings changed within a turn");
        shared.refresh(&mut snapshot);
        assert!(snapshot.access_log && !before.access_log);
    }
}
