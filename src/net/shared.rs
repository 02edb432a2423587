//! What the workers of a process have in common: settings, counters, and the phase of its life.
//!
//! Nothing here is locked, but for wishes for a place ([`super::places`]) and settings that are being swapped. A worker
//! writes its own counters, and anybody reads them.

use std::{
    io,
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use mio::Waker;

use super::{cgroup::Pressure, places::Places, process};
use crate::proxy::{
    metrics::{BuildInfo, Counters, Process},
    pages::ServerStatus,
    settings::Settings,
    timestamp::Timestamp,
};

/// A worker that has been in one turn for so long does not run any more. A turn takes milliseconds.
const TURN_MAX: Duration = Duration::from_secs(10);

/// The phases of a process's life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It serves on, but is about to stop: `/readyz` fails, and no connection persists.
    Draining,
    /// It takes no new connection, and finishes what runs.
    Closing,
}

/// What one worker lets the others see. Alone on its cache lines, so that counting does not slow a neighbour.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerShare {
    counters: Counters,
    /// Milliseconds from the process's start to that of the turn that is under way; 0: it sleeps.
    turn_began: AtomicU64,
}

/// What the workers have in common.
#[derive(Debug)]
pub struct Shared {
    /// Swapped whole, never changed in place.
    settings: Mutex<Arc<Settings>>,
    /// How often they were swapped.
    settings_swaps: AtomicUsize,
    build_info: BuildInfo,
    started: Instant,
    started_at: SystemTime,
    phase: AtomicU8,
    places: Places,
    /// The kernel lets bytes go through pipes, as far as is known.
    splices: AtomicBool,
    workers: Box<[WorkerShare]>,
    wakes: OnceLock<Vec<Wake>>,
    pressure: OnceLock<Pressure>,
}

/// The settings of one moment.
#[derive(Clone, Debug)]
pub struct SettingsSnapshot {
    settings: Arc<Settings>,
    swaps: usize,
}

impl Deref for SettingsSnapshot {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// Wakes an event loop from another thread, to look at what is shared.
pub type Wake = Arc<Waker>;

impl Shared {
    /// For so many workers.
    pub fn new(settings: Settings, build_info: BuildInfo, workers: usize) -> Self {
        Self {
            settings: Mutex::new(Arc::new(settings)),
            settings_swaps: AtomicUsize::new(0),
            build_info,
            started: Instant::now(),
            started_at: SystemTime::now(),
            phase: AtomicU8::new(Phase::Serving as u8),
            splices: AtomicBool::new(true),
            places: Places::new(build_info.clients_max, workers),
            wakes: OnceLock::new(),
            pressure: OnceLock::new(),
            workers: (0..workers).map(|_| WorkerShare::default()).collect(),
        }
    }

    /// The time: what moments are counted from is the process's start.
    pub fn now(&self) -> Timestamp {
        Timestamp::default() + self.started.elapsed()
    }

    /// What the operator set, as a snapshot that a worker keeps for a turn.
    pub fn settings(&self) -> SettingsSnapshot {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        SettingsSnapshot {
            settings: Arc::clone(&settings),
            swaps: self.settings_swaps.load(Ordering::Acquire),
        }
    }

    /// Takes a newer snapshot, if there is one.
    pub fn refresh(&self, snapshot: &mut SettingsSnapshot) {
        if snapshot.swaps != self.settings_swaps.load(Ordering::Acquire) {
            *snapshot = self.settings();
        }
    }

    /// Has the workers go by other settings from their next turn on. Those that are read once at the start (the pool's
    /// time limit) stay.
    pub fn swap_settings(&self, settings: Settings) {
        let mut current = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(settings);
        self.settings_swaps.fetch_add(1, Ordering::Release);
    }

    /// How many kept pod connections this worker may have. The parts of all workers add up to what there may be in all.
    pub fn upstreams_idle_max_of_worker(&self, worker: usize) -> usize {
        let (most, workers) = (self.build_info.upstreams_idle_max, self.workers.len());
        most / workers + usize::from(worker < most % workers)
    }

    /// How many bytes each worker may hold for others.
    pub fn buffers_max_of_worker(&self) -> usize {
        self.build_info.buffers_max / self.workers.len()
    }

    /// The counters of one worker.
    pub fn counters(&self, worker: usize) -> &Counters {
        &self.workers[worker].counters
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Closing,
        }
    }

    /// Goes on to a later phase. The workers have to be woken to see it.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// The places for clients.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Whether long answers go through pipes, with splice(2) and tee(2).
    pub fn splices(&self) -> bool {
        self.splices.load(Ordering::Relaxed)
    }

    /// Has no more answers go through pipes, for good. Says whether they did so far.
    pub fn stop_splicing(&self) -> bool {
        self.splices.swap(false, Ordering::Relaxed)
    }

    /// How the workers are woken, in their order. Said once, when all of them are there.
    pub fn set_wakes(&self, wakes: Vec<Wake>) {
        let _ = self.wakes.set(wakes); // a second time changes nothing
    }

    /// Where the kernel tells how near its limit the memory is. Said once, if there is such a limit.
    pub fn set_pressure(&self, pressure: Pressure) {
        let _ = self.pressure.set(pressure); // a second time changes nothing
    }

    /// Whether the process is about to be out of memory.
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

    /// Wakes one worker. Where that fails there is no help; what waits for it has a time limit.
    pub fn wake(&self, worker: usize) {
        if let Some(wake) = self.wakes.get().and_then(|wakes| wakes.get(worker)) {
            let _ = wake.wake();
        }
    }

    /// Wakes all workers but one.
    pub fn wake_others(&self, worker: usize) {
        (0..self.workers.len()).filter(|&other| other != worker).for_each(|other| self.wake(other));
    }

    /// A worker's turn begins.
    pub fn turn_begins(&self, worker: usize, now: Timestamp) {
        let milliseconds = now.since(Timestamp::default()).as_millis() as u64;
        self.workers[worker].turn_began.store(milliseconds.max(1), Ordering::Relaxed);
    }

    /// A worker's turn is over; it sleeps until something happens.
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

    fn process(&self) -> Process {
        Process { splices: Some(self.splices()), ..process::read(self.started_at) }
    }

    fn date(&self) -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::proxy::{
        policy::{Policy, Ports},
        settings::Timeouts,
    };

    pub(in crate::net) fn shared(clients_max: usize, upstreams_idle_max: usize, workers: usize) -> Shared {
        let second = Duration::from_secs(1);
        let settings = Settings {
            policy: Policy::new(vec!["127.0.0.0/8".parse().unwrap()], Vec::new(), Ports::all()),
            timeouts: Timeouts {
                scrape: second,
                scrape_max: second,
                connect: second,
                header: second,
                client_idle: second,
                upstream_idle: second,
            },
            access_log: false,
        };
        Shared::new(
            settings,
            BuildInfo { version: "", revision: "", clients_max, upstreams_idle_max, buffers_max: 0 },
            workers,
        )
    }

    #[test]
    fn kept_connections_are_divided_exactly() {
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
    fn settings_are_swapped_whole_and_seen_at_the_next_refresh() {
        let shared = shared(1, 1, 1);
        let mut snapshot = shared.settings();
        let before = snapshot.clone();
        shared.refresh(&mut snapshot);
        assert!(!snapshot.access_log, "nothing was swapped");
        shared.swap_settings(Settings { access_log: true, ..(*snapshot).clone() });
        assert!(!snapshot.access_log, "a turn goes by one snapshot");
        shared.refresh(&mut snapshot);
        assert!(snapshot.access_log && !before.access_log);
    }
}
