//! The log: lines on standard error, in simple_logger's format, written by a dedicated thread.
//!
//! Standard error can block, on a full pipe or a slow disk, and a worker that waits for it would stall all of its
//! connections. A line is therefore formatted where it is logged (`line.rs`) and put into a bounded queue (`queue.rs`);
//! a thread takes it from there and writes it in one call (`writer.rs`). A line that does not fit, or cannot be
//! written, is lost and counted ([`crate::proxy::log_losses`]); a later line reports how many were lost. No failure of
//! standard error ends the process or the log.
//!
//! simple_logger decides what is logged. It cannot write the lines: it prints each in two calls, after two for the
//! timestamp, and panics if one fails. A test checks that our lines equal simple_logger's.

mod line;
mod queue;
mod writer;

use std::{
    fmt::Display,
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::proxy::{journal::ACCESS_LOG, log_losses::LogLoss};
use line::Line;
use queue::{Queue, Taken};
use writer::{Stderr, Writer};

/// Target of every line but the access log's: module paths mean nothing to operators.
const TARGET: &str = "psystrike";
/// How long the exiting process waits for standard error to accept a line. That takes microseconds unless its reader is
/// blocked.
const BLOCKED: Duration = Duration::from_millis(200);

/// The logger of the rest of the program.
struct Logger {
    queue: Arc<Queue>,
    /// Decides which levels are logged.
    levels: SimpleLogger,
}

/// Starts logging: lines of `level` and above, and the access log if enabled.
///
/// # Errors
/// If the thread cannot be started.
#[cold]
pub fn init(level: LevelFilter, access_log: bool) -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    let of_thread = Arc::clone(&queue);
    thread::Builder::new().name("log".to_owned()).stack_size(64 * 1024).spawn(move || write(&of_thread))?;
    let mut levels = SimpleLogger::new().with_level(level);
    if access_log {
        levels = levels.with_module_level(ACCESS_LOG, LevelFilter::Info); // whatever `level` is
    }
    let most = levels.max_level();
    if log::set_boxed_logger(Box::new(Logger { queue, levels })).is_ok() {
        log::set_max_level(most);
    }
    Ok(())
}

/// Waits until the logged lines are written, but only as long as standard error accepts them.
pub fn flush() {
    log::logger().flush();
}

/// Writes why the process ends, on a line of its own. If standard error is blocked or fails, only the exit status shows
/// the failure.
#[cold]
pub fn complain(about: &dyn Display) {
    writer::try_write(format!("psystrike: {about}\n").as_bytes(), BLOCKED);
}

/// Runs the thread.
fn write(queue: &Queue) {
    let mut writer = Writer::new(Stderr);
    let mut line = Vec::new();
    loop {
        match queue.take(&mut line) {
            Taken::Line => {
                if (say_losses(&mut writer).and_then(|()| writer.write(&line))).is_err() {
                    writer.lost(LogLoss::WriteFailed, 1);
                    LogLoss::WriteFailed.count();
                }
            }
            Taken::Gap(lines) => {
                writer.lost(LogLoss::QueueFull, lines);
                let _ = say_losses(&mut writer); // on failure, retried before the next line
            }
        }
    }
}

/// Writes how many lines were lost since the last such line, if any were.
fn say_losses(writer: &mut Writer<Stderr>) -> Result<(), rustix::io::Errno> {
    let Some(losses) = writer.losses() else { return Ok(()) };
    let line = Line::new(SystemTime::now(), Level::Warn, TARGET, format_args!("{losses}"));
    writer.write(line.bytes())?;
    writer.said();
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let target = if record.target() == ACCESS_LOG { ACCESS_LOG } else { TARGET };
        let line = Line::new(SystemTime::now(), record.level(), target, *record.args());
        if !self.queue.put(line.bytes()) {
            LogLoss::QueueFull.count();
        }
    }

    fn flush(&self) {
        self.queue.flush(BLOCKED);
    }
}
