//! The log: simple_logger's lines on standard error, written by a thread of their own.
//!
//! Standard error can block, on a full pipe or a slow disk, and a worker that waits for it would let all of its
//! connections wait. So a line goes into a bounded queue; what does not fit is dropped, and how much was is said
//! as soon as there is room. It can fail too, and that never ends the process either.

use std::{
    collections::VecDeque,
    io::{self, Write},
    panic,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime},
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use simple_logger::SimpleLogger;

use crate::net::worker::ACCESS_LOG;

/// Lines that may wait to be written.
const QUEUE_MAX: usize = 1024;
/// How long [`flush`] waits for them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// The name of the thread that writes.
const THREAD: &str = "log";

struct Line {
    level: Level,
    target: &'static str,
    text: String,
}

/// Lines on their way to the thread that writes them. Takes no more memory than they do: std's bounded channel has
/// a place for each from the start.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Line>,
    /// The thread has taken one out, and is not back for the next.
    one_is_written: bool,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether there was room.
    fn put(&self, line: Line) -> bool {
        let mut waiting = self.waiting();
        let length = waiting.lines.len();
        if length < QUEUE_MAX {
            waiting.lines.push_back(line);
        }
        if length == 0 {
            self.changed.notify_all(); // with others before it, nobody waits
        }
        length < QUEUE_MAX
    }

    /// Waits for a line. The one before is written.
    fn take(&self) -> Line {
        let mut waiting = self.waiting();
        waiting.one_is_written = false;
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.one_is_written = true;
                return line;
            }
            self.changed.notify_all(); // all are written
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all lines are written, but not for ever.
    fn flush(&self) {
        let unwritten = |waiting: &mut Waiting| waiting.one_is_written || !waiting.lines.is_empty();
        let _ = self.changed.wait_timeout_while(self.waiting(), FLUSH_TIMEOUT, unwritten); // best effort
    }
}

/// What the rest of the program logs to.
struct Logger {
    queue: Arc<Queue>,
    level: LevelFilter,
}

/// Lines that were dropped since it was last said.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Logs from here on: lines of `level` and above it, and the access log if it is asked for.
///
/// # Errors
/// Why there is no thread for it.
#[cold]
pub fn init(level: LevelFilter, access_log: bool) -> std::io::Result<()> {
    let queue = Arc::new(Queue::default());
    let of_thread = Arc::clone(&queue);
    survive_failures();
    thread::Builder::new().name(THREAD.to_owned()).stack_size(64 * 1024).spawn(move || write(&of_thread))?;
    if log::set_boxed_logger(Box::new(Logger { queue, level })).is_ok() {
        // Who asks for the access log gets it, whatever else is logged.
        log::set_max_level(if access_log { level.max(LevelFilter::Info) } else { level });
    }
    Ok(())
}

/// simple_logger panics where a line cannot be written, as on a full disk, and a panic ends the process. No log is
/// worth that: its thread stays in the panic for ever, and what is logged from then on is dropped.
fn survive_failures() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        while thread::current().name() == Some(THREAD) {
            thread::park();
        }
        hook(info);
    }));
}

/// Whether there may be somebody to read standard error. Where a pipe's reader has gone, another can come.
fn is_read() -> bool {
    let stderr = io::stderr();
    // Failures are told unasked.
    let failed = poll(&mut [PollFd::new(&stderr, PollFlags::empty())], Some(&Timespec::default()));
    matches!(failed, Ok(0) | Err(Errno::INTR))
}

/// Waits until what was logged is written, but not for ever.
pub fn flush() {
    log::logger().flush();
}

fn write(queue: &Queue) {
    let logger = SimpleLogger::new().with_level(LevelFilter::Trace);
    let write = |level, target, text: &str| {
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        let _ = write!(io::stderr(), "{now} "); // the line itself fails soon enough
        logger.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    };
    loop {
        let Line { level, target, text } = queue.take();
        if !is_read() {
            DROPPED.fetch_add(1, Relaxed);
            continue;
        }
        write(level, target, &text);
        match DROPPED.swap(0, Relaxed) {
            0 => {}
            dropped => write(Level::Warn, "psystrike", &format!("{dropped} log lines were dropped")),
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level || metadata.target() == ACCESS_LOG
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Two words are enough to tell our lines apart; module paths say nothing to operators.
        let target = if record.target() == ACCESS_LOG { ACCESS_LOG } else { "psystrike" };
        let line = Line { level: record.level(), target, text: record.args().to_string() };
        if !self.queue.put(line) {
            DROPPED.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {
        self.queue.flush();
    }
}
